//! Key sets: parsing, selection of usable keys, and signature checks.

use std::fmt;
use std::hash::Hasher as _;

use aws_lc_rs::signature::{ParsedPublicKey, RsaPublicKeyComponents, ED25519};
use serde_json::{Map, Value};
use siphasher::sip::SipHasher13;
use thiserror::Error;

use super::algorithm::{Algorithm, SignatureScheme};
use super::json::{Json, Object};
use super::{base64url, is_kid, TokenError};

/// Largest key set that is parsed, in bytes.
pub const MAX_KEY_SET: usize = 256 * 1024;

/// Maximum size of the usable keys in the form of [`KeySet::to_json`], in bytes. 64 RSA keys of 4096
/// bits fit.
const MAX_USABLE: usize = 96 * 1024;

/// Maximum number of keys in a set, including skipped ones.
pub const MAX_KEYS: usize = 64;

/// Accepted sizes of RSA moduli, in bits. RFC 7518 section 3.3 requires at least 2048.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// Accepted RSA public exponents; only odd ones.
const RSA_EXPONENT: std::ops::RangeInclusive<u64> = 3..=1 << 32;

/// Members that only private and symmetric keys have (RFC 7518 sections 6.2.2, 6.3.2, 6.4, RFC 8037
/// section 2).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Members that define a key of this type: type, id, algorithm and public numbers. All are text.
fn members_of(kty: &str) -> &'static [&'static str] {
    match kty {
        "RSA" => &["kty", "kid", "alg", "n", "e"],
        "EC" => &["kty", "kid", "alg", "crv", "x", "y"],
        _ => &["kty", "kid", "alg", "crv", "x"],
    }
}

/// Error of [`KeySet::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JwksError {
    /// More than [`MAX_KEY_SET`] bytes or [`MAX_KEYS`] keys, or the usable keys exceed their cap.
    #[error("the key set is too large")]
    TooLarge,
    /// Not JSON, nested too deeply, or with a duplicate member.
    #[error("the key set is not JSON")]
    Json,
    /// Not an object with an array `keys` (RFC 7517 section 5).
    #[error("the document is not a key set")]
    NotASet,
    /// No key, or all skipped.
    #[error("the key set has no usable key")]
    NoUsableKey,
}

/// The usable keys of a JSON Web Key Set (RFC 7517), ready to verify signatures.
pub struct KeySet {
    /// Never empty; ids are unique.
    pub(super) keys: Vec<VerifyingKey>,
}

/// Hash of a key's id and public numbers. A new key under the same id has another fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    fn of(jwk: &str) -> Self {
        // An unkeyed hash suffices: whoever controls the JWKS can sign any token.
        let mut hasher = SipHasher13::new();
        hasher.write(jwk.as_bytes());
        Self(hasher.finish())
    }

    /// Returns the bytes for shared memory.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// Inverse of [`to_bytes`](Self::to_bytes).
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }
}

