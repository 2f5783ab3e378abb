//! Records of verdicts, and their sealed form in Redis.
//!
//! The name of a record and the key that seals it are both made of the fleet's secret and of the
//! credentials: whoever reads Redis and has the secret, but not the credentials, opens nothing.
//!
//! A sealed record is the version, a random nonce of 12 bytes, and the text of AES-256-GCM with its
//! tag. The plain text is padded to a multiple of 64 bytes. All integers are big-endian:
//!
//! | bytes | |
//! |---|---|
//! | 1 | kind: 1 a verdict, 2 a lease |
//! | 8 | incarnation |
//! | 8 | position |
//! | 8 | time of the question, in milliseconds since 1970 |
//! | 8 | time of expiry of the credentials in the same unit; 2⁶⁴ - 1 for none |
//! | 2 + n | the verdict's binary form with its length; 16 random bytes of a lease |

use std::fmt;

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_256_GCM, NONCE_LEN};
use aws_lc_rs::digest::{digest, SHA256};
use aws_lc_rs::hmac::{Context, Key as HmacKey, HMAC_SHA512};
use aws_lc_rs::rand;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;

use super::request::Prefix;
use super::secret::Secrets;
use super::stream_id::{Incarnation, Position};
use crate::credentials::Credentials;
use crate::verdict::Verdict;

/// Version of the sealed form.
const VERSION: u8 = 1;

/// Length of an authentication tag.
const TAG: usize = 16;

/// Length to a multiple of which a plain text is padded.
const BLOCK: usize = 64;

/// Longest sealed record that is made or opened. A verdict that needs more is not shared.
pub const MAX_RECORD: usize = 48 * 1024;

const VERDICT: u8 = 1;
const LEASE: u8 = 2;

/// Stands for no time of expiry.
const NEVER: u64 = u64::MAX;

/// Random bytes that tell leases apart.
pub type LeaseId = [u8; 16];

/// Facts, besides the credentials, that a verdict depends on: SHA-256 of the project's endpoint and
/// of its `cookie_prefix`.
///
/// The resolver's URL is none of them: it may differ between the hosts of a fleet, which must ask
/// the same Authgear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordScope([u8; 32]);

impl RecordScope {
    /// Makes the scope of a project.
    pub fn new(endpoint: &str, cookie_prefix: &str) -> Self {
        let mut bytes = Vec::new();
        for part in [endpoint, cookie_prefix] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part.as_bytes());
        }
        let mut scope = [0; 32];
        scope.copy_from_slice(digest(&SHA256, &bytes).as_ref());
        Self(scope)
    }
}

/// A verdict of the resolver, or a claim to ask for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// A verdict: [`Verdict::Valid`] or [`Verdict::Invalid`].
    Verdict(Verdict),
    /// Some host is asking.
    Lease(LeaseId),
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The verdict, or a lease.
    pub content: Content,
    /// Server that had the stream before the question.
    pub incarnation: Incarnation,
    /// Position in the stream up to which the host that asked had read before the question.
    pub position: Position,
    /// Time of the question by the clock of that host, in milliseconds since 1970.
    pub asked_at: u64,
    /// Time at which the first of the tokens expires, in the same unit.
    pub expires_at: Option<u64>,
}

