//! Row 14: smaller faults.

use std::net::SocketAddr;
use std::time::Duration;

use support::{
    cpu_time, eventually, get, Backend, Builder, FakeAuthgear, Nginx, User, DEADLINE, H2,
};

use super::crowded;
use crate::project::project;
use crate::site::site;

fn protected(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend)
        .workers(1)
        .http("authgear_cache_zone z:1m;")
        .http(project("p", authgear, ""))
        .server("authgear p; authgear_require session;")
}

#[test]
fn a_content_type_of_grpc_makes_no_grpc_call_of_http1() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = protected(&authgear, &backend)
        .listen_extra(1)
        .server("listen %%ADDR2%% http2; location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    let call = |to: SocketAddr| {
        get(&to, "/a.B/C").method("POST").header("Content-Type", "application/grpc")
    };
    let answer = call(nginx.addr()).body("x").send();
    assert_eq!((answer.status, answer.header("grpc-status")), (401, None));
    let line = nginx.wait_for_access_lines(1).pop().expect("a line");
    assert!(line.contains(" 401 "), "{line}");
    let answer = call(nginx.addr2()).send_h2();
    assert_eq!((answer.status, answer.header("grpc-status").as_deref()), (200, Some("16")));
}

#[test]
fn a_purge_that_everybody_may_order_is_warned_of() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for (location, warned) in [
        ("authgear off; authgear_purge admin;", true),
        ("authgear_require off; authgear_purge admin;", true),
        ("authgear off; authgear_purge admin; allow 127.0.0.1; deny all;", false),
        ("authgear_require role=admin; authgear_purge admin;", false),
        // Inherited from the server.
        ("authgear_purge admin;", false),
        ("authgear_purge self;", false),
    ] {
        let builder = protected(&authgear, &backend);
        let test = builder.server(format!("location = /purge {{ {location} }}")).check();
        let is_warning = |line: &str| line.contains("[warn]") && line.contains("authgear_purge");
        let found = test.output.lines().any(is_warning);
        assert_eq!((test.ok, found), (true, warned), "{location}: {}", test.output);
    }
}

#[test]
fn a_preflight_that_is_let_through_hands_on_no_credentials() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = protected(&authgear, &backend)
        .server("location / { authgear_preflight pass; proxy_pass http://%%BACKEND%%; }")
        .start();
    let alice = User::named("alice");
    let session = authgear.session(&alice);
    let preflight = get(&nginx, "/")
        .method("OPTIONS")
        .header("Origin", "https://app.test")
        .header("Access-Control-Request-Method", "POST")
        .bearer(&authgear.opaque_token(&alice))
        .header("Cookie", format!("a=b; session={session}; app_session=x; app_access_token=y"));
    let echo = preflight.send().echo();
    assert_eq!(echo.header("authorization"), None);
    assert_eq!(echo.header("cookie"), Some("a=b"));
    assert_eq!(authgear.hits(), 0);
}

/// A connection to each of two workers, with the worker's process id.
fn connections(nginx: &Nginx) -> [(u32, H2); 2] {
    let mut found: Vec<(u32, H2)> = Vec::new();
    let both = eventually(DEADLINE, || {
        let connection = H2::open(nginx);
        let pid = connection.send(&get(nginx, "/worker")).text().parse().expect("a pid");
        if found.iter().all(|(have, _)| *have != pid) {
            found.push((pid, connection));
        }
        found.len() == 2
    });
    assert!(both, "one worker accepts no connections");
    found.try_into().expect("two connections")
}

/// Processor time of a worker for each of `n` requests that wait for look-ups of the other worker,
/// which are answered one after the other.
fn cost_of_following(n: usize) -> Duration {
    let authgear = FakeAuthgear::builder().capacity(1, Duration::from_millis(1)).start();
    let backend = Backend::start();
    let nginx = crowded(&authgear, &backend)
        .workers(2)
        .http("authgear_cache_zone z:16m;")
        .http(project("p", &authgear, "max_connections 2000; timeout 9s; max_fails 0;"))
        .server("location / { authgear p; authgear_cache z; empty_gif; }")
        .server("location = /worker { authgear off; return 200 $pid; }")
        .start();
    let [(_, leading), (follower, following)] = connections(&nginx);
    let tokens: Vec<_> = (0..n).map(|_| authgear.opaque_token(&User::named("alice"))).collect();
    let start = |connection: &H2| {
        let pending = tokens.iter().map(|token| connection.start(&get(&nginx, "/").bearer(token)));
        let pending: Vec<_> = pending.collect();
        // Frames of one connection are read in order: then all requests have begun.
        assert_eq!(connection.send(&get(&nginx, "/worker")).status, 200);
        pending
    };
    let leaders = start(&leading);
    let followers = start(&following);
    let before = cpu_time(follower);
    let waited = followers.into_iter().map(|pending| pending.wait().header("x-cache"));
    let joined = waited.filter(|told| told.as_deref() == Some("JOINED")).count();
    assert!(joined * 2 > n, "{joined} of {n} requests waited for the other worker");
    let spent = cpu_time(follower) - before;
    drop(leaders);
    spent / u32::try_from(joined).expect("requests")
}

#[test]
fn the_end_of_a_lookup_wakes_only_the_requests_that_wait_for_it() {
    // What else runs on the machine adds to a cost, and never takes from it.
    let (mut few, mut many, mut factor) = (Duration::MAX, Duration::MAX, f64::MAX);
    for _ in 0..3 {
        few = few.min(cost_of_following(100));
        many = many.min(cost_of_following(1500));
        factor = many.as_secs_f64() / few.as_secs_f64();
        if factor < 2.5 {
            return;
        }
    }
    panic!("{many:?} of 1500 requests, {few:?} of 100: {factor:.1} times");
}
