//! The log of purges, in memory that all workers share. A purge leaves a mark; nothing is searched.
//!
//! Purges are numbered. Each look-up notes the number of the last purge before it began, its
//! [`PurgeEpoch`]. Its verdict counts as long as no purge with a higher number concerns it. No
//! clock decides this, so a verdict that arrives after the purge of its user does not count.
//!
//! Copies in a worker's own memory are checked by one comparison: see
//! [`generation`](PurgeLog::generation).
//!
//! Marks age. Two tables take turns: when all marks of the older one are older than the
//! [longest life](PurgeLog::lives) of a verdict, it is cleared for new marks. The log then no
//! longer knows what was purged before, and no verdict from before counts, whatever life a
//! location or a later configuration grants it. A table that is full ends its turn early:
//! verdicts from before it began are purged with it.
//!
//! Marks are made by one process at a time, under a lock that the caller holds, and read by all
//! processes without one. A process may be killed at any instruction: no purge that returned is
//! lost, and no verdict asked for later is affected.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::shared::cache_key::{Key, KeySecret};
use crate::shared::subject::PurgeTarget;

/// Places of a table: two tables take 256 KiB.
///
/// Three quarters of them are used at most. That is room for 20 minutes of 10 purges a second:
/// for verdicts that live 10 minutes, and are served stale for 10 more.
const PLACES: usize = 16384;

/// Most marks of a table with so many places: searches end at a free place.
const fn marks(places: usize) -> usize {
    places / 4 * 3
}

/// Most marks of both tables.
pub const MARKS: usize = 2 * marks(PLACES);

/// Number of the last purge before a look-up began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PurgeEpoch(u64);

impl PurgeEpoch {
    /// Makes one of the number that [`number`](Self::number) returned.
    pub const fn of_number(number: u64) -> Self {
        Self(number)
    }

    /// Returns its number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Returns its bytes, to be kept with a verdict.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// Reads the bytes of [`to_bytes`](Self::to_bytes), and returns the bytes behind them too.
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (number, rest) = bytes.split_first_chunk()?;
        Some((Self(u64::from_le_bytes(*number)), rest))
    }
}

/// Names by which a purge can in order to concern a verdict.
#[derive(Clone, Copy, Debug)]
pub struct EntryScope<'a> {
    /// Key of the credentials. Without it, purges of look-ups in flight are passed over.
    pub key: Option<&'a Key>,
    /// Scope of the project.
    pub project: &'a [u8],
    /// The user, if the verdict names one.
    pub user: Option<&'a [u8]>,
}

/// A mark in one word: 40 bits of a fingerprint, never 0, and the number of its purge, counted
/// from [`Table::after`]. Two subjects may share these bits by chance: then a purge of one is one
/// of the other too.
#[derive(Clone, Copy)]
struct Mark(u64);

impl Mark {
    const NUMBER_BITS: u32 = 24;

    /// Returns none for a number that is too high.
    fn new(fingerprint: u64, number: u64) -> Option<Self> {
        let whose = (fingerprint >> Self::NUMBER_BITS).max(1) << Self::NUMBER_BITS;
        (number >> Self::NUMBER_BITS == 0).then_some(Self(whose | number))
    }

    fn is_of(self, fingerprint: u64) -> bool {
        self.0 >> Self::NUMBER_BITS == (fingerprint >> Self::NUMBER_BITS).max(1)
    }

    fn number(self) -> u64 {
        self.0 & ((1 << Self::NUMBER_BITS) - 1)
    }
}

struct MarkTable<const N: usize> {
    /// Time of its first mark, in milliseconds.
    began: AtomicU64,
    /// Number of the last purge before its first mark.
    after: AtomicU64,
    /// Number of its last mark.
    last: AtomicU64,
    used: AtomicU64,
    /// Marks, or 0 in free places.
    marks: [AtomicU64; N],
}

impl<const N: usize> MarkTable<N> {
    const fn new() -> Self {
        Self {
            began: AtomicU64::new(0),
            after: AtomicU64::new(0),
            last: AtomicU64::new(0),
            used: AtomicU64::new(0),
            marks: [const { AtomicU64::new(0) }; N],
        }
    }

    fn clear(&self) {
        for mark in &self.marks {
            mark.store(0, Ordering::SeqCst);
        }
        self.used.store(0, Ordering::SeqCst);
    }

