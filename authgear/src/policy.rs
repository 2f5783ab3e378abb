//! Policy: the conditions of a location, and the status and challenge of a denial.
//!
//! A verdict is what Authgear knows of the credentials; policy is what a location requires.
//! Policy is evaluated for each request and never cached.

use std::fmt::Write as _;
use std::time::Duration;

use thiserror::Error;

use crate::identity::Identity;
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
    /// A user with one of these roles.
    Role(Vec<String>),
    /// Authentication by this method (RFC 8176).
    Amr(String),
    /// Authentication no longer ago than this.
    MaxAge(Duration),
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
            Some(_) => Err(ConditionError::Unknown),
        }
    }

    /// Checks the identity of a valid session. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// See [`Shortfall`].
    pub fn check(&self, identity: &Identity, now: u64) -> Result<(), Shortfall> {
        let is = |name: &[u8], value: &[u8]| identity.get(name) == Some(value);
        let has = |name: &[u8], separator: u8, wanted: &str| {
            let list = identity.get(name).unwrap_or_default();
            list.split(|&byte| byte == separator).any(|item| item == wanted.as_bytes())
        };
        let (holds, shortfall) = match self {
            Self::Session => (true, Shortfall::NoSession),
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
        };
        if holds {
            Ok(())
        } else {
            Err(shortfall)
        }
    }
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
    /// See [`Condition::Role`].
    Role,
    /// See [`Condition::Amr`].
    Amr,
    /// See [`Condition::MaxAge`].
    MaxAge(Duration),
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
            | Self::Role
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
            Self::Role => Some(Reason::RoleMissing),
            Self::Amr => Some(Reason::AmrMissing),
            Self::MaxAge(_) => Some(Reason::AuthenticationTooOld),
            Self::Variable => Some(Reason::VariableUnset),
        }
    }

    /// Builds the value of `WWW-Authenticate` for a denial with `status` (RFC 6750 section 3, RFC
    /// 9470 section 3). `bearer` tells whether the request had a bearer token.
    ///
    /// A 403 has a challenge only if the privileges of a bearer token are insufficient.
    pub fn challenge(self, status: u16, bearer: bool) -> Option<String> {
        let mut challenge = String::from("Bearer");
        let error = match (self, status) {
            (Self::Amr | Self::MaxAge(_), 401) => "insufficient_user_authentication",
            (Self::NoSession, 401) if bearer => "invalid_token",
            (_, 401) => return Some(challenge),
            (Self::Role | Self::NotVerified | Self::Anonymous, 403) if bearer => {
                "insufficient_scope"
            }
            _ => return None,
        };
        let _ = write!(challenge, " error=\"{error}\"");
        if let (Self::MaxAge(age), 401) = (self, status) {
            let _ = write!(challenge, ", max_age=\"{}\"", age.as_secs());
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
            ("scope=x", Err(ConditionError::Unknown)),
            ("", Err(ConditionError::Unknown)),
        ] {
            assert_eq!(condition(word), expected, "{word}");
        }
        let long = format!("role={}", "a".repeat(41));
        assert_eq!(condition(&long), Err(ConditionError::Value));
    }

    #[test]
    fn each_condition_passes_only_identities_that_meet_it() {
        const NOW: u64 = 1_700_000_000;
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
            assert_eq!(condition.check(&identity(good), NOW), Ok(()), "{word}");
            assert_eq!(condition.check(&identity(other), NOW), Err(shortfall), "{word}");
            assert_eq!(condition.check(&identity(silent), NOW), Err(shortfall), "{word}");
            assert_eq!(Condition::Session.check(&identity(silent), NOW), Ok(()));
        }
        let forever = condition("max_age=18446744073709551615").expect("a condition");
        assert_eq!(forever.check(&identity(good), u64::MAX), Ok(()));
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
            assert_eq!(shortfall.challenge(status, bearer).as_deref(), expected, "{shortfall:?}");
        }
    }
}
