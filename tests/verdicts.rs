//! The backend gets the identity that Authgear answers: every case of its decision table, compared
//! with the documented `auth_request` set-up, and every invalid answer.

use std::collections::HashSet;

use support::{
    decision_table, get, Backend, Builder, Ca, Expect, FakeAuthgear, Fault, Nginx, Request,
    Response, User,
};

use crate::documented_setup::{documented_conf, documented_identity};
use crate::project::{project_site, verdict};
use crate::site::{assert_nothing_forged, Pairs, FORGED, LARGE_HEADERS};

/// Everything goes to the backend, with the verdict of project `p`.
fn with_project(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    project_site(authgear, backend, settings)
        .http(LARGE_HEADERS)
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
}

/// An nginx whose resolver answers with what the test injects, each answer over a new connection,
/// and without suspending the resolver.
fn with_any_answer(authgear: &FakeAuthgear, backend: &Backend) -> Nginx {
    with_project(authgear, backend, "max_fails 0; max_response_size 256k;").start()
}

fn pair(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

/// An answer with these identity headers, `X-Authgear-` left out.
fn identity(fields: &[(&str, &str)]) -> Fault {
    let name = |name: &str| format!("X-Authgear-{name}");
    Fault::Headers(fields.iter().map(|(field, value)| pair(&name(field), value)).collect())
}

/// An answer of a valid session of alice, with more identity headers.
fn alice_and(more: &[(&str, &str)]) -> Fault {
    let session = [("Session-Valid", "true"), ("User-Id", "alice")];
    identity(&[&session[..], more].concat())
}

/// A request with a bearer and forged identity headers.
fn ask(nginx: &Nginx) -> Request {
    get(nginx, "/").bearer("token").header("X-Authgear-User-Id", FORGED)
}

#[track_caller]
fn backend_identity(answer: &Response, what: &str) -> Pairs {
    assert_eq!(answer.status, 200, "{what}");
    let echo = answer.echo();
    assert_nothing_forged(&echo, what);
    echo.identity()
}

#[test]
fn the_backend_learns_the_same_as_in_the_documented_setup() {
    // Both connect to its address over TLS, and use its public name.
    let ca = Ca::new();
    let tls = ca.leaf(&["127.0.0.1"]);
    let authgear = FakeAuthgear::builder().origin("https://myapp.test").tls(tls).start();
    let (documented_backend, backend) = (Backend::start(), Backend::start());
    let documented = documented_conf(&authgear, &documented_backend).start();
    let ours = with_project(&authgear, &backend, "ssl_trusted_certificate ca.pem;")
        .file("ca.pem", ca.pem())
        .start();
    let mut with_roles = 0;
    for case in decision_table(&authgear) {
        let name = case.name;
        let theirs = case.apply(get(&documented, "/path?query")).send();
        let answer = case.apply(get(&ours, "/path?query")).send();
        assert_eq!((answer.status, theirs.status), (200, 200), "{name}");
        // Neither relays the cookie that clears a session.
        assert_eq!(answer.header("set-cookie"), None, "{name}");

        let (echo, theirs) = (answer.echo(), theirs.echo());
        assert_eq!((&echo.method, &echo.target), (&theirs.method, &theirs.target), "{name}");
        assert_eq!(echo.all("authorization"), theirs.all("authorization"), "{name}");
        assert_eq!(echo.all("cookie"), theirs.all("cookie"), "{name}");
        // The documented list lacks the roles.
        let (roles, rest): (Pairs, Pairs) =
            echo.identity().into_iter().partition(|(name, _)| name == "x-authgear-user-roles");
        assert_eq!(rest, theirs.identity(), "{name}");
        assert_eq!(rest, documented_identity(&case), "{name}");
        let roles: Vec<_> = roles.into_iter().map(|(_, value)| value).collect();
        let (session, expected) = match &case.expect {
            Expect::Valid(user) => ("valid ok", user.roles.join(",")),
            Expect::Invalid { .. } => ("invalid", String::new()),
            Expect::Nothing => ("none", String::new()),
        };
        assert!(verdict(&answer).starts_with(session), "{name}: {}", verdict(&answer));
        assert_eq!(roles.join("|"), expected, "{name}");
        with_roles += roles.len();
    }
    assert!(with_roles > 0, "no row has roles");
}

#[test]
fn only_the_value_true_is_a_session() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = with_any_answer(&authgear, &backend);
    let reported = |fault: Fault, what: &str| {
        authgear.inject(fault);
        let answer = ask(&nginx).send();
        (verdict(&answer), backend_identity(&answer, what))
    };
    let invalid = || {
        let identity = vec![pair("x-authgear-session-valid", "false")];
        ("invalid bearer_not_accepted resolver".to_owned(), identity)
    };
    for value in [
        "false",
        "",
        "True",
        "TRUE",
        "tRUE",
        "1",
        "yes",
        "on",
        "t",
        "truetrue",
        "true,true",
        "true, true",
        "true;",
        "true\u{a0}",
        "\u{a0}true",
        "\"true\"",
        "not true",
        "null",
        "valid",
    ] {
        let more = [("Session-Valid", value), ("User-Id", "alice"), ("User-Roles", "admin")];
        assert_eq!(reported(identity(&more), value), invalid(), "{value:?}");
    }
    // White space around a value is no part of it (RFC 9110 section 5.5), in Authgear neither.
    for value in ["true", " true", "\ttrue \t"] {
        let (verdict, identity) =
            reported(identity(&[("Session-Valid", value), ("User-Id", "alice")]), value);
        assert_eq!(verdict, "valid ok resolver", "{value:?}");
        let alice = [pair("x-authgear-session-valid", "true"), pair("x-authgear-user-id", "alice")];
        assert_eq!(identity, alice, "{value:?}");
    }
    // Without the header there is no session, whatever else the answer has.
    for (fault, what) in [
        (Fault::SilentBlank, "blank"),
        (identity(&[("User-Id", "alice"), ("User-Roles", "admin")]), "a user only"),
        (identity(&[("Session_Valid", "true"), ("User-Id", "alice")]), "another name"),
        (Fault::Headers(vec![pair("X_Authgear_Session_Valid", "true")]), "underscores"),
    ] {
        let (verdict, identity) = reported(fault, what);
        assert_eq!((verdict.as_str(), identity), ("none no_session resolver", vec![]), "{what}");
    }
}

