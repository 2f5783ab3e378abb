//! The attack list: each row is one change to a token that counts, and what refuses it.

use aws_lc_rs::hmac;

use super::*;

type Row = (&'static str, Vec<u8>, TokenError);

fn assert_refused(rows: Vec<Row>) {
    for (name, token, expected) in rows {
        assert_eq!(check(&token), Err(expected), "{name}");
        // Nor does it count where more does.
        let profile =
            Profile { algorithms: Algorithm::ALL.into(), machine_tokens: true, ..profile() };
        assert!(verify(&token, key_set(), &profile, NOW).is_err(), "{name}, with all allowed");
    }
}

fn text(token: Vec<u8>) -> String {
    String::from_utf8(token).unwrap()
}

/// The parts of a token that counts.
fn parts() -> [String; 3] {
    let token = text(good_token());
    let parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

/// A token that counts but for a member of its header.
fn header_with(name: &str, value: impl Into<Value>) -> Vec<u8> {
    token_with_header(&with(header(), name, value))
}

/// A token that counts but for a claim.
fn claims_with(name: &str, value: impl Into<Value>) -> Vec<u8> {
    token_with_claims(&with(user_claims(), name, value))
}

/// As `claims_with`, where the value is JSON text.
fn claims_with_text(name: &str, value: &str) -> Vec<u8> {
    let claims = appended(&without(user_claims(), name), &format!("\"{name}\":{value}"));
    token(header().to_string(), claims)
}

#[test]
fn the_token_itself_counts() {
    assert!(check(&good_token()).is_ok());
    assert!(check(&claims_with_text("exp", &EXPIRES.to_string())).is_ok());
}

/// Row 1.
#[test]
fn signatures() {
    let [header, payload, signature] = parts();
    let changed = |at: usize| {
        let mut bytes = base64url(signature.as_bytes()).unwrap();
        bytes[at] ^= 1;
        format!("{header}.{payload}.{}", encode(bytes)).into_bytes()
    };
    let part_of = |claims: Value, which: usize| {
        text(token_with_claims(&claims)).split('.').nth(which).unwrap().to_owned()
    };
    let mallory = with(user_claims(), "sub", "mallory");
    let by_the_other_key = token_by(super::header().to_string(), user_claims().to_string(), |m| {
        sign_rsa(&keys().other_rsa, &signature::RSA_PKCS1_SHA256, m)
    });
    let doubled = encode(base64url(signature.as_bytes()).unwrap().repeat(2));
    assert_refused(vec![
        ("first byte", changed(0), TokenError::Signature),
        ("last byte", changed(255), TokenError::Signature),
        ("empty", format!("{header}.{payload}.").into(), TokenError::Signature),
        (
            "truncated",
            format!("{header}.{payload}.{}", &signature[..340]).into(),
            TokenError::Signature,
        ),
        (
            "one character",
            format!("{header}.{payload}.{}", &signature[..1]).into(),
            TokenError::Malformed,
        ),
        ("longer", format!("{header}.{payload}.{doubled}").into(), TokenError::Signature),
        (
            "all zeros",
            format!("{header}.{payload}.{}", encode([0; 256])).into(),
            TokenError::Signature,
        ),
        (
            "of another token",
            format!("{header}.{payload}.{}", part_of(mallory.clone(), 2)).into(),
            TokenError::Signature,
        ),
        (
            "with another token's claims",
            format!("{header}.{}.{signature}", part_of(mallory, 1)).into(),
            TokenError::Signature,
        ),
        ("absent", format!("{header}.{payload}").into(), TokenError::Malformed),
        ("of another key of the set", by_the_other_key, TokenError::Signature),
    ]);
}

/// Row 2.
#[test]
fn algorithms() {
    let claims = user_claims().to_string();
    let [_, payload, signature] = parts();
    let refused = TokenError::Algorithm;
    let mut rows = Vec::new();
    for name in ["none", "None", "NONE", "nOnE", "HS256", "HS384", "HS512", "rs256", "RS256\0", ""]
    {
        let part = encode(with(header(), "alg", name).to_string());
        rows.push((name, format!("{part}.{payload}.").into(), refused));
        rows.push((name, format!("{part}.{payload}.{signature}").into(), refused));
        rows.push((name, header_with("alg", name), refused));
    }
    for (name, value) in [
        ("array", json!(["RS256"])),
        ("number", json!(256)),
        ("null", json!(null)),
        ("object", json!({"RS256": 1})),
        ("boolean", json!(true)),
    ] {
        rows.push((name, header_with("alg", value), refused));
    }
    rows.push(("missing", token_with_header(&without(header(), "alg")), refused));

    // The public key as the secret of an HMAC, in every form an attacker has it in.
    let jwk = rsa_jwk(&keys().rsa, "new");
    let n = base64url(jwk["n"].as_str().unwrap().as_bytes()).unwrap();
    let der = keys().rsa.public_key().as_ref();
    let base64 = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = base64.as_bytes().chunks(64).map(|l| String::from_utf8_lossy(l)).collect();
    let pem = format!(
        "-----BEGIN RSA PUBLIC KEY-----\n{}\n-----END RSA PUBLIC KEY-----\n",
        lines.join("\n")
    );
    for secret in [
        pem.as_bytes(),
        pem.trim_end().as_bytes(),
        der,
        &n,
        jwk.to_string().as_bytes(),
        authgear_jwks().to_string().as_bytes(),
        b"",
    ] {
        for (name, algorithm) in [("HS256", hmac::HMAC_SHA256), ("HS512", hmac::HMAC_SHA512)] {
            let key = hmac::Key::new(algorithm, secret);
            let hmac = |message: &[u8]| hmac::sign(&key, message).as_ref().to_vec();
            let header_of = |name| with(header(), "alg", name).to_string();
            rows.push((name, token_by(header_of(name), &claims, hmac), refused));
            let as_rs256 = token_by(header_of("RS256"), &claims, hmac);
            rows.push(("HMAC as RS256", as_rs256, TokenError::Signature));
        }
    }
    for name in ["PS256", "PS384", "RS384", "RS512", "ES256", "EdDSA"] {
        rows.push((name, header_with("alg", name), refused));
    }
    assert_refused(rows);
}

/// Row 2: what the project allows does not change what a key is for.
#[test]
fn algorithms_of_keys() {
    let all = Profile { algorithms: Algorithm::ALL.into(), ..profile() };
    let set = |jwk: Value| read_keys(&json!({"keys": [jwk]}), Algorithm::ALL).unwrap().0;
    let only_rs256 = set(rsa_jwk(&keys().rsa, "new"));
    let any = set(without(rsa_jwk(&keys().rsa, "new"), "alg"));
    for algorithm in [Algorithm::PS256, Algorithm::RS512] {
        let header = with(header(), "alg", algorithm.as_str()).to_string();
        let right = token_by(&header, user_claims().to_string(), |m| sign(algorithm, m));
        assert_eq!(verify(&right, &only_rs256, &all, NOW), Err(TokenError::Algorithm));
        assert!(verify(&right, &any, &all, NOW).is_ok());
        // An RS256 signature under another name.
        let wrong = token(&header, user_claims().to_string());
        assert_eq!(verify(&wrong, &any, &all, NOW), Err(TokenError::Signature));
    }
    let header = with(header(), "alg", "ES256").to_string();
    let token = token_by(&header, user_claims().to_string(), |m| sign(Algorithm::ES256, m));
    assert_eq!(verify(&token, &any, &all, NOW), Err(TokenError::Algorithm));
}

/// Row 3.
#[test]
fn keys_from_the_header() {
    let jwk = rsa_jwk(&keys().other_rsa, "evil");
    let forged = |header: Value| {
        token_by(header.to_string(), user_claims().to_string(), |message| {
            sign_rsa(&keys().other_rsa, &signature::RSA_PKCS1_SHA256, message)
        })
    };
    let url = "https://evil.example/jwks.json";
    for (name, value) in [
        ("jwk", jwk),
        ("jku", json!(url)),
        ("x5u", json!(url)),
        ("x5c", json!(["MIIB"])),
        ("x5t", json!("AAAA")),
        ("x5t#S256", json!(3)),
    ] {
        let own = with(header(), name, value.clone());
        let expected = [
            (own.clone(), TokenError::Signature),
            (with(own.clone(), "kid", "evil"), TokenError::UnknownKid),
            (without(own.clone(), "kid"), TokenError::NoKid),
        ];
        for (header, error) in expected {
            assert_eq!(check(&forged(header)), Err(error), "{name}");
        }
        // They are not looked at, rather than refused.
        assert!(check(&token_with_header(&own)).is_ok(), "{name}");
    }
}

/// Row 3.
#[test]
fn key_ids() {
    let unknown = TokenError::UnknownKid;
    let longest = "k".repeat(MAX_KID);
    let mut rows = vec![
        ("missing", token_with_header(&without(header(), "kid")), TokenError::NoKid),
        ("blank", header_with("kid", ""), TokenError::Malformed),
        ("space", header_with("kid", " "), unknown),
        ("unknown", header_with("kid", "0d5d0ac5-a4a5-4a4c-8a39-0a6e4ff0e2d6"), unknown),
        ("case", header_with("kid", "NEW"), unknown),
        ("prefix", header_with("kid", "ne"), unknown),
        ("suffix", header_with("kid", "new "), unknown),
        ("path", header_with("kid", "../../../../dev/null"), unknown),
        ("SQL", header_with("kid", "x' UNION SELECT 'key';--"), unknown),
        ("shell", header_with("kid", "new|sleep 10"), unknown),
        ("longest", header_with("kid", longest.clone()), unknown),
        ("longer", header_with("kid", longest + "k"), TokenError::Malformed),
        ("4 KiB", header_with("kid", "k".repeat(4096)), TokenError::TooLarge),
        ("64 KiB", header_with("kid", "k".repeat(65536)), TokenError::TooLarge),
        ("NUL", header_with("kid", "new\0"), TokenError::Malformed),
        ("CR LF", header_with("kid", "new\r\n"), TokenError::Malformed),
    ];
    for value in [json!(1), json!(null), json!(["new"]), json!({"new": 1}), json!(true)] {
        rows.push(("no string", header_with("kid", value), TokenError::Malformed));
    }
    assert_refused(rows);
}

/// Row 3: an unknown key is told before any work on the signature or belief in the claims.
#[test]
fn an_unknown_key_is_told_first() {
    let header = with(header(), "kid", "unknown").to_string();
    for (payload, signature) in [("nothing", &b"!"[..]), ("{}", b"")] {
        let mut token = token_by(&header, payload, |_| Vec::new());
        token.extend_from_slice(signature);
        assert_eq!(check(&token), Err(TokenError::UnknownKid));
    }
}

#[test]
fn a_sole_key_need_not_be_named() {
    let set = |jwk: Value| read_keys(&json!({"keys": [jwk]}), &[Algorithm::RS256]).unwrap().0;
    let named = set(rsa_jwk(&keys().rsa, "new"));
    let nameless = set(without(rsa_jwk(&keys().rsa, "new"), "kid"));
    let other = set(rsa_jwk(&keys().other_rsa, "new"));
    let token = token_with_header(&without(header(), "kid"));
    let by = |set| verify(&token, set, &profile(), NOW).map(|verified| verified.key);
    assert!(named.has(by(&named).unwrap()) && nameless.has(by(&nameless).unwrap()));
    assert_ne!(by(&named), by(&nameless));
    assert_eq!(by(&other), Err(TokenError::Signature));
    // If it is named, the name counts.
    assert!(verify(&good_token(), &named, &profile(), NOW).is_ok());
    assert_eq!(verify(&good_token(), &nameless, &profile(), NOW), Err(TokenError::UnknownKid));
}

/// Row 4.
#[test]
fn extensions() {
    let mut rows = Vec::new();
    for value in [json!(["exp"]), json!(["b64"]), json!([]), json!("exp"), json!(null), json!(1)] {
        rows.push(("crit", header_with("crit", value), TokenError::Critical));
    }
    for value in [json!(false), json!(true), json!("false"), json!(null)] {
        rows.push(("b64", header_with("b64", value), TokenError::Critical));
    }
    for value in [json!("JWT"), json!("json"), json!(null), json!([])] {
        rows.push(("cty", header_with("cty", value), TokenError::Type));
    }
    // RFC 7797: the claims not encoded.
    let header = with(with(header(), "b64", false), "crit", json!(["b64"])).to_string();
    let message = format!("{}.{}", encode(&header), r#"{"sub":"x"}"#);
    let signature = encode(sign(Algorithm::RS256, message.as_bytes()));
    rows.push(("unencoded", format!("{message}.{signature}").into(), TokenError::Critical));
    assert_refused(rows);
}

/// Row 4.
#[test]
fn types() {
    let refused = TokenError::Type;
    let mut rows = vec![("missing", token_with_header(&without(header(), "typ")), refused)];
    for name in [
        "JWT",
        "jwt",
        "",
        "at",
        "at+jwt ",
        " at+jwt",
        "at+jwt\0",
        "at jwt",
        "at+JWS",
        "id+jwt",
        "dpop+jwt",
        "application/jwt",
        "application/application/at+jwt",
        "text/at+jwt",
        "application/at+jwt; charset=utf-8",
        "\u{ff41}t+jwt",
        "at+\u{212a}wt",
    ] {
        rows.push((name, header_with("typ", name), refused));
    }
    for value in [json!(null), json!(1), json!(["at+jwt"]), json!({"at+jwt": 1})] {
        rows.push(("no string", header_with("typ", value), refused));
    }
    assert_refused(rows);
    for name in ["at+jwt", "AT+JWT", "At+Jwt", "application/at+jwt", "APPLICATION/AT+JWT"] {
        assert!(check(&header_with("typ", name)).is_ok(), "{name}");
    }
}

/// Row 5.
#[test]
fn expiry() {
    let (expired, invalid) = (TokenError::Expired, TokenError::Claim);
    let mut rows = vec![
        ("past", claims_with("exp", NOW - 1), expired),
        ("now", claims_with("exp", NOW), expired),
        ("0", claims_with("exp", 0), expired),
        ("-0", claims_with_text("exp", "-0"), expired),
        ("-0.0", claims_with_text("exp", "-0.0"), expired),
        ("a fraction from now", claims_with_text("exp", &format!("{NOW}.999")), expired),
        ("missing", token_with_claims(&without(user_claims(), "exp")), TokenError::MissingClaim),
        ("string", claims_with("exp", EXPIRES.to_string()), invalid),
        ("null", claims_with("exp", json!(null)), invalid),
        ("boolean", claims_with("exp", true), invalid),
        ("array", claims_with("exp", json!([EXPIRES])), invalid),
        ("object", claims_with("exp", json!({"0": EXPIRES})), invalid),
        ("negative", claims_with("exp", -1), invalid),
        ("negative fraction", claims_with_text("exp", "-0.5"), invalid),
        ("in milliseconds", claims_with("exp", EXPIRES * 1000), invalid),
        ("year 10000", claims_with("exp", 253_402_300_800_u64), invalid),
        ("2^64-1", claims_with("exp", u64::MAX), invalid),
        ("2^64", claims_with_text("exp", "18446744073709551616"), invalid),
        ("-2^63", claims_with("exp", i64::MIN), invalid),
        ("1e308", claims_with_text("exp", "1e308"), invalid),
    ];
    for text in ["1e309", "NaN", "Infinity", "0x7fffffff", "01700001800", "1_700_001_800"] {
        rows.push((text, claims_with_text("exp", text), TokenError::Malformed));
    }
    assert_refused(rows);

    for (text, expires_at) in [
        ("1700001800.0", EXPIRES),
        ("1700001800.9", EXPIRES),
        ("1.7000018e9", EXPIRES),
        ("253402300799", 253_402_300_799),
    ] {
        assert_eq!(check(&claims_with_text("exp", text)).unwrap().expires_at, expires_at, "{text}");
    }
    assert!(check(&claims_with("exp", NOW + 1)).is_ok());
}

/// Row 5.
#[test]
fn times_to_come() {
    for name in ["nbf", "iat"] {
        let (early, invalid) = (TokenError::NotYetValid, TokenError::Claim);
        let at = |text: &str| {
            let mut claims = user_claims();
            claims.as_object_mut().unwrap().remove(name);
            token(header().to_string(), appended(&claims, &format!("\"{name}\":{text}")))
        };
        let mut rows = vec![
            ("future", claims_with(name, NOW + 1), early),
            ("far future", claims_with(name, 253_402_300_799_u64), early),
            ("a fraction from now", at(&format!("{NOW}.001")), early),
            ("1e308", at("1e308"), invalid),
            ("out of doubles", at("1e309"), TokenError::Malformed),
        ];
        for value in [json!(MADE.to_string()), json!(null), json!(false), json!([]), json!(-1)] {
            rows.push(("no time", claims_with(name, value), invalid));
        }
        assert_refused(rows);

        for text in [NOW.to_string(), "0".into(), format!("{MADE}.5"), format!("{NOW}.0")] {
            assert!(check(&at(&text)).is_ok(), "{name} {text}");
        }
    }
    let verified = check_claims(&without(user_claims(), "iat")).unwrap();
    assert_eq!(verified.issued_at, None);
}

#[test]
fn leeway_is_for_both_ends() {
    let token = token_with_claims(&with(user_claims(), "nbf", MADE));
    for (leeway, early, late) in [(0, MADE, EXPIRES), (30, MADE - 30, EXPIRES + 30)] {
        let profile = Profile { leeway, ..profile() };
        let at = |now| verify(&token, key_set(), &profile, now).map(|v| v.expires_at);
        assert_eq!(at(early - 1), Err(TokenError::NotYetValid));
        assert_eq!(at(early), Ok(EXPIRES));
        assert_eq!(at(late - 1), Ok(EXPIRES));
        assert_eq!(at(late), Err(TokenError::Expired));
    }
    for (leeway, now) in [(u64::MAX, 0), (u64::MAX, u64::MAX - 1), (0, u64::MAX)] {
        let profile = Profile { leeway, ..profile() };
        assert_eq!(verify(&token, key_set(), &profile, now).is_ok(), leeway > 0);
    }
}

/// Row 5.
#[test]
fn audiences() {
    let (refused, invalid) = (TokenError::Audience, TokenError::Claim);
    let mut rows = vec![(
        "missing",
        token_with_claims(&without(user_claims(), "aud")),
        TokenError::MissingClaim,
    )];
    for other in [
        "",
        "https://other.authgear.cloud",
        "https://myapp.authgear.clou",
        "https://myapp.authgear.cloud/",
        "https://myapp.authgear.cloud.evil.example",
        "https://myapp.authgear.cloud:443",
        "https://MYAPP.authgear.cloud",
        "HTTPS://myapp.authgear.cloud",
        "http://myapp.authgear.cloud",
        "xhttps://myapp.authgear.cloud",
        " https://myapp.authgear.cloud",
        "https://myapp.authgear.cloud https://other.authgear.cloud",
        "https://myapp.authgear.cloud\0",
        "*",
    ] {
        rows.push((other, claims_with("aud", other), refused));
        rows.push((other, claims_with("aud", json!([other])), refused));
    }
    for (name, value, error) in [
        ("empty array", json!([]), refused),
        ("null", json!(null), invalid),
        ("number", json!(1), invalid),
        ("object", json!({ORIGIN: ORIGIN}), invalid),
        ("nested array", json!([[ORIGIN]]), invalid),
        ("array with a number", json!([ORIGIN, 1]), invalid),
        ("array with null", json!([null, ORIGIN]), invalid),
    ] {
        rows.push((name, claims_with("aud", value), error));
    }
    assert_refused(rows);

    assert!(check(&claims_with("aud", ORIGIN)).is_ok());
    assert!(check(&claims_with("aud", json!(["https://a.example", ORIGIN]))).is_ok());
    let profile = |audiences: &[&str]| Profile {
        audiences: audiences.iter().map(|&audience| audience.to_owned()).collect(),
        ..profile()
    };
    let api = "https://api.example";
    for (allowed, ok) in
        [(&[api, ORIGIN][..], true), (&[ORIGIN, api], true), (&[api], false), (&[], false)]
    {
        let verified = verify(&good_token(), key_set(), &profile(allowed), NOW);
        assert_eq!(verified.map(drop), if ok { Ok(()) } else { Err(refused) }, "{allowed:?}");
    }
}

/// Row 5.
#[test]
fn issuers() {
    let mut rows = vec![(
        "missing",
        token_with_claims(&without(user_claims(), "iss")),
        TokenError::MissingClaim,
    )];
    for other in [
        "",
        "https://myapp.authgear.cloud/",
        "https://MyApp.authgear.cloud",
        "https://myapp.authgear.cloud:443",
        "http://myapp.authgear.cloud",
        "https://myapp.authgear.cloud.evil.example",
        "https://myapp.authgear.clou",
        "myapp.authgear.cloud",
        "https://myapp.authgear.cloud\0",
    ] {
        rows.push((other, claims_with("iss", other), TokenError::Issuer));
    }
    for value in [json!(null), json!([ORIGIN]), json!(1), json!({"url": ORIGIN})] {
        rows.push(("no string", claims_with("iss", value), TokenError::Claim));
    }
    assert_refused(rows);
}

/// Row 5.
#[test]
fn subjects() {
    let invalid = TokenError::Claim;
    let longest = "s".repeat(MAX_SUBJECT);
    let mut rows = vec![
        ("missing", token_with_claims(&without(user_claims(), "sub")), TokenError::MissingClaim),
        ("empty", claims_with("sub", ""), invalid),
        ("longer", claims_with("sub", format!("{longest}s")), invalid),
    ];
    for text in [
        "alice\0",
        "\0",
        "alice\r\nX-Authgear-User-Roles: admin",
        "alice\n",
        "alice\r",
        "a\tb",
        "a\x1bb",
        "a\x7fb",
        "al\u{ed}ce",
        "\u{202e}ecila",
        "\u{560d}\u{560a}x",
        "\u{85}",
        "\u{feff}a",
        " alice",
        "alice ",
        "a b",
    ] {
        rows.push((text, claims_with("sub", text), invalid));
    }
    for value in [json!(null), json!(0), json!(["alice"]), json!({"id": "alice"}), json!(true)] {
        rows.push(("no string", claims_with("sub", value), invalid));
    }
    assert_refused(rows);

    for text in ["client_id_x", "client_id_"] {
        assert_eq!(check(&claims_with("sub", text)), Err(TokenError::MachineToken), "{text}");
    }
    for text in ["a", "client_id", "Client_id_x", "x_client_id_", &longest] {
        let verified = check(&claims_with("sub", text)).unwrap();
        assert_eq!(field(&verified, "user_id").as_deref(), Some(text));
    }
}

/// Row 5.
#[test]
fn roles() {
    let invalid = TokenError::Claim;
    let mut rows = Vec::new();
    for role in [
        "",
        "a,b",
        ",",
        "a\0",
        "a\r\nX-Authgear-User-Id: admin",
        "a\n",
        "a\t",
        "a\x7f",
        "r\u{f4}le",
        "\u{560a}",
        "a b",
        " a",
    ] {
        rows.push((role, claims_with(ROLES, json!([role])), invalid));
        rows.push((role, claims_with(ROLES, json!(["admin", role])), invalid));
    }
    for value in [
        json!(null),
        json!("admin"),
        json!(1),
        json!({"admin": true}),
        json!([1]),
        json!([null]),
        json!([["admin"]]),
        json!([true]),
    ] {
        rows.push(("no array of strings", claims_with(ROLES, value), invalid));
    }
    let many =
        |roles: usize| claims_with(ROLES, (0..roles).map(|n| format!("r{n}")).collect::<Vec<_>>());
    rows.push(("10 000", many(10_000), TokenError::TooLarge));
    assert_refused(rows);

    let verified = check(&many(1000)).unwrap();
    assert_eq!(field(&verified, "user_roles").unwrap().split(',').count(), 1000);
}

/// Row 5.
#[test]
fn duplicates() {
    let mut rows = Vec::new();
    for member in [
        r#""alg":"RS256""#,
        r#""kid":"new""#,
        r#""typ":"at+jwt""#,
        r#""\u0061lg":"none""#,
        r#""x":1,"x":1"#,
        r#""jwk":{"n":"","n":""}"#,
    ] {
        let token = token(appended(&header(), member), user_claims().to_string());
        rows.push((member, token, TokenError::Malformed));
    }
    for member in [
        r#""exp":9999999999"#,
        r#""sub":"mallory""#,
        r#""\u0073ub":"mallory""#,
        r#""iss":"https://myapp.authgear.cloud""#,
        r#""https://authgear.com/claims/user/roles":["admin"]"#,
        r#""x":1,"x":1"#,
        r#""address":{"country":"a","country":"b"}"#,
        r#""x":[[{"a":{},"b":0,"a":{}}]]"#,
    ] {
        let token = token(header().to_string(), appended(&user_claims(), member));
        rows.push((member, token, TokenError::Malformed));
    }
    assert_refused(rows);
}

/// Row 6.
#[test]
fn encodings() {
    let [header, payload, signature] = parts();
    let malformed = TokenError::Malformed;
    let join = |parts: [&str; 3]| parts.join(".").into_bytes();
    let good = text(good_token());
    let mut rows = vec![
        ("nothing", Vec::new(), malformed),
        ("dots", b"..".to_vec(), malformed),
        ("opaque", b"0123456789abcdefghijklmnopqrstuv".to_vec(), malformed),
        ("one part", header.clone().into(), malformed),
        ("two parts", format!("{header}.{payload}").into(), malformed),
        ("four parts", format!("{good}.").into(), malformed),
        ("four parts, one empty", format!("{header}..{payload}.{signature}").into(), malformed),
        (
            "five parts",
            format!("{header}.{payload}.{payload}.{payload}.{signature}").into(),
            malformed,
        ),
        ("leading dot", format!(".{good}").into(), malformed),
        ("space before", format!(" {good}").into(), malformed),
        ("tab before", format!("\t{good}").into(), malformed),
        ("space after", format!("{good} ").into(), malformed),
        ("line end after", format!("{good}\n").into(), malformed),
        ("NUL after", format!("{good}\0").into(), malformed),
        ("in quotes", format!("\"{good}\"").into(), malformed),
        ("twice", format!("{good},{good}").into(), malformed),
        ("with its scheme", format!("Bearer {good}").into(), malformed),
        ("percent-encoded", good.replace('.', "%2E").into(), malformed),
        ("byte order mark", format!("\u{feff}{good}").into(), malformed),
        ("JSON serialization", format!(r#"{{"payload":"{payload}"}}"#).into(), malformed),
    ];
    for padding in ["=", "==", "\n", "\r\n", " ", "!", "\0"] {
        rows.push((
            "header padded",
            join([&(header.clone() + padding), &payload, &signature]),
            malformed,
        ));
        rows.push((
            "signature padded",
            join([&header, &payload, &(signature.clone() + padding)]),
            malformed,
        ));
        // What is signed is another text then.
        rows.push((
            "claims padded",
            join([&header, &(payload.clone() + padding), &signature]),
            TokenError::Signature,
        ));
    }
    // A byte changed to each of base64's other alphabet; in the signature, where it may be in use.
    for at in 0..signature.len() {
        for other in ["+", "/"] {
            let mut changed = signature.clone();
            changed.replace_range(at..=at, other);
            rows.push(("other alphabet", join([&header, &payload, &changed]), malformed));
        }
    }
    // 256 bytes leave 4 bits of the last character unused.
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let last = alphabet.find(&signature[341..]).unwrap();
    assert_eq!((signature.len(), last % 16), (342, 0));
    for bits in 1..16 {
        let changed = format!("{}{}", &signature[..341], &alphabet[last + bits..=last + bits]);
        rows.push(("unused bits", join([&header, &payload, &changed]), malformed));
    }
    assert_refused(rows);
}

/// Row 6: parts that the key has signed, but are not as they must be.
#[test]
fn signed_encodings() {
    let malformed = TokenError::Malformed;
    let signed = |header: &str, payload: &str| {
        let message = format!("{header}.{payload}");
        format!("{message}.{}", encode(sign(Algorithm::RS256, message.as_bytes()))).into_bytes()
    };
    // Texts whose lengths leave bits unused.
    let header_text = format!("{:<61}", header().to_string());
    let claims_text = format!("{:<1000}", user_claims().to_string());
    let (head, claims) = (encode(&header_text), encode(&claims_text));
    assert!(check(&signed(&head, &claims)).is_ok());
    let unused = |part: &str| {
        assert!(part.ends_with("CA") || part.ends_with("IA"), "{part}");
        format!("{}B", &part[..part.len() - 1])
    };
    let padded = |part: &str| format!("{part}{}", ["", "", "==", "="][part.len() % 4]);
    let standard = |text: &str| base64::engine::general_purpose::STANDARD_NO_PAD.encode(text);
    let other_alphabet = standard(&claims_text.replace("my-spa", "\u{3ff}\u{3ff}\u{3ff}"));
    assert!(other_alphabet.contains(['+', '/']));
    let mut rows = vec![
        ("header with unused bits", signed(&unused(&head), &claims), malformed),
        ("claims with unused bits", signed(&head, &unused(&claims)), malformed),
        ("header padded", signed(&padded(&head), &claims), malformed),
        ("claims padded", signed(&head, &padded(&claims)), malformed),
        ("claims in base64", signed(&head, &other_alphabet), malformed),
        (
            "claims with a space",
            signed(&head, &format!("{} {}", &claims[..40], &claims[40..])),
            malformed,
        ),
        (
            "claims with a dot",
            signed(&head, &format!("{}.{}", &claims[..40], &claims[40..])),
            malformed,
        ),
    ];
    for text in [
        "",
        " ",
        "null",
        "true",
        "1",
        "\"text\"",
        "[]",
        "nothing",
        "{",
        "{}{}",
        "{}x",
        "{},",
        "{\"a\"}",
        "\u{feff}{}",
        "{'sub':'x'}",
        "{\"sub\":\"\\ud800\"}",
    ] {
        rows.push((text, signed(&head, &encode(text)), malformed));
        rows.push((text, signed(&encode(text), &claims), malformed));
    }
    // A header that does not begin as Authgear's: to the server that is an opaque token.
    let spaced = header().to_string().replacen('{', "{ ", 1);
    rows.push(("no eyJ", signed(&encode(spaced), &claims), malformed));
    let marked = format!("\u{feff}{}", user_claims());
    rows.push(("claims after a byte order mark", signed(&head, &encode(marked)), malformed));
    let invalid = [claims_text.as_bytes(), b"\xff"].concat();
    rows.push(("no UTF-8", signed(&head, &encode(invalid)), malformed));
    let utf16: Vec<u8> = claims_text.encode_utf16().flat_map(u16::to_be_bytes).collect();
    rows.push(("UTF-16", signed(&head, &encode(utf16)), malformed));
    assert_refused(rows);
}

/// Row 6.
#[test]
fn nesting() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("\"x\":{}1{}", open.repeat(depth), close.repeat(depth))
    };
    let mut rows = Vec::new();
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        // The object itself is a level.
        let fine = nested(open, close, 31);
        assert!(check(&token(header().to_string(), appended(&user_claims(), &fine))).is_ok());
        assert!(check(&token(appended(&header(), &fine), user_claims().to_string())).is_ok());
        for depth in [32, 127, 500, 1000] {
            let deep = nested(open, close, depth);
            let in_claims = token(header().to_string(), appended(&user_claims(), &deep));
            let in_header = token(appended(&header(), &deep), user_claims().to_string());
            let too_large = appended(&header(), &deep).len() * 4 / 3 > MAX_HEADER;
            let refused = if too_large { TokenError::TooLarge } else { TokenError::Malformed };
            rows.push(("in claims", in_claims, TokenError::Malformed));
            rows.push(("in header", in_header, refused));
        }
        let open_only = format!("\"x\":{}", open.repeat(2000));
        let token = token(header().to_string(), appended(&user_claims(), &open_only));
        rows.push(("never closed", token, TokenError::Malformed));
    }
    assert_refused(rows);
}

/// Rows 3 and 8.
#[test]
fn sizes() {
    let padded = |padding: usize| claims_with("padding", "p".repeat(padding));
    let largest = (11_000..12_000).rfind(|&n| padded_len(n) <= MAX_TOKEN).unwrap();
    assert!(padded(largest).len() > MAX_TOKEN - 4);
    assert!(check(&padded(largest)).is_ok());
    assert_eq!(check(&padded(largest + 1)), Err(TokenError::TooLarge));
    assert_eq!(check(&padded(100_000)), Err(TokenError::TooLarge));
    assert_eq!(check(&vec![b'a'; MAX_TOKEN + 1]), Err(TokenError::TooLarge));
    assert_eq!(check(&[&b"eyJ"[..], &[b'.'; MAX_TOKEN - 3]].concat()), Err(TokenError::Malformed));

    let header_of = |padding: usize| with(header(), "padding", "p".repeat(padding));
    let largest =
        (0..4096).rfind(|&n| encode(header_of(n).to_string()).len() <= MAX_HEADER).unwrap();
    assert!(check(&token_with_header(&header_of(largest))).is_ok());
    assert_eq!(check(&token_with_header(&header_of(largest + 1))), Err(TokenError::TooLarge));

    let members = |object: Value, members: usize| {
        (0..members).fold(object, |object, n| with(object, &format!("x{n}"), 0))
    };
    let own = user_claims().as_object().unwrap().len();
    assert!(check_claims(&members(user_claims(), 256 - own)).is_ok());
    assert_eq!(check_claims(&members(user_claims(), 257 - own)), Err(TokenError::Malformed));
    assert!(check_claims(&with(user_claims(), "x", members(json!({}), 256))).is_ok());
    assert_eq!(
        check_claims(&with(user_claims(), "x", members(json!({}), 257))),
        Err(TokenError::Malformed)
    );
}

/// The length of a token with this much padding in its claims, unsigned.
fn padded_len(padding: usize) -> usize {
    let claims = with(user_claims(), "padding", "p".repeat(padding)).to_string();
    encode(header().to_string()).len() + encode(claims).len() + 2 + 342
}

#[test]
fn reasons() {
    let words: Vec<_> = TokenError::ALL.iter().map(|error| error.reason().as_str()).collect();
    assert_eq!(
        words,
        [
            "token_too_large",
            "token_malformed",
            "token_algorithm",
            "token_type",
            "token_critical",
            "token_no_kid",
            "token_unknown_key",
            "token_signature",
            "token_issuer",
            "token_audience",
            "token_expired",
            "token_not_yet_valid",
            "token_missing_claim",
            "token_claims",
            "token_revoked",
            "token_machine",
        ]
    );
    for error in TokenError::ALL {
        assert!(error.to_string().contains("the token"), "{error}");
    }
}
