//! Layout of a zone: a header, the ring of ended flights, hash buckets, ghosts, and chunks.

use std::mem::size_of;

use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Most bytes kept under one key.
pub const MAX_DATA: usize = 128 * 1024;

/// Number of slots that [`Waiters`] can hold. Processes with a higher slot are not woken.
pub const MAX_SLOTS: u16 = 128;

/// Reason why memory is not a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ZoneError {
    /// The memory does not begin at a multiple of 8.
    #[error("memory is not aligned")]
    Alignment,
    /// The memory is smaller than [`MIN_SIZE`], larger than 1 TiB, or of another size than when
    /// it was formatted.
    #[error("unexpected size of memory")]
    Size,
    /// The memory was never formatted.
    #[error("not a zone")]
    Magic,
    /// The memory holds a zone of another version of this module.
    #[error("zone of another version")]
    Version,
}

/// Slots of the processes that wait for a flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waiters(pub(super) [u64; 2]);

impl Waiters {
    /// Whether no process waits.
    pub fn is_empty(self) -> bool {
        self.0 == [0; 2]
    }

    /// The slots in ascending order.
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

/// Times until which a verdict is of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worth {
    /// For as long as a session is used.
    Lasting,
    /// For seconds only, as a refusal is. It may take little room, however often it is used:
    /// anybody can cause as many as he likes, and use each of them twice.
    Passing,
}

/// No index.
pub(super) const NIL: u32 = u32::MAX;

/// First bytes of a zone: "authgear" in this machine's byte order.
const MAGIC: u64 = u64::from_ne_bytes(*b"authgear");

/// Changes with any change of this file, and with the form of the data kept in entries.
const VERSION: u32 = 2;

/// Bytes of a chunk.
pub const CHUNK: usize = 256;

/// Bytes of data in the first chunk of an entry.
pub(super) const INLINE: usize = 152;

/// Bytes of data in each further chunk.
pub(super) const FURTHER: usize = CHUNK - 8;

/// Fewest chunks of a zone that works.
pub(super) const MIN_CHUNKS: usize = 16;

/// Fingerprints in one set of ghosts.
pub(super) const GHOST_WAYS: usize = 8;

/// Number of hash buckets for each ghost.
const BUCKETS_PER_GHOST: usize = 1;

/// Number of hash buckets for each place in the ring of ended flights.
const BUCKETS_PER_END: usize = 8;

/// Least bytes of a zone that works: there is room for 14 short verdicts and 2 look-ups.
pub const MIN_SIZE: usize = size_of::<Header>()
    + MIN_CHUNKS * (size_of::<Entry>() + size_of::<u32>())
    + MIN_CHUNKS / BUCKETS_PER_GHOST * size_of::<u16>()
    + MIN_CHUNKS / BUCKETS_PER_END * size_of::<u64>();

/// Use of a chunk.
pub(super) mod kind {
    pub(crate) const FREE: u32 = 0x6672_6565;
    pub(crate) const ENTRY: u32 = 0x656e_7472;
    pub(crate) const FURTHER: u32 = 0x6675_7274;
}

/// First and last entry of a list.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Ends {
    pub(super) head: u32,
    pub(super) tail: u32,
}

/// The beginning of a zone; buckets and chunks follow.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Header {
    magic: u64,
    /// Bytes of the whole zone.
    size: u64,
    version: u32,
    /// Number of chunks that were ever used. The contents of the others are undefined.
    pub(super) touched: u32,
    /// First chunk of the free list: the one freed last.
    pub(super) free: u32,
    /// Length of the free list.
    pub(super) free_count: u32,
    /// Entries with a proven verdict, the one used last first.
    pub(super) main: Ends,
    /// Entries whose verdict is not proven: it was not used since it was stored. The newest is
    /// first.
    pub(super) probation: Ends,
    /// Entries with a flight and no verdict, the flight that began last first.
    pub(super) flying: Ends,
    /// Entries with a failure and nothing else, the newest first.
    pub(super) failed: Ends,
    pub(super) evictions: u64,
    /// Id of the last flight.
    pub(super) last_flight: u64,
    /// Number of flights that ever ended with somebody waiting.
    pub(super) ended: u64,
    pub(super) entries: u32,
    /// Chunks of entries that have a verdict.
    pub(super) kept: u32,
    /// Chunks of entries that have a proven verdict.
    pub(super) proven: u32,
    reserved: u32,
}

/// State of an entry's verdict.
pub(super) mod state {
    /// There is none.
    pub(crate) const NONE: u8 = 0;
    /// A verdict that is of use for seconds only (`Worth::Passing`).
    pub(crate) const PASSING: u8 = 1;
    /// It was not used since it was stored.
    pub(crate) const UNPROVEN: u8 = 2;
    /// It was proven once, and main has no room for it any more.
    pub(crate) const DEMOTED: u8 = 3;
    /// It was used since it was stored, or came back soon after its eviction.
    pub(crate) const PROVEN: u8 = 4;
}

