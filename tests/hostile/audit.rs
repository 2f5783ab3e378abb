//! Faults that a second audit found, after the rows of the first were mended.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use support::{
    eventually, get, Backend, Builder, FakeAuthgear, Fault, H2Frames, HeaderBlock, Nginx, Request,
    User, DEADLINE,
};

use super::{crowded, from, invented_session, TELLING};
use crate::project::project;
use crate::site::site;

const HOSTILE: &str = "10.0.0.9";

fn protected(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    crowded(authgear, backend)
        .http("authgear_cache_zone z:1m;")
        .http(project("p", authgear, settings))
        .server("location / { authgear p; authgear_cache z; empty_gif; }")
}

fn reason(request: &Request) -> String {
    request.send_h2().header("x-reason").unwrap_or_default()
}

/// A request of a session that nginx has not seen.
fn fresh(nginx: &Nginx, authgear: &FakeAuthgear) -> Request {
    get(nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")))
}

/// Sends look-ups of tokens that nobody knows. Each is reset at once if `resets`.
fn flood(connection: &mut H2Frames, tokens: impl Iterator<Item = usize>, resets: bool) {
    for n in tokens {
        let token = format!("Bearer bogus-{n:026}");
        let block = HeaderBlock::get("/")
            .literal("authorization", token.as_bytes())
            .literal("x-real-ip", HOSTILE.as_bytes());
        let stream = connection.request(&block);
        if resets {
            connection.reset(stream);
        }
    }
    connection.flush_and_ping();
}

#[test]
fn a_look_up_that_always_fails_does_not_stay_the_probe() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = protected(&authgear, &backend, "max_fails 3; fail_timeout 1s;").start();
    authgear.inject_for("poison", Fault::CloseAtOnce);
    for n in 0..3 {
        from(HOSTILE, get(&nginx, "/").bearer(&format!("poison-{n}"))).send_h2();
    }
    assert_eq!(reason(&fresh(&nginx, &authgear)), "resolver_suspended");
    let recovered = eventually(DEADLINE, || reason(&fresh(&nginx, &authgear)) == "ok");
    assert!(recovered, "the resolver answers everybody else");
}

#[test]
fn a_client_that_fills_its_queue_does_not_keep_its_ended_session() {
    let authgear = FakeAuthgear::builder().capacity(2, Duration::from_millis(100)).start();
    let backend = Backend::start();
    let nginx = protected(&authgear, &backend, "max_fails 0; max_connections 2;")
        .server("authgear_cache_valid valid=50ms invalid=1h; authgear_cache_use_stale error=1h;")
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let session = from(HOSTILE, get(&nginx, "/").bearer(&token));
    assert_eq!(session.send_h2().header("x-session").as_deref(), Some("valid"));
    authgear.disable("alice");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = H2Frames::open(&nginx);
            let mut n = 0;
            while !over.load(Ordering::SeqCst) {
                flood(&mut connection, n..n + 50, false);
                n += 50;
            }
        });
        let probe = from(HOSTILE, get(&nginx, "/").bearer("bogus"));
        let is_overloaded = eventually(DEADLINE, || reason(&probe) == "resolver_overloaded");
        let ended = eventually(DEADLINE, || {
            session.send_h2().header("x-session").is_some_and(|session| session != "valid")
        });
        over.store(true, Ordering::SeqCst);
        assert!(is_overloaded, "the queue of the client is full");
        assert!(ended, "the ended session is served from the cache");
    });
}

#[test]
fn a_look_up_whose_client_has_left_before_it_began_is_not_made() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = protected(&authgear, &backend, "max_fails 0; max_connections 512;").start();
    let mut connection = H2Frames::open(&nginx);
    for round in 0..5 {
        flood(&mut connection, round * 100..(round + 1) * 100, true);
    }
    assert_eq!(reason(&fresh(&nginx, &authgear)), "ok");
    let asked = authgear.hits();
    assert!(asked < 50, "{asked} look-ups, 500 of which nobody waited for");
}

