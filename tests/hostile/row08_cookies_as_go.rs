//! Row 8: cookies are read as Authgear's Go reads them, only outages are bridged, and Authgear's
//! silence is asked about once more where it is not to be expected.

use support::{
    eventually, get, Backend, Builder, FakeAuthgear, Fault, Nginx, Request, Response, User,
    DEADLINE,
};

use super::{invented_session, TELLING};
use crate::project::project;
use crate::site::site;

fn cached(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    site(authgear, backend)
        .workers(1)
        .http("large_client_header_buffers 8 64k; authgear_cache_zone z:1m;")
        .http(project("p", authgear, "timeout 2s; max_fails 0;"))
        .server(TELLING)
        .server(format!(
            "authgear p; authgear_cache z; {settings}
             location / {{ proxy_pass http://%%BACKEND%%; }}"
        ))
}

/// Verdicts end soon, and are bridged for long.
const STALE: &str = "authgear_cache_valid valid=50ms none=1h;
                     authgear_cache_use_stale error=1h;";

/// `$authgear_session`, `$authgear_reason` and `$authgear_cache_status`.
#[track_caller]
fn told(answer: &Response) -> String {
    let header = |name| answer.header(name).unwrap_or_else(|| "-".to_owned());
    format!("{} {} {}", header("x-session"), header("x-reason"), header("x-cache"))
}

/// Asks until a kept verdict's time is over and Authgear was asked.
#[track_caller]
fn when_expired(authgear: &FakeAuthgear, request: &Request) -> String {
    let (hits, mut last) = (authgear.hits(), String::new());
    let asked = eventually(DEADLINE, || {
        last = told(&request.send());
        authgear.hits() > hits
    });
    assert!(asked, "it never ends: {last}");
    last
}

#[test]
fn a_cookie_that_go_does_not_read_is_none() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, "").start();
    let s = authgear.session(&User::named("alice"));
    let other = invented_session(1);
    let many = "a=b; ".repeat(3000);
    let absent = [
        format!("session=\t{s}"),
        format!("session={}\t{}", &s[..9], &s[9..]),
        format!("session=\"{s}"),
        format!("session={s}\""),
        format!("session=\"{s}\"x"),
        format!("session=\\{s}"),
        format!("session={s},\u{e9}"),
        format!("Session={s}"),
        format!("session\u{b}={s}"),
        format!("\u{b}session={s}"),
        format!("\u{a0}session={s}"),
        format!("ses sion={s}"),
        format!("session:={s}"),
        format!("x_session={s}"),
        format!("a=\"b; c\"session={s}\""),
        format!("{many}session={s}"),
    ];
    // A byte each, as nginx and Go read them.
    let line = |text: &str| text.chars().map(|c| c as u8).collect::<Vec<u8>>();
    for cookies in &absent {
        let answer = get(&nginx, "/").header("Cookie", line(cookies)).send();
        let shown = &cookies[..cookies.len().min(60)];
        assert_eq!(told(&answer), "none no_credentials -", "{shown:?}");
    }
    assert_eq!(authgear.hits(), 0);
    // Looked up and answered, each time by the same session.
    let present = [
        (format!("session={s}"), true),
        (format!("session=\"{s}\""), true),
        (format!("\tsession={s}\t"), true),
        (format!("session\t ={s}"), true),
        (format!(";;\t; session={s} \t;;"), true),
        (format!("=x; a; session={s}"), true),
        (format!("session=\t{other}; session={s}"), true),
        (format!("session={s}; session={other}"), true),
        (format!("session={other}; session={s}"), false),
        (format!("session= {s}"), false),
        (format!("session={s}="), false),
        ("session=".to_owned(), false),
        ("session".to_owned(), false),
        ("session=\"\"".to_owned(), false),
        (format!("{}session={s}", "a=b; ".repeat(2998)), true),
    ];
    for (cookies, valid) in &present {
        let answer = get(&nginx, "/").header("Cookie", line(cookies)).send();
        let shown = &cookies[..cookies.len().min(60)];
        let expected = if *valid { "valid" } else { "invalid" };
        assert_eq!(answer.header("x-session").as_deref(), Some(expected), "{shown:?}");
    }
}