#[test]
fn new_identity_headers_of_authgear_are_passed_on() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = with_project(&authgear, &backend, "")
        .server("location /variables { return 200 $x_authgear_some_day; }")
        .server("add_header X-Some-Day $x_authgear_some_day always;")
        .start();
    let mut more = vec![
        ("Some-Day", "new \u{e9}"),
        ("session-ACR", "urn:acr"),
        // Empty headers go to no backend: nginx's proxy modules drop them, and so do we.
        ("Session-Amr", ""),
        // Another kind of header: it signs webhooks.
        ("Body-Signature", "00"),
    ];
    authgear.inject(alice_and(&more));
    let answer = ask(&nginx).send();
    let alice = [
        pair("x-authgear-session-acr", "urn:acr"),
        pair("x-authgear-session-valid", "true"),
        pair("x-authgear-some-day", "new \u{e9}"),
        pair("x-authgear-user-id", "alice"),
    ];
    assert_eq!(backend_identity(&answer, "more"), alice);
    assert_eq!(answer.header("x-some-day").as_deref(), Some("new \u{e9}"));

    // The largest accepted identity: 64 headers in all, of 16 kB each, 64 kB together.
    let (name, value) = ("n".repeat(117), "v".repeat(16 * 1024));
    more = vec![(name.as_str(), value.as_str())];
    let names: Vec<String> = (0..61).map(|n| format!("N{n}")).collect();
    more.extend(names.iter().map(|name| (name.as_str(), "v")));
    authgear.inject(alice_and(&more));
    assert_eq!(backend_identity(&ask(&nginx).send(), "most").len(), 64);
}

#[test]
fn answers_that_contradict_themselves_are_errors() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = with_any_answer(&authgear, &backend);
    let (over_long, long) = ("v".repeat(16 * 1024 + 1), "v".repeat(16 * 1024));
    let long_name = "n".repeat(118);
    let names: Vec<String> = (0..63).map(|n| format!("N{n}")).collect();
    let many: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
    let large = [("A", long.as_str()), ("B", &long), ("C", &long), ("D", &long)];
    let mut seen = HashSet::new();
    for (what, reason, fault) in [
        ("a control byte", "bad_answer", alice_and(&[("User-Roles", "a\u{1}b")])),
        ("a delete", "bad_answer", alice_and(&[("User-Roles", "a\u{7f}")])),
        ("a zero byte", "bad_answer", alice_and(&[("User-Roles", "\0")])),
        ("a tab", "bad_answer", alice_and(&[("User-Roles", "a\tb")])),
        ("two users", "bad_answer", alice_and(&[("User-Id", "bob")])),
        ("a user twice", "bad_answer", alice_and(&[("USER-ID", "alice")])),
        (
            "two kinds of roles",
            "bad_answer",
            alice_and(&[("User-Roles", "a"), ("User-Roles", "b")]),
        ),
        ("true twice", "bad_answer", alice_and(&[("Session-Valid", "true")])),
        ("true and false", "bad_answer", alice_and(&[("Session-Valid", "false")])),
        ("false twice", "bad_answer", identity(&[("Session-Valid", "false"); 2])),
        ("no user", "bad_answer", identity(&[("Session-Valid", "true")])),
        ("an empty user", "bad_answer", identity(&[("Session-Valid", "true"), ("User-Id", "")])),
        ("a long name", "bad_answer", alice_and(&[(&long_name, "v")])),
        ("an odd name", "bad_answer", alice_and(&[("User!Id", "v")])),
        ("a long value", "answer_too_large", alice_and(&[("User-Roles", &over_long)])),
        ("a large identity", "answer_too_large", alice_and(&large)),
        ("many headers", "answer_too_large", alice_and(&many)),
    ] {
        authgear.inject(fault);
        let answer = ask(&nginx).send();
        assert_eq!(verdict(&answer), format!("error {reason} resolver"), "{what}");
        assert_eq!(answer.status, 503, "{what}");
        seen.insert(reason);
    }
    assert_eq!((backend.hits(), seen.len()), (0, 2));
}

