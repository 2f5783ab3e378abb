//! `resolver_url /_auth`: the look-up is a subrequest to a location of the configuration. It has
//! the same verdicts as the module's own client, and no failure grants access.

use support::{
    decision_table, eventually, get, sha256, Backend, Builder, Connection, FakeAuthgear, Fault,
    Gate, Nginx, RefusedAddr, Request, Response, User, WebSocket, DEADLINE, H2,
};

use crate::project::{project_at, verdict, TELLING};
use crate::site::{assert_nothing_forged, identity_of, site, Pairs, FORGED, LARGE_HEADERS};

/// The location as nginx-conf/internal-location.conf has it.
const LOCATION: &str = "location = /_auth {
    internal;
    proxy_pass http://resolvers/_resolver/resolve;
    proxy_http_version 1.1;
    proxy_set_header Connection '';
    proxy_set_header Host $authgear_host;
    proxy_set_header X-Forwarded-Proto $authgear_scheme;
  }";

/// As behind a load balancer: plain HTTP under a public name.
fn public() -> FakeAuthgear {
    FakeAuthgear::builder().origin("https://myapp.test").start()
}

/// A project whose resolver is a location, which the test has to add.
fn through_a_location(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend)
        .var("RESOLVER", authgear.addr())
        .http(LARGE_HEADERS)
        .http(project_at("p", authgear, "/_auth", ""))
        .server(TELLING)
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
}

/// The same with the location of the example.
fn as_in_the_example(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    through_a_location(authgear, backend)
        .http("upstream resolvers { server %%RESOLVER%%; keepalive 16; }")
        .server(LOCATION)
}

fn alice(nginx: &Nginx, authgear: &FakeAuthgear) -> Request {
    get(nginx, "/").bearer(&authgear.jwt(&User::named("alice")))
}

#[track_caller]
fn assert_alice(answer: &Response) {
    assert_eq!((answer.status, verdict(answer).as_str()), (200, "valid ok resolver"));
    assert_eq!(answer.echo().identity(), identity_of(&User::named("alice")));
}

#[test]
fn a_resolver_location_decides_every_row_of_the_decision_table() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = as_in_the_example(&authgear, &backend).start();
    for case in decision_table(&authgear) {
        let request = case.apply(get(&nginx, "/path?query")).header("X-Authgear-User-Id", FORGED);
        let answer = request.send();
        let mut identity = case.identity();
        identity.retain(|(_, value)| !value.is_empty());
        assert_eq!(answer.status, 200, "{}", case.name);
        let echo = answer.echo();
        assert_eq!(echo.identity(), identity, "{}", case.name);
        assert_eq!(echo.target, "/path?query", "{}", case.name);
        assert_nothing_forged(&echo, case.name);
    }
    // The access log has one line per client request.
    assert_eq!(nginx.access_log().lines().filter(|line| line.contains("_auth")).count(), 0);
    assert_eq!(get(&nginx, "/_auth").send().status, 404);
}

#[test]
fn the_subrequest_carries_nothing_but_the_credentials_of_the_client() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = as_in_the_example(&authgear, &backend).start();
    let token = authgear.jwt(&User::named("alice"));
    let session = authgear.session(&User::named("bob"));
    let client = get(&nginx, "/path?query")
        .method("POST")
        .body("body")
        .bearer(&token)
        .header("Cookie", format!("theme=dark; session={session}; other=1"))
        .header("User-Agent", "test")
        .header("X-Forwarded-For", "192.0.2.1")
        .header("X-Forwarded-Host", "evil.test")
        .header("X-Forwarded-Proto", "gopher")
        .header("X-Original-Host", "evil.test")
        .header("Forwarded", "for=192.0.2.1;host=evil.test")
        .header("X-Real-IP", "192.0.2.1")
        .header("X-Authgear-User-Id", FORGED)
        .header("Accept", "*/*")
        .header("If-None-Match", "\"tag\"")
        .header("If-Modified-Since", "Mon, 01 Jan 2024 00:00:00 GMT")
        .header("Range", "bytes=0-1")
        .header("Expect", "100-continue")
        .header("Upgrade", "websocket")
        .header("X-Anything", "else");
    assert_alice(&client.send());
    let asked = &authgear.requests()[0];
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("GET", "/_resolver/resolve"));
    assert_eq!((asked.version.as_str(), asked.body_len), ("HTTP/1.1", 0));
    let mut headers: Pairs =
        asked.headers.iter().map(|(name, v)| (name.to_ascii_lowercase(), v.clone())).collect();
    headers.sort();
    let expected = [
        ("authorization", format!("Bearer {token}")),
        ("cookie", format!("session={session}")),
        ("host", "myapp.test".to_owned()),
        ("user-agent", "test".to_owned()),
        ("x-forwarded-for", "127.0.0.1".to_owned()),
        ("x-forwarded-host", "myapp.test".to_owned()),
        ("x-forwarded-proto", "https".to_owned()),
    ];
    assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!(backend.requests()[0].header("x-anything"), Some("else"));
}