#[test]
fn a_tab_before_a_session_keeps_no_ended_token_alive() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, STALE).start();
    let token = authgear.opaque_token(&User::named("alice"));
    let cookie = format!("session=\t{}", invented_session(1));
    let request = get(&nginx, "/").bearer(&token).header("Cookie", &cookie);
    assert_eq!(told(&request.send()), "valid ok MISS");
    authgear.expire(&token);
    let after = when_expired(&authgear, &request);
    assert!(after.starts_with("none no_session "), "{after}");
    assert!(!nginx.error_log().contains("cookie_prefix"), "a client wrote to the error log");
}

#[test]
fn a_refusal_by_a_status_of_the_client_s_is_not_bridged() {
    for status in [400, 401, 403, 404, 429] {
        let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
        let nginx = cached(&authgear, &backend, STALE).start();
        let request = get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")));
        assert_eq!(told(&request.send()), "valid ok MISS");
        authgear.inject(Fault::Status(status));
        let after = when_expired(&authgear, &request);
        assert!(after.starts_with("error bad_status "), "{status}: {after}");
        authgear.inject(Fault::Status(503));
        assert_eq!(told(&request.send()), "valid ok STALE", "{status}");
    }
}

/// The connections of the look-ups since the log was taken last.
fn connections(authgear: &FakeAuthgear) -> Vec<u64> {
    authgear.take_requests().iter().map(|request| request.connection).collect()
}

#[track_caller]
fn assert_asked_twice(authgear: &FakeAuthgear) {
    let connections = connections(authgear);
    assert_eq!(connections.len(), 2, "look-ups");
    assert_ne!(connections[0], connections[1], "another connection is asked");
}

#[test]
fn silence_about_a_session_cookie_is_asked_about_once_more() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, STALE).start();
    let request =
        |user: &str| get(&nginx, "/").cookie("session", &authgear.session(&User::named(user)));
    let alice = request("alice");
    authgear.inject_next(1, Fault::SilentBlank);
    assert_eq!(told(&alice.send()), "valid ok MISS");
    assert_asked_twice(&authgear);

    // A second silence is final: it is neither bridged nor kept.
    authgear.inject(Fault::SilentBlank);
    let after = when_expired(&authgear, &alice);
    assert!(after.starts_with("none no_session "), "{after}");
    assert_asked_twice(&authgear);
    let bob = request("bob");
    for _ in 0..2 {
        assert_eq!(told(&bob.send()), "none no_session MISS");
        assert_asked_twice(&authgear);
    }

    // An error the second time is an outage.
    authgear.clear();
    let carol = request("carol");
    assert_eq!(told(&carol.send()), "valid ok MISS");
    authgear.inject_next(1, Fault::SilentBlank);
    authgear.inject(Fault::Status(500));
    assert_eq!(when_expired(&authgear, &carol), "valid ok STALE");
    authgear.inject_next(1, Fault::SilentBlank);
    assert_eq!(told(&request("dave").send()), "error bad_status MISS");
}

fn bearer(nginx: &Nginx, authgear: &FakeAuthgear, user: &str) -> Request {
    get(nginx, "/").bearer(&authgear.opaque_token(&User::named(user)))
}

#[test]
fn silence_about_a_bearer_that_is_remembered_as_valid_is_asked_about_once_more() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, STALE).start();
    let alice = bearer(&nginx, &authgear, "alice");
    assert_eq!(told(&alice.send()), "valid ok MISS");
    connections(&authgear);
    authgear.inject_next(1, Fault::SilentBlank);
    let after = when_expired(&authgear, &alice);
    assert!(after.starts_with("valid ok "), "{after}");
    assert_asked_twice(&authgear);

    authgear.inject_next(1, Fault::SilentBlank);
    authgear.inject(Fault::Status(500));
    assert_eq!(when_expired(&authgear, &alice), "valid ok STALE");

    // A second silence is final, and kept.
    authgear.clear();
    connections(&authgear);
    authgear.inject(Fault::SilentBlank);
    let after = when_expired(&authgear, &alice);
    assert!(after.starts_with("none no_session "), "{after}");
    assert_asked_twice(&authgear);
    assert_eq!(told(&alice.send()), "none no_session HIT");
    assert_eq!(authgear.hits(), 0);
}

#[test]
fn silence_about_a_bearer_that_was_never_valid_is_asked_about_once() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = cached(&authgear, &backend, STALE).start();
    for n in 1..=5 {
        let answer = get(&nginx, "/").bearer(&format!("bogus-{n}")).send();
        assert_eq!(told(&answer), "none no_session MISS");
        assert_eq!(authgear.hits(), n);
    }
}
