//! The fake Authgear answers as the real one.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{json, Value};
use support::{
    decision_table, get, webhook_signature, Ca, Connection, Expect, FakeAuthgear, Fault, Gate,
    Request, ServerIdentity, SigningKey, User,
};

fn identity(headers: &http::HeaderMap) -> Vec<(String, String)> {
    let ours = headers.iter().filter(|(name, _)| name.as_str().starts_with("x-authgear-"));
    let mut found: Vec<_> = ours
        .map(|(name, value)| (name.to_string(), value.to_str().expect("ASCII").to_owned()))
        .collect();
    found.sort();
    found
}

fn asked_directly(authgear: &FakeAuthgear) {
    let agent = ureq::Agent::new_with_defaults();
    for case in decision_table(authgear) {
        let mut request = agent
            .get(authgear.resolver_url())
            .header("Host", "myapp.test")
            .header("X-Forwarded-Proto", "https");
        for (name, value) in &case.headers {
            request = request.header(*name, value);
        }
        let answer = request.call().unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(answer.status(), 200, "{}", case.name);
        assert_eq!(identity(answer.headers()), case.identity(), "{}", case.name);
        assert_eq!(answer.headers()["content-length"], "0");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers()["x-robots-tag"], "noindex, nofollow");
        assert_eq!(answer.headers()["permissions-policy"].len(), 673);
        assert!(answer.headers().contains_key("date"));

        let cookies: Vec<_> = answer.headers().get_all("set-cookie").iter().collect();
        if case.expect == (Expect::Invalid { cleared: true }) {
            let clear = format!(
                "{}session=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; Secure; \
                 SameSite=Lax",
                authgear.cookie_prefix()
            );
            assert_eq!(cookies, [&clear], "{}", case.name);
        } else {
            assert!(cookies.is_empty(), "{}", case.name);
        }
    }
}

#[test]
fn fake_follows_the_decision_table() {
    let authgear = FakeAuthgear::builder().origin("https://myapp.test").start();
    asked_directly(&authgear);
}

#[test]
fn fake_accepts_only_cookies_with_its_prefix() {
    let origin = "https://myapp.test";
    let authgear = FakeAuthgear::builder().origin(origin).cookie_prefix("dev_").start();
    asked_directly(&authgear);

    let session = authgear.session(&User::named("alice"));
    let answer =
        get(&authgear, "/resolve").header("Host", "myapp.test").cookie("session", &session);
    assert_eq!(answer.send().header("x-authgear-session-valid"), None);
}

#[test]
fn fake_routes_as_authgear_does() {
    let authgear = FakeAuthgear::start();
    let ask = |path| get(&authgear, path);
    assert_eq!(ask("/resolve").send().status, 200);
    assert_eq!(ask("/_resolver/resolve?x=y").send().status, 200);
    let head = ask("/resolve").method("HEAD").send();
    assert_eq!((head.status, head.header("content-length")), (200, None));
    let post = ask("/resolve").method("POST").send();
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD, OPTIONS".to_owned())));
    assert_eq!(ask("/other").send().status, 404);
    let stranger = ask("/resolve").header("Host", "other.test").send();
    assert_eq!((stranger.status, stranger.text().as_str()), (404, "app not found\n"));

    let v6 = FakeAuthgear::builder().listen("[::1]:0").start();
    let token = v6.jwt(&User::named("alice"));
    let answer = get(&v6, "/resolve").bearer(&token).send();
    assert_eq!(answer.header("x-authgear-user-id").as_deref(), Some("alice"));

    let any_host = FakeAuthgear::builder().database(false).start();
    assert_eq!(get(&any_host, "/resolve").header("Host", "other.test").send().status, 200);
}

