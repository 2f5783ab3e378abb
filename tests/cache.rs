//! Caching of verdicts: for how long they are kept, and for which requests they are used.

use std::time::Duration;

use support::{
    eventually, get, Backend, Builder, FakeAuthgear, Fault, Nginx, Request, Response, User,
};

use crate::project::{project, project_at};
use crate::site::{identity_of, site, Pairs};

/// Adds the source of the verdict to each answer.
const TELLING: &str =
    "add_header X-Cache \"$authgear_cache_status $authgear_source $authgear_session\" always;";

/// Everything goes to the backend; verdicts are kept in zone `z`.
fn cached(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    site(authgear, backend)
        .http("authgear_cache_zone z:1m;")
        .http(project("p", authgear, "timeout 2s; max_fails 0;"))
        .server(TELLING)
        .server(format!("authgear p; authgear_cache z; {settings}"))
        .server("location / { proxy_pass http://%%BACKEND%%; }")
}

/// `$authgear_cache_status`, `$authgear_source` and `$authgear_session`.
#[track_caller]
fn reported(answer: &Response) -> String {
    answer.header("x-cache").unwrap_or_else(|| panic!("{} tells nothing", answer.status))
}

#[track_caller]
fn user(answer: &Response) -> Option<String> {
    answer.echo().header("x-authgear-user-id").map(str::to_owned)
}

/// Repeats the request until its answer reports this; for verdicts that expire or are refreshed.
#[track_caller]
fn wait_until_reported(request: &Request, what: &str) {
    let mut last = String::new();
    let found = eventually(Duration::from_secs(10), || {
        last = reported(&request.send());
        last == what
    });
    assert!(found, "{what:?} expected, last reported {last:?}");
}

#[test]
fn a_cached_verdict_serves_all_workers() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "").workers(4).start();
    let alice = User::named("alice").roles(&["editor", "billing:admin"]).amr(&["pwd", "otp"]);
    let token = authgear.opaque_token(&alice);
    let first = get(&nginx, "/").bearer(&token).send();
    assert_eq!(reported(&first), "MISS resolver valid");
    for _ in 0..40 {
        let answer = get(&nginx, "/").bearer(&token).send();
        assert_eq!(reported(&answer), "HIT cache valid");
        assert_eq!(answer.echo().identity(), first.echo().identity());
    }
    assert_eq!(authgear.hits(), 1);
}

#[test]
fn without_a_cache_each_request_makes_a_look_up() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "")
        .server("location /fresh { authgear_cache off; proxy_pass http://%%BACKEND%%; }")
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    assert_eq!(reported(&get(&nginx, "/").bearer(&token).send()), "MISS resolver valid");
    for _ in 0..3 {
        let answer = get(&nginx, "/fresh").bearer(&token).send();
        assert_eq!(reported(&answer), "BYPASS resolver valid");
    }
    assert_eq!(reported(&get(&nginx, "/").send()), "none none");
    assert_eq!(authgear.hits(), 4);
}

#[test]
fn cached_verdicts_are_never_served_for_other_credentials() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "")
        .http(project("prefixed", &authgear, "cookie_prefix dev_;"))
        .server(
            "location /prefixed { authgear prefixed; proxy_pass http://%%BACKEND%%; }
             location /other { authgear http://%%OTHER%%; proxy_pass http://%%BACKEND%%; }",
        );
    let other = FakeAuthgear::start();
    let nginx = nginx.var("OTHER", other.addr()).start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let (a, b) = (authgear.opaque_token(&alice), authgear.opaque_token(&bob));
    let (session_a, session_b) = (authgear.session(&alice), authgear.session(&bob));
    let (app_a, app_b) = (authgear.app_session(&alice), authgear.app_session(&bob));
    let access_a = authgear.app_access_token(&alice);
    let at = |path: &str| get(&nginx, path);
    let cookies = |value: String| get(&nginx, "/").header("Cookie", value);
    let rows = [
        (at("/").bearer(&a), Some("alice")),
        (at("/").bearer(&b), Some("bob")),
        (at("/").bearer(&a[1..]), None),
        (at("/").bearer(&a).cookie("session", &session_b), Some("alice")),
        (at("/").bearer(&b).cookie("session", &session_a), Some("bob")),
        (at("/").bearer("dead").cookie("session", &session_a), Some("alice")),
        (at("/").bearer("dead").cookie("session", &session_b), Some("bob")),
        (cookies(format!("session={session_a}")), Some("alice")),
        (cookies(format!("session={session_b}")), Some("bob")),
        (cookies(format!("app_session={app_a}")), Some("alice")),
        (cookies(format!("app_session={app_b}")), Some("bob")),
        (cookies(format!("app_session={session_a}")), None),
        (cookies(format!("app_access_token={access_a}")), Some("alice")),
        (cookies(format!("app_access_token={a}x")), None),
        (cookies(format!("app_session={app_a}; session={session_b}")), Some("alice")),
        (cookies(format!("app_session={app_b}; session={session_a}")), Some("bob")),
        (cookies(format!("session={session_a}; session={session_b}")), Some("alice")),
        (cookies(format!("session={session_b}; session={session_a}")), Some("bob")),
        (at("/prefixed").bearer(&a), Some("alice")),
        (at("/prefixed").header("Cookie", format!("dev_session={session_a}")), None),
        (at("/prefixed").bearer(&b).cookie("dev_session", "x"), Some("bob")),
        (at("/other").bearer(&a), None),
        (at("/other").cookie("session", &session_a), None),
        (at("/"), None),
    ];
    for round in ["cold", "warm"] {
        for (request, expected) in &rows {
            assert_eq!(user(&request.send()).as_deref(), *expected, "{round}: {request:?}");
        }
    }
    // One look-up each; none for requests without credentials. The session cookie under its other
    // name, whose answer has no session headers, is looked up in both rounds, twice each.
    assert_eq!(authgear.hits() + other.hits(), rows.len() + 2);
}

