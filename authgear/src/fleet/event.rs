//! Events of a fleet, and their sealed form in the stream.
//!
//! An event is sealed by AES-256-GCM under a key of its publisher, with its number as the nonce. So
//! a number seals one plain text only: [`ring`](super::ring) does not change an event that was
//! sealed. All integers are big-endian.

use std::fmt;

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce, NONCE_LEN};
use aws_lc_rs::digest::{digest, SHA256};
use thiserror::Error;

use super::secret::{FleetSecret, SecretId, Secrets};

/// Longest user id, in bytes. It is that of webhooks and purge forms.
pub const MAX_USER_ID: usize = crate::operations::webhook::MAX_USER_ID;

/// Version of the sealed form.
const VERSION: u8 = 1;

/// Length of what stands before the sealed text: version, secret, publisher, number.
const HEADER: usize = 1 + 4 + 16 + 8;

/// Length of an authentication tag.
const TAG: usize = 16;

/// Longest plain text: kind, time, project, user, and three times.
pub const MAX_PLAIN: usize = 1 + 8 + 33 + 2 + MAX_USER_ID + 24;

/// Longest sealed event that is opened. Later versions may have longer ones.
pub const MAX_SEALED: usize = 4096;

/// SHA-256 of a project's endpoint.
pub type ProjectId = [u8; 32];

/// Returns the id of the project with this endpoint.
pub fn project_id(endpoint: &str) -> ProjectId {
    let mut id = [0; 32];
    id.copy_from_slice(digest(&SHA256, endpoint.as_bytes()).as_ref());
    id
}

/// Name of a host's zone: random, made with the zone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Publisher([u8; 16]);

impl Publisher {
    /// Makes a publisher of these bytes, which must come from a secure random number generator.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Publisher({:032x})", u128::from_be_bytes(self.0))
    }
}

/// Id of a user, from 1 to [`MAX_USER_ID`] bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UserId(Box<[u8]>);

impl UserId {
    /// Returns none for an id that is empty or too long.
    pub fn new(id: &[u8]) -> Option<Self> {
        (1..=MAX_USER_ID).contains(&id.len()).then(|| Self(id.into()))
    }

    /// Returns the bytes of the id.
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for UserId {
    /// Writes the type's name only: logs name no user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UserId")
    }
}

/// Subject of an event, and what happened to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Purge this user.
    User(UserId),
    /// Purge this user and refuse tokens that were issued up to a time.
    End {
        /// The user.
        user: UserId,
        /// Last time of issue of the tokens, in seconds since 1970.
        issued: u64,
        /// End of the refusal, in seconds since 1970.
        until: u64,
    },
    /// Purge this user, who is disabled by the clock.
    Period {
        /// The user.
        user: UserId,
        /// Order of Authgear's event: a greater one is later.
        order: u64,
        /// First second, and first second after it (`u64::MAX` if it does not end). `None` lifts an
        /// earlier period.
        period: Option<(u64, u64)>,
    },
    /// Purge all users.
    Everything,
    /// Say all ends and periods again: this host may have missed some.
    Again,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Time at its publisher, in milliseconds since 1970.
    pub at: u64,
    /// Project that it concerns; `None` for all projects.
    pub project: Option<ProjectId>,
    /// Subject.
    pub what: What,
}

impl Event {
    /// Purge of a user, or of all users of the project if the id is not one of a [`UserId`].
    pub fn user(at: u64, project: Option<ProjectId>, id: &[u8]) -> Self {
        let what = UserId::new(id).map_or(What::Everything, What::User);
        Self { at, project, what }
    }

    /// Purge of all users.
    pub const fn everything(at: u64, project: Option<ProjectId>) -> Self {
        Self { at, project, what: What::Everything }
    }

    /// The wish to hear all ends and periods again.
    pub const fn again(at: u64) -> Self {
        Self { at, project: None, what: What::Again }
    }

    /// Returns true for a purge: *everything* may stand for it.
    pub const fn is_purge(&self) -> bool {
        matches!(self.what, What::User(_) | What::Everything)
    }

    fn encode(&self) -> Vec<u8> {
        let (kind, user) = match &self.what {
            What::User(user) => (1, Some(user)),
            What::End { user, .. } => (2, Some(user)),
            What::Everything => (3, None),
            What::Period { user, .. } => (4, Some(user)),
            What::Again => (5, None),
        };
        let mut out = Vec::with_capacity(MAX_PLAIN + TAG);
        out.push(kind);
        out.extend_from_slice(&self.at.to_be_bytes());
        match &self.project {
            None => out.push(0),
            Some(project) => {
                out.push(1);
                out.extend_from_slice(project);
            }
        }
        if let Some(UserId(id)) = user {
            // A user id has at most 256 bytes.
            out.extend_from_slice(&(id.len() as u16).to_be_bytes());
            out.extend_from_slice(id);
        }
        match self.what {
            What::User(_) | What::Everything | What::Again => {}
            What::End { issued, until, .. } => {
                out.extend_from_slice(&issued.to_be_bytes());
                out.extend_from_slice(&until.to_be_bytes());
            }
            What::Period { order, period, .. } => {
                out.extend_from_slice(&order.to_be_bytes());
                let (from, until) = period.unwrap_or_default();
                out.extend_from_slice(&from.to_be_bytes());
                out.extend_from_slice(&until.to_be_bytes());
            }
        }
        out
    }

