//! Reasons to reject a token.

use thiserror::Error;

use super::Reason;

macro_rules! errors {
    ($($(#[$doc:meta])+ $name:ident = $reason:ident, $message:literal;)+) => {
        /// Why [`verify`](crate::token::verify) rejects a token: the first check that fails.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
        pub enum TokenError {
            $($(#[$doc])+ #[error($message)] $name,)+
        }

        impl TokenError {
            /// All errors.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The reason to report; each error has its own.
            pub const fn reason(self) -> Reason {
                match self {
                    $(Self::$name => Reason::$reason,)+
                }
            }
        }
    };
}

errors! {
    /// The token is longer than [`MAX_TOKEN`](crate::token::MAX_TOKEN), or its header than
    /// [`MAX_HEADER`](crate::token::MAX_HEADER).
    TooLarge = TokenTooLarge, "the token is too large";
    /// The token is not three parts of base64url (RFC 7515 section 7.1) with a JSON object in the
    /// first two, in the strict spelling of [`verify`](crate::token::verify); or `kid` is invalid.
    Malformed = TokenMalformed, "the token is malformed";
    /// `alg` is absent, not allowed by the project, or not that of the named key.
    Algorithm = TokenAlgorithm, "the token's algorithm is not allowed";
    /// `typ` is not that of an access token (RFC 9068 section 2.1), for example in an ID token; or
    /// there is a `cty`, as in nested tokens.
    Type = TokenType, "the token is not an access token";
    /// The header requires an extension: by `crit` (RFC 7515 section 4.1.11) or `b64` (RFC 7797).
    Critical = TokenCritical, "the token requires an extension";
    /// `kid` is absent, and the key set has several keys.
    NoKid = TokenNoKid, "the token names no key";
    /// `kid` names a key that is not in the set. A newer set may contain it.
    UnknownKid = TokenUnknownKey, "the token's key is unknown";
    /// The signature is not that of the named key.
    Signature = TokenSignature, "the token's signature is wrong";
    /// `iss` is not the project's origin.
    Issuer = TokenIssuer, "the token has another issuer";
    /// `aud` contains none of the allowed audiences.
    Audience = TokenAudience, "the token is for another audience";
    /// `exp` has passed.
    Expired = TokenExpired, "the token has expired";
    /// `nbf` or `iat` is in the future.
    NotYetValid = TokenNotYetValid, "the token is not yet valid";
    /// A required claim is absent.
    MissingClaim = TokenMissingClaim, "the token lacks a claim";
    /// A claim has the wrong type, is out of range, or cannot be forwarded in a header.
    Claim = TokenClaims, "a claim of the token is invalid";
    /// A webhook reported, after the token was issued, that its user was disabled or deleted. No
    /// check of the token itself detects that.
    Revoked = TokenRevoked, "the token's user has been disabled";
    /// The token belongs to a machine, and the project does not accept those.
    MachineToken = TokenMachine, "the token belongs to a machine";
}