#[test]
fn only_status_200_is_an_answer_of_the_resolver() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = with_any_answer(&authgear, &backend);
    let session = "X-Authgear-Session-Valid: true\r\nX-Authgear-User-Id: alice\r\n";
    for status in ["201 Created", "202 Accepted", "203 NA", "204 No Content", "206 Part", "299 x"] {
        let answer = format!("HTTP/1.1 {status}\r\n{session}\r\n");
        authgear.inject(Fault::Raw(answer.into()));
        let answer = ask(&nginx).send();
        assert_eq!(verdict(&answer), "error bad_status resolver", "{status}");
        assert_eq!(answer.status, 503, "{status}");
    }
    assert_eq!(backend.hits(), 0);
    // Interim answers are skipped: the final one counts.
    for interim in ["100 Continue", "103 Early Hints"] {
        let forged = session.replace("alice", FORGED);
        let head = format!("HTTP/1.1 {interim}\r\n{forged}\r\nHTTP/1.1 200 OK\r\n{session}\r\n");
        authgear.inject(Fault::Raw(head.into()));
        let answer = ask(&nginx).send();
        assert_eq!(verdict(&answer), "valid ok resolver", "{interim}");
        assert!(backend_identity(&answer, interim).contains(&pair("x-authgear-user-id", "alice")));
    }
}

#[test]
fn a_cookie_prefix_selects_the_cookies_of_the_project() {
    let authgear = FakeAuthgear::builder().cookie_prefix("dev_").start();
    let backend = Backend::start();
    let nginx = with_project(&authgear, &backend, "cookie_prefix dev_;").start();
    for case in decision_table(&authgear) {
        let answer = case.apply(get(&nginx, "/")).send();
        let mut expected = case.identity();
        expected.retain(|(_, value)| !value.is_empty());
        assert_eq!(backend_identity(&answer, case.name), expected, "{}", case.name);
    }
    let session = authgear.session(&User::named("alice"));
    for name in ["session", "Dev_session", "dev-session", "dev_dev_session", "dev_", "dev_session_"]
    {
        let asked = authgear.hits();
        let answer = get(&nginx, "/").cookie(name, &session).send();
        assert_eq!(verdict(&answer), "none no_credentials none", "{name}");
        assert_eq!(authgear.hits(), asked, "{name}");
    }
}

#[test]
fn a_request_without_credentials_makes_no_look_up() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = with_project(&authgear, &backend, "").start();
    let request = || get(&nginx, "/").header("X-Authgear-User-Id", FORGED);
    for (what, request) in [
        ("nothing", request()),
        ("Basic", request().header("Authorization", "Basic c2VjcmV0OnNlY3JldA==")),
        ("Basic with a bearer in it", request().header("Authorization", "Basic Bearer token")),
        ("Digest", request().header("Authorization", "Digest username=secret")),
        ("DPoP", request().header("Authorization", "DPoP token")),
        ("a bare token", request().header("Authorization", "token")),
        ("no token", request().header("Authorization", "Bearer")),
        ("an empty token", request().header("Authorization", "Bearer ")),
        ("a tab", request().header("Authorization", "Bearer\ttoken")),
        ("no space", request().header("Authorization", "Bearer:token")),
        ("an empty value", request().header("Authorization", "")),
        ("another header", request().header("Proxy-Authorization", "Bearer token")),
        ("other cookies", request().header("Cookie", "a=b; Session=c; xsession=d; session_=e")),
        ("cookies of other names", request().header("Cookie", "app-session=a; sessio=n; =session")),
    ] {
        let answer = request.send();
        assert_eq!(backend_identity(&answer, what), [], "{what}");
        assert_eq!(verdict(&answer), "none no_credentials none", "{what}");
    }
    assert_eq!(authgear.connections_opened(), 0);

    // The cookie is looked up, and the password is not sent.
    let answer = request()
        .header("Authorization", "Basic c2VjcmV0OnNlY3JldA==")
        .cookie("session", &authgear.session(&User::named("alice")))
        .send();
    assert_eq!(verdict(&answer), "valid ok resolver");
    assert_eq!(answer.echo().header("authorization"), Some("Basic c2VjcmV0OnNlY3JldA=="));
    assert_eq!(authgear.requests()[0].header("authorization"), None);
}
