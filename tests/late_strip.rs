//! Requests that nginx rejects before any phase, and that reach a location by `error_page`: forged
//! headers are stripped, and credentials work as usual.

use support::{get, Backend, Builder, Ca, FakeAuthgear, Nginx, Recorded, Request, Response, User};

use crate::site::{assert_nothing_forged, identity_of, site, Pairs, FORGED};

/// The targets of the error pages.
const TARGETS: [&str; 4] = ["/uri", "@named", "/off", "@off"];

/// Plain HTTP on `%%ADDR%%`, TLS on `%%ADDR2%%`, TLS with certificates of clients on `%%ADDR3%%`,
/// HTTP/2 on `%%ADDR4%%`. With another `authgear` it is the same without the module.
fn refusing(builder: Builder, ca: &Ca, authgear: &str, off: &str, target: &str) -> Nginx {
    let identity = ca.leaf(&["site.test"]);
    let pass = "proxy_pass http://%%BACKEND%%;";
    let server = format!(
        "ssl_certificate cert.pem;
         ssl_certificate_key key.pem;
         ssl_client_certificate ca.pem;
         client_header_buffer_size 1k;
         large_client_header_buffers 2 1k;
         error_page 400 405 414 494 496 497 501 {target};
         location / {{ {authgear} {pass} }}
         location /uri {{ {authgear} {pass} }}
         location @named {{ {authgear} {pass} }}
         location /off {{ {off} {pass} }}
         location @off {{ {off} {pass} }}"
    );
    builder
        .listen_extra(3)
        .file("cert.pem", identity.cert_pem)
        .file("key.pem", identity.key_pem)
        .file("ca.pem", ca.pem())
        .server(format!("listen %%ADDR4%% http2; {server}"))
        .http(format!("server {{ listen %%ADDR2%% ssl; {server} }}"))
        .http(format!("server {{ listen %%ADDR3%% ssl; ssl_verify_client on; {server} }}"))
        .start()
}

/// A reason for rejection: its status, and how to send such a request.
struct Row {
    name: &'static str,
    status: u16,
    send: fn(&Nginx, &Ca, &str) -> Response,
}

/// A request with these lines, and then the one for which nginx rejects it.
fn raw(request: Request, lines: &str, offence: &str) -> Response {
    request.raw(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}{offence}\r\n")).send()
}

