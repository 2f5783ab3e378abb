//! Row 5: invented credentials do not drive verdicts of sessions out of the cache.

use support::{
    closed_loop, get, Backend, Builder, FakeAuthgear, Fault, Gate, Nginx, Request, User, H2,
};

use super::crowded;
use crate::project::project;

/// Two thirds of what a zone of 256 KiB has room for, of 262 bytes each.
const SESSIONS: usize = 500;

/// The workers' own caches are as good as none: the zone is what is tested.
fn cached(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    crowded(authgear, backend)
        .http("authgear_cache_zone z:256k front=1;")
        .http(project("p", authgear, "max_fails 0;"))
        .server(
            "authgear p; authgear_cache z; authgear_cache_valid valid=1h;
             location / { empty_gif; }",
        )
}

/// Requests of sessions, each of which was served from the cache.
#[track_caller]
fn warm(authgear: &FakeAuthgear, nginx: &Nginx) -> Vec<Request> {
    let requests: Vec<_> = (0..SESSIONS)
        .map(|n| authgear.opaque_token(&User::named(&format!("user-{n}"))))
        .map(|token| get(nginx, "/").bearer(&token))
        .collect();
    for _ in 0..2 {
        closed_loop(nginx, &requests, 32);
    }
    let kept = hits(nginx, &requests);
    assert_eq!(kept, SESSIONS, "the zone has no room for the sessions");
    requests
}

/// Counts the requests that the cache answers.
fn hits(nginx: &Nginx, requests: &[Request]) -> usize {
    let fared = closed_loop(nginx, requests, 32);
    fared.iter().filter(|fared| fared.header("x-cache").as_deref() == Some("HIT")).count()
}

#[track_caller]
fn assert_survived(nginx: &Nginx, sessions: &[Request]) {
    let kept = hits(nginx, sessions);
    assert!(kept * 100 >= SESSIONS * 95, "{kept} of {SESSIONS} sessions are still kept");
}

#[test]
fn a_flood_of_invented_tokens_leaves_sessions_in_the_cache() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend).start();
    let sessions = warm(&authgear, &nginx);
    let flood: Vec<_> = (0..2500).map(|n| get(&nginx, "/").bearer(&format!("bogus-{n}"))).collect();
    closed_loop(&nginx, &flood, 64);
    assert_survived(&nginx, &sessions);
}

#[test]
fn one_session_with_many_invented_tokens_leaves_the_others_in_the_cache() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend).start();
    let sessions = warm(&authgear, &nginx);
    let session = authgear.session(&User::named("mallory"));
    let request = |n| get(&nginx, "/").bearer(&format!("bogus-{n}")).cookie("session", &session);
    let flood: Vec<_> = (0..2500).map(request).collect();
    let fared = closed_loop(&nginx, &flood, 64);
    assert!(fared.iter().all(|fared| fared.header("x-session").as_deref() == Some("valid")));
    assert_survived(&nginx, &sessions);
}

#[test]
fn lookups_that_are_not_answered_displace_no_verdict() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend).start();
    let sessions = warm(&authgear, &nginx);
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let connection = H2::open(&nginx);
    let request = |n| get(&nginx, "/").bearer(&format!("bogus-{n}"));
    let pending: Vec<_> = (0..1000).map(|n| connection.start(&request(n))).collect();
    gate.wait_for_waiters(1);
    // Frames of one connection are read in order: then all look-ups have begun.
    assert_eq!(connection.send(&get(&nginx, "/")).status, 200);
    let kept = {
        let asked: Vec<_> = sessions.iter().map(|request| connection.start(request)).collect();
        // A look-up that is not in the cache waits at the gate.
        gate.open();
        let answers = asked.into_iter().filter_map(|asked| asked.try_wait().ok());
        answers.filter(|answer| answer.header("x-cache").as_deref() == Some("HIT")).count()
    };
    drop(pending);
    assert!(kept * 100 >= SESSIONS * 95, "{kept} of {SESSIONS} sessions are still kept");
}