#[test]
fn locations_with_different_validity_times_share_cached_verdicts() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "")
        .server(
            "location /short { authgear_cache_valid valid=1ms; proxy_pass http://%%BACKEND%%; }
             location /none { authgear_cache_valid none=0s invalid=0s; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    assert_eq!(reported(&get(&nginx, "/").bearer(&token).send()), "MISS resolver valid");
    wait_until_reported(&get(&nginx, "/short").bearer(&token), "MISS resolver valid");
    assert_eq!(reported(&get(&nginx, "/none").bearer(&token).send()), "HIT cache valid");
    for _ in 0..3 {
        let answer = get(&nginx, "/none").bearer("dead").send();
        assert_eq!(reported(&answer), "MISS resolver none");
    }
}

#[test]
fn verdicts_expire_after_their_configured_time() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let times = "authgear_cache_valid valid=400ms invalid=200ms none=100ms;";
    let nginx = cached(&authgear, &backend, times).start();
    let alice = authgear.add_user(User::named("alice"));
    let dead = authgear.session(&alice);
    authgear.expire(&dead);
    let rows = [
        (get(&nginx, "/").bearer(&authgear.opaque_token(&alice)), "valid"),
        (get(&nginx, "/").cookie("session", &dead), "invalid"),
        (get(&nginx, "/").bearer("dead"), "none"),
    ];
    for (request, session) in &rows {
        assert_eq!(reported(&request.send()), format!("MISS resolver {session}"));
        assert_eq!(reported(&request.send()), format!("HIT cache {session}"));
        wait_until_reported(request, &format!("MISS resolver {session}"));
    }
}

#[test]
fn a_verdict_expires_no_later_than_its_token() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "").start();
    let alice = User::named("alice");
    let bearer = authgear.token(&alice).expires_in(2).sign();
    let cookie = authgear.token(&alice).expires_in(2).sign();
    let requests =
        [get(&nginx, "/").bearer(&bearer), get(&nginx, "/").cookie("app_access_token", &cookie)];
    for request in &requests {
        assert_eq!(user(&request.send()).as_deref(), Some("alice"));
        assert_eq!(reported(&request.send()), "HIT cache valid");
    }
    for request in &requests {
        wait_until_reported(request, "MISS resolver none");
    }
    // A token that had already expired did not decide, and limits nothing.
    let expired = authgear.token(&alice).expires_in(-5).sign();
    let session = authgear.session(&alice);
    let request = get(&nginx, "/").bearer(&expired).cookie("session", &session);
    assert_eq!(reported(&request.send()), "MISS resolver valid");
    assert_eq!(reported(&request.send()), "HIT cache valid");
}

#[test]
fn a_slow_answer_does_not_extend_the_life_of_a_token() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "")
        .http(project("slow", &authgear, "timeout 20s;"))
        .server("location /slow { authgear slow; proxy_pass http://%%BACKEND%%; }")
        .start();
    let token = authgear.token(&User::named("alice")).expires_in(2).sign();
    let expired = support::unix_now() + 2;
    let request = get(&nginx, "/slow").bearer(&token).deadline(Duration::from_secs(20));
    let gate = support::Gate::new();
    authgear.inject_next(1, Fault::Gate(gate.clone()));
    let pending = request.start();
    gate.wait_for_waiters(1);
    // Authgear decided before the token expired, and its answer arrives after.
    assert!(eventually(Duration::from_secs(10), || support::unix_now() > expired));
    gate.open();
    assert_eq!(reported(&pending.wait()), "MISS resolver valid");
    assert_eq!(reported(&request.send()), "MISS resolver none");
}

