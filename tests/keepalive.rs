//! Connections to the resolver: reuse, closing, and limits.
//!
//! One worker each, because every worker has its own connections.

use std::time::{Duration, Instant};

use support::{
    eventually, get, Backend, Builder, FakeAuthgear, Fault, Gate, Nginx, Response, User, DEADLINE,
};

use crate::project::{project_site, verdict};

const VALID: &str = "valid ok resolver";

/// Passes everything to the backend, with a project of these settings.
fn one_worker(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    project_site(authgear, backend, settings)
        .workers(1)
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
}

/// A token for a user of that name, for look-ups that must not be joined.
fn token(authgear: &FakeAuthgear, user: &str) -> String {
    authgear.opaque_token(&User::named(user))
}

#[track_caller]
fn assert_user(answer: &Response, user: &str) {
    assert_eq!((answer.status, verdict(answer).as_str()), (200, VALID));
    assert_eq!(answer.echo().header("x-authgear-user-id"), Some(user));
}

/// A look-up with a fresh token, so that the resolver is asked.
#[track_caller]
fn ask(nginx: &Nginx, authgear: &FakeAuthgear) -> Response {
    let token = token(authgear, "alice");
    get(nginx, "/").bearer(&token).send()
}

/// The connection number of each request.
fn connections(authgear: &FakeAuthgear) -> Vec<u64> {
    authgear.requests().iter().map(|asked| asked.connection).collect()
}

/// Makes `n` simultaneous look-ups, each over its own connection.
#[track_caller]
fn ask_at_once(nginx: &Nginx, authgear: &FakeAuthgear, n: usize) {
    let gate = Gate::new();
    authgear.inject_next(n, Fault::Gate(gate.clone()));
    let tokens: Vec<_> = (0..n).map(|_| token(authgear, "alice")).collect();
    let pending: Vec<_> =
        tokens.iter().map(|token| get(nginx, "/").bearer(token).start()).collect();
    gate.wait_for_waiters(n);
    gate.open();
    pending.into_iter().for_each(|pending| assert_user(&pending.wait(), "alice"));
}

#[track_caller]
fn wait_for_open(authgear: &FakeAuthgear, n: usize) {
    let reached = eventually(DEADLINE, || authgear.connections_open() == n);
    assert!(reached, "{} connections are open, not {n}", authgear.connections_open());
}

#[test]
fn connections_to_the_resolver_are_reused() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "").start();
    for _ in 0..10 {
        assert_user(&ask(&nginx, &authgear), "alice");
    }
    assert_eq!(connections(&authgear), [1; 10]);
    ask_at_once(&nginx, &authgear, 3);
    assert_eq!(authgear.connections_opened(), 3);
    ask_at_once(&nginx, &authgear, 3);
    assert_eq!(authgear.connections_opened(), 3);
}

#[test]
fn keepalive_limits_the_idle_connections() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "keepalive 2;").start();
    ask_at_once(&nginx, &authgear, 5);
    assert_eq!(authgear.connections_opened(), 5);
    wait_for_open(&authgear, 2);
    ask_at_once(&nginx, &authgear, 2);
    assert_eq!(authgear.connections_opened(), 5);

    let none = one_worker(&authgear, &backend, "keepalive 0;").start();
    let before = authgear.connections_opened();
    for n in 1..=3 {
        assert_user(&ask(&none, &authgear), "alice");
        assert_eq!(authgear.connections_opened(), before + n);
    }
    wait_for_open(&authgear, 2);
}

#[test]
fn idle_connections_are_closed_after_keepalive_timeout() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "keepalive_timeout 200ms;").start();
    for opened in 1..=2 {
        let started = Instant::now();
        assert_user(&ask(&nginx, &authgear), "alice");
        authgear.wait_for_no_connections();
        assert!(started.elapsed() >= Duration::from_millis(200));
        assert_eq!(authgear.connections_opened(), opened);
    }
    ask_at_once(&nginx, &authgear, 3);
    authgear.wait_for_no_connections();
    // A worker that quits closes idle connections before their timeout.
    let lasting = one_worker(&authgear, &backend, "keepalive_timeout 1d;").start();
    ask_at_once(&lasting, &authgear, 2);
    assert_eq!(authgear.connections_open(), 2);
    lasting.stop();
    authgear.wait_for_no_connections();
}

