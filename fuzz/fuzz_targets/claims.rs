//! Signed claims of a careless issuer: identity fields are always valid in headers.
#![no_main]

use std::sync::OnceLock;

use authgear::token::{self, Algorithm, KeySet, Profile};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1_700_000_000;

struct Signer {
    pair: Ed25519KeyPair,
    keys: KeySet,
    profile: Profile,
}

impl Signer {
    fn new() -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        let keys = format!(r#"{{"keys":[{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#);
        let profile = Profile {
            issuer: "https://a.test".into(),
            audiences: vec!["https://a.test".into()],
            algorithms: vec![Algorithm::EdDSA],
            leeway: 0,
            machine_tokens: true,
        };
        Self { pair, keys: KeySet::parse(keys.as_bytes(), Algorithm::ALL).unwrap().0, profile }
    }
}

fuzz_target!(|payload: &[u8]| {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    let Signer { pair, keys, profile } = SIGNER.get_or_init(Signer::new);
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"EdDSA","typ":"at+jwt"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
    let signature = URL_SAFE_NO_PAD.encode(pair.sign(signed.as_bytes()));
    let token = format!("{signed}.{signature}");
    let Ok(verified) = token::verify(token.as_bytes(), keys, profile, NOW) else { return };
    assert!(verified.expires_at > NOW);
    let fields: Vec<_> = verified.verdict.fields().collect();
    assert!(fields.contains(&("x-authgear-session-valid", b"true")));
    for (name, value) in fields {
        assert!(value.iter().all(|&byte| byte.is_ascii_graphic() || byte == b' '), "{name}");
    }
    let sub = verified.claims.get(b"sub").unwrap();
    if let Some(id) = verified.verdict.get_suffix(b"user_id") {
        assert_eq!(id, &*sub);
    } else {
        assert!(sub.starts_with(b"client_id_"));
    }
});