#[test]
fn failed_look_ups_are_not_cached() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "").start();
    let token = authgear.opaque_token(&User::named("alice"));
    let request = get(&nginx, "/").bearer(&token);
    for fault in [Fault::Status(500), Fault::Status(204), Fault::CloseAtOnce] {
        authgear.inject(fault);
        let answer = request.send();
        assert_eq!((answer.status, reported(&answer).as_str()), (503, "MISS resolver error"));
    }
    authgear.clear();
    assert_eq!(reported(&request.send()), "MISS resolver valid");
}

#[test]
fn an_answer_without_session_headers_is_not_cached_for_a_session_cookie() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "authgear_cache_valid valid=200ms;")
        .server(
            "location /stale { authgear_cache_use_stale error=1h; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let session = authgear.session(&User::named("alice"));
    let request = get(&nginx, "/").cookie("session", &session);
    authgear.inject(Fault::SilentBlank);
    for _ in 0..2 {
        assert_eq!(reported(&request.send()), "MISS resolver none");
    }
    nginx.wait_for_error_log("cookie_prefix");
    // Such an answer does not replace a cached verdict. No stale verdict is served instead: the
    // user may have been disabled.
    authgear.clear();
    assert_eq!(reported(&request.send()), "MISS resolver valid");
    authgear.inject(Fault::SilentBlank);
    let stale = get(&nginx, "/stale").cookie("session", &session);
    wait_until_reported(&stale, "EXPIRED resolver none");
    assert_eq!(user(&stale.send()), None);
    // For a bearer token it is a normal answer.
    let bearer = get(&nginx, "/").bearer("token");
    assert_eq!(reported(&bearer.send()), "MISS resolver none");
    assert_eq!(reported(&bearer.send()), "HIT cache none");
}

#[test]
fn stale_verdicts_are_served_while_authgear_fails() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let settings = "authgear_cache_valid valid=100ms; authgear_cache_use_stale error=3s;";
    let nginx = cached(&authgear, &backend, settings).start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let request = get(&nginx, "/").bearer(&authgear.opaque_token(&alice));
    assert_eq!(reported(&request.send()), "MISS resolver valid");
    authgear.inject(Fault::Status(500));
    wait_until_reported(&request, "STALE cache valid");
    assert_eq!(user(&request.send()).as_deref(), Some("alice"));
    // No stale verdict exists.
    let other = get(&nginx, "/").bearer(&authgear.opaque_token(&bob)).send();
    assert_eq!((other.status, reported(&other).as_str()), (503, "MISS resolver error"));
    // The stale verdict expires as well.
    let ended = eventually(Duration::from_secs(10), || request.send().status == 503);
    assert!(ended, "stale for ever");
    authgear.clear();
    wait_until_reported(&request, "MISS resolver valid");
}

#[test]
fn a_stale_verdict_is_served_while_it_is_refreshed() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let settings = "authgear_cache_valid valid=100ms; authgear_cache_use_stale updating=1h;";
    let nginx = cached(&authgear, &backend, settings).workers(1).start();
    let alice = authgear.add_user(User::named("alice"));
    let request = get(&nginx, "/").bearer(&authgear.opaque_token(&alice));
    assert_eq!(reported(&request.send()), "MISS resolver valid");
    let gate = support::Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    wait_until_reported(&request, "STALE cache valid");
    gate.wait_for_waiters(1);
    for _ in 0..5 {
        let answer = request.send();
        assert_eq!(
            (reported(&answer).as_str(), user(&answer).as_deref()),
            ("UPDATING cache valid", Some("alice"))
        );
    }
    assert_eq!(authgear.hits(), 2, "one refresh, whose requests are long gone");
    authgear.clear();
    authgear.disable("alice");
    gate.open();
    // The refreshed verdict becomes stale in turn, and the next refresh finds her disabled.
    wait_until_reported(&request, "HIT cache invalid");
}

