//! `max_fails` and `fail_timeout`: a failing resolver is not asked for a while, and is used again
//! once it works.
//!
//! Each nginx has one worker, because every worker counts failures on its own.

use std::time::{Duration, Instant};

use support::{
    eventually, get, Backend, Builder, FakeAuthgear, Fault, Gate, Nginx, RefusedAddr, Request,
    User, DEADLINE,
};

use crate::project::{project, project_at, project_site, verdict, TELLING};
use crate::site::site;

const VALID: &str = "valid ok resolver";
// No resolver was asked.
const SUSPENDED: &str = "error resolver_suspended none";
const CLOSED: &str = "error connection_closed resolver";

fn one_worker(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    project_site(authgear, backend, settings)
        .workers(1)
        .server("location / { authgear p; proxy_pass http://%%BACKEND%%; }")
}

/// A request with a fresh token, so that it makes its own look-up.
fn request(nginx: &Nginx, authgear: &FakeAuthgear, path: &str) -> Request {
    get(nginx, path).bearer(&authgear.opaque_token(&User::named("alice")))
}

#[track_caller]
fn reported(nginx: &Nginx, authgear: &FakeAuthgear, path: &str) -> String {
    verdict(&request(nginx, authgear, path).send())
}

#[test]
fn the_resolver_is_not_asked_after_max_fails_failures() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "max_fails 3; fail_timeout 1d;")
        .server(
            "location /open {
               authgear p;
               authgear_on_error anonymous;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    authgear.inject(Fault::CloseAtOnce);
    for _ in 0..3 {
        assert_eq!(reported(&nginx, &authgear, "/"), CLOSED);
    }
    authgear.clear();
    for _ in 0..3 {
        let denied = request(&nginx, &authgear, "/").send();
        assert_eq!((denied.status, verdict(&denied).as_str()), (503, SUSPENDED));
        // Retry-After is the time until the next probe.
        assert_eq!(denied.header("retry-after").as_deref(), Some("1"));
    }
    let open = request(&nginx, &authgear, "/open").send();
    assert_eq!((open.status, verdict(&open).as_str()), (200, SUSPENDED));
    assert_eq!(open.echo().identity(), []);
    // A request without credentials needs no look-up.
    assert_eq!(verdict(&get(&nginx, "/").send()), "none no_credentials none");
    // No more than the failures, and the first probes.
    assert!(authgear.hits() <= 5, "{} look-ups", authgear.hits());
}

#[test]
fn only_failures_of_the_resolver_count_towards_max_fails() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let refused = RefusedAddr::bind();
    let settings = "max_fails 2; fail_timeout 1d; max_response_size 8k;";
    let faults = [
        (true, Fault::CloseAtOnce),
        (true, Fault::Reset),
        (true, Fault::CloseAfter(20)),
        (true, Fault::Hang),
        (true, Fault::HangAfter(20)),
        (true, Fault::Raw(b"garbage\r\n\r\n".into())),
        (true, Fault::Status(502)),
        (true, Fault::Status(503)),
        (true, Fault::Status(504)),
        // A 500 may concern one session only, and a bad request one client only.
        (false, Fault::Status(500)),
        (false, Fault::Status(400)),
        (false, Fault::Status(401)),
        (false, Fault::Status(403)),
        (false, Fault::Status(404)),
        (false, Fault::Status(405)),
        (false, Fault::Status(429)),
        (false, Fault::Redirect(302, "/".into())),
        (false, Fault::SilentBlank),
    ];
    let mut builder = site(&authgear, &backend)
        .workers(1)
        .server(TELLING)
        .http(project_at("refused", &authgear, &format!("http://{}", refused.addr()), settings))
        .server("location /refused { authgear refused; proxy_pass http://%%BACKEND%%; }");
    for n in 0..faults.len() {
        let settings =
            format!("{settings} timeout {};", if n == 3 || n == 4 { "200ms" } else { "5s" });
        builder = builder
            .http(project(&format!("p{n}"), &authgear, &settings))
            .server(format!("location = /{n} {{ authgear p{n}; proxy_pass http://%%BACKEND%%; }}"));
    }
    let nginx = builder.start();
    for (n, (counts, fault)) in faults.into_iter().enumerate() {
        let (path, what) = (format!("/{n}"), format!("row {n}"));
        authgear.inject_next(2, fault);
        for _ in 0..2 {
            assert!(!reported(&nginx, &authgear, &path).contains("suspended"), "{what}");
        }
        let hits = authgear.hits();
        let expected = if counts { SUSPENDED } else { VALID };
        assert_eq!(reported(&nginx, &authgear, &path), expected, "{what}");
        if counts {
            // Its probe must not be counted among the look-ups of the next rows.
            assert!(eventually(DEADLINE, || reported(&nginx, &authgear, &path) == VALID), "{what}");
        } else {
            assert_eq!(authgear.hits(), hits + 1, "{what}");
        }
    }
    for expected in ["error connect_error resolver", "error connect_error resolver", SUSPENDED] {
        assert_eq!(reported(&nginx, &authgear, "/refused"), expected);
    }
}

