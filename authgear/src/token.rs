//! Access tokens that are JWTs.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use serde::Deserialize;

/// Longest token that is looked into, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// When `token` says it expires, in seconds since 1970 (RFC 7519, section 4.1.4), if it is a JWT
/// that says so.
///
/// Nothing is verified: the answer serves to forget early what is known of a token, never to
/// trust it.
pub fn expires_at(token: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: serde_json::Number,
    }

    // As Authgear tells a JWT from an opaque token.
    if token.len() > MAX_TOKEN || !token.starts_with(b"eyJ") {
        return None;
    }
    let mut parts = token.split(|&byte| byte == b'.');
    let (_header, payload, _signature) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    let exp = serde_json::from_slice::<Claims>(&payload).ok()?.exp;
    match exp.as_u64() {
        Some(exp) => Some(exp),
        // A cast saturates: what is negative has expired, and what is beyond all times never does.
        None => exp.as_f64().map(|exp| exp as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(payload: &str) -> Vec<u8> {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        format!("{}.{}.c2ln", part(r#"{"alg":"RS256"}"#), part(payload)).into_bytes()
    }

    #[test]
    fn expiry_of_a_jwt() {
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
            assert_eq!(expires_at(&jwt(payload)), expected, "{payload}");
        }
    }

    #[test]
    fn what_is_no_jwt_has_none() {
        let good = jwt(r#"{"exp":1}"#);
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
    fn deep_nesting_is_no_stack_overflow() {
        let deep = format!(r#"{{"a":{}1,"exp":1}}"#, "[".repeat(5000));
        assert_eq!(expires_at(&jwt(&deep)), None);
    }
}
