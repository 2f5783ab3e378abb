//! Claims of a token: checks, the identity, and variables.

use std::borrow::Cow;
use std::fmt;

use super::json::{self, Json, Object};
use super::profile::Profile;
use super::TokenError;
use crate::identity::{join_audiences, Grant, Identity, IdentityBuilder};

/// Longest `sub`, in bytes. Authgear's are UUIDs, or `client_id_` and a client's id.
pub const MAX_SUBJECT: usize = 256;

/// Last second of the year 9999. Later times are rejected as errors.
const MAX_TIME: u64 = 253_402_300_799;

/// Prefix of `sub` in tokens for machines (`pkg/lib/oauth/token_encoding.go`).
const MACHINE_PREFIX: &str = "client_id_";

/// Claims in tokens of users (`pkg/api/model/claims.go`).
const IS_ANONYMOUS: &str = "https://authgear.com/claims/user/is_anonymous";
const IS_VERIFIED: &str = "https://authgear.com/claims/user/is_verified";
const CAN_REAUTHENTICATE: &str = "https://authgear.com/claims/user/can_reauthenticate";
const ROLES: &str = "https://authgear.com/claims/user/roles";

/// All claims of a verified token.
#[derive(Clone, PartialEq, Eq)]
pub struct Claims {
    /// JSON text of an object that [`Json::parse`] accepts.
    payload: Box<str>,
}

impl Claims {
    pub(super) fn new(payload: Box<str>) -> Self {
        Self { payload }
    }

    /// Returns the claims of a token that was verified before. Verifies nothing itself.
    pub fn of_verified(token: &[u8]) -> Option<Self> {
        let payload = super::Parts::of(token)?.payload;
        let payload = String::from_utf8(super::base64url(payload)?).ok()?;
        Some(Self::new(payload.into()))
    }

    /// Returns the claim with exactly this name as the text of a variable.
    ///
    /// - A string gives its text.
    /// - An array of strings is joined with `,`, as nginx's own `auth_jwt_claim_set` does. `None` if
    ///   an element contains a comma, so that no element can pass for two.
    /// - A number, a boolean, an object or another array gives its JSON text from the token.
    /// - `null` gives `None`.
    ///
    /// Also `None` if the text has a control byte, which is invalid in a header. The text may be
    /// empty.
    pub fn get(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        Self::read(json::member(&self.payload, |own| own.as_bytes() == name)?)
    }

    /// Returns the claim for the name of a variable, in the form of [`get`](Self::get): the claim
    /// with exactly that name. Otherwise the only claim that has the name when case is ignored and
    /// every byte other than a letter or digit counts as `_`, since nginx variables have no other
    /// characters.
    pub fn find(&self, name: &[u8]) -> Option<Cow<'_, [u8]>> {
        let folded = |byte: u8| match byte.is_ascii_alphanumeric() {
            true => byte.to_ascii_lowercase(),
            false => b'_',
        };
        let is_meant = |own: &str| own.bytes().map(folded).eq(name.iter().copied().map(folded));
        json::member(&self.payload, |own| own.as_bytes() == name)
            .or_else(|| json::member(&self.payload, is_meant))
            .and_then(Self::read)
    }

    /// Whether the claim at this path has one of the values: a string, a number or a boolean, or an
    /// array with such a member. `path` leads from the outermost object to the claim.
    pub fn has_one_of(&self, path: &[String], values: &[String]) -> bool {
        let Some((outermost, inner)) = path.split_first() else { return false };
        let written = json::member(&self.payload, |own| own == outermost);
        let Some(claim) = written.and_then(|text| Json::parse(text.as_bytes())) else {
            return false;
        };
        let mut claim = &claim;
        for name in inner {
            match claim.as_object().and_then(|object| object.get(name)) {
                Some(member) => claim = member,
                None => return false,
            }
        }
        let is_wanted = |claim: &Json<'_>| values.iter().any(|value| is_scalar(claim, value));
        is_wanted(claim) || claim.as_list().unwrap_or_default().iter().any(is_wanted)
    }

    fn read(written: &str) -> Option<Cow<'_, [u8]>> {
        let text = match Json::parse(written.as_bytes())? {
            Json::Null => return None,
            Json::Text(Cow::Borrowed(text)) => Cow::Borrowed(text.as_bytes()),
            Json::Text(Cow::Owned(text)) => Cow::Owned(text.into_bytes()),
            Json::List(items) => match items.iter().map(Json::as_text).collect() {
                Some(items) => Cow::Owned(join(items, ',')?.into_bytes()),
                None => Cow::Borrowed(written.as_bytes()),
            },
            _ => Cow::Borrowed(written.as_bytes()),
        };
        (!text.iter().any(u8::is_ascii_control)).then_some(text)
    }
}

