//! The cursor in shared memory.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Point, Saved};
use crate::fleet::stream_id::{Incarnation, StreamId};

/// Words of a [`Saved`].
const WORDS: usize = 10;

const IS_LOST: u64 = 1;
const IS_THERE: u64 = 2;

/// State that a process stored for another one to go on, with a second copy: a process that is
/// killed while it stores leaves the other copy. Called under the zone's lock.
pub struct SavedCursor {
    /// Copy that counts: 0 or 1; 2 for none.
    current: AtomicU64,
    copies: [[AtomicU64; WORDS]; 2],
}

impl SavedCursor {
    /// Returns an empty store.
    pub const fn new() -> Self {
        Self {
            current: AtomicU64::new(2),
            copies: [const { [const { AtomicU64::new(0) }; WORDS] }; 2],
        }
    }

    /// Returns the state that was stored last.
    pub fn load(&self) -> Option<Saved> {
        let current = usize::try_from(self.current.load(Ordering::SeqCst)).ok()?;
        let copy = self.copies.get(current)?;
        let words = copy.each_ref().map(|word| word.load(Ordering::SeqCst));
        let [incarnation, flags, ms, seq, index, tag, words @ ..] = words;
        let sound = Point { id: StreamId { ms, seq }, index, tag };
        let [ms, seq, index, tag] = words;
        let earlier = Point { id: StreamId { ms, seq }, index, tag };
        Some(Saved {
            incarnation: Incarnation(incarnation),
            sound,
            earlier,
            is_there: flags & IS_THERE > 0,
            is_lost: flags & IS_LOST > 0,
        })
    }

    /// Stores.
    pub fn store(&self, saved: &Saved) {
        let Saved { incarnation, sound, is_there, earlier, is_lost } = *saved;
        let words = [
            incarnation.0,
            (u64::from(is_lost) * IS_LOST) | (u64::from(is_there) * IS_THERE),
            sound.id.ms,
            sound.id.seq,
            sound.index,
            sound.tag,
            earlier.id.ms,
            earlier.id.seq,
            earlier.index,
            earlier.tag,
        ];
        let next = u64::from(self.current.load(Ordering::SeqCst) == 0);
        let [first, second] = &self.copies;
        let copy = if next == 0 { first } else { second };
        copy.iter().zip(words).for_each(|(own, word)| own.store(word, Ordering::SeqCst));
        self.current.store(next, Ordering::SeqCst);
    }
}

impl Default for SavedCursor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SavedCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SavedCursor").field(&self.load()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn saved(words: [u64; 9], (is_lost, is_there): (bool, bool)) -> Saved {
        let [incarnation, ms, seq, index, tag, earlier @ ..] = words;
        Saved {
            incarnation: Incarnation(incarnation),
            sound: Point { id: StreamId { ms, seq }, index, tag },
            earlier: Point {
                id: StreamId { ms: earlier[0], seq: earlier[1] },
                index: earlier[2],
                tag: earlier[3],
            },
            is_there,
            is_lost,
        }
    }

    #[test]
    fn nothing_was_stored_at_first() {
        assert_eq!(SavedCursor::new().load(), None);
    }

    proptest! {
        #[test]
        fn what_was_stored_last_is_loaded(all: Vec<([u64; 9], (bool, bool))>, killed: [u64; WORDS]) {
            let cell = SavedCursor::new();
            let mut last = None;
            for (words, flags) in all {
                let new = saved(words, flags);
                cell.store(&new);
                prop_assert_eq!(cell.load(), Some(new));
                last = Some(new);
                // A process that is killed within a store wrote the other copy only.
                let other = cell.current.load(Ordering::SeqCst) ^ 1;
                for (word, garbage) in cell.copies[other as usize].iter().zip(killed) {
                    word.store(garbage, Ordering::SeqCst);
                }
                prop_assert_eq!(cell.load(), last);
            }
            prop_assert_eq!(cell.load(), last);
        }
    }
}