#[test]
fn a_connection_closed_while_idle_is_retried_and_not_a_failure() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "").error_level("info").start();
    let mut hits = 0;
    type Kill = fn(&FakeAuthgear);
    let rows: [(&str, usize, Kill); 4] = [
        ("closed while idle", 0, |authgear| authgear.close_idle_connections()),
        ("closed when used again", 1, |authgear| authgear.close_on_next_reuse()),
        ("closed without an answer", 1, |authgear| authgear.inject_next(1, Fault::CloseAtOnce)),
        ("reset without an answer", 1, |authgear| authgear.inject_next(1, Fault::Reset)),
    ];
    for (what, lost, kill) in rows {
        assert_user(&ask(&nginx, &authgear), "alice");
        let opened = authgear.connections_opened();
        kill(&authgear);
        assert_user(&ask(&nginx, &authgear), "alice");
        hits += 2 + lost;
        assert_eq!((authgear.hits(), authgear.connections_opened()), (hits, opened + 1), "{what}");
    }
    // If several connections died, the second attempt uses a new one.
    ask_at_once(&nginx, &authgear, 4);
    let addr = authgear.addr();
    authgear.stop();
    authgear.restart_on(addr);
    assert_user(&ask(&nginx, &authgear), "alice");
    let log = nginx.error_log();
    let troubles: Vec<_> = log.lines().filter(|line| line.contains("[error]")).collect();
    assert!(troubles.is_empty(), "{troubles:?}");
}

#[test]
fn only_reused_connections_are_retried() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "max_fails 0; timeout 2s;").start();
    let mut hits = 0;
    let mut fails = |what: &str, faults: &[Fault], asked: usize| {
        faults.iter().for_each(|fault| authgear.inject_next(1, fault.clone()));
        let answer = ask(&nginx, &authgear);
        hits += asked;
        assert_eq!(verdict(&answer), "error connection_closed resolver", "{what}");
        assert_eq!((answer.status, authgear.hits()), (503, hits), "{what}");
    };
    // The first connection is new, and so is one that follows a failure.
    fails("a new one that closes", &[Fault::CloseAtOnce], 1);
    fails("a new one that resets", &[Fault::Reset], 1);
    fails("a new one that breaks off", &[Fault::CloseAfter(20)], 1);
    for (what, faults, asked) in [
        ("two that close", &[Fault::CloseAtOnce, Fault::CloseAtOnce][..], 2),
        ("one that breaks off after a byte", &[Fault::CloseAfter(1)], 1),
        ("one that breaks off in the head", &[Fault::CloseAfter(20)], 1),
        (
            "one that breaks off in the body",
            &[Fault::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1".into())],
            1,
        ),
    ] {
        // This answer leaves an idle connection.
        authgear.inject_next(1, Fault::SilentBlank);
        ask(&nginx, &authgear);
        fails(what, faults, 1 + asked);
    }
    assert_eq!(backend.hits(), 4);
}

/// An answer with this user, and then these header lines and body.
fn raw(user: &str, rest: &str) -> String {
    format!("X-Authgear-Session-Valid: true\r\nX-Authgear-User-Id: {user}\r\n{rest}")
}

#[test]
fn answer_bodies_are_read_before_the_connection_is_reused() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "max_fails 0;").start();
    let large = vec![b'x'; 50_000];
    let close = vec![
        ("X-Authgear-Session-Valid".to_owned(), "true".to_owned()),
        ("X-Authgear-User-Id".to_owned(), "alice".to_owned()),
        ("Connection".to_owned(), "close".to_owned()),
    ];
    let old = format!("HTTP/1.0 200 OK\r\n{}", raw("alice", "\r\nbody"));
    for (what, fault, expected, reused) in [
        ("chunks", Fault::Chunked(b"chunks".into()), VALID, true),
        ("many chunks' worth", Fault::Chunked(large.clone()), VALID, true),
        ("no chunks", Fault::Chunked(Vec::new()), VALID, true),
        ("a length", Fault::LengthBody(b"body".into()), VALID, true),
        ("a large length", Fault::LengthBody(large.clone()), VALID, true),
        ("no length", Fault::LengthBody(Vec::new()), VALID, true),
        ("an error's", Fault::Status(500), "error bad_status resolver", true),
        ("a large error's", Fault::StatusBody(404, large), "error bad_status resolver", true),
        ("no end", Fault::CloseDelimited(b"body".into()), VALID, false),
        ("HTTP/1.0", Fault::Raw(old.into()), VALID, false),
        ("a connection said to close", Fault::Headers(close), VALID, false),
        // A body exceeds what this status allows.
        ("one of a 204", Fault::Status(204), "error bad_status resolver", false),
    ] {
        ask(&nginx, &authgear);
        let (hits, opened) = (authgear.hits(), authgear.connections_opened());
        authgear.inject_next(1, fault);
        assert_eq!(verdict(&ask(&nginx, &authgear)), expected, "{what}");
        assert_user(&ask(&nginx, &authgear), "alice");
        assert_eq!(authgear.hits(), hits + 2, "{what}");
        let used = authgear.connections_opened() - opened;
        assert_eq!(used, u64::from(!reused), "{what}");
    }
}

