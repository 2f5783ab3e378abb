//! `authgear_userinfo`: the profile of the user in variables, asked once, kept and purged as the
//! verdict is.

use serde_json::json;
use support::{get, Backend, Builder, FakeAuthgear, Fault, Nginx, Recorded, User};

use crate::site::site;

const USERINFO: &str = "/oauth2/userinfo";

/// A site whose backend gets the e-mail address, verified and not.
fn profiles(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    site(authgear, backend)
        .http("authgear_cache_zone z:1m; keepalive_requests 1000000;")
        .server("authgear %%AUTHGEAR%%; authgear_userinfo on;")
        .server("authgear_cache_valid valid=1h invalid=1h;")
        .server(
            "authgear_header X-Email $authgear_user_email;
             authgear_header X-Email-Unverified $authgear_user_email_unverified;
             authgear_header X-Name $authgear_user_name;
             authgear_header X-Team $authgear_user_custom_team;",
        )
        .server(settings)
        .server(
            "location / { proxy_pass http://%%BACKEND%%; }
             location /off/ { authgear_userinfo off; proxy_pass http://%%BACKEND%%; }
             location /purge { authgear off; authgear_purge admin; allow all; }",
        )
}

fn headers<'a>(echo: &'a Recorded, names: &[&str]) -> Vec<Option<&'a str>> {
    names.iter().map(|name| echo.header(name)).collect()
}

#[test]
fn only_a_verified_email_is_the_email() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = profiles(&authgear, &backend, "authgear_cache z;").start();
    for (user, verified) in [("alice", true), ("mallory", false)] {
        let claims = json!({
            "email": "admin@acme.test", "email_verified": verified, "name": "Zo\u{eb}",
            "custom_attributes": { "team": "red" },
        });
        authgear.set_profile(user, claims);
        let user = User::named(user);
        for request in [
            get(&nginx, "/").bearer(&authgear.opaque_token(&user)),
            get(&nginx, "/").cookie("session", &authgear.session(&user)),
        ] {
            let echo = request.header("X-Email", "forged").send().echo();
            let names = ["X-Email", "X-Email-Unverified", "X-Name", "X-Team"];
            let email = verified.then_some("admin@acme.test");
            let expected = [email, Some("admin@acme.test"), Some("Zo%C3%AB"), Some("red")];
            assert_eq!(headers(&echo, &names), expected, "{}", user.id);
        }
    }
}

#[test]
fn userinfo_is_asked_once_for_a_session_over_all_workers() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = profiles(&authgear, &backend, "authgear_cache z;").workers(4).start();
    authgear.set_profile("alice", json!({ "name": "Alice" }));
    let session = authgear.session(&User::named("alice"));
    for _ in 0..20 {
        let echo = get(&nginx, "/").cookie("session", &session).send().echo();
        assert_eq!(echo.header("X-Name"), Some("Alice"));
    }
    assert_eq!((authgear.userinfo_hits(), authgear.hits()), (1, 2));
}

#[test]
fn userinfo_is_not_asked_where_nothing_needs_it() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    authgear.set_profile("alice", json!({ "name": "Alice" }));
    let token = authgear.opaque_token(&User::named("alice"));
    let nginx = profiles(&authgear, &backend, "").start();
    let off = get(&nginx, "/off/").bearer(&token).send().echo();
    assert_eq!((off.header("X-Name"), off.identity().is_empty()), (None, false));
    get(&nginx, "/").bearer("nobody's").send().echo();
    get(&nginx, "/").send().echo();
    let unused = site(&authgear, &backend)
        .server("authgear %%AUTHGEAR%%; authgear_userinfo on;")
        .server("location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    get(&unused, "/").bearer(&token).send().echo();
    assert_eq!(authgear.userinfo_hits(), 0);
}

