//! Target of a purge or revocation, and its fingerprint for shared memory.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;

use crate::shared::cache_key::{Key, KeySecret};

/// Target of a purge or revocation. A project is identified by its [scope](Key::of).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurgeTarget<'a> {
    /// All users of a project.
    Project(&'a [u8]),
    /// A user of one project, by id.
    UserOf(&'a [u8], &'a [u8]),
    /// A user of any project, by id.
    User(&'a [u8]),
    /// All requests with the credentials of this key.
    Holder(&'a Key),
}

impl<'a> PurgeTarget<'a> {
    /// The user `id` of the project with `scope`, or of any project.
    pub fn user(scope: Option<&'a [u8]>, id: &'a [u8]) -> Self {
        scope.map_or(Self::User(id), |scope| Self::UserOf(scope, id))
    }
}

impl PurgeTarget<'_> {
    /// Returns a keyed hash, never 0. Keyed, so that shared memory does not reveal the user.
    pub(crate) fn fingerprint(&self, secret: &KeySecret) -> u64 {
        let (kind, parts): (u8, [&[u8]; 2]) = match self {
            Self::Project(scope) => (0, [scope, &[]]),
            Self::UserOf(scope, user) => (1, [scope, user]),
            Self::User(user) => (2, [&[], user]),
            Self::Holder(key) => (3, [key.as_bytes(), &[]]),
        };
        let mut hasher = SipHasher24::new_with_key(secret.as_bytes());
        hasher.write_u8(kind);
        for part in parts {
            hasher.write(&(part.len() as u64).to_be_bytes());
            hasher.write(part);
        }
        hasher.finish().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn fingerprints_differ_between_targets_and_secrets() {
        let secret = KeySecret::from_bytes([3; 16]);
        let key = Key::from_bytes(*b"0123456789abcdef");
        let subjects = [
            PurgeTarget::Project(b"ab"),
            PurgeTarget::Project(b"a"),
            PurgeTarget::UserOf(b"a", b"b"),
            PurgeTarget::UserOf(b"", b"ab"),
            PurgeTarget::UserOf(b"ab", b""),
            PurgeTarget::User(b"ab"),
            PurgeTarget::User(b""),
            PurgeTarget::Holder(&key),
            PurgeTarget::Project(key.as_bytes()),
        ];
        let all: HashSet<u64> = subjects.iter().map(|s| s.fingerprint(&secret)).collect();
        assert_eq!(all.len(), subjects.len());
        let other = KeySecret::from_bytes([4; 16]);
        assert_ne!(subjects[0].fingerprint(&secret), subjects[0].fingerprint(&other));
    }
}
