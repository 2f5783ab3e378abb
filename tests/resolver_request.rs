//! Requests to the resolver: its own origin, the client's address and user agent, Authgear's
//! credentials, and nothing else of the client.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use support::{get, sha256, Backend, Builder, FakeAuthgear, Nginx, Recorded, Request, User};

use crate::project::{project, verdict, TELLING};
use crate::site::{site, Pairs, LARGE_HEADERS};

const ORIGIN: &str = "https://myapp.test:8443";

/// An Authgear with a public name.
fn public() -> FakeAuthgear {
    FakeAuthgear::builder().origin(ORIGIN).start()
}

fn protected(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend)
        .http(project("p", authgear, ""))
        .http(LARGE_HEADERS)
        // Let every header of a client reach the module.
        .http("underscores_in_headers on; ignore_invalid_headers off; keepalive_requests 10000;")
        .server(TELLING)
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; proxy_http_version 1.1; }")
}

/// The headers of the request to the resolver, names in lower case and sorted, without those that
/// every request has and nginx's request id.
#[track_caller]
fn beyond_the_usual(asked: &Recorded, what: &str) -> Pairs {
    let line = (asked.method.as_str(), asked.target.as_str(), asked.version.as_str());
    assert_eq!(line, ("GET", "/_resolver/resolve", "HTTP/1.1"), "{what}");
    assert_eq!(asked.body_len, 0, "{what}");
    let mut headers: Pairs = asked
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .collect();
    headers.sort();
    for (name, value) in [
        ("host", "myapp.test:8443"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "myapp.test:8443"),
        ("x-forwarded-proto", "https"),
    ] {
        let at =
            headers.iter().position(|have| (have.0.as_str(), have.1.as_str()) == (name, value));
        headers.remove(at.unwrap_or_else(|| panic!("{what}: no {name}: {value} in {headers:?}")));
    }
    headers
}

fn pairs(pairs: &[(&str, &str)]) -> Pairs {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Sends each request. Asserts that the resolver gets these headers besides the usual ones.
fn assert_asked<'a>(
    nginx: &Nginx,
    authgear: &FakeAuthgear,
    rows: impl IntoIterator<Item = (&'a str, Request, Pairs)>,
) {
    for (what, request, expected) in rows {
        let asked = authgear.hits();
        let answer = request.send();
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
        let requests = authgear.requests();
        assert_eq!(requests.len(), asked + 1, "{what}");
        assert_eq!(beyond_the_usual(&requests[asked], what), expected, "{what}");
    }
    let nginx_workers = nginx.workers().len();
    assert!(authgear.connections_opened() <= nginx_workers as u64, "connections are not reused");
}

/// Passes trace context to Authgear.
#[test]
fn trace_context_is_passed_to_the_resolver() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (authgear, backend) = (public(), Backend::start());
    let nginx = protected(&authgear, &backend).start();
    let token = authgear.opaque_token(&User::named("alice"));
    let bearer = ("authorization", format!("Bearer {token}"));
    let client = |headers: &[(&str, &str)]| {
        let request = get(&nginx, "/").bearer(&token).header("X-Request-ID", "mine");
        headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    };
    let with = |more: &[(&str, &str)]| {
        let mut all = vec![(bearer.0, bearer.1.as_str())];
        all.extend_from_slice(more);
        all.sort_unstable();
        pairs(&all)
    };
    let state = ("tracestate", "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
    let long = "a".repeat(600);
    assert_asked(
        &nginx,
        &authgear,
        [
            (
                "both",
                client(&[("Traceparent", PARENT), state]),
                with(&[("traceparent", PARENT), state]),
            ),
            (
                "the parent alone",
                client(&[("traceparent", PARENT)]),
                with(&[("traceparent", PARENT)]),
            ),
            ("a state alone", client(&[state]), with(&[])),
            ("no parent", client(&[("traceparent", "00-abc-def-01"), state]), with(&[])),
            (
                "a long state",
                client(&[("traceparent", PARENT), ("tracestate", &long)]),
                with(&[("traceparent", PARENT)]),
            ),
        ],
    );
}

/// The request id is sent only where the configuration uses it: see the other tests.
#[test]
fn a_logged_request_id_is_passed_to_the_resolver() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = protected(&authgear, &backend).log_format("id=$request_id").start();
    let token = authgear.opaque_token(&User::named("alice"));
    for _ in 0..3 {
        get(&nginx, "/").bearer(&token).header("X-Request-ID", "mine").send();
    }
    let logged = nginx.wait_for_access_lines(3);
    assert_eq!(authgear.hits(), 3);
    for request in authgear.requests() {
        let id = request.header("x-request-id").expect("an id");
        assert!(logged.contains(&format!("id={id}")), "{id} is not in {logged:?}");
    }
}