    /// Places where the mark of a fingerprint may be, in the order of search.
    fn path(&self, fingerprint: u64) -> impl Iterator<Item = &AtomicU64> {
        let (before, after) = self.marks.split_at(fingerprint as usize % N);
        after.iter().chain(before)
    }

    /// Makes a mark. False if the table is full.
    fn mark(&self, fingerprint: u64, number: u64) -> bool {
        let after = self.after.load(Ordering::SeqCst);
        let Some(new) = Mark::new(fingerprint, number.saturating_sub(after)) else { return false };
        for place in self.path(fingerprint) {
            let mark = place.load(Ordering::SeqCst);
            if mark != 0 && !Mark(mark).is_of(fingerprint) {
                continue;
            }
            if mark == 0 {
                if self.used.load(Ordering::SeqCst) >= marks(N) as u64 {
                    return false;
                }
                self.used.fetch_add(1, Ordering::SeqCst);
            }
            // Before the mark: readers skip a table whose last mark is too old.
            self.last.store(number, Ordering::SeqCst);
            place.store(new.0, Ordering::SeqCst);
            return true;
        }
        false
    }

    /// Returns whether this table has a mark for `fingerprint` with a purge number above `since`.
    fn has_mark(&self, fingerprint: u64, since: u64) -> bool {
        // While the table is cleared and used again, this may belong to other marks. The floor
        // then tells of those that were cleared, and the purges of the new ones have not returned.
        let after = self.after.load(Ordering::SeqCst);
        self.path(fingerprint)
            .map(|place| Mark(place.load(Ordering::SeqCst)))
            .take_while(|mark| mark.0 != 0)
            .find(|mark| mark.is_of(fingerprint))
            .is_some_and(|mark| after.saturating_add(mark.number()) > since)
    }
}

/// The log of purges.
pub struct PurgeLog<const N: usize = PLACES> {
    /// Number of the last purge.
    last: AtomicU64,
    generation: AtomicU64,
    /// Least purge number of a usable verdict. A look-up that noted a smaller one has no valid
    /// verdict: the marks that concern it may be gone.
    floor: AtomicU64,
    /// Milliseconds.
    longest_life: AtomicU64,
    /// Index of the table for new marks.
    current: AtomicU64,
    secret: KeySecret,
    tables: [MarkTable<N>; 2],
}

impl<const N: usize> PurgeLog<N> {
    /// Returns an empty log. Fingerprints are made with the secret.
    pub const fn new(secret: KeySecret) -> Self {
        Self {
            last: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            longest_life: AtomicU64::new(0),
            current: AtomicU64::new(0),
            secret,
            tables: [const { MarkTable::new() }; 2],
        }
    }

    /// Tells how long verdicts live, in milliseconds, with the time that they may be served
    /// stale. The longest time ever told counts: verdicts of an earlier configuration are
    /// still there after a reload.
    pub fn lives(&self, longest: u64) {
        self.longest_life.fetch_max(longest, Ordering::SeqCst);
    }

    /// Returns the number for a look-up that begins now, before it is asked.
    pub fn now(&self) -> PurgeEpoch {
        PurgeEpoch(self.last.load(Ordering::SeqCst))
    }

