//! Attacks by claims.

use super::*;

#[test]
fn only_a_numeric_future_expiry_is_accepted() {
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

#[test]
fn tokens_from_the_future_are_rejected() {
    for name in ["nbf", "iat"] {
        let (early, invalid) = (TokenError::NotYetValid, TokenError::Claim);
        let at = |text: &str| {
            let mut claims = user_claims();
            claims.as_object_mut().unwrap().remove(name);
            token(header().to_string(), appended(&claims, &format!("\"{name}\":{text}")))
        };
        let [far_future, huge, no_time] = match name {
            "nbf" => ["nbf in the far future", "huge nbf", "no nbf"],
            _ => ["iat in the far future", "huge iat", "no iat"],
        };
        let mut rows = vec![
            ("future", claims_with(name, NOW + 1), early),
            (far_future, claims_with(name, 253_402_300_799_u64), early),
            ("a fraction from now", at(&format!("{NOW}.001")), early),
            (huge, at("1e308"), invalid),
            ("out of doubles", at("1e309"), TokenError::Malformed),
        ];
        for value in [json!(MADE.to_string()), json!(null), json!(false), json!([]), json!(-1)] {
            rows.push((no_time, claims_with(name, value), invalid));
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
fn leeway_extends_both_ends_of_validity() {
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

#[test]
fn only_an_exact_audience_is_accepted() {
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

#[test]
fn only_the_exact_issuer_is_accepted() {
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
    rows.push(("list with the issuer", claims_with("iss", json!([ORIGIN])), TokenError::Claim));
    for value in [json!(null), json!(1), json!({"url": ORIGIN})] {
        rows.push(("no string", claims_with("iss", value), TokenError::Claim));
    }
    assert_refused(rows);
}

#[test]
fn only_a_visible_ascii_subject_within_the_cap_is_accepted() {
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
        assert_refused_as("a machine", &claims_with("sub", text), TokenError::MachineToken);
    }
    for text in ["a", "client_id", "Client_id_x", "x_client_id_", &longest] {
        let verified = check(&claims_with("sub", text)).unwrap();
        assert_eq!(field(&verified, "user_id").as_deref(), Some(text));
    }
}

#[test]
fn only_role_lists_that_join_unambiguously_are_accepted() {
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

#[test]
fn duplicate_names_are_rejected() {
    let mut rows = Vec::new();
    for member in [
        r#""alg":"RS256""#,
        r#""kid":"new""#,
        r#""typ":"at+jwt""#,
        r#""\u0061lg":"none""#,
        r#""x":"","x":"""#,
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
