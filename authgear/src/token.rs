//! Access tokens in JWT form.
//!
//! Authgear signs the tokens (`pkg/lib/oauth/token_encoding.go`) and publishes the keys. [`KeySet`]
//! reads the keys; [`verify`] accepts or rejects a token and returns its identity.

mod algorithm;
mod claims;
mod json;
mod jwks;
mod jwks_state;
mod profile;
#[cfg(test)]
mod tests;
mod verify;

pub use crate::verdict::TokenError;
pub use algorithm::Algorithm;
pub use claims::{Claims, MAX_SUBJECT};
pub use jwks::{Fingerprint, JwksError, KeySet, MAX_KEYS, MAX_KEY_SET};
pub use jwks_state::{Cause, JwksState, Schedule};
pub use profile::Profile;
pub use verify::{disputed_claim, verify, Verified, MAX_SHOWN};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use serde::Deserialize;

/// Longest token that is verified, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Longest header of a token, in bytes of base64url. Authgear's have some 110 bytes. The header is
/// parsed before the signature is verified: the cap keeps the cost of a forged one low.
pub const MAX_HEADER: usize = 1024;

/// Longest key id (`kid`), in bytes.
pub const MAX_KID: usize = 256;

/// Whether a token is a JWT and not opaque, by Authgear's own rule
/// (`pkg/lib/oauth/token_encoding.go`): the token starts with `{"` and a letter in base64url.
pub fn looks_like_jwt(token: &[u8]) -> bool {
    token.starts_with(b"eyJ")
}

/// The three parts of a token, separated by dots (RFC 7515 section 7.1).
struct Parts<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
    /// Input of the signature: everything before the last dot.
    signed: &'a [u8],
}

impl<'a> Parts<'a> {
    fn of(token: &'a [u8]) -> Option<Self> {
        let mut parts = token.split(|&byte| byte == b'.');
        let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let signed = token.get(..header.len() + 1 + payload.len())?;
        parts.next().is_none().then_some(Self { header, payload, signature, signed })
    }
}

/// Decodes canonical base64url without padding (RFC 7515 section 2): each value has exactly one
/// accepted spelling.
fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Whether `kid` is acceptable as a key id: not empty, at most [`MAX_KID`] bytes, and without control
/// bytes, so that it can be logged.
fn is_kid(kid: &str) -> bool {
    !kid.is_empty() && kid.len() <= MAX_KID && !kid.bytes().any(|byte| byte.is_ascii_control())
}

/// Returns `exp` of a JWT, in seconds since 1970 (RFC 7519, section 4.1.4), if present.
///
/// Nothing is verified. The result may only shorten the time in the cache, never grant access.
pub fn expires_at(token: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Expiry {
        exp: serde_json::Number,
    }

    if token.len() > MAX_TOKEN || !looks_like_jwt(token) {
        return None;
    }
    let payload = base64url(Parts::of(token)?.payload)?;
    let exp = serde_json::from_slice::<Expiry>(&payload).ok()?.exp;
    match exp.as_u64() {
        Some(exp) => Some(exp),
        // The cast saturates: a negative time has expired, and one out of range never expires.
        None => exp.as_f64().map(|exp| exp as u64),
    }
}
