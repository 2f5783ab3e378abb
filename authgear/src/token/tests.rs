//! Tests of the module, with shared keys, generated once, and tokens signed with them.

mod attacks;
mod identities;
mod key_sets;
mod oracle;
mod properties;
mod vectors;

use std::sync::OnceLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding};
use serde_json::{json, Value};

use super::*;

/// Tokens are valid for half an hour, as Authgear's, and presented after ten minutes.
const MADE: u64 = 1_700_000_000;
const NOW: u64 = MADE + 600;
const EXPIRES: u64 = MADE + 1800;

const ORIGIN: &str = "https://myapp.authgear.cloud";
const USER: &str = "5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f";
const IS_ANONYMOUS: &str = "https://authgear.com/claims/user/is_anonymous";
const IS_VERIFIED: &str = "https://authgear.com/claims/user/is_verified";
const CAN_REAUTHENTICATE: &str = "https://authgear.com/claims/user/can_reauthenticate";
const ROLES: &str = "https://authgear.com/claims/user/roles";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A key of each kind, and another RSA key.
struct Keys {
    rsa: RsaKeyPair,
    other_rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| Keys {
        rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        other_rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        p256: EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        p384: EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
        ed25519: Ed25519KeyPair::generate().unwrap(),
    })
}

/// The JWK of an RSA key of 2048 bits with the usual exponent.
fn rsa_jwk(key: &RsaKeyPair, kid: &str) -> Value {
    // An RSAPublicKey of RFC 8017 appendix A.1.1.
    let der = key.public_key().as_ref();
    assert_eq!(
        (der.len(), &der[4..9], &der[265..]),
        (270, &b"\x02\x82\x01\x01\0"[..], &b"\x02\x03\x01\0\x01"[..])
    );
    json!({
        "kty": "RSA", "kid": kid, "use": "sig", "alg": "RS256", "created_at": 1_600_000_000,
        "n": encode(&der[9..265]), "e": "AQAB",
    })
}

fn ec_jwk(key: &EcdsaKeyPair, curve: &str, algorithm: &str, kid: &str) -> Value {
    let (x, y) = key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
    json!({
        "kty": "EC", "crv": curve, "kid": kid, "use": "sig", "alg": algorithm,
        "x": encode(x), "y": encode(y),
    })
}

fn ed25519_jwk() -> Value {
    let x = encode(keys().ed25519.public_key());
    json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "alg": "EdDSA", "x": x})
}

/// Key set that Authgear publishes after a rotation: both keys, the new one first.
fn authgear_jwks() -> Value {
    json!({"keys": [rsa_jwk(&keys().rsa, "new"), rsa_jwk(&keys().other_rsa, "old")]})
}

fn read_keys(jwks: &Value, allowed: &[Algorithm]) -> Result<(KeySet, usize), JwksError> {
    KeySet::parse(jwks.to_string().as_bytes(), allowed)
}

fn key_set() -> &'static KeySet {
    static SET: OnceLock<KeySet> = OnceLock::new();
    SET.get_or_init(|| {
        let (set, skipped) = read_keys(&authgear_jwks(), &[Algorithm::RS256]).unwrap();
        assert_eq!((set.len(), skipped), (2, 0));
        set
    })
}

fn profile() -> Profile {
    Profile {
        issuer: ORIGIN.to_owned(),
        audiences: vec![ORIGIN.to_owned()],
        algorithms: vec![Algorithm::default()],
        leeway: 0,
        machine_tokens: false,
    }
}

fn header() -> Value {
    json!({"alg": "RS256", "kid": "new", "typ": "at+jwt"})
}

/// The claims that `pkg/lib/oauth/token_encoding.go` gives a user's token.
fn user_claims() -> Value {
    json!({
        "iss": ORIGIN, "aud": [ORIGIN], "iat": MADE, "exp": EXPIRES, "sub": USER,
        "client_id": "my-spa", "scope": "openid offline_access", "auth_time": MADE - 5,
        "amr": ["pwd", "mfa"],
        "jti": "d2a84f4b8b650937ec8f73cd8be2c74add5a911ba64df27458ed8229da804a26",
        IS_ANONYMOUS: false, IS_VERIFIED: true, CAN_REAUTHENTICATE: true,
        ROLES: ["admin", "store:view"],
    })
}