#[test]
fn nothing_but_credentials_and_trace_context_of_a_client_is_sent() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = protected(&authgear, &backend).start();
    let token = authgear.opaque_token(&User::named("alice"));
    let client = |headers: &[(&str, &str)]| {
        let request = get(&nginx, "/path?query").bearer(&token);
        headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    };
    let only_bearer = pairs(&[("authorization", &format!("Bearer {token}"))]);
    let hostile: &[(&str, &[(&str, &str)])] = &[
        ("nothing more", &[]),
        (
            "conditional",
            &[
                ("If-None-Match", "*"),
                ("If-Match", "\"a\""),
                ("If-Modified-Since", "Thu, 01 Jan 2099 00:00:00 GMT"),
                ("If-Range", "\"a\""),
                ("Range", "bytes=0-1"),
            ],
        ),
        ("another host", &[("Host", "evil.test")]),
        ("upgrade", &[("Connection", "Upgrade"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMA")]),
        ("forwarded", &[("Forwarded", "for=1.2.3.4;host=evil.test;proto=http")]),
        (
            "x-forwarded",
            &[
                ("X-Forwarded-Host", "evil.test"),
                ("X-Forwarded-Proto", "http"),
                ("X-Forwarded-For", "1.2.3.4"),
                ("X-Forwarded-Port", "1"),
                ("X-Forwarded-Prefix", "/evil"),
                ("X-Forwarded-Uri", "/evil"),
                ("X-Forwarded-Method", "POST"),
                ("X-Real-IP", "1.2.3.4"),
                ("X_Forwarded_Host", "evil.test"),
            ],
        ),
        (
            "x-original",
            &[
                ("X-Original-Host", "evil.test"),
                ("X-Original-Proto", "http"),
                ("X-Original-For", "1.2.3.4"),
                ("X-Original-URL", "/evil"),
                ("X-Original-Method", "POST"),
            ],
        ),
        ("trailers", &[("TE", "trailers"), ("Trailer", "X-Authgear-User-Id")]),
        ("identity", &[("X-Authgear-User-Id", "admin"), ("X_Authgear_User_Id", "admin")]),
        (
            "credentials of others",
            &[
                ("Cookie", "theme=dark; csrf=x; session2=y; xsession=z"),
                ("Proxy-Authorization", "Bearer proxy"),
                ("DPoP", "proof"),
                ("X-Api-Key", "secret"),
            ],
        ),
        (
            "preferences",
            &[
                ("Accept", "*/*"),
                ("Accept-Encoding", "gzip"),
                ("Accept-Language", "de"),
                ("Cache-Control", "no-store"),
                ("Origin", "https://evil.test"),
                ("Referer", "https://evil.test/"),
                ("Content-Type", "text/plain"),
                ("Content-Encoding", "gzip"),
                ("Via", "1.1 evil"),
                ("Date", "now"),
                ("Max-Forwards", "0"),
            ],
        ),
        ("odd names", &[("Host_", "evil.test"), ("X.Forwarded.Host", "a"), ("X~Real~IP", "b")]),
    ];
    let rows = hostile.iter().map(|(what, headers)| (*what, client(headers), only_bearer.clone()));
    assert_asked(&nginx, &authgear, rows);

    // Neither target nor version of the client's request line is passed on.
    let lines = ["GET http://evil.test/evil HTTP/1.1\r\nHost: evil.test", "GET //evil HTTP/1.0"];
    let rows = lines.map(|line| {
        let raw = format!("{line}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\r\n");
        (line, get(&nginx, "/").raw(raw), only_bearer.clone())
    });
    assert_asked(&nginx, &authgear, rows);

    let methods = ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"];
    let rows = methods.map(|method| (method, client(&[]).method(method), only_bearer.clone()));
    assert_asked(&nginx, &authgear, rows);
}

#[test]
fn request_bodies_are_not_sent_to_the_resolver() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = protected(&authgear, &backend).start();
    let only_bearer = pairs(&[("authorization", "Bearer token")]);
    let post = || get(&nginx, "/").method("POST").bearer("token");
    let large = vec![b'x'; 100_000];
    let chunks = b"5\r\nhello\r\n0\r\nX-Forwarded-Host: evil.test\r\n\r\n";
    for (what, request, body) in [
        ("a length", post().body("hello"), &b"hello"[..]),
        ("much", post().body(large.clone()), &large),
        ("chunks", post().header("Transfer-Encoding", "chunked").body(*chunks), b"hello"),
        ("expected", post().header("Expect", "100-continue").body("hello"), b"hello"),
        ("none", post().header("Content-Length", "0"), b""),
        ("of a GET", get(&nginx, "/").bearer("token").body("hello"), b"hello"),
    ] {
        let answer = request.send();
        assert_eq!(answer.status, 200, "{what}");
        assert_eq!(answer.echo().body_sha256, sha256(body), "{what}");
        let asked = authgear.requests().pop().expect("a request");
        assert_eq!(beyond_the_usual(&asked, what), only_bearer, "{what}");
    }
    assert_eq!(authgear.hits(), 6);
}

#[test]
fn only_authgear_credentials_are_sent() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = protected(&authgear, &backend).start();
    let client = |headers: &[(&str, &str)]| {
        let request = get(&nginx, "/");
        headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    };
    let long_cookie = format!("session={}", "x".repeat(4096));
    let (full, too_long) = ("a".repeat(16 * 1024 - 7), "a".repeat(16 * 1024 - 6));
    let many: String = (0..20).map(|n| format!("session={n}; ")).collect();
    let sixteen: Vec<String> = (0..16).map(|n| format!("session={n}")).collect();
    let same = |value: &str| pairs(&[("authorization", value)]);
    let cookie = |value: &str| pairs(&[("cookie", value)]);
    let bearer = |value: &str| client(&[("Authorization", value)]);
    let cookies = |value: &str| client(&[("Cookie", value)]);
    assert_asked(
        &nginx,
        &authgear,
        [
            ("lower case", bearer("bearer a"), same("bearer a")),
            ("odd case", bearer("bEaReR a"), same("bEaReR a")),
            ("more spaces", bearer("Bearer  a"), same("Bearer  a")),
            ("a tab in the token", bearer("Bearer a\tb"), same("Bearer a\tb")),
            ("two tokens", bearer("Bearer a, Bearer b"), same("Bearer a, Bearer b")),
            ("the longest", bearer(&format!("Bearer {full}")), same(&format!("Bearer {full}"))),
            ("one", cookies("session=a"), cookie("session=a")),
            (
                "all, in their order",
                cookies("a=b; app_session=1; c=d; session=2; app_access_token=3; e=f"),
                cookie("app_session=1; session=2; app_access_token=3"),
            ),
            ("empty", cookies("session="), cookie("session=")),
            ("bare", cookies("session"), cookie("session")),
            ("twice", cookies("session=a; session=b"), cookie("session=a; session=b")),
            ("white space", cookies(" ;a=b;  session=a ;;session =b"), {
                cookie("session=a; session =b")
            }),
            ("quotes and signs", cookies("session=\"a=b\""), cookie("session=\"a=b\"")),
            ("other case", cookies("Session=a; SESSION=b; session=c"), cookie("session=c")),
            (
                "another attribute",
                cookies("$Version=1; session=a; $Path=/; $session=b"),
                cookie("session=a"),
            ),
            (
                "several lines",
                client(&[("Cookie", "session=a"), ("Cookie", "x=y"), ("cookie", "app_session=b")]),
                cookie("session=a; app_session=b"),
            ),
            (
                "too long a cookie",
                cookies(&format!("{long_cookie}; app_session=a")),
                cookie("app_session=a"),
            ),
            ("too many cookies", cookies(&many), cookie(&sixteen.join("; "))),
            (
                "too long a bearer",
                client(&[
                    ("Authorization", &format!("Bearer {too_long}")),
                    ("Cookie", "session=a"),
                ]),
                cookie("session=a"),
            ),
            (
                "another scheme",
                client(&[("Authorization", "Basic YTpi"), ("Cookie", "session=a; basic=YTpi")]),
                cookie("session=a"),
            ),
            (
                "a tab after the scheme",
                client(&[("Authorization", "Bearer\ta"), ("Cookie", "session=a")]),
                cookie("session=a"),
            ),
            (
                "both",
                client(&[("Cookie", "session=a"), ("Authorization", "Bearer b")]),
                pairs(&[("authorization", "Bearer b"), ("cookie", "session=a")]),
            ),
        ],
    );
}

