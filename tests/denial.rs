//! Each kind of client is denied access in a way that it understands.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use support::{
    eventually, get, Backend, Builder, Connection, FakeAuthgear, Fault, Nginx, Request, Response,
    User, WebSocket,
};

use crate::project::project;
use crate::site::site;

fn places(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend).listen_extra(1).http(project("p", authgear, "max_fails 0;")).server(
        "listen %%ADDR2%% http2;
             authgear p;
             authgear_require session;
             authgear_login_redirect https://login.test/?to=$authgear_return_to;
             location / { proxy_pass http://%%BACKEND%%; }
             location /admin { authgear_require role=admin; proxy_pass http://%%BACKEND%%; }
             location /fresh { authgear_require max_age=1m; proxy_pass http://%%BACKEND%%; }
             location /stay { authgear_login_redirect off; proxy_pass http://%%BACKEND%%; }
             location /page { error_page 401 /sorry.html; proxy_pass http://%%BACKEND%%; }
             location = /sorry.html {
               authgear_require off;
               authgear_login_redirect off;
               return 200 sorry;
             }",
    )
}

type Make = fn(Request) -> Request;

const BROWSER: Make = |request| {
    request
        .header("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
        .header("Sec-Fetch-Mode", "navigate")
        .header("Sec-Fetch-Dest", "document")
};
const OLD_BROWSER: Make = |request| request.header("Accept", "text/html,*/*;q=0.8");
const FETCH: Make = |request| {
    request
        .header("Accept", "application/json")
        .header("Sec-Fetch-Mode", "cors")
        .header("Sec-Fetch-Dest", "empty")
};
const IMAGE: Make = |request| {
    request
        .header("Accept", "image/avif,image/webp,*/*")
        .header("Sec-Fetch-Mode", "no-cors")
        .header("Sec-Fetch-Dest", "image")
};
const CURL: Make = |request| request.header("Accept", "*/*");
const FORM: Make = |request| BROWSER(request).method("POST").body("a=b");
const HEAD: Make = |request| FETCH(request).method("HEAD");

/// Status and kind of an answer.
fn kind(answer: &Response) -> (u16, &'static str) {
    let kind = match answer.header("content-type").as_deref() {
        Some("application/problem+json") => "problem",
        Some("application/grpc") => "grpc",
        Some("text/html") => "page",
        _ if answer.header("location").is_some() => "redirect",
        _ => "other",
    };
    (answer.status, kind)
}

#[test]
fn each_kind_of_client_gets_its_kind_of_denial() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = places(&authgear, &backend).start();
    let user = User { authenticated_at: 1, ..User::named("alice") };
    let token = authgear.opaque_token(&user);
    let no_session: &[(&str, Make, (u16, &str))] = &[
        ("browser", BROWSER, (302, "redirect")),
        ("old browser", OLD_BROWSER, (302, "redirect")),
        ("fetch", FETCH, (401, "problem")),
        ("image", IMAGE, (401, "page")),
        ("curl", CURL, (401, "page")),
        ("form", FORM, (401, "page")),
        ("head", HEAD, (401, "problem")),
    ];
    let not_allowed: &[(&str, Make, (u16, &str))] = &[
        ("browser", BROWSER, (403, "page")),
        ("fetch", FETCH, (403, "problem")),
        ("curl", CURL, (403, "page")),
    ];
    let too_old: &[(&str, Make, (u16, &str))] =
        &[("browser", BROWSER, (302, "redirect")), ("fetch", FETCH, (401, "problem"))];
    let unavailable: &[(&str, Make, (u16, &str))] =
        &[("browser", BROWSER, (503, "page")), ("fetch", FETCH, (503, "problem"))];
    let send = |path: &str, make: Make, token: Option<&str>| {
        let request = make(get(&nginx, path));
        token.map_or(request.clone(), |token| request.bearer(token)).send()
    };
    for (path, token, rows) in [
        ("/x?a=b", None, no_session),
        ("/x?a=b", Some("dead"), no_session),
        ("/admin", Some(token.as_str()), not_allowed),
        ("/fresh", Some(token.as_str()), too_old),
    ] {
        for (client, make, expected) in rows {
            let answer = send(path, *make, token);
            assert_eq!(kind(&answer), *expected, "{client} at {path} with {token:?}");
            let challenged = answer.header("www-authenticate").is_some();
            let refused = path == "/admin" && answer.status == 403;
            assert_eq!(challenged, answer.status == 401 || refused, "{client} at {path}");
        }
    }
    for (client, make, expected) in
        [("curl", CURL, (401, "page")), ("browser", BROWSER, (401, "page"))]
    {
        assert_eq!(kind(&send("/stay", make, None)), expected, "{client}");
    }
    authgear.inject(Fault::Status(500));
    for (client, make, expected) in unavailable {
        let answer = send("/x", *make, Some(&token));
        assert_eq!(
            (kind(&answer), answer.header("retry-after").is_some()),
            (*expected, true),
            "{client}"
        );
    }
    assert_eq!(backend.hits(), 0);
}

#[test]
fn a_browser_is_redirected_to_log_in_with_its_return_url() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = places(&authgear, &backend)
        .server(
            "location /login { authgear_login_redirect /login?to=$authgear_return_to; proxy_pass http://%%BACKEND%%; }
             location /inner { authgear_login_redirect http://$http_host/login; proxy_pass http://%%BACKEND%%; }
             location /odd { authgear_login_redirect $arg_to; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let browser = |path: &str| BROWSER(get(&nginx, path)).send();
    let answer = browser("/a%20b/?c=d&e=http://evil.test/%0d%0a");
    assert_eq!(answer.status, 302);
    let host = nginx.addr().to_string().replace('.', "%2E").replace(':', "%3A");
    let to = format!(
        "https://login.test/?to=http%3A%2F%2F{host}%2Fa%2520b%2F%3Fc%3Dd%26e%3Dhttp%3A%2F%2Fevil%2Etest%2F%250d%250a"
    );
    assert_eq!(answer.all("location"), [to]);
    assert_eq!(answer.all("cache-control"), ["no-store"]);
    assert_eq!((answer.body.len(), answer.all("www-authenticate").len()), (0, 0));
    // No redirect from the login page to the login page.
    assert_eq!(browser("/login").status, 401);
    assert_eq!(browser("/inner").status, 302);
    // Client data in a login URL cannot add a header, and an empty value is no URL.
    assert_eq!(browser("/odd").status, 401);
    assert_eq!(browser("/odd?to=/x").all("location"), ["/x"]);
    // An `error_page` of the configuration takes precedence.
    let page = browser("/page");
    assert_eq!((page.status, page.text().as_str()), (302, ""));
    let fetched = FETCH(get(&nginx, "/page")).send();
    assert_eq!((fetched.status, fetched.text().as_str()), (401, "sorry"));
}

/// HTTP/1.0 can omit the Host header, and HTTP/3 always does: the path must not be taken for the
/// host.
#[test]
fn a_request_without_a_host_header_returns_to_the_server_name() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = places(&authgear, &backend)
        .server("location /self { authgear_login_redirect http://localhost/self; return 200; }")
        .start();
    let answer = |path: &str| {
        let raw = format!("GET {path} HTTP/1.0\r\nAccept: text/html\r\n\r\n");
        BROWSER(get(&nginx, path)).raw(raw).send()
    };
    let to = answer("//evil.test/phish").header("location").expect("a redirect");
    let here = format!("http%3A%2F%2Flocalhost%3A{}%2F%2Fevil%2Etest%2Fphish", nginx.port());
    assert_eq!(to, format!("https://login.test/?to={here}"));
}

#[test]
fn the_login_page_does_not_redirect_to_itself() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    // Each of these login locations still has the requirement: it answers 401 instead of looping.
    let nginx = site(&authgear, &backend)
        .listen_extra(1)
        .file("html/login/index.html", "login")
        .server(
            "listen %%ADDR2%% http2;
             authgear %%AUTHGEAR%%;
             authgear_require session;
             root html;
             location / { proxy_pass http://%%BACKEND%%; }
             location /rewritten/ {
               authgear_login_redirect /rewritten/login?to=$authgear_return_to;
               rewrite ^ /page.php last;
             }
             location = /page.php {
               authgear_login_redirect /rewritten/login?to=$authgear_return_to;
               proxy_pass http://%%BACKEND%%;
             }
             location /terminated {
               authgear_login_redirect https://$host/terminated?to=$authgear_return_to;
               proxy_pass http://%%BACKEND%%;
             }
             location /encoded {
               authgear_login_redirect /enc%6fded;
               proxy_pass http://%%BACKEND%%;
             }
             location /login/ { authgear_login_redirect /login; }
             location /tried {
               authgear_login_redirect /tried/login;
               try_files $uri /page.html;
             }
             location /elsewhere {
               authgear_login_redirect https://login.test/elsewhere;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let browser = |path: &str| BROWSER(get(&nginx, path)).send().status;
    for (path, status) in [
        ("/rewritten/login", 401),
        ("/rewritten/login?to=x", 401),
        ("/rewritten/other", 302),
        ("/terminated", 401),
        ("/terminated/other", 302),
        ("/encoded", 401),
        ("/login/", 401),
        ("/tried/login", 401),
        ("/tried/other", 302),
        ("/elsewhere", 302),
    ] {
        assert_eq!(browser(path), status, "{path}");
        let h2 = BROWSER(get(&nginx.addr2(), path)).send_h2().status;
        assert_eq!(h2, status, "{path} over HTTP/2");
    }
    let named = |host: &str| BROWSER(get(&nginx, "/terminated")).header("Host", host).send().status;
    assert_eq!((named("app.test"), named("APP.test:8080")), (401, 401));
}

#[test]
fn api_clients_get_problem_details_in_json() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = places(&authgear, &backend).start();
    let token = authgear.opaque_token(&User::named("alice"));
    for (path, token, expected) in [
        ("/", "dead", r#"{"title":"Unauthorized","status":401,"reason":"no_session"}"#),
        ("/admin", &token, r#"{"title":"Forbidden","status":403,"reason":"role_missing"}"#),
    ] {
        let request = FETCH(get(&nginx, path)).bearer(token);
        let h2 = FETCH(get(&nginx.addr2(), path)).bearer(token);
        for answer in [request.send(), h2.send_h2()] {
            assert_eq!(answer.text().trim_end(), expected);
            assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string()));
        }
        let head = request.method("HEAD").send();
        assert_eq!((head.body.len(), kind(&head).1), (0, "problem"));
    }
}

#[test]
fn grpc_clients_get_a_trailers_only_response() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::grpc());
    let nginx = Nginx::builder()
        .listen_options("http2")
        .var("BACKEND", backend.addr())
        .http(project("p", &authgear, "max_fails 0;"))
        .server(
            "authgear p;
             authgear_require session;
             authgear_login_redirect https://login.test/;
             error_page 401 403 503 =200 /page;
             location / { grpc_pass %%BACKEND%%; }
             location /admin { authgear_require role=admin; grpc_pass %%BACKEND%%; }
             location = /page { authgear_require off; return 200 page; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let call = |path: &str, token: &str| {
        let request = get(&nginx, path).method("POST").body(vec![0; 5]);
        request
            .header("Content-Type", "application/grpc")
            .header("TE", "trailers")
            .bearer(token)
            .send_h2()
    };
    let good = call("/a.B/C", &token);
    assert_eq!((good.status, good.trailer("grpc-status").as_deref()), (200, Some("0")));
    let denied = |path: &str, token: &str| {
        let answer = call(path, token);
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{path}");
        assert_eq!(answer.header("content-type").as_deref(), Some("application/grpc"));
        (
            answer.header("grpc-status").unwrap_or_default(),
            answer.header("grpc-message").unwrap_or_default(),
        )
    };
    assert_eq!(denied("/a.B/C", "dead"), ("16".to_owned(), "no_session".to_owned()));
    assert_eq!(denied("/admin", &token), ("7".to_owned(), "role_missing".to_owned()));
    authgear.inject(Fault::Status(500));
    assert_eq!(denied("/a.B/C", &token), ("14".to_owned(), "bad_status".to_owned()));
    assert_eq!(backend.hits(), 1);
}

#[test]
fn websockets_get_a_status_and_preflights_pass() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = places(&authgear, &backend)
        .server(
            "location /ws {
               proxy_http_version 1.1;
               proxy_set_header Upgrade $http_upgrade;
               proxy_set_header Connection upgrade;
               proxy_pass http://%%BACKEND%%;
             }
             location /cors { authgear_preflight pass; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let refused = WebSocket::open(&get(&nginx, "/ws")).expect_err("a refusal");
    assert_eq!(kind(&refused), (401, "page"));
    let token = authgear.opaque_token(&User::named("alice"));
    assert!(WebSocket::open(&get(&nginx, "/ws").bearer(&token)).is_ok());

    let hits = authgear.hits();
    let preflight = |path: &str| {
        get(&nginx, path)
            .method("OPTIONS")
            .header("Origin", "https://app.test")
            .header("Access-Control-Request-Method", "POST")
    };
    let passed = preflight("/cors").bearer(&token).header("X-Authgear-User-Id", "forged").send();
    assert_eq!((passed.status, passed.echo().identity().len()), (200, 0));
    assert_eq!(authgear.hits(), hits);
    assert_eq!(preflight("/").send().status, 401);
    // Without its headers it is no preflight.
    assert_eq!(get(&nginx, "/cors").method("OPTIONS").send().status, 401);
}

#[test]
fn denials_stay_intact_beside_other_nginx_features() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = places(&authgear, &backend)
        .log_format("$status $uri")
        .server(
            "location /trailing { add_trailer X-T 1 always; proxy_pass http://%%BACKEND%%; }
             location /rewritten {
               rewrite ^/rewritten/(.*) /$1 break;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    // nginx uses chunked encoding for trailers: the answer has to end.
    let mut connection = Connection::open(&nginx);
    for _ in 0..2 {
        let answer = connection.send(&BROWSER(get(&nginx, "/trailing")));
        assert_eq!((answer.status, answer.body.len()), (302, 0));
    }
    assert_eq!(kind(&FETCH(get(&nginx, "/rewritten/x")).send()), (401, "problem"));
    // The access log has the status that was sent.
    let mut logged = nginx.wait_for_access_lines(3);
    logged.sort();
    assert_eq!(logged, ["302 /trailing", "302 /trailing", "401 /x"]);
}

#[test]
fn denials_stay_intact_when_the_client_reads_slowly() {
    const REQUESTS: usize = 4000;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let long = "x".repeat(3800);
    let nginx = places(&authgear, &backend)
        .error_level("info")
        .http("keepalive_requests 100000;")
        .server(format!(
            "location /long {{ add_header X-Long {long} always; proxy_pass http://%%BACKEND%%; }}"
        ))
        .start();
    let stream = TcpStream::connect(nginx.addr()).expect("a connection");
    let mut writer = stream.try_clone().expect("its other half");
    let request = "GET /long HTTP/1.1\r\nHost: a\r\nAccept: application/json\r\n\r\n";
    thread::scope(|scope| {
        scope.spawn(move || writer.write_all(request.repeat(REQUESTS).as_bytes()).expect("sent"));
        // When the log shows that nginx cannot send more, nginx has tried to.
        let mut last = 0;
        eventually(Duration::from_secs(10), || {
            let now = nginx.access_log().lines().count();
            std::mem::replace(&mut last, now) == now && now > 0
        });
        let mut reader = BufReader::new(stream);
        for n in 0..REQUESTS {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert_ne!(reader.read_line(&mut head).expect("a line"), 0, "{n}");
            }
            assert!(
                head.starts_with("HTTP/1.1 401 ") && head.contains("problem+json"),
                "{n}: {head}"
            );
            let length = head.split("Content-Length: ").nth(1).expect("a length");
            let length = length.lines().next().and_then(|n| n.parse().ok()).expect("a number");
            let mut body = vec![0; length];
            reader.read_exact(&mut body).expect("a body");
            assert!(body.starts_with(b"{") && body.ends_with(b"}\n"), "{n}");
        }
    });
}
