//! The verdict: the result of looking up a request's credentials.

mod codec;
pub mod freshness;
mod token_error;

use std::time::Duration;

use crate::identity::{self, Identity, Name};
pub use token_error::TokenError;

/// The only field that the upstream receives for an invalid session or bearer.
const INVALID: (Name<'static>, &[u8]) = (Name::Other("x-authgear-session-valid"), b"false");

/// The result of looking up a request's credentials, or the reason why that failed.
///
/// A verdict concerns credentials only; each location applies its own [policy](crate::policy).
/// Only [`Valid`](Self::Valid) is a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A session of this identity.
    Valid(Identity),
    /// A session that has ended, or whose user is blocked.
    Invalid,
    /// The resolver does not accept the bearer token, and the request has no session cookie. It
    /// answers so for tokens of third-party clients, and for a user who is blocked for a while.
    BearerNotAccepted,
    /// No session.
    None(NoSession),
    /// No result, because the look-up failed.
    Unavailable(Unavailable),
    /// No result, because the client made too many look-ups (`authgear_unknown_limit`). Nobody was
    /// asked, and nothing failed. Another look-up is within the limit after this time.
    Limited(Duration),
}

/// Why there is no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSession {
    /// The request has no credentials, so there was no look-up.
    NoCredentials,
    /// The resolver found none. The resolver also answers so for a bearer token that has expired or
    /// been revoked (`pkg/lib/oauth/resolver.go`).
    Resolver,
    /// The module itself rejected the bearer token.
    Token(TokenError),
}

/// Why a look-up failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The resolver's host name could not be resolved.
    Dns,
    /// No connection could be opened.
    Connect,
    /// The TLS handshake failed, including certificate verification.
    Tls,
    /// The deadline passed.
    Timeout,
    /// The resolver closed the connection before the answer was complete.
    Closed,
    /// The resolver's status was neither 200 nor 4xx.
    BadStatus,
    /// The resolver's status was 4xx: it is up, and refuses this look-up.
    Refused,
    /// The answer is not HTTP, or contradicts itself.
    BadAnswer,
    /// An answer with status 200 that is not the resolver's: a page of some website.
    NotAResolver,
    /// The answer is larger than allowed.
    TooLarge,
    /// The circuit breaker is open: `max_fails` look-ups in a row failed.
    Suspended,
    /// The look-up would not have been made in time: too many others wait for a connection.
    Overloaded,
    /// Too many requests wait for the same look-up.
    Crowded,
    /// No key set to verify tokens with could be fetched.
    Keys,
    /// This host does not know what other hosts of its fleet purged, and the location wants a fresh
    /// answer (`authgear_fleet_cut_off ask`).
    FleetCutOff,
    /// An internal error of the module.
    Internal,
}

impl Unavailable {
    /// The reason to report.
    pub const fn reason(self) -> Reason {
        match self {
            Self::Dns => Reason::DnsError,
            Self::Connect => Reason::ConnectError,
            Self::Tls => Reason::TlsError,
            Self::Timeout => Reason::Timeout,
            Self::Closed => Reason::ConnectionClosed,
            Self::BadStatus | Self::Refused => Reason::BadStatus,
            Self::BadAnswer => Reason::BadAnswer,
            Self::NotAResolver => Reason::NotAResolver,
            Self::TooLarge => Reason::AnswerTooLarge,
            Self::Suspended => Reason::ResolverSuspended,
            Self::Overloaded => Reason::ResolverOverloaded,
            Self::Crowded => Reason::TooManyWaiting,
            Self::Keys => Reason::KeysUnavailable,
            Self::FleetCutOff => Reason::FleetCutOff,
            Self::Internal => Reason::InternalError,
        }
    }

    /// The number that stands for it in shared memory.
    pub const fn code(self) -> u8 {
        match self {
            Self::Dns => 1,
            Self::Connect => 2,
            Self::Tls => 3,
            Self::Timeout => 4,
            Self::Closed => 5,
            Self::BadStatus => 6,
            Self::BadAnswer => 7,
            Self::TooLarge => 8,
            Self::Suspended => 9,
            Self::Crowded => 10,
            Self::Internal => 11,
            Self::Keys => 12,
            Self::Overloaded => 13,
            Self::Refused => 14,
            Self::NotAResolver => 15,
            Self::FleetCutOff => 16,
        }
    }

