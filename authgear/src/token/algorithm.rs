//! Signature algorithms of tokens.

use aws_lc_rs::signature::{
    EcdsaVerificationAlgorithm, RsaParameters, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
};

/// Type of key and method of verification.
#[derive(Clone, Copy, Debug)]
pub(super) enum SignatureScheme {
    Rsa(&'static RsaParameters),
    /// On the curve with this name in a JWK (RFC 7518 section 6.2.1.1).
    Ecdsa(&'static str, &'static EcdsaVerificationAlgorithm),
    Ed25519,
}

macro_rules! algorithms {
    ($($(#[$doc:meta])+ $name:ident => $scheme:expr,)+) => {
        /// A signature algorithm (RFC 7518 section 3.1, RFC 8037 section 3.1). All are asymmetric:
        /// there is no HMAC, with which a public key could pass for a secret, and no `none`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        pub enum Algorithm {
            $($(#[$doc])+ $name,)+
        }

        impl Algorithm {
            /// All algorithms.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// Name in `alg`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            pub(super) const fn scheme(self) -> SignatureScheme {
                match self {
                    $(Self::$name => $scheme,)+
                }
            }
        }
    };
}

algorithms! {
    /// RSASSA-PKCS1-v1_5 with SHA-256, used by Authgear (`pkg/lib/oauth/token_encoding.go`).
    #[default]
    RS256 => SignatureScheme::Rsa(&RSA_PKCS1_2048_8192_SHA256),
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RS384 => SignatureScheme::Rsa(&RSA_PKCS1_2048_8192_SHA384),
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RS512 => SignatureScheme::Rsa(&RSA_PKCS1_2048_8192_SHA512),
    /// RSASSA-PSS with SHA-256.
    PS256 => SignatureScheme::Rsa(&RSA_PSS_2048_8192_SHA256),
    /// RSASSA-PSS with SHA-384.
    PS384 => SignatureScheme::Rsa(&RSA_PSS_2048_8192_SHA384),
    /// RSASSA-PSS with SHA-512.
    PS512 => SignatureScheme::Rsa(&RSA_PSS_2048_8192_SHA512),
    /// ECDSA on P-256 with SHA-256.
    ES256 => SignatureScheme::Ecdsa("P-256", &ECDSA_P256_SHA256_FIXED),
    /// ECDSA on P-384 with SHA-384.
    ES384 => SignatureScheme::Ecdsa("P-384", &ECDSA_P384_SHA384_FIXED),
    /// EdDSA with Ed25519.
    EdDSA => SignatureScheme::Ed25519,
}

impl Algorithm {
    /// Returns the algorithm with exactly this name (RFC 7515 section 4.1.1).
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|algorithm| algorithm.as_str() == name)
    }
}
