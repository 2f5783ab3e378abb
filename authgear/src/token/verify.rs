//! Verification of tokens.

use super::algorithm::Algorithm;
use super::claims::{self, Claims};
use super::json::{self, Json};
use super::jwks::{Fingerprint, KeySet};
use super::profile::Profile;
use super::{base64url, is_kid, looks_like_jwt, Parts, TokenError, MAX_HEADER, MAX_TOKEN};
use crate::verdict::Verdict;

/// Most characters of a claim that [`disputed_claim`] returns.
pub const MAX_SHOWN: usize = 200;

/// Content of an accepted token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Always [`Verdict::Valid`], with the fields that the resolver would have sent when the token
    /// was issued. A machine has only `x-authgear-session-valid`.
    pub verdict: Verdict,
    /// Value of `exp`, in seconds since 1970. May have passed, by less than the leeway.
    pub expires_at: u64,
    /// Key that verified the token. Once this key is no longer published, the token is invalid.
    pub key: Fingerprint,
    /// Value of `iat`, in seconds since 1970, if present.
    pub issued_at: Option<u64>,
    /// All claims.
    pub claims: Claims,
}

/// Verifies an access token (RFC 9068, RFC 7515 in its compact form). `now` is in seconds since
/// 1970.
///
/// Cheap checks come first, and no claim is read before the signature is verified. Key set and
/// profile determine the possible keys and algorithms; `kid` and `alg` only select among these. Keys
/// and key URLs in the header (`jwk`, `jku`, `x5u`, `x5c`) are ignored.
///
/// The spelling is strict: the parts are base64url without padding, white space or set unused bits.
/// So no byte of an accepted token can be changed without the key. (ECDSA is an exception: from one
/// signature, anybody can compute a second one of the same message.) Header and claims are JSON
/// objects without duplicate names at any level, with at most 256 members each and 32 levels. A
/// `kid` has 1 to 256 bytes and no control byte.
///
/// Rules for claims: `iss` and `aud` match the profile. `exp` is present and after `now`. `nbf` and
/// `iat`, if present, are not after `now`. Times are numbers from 0 to the year 9999. `sub` is
/// present. A user's token has the claims `https://authgear.com/claims/user/...` that Authgear always
/// includes. Values for the identity consist of visible ASCII, and elements of a joined list do not
/// contain the separator.
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

/// Returns the claim that the rejection of a token is about, for a log: its name, and its JSON text
/// with control characters escaped, at most [`MAX_SHOWN`] characters of it. `None` unless the error
/// is about `iss` or `aud`, which name a server and not a user. These errors come after the
/// signature was verified.
pub fn disputed_claim(token: &[u8], error: TokenError) -> Option<(&'static str, String)> {
    let name = match error {
        TokenError::Issuer => "iss",
        TokenError::Audience => "aud",
        _ => return None,
    };
    let payload = String::from_utf8(base64url(Parts::of(token)?.payload)?).ok()?;
    let text = json::member(&payload, |own| own == name)?;
    let mut shown = String::new();
    for c in text.chars().take(MAX_SHOWN) {
        match c.is_control() {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push_str("...");
    }
    Some((name, shown))
}

/// Whether `typ` names an access token (RFC 9068 section 2.1). Media types ignore case, and
/// `application/` is optional (RFC 7515 section 4.1.9).
fn is_access_token(typ: &str) -> bool {
    ["at+jwt", "application/at+jwt"].iter().any(|name| name.eq_ignore_ascii_case(typ))
}
