//! Policy: the conditions of a location, and the status and challenge of a denial.
//!
//! A verdict is what Authgear knows of the credentials; policy is what a location requires.
//! Policy is evaluated for each request and never cached.

use std::fmt::Write as _;
use std::time::Duration;

use thiserror::Error;

use crate::identity::Identity;
use crate::operations::protected_resource::{is_scope, unique_scopes};
use crate::token::Claims;
use crate::verdict::Reason;

/// A condition that a location requires of the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// A valid session.
    Session,
    /// A verified user.
    Verified,
    /// A user who is not anonymous.
    NotAnonymous,
    /// A user who can authenticate again.
    CanReauthenticate,
    /// A request that does not write on behalf of another site. The caller checks it: no session
    /// tells it.
    SameSite,
    /// A user with one of these roles.
    Role(Vec<String>),
    /// Authentication by this method (RFC 8176).
    Amr(String),
    /// Authentication no longer ago than this.
    MaxAge(Duration),
    /// A verified token with one of these scopes.
    Scope(Vec<String>),
    /// A verified token of one of these clients.
    Client(Vec<ClientPattern>),
    /// A verified token whose claim has one of these values.
    Claim(ClaimPattern),
}

/// A client id, or a prefix of client ids such as `dcrc_*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPattern {
    text: String,
    is_prefix: bool,
}

impl ClientPattern {
    fn parse(word: &str) -> Option<Self> {
        let (text, is_prefix) = match word.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (word, false),
        };
        let is_client = |byte: u8| byte.is_ascii_graphic() && byte != b'*';
        (!text.is_empty() && text.bytes().all(is_client))
            .then(|| Self { text: text.to_owned(), is_prefix })
    }

    fn matches(&self, client_id: &[u8]) -> bool {
        match self.is_prefix {
            true => client_id.starts_with(self.text.as_bytes()),
            false => client_id == self.text.as_bytes(),
        }
    }
}

/// The name of a claim and the values of which it must have one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimPattern {
    /// Names from the outermost object to the claim. A name with `://` is one URL and never split.
    path: Vec<String>,
    values: Vec<String>,
}

impl ClaimPattern {
    fn parse(name: &str, values: &str) -> Option<Self> {
        let path: Vec<String> = match name.contains("://") {
            true => vec![name.to_owned()],
            false => name.split('.').map(str::to_owned).collect(),
        };
        let values: Vec<String> = values.split(',').map(str::to_owned).collect();
        let is_complete = path.iter().chain(&values).all(|part| !part.is_empty());
        is_complete.then_some(Self { path, values })
    }
}

/// Error of [`Condition::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ConditionError {
    /// No condition has this name.
    #[error("unknown condition")]
    Unknown,
    /// The value after `=` is invalid.
    #[error("invalid value")]
    Value,
}

impl Condition {
    /// Parses an argument of `authgear_require`. `time` parses a time in nginx's notation.
    ///
    /// # Errors
    ///
    /// See [`ConditionError`]. Role names follow Authgear's rules (`pkg/lib/rolesgroups/key.go`), so
    /// a role never contains a comma.
    pub fn parse(
        word: &str,
        time: impl FnOnce(&str) -> Option<Duration>,
    ) -> Result<Self, ConditionError> {
        match word.split_once('=') {
            None => match word {
                "session" => Ok(Self::Session),
                "verified" => Ok(Self::Verified),
                "not_anonymous" => Ok(Self::NotAnonymous),
                "can_reauthenticate" => Ok(Self::CanReauthenticate),
                "same_site" => Ok(Self::SameSite),
                _ => Err(ConditionError::Unknown),
            },
            Some(("role", roles)) => {
                let roles: Vec<String> = roles.split(',').map(str::to_owned).collect();
                match roles.iter().all(|role| is_role(role)) {
                    true => Ok(Self::Role(roles)),
                    false => Err(ConditionError::Value),
                }
            }
            Some(("amr", method)) if is_role(method) => Ok(Self::Amr(method.to_owned())),
            Some(("max_age", age)) => match time(age) {
                Some(age) => Ok(Self::MaxAge(age)),
                None => Err(ConditionError::Value),
            },
            Some(("amr", _)) => Err(ConditionError::Value),
            Some(("scope", scopes)) => {
                let scopes: Vec<String> = scopes.split(',').map(str::to_owned).collect();
                match scopes.iter().all(|scope| is_scope(scope)) {
                    true => Ok(Self::Scope(scopes)),
                    false => Err(ConditionError::Value),
                }
            }
            Some(("client", clients)) => {
                let clients = clients.split(',').map(ClientPattern::parse).collect::<Option<_>>();
                clients.map(Self::Client).ok_or(ConditionError::Value)
            }
            Some((name, values)) => match name.strip_prefix("claim:") {
                Some(name) => {
                    let claim = ClaimPattern::parse(name, values);
                    claim.map(Self::Claim).ok_or(ConditionError::Value)
                }
                None => Err(ConditionError::Unknown),
            },
        }
    }

