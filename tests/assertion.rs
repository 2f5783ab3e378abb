//! `authgear_assertion`: the identity as a signed JWT, and how backends check it.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::time::Duration;

use authgear::assertion::{Issuer, SigningKey, Term};
use authgear::identity::Identity;
use data_encoding::BASE64URL_NOPAD;
use serde_json::{json, Value};
use support::{
    eventually, get, private_key, unix_now, Backend, Builder, FakeAuthgear, Fault, KeyType, Nginx,
    Request, User, DEADLINE,
};

use crate::project::project;
use crate::real_clients::text;
use crate::site::{assert_nothing_forged, report_skipped, site, FORGED, KINDS};

const ISSUER: &str = "https://www.example.com";
const AUDIENCE: &str = "https://orders.internal";
const HEADER: &str = "x-authgear-assertion";

fn part(jwt: &str, n: usize) -> Value {
    let part = jwt.split('.').nth(n).expect("a part");
    let bytes = BASE64URL_NOPAD.decode(part.as_bytes()).expect("base64url");
    serde_json::from_slice(&bytes).expect("JSON")
}

fn claims(jwt: &str) -> Value {
    part(jwt, 1)
}

/// A site whose `/` has assertions by the key in `a.pem`. `/keys` publishes it.
fn signing(authgear: &FakeAuthgear, backend: &Backend, more: &str) -> Builder {
    site(authgear, backend)
        .secret_file("a.pem", private_key(KeyType::P256))
        .secret_file("b.pem", private_key(KeyType::Ed25519))
        .http(project("p", authgear, "max_fails 0;"))
        .http("authgear_cache_zone z:1m;")
        .server(format!(
            "authgear p;
             authgear_cache z;
             authgear_public_origin {ISSUER};
             authgear_assertion %%DIR%%/a.pem audience={AUDIENCE};
             location / {{ proxy_pass http://%%BACKEND%%; }}
             location = /keys {{ authgear_assertion_keys; }}
             {more}"
        ))
}

/// The assertion that the backend gets.
#[track_caller]
fn assertion(request: &Request) -> Option<String> {
    let echo = request.send().echo();
    let all = echo.all(HEADER);
    assert!(all.len() <= 1, "{all:?}");
    all.first().map(|jwt| (*jwt).to_owned())
}

#[track_caller]
fn assertion_of(nginx: &Nginx, path: &str, token: &str) -> String {
    assertion(&get(nginx, path).bearer(token)).expect("an assertion")
}

#[test]
fn the_backend_gets_the_session_signed_for_it() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = signing(
        &authgear,
        &backend,
        "location /ed {
           authgear_assertion b.pem audience=urn:ed issuer=https://other.test ttl=10m header=X-Jwt;
           authgear_set_headers off;
           proxy_pass http://%%BACKEND%%;
         }
         location = /ed/keys {
           authgear_assertion b.pem audience=urn:ed;
           authgear_assertion_keys;
         }",
    )
    .start();
    let user = User { authenticated_at: 1_700_000_000, ..User::named("alice").roles(&["editor"]) };
    let token = authgear.opaque_token(&user);
    let keys = get(&nginx, "/keys").send();
    assert_eq!(keys.status, 200);
    assert_eq!(keys.header("content-type").as_deref(), Some("application/jwk-set+json"));
    assert_eq!(keys.header("cache-control").as_deref(), Some("max-age=300"));
    let key = keys.json()["keys"][0].clone();
    assert_eq!(
        (&key["kty"], &key["crv"], &key["use"]),
        (&json!("EC"), &json!("P-256"), &json!("sig"))
    );
    assert_eq!(key.get("d"), None);

    let jwt = assertion_of(&nginx, "/", &token);
    let header = json!({ "alg": "ES256", "typ": "authgear-assertion+jwt", "kid": key["kid"] });
    assert_eq!(part(&jwt, 0), header);
    let told = claims(&jwt);
    let issued_at = told["iat"].as_i64().expect("a time");
    assert!((unix_now() - 10..=unix_now()).contains(&issued_at));
    assert_eq!(
        told,
        json!({
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "alice",
            "iat": issued_at,
            "exp": issued_at + 60,
            "x-authgear-session-valid": "true",
            "x-authgear-user-id": "alice",
            "x-authgear-user-anonymous": "false",
            "x-authgear-user-verified": "true",
            "x-authgear-user-can-reauthenticate": "true",
            "x-authgear-user-roles": "editor",
            "x-authgear-session-authenticated-at": "1700000000",
        })
    );

    let echo = get(&nginx, "/ed").bearer(&token).send().echo();
    assert_eq!(echo.identity(), []);
    let jwt = echo.header("x-jwt").expect("an assertion");
    let key = get(&nginx, "/ed/keys").send().json()["keys"][0].clone();
    assert_eq!((&key["kty"], &key["crv"]), (&json!("OKP"), &json!("Ed25519")));
    assert_eq!((&part(jwt, 0)["alg"], &part(jwt, 0)["kid"]), (&json!("EdDSA"), &key["kid"]));
    let told = claims(jwt);
    assert_eq!((&told["iss"], &told["aud"]), (&json!("https://other.test"), &json!("urn:ed")));
    let (from, until) = (told["iat"].as_i64(), told["exp"].as_i64());
    assert_eq!(until, from.map(|from| from + 600));
}