#[test]
fn only_the_first_authorization_header_counts() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = protected(&authgear, &backend).start();
    for (first, second, sent) in [
        ("Bearer a", "Bearer b", Some("Bearer a")),
        ("Bearer a", "Basic YTpi", Some("Bearer a")),
        ("Basic YTpi", "Bearer b", None),
    ] {
        let before = authgear.hits();
        let request = get(&nginx, "/").cookie("session", "a");
        let two = request.header("Authorization", first).header("Authorization", second);
        // Some versions of nginx reject such a request themselves.
        if two.send().status == 400 {
            assert_eq!(authgear.hits(), before);
        } else {
            assert_eq!(authgear.requests()[before].header("authorization"), sent);
        }
    }
}

#[test]
fn user_agents_are_sent_unchanged() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = protected(&authgear, &backend).start();
    let long = "u".repeat(2000);
    let rows = [
        ("plain", "Mozilla/5.0 (X11)", "Mozilla/5.0 (X11)"),
        ("beyond ASCII", "a\u{e9}\tb", "a\u{c3}\u{a9}\tb"),
        ("long", &long, &long[..1024]),
    ];
    assert_asked(
        &nginx,
        &authgear,
        rows.map(|(what, value, sent)| {
            let request = get(&nginx, "/").cookie("session", "a").header("User-Agent", value);
            (what, request, pairs(&[("cookie", "session=a"), ("user-agent", sent)]))
        }),
    );
}

