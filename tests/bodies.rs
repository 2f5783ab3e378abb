//! Requests with bodies, and upgrades to WebSocket, pass the module whole.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;

use support::{
    get, sha256, Backend, Connection, FakeAuthgear, Fault, Gate, Nginx, Recorded, Request,
    Response, User, WebSocket, DEADLINE, H2,
};

use crate::site::{assert_nothing_forged, identity_of, site, FORGED};

const MB: usize = 1024 * 1024;

/// Bodies go to `/` buffered and to `/unbuffered` as they come; HTTP/2 comes to `%%ADDR2%%`.
fn passing(authgear: &FakeAuthgear, backend: &Backend) -> Nginx {
    let pass = "proxy_http_version 1.1; proxy_pass http://%%BACKEND%%;";
    site(authgear, backend)
        .listen_extra(1)
        .http("client_max_body_size 20m;")
        .server(format!(
            "listen %%ADDR2%% http2;
             authgear %%AUTHGEAR%%;
             location / {{ {pass} }}
             location /unbuffered {{ proxy_request_buffering off; {pass} }}
             location /ws {{
               {pass}
               proxy_set_header Upgrade $http_upgrade;
               proxy_set_header Connection upgrade;
             }}"
        ))
        .start()
}

/// Bytes with a long period, so that misplaced pieces are noticed.
fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect()
}

fn chunked(body: &[u8]) -> Vec<u8> {
    let mut chunks = Vec::new();
    for chunk in body.chunks(100_000) {
        chunks.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunks.extend(chunk);
        chunks.extend(b"\r\n");
    }
    chunks.extend(b"0\r\n\r\n");
    chunks
}

#[track_caller]
fn assert_whole(echo: &Recorded, body: &[u8], what: &str) {
    assert_eq!((echo.body_len, &echo.body_sha256), (body.len(), &sha256(body)), "{what}");
    assert_nothing_forged(echo, what);
}

#[test]
fn request_bodies_of_all_sizes_reach_the_backend_whole() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = passing(&authgear, &backend);
    let alice = User::named("alice");
    let token = authgear.opaque_token(&alice);
    for len in [0, 1, 1000, 16 * 1024, 100_000, MB, 10 * MB] {
        let (mut kept, h2) = (Connection::open(&nginx), H2::open(&nginx.addr2()));
        let body = bytes(len);
        for path in ["/", "/unbuffered"] {
            let post = |body: Vec<u8>| {
                let post = get(&nginx, path).method("POST").bearer(&token).body(body);
                post.header("X-Authgear-User-Id", FORGED)
            };
            let in_chunks = post(chunked(&body)).header("Transfer-Encoding", "chunked");
            let expecting = post(body.clone()).header("Expect", "100-continue");
            for (name, echo) in [
                ("length", kept.send(&post(body.clone())).echo()),
                ("chunked", kept.send(&in_chunks).echo()),
                ("expect", kept.send(&expecting).echo()),
                ("HTTP/2", h2.send(&post(body.clone())).echo()),
            ] {
                let what = format!("{len} bytes to {path}, {name}");
                assert_whole(&echo, &body, &what);
                assert_eq!(echo.identity(), identity_of(&alice), "{what}");
            }
        }
    }
    for asked in authgear.requests() {
        assert_eq!((asked.method.as_str(), asked.body_len), ("GET", 0));
        for name in ["content-length", "transfer-encoding", "expect"] {
            assert_eq!(asked.header(name), None);
        }
    }
}

/// Sends a body while the look-up waits at the gate, and returns the answer.
type Way = fn(&Nginx, &Request, &[u8], &Gate) -> Response;

/// Sends one half before the verdict and one after.
fn in_two_pieces(_: &Nginx, post: &Request, body: &[u8], gate: &Gate) -> Response {
    let (first, rest) = body.split_at(16 * 1024);
    let part = post.clone().header("Content-Length", body.len().to_string()).body(first);
    let mut answering = part.start();
    gate.wait_for_waiters(1);
    gate.open();
    answering.write(rest);
    answering.wait()
}