#[test]
fn the_client_s_own_assertion_reaches_no_backend_of_the_server() {
    let authgear = FakeAuthgear::start();
    let token = authgear.opaque_token(&User::named("alice"));
    for kind in KINDS {
        let backend = (kind.start)();
        let pass = kind.pass;
        let nginx = site(&authgear, &backend)
            .http("underscores_in_headers on; ignore_invalid_headers off;")
            .allow_log("in a server with \"authgear\"")
            .secret_file("a.pem", private_key(KeyType::P256))
            .server(format!(
                "authgear_public_origin {ISSUER};
                 location / {{
                   authgear %%AUTHGEAR%%;
                   authgear_assertion a.pem audience={AUDIENCE};
                   {pass}
                 }}
                 location /custom/ {{
                   authgear %%AUTHGEAR%%;
                   authgear_assertion a.pem audience={AUDIENCE} header=X-Signed-User;
                   {pass}
                 }}
                 location /none/ {{ {pass} }}"
            ))
            .start();
        for (path, own) in
            [("/", Some(HEADER)), ("/custom/", Some("x-signed-user")), ("/none/", None)]
        {
            for session in [true, false] {
                let mut request = get(&nginx, path);
                if session {
                    request = request.bearer(&token);
                }
                for alias in
                    ["X-Authgear-Assertion", "x_authgear_assertion", "X.Authgear.Assertion"]
                {
                    request = request.header(alias, FORGED);
                }
                for alias in ["X-Signed-User", "X_Signed_User", "x.signed-user"] {
                    request = request.header(alias, FORGED);
                }
                let echo = request.send().echo();
                let what = format!("{} {path} {session}", kind.name);
                assert_nothing_forged(&echo, &what);
                for name in [HEADER, "x-signed-user"] {
                    let param = format!("HTTP_{}", name.to_ascii_uppercase().replace('-', "_"));
                    let found = echo.header(name).or(echo.header(&param));
                    assert_eq!(found.is_some(), session && own == Some(name), "{what} {name}");
                }
            }
        }
    }
}

