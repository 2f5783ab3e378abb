//! Keys that sign assertions.

use std::fmt;

use aws_lc_rs::digest::{digest, SHA256};
use aws_lc_rs::signature::{
    EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, ECDSA_P256_SHA256_FIXED_SIGNING,
};
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde::Serialize;
use serde_json::{json, Value};
use thiserror::Error;

/// Largest file with a key, in bytes.
pub const MAX_KEY_FILE: usize = 16 * 1024;

/// Error of [`SigningKey::from_pem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Larger than [`MAX_KEY_FILE`].
    #[error("is larger than {MAX_KEY_FILE} bytes")]
    TooLarge,
    /// No private key in PKCS#8, unencrypted, as PEM.
    #[error(
        "has no \"BEGIN PRIVATE KEY\": make one by \"openssl genpkey -algorithm ed25519\", or \
         convert another by \"openssl pkcs8 -topk8 -nocrypt\""
    )]
    NoKey,
    /// A key of another type.
    #[error("must have a key of the curve P-256 (ES256) or an Ed25519 key (EdDSA)")]
    Type,
}

/// A private key, and the public one.
pub struct SigningKey {
    encoding: EncodingKey,
    algorithm: Algorithm,
    kid: String,
    jwk: Value,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}

impl SigningKey {
    /// Reads the first private key of a file. The algorithm is that of its type.
    ///
    /// # Errors
    ///
    /// See [`KeyError`].
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_FILE {
            return Err(KeyError::TooLarge);
        }
        let key = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|_| KeyError::NoKey)?;
        let der = key.secret_pkcs8_der();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        // Members in the order of RFC 7638 section 3.
        let (encoding, algorithm, members) = if let Ok(pair) =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der)
        {
            // An uncompressed point (SEC 1 section 2.3.3).
            let [4, point @ ..] = pair.public_key().as_ref() else { return Err(KeyError::Type) };
            let (x, y) = point.split_at_checked(32).ok_or(KeyError::Type)?;
            let members = format!(
                "{{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"{}\",\"y\":\"{}\"}}",
                text(x),
                text(y)
            );
            (EncodingKey::from_ec_der(der), Algorithm::ES256, members)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            let x = text(pair.public_key().as_ref());
            let members = format!("{{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"{x}\"}}");
            (EncodingKey::from_ed_der(der), Algorithm::EdDSA, members)
        } else {
            return Err(KeyError::Type);
        };
        let kid = text(digest(&SHA256, members.as_bytes()).as_ref());
        let jwk = serde_json::from_str(&members).map_err(|_| KeyError::Type)?;
        let mut key = Self { encoding, algorithm, kid, jwk };
        let algorithm = key.algorithm();
        if let Some(jwk) = key.jwk.as_object_mut() {
            jwk.insert("use".to_owned(), json!("sig"));
            jwk.insert("alg".to_owned(), json!(algorithm));
            jwk.insert("kid".to_owned(), json!(key.kid));
        }
        Ok(key)
    }

    /// Name of the algorithm in JOSE.
    pub fn algorithm(&self) -> &'static str {
        if self.algorithm == Algorithm::ES256 {
            "ES256"
        } else {
            "EdDSA"
        }
    }

    /// Id of the key: its thumbprint (RFC 7638).
    pub fn kid(&self) -> &str {
        &self.kid
    }

    /// The public key (RFC 7517, RFC 8037).
    pub fn jwk(&self) -> &Value {
        &self.jwk
    }

    /// A JWT with these claims. `None` if no random numbers are available.
    pub(super) fn sign(&self, typ: &str, claims: &impl Serialize) -> Option<String> {
        let mut header = Header::new(self.algorithm);
        header.typ = Some(typ.to_owned());
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.encoding).ok()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    // By `openssl genpkey`, for these tests only.
    pub const P256: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgEnuZW7L4gytWoSZ3\n\
        Pb5T11TCZ7zQMjGvuuEvcHIDLq2hRANCAATeoG85aQpWsfwcl2d3acF/9XdO/js1\n\
        E4jK/B90UeFXf57ubfgOxkLJAtd7Fo0yiXIyJCFqffpZQXPDQ+aPK4Qv\n\
        -----END PRIVATE KEY-----\n";
    pub const ED25519: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIOP4UdjM9tTK9AQCurkgXmy84QQFQW++RntSjS/Kgnzt\n\
        -----END PRIVATE KEY-----\n";
    const P384: &str = "-----BEGIN PRIVATE KEY-----\n\
        MIG2AgEAMBAGByqGSM49AgEGBSuBBAAiBIGeMIGbAgEBBDCIbQCx0h8XWr8aEKPs\n\
        vgEHYMLhK0Y8ez0FMhCFcMPy2B/kHv245dKmM9njvnUuBSWhZANiAATkYi9BMcQX\n\
        7xxDSjV9ViKSi3nH+jKyxXDtlLvEq5y0nb8DNs4PuMkm64MmzyHXgxbhfWA9P626\n\
        yPBUC2YQERJVa/cwUcvWedLr5/KBGjWD96tqrRmMgTQPmTzykECfe8Q=\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn keys_of_openssl_are_read() {
        for (pem, algorithm, members) in [(P256, "ES256", 7), (ED25519, "EdDSA", 6)] {
            let key = SigningKey::from_pem(pem.as_bytes()).unwrap();
            assert_eq!((key.algorithm(), &key.jwk()["alg"]), (algorithm, &json!(algorithm)));
            assert_eq!(key.jwk()["kid"], key.kid());
            assert_eq!(key.jwk().as_object().unwrap().len(), members);
            assert!(key.jwk().get("d").is_none());
            let surrounded = format!("comment\n{pem}\nmore\n");
            assert_eq!(SigningKey::from_pem(surrounded.as_bytes()).unwrap().kid(), key.kid());
            assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.kid()));
        }
    }

    /// RFC 8037 appendix A.
    #[test]
    fn the_key_id_is_the_thumbprint() {
        let pem = "-----BEGIN PRIVATE KEY-----\n\
                   MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
                   -----END PRIVATE KEY-----\n";
        let key = SigningKey::from_pem(pem.as_bytes()).unwrap();
        assert_eq!(key.jwk()["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn other_files_are_refused() {
        let encrypted = P256.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        let sec1 = P256.replace("PRIVATE KEY", "EC PRIVATE KEY");
        let broken = P256.replace("MIG", "MIH");
        let large = "x".repeat(MAX_KEY_FILE + 1);
        for (pem, error) in [
            ("", KeyError::NoKey),
            ("no key", KeyError::NoKey),
            (&encrypted, KeyError::NoKey),
            (&sec1, KeyError::NoKey),
            (&broken, KeyError::Type),
            (P384, KeyError::Type),
            (&large, KeyError::TooLarge),
        ] {
            assert_eq!(SigningKey::from_pem(pem.as_bytes()).map(|_| ()), Err(error), "{pem}");
        }
    }
}