impl Record {
    /// Returns true for a verdict that hosts share. `none` may be a passing fault of Authgear's.
    pub const fn is_shared(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Valid(_) | Verdict::Invalid)
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let kind = match &self.content {
            Content::Verdict(verdict) => {
                (Self::is_shared(verdict) && verdict.encode(&mut content)).then_some(VERDICT)?
            }
            Content::Lease(id) => {
                content.extend_from_slice(id);
                LEASE
            }
        };
        let mut out = vec![kind];
        let expires_at = self.expires_at.unwrap_or(NEVER);
        for word in [self.incarnation.0, self.position.0, self.asked_at, expires_at] {
            out.extend_from_slice(&word.to_be_bytes());
        }
        out.extend_from_slice(&u16::try_from(content.len()).ok()?.to_be_bytes());
        out.extend_from_slice(&content);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        (out.len() + 1 + NONCE_LEN + TAG <= MAX_RECORD).then_some(out)
    }

    fn decode(plain: &[u8]) -> Option<Self> {
        let mut rest = plain;
        let [kind] = take(&mut rest)?;
        let mut word = || take(&mut rest).map(u64::from_be_bytes);
        let (incarnation, position) = (Incarnation(word()?), Position(word()?));
        let (asked_at, expires_at) = (word()?, word()?);
        let length = u16::from_be_bytes(take(&mut rest)?);
        let (content, padding) = rest.split_at_checked(length.into())?;
        let content = match kind {
            VERDICT => Content::Verdict(Verdict::decode(content).filter(Self::is_shared)?),
            LEASE => Content::Lease(content.try_into().ok()?),
            _ => return None,
        };
        let is_whole = plain.len() % BLOCK == 0 && padding.iter().all(|&byte| byte == 0);
        let expires_at = (expires_at != NEVER).then_some(expires_at);
        is_whole.then_some(Self { content, incarnation, position, asked_at, expires_at })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*first)
}

/// Makes the keys of records.
pub struct RecordKeys {
    key: HmacKey,
    prefix: String,
}

impl RecordKeys {
    /// Derives the key of names from the first secret. `None` if the cryptographic library fails.
    pub fn new(secrets: &Secrets, prefix: &Prefix) -> Option<Self> {
        let mut key = [0; 64];
        secrets.first().derive(&[b"record"], &mut key)?;
        Some(Self { key: HmacKey::new(HMAC_SHA512, &key), prefix: prefix.in_braces() })
    }

    /// Makes the key of the record of these credentials: HMAC-SHA-512 of the scope and of what would
    /// be sent to Authgear. The first 16 bytes are the name, the next 32 seal.
    pub fn of(&self, scope: &RecordScope, credentials: &Credentials<'_>) -> Option<RecordKey> {
        let mut hmac = Context::with_key(&self.key);
        hmac.update(&scope.0);
        credentials.feed_canonical(&mut |bytes: &[u8]| hmac.update(bytes));
        let tag = hmac.sign();
        let (name, rest) = tag.as_ref().split_first_chunk::<16>()?;
        let key = UnboundKey::new(&AES_256_GCM, rest.get(..32)?).ok()?;
        let aad = [self.prefix.as_bytes(), name].concat();
        let name = format!("{}:{}", self.prefix, URL_SAFE_NO_PAD.encode(name));
        Some(RecordKey { name, aad, key: LessSafeKey::new(key) })
    }
}

impl fmt::Debug for RecordKeys {
    /// Shows no part of the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordKeys")
    }
}

/// Name of the record of some credentials, and the key that seals it.
pub struct RecordKey {
    name: String,
    aad: Vec<u8>,
    key: LessSafeKey,
}

impl RecordKey {
    /// Name of the key in Redis.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Seals a record under a random nonce. `None` if it is too large, of a verdict that is not
    /// shared, or if there are no random numbers.
    pub fn seal(&self, record: &Record) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        self.seal_under(nonce, record)
    }

    fn seal_under(&self, nonce: [u8; NONCE_LEN], record: &Record) -> Option<Vec<u8>> {
        let mut text = record.encode()?;
        let aad = Aad::from(&self.aad);
        let unique = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(unique, aad, &mut text).ok()?;
        Some([&[VERSION][..], &nonce, &text].concat())
    }

    /// Opens what Redis has. `None` if it is not authentic.
    pub fn open(&self, sealed: &[u8]) -> Option<Record> {
        if sealed.len() > MAX_RECORD {
            return None;
        }
        let mut rest = sealed;
        let [VERSION] = take(&mut rest)? else { return None };
        let nonce = Nonce::assume_unique_for_key(take(&mut rest)?);
        let mut text = rest.to_vec();
        let plain = self.key.open_in_place(nonce, Aad::from(&self.aad), &mut text).ok()?;
        Record::decode(plain)
    }
}

impl fmt::Debug for RecordKey {
    /// Shows no part of the key, and no name: it tells who was here.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordKey")
    }
}

#[cfg(test)]
mod tests;
