//! Row 13: Authgear's own faults, which are 500 or slow, last no longer here than there.

use std::time::{Duration, Instant};

use support::{
    eventually, get, Backend, Builder, Connection, FakeAuthgear, Fault, Gate, Nginx, Request,
    Response, User, DEADLINE,
};

use super::{from, invented_session, TELLING};
use crate::project::project;
use crate::site::site;

fn suspending(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    site(authgear, backend)
        .workers(1)
        .http("set_real_ip_from 127.0.0.1; real_ip_header X-Real-IP; authgear_cache_zone z:1m;")
        .http(project("p", authgear, settings))
        .server(TELLING)
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
}

#[track_caller]
fn reason(answer: &Response) -> String {
    answer.header("x-reason").unwrap_or_else(|| panic!("{} tells no reason", answer.status))
}

/// The reasons of ten look-ups, of which each has the address and the session of its number.
fn reasons(
    nginx: &Nginx,
    ip: impl Fn(usize) -> usize,
    session: impl Fn(usize) -> usize,
) -> Vec<String> {
    let ask = |n| {
        let request = get(nginx, "/").cookie("session", &invented_session(session(n)));
        reason(&from(&format!("10.0.0.{}", ip(n)), request).send())
    };
    (0..10).map(ask).collect()
}

#[test]
fn internal_errors_in_a_row_over_many_clients_suspend_the_resolver() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = suspending(&authgear, &backend, "max_fails 3; fail_timeout 1d;").start();
    authgear.inject(Fault::Status(500));
    let reasons = reasons(&nginx, |n| n, |n| n);
    let suspended = reasons.iter().filter(|reason| *reason == "resolver_suspended").count();
    assert!(suspended >= 4, "{reasons:?}");
}

#[test]
fn internal_errors_of_one_client_or_one_session_suspend_nothing() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = suspending(&authgear, &backend, "max_fails 3; fail_timeout 1d;").start();
    authgear.inject(Fault::Status(500));
    assert_eq!(reasons(&nginx, |_| 1, |n| n), ["bad_status"; 10]);
    authgear.clear();
    assert_eq!(reasons(&nginx, |_| 1, |n| n)[0], "session_invalid");
    authgear.inject(Fault::Status(500));
    assert_eq!(reasons(&nginx, |n| n, |_| 1), ["bad_status"; 10]);
    // Two, and then an answer.
    authgear.clear();
    for _ in 0..4 {
        authgear.inject_next(2, Fault::Status(500));
        let reasons = reasons(&nginx, |n| n, |n| n);
        assert_eq!(reasons[..2], ["bad_status"; 2]);
        assert_eq!(reasons[2..], ["session_invalid"; 8]);
    }
}

/// A session of Alice's that is kept for a moment, and bridged for long.
fn kept(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> (Nginx, Request) {
    let nginx = suspending(authgear, backend, settings)
        .server(
            "location /kept {
               authgear_cache z;
               authgear_cache_valid valid=50ms invalid=1h;
               authgear_cache_use_stale error=1h;
               proxy_pass http://%%BACKEND%%;
             }
             location = /purge { authgear off; allow all; authgear_purge admin; }",
        )
        .start();
    let request = get(&nginx, "/kept").bearer(&authgear.opaque_token(&User::named("alice")));
    assert_eq!(told(&request.send()), "valid MISS");
    (nginx, request)
}

/// `$authgear_session` and `$authgear_cache_status`.
#[track_caller]
fn told(answer: &Response) -> String {
    let header = |name| answer.header(name).unwrap_or_else(|| "-".to_owned());
    format!("{} {}", header("x-session"), header("x-cache"))
}

#[track_caller]
fn until_told(request: &Request, expected: &str) {
    let mut last = String::new();
    let found = eventually(DEADLINE, || {
        last = told(&request.send());
        last == expected
    });
    assert!(found, "{expected:?} expected, last told {last:?}");
}

#[test]
fn after_a_refresh_that_failed_the_stale_verdict_is_served_at_once() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (_nginx, request) = kept(&authgear, &backend, "max_fails 0;");
    authgear.inject(Fault::Status(500));
    until_told(&request, "valid STALE");
    // A second after the failure a refresh is due again.
    let mut counted = Vec::new();
    for _ in 0..5 {
        let (begin, hits) = (Instant::now(), authgear.hits());
        for _ in 0..8 {
            assert_eq!(told(&request.send()), "valid STALE");
        }
        if begin.elapsed() < Duration::from_millis(500) {
            counted.push(authgear.hits() - hits);
        }
    }
    assert!(counted.iter().all(|hits| *hits <= 1), "look-ups of 8 requests each: {counted:?}");
}

