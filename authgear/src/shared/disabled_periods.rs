//! Periods during which accounts are disabled by the clock, in memory that all workers share.
//!
//! Authgear announces such a period once, when an admin plans it, and keeps the user's sessions. It
//! says nothing when the period begins or ends. So a token, or a cached verdict, from before its
//! beginning does not count until its end, and counts again afterwards.
//!
//! One process writes at a time, under a lock of the caller. All processes read without a lock. A
//! writer may be killed at any instruction: an entry then counts as absent until it is written again.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::shared::cache_key::KeySecret;
use crate::shared::subject::PurgeTarget;

/// Maximum number of users with a period.
pub const MAX_PERIODS: usize = 1024;

/// Time in seconds to remember that a period was lifted. An event about the period that is delivered
/// late must not bring it back. Authgear's attempt to deliver ends after 60 seconds.
const REMEMBER_LIFTED: u64 = 120;

/// PeriodRecord of an entry. Times are in seconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct PeriodRecord {
    /// Fingerprint of the user, or 0 for an unused entry.
    user: u64,
    /// Order of the event.
    order: u64,
    /// The period; empty if it was lifted.
    from: u64,
    until: u64,
    /// Time from which the entry may be replaced.
    expires: u64,
}

struct PeriodEntry {
    /// Odd while the entry is written; changes with each write.
    version: AtomicU64,
    content: [AtomicU64; 5],
}

impl PeriodEntry {
    const fn unused() -> Self {
        Self { version: AtomicU64::new(0), content: [const { AtomicU64::new(0) }; 5] }
    }

    /// Returns the content, unless it is being written.
    fn get(&self) -> Option<PeriodRecord> {
        let version = self.version.load(Ordering::SeqCst);
        let [user, order, from, until, expires] =
            self.content.each_ref().map(|part| part.load(Ordering::SeqCst));
        let is_whole = version % 2 == 0 && self.version.load(Ordering::SeqCst) == version;
        is_whole.then_some(PeriodRecord { user, order, from, until, expires })
    }

    fn set(&self, content: PeriodRecord) {
        let PeriodRecord { user, order, from, until, expires } = content;
        let version = self.version.load(Ordering::SeqCst) | 1;
        self.version.store(version, Ordering::SeqCst);
        for (part, value) in self.content.iter().zip([user, order, from, until, expires]) {
            part.store(value, Ordering::SeqCst);
        }
        self.version.store(version.wrapping_add(1), Ordering::SeqCst);
    }
}

/// The periods of all users.
pub struct DisabledPeriods {
    secret: KeySecret,
    /// Number of entries that were ever used: the first ones.
    used: AtomicU64,
    /// Time at which the last period ends; 0 while none is held. Read on each request.
    last_end: AtomicU64,
    entries: [PeriodEntry; MAX_PERIODS],
}

/// Result of [`DisabledPeriods::set`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum PeriodSet {
    /// It is remembered.
    Kept,
    /// It is remembered in place of another user's, which would have ended first.
    KeptForAnother,
    /// Nothing changes: the period is over, or a later event of the user is known.
    Outdated,
}

impl DisabledPeriods {
    /// Creates an empty table. The secret keys the fingerprints.
    pub const fn new(secret: KeySecret) -> Self {
        Self {
            secret,
            used: AtomicU64::new(0),
            last_end: AtomicU64::new(0),
            entries: [const { PeriodEntry::unused() }; MAX_PERIODS],
        }
    }

    fn used(&self) -> &[PeriodEntry] {
        let used = usize::try_from(self.used.load(Ordering::SeqCst)).unwrap_or(MAX_PERIODS);
        self.entries.get(..used).unwrap_or(&self.entries)
    }

    /// Remembers the period of a user in place of an earlier one; `None` lifts it. `order` is that of
    /// the event. Call it under the lock.
    ///
    /// An event whose order is not greater than that of the last one changes nothing, so that events
    /// may arrive in any order and more than once.
    pub fn set(
        &self,
        user: &PurgeTarget<'_>,
        order: u64,
        period: Option<(u64, u64)>,
        now: u64,
    ) -> PeriodSet {
        let result = self.set_entry(user, order, period, now);
        let ends = self.used().iter().filter_map(PeriodEntry::get).map(|own| own.until);
        self.last_end.store(ends.max().unwrap_or(0), Ordering::SeqCst);
        result
    }