    /// Changes with every purge. A verdict that counted under one generation counts as long as
    /// the generation is the same.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Purges these subjects at `now`, in milliseconds of a monotonic clock. The caller holds the
    /// lock.
    ///
    /// Returns false if there were more purges in the life of a verdict than the tables have
    /// room for. Older verdicts were purged then that no purge concerned.
    pub fn purge(&self, subjects: &[PurgeTarget<'_>], now: u64) -> bool {
        if subjects.is_empty() {
            self.generation.fetch_add(1, Ordering::SeqCst);
            return true;
        }
        // A look-up that begins from here on asks after the cause of the purge.
        let number = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        let mut in_time = true;
        let mut table = self.current();
        let is_over = |table: &MarkTable<N>| {
            let age = now.saturating_sub(table.began.load(Ordering::SeqCst));
            age > self.longest_life.load(Ordering::SeqCst)
        };
        if is_over(table) || table.used.load(Ordering::SeqCst) == 0 {
            table = self.turn(number.saturating_sub(1), now);
        }
        for subject in subjects {
            let fingerprint = subject.fingerprint(&self.secret);
            // An empty table has room for a mark.
            if !table.mark(fingerprint, number) {
                let current = self.current.load(Ordering::SeqCst);
                in_time &= self.table(current.wrapping_add(1)).used.load(Ordering::SeqCst) == 0;
                // Marks of this purge may be in both tables.
                table = self.turn(number, now);
                table.mark(fingerprint, number);
            }
        }
        // After the marks: copies made until now may have been checked before them.
        self.generation.fetch_add(1, Ordering::SeqCst);
        in_time
    }

    /// Purges everything. The caller holds the lock.
    pub fn purge_all(&self) {
        let number = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        // Before the marks go: a reader that misses one finds this.
        self.floor.store(number, Ordering::SeqCst);
        self.tables.iter().for_each(MarkTable::clear);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn table(&self, index: u64) -> &MarkTable<N> {
        let [first, second] = &self.tables;
        if index % 2 == 0 {
            first
        } else {
            second
        }
    }

    fn current(&self) -> &MarkTable<N> {
        self.table(self.current.load(Ordering::SeqCst))
    }

    /// Clears the older table, and returns it for new marks. The marks of purges up to number
    /// `after` are all in the other.
    fn turn(&self, after: u64, now: u64) -> &MarkTable<N> {
        let current = self.current.load(Ordering::SeqCst);
        let next = current.wrapping_add(1);
        let table = self.table(next);
        if table.used.load(Ordering::SeqCst) > 0 {
            // The marks that go have numbers up to this one. It comes first: a reader that misses
            // one finds this.
            let gone = self.table(current).after.load(Ordering::SeqCst);
            self.floor.fetch_max(gone, Ordering::SeqCst);
            table.clear();
        }
        table.began.store(now, Ordering::SeqCst);
        table.after.store(after, Ordering::SeqCst);
        self.current.store(next, Ordering::SeqCst);
        table
    }

    /// Whether a verdict was purged since its look-up, of this number, began.
    pub fn is_purged(&self, since: PurgeEpoch, scope: &EntryScope<'_>) -> bool {
        let PurgeEpoch(since) = since;
        if self.last.load(Ordering::SeqCst) == since {
            return false;
        }
        let purged = |subject: PurgeTarget<'_>| {
            let fingerprint = subject.fingerprint(&self.secret);
            self.tables
                .iter()
                .filter(|table| table.last.load(Ordering::SeqCst) > since)
                .any(|table| table.has_mark(fingerprint, since))
        };
        scope.key.is_some_and(|key| purged(PurgeTarget::Holder(key)))
            || purged(PurgeTarget::Project(scope.project))
            || scope.user.is_some_and(|user| {
                purged(PurgeTarget::User(user)) || purged(PurgeTarget::UserOf(scope.project, user))
            })
            // After the marks: they may just have been cleared.
            || self.floor.load(Ordering::SeqCst) > since
    }
}

impl<const N: usize> fmt::Debug for PurgeLog<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PurgeLog").field("last", &self.last).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::sync::atomic::AtomicBool;
    use std::sync::Mutex;
    use std::thread;

    fn purges() -> Box<PurgeLog> {
        Box::new(PurgeLog::new(KeySecret::from_bytes([9; 16])))
    }

    const KEY: Key = Key::from_bytes([1; 16]);

    fn scope<'a>(project: &'a [u8], user: &'a [u8]) -> EntryScope<'a> {
        EntryScope { key: Some(&KEY), project, user: Some(user) }
    }

