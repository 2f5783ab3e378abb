//! Admission: which entries may take whose room.
//!
//! The scheme is 2Q (T. Johnson and D. Shasha, "2Q: A Low Overhead High Performance Buffer
//! Management Replacement Algorithm", VLDB 1994, section 3.2): new verdicts enter a small queue
//! (`A1in` there, probation here), used verdicts are in a list by last use (`Am`, main), and the
//! keys that left probation unproven are remembered for a while (`A1out`, ghosts). A verdict that
//! is stored under a remembered key enters main at once. Thus a verdict that is never used again
//! displaces only others of its kind, however many there are.
//!
//! Three things differ from the paper:
//!
//! - A use in probation promotes at once. 2Q waits for a use after the eviction, to ignore the
//!   few uses that a database makes of one page in one operation. Here one page view makes many
//!   uses of one session, and that session is worth its room.
//! - Verdicts that main has no room for go back to the head of probation, as in segmented LRU
//!   (R. Karedla, J. S. Love and B. G. Wherry, "Caching Strategies to Improve Disk System
//!   Performance", IEEE Computer 27(3), 1994). So room that nobody else wants is never wasted.
//! - Probation's share is reserved. In 2Q a new page may displace a used one until the queue has
//!   its share.
//!
//! Look-ups under way have a reserved share as well. They never displace a verdict, and no
//! verdict displaces them.
//!
//! The work of one call is bounded by the chunks it wants, except that one large verdict may
//! displace many small ones.

use super::arena::{chunks_of, Corrupt, Result};
use super::layout::{state, Ends, Region, Worth, GHOST_WAYS, NIL};
use crate::shared::cache_key::Key;

/// Part of all chunks for entries without a verdict.
const FLIGHTS: usize = 32;

/// Part of the chunks for verdicts that main must leave to probation.
const PROBATION: usize = 10;

/// Least chunks of each of these shares.
const LEAST: usize = 2;

