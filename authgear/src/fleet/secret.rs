//! Secrets of a fleet, and the keys that are derived from them.

use std::fmt;

use aws_lc_rs::aead::{LessSafeKey, UnboundKey, AES_256_GCM};
use aws_lc_rs::hkdf::{KeyType, Prk, Salt, HKDF_SHA512};
use thiserror::Error;

/// Maximum size of a file with secrets, in bytes.
pub const MAX_SECRET_FILE: usize = 16 * 1024;

/// Maximum number of secrets.
pub const MAX_SECRETS: usize = 4;

/// Minimum length of a secret, in bytes.
pub const MIN_SECRET: usize = 32;

/// Salt of all keys. Its number is the version of all sealed forms: another version finds no key
/// of this one.
const SALT: &[u8] = b"authgear fleet 1";

/// Error of [`Secrets::read`]. The message continues a sentence about the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SecretsError {
    /// The file is larger than [`MAX_SECRET_FILE`].
    #[error("it is larger than 16k")]
    TooLarge,
    /// The file has no line.
    #[error("it has no secret")]
    Empty,
    /// A line is shorter than [`MIN_SECRET`].
    #[error("line {line} has {length} bytes, it must have 32 at least")]
    TooShort {
        /// Number of the line, from 1.
        line: usize,
        /// Its length in bytes.
        length: usize,
    },
    /// The file has more than [`MAX_SECRETS`] lines.
    #[error("it has {0} secrets, it must have 4 at most")]
    TooMany(usize),
    /// Two lines are equal.
    #[error("it has the same secret twice, in line {first} and line {second}")]
    Twice {
        /// Number of the first of these lines.
        first: usize,
        /// Number of the second.
        second: usize,
    },
    /// The cryptographic library failed.
    #[error("no key can be derived from it")]
    NoKey,
}

/// Length of derived bytes.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Public name of a secret, by which a reader finds the secret that sealed an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SecretId(pub [u8; 4]);

impl fmt::Display for SecretId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// One secret.
#[derive(Clone)]
pub struct FleetSecret {
    id: SecretId,
    prk: Prk,
}

impl FleetSecret {
    fn new(line: &[u8]) -> Result<Self, SecretsError> {
        let prk = Salt::new(HKDF_SHA512, SALT).extract(line);
        let mut id = [0; 4];
        derive(&prk, &[b"id"], &mut id).ok_or(SecretsError::NoKey)?;
        Ok(Self { id: SecretId(id), prk })
    }

    /// Public name of the secret.
    pub const fn id(&self) -> SecretId {
        self.id
    }

    /// Derives bytes of the label that these parts make. `None` if the cryptographic library fails.
    pub(crate) fn derive(&self, label: &[&[u8]], out: &mut [u8]) -> Option<()> {
        derive(&self.prk, label, out)
    }

    /// Derives the key for AES-256-GCM of the label that these parts make.
    pub(crate) fn sealing_key(&self, label: &[&[u8]]) -> Option<LessSafeKey> {
        let mut bytes = [0; 32];
        derive(&self.prk, label, &mut bytes)?;
        UnboundKey::new(&AES_256_GCM, &bytes).ok().map(LessSafeKey::new)
    }
}

fn derive(prk: &Prk, label: &[&[u8]], out: &mut [u8]) -> Option<()> {
    prk.expand(label, Length(out.len())).ok()?.fill(out).ok()
}

impl fmt::Debug for FleetSecret {
    /// Shows no part of the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetSecret")
    }
}

/// Secrets of a fleet: the first one seals, all of them open.
#[derive(Clone)]
pub struct Secrets {
    first: FleetSecret,
    others: Vec<FleetSecret>,
}

