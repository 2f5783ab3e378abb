//! Mode jwt: only tokens that Authgear signed for this project count, and the worker verifies them
//! itself.

use support::{
    get, unix_now, Backend, Builder, FakeAuthgear, Nginx, Request, Response, SigningKey, Token,
    User,
};

use crate::project::{project, project_site, verdict, TELLING};
use crate::site::{identity_of, site};

/// All locations verify tokens; `/must` requires a session.
fn verifying(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    project_site(authgear, backend, settings).http("large_client_header_buffers 8 64k;").server(
        "authgear p; authgear_mode jwt;
             location / { proxy_pass http://%%BACKEND%%; }
             location /must { authgear_require session; proxy_pass http://%%BACKEND%%; }",
    )
}

fn started(settings: &str) -> (FakeAuthgear, Backend, Nginx) {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = verifying(&authgear, &backend, settings).start();
    (authgear, backend, nginx)
}

fn alice() -> User {
    User::named("alice").roles(&["admin", "store:view"]).amr(&["pwd", "otp"])
}

#[test]
fn a_verified_token_has_the_verdict_of_the_resolver() {
    let (authgear, _backend, nginx) = started("");
    let users = [
        alice(),
        User { anonymous: true, verified: false, ..User::named("anon") },
        User { can_reauthenticate: false, authenticated_at: 0, ..User::named("none") },
    ];
    for user in users {
        for request in [get(&nginx, "/"), get(&nginx, "/must")] {
            let answer = request.bearer(&authgear.jwt(&user)).send();
            assert_eq!(verdict(&answer), "valid ok jwt");
            assert_eq!(answer.echo().identity(), identity_of(&user));
        }
    }
    assert_eq!((authgear.hits(), authgear.jwks_hits()), (0, 1));
}

#[test]
fn credentials_other_than_bearer_jwts_are_ignored() {
    let (authgear, _backend, nginx) = started("");
    let user = alice();
    let jwt = authgear.jwt(&user);
    let rows = [
        (get(&nginx, "/"), "none no_credentials none"),
        (get(&nginx, "/").bearer(&authgear.opaque_token(&user)), "none token_malformed jwt"),
        (get(&nginx, "/").cookie("session", &authgear.session(&user)), "none no_credentials none"),
        (
            get(&nginx, "/").cookie("app_session", &authgear.app_session(&user)),
            "none no_credentials none",
        ),
        (get(&nginx, "/").cookie("app_access_token", &jwt), "none no_credentials none"),
        (
            get(&nginx, "/").header("Authorization", format!("Basic {jwt}")),
            "none no_credentials none",
        ),
        (
            get(&nginx, "/").header("Authorization", format!("Bearer\t{jwt}")),
            "none no_credentials none",
        ),
        (
            get(&nginx, "/").header("Authorization", format!("Bearer  {jwt}")),
            "none token_malformed jwt",
        ),
        (get(&nginx, "/").header("Authorization", format!("bEARER {jwt}")), "valid ok jwt"),
        // Cookies are ignored, whoever they belong to.
        (
            get(&nginx, "/").bearer(&jwt).cookie("session", &authgear.session(&User::named("bob"))),
            "valid ok jwt",
        ),
    ];
    for (request, expected) in rows {
        let answer = request.send();
        assert_eq!(verdict(&answer), expected, "{request:?}");
        let is_valid = expected.starts_with("valid");
        assert_eq!(answer.echo().header("x-authgear-user-id"), is_valid.then_some("alice"));
    }
    assert_eq!(authgear.hits(), 0);
}

/// The parts of an answer that show why a token was rejected, where a session is required.
#[track_caller]
fn refused(answer: &Response) -> String {
    assert_eq!(answer.status, 401);
    let challenge = answer.header("www-authenticate").unwrap_or_default();
    assert_eq!(challenge, "Bearer error=\"invalid_token\"");
    let reported = verdict(answer);
    reported
        .strip_prefix("none ")
        .and_then(|reported| reported.strip_suffix(" jwt"))
        .expect(&reported)
        .to_owned()
}

fn mangle(token: &str, at: impl Fn(usize) -> usize, by: char) -> String {
    let mut chars: Vec<char> = token.chars().collect();
    let at = at(chars.len());
    chars[at] = if chars[at] == by { 'B' } else { by };
    chars.into_iter().collect()
}

/// The main rows of the attack list; the core's tests have all of them.
#[test]
fn each_rejected_token_is_denied_with_its_reason() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    // nginx's own debug lines contain all headers.
    let nginx = verifying(&authgear, &backend, "").error_level("info").start();
    let good = || authgear.token(&alice());
    let other_key = SigningKey::nth(1);
    let jwk = SigningKey::nth(0).jwk().to_string();
    let parts: Vec<String> = good().sign().split('.').map(str::to_owned).collect();
    let huge = "x".repeat(17_000);
    let rows: Vec<(&str, String, &str)> = vec![
        ("another signature", mangle(&good().sign(), |len| len - 20, 'A'), "token_signature"),
        (
            "another payload",
            mangle(&good().sign(), |_| parts[0].len() + 30, 'A'),
            "token_signature",
        ),
        ("no signature", format!("{}.{}.", parts[0], parts[1]), "token_signature"),
        ("two parts", format!("{}.{}", parts[0], parts[1]), "token_malformed"),
        ("five parts", format!("{}.a.b", good().sign()), "token_malformed"),
        ("padding", format!("{}=", good().sign()), "token_malformed"),
        ("no JWT", "eyJ".to_owned(), "token_malformed"),
        ("alg none", good().header("alg", "none").sign(), "token_algorithm"),
        ("alg nOnE", good().header("alg", "nOnE").sign(), "token_algorithm"),
        ("alg PS256", good().header("alg", "PS256").sign(), "token_algorithm"),
        ("no alg", good().without_header("alg").sign(), "token_algorithm"),
        ("HMAC with the JWK", good().forge_hs256(jwk.as_bytes()), "token_algorithm"),
        ("an ID token", authgear.id_token(&alice()).sign(), "token_type"),
        ("typ JWT", good().header("typ", "JWT").sign(), "token_type"),
        ("no typ", good().without_header("typ").sign(), "token_type"),
        ("cty JWT", good().header("cty", "JWT").sign(), "token_type"),
        ("crit", good().header("crit", vec!["exp"]).sign(), "token_critical"),
        ("b64", good().header("b64", false).sign(), "token_critical"),
        (
            "its own key",
            good().header("jwk", SigningKey::nth(1).jwk()).key(&other_key).sign(),
            "token_unknown_key",
        ),
        (
            "another's key",
            good().key(&other_key).header("kid", SigningKey::nth(0).kid.as_str()).sign(),
            "token_signature",
        ),
        ("an unknown key", good().header("kid", "../../dev/null").sign(), "token_unknown_key"),
        ("a long header", good().header("x", "x".repeat(5000)).sign(), "token_too_large"),
        ("an empty kid", good().header("kid", "").sign(), "token_malformed"),
        (
            "another issuer",
            good().claim("iss", format!("{}/", authgear.origin())).sign(),
            "token_issuer",
        ),
        (
            "another audience",
            good().claim("aud", vec!["https://other.test"]).sign(),
            "token_audience",
        ),
        ("expired", good().expires_in(-60).sign(), "token_expired"),
        ("never expires", good().without_claim("exp").sign(), "token_missing_claim"),
        ("not yet", good().claim("nbf", unix_now() + 60).sign(), "token_not_yet_valid"),
        ("from the future", good().claim("iat", unix_now() + 60).sign(), "token_not_yet_valid"),
        ("no subject", good().without_claim("sub").sign(), "token_missing_claim"),
        (
            "a header within",
            good().claim("sub", "a\r\nx-authgear-user-id: admin").sign(),
            "token_claims",
        ),
        (
            "a role of two",
            good().claim("https://authgear.com/claims/user/roles", vec!["a,admin"]).sign(),
            "token_claims",
        ),
        ("a machine's", authgear.machine_token(authgear.origin()).sign(), "token_machine"),
        ("too large", good().claim("x", huge).sign(), "no_credentials"),
    ];
    for (what, token, reason) in rows {
        let answer = get(&nginx, "/must").bearer(&token).send();
        if reason == "no_credentials" {
            assert_eq!(verdict(&answer), "none no_credentials none", "{what}");
        } else {
            assert_eq!(refused(&answer), reason, "{what}");
        }
    }
    let typ = |typ: &str| good().header("typ", typ).sign();
    for token in [good().sign(), typ("AT+JWT"), typ("application/at+jwt")] {
        assert_eq!(verdict(&get(&nginx, "/must").bearer(&token).send()), "valid ok jwt");
    }
    assert_eq!(authgear.hits(), 0);
    let log = nginx.error_log();
    assert!(!log.contains(&parts[1][..40]), "{log}");
    assert!(log.contains("authgear denied access: token_expired, client: 127.0.0.1"), "{log}");
}

#[test]
fn a_token_must_name_its_key_where_there_are_several() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nameless = authgear.token(&alice()).without_header("kid").sign();
    let nginx = verifying(&authgear, &backend, "").start();
    assert_eq!(verdict(&get(&nginx, "/").bearer(&nameless).send()), "valid ok jwt");
    authgear.publish_keys(&[SigningKey::nth(0), SigningKey::nth(1)]);
    let nginx = verifying(&authgear, &backend, "").start();
    assert_eq!(refused(&get(&nginx, "/must").bearer(&nameless).send()), "token_no_kid");
}

