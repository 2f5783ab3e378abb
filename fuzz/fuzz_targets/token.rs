//! Tokens of a client without the key: none is accepted.
#![no_main]

use std::sync::OnceLock;

use authgear::token::{self, Algorithm, Claims, KeySet, Profile};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use libfuzzer_sys::fuzz_target;

/// The RSA key of RFC 7515 appendix A.2, and the P-256 key of appendix A.3.
const KEYS: &str = r#"{"keys":[
{"kty":"RSA","kid":"rsa","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"},
{"kty":"EC","kid":"ec","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

fuzz_target!(|data: &[u8]| {
    static SET: OnceLock<(KeySet, Profile)> = OnceLock::new();
    let (keys, profile) = SET.get_or_init(|| {
        let profile = Profile {
            issuer: "https://a.test".into(),
            audiences: vec!["https://a.test".into()],
            algorithms: Algorithm::ALL.to_vec(),
            leeway: 0,
            machine_tokens: true,
        };
        (KeySet::parse(KEYS.as_bytes(), Algorithm::ALL).unwrap().0, profile)
    });
    let judge = |token: &[u8]| {
        assert!(token::verify(token, keys, profile, 1_700_000_000).is_err());
        token::expires_at(token);
        if let Some(claims) = Claims::of_verified(token) {
            claims.find(b"sub");
            claims.get(b"https://authgear.com/claims/user/roles");
        }
    };
    judge(data);
    // The same three parts with correct encoding.
    let parts: Vec<_> =
        data.splitn(3, |&byte| byte == 0).map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
    judge(parts.join(".").as_bytes());
});
