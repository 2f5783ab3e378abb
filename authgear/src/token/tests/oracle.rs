//! The crate `jsonwebtoken` as oracle of the other tests: what counts here counts there, and what it
//! lets in beyond that is [listed](ACCEPTED_THERE) with the reason why it is refused here.

use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{decode, decode_header, get_current_timestamp, DecodingKey, Validation};

use super::*;

/// Returns true if the crate accepts the token, called as an application would with this profile:
/// the key by `kid`, all claims that it can require, all checks that it has.
fn counts(token: &[u8], keys: &KeySet, profile: &Profile, now: u64) -> bool {
    let Ok(header) = decode_header(token) else { return false };
    let allowed = profile.algorithms.iter();
    if !allowed
        .map(|own| own.as_str().parse().unwrap())
        .any(|own: jsonwebtoken::Algorithm| own == header.alg)
    {
        return false;
    }
    let jwks: JwkSet = serde_json::from_str(&keys.to_json()).unwrap();
    let jwk = match (&header.kid, &jwks.keys[..]) {
        (Some(kid), _) => jwks.find(kid),
        (None, [only]) => Some(only),
        (None, _) => None,
    };
    let Some(key) = jwk.and_then(|jwk| DecodingKey::from_jwk(jwk).ok()) else { return false };
    let mut validation = Validation::new(header.alg);
    validation.set_issuer(&[&profile.issuer]);
    validation.set_audience(&profile.audiences);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.validate_nbf = true;
    // Its clock is the system's. The leeway turns it back to `now` for `exp`.
    let clock = get_current_timestamp();
    validation.leeway = clock.saturating_sub(now).saturating_add(profile.leeway).min(clock);
    decode::<Value>(token, &key, &validation).is_ok()
}

/// Asserts that the crate accepts a token that is accepted here.
///
/// The crate is excused if it cannot read the header. Of parameters that it does not know it reads
/// texts only. RFC 7515 section 4 has unknown parameters ignored.
#[track_caller]
pub(super) fn assert_counts(token: &[u8], keys: &KeySet, profile: &Profile, now: u64) {
    let told = String::from_utf8_lossy(token);
    if decode_header(token).is_ok() {
        assert!(counts(token, keys, profile, now), "{told}");
        return;
    }
    let Parts { header, payload, signature, .. } = Parts::of(token).unwrap();
    let mut header: Value = serde_json::from_slice(&base64url(header).unwrap()).unwrap();
    header.as_object_mut().unwrap().retain(|name, _| ["alg", "kid", "typ"].contains(&&**name));
    let known = [encode(header.to_string()).as_bytes(), payload, signature].join(&b'.');
    assert!(decode_header(known).is_ok(), "{told}");
}

/// Rows that the crate accepts, with the error here, and the reason for it.
const ACCEPTED_THERE: &[(TokenError, &[&str], &str)] = &[
    (
        TokenError::Type,
        &[
            "", " at+jwt", "JWT", "application/application/at+jwt",
            "application/at+jwt; charset=utf-8", "application/jwt", "at", "at jwt", "at+JWS",
            "at+jwt ", "at+jwt\0", "at+\u{212a}wt", "cty", "dpop+jwt", "id+jwt", "jwt", "missing",
            "null", "text/at+jwt", "\u{ff41}t+jwt",
        ],
        "It does not look at `typ` or `cty`. ID tokens have the same keys (RFC 9068 section 4).",
    ),
    (
        TokenError::Critical,
        &["b64 as text", "crit"],
        "It reads `crit` and does not act on it (RFC 7515 section 4.1.11).",
    ),
    (
        TokenError::Malformed,
        &[
            "\"address\":{\"country\":\"a\",\"country\":\"b\"}",
            "\"https://authgear.com/claims/user/roles\":[\"admin\"]", "\"x\":\"\",\"x\":\"\"",
            "\"x\":1,\"x\":1", "\"x\":[[{\"a\":{},\"b\":0,\"a\":{}}]]",
        ],
        "Of duplicate names it takes the last, where other software takes the first.",
    ),
    (
        TokenError::Malformed,
        &["in claims, 32 deep", "too many claims", "too many members"],
        "It has no limit of depth or members but that of serde_json.",
    ),
    (
        TokenError::TooLarge,
        &["10 000", "a byte too long", "far too long", "header too long"],
        "It has no limit of size.",
    ),
    (TokenError::Malformed, &["no eyJ"], "Authgear takes such a token for an opaque one."),
    (TokenError::Expired, &["now"], "It accepts a token in the second of `exp` (RFC 7519: before)."),
    (TokenError::Expired, &["a fraction from now"], "It rounds `exp` up."),
    (
        TokenError::Claim,
        &["2^64-1", "in milliseconds", "year 10000"],
        "Any number is a time. One in milliseconds is a token for ever.",
    ),
    (
        TokenError::NotYetValid,
        &["a fraction from now", "future", "iat in the far future"],
        "It does not look at `iat`. For `nbf` it reads the system's clock, which is later than that \
         of the rows.",
    ),
    (TokenError::Claim, &["huge iat", "no iat"], "It does not look at `iat`."),
    (
        TokenError::Claim,
        &["list with the issuer"],
        "It accepts a list of issuers. `iss` is a text (RFC 7519 section 4.1.1).",
    ),
    (TokenError::MachineToken, &["a machine"], "Machines are told apart by Authgear's `sub` only."),
    (
        TokenError::MissingClaim,
        &["no flag", "no roles"],
        "It knows none of Authgear's claims.",
    ),
    (
        TokenError::Claim,
        &["no amr", "no array of strings", "no auth_time", "no boolean"],
        "It knows none of Authgear's claims.",
    ),
    (
        TokenError::Claim,
        &[
            "", " a", " alice", ",", "\0", "\u{202e}ecila", "\u{560a}", "\u{560d}\u{560a}x",
            "\u{85}", "\u{feff}a", "a b", "a,b", "a\0", "a\n", "a\r\nX-Authgear-User-Id: admin",
            "a\t", "a\tb", "a\x1bb", "a\x7f", "a\x7fb", "al\u{ed}ce", "alice ", "alice\0",
            "alice\n", "alice\r", "alice\r\nX-Authgear-User-Roles: admin", "empty", "longer",
            "r\u{f4}le",
        ],
        "Claims do not become header fields there.",
    ),
];

/// Asserts that the crate refuses a row that is refused here, or that the row is listed.
#[track_caller]
pub(super) fn assert_listed(row: &str, token: &[u8], error: TokenError) {
    let is_row =
        |(own, rows, _): &&(TokenError, &[&str], &str)| *own == error && rows.contains(&row);
    let reason = ACCEPTED_THERE.iter().find(is_row).map(|(_, _, reason)| reason);
    let accepted = counts(token, key_set(), &profile(), NOW);
    assert_eq!(accepted, reason.is_some(), "{error:?}, {row:?}: {reason:?}");
}
