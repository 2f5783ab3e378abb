//! Memory that several processes share: verdicts, and who is asking for one.
//!
//! A zone is a map in a flat region of bytes. It holds no pointers, so that every process may have
//! the region at another address, and it never grows: who was used longest ago makes room. All
//! calls are made under a lock that the caller has.
//!
//! A process may be killed at any instruction, and the lock is then freed for it. A mark outside
//! the region says that a change was going on; who finds it starts with an empty zone. So does
//! who finds a contradiction, which only a fault could have made.
//!
//! Times are milliseconds of one monotonic clock that all processes share.
//!
//! ```
//! # use authgear::{credentials::{CookieNames, Credentials}, key::{Key, KeySecret}};
//! # let secret = KeySecret::from_bytes([0; 16]);
//! # let credentials = Credentials::read(Some(b"Bearer a"), [], &CookieNames::default());
//! # let key = Key::of(&secret, b"project", &credentials);
//! # #[repr(align(8))]
//! # struct Memory([u8; MIN_SIZE]);
//! # let mut memory = Memory([0; MIN_SIZE]);
//! # let memory = &mut memory.0;
//! use std::sync::atomic::AtomicU32;
//! use authgear::zone::{Flight, Outcome, Owner, Zone, MIN_SIZE, NEVER};
//!
//! // Once, before there are other processes:
//! Zone::format(memory)?;
//! let dirty = AtomicU32::new(0);
//!
//! // Under the lock:
//! let mut zone = Zone::open(memory, &dirty)?;
//! assert!(zone.get(&key).is_none());
//! let [first, second] = [1, 2].map(|slot| Owner { slot, pid: 100 + u32::from(slot) });
//! let Flight::Leader { id } = zone.lead(&key, first, 1_000, 6_000) else { unreachable!() };
//! // Another process must not ask too:
//! assert_eq!(zone.lead(&key, second, 1_001, 6_001), Flight::Follower { id, owner: first, lease_until: 6_000 });
//! assert_eq!(zone.outcome(&key, id), Outcome::Pending);
//! // The first has its answer, and wakes the other:
//! let stored = zone.store(&key, Some(id), 1_020, NEVER, b"verdict");
//! assert_eq!(stored.waiters.slots().collect::<Vec<_>>(), [2]);
//! // ... which looks:
//! assert_eq!(zone.outcome(&key, id), Outcome::Gone);
//! assert_eq!(*zone.get(&key).unwrap().data, *b"verdict");
//! # Ok::<(), authgear::zone::ZoneError>(())
//! ```

mod arena;
mod layout;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;

use crate::shared::cache_key::Key;
use arena::{further_chunks, Corrupt};
use layout::Region;

pub use layout::{CHUNK, MIN_SIZE};

/// Most bytes that are kept under one key.
pub const MAX_DATA: usize = 128 * 1024;

/// Slots from this one on are never in [`Waiters`].
pub const MAX_SLOTS: u16 = 128;

/// A time that does not come: what never expires has it.
pub const NEVER: u64 = u64::MAX;

/// Why memory is no zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ZoneError {
    /// It does not begin at a multiple of 8.
    #[error("memory is not aligned")]
    Alignment,
    /// It is smaller than [`MIN_SIZE`], larger than 1 TiB, or not what it was when formatted.
    #[error("unexpected size of memory")]
    Size,
    /// It was never formatted.
    #[error("not a zone")]
    Magic,
    /// It is a zone of another version of this module.
    #[error("zone of another version")]
    Version,
}

/// Who is making a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The number under which this process can be woken.
    pub slot: u16,
    /// Its process id.
    pub pid: u32,
}

/// The slots of those who wait for a flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiters([u64; 2]);

impl Waiters {
    /// Whether nobody waits.
    pub fn is_empty(self) -> bool {
        self.0 == [0; 2]
    }

    /// The slots, in their order.
    pub fn slots(self) -> impl Iterator<Item = u16> {
        let bits = u128::from(self.0[1]) << 64 | u128::from(self.0[0]);
        (0..MAX_SLOTS).filter(move |slot| bits >> slot & 1 == 1)
    }
}