/// A chunk as the first of an entry.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Entry {
    /// Next chunk of its data. In a free chunk the next free one.
    pub(super) next: u32,
    /// See [`kind`].
    pub(super) kind: u32,
    pub(super) key: [u8; 16],
    /// Next entry in its bucket.
    pub(super) bucket_next: u32,
    /// Neighbours in its list.
    pub(super) newer: u32,
    pub(super) older: u32,
    /// Bytes of the verdict.
    pub(super) data_len: u32,
    pub(super) fetched_at: u64,
    pub(super) expires_at: u64,
    /// Id of its flight, or 0.
    pub(super) flight: u64,
    pub(super) lease_until: u64,
    /// Id of the last flight that failed, or 0.
    pub(super) failed: u64,
    pub(super) waiters: [u64; 2],
    pub(super) owner_pid: u32,
    pub(super) owner_slot: u16,
    /// Reason of that failure.
    pub(super) why: u8,
    /// See [`state`].
    pub(super) state: u8,
    pub(super) data: [u8; INLINE],
}

/// A chunk as a further one of an entry.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Further {
    pub(super) next: u32,
    pub(super) kind: u32,
    pub(super) data: [u8; FURTHER],
}

const _: () = assert!(size_of::<Entry>() == CHUNK && size_of::<Further>() == CHUNK);

/// The parts of a zone.
pub(super) struct Region<'m> {
    size: u64,
    pub(super) header: &'m mut Header,
    /// Ids of the flights that ended last: flight n is at n modulo the length.
    pub(super) ended: &'m mut [u64],
    /// First entry of each bucket. The number of buckets is a power of two.
    pub(super) buckets: &'m mut [u32],
    /// Fingerprints of keys that were evicted unproven, in sets of [`GHOST_WAYS`].
    pub(super) ghosts: &'m mut [[u16; GHOST_WAYS]],
    pub(super) chunks: &'m mut [Entry],
}

impl<'m> Region<'m> {
    /// Splits memory, whatever it holds, into the parts of a zone.
    pub(super) fn split(memory: &'m mut [u8]) -> Result<Self, ZoneError> {
        if memory.len() < MIN_SIZE {
            return Err(ZoneError::Size);
        }
        let size = memory.len() as u64;
        // From here on only the alignment can be wrong.
        let (header, rest) = Header::mut_from_prefix(memory).map_err(|_| ZoneError::Alignment)?;
        let buckets = rest.len() / (size_of::<Entry>() + size_of::<u32>());
        let buckets = buckets.next_power_of_two();
        let (ended, rest) = <[u64]>::mut_from_prefix_with_elems(rest, buckets / BUCKETS_PER_END)
            .map_err(|_| ZoneError::Alignment)?;
        let (buckets, rest) =
            <[u32]>::mut_from_prefix_with_elems(rest, buckets).map_err(|_| ZoneError::Alignment)?;
        let ghosts = buckets.len() / BUCKETS_PER_GHOST / GHOST_WAYS;
        let (ghosts, rest) = <[[u16; GHOST_WAYS]]>::mut_from_prefix_with_elems(rest, ghosts)
            .map_err(|_| ZoneError::Alignment)?;
        let chunks = rest.len() / size_of::<Entry>();
        if u32::try_from(chunks).is_err() {
            return Err(ZoneError::Size);
        }
        let (chunks, _) = <[Entry]>::mut_from_prefix_with_elems(rest, chunks)
            .map_err(|_| ZoneError::Alignment)?;
        Ok(Self { size, header, ended, buckets, ghosts, chunks })
    }

    /// Checks that it is a zone.
    pub(super) fn check(&self) -> Result<(), ZoneError> {
        if self.header.magic != MAGIC {
            return Err(ZoneError::Magic);
        }
        if self.header.version != VERSION {
            return Err(ZoneError::Version);
        }
        if self.header.size != self.size {
            return Err(ZoneError::Size);
        }
        Ok(())
    }

    /// Makes it an empty zone again.
    pub(super) fn empty(&mut self) {
        self.format(self.header.last_flight, self.header.ended);
    }

    /// Makes it an empty zone. No chunk is written: the time does not depend on the size of data.
    ///
    /// Flights are numbered on from `last_flight` and `ended`, so that no process mistakes a new
    /// flight for one from before.
    pub(super) fn format(&mut self, last_flight: u64, ended: u64) {
        const NONE: Ends = Ends { head: NIL, tail: NIL };
        *self.header = Header {
            magic: MAGIC,
            size: self.size,
            version: VERSION,
            touched: 0,
            free: NIL,
            free_count: 0,
            main: NONE,
            probation: NONE,
            flying: NONE,
            failed: NONE,
            evictions: 0,
            last_flight,
            ended,
            entries: 0,
            kept: 0,
            proven: 0,
            reserved: 0,
        };
        self.ended.fill(0);
        self.buckets.fill(NIL);
        self.ghosts.fill([0; GHOST_WAYS]);
    }
}