#[test]
fn only_consecutive_failures_count_towards_max_fails() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "max_fails 2; fail_timeout 1d;").start();
    for _ in 0..3 {
        authgear.inject_next(1, Fault::CloseAtOnce);
        // Only on a new connection is this a failure: a reused one that dies is retried.
        authgear.close_idle_connections();
        assert_eq!(reported(&nginx, &authgear, "/"), CLOSED);
        assert_eq!(reported(&nginx, &authgear, "/"), VALID);
    }
    let never = one_worker(&authgear, &backend, "max_fails 0;").start();
    authgear.inject(Fault::CloseAtOnce);
    for _ in 0..10 {
        assert_eq!(reported(&never, &authgear, "/"), CLOSED);
    }
}

#[test]
fn one_probe_at_a_time_is_made_and_its_success_resumes_all_look_ups() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let settings = "max_fails 2; fail_timeout 300ms; timeout 10s;";
    let nginx = one_worker(&authgear, &backend, settings).start();
    let gate = Gate::new();
    authgear.inject_next(2, Fault::CloseAtOnce);
    authgear.inject(Fault::Gate(gate.clone()));
    for _ in 0..2 {
        assert_eq!(reported(&nginx, &authgear, "/"), CLOSED);
    }
    assert!(eventually(DEADLINE, || gate.waiting() > 0));
    for _ in 0..3 {
        assert_eq!(reported(&nginx, &authgear, "/"), SUSPENDED);
    }
    assert_eq!((gate.waiting(), authgear.hits()), (1, 3));
    gate.open();
    assert!(eventually(DEADLINE, || reported(&nginx, &authgear, "/") == VALID));
    for _ in 0..3 {
        assert_eq!(reported(&nginx, &authgear, "/"), VALID);
    }
}

#[test]
fn a_failed_probe_suspends_the_resolver_again() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "max_fails 1; fail_timeout 200ms;").start();
    authgear.inject(Fault::CloseAtOnce);
    let start = Instant::now();
    // The first look-up and three probes.
    let probed = eventually(DEADLINE, || {
        let reported = reported(&nginx, &authgear, "/");
        assert!(reported == CLOSED || reported == SUSPENDED, "{reported}");
        authgear.hits() == 4
    });
    assert!(probed);
    // nginx's clock ticks once per turn of its loop, so allow it some milliseconds.
    assert!(start.elapsed() >= Duration::from_millis(3 * 200 - 50), "{:?}", start.elapsed());
    authgear.clear();
    assert!(eventually(DEADLINE, || reported(&nginx, &authgear, "/") == VALID));
    assert_eq!(reported(&nginx, &authgear, "/"), VALID);
}

#[test]
fn a_timeout_while_waiting_for_a_connection_is_not_counted_as_a_failure() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let settings = "max_connections 1; max_fails 2; fail_timeout 1d; timeout 2s;";
    let nginx = one_worker(&authgear, &backend, settings).start();
    authgear.inject(Fault::Hang);
    // One look-up has the connection for its whole time; the others are refused before.
    let first = request(&nginx, &authgear, "/").start();
    authgear.wait_for_hits(1);
    let pending: Vec<_> = (0..3).map(|_| request(&nginx, &authgear, "/").start()).collect();
    for pending in pending {
        assert_eq!(verdict(&pending.wait()), "error resolver_overloaded none");
    }
    assert_eq!(verdict(&first.wait()), "error timeout resolver");
    authgear.clear();
    assert_eq!(request(&nginx, &authgear, "/").send().status, 200);
}
