//! What a zone's bytes mean.

use std::mem::size_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::ZoneError;

/// No index.
pub(super) const NIL: u32 = u32::MAX;

/// The first bytes of a zone: "authgear", as this machine reads them.
const MAGIC: u64 = u64::from_ne_bytes(*b"authgear");

/// Changes with any change of this file, and of what is kept in entries.
const VERSION: u32 = 1;

/// Bytes of a chunk.
pub const CHUNK: usize = 256;

/// Bytes of data in the first chunk of an entry.
pub(super) const INLINE: usize = 152;

/// Bytes of data in each further chunk.
pub(super) const FURTHER: usize = CHUNK - 8;

/// Fewest chunks of a zone that works.
pub(super) const MIN_CHUNKS: usize = 16;

/// Least bytes of a zone that works: there is room for 16 short verdicts.
pub const MIN_SIZE: usize =
    size_of::<Header>() + MIN_CHUNKS * (size_of::<Entry>() + size_of::<u32>());

/// What a chunk is used as.
pub(super) mod kind {
    pub(in super::super) const FREE: u32 = 0x6672_6565;
    pub(in super::super) const ENTRY: u32 = 0x656e_7472;
    pub(in super::super) const FURTHER: u32 = 0x6675_7274;
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
    /// Of all bytes.
    size: u64,
    version: u32,
    /// How many of the chunks were ever used; what is in the others is anything.
    pub(super) touched: u32,
    /// Last chunk that was given back.
    pub(super) free: u32,
    /// How many were.
    pub(super) free_count: u32,
    /// Entries that nobody asks about, the one used last first.
    pub(super) idle: Ends,
    /// Entries in flight, the flight that began last first.
    pub(super) flying: Ends,
    pub(super) evictions: u64,
    /// Id of the last flight.
    pub(super) last_flight: u64,
    pub(super) entries: u32,
    reserved: u32,
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
    /// Neighbours in its list: used later, used earlier.
    pub(super) newer: u32,
    pub(super) older: u32,
    /// Bytes of the verdict.
    pub(super) data_len: u32,
    pub(super) fetched_at: u64,
    pub(super) expires_at: u64,
    /// Id of the flight that it is in, or 0.
    pub(super) flight: u64,
    pub(super) lease_until: u64,
    /// Id of the last flight that failed, or 0.
    pub(super) failed: u64,
    pub(super) waiters: [u64; 2],
    pub(super) owner_pid: u32,
    pub(super) owner_slot: u16,
    /// Why that flight failed.
    pub(super) why: u8,
    /// Whether there is a verdict: 0 or 1.
    pub(super) has_verdict: u8,
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
    /// First entry of each; as many as a power of two.
    pub(super) buckets: &'m mut [u32],
    pub(super) chunks: &'m mut [Entry],
}

impl<'m> Region<'m> {
    /// Takes memory apart, which may hold anything.
    pub(super) fn split(memory: &'m mut [u8]) -> Result<Self, ZoneError> {
        if memory.len() < MIN_SIZE {
            return Err(ZoneError::Size);
        }
        let size = memory.len() as u64;
        // All that can fail from here on is the alignment.
        let (header, rest) = Header::mut_from_prefix(memory).map_err(|_| ZoneError::Alignment)?;
        let buckets = rest.len() / (size_of::<Entry>() + size_of::<u32>());
        let buckets = buckets.next_power_of_two();
        let (buckets, rest) =
            <[u32]>::mut_from_prefix_with_elems(rest, buckets).map_err(|_| ZoneError::Alignment)?;
        let chunks = rest.len() / size_of::<Entry>();
        if u32::try_from(chunks).is_err() {
            return Err(ZoneError::Size);
        }
        let (chunks, _) = <[Entry]>::mut_from_prefix_with_elems(rest, chunks)
            .map_err(|_| ZoneError::Alignment)?;
        Ok(Self { size, header, buckets, chunks })
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

    /// Makes it an empty zone. No chunk is touched: this is quick however large it is.
    ///
    /// Ids go on after `last_flight`, so that nobody takes a new flight for one from before.
    pub(super) fn format(&mut self, last_flight: u64) {
        const NONE: Ends = Ends { head: NIL, tail: NIL };
        *self.header = Header {
            magic: MAGIC,
            size: self.size,
            version: VERSION,
            touched: 0,
            free: NIL,
            free_count: 0,
            idle: NONE,
            flying: NONE,
            evictions: 0,
            last_flight,
            entries: 0,
            reserved: 0,
        };
        self.buckets.fill(NIL);
    }
}
