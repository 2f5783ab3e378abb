//! Many simultaneous clients, and clients that disconnect: each gets its own identity, and a
//! disconnected one leaks nothing.

use std::fs;
use std::thread;

use support::{
    eventually, get, Backend, Ca, Connection, FakeAuthgear, Fault, Gate, Nginx, Request, Response,
    User, DEADLINE, H2,
};

use crate::project::project;
use crate::site::{identity_of, site, Pairs, PROTECTED};

/// A request and its expected identity.
type Known = (Request, Pairs);

fn user(n: usize) -> User {
    let role = format!("role-{n}");
    User::named(&format!("user-{n}")).roles(&[&role])
}

fn with_token(nginx: &Nginx, authgear: &FakeAuthgear, n: usize) -> Known {
    let user = user(n);
    (get(nginx, "/").bearer(&authgear.opaque_token(&user)), identity_of(&user))
}

#[track_caller]
fn assert_identity(answer: &Response, identity: &Pairs) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.echo().identity(), *identity);
}

/// All goes to the backend; HTTP/2 comes to `%%ADDR2%%`.
fn serving(authgear: &FakeAuthgear, backend: &Backend) -> Nginx {
    site(authgear, backend)
        .listen_extra(1)
        .http("keepalive_requests 10000; client_max_body_size 1m;")
        .server("listen %%ADDR2%% http2;")
        .server(PROTECTED)
        .start()
}

#[test]
fn clients_that_disconnect_disturb_no_other_request_and_leak_nothing() {
    const CLIENTS: usize = 50;
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    // One worker, whose open files show leaks, and no connections kept for later.
    let nginx = site(&authgear, &backend)
        .workers(1)
        .log_format("$status")
        .listen_extra(1)
        .http(project("p", &authgear, "keepalive 0; max_connections 1000; timeout 1h;"))
        .server("listen %%ADDR2%% http2;")
        .server("location / { authgear p; proxy_pass http://%%BACKEND%%; }")
        .start();
    let worker = nginx.workers()[0];
    let open_files = || fs::read_dir(format!("/proc/{worker}/fd")).expect("a worker").count();
    let (request, identity) = with_token(&nginx, &authgear, 0);
    assert_identity(&request.send(), &identity);
    authgear.wait_for_no_connections();
    let before = open_files();

    authgear.inject(Fault::Gate(gate.clone()));
    let leaving: Vec<_> =
        (0..CLIENTS).map(|n| with_token(&nginx, &authgear, n).0.start()).collect();
    let h2: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let token = authgear.opaque_token(&user(n));
            get(&nginx.addr2(), "/").bearer(&token).start_h2()
        })
        .collect();
    gate.wait_for_waiters(2 * CLIENTS);
    leaving.into_iter().for_each(|pending| pending.leave());
    drop(h2);
    // The clients disconnect while their look-ups are in flight.
    let logged = nginx.wait_for_access_lines(1 + 2 * CLIENTS);
    assert!(logged[1..].iter().all(|status| status == "499"), "{logged:?}");
    assert_eq!(gate.waiting(), 2 * CLIENTS);

    gate.open();
    authgear.wait_for_no_connections();
    // Some earlier connections may have been closing still.
    assert!(eventually(DEADLINE, || open_files() <= before), "{} of {before}", open_files());
    assert_identity(&request.send(), &identity);
    assert_eq!((backend.hits(), nginx.workers()), (2, vec![worker]));
}

#[test]
fn a_reset_stream_does_not_disturb_the_other_streams() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    let nginx = serving(&authgear, &backend);
    authgear.inject(Fault::Gate(gate.clone()));
    let h2 = H2::open(&nginx.addr2());
    let (one, one_identity) = with_token(&nginx, &authgear, 1);
    let (other, _) = with_token(&nginx, &authgear, 2);
    let (staying, leaving) = (h2.start(&one), h2.start(&other));
    gate.wait_for_waiters(2);
    drop(leaving);
    let logged = nginx.wait_for_access_lines(1);
    assert!(logged[0].ends_with("499 0"), "{logged:?}");
    gate.open();
    assert_identity(&staying.wait(), &one_identity);
    assert_eq!(backend.hits(), 1);
}