impl fmt::Debug for Claims {
    /// Shows no claim.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claims")
    }
}

/// Whether a string, number or boolean has this value.
fn is_scalar(claim: &Json<'_>, value: &str) -> bool {
    match claim {
        Json::Text(text) => text == value,
        Json::Bool(flag) => value == if *flag { "true" } else { "false" },
        // An integer is compared exactly, if the value is one too.
        Json::Integer(number) => match value.parse::<i128>() {
            Ok(value) => value == *number,
            Err(_) => value.parse::<f64>().is_ok_and(|value| value == *number as f64),
        },
        Json::Float(number) => value.parse::<f64>().is_ok_and(|value| value == *number),
        Json::Null | Json::List(_) | Json::Object(_) => false,
    }
}

/// Joins the texts, if none of them contains the separator.
fn join(texts: Vec<&str>, separator: char) -> Option<String> {
    let unambiguous = !texts.iter().any(|text| text.contains(separator));
    unambiguous.then(|| texts.join(separator.encode_utf8(&mut [0; 4])))
}

/// Result of accepted claims.
#[derive(Debug)]
pub(super) struct Accepted {
    pub identity: Identity,
    pub expires_at: u64,
    pub issued_at: Option<u64>,
}

/// Checks the claims of a token whose signature was verified.
pub(super) fn check(
    claims: &Object<'_>,
    profile: &Profile,
    now: u64,
) -> Result<Accepted, TokenError> {
    if text(required(claims, "iss")?)? != profile.issuer {
        return Err(TokenError::Issuer);
    }
    if !is_for_one_of(required(claims, "aud")?, &profile.audiences)? {
        return Err(TokenError::Audience);
    }

    // Fractions of a second are rounded to the token's disadvantage.
    let expires_at = time(required(claims, "exp")?)?.floor;
    if now >= expires_at.saturating_add(profile.leeway) {
        return Err(TokenError::Expired);
    }
    let not_before = claims.get("nbf").map(time).transpose()?;
    let issued_at = claims.get("iat").map(time).transpose()?;
    let latest = now.saturating_add(profile.leeway);
    if [&not_before, &issued_at].into_iter().flatten().any(|time| time.ceil > latest) {
        return Err(TokenError::NotYetValid);
    }

    let subject = visible(required(claims, "sub")?)?;
    if subject.len() > MAX_SUBJECT {
        return Err(TokenError::Claim);
    }
    let machine = subject.starts_with(MACHINE_PREFIX);
    if machine && !profile.machine_tokens {
        return Err(TokenError::MachineToken);
    }
    let mut builder = if machine { identity_of_machine()? } else { identity_of(subject, claims)? };
    let audiences = join_audiences(audiences_of(claims, &profile.audiences));
    let part = |name| claims.get(name).and_then(Json::as_text).unwrap_or_default().as_bytes();
    builder.set_grant(Grant::from_parts(part("scope"), part("client_id"), &audiences));
    let identity = builder.build();
    Ok(Accepted { identity, expires_at, issued_at: issued_at.map(|time| time.floor) })
}

/// Builds a user's identity with the fields that the resolver would send
/// (`SessionInfo.PopulateHeaders`, `pkg/api/model/session_info.go`).
fn identity_of(subject: &str, claims: &Object<'_>) -> Result<IdentityBuilder, TokenError> {
    let mut fields = vec![
        ("x-authgear-session-valid", Cow::Borrowed("true")),
        ("x-authgear-user-id", Cow::Borrowed(subject)),
        ("x-authgear-user-anonymous", flag(required(claims, IS_ANONYMOUS)?)?.into()),
        ("x-authgear-user-verified", flag(required(claims, IS_VERIFIED)?)?.into()),
        ("x-authgear-user-can-reauthenticate", flag(required(claims, CAN_REAUTHENTICATE)?)?.into()),
    ];
    let roles = required(claims, ROLES)?;
    if roles.as_list().is_none_or(|roles| !roles.is_empty()) {
        fields.push(("x-authgear-user-roles", joined(roles, ',')?.into()));
    }
    let amr = claims.get("amr").map(|amr| joined(amr, ' ')).transpose()?;
    fields.push(("x-authgear-session-amr", amr.unwrap_or_default().into()));
    let auth_time = claims.get("auth_time").map(past_time).transpose()?.flatten();
    if let Some(time) = auth_time {
        fields.push(("x-authgear-session-authenticated-at", time.to_string().into()));
    }
    build(&fields)
}

