//! Mode auto: a token that can be verified here decides. Everything else is looked up at the
//! resolver.

use support::{decision_table, get, Backend, Builder, FakeAuthgear, Fault, Gate, SigningKey, User};

use crate::project::{project_site, verdict};
use crate::site::identity_of;

const JWKS: &str = "/oauth2/jwks";

fn deciding(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    project_site(authgear, backend, settings)
        .server("authgear p; authgear_mode auto; location / { proxy_pass http://%%BACKEND%%; }")
}

/// For every kind of credentials the backend learns the same as in mode resolver.
#[test]
fn auto_mode_tells_the_backend_the_same_as_resolver_mode() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = deciding(&authgear, &backend, "")
        .server("location /asked { authgear_mode resolver; proxy_pass http://%%BACKEND%%; }")
        .start();
    authgear.wait_for_jwks_hits(1);
    for case in decision_table(&authgear) {
        // Only the resolver knows of sessions that have ended and of users who may not have one.
        if matches!(
            case.name,
            "revoked JWT" | "bearer, disabled" | "bearer, disabled, and a good session"
        ) {
            continue;
        }
        let with = |path: &str| {
            let request = get(&nginx, path);
            case.headers.iter().fold(request, |request, (name, value)| request.header(name, value))
        };
        let (auto, asked) = (with("/").send(), with("/asked").send());
        assert_eq!(auto.status, asked.status, "{}", case.name);
        let mut identity = auto.echo().identity();
        // A token says how its user authenticated, where the resolver might not.
        identity.retain(|(name, value)| name != "x-authgear-session-amr" || !value.is_empty());
        assert_eq!(identity, asked.echo().identity(), "{}", case.name);
    }
}

#[test]
fn a_token_that_verifies_decides_without_the_resolver() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = deciding(&authgear, &backend, "").start();
    authgear.wait_for_jwks_hits(1);
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let jwt = authgear.jwt(&alice);
    let session = authgear.session(&bob);
    // Until the keys are fetched, the resolver is asked.
    support::eventually(support::DEADLINE, || {
        verdict(&get(&nginx, "/").bearer(&jwt).send()) == "valid ok jwt"
    });
    let hits = authgear.hits();
    for request in [get(&nginx, "/"), get(&nginx, "/").cookie("session", &session)] {
        let answer = request.bearer(&jwt).send();
        assert_eq!(verdict(&answer), "valid ok jwt");
        assert_eq!(answer.echo().identity(), identity_of(&alice));
    }
    assert_eq!(authgear.hits(), hits);
}

#[test]
fn the_resolver_decides_about_everything_but_verified_tokens() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = deciding(&authgear, &backend, "").workers(1).start();
    let alice = User::named("alice");
    let jwt = authgear.jwt(&alice);
    support::eventually(support::DEADLINE, || {
        verdict(&get(&nginx, "/").bearer(&jwt).send()) == "valid ok jwt"
    });
    let expired = || authgear.token(&alice).expires_in(-60).sign();
    let dead = authgear.session(&alice);
    authgear.expire(&dead);
    let bearer = |token: &str| get(&nginx, "/").bearer(token);
    let foreign = authgear.token(&alice).claim("iss", "https://elsewhere.test").sign();
    let machine = authgear.machine_token(authgear.origin()).sign();
    let rows = [
        ("opaque", bearer(&authgear.opaque_token(&alice)), "valid ok resolver", 1),
        (
            "session",
            get(&nginx, "/").cookie("session", &authgear.session(&alice)),
            "valid ok resolver",
            1,
        ),
        (
            "JWT in a cookie",
            get(&nginx, "/").cookie("app_access_token", &jwt),
            "valid ok resolver",
            1,
        ),
        // The resolver decides about tokens that fail here: it does not check the issuer.
        ("another issuer", bearer(&foreign), "valid ok resolver", 1),
        ("a machine's", bearer(&machine), "none no_session resolver", 1),
        ("an ID token", bearer(&authgear.id_token(&alice).sign()), "none no_session resolver", 1),
        ("expired", bearer(&expired()), "none token_expired jwt", 0),
        (
            "expired, and a session",
            bearer(&expired()).cookie("session", &authgear.session(&alice)),
            "valid ok resolver",
            1,
        ),
        (
            "expired, and a dead session",
            bearer(&expired()).cookie("session", &dead),
            "invalid session_invalid resolver",
            1,
        ),
        (
            "expired, and another cookie",
            bearer(&expired()).cookie("lang", "en"),
            "none token_expired jwt",
            0,
        ),
        ("nothing", get(&nginx, "/"), "none no_credentials none", 0),
    ];
    for (what, request, expected, asked) in rows {
        let before = authgear.hits();
        assert_eq!(verdict(&request.send()), expected, "{what}");
        assert_eq!(authgear.hits() - before, asked, "{what}");
        if asked == 1 {
            // The token is sent unchanged.
            let sent = authgear.requests().pop().expect("a request");
            for name in ["authorization", "cookie"] {
                assert_eq!(sent.header(name), request.header_value(name), "{what}");
            }
        }
    }
}

#[test]
fn no_request_waits_for_keys_in_auto_mode() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    authgear.inject_at(JWKS, Fault::Gate(gate.clone()));
    let nginx = deciding(&authgear, &backend, "").workers(2).start();
    gate.wait_for_waiters(1);
    let jwt = authgear.jwt(&User::named("alice"));
    assert_eq!(verdict(&get(&nginx, "/").bearer(&jwt).send()), "valid ok resolver");
    authgear.clear();
    gate.open();
    let verified = support::eventually(support::DEADLINE, || {
        verdict(&get(&nginx, "/").bearer(&jwt).send()) == "valid ok jwt"
    });
    assert!(verified);
    // For an unknown key the resolver is asked at once, and the keys are fetched meanwhile.
    let gate = Gate::new();
    authgear.inject_at(JWKS, Fault::Gate(gate.clone()));
    authgear.publish_keys(&[SigningKey::nth(1), SigningKey::nth(0)]);
    let new = authgear.token(&User::named("alice")).key(&SigningKey::nth(1)).sign();
    assert_eq!(verdict(&get(&nginx, "/").bearer(&new).send()), "valid ok resolver");
    gate.wait_for_waiters(1);
    gate.open();
    authgear.clear();
    let verified = support::eventually(support::DEADLINE, || {
        verdict(&get(&nginx, "/").bearer(&new).send()) == "valid ok jwt"
    });
    assert!(verified);
    assert_eq!(authgear.jwks_hits(), 2);
}

#[test]
fn verdicts_of_tokens_and_of_the_resolver_are_cached_separately() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = deciding(&authgear, &backend, "")
        .http("authgear_cache_zone z:1m;")
        .server(
            "authgear_cache z;
             location /asked { authgear_mode resolver; proxy_pass http://%%BACKEND%%; }
             location /strict { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let alice = User::named("alice");
    let jwt = authgear.jwt(&alice);
    let at = |path: &str| verdict(&get(&nginx, path).bearer(&jwt).send());
    assert_eq!(at("/strict"), "valid ok jwt");
    assert_eq!(at("/strict"), "valid ok cache");
    // Both locations verify the token in the same way.
    assert_eq!(at("/"), "valid ok cache");
    // Only the resolver knows that the session has ended.
    authgear.expire(&jwt);
    assert_eq!(at("/asked"), "none no_session resolver");
    assert_eq!(at("/asked"), "none no_session cache");
    assert_eq!(at("/strict"), "valid ok cache");
}