#[test]
fn tls_clients_can_wait_and_disconnect_like_plain_ones() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    let ca = Ca::new();
    let certificate = ca.leaf(&["site.test"]);
    let nginx = site(&authgear, &backend)
        .listen_options("ssl")
        .log_format("$status")
        .file("cert.pem", certificate.cert_pem)
        .file("key.pem", certificate.key_pem)
        .server("ssl_certificate cert.pem; ssl_certificate_key key.pem;")
        .server(PROTECTED)
        .start();
    authgear.inject(Fault::Gate(gate.clone()));
    let with_tls = |n| {
        let (request, identity) = with_token(&nginx, &authgear, n);
        (request.tls(&ca, "site.test").method("POST").body("body"), identity)
    };
    let (staying, identity) = with_tls(1);
    let (staying, leaving) = (staying.start(), with_tls(2).0.start());
    gate.wait_for_waiters(2);
    leaving.leave();
    assert_eq!(nginx.wait_for_access_lines(1), ["499"]);
    gate.open();
    assert_identity(&staying.wait(), &identity);
    assert_eq!(backend.hits(), 1);
}

#[test]
fn a_worker_without_free_connections_recovers() {
    const CLIENTS: usize = 16;
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    // One worker, because connections are limited per worker.
    let nginx = site(&authgear, &backend)
        .workers(1)
        .events("worker_connections 24;")
        .http(project("p", &authgear, "max_fails 0;"))
        .server("location / { authgear p; proxy_pass http://%%BACKEND%%; }")
        .allow_log("worker_connections are not enough")
        .start();
    authgear.inject(Fault::Gate(gate.clone()));
    // Each request takes two connections while it waits, so that none is left for the last ones.
    let begun: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (request, identity) = with_token(&nginx, &authgear, n);
            (request.start(), identity)
        })
        .collect();
    nginx.wait_for_error_log("worker_connections are not enough");
    gate.open();
    let mut answered = 0;
    for (pending, identity) in begun {
        match pending.try_wait() {
            Ok(answer) if answer.status == 200 => {
                assert_identity(&answer, &identity);
                answered += 1;
            }
            Ok(answer) => assert!(matches!(answer.status, 500 | 503), "{}", answer.status),
            // nginx closes what it cannot accept.
            Err(_) => {}
        }
    }
    assert!(answered > 0);
    authgear.clear();
    let (request, identity) = with_token(&nginx, &authgear, 0);
    assert!(eventually(DEADLINE, || request.send().status == 200));
    assert_identity(&request.send(), &identity);
}

#[test]
fn pipelined_requests_of_a_disconnected_client_are_dropped() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    let nginx = serving(&authgear, &backend);
    authgear.inject(Fault::Gate(gate.clone()));
    let lines: String = (0..3).map(|n| pipelined(&authgear, n)).collect();
    let pending = get(&nginx, "/").raw(lines).start();
    gate.wait_for_waiters(1);
    pending.leave();
    let logged = nginx.wait_for_access_lines(1);
    assert!(logged[0].contains(" 499 "), "{logged:?}");
    gate.open();
    let (request, identity) = with_token(&nginx, &authgear, 7);
    assert_identity(&request.send(), &identity);
    assert_eq!(authgear.hits(), 2);
}

/// A request as it stands in a pipeline, with a body.
fn pipelined(authgear: &FakeAuthgear, n: usize) -> String {
    let token = authgear.opaque_token(&user(n));
    format!(
        "POST /{n} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\
         Content-Length: 5\r\n\r\nbody{n}"
    )
}