#[test]
fn a_failure_follows_authgear_on_error() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = profiles(&authgear, &backend, "authgear_cache z;")
        .server(
            "location /open/ { authgear_on_error anonymous; proxy_pass http://%%BACKEND%%; }
             location /member/ {
               authgear_on_error anonymous;
               authgear_require session;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .allow_log("authgear userinfo failed")
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    for fault in [
        Fault::Status(500),
        Fault::Status(403),
        Fault::CloseAtOnce,
        Fault::Redirect(307, "http://127.0.0.1:1/".into()),
        Fault::StatusBody(200, b"<html>".to_vec()),
        Fault::StatusBody(200, br#"{"sub":"somebody else","name":"x"}"#.to_vec()),
    ] {
        authgear.inject_at(USERINFO, fault);
        assert_eq!(get(&nginx, "/").bearer(&token).send().status, 503);
        let open = get(&nginx, "/open/").bearer(&token).send().echo();
        assert!(open.identity().is_empty(), "{:?}", open.identity());
        assert!(get(&nginx, "/member/").bearer(&token).send().status >= 400);
        assert_eq!(get(&nginx, "/off/").bearer(&token).send().status, 200);
        authgear.clear();
    }
}

/// `$authgear_reason` of a session that nginx has not seen.
fn reason(nginx: &Nginx, authgear: &FakeAuthgear) -> String {
    let token = authgear.opaque_token(&User::named("alice"));
    get(nginx, "/").bearer(&token).send().header("x-reason").unwrap_or_default()
}

#[test]
fn errors_of_userinfo_for_one_client_do_not_suspend_it_for_others() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let telling = "add_header X-Reason $authgear_reason always;";
    let nginx = profiles(&authgear, &backend, telling)
        .workers(1)
        .allow_log("authgear userinfo failed")
        .start();
    authgear.inject_at(USERINFO, Fault::Status(500));
    for _ in 0..6 {
        assert_eq!(reason(&nginx, &authgear), "bad_status");
    }
    authgear.clear();
    assert_eq!(reason(&nginx, &authgear), "ok");
}

#[test]
fn refusals_by_userinfo_do_not_hide_that_it_fails() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let telling = "add_header X-Reason $authgear_reason always;";
    let nginx = profiles(&authgear, &backend, telling)
        .workers(1)
        .allow_log("authgear userinfo failed")
        .start();
    let mut reasons = Vec::new();
    for fault in [Fault::CloseAtOnce, Fault::Status(403)].iter().cycle().take(12) {
        authgear.inject_at(USERINFO, fault.clone());
        reasons.push(reason(&nginx, &authgear));
    }
    assert!(reasons.contains(&"resolver_suspended".to_owned()), "{reasons:?}");
}

#[test]
fn a_session_that_userinfo_does_not_know_has_no_profile() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = profiles(&authgear, &backend, "authgear_cache z;").start();
    let token = authgear.opaque_token(&User::named("no profile"));
    let echo = get(&nginx, "/").bearer(&token).send().echo();
    assert_eq!((echo.header("X-Name"), echo.identity().is_empty()), (None, false));
}

#[test]
fn a_purge_of_the_user_makes_every_worker_forget_the_profile() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = profiles(&authgear, &backend, "authgear_cache z;").workers(4).start();
    let session = authgear.session(&User::named("alice"));
    let names = || -> Vec<Option<String>> {
        let ask = |_| get(&nginx, "/").cookie("session", &session).send().echo();
        (0..20).map(|n| ask(n).header("X-Name").map(str::to_owned)).collect()
    };
    authgear.set_profile("alice", json!({ "name": "Before" }));
    assert_eq!(names(), vec![Some("Before".to_owned()); 20]);
    authgear.set_profile("alice", json!({ "name": "After" }));
    assert_eq!(names(), vec![Some("Before".to_owned()); 20]);
    let purge = get(&nginx, "/purge?user=alice").method("POST").send();
    assert_eq!(purge.status, 204);
    assert_eq!(names(), vec![Some("After".to_owned()); 20]);
    assert_eq!(authgear.userinfo_hits(), 2);
}

#[test]
fn simultaneous_requests_ask_userinfo_once() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = profiles(&authgear, &backend, "authgear_cache z;").workers(2).start();
    authgear.set_profile("alice", json!({ "name": "Alice" }));
    let token = authgear.opaque_token(&User::named("alice"));
    // The verdict is known before.
    get(&nginx, "/off/").bearer(&token).send();
    let gate = support::Gate::new();
    authgear.inject_at(USERINFO, Fault::Gate(gate.clone()));
    std::thread::scope(|scope| {
        let asking: Vec<_> = (0..10)
            .map(|_| scope.spawn(|| get(&nginx, "/").bearer(&token).send().echo()))
            .collect();
        authgear.wait_for_userinfo_hits(1);
        gate.open();
        for request in asking {
            let echo = request.join().expect("an answer");
            assert_eq!(echo.header("X-Name"), Some("Alice"));
        }
    });
    assert_eq!(authgear.userinfo_hits(), 1);
}

#[test]
fn the_profile_of_a_verified_token_is_asked_with_the_token_alone() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let jwt = "location /jwt/ { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }
               location /auto/ { authgear_mode auto; proxy_pass http://%%BACKEND%%; }";
    let nginx = profiles(&authgear, &backend, "authgear_cache z;").server(jwt).start();
    authgear.set_profile("alice", json!({ "name": "Alice" }));
    authgear.set_profile("bob", json!({ "name": "Bob" }));
    let token = authgear.jwt(&User::named("alice"));
    let cookie = authgear.session(&User::named("bob"));
    for path in ["/jwt/", "/auto/"] {
        let echo = get(&nginx, path).bearer(&token).cookie("session", &cookie).send().echo();
        assert_eq!(echo.header("X-Name"), Some("Alice"), "{path}");
    }
    let asked = authgear.requests().into_iter().filter(|request| request.target == USERINFO);
    let cookies: Vec<_> = asked.map(|request| request.header("Cookie").is_some()).collect();
    assert_eq!(cookies, [false]);
}