impl Secrets {
    /// Reads the secrets from the content of a file: one a line, each the bytes of its line without
    /// the line ending.
    ///
    /// # Errors
    ///
    /// See [`SecretsError`].
    pub fn read(file: &[u8]) -> Result<Self, SecretsError> {
        if file.len() > MAX_SECRET_FILE {
            return Err(SecretsError::TooLarge);
        }
        let text = file.strip_suffix(b"\n").unwrap_or(file);
        if text.is_empty() {
            return Err(SecretsError::Empty);
        }
        let lines: Vec<&[u8]> = text
            .split(|&byte| byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .collect();
        let short = lines.iter().position(|line| line.len() < MIN_SECRET);
        if let Some((index, text)) = short.and_then(|index| Some((index, lines.get(index)?))) {
            return Err(SecretsError::TooShort { line: index + 1, length: text.len() });
        }
        if lines.len() > MAX_SECRETS {
            return Err(SecretsError::TooMany(lines.len()));
        }
        for (index, text) in lines.iter().enumerate() {
            if let Some(first) = lines.iter().take(index).position(|other| other == text) {
                return Err(SecretsError::Twice { first: first + 1, second: index + 1 });
            }
        }
        let mut secrets =
            lines.into_iter().map(FleetSecret::new).collect::<Result<Vec<_>, _>>()?.into_iter();
        let first = secrets.next().ok_or(SecretsError::Empty)?;
        Ok(Self { first, others: secrets.collect() })
    }

    /// The secret that seals.
    pub const fn first(&self) -> &FleetSecret {
        &self.first
    }

    /// All secrets, which open what they sealed.
    pub fn all(&self) -> impl Iterator<Item = &FleetSecret> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl fmt::Debug for Secrets {
    /// Shows no part of a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn ids(file: &str) -> Vec<SecretId> {
        Secrets::read(file.as_bytes()).unwrap().all().map(FleetSecret::id).collect()
    }

    #[test]
    fn each_line_is_a_secret_and_the_first_seals() {
        let (a, b) = (ids(A), ids(B));
        assert_ne!(a, b);
        assert_eq!(ids(&format!("{A}\n")), a);
        assert_eq!(ids(&format!("{A}\r\n")), a);
        assert_eq!(ids(&format!("{A}\n{B}")), [a[0], b[0]]);
        assert_eq!(ids(&format!("{B}\r\n{A}\r\n")), [b[0], a[0]]);
        let secrets = Secrets::read(format!("{B}\n{A}\n").as_bytes()).unwrap();
        assert_eq!(secrets.first().id(), b[0]);
        // A blank belongs to the secret.
        assert_ne!(ids(&format!("{A} ")), a);
    }

    #[test]
    fn a_file_that_is_invalid_is_named_with_its_line() {
        let many = (0..5).map(|n| format!("{A}{n}\n")).collect::<String>();
        for (file, message) in [
            (String::new(), "it has no secret"),
            ("\n".into(), "it has no secret"),
            ("0123456789ab".into(), "line 1 has 12 bytes, it must have 32 at least"),
            (format!("{A}\n0123456789ab\n"), "line 2 has 12 bytes, it must have 32 at least"),
            (format!("{A}\n\n{B}\n"), "line 2 has 0 bytes, it must have 32 at least"),
            (format!("{A}\n\n"), "line 2 has 0 bytes, it must have 32 at least"),
            ("a".repeat(31) + "\r\n", "line 1 has 31 bytes, it must have 32 at least"),
            (format!("{A}\n{B}\n{A}\n"), "it has the same secret twice, in line 1 and line 3"),
            (format!("{A}\n{A}\r\n"), "it has the same secret twice, in line 1 and line 2"),
            (many, "it has 5 secrets, it must have 4 at most"),
            ("a".repeat(MAX_SECRET_FILE + 1), "it is larger than 16k"),
        ] {
            let error = Secrets::read(file.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), message, "{file:?}");
        }
    }

    #[test]
    fn four_secrets_of_32_bytes_are_accepted() {
        let file = (0..4).map(|n| format!("{}{n}\n", "a".repeat(31))).collect::<String>();
        assert_eq!(ids(&file).len(), 4);
    }

    #[test]
    fn debug_shows_no_secret() {
        let secrets = Secrets::read(A.as_bytes()).unwrap();
        assert_eq!(format!("{secrets:?} {:?}", secrets.first()), "Secrets FleetSecret");
    }

    /// HKDF-SHA-512 computed with the HMAC of Python's `hmac`.
    #[test]
    fn keys_are_hkdf_sha_512_of_the_line() {
        let secrets = Secrets::read(A.as_bytes()).unwrap();
        let mut key = [0; 32];
        derive(&secrets.first().prk, &[b"event", &[7; 16]], &mut key).unwrap();
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!((hex.as_str(), secrets.first().id().to_string().as_str()), EXPECTED);
    }

    const EXPECTED: (&str, &str) =
        ("6ff28101ec8a7bebc0b14e0c8c11249e3c70ae221e8f7702bf8240fc8469798e", "eea3b16d");
}