#[test]
fn pipelined_requests_are_answered_in_order_with_their_own_identity() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = serving(&authgear, &backend);
    for held_back in [false, true] {
        let gate = Gate::new();
        if held_back {
            authgear.inject_next(1, Fault::Gate(gate.clone()));
        }
        let lines: String = (0..5).map(|n| pipelined(&authgear, n)).collect();
        let mut connection = Connection::open(&nginx);
        connection.write(lines.as_bytes());
        if held_back {
            gate.wait_for_waiters(1);
            gate.open();
        }
        for n in 0..5 {
            let answer = connection.read_response("POST");
            assert_eq!(answer.echo().target, format!("/{n}"));
            assert_eq!(answer.echo().body_len, 5);
            assert_identity(&answer, &identity_of(&user(n)));
        }
    }
}

#[test]
fn requests_of_different_users_on_one_connection_keep_their_identities() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = serving(&authgear, &backend);
    let ended = authgear.session(&user(0));
    authgear.expire(&ended);
    let invalid = vec![("x-authgear-session-valid".to_owned(), "false".to_owned())];
    let mut kept = Connection::open(&nginx);
    for n in 0..20 {
        let session = authgear.session(&user(n));
        for (request, identity) in [
            with_token(&nginx, &authgear, n),
            (get(&nginx, "/"), Pairs::new()),
            (get(&nginx, "/").cookie("session", &session), identity_of(&user(n))),
            (get(&nginx, "/").bearer("nobody's"), Pairs::new()),
            (get(&nginx, "/").cookie("session", &ended), invalid.clone()),
            (get(&nginx, "/").header("Authorization", "Basic eDp5"), Pairs::new()),
        ] {
            assert_identity(&kept.send(&request), &identity);
        }
        // After a denial whose body is not read, the next request is answered too.
        authgear.inject_next(1, Fault::Status(500));
        let (request, _) = with_token(&nginx, &authgear, n);
        assert_eq!(kept.send(&request.method("POST").body("body")).status, 503);
    }
}

#[test]
fn more_requests_than_connections_are_answered_whether_or_not_clients_leave() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = serving(&authgear, &backend);
    let known: Vec<Known> = (0..10).map(|n| with_token(&nginx, &authgear, n)).collect();
    thread::scope(|scope| {
        for thread in 0..8 {
            let (known, nginx) = (&known, &nginx);
            scope.spawn(move || {
                for n in 0..30 {
                    let (request, identity) = &known[(thread + n) % known.len()];
                    request.send_and_leave();
                    let h2 = H2::open(&nginx.addr2());
                    let leaving = h2.start(request);
                    assert_identity(&h2.send(request), identity);
                    drop(leaving);
                    assert_identity(&request.send(), identity);
                }
            });
        }
    });
}

#[test]
fn streams_of_one_connection_carry_their_own_identities() {
    const STREAMS: usize = 100;
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    let nginx = serving(&authgear, &backend);
    authgear.inject(Fault::Gate(gate.clone()));
    let h2 = H2::open(&nginx.addr2());
    // As many simultaneous look-ups as connections by default, and more that wait for one.
    let begun: Vec<_> = (0..STREAMS)
        .map(|n| {
            let (request, identity) = with_token(&nginx, &authgear, n);
            (h2.start(&request), identity)
        })
        .collect();
    gate.wait_for_waiters(64);
    gate.open();
    for (pending, identity) in begun {
        assert_identity(&pending.wait(), &identity);
    }
    assert_eq!(authgear.hits(), STREAMS);
}

#[test]
fn a_thousand_requests_of_fifty_users_get_their_own_identities() {
    const USERS: usize = 50;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    // Log little, so that many requests are in flight.
    let nginx = site(&authgear, &backend).error_level("info").server(PROTECTED).start();
    let known: Vec<Known> = (0..USERS).map(|n| with_token(&nginx, &authgear, n)).collect();
    thread::scope(|scope| {
        for thread in 0..16 {
            let (known, nginx) = (&known, &nginx);
            scope.spawn(move || {
                let mut kept = Connection::open(nginx);
                // Each thread uses another order: 7 and 50 have no common divisor.
                for n in 0..64 {
                    let (request, identity) = &known[(thread * 3 + n * 7) % USERS];
                    assert_identity(&kept.send(request), identity);
                }
            });
        }
    });
    assert_eq!(backend.hits(), 1024);
}
