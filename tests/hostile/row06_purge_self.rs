//! Row 6: neither anonymous callers nor many purges make the module forget everybody.

use support::{closed_loop, get, Backend, Builder, FakeAuthgear, Nginx, Request, User};

use super::crowded;
use crate::project::project;

/// More than the log of purges of commit 7c2fe99 had room for: 6144.
const MANY: usize = 6300;

fn purged(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    crowded(authgear, backend)
        .error_level("notice")
        .http("authgear_cache_zone z:1m;")
        .http(project("p", authgear, "max_fails 0;"))
        .server(format!("authgear p; authgear_cache z; {settings}"))
        .server(
            "location / { empty_gif; }
             location = /logout { authgear_purge self; }
             location = /purge { authgear off; allow all; authgear_purge admin; }
             location = /status { authgear off; authgear_status; }",
        )
}

/// Sends the purges, and checks that a verdict of another user is still kept.
#[track_caller]
fn assert_others_are_kept(authgear: &FakeAuthgear, nginx: &Nginx, purges: &[Request]) {
    let other = get(nginx, "/").bearer(&authgear.opaque_token(&User::named("other")));
    assert_eq!(other.send_h2().header("x-cache").as_deref(), Some("MISS"));
    let fared = closed_loop(nginx, purges, 64);
    assert!(fared.iter().all(|fared| fared.status() == 204), "{:?}", fared[0].answer);
    assert_eq!(other.send_h2().header("x-cache").as_deref(), Some("HIT"));
    assert!(!nginx.error_log().contains("everything"), "everything was purged");
}

fn self_purges(nginx: &Nginx) -> u64 {
    let status = get(&nginx.addr2(), "/status").send().json();
    status["purges"]["self"].as_u64().unwrap_or_else(|| panic!("{status}"))
}

#[test]
fn callers_without_a_session_leave_no_mark() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "").start();
    let logout = |n| get(&nginx, "/logout").method("POST").bearer(&format!("bogus-{n}"));
    let logouts: Vec<_> = (0..MANY).map(logout).collect();
    assert_others_are_kept(&authgear, &nginx, &logouts);
    assert_eq!(self_purges(&nginx), 0, "purges of no user were counted");
}

#[test]
fn callers_without_credentials_leave_no_mark() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "").start();
    let logouts = vec![get(&nginx, "/logout").method("POST"); 100];
    assert_others_are_kept(&authgear, &nginx, &logouts);
    assert_eq!(self_purges(&nginx), 0, "purges of no user were counted");
}

#[test]
fn purges_of_many_users_purge_nobody_else_whatever_the_life_of_verdicts() {
    for settings in ["", "authgear_cache_valid valid=10m;"] {
        let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
        let nginx = purged(&authgear, &backend, settings).start();
        let purge = |n| get(&nginx, &format!("/purge?user=user-{n}")).method("POST");
        let purges: Vec<_> = (0..MANY).map(purge).collect();
        assert_others_are_kept(&authgear, &nginx, &purges);
    }
}
