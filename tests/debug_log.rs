//! Debug lines (`error_log ... debug`), which tell the steps of a request.

use support::{get, Backend, Builder, FakeAuthgear, Nginx, User};

use crate::project::project;
use crate::site::site;

const ZONE: &str = "authgear_cache_zone z:1m;";

fn one_worker(authgear: &FakeAuthgear, backend: &Backend, level: &str) -> Builder {
    site(authgear, backend)
        .workers(1)
        .error_level(level)
        .http(ZONE)
        .http(project("p", authgear, ""))
        .server(
            "location / { authgear p; authgear_cache z; proxy_pass http://%%BACKEND%%; }
             location /jwt {
               authgear p;
               authgear_mode jwt;
               authgear_cache z;
               proxy_pass http://%%BACKEND%%;
             }",
        )
}

/// Sends the same request twice: a look-up, and a hit.
fn send(nginx: &Nginx, token: &str) {
    for _ in 0..2 {
        assert_eq!(get(nginx, "/").bearer(token).send().status, 200);
    }
}

#[test]
fn debug_level_logs_the_steps_of_a_request_and_no_token() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "debug").start();
    let token = authgear.opaque_token(&User::named("alice"));
    send(&nginx, &token);
    for step in [
        "authgear: phase PostRead",
        "authgear: phase Access",
        "authgear: decides on access, project: \"p\"",
        "authgear: cache status MISS",
        "authgear: leads a look-up",
        "authgear: leads the look-up for all workers",
        "authgear: verdict valid, reason ok, source resolver",
        "authgear: cache hit",
        "authgear: verdict valid, reason ok, source cache",
        "authgear: fetches keys, project: \"p\"",
    ] {
        let line = nginx.wait_for_error_log(step);
        assert!(line.contains("[debug]"), "{line}");
    }
    let log = nginx.error_log();
    let ours: Vec<_> = log.lines().filter(|line| line.contains("authgear: ")).collect();
    assert!(ours.iter().all(|line| !line.contains(&token)), "{ours:#?}");
}

#[test]
fn info_level_logs_no_steps() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "info").start();
    send(&nginx, &authgear.opaque_token(&User::named("alice")));
    assert!(!nginx.error_log().contains("authgear: "), "{}", nginx.error_log());
}
