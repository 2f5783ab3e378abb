//! Row 11: tokens are compared with the time of the system's clock.

use std::time::{Duration, Instant};

use support::{get, unix_now, Backend, FakeAuthgear, Nginx, User};

use crate::project::{project, verdict, TELLING};
use crate::site::site;

const VALID: &str = "valid ok jwt";

fn verifying(authgear: &FakeAuthgear, backend: &Backend, main: &str, settings: &str) -> Nginx {
    let nginx = site(authgear, backend)
        .main(main)
        .error_level("info")
        .http(project("p", authgear, settings))
        .server(TELLING)
        .server("location / { authgear p; authgear_mode jwt; proxy_pass http://%%BACKEND%%; }")
        .start();
    authgear.wait_for_jwks_hits(1);
    nginx
}

#[test]
fn a_fresh_token_counts_although_the_cached_clock_is_late() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = verifying(&authgear, &backend, "timer_resolution 1s;", "leeway 0s;");
    let (begin, mut told) = (Instant::now(), Vec::new());
    // Each second of the system's clock begins between two updates of the cached one.
    while begin.elapsed() < Duration::from_millis(1500) {
        let token = authgear.jwt(&User::named("alice"));
        told.push(verdict(&get(&nginx, "/").bearer(&token).send()));
    }
    let valid = told.iter().filter(|told| *told == VALID).count();
    assert_eq!(valid, told.len(), "valid, and all; the others: {:?}", {
        told.retain(|told| told != VALID);
        told.pop()
    });
}

#[test]
fn clocks_may_differ_by_what_two_machines_with_ntp_differ_by() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = verifying(&authgear, &backend, "", "");
    let alice = User::named("alice");
    let claim = |name: &str, ahead: i64| {
        let token = authgear.token(&alice).claim(name, unix_now() + ahead).sign();
        verdict(&get(&nginx, "/").bearer(&token).send())
    };
    assert_eq!(claim("iat", 2), VALID);
    assert_eq!(claim("nbf", 2), VALID);
    assert_eq!(claim("iat", 120), "none token_not_yet_valid jwt");
    assert_eq!(claim("exp", -120), "none token_expired jwt");
}