#[test]
fn the_subrequest_does_not_change_headers_or_variables_of_the_request() {
    // Directives that the location inherits are evaluated for the subrequest first, where the
    // headers are not there.
    let (authgear, backend) = (public(), Backend::start());
    let nginx = through_a_location(&authgear, &backend)
        .log_format("$http_referer $cookie_theme $content_length")
        .http("map $http_x_client $mapped { default $http_x_client; '' none; }")
        .server(
            "log_subrequest on;
             proxy_http_version 1.1;
             proxy_set_header Upgrade $http_upgrade;
             proxy_set_header Connection $http_connection;
             proxy_set_header X-Language $http_accept_language;
             proxy_set_header X-Theme $cookie_theme;
             proxy_set_header X-Mapped $mapped;
             location = /_auth { proxy_pass http://%%RESOLVER%%/_resolver/resolve; }",
        )
        .start();
    let request = alice(&nginx, &authgear)
        .header("Accept-Language", "cy")
        .header("Cookie", "theme=dark")
        .header("Referer", "here")
        .header("X-Client", "client");
    let answer = request.clone().method("POST").body("body").send();
    assert_alice(&answer);
    let echo = answer.echo();
    for (name, value) in [("x-language", "cy"), ("x-theme", "dark"), ("x-mapped", "client")] {
        assert_eq!(echo.header(name), Some(value), "{name}");
    }
    let logged = nginx.wait_for_access_lines(2);
    assert!(logged.contains(&"here dark 4".to_owned()), "{logged:?}");
    let mut socket = WebSocket::open(&request).expect("an upgrade");
    socket.send("hello");
    assert_eq!(socket.receive(), "hello");
}

/// `error_page` settings for the server and for the resolver location.
fn error_pages() -> Vec<(String, String)> {
    let codes = "400 401 403 404 405 429 500 502 503 504";
    let page = format!("error_page {codes} =200 /open;");
    let named = format!("error_page {codes} =200 @open;");
    let (intercept, recursive) = ("proxy_intercept_errors on;", "recursive_error_pages on;");
    vec![
        (String::new(), String::new()),
        (page.clone(), String::new()),
        (page.clone(), intercept.to_owned()),
        (format!("{page}{recursive}"), intercept.to_owned()),
        (format!("{named}{recursive}"), intercept.to_owned()),
        (String::new(), format!("{intercept}{page}")),
        (String::new(), format!("{intercept}{recursive}{named}")),
    ]
}

#[test]
fn no_error_page_turns_a_failed_subrequest_into_access() {
    let (authgear, backend) = (public(), Backend::start());
    let faults = [
        Fault::Status(400),
        Fault::Status(401),
        Fault::Status(403),
        Fault::Status(404),
        Fault::Status(429),
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Redirect(302, "/open".to_owned()),
        Fault::CloseAtOnce,
        Fault::CloseAfter(20),
        Fault::Raw(b"nonsense\r\n\r\n".to_vec()),
        Fault::Oversized { header: 100_000, body: 0 },
    ];
    // The error pages answer failures with the headers of a session.
    let open = format!(
        "{{ authgear off; {TELLING}
           add_header X-Authgear-Session-Valid true always;
           add_header X-Authgear-User-Id admin always;
           root html;
           try_files /open.txt =404; }}"
    );
    for (n, (server, location)) in error_pages().into_iter().enumerate() {
        let nginx = through_a_location(&authgear, &backend)
            .server(server)
            .server(format!(
                "location = /open {open}
                 location @open {open}
                 location = /_auth {{
                   proxy_pass http://%%RESOLVER%%/_resolver/resolve;
                   proxy_set_header Host $authgear_host;
                   {location}
                 }}"
            ))
            .file("html/open.txt", "open")
            .start();
        for fault in &faults {
            authgear.inject(fault.clone());
            let answer = alice(&nginx, &authgear).send();
            let what = format!("{n} {fault:.30?}: {}", answer.text());
            assert_eq!(verdict(&answer), "error bad_status resolver", "{what}");
            assert!(answer.status == 503 || answer.text() == "open", "{what}");
        }
        authgear.clear();
        assert_alice(&alice(&nginx, &authgear).send());
        assert_eq!(backend.hits(), n + 1, "{n}");
    }
}