    /// Whether only a verified token can meet the condition. The resolver tells neither scope nor
    /// client nor claims, so the condition denies all sessions that the resolver decides about.
    pub const fn needs_token(&self) -> bool {
        matches!(self, Self::Scope(_) | Self::Client(_) | Self::Claim(_))
    }

    /// Checks the identity of a valid session. `token` is the bearer token if this module verified it
    /// and the identity is its. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// See [`Shortfall`].
    pub fn check(
        &self,
        identity: &Identity,
        token: Option<&[u8]>,
        now: u64,
    ) -> Result<(), Shortfall> {
        let is = |name: &[u8], value: &[u8]| identity.get(name) == Some(value);
        let has = |name: &[u8], separator: u8, wanted: &str| {
            let list = identity.get(name).unwrap_or_default();
            list.split(|&byte| byte == separator).any(|item| item == wanted.as_bytes())
        };
        let (holds, shortfall) = match self {
            Self::Session => (true, Shortfall::NoSession),
            Self::SameSite => (true, Shortfall::CrossSite),
            Self::Verified => (is(b"x-authgear-user-verified", b"true"), Shortfall::NotVerified),
            // The answer must say `false`. An answer without the field fails closed.
            Self::NotAnonymous => {
                (is(b"x-authgear-user-anonymous", b"false"), Shortfall::Anonymous)
            }
            Self::CanReauthenticate => (
                is(b"x-authgear-user-can-reauthenticate", b"true"),
                Shortfall::CannotReauthenticate,
            ),
            Self::Role(roles) => (
                roles.iter().any(|role| has(b"x-authgear-user-roles", b',', role)),
                Shortfall::Role,
            ),
            Self::Amr(method) => (has(b"x-authgear-session-amr", b' ', method), Shortfall::Amr),
            Self::MaxAge(age) => (
                authenticated_at(identity)
                    .is_some_and(|at| now <= at.saturating_add(age.as_secs())),
                Shortfall::MaxAge(*age),
            ),
            Self::Scope(scopes) => (
                identity
                    .grant()
                    .is_some_and(|grant| scopes.iter().any(|scope| grant.has_scope(scope))),
                Shortfall::Scope,
            ),
            Self::Client(clients) => (
                identity.grant().is_some_and(|grant| {
                    clients.iter().any(|client| client.matches(grant.client_id()))
                }),
                Shortfall::Client,
            ),
            Self::Claim(ClaimPattern { path, values }) => (
                identity.grant().is_some()
                    && token
                        .and_then(Claims::of_verified)
                        .is_some_and(|claims| claims.has_one_of(path, values)),
                Shortfall::Claim,
            ),
        };
        if holds {
            Ok(())
        } else {
            Err(shortfall)
        }
    }
}

/// Combination of the conditions of one `authgear_require`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Combination {
    /// All must be met.
    #[default]
    All,
    /// One must be met: `authgear_require any`.
    Any,
}

impl Combination {
    /// Combines the results of the conditions.
    ///
    /// # Errors
    ///
    /// The first shortfall, if not enough conditions are met. [`Any`](Self::Any) of no conditions is
    /// not met.
    pub fn check(
        self,
        results: impl IntoIterator<Item = Result<(), Shortfall>>,
    ) -> Result<(), Shortfall> {
        let mut first = None;
        for result in results {
            match (self, result) {
                (Self::All, Err(shortfall)) => return Err(shortfall),
                (Self::Any, Ok(())) => return Ok(()),
                (Self::All, Ok(())) => {}
                (Self::Any, Err(shortfall)) => first = first.or(Some(shortfall)),
            }
        }
        match self {
            Self::All => Ok(()),
            Self::Any => Err(first.unwrap_or(Shortfall::NoSession)),
        }
    }
}

