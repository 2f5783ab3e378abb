//! Access tokens that are JWTs.
//!
//! Authgear signs them (`pkg/lib/oauth/token_encoding.go`) with keys it publishes: [`KeySet`] reads
//! those, [`verify`] says whether a token counts, and which identity it has.

mod algorithm;
mod claims;
mod error;
mod json;
mod jwks;
mod published;
#[cfg(test)]
mod tests;
mod verify;

pub use algorithm::Algorithm;
pub use claims::{Claims, MAX_SUBJECT};
pub use error::TokenError;
pub use jwks::{Fingerprint, JwksError, KeySet, MAX_KEYS, MAX_KEY_SET};
pub use published::{request, Cause, Published, Schedule};
pub use verify::{verify, Profile, Verified};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use serde::Deserialize;

/// Longest token that is looked into, in bytes.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Longest header of a token, in bytes of base64url. Authgear's have some 110 bytes. The header is
/// parsed before the signature is verified: the cap keeps the cost of a forged one low.
pub const MAX_HEADER: usize = 1024;

/// Longest id of a key, in bytes.
pub const MAX_KID: usize = 256;

/// Whether a token is a JWT rather than an opaque one, as Authgear tells them apart
/// (`pkg/lib/oauth/token_encoding.go`): it begins as `{"` and a letter do in base64url.
pub fn looks_like_jwt(token: &[u8]) -> bool {
    token.starts_with(b"eyJ")
}

/// The parts of a token: three, with a dot between them (RFC 7515 section 7.1).
struct Parts<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    signature: &'a [u8],
    /// What the signature is of: all before the last dot.
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

/// Decodes base64url without padding (RFC 7515 section 2) that is canonical: what can be decoded
/// has no other spelling that can.
fn base64url(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// Whether this can be the id of a key: neither empty nor longer than [`MAX_KID`], and without
/// control bytes, so that it can be logged.
fn is_kid(kid: &str) -> bool {
    !kid.is_empty() && kid.len() <= MAX_KID && !kid.bytes().any(|byte| byte.is_ascii_control())
}

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

    if token.len() > MAX_TOKEN || !looks_like_jwt(token) {
        return None;
    }
    let payload = base64url(Parts::of(token)?.payload)?;
    let exp = serde_json::from_slice::<Claims>(&payload).ok()?.exp;
    match exp.as_u64() {
        Some(exp) => Some(exp),
        // A cast saturates: what is negative has expired, and what is beyond all times never does.
        None => exp.as_f64().map(|exp| exp as u64),
    }
}