#[test]
fn fake_takes_the_token_audience_from_host_and_scheme() {
    let alice = User::named("alice");
    let valid = |authgear: &FakeAuthgear, headers: [(&str, &str); 2]| {
        let request = get(authgear, "/resolve").bearer(&authgear.jwt(&alice));
        let request = headers.iter().fold(request, |r, (name, value)| r.header(name, value));
        let answer = request.send();
        (answer.status, answer.header("x-authgear-session-valid").is_some())
    };
    let build = || FakeAuthgear::builder().origin("https://myapp.test");
    let trusting = build().start();
    let proto = ("X-Forwarded-Proto", "https");
    assert_eq!(valid(&trusting, [("Host", "myapp.test"), proto]), (200, true));
    assert_eq!(valid(&trusting, [("X-Forwarded-Host", "myapp.test, a.test"), proto]), (200, true));
    assert_eq!(valid(&trusting, [("Host", "myapp.test:8443"), proto]), (200, false));
    assert_eq!(valid(&trusting, [("Host", "myapp.test"), ("Accept", "*/*")]), (200, false));
    let distrusting = build().trust_proxy(false).start();
    assert_eq!(valid(&distrusting, [("Host", "myapp.test"), proto]), (200, false));
    assert_eq!(valid(&distrusting, [("X-Forwarded-Host", "myapp.test"), proto]), (404, false));
}

#[test]
fn fake_publishes_its_keys_on_the_public_origin() {
    let authgear = FakeAuthgear::builder().origin("https://myapp.test").start();
    let elsewhere = get(&authgear, "/oauth2/jwks").header("Host", "myapp.test").send();
    assert_eq!(elsewhere.status, 307);
    assert_eq!(elsewhere.header("location").as_deref(), Some("https://myapp.test/oauth2/jwks"));

    let fetch = get(&authgear, "/oauth2/jwks")
        .header("Host", "myapp.test")
        .header("X-Forwarded-Proto", "https");
    let keys = fetch.send();
    assert_eq!(keys.header("content-type").as_deref(), Some("application/json"));
    assert_eq!(keys.json()["keys"][0], SigningKey::nth(0).jwk());
    assert_eq!(keys.header("cache-control"), None);

    let ask = |token: &str| {
        let request = get(&authgear, "/resolve").header("Host", "myapp.test");
        request.header("X-Forwarded-Proto", "https").bearer(token).send()
    };
    let alice = User::named("alice");
    let old = authgear.jwt(&alice);
    let forged = authgear.token(&alice).key(&SigningKey::nth(1)).sign();
    assert_eq!(ask(&forged).header("x-authgear-user-id"), None);
    authgear.publish_keys(&[SigningKey::nth(1)]);
    assert_eq!(ask(&old).header("x-authgear-user-id"), None);
    assert_eq!(ask(&forged).header("x-authgear-user-id").as_deref(), Some("alice"));
    assert_eq!((authgear.hits(), authgear.jwks_hits()), (3, 2));
}

#[test]
fn fake_signs_tokens_as_authgear_does() {
    let authgear = FakeAuthgear::builder().origin("https://myapp.test").start();
    let alice = User::named("alice").roles(&["editor"]).amr(&["pwd"]);
    let part = |token: &str, n: usize| -> Value {
        let part = token.split('.').nth(n).expect("three parts");
        let json = BASE64URL_NOPAD.decode(part.as_bytes()).expect("base64url");
        serde_json::from_slice(&json).expect("JSON")
    };
    let token = authgear.jwt(&alice);
    let kid = &SigningKey::nth(0).kid;
    assert_eq!(part(&token, 0), json!({"alg": "RS256", "kid": kid, "typ": "at+jwt"}));
    let claims = part(&token, 1);
    assert_eq!(claims["iss"], "https://myapp.test");
    assert_eq!(claims["aud"], json!(["https://myapp.test"]));
    assert_eq!(claims["exp"].as_i64(), claims["iat"].as_i64().map(|iat| iat + 1800));
    assert_eq!(claims["amr"], json!(["pwd"]));
    assert_eq!(claims["https://authgear.com/claims/user/roles"], json!(["editor"]));
    assert_eq!(claims["https://authgear.com/claims/user/is_anonymous"], false);
    assert_eq!(claims["jti"].as_str().map(str::len), Some(64));
    let without = part(&authgear.token(&alice).without_claim("exp").sign(), 1);
    assert_eq!(without.get("exp"), None);

    let user = |token: &str| {
        let request = get(&authgear, "/resolve").header("Host", "myapp.test").bearer(token);
        request.header("X-Forwarded-Proto", "https").send().header("x-authgear-user-id")
    };
    assert_eq!(user(&token).as_deref(), Some("alice"));
    let public = SigningKey::nth(0).jwk().to_string();
    assert_eq!(user(&authgear.token(&alice).forge_hs256(public.as_bytes())), None);
    assert_eq!(user(&authgear.token(&alice).forge_none()), None);
    assert_eq!(user(&authgear.token(&alice).without_header("kid").sign()), None);
}