/// Scopes for a challenge, so that a client with them meets the conditions: the first of each
/// `scope=`, separated by spaces. With `openid`,
/// [`OPENID_SCOPES`](crate::operations::protected_resource::OPENID_SCOPES) come first. Empty if no condition
/// is about scopes.
pub fn challenge_scope<'a>(
    conditions: impl IntoIterator<Item = &'a Condition>,
    openid: bool,
) -> String {
    let mut scopes: Vec<&str> = Vec::new();
    for condition in conditions {
        if let Condition::Scope(alternatives) = condition {
            scopes.extend(alternatives.first().map(String::as_str));
        }
    }
    match scopes.is_empty() {
        true => String::new(),
        false => unique_scopes(openid, scopes).join(" "),
    }
}

/// Parameters of a challenge that depend on the location.
#[derive(Clone, Copy, Debug, Default)]
pub struct ChallengeParameters<'a> {
    /// Scopes that the location needs; see [`challenge_scope`]. Empty for none.
    pub scope: &'a str,
    /// URL of the metadata document (RFC 9728 section 5.1), valid in a quoted string.
    pub resource_metadata: Option<&'a str>,
}

/// The condition that a request does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// There is no valid session.
    NoSession,
    /// See [`Condition::Verified`].
    NotVerified,
    /// See [`Condition::NotAnonymous`].
    Anonymous,
    /// See [`Condition::CanReauthenticate`].
    CannotReauthenticate,
    /// See [`Condition::SameSite`].
    CrossSite,
    /// See [`Condition::Role`].
    Role,
    /// See [`Condition::Amr`].
    Amr,
    /// See [`Condition::MaxAge`].
    MaxAge(Duration),
    /// See [`Condition::Scope`].
    Scope,
    /// See [`Condition::Client`].
    Client,
    /// See [`Condition::Claim`].
    Claim,
    /// A variable is empty or `0`.
    Variable,
}

impl Shortfall {
    /// The default status of the denial: 401 if authenticating (again, or by another method) would
    /// help, otherwise 403.
    pub const fn status(self) -> u16 {
        match self {
            Self::NoSession | Self::Amr | Self::MaxAge(_) => 401,
            Self::NotVerified
            | Self::Anonymous
            | Self::CannotReauthenticate
            | Self::CrossSite
            | Self::Role
            | Self::Scope
            | Self::Client
            | Self::Claim
            | Self::Variable => 403,
        }
    }

    /// The reason to report; `None` if that of the verdict applies.
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::NoSession => None,
            Self::NotVerified => Some(Reason::NotVerified),
            Self::Anonymous => Some(Reason::AnonymousUser),
            Self::CannotReauthenticate => Some(Reason::CannotReauthenticate),
            Self::CrossSite => Some(Reason::CrossSite),
            Self::Role => Some(Reason::RoleMissing),
            Self::Amr => Some(Reason::AmrMissing),
            Self::MaxAge(_) => Some(Reason::AuthenticationTooOld),
            Self::Scope => Some(Reason::ScopeMissing),
            Self::Client => Some(Reason::ClientNotAllowed),
            Self::Claim => Some(Reason::ClaimMismatch),
            Self::Variable => Some(Reason::VariableUnset),
        }
    }

    /// Builds the value of `WWW-Authenticate` for a denial with `status` (RFC 6750 section 3, RFC
    /// 9470 section 3, RFC 9728 section 5.1). `bearer` tells whether the request had a bearer token.
    ///
    /// A 403 has a challenge only if a scope is missing, or the privileges of a bearer token are
    /// insufficient.
    pub fn challenge(
        self,
        status: u16,
        bearer: bool,
        parameters: &ChallengeParameters<'_>,
    ) -> Option<String> {
        let error = match (self, status) {
            (Self::Amr | Self::MaxAge(_), 401) => Some("insufficient_user_authentication"),
            (Self::NoSession, 401) if bearer => Some("invalid_token"),
            (_, 401) => None,
            (Self::Scope, 403) => Some("insufficient_scope"),
            (Self::Role | Self::NotVerified | Self::Anonymous, 403) if bearer => {
                Some("insufficient_scope")
            }
            _ => return None,
        };
        let max_age = match (self, status) {
            (Self::MaxAge(age), 401) => Some(age.as_secs().to_string()),
            _ => None,
        };
        let names_scope = matches!(self, Self::NoSession | Self::Scope);
        let scope = Some(parameters.scope).filter(|scope| names_scope && !scope.is_empty());
        let mut challenge = String::from("Bearer");
        let mut separator = " ";
        for (name, value) in [
            ("error", error),
            ("max_age", max_age.as_deref()),
            ("scope", scope),
            ("resource_metadata", parameters.resource_metadata),
        ] {
            if let Some(value) = value {
                let _ = write!(challenge, "{separator}{name}=\"{value}\"");
                separator = ", ";
            }
        }
        Some(challenge)
    }
}