#[test]
fn refusals_of_one_client_do_not_hide_that_the_resolver_fails() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = protected(&authgear, &backend, "max_fails 3; fail_timeout 1d;").start();
    authgear.inject(Fault::CloseAtOnce);
    authgear.inject_for("refused", Fault::Status(403));
    let mut reasons = Vec::new();
    for n in 0..5 {
        reasons.push(reason(&fresh(&nginx, &authgear)));
        from(HOSTILE, get(&nginx, "/").bearer(&format!("refused-{n}"))).send_h2();
    }
    assert_eq!(reasons[3..], ["resolver_suspended"; 2], "{reasons:?}");
}

#[test]
fn an_early_verdict_is_looked_up_again_if_a_limit_held_the_request_over_a_purge() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .workers(1)
        .error_level("notice")
        .http(
            "limit_req_zone $x_authgear_user_id zone=users:1m rate=1r/s; limit_req_log_level warn;",
        )
        .http(project("p", &authgear, "max_fails 0;"))
        .http("authgear_cache_zone z:1m;")
        .server(TELLING)
        .server(
            "location / {
               authgear p; authgear_cache z; authgear_require session; authgear_early on;
               limit_req zone=users burst=5;
               proxy_pass http://%%BACKEND%%;
             }
             location = /purge { authgear off; allow all; authgear_purge admin; }",
        )
        .start();
    let request = get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    assert_eq!(request.send().status, 200);
    let delayed = request.start();
    nginx.wait_for_error_log("delaying request");
    authgear.disable("alice");
    assert_eq!(get(&nginx, "/purge?user=alice").method("POST").send().status, 204);
    let answer = delayed.wait();
    assert_eq!((answer.status, answer.header("x-session").as_deref()), (401, Some("invalid")));
}

#[test]
fn a_confirmation_that_has_little_time_left_is_no_failure_of_the_resolver() {
    let authgear = FakeAuthgear::builder().capacity(8, Duration::from_millis(1300)).start();
    let backend = Backend::start();
    let settings = "max_fails 1; fail_timeout 1d; timeout 2s;";
    let nginx = protected(&authgear, &backend, settings).start();
    authgear.inject_next(1, Fault::SilentBlank);
    authgear.inject_next(1, Fault::Hang);
    let silent = get(&nginx, "/").cookie("session", &invented_session(1));
    assert_eq!(reason(&silent), "timeout");
    assert_eq!(authgear.hits(), 2, "the silence is confirmed");
    assert_eq!(reason(&fresh(&nginx, &authgear)), "ok");
}

#[test]
fn a_reload_with_max_fails_0_ends_a_suspension() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = protected(&authgear, &backend, "max_fails 3; fail_timeout 1d;").start();
    authgear.inject(Fault::CloseAtOnce);
    let suspended = || reason(&fresh(&nginx, &authgear)) == "resolver_suspended";
    assert!(eventually(DEADLINE, suspended));
    nginx.edit_conf(|conf| conf.replace("max_fails 3;", "max_fails 0;"));
    nginx.reload();
    let reasons: Vec<_> = (0..5).map(|_| reason(&fresh(&nginx, &authgear))).collect();
    assert!(!reasons.contains(&"resolver_suspended".to_owned()), "{reasons:?}");
}

#[test]
fn refused_look_ups_among_others_fill_no_log() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = protected(&authgear, &backend, "max_fails 0;").error_level("notice").start();
    authgear.inject_for("refused", Fault::Status(403));
    for n in 0..30 {
        from(HOSTILE, get(&nginx, "/").bearer(&format!("refused-{n}"))).send_h2();
        fresh(&nginx, &authgear).send_h2();
    }
    let log = nginx.error_log();
    let lines = |text| log.lines().filter(|line| line.contains(text)).count();
    let (failed, again) = (lines("resolver failed"), lines("answers again"));
    assert!((1..=4).contains(&failed) && again <= failed, "{failed} and {again} lines:\n{log}");
}