#[test]
fn a_resolver_location_that_is_down_is_an_outage() {
    let (authgear, backend, refused) = (public(), Backend::start(), RefusedAddr::bind());
    let with_upstream = |servers: &str| {
        through_a_location(&authgear, &backend)
            .var("REFUSED", refused.addr())
            .http(format!("upstream resolvers {{ {servers} }}"))
            .server(LOCATION)
            .start()
    };
    let nginx = with_upstream("server %%REFUSED%%;");
    let answer = alice(&nginx, &authgear).send();
    assert_eq!((answer.status, backend.hits()), (503, 0));
    assert_eq!(verdict(&answer), "error bad_status resolver");
    assert_eq!(answer.header("retry-after").as_deref(), Some("1"));

    // Another server of the upstream takes its place.
    let nginx = with_upstream("server %%REFUSED%%; server %%RESOLVER%% backup;");
    assert_alice(&alice(&nginx, &authgear).send());
    authgear.stop();
    assert_eq!(alice(&nginx, &authgear).send().status, 503);
    authgear.restart_on(authgear.addr());
    // nginx does not use the servers for a while once all have failed.
    let answers = || alice(&nginx, &authgear).send().status == 200;
    assert!(eventually(DEADLINE, answers));
}

#[test]
fn the_proxy_timeouts_of_the_location_apply() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = through_a_location(&authgear, &backend)
        .http("upstream resolvers { server %%RESOLVER%%; }")
        .server(LOCATION.replace("internal;", "internal; proxy_read_timeout 200ms;"))
        .start();
    authgear.inject(Fault::Hang);
    let answer = alice(&nginx, &authgear).send();
    assert_eq!((answer.status, verdict(&answer).as_str()), (503, "error bad_status resolver"));
    authgear.wait_for_no_connections();
}

#[test]
fn answers_with_bodies_and_of_any_framing_are_accepted() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = as_in_the_example(&authgear, &backend).start();
    let long = vec![b'x'; 20_000];
    for fault in [
        Fault::LengthBody(long.clone()),
        Fault::Chunked(long.clone()),
        Fault::Chunked(Vec::new()),
        Fault::CloseDelimited(long),
    ] {
        authgear.inject(fault.clone());
        let answer = alice(&nginx, &authgear).send();
        assert_eq!(verdict(&answer), "valid ok resolver", "{fault:.20?}");
        assert_alice(&answer);
    }
}

#[test]
fn connections_are_kept_by_the_upstream_block() {
    let (authgear, backend) = (public(), Backend::start());
    // Each worker has connections of its own.
    let nginx = as_in_the_example(&authgear, &backend).workers(1).start();
    for _ in 0..5 {
        assert_alice(&alice(&nginx, &authgear).send());
    }
    assert_eq!(authgear.connections_opened(), 1);
}

