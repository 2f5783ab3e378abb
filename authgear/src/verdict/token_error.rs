//! Why a token does not count.

use thiserror::Error;

use super::Reason;

macro_rules! errors {
    ($($(#[$doc:meta])+ $name:ident = $reason:ident, $message:literal;)+) => {
        /// Why [`verify`](crate::token::verify) refuses a token: the first check that it fails.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
        pub enum TokenError {
            $($(#[$doc])+ #[error($message)] $name,)+
        }

        impl TokenError {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word for it, which no other has.
            pub const fn reason(self) -> Reason {
                match self {
                    $(Self::$name => Reason::$reason,)+
                }
            }
        }
    };
}

errors! {
    /// It is longer than [`MAX_TOKEN`](crate::token::MAX_TOKEN), or its header than
    /// [`MAX_HEADER`](crate::token::MAX_HEADER).
    TooLarge = TokenTooLarge, "the token is too large";
    /// It is not three parts of base64url (RFC 7515 section 7.1) with a JSON object in the first
    /// two, spelled as [`verify`](crate::token::verify) wants it; or its `kid` is no identifier.
    Malformed = TokenMalformed, "the token is malformed";
    /// Its `alg` is absent, is not allowed here, or is not that of the key it names.
    Algorithm = TokenAlgorithm, "the token's algorithm is not allowed";
    /// Its `typ` is not that of an access token (RFC 9068 section 2.1), as that of an ID token is
    /// not; or it has a `cty`, as a token within a token.
    Type = TokenType, "the token is no access token";
    /// It asks for an extension: by `crit` (RFC 7515 section 4.1.11) or `b64` (RFC 7797).
    Critical = TokenCritical, "the token asks for an extension";
    /// It names no key, and there are several.
    NoKid = TokenNoKid, "the token names no key";
    /// It names a key that is not there. Newer keys may have it.
    UnknownKid = TokenUnknownKey, "the token's key is unknown";
    /// Its signature is not that key's.
    Signature = TokenSignature, "the token's signature is wrong";
    /// Its `iss` is another.
    Issuer = TokenIssuer, "the token is of another issuer";
    /// Its `aud` has none of those allowed.
    Audience = TokenAudience, "the token is for another audience";
    /// Its `exp` has passed.
    Expired = TokenExpired, "the token has expired";
    /// Its `nbf` or `iat` is yet to come.
    NotYetValid = TokenNotYetValid, "the token is not valid yet";
    /// A claim is absent that access tokens of its kind have.
    MissingClaim = TokenMissingClaim, "the token lacks a claim";
    /// A claim is of the wrong type, out of range, or cannot be passed on in a header.
    Claim = TokenClaims, "a claim of the token is invalid";
    /// Its user may no longer use it: an event told that the user was disabled, or is gone, after
    /// it was made. No check of the token itself finds that.
    Revoked = TokenRevoked, "the token's user has been disabled";
    /// It is a machine's, and those do not count here.
    MachineToken = TokenMachine, "the token is a machine's";
}