fn machine_claims() -> Value {
    json!({
        "iss": ORIGIN, "aud": [ORIGIN], "iat": MADE, "exp": EXPIRES, "sub": "client_id_robot",
        "client_id": "robot", "scope": "read write", "jti": "0",
    })
}

/// Sets a member of the object.
fn with(mut object: Value, name: &str, value: impl Into<Value>) -> Value {
    object[name] = value.into();
    object
}

fn without(mut object: Value, name: &str) -> Value {
    assert!(object.as_object_mut().unwrap().remove(name).is_some(), "{name}");
    object
}

/// Returns the JSON text of the object with a member appended, even if it is a duplicate.
fn appended(object: &Value, member: &str) -> String {
    let text = object.to_string();
    format!("{},{member}}}", text.strip_suffix('}').unwrap())
}

fn sign(algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
    let rsa: &'static dyn RsaEncoding = match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_SHA512,
        Algorithm::ES256 | Algorithm::ES384 => {
            let p256 = algorithm == Algorithm::ES256;
            let key = if p256 { &keys().p256 } else { &keys().p384 };
            return key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
        }
        Algorithm::EdDSA => return keys().ed25519.sign(message).as_ref().to_vec(),
    };
    sign_rsa(&keys().rsa, rsa, message)
}

fn sign_rsa(key: &RsaKeyPair, encoding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

/// Returns a token of these texts, with the signature from `signer`.
fn token_by(
    header: impl AsRef<[u8]>,
    payload: impl AsRef<[u8]>,
    signer: impl Fn(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let signed = format!("{}.{}", encode(header), encode(payload));
    format!("{signed}.{}", encode(signer(signed.as_bytes()))).into_bytes()
}

/// Returns a token of these texts, signed as by Authgear.
fn token(header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> Vec<u8> {
    token_by(header, payload, |message| sign(Algorithm::RS256, message))
}

fn token_with_header(header: &Value) -> Vec<u8> {
    token(header.to_string(), user_claims().to_string())
}

fn token_with_claims(claims: &Value) -> Vec<u8> {
    token(header().to_string(), claims.to_string())
}

/// Returns a token that is valid except for a claim.
fn claims_with(name: &str, value: impl Into<Value>) -> Vec<u8> {
    token_with_claims(&with(user_claims(), name, value))
}

/// Returns a valid token.
fn good_token() -> Vec<u8> {
    token_with_claims(&user_claims())
}

/// [`super::verify`]. What counts here counts by the crate `jsonwebtoken` too.
fn verify(
    token: &[u8],
    keys: &KeySet,
    profile: &Profile,
    now: u64,
) -> Result<Verified, TokenError> {
    let verified = super::verify(token, keys, profile, now);
    if verified.is_ok() {
        oracle::assert_counts(token, keys, profile, now);
    }
    verified
}

/// Asserts that the token is refused, and that the crate `jsonwebtoken` refuses it too, unless the
/// row is listed with the reason why not.
#[track_caller]
fn assert_refused_as(row: &str, token: &[u8], expected: TokenError) {
    assert_eq!(check(token), Err(expected), "{row}");
    oracle::assert_listed(row, token, expected);
}

fn check(token: &[u8]) -> Result<Verified, TokenError> {
    verify(token, key_set(), &profile(), NOW)
}

fn check_claims(claims: &Value) -> Result<Verified, TokenError> {
    check(&token_with_claims(claims))
}

/// Returns the header fields for upstreams.
fn fields(verified: &Verified) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
    verified.verdict.fields().map(|(name, value)| (name.to_owned(), text(value))).collect()
}

fn field(verified: &Verified, name: &str) -> Option<String> {
    let found = verified.verdict.get_suffix(name.as_bytes())?;
    Some(String::from_utf8(found.to_vec()).unwrap())
}

#[test]
fn a_users_token_gives_the_fields_of_the_resolver() {
    let verified = check(&good_token()).unwrap();
    let expected = [
        ("x-authgear-session-valid", "true"),
        ("x-authgear-user-id", USER),
        ("x-authgear-user-anonymous", "false"),
        ("x-authgear-user-verified", "true"),
        ("x-authgear-user-can-reauthenticate", "true"),
        ("x-authgear-user-roles", "admin,store:view"),
        ("x-authgear-session-amr", "pwd mfa"),
        ("x-authgear-session-authenticated-at", "1699999995"),
    ];
    assert_eq!(fields(&verified), expected.map(|(name, value)| (name.into(), value.into())));
    assert_eq!(verified.verdict.session_word(), "valid");
    assert_eq!(verified.expires_at, EXPIRES);
    assert_eq!(verified.issued_at, Some(MADE));
    assert!(key_set().has(verified.key));
    assert_eq!(verified.claims.get(b"client_id").as_deref(), Some(&b"my-spa"[..]));
}

#[test]
fn a_token_of_the_previous_key_is_accepted() {
    let header = with(header(), "kid", "old").to_string();
    let token = token_by(header, user_claims().to_string(), |message| {
        sign_rsa(&keys().other_rsa, &signature::RSA_PKCS1_SHA256, message)
    });
    let (old, new) = (check(&token).unwrap().key, check(&good_token()).unwrap().key);
    assert_ne!(old, new);
    let rotated = json!({"keys": [rsa_jwk(&keys().rsa, "new")]});
    let (rotated, _) = read_keys(&rotated, &[Algorithm::RS256]).unwrap();
    assert!(rotated.has(new) && !rotated.has(old));
}

#[test]
fn a_machines_token_is_accepted_only_if_allowed() {
    let token = token_with_claims(&machine_claims());
    assert_eq!(check(&token), Err(TokenError::MachineToken));
    let profile = Profile { machine_tokens: true, ..profile() };
    let verified = verify(&token, key_set(), &profile, NOW).unwrap();
    assert_eq!(fields(&verified), [("x-authgear-session-valid".into(), "true".into())]);
    assert_eq!(verified.claims.get(b"client_id").as_deref(), Some(&b"robot"[..]));

    // User claims in a machine's token are ignored.
    let claims = with(with(machine_claims(), ROLES, json!(["admin"])), "amr", json!(["mfa"]));
    let verified = verify(&token_with_claims(&claims), key_set(), &profile, NOW).unwrap();
    assert_eq!(fields(&verified).len(), 1);
    // Users' tokens are accepted as before.
    assert!(verify(&good_token(), key_set(), &profile, NOW).is_ok());
}

#[test]
fn each_algorithm_verifies_only_where_allowed() {
    let rsa = |kid| without(rsa_jwk(&keys().rsa, kid), "alg");
    let jwks = json!({"keys": [
        rsa("rsa"),
        ec_jwk(&keys().p256, "P-256", "ES256", "p256"),
        ec_jwk(&keys().p384, "P-384", "ES384", "p384"),
        ed25519_jwk(),
    ]});
    let (all, skipped) = read_keys(&jwks, Algorithm::ALL).unwrap();
    assert_eq!((all.len(), skipped), (4, 0));

    for &algorithm in Algorithm::ALL {
        assert_eq!(Algorithm::parse(algorithm.as_str()), Some(algorithm));
        let kid = match algorithm {
            Algorithm::ES256 => "p256",
            Algorithm::ES384 => "p384",
            Algorithm::EdDSA => "ed",
            _ => "rsa",
        };
        let header = json!({"alg": algorithm.as_str(), "kid": kid, "typ": "at+jwt"}).to_string();
        let token = token_by(header, user_claims().to_string(), |m| sign(algorithm, m));
        let allow =
            |algorithms: &[Algorithm]| Profile { algorithms: algorithms.into(), ..profile() };
        assert!(verify(&token, &all, &allow(&[algorithm]), NOW).is_ok(), "{algorithm:?}");
        assert!(verify(&token, &all, &allow(Algorithm::ALL), NOW).is_ok(), "{algorithm:?}");

        let others: Vec<_> = Algorithm::ALL.iter().copied().filter(|o| *o != algorithm).collect();
        let refused = Err(TokenError::Algorithm);
        assert_eq!(verify(&token, &all, &allow(&others), NOW), refused, "{algorithm:?}");
        // A key read for other algorithms does not verify this one.
        let (set, _) = read_keys(&jwks, &others).unwrap();
        let expected =
            if set.contains(kid) { TokenError::Algorithm } else { TokenError::UnknownKid };
        assert_eq!(verify(&token, &set, &allow(&[algorithm]), NOW), Err(expected), "{algorithm:?}");
    }
    for name in ["", "none", "HS256", "HS384", "HS512", "rs256", "RS256 ", "ES512", "ES256K"] {
        assert_eq!(Algorithm::parse(name), None, "{name}");
    }
    assert_eq!(Algorithm::default(), Algorithm::RS256);
}

#[test]
fn only_tokens_with_the_prefix_look_like_jwts() {
    for (token, expected) in [
        (&b"eyJhbGciOiJSUzI1NiJ9.e30.c2ln"[..], true),
        (b"eyJ", true),
        (b"", false),
        (b"ey", false),
        (b"EyJ", false),
        (b" eyJ", false),
        (b"0123456789abcdefghijklmnopqrstuv", false),
    ] {
        assert_eq!(looks_like_jwt(token), expected);
    }
    assert!(looks_like_jwt(&good_token()));
}

/// Prints the cost of verifying a new token. Asserts no limit.
#[test]
fn verification_cost_is_printed() {
    let token = good_token();
    let (rounds, times) = (20, 50);
    let fastest = (0..rounds)
        .map(|_| {
            let start = std::time::Instant::now();
            for _ in 0..times {
                let token = std::hint::black_box(&token);
                assert!(super::verify(token, key_set(), &profile(), NOW).is_ok());
            }
            start.elapsed() / times
        })
        .min();
    println!("a token of {} bytes: {:?}", token.len(), fastest.unwrap());
}

fn unsigned(payload: &str) -> Vec<u8> {
    let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
    format!("{}.{}.c2ln", part(r#"{"alg":"RS256"}"#), part(payload)).into_bytes()
}

#[test]
fn the_expiry_of_a_jwt_is_read_unverified() {
    for (payload, expected) in [
        (r#"{"exp":1700000000}"#, Some(1_700_000_000)),
        (r#"{"sub":"alice","exp":1700000000,"aud":["x"]}"#, Some(1_700_000_000)),
        (r#"{"exp":1700000000.9}"#, Some(1_700_000_000)),
        (r#"{"exp":1e3}"#, Some(1000)),
        (r#"{"exp":-1}"#, Some(0)),
        (r#"{"exp":1e308}"#, Some(u64::MAX)),
        (r#"{"exp":"1700000000"}"#, None),
        (r#"{"exp":null}"#, None),
        (r#"{"exp":1,"exp":2}"#, None),
        (r#"{}"#, None),
        (r#"[]"#, None),
        ("nothing", None),
    ] {
        assert_eq!(expires_at(&unsigned(payload)), expected, "{payload}");
    }
}

#[test]
fn other_tokens_have_no_expiry() {
    let good = unsigned(r#"{"exp":1}"#);
    assert_eq!(expires_at(&good), Some(1));
    let mut more = good.clone();
    more.extend(b".x");
    let mut long = good.clone();
    long.resize(MAX_TOKEN + 1, b'x');
    for token in [&more, &long, &b"eyJ".to_vec(), &b"".to_vec(), &b"opaque".to_vec()] {
        assert_eq!(expires_at(token), None);
    }
    assert_eq!(expires_at(&good[1..]), None);
}

#[test]
fn deep_nesting_does_not_overflow_the_stack() {
    let deep = format!(r#"{{"a":{}1,"exp":1}}"#, "[".repeat(5000));
    assert_eq!(expires_at(&unsigned(&deep)), None);
}