#[test]
fn nobody_without_a_session_gets_one() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = signing(
        &authgear,
        &backend,
        "location /open { authgear_on_error anonymous; proxy_pass http://%%BACKEND%%; }
         location /off { authgear_assertion off; proxy_pass http://%%BACKEND%%; }
         location /left { try_files /nothing @left; }
         location @left { authgear_assertion off; proxy_pass http://%%BACKEND%%; }",
    )
    .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let ended = authgear.session(&User::named("bob"));
    authgear.expire(&ended);
    assert_eq!(assertion(&get(&nginx, "/")), None);
    assert_eq!(assertion(&get(&nginx, "/").bearer("dead")), None);
    assert_eq!(assertion(&get(&nginx, "/").cookie("session", &ended)), None);
    for path in ["/off", "/left"] {
        assert_eq!(assertion(&get(&nginx, path).bearer(&token)), None, "{path}");
    }
    authgear.inject(Fault::Status(500));
    assert_eq!(assertion(&get(&nginx, "/open").bearer("new")), None);
}

#[test]
fn one_assertion_serves_many_requests_for_half_its_time() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = signing(
        &authgear,
        &backend,
        &format!(
            "location /same {{
               authgear_assertion a.pem audience={AUDIENCE} issuer={ISSUER};
               proxy_pass http://%%BACKEND%%;
             }}
             location /other {{
               authgear_assertion a.pem audience=urn:other;
               proxy_pass http://%%BACKEND%%;
             }}
             location /short {{
               authgear_assertion a.pem audience={AUDIENCE} ttl=2s;
               proxy_pass http://%%BACKEND%%;
             }}"
        ),
    )
    // The worker has room for one verdict, and reads the others from the zone.
    .http("authgear_cache_zone small:1m front=1;")
    .server("location /small { authgear_cache small; proxy_pass http://%%BACKEND%%; }")
    .workers(1)
    .start();
    let tokens = ["alice", "bob", "carol"].map(|name| authgear.opaque_token(&User::named(name)));
    // A signature by ECDSA is random: the same text was signed once.
    for path in ["/", "/small"] {
        let first = tokens.each_ref().map(|token| assertion_of(&nginx, path, token));
        for _ in 0..3 {
            let again = tokens.each_ref().map(|token| assertion_of(&nginx, path, token));
            assert_eq!(again, first, "{path}");
        }
    }
    let alice = &tokens[0];
    let first = assertion_of(&nginx, "/", alice);
    assert_eq!(assertion_of(&nginx, "/same", alice), first);
    let other = assertion_of(&nginx, "/other", alice);
    assert_eq!(claims(&other)["aud"], "urn:other");
    // Each audience has its own, whichever was given last.
    for _ in 0..3 {
        assert_eq!(assertion_of(&nginx, "/", alice), first);
        assert_eq!(assertion_of(&nginx, "/other", alice), other);
    }
    // A change of the user is told at once.
    let bob = assertion_of(&nginx, "/", &tokens[1]);
    assert_eq!((&claims(&first)["sub"], &claims(&bob)["sub"]), (&json!("alice"), &json!("bob")));

    let short = assertion_of(&nginx, "/short", alice);
    let mut next = short.clone();
    assert!(eventually(DEADLINE, || {
        next = assertion_of(&nginx, "/short", alice);
        next != short
    }));
    let issued_at = |jwt: &str| claims(jwt)["iat"].as_i64().expect("a time");
    assert!(issued_at(&next) > issued_at(&short));
    assert_eq!(assertion_of(&nginx, "/", alice), first);
}