const ROWS: [Row; 10] = [
    Row {
        name: "invalid header line",
        status: 400,
        send: |nginx, _, lines| raw(get(nginx, "/"), lines, "X\x01: 1\r\n"),
    },
    Row {
        name: "second Host",
        status: 400,
        send: |nginx, _, lines| raw(get(nginx, "/"), lines, "Host: b\r\n"),
    },
    Row {
        name: "no Host",
        status: 400,
        send: |nginx, _, lines| {
            get(nginx, "/").raw(format!("GET / HTTP/1.1\r\n{lines}\r\n")).send()
        },
    },
    Row {
        name: "invalid length",
        status: 400,
        send: |nginx, _, lines| raw(get(nginx, "/"), lines, "Content-Length: x\r\n"),
    },
    Row {
        name: "unknown coding",
        status: 501,
        send: |nginx, _, lines| raw(get(nginx, "/"), lines, "Transfer-Encoding: x\r\n"),
    },
    Row {
        name: "header too large",
        status: 400,
        send: |nginx, _, lines| {
            raw(get(nginx, "/"), lines, &format!("X-Large: {}\r\n", "x".repeat(3000)))
        },
    },
    Row {
        name: "TRACE",
        status: 405,
        send: |nginx, _, lines| {
            get(nginx, "/").raw(format!("TRACE / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).send()
        },
    },
    Row {
        name: "TRACE over HTTP/2",
        status: 405,
        send: |nginx, _, lines| {
            let lines = lines.lines().filter_map(|line| line.split_once(": "));
            let request = get(&nginx.addr_n(4), "/").method("TRACE");
            lines.fold(request, |request, (name, value)| request.header(name, value)).send_h2()
        },
    },
    Row {
        name: "HTTP to the port of HTTPS",
        status: 400,
        send: |nginx, _, lines| raw(get(&nginx.addr2(), "/"), lines, ""),
    },
    Row {
        name: "no certificate",
        status: 400,
        send: |nginx, ca, lines| raw(get(&nginx.addr_n(3), "/").tls(ca, "site.test"), lines, ""),
    },
];

/// Headers with a forged identity, and credentials.
fn lines(token: Option<&str>) -> String {
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    format!(
        "X-Authgear-User-Id: {FORGED}\r\nX-Pad: 1\r\nX-Authgear-Session-Valid: {FORGED}\r\n{}",
        bearer.unwrap_or_default()
    )
}

fn forged(echo: &Recorded) -> usize {
    echo.headers.iter().filter(|(_, value)| value == FORGED).count()
}

#[test]
fn refused_requests_are_stripped_and_their_credentials_count() {
    let (authgear, backend, ca) = (FakeAuthgear::start(), Backend::start(), Ca::new());
    let alice = User::named("alice");
    let token = authgear.opaque_token(&alice);
    for target in TARGETS {
        let on = "authgear %%AUTHGEAR%%;";
        let nginx = refusing(site(&authgear, &backend), &ca, on, "authgear off;", target);
        let mut calls = authgear.hits();
        for row in &ROWS {
            let what = format!("{} to {target}", row.name);
            let anonymous = (row.send)(&nginx, &ca, &lines(None));
            assert_eq!(anonymous.status, row.status, "{what}");
            assert_nothing_forged(&anonymous.echo(), &what);
            assert_eq!(anonymous.echo().identity(), Pairs::new(), "{what}");
            assert_eq!(anonymous.echo().header("x-pad"), Some("1"), "{what}");
            assert_eq!(authgear.hits(), calls, "{what}");

            let echo = (row.send)(&nginx, &ca, &lines(Some(&token))).echo();
            assert_nothing_forged(&echo, &what);
            let off = target.contains("off");
            let identity = if off { Pairs::new() } else { identity_of(&alice) };
            assert_eq!(echo.identity(), identity, "{what}");
            calls += usize::from(!off);
            assert_eq!(authgear.hits(), calls, "{what}");
        }
    }
}

#[test]
fn without_the_module_each_forged_header_arrives() {
    // The premise of the test above: error pages do pass these requests to the backend.
    let (authgear, backend, ca) = (FakeAuthgear::start(), Backend::start(), Ca::new());
    for target in TARGETS {
        let nginx = refusing(site(&authgear, &backend).without_module(), &ca, "", "", target);
        for row in &ROWS {
            let echo = (row.send)(&nginx, &ca, &lines(None)).echo();
            assert_eq!(forged(&echo), 2, "{} to {target}", row.name);
        }
    }
}

#[test]
fn a_malformed_request_line_has_no_headers() {
    let (authgear, backend, ca) = (FakeAuthgear::start(), Backend::start(), Ca::new());
    let lines = lines(Some(&authgear.opaque_token(&User::named("alice"))));
    let long = "x".repeat(3000);
    for target in TARGETS {
        let on = "authgear %%AUTHGEAR%%;";
        let nginx = refusing(site(&authgear, &backend), &ca, on, "authgear off;", target);
        for line in
            ["G\x01T / HTTP/1.1", "nonsense", "GET / HTTP/1.x", &format!("GET /{long} HTTP/1.1")]
        {
            let hits = backend.hits();
            let answer = get(&nginx, "/").raw(format!("{line}\r\nHost: a\r\n{lines}\r\n")).send();
            let what = format!("{line:.20} to {target}: {}", answer.text());
            assert!(matches!(answer.status, 400 | 414 | 500), "{what}");
            for echo in &backend.requests()[hits..] {
                assert_eq!(echo.identity(), Pairs::new(), "{what}");
                assert_nothing_forged(echo, &what);
            }
            // A URI is reached; a named location only by a request with a URI of its own.
            assert!(target.starts_with('@') || backend.hits() == hits + 1, "{what}");
        }
    }
    assert_eq!(authgear.hits(), 0);
}

#[test]
fn servers_without_authgear_are_unaffected() {
    let (authgear, backend, ca) = (FakeAuthgear::start(), Backend::start(), Ca::new());
    let nginx = refusing(site(&authgear, &backend), &ca, "authgear off;", "", "/uri");
    for row in &ROWS {
        let echo = (row.send)(&nginx, &ca, &lines(None)).echo();
        assert_eq!(forged(&echo), 2, "{}", row.name);
    }
}
