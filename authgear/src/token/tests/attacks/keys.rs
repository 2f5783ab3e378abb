//! Attacks by the choice of a key.

use super::*;

#[test]
fn keys_from_the_header_are_never_used() {
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
        // Ignored, not rejected: the signature of the named key is valid.
        assert!(check(&token_with_header(&own)).is_ok(), "{name}");
    }
}

#[test]
fn only_an_exact_kid_selects_a_key() {
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

/// Tokens with an unknown key cost no signature check, and their claims are not read.
#[test]
fn an_unknown_key_is_reported_before_other_errors() {
    let header = with(header(), "kid", "unknown").to_string();
    for (payload, signature) in [("nothing", &b"!"[..]), ("{}", b"")] {
        let mut token = token_by(&header, payload, |_| Vec::new());
        token.extend_from_slice(signature);
        assert_eq!(check(&token), Err(TokenError::UnknownKid));
    }
}

#[test]
fn a_token_without_kid_uses_the_only_key() {
    let set = |jwk: Value| read_keys(&json!({"keys": [jwk]}), &[Algorithm::RS256]).unwrap().0;
    let named = set(rsa_jwk(&keys().rsa, "new"));
    let nameless = set(without(rsa_jwk(&keys().rsa, "new"), "kid"));
    let other = set(rsa_jwk(&keys().other_rsa, "new"));
    let token = token_with_header(&without(header(), "kid"));
    let by = |set| verify(&token, set, &profile(), NOW).map(|verified| verified.key);
    assert!(named.has(by(&named).unwrap()) && nameless.has(by(&nameless).unwrap()));
    assert_ne!(by(&named), by(&nameless));
    assert_eq!(by(&other), Err(TokenError::Signature));
    // A `kid` in the token must match.
    assert!(verify(&good_token(), &named, &profile(), NOW).is_ok());
    assert_eq!(verify(&good_token(), &nameless, &profile(), NOW), Err(TokenError::UnknownKid));
}