#[test]
fn an_assertion_ends_with_the_token_of_the_session() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = signing(
        &authgear,
        &backend,
        "location /jwt { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }
         location /plain { authgear_mode jwt; authgear_cache off; proxy_pass http://%%BACKEND%%; }
         location /uncached { authgear_cache off; proxy_pass http://%%BACKEND%%; }",
    )
    .start();
    let alice = User::named("alice");
    let expiring = |seconds| authgear.token(&alice).expires_in(seconds).sign();
    for path in ["/", "/jwt", "/plain", "/uncached"] {
        // The same identity, by tokens that expire at other times.
        for (seconds, ttl) in [(20, 20), (40, 40), (3000, 60), (30, 30)] {
            let token = expiring(seconds);
            for _ in 0..2 {
                let told = claims(&assertion_of(&nginx, path, &token));
                let (from, until) = (told["iat"].as_i64(), told["exp"].as_i64());
                let left = until.expect("a time") - from.expect("a time");
                assert!((ttl - 5..=ttl).contains(&left), "{path} {seconds}: {left}");
                if ttl < 60 {
                    assert_eq!(told["exp"], claims(&token)["exp"], "{path} {seconds}");
                }
            }
        }
    }
}

#[test]
fn keys_change_without_a_request_that_is_refused() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = signing(&authgear, &backend, "").start();
    let token = authgear.opaque_token(&User::named("alice"));
    let line = |keys: &str| format!("authgear_assertion {keys} audience={AUDIENCE};");
    let full = |name: &str| nginx.dir().join(name).display().to_string();
    let (a, b) = (full("a.pem"), full("b.pem"));
    let kids = || -> Vec<Value> {
        let set = get(&nginx, "/keys").send().json();
        let keys = set["keys"].as_array().expect("keys").iter();
        keys.map(|key| key["kid"].clone()).collect()
    };
    let signs = || part(&assertion_of(&nginx, "/", &token), 0)["kid"].clone();
    let (old, before) = (kids()[0].clone(), line(&a));
    assert_eq!(signs(), old);
    let mut now = before;
    let mut steps = Vec::new();
    for keys in [format!("{a} {b}"), format!("{b} {a}"), b.clone()] {
        let next = line(&keys);
        let (from, to) = (now.clone(), next.clone());
        nginx.edit_conf(move |conf| {
            assert!(conf.contains(&from), "no {from} in {conf}");
            conf.replace(&from, &to)
        });
        nginx.wait_replaced(&nginx.reload());
        now = next;
        steps.push((kids(), signs()));
    }
    let new = steps[2].0[0].clone();
    assert_ne!(new, old);
    assert_eq!(steps[0], (vec![old.clone(), new.clone()], old.clone()));
    assert_eq!(steps[1], (vec![new.clone(), old], new.clone()));
    assert_eq!(steps[2], (vec![new.clone()], new));
}

#[test]
fn the_verdict_endpoint_answers_with_the_assertion() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = signing(
        &authgear,
        &backend,
        &format!(
            "location = /authz {{ authgear_require session; authgear_verdict; }}
             location = /custom {{
               authgear_require session;
               authgear_assertion a.pem audience={AUDIENCE} header=X-Signed;
               authgear_verdict;
             }}"
        ),
    )
    .start();
    let token = authgear.opaque_token(&User::named("alice"));
    for (path, name) in [("/authz", HEADER), ("/custom", "x-signed")] {
        let request = get(&nginx, path).header(name, FORGED);
        let answer = request.clone().bearer(&token).send();
        let [jwt] = &answer.all(name)[..] else { panic!("{answer:?}") };
        assert_eq!(claims(jwt)["sub"], "alice");
        let denied = request.send();
        assert_eq!((denied.status, denied.header(name)), (401, None));
    }
}