/// Builds a machine's identity: a session without a user.
fn identity_of_machine() -> Result<IdentityBuilder, TokenError> {
    build(&[("x-authgear-session-valid", Cow::Borrowed("true"))])
}

fn build(fields: &[(&str, Cow<'_, str>)]) -> Result<IdentityBuilder, TokenError> {
    let mut builder = Identity::builder();
    for (name, value) in fields {
        builder.push(name.as_bytes(), value.as_bytes()).map_err(|_| TokenError::Claim)?;
    }
    Ok(builder)
}

fn required<'a, 'b>(claims: &'a Object<'b>, name: &str) -> Result<&'a Json<'b>, TokenError> {
    claims.get(name).ok_or(TokenError::MissingClaim)
}

fn text<'a>(claim: &'a Json<'_>) -> Result<&'a str, TokenError> {
    claim.as_text().ok_or(TokenError::Claim)
}

fn list<'a, 'b>(claim: &'a Json<'b>) -> Result<&'a [Json<'b>], TokenError> {
    claim.as_list().ok_or(TokenError::Claim)
}

/// Returns a text that is valid in a header: not empty, visible ASCII. Authgear sends no others, and
/// upstreams interpret others differently: some trim spaces at the ends, some decode or truncate
/// non-ASCII letters, even to CR and LF.
fn visible<'a>(claim: &'a Json<'_>) -> Result<&'a str, TokenError> {
    let text = text(claim)?;
    let passes = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    passes.then_some(text).ok_or(TokenError::Claim)
}

/// Joins an array of visible texts.
fn joined(claim: &Json<'_>, separator: char) -> Result<String, TokenError> {
    let texts = list(claim)?.iter().map(visible).collect::<Result<_, _>>()?;
    join(texts, separator).ok_or(TokenError::Claim)
}

fn flag(claim: &Json<'_>) -> Result<&'static str, TokenError> {
    match claim {
        Json::Bool(true) => Ok("true"),
        Json::Bool(false) => Ok("false"),
        _ => Err(TokenError::Claim),
    }
}

/// Whether one of the audiences is allowed. `aud` is one audience or an array (RFC 7519 section
/// 4.1.3).
fn is_for_one_of(audience: &Json<'_>, allowed: &[String]) -> Result<bool, TokenError> {
    let is_allowed = |audience: &str| allowed.iter().any(|allowed| allowed == audience);
    if let Some(audience) = audience.as_text() {
        return Ok(is_allowed(audience));
    }
    let audiences = list(audience)?.iter().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(audiences.into_iter().any(is_allowed))
}

/// Iterates over the audiences of accepted claims. Those of the profile come first, so that a cap does
/// not drop them.
fn audiences_of<'a>(
    claims: &'a Object<'_>,
    allowed: &'a [String],
) -> impl Iterator<Item = &'a str> {
    let claim = claims.get("aud");
    let one = claim.and_then(Json::as_text);
    let several =
        claim.and_then(Json::as_list).unwrap_or_default().iter().filter_map(Json::as_text);
    let all = one.into_iter().chain(several);
    let is_allowed = |audience: &&str| allowed.iter().any(|allowed| allowed == audience);
    all.clone().filter(is_allowed).chain(all.filter(move |audience| !is_allowed(audience)))
}

/// A NumericDate (RFC 7519 section 2) in seconds since 1970, rounded down and up: it may have a
/// fraction.
struct Time {
    floor: u64,
    ceil: u64,
}

fn time(claim: &Json<'_>) -> Result<Time, TokenError> {
    let time = match *claim {
        Json::Integer(time) => {
            let time = u64::try_from(time).map_err(|_| TokenError::Claim)?;
            Time { floor: time, ceil: time }
        }
        // The casts saturate.
        Json::Float(time) if time >= 0.0 => {
            Time { floor: time.floor() as u64, ceil: time.ceil() as u64 }
        }
        _ => return Err(TokenError::Claim),
    };
    (time.ceil <= MAX_TIME).then_some(time).ok_or(TokenError::Claim)
}

/// Reads a time where one not after 1970 counts as absent: Go's zero time is in the year 1.
fn past_time(claim: &Json<'_>) -> Result<Option<u64>, TokenError> {
    let absent = match *claim {
        Json::Integer(time) => time <= 0,
        Json::Float(time) => time < 1.0,
        _ => false,
    };
    if absent {
        return Ok(None);
    }
    time(claim).map(|time| Some(time.floor))
}
