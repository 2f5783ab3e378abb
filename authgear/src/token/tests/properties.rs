//! Properties of all tokens and key sets.

use proptest::collection::{hash_map, vec};
use proptest::prelude::*;

use super::*;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Tries every other character of the alphabet at every position.
#[test]
fn changing_any_character_invalidates_a_token() {
    let token = good_token();
    for at in 0..token.len() {
        for &character in ALPHABET {
            let mut changed = token.clone();
            changed[at] = character;
            assert!(changed == token || check(&changed).is_err(), "{at} {character}");
        }
    }
}

#[test]
fn removing_or_inserting_any_byte_invalidates_a_token() {
    let token = good_token();
    for at in 0..token.len() {
        let mut changed = token.clone();
        changed.remove(at);
        assert!(check(&changed).is_err(), "{at}");
        assert!(check(&token[..at]).is_err(), "{at}");
        assert!(at == 0 || check(&token[at..]).is_err(), "{at}");
    }
    for at in 0..=token.len() {
        for byte in [b'A', b'.', b'=', b' ', 0, 0xff] {
            let mut changed = token.clone();
            changed.insert(at, byte);
            assert!(check(&changed).is_err(), "{at} {byte}");
        }
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (MADE - 10..EXPIRES + 10).prop_map(Value::from),
        "[a-z,]{0,4}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop::sample::select(vec!["RS256", "new", "old", "at+jwt", ORIGIN, USER, "client_id_x"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            hash_map("[a-z]{0,3}", inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Generates members, some with known names.
fn members(names: &'static [&'static str]) -> impl Strategy<Value = Vec<(String, Value)>> {
    let name = prop_oneof![
        4 => prop::sample::select(names).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    vec((name, json_value()), 0..3)
}

fn changed(object: Value, members: Vec<(String, Value)>) -> Value {
    members.into_iter().fold(object, |object, (name, value)| with(object, &name, value))
}

/// Asserts the properties of every accepted token.
fn assert_sound(verified: &Verified) -> Result<(), TestCaseError> {
    prop_assert!(verified.expires_at > NOW);
    prop_assert_eq!(verified.verdict.session_word(), "valid");
    let user = field(verified, "user_id").unwrap();
    prop_assert!(!user.is_empty() && !user.starts_with("client_id_"));
    for (name, value) in fields(verified) {
        prop_assert!(value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{}", name);
    }
    let roles = verified.claims.get(ROLES.as_bytes()).unwrap();
    let joined = field(verified, "user_roles").unwrap_or_default();
    prop_assert!(*roles == *joined.as_bytes());
    prop_assert!(verified.claims.get(b"iss").as_deref() == Some(ORIGIN.as_bytes()));
    prop_assert!(verified.claims.get(b"sub").as_deref() == Some(user.as_bytes()));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn changing_any_byte_invalidates_a_token(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        static TOKEN: OnceLock<Vec<u8>> = OnceLock::new();
        let token = TOKEN.get_or_init(good_token);
        let mut changed = token.clone();
        *at.get_mut(&mut changed) = byte;
        prop_assert_eq!(check(&changed).is_ok(), changed == *token);
    }

    #[test]
    fn verifying_any_bytes_never_panics(bytes in vec(any::<u8>(), 0..200)) {
        prop_assert!(check(&bytes).is_err());
        prop_assert!(check(&[b"eyJ", &*bytes].concat()).is_err());
    }

    #[test]
    fn verifying_any_parts_never_panics(
        parts in vec(prop_oneof![vec(any::<u8>(), 0..60).prop_map(encode), "[A-Za-z0-9_-]{0,40}"], 0..6),
        good in any::<prop::sample::Index>(),
    ) {
        let token = String::from_utf8(good_token()).unwrap();
        let mut parts = parts;
        let good_parts: Vec<_> = token.split('.').collect();
        if let Some(part) = parts.first_mut() {
            *part = good_parts[good.index(3)].to_owned();
        }
        prop_assert!(check(parts.join(".").as_bytes()).is_err());
    }

    #[test]
    fn parsing_any_key_set_never_panics(
        keys in vec(members(&["kty", "kid", "use", "key_ops", "alg", "n", "e", "crv", "x", "y", "d"]), 0..4),
        whole in json_value(),
    ) {
        let _ = read_keys(&whole, Algorithm::ALL);
        let keys: Vec<_> = keys
            .into_iter()
            .map(|members| changed(rsa_jwk(&self::keys().rsa, "new"), members))
            .collect();
        if let Ok((set, skipped)) = read_keys(&json!({"keys": keys}), Algorithm::ALL) {
            prop_assert!(set.len() > 0 && set.len() + skipped == keys.len());
            prop_assert!(set.kids().all(|kid| set.contains(kid)));
        }
        let _ = KeySet::parse(whole.to_string().as_bytes(), Algorithm::ALL);
    }
}

proptest! {
    // Few cases, since each needs a signature.
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_signed_header_gives_a_sound_token_or_an_error(
        members in members(&["alg", "kid", "typ", "cty", "crit", "b64", "jwk", "x5c", "zip"]),
        whole in json_value(),
    ) {
        prop_assert!(check(&token_with_header(&whole)).is_err());
        let header = changed(header(), members);
        if let Ok(verified) = check(&token_with_header(&header)) {
            prop_assert_eq!(header["alg"].as_str(), Some("RS256"));
            prop_assert_eq!(header["kid"].as_str(), Some("new"));
            prop_assert!(header["typ"].as_str().unwrap().to_lowercase().ends_with("at+jwt"));
            for name in ["crit", "b64", "cty"] {
                prop_assert!(header.get(name).is_none());
            }
            assert_sound(&verified)?;
        }
    }

    #[test]
    fn any_signed_claims_give_a_sound_token_or_an_error(
        members in members(&[
            "iss", "aud", "exp", "nbf", "iat", "sub", "amr", "auth_time",
            IS_ANONYMOUS, IS_VERIFIED, CAN_REAUTHENTICATE, ROLES,
        ]),
        whole in json_value(),
    ) {
        prop_assert!(check_claims(&whole).is_err());
        let claims = changed(user_claims(), members);
        if let Ok(verified) = check_claims(&claims) {
            for (name, _) in claims.as_object().unwrap() {
                if let Some(value) = verified.claims.get(name.as_bytes()) {
                    prop_assert!(!value.iter().any(u8::is_ascii_control));
                }
            }
            assert_sound(&verified)?;
        }
    }

    #[test]
    fn signed_payloads_that_are_no_complete_claims_are_rejected(text in any::<String>(), cut in any::<prop::sample::Index>()) {
        prop_assert!(check(&token(header().to_string(), &text)).is_err());
        let claims = user_claims().to_string();
        let cut = cut.index(claims.len());
        prop_assert!(check(&token(header().to_string(), &claims[..cut])).is_err());
    }
}