impl From<Waiters> for [u64; 2] {
    /// Slot n is bit n modulo 64 of word n / 64.
    fn from(waiters: Waiters) -> Self {
        waiters.0
    }
}

/// A verdict that is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was made.
    pub fetched_at: u64,
    /// When it ends, whatever its age, or [`NEVER`].
    pub expires_at: u64,
    /// What was stored.
    pub data: Cow<'a, [u8]>,
}

impl fmt::Debug for Record<'_> {
    /// Tells everything but the data, which is about a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("fetched_at", &self.fetched_at)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// What came of [`Zone::store`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Stored {
    /// Whether the verdict is kept. Only one that is too large is not.
    pub kept: bool,
    /// Whom to wake: the flight has ended.
    pub waiters: Waiters,
}

/// Who makes a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flight {
    /// The caller, who ends it with [`Zone::store`] or [`Zone::fail`].
    Leader {
        /// What the flight is called, never 0.
        id: u64,
    },
    /// Somebody else. The caller is woken at its end, and asks [`Zone::outcome`] then and from
    /// time to time.
    Follower {
        /// What the flight is called.
        id: u64,
        /// Who makes it.
        owner: Owner,
        /// When somebody else may take over.
        lease_until: u64,
    },
    /// The caller, and others may do the same: there is no room to note it.
    Alone,
}

/// What became of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is under way, or its leader died.
    Pending,
    /// It ended without a verdict to keep, for this reason.
    Failed(u8),
    /// It is no longer known: look for the verdict, and lead if there is none.
    Gone,
}

/// How full a zone is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys that are there, with a verdict or without.
    pub entries: usize,
    /// Chunks that the zone is made of. An entry takes at least one.
    pub chunks: usize,
    /// Chunks of them that are free.
    pub chunks_free: usize,
    /// Entries that were removed to make room since the zone was formatted or found damaged.
    pub evictions: u64,
}

/// A zone, as long as its lock is held.
pub struct Zone<'m> {
    region: Region<'m>,
    dirty: &'m AtomicU32,
    emptied: bool,
}

impl<'m> Zone<'m> {
    /// Makes an empty zone of memory that may hold anything, and that nobody else uses yet.
    ///
    /// # Errors
    ///
    /// The memory must begin at a multiple of 8 and have [`MIN_SIZE`] bytes.
    pub fn format(memory: &mut [u8]) -> Result<(), ZoneError> {
        Region::split(memory)?.format(0);
        Ok(())
    }

    /// The zone in this memory; see [`emptied`](Self::emptied).
    ///
    /// `dirty` is the mark of a change going on: 0 when the zone is made, and not in its memory.
    /// Memory and mark must not be used otherwise while the zone is.
    ///
    /// # Errors
    ///
    /// See [`ZoneError`]. Nothing was changed then.
    pub fn open(memory: &'m mut [u8], dirty: &'m AtomicU32) -> Result<Self, ZoneError> {
        let mut zone = Self { region: Region::split(memory)?, dirty, emptied: false };
        if dirty.load(Ordering::SeqCst) == 0 {
            zone.region.check()?;
        } else {
            zone.recover();
        }
        Ok(zone)
    }

    /// Whether it was emptied since it was opened, or by that, because of what was found in it.
    pub fn emptied(&self) -> bool {
        self.emptied
    }