impl Region<'_> {
    /// Most entries without a verdict.
    pub(super) fn flight_share(&self) -> usize {
        (self.chunks.len() / FLIGHTS).max(LEAST)
    }

    /// Most chunks of entries with a verdict.
    pub(super) fn verdict_share(&self) -> usize {
        self.chunks.len().saturating_sub(self.flight_share())
    }

    /// Most chunks of entries with a proven verdict.
    pub(super) fn main_share(&self) -> usize {
        let verdicts = self.verdict_share();
        verdicts.saturating_sub((verdicts / PROBATION).max(LEAST))
    }

    /// Number of entries without a verdict.
    pub(super) fn without_verdict(&self) -> usize {
        let used = self.chunks.len().saturating_sub(self.available());
        used.saturating_sub(self.header.kept as usize)
    }

    /// State in which a verdict of so many chunks is kept under `key`, and whether room can be
    /// made for it. `was_proven` tells of the verdict it replaces.
    pub(super) fn admit(
        &mut self,
        key: &Key,
        chunks: usize,
        worth: Worth,
        was_proven: bool,
    ) -> Option<u8> {
        let state = match worth {
            Worth::Passing => state::PASSING,
            // Not both in one condition: a ghost is to be forgotten when its key is back.
            Worth::Lasting if self.forget_ghost(key) | was_proven => state::PROVEN,
            Worth::Lasting => state::UNPROVEN,
        };
        if state == state::PROVEN && chunks <= self.main_share() {
            return Some(state);
        }
        let left = self.verdict_share().saturating_sub(self.header.proven as usize);
        (chunks <= left).then_some(state.min(state::UNPROVEN))
    }

    /// Makes room for a verdict of so many chunks that is to be kept in this state.
    pub(super) fn make_room(&mut self, chunks: usize, state: u8) -> Result<()> {
        if state == state::PROVEN {
            self.make_room_in_main(chunks)?;
        }
        // Each turn ends with one entry less.
        for _ in 0..=self.chunks.len() {
            if self.header.kept as usize + chunks <= self.verdict_share() {
                return Ok(());
            }
            let victim = self.header.probation.tail;
            let entry = self.entry(victim)?;
            let (key, is_ghost) = (entry.key, entry.state == state::UNPROVEN);
            self.unlink(victim)?;
            self.delete(victim)?;
            if is_ghost {
                self.remember_ghost(&key)?;
            }
            self.header.evictions = self.header.evictions.wrapping_add(1);
        }
        Err(Corrupt)
    }

    /// Moves what was used longest ago from main to probation until there is room.
    fn make_room_in_main(&mut self, chunks: usize) -> Result<()> {
        for _ in 0..=self.chunks.len() {
            if self.header.proven as usize + chunks <= self.main_share() {
                return Ok(());
            }
            let last = self.header.main.tail;
            self.unlink(last)?;
            let entry = self.entry_mut(last)?;
            entry.state = state::DEMOTED;
            let freed = chunks_of(entry.data_len);
            self.header.proven = self.header.proven.checked_sub(freed).ok_or(Corrupt)?;
            self.link(last)?;
        }
        Err(Corrupt)
    }

    /// Whether a use of the entry changes anything.
    pub(super) fn use_matters(&self, index: u32) -> Result<bool> {
        let entry = self.entry(index)?;
        Ok(match entry.state {
            state::PROVEN => self.header.main.head != index,
            state::UNPROVEN | state::DEMOTED => {
                chunks_of(entry.data_len) as usize <= self.main_share()
            }
            _ => false,
        })
    }

    /// Notes a use of an entry for which [`use_matters`](Self::use_matters).
    pub(super) fn note_use(&mut self, index: u32) -> Result<()> {
        self.unlink(index)?;
        let entry = self.entry(index)?;
        if entry.state != state::PROVEN {
            let chunks = chunks_of(entry.data_len);
            self.make_room_in_main(chunks as usize)?;
            self.entry_mut(index)?.state = state::PROVEN;
            self.header.proven = self.header.proven.checked_add(chunks).ok_or(Corrupt)?;
        }
        self.link(index)
    }

    /// Makes room for one entry without a verdict, and says whether there is.
    ///
    /// Of the flights only the one that began first is looked at: leases are about equally long.
    pub(super) fn make_room_for_flight(&mut self, now: u64) -> Result<bool> {
        if self.without_verdict() < self.flight_share() {
            return Ok(true);
        }
        let Ends { tail: flying, .. } = self.header.flying;
        let victim = if flying != NIL && self.entry(flying)?.lease_until <= now {
            flying
        } else {
            self.header.failed.tail
        };
        if victim == NIL {
            return Ok(false);
        }
        self.unlink(victim)?;
        self.delete(victim)?;
        Ok(true)
    }

    // Ghosts

    /// Fingerprint of a key, never 0, and its set. Both are parts of a hash that the bucket is
    /// no part of.
    fn ghost_of(&mut self, key: &[u8; 16]) -> Option<(u16, &mut [u16; GHOST_WAYS])> {
        let [_, _, _, _, _, _, _, _, a, b, c, d, e, f, ..] = *key;
        let set = u32::from_ne_bytes([a, b, c, d]) as usize & self.ghosts.len().wrapping_sub(1);
        Some((u16::from_ne_bytes([e, f]).max(1), self.ghosts.get_mut(set)?))
    }

    /// Remembers a key. The oldest of its set is forgotten.
    fn remember_ghost(&mut self, key: &[u8; 16]) -> Result<()> {
        let (ghost, set) = self.ghost_of(key).ok_or(Corrupt)?;
        set.rotate_right(1);
        let [first, ..] = set;
        *first = ghost;
        Ok(())
    }

    /// Forgets a key, and says whether it was remembered.
    fn forget_ghost(&mut self, key: &Key) -> bool {
        let Some((ghost, set)) = self.ghost_of(key.as_bytes()) else { return false };
        let found = set.iter_mut().find(|place| **place == ghost);
        found.map(|place| *place = 0).is_some()
    }
}
