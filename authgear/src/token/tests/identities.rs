//! Tests of identities and variables from claims (Authgear's `pkg/api/model/session_info.go` and
//! `claims.go`).

use super::*;

#[test]
fn flags_are_required_booleans() {
    for (claim, name) in [
        (IS_ANONYMOUS, "user_anonymous"),
        (IS_VERIFIED, "user_verified"),
        (CAN_REAUTHENTICATE, "user_can_reauthenticate"),
    ] {
        for value in [true, false] {
            let verified = check_claims(&with(user_claims(), claim, value)).unwrap();
            assert_eq!(field(&verified, name), Some(value.to_string()));
        }
        for value in [json!("true"), json!(1), json!(0), json!(null), json!([true]), json!({})] {
            let token = claims_with(claim, value);
            assert_refused_as("no boolean", &token, TokenError::Claim);
        }
        let token = token_with_claims(&without(user_claims(), claim));
        assert_refused_as("no flag", &token, TokenError::MissingClaim);
    }
}

#[test]
fn roles_are_joined_and_absent_if_empty() {
    for (roles, expected) in
        [(json!([]), None), (json!(["a"]), Some("a")), (json!(["b", "a", "_:9"]), Some("b,a,_:9"))]
    {
        let verified = check_claims(&with(user_claims(), ROLES, roles)).unwrap();
        assert_eq!(field(&verified, "user_roles").as_deref(), expected);
    }
    let token = token_with_claims(&without(user_claims(), ROLES));
    assert_refused_as("no roles", &token, TokenError::MissingClaim);
}

#[test]
fn amr_is_joined_and_empty_if_absent() {
    for (amr, expected) in
        [(json!([]), ""), (json!(["pwd"]), "pwd"), (json!(["pwd", "x_otp"]), "pwd x_otp")]
    {
        let verified = check_claims(&with(user_claims(), "amr", amr)).unwrap();
        assert_eq!(field(&verified, "session_amr").as_deref(), Some(expected));
    }
    let verified = check_claims(&without(user_claims(), "amr")).unwrap();
    assert_eq!(field(&verified, "session_amr").as_deref(), Some(""));
    for amr in [
        json!(null),
        json!("pwd"),
        json!([1]),
        json!([""]),
        json!(["pwd mfa"]),
        json!(["a\r\nb"]),
        json!(["m\u{f8}a"]),
        json!({"pwd": 1}),
    ] {
        assert_refused_as("no amr", &claims_with("amr", amr), TokenError::Claim);
    }
}

#[test]
fn a_zero_auth_time_is_absent() {
    for (time, expected) in [
        (json!(1), Some("1")),
        (json!(1_700_000_000), Some("1700000000")),
        (json!(1_700_000_000.5), Some("1700000000")),
        (json!(253_402_300_799_u64), Some("253402300799")),
        (json!(0), None),
        (json!(0.5), None),
        (json!(-1), None),
        (json!(-62_135_596_800_i64), None),
        (json!(-1e300), None),
    ] {
        let verified = check_claims(&with(user_claims(), "auth_time", time)).unwrap();
        assert_eq!(field(&verified, "session_authenticated_at").as_deref(), expected);
    }
    let verified = check_claims(&without(user_claims(), "auth_time")).unwrap();
    assert_eq!(field(&verified, "session_authenticated_at"), None);
    for time in
        [json!("1700000000"), json!(null), json!([]), json!(true), json!(u64::MAX), json!(1e300)]
    {
        assert_refused_as("no auth_time", &claims_with("auth_time", time), TokenError::Claim);
    }
}