fn authenticated_at(identity: &Identity) -> Option<u64> {
    let text = identity.get(b"x-authgear-session-authenticated-at")?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether `name` is valid for a role or an authentication method.
fn is_role(name: &str) -> bool {
    const LONGEST: usize = 40;
    (1..=LONGEST).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Grant;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use base64::Engine as _;

    fn condition(word: &str) -> Result<Condition, ConditionError> {
        Condition::parse(word, |time| time.parse().ok().map(Duration::from_secs))
    }

    fn identity(fields: &[(&str, &str)]) -> Identity {
        let mut builder = Identity::builder();
        for (name, value) in fields {
            builder.push(name.as_bytes(), value.as_bytes()).expect("a field");
        }
        builder.build()
    }

    #[test]
    fn arguments_parse_to_conditions() {
        for (word, expected) in [
            ("session", Ok(Condition::Session)),
            ("verified", Ok(Condition::Verified)),
            ("not_anonymous", Ok(Condition::NotAnonymous)),
            ("can_reauthenticate", Ok(Condition::CanReauthenticate)),
            ("role=a", Ok(Condition::Role(vec!["a".into()]))),
            ("role=a,b:c", Ok(Condition::Role(vec!["a".into(), "b:c".into()]))),
            ("amr=mfa", Ok(Condition::Amr("mfa".into()))),
            ("max_age=600", Ok(Condition::MaxAge(Duration::from_secs(600)))),
            ("role=", Err(ConditionError::Value)),
            ("role=a,", Err(ConditionError::Value)),
            ("role=1a", Err(ConditionError::Value)),
            ("role=a b", Err(ConditionError::Value)),
            ("amr=", Err(ConditionError::Value)),
            ("max_age=soon", Err(ConditionError::Value)),
            ("Session", Err(ConditionError::Unknown)),
            ("session=x", Err(ConditionError::Unknown)),
            ("scope=", Err(ConditionError::Value)),
            ("scope=a,", Err(ConditionError::Value)),
            ("scope=a b", Err(ConditionError::Value)),
            ("scope=a\"", Err(ConditionError::Value)),
            ("client=", Err(ConditionError::Value)),
            ("client=*", Err(ConditionError::Value)),
            ("client=a*b", Err(ConditionError::Value)),
            ("client=a,,b", Err(ConditionError::Value)),
            ("claim:=a", Err(ConditionError::Value)),
            ("claim:a=", Err(ConditionError::Value)),
            ("claim:a..b=c", Err(ConditionError::Value)),
            ("claim=a", Err(ConditionError::Unknown)),
            ("claim:a", Err(ConditionError::Unknown)),
            ("scopes=x", Err(ConditionError::Unknown)),
            ("", Err(ConditionError::Unknown)),
        ] {
            assert_eq!(condition(word), expected, "{word}");
        }
        let long = format!("role={}", "a".repeat(41));
        assert_eq!(condition(&long), Err(ConditionError::Value));
    }

    #[test]
    fn each_condition_passes_only_identities_that_meet_it() {
        let good: &[(&str, &str)] = &[
            ("x-authgear-session-valid", "true"),
            ("x-authgear-user-id", "alice"),
            ("x-authgear-user-anonymous", "false"),
            ("x-authgear-user-verified", "true"),
            ("x-authgear-user-can-reauthenticate", "true"),
            ("x-authgear-user-roles", "editor,billing:admin"),
            ("x-authgear-session-amr", "pwd mfa"),
            ("x-authgear-session-authenticated-at", "1699999400"),
        ];
        let other: &[(&str, &str)] = &[
            ("x-authgear-session-valid", "true"),
            ("x-authgear-user-id", "bob"),
            ("x-authgear-user-anonymous", "true"),
            ("x-authgear-user-verified", "false"),
            ("x-authgear-user-can-reauthenticate", "false"),
            ("x-authgear-user-roles", "editors,admin"),
            ("x-authgear-session-amr", "pwd"),
            ("x-authgear-session-authenticated-at", "1699999399"),
        ];
        let silent: &[(&str, &str)] = &[("x-authgear-user-id", "carol")];
        for (word, shortfall) in [
            ("verified", Shortfall::NotVerified),
            ("not_anonymous", Shortfall::Anonymous),
            ("can_reauthenticate", Shortfall::CannotReauthenticate),
            ("role=editor", Shortfall::Role),
            ("role=nobody,billing:admin", Shortfall::Role),
            ("amr=mfa", Shortfall::Amr),
            ("max_age=600", Shortfall::MaxAge(Duration::from_secs(600))),
        ] {
            let condition = condition(word).expect("a condition");
            let check = |fields| condition.check(&identity(fields), None, NOW);
            assert_eq!(check(good), Ok(()), "{word}");
            assert_eq!(check(other), Err(shortfall), "{word}");
            assert_eq!(check(silent), Err(shortfall), "{word}");
            assert_eq!(Condition::Session.check(&identity(silent), None, NOW), Ok(()));
        }
        let forever = condition("max_age=18446744073709551615").expect("a condition");
        assert_eq!(forever.check(&identity(good), None, u64::MAX), Ok(()));
    }

    const NOW: u64 = 1_700_000_000;

    /// Builds the identity and the text of a token, as verification does.
    fn verified(scope: &str, client_id: &str, claims: &str) -> (Identity, String) {
        let mut builder = Identity::builder();
        builder.push(b"x-authgear-session-valid", b"true").unwrap();
        builder.set_grant(Grant::from_parts(scope.as_bytes(), client_id.as_bytes(), b""));
        let claims = URL_SAFE_NO_PAD.encode(claims);
        (builder.build(), format!("e30.{claims}.e30"))
    }

    #[test]
    fn scopes_and_clients_of_a_verified_token_are_checked() {
        let (identity, _) = verified("openid tools:read", "dcrc_EbfpFwcSbz", "{}");
        for (word, expected) in [
            ("scope=tools:read", Ok(())),
            ("scope=tools:write,tools:read", Ok(())),
            ("scope=tools", Err(Shortfall::Scope)),
            ("scope=tools:write", Err(Shortfall::Scope)),
            ("client=spa,dcrc_EbfpFwcSbz", Ok(())),
            ("client=dcrc_*", Ok(())),
            ("client=dcrc_", Err(Shortfall::Client)),
            ("client=spa,cimd*", Err(Shortfall::Client)),
        ] {
            let condition = condition(word).expect("a condition");
            assert!(condition.needs_token(), "{word}");
            assert_eq!(condition.check(&identity, None, NOW), expected, "{word}");
        }
        let (nobody, _) = verified("", "", "{}");
        let client = condition("client=a*").expect("a condition");
        assert_eq!(client.check(&nobody, None, NOW), Err(Shortfall::Client));
    }

    #[test]
    fn claims_of_a_verified_token_are_checked() {
        let claims = r#"{"tier":"gold","level":7,"share":0.5,"beta":true,"none":null,
            "groups":["staff",8,false,null,["nested"]],"org":{"id":"acme","plan":{"seats":10}},
            "https://acme.test/claims/tier.name":"silver","a.b":"flat"}"#;
        let (identity, token) = verified("", "", claims);
        for (word, holds) in [
            ("claim:tier=gold", true),
            ("claim:tier=silver,gold", true),
            ("claim:tier=Gold", false),
            ("claim:level=7", true),
            ("claim:level=7.0", true),
            ("claim:level=8", false),
            ("claim:share=0.50", true),
            ("claim:beta=true", true),
            ("claim:beta=false", false),
            ("claim:none=null", false),
            ("claim:groups=staff", true),
            ("claim:groups=8", true),
            ("claim:groups=false", true),
            ("claim:groups=nested", false),
            ("claim:org.id=acme", true),
            ("claim:org.plan.seats=10", true),
            ("claim:org.plan=10", false),
            ("claim:org.id.x=acme", false),
            ("claim:https://acme.test/claims/tier.name=silver", true),
            ("claim:a.b=flat", false),
            ("claim:absent=x", false),
        ] {
            let condition = condition(word).expect("a condition");
            let expected = if holds { Ok(()) } else { Err(Shortfall::Claim) };
            let checked = condition.check(&identity, Some(token.as_bytes()), NOW);
            assert_eq!(checked, expected, "{word}");
            assert_eq!(condition.check(&identity, None, NOW), Err(Shortfall::Claim), "{word}");
        }
    }

    #[test]
    fn a_resolver_session_meets_no_condition_about_tokens() {
        let resolved = identity(&[("x-authgear-user-id", "alice")]);
        let (_, token) = verified("", "", r#"{"tier":"gold"}"#);
        for (word, shortfall) in [
            ("scope=openid", Shortfall::Scope),
            ("client=spa", Shortfall::Client),
            ("claim:tier=gold", Shortfall::Claim),
        ] {
            let condition = condition(word).expect("a condition");
            let checked = condition.check(&resolved, Some(token.as_bytes()), NOW);
            assert_eq!(checked, Err(shortfall), "{word}");
        }
        assert!(!Condition::Session.needs_token());
    }

    #[test]
    fn all_or_one_of_the_conditions_must_be_met() {
        use Combination::{All, Any};
        let (ok, role, scope) = (Ok(()), Err(Shortfall::Role), Err(Shortfall::Scope));
        for (combination, results, expected) in [
            (All, vec![ok, ok], ok),
            (All, vec![ok, scope, role], scope),
            (All, vec![], ok),
            (Any, vec![role, ok], ok),
            (Any, vec![scope, role], scope),
            (Any, vec![], Err(Shortfall::NoSession)),
        ] {
            assert_eq!(combination.check(results.clone()), expected, "{combination:?} {results:?}");
        }
    }

    #[test]
    fn a_challenge_names_the_first_scope_of_each_condition() {
        let words = ["role=a", "scope=read,write", "scope=tools:read", "scope=openid"];
        let conditions = words.map(|word| condition(word).expect("a condition"));
        assert_eq!(challenge_scope(&conditions, true), "openid offline_access read tools:read");
        assert_eq!(challenge_scope(&conditions, false), "read tools:read openid");
        assert_eq!(challenge_scope(&conditions[..1], true), "");
    }

    #[test]
    fn scope_and_metadata_follow_the_error_in_a_challenge() {
        let url = "https://mcp.acme.test/.well-known/oauth-protected-resource/mcp";
        let parameters =
            ChallengeParameters { scope: "openid tools:read", resource_metadata: Some(url) };
        let metadata = format!("resource_metadata=\"{url}\"");
        for (shortfall, status, bearer, expected) in [
            (
                Shortfall::Scope,
                403,
                true,
                format!(
                    "Bearer error=\"insufficient_scope\", scope=\"openid tools:read\", {metadata}"
                ),
            ),
            (
                Shortfall::NoSession,
                401,
                false,
                format!("Bearer scope=\"openid tools:read\", {metadata}"),
            ),
            (
                Shortfall::Role,
                403,
                true,
                format!("Bearer error=\"insufficient_scope\", {metadata}"),
            ),
            (
                Shortfall::MaxAge(Duration::from_secs(600)),
                401,
                true,
                format!(
                    "Bearer error=\"insufficient_user_authentication\", max_age=\"600\", {metadata}"
                ),
            ),
        ] {
            let challenge = shortfall.challenge(status, bearer, &parameters);
            assert_eq!(challenge, Some(expected), "{shortfall:?}");
        }
        for shortfall in [Shortfall::Client, Shortfall::Claim, Shortfall::Variable] {
            assert_eq!(shortfall.challenge(403, true, &parameters), None, "{shortfall:?}");
        }
    }

    #[test]
    fn challenges_follow_shortfall_status_and_bearer() {
        let old = Shortfall::MaxAge(Duration::from_secs(600));
        for (shortfall, status, bearer, expected) in [
            (Shortfall::NoSession, 401, false, Some("Bearer")),
            (Shortfall::NoSession, 401, true, Some("Bearer error=\"invalid_token\"")),
            (Shortfall::NoSession, 403, true, None),
            (Shortfall::Role, 403, true, Some("Bearer error=\"insufficient_scope\"")),
            (Shortfall::Role, 403, false, None),
            (Shortfall::Role, 401, true, Some("Bearer")),
            (Shortfall::Variable, 403, true, None),
            (Shortfall::Amr, 401, false, Some("Bearer error=\"insufficient_user_authentication\"")),
            (
                old,
                401,
                true,
                Some("Bearer error=\"insufficient_user_authentication\", max_age=\"600\""),
            ),
            (old, 403, true, None),
        ] {
            let challenge = shortfall.challenge(status, bearer, &ChallengeParameters::default());
            assert_eq!(challenge.as_deref(), expected, "{shortfall:?}");
        }
    }
}
