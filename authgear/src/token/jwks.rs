//! The keys that tokens are verified with.

use std::fmt;
use std::hash::Hasher as _;

use aws_lc_rs::signature::{ParsedPublicKey, RsaPublicKeyComponents, ED25519};
use serde_json::{Map, Value};
use siphasher::sip::SipHasher13;
use thiserror::Error;

use super::algorithm::{Algorithm, SignatureScheme};
use super::json::{Json, Object};
use super::{base64url, is_kid, TokenError};

/// Largest key set that is read, in bytes.
pub const MAX_KEY_SET: usize = 256 * 1024;

/// Most bytes of the usable keys of a set, as [`KeySet::to_json`] writes them: 64 RSA keys of 4096
/// bits are less.
const MAX_USABLE: usize = 96 * 1024;

/// Most keys of a set, those that are skipped included.
pub const MAX_KEYS: usize = 64;

/// Sizes of RSA moduli, in bits. RFC 7518 section 3.3 wants 2048 at least.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// RSA public exponents. Odd ones only.
const RSA_EXPONENT: std::ops::RangeInclusive<u64> = 3..=1 << 32;

/// What only private and symmetric keys have (RFC 7518 sections 6.2.2, 6.3.2, 6.4, RFC 8037
/// section 2).
const SECRET_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// What makes a key of a type, all of it text: its id, type and algorithm, and the public numbers.
fn members_of(kty: &str) -> &'static [&'static str] {
    match kty {
        "RSA" => &["kty", "kid", "alg", "n", "e"],
        "EC" => &["kty", "kid", "alg", "crv", "x", "y"],
        _ => &["kty", "kid", "alg", "crv", "x"],
    }
}

/// Why a document is no [`KeySet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum JwksError {
    /// Larger than [`MAX_KEY_SET`], more than [`MAX_KEYS`] keys, or more of them that can be used
    /// than there is room for.
    #[error("the key set is too large")]
    TooLarge,
    /// Not JSON, nested too deeply, or with a member that is there twice.
    #[error("the key set is not JSON")]
    Json,
    /// Not an object with an array `keys` (RFC 7517 section 5).
    #[error("the document is no key set")]
    NotASet,
    /// All keys, if any, were skipped.
    #[error("the key set has no usable key")]
    NoUsableKey,
}

/// The keys of a JSON Web Key Set (RFC 7517) that can verify, in the form that takes.
pub struct KeySet {
    /// Never empty; no two have the same id.
    pub(super) keys: Vec<VerifyingKey>,
}

/// Stands for a key, its id and all it is made of: another key under the same id has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u64);

impl Fingerprint {
    fn of(jwk: &str) -> Self {
        // Who could choose keys that collide signs what he likes: a hash without a secret will do.
        let mut hasher = SipHasher13::new();
        hasher.write(jwk.as_bytes());
        Self(hasher.finish())
    }

    /// It as bytes, for other processes.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }

    /// What [`to_bytes`](Self::to_bytes) made.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(u64::from_be_bytes(bytes))
    }
}

/// One key.
pub(super) struct VerifyingKey {
    kid: Option<Box<str>>,
    /// It as a JWK, of the members that count and no others.
    jwk: Box<str>,
    fingerprint: Fingerprint,
    verifiers: Vec<(Algorithm, ParsedPublicKey)>,
}

impl KeySet {
    /// Reads a key set, and says how many of its keys were skipped.
    ///
    /// A key is skipped, and the others count, if
    /// - it cannot verify: it is not RSA, on P-256, on P-384 or Ed25519, has another `use` than
    ///   `sig`, `key_ops` without `verify`, or an `alg` that is not in `allowed` or not of its type;
    /// - it is weak or broken: an RSA modulus that is even or has not from 2048 to 8192 bits, an
    ///   exponent that is even or not from 3 to 2^32, numbers in more bytes than they need
    ///   (RFC 7518 section 6.3.1), a point that is not on its curve, base64url that is not
    ///   canonical, a `kid` that is no identifier (see [`verify`](super::verify));
    /// - it is secret: symmetric, or with any part of a private key. It should not be there, and who
    ///   else has it is anyone's guess;
    /// - another key of the set has the same `kid`, whatever that one is for: which is meant is
    ///   anyone's guess. All of them are skipped.
    ///
    /// A key without `alg` verifies each allowed algorithm of its type, one with `alg` that only.
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

    /// How many keys there are: at least one.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The ids of those that have one.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(VerifyingKey::kid)
    }

    /// Whether this key is there.
    pub fn has(&self, key: Fingerprint) -> bool {
        self.keys.iter().any(|own| own.fingerprint == key)
    }

    /// The set as a document, from which [`parse`](Self::parse) makes it again: of usable keys,
    /// and of their members that count.
    pub fn to_json(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(|key| &*key.jwk).collect();
        format!("{{\"keys\":[{}]}}", keys.join(","))
    }

    /// Whether a key has this id.
    pub fn contains(&self, kid: &str) -> bool {
        self.kids().any(|own| own == kid)
    }

    /// The key that a token means with this `kid`, or without one.
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
    /// Tells the ids.
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

    /// Whether this is the key's signature of the message.
    ///
    /// # Errors
    ///
    /// [`TokenError::Algorithm`] if the key is not for this algorithm, [`TokenError::Signature`] if
    /// the signature is wrong.
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

/// What a key is made of.
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The curve's name, and an uncompressed point (SEC 1 section 2.3.3).
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
                // RFC 7518 section 6.2.1.2: as long as the curve's field elements.
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

    /// None if this is no key for the algorithm, or no key at all.
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

/// Whether these are the modulus and the exponent, as big-endian numbers, of a key in range.
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
