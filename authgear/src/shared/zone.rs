//! Shared memory of several processes: verdicts, and the look-ups that are under way.
//!
//! A zone is a map in a flat region of bytes. It holds no pointers, so each process may map the
//! region at another address. It never grows. The module `admission` says which entry makes
//! room for which: a verdict that was never used displaces none that was, and a look-up under
//! way displaces no verdict. All calls are made under a lock that the caller holds.
//!
//! A process may be killed at any instruction, and the lock is then released for it. A mark
//! outside the region tells that a change was under way: the next process that opens the zone
//! empties it. A contradiction in the region, which only a fault can cause, empties it too.
//!
//! Times are milliseconds of one monotonic clock that all processes share.
//!
//! ```
//! # use authgear::{credentials::{CookieNames, Credentials}, shared::cache_key::{Key, KeySecret}};
//! # let secret = KeySecret::from_bytes([0; 16]);
//! # let credentials = Credentials::read(Some(b"Bearer a"), [], &CookieNames::default());
//! # let key = Key::of(&secret, b"project", &credentials);
//! # #[repr(align(8))]
//! # struct Memory([u8; MIN_SIZE]);
//! # let mut memory = Memory([0; MIN_SIZE]);
//! # let memory = &mut memory.0;
//! use std::sync::atomic::AtomicU32;
//! use authgear::shared::zone::{Flight, Outcome, Owner, Worth, Zone, MIN_SIZE, NEVER};
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
//! // The first has its answer and wakes the other:
//! let stored = zone.store(&key, Some(id), Worth::Lasting, (1_020, NEVER), b"verdict");
//! assert_eq!(stored.waiters.slots().collect::<Vec<_>>(), [2]);
//! // The other looks:
//! assert_eq!(zone.outcome(&key, id), Outcome::Gone);
//! assert_eq!(*zone.get(&key).unwrap().data, *b"verdict");
//! # Ok::<(), authgear::shared::zone::ZoneError>(())
//! ```

mod admission;
mod arena;
mod layout;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::hint::black_box;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::shared::cache_key::Key;
use arena::{further_chunks, Corrupt};
use layout::{state, Region};

pub use layout::{Waiters, Worth, ZoneError, CHUNK, MAX_DATA, MAX_SLOTS, MIN_SIZE};

/// Expiry time of verdicts that never expire.
pub const NEVER: u64 = u64::MAX;

/// A process that makes a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Number under which the process can be woken.
    pub slot: u16,
    /// Process id.
    pub pid: u32,
}

/// A kept verdict.
#[derive(Clone, PartialEq, Eq)]
pub struct Record<'a> {
    /// Time at which the verdict was asked for.
    pub fetched_at: u64,
    /// Time at which it expires, whatever its age, or [`NEVER`].
    pub expires_at: u64,
    /// Whether it was used since it was stored. This use counts. Never of a
    /// [passing](Worth::Passing) verdict.
    pub proven: bool,
    /// The stored data.
    pub data: Cow<'a, [u8]>,
}

impl fmt::Debug for Record<'_> {
    /// Omits the data, which is about a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("fetched_at", &self.fetched_at)
            .field("expires_at", &self.expires_at)
            .field("proven", &self.proven)
            .finish_non_exhaustive()
    }
}

/// Result of [`Zone::store`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Stored {
    /// Whether the verdict is kept. Only a large one may not be.
    pub kept: bool,
    /// Processes to wake: the flight has ended.
    pub waiters: Waiters,
}

/// Role of the caller in a look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flight {
    /// The caller makes the look-up, and ends it with [`Zone::store`] or [`Zone::fail`].
    Leader {
        /// Id of the flight, never 0.
        id: u64,
    },
    /// Another process makes the look-up. It wakes the caller at the end. The caller asks
    /// [`Zone::outcome`] then, and from time to time.
    Follower {
        /// Id of the flight.
        id: u64,
        /// The process that makes the look-up.
        owner: Owner,
        /// Time from which another process may take over.
        lease_until: u64,
    },
    /// The caller makes the look-up, and others may make the same one: the room for look-ups
    /// under way is used up.
    Alone,
}

/// State of a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The flight is under way, or its leader died.
    Pending,
    /// The flight ended without a verdict to keep, for this reason.
    Failed(u8),
    /// The flight is no longer known: look for the verdict, and lead if there is none.
    Gone,
}

/// Use of a zone's room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Number of keys, with a verdict or without.
    pub entries: usize,
    /// Number of chunks of the zone. An entry takes at least one.
    pub chunks: usize,
    /// Number of free chunks.
    pub chunks_free: usize,
    /// Number of verdicts that were removed to make room since the zone was formatted or found
    /// damaged.
    pub evictions: u64,
}

/// A zone whose lock is held.
pub struct Zone<'m> {
    region: Region<'m>,
    dirty: &'m AtomicU32,
    emptied: bool,
}