    fn set_entry(
        &self,
        user: &PurgeTarget<'_>,
        order: u64,
        period: Option<(u64, u64)>,
        now: u64,
    ) -> PeriodSet {
        let user = user.fingerprint(&self.secret);
        let period = period.filter(|(from, until)| from < until && now < *until);
        let (from, until) = period.unwrap_or_default();
        let expires = if period.is_some() { until } else { now.saturating_add(REMEMBER_LIFTED) };
        let new = PeriodRecord { user, order, from, until, expires };

        let used = self.used();
        let known = |entry: &&PeriodEntry| entry.get().is_some_and(|own| own.user == user);
        if let Some(entry) = used.iter().find(known) {
            let old = entry.get().unwrap_or_default();
            if order <= old.order {
                return PeriodSet::Outdated;
            }
            // As long as an event about the replaced period could bring it back.
            entry.set(PeriodRecord { expires: expires.max(old.expires), ..new });
            return PeriodSet::Kept;
        }
        let is_free = |entry: &&PeriodEntry| entry.get().is_none_or(|own| own.expires <= now);
        if let Some(entry) = used.iter().find(is_free) {
            entry.set(new);
            return PeriodSet::Kept;
        }
        if let Some(entry) = self.entries.get(used.len()) {
            entry.set(new);
            self.used.fetch_add(1, Ordering::SeqCst);
            return PeriodSet::Kept;
        }
        // A lifted period makes room before one that counts.
        let first = used.iter().min_by_key(|entry| {
            entry.get().map_or((false, 0), |own| (own.until > now, own.expires))
        });
        match first {
            Some(entry) => {
                entry.set(new);
                PeriodSet::KeptForAnother
            }
            None => PeriodSet::Outdated,
        }
    }

    /// Whether any period may not be over `now`. Costs one relaxed load.
    pub fn may_apply(&self, now: u64) -> bool {
        now < self.last_end.load(Ordering::Relaxed)
    }

    /// Whether the user's account is disabled `now` by a period that began after `since`: when the
    /// token was issued, or when the look-up of the cached verdict began. Both are in seconds, so a
    /// token of the second in which the period begins is disabled too.
    ///
    /// Authgear issues no token and confirms no session during the period. So a later token or
    /// verdict shows that the period was lifted, and counts.
    pub fn is_disabled(&self, project: &[u8], user: &[u8], since: u64, now: u64) -> bool {
        if !self.may_apply(now) {
            return false;
        }
        let used = self.used();
        let fingerprints = [PurgeTarget::User(user), PurgeTarget::UserOf(project, user)]
            .map(|target| target.fingerprint(&self.secret));
        used.iter()
            .filter(|entry| {
                entry
                    .content
                    .first()
                    .is_some_and(|own| fingerprints.contains(&own.load(Ordering::SeqCst)))
            })
            .filter_map(PeriodEntry::get)
            .any(|own| {
                let is_now = own.from <= now && now < own.until;
                is_now && since <= own.from && fingerprints.contains(&own.user)
            })
    }

    /// Returns the number of periods that are not over `now`, including those that lie ahead.
    pub fn count(&self, now: u64) -> usize {
        self.used().iter().filter_map(PeriodEntry::get).filter(|own| now < own.until).count()
    }
}

impl fmt::Debug for DisabledPeriods {
    /// Shows no user.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DisabledPeriods").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: PurgeTarget<'static> = PurgeTarget::User(b"alice");

    fn periods() -> Box<DisabledPeriods> {
        Box::new(DisabledPeriods::new(KeySecret::from_bytes([5; 16])))
    }

    #[test]
    fn a_period_counts_from_its_beginning_to_its_end() {
        let table = periods();
        assert!(!table.is_disabled(b"p", b"alice", 0, 1000));
        assert_eq!(table.set(&ALICE, 7, Some((2000, 3000)), 1000), PeriodSet::Kept);
        for (user, since, now, expected) in [
            (&b"alice"[..], 900, 1000, false),
            (b"alice", 900, 1999, false),
            (b"alice", 900, 2000, true),
            (b"alice", 1999, 2999, true),
            (b"alice", 2000, 2000, true),
            (b"alice", 900, 3000, false),
            // Authgear has accepted the user since.
            (b"alice", 2001, 2500, false),
            (b"bob", 900, 2500, false),
        ] {
            let disabled = table.is_disabled(b"p", user, since, now);
            assert_eq!(disabled, expected, "since {since} at {now}");
        }
        assert_eq!((table.count(1000), table.count(2999), table.count(3000)), (1, 1, 0));
        assert!(table.may_apply(1000) && table.may_apply(2999) && !table.may_apply(3000));
    }