#[test]
fn bytes_after_an_answer_are_never_used_for_another_request() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "").start();
    // A second answer follows the first in the same write, over a connection that stays open.
    let second = format!("HTTP/1.1 200 OK\r\n{}", raw("mallory", "Content-Length: 0"));
    let smuggled = vec![
        ("X-Authgear-Session-Valid".to_owned(), "true".to_owned()),
        ("X-Authgear-User-Id".to_owned(), "alice".to_owned()),
        ("Content-Length".to_owned(), format!("0\r\n\r\n{second}")),
    ];
    for _ in 0..5 {
        authgear.inject_next(1, Fault::Headers(smuggled.clone()));
        assert_user(&ask(&nginx, &authgear), "alice");
        let bob = token(&authgear, "bob");
        assert_user(&get(&nginx, "/").bearer(&bob).send(), "bob");
    }
}

#[test]
fn answers_above_the_size_limit_fail() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let endless = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n".to_owned();
    for (settings, least, most) in [
        ("", 60_000, 70_000),
        ("max_response_size 8k;", 6_000, 9_000),
        ("max_response_size 1m;", 1_000_000, 1_050_000),
    ] {
        let settings = format!("max_fails 0; {settings}");
        let nginx = one_worker(&authgear, &backend, &settings).start();
        let large = "error answer_too_large resolver";
        for (what, fault, expected) in [
            ("a body", Fault::LengthBody(vec![b'x'; least]), VALID),
            ("a head", Fault::Oversized { header: least, body: 0 }, VALID),
            ("both", Fault::Oversized { header: least / 2, body: least / 2 }, VALID),
            ("a large body", Fault::LengthBody(vec![b'x'; most]), large),
            ("large chunks", Fault::Chunked(vec![b'x'; most]), large),
            ("a large head", Fault::Oversized { header: most, body: 0 }, large),
            ("large together", Fault::Oversized { header: most / 2, body: most / 2 }, large),
            ("no end", Fault::CloseDelimited(vec![b'x'; most]), large),
            ("a large error", Fault::StatusBody(500, vec![b'x'; most]), large),
            ("endless", Fault::Raw([endless.as_bytes(), &vec![b'x'; most]].concat()), large),
        ] {
            authgear.inject_next(1, fault);
            assert_eq!(verdict(&ask(&nginx, &authgear)), expected, "{what}, {settings}");
            assert_eq!(verdict(&ask(&nginx, &authgear)), VALID, "after {what}, {settings}");
        }
    }
}

#[test]
fn look_ups_beyond_max_connections_wait() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "max_connections 2;").start();
    let gates = [Gate::new(), Gate::new()];
    let first_two = gates.clone().map(|gate| {
        authgear.inject_next(1, Fault::Gate(gate.clone()));
        let pending = get(&nginx, "/").bearer(&token(&authgear, "alice")).start();
        gate.wait_for_waiters(1);
        pending
    });
    let bobs = ["bob", "bob"].map(|user| get(&nginx, "/").bearer(&token(&authgear, user)).start());
    let [gate, other_gate] = gates;
    gate.open();
    bobs.into_iter().for_each(|pending| assert_user(&pending.wait(), "bob"));
    // They waited for the first connection: there never was a third.
    let used = connections(&authgear);
    assert_eq!((used.len(), authgear.connections_opened()), (4, 2));
    assert_eq!((used[2], used[3]), (used[0], used[0]));
    other_gate.open();
    first_two.into_iter().for_each(|pending| assert_user(&pending.wait(), "alice"));
}

#[test]
fn a_look_up_that_gets_no_connection_in_time_is_refused_before_its_deadline() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let settings = "max_connections 1; timeout 1s; max_fails 0;";
    let nginx = one_worker(&authgear, &backend, settings).start();
    authgear.inject(Fault::Hang);
    let first = get(&nginx, "/").bearer("first").start();
    authgear.wait_for_hits(1);
    let started = Instant::now();
    let second = get(&nginx, "/").bearer("second").start();
    for (pending, expected) in
        [(second, "error resolver_overloaded none"), (first, "error timeout resolver")]
    {
        let answer = pending.wait();
        assert_eq!((answer.status, verdict(&answer).as_str()), (503, expected));
    }
    assert!(started.elapsed() < Duration::from_millis(1700), "{:?}", started.elapsed());
    authgear.clear();
    assert_user(&ask(&nginx, &authgear), "alice");
}