    /// Inverse of [`code`](Self::code). Unknown numbers give `Internal`.
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Dns,
            2 => Self::Connect,
            3 => Self::Tls,
            4 => Self::Timeout,
            5 => Self::Closed,
            6 => Self::BadStatus,
            7 => Self::BadAnswer,
            8 => Self::TooLarge,
            9 => Self::Suspended,
            10 => Self::Crowded,
            12 => Self::Keys,
            13 => Self::Overloaded,
            14 => Self::Refused,
            15 => Self::NotAResolver,
            16 => Self::FleetCutOff,
            _ => Self::Internal,
        }
    }

    /// Whether the resolver was never contacted.
    pub const fn nobody_was_asked(self) -> bool {
        matches!(
            self,
            Self::Suspended | Self::Overloaded | Self::Crowded | Self::FleetCutOff | Self::Internal
        )
    }

    /// Whether a verdict from before may be served in its place. Not if the resolver is up and
    /// refuses the look-up, nor if verdicts from before are what cannot be trusted.
    pub const fn is_outage(self) -> bool {
        !matches!(self, Self::Refused | Self::FleetCutOff)
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])+ $name:ident = $word:literal,)+) => {
        /// The reason of a verdict or a denial in one word: the value of `$authgear_reason`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[$doc])+ $name,)+
        }

        impl Reason {
            /// All reasons.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word. It never changes, since logs and configurations compare it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

reasons! {
    /// The session is valid.
    Ok = "ok",
    /// The request has no credentials.
    NoCredentials = "no_credentials",
    /// The resolver found no session in the credentials.
    NoSession = "no_session",
    /// The resolver found a session that is not valid.
    SessionInvalid = "session_invalid",
    /// See [`Verdict::BearerNotAccepted`].
    BearerNotAccepted = "bearer_not_accepted",
    /// The user is not verified.
    NotVerified = "not_verified",
    /// The user is anonymous.
    AnonymousUser = "anonymous_user",
    /// The user has no way to authenticate again.
    CannotReauthenticate = "cannot_reauthenticate",
    /// A write or a WebSocket by a session cookie comes from another site.
    CrossSite = "cross_site",
    /// The user has none of the roles of `role=`.
    RoleMissing = "role_missing",
    /// The session lacks an authentication method of `amr=`.
    AmrMissing = "amr_missing",
    /// The user authenticated longer ago than `max_age=` allows.
    AuthenticationTooOld = "authentication_too_old",
    /// The token has none of the scopes of `scope=`.
    ScopeMissing = "scope_missing",
    /// The token was issued to none of the clients of `client=`.
    ClientNotAllowed = "client_not_allowed",
    /// The claim of `claim:` has none of the values.
    ClaimMismatch = "claim_mismatch",
    /// A variable of `authgear_require` is empty or `0`.
    VariableUnset = "variable_unset",
    /// See [`Unavailable::Dns`].
    DnsError = "dns_error",
    /// See [`Unavailable::Connect`].
    ConnectError = "connect_error",
    /// See [`Unavailable::Tls`].
    TlsError = "tls_error",
    /// See [`Unavailable::Timeout`].
    Timeout = "timeout",
    /// See [`Unavailable::Closed`].
    ConnectionClosed = "connection_closed",
    /// See [`Unavailable::BadStatus`].
    BadStatus = "bad_status",
    /// See [`Unavailable::BadAnswer`].
    BadAnswer = "bad_answer",
    /// See [`Unavailable::NotAResolver`].
    NotAResolver = "not_a_resolver",
    /// See [`Unavailable::TooLarge`].
    AnswerTooLarge = "answer_too_large",
    /// See [`Unavailable::Suspended`].
    ResolverSuspended = "resolver_suspended",
    /// The look-up would not have been made in time, and was not made.
    ResolverOverloaded = "resolver_overloaded",
    /// See [`Unavailable::Crowded`].
    TooManyWaiting = "too_many_waiting",
    /// See [`Verdict::Limited`].
    TooManyLookups = "too_many_lookups",
    /// See [`Unavailable::Keys`].
    KeysUnavailable = "keys_unavailable",
    /// See [`Unavailable::FleetCutOff`].
    FleetCutOff = "fleet_cut_off",
    /// See [`Unavailable::Internal`].
    InternalError = "internal_error",
    /// See [`TokenError::TooLarge`].
    TokenTooLarge = "token_too_large",
    /// See [`TokenError::Malformed`].
    TokenMalformed = "token_malformed",
    /// See [`TokenError::Algorithm`].
    TokenAlgorithm = "token_algorithm",
    /// See [`TokenError::Type`].
    TokenType = "token_type",
    /// See [`TokenError::Critical`].
    TokenCritical = "token_critical",
    /// See [`TokenError::NoKid`].
    TokenNoKid = "token_no_kid",
    /// See [`TokenError::UnknownKid`].
    TokenUnknownKey = "token_unknown_key",
    /// See [`TokenError::Signature`].
    TokenSignature = "token_signature",
    /// See [`TokenError::Issuer`].
    TokenIssuer = "token_issuer",
    /// See [`TokenError::Audience`].
    TokenAudience = "token_audience",
    /// See [`TokenError::Expired`].
    TokenExpired = "token_expired",
    /// See [`TokenError::NotYetValid`].
    TokenNotYetValid = "token_not_yet_valid",
    /// See [`TokenError::MissingClaim`].
    TokenMissingClaim = "token_missing_claim",
    /// See [`TokenError::Claim`].
    TokenClaims = "token_claims",
    /// See [`TokenError::Revoked`].
    TokenRevoked = "token_revoked",
    /// See [`TokenError::MachineToken`].
    TokenMachine = "token_machine",
}

impl Verdict {
    /// The value of `$authgear_session`: `valid`, `invalid`, `none` or `error`.
    pub const fn session_word(&self) -> &'static str {
        match self {
            Self::Valid(_) => "valid",
            Self::Invalid | Self::BearerNotAccepted => "invalid",
            Self::None(_) => "none",
            Self::Unavailable(_) | Self::Limited(_) => "error",
        }
    }

    /// The reason of this verdict.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Valid(_) => Reason::Ok,
            Self::Invalid => Reason::SessionInvalid,
            Self::BearerNotAccepted => Reason::BearerNotAccepted,
            Self::None(NoSession::NoCredentials) => Reason::NoCredentials,
            Self::None(NoSession::Resolver) => Reason::NoSession,
            Self::None(NoSession::Token(error)) => error.reason(),
            Self::Unavailable(why) => why.reason(),
            Self::Limited(_) => Reason::TooManyLookups,
        }
    }

    /// Whether a location with these audiences accepts the session: [`TokenError::Audience`] if the
    /// session is that of a verified token for another audience. Check it on each request, since
    /// locations with different audiences share cached verdicts.
    ///
    /// # Errors
    ///
    /// The reason not to accept the session.
    pub fn check_audience(&self, audiences: &[String]) -> Result<(), TokenError> {
        let Self::Valid(identity) = self else { return Ok(()) };
        match identity.grant() {
            Some(grant) if !audiences.iter().any(|own| grant.has_audience(own)) => {
                Err(TokenError::Audience)
            }
            _ => Ok(()),
        }
    }

    /// Fields for upstreams and variables, as full lower-case name and value: the same that the
    /// resolver sends. A valid session has those of its identity, an invalid session or bearer only
    /// `x-authgear-session-valid: false`, and other verdicts none.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        self.named_fields().map(|(name, value)| (name.as_str(), value))
    }

    /// Most [fields](Self::fields) that there may be.
    pub fn most_fields(&self) -> usize {
        match self {
            Self::Valid(identity) => identity.field_count(),
            _ => 1,
        }
    }

    /// Like [`Self::fields`], with names as they are stored.
    pub fn named_fields(&self) -> impl Iterator<Item = (Name<'_>, &[u8])> + Clone {
        let (identity, invalid) = match self {
            Self::Valid(identity) => (Some(identity), None),
            Self::Invalid | Self::BearerNotAccepted => (None, Some(INVALID)),
            Self::None(_) | Self::Unavailable(_) | Self::Limited(_) => (None, None),
        };
        identity.into_iter().flat_map(Identity::named).chain(invalid)
    }

    /// Returns the value of the [field](Self::fields) with this name after the prefix; see
    /// [`Identity::get_suffix`].
    pub fn get_suffix(&self, suffix: &[u8]) -> Option<&[u8]> {
        identity::find_suffix(self.fields(), suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{join_audiences, Grant};
    use crate::policy::Shortfall;
    use std::collections::HashSet;

    const UNAVAILABLE: [(Unavailable, &str); 16] = [
        (Unavailable::Dns, "dns_error"),
        (Unavailable::Connect, "connect_error"),
        (Unavailable::Tls, "tls_error"),
        (Unavailable::Timeout, "timeout"),
        (Unavailable::Closed, "connection_closed"),
        (Unavailable::BadStatus, "bad_status"),
        (Unavailable::Refused, "bad_status"),
        (Unavailable::BadAnswer, "bad_answer"),
        (Unavailable::NotAResolver, "not_a_resolver"),
        (Unavailable::TooLarge, "answer_too_large"),
        (Unavailable::Suspended, "resolver_suspended"),
        (Unavailable::Overloaded, "resolver_overloaded"),
        (Unavailable::Crowded, "too_many_waiting"),
        (Unavailable::Keys, "keys_unavailable"),
        (Unavailable::FleetCutOff, "fleet_cut_off"),
        (Unavailable::Internal, "internal_error"),
    ];

    fn valid() -> Verdict {
        let mut builder = Identity::builder();
        builder.push(b"x-authgear-session-valid", b"true").unwrap();
        builder.push(b"x-authgear-user-id", b"alice").unwrap();
        Verdict::Valid(builder.build())
    }

    fn others() -> Vec<(Verdict, &'static str, &'static str)> {
        let mut verdicts = vec![
            (Verdict::None(NoSession::NoCredentials), "none", "no_credentials"),
            (Verdict::None(NoSession::Resolver), "none", "no_session"),
            (Verdict::Limited(Duration::from_secs(1)), "error", "too_many_lookups"),
        ];
        verdicts.extend(UNAVAILABLE.map(|(why, word)| (Verdict::Unavailable(why), "error", word)));
        verdicts
    }

    #[test]
    fn codes_round_trip() {
        for (why, _) in UNAVAILABLE {
            assert_eq!(Unavailable::from_code(why.code()), why);
        }
        assert_eq!(Unavailable::from_code(0), Unavailable::Internal);
        assert_eq!(Unavailable::from_code(u8::MAX), Unavailable::Internal);
    }

    #[test]
    fn every_reason_has_one_cause_and_its_own_word() {
        let mut verdicts = others();
        verdicts.push((valid(), "valid", "ok"));
        verdicts.push((Verdict::Invalid, "invalid", "session_invalid"));
        verdicts.push((Verdict::BearerNotAccepted, "invalid", "bearer_not_accepted"));
        let mut reasons: HashSet<_> = verdicts
            .iter()
            .map(|(verdict, session, reason)| {
                assert_eq!(verdict.session_word(), *session);
                assert_eq!(verdict.reason().as_str(), *reason);
                verdict.reason()
            })
            .collect();
        for &error in TokenError::ALL {
            let verdict = Verdict::None(NoSession::Token(error));
            assert_eq!(verdict.session_word(), "none");
            assert!(reasons.insert(verdict.reason()), "{error:?}");
        }
        let shortfalls = [
            Shortfall::NoSession,
            Shortfall::NotVerified,
            Shortfall::Anonymous,
            Shortfall::CannotReauthenticate,
            Shortfall::Role,
            Shortfall::Amr,
            Shortfall::MaxAge(Duration::ZERO),
            Shortfall::Scope,
            Shortfall::Client,
            Shortfall::Claim,
            Shortfall::Variable,
            Shortfall::CrossSite,
        ];
        for reason in shortfalls.iter().filter_map(|shortfall| shortfall.reason()) {
            assert!(reasons.insert(reason), "{reason:?}");
        }
        assert_eq!(reasons, Reason::ALL.iter().copied().collect());
        let words: HashSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
    }

    #[test]
    fn a_valid_session_has_the_fields_of_its_identity() {
        let verdict = valid();
        let fields: Vec<_> = verdict.fields().collect();
        assert_eq!(
            fields,
            [("x-authgear-session-valid", &b"true"[..]), ("x-authgear-user-id", b"alice")]
        );
        assert_eq!(verdict.get_suffix(b"session_valid"), Some(&b"true"[..]));
        assert_eq!(verdict.get_suffix(b"user_id"), Some(&b"alice"[..]));
        assert_eq!(verdict.get_suffix(b"user_roles"), None);
    }

    #[test]
    fn an_invalid_session_or_bearer_has_only_the_invalid_field() {
        for verdict in [Verdict::Invalid, Verdict::BearerNotAccepted] {
            let fields: Vec<_> = verdict.fields().collect();
            assert_eq!(fields, [("x-authgear-session-valid", &b"false"[..])]);
            assert_eq!(verdict.get_suffix(b"session_valid"), Some(&b"false"[..]));
            assert_eq!(verdict.get_suffix(b"user_id"), None);
        }
    }

    #[test]
    fn a_token_counts_only_where_its_audience_does() {
        let audiences = |list: &[&str]| list.iter().map(|&own| own.to_owned()).collect::<Vec<_>>();
        let mut builder = Identity::builder();
        let own = join_audiences(["https://a.test", "https://b.test"]);
        builder.set_grant(Grant::from_parts(b"", b"", &own));
        let verified = Verdict::Valid(builder.build());
        for (accepted, result) in [
            (&["https://b.test"][..], Ok(())),
            (&["https://c.test", "https://a.test"], Ok(())),
            (&["https://c.test"], Err(TokenError::Audience)),
            (&["https://a.test/"], Err(TokenError::Audience)),
            (&[], Err(TokenError::Audience)),
        ] {
            assert_eq!(verified.check_audience(&audiences(accepted)), result, "{accepted:?}");
        }
        for (verdict, ..) in others() {
            assert_eq!(verdict.check_audience(&[]), Ok(()));
        }
        // Sessions that the resolver decides about have no audience.
        assert_eq!(valid().check_audience(&audiences(&["https://c.test"])), Ok(()));
    }

    #[test]
    fn verdicts_without_a_session_have_no_fields() {
        for (verdict, ..) in others() {
            assert_eq!(verdict.fields().count(), 0);
            assert_eq!(verdict.get_suffix(b"session_valid"), None);
        }
    }
}
