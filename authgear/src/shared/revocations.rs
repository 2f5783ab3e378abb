//! Users whose older tokens are refused, in memory that all workers share.
//!
//! A token that is verified locally does not tell whether its user was disabled after it was
//! issued. Authgear's events tell, and are remembered for as long as such tokens live.
//!
//! The number of users is bounded. Beyond it, the refusal that would end first is dropped.
//!
//! Entries are written by one process at a time, under a lock that the caller holds, and read by
//! all processes without one. A process may be killed at any instruction: readers see an entry as
//! a whole or not at all.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::shared::cache_key::KeySecret;
use crate::shared::subject::PurgeTarget;

/// Most users in the table.
pub const MAX_USERS: usize = 4096;

struct RevocationEntry {
    /// Fingerprint, or 0 where there is none.
    whose: AtomicU64,
    /// Tokens issued up to this time are refused. Seconds since 1970, as below.
    issued: AtomicU64,
    /// End of the refusal.
    until: AtomicU64,
}

impl RevocationEntry {
    fn get(&self) -> Option<(u64, u64, u64)> {
        let whose = self.whose.load(Ordering::SeqCst);
        let times = (self.issued.load(Ordering::SeqCst), self.until.load(Ordering::SeqCst));
        // Another process may be replacing the entry.
        let is_whole = whose != 0 && self.whose.load(Ordering::SeqCst) == whose;
        is_whole.then_some((whose, times.0, times.1))
    }
}

/// Table of the users.
pub struct Revocations {
    secret: KeySecret,
    /// Index of the first entry that was never used.
    end: AtomicU64,
    entries: [RevocationEntry; MAX_USERS],
}

/// Result of [`Revocations::revoke`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Revoked {
    /// The refusal is remembered.
    Kept,
    /// The refusal is remembered, and another one was dropped before its end.
    KeptForAnother,
    /// The refusal had ended already.
    TooOld,
}

impl Revocations {
    /// Returns an empty table. Fingerprints are made with the secret.
    pub const fn new(secret: KeySecret) -> Self {
        Self {
            secret,
            end: AtomicU64::new(0),
            entries: [const {
                RevocationEntry {
                    whose: AtomicU64::new(0),
                    issued: AtomicU64::new(0),
                    until: AtomicU64::new(0),
                }
            }; MAX_USERS],
        }
    }

    fn used(&self) -> &[RevocationEntry] {
        let end = usize::try_from(self.end.load(Ordering::SeqCst)).unwrap_or(MAX_USERS);
        self.entries.get(..end).unwrap_or(&self.entries)
    }

    /// Refuses, from `now` until `until`, tokens of this user that were issued up to `issued`. The
    /// caller holds the lock. A repetition for the same or older tokens changes nothing.
    pub fn revoke(&self, user: &PurgeTarget<'_>, issued: u64, until: u64, now: u64) -> Revoked {
        if until <= now {
            return Revoked::TooOld;
        }
        let whose = user.fingerprint(&self.secret);
        let used = self.used();
        if let Some(entry) = used.iter().find(|e| e.whose.load(Ordering::SeqCst) == whose) {
            entry.issued.fetch_max(issued, Ordering::SeqCst);
            entry.until.fetch_max(until, Ordering::SeqCst);
            return Revoked::Kept;
        }
        let over = |entry: &&RevocationEntry| entry.get().is_none_or(|(_, _, until)| until <= now);
        let fresh = || {
            let entry = self.entries.get(used.len())?;
            self.end.fetch_add(1, Ordering::SeqCst);
            Some(entry)
        };
        let first_to_end = || used.iter().min_by_key(|entry| entry.until.load(Ordering::SeqCst));
        let (entry, revoked) = match used.iter().find(over).or_else(fresh) {
            Some(entry) => (entry, Revoked::Kept),
            None => match first_to_end() {
                Some(entry) => (entry, Revoked::KeptForAnother),
                None => return Revoked::TooOld,
            },
        };
        entry.whose.store(0, Ordering::SeqCst);
        entry.issued.store(issued, Ordering::SeqCst);
        entry.until.store(until, Ordering::SeqCst);
        entry.whose.store(whose, Ordering::SeqCst);
        revoked
    }

    /// Whether a token that this user of the project was issued at `issued` is refused `now`.
    pub fn is_refused(&self, project: &[u8], user: &[u8], issued: u64, now: u64) -> bool {
        let used = self.used();
        if used.is_empty() {
            return false;
        }
        let fingerprints = [PurgeTarget::User(user), PurgeTarget::UserOf(project, user)]
            .map(|subject| subject.fingerprint(&self.secret));
        let own = |whose: u64| fingerprints.contains(&whose);
        let found = used.iter().filter(|entry| own(entry.whose.load(Ordering::SeqCst)));
        found
            .filter_map(RevocationEntry::get)
            .any(|(whose, up_to, until)| own(whose) && issued <= up_to && now < until)
    }