#[test]
fn webhooks_are_signed_as_authgear_does() {
    // RFC 4231, test case 2.
    let signature = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
    assert_eq!(webhook_signature(b"Jefe", b"what do ya want for nothing?"), signature);
}

#[test]
fn fake_rejects_credentials_that_the_test_ended() {
    let authgear = FakeAuthgear::start();
    let alice = User::named("alice");
    let valid = |request: &Request| request.send().header("x-authgear-session-valid");
    let token = authgear.jwt(&alice);
    let bearer = get(&authgear, "/resolve").bearer(&token);
    assert_eq!(valid(&bearer).as_deref(), Some("true"));
    authgear.disable("alice");
    assert_eq!(valid(&bearer).as_deref(), Some("false"));
    authgear.change_user("alice", |user| user.disabled = false);
    assert_eq!(valid(&bearer).as_deref(), Some("true"));
    authgear.expire(&token);
    assert_eq!(valid(&bearer), None);
}

#[test]
fn fake_locks_sessions_during_a_look_up() {
    let authgear = FakeAuthgear::builder().session_mutex(true).start();
    let request =
        get(&authgear, "/resolve").cookie("session", &authgear.session(&User::named("a")));
    let gate = Gate::new();
    authgear.inject_next(1, Fault::Gate(gate.clone()));
    let first = request.start();
    gate.wait_for_waiters(1);
    let second = request.send();
    assert_eq!(second.status, 500);
    assert_eq!(second.json()["error"]["code"], 500);
    gate.open();
    assert_eq!(first.wait().status, 200);
    assert_eq!(request.send().status, 200);
}

#[test]
fn each_fault_behaves_as_named() {
    let authgear = FakeAuthgear::start();
    let request = get(&authgear, "/resolve").bearer(&authgear.opaque_token(&User::named("alice")));
    let with = |fault| {
        authgear.inject_next(1, fault);
        request.start().try_wait()
    };
    let answer = |fault| with(fault).expect("an answer");
    let user = |fault| answer(fault).header("x-authgear-user-id");
    let alice = Some("alice".to_owned());

    assert_eq!(answer(Fault::Status(503)).status, 503);
    assert_eq!(answer(Fault::StatusBody(500, b"oops".into())).text(), "oops");
    assert_eq!(
        answer(Fault::Headers(vec![("X-A".into(), "\u{e9}".into())])).all("x-a"),
        ["\u{e9}"]
    );
    assert_eq!(answer(Fault::Raw(b"HTTP/1.0 299 x\r\n\r\nbody".into())).text(), "body");
    assert_eq!(user(Fault::SilentBlank), None);
    assert_eq!(user(Fault::Chunked(b"chunks".into())), alice);
    assert_eq!(answer(Fault::Chunked(b"chunks".into())).text(), "chunks");
    assert_eq!(answer(Fault::LengthBody(b"whole".into())).text(), "whole");
    assert_eq!(answer(Fault::CloseDelimited(b"rest".into())).text(), "rest");
    let big = answer(Fault::Oversized { header: 70_000, body: 30_000 });
    assert_eq!((big.header("x-padding").map(|v| v.len()), big.body.len()), (Some(70_000), 30_000));
    let elsewhere = answer(Fault::Redirect(302, "http://other.test/".into()));
    assert_eq!(elsewhere.header("location").as_deref(), Some("http://other.test/"));
    for cut in [Fault::CloseAtOnce, Fault::CloseAfter(20)] {
        let error = with(cut).expect_err("a closed connection");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    }
    let error = with(Fault::Reset).expect_err("a reset connection");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(request.send().header("x-authgear-user-id"), alice);

    for hang in [Fault::Hang, Fault::HangAfter(20)] {
        let hits = authgear.hits();
        authgear.inject_next(1, hang);
        let pending = request.start();
        authgear.wait_for_hits(hits + 1);
        pending.leave();
        authgear.wait_for_no_connections();
    }
    authgear.inject_at("/_resolver/resolve", Fault::Status(502));
    assert_eq!(request.send().status, 200);
    authgear.inject(Fault::Status(501));
    assert_eq!(request.send().status, 501);
    assert_eq!(get(&authgear, "/_resolver/resolve").send().status, 502);
    authgear.clear();
    assert_eq!(request.send().status, 200);
}

