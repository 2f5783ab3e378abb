//! Row 10: no client gets a tunnel of HTTP/2 to a backend, past all that nginx checks.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use support::{
    get, Backend, Builder, FakeAuthgear, H2Frames, HeaderBlock, Nginx, WebSocket, DEADLINE,
};

use crate::project::project;
use crate::site::site;

/// A location that proxies WebSockets with the map that nginx's documentation shows, one with a
/// fixed `Connection`, and one that says what nginx sees.
fn tunnelling(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    site(authgear, backend)
        .workers(1)
        .http(
            "map $http_upgrade $connection_upgrade { default upgrade; '' close; }
             proxy_http_version 1.1;
             proxy_set_header Upgrade $http_upgrade;
             proxy_set_header Connection $connection_upgrade;",
        )
        .http(project("p", authgear, ""))
        .server(settings)
        .server(
            "location / { authgear p; proxy_pass http://%%BACKEND%%; }
             location /off { authgear off; proxy_pass http://%%BACKEND%%; }",
        )
}

const SETTINGS: &str = "HTTP2-Settings: AAMAAABkAAQAAP__";

/// Sends these lines, reads the head of the answer, and if it is 101 asks for `/admin` through the
/// tunnel. Returns the status.
#[track_caller]
fn smuggle(nginx: &Nginx, path: &str, lines: &str) -> u16 {
    let mut stream = TcpStream::connect(nginx.addr()).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n{SETTINGS}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    let status = std::str::from_utf8(&head[9..12]).expect("a status").parse().expect("a status");
    if status == 101 {
        let mut tunnel = H2Frames::over(stream, 3);
        let block = HeaderBlock::get("/admin").literal("x-authgear-user-id", b"admin");
        tunnel.repeat(&block, 1, 1);
    }
    status
}

#[test]
fn no_request_gets_a_tunnel_of_http2() {
    for path in ["/", "/off"] {
        let (authgear, backend) = (FakeAuthgear::start(), Backend::h2c());
        let nginx = tunnelling(&authgear, &backend, "").start();
        for lines in [
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: H2C",
            "Connection: Upgrade\r\nUpgrade: websocket, h2c",
            "Connection: Upgrade\r\nUpgrade: h2c, websocket",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c",
            "Connection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: websocket",
            "Connection: Upgrade\r\nUpgrade: foo\r\nUpgrade: h2c",
        ] {
            let status = smuggle(&nginx, path, lines);
            let requests = backend.take_requests();
            let targets: Vec<_> = requests.iter().map(|request| &*request.target).collect();
            assert_eq!((status, targets), (200, vec![path]), "{lines:?}");
            for name in ["upgrade", "http2-settings"] {
                assert_eq!(requests[0].header(name), None, "{path} {lines:?}");
            }
        }
    }
}

#[test]
fn websockets_are_let_through() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = tunnelling(&authgear, &backend, "").start();
    assert!(WebSocket::open(&get(&nginx, "/")).is_ok());
    // The name of the protocol may have any case, and HTTP2-Settings are removed all the same.
    let request = get(&nginx, "/")
        .header("Connection", "Upgrade")
        .header("Upgrade", "WebSocket")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    let echo = request.send().echo();
    assert_eq!(echo.header("upgrade"), Some("WebSocket"));
    assert_eq!(echo.header("http2-settings"), None);
}

#[test]
fn protocols_of_the_configuration_are_let_through_but_never_h2c() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = tunnelling(&authgear, &backend, "authgear_upgrade SPDY/3.1 tcp;").start();
    for (upgrade, arrives) in [
        ("SPDY/3.1", true),
        ("spdy/3.1", true),
        ("tcp", true),
        ("websocket", true),
        ("SPDY/3", false),
        ("h2c", false),
        ("tcp, h2c", false),
    ] {
        let request = get(&nginx, "/").header("Connection", "Upgrade").header("Upgrade", upgrade);
        let echo = request.send().echo();
        assert_eq!(echo.header("upgrade"), arrives.then_some(upgrade));
    }
    let test = tunnelling(&authgear, &backend, "authgear_upgrade tcp H2C;").check();
    assert!(!test.ok && test.output.contains("H2C"), "{}", test.output);
}