    /// Whether this very subject has a refusal `now`.
    pub fn has(&self, subject: &PurgeTarget<'_>, now: u64) -> bool {
        let used = self.used();
        if used.is_empty() {
            return false;
        }
        let wanted = subject.fingerprint(&self.secret);
        let mut found = used.iter().filter_map(RevocationEntry::get);
        found.any(|(whose, _, until)| whose == wanted && now < until)
    }

    /// Number of users with a refusal `now`.
    pub fn count(&self, now: u64) -> usize {
        self.used()
            .iter()
            .filter_map(RevocationEntry::get)
            .filter(|(.., until)| now < *until)
            .count()
    }
}

impl fmt::Debug for Revocations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Revocations").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revocations() -> Box<Revocations> {
        Box::new(Revocations::new(KeySecret::from_bytes([5; 16])))
    }

    #[test]
    fn older_tokens_are_refused_for_a_while() {
        let table = revocations();
        assert!(!table.is_refused(b"p", b"alice", 0, 0));
        assert_eq!(table.revoke(&PurgeTarget::User(b"alice"), 1000, 2800, 1005), Revoked::Kept);
        for (user, issued, now, expected) in [
            (&b"alice"[..], 0, 1005, true),
            (b"alice", 1000, 1005, true),
            (b"alice", 1001, 1005, false),
            (b"alice", 1000, 2799, true),
            (b"alice", 1000, 2800, false),
            (b"bob", 1000, 1005, false),
            (b"", 1000, 1005, false),
        ] {
            assert_eq!(table.is_refused(b"p", user, issued, now), expected, "{issued} at {now}");
        }
        assert_eq!((table.count(1005), table.count(2800)), (1, 0));
    }

    #[test]
    fn a_refusal_in_one_project_does_not_reach_another() {
        let table = revocations();
        let _ = table.revoke(&PurgeTarget::UserOf(b"p", b"alice"), 10, 100, 10);
        assert!(table.is_refused(b"p", b"alice", 10, 10));
        assert!(!table.is_refused(b"q", b"alice", 10, 10));
    }

    #[test]
    fn a_repeated_refusal_changes_nothing() {
        let table = revocations();
        let say =
            |issued, now| table.revoke(&PurgeTarget::User(b"alice"), issued, issued + 100, now);
        assert_eq!(say(1000, 1000), Revoked::Kept);
        assert_eq!(say(1000, 1090), Revoked::Kept);
        assert_eq!(say(950, 1090), Revoked::TooOld);
        assert!(table.is_refused(b"p", b"alice", 1000, 1099));
        assert!(!table.is_refused(b"p", b"alice", 1000, 1100));
        assert_eq!(say(1000, 1100), Revoked::TooOld);
        assert_eq!(table.count(1090), 1);
    }

    #[test]
    fn a_full_table_drops_the_refusal_that_ends_first() {
        let table = revocations();
        let user = |n: usize| n.to_be_bytes();
        for n in 0..MAX_USERS {
            let revoked = table.revoke(&PurgeTarget::User(&user(n)), 10, 1000 + n as u64, 10);
            assert_eq!(revoked, Revoked::Kept, "{n}");
        }
        let one_more = PurgeTarget::User(b"one more");
        assert_eq!(table.revoke(&one_more, 10, 9000, 10), Revoked::KeptForAnother);
        assert!(table.is_refused(b"p", b"one more", 10, 10));
        assert!(!table.is_refused(b"p", &user(0), 10, 10));
        assert!((1..MAX_USERS).all(|n| table.is_refused(b"p", &user(n), 10, 10)));
        // Refusals that ended make room.
        let another = PurgeTarget::User(b"another");
        assert_eq!(table.revoke(&another, 2000, 9000, 1002), Revoked::Kept);
        assert_eq!(table.count(1002), MAX_USERS - 1);
    }

    proptest! {
        #[test]
        fn every_refusal_is_remembered(
            said in prop::collection::vec((0..6_u8, 0..100_u64, 1..50_u64), 0..40),
            now in 0..150_u64,
        ) {
            let table = revocations();
            let mut expected = std::collections::HashMap::new();
            for (user, issued, ttl) in said {
                let until = issued + ttl;
                // The time of all calls is 0.
                let _ = table.revoke(&PurgeTarget::User(&[user]), issued, until, 0);
                let (i, u) = expected.entry(user).or_insert((issued, until));
                (*i, *u) = ((*i).max(issued), (*u).max(until));
            }
            for user in 0..6_u8 {
                for issued in [0, 20, 50, 99] {
                    let refused = expected.get(&user).is_some_and(|(i, u)| issued <= *i && now < *u);
                    prop_assert_eq!(table.is_refused(b"p", &[user], issued, now), refused);
                }
            }
        }
    }
}