/// Sends as much as the sockets accept before the verdict.
fn at_once(_: &Nginx, post: &Request, body: &[u8], gate: &Gate) -> Response {
    let post = post.clone().body(body);
    thread::scope(|scope| {
        let answering = scope.spawn(|| post.send());
        gate.wait_for_waiters(1);
        gate.open();
        answering.join().expect("an answer")
    })
}

fn over_http2(nginx: &Nginx, post: &Request, body: &[u8], gate: &Gate) -> Response {
    let answering = H2::open(&nginx.addr2()).start(&post.clone().body(body));
    gate.wait_for_waiters(1);
    gate.open();
    answering.wait()
}

#[test]
fn a_body_that_arrives_during_the_look_up_reaches_the_backend() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = passing(&authgear, &backend);
    let (alice, body) = (User::named("alice"), bytes(10 * MB));
    let ways: [(&str, Way); 3] =
        [("two pieces", in_two_pieces), ("at once", at_once), ("HTTP/2", over_http2)];
    for (name, way) in ways {
        for path in ["/", "/unbuffered"] {
            let gate = Gate::new();
            authgear.inject_next(1, Fault::Gate(gate.clone()));
            let post = get(&nginx, path).method("POST").bearer(&authgear.opaque_token(&alice));
            let echo = way(&nginx, &post, &body, &gate).echo();
            let what = format!("{name} {path}");
            assert_whole(&echo, &body, &what);
            assert_eq!(echo.identity(), identity_of(&alice), "{what}");
        }
    }
}

/// Sends a request head with `Expect: 100-continue`, to read the server's answer from.
fn expecting(nginx: &Nginx, token: &str) -> TcpStream {
    let mut stream = TcpStream::connect(nginx.addr()).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n\
         Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("the head is sent");
    stream
}

/// Asserts that the next bytes are this text.
#[track_caller]
fn assert_reads(stream: &mut TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    stream.read_exact(&mut bytes).expect("an answer");
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

#[test]
fn expect_100_continue_is_answered_after_the_verdict() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = passing(&authgear, &backend);
    let token = authgear.opaque_token(&User::named("alice"));
    let mut stream = expecting(&nginx, &token);
    assert_reads(&mut stream, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").expect("the body is sent");
    assert_reads(&mut stream, "HTTP/1.1 200 ");
    assert_whole(&backend.requests()[0], b"hello", "expect");

    // A denied client gets the denial instead of 100.
    authgear.inject(Fault::Status(503));
    assert_reads(&mut expecting(&nginx, &token), "HTTP/1.1 503 ");
    assert_eq!(backend.hits(), 1);
}

#[test]
fn websocket_upgrades_carry_the_identity() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    let nginx = passing(&authgear, &backend);
    let alice = User::named("alice");
    let upgrade = get(&nginx, "/ws")
        .cookie("session", &authgear.session(&alice))
        .header("X-Authgear-User-Id", FORGED);
    authgear.inject(Fault::Gate(gate.clone()));
    thread::scope(|scope| {
        let opening = scope.spawn(|| WebSocket::open(&upgrade));
        gate.wait_for_waiters(1);
        gate.open();
        let mut socket = opening.join().expect("an answer").expect("an upgrade");
        for message in ["hello", "again"] {
            socket.send(message);
            assert_eq!(socket.receive(), message);
        }
        socket.close();
    });
    assert_eq!(backend.requests()[0].identity(), identity_of(&alice));
    let asked = &authgear.requests()[0];
    for name in ["upgrade", "sec-websocket-key", "sec-websocket-version"] {
        assert_eq!(asked.header(name), None);
    }

    authgear.inject(Fault::Status(500));
    let refused = WebSocket::open(&upgrade).expect_err("no upgrade");
    assert_eq!(refused.status, 503);
    assert_eq!(backend.hits(), 1);
}