impl<'m> Zone<'m> {
    /// Makes an empty zone of memory that no other process uses yet, whatever it holds.
    ///
    /// # Errors
    ///
    /// The memory must begin at a multiple of 8 and have [`MIN_SIZE`] bytes.
    pub fn format(memory: &mut [u8]) -> Result<(), ZoneError> {
        Region::split(memory)?.format(0, 0);
        Ok(())
    }

    /// Opens the zone in this memory; see [`emptied`](Self::emptied).
    ///
    /// `dirty` is the mark of a change under way: outside the memory, and 0 when the zone is
    /// made. Memory and mark must not be used otherwise while the zone is open.
    ///
    /// # Errors
    ///
    /// See [`ZoneError`]. Nothing is changed then.
    pub fn open(memory: &'m mut [u8], dirty: &'m AtomicU32) -> Result<Self, ZoneError> {
        let mut zone = Self { region: Region::split(memory)?, dirty, emptied: false };
        if dirty.load(Ordering::SeqCst) == 0 {
            zone.region.check()?;
        } else {
            zone.recover();
        }
        Ok(zone)
    }

    /// Whether the zone was emptied by or since its opening, as a change was broken off or its
    /// contents contradict each other.
    pub fn emptied(&self) -> bool {
        self.emptied
    }

