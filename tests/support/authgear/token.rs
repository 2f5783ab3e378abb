//! Signed tokens: real RSA keys, and every claim Authgear writes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RsaPublicKeyComponents, RSA_PKCS1_2048_8192_SHA256};
use data_encoding::BASE64URL_NOPAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use serde_json::{json, Map, Value};

use super::users::User;
use crate::crypto::{hmac_sha256, sha256};
use crate::random;

pub(crate) const CLIENT: &str = "4b60ac4a9a2a4a3b";
const LIFETIME: i64 = 1800;

/// Seconds since 1970.
pub fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    now.as_secs().try_into().expect("a clock before the end of time")
}

/// An RSA key of 2048 bits that signs tokens.
pub struct SigningKey {
    pub kid: String,
    /// `None` for a key of which only the public part is known.
    private: Option<EncodingKey>,
    jwk: Value,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}

impl SigningKey {
    /// The n-th key of this process. Made once: making one takes long.
    /// A fake publishes and signs with the 0th unless told otherwise.
    pub fn nth(n: usize) -> Arc<Self> {
        static KEYS: Mutex<Vec<Arc<SigningKey>>> = Mutex::new(Vec::new());
        let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
        while keys.len() <= n {
            let pair = KeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
            let (kid, public) = (random::uuid(), pair.public_key());
            let jwk = json!({
                "kty": "RSA",
                "kid": kid,
                "use": "sig",
                "alg": "RS256",
                "created_at": 1_700_000_000,
                "e": BASE64URL_NOPAD.encode(public.exponent().big_endian_without_leading_zero()),
                "n": BASE64URL_NOPAD.encode(public.modulus().big_endian_without_leading_zero()),
            });
            keys.push(Arc::new(Self { kid, jwk, private: Some(encoding_key(&pair)) }));
        }
        keys[n].clone()
    }

    /// A key of which only the public part is known. It signs nothing.
    pub fn published(jwk: &Value) -> Arc<Self> {
        let kid = jwk["kid"].as_str().expect("a key id").to_owned();
        Arc::new(Self { kid, private: None, jwk: jwk.clone() })
    }

    /// The public key as Authgear publishes it.
    pub fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// The signature with RS256, in base64url.
    fn sign(&self, message: &[u8]) -> String {
        let key = self.private.as_ref().expect("a private key");
        jsonwebtoken::crypto::sign(message, key, Algorithm::RS256).expect("a signature")
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let number = |name: &str| {
            let text = self.jwk[name].as_str().expect("a number of the key");
            BASE64URL_NOPAD.decode(text.as_bytes()).expect("base64url")
        };
        let key = RsaPublicKeyComponents { n: number("n"), e: number("e") };
        key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
    }
}

/// The private key for `jsonwebtoken`, which wants the `RSAPrivateKey` (RFC 8017) within PKCS #8.
fn encoding_key(pair: &KeyPair) -> EncodingKey {
    let der: Pkcs8V1Der<'_> = pair.as_der().expect("PKCS #8");
    // RFC 5958: two lengths, a version, the algorithm with OID and NULL, and an octet string.
    let (before, key) = der.as_ref().split_at(26);
    assert_eq!(before[22..24], [0x04, 0x82], "an octet string of more than 255 bytes");
    EncodingKey::from_rsa_der(key)
}

/// A token before signing, for tests that need an unusual one.
#[derive(Clone, Debug)]
pub struct Token {
    key: Arc<SigningKey>,
    header: Map<String, Value>,
    claims: Map<String, Value>,
}

impl Token {
    fn new(key: Arc<SigningKey>, typ: &str, claims: Value) -> Self {
        let header = json!({"alg": "RS256", "kid": key.kid, "typ": typ});
        Self { key, header: object(header), claims: object(claims) }
    }

    /// A user's access token. `opaque` is the opaque token beneath, known by its hash.
    pub(crate) fn access(key: Arc<SigningKey>, origin: &str, user: &User, opaque: &str) -> Self {
        let now = unix_now();
        let mut claims = json!({
            "iss": origin,
            "aud": [origin],
            "iat": now,
            "exp": now + LIFETIME,
            "sub": user.id,
            "client_id": CLIENT,
            "scope": "openid offline_access https://authgear.com/scopes/full-access",
            "auth_time": user.authenticated_at,
            "jti": sha256(opaque.as_bytes()),
            "https://authgear.com/claims/user/is_anonymous": user.anonymous,
            "https://authgear.com/claims/user/is_verified": user.verified,
            "https://authgear.com/claims/user/can_reauthenticate": user.can_reauthenticate,
            "https://authgear.com/claims/user/roles": user.roles,
        });
        if !user.amr.is_empty() {
            claims["amr"] = json!(user.amr);
        }
        Self::new(key, "at+jwt", claims)
    }