#[test]
fn claims_become_texts_of_variables() {
    let more = r#""text":"caf\u00e9 \"x\"","empty":"","raw":"café","int":42,"neg":-7,"half":1.50,
        "exp10":1e3,"huge":123456789012345678901234567890,"yes":true,"no":false,"nil":null,
        "list":["a","b c"],"one":["a"],"none":[],"commas":["a,b","c"],"comma":[","],"mixed":["a",1],
        "numbers":[1, 2],"nested":[["a"]],"object":{"a": [1.0,"\n"]},"lines":[1,
        2],"cr":"a\rb","nul":"\u0000","del":"\u007f","in_list":["a\nb"],"":"nameless",
        "\u0065scaped":1,"UPPER":1"#;
    let claims =
        check(&token(header().to_string(), appended(&user_claims(), more))).unwrap().claims;
    let user_roles = b"https://authgear.com/claims/user/roles";
    for (name, expected) in [
        (&b"sub"[..], Some(USER)),
        (b"iss", Some(ORIGIN)),
        (b"aud", Some(ORIGIN)),
        (b"exp", Some("1700001800")),
        (b"scope", Some("openid offline_access")),
        (b"amr", Some("pwd,mfa")),
        (user_roles, Some("admin,store:view")),
        (b"https://authgear.com/claims/user/is_verified", Some("true")),
        (b"text", Some("caf\u{e9} \"x\"")),
        (b"raw", Some("caf\u{e9}")),
        (b"empty", Some("")),
        (b"int", Some("42")),
        (b"neg", Some("-7")),
        (b"half", Some("1.50")),
        (b"exp10", Some("1e3")),
        (b"huge", Some("123456789012345678901234567890")),
        (b"yes", Some("true")),
        (b"no", Some("false")),
        (b"nil", None),
        (b"list", Some("a,b c")),
        (b"one", Some("a")),
        (b"none", Some("")),
        (b"commas", None),
        (b"comma", None),
        (b"mixed", Some(r#"["a",1]"#)),
        (b"numbers", Some("[1, 2]")),
        (b"nested", Some(r#"[["a"]]"#)),
        (b"object", Some(r#"{"a": [1.0,"\n"]}"#)),
        // Control bytes.
        (b"lines", None),
        (b"cr", None),
        (b"nul", None),
        (b"del", None),
        (b"in_list", None),
        // Names are exact.
        (b"", Some("nameless")),
        (b"escaped", Some("1")),
        (b"UPPER", Some("1")),
        (b"upper", None),
        (b"SUB", None),
        (b"su", None),
        (b"absent", None),
        (b"\xff", None),
    ] {
        let name_text = String::from_utf8_lossy(name);
        assert_eq!(claims.get(name).as_deref(), expected.map(str::as_bytes), "{name_text}");
    }
    assert_eq!(format!("{claims:?}"), "Claims");
}

#[test]
fn debug_shows_no_claim() {
    let shown = format!("{:?}", check(&good_token()).unwrap());
    for secret in [USER, "admin", "my-spa", "pwd"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn variables_find_claims_by_exact_or_unambiguous_name() {
    let claims = with(with(user_claims(), "customId", 1), "custom-id", 2);
    let claims = with(with(claims, "a_b", 3), "A.B", 4);
    let token = token_with_claims(&claims);
    let claims = Claims::of_verified(&token).unwrap();
    let find = |name: &str| claims.find(name.as_bytes()).map(|value| value.into_owned());
    for (name, value) in [
        ("sub", Some(USER)),
        ("client_id", Some("my-spa")),
        ("customid", Some("1")),
        ("custom_id", Some("2")),
        // An exact name takes precedence.
        ("a_b", Some("3")),
        ("a-b", None),
        ("https___authgear_com_claims_user_roles", Some("admin,store:view")),
        ("", None),
        ("none", None),
    ] {
        assert_eq!(find(name).as_deref(), value.map(str::as_bytes), "{name}");
    }
    for token in ["", "a", "a.b", "a.!.c", "a.e30.c.d"] {
        assert!(Claims::of_verified(token.as_bytes()).is_none(), "{token}");
    }
    let empty = Claims::of_verified(b"a.W10.c").unwrap();
    assert_eq!(empty.find(b"sub"), None);
}