#[test]
fn fake_closes_connections_on_demand() {
    let authgear = FakeAuthgear::start();
    let request = get(&authgear, "/resolve");
    let mut kept = Connection::open(&authgear);
    assert_eq!(kept.send(&request).status, 200);
    assert_eq!(kept.send(&request).status, 200);
    assert_eq!(authgear.connections_opened(), 1);
    assert_eq!(authgear.requests()[1].connection, 1);
    authgear.close_idle_connections();
    assert!(kept.is_closed());
    assert_eq!(authgear.connections_open(), 0);

    authgear.close_on_next_reuse();
    assert_eq!(request.send().status, 200);
    let mut kept = Connection::open(&authgear);
    assert_eq!(kept.send(&request).status, 200);
    kept.write(b"GET /resolve HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(kept.is_closed());
    assert_eq!(authgear.hits(), 5);

    authgear.inject(Fault::Hang);
    let addr = authgear.addr();
    let pending = request.start();
    authgear.wait_for_hits(6);
    authgear.stop();
    assert!(pending.try_wait().is_err());
    assert!(std::net::TcpStream::connect(addr).is_err());
    authgear.clear();
    authgear.restart_on(addr);
    assert_eq!(request.send().status, 200);
}

#[test]
fn fake_speaks_tls() {
    let ca = Ca::new();
    let serve = |identity: ServerIdentity| FakeAuthgear::builder().tls(identity).start();
    let authgear = serve(ca.leaf(&["myapp.test", "127.0.0.1"]));
    assert!(authgear.url().starts_with("https://127.0.0.1:"));
    let request = get(&authgear, "/resolve").bearer(&authgear.jwt(&User::named("alice")));
    let answer = request.clone().tls(&ca, "myapp.test").send();
    assert_eq!(answer.header("x-authgear-user-id").as_deref(), Some("alice"));
    assert_eq!(request.tls(&ca, "127.0.0.1").send().status, 200);
    assert_eq!(authgear.sni_seen(), [Some("myapp.test".to_owned()), None]);

    let refused = [
        (ca.leaf(&["other.test"]), "another name"),
        (ca.expired(&["myapp.test"]), "expired"),
        (Ca::new().leaf(&["myapp.test"]), "another authority"),
        (ServerIdentity::self_signed(&["myapp.test"]), "self-signed"),
    ];
    for (identity, why) in refused {
        let authgear = serve(identity);
        let request = get(&authgear, "/resolve").tls(&ca, "myapp.test");
        assert!(request.start().try_wait().is_err(), "{why}");
        assert_eq!(authgear.hits(), 0, "{why}");
        assert_eq!(authgear.sni_seen().len(), 1, "{why}");
    }
}