    /// Reads an authentic plain text. What a later version may have meant is *everything*, of all
    /// projects, at a time that never is too old.
    fn decode(plain: &[u8]) -> Self {
        Self::decode_known(plain).unwrap_or(Self::everything(u64::MAX, None))
    }

    fn decode_known(plain: &[u8]) -> Option<Self> {
        let mut rest = plain;
        let [kind] = *take(&mut rest)?;
        let at = u64::from_be_bytes(*take(&mut rest)?);
        let project = match take(&mut rest)? {
            [0] => None,
            [1] => Some(*take(&mut rest)?),
            _ => return None,
        };
        let what = match kind {
            1 => What::User(take_user(&mut rest)?),
            2 => {
                let user = take_user(&mut rest)?;
                let issued = u64::from_be_bytes(*take(&mut rest)?);
                What::End { user, issued, until: u64::from_be_bytes(*take(&mut rest)?) }
            }
            3 => What::Everything,
            4 => {
                let user = take_user(&mut rest)?;
                let order = u64::from_be_bytes(*take(&mut rest)?);
                let from = u64::from_be_bytes(*take(&mut rest)?);
                let until = u64::from_be_bytes(*take(&mut rest)?);
                What::Period { user, order, period: (until > 0).then_some((from, until)) }
            }
            5 => What::Again,
            _ => return None,
        };
        rest.is_empty().then_some(Self { at, project, what })
    }
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(first)
}

fn take_user(rest: &mut &[u8]) -> Option<UserId> {
    let length = u16::from_be_bytes(*take(rest)?);
    let (id, after) = rest.split_at_checked(length.into())?;
    *rest = after;
    UserId::new(id)
}

/// The bytes before the sealed text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name of the secret that sealed the event.
    pub secret: SecretId,
    /// Publisher.
    pub publisher: Publisher,
    /// Number of the event.
    pub number: u64,
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut out = [VERSION; HEADER];
        let parts = [&self.secret.0[..], self.publisher.as_bytes(), &self.number.to_be_bytes()];
        let bytes = parts.into_iter().flatten();
        out.iter_mut().skip(1).zip(bytes).for_each(|(out, byte)| *out = *byte);
        out
    }

    /// Reads the header of a value, and returns the sealed text too. Nothing of it is authentic.
    pub fn split(value: &[u8]) -> Option<(Self, &[u8])> {
        if value.len() > MAX_SEALED {
            return None;
        }
        let mut rest = value;
        let [VERSION] = *take(&mut rest)? else { return None };
        let secret = SecretId(*take(&mut rest)?);
        let publisher = Publisher(*take(&mut rest)?);
        let number = u64::from_be_bytes(*take(&mut rest)?);
        Some((Self { secret, publisher, number }, rest))
    }

    fn nonce(&self) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce.iter_mut().skip(4).zip(self.number.to_be_bytes()).for_each(|(out, n)| *out = n);
        Nonce::assume_unique_for_key(nonce)
    }

    /// Additional data: the prefix of the fleet's keys in its braces, and the header.
    fn aad(&self, prefix: &str) -> Aad<Vec<u8>> {
        Aad::from([b"{", prefix.as_bytes(), b"}", &self.encode()].concat())
    }
}

/// Key of the events of one publisher under one secret.
pub struct EventKey(LessSafeKey);

impl EventKey {
    /// Derives the key.
    pub fn new(secret: &FleetSecret, publisher: &Publisher) -> Option<Self> {
        secret.sealing_key(&[b"event", publisher.as_bytes()]).map(Self)
    }

    /// Opens the sealed text behind `header`. `None` if it is not authentic.
    pub fn open(&self, prefix: &str, header: &Header, sealed: &[u8]) -> Option<Event> {
        let mut text = sealed.to_vec();
        let plain = self.0.open_in_place(header.nonce(), header.aad(prefix), &mut text).ok()?;
        Some(Event::decode(plain))
    }

    fn seal(&self, prefix: &str, header: &Header, event: &Event) -> Option<Vec<u8>> {
        let mut text = event.encode();
        self.0.seal_in_place_append_tag(header.nonce(), header.aad(prefix), &mut text).ok()?;
        Some([&header.encode()[..], &text].concat())
    }
}

impl fmt::Debug for EventKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventKey")
    }
}

/// Error of [`Sealer`]: the cryptographic library failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("an event cannot be sealed")]
pub struct CannotSeal;

/// Seals the events of one publisher under the first secret.
#[derive(Debug)]
pub struct Sealer {
    key: EventKey,
    secret: SecretId,
    publisher: Publisher,
    prefix: Box<str>,
}

impl Sealer {
    /// `prefix` is that of the fleet's keys, without braces.
    ///
    /// # Errors
    ///
    /// See [`CannotSeal`].
    pub fn new(secrets: &Secrets, prefix: &str, publisher: Publisher) -> Result<Self, CannotSeal> {
        let secret = secrets.first();
        let key = EventKey::new(secret, &publisher).ok_or(CannotSeal)?;
        Ok(Self { key, secret: secret.id(), publisher, prefix: prefix.into() })
    }

    /// Seals an event under its number. One number is for one event only.
    ///
    /// # Errors
    ///
    /// See [`CannotSeal`].
    pub fn seal(&self, number: u64, event: &Event) -> Result<Vec<u8>, CannotSeal> {
        let header = Header { secret: self.secret, publisher: self.publisher, number };
        self.key.seal(&self.prefix, &header, event).ok_or(CannotSeal)
    }
}

#[cfg(test)]
mod tests;