#[test]
fn http2_requests_are_looked_up_like_http1_requests() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = protected(&authgear, &backend).listen_options("http2").start();
    let request = get(&nginx, "/")
        .bearer("token")
        // As browsers send cookies over HTTP/2: one per header.
        .header("Cookie", "theme=dark")
        .header("Cookie", "session=a")
        .header("Cookie", "app_session=b")
        .header("TE", "trailers")
        .header("X-Forwarded-Host", "evil.test")
        .header("User-Agent", "h2")
        .method("POST")
        .body("hello");
    let answer = request.send_h2();
    assert_eq!((answer.status, answer.echo().body_len), (200, 5));
    let expected = pairs(&[
        ("authorization", "Bearer token"),
        ("cookie", "session=a; app_session=b"),
        ("user-agent", "h2"),
    ]);
    assert_eq!(beyond_the_usual(&authgear.requests()[0], "HTTP/2"), expected);
}

#[test]
fn the_endpoint_decides_host_scheme_and_path() {
    // This Authgear accepts any Host.
    let authgear = FakeAuthgear::builder().database(false).start();
    let (url, addr) = (authgear.url(), authgear.addr());
    let own = format!("127.0.0.1:{}", addr.port());
    let rows = [
        ("https://myapp.test", "myapp.test", "https", "/resolve"),
        ("https://MyApp.Test:443/", "myapp.test", "https", "/resolve"),
        ("http://myapp.test:80", "myapp.test", "http", "/_resolver/resolve"),
        ("http://myapp.test:8080", "myapp.test:8080", "http", "/_resolver/resolve"),
        ("https://myapp.test.:8443", "myapp.test:8443", "https", "/resolve"),
        ("https://192.0.2.1", "192.0.2.1", "https", "/resolve"),
        ("http://[2001:DB8::1]:81", "[2001:db8::1]:81", "http", "/a/b%20c"),
        ("https://[::1]", "[::1]", "https", "/"),
    ];
    let mut builder = Nginx::builder().http(TELLING);
    for (n, (endpoint, _, _, path)) in rows.iter().enumerate() {
        builder = builder
            .http(format!(
                "authgear_project p{n} {{ endpoint {endpoint}; resolver_url {url}{path}; }}"
            ))
            .server(format!("location = /{n} {{ authgear p{n}; try_files /none =204; }}"));
    }
    let own_url = format!("location = /own {{ authgear {url}; try_files /none =204; }}");
    let nginx = builder.server(&own_url).start();
    let asked_for = |path: String| {
        assert_ne!(verdict(&get(&nginx, &path).bearer("token").send()), "", "{path}");
        authgear.requests().pop().expect("a request")
    };
    for (n, (endpoint, host, scheme, path)) in rows.into_iter().enumerate() {
        let asked = asked_for(format!("/{n}"));
        assert_eq!(asked.target, path, "{endpoint}");
        assert_eq!(asked.all("host"), [host], "{endpoint}");
        assert_eq!(asked.all("x-forwarded-host"), [host], "{endpoint}");
        assert_eq!(asked.all("x-forwarded-proto"), [scheme], "{endpoint}");
    }
    let asked = asked_for("/own".to_owned());
    assert_eq!(asked.target, "/_resolver/resolve");
    assert_eq!((asked.all("host"), asked.all("x-forwarded-host")), (vec![&*own], vec![&*own]));
    assert_eq!(asked.all("x-forwarded-proto"), ["http"]);
    assert_eq!(authgear.hits(), 9);
}

