//! Whether a token counts.

use super::algorithm::Algorithm;
use super::claims::{self, Claims};
use super::json::Json;
use super::jwks::{Fingerprint, KeySet};
use super::{base64url, is_kid, looks_like_jwt, Parts, TokenError, MAX_HEADER, MAX_TOKEN};
use crate::verdict::Verdict;

/// What a token must be to count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// What `iss` must be, byte by byte: the project's public origin.
    pub issuer: String,
    /// One of which `aud` must be or contain, byte by byte.
    pub audiences: Vec<String>,
    /// One of which `alg` must be.
    pub algorithms: Vec<Algorithm>,
    /// How far the clock that made a token may be off, in seconds.
    pub leeway: u64,
    /// Whether tokens of machines (client credentials grant) count.
    pub machine_tokens: bool,
}

/// What a token that counts says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Always [`Verdict::Valid`], with what the resolver would have said at the time the token was
    /// made. Of a machine it is `x-authgear-session-valid` alone.
    pub verdict: Verdict,
    /// When it expires, in seconds since 1970, without leeway: that may have passed.
    pub expires_at: u64,
    /// The key it was verified with. It counts no longer than that is published.
    pub key: Fingerprint,
    /// When it was made, in seconds since 1970, if it says so.
    pub issued_at: Option<u64>,
    /// All it says.
    pub claims: Claims,
}

/// Verifies an access token (RFC 9068, RFC 7515 in its compact form). `now` is in seconds since
/// 1970.
///
/// What is cheap to check is checked first; nothing is believed and no claim read before the
/// signature is. Which key and algorithm that is, the key set and the profile decide: `alg` and
/// `kid` only choose among theirs, and keys or addresses of keys in the header (`jwk`, `jku`,
/// `x5u`, `x5c`) are never looked at.
///
/// The spelling is strict. Parts are base64url without padding, white space and unused bits that
/// are set, and the header is what the signature covers: so no byte of a token that counts can be
/// changed without the key. (Who has an ECDSA signature can make a second one of the same message;
/// RSA's and Ed25519's are the only ones.) Header and claims are JSON objects with no name twice at
/// any level, at most 256 members each and 32 levels. A `kid` has from 1 to 256 bytes and no control
/// byte.
///
/// The claims: `iss` and `aud` are as the profile says; `exp` is there, and `now` is before it;
/// `nbf` and `iat`, if there, are not after `now`; times are numbers from 0 to the year 9999. `sub`
/// is there. A user's token has the claims `https://authgear.com/claims/user/...` that Authgear gives
/// every one of them. What goes into the identity is of visible ASCII, and what is joined has no
/// separator in it.
///
/// # Errors
///
/// See [`TokenError`].
pub fn verify(
    token: &[u8],
    keys: &KeySet,
    profile: &Profile,
    now: u64,
) -> Result<Verified, TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::TooLarge);
    }
    if !looks_like_jwt(token) {
        return Err(TokenError::Malformed);
    }
    let Parts { header, payload, signature, signed } =
        Parts::of(token).ok_or(TokenError::Malformed)?;
    if header.len() > MAX_HEADER {
        return Err(TokenError::TooLarge);
    }

    let header = base64url(header).ok_or(TokenError::Malformed)?;
    let header = Json::parse(&header).ok_or(TokenError::Malformed)?;
    let header = header.as_object().ok_or(TokenError::Malformed)?;
    let text = |name| header.get(name).and_then(Json::as_text);
    let algorithm = text("alg")
        .and_then(Algorithm::parse)
        .filter(|algorithm| profile.algorithms.contains(algorithm))
        .ok_or(TokenError::Algorithm)?;
    if !text("typ").is_some_and(is_access_token) || header.get("cty").is_some() {
        return Err(TokenError::Type);
    }
    if header.get("crit").is_some() || header.get("b64").is_some() {
        return Err(TokenError::Critical);
    }
    let kid = match header.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_text().filter(|kid| is_kid(kid)).ok_or(TokenError::Malformed)?),
    };

    let key = keys.find(kid)?;
    let signature = base64url(signature).ok_or(TokenError::Malformed)?;
    key.verify(algorithm, signed, &signature)?;

    let payload = base64url(payload).ok_or(TokenError::Malformed)?;
    let accepted = {
        let claims = Json::parse(&payload).ok_or(TokenError::Malformed)?;
        claims::check(claims.as_object().ok_or(TokenError::Malformed)?, profile, now)?
    };
    let payload = String::from_utf8(payload).map_err(|_| TokenError::Malformed)?;
    Ok(Verified {
        verdict: Verdict::Valid(accepted.identity),
        expires_at: accepted.expires_at,
        key: key.fingerprint(),
        issued_at: accepted.issued_at,
        claims: Claims::new(payload.into()),
    })
}

/// RFC 9068 section 2.1; media types have no case, and `application/` may be left out
/// (RFC 7515 section 4.1.9).
fn is_access_token(typ: &str) -> bool {
    ["at+jwt", "application/at+jwt"].iter().any(|name| name.eq_ignore_ascii_case(typ))
}
