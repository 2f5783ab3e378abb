//! Row 4: one client does not take the turns of all, and can be limited.

use std::time::Duration;

use support::{
    closed_loop, get, Backend, Builder, FakeAuthgear, Fault, Gate, Nginx, Request, User, H2,
};

use super::{crowded, from, invented_session};
use crate::project::project;

const CONNECTIONS: usize = 4;

/// The position of a new client's look-up among those that reach Authgear while `flood` waits.
#[track_caller]
fn asked_before(flood: impl Fn(usize) -> String, honest: &str) -> usize {
    const FLOOD: usize = 750;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let settings = format!("max_connections {CONNECTIONS}; max_fails 0; timeout 9s;");
    let nginx = crowded(&authgear, &backend)
        .http(project("p", &authgear, &settings))
        .server("location / { authgear p; empty_gif; }")
        .start();
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let connection = H2::open(&nginx);
    let request =
        |n: usize| from(&flood(n), get(&nginx, "/").cookie("session", &invented_session(n)));
    let pending: Vec<_> = (0..FLOOD).map(|n| connection.start(&request(n))).collect();
    gate.wait_for_waiters(CONNECTIONS);
    // Frames of one connection are read in order: after this answer the flood is in the queue.
    assert_eq!(connection.send(&get(&nginx, "/")).status, 200);
    let session = authgear.session(&User::named("alice"));
    let honest = connection.start(&from(honest, get(&nginx, "/").cookie("session", &session)));
    assert_eq!(connection.send(&get(&nginx, "/")).status, 200);
    gate.open();
    let answer = honest.wait();
    drop(pending);
    assert_eq!((answer.status, answer.header("x-reason").as_deref()), (200, Some("ok")));
    let cookie = format!("session={session}");
    let asked = authgear.requests();
    asked.iter().position(|request| request.header("cookie") == Some(&cookie)).expect("a look-up")
}

#[test]
fn a_client_with_many_lookups_does_not_delay_another_client() {
    let asked = asked_before(|_| "10.0.0.2".to_owned(), "10.0.0.3");
    assert!(asked <= 10 * CONNECTIONS, "{asked} look-ups of another client went before");
}

#[test]
fn addresses_of_one_ipv6_network_of_64_bits_are_one_client() {
    let asked = asked_before(|n| format!("2001:db8:1:1::{n:x}"), "2001:db8:1:2::1");
    assert!(asked <= 10 * CONNECTIONS, "{asked} look-ups of another client went before");
}

/// Five look-ups at once of each key, and none more within an hour. Paths say what else differs.
fn limited(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    let limit = "authgear_unknown_limit zone=unknown:64k rate=1r/m burst=4";
    crowded(authgear, backend)
        .http("authgear_cache_zone z:1m;")
        .http(project("p", authgear, "max_fails 0;"))
        .server(format!(
            "authgear p; authgear_cache z; {limit};
             location / {{ empty_gif; }}
             location /uncached {{ authgear_cache off; empty_gif; }}
             location /jwt {{ authgear_cache off; authgear_mode jwt; empty_gif; }}
             location /open {{ authgear_on_error anonymous; empty_gif; }}
             location /must {{ authgear_require session; empty_gif; }}
             location /dry {{ authgear_dry_run on; empty_gif; }}
             location /keyed {{
               authgear_unknown_limit zone=keyed:64k rate=1r/m burst=4 key=$http_x_tenant;
               empty_gif;
             }}
             location = /status {{ authgear off; authgear_status; }}"
        ))
}

const CLIENT: &str = "10.0.0.2";

/// Sends `n` requests with tokens that nobody knows, and returns their statuses.
fn statuses(nginx: &Nginx, request: &Request, tokens: std::ops::Range<usize>) -> Vec<u16> {
    let requests: Vec<_> = tokens.map(|n| request.clone().bearer(&format!("bogus-{n}"))).collect();
    closed_loop(nginx, &requests, 1).iter().map(support::Fared::status).collect()
}

