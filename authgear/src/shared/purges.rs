//! What was purged, in memory that all workers share: a mark, and not a search.
//!
//! Purges have numbers, and so has every look-up: that of the last purge before it began. A verdict
//! counts only if its number is not smaller than that of any purge it is subject to. No clock is
//! involved, and a verdict that is on its way when its user is purged does not count when it
//! arrives.
//!
//! What workers keep for themselves is checked by one comparison: see
//! [`generation`](PurgeLog::generation).
//!
//! There is room for a bounded number of marks. Beyond it a purge is one of everything, which
//! makes room for as many again.
//!
//! Marks are made by one process at a time, under a lock that the caller has, and looked for by
//! all of them without one. A process may be killed at any instruction: what it did until then
//! makes no verdict count, nor any that is asked for later not count.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::shared::cache_key::{Key, KeySecret};
use crate::shared::subject::PurgeTarget;

/// Places for marks.
const PLACES: usize = 8192;

/// Most marks: places must remain free for searches to end early.
pub const MARKS: usize = PLACES / 4 * 3;

// Until src is renamed.
pub use {EntryScope as Held, PurgeEpoch as Number, PurgeLog as Purges};

/// The number of a look-up, or of a purge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PurgeEpoch(u64);

impl PurgeEpoch {
    /// As bytes, for where a verdict is kept.
    pub const fn to_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// What [`to_bytes`](Self::to_bytes) made, and what follows it.
    pub fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (number, rest) = bytes.split_first_chunk()?;
        Some((Self(u64::from_le_bytes(*number)), rest))
    }
}

/// What a verdict is subject to.
#[derive(Clone, Copy, Debug)]
pub struct EntryScope<'a> {
    /// The key of the credentials.
    pub key: &'a Key,
    /// The scope of the project.
    pub project: &'a [u8],
    /// The user, if it has one.
    pub user: Option<&'a [u8]>,
}

struct Mark {
    /// Fingerprint, or 0 where there is none.
    whose: AtomicU64,
    number: AtomicU64,
}

/// The marks.
pub struct PurgeLog {
    /// Number of the last purge.
    last: AtomicU64,
    generation: AtomicU64,
    /// Number of the last purge of everything.
    all: AtomicU64,
    used: AtomicU64,
    secret: KeySecret,
    marks: [Mark; PLACES],
}

impl PurgeLog {
    /// None yet. Fingerprints are made with the secret.
    pub const fn new(secret: KeySecret) -> Self {
        Self {
            last: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            all: AtomicU64::new(0),
            used: AtomicU64::new(0),
            secret,
            marks: [const { Mark { whose: AtomicU64::new(0), number: AtomicU64::new(0) } }; PLACES],
        }
    }

    /// The number of a look-up that begins now, before anybody is asked.
    pub fn now(&self) -> PurgeEpoch {
        PurgeEpoch(self.last.load(Ordering::SeqCst))
    }

    /// Changes with every purge. What was found to count under one generation counts as long as
    /// it is the same.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Purges these, under the lock. If they are too many for the room that is left, everything
    /// is purged: false then.
    pub fn purge(&self, subjects: &[PurgeTarget<'_>]) -> bool {
        // Who begins from here on asks after whatever was the reason of the purge.
        let number = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        let marked = subjects.iter().all(|subject| self.mark(subject, number));
        if !marked {
            self.mark_all(number);
        }
        // Last: what was kept by then may have been looked at before the marks were made.
        self.generation.fetch_add(1, Ordering::SeqCst);
        marked
    }

    /// Purges everything, under the lock.
    pub fn purge_all(&self) {
        let number = self.last.fetch_add(1, Ordering::SeqCst) + 1;
        self.mark_all(number);
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    fn mark_all(&self, number: u64) {
        // First: who finds a mark missing finds this.
        self.all.store(number, Ordering::SeqCst);
        for mark in &self.marks {
            mark.whose.store(0, Ordering::SeqCst);
        }
        self.used.store(0, Ordering::SeqCst);
    }

    fn mark(&self, subject: &PurgeTarget<'_>, number: u64) -> bool {
        let whose = subject.fingerprint(&self.secret);
        for mark in self.path(whose) {
            match mark.whose.load(Ordering::SeqCst) {
                0 => {
                    if self.used.load(Ordering::SeqCst) >= MARKS as u64 {
                        return false;
                    }
                    self.used.fetch_add(1, Ordering::SeqCst);
                    mark.number.store(number, Ordering::SeqCst);
                    mark.whose.store(whose, Ordering::SeqCst);
                    return true;
                }
                own if own == whose => {
                    mark.number.store(number, Ordering::SeqCst);
                    return true;
                }
                _ => {}
            }
        }
        false
    }

    /// The places where the mark of a fingerprint may be, in the order of search.
    fn path(&self, whose: u64) -> impl Iterator<Item = &Mark> {
        let (before, after) = self.marks.split_at(whose as usize % PLACES);
        after.iter().chain(before)
    }

    /// Whether a verdict was purged since the look-up of this number began.
    pub fn is_purged(&self, since: PurgeEpoch, held: &EntryScope<'_>) -> bool {
        let purged = |subject: PurgeTarget<'_>| {
            let whose = subject.fingerprint(&self.secret);
            for mark in self.path(whose) {
                match mark.whose.load(Ordering::SeqCst) {
                    0 => return false,
                    own if own == whose => return mark.number.load(Ordering::SeqCst) > since.0,
                    _ => {}
                }
            }
            false
        };
        if self.last.load(Ordering::SeqCst) == since.0 {
            return false;
        }
        purged(PurgeTarget::Holder(held.key))
            || purged(PurgeTarget::Project(held.project))
            || held.user.is_some_and(|user| {
                purged(PurgeTarget::User(user)) || purged(PurgeTarget::UserOf(held.project, user))
            })
            // After the marks: they may just have made room.
            || self.all.load(Ordering::SeqCst) > since.0
    }
}

impl fmt::Debug for PurgeLog {
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