    /// Returns the verdict kept under `key`, whatever its age, and notes its use.
    pub fn get(&mut self, key: &Key) -> Option<Record<'_>> {
        let index = self.used(key)?;
        let long = match self.region.long_data(index) {
            Ok(long) => long,
            Err(Corrupt) => {
                self.recover();
                return None;
            }
        };
        let entry = self.region.entry(index).ok()?;
        let data = match long {
            Some(data) => Cow::Owned(data),
            None => Cow::Borrowed(Region::short_data(entry)?),
        };
        Some(Record {
            fetched_at: entry.fetched_at,
            expires_at: entry.expires_at,
            proven: entry.state == state::PROVEN,
            data,
        })
    }

    /// Notes a use of the verdict kept under `key` that the caller served from a copy.
    ///
    /// One call for each copy suffices: without any, a verdict that only copies serve would
    /// count as never used, and make room early.
    pub fn touch(&mut self, key: &Key) {
        let _ = self.used(key);
    }

    /// Finds the entry of a verdict, and notes its use.
    fn used(&mut self, key: &Key) -> Option<u32> {
        let found = self.region.find(key).and_then(|found| {
            let Some(index) = found else { return Ok(None) };
            let has_verdict = self.region.entry(index)?.state != state::NONE;
            Ok(has_verdict.then_some((index, self.region.use_matters(index)?)))
        });
        match found {
            // The most used entries are read without a write.
            Ok(Some((index, false))) => Some(index),
            Ok(Some((index, true))) => {
                self.change(|region| region.note_use(index))?;
                Some(index)
            }
            Ok(None) => None,
            Err(Corrupt) => {
                self.recover();
                None
            }
        }
    }

    /// Keeps a verdict with its times `(fetched_at, expires_at)` in place of any other under
    /// `key`, and ends the flight: `id`, or with `None` whichever there is. If another flight
    /// took `id` over, that one goes on.
    ///
    /// A verdict that takes more room than the zone has for its kind, or whose data is longer
    /// than [`MAX_DATA`], is not kept. The verdict that was there goes, and the flight ends all
    /// the same.
    pub fn store(
        &mut self,
        key: &Key,
        id: Option<u64>,
        worth: Worth,
        times: (u64, u64),
        data: &[u8],
    ) -> Stored {
        let chunks = 1 + further_chunks(data.len());
        self.change(|region| {
            let found = region.find(key)?;
            let mut waiters = Waiters::default();
            let mut was_proven = false;
            if let Some(index) = found {
                region.unlink(index)?;
                was_proven = region.entry(index)?.state == state::PROVEN;
                region.drop_verdict(index)?;
                if id.is_none_or(|id| region.entry(index).is_ok_and(|entry| entry.flight == id)) {
                    waiters = region.end_flight(index)?;
                }
            }
            let fits = data.len() <= MAX_DATA;
            let state = fits.then(|| region.admit(key, chunks, worth, was_proven)).flatten();
            let Some(state) = state else {
                if let Some(index) = found {
                    let entry = region.entry(index)?;
                    let is_empty = entry.flight == 0 && entry.failed == 0;
                    if is_empty || region.without_verdict() > region.flight_share() {
                        region.delete(index)?;
                    } else {
                        region.link(index)?;
                    }
                }
                return Ok(Stored { kept: false, waiters });
            };
            // In no list, the entry itself cannot be chosen to make room.
            region.make_room(chunks, state)?;
            let index = match found {
                Some(index) => index,
                None => region.insert(key)?,
            };
            region.set_verdict(index, state, times, data)?;
            region.entry_mut(index)?.failed = 0;
            region.link(index)?;
            Ok(Stored { kept: true, waiters })
        })
        .unwrap_or_default()
    }

    /// Begins the flight of `key`, to be ended before `lease_until`, unless there is one.
    ///
    /// A flight whose lease is over at `now` is taken over: its waiters wait for the new one. A
    /// caller that knows that the owner died need not wait for the end of the lease: with that
    /// time as `now`, that flight and no later one is taken over.
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
                    let (taken_over, waiters) = (entry.flight, Waiters(entry.waiters));
                    region.unlink(index)?;
                    region.flight_ended(taken_over, waiters)?;
                    index
                }
                None => {
                    if !region.make_room_for_flight(now)? {
                        return Ok(Flight::Alone);
                    }
                    region.insert(key)?
                }
            };
            // 0 means no flight.
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

    /// Ends flight `id` of `key` without a verdict, and keeps the reason for its waiters. A
    /// verdict from before is kept. Nothing happens if that flight was taken over or is no longer
    /// known.
    pub fn fail(&mut self, key: &Key, id: u64, why: u8) -> Waiters {
        self.change(|region| {
            let Some(index) = region.find(key)? else { return Ok(Waiters::default()) };
            if id == 0 || region.entry(index)?.flight != id {
                return Ok(Waiters::default());
            }
            region.unlink(index)?;
            let waiters = region.end_flight(index)?;
            let entry = region.entry_mut(index)?;
            entry.failed = id;
            entry.why = why;
            region.link(index)?;
            Ok(waiters)
        })
        .unwrap_or_default()
    }

    /// Returns the state of flight `id` of `key`.
    pub fn outcome(&self, key: &Key, id: u64) -> Outcome {
        let Ok(Some(index)) = self.region.find(key) else { return Outcome::Gone };
        match self.region.entry(index) {
            Ok(entry) if id != 0 && entry.flight == id => Outcome::Pending,
            Ok(entry) if id != 0 && entry.failed == id => Outcome::Failed(entry.why),
            _ => Outcome::Gone,
        }
    }

    /// Number of flights that ever ended while a process waited for them.
    pub fn flights_ended(&self) -> u64 {
        self.region.header.ended
    }

    /// Ids of the flights that ended while a process waited for them, since
    /// [`flights_ended`](Self::flights_ended) returned `since`. `None` if they are no longer all
    /// known: any flight may have ended then.
    pub fn flights_ended_since(&self, since: u64) -> Option<impl Iterator<Item = u64> + '_> {
        let ring = &*self.region.ended;
        let count = self.region.header.ended.checked_sub(since)?;
        let is_known = usize::try_from(count).is_ok_and(|count| count <= ring.len());
        let at = move |n: u64| ring.get(n as usize % ring.len().max(1)).copied();
        is_known.then(|| (since..since.saturating_add(count)).filter_map(at))
    }

    /// Removes the verdict and the flight of `key`, and returns the waiters of the flight. Its
    /// leader may yet store a verdict.
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

    /// Removes the verdict kept under `key`, unless a look-up of `key` is under way. Returns
    /// whether one is.
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

    /// Removes everything. Processes in any slot may have been waiting.
    pub fn clear(&mut self) {
        self.change(|region| {
            let evictions = region.header.evictions;
            region.empty();
            region.header.evictions = evictions;
            Ok(())
        });
    }

    /// Returns how much room is used.
    pub fn stats(&self) -> Stats {
        Stats {
            entries: self.region.header.entries as usize,
            chunks: self.region.chunks.len(),
            chunks_free: self.region.available(),
            evictions: self.region.header.evictions,
        }
    }

    /// Empties the zone, as its contents cannot be trusted.
    fn recover(&mut self) {
        self.change(|_| Err::<(), _>(Corrupt));
    }

    /// Makes a change, and empties the zone if `body` finds a contradiction.
    fn change<T>(&mut self, body: impl FnOnce(&mut Region<'m>) -> Result<T, Corrupt>) -> Option<T> {
        // This process may be killed (SIGKILL, the OOM killer) at any instruction of what follows,
        // and the next holder of the lock sees what was written until then. So the first write
        // must set the mark, and the last one take it away. The compiler may reorder plain
        // writes; the two atomic operations keep them between, as acquire and release. The
        // processor's reordering does not matter: when a process is seen to be dead, all it did
        // up to some instruction is done, and nothing after.
        self.dirty.swap(1, Ordering::SeqCst);
        // The compiler may delay writes to memory that nothing else refers to: let it assume that
        // others do, which is true.
        black_box(&mut self.region);
        let result = body(&mut self.region);
        if result.is_err() {
            self.region.empty();
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