/// A key that verifies signatures.
pub(super) struct VerifyingKey {
    kid: Option<Box<str>>,
    /// The key as a JWK with only the members that define it.
    jwk: Box<str>,
    fingerprint: Fingerprint,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

impl KeySet {
    /// Parses a key set, and returns the number of skipped keys.
    ///
    /// A key is skipped, without effect on the others, if
    /// - it cannot verify: it is not RSA, on P-256, on P-384 or Ed25519, has another `use` than
    ///   `sig`, `key_ops` without `verify`, or an `alg` that is not in `allowed` or not of its type;
    /// - it is weak or broken: an RSA modulus that is even or has not from 2048 to 8192 bits, an
    ///   exponent that is even or not from 3 to 2^32, numbers in more bytes than they need
    ///   (RFC 7518 section 6.3.1), a point that is not on its curve, base64url that is not
    ///   canonical, an invalid `kid` (see [`verify`](super::verify));
    /// - it is secret: symmetric, or with any part of a private key. A published secret key may be
    ///   in anybody's hands;
    /// - another key of the set has the same `kid`, for whatever use, so the id is ambiguous. All
    ///   keys with that id are skipped.
    ///
    /// A key without `alg` verifies all allowed algorithms of its type, one with `alg` only that.
    ///
    /// # Errors
    ///
    /// See [`JwksError`].
    pub fn parse(json: &[u8], allowed: &[Algorithm]) -> Result<(Self, usize), JwksError> {
        if json.len() > MAX_KEY_SET {
            return Err(JwksError::TooLarge);
        }
        let document = Json::parse(json).ok_or(JwksError::Json)?;
        let set = document.as_object().ok_or(JwksError::NotASet)?;
        let members = set.get("keys").and_then(Json::as_list).ok_or(JwksError::NotASet)?;
        if members.len() > MAX_KEYS {
            return Err(JwksError::TooLarge);
        }
        let kids: Vec<_> = members.iter().filter_map(|key| key.as_object()?.get("kid")).collect();
        let keys: Vec<_> = members
            .iter()
            .filter_map(Json::as_object)
            .filter(|key| {
                let kid = key.get("kid");
                kid.is_none_or(|kid| kids.iter().filter(|other| **other == kid).count() == 1)
            })
            .filter_map(|key| VerifyingKey::read(key, allowed))
            .collect();
        if keys.is_empty() {
            return Err(JwksError::NoUsableKey);
        }
        if keys.iter().map(|key| key.jwk.len()).sum::<usize>() > MAX_USABLE {
            return Err(JwksError::TooLarge);
        }
        let skipped = members.len() - keys.len();
        Ok((Self { keys }, skipped))
    }

    /// Returns the number of keys: at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Iterates over the ids of the keys; a key may have none.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(VerifyingKey::kid)
    }

    /// Whether the set contains this key.
    pub fn has(&self, key: Fingerprint) -> bool {
        self.keys.iter().any(|own| own.fingerprint == key)
    }

    /// Returns a document with the usable keys and their defining members only.
    /// [`parse`](Self::parse) reads the same set from it.
    pub fn to_json(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(|key| &*key.jwk).collect();
        format!("{{\"keys\":[{}]}}", keys.join(","))
    }

    /// Whether a key has this id.
    pub fn contains(&self, kid: &str) -> bool {
        self.kids().any(|own| own == kid)
    }

    /// Returns the key for a token with this `kid`, or without one.
    pub(super) fn find(&self, kid: Option<&str>) -> Result<&VerifyingKey, TokenError> {
        match (kid, &*self.keys) {
            (Some(kid), keys) => {
                keys.iter().find(|key| key.kid() == Some(kid)).ok_or(TokenError::UnknownKid)
            }
            (None, [key]) => Ok(key),
            (None, _) => Err(TokenError::NoKid),
        }
    }
}

impl fmt::Debug for KeySet {
    /// Shows the ids.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeySet ")?;
        f.debug_list().entries(self.keys.iter().map(VerifyingKey::kid)).finish()
    }
}