    #[test]
    fn a_purge_concerns_its_subjects_only() {
        let other = Key::from_bytes([2; 16]);
        let rows: [(PurgeTarget<'_>, [bool; 5]); 6] = [
            (PurgeTarget::User(b"alice"), [true, true, false, false, false]),
            (PurgeTarget::UserOf(b"p", b"alice"), [true, false, false, false, false]),
            (PurgeTarget::Project(b"p"), [true, false, true, true, false]),
            (PurgeTarget::Holder(&KEY), [true, true, true, true, true]),
            (PurgeTarget::Holder(&other), [false; 5]),
            (PurgeTarget::User(b"nobody"), [false; 5]),
        ];
        for (subject, expected) in rows {
            let purges = purges();
            let before = purges.now();
            assert!(purges.purge(&[subject], 5));
            let verdicts = [
                scope(b"p", b"alice"),
                scope(b"q", b"alice"),
                scope(b"p", b"bob"),
                EntryScope { key: Some(&KEY), project: b"p", user: None },
                EntryScope { key: Some(&KEY), project: b"q", user: None },
            ];
            let purged = verdicts.map(|verdict| purges.is_purged(before, &verdict));
            assert_eq!(purged, expected, "{subject:?}");
            let after = verdicts.map(|verdict| purges.is_purged(purges.now(), &verdict));
            assert_eq!(after, [false; 5], "{subject:?}");
        }
    }

    #[test]
    fn a_purge_of_nothing_is_noticed_and_takes_no_place() {
        let purges = purges();
        assert!(purges.purge(&[PurgeTarget::User(b"alice")], 5));
        let (before, generation) = (purges.now(), purges.generation());
        for second in 5..10_000 {
            assert!(purges.purge(&[], second));
        }
        assert_eq!(purges.generation(), generation + 9_995);
        assert_eq!(purges.now().to_bytes(), before.to_bytes());
    }

    #[test]
    fn a_purge_of_everything_concerns_all_verdicts() {
        let purges = purges();
        let before = purges.now();
        let generation = purges.generation();
        purges.purge_all();
        assert!(purges.is_purged(before, &scope(b"p", b"alice")));
        assert!(!purges.is_purged(purges.now(), &scope(b"p", b"alice")));
        assert_ne!(purges.generation(), generation);
    }

    #[test]
    fn marks_outlive_the_longest_verdict_and_then_go() {
        let purges = PurgeLog::<16>::new(KeySecret::from_bytes([9; 16]));
        purges.lives(1_000);
        // A shorter life of a later configuration changes nothing.
        purges.lives(10);
        let ask = || purges.now();
        let first = ask();
        assert!(purges.purge(&[PurgeTarget::User(b"alice")], 5_000));
        let second = ask();
        assert!(purges.purge(&[PurgeTarget::User(b"bob")], 6_000), "the same table");
        let third = ask();
        assert!(purges.purge(&[PurgeTarget::User(b"carol")], 6_001), "the other table");
        let fourth = ask();
        assert!(purges.is_purged(first, &scope(b"p", b"alice")));
        assert!(!purges.is_purged(first, &scope(b"p", b"dave")));
        assert!(purges.purge(&[PurgeTarget::User(b"dave")], 7_002), "the first table again");
        // Asked before 6,001, these ended long ago, whatever a later configuration says.
        for since in [first, second] {
            assert!(purges.is_purged(since, &scope(b"p", b"erin")));
        }
        for since in [third, fourth] {
            assert!(!purges.is_purged(since, &scope(b"p", b"erin")));
            assert!(purges.is_purged(since, &scope(b"p", b"dave")));
        }
        assert!(purges.is_purged(third, &scope(b"p", b"carol")));
        assert!(!purges.is_purged(fourth, &scope(b"p", b"carol")));
    }

    #[test]
    fn a_life_made_longer_brings_no_purged_verdict_back() {
        let purges = PurgeLog::<16>::new(KeySecret::from_bytes([9; 16]));
        purges.lives(1_000);
        let before = purges.now();
        assert!(purges.purge(&[PurgeTarget::User(b"alice")], 0));
        for time in [2_000, 4_000] {
            assert!(purges.purge(&[PurgeTarget::User(b"bob")], time));
        }
        purges.lives(1_000_000);
        assert!(purges.is_purged(before, &scope(b"p", b"alice")));
        // Now they stay for longer.
        let before = purges.now();
        assert!(purges.purge(&[PurgeTarget::User(b"alice")], 5_000));
        for n in 0..8_u64 {
            assert!(purges.purge(&[PurgeTarget::User(&n.to_le_bytes())], 6_000 + 100_000 * n));
        }
        assert!(purges.is_purged(before, &scope(b"p", b"alice")));
        assert!(!purges.is_purged(before, &scope(b"p", b"erin")));
    }

    /// A full table ends its turn early: older verdicts go, newer ones stay.
    #[test]
    fn too_many_purges_purge_older_verdicts_only() {
        let purges = PurgeLog::<16>::new(KeySecret::from_bytes([9; 16]));
        purges.lives(1_000_000);
        let mut epochs = vec![purges.now()];
        for n in 0..40_u64 {
            let in_time = purges.purge(&[PurgeTarget::User(&n.to_le_bytes())], n);
            assert_eq!(in_time, ![24, 36].contains(&n), "{n}");
            // One that has a mark needs no new one.
            assert!(purges.purge(&[PurgeTarget::User(&n.to_le_bytes())], n));
            epochs.push(purges.now());
        }
        let others: Vec<_> =
            epochs.iter().map(|&since| purges.is_purged(since, &scope(b"p", b"erin"))).collect();
        // The tables have marks of the 28 that came last.
        assert_eq!(others.iter().position(|purged| !purged), Some(25), "{others:?}");
        assert!(others[25..].iter().all(|purged| !purged));
        for n in 0..40 {
            let user = (n as u64).to_le_bytes();
            assert!(purges.is_purged(epochs[n], &scope(b"p", &user)), "{n}");
            let later = purges.is_purged(epochs[n + 1], &scope(b"p", &user));
            assert_eq!(later, n < 24, "{n}");
        }
    }

    #[test]
    fn one_purge_of_more_subjects_than_places_is_lost_for_none() {
        for count in [1, 12, 13, 24, 25, 60] {
            let purges = PurgeLog::<16>::new(KeySecret::from_bytes([9; 16]));
            purges.lives(1_000_000);
            let users: Vec<[u8; 1]> = (0..count).map(|n| [n]).collect();
            let subjects: Vec<_> = users.iter().map(|user| PurgeTarget::User(user)).collect();
            let before = purges.now();
            assert_eq!(purges.purge(&subjects, 0), count <= 24);
            for n in 100..130_u8 {
                assert!(users.iter().all(|user| purges.is_purged(before, &scope(b"p", user))));
                purges.purge(&[PurgeTarget::User(&[n])], 0);
            }
        }
    }

    /// Ten purges a second of different users purge nobody else's verdict.
    #[test]
    fn the_usual_rate_of_purges_is_kept_apart() {
        let seconds = 1_000;
        // The defaults; valid=60s error=60s; valid=10m error=60s; valid=10m error=10m.
        for life in [60, 120, 660, 1_200].map(|life| life * seconds) {
            let purges = purges();
            purges.lives(life);
            let mut asked = std::collections::VecDeque::new();
            for n in 0..26_000_u64 {
                let now = n * 100;
                asked.push_back((now, purges.now(), n));
                assert!(purges.purge(&[PurgeTarget::User(&n.to_le_bytes())], now), "{life}: {n}");
                while asked.front().is_some_and(|(then, ..)| then + life < now) {
                    asked.pop_front();
                }
                if n % 97 == 0 {
                    let (_, since, oldest) = asked[0];
                    assert!(!purges.is_purged(since, &scope(b"p", b"erin")), "{life}: {n}");
                    for user in [oldest, n] {
                        assert!(purges.is_purged(since, &scope(b"p", &user.to_le_bytes())));
                    }
                }
            }
        }
    }

    #[test]
    fn a_table_whose_numbers_are_used_up_ends_its_turn() {
        let purges = PurgeLog::<16>::new(KeySecret::from_bytes([9; 16]));
        purges.lives(1_000_000);
        let before = purges.now();
        assert!(purges.purge(&[PurgeTarget::User(b"alice")], 0));
        purges.last.store((1 << Mark::NUMBER_BITS) - 2, Ordering::SeqCst);
        for user in [b"bob", b"dan"] {
            let since = purges.now();
            assert!(purges.purge(&[PurgeTarget::User(user)], 1));
            assert!(purges.is_purged(since, &scope(b"p", user)));
            assert!(!purges.is_purged(purges.now(), &scope(b"p", user)));
            assert!(purges.is_purged(before, &scope(b"p", b"alice")));
        }
        assert_eq!(purges.current.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn an_epoch_survives_its_bytes() {
        let number = PurgeEpoch(0x0102_0304_0506_0708);
        let kept = [&number.to_bytes()[..], b"rest"].concat();
        assert_eq!(PurgeEpoch::split(&kept), Some((number, &b"rest"[..])));
        assert_eq!(PurgeEpoch::split(&kept[..7]), None);
    }

    /// A step with a log.
    #[derive(Clone, Debug)]
    enum Step {
        Ask,
        Purge { user: Option<u8>, project: Option<u8> },
        PurgeMany(u8),
        PurgeAll,
        Wait(u64),
        Live(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let subject = (prop::option::of(0..4_u8), prop::option::of(0..3_u8));
        let step = prop_oneof![
            10 => Just(Step::Ask),
            10 => subject.prop_map(|(user, project)| Step::Purge { user, project }),
            5 => (0..30_u8).prop_map(Step::PurgeMany),
            1 => Just(Step::PurgeAll),
            5 => (0..700_u64).prop_map(Step::Wait),
            1 => (0..700_u64).prop_map(Step::Live),
        ];
        prop::collection::vec(step, 1..120)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Against a list of all purges ever. Whatever comes, no purge is lost. As long as the
        /// tables have room for the life of a verdict, no other verdict is purged in its life.
        #[test]
        fn the_log_remembers_all_purges_and_no_others(steps in steps()) {
            let purges = PurgeLog::<32>::new(KeySecret::from_bytes([9; 16]));
            let (mut now, mut life, mut in_time) = (0_u64, 300, true);
            purges.lives(life);
            let mut asked = vec![(now, purges.now())];
            let mut marks: HashMap<(Option<u8>, Option<u8>), PurgeEpoch> = HashMap::new();
            for step in steps {
                match step {
                    Step::Ask => asked.push((now, purges.now())),
                    Step::Wait(time) => now += time,
                    // Only verdicts that are asked for from then on live longer.
                    Step::Live(longer) => {
                        if longer > life {
                            asked.clear();
                            life = longer;
                        }
                        purges.lives(longer);
                    }
                    Step::PurgeAll => {
                        purges.purge_all();
                        marks.insert((None, None), purges.now());
                    }
                    Step::PurgeMany(count) => {
                        let users: Vec<_> = (100..100 + count).map(|user| [user]).collect();
                        let subjects: Vec<_> = users.iter().map(|user| PurgeTarget::User(user)).collect();
                        in_time &= purges.purge(&subjects, now);
                    }
                    Step::Purge { user, project } => {
                        let (u, p) = (user.map(|user| [user]), project.map(|project| [project]));
                        let subject = match (&u, &p) {
                            (Some(u), Some(p)) => PurgeTarget::UserOf(p, u),
                            (Some(u), None) => PurgeTarget::User(u),
                            (None, Some(p)) => PurgeTarget::Project(p),
                            (None, None) => PurgeTarget::Holder(&KEY),
                        };
                        in_time &= purges.purge(&[subject], now);
                        marks.insert((project, user), purges.now());
                    }
                }
                for &(then, since) in asked.iter().rev().take(8) {
                    for user in 0..4_u8 {
                        for project in 0..3_u8 {
                            let of = [
                                (None, None),
                                (Some(project), None),
                                (None, Some(user)),
                                (Some(project), Some(user)),
                            ];
                            let expected =
                                of.iter().any(|s| marks.get(s).is_some_and(|m| *m > since));
                            let user = [user];
                            let scope =
                                EntryScope { key: Some(&KEY), project: &[project], user: Some(&user) };
                            let purged = purges.is_purged(since, &scope);
                            prop_assert!(purged || !expected, "lost");
                            let lives = in_time && now - then <= life;
                            prop_assert!(expected || !purged || !lives, "purged for nothing");
                        }
                    }
                }
            }
        }
    }

    /// Tables take turns all the time.
    #[test]
    fn a_verdict_from_before_a_purge_that_returned_never_counts() {
        let purges = PurgeLog::<64>::new(KeySecret::from_bytes([9; 16]));
        let lock = Mutex::new(());
        let over = AtomicBool::new(false);
        thread::scope(|threads| {
            let (purges, lock, over) = (&purges, &lock, &over);
            let noise = threads.spawn(move || {
                let mut n = 0_u64;
                while !over.load(Ordering::SeqCst) {
                    n += 1;
                    let _locked = lock.lock();
                    purges.purge(&[PurgeTarget::User(&n.to_le_bytes())], n);
                }
            });
            for n in 0..20_000_u64 {
                let user = n.to_be_bytes();
                let before = purges.now();
                {
                    let _locked = lock.lock();
                    purges.purge(&[PurgeTarget::User(&user)], n);
                }
                assert!(purges.is_purged(before, &scope(b"p", &user)));
            }
            over.store(true, Ordering::SeqCst);
            noise.join().expect("no panic");
        });
    }
}