#[test]
fn unusable_settings_are_refused_and_no_key_is_printed() {
    let (p256, ed25519) = (private_key(KeyType::P256), private_key(KeyType::Ed25519));
    let secret = |pem: &str| pem.lines().nth(1).expect("a line").to_owned();
    let secrets = [secret(&p256), secret(&ed25519)];
    let check = |line: &str| {
        Nginx::builder()
            .secret_file("a.pem", p256.as_str())
            .secret_file("sec1.pem", p256.replace("PRIVATE KEY", "EC PRIVATE KEY"))
            .secret_file("broken.pem", p256.replace("MIG", "MIH"))
            .file("open.pem", ed25519.as_str())
            .server(format!("authgear https://a.test;\n{line} # here\n"))
            .check()
    };
    let end = "audience=urn:a issuer=https://a.test";
    for (line, says) in [
        (format!("authgear_assertion missing.pem {end};"), "cannot read the key file"),
        (format!("authgear_assertion sec1.pem {end};"), "openssl pkcs8 -topk8"),
        (format!("authgear_assertion broken.pem {end};"), "P-256 (ES256) or an Ed25519"),
        (format!("authgear_assertion a.pem a.pem {end};"), "one key twice"),
        (format!("authgear_assertion a.pem open.pem a.pem {end};"), "one or two key files"),
        (format!("authgear_assertion {end};"), "names no key file"),
        (format!("authgear_assertion {end} a.pem;"), "one or two key files"),
        ("authgear_assertion a.pem issuer=https://a.test;".into(), "no audience=URI"),
        ("authgear_assertion a.pem audience= issuer=https://a.test;".into(), "audience=URI"),
        ("authgear_assertion a.pem audience=urn:a;".into(), "has no issuer"),
        (format!("authgear_assertion a.pem {end} ttl=1s;"), "2s to 1h"),
        (format!("authgear_assertion a.pem {end} ttl=2h;"), "2s to 1h"),
        (format!("authgear_assertion a.pem {end} header=Cookie;"), "nginx or proxies use"),
        (
            format!("authgear_assertion a.pem {end} header=X-Authgear-User-Id;"),
            "nginx or proxies use",
        ),
        (format!("authgear_assertion a.pem {end} colour=red;"), "one or two key files"),
        (format!("authgear_assertion a.pem {end}; authgear_assertion off;"), "is duplicate"),
        (
            format!("authgear_header X-A $host; authgear_assertion a.pem {end} header=X_A;"),
            "both name",
        ),
        (
            "location /k { authgear_assertion_keys; }".into(),
            "no \"authgear_assertion\" is in force",
        ),
    ] {
        let test = check(&line);
        assert!(!test.ok && test.output.contains(says), "{line}: {}", test.output);
        assert!(!secrets.iter().any(|secret| test.output.contains(secret)), "{}", test.output);
    }
    let test = check(&format!("authgear_assertion open.pem {end};"));
    assert!(test.ok && test.output.contains("can be read by everybody"), "{}", test.output);
    let test = check("location /x { authgear off; authgear_assertion a.pem audience=urn:a; }");
    assert!(test.ok, "no project, no issuer: {}", test.output);
}

/// A backend in some language: a program that reads a key set, and an assertion in each line.
struct Language {
    program: &'static str,
    arguments: &'static [&'static str],
    file: &'static str,
}

impl Language {
    /// Its answer to each assertion. `None` if the language is not installed.
    fn check(&self, keys: &Path, assertions: &[String]) -> Option<Vec<String>> {
        static REPORTED: Once = Once::new();
        let mut command = Command::new(self.program);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assertion");
        command.args(self.arguments).arg(folder.join(self.file));
        command.arg(keys).args([ISSUER, AUDIENCE]).env("GOTOOLCHAIN", "local");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let Ok(mut child) = command.spawn() else {
            report_skipped(&REPORTED, self.program);
            return None;
        };
        let mut input = assertions.join("\n");
        input.push('\n');
        // If the program ends early, its status tells more.
        let _ = child.stdin.take().expect("its input").write_all(input.as_bytes());
        let output = text(&child.wait_with_output().expect("its end"));
        Some(output.lines().map(str::to_owned).collect())
    }
}