    #[test]
    fn a_later_event_replaces_or_lifts_a_period() {
        let table = periods();
        let is_disabled = |now| table.is_disabled(b"p", b"alice", 0, now);
        assert_eq!(table.set(&ALICE, 7, Some((2000, 3000)), 1000), PeriodSet::Kept);
        assert_eq!(table.set(&ALICE, 8, Some((4000, 5000)), 1000), PeriodSet::Kept);
        assert!(!is_disabled(2500) && is_disabled(4500));
        assert_eq!(table.set(&ALICE, 9, None, 4500), PeriodSet::Kept);
        assert!(!is_disabled(4500));
        assert_eq!(table.count(4500), 0);
        assert!(!table.may_apply(4500));
    }

    #[test]
    fn late_and_replayed_events_change_nothing() {
        let table = periods();
        let plan = || table.set(&ALICE, 7, Some((2000, 3000)), 1000);
        // Lifted before the plan arrives.
        assert_eq!(table.set(&ALICE, 8, None, 1000), PeriodSet::Kept);
        assert_eq!(plan(), PeriodSet::Outdated);
        assert!(!table.is_disabled(b"p", b"alice", 0, 2500));

        // Replayed long after it was lifted, but before the end of the period.
        let table = periods();
        let _ = table.set(&ALICE, 7, Some((2000, 9000)), 1000);
        let _ = table.set(&ALICE, 8, None, 1000);
        let other = PurgeTarget::User(b"bob");
        let _ = table.set(&other, 9, Some((8000, 9000)), 8000);
        assert_eq!(table.set(&ALICE, 7, Some((2000, 9000)), 8000), PeriodSet::Outdated);
        assert!(!table.is_disabled(b"p", b"alice", 0, 8500));
        assert!(table.is_disabled(b"p", b"bob", 0, 8500));
    }

    #[test]
    fn a_period_of_one_project_is_one_of_no_other() {
        let table = periods();
        let _ = table.set(&PurgeTarget::UserOf(b"p", b"alice"), 1, Some((10, 20)), 0);
        assert!(table.is_disabled(b"p", b"alice", 0, 15));
        assert!(!table.is_disabled(b"q", b"alice", 0, 15));
    }

    #[test]
    fn over_and_empty_periods_are_not_kept() {
        let table = periods();
        for period in [(10, 20), (200, 200), (300, 200)] {
            let _ = table.set(&ALICE, period.0, Some(period), 100);
            assert_eq!(table.count(100), 0, "{period:?}");
        }
    }

    #[test]
    fn without_room_the_period_that_ends_first_makes_room() {
        let table = periods();
        let user = |n: usize| n.to_be_bytes();
        for n in 0..MAX_PERIODS {
            let period = Some((100, 1000 + n as u64));
            assert_eq!(table.set(&PurgeTarget::User(&user(n)), 1, period, 50), PeriodSet::Kept);
        }
        assert_eq!(table.set(&ALICE, 1, Some((100, 5000)), 50), PeriodSet::KeptForAnother);
        assert!(table.is_disabled(b"p", b"alice", 0, 100));
        assert!(!table.is_disabled(b"p", &user(0), 0, 100));
        assert!((1..MAX_PERIODS).all(|n| table.is_disabled(b"p", &user(n), 0, 100)));
        // Periods that are over make room first.
        let bob = PurgeTarget::User(b"bob");
        assert_eq!(table.set(&bob, 1, Some((2000, 3000)), 1500), PeriodSet::Kept);
        assert!(table.is_disabled(b"p", &user(MAX_PERIODS - 1), 0, 1600));
    }

    #[test]
    fn a_half_written_entry_counts_as_absent() {
        let table = periods();
        let _ = table.set(&ALICE, 7, Some((2000, 3000)), 1000);
        table.entries[0].version.fetch_add(1, Ordering::SeqCst);
        assert!(!table.is_disabled(b"p", b"alice", 0, 2500));
        assert_eq!(table.set(&ALICE, 8, Some((2000, 3000)), 1000), PeriodSet::Kept);
        assert!(table.is_disabled(b"p", b"alice", 0, 2500));
        assert_eq!(table.count(1000), 1);
    }
}