#[test]
fn a_slow_refresh_goes_on_behind_a_stale_answer() {
    const TIMEOUT: Duration = Duration::from_secs(4);
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (nginx, request) = kept(&authgear, &backend, "max_fails 0; timeout 4s;");
    let gate = Gate::new();
    authgear.disable("alice");
    authgear.inject(Fault::Gate(gate.clone()));
    let begin = Instant::now();
    until_told(&request, "valid STALE");
    assert!(begin.elapsed() < TIMEOUT / 2, "waited {:?}", begin.elapsed());
    assert_eq!(gate.waiting(), 1, "the refresh goes on");
    // Nobody else waits a tenth of the timeout for it.
    let begin = Instant::now();
    for _ in 0..10 {
        assert_eq!(told(&request.send()), "valid STALE");
    }
    assert!(begin.elapsed() < TIMEOUT / 2, "ten waited {:?}", begin.elapsed());
    gate.open();
    until_told(&request, "invalid HIT");
    assert_eq!(authgear.hits(), 2);
    drop(nginx);
}

#[test]
fn a_user_who_was_purged_waits_for_a_slow_refresh() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (nginx, request) = kept(&authgear, &backend, "max_fails 0; timeout 4s;");
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    until_told(&request, "valid STALE");
    assert_eq!(gate.waiting(), 1, "the refresh goes on");
    let purge = get(&nginx, "/purge?user=alice").method("POST").send();
    assert_eq!(purge.status, 204);
    authgear.disable("alice");
    let pending = request.start();
    // The look-up from before the purge is made once more, for the request that waits.
    let mut watcher = Connection::open(&nginx);
    assert_eq!(watcher.send(&get(&nginx, "/")).status, 200);
    gate.open();
    assert_eq!(told(&pending.wait()), "invalid JOINED");
}

/// Makes the first look-up fail, which suspends the resolver.
#[track_caller]
fn suspend(nginx: &Nginx, authgear: &FakeAuthgear) -> Request {
    let request = get(nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    authgear.inject(Fault::CloseAtOnce);
    assert_eq!(reason(&request.send()), "connection_closed");
    assert_eq!(reason(&request.send()), "resolver_suspended");
    request
}

#[test]
fn a_suspended_resolver_is_probed_without_any_client() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = suspending(&authgear, &backend, "max_fails 1; fail_timeout 1h;").start();
    let request = suspend(&nginx, &authgear);
    // The first probes come after 0.25 s and 0.5 s more.
    let probed = eventually(Duration::from_secs(3), || authgear.hits() >= 3);
    assert!(probed, "{} look-ups", authgear.hits());
    // Each has the credentials of the question that failed.
    let asked = authgear.requests();
    let authorization = request.header_value("Authorization");
    for probe in &asked {
        assert_eq!(probe.header("authorization"), authorization, "{probe:?}");
    }
    authgear.clear();
    let begin = Instant::now();
    let valid = eventually(Duration::from_secs(3), || reason(&request.send()) == "ok");
    assert!(valid, "still suspended after {:?}", begin.elapsed());
}

#[test]
fn fail_timeout_is_the_longest_pause_between_probes() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = suspending(&authgear, &backend, "max_fails 1; fail_timeout 200ms;").start();
    let _request = suspend(&nginx, &authgear);
    // Ten probes take 2 s; with pauses of a second they would take 8.75 s.
    let probed = eventually(Duration::from_secs(5), || authgear.hits() > 10);
    assert!(probed, "{} look-ups", authgear.hits());
}

#[test]
fn a_probe_that_succeeds_ends_the_suspension_in_all_workers() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = suspending(&authgear, &backend, "max_fails 1; fail_timeout 1h;")
        .workers(4)
        .server("location = /worker { authgear off; return 200 $pid; }")
        .start();
    let request = get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    let mut workers = crate::cache_workers::connections(&nginx);
    authgear.inject(Fault::CloseAtOnce);
    for (_, [connection, _]) in &mut workers {
        let told = reason(&connection.send(&request));
        assert!(["connection_closed", "resolver_suspended"].contains(&told.as_str()), "{told}");
    }
    authgear.clear();
    let hits = authgear.hits();
    assert!(eventually(Duration::from_secs(3), || authgear.hits() > hits), "no probe");
    let mut last = Vec::new();
    let ended = eventually(Duration::from_secs(3), || {
        last = workers.iter_mut().map(|(_, [open, _])| reason(&open.send(&request))).collect();
        last.iter().all(|reason| reason == "ok")
    });
    assert!(ended, "{last:?}");
}

#[test]
fn one_probe_waits_at_a_time() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let settings = "max_fails 1; fail_timeout 100ms; timeout 9s;";
    let nginx = suspending(&authgear, &backend, settings).start();
    let request = suspend(&nginx, &authgear);
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    gate.wait_for_waiters(1);
    for _ in 0..20 {
        assert_eq!(reason(&request.send()), "resolver_suspended");
    }
    assert_eq!(gate.waiting(), 1);
}