/// More sessions than a worker has headers ready for, and each both so and so.
#[test]
fn every_request_of_a_known_session_passes_its_own_identity() {
    const SESSIONS: usize = 300;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "")
        .server(
            "location /page { root html; error_page 404 = /shown; }
             location /off { root html; error_page 404 = @off; }
             location @off { authgear off; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let users: Vec<_> = (0..SESSIONS).map(|n| User::named(&format!("user-{n}"))).collect();
    let tokens: Vec<_> = users.iter().map(|user| authgear.opaque_token(user)).collect();
    for (user, token) in users.iter().zip(&tokens).chain(users.iter().zip(&tokens)) {
        for path in ["/", "/", "/page", "/off", "/"] {
            let echo = get(&nginx, path).bearer(token).send().echo();
            let expected = if path == "/off" { Pairs::new() } else { identity_of(user) };
            assert_eq!(echo.identity(), expected, "{} {path}", user.id);
        }
    }
    assert_eq!(authgear.hits(), SESSIONS);
}

#[test]
fn cached_verdicts_survive_a_reload() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "").start();
    let token = authgear.opaque_token(&User::named("alice"));
    let request = get(&nginx, "/").bearer(&token);
    assert_eq!(reported(&request.send()), "MISS resolver valid");
    nginx.reload();
    assert_eq!(reported(&request.send()), "HIT cache valid");
    // Another size is another zone.
    nginx.edit_conf(|conf| conf.replace("z:1m", "z:2m"));
    nginx.reload();
    assert_eq!(reported(&request.send()), "MISS resolver valid");
    // Other settings are another project.
    nginx.edit_conf(|conf| conf.replace("timeout 2s;", "timeout 2s; cookie_prefix x_;"));
    nginx.reload();
    assert_eq!(reported(&request.send()), "MISS resolver valid");
}

#[test]
fn a_full_zone_evicts_the_least_recently_used_verdicts() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http("authgear_cache_zone z:64k front=1;")
        .http(project("p", &authgear, ""))
        .server(TELLING)
        .server("authgear p; authgear_cache z; authgear_cache_valid none=1h;")
        .server("location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    let alice = get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    assert_eq!(reported(&alice.send()), "MISS resolver valid");
    for n in 0..1000 {
        let answer = get(&nginx, "/").bearer(&format!("token {n}")).send();
        assert_eq!(reported(&answer), "MISS resolver none");
        if n % 20 == 0 {
            assert_eq!(reported(&alice.send()), "HIT cache valid", "after {n} others");
        }
    }
    let forgotten = get(&nginx, "/").bearer("token 0").send();
    assert_eq!(reported(&forgotten), "MISS resolver none");
    let recent = get(&nginx, "/").bearer("token 999").send();
    assert_eq!(reported(&recent), "HIT cache none");
}

#[test]
fn verdicts_of_a_resolver_location_are_cached() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http("authgear_cache_zone z:1m;")
        .http(project_at("p", &authgear, "/_auth", ""))
        .var("RESOLVER", authgear.resolver_url())
        .server(TELLING)
        .server("authgear p; authgear_cache z;")
        .server("location / { proxy_pass http://%%BACKEND%%; }")
        .server(
            "location = /_auth {
               internal;
               proxy_pass %%RESOLVER%%;
               proxy_set_header Host $authgear_host;
               proxy_set_header X-Forwarded-Proto $authgear_scheme;
             }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let request = get(&nginx, "/").bearer(&token);
    assert_eq!(reported(&request.send()), "MISS resolver valid");
    assert_eq!(reported(&request.send()), "HIT cache valid");
    assert_eq!(user(&request.send()).as_deref(), Some("alice"));
    assert_eq!(authgear.hits(), 1);
}

#[test]
fn invalid_cache_settings_are_refused() {
    for (line, says) in [
        ("authgear_cache_zone z;", "it must be NAME:SIZE"),
        ("authgear_cache_zone off:1m;", "it must be NAME:SIZE"),
        ("authgear_cache_zone z:x;", "invalid size \"x\" of zone \"z\""),
        ("authgear_cache_zone z:8k;", "zone \"z\" is too small, it needs at least "),
        ("authgear_cache_zone z:1m front=0;", "front= with a number from 1"),
        ("authgear_cache_zone z:1m back=1;", "front= with a number from 1"),
        ("authgear_cache_zone z:1m; authgear_cache_zone z:1m;", "duplicate authgear_cache_zone"),
        ("authgear_cache z;", "unknown authgear_cache_zone \"z\""),
        ("authgear_cache off; authgear_cache off;", "\"authgear_cache\" directive is duplicate"),
        ("authgear_cache_valid 10s;", "invalid value \"10s\" in \"authgear_cache_valid\""),
        ("authgear_cache_valid valid=x;", "invalid value \"valid=x\""),
        ("authgear_cache_valid other=1s;", "invalid value \"other=1s\""),
        ("authgear_cache_use_stale on;", "invalid value \"on\" in \"authgear_cache_use_stale\""),
        ("authgear_cache_use_stale error=x;", "invalid value \"error=x\""),
        ("authgear_cache_use_stale off error;", "invalid value \"off\""),
    ] {
        let test = Nginx::builder().http(line).server("location / { return 204; }").check();
        assert!(!test.ok, "{line} is accepted");
        assert!(test.output.contains(says), "{line}: {says:?} expected in {}", test.output);
        assert!(test.output.contains("nginx.conf:"), "{line} has no place: {}", test.output);
    }
}