#[test]
fn lookups_beyond_the_limit_are_refused() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = limited(&authgear, &backend).start();
    let kept = from(CLIENT, get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("kept"))));
    assert_eq!(kept.send_h2().status, 200);
    let client = from(CLIENT, get(&nginx, "/"));
    assert_eq!(statuses(&nginx, &client, 0..8), [200, 200, 200, 200, 429, 429, 429, 429]);
    let asked = authgear.hits();
    assert_eq!(asked, 5);

    for path in ["/", "/open", "/must", "/uncached"] {
        let answer = from(CLIENT, get(&nginx, path)).bearer("bogus-9").send_h2();
        let reason = answer.header("x-reason");
        assert_eq!((answer.status, reason.as_deref()), (429, Some("too_many_lookups")), "{path}");
        let wait = answer.header("retry-after").expect("Retry-After");
        assert!((1..=60).contains(&wait.parse::<u32>().expect("seconds")), "{path}: {wait}");
    }
    // A verdict that is kept needs no look-up, and another client has a limit of its own.
    assert_eq!(kept.send_h2().header("x-cache").as_deref(), Some("HIT"));
    assert_eq!(authgear.hits(), asked);
    assert_eq!(statuses(&nginx, &from("10.0.0.3", get(&nginx, "/")), 20..22), [200, 200]);
    let counted = get(&nginx.addr2(), "/status?format=prometheus").send().text();
    let named = |line: &str| line.contains("too_many_lookups") && !line.starts_with('#');
    let line = counted.lines().find(|line| named(line)).unwrap_or_else(|| panic!("{counted}"));
    assert!(line.ends_with(" 8"), "{line}");
}

#[test]
fn a_dry_run_only_logs_what_is_beyond_the_limit() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = limited(&authgear, &backend).error_level("info").start();
    let client = from(CLIENT, get(&nginx, "/dry"));
    assert_eq!(statuses(&nginx, &client, 0..8), [200; 8]);
    nginx.wait_for_error_log("too_many_lookups");
}

#[test]
fn a_key_of_the_configuration_replaces_the_address() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = limited(&authgear, &backend).start();
    let tenant = |ip: &str, name: &str| from(ip, get(&nginx, "/keyed")).header("X-Tenant", name);
    assert_eq!(statuses(&nginx, &tenant(CLIENT, "a"), 0..5), [200; 5]);
    assert_eq!(statuses(&nginx, &tenant("10.0.0.3", "a"), 5..6), [429]);
    assert_eq!(statuses(&nginx, &tenant(CLIENT, "b"), 6..7), [200]);
}

#[test]
fn ipv6_clients_are_limited_by_their_network_of_64_bits() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = limited(&authgear, &backend).start();
    for n in 0..5 {
        let client = from(&format!("2001:db8:1:1::{n:x}"), get(&nginx, "/"));
        assert_eq!(statuses(&nginx, &client, n..n + 1), [200]);
    }
    let same = from("2001:db8:1:1:ffff::1", get(&nginx, "/"));
    assert_eq!(statuses(&nginx, &same, 6..7), [429]);
    let other = from("2001:db8:1:2::1", get(&nginx, "/"));
    assert_eq!(statuses(&nginx, &other, 7..8), [200]);
}

#[test]
fn tokens_verified_here_count_where_they_are_not_kept() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = limited(&authgear, &backend).start();
    authgear.wait_for_jwks_hits(1);
    let token = authgear.jwt(&User::named("alice"));
    let request = from(CLIENT, get(&nginx, "/jwt")).bearer(&token);
    let fared = closed_loop(&nginx, &vec![request; 7], 1);
    let statuses: Vec<_> = fared.iter().map(support::Fared::status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429]);
}

#[test]
fn a_grpc_call_beyond_the_limit_is_told_that_a_resource_is_exhausted() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = limited(&authgear, &backend).start();
    let client = from(CLIENT, get(&nginx, "/"));
    statuses(&nginx, &client, 0..5);
    let call = client.method("POST").header("Content-Type", "application/grpc");
    let answer = call.bearer("bogus-5").deadline(Duration::from_secs(5)).send_h2();
    assert_eq!((answer.status, answer.header("grpc-status").as_deref()), (200, Some("8")));
}