    /// The verdict kept under `key`, whatever its age.
    pub fn get(&mut self, key: &Key) -> Option<Record<'_>> {
        let index = match self.region.find(key) {
            Ok(found) => found?,
            Err(Corrupt) => {
                self.recover();
                return None;
            }
        };
        let entry = self.region.entry(index).ok()?;
        if entry.has_verdict == 0 {
            return None;
        }
        let used_last = entry.flight != 0 || self.region.header.idle.head == index;
        let long = match self.region.long_data(index) {
            Ok(long) => long,
            Err(Corrupt) => {
                self.recover();
                return None;
            }
        };
        // The most used entries are read without a write.
        if !used_last {
            self.change(|region| {
                region.unlink(index)?;
                region.link(index)
            })?;
        }
        let entry = self.region.entry(index).ok()?;
        let data = match long {
            Some(data) => Cow::Owned(data),
            None => Cow::Borrowed(Region::short_data(entry)?),
        };
        Some(Record { fetched_at: entry.fetched_at, expires_at: entry.expires_at, data })
    }

    /// Keeps a verdict made now, at `fetched_at`, in place of any other under `key`, and ends the
    /// flight: `id`, or with `None` whichever there is. If `id` was taken over by another flight,
    /// that one goes on.
    ///
    /// What was used longest ago makes room, and what is in flight only when nothing else is left.
    /// Whoever waits for such a flight finds it [`Gone`](Outcome::Gone) when he looks.
    ///
    /// Data longer than [`MAX_DATA`], or than the whole zone can hold, is not kept; the verdict
    /// that was there goes, and the flight ends all the same.
    pub fn store(
        &mut self,
        key: &Key,
        id: Option<u64>,
        fetched_at: u64,
        expires_at: u64,
        data: &[u8],
    ) -> Stored {
        let further = further_chunks(data.len());
        let kept = data.len() <= MAX_DATA && further < self.region.chunks.len();
        self.change(|region| {
            let found = region.find(key)?;
            let mut waiters = Waiters::default();
            if let Some(index) = found {
                region.unlink(index)?;
                region.drop_verdict(index)?;
                let entry = region.entry_mut(index)?;
                if id.is_none_or(|id| entry.flight == id) {
                    entry.flight = 0;
                    waiters = Waiters(std::mem::take(&mut entry.waiters));
                }
                if !kept {
                    if entry.flight == 0 && entry.failed == 0 {
                        region.delete(index)?;
                    } else {
                        region.link(index)?;
                    }
                }
            }
            if kept {
                let wanted = further + usize::from(found.is_none());
                // In no list, the entry itself cannot be what makes room.
                if !region.make_room(wanted, fetched_at, true)? {
                    return Err(Corrupt);
                }
                let index = match found {
                    Some(index) => index,
                    None => region.insert(key)?,
                };
                region.set_verdict(index, fetched_at, expires_at, data)?;
                region.entry_mut(index)?.failed = 0;
                region.link(index)?;
            }
            Ok(Stored { kept, waiters })
        })
        .unwrap_or_default()
    }

    /// Begins the flight of `key`, to be ended before `lease_until`, unless there is one.
    ///
    /// A flight whose lease is over at `now` is taken over: who waits for it waits for the new
    /// one. Somebody who knows that its owner died need not wait for that: with the lease's end
    /// as `now`, that flight and no later one is taken over.
    pub fn lead(&mut self, key: &Key, owner: Owner, now: u64, lease_until: u64) -> Flight {
        self.change(|region| {
            let index = match region.find(key)? {
                Some(index) => {
                    let entry = region.entry_mut(index)?;
                    if entry.flight != 0 && now < entry.lease_until {
                        if let Some(word) = entry.waiters.get_mut(usize::from(owner.slot / 64)) {
                            *word |= 1 << (owner.slot % 64);
                        }
                        return Ok(Flight::Follower {
                            id: entry.flight,
                            owner: Owner { slot: entry.owner_slot, pid: entry.owner_pid },
                            lease_until: entry.lease_until,
                        });
                    }
                    region.unlink(index)?;
                    index
                }
                None => {
                    if !region.make_room(1, now, false)? {
                        return Ok(Flight::Alone);
                    }
                    region.insert(key)?
                }
            };
            // 0 is none.
            let id = region.header.last_flight.wrapping_add(1).max(1);
            region.header.last_flight = id;
            let entry = region.entry_mut(index)?;
            entry.flight = id;
            entry.lease_until = lease_until;
            entry.owner_slot = owner.slot;
            entry.owner_pid = owner.pid;
            region.link(index)?;
            Ok(Flight::Leader { id })
        })
        .unwrap_or(Flight::Alone)
    }

    /// Ends flight `id` of `key` without a verdict, and tells who waits for it why. A verdict from
    /// before is kept. Nothing happens if that flight was taken over, or is no longer known.
    pub fn fail(&mut self, key: &Key, id: u64, why: u8) -> Waiters {
        self.change(|region| {
            let Some(index) = region.find(key)? else { return Ok(Waiters::default()) };
            if id == 0 || region.entry(index)?.flight != id {
                return Ok(Waiters::default());
            }
            region.unlink(index)?;
            let entry = region.entry_mut(index)?;
            entry.flight = 0;
            entry.failed = id;
            entry.why = why;
            let waiters = Waiters(std::mem::take(&mut entry.waiters));
            region.link(index)?;
            Ok(waiters)
        })
        .unwrap_or_default()
    }

    /// What became of flight `id` of `key`.
    pub fn outcome(&self, key: &Key, id: u64) -> Outcome {
        let Ok(Some(index)) = self.region.find(key) else { return Outcome::Gone };
        match self.region.entry(index) {
            Ok(entry) if id != 0 && entry.flight == id => Outcome::Pending,
            Ok(entry) if id != 0 && entry.failed == id => Outcome::Failed(entry.why),
            _ => Outcome::Gone,
        }
    }

    /// Removes what is known of `key`: the verdict, and the flight, whose waiters are returned.
    /// Its leader may yet store a verdict.
    pub fn remove(&mut self, key: &Key) -> Waiters {
        self.change(|region| {
            let Some(index) = region.find(key)? else { return Ok(Waiters::default()) };
            let waiters = Waiters(region.entry(index)?.waiters);
            region.unlink(index)?;
            region.delete(index)?;
            Ok(waiters)
        })
        .unwrap_or_default()
    }

    /// Removes the verdict kept under `key`, unless `key` is in flight: true then.
    pub fn forget(&mut self, key: &Key) -> bool {
        let Ok(found) = self.region.find(key) else {
            self.recover();
            return false;
        };
        let flying = |index| self.region.entry(index).is_ok_and(|entry| entry.flight != 0);
        if found.is_some_and(flying) {
            return true;
        }
        let _ = self.remove(key);
        false
    }

    /// Removes everything. Any slot may have been waiting.
    pub fn clear(&mut self) {
        self.change(|region| {
            let evictions = region.header.evictions;
            region.format(region.header.last_flight);
            region.header.evictions = evictions;
            Ok(())
        });
    }

    /// How full it is.
    pub fn stats(&self) -> Stats {
        Stats {
            entries: self.region.header.entries as usize,
            chunks: self.region.chunks.len(),
            chunks_free: self.region.available(),
            evictions: self.region.header.evictions,
        }
    }

    /// Empties the zone, of which nothing can be believed.
    fn recover(&mut self) {
        self.change(|_| Err::<(), _>(Corrupt));
    }

    /// Makes a change, and empties the zone if it finds that it cannot.
    fn change<T>(&mut self, body: impl FnOnce(&mut Region<'m>) -> Result<T, Corrupt>) -> Option<T> {
        // This process may be killed (SIGKILL, the OOM killer) at any instruction of what follows,
        // and whoever gets the lock next sees what was written until then. So the mark must be
        // set by the first write and taken away by the last. Plain writes may be reordered by the
        // compiler; the two atomic operations keep them between, as acquire and release. What
        // the processor may reorder does not matter: when a process is seen to be dead, all it
        // did up to some instruction is done, and nothing after.
        self.dirty.swap(1, Ordering::SeqCst);
        // Memory that is known to nobody else could be written at any time: let the compiler
        // believe that others have it, as they do.
        black_box(&mut self.region);
        let result = body(&mut self.region);
        if result.is_err() {
            self.region.format(self.region.header.last_flight);
            self.emptied = true;
        }
        black_box(&mut self.region);
        self.dirty.store(0, Ordering::SeqCst);
        result.ok()
    }
}

impl fmt::Debug for Zone<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zone").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
