//! Benchmarks of the core: `cargo bench -p authgear`, with part of a name to run only some.

use authgear::credentials::{CookieNames, Credentials};
use authgear::identity::Identity;
use authgear::policy::Condition;
use authgear::shared::cache_key::{Key, KeySecret};
use authgear::shared::purges::PurgeEpoch;
use authgear::shared::record;
use authgear::token::{self, Algorithm, KeySet, Profile};
use authgear::verdict::Verdict;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256};
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use base64::Engine as _;
use divan::{black_box, Bencher};
use serde_json::{json, Value};

const ORIGIN: &str = "https://myapp.authgear.cloud";
const NOW: u64 = 1_800_000_000;

/// Typical values from Authgear, and a JWT with the usual claims.
const OPAQUE: &str = "Bearer aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC";
const COOKIES: &str = "theme=dark; _ga=GA1.2.1234567890.1700000000; \
    session=5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f.aB3dE5gH7jK9mN1pQ3sT5vW7xY9zA1bC; lang=en";

fn main() {
    divan::main();
}

fn identity() -> Identity {
    let mut builder = Identity::builder();
    for (name, value) in [
        ("x-authgear-session-valid", "true"),
        ("x-authgear-user-id", "5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f"),
        ("x-authgear-user-anonymous", "false"),
        ("x-authgear-user-verified", "true"),
        ("x-authgear-user-can-reauthenticate", "true"),
        ("x-authgear-user-roles", "admin,store:view"),
        ("x-authgear-session-amr", ""),
        ("x-authgear-session-authenticated-at", "1700000000"),
    ] {
        builder.push(name.as_bytes(), value.as_bytes()).expect("a good field");
    }
    builder.build()
}

mod credentials {
    use super::*;

    #[divan::bench]
    fn opaque() -> bool {
        read(OPAQUE, "").is_empty()
    }

    #[divan::bench]
    fn cookies() -> bool {
        read("", COOKIES).is_empty()
    }

    #[divan::bench]
    fn jwt(bencher: Bencher<'_, '_>) {
        let bearer = format!("Bearer {}", Signer::new().token());
        bencher.bench_local(|| read(&bearer, "").is_empty());
    }
}

fn read<'a>(authorization: &'a str, cookies: &'a str) -> Credentials<'a> {
    let authorization = black_box(authorization).as_bytes();
    let cookies = [black_box(cookies).as_bytes()];
    Credentials::read(Some(authorization), cookies, &CookieNames::default())
}

mod key {
    use super::*;

    fn of(bencher: Bencher<'_, '_>, authorization: &str, cookies: &str) {
        let secret = KeySecret::from_bytes([7; 16]);
        let credentials = read(authorization, cookies);
        bencher.bench_local(|| Key::of(&secret, &[7; 32], black_box(&credentials)));
    }

    #[divan::bench]
    fn opaque(bencher: Bencher<'_, '_>) {
        of(bencher, OPAQUE, "");
    }

    #[divan::bench]
    fn cookies(bencher: Bencher<'_, '_>) {
        of(bencher, "", COOKIES);
    }

    #[divan::bench]
    fn jwt(bencher: Bencher<'_, '_>) {
        of(bencher, &format!("Bearer {}", Signer::new().token()), "");
    }
}

mod verdict {
    use super::*;

    #[divan::bench]
    fn encode(bencher: Bencher<'_, '_>) {
        let verdict = Verdict::Valid(identity());
        bencher.bench_local(|| record::encode(PurgeEpoch::default(), None, black_box(&verdict)));
    }

    #[divan::bench]
    fn decode(bencher: Bencher<'_, '_>) {
        let bytes = record::encode(PurgeEpoch::default(), None, &Verdict::Valid(identity()))
            .expect("it can be kept");
        bencher.bench_local(|| record::decode(black_box(&bytes)));
    }
}

mod policy {
    use super::*;

    #[divan::bench(args = ["session", "verified", "role=admin", "role=a,b,store:view"])]
    fn check(bencher: Bencher<'_, '_>, condition: &str) {
        let condition = Condition::parse(condition, |_| None).expect("a condition");
        let identity = identity();
        bencher.bench_local(|| condition.check(black_box(&identity), None, NOW));
    }
}

mod jwt {
    use super::*;

    #[divan::bench]
    fn verify(bencher: Bencher<'_, '_>) {
        let signer = Signer::new();
        let (keys, profile) = (signer.key_set(), profile());
        let token = signer.token();
        bencher.bench_local(|| {
            token::verify(black_box(token.as_bytes()), &keys, &profile, NOW).expect("a good token")
        });
    }

    /// Lower bound of any verification: the signature check.
    #[divan::bench]
    fn signature_alone(bencher: Bencher<'_, '_>) {
        let signer = Signer::new();
        let token = signer.token();
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let signature = BASE64URL.decode(signature).expect("base64url");
        let key = aws_lc_rs::signature::ParsedPublicKey::new(
            &RSA_PKCS1_2048_8192_SHA256,
            signer.0.public_key().as_ref(),
        );
        let key = key.expect("a good key");
        bencher.bench_local(|| key.verify_sig(black_box(signed.as_bytes()), &signature));
    }

    #[divan::bench]
    fn parse_key_set(bencher: Bencher<'_, '_>) {
        let jwks = Signer::new().jwks().to_string();
        let algorithms = [Algorithm::RS256];
        bencher.bench_local(|| KeySet::parse(black_box(jwks.as_bytes()), &algorithms).is_ok());
    }
}

fn profile() -> Profile {
    Profile {
        issuer: ORIGIN.into(),
        audiences: vec![ORIGIN.into()],
        algorithms: vec![Algorithm::RS256],
        leeway: 0,
        machine_tokens: false,
    }
}

struct Signer(KeyPair);

impl Signer {
    fn new() -> Self {
        Self(KeyPair::generate(KeySize::Rsa2048).expect("an RSA key"))
    }

    fn jwks(&self) -> Value {
        // RSAPublicKey (RFC 8017): the modulus follows two headers and a zero byte.
        let modulus = &self.0.public_key().as_ref()[9..][..256];
        json!({"keys": [{
            "kty": "RSA",
            "kid": "5e0f2b7c",
            "use": "sig",
            "alg": "RS256",
            "e": "AQAB",
            "n": BASE64URL.encode(modulus),
        }]})
    }

    fn key_set(&self) -> KeySet {
        let jwks = self.jwks().to_string();
        KeySet::parse(jwks.as_bytes(), &[Algorithm::RS256]).expect("a key set").0
    }

    fn token(&self) -> String {
        let header = json!({"alg": "RS256", "kid": "5e0f2b7c", "typ": "at+jwt"});
        let claims = json!({
            "iss": ORIGIN,
            "aud": [ORIGIN],
            "iat": NOW,
            "exp": NOW + 1800,
            "sub": "5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f",
            "client_id": "4b60ac4a9a2a4a3b",
            "scope": "openid offline_access https://authgear.com/scopes/full-access",
            "auth_time": 1_700_000_000,
            "jti": "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00",
            "https://authgear.com/claims/user/is_anonymous": false,
            "https://authgear.com/claims/user/is_verified": true,
            "https://authgear.com/claims/user/can_reauthenticate": true,
            "https://authgear.com/claims/user/roles": ["admin", "store:view"],
        });
        let part = |value: Value| BASE64URL.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mut signature = vec![0; self.0.public_modulus_len()];
        let random = SystemRandom::new();
        self.0
            .sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature)
            .expect("a signature");
        format!("{signed}.{}", BASE64URL.encode(signature))
    }
}