#[test]
fn request_bodies_reach_the_backend_after_the_subrequest() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = as_in_the_example(&authgear, &backend)
        .listen_extra(1)
        .http("client_max_body_size 20m;")
        .server(
            "listen %%ADDR2%% http2;
             location /unbuffered {
               proxy_http_version 1.1;
               proxy_request_buffering off;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let token = authgear.jwt(&User::named("alice"));
    for len in [0, 1, 10_000, 1_000_000, 10_000_000] {
        let (mut kept, h2) = (Connection::open(&nginx), H2::open(&nginx.addr2()));
        let body: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        for path in ["/", "/unbuffered"] {
            let post = get(&nginx, path).method("POST").bearer(&token).body(body.as_slice());
            let gate = Gate::new();
            authgear.inject_next(1, Fault::Gate(gate.clone()));
            let held_back = h2.start(&post);
            gate.wait_for_waiters(1);
            gate.open();
            let expecting = post.clone().header("Expect", "100-continue");
            for answer in
                [kept.send(&post), kept.send(&expecting), h2.send(&post), held_back.wait()]
            {
                assert_alice(&answer);
                assert_eq!(answer.echo().body_sha256, sha256(&body), "{len} to {path}");
            }
        }
    }
}

#[test]
fn one_client_request_makes_one_subrequest() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = as_in_the_example(&authgear, &backend)
        .file("html/dir/index.html", "index")
        .server(
            "root html;
             location /dir/ { index index.html; }
             location /try { try_files /missing @named; }
             location /error { error_page 404 = @named; }
             location /chain { error_page 404 = /error; recursive_error_pages on; }
             location @named { proxy_pass http://%%BACKEND%%; }
             location /outage { error_page 503 = @outage; proxy_pass http://%%BACKEND%%; }
             location @outage { authgear_on_error anonymous; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.jwt(&User::named("alice"));
    for (n, path) in ["/", "/dir/", "/try", "/error", "/chain"].into_iter().enumerate() {
        let answer = get(&nginx, path).bearer(&token).send();
        assert_eq!((answer.status, authgear.hits()), (200, n + 1), "{path}");
        assert_eq!(verdict(&answer), "valid ok resolver", "{path}");
    }
    authgear.inject(Fault::Status(500));
    let answer = get(&nginx, "/outage").bearer(&token).send();
    assert_eq!((answer.status, authgear.hits()), (200, 6));
    assert_eq!(answer.echo().identity(), Pairs::new());
}

#[test]
fn a_pending_subrequest_survives_clients_that_leave_and_reloads() {
    let (authgear, backend, gate) = (public(), Backend::start(), Gate::new());
    let nginx = as_in_the_example(&authgear, &backend).log_format("$status").start();
    authgear.inject(Fault::Gate(gate.clone()));
    let leaving = alice(&nginx, &authgear).start();
    gate.wait_for_waiters(1);
    leaving.leave();
    assert_eq!(nginx.wait_for_access_lines(1), ["499"]);
    // nginx cancels a subrequest with its request.
    gate.wait_for_no_waiters();

    let pending = alice(&nginx, &authgear).start();
    gate.wait_for_waiters(1);
    let old = nginx.reload();
    gate.open();
    assert_alice(&pending.wait());
    old.into_iter().for_each(|pid| nginx.wait_gone(pid));
}

#[test]
fn authgear_host_and_scheme_are_those_of_the_project_in_use() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = as_in_the_example(&authgear, &backend)
        .http("authgear_project other { endpoint http://other.test:8080; resolver_url /_auth; }")
        .server(
            "location /first { error_page 404 = @second; root html; }
             location @second { authgear other; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    // The fake does not know the other one's name.
    assert_eq!(alice(&nginx, &authgear).send().status, 200);
    let request = get(&nginx, "/first").bearer(&authgear.jwt(&User::named("alice")));
    assert_eq!(request.send().status, 503);
    let asked: Vec<_> = (authgear.requests().iter())
        .map(|asked| {
            let header = |name| asked.header(name).unwrap_or_default().to_owned();
            format!("{} {}", header("host"), header("x-forwarded-proto"))
        })
        .collect();
    assert_eq!(asked, ["myapp.test https", "myapp.test https", "other.test:8080 http"]);
}