#[test]
fn x_forwarded_for_is_the_client_address() {
    let (authgear, backend) = (public(), Backend::start());
    let nginx = protected(&authgear, &backend)
        .server("listen %%ADDR2%%; listen unix:%%DIR%%/socket;")
        .http(
            "server {
               listen %%ADDR3%%;
               set_real_ip_from 127.0.0.1;
               real_ip_header X-Forwarded-For;
               authgear p;
               location / { proxy_pass http://%%BACKEND%%; }
             }",
        )
        .listen_extra_on("::1")
        .listen_extra(1)
        .start();
    let behind_proxy = |ip: &str| get(&nginx.addr_n(3), "/").header("X-Forwarded-For", ip);
    for (what, request, address) in [
        ("another address", get(&nginx, "/").from_addr("127.0.0.2"), "127.0.0.2"),
        ("IPv6", get(&nginx.addr2(), "/"), "::1"),
        ("realip", behind_proxy("192.0.2.7"), "192.0.2.7"),
        ("realip, the last of several", behind_proxy("6.6.6.6, 192.0.2.7"), "192.0.2.7"),
        ("realip, IPv6", behind_proxy("2001:db8::7"), "2001:db8::7"),
        ("not trusted", behind_proxy("192.0.2.7").from_addr("127.0.0.2"), "127.0.0.2"),
    ] {
        assert_eq!(request.bearer("token").send().status, 200, "{what}");
        let asked = authgear.requests().pop().expect("a request");
        assert_eq!(asked.all("x-forwarded-for"), [address], "{what}");
    }

    // Clients of a Unix socket have no address.
    let mut socket = UnixStream::connect(nginx.dir().join("socket")).expect("nginx's socket");
    let request = b"GET / HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer token\r\n\r\n";
    socket.write_all(request).expect("a request");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(authgear.hits(), 7);
    assert_eq!(authgear.requests()[6].all("x-forwarded-for"), [""; 0]);
}
