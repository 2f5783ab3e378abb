//! Connections to Authgear that break off anywhere give an error or the right verdict, and leak
//! nothing.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use support::{eventually, get, Backend, FakeAuthgear, Fault, User, DEADLINE};

use crate::project::{project, project_at, project_site, verdict, TELLING};
use crate::site::{identity_of, site};

/// Cuts the resolver's answer after each of its bytes.
#[test]
fn a_truncated_answer_is_an_error_or_the_right_verdict() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = project_site(&authgear, &backend, "max_fails 0; keepalive 0;")
        .workers(1)
        .error_level("info")
        .server("authgear p; authgear_on_error anonymous;")
        .server("location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    let open_files =
        || fs::read_dir(format!("/proc/{}/fd", nginx.workers()[0])).expect("a worker").count();
    let alice = User::named("alice").roles(&["editor", "admin"]);
    let request = get(&nginx, "/").bearer(&authgear.opaque_token(&alice));
    assert_eq!(request.send().echo().identity(), identity_of(&alice));
    authgear.wait_for_no_connections();
    let before = open_files();
    let (mut cut, mut whole) = (0, 0);
    for n in 0.. {
        authgear.inject_next(1, Fault::CloseAfter(n));
        let answer = request.send();
        match verdict(&answer).as_str() {
            // The head is complete, and there is no body.
            "valid ok resolver" => {
                assert_eq!(answer.echo().identity(), identity_of(&alice), "{n}");
                whole += 1;
            }
            "error connection_closed resolver" => {
                assert_eq!(whole, 0, "{n}");
                assert_eq!(answer.echo().identity(), [], "{n}");
                cut += 1;
            }
            other => panic!("{n}: {other}"),
        }
        if whole == 3 {
            break;
        }
    }
    // The cut was beyond the Permissions-Policy.
    assert!(cut > 673, "{cut}");
    authgear.wait_for_no_connections();
    assert!(eventually(Duration::from_secs(5), || open_files() <= before));
}

/// Cuts the key set in many places, with one project per place.
#[test]
fn a_truncated_key_set_is_an_error_or_the_right_verdict() {
    const PLACES: usize = 40;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let mut builder = site(&authgear, &backend).workers(2).server(TELLING);
    for n in 0..PLACES {
        // Projects of one Authgear with different settings, so that each has its own keys.
        let audience =
            format!("audience {} https://{n}.test; jwks_cooldown 1s;", authgear.origin());
        authgear.inject_next(1, Fault::CloseAfter(n * 40));
        builder = builder.http(project(&format!("p{n}"), &authgear, &audience)).server(format!(
            "location /{n}/ {{ authgear p{n}; authgear_mode jwt; proxy_pass http://%%BACKEND%%; }}"
        ));
    }
    let nginx = builder.start();
    nginx.allow_log("authgear keys not fetched");
    let token = authgear.jwt(&User::named("alice"));
    for n in 0..PLACES {
        let mut reported = Vec::new();
        let verified = eventually(Duration::from_secs(20), || {
            let verdict = verdict(&get(&nginx, &format!("/{n}/")).bearer(&token).send());
            let last = verdict == "valid ok jwt";
            reported.push(verdict);
            last
        });
        assert!(verified, "{n}: {reported:?}");
        reported.pop();
        assert!(
            reported.iter().all(|verdict| verdict == "error keys_unavailable jwt"),
            "{n}: {reported:?}"
        );
    }
    assert_eq!(authgear.hits(), 0);
}

/// Accepts a connection and reads its request: bytes sent earlier would be no answer to it.
fn asked(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().expect("a connection");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        request.push(byte[0]);
    }
    stream
}

/// Sends an answer byte by byte.
#[test]
fn an_answer_that_arrives_byte_by_byte_is_accepted() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let resolver = format!("http://{}/", listener.local_addr().expect("an address"));
    let nginx = site(&authgear, &backend)
        .http(project_at("p", &authgear, &resolver, ""))
        .server(TELLING)
        .server("location / { authgear p; proxy_pass http://%%BACKEND%%; }")
        .start();
    let crumbs = thread::spawn(move || {
        let mut stream = asked(&listener);
        let answer = "HTTP/1.1 200 OK\r\nX-Authgear-Session-Valid: true\r\n\
                      X-Authgear-User-Id: alice\r\nTransfer-Encoding: chunked\r\n\r\n\
                      1\r\nx\r\n2\r\nyz\r\n0\r\n\r\n";
        for byte in answer.as_bytes() {
            stream.write_all(&[*byte]).expect("a byte");
        }
    });
    let answer = get(&nginx, "/").bearer("token").send();
    assert_eq!(verdict(&answer), "valid ok resolver");
    assert_eq!(answer.echo().header("x-authgear-user-id"), Some("alice"));
    crumbs.join().expect("the resolver");
}

/// Sends a little more of an answer again and again: the look-up ends at the deadline.
#[test]
fn an_endless_answer_is_abandoned_at_the_deadline() {
    const BEGUN: &str = "HTTP/1.1 200 OK\r\nX-Authgear-Session-Valid: true\r\n";
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for (what, begun, crumb) in [
        ("status", "HTTP/1.1 2", "0"),
        ("header", BEGUN, "X-A: 1\r\n"),
        ("name", BEGUN, "x"),
        ("body", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", "x"),
        ("chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"),
        ("interim answer", "", "HTTP/1.1 100 Continue\r\n\r\n"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let resolver = format!("http://{}/", listener.local_addr().expect("an address"));
        let nginx = site(&authgear, &backend)
            .http(project_at("p", &authgear, &resolver, "timeout 400ms; max_fails 0;"))
            .server(TELLING)
            .server("location / { authgear p; proxy_pass http://%%BACKEND%%; }")
            .start();
        let (gone, pace) = mpsc::channel::<()>();
        let server = thread::spawn(move || {
            let mut stream = asked(&listener);
            let mut sent = stream.write_all(begun.as_bytes());
            // Sends a byte now and then, until nginx has closed the connection.
            while sent.is_ok() && pace.recv_timeout(Duration::from_millis(20)).is_err() {
                sent = stream.write_all(crumb.as_bytes());
            }
            sent.is_err()
        });
        let begin = Instant::now();
        let answer = get(&nginx, "/").bearer("token").send();
        let took = begin.elapsed();
        assert_eq!(answer.status, 503, "{what}");
        let verdict = verdict(&answer);
        assert_eq!(verdict, "error timeout resolver", "{what}");
        assert!(took < Duration::from_secs(4), "{what}: {took:?}");
        assert!(eventually(DEADLINE, || server.is_finished()), "{what}");
        assert!(server.join().expect("the server"), "{what}");
        drop(gone);
    }
}