#[test]
fn settings_of_the_project_restrict_the_accepted_tokens() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(project(
            "machines",
            &authgear,
            "machine_tokens on; audience https://api.test http://b.test;",
        ))
        .http(project("late", &authgear, "leeway 1m;"))
        .http(project("strict", &authgear, "algorithms ES256 PS256;"))
        .server(TELLING)
        .server("add_header X-Client \"$authgear_claim_client_id\" always; authgear_mode jwt;")
        .server(
            "location /machines { authgear machines; proxy_pass http://%%BACKEND%%; }
             location /late { authgear late; proxy_pass http://%%BACKEND%%; }
             location /strict { authgear strict; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let ask = |path: &str, token: Token| get(&nginx, path).bearer(&token.sign()).send();
    let machine = ask("/machines", authgear.machine_token("https://api.test"));
    assert_eq!(verdict(&machine), "valid ok jwt");
    assert_eq!(machine.header("x-client").as_deref(), Some("4b60ac4a9a2a4a3b"));
    let identity = [("x-authgear-session-valid".to_owned(), "true".to_owned())];
    assert_eq!(machine.echo().identity(), identity);
    let rows = [
        ("/machines", authgear.machine_token("https://other.test"), "none token_audience jwt"),
        ("/machines", authgear.token(&alice()), "none token_audience jwt"),
        ("/machines", authgear.token(&alice()).claim("aud", "http://b.test"), "valid ok jwt"),
        ("/late", authgear.token(&alice()).expires_in(-30), "valid ok jwt"),
        ("/late", authgear.token(&alice()).claim("iat", unix_now() + 30), "valid ok jwt"),
        ("/late", authgear.token(&alice()).expires_in(-90), "none token_expired jwt"),
        ("/late", authgear.machine_token(authgear.origin()), "none token_machine jwt"),
        // RS256 is not allowed, and the set has no key for other algorithms.
        ("/strict", authgear.token(&alice()), "error keys_unavailable jwt"),
    ];
    for (path, token, expected) in rows {
        assert_eq!(verdict(&ask(path, token.clone())), expected, "{path} {token:?}");
    }
    let log = nginx.error_log();
    assert!(
        log.contains("authgear keys not fetched, there are none: the key set has no usable key")
    );
    nginx.allow_log("authgear keys not fetched");
}

#[test]
fn claims_of_verified_tokens_are_variables() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = verifying(&authgear, &backend, "")
        .http("authgear_cache_zone z:1m;")
        .server(
            "add_header X-Claims \"$authgear_claim_client_id|$authgear_claim_scope|\
             $authgear_claim_aud|$authgear_claim_exp|$authgear_claim_customid|\
             $authgear_claim_custom_id|$authgear_claim_object|$authgear_claim_none\" always;
             location /kept { authgear_cache z; proxy_pass http://%%BACKEND%%; }
             location /resolver { authgear_mode resolver; proxy_pass http://%%BACKEND%%; }
             location = /away { authgear_require role=nobody; error_page 403 /elsewhere; }
             location = /elsewhere { authgear off; return 200; }
             location /dry { authgear_require verified; authgear_dry_run on; return 200; }",
        )
        .start();
    let exp = unix_now() + 600;
    let token = authgear
        .token(&alice())
        .claim("scope", "read write")
        .claim("exp", exp)
        .claim("customId", 7)
        .claim("custom-id", true)
        .claim("object", serde_json::json!({"a": [1, null]}))
        .claim("none", serde_json::Value::Null);
    let claims = format!(
        "4b60ac4a9a2a4a3b|read write|{}|{exp}|7|true|{{\"a\":[1,null]}}|",
        authgear.origin()
    );
    let good = token.clone().sign();
    let reported = |request: Request| request.send().header("x-claims").unwrap_or_default();
    for path in ["/", "/must", "/kept", "/kept", "/away"] {
        assert_eq!(reported(get(&nginx, path).bearer(&good)), claims, "{path}");
    }
    // Claims of tokens that were not verified here are not used.
    for request in [
        get(&nginx, "/resolver").bearer(&good),
        get(&nginx, "/").bearer(&token.clone().expires_in(-5).sign()),
        get(&nginx, "/").bearer(&token.key(&SigningKey::nth(1)).sign()),
        get(&nginx, "/"),
    ] {
        assert_eq!(reported(request), "|||||||");
    }
}

#[test]
fn a_verified_token_is_cached_until_it_expires() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = verifying(&authgear, &backend, "")
        .workers(2)
        .http("authgear_cache_zone z:1m;")
        .server("authgear_cache z; add_header X-Cache $authgear_cache_status always;")
        .start();
    let cache = |answer: &Response| answer.header("x-cache").expect("a cache status");
    let token = authgear.jwt(&alice());
    let first = get(&nginx, "/").bearer(&token).send();
    assert_eq!((verdict(&first), cache(&first)), ("valid ok jwt".into(), "MISS".into()));
    for _ in 0..20 {
        let answer = get(&nginx, "/").bearer(&token).send();
        assert_eq!((verdict(&answer), cache(&answer)), ("valid ok cache".into(), "HIT".into()));
        assert_eq!(answer.echo().identity(), identity_of(&alice()));
    }
    // Cookies are ignored.
    let answer = get(&nginx, "/").bearer(&token).cookie("session", "x").send();
    assert_eq!(cache(&answer), "HIT");
    // Rejected tokens are verified anew each time.
    for _ in 0..2 {
        let answer = get(&nginx, "/").bearer(&mangle(&token, |len| len - 9, 'A')).send();
        assert_eq!(
            (verdict(&answer), cache(&answer)),
            ("none token_signature jwt".into(), "MISS".into())
        );
    }
    let short = authgear.token(&alice()).expires_in(2).sign();
    let expired = support::eventually(std::time::Duration::from_secs(10), || {
        let answer = get(&nginx, "/").bearer(&short).send();
        let reported = verdict(&answer);
        assert!(
            reported.starts_with("valid ok") || reported == "none token_expired jwt",
            "{reported}"
        );
        reported.starts_with("none")
    });
    assert!(expired);
    assert_eq!(authgear.hits(), 0);
}

#[test]
fn each_mode_makes_its_own_verdict_within_one_request() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = verifying(&authgear, &backend, "")
        .server(
            "location = /start { authgear_require role=nobody; error_page 403 = @resolver; }
             location @resolver { authgear_mode resolver; error_page 404 = @again;
               proxy_intercept_errors on; proxy_pass http://%%BACKEND%%; }
             location @again { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.jwt(&alice());
    authgear.expire(&token);
    let answer = get(&nginx, "/start").bearer(&token).send();
    // The look-up finds an ended session, in a location that denies no one.
    assert_eq!(verdict(&answer), "none role_missing resolver");
    assert_eq!(answer.echo().header("x-authgear-session-valid"), None);
    assert_eq!(authgear.hits(), 1);
}