    fn held<'a>(project: &'a [u8], user: &'a [u8]) -> EntryScope<'a> {
        EntryScope { key: &KEY, project, user: Some(user) }
    }

    #[test]
    fn a_purge_is_of_whom_it_says() {
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
            assert!(purges.purge(&[subject]));
            let verdicts = [
                held(b"p", b"alice"),
                held(b"q", b"alice"),
                held(b"p", b"bob"),
                EntryScope { key: &KEY, project: b"p", user: None },
                EntryScope { key: &KEY, project: b"q", user: None },
            ];
            let purged = verdicts.map(|verdict| purges.is_purged(before, &verdict));
            assert_eq!(purged, expected, "{subject:?}");
            let after = verdicts.map(|verdict| purges.is_purged(purges.now(), &verdict));
            assert_eq!(after, [false; 5], "{subject:?}");
        }
    }

    #[test]
    fn everything_is_everything() {
        let purges = purges();
        let before = purges.now();
        let generation = purges.generation();
        purges.purge_all();
        assert!(purges.is_purged(before, &held(b"p", b"alice")));
        assert!(!purges.is_purged(purges.now(), &held(b"p", b"alice")));
        assert_ne!(purges.generation(), generation);
    }

    #[test]
    fn too_many_are_all() {
        let purges = purges();
        let ids: Vec<String> = (0..MARKS).map(|n| n.to_string()).collect();
        let before = purges.now();
        for id in &ids {
            assert!(purges.purge(&[PurgeTarget::User(id.as_bytes())]));
        }
        // One that has a mark needs no new one.
        assert!(purges.purge(&[PurgeTarget::User(b"7")]));
        let middle = purges.now();
        assert!(!purges.is_purged(before, &held(b"p", b"alice")));
        assert!(purges.is_purged(before, &held(b"p", b"0")));
        assert!(!purges.is_purged(middle, &held(b"p", b"0")));
        assert!(!purges.purge(&[PurgeTarget::User(b"one more")]));
        for id in ["alice", "0", "7", "one more"] {
            assert!(purges.is_purged(middle, &held(b"p", id.as_bytes())), "{id}");
            assert!(!purges.is_purged(purges.now(), &held(b"p", id.as_bytes())), "{id}");
        }
        assert!(purges.purge(&[PurgeTarget::User(b"alice")]), "there is room again");
    }

    #[test]
    fn numbers_are_bytes() {
        let number = PurgeEpoch(0x0102_0304_0506_0708);
        let kept = [&number.to_bytes()[..], b"rest"].concat();
        assert_eq!(PurgeEpoch::split(&kept), Some((number, &b"rest"[..])));
        assert_eq!(PurgeEpoch::split(&kept[..7]), None);
    }

    proptest! {
        /// Against a list of all purges ever.
        #[test]
        fn it_is_as_if_all_purges_were_remembered(
            steps in prop::collection::vec((0..5_u8, 0..4_u8, 0..3_u8), 1..60),
        ) {
            let purges = purges();
            let mut numbers = vec![purges.now()];
            let mut marks: HashMap<(Option<u8>, Option<u8>), PurgeEpoch> = HashMap::new();
            for (kind, user, project) in steps {
                let (u, p) = ([user], [project]);
                let mark = match kind {
                    0 => { purges.purge(&[PurgeTarget::User(&u)]); (None, Some(user)) }
                    1 => { purges.purge(&[PurgeTarget::UserOf(&p, &u)]); (Some(project), Some(user)) }
                    2 => { purges.purge(&[PurgeTarget::Project(&p)]); (Some(project), None) }
                    3 => { purges.purge_all(); (None, None) }
                    _ => { numbers.push(purges.now()); continue }
                };
                marks.insert(mark, purges.now());
            }
            for since in numbers {
                for user in 0..4_u8 {
                    for project in 0..3_u8 {
                        let subject_to =
                            [(None, None), (Some(project), None), (None, Some(user)), (Some(project), Some(user))];
                        let expected = subject_to.iter().any(|s| marks.get(s).is_some_and(|m| *m > since));
                        let held = EntryScope { key: &KEY, project: &[project], user: Some(&[user]) };
                        prop_assert_eq!(purges.is_purged(since, &held), expected);
                    }
                }
            }
        }
    }

    /// A verdict of before a purge that has returned never counts, marks running over all the
    /// time.
    #[test]
    fn nobody_misses_a_purge_that_has_returned() {
        let purges = purges();
        let lock = Mutex::new(());
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let (purges, lock, over) = (&purges, &lock, &over);
            let noise = scope.spawn(move || {
                let mut n = 0_u64;
                while !over.load(Ordering::SeqCst) {
                    n += 1;
                    let _locked = lock.lock();
                    purges.purge(&[PurgeTarget::User(&n.to_le_bytes())]);
                }
            });
            for n in 0..20_000_u64 {
                let user = n.to_be_bytes();
                let before = purges.now();
                {
                    let _locked = lock.lock();
                    purges.purge(&[PurgeTarget::User(&user)]);
                }
                assert!(purges.is_purged(before, &held(b"p", &user)));
            }
            over.store(true, Ordering::SeqCst);
            noise.join().expect("no panic");
        });
    }
}