    /// A machine's token of the client credentials grant.
    pub(crate) fn machine(key: Arc<SigningKey>, origin: &str, resource: &str) -> Self {
        let now = unix_now();
        let claims = json!({
            "iss": origin,
            "aud": [resource],
            "iat": now,
            "exp": now + LIFETIME,
            "sub": format!("client_id_{CLIENT}"),
            "client_id": CLIENT,
            "scope": "",
            "jti": sha256(random::token().as_bytes()),
        });
        Self::new(key, "at+jwt", claims)
    }

    /// An ID token, which the same keys sign.
    pub(crate) fn id(key: Arc<SigningKey>, origin: &str, user: &User) -> Self {
        let now = unix_now();
        let sid = BASE64URL_NOPAD.encode(format!("idp:{}", random::uuid()).as_bytes());
        let claims = json!({
            "iss": origin,
            "aud": [CLIENT],
            "iat": now,
            "exp": now + 300,
            "sub": user.id,
            "sid": sid,
            "auth_time": user.authenticated_at,
            "https://authgear.com/claims/user/is_anonymous": user.anonymous,
            "https://authgear.com/claims/user/is_verified": user.verified,
            "https://authgear.com/claims/user/can_reauthenticate": user.can_reauthenticate,
            "https://authgear.com/claims/user/roles": user.roles,
        });
        Self::new(key, "JWT", claims)
    }

    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    pub fn without_claim(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    pub fn without_header(mut self, name: &str) -> Self {
        self.header.remove(name);
        self
    }

    /// Sets the expiry in seconds from now; negative: it has expired.
    pub fn expires_in(self, seconds: i64) -> Self {
        self.claim("exp", unix_now() + seconds)
    }

    /// Signs with this key, and names it.
    pub fn key(mut self, key: &Arc<SigningKey>) -> Self {
        self.key = key.clone();
        self.header("kid", key.kid.as_str())
    }

    /// Signs it with RS256, whatever its header says.
    pub fn sign(self) -> String {
        let input = self.signing_input();
        let signature = self.key.sign(input.as_bytes());
        format!("{input}.{signature}")
    }

    /// A forgery whose signature is an HMAC with a secret the attacker knows.
    pub fn forge_hs256(self, secret: &[u8]) -> String {
        let input = self.header("alg", "HS256").signing_input();
        let signature = hmac_sha256(secret, input.as_bytes());
        joined(input, &signature)
    }

    /// A forgery without a signature.
    pub fn forge_none(self) -> String {
        joined(self.header("alg", "none").signing_input(), &[])
    }

    fn signing_input(&self) -> String {
        let part = |map: &Map<String, Value>| {
            BASE64URL_NOPAD.encode(Value::Object(map.clone()).to_string().as_bytes())
        };
        format!("{}.{}", part(&self.header), part(&self.claims))
    }
}

fn joined(input: String, signature: &[u8]) -> String {
    format!("{input}.{}", BASE64URL_NOPAD.encode(signature))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

/// The claims of a token, signature and all else unchecked.
pub(crate) fn claims_of(token: &str) -> Option<Value> {
    let claims = BASE64URL_NOPAD.decode(token.split('.').nth(1)?.as_bytes()).ok()?;
    serde_json::from_slice(&claims).ok()
}

/// The resolver's classification of a bearer, before it uses its database.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// A JWT of this project, with the hash of its grant.
    Grant(String),
    /// No JWT, or one that does not verify: taken for an opaque token.
    Opaque,
    Invalid,
}

/// Decodes as the resolver does: `iss` and `typ` are not looked at, time has no leeway. Without an
/// `origin`, `aud` is not looked at either.
pub(crate) fn decode(
    token: &str,
    keys: &[Arc<SigningKey>],
    origin: Option<&str>,
    now: i64,
) -> Decoded {
    if !token.starts_with("eyJ") {
        return Decoded::Opaque;
    }
    let Some(claims) = verified(token, keys, now) else { return Decoded::Opaque };
    let for_us = origin.is_none_or(|origin| match &claims["aud"] {
        Value::Array(audiences) => audiences.iter().any(|audience| audience == origin),
        audience => audience == origin,
    });
    match claims["jti"].as_str() {
        Some(jti) if for_us => Decoded::Grant(jti.to_owned()),
        _ => Decoded::Invalid,
    }
}

fn verified(token: &str, keys: &[Arc<SigningKey>], now: i64) -> Option<Value> {
    let (input, signature) = token.rsplit_once('.')?;
    let (header, _) = input.split_once('.')?;
    let header: Value =
        serde_json::from_slice(&BASE64URL_NOPAD.decode(header.as_bytes()).ok()?).ok()?;
    let key = keys.iter().find(|key| header["kid"] == key.kid && header["alg"] == "RS256")?;
    let signature = BASE64URL_NOPAD.decode(signature.as_bytes()).ok()?;
    if !key.verifies(input.as_bytes(), &signature) {
        return None;
    }
    let claims = claims_of(token)?;
    let time = |claim: &str| claims[claim].as_i64();
    let current = time("exp").is_none_or(|exp| now < exp)
        && time("iat").is_none_or(|iat| iat <= now)
        && time("nbf").is_none_or(|nbf| nbf <= now);
    current.then_some(claims)
}