fn encode(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

/// Runs a backend with assertions that nginx makes, and with what others may send.
#[track_caller]
fn accepts_assertions_of_nginx_only(language: &Language) {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (p256, ed25519) = (private_key(KeyType::P256), private_key(KeyType::Ed25519));
    let nginx = site(&authgear, &backend)
        .secret_file("a.pem", p256.as_str())
        .secret_file("b.pem", ed25519.as_str())
        .server(format!(
            "authgear %%AUTHGEAR%%; authgear_public_origin {ISSUER};
             authgear_assertion a.pem b.pem audience={AUDIENCE};
             location / {{ proxy_pass http://%%BACKEND%%; }}
             location = /keys {{ authgear_assertion_keys; }}
             location /ed {{
               authgear_assertion b.pem audience={AUDIENCE};
               proxy_pass http://%%BACKEND%%;
             }}
             location /elsewhere {{
               authgear_assertion a.pem audience=https://elsewhere.internal;
               proxy_pass http://%%BACKEND%%;
             }}"
        ))
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let by = |pem: &str, name: &str, term: &Term| {
        let key = SigningKey::from_pem(pem.as_bytes()).expect("a key");
        let issuer = Issuer {
            keys: vec![key.into()],
            name: name.to_owned(),
            audience: AUDIENCE.to_owned(),
            ttl: Duration::from_secs(60),
        };
        let mut identity = Identity::builder();
        identity.push(b"x-authgear-user-id", b"alice").expect("a field");
        issuer.sign(&identity.build(), term).expect("an assertion")
    };
    let now = u64::try_from(unix_now()).expect("a time");
    let term = |from: u64| Term { issued_at: from, expires_at: from + 60, renewed_at: from + 30 };
    let good = [assertion_of(&nginx, "/", &token), assertion_of(&nginx, "/ed", &token)];
    let mut refused = vec![
        // Direct access, without a header.
        String::new(),
        "x".to_owned(),
        "a.b.c".to_owned(),
        token.clone(),
        authgear.jwt(&User::named("alice")),
        assertion_of(&nginx, "/elsewhere", &token),
        by(&private_key(KeyType::P256), ISSUER, &term(now)),
    ];
    for (pem, jwt) in [(&p256, &good[0]), (&ed25519, &good[1])] {
        refused.push(by(pem, "https://another.example.com", &term(now)));
        refused.push(by(pem, ISSUER, &term(now - 120)));
        refused.push(by(pem, ISSUER, &term(now + 3600)));
        let [header, payload, signature] = jwt.split('.').collect::<Vec<_>>()[..] else {
            panic!("{jwt}");
        };
        let mut other = claims(jwt);
        other["sub"] = json!("root");
        other["x-authgear-user-id"] = json!("root");
        let other = encode(&other);
        refused.push(format!("{header}.{other}.{signature}"));
        refused.push(format!("{header}.{payload}."));
        refused.push(format!("{header}.{payload}"));
        refused.push(format!("{header}.{payload}.{}", BASE64URL_NOPAD.encode(&[0; 64])));
        let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
        refused.push(format!("{header}.{payload}.{flipped}{}", &signature[1..]));
        for algorithm in ["none", "None", "HS256", "RS256"] {
            let mut header = part(jwt, 0);
            header["alg"] = json!(algorithm);
            let header = encode(&header);
            refused.push(format!("{header}.{other}."));
            refused.push(format!("{header}.{payload}.{signature}"));
        }
        for typ in [json!("JWT"), Value::Null] {
            let mut header = part(jwt, 0);
            header["typ"] = typ;
            refused.push(format!("{}.{payload}.{signature}", encode(&header)));
        }
    }
    let keys = nginx.dir().join("keys.json");
    std::fs::write(&keys, get(&nginx, "/keys").send().body).expect("a file");
    let all: Vec<String> = good.iter().chain(&refused).cloned().collect();
    let Some(said) = language.check(&keys, &all) else { return };
    assert_eq!(said.len(), all.len());
    for (n, (said, jwt)) in said.iter().zip(&all).enumerate() {
        let expected = if n < good.len() { "accepted alice" } else { "refused" };
        assert_eq!(said, expected, "{}: {jwt}", language.file);
    }
}

#[test]
fn a_backend_in_python_accepts_assertions_of_nginx_only() {
    let (program, arguments, file) = ("/usr/bin/python3", &["-B"], "check.py");
    accepts_assertions_of_nginx_only(&Language { program, arguments, file });
}

#[test]
fn a_backend_in_php_accepts_assertions_of_nginx_only() {
    let (program, arguments, file) = ("php", &["-n"], "check.php");
    accepts_assertions_of_nginx_only(&Language { program, arguments, file });
}

#[test]
fn a_backend_in_javascript_accepts_assertions_of_nginx_only() {
    let (program, arguments, file) = ("node", &[], "check.mjs");
    accepts_assertions_of_nginx_only(&Language { program, arguments, file });
}

#[test]
fn a_backend_in_go_accepts_assertions_of_nginx_only() {
    let (program, arguments, file) = ("go", &["run"], "check.go");
    accepts_assertions_of_nginx_only(&Language { program, arguments, file });
}