impl VerifyingKey {
    fn read(key: &Object<'_>, allowed: &[Algorithm]) -> Option<Self> {
        if SECRET_MEMBERS.iter().any(|name| key.get(name).is_some()) {
            return None;
        }
        let for_signatures = key.get("use").is_none_or(|usage| usage.as_text() == Some("sig"));
        let for_verification = match key.get("key_ops") {
            None => true,
            Some(operations) => {
                operations.as_list()?.iter().any(|name| name.as_text() == Some("verify"))
            }
        };
        if !for_signatures || !for_verification {
            return None;
        }
        let kid = match key.get("kid") {
            None => None,
            Some(kid) => Some(kid.as_text().filter(|kid| is_kid(kid))?.into()),
        };
        let only = match key.get("alg") {
            None => None,
            Some(name) => Some(Algorithm::parse(name.as_text()?)?),
        };
        let material = Material::read(key)?;
        let verifiers: Vec<_> = allowed
            .iter()
            .filter(|algorithm| only.is_none_or(|only| only == **algorithm))
            .filter_map(|&algorithm| Some((algorithm, material.verifier(algorithm)?)))
            .collect();
        if verifiers.is_empty() {
            return None;
        }
        let members = members_of(key.get("kty").and_then(Json::as_text).unwrap_or_default());
        let jwk: Map<String, Value> = (members.iter())
            .filter_map(|&name| Some((name.to_owned(), key.get(name)?.as_text()?.into())))
            .collect();
        let jwk = Value::from(jwk).to_string().into_boxed_str();
        Some(Self { kid, fingerprint: Fingerprint::of(&jwk), jwk, verifiers })
    }

    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// Verifies a signature of the message.
    ///
    /// # Errors
    ///
    /// [`TokenError::Algorithm`] if the key does not support this algorithm,
    /// [`TokenError::Signature`] if the signature is wrong.
    pub fn verify(
        &self,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), TokenError> {
        let (_, verifier) = self
            .verifiers
            .iter()
            .find(|(own, _)| *own == algorithm)
            .ok_or(TokenError::Algorithm)?;
        verifier.verify_sig(message, signature).map_err(|_| TokenError::Signature)
    }
}

/// Public numbers of a key.
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// Name of the curve, and the uncompressed point (SEC 1 section 2.3.3).
    Ec {
        curve: String,
        point: Vec<u8>,
    },
    Ed25519(Vec<u8>),
}

impl Material {
    fn read(key: &Object<'_>) -> Option<Self> {
        let text = |name| key.get(name).and_then(Json::as_text);
        let bytes = |name| base64url(text(name)?.as_bytes());
        match text("kty")? {
            "RSA" => {
                let (n, e) = (bytes("n")?, bytes("e")?);
                is_sound_rsa(&n, &e).then_some(Self::Rsa { n, e })
            }
            "EC" => {
                let curve = text("crv")?;
                let (x, y) = (bytes("x")?, bytes("y")?);
                // RFC 7518 section 6.2.1.2: the length of the curve's field elements.
                let length = match curve {
                    "P-256" => 32,
                    "P-384" => 48,
                    _ => return None,
                };
                (x.len() == length && y.len() == length)
                    .then(|| Self::Ec { curve: curve.into(), point: [&[4], &*x, &*y].concat() })
            }
            "OKP" => (text("crv")? == "Ed25519").then_some(Self::Ed25519(bytes("x")?)),
            _ => None,
        }
    }

    /// Returns `None` if the numbers are not a valid key for the algorithm.
    fn verifier(&self, algorithm: Algorithm) -> Option<ParsedPublicKey> {
        match (algorithm.scheme(), self) {
            (SignatureScheme::Rsa(parameters), Self::Rsa { n, e }) => {
                RsaPublicKeyComponents { n, e }.to_parsed_public_key(parameters)
            }
            (SignatureScheme::Ecdsa(curve, ecdsa), Self::Ec { curve: own, point })
                if curve == own =>
            {
                ParsedPublicKey::new(ecdsa, point)
            }
            (SignatureScheme::Ed25519, Self::Ed25519(x)) => ParsedPublicKey::new(&ED25519, x),
            _ => return None,
        }
        .ok()
    }
}

/// Whether modulus and exponent, as big-endian numbers, are in the accepted ranges.
fn is_sound_rsa(n: &[u8], e: &[u8]) -> bool {
    let (&[high, .., low], &[e_high, ..]) = (n, e) else {
        return false;
    };
    if high == 0 || e_high == 0 || e.len() > 8 {
        return false;
    }
    let bits = n.len() * 8 - high.leading_zeros() as usize;
    let exponent = e.iter().fold(0, |number, &byte| number << 8 | u64::from(byte));
    RSA_BITS.contains(&bits)
        && low % 2 == 1
        && RSA_EXPONENT.contains(&exponent)
        && exponent % 2 == 1
}
