//! Chunks, hash buckets, lists and data of a zone.
//!
//! Every index read from memory is checked before it is used, and every loop is bounded by the
//! number of chunks: a faulty process must not make the others panic or hang.

use zerocopy::{transmute_mut, transmute_ref};

use super::layout::{
    kind, state, Ends, Entry, Further, Region, Waiters, FURTHER, INLINE, MAX_DATA, NIL,
};
use crate::shared::cache_key::Key;

/// Two places of a zone contradict each other.
#[derive(Debug)]
pub(super) struct Corrupt;

pub(super) type Result<T> = std::result::Result<T, Corrupt>;

/// Number of chunks that data of this length takes besides the first.
pub(super) fn further_chunks(data_len: usize) -> usize {
    data_len.saturating_sub(INLINE).div_ceil(FURTHER)
}

/// Number of chunks of an entry whose data has this length.
pub(super) fn chunks_of(data_len: u32) -> u32 {
    // At most MAX_DATA bytes, unless memory is damaged: then a sum does not come out.
    u32::try_from(further_chunks(data_len as usize)).unwrap_or(u32::MAX).saturating_add(1)
}

/// One of the lists that entries are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    Main,
    Probation,
    Flying,
    Failed,
}

impl Entry {
    /// The list of an entry in this state.
    fn list(&self) -> Result<List> {
        match (self.state, self.flight) {
            (state::PROVEN, _) => Ok(List::Main),
            (state::PASSING | state::UNPROVEN | state::DEMOTED, _) => Ok(List::Probation),
            (state::NONE, 0) => Ok(List::Failed),
            (state::NONE, _) => Ok(List::Flying),
            _ => Err(Corrupt),
        }
    }
}

impl Region<'_> {
    fn chunk(&self, index: u32, kind: u32) -> Result<&Entry> {
        let chunk = self.chunks.get(index as usize).ok_or(Corrupt)?;
        // Chunks that were never used hold data from before the zone was emptied.
        (index < self.header.touched && chunk.kind == kind).then_some(chunk).ok_or(Corrupt)
    }

    fn chunk_mut(&mut self, index: u32, kind: u32) -> Result<&mut Entry> {
        let chunk = self.chunks.get_mut(index as usize).ok_or(Corrupt)?;
        (index < self.header.touched && chunk.kind == kind).then_some(chunk).ok_or(Corrupt)
    }

    pub(super) fn entry(&self, index: u32) -> Result<&Entry> {
        self.chunk(index, kind::ENTRY)
    }

    pub(super) fn entry_mut(&mut self, index: u32) -> Result<&mut Entry> {
        self.chunk_mut(index, kind::ENTRY)
    }

    fn further(&self, index: u32) -> Result<&Further> {
        self.chunk(index, kind::FURTHER).map(|chunk| transmute_ref!(chunk))
    }

    fn further_mut(&mut self, index: u32) -> Result<&mut Further> {
        self.chunk_mut(index, kind::FURTHER).map(|chunk| transmute_mut!(chunk))
    }

    // Chunks

    /// Number of unused chunks.
    pub(super) fn available(&self) -> usize {
        let untouched = self.chunks.len().saturating_sub(self.header.touched as usize);
        untouched.saturating_add(self.header.free_count as usize)
    }

    /// Takes an unused chunk, whose contents are undefined.
    fn allocate(&mut self, kind: u32) -> Result<u32> {
        let index = if self.header.free == NIL {
            let index = self.header.touched;
            // Fails when all chunks are used.
            self.chunks.get(index as usize).ok_or(Corrupt)?;
            self.header.touched = index + 1;
            index
        } else {
            let index = self.header.free;
            self.header.free = self.chunk(index, kind::FREE)?.next;
            self.header.free_count = self.header.free_count.checked_sub(1).ok_or(Corrupt)?;
            index
        };
        self.chunks.get_mut(index as usize).ok_or(Corrupt)?.kind = kind;
        Ok(index)
    }

    fn give_back(&mut self, index: u32, kind: u32) -> Result<()> {
        let free = self.header.free;
        let chunk = self.chunk_mut(index, kind)?;
        chunk.kind = kind::FREE;
        chunk.next = free;
        self.header.free = index;
        self.header.free_count = self.header.free_count.checked_add(1).ok_or(Corrupt)?;
        Ok(())
    }

    // Buckets

    fn bucket_of(&self, key: &[u8; 16]) -> usize {
        // A key is a hash: any of its bits will do.
        let [a, b, c, d, ..] = *key;
        let mask = self.buckets.len().wrapping_sub(1);
        u32::from_ne_bytes([a, b, c, d]) as usize & mask
    }

    fn bucket_mut(&mut self, key: &[u8; 16]) -> Result<&mut u32> {
        let bucket = self.bucket_of(key);
        self.buckets.get_mut(bucket).ok_or(Corrupt)
    }

    pub(super) fn find(&self, key: &Key) -> Result<Option<u32>> {
        let mut index = *self.buckets.get(self.bucket_of(key.as_bytes())).ok_or(Corrupt)?;
        for _ in 0..self.chunks.len() {
            if index == NIL {
                return Ok(None);
            }
            let entry = self.entry(index)?;
            if entry.key == *key.as_bytes() {
                return Ok(Some(index));
            }
            index = entry.bucket_next;
        }
        (index == NIL).then_some(None).ok_or(Corrupt)
    }

    // Entries

    /// Makes an entry without verdict and flight, which is in no list yet.
    pub(super) fn insert(&mut self, key: &Key) -> Result<u32> {
        let index = self.allocate(kind::ENTRY)?;
        let bucket = self.bucket_mut(key.as_bytes())?;
        let bucket_next = std::mem::replace(bucket, index);
        let entry = self.entry_mut(index)?;
        entry.next = NIL;
        entry.key = *key.as_bytes();
        entry.bucket_next = bucket_next;
        entry.newer = NIL;
        entry.older = NIL;
        entry.data_len = 0;
        entry.state = state::NONE;
        entry.flight = 0;
        entry.waiters = [0; 2];
        entry.failed = 0;
        self.header.entries = self.header.entries.checked_add(1).ok_or(Corrupt)?;
        Ok(index)
    }

    /// Removes an entry that is in no list any more, with its verdict and its flight.
    pub(super) fn delete(&mut self, index: u32) -> Result<()> {
        self.drop_verdict(index)?;
        self.end_flight(index)?;
        let entry = self.entry(index)?;
        let (key, next) = (entry.key, entry.bucket_next);
        let chunks = self.chunks.len();
        let head = self.bucket_mut(&key)?;
        let mut at = *head;
        if at == index {
            *head = next;
        } else {
            let mut steps = 0..chunks;
            while self.entry(at)?.bucket_next != index {
                steps.next().ok_or(Corrupt)?;
                at = self.entry(at)?.bucket_next;
            }
            self.entry_mut(at)?.bucket_next = next;
        }
        self.give_back(index, kind::ENTRY)?;
        self.header.entries = self.header.entries.checked_sub(1).ok_or(Corrupt)?;
        Ok(())
    }

    // Lists

    fn ends(&mut self, list: List) -> &mut Ends {
        match list {
            List::Main => &mut self.header.main,
            List::Probation => &mut self.header.probation,
            List::Flying => &mut self.header.flying,
            List::Failed => &mut self.header.failed,
        }
    }

    /// Puts an entry that is in no list at the head of the list of its state.
    pub(super) fn link(&mut self, index: u32) -> Result<()> {
        let list = self.entry(index)?.list()?;
        let older = std::mem::replace(&mut self.ends(list).head, index);
        let entry = self.entry_mut(index)?;
        entry.newer = NIL;
        entry.older = older;
        if older == NIL {
            let tail = std::mem::replace(&mut self.ends(list).tail, index);
            return (tail == NIL).then_some(()).ok_or(Corrupt);
        }
        let newer = std::mem::replace(&mut self.entry_mut(older)?.newer, index);
        (newer == NIL).then_some(()).ok_or(Corrupt)
    }

    /// Takes an entry out of its list. The caller changes its state afterwards, not before.
    pub(super) fn unlink(&mut self, index: u32) -> Result<()> {
        let entry = self.entry(index)?;
        let (list, newer, older) = (entry.list()?, entry.newer, entry.older);
        let from_newer = match newer {
            NIL => &mut self.ends(list).head,
            _ => &mut self.entry_mut(newer)?.older,
        };
        if std::mem::replace(from_newer, older) != index {
            return Err(Corrupt);
        }
        let from_older = match older {
            NIL => &mut self.ends(list).tail,
            _ => &mut self.entry_mut(older)?.newer,
        };
        if std::mem::replace(from_older, newer) != index {
            return Err(Corrupt);
        }
        Ok(())
    }

    // Flights

    /// Takes the flight of an entry that is in no list, and returns its waiters.
    pub(super) fn end_flight(&mut self, index: u32) -> Result<Waiters> {
        let entry = self.entry_mut(index)?;
        let id = std::mem::take(&mut entry.flight);
        let waiters = Waiters(std::mem::take(&mut entry.waiters));
        self.flight_ended(id, waiters)?;
        Ok(waiters)
    }

    /// Notes that a flight ended, for the processes that wait for it.
    pub(super) fn flight_ended(&mut self, id: u64, waiters: Waiters) -> Result<()> {
        if id == 0 || waiters.is_empty() {
            return Ok(());
        }
        let at = self.header.ended as usize % self.ended.len().max(1);
        *self.ended.get_mut(at).ok_or(Corrupt)? = id;
        self.header.ended = self.header.ended.wrapping_add(1);
        Ok(())
    }

    // Data

    /// Returns the data of an entry's verdict. `None` if it does not fit into the entry's own chunk:
    /// see [`Self::long_data`].
    pub(super) fn short_data(entry: &Entry) -> Option<&[u8]> {
        entry.data.get(..entry.data_len as usize)
    }

    /// Data of an entry's verdict that takes several chunks.
    pub(super) fn long_data(&self, index: u32) -> Result<Option<Vec<u8>>> {
        let entry = self.entry(index)?;
        let len = entry.data_len as usize;
        if len <= INLINE {
            return Ok(None);
        }
        if len > MAX_DATA {
            return Err(Corrupt);
        }
        let mut data = Vec::with_capacity(len);
        data.extend_from_slice(&entry.data);
        let mut next = entry.next;
        while data.len() < len {
            let further = self.further(next)?;
            let part = FURTHER.min(len - data.len());
            data.extend_from_slice(further.data.get(..part).ok_or(Corrupt)?);
            next = further.next;
        }
        (next == NIL).then_some(Some(data)).ok_or(Corrupt)
    }

    /// Gives a verdict to an entry that has none. The caller made room.
    pub(super) fn set_verdict(
        &mut self,
        index: u32,
        state: u8,
        (fetched_at, expires_at): (u64, u64),
        data: &[u8],
    ) -> Result<()> {
        let (inline, rest) = data.split_at(data.len().min(INLINE));
        // From the end, so that each chunk knows the next.
        let mut next = NIL;
        for part in rest.chunks(FURTHER).rev() {
            let chunk = self.allocate(kind::FURTHER)?;
            let further = self.further_mut(chunk)?;
            further.next = next;
            further.data.get_mut(..part.len()).ok_or(Corrupt)?.copy_from_slice(part);
            next = chunk;
        }
        let entry = self.entry_mut(index)?;
        entry.next = next;
        entry.data_len = u32::try_from(data.len()).map_err(|_| Corrupt)?;
        entry.fetched_at = fetched_at;
        entry.expires_at = expires_at;
        entry.state = state;
        entry.data.get_mut(..inline.len()).ok_or(Corrupt)?.copy_from_slice(inline);
        let chunks = chunks_of(entry.data_len);
        self.header.kept = self.header.kept.checked_add(chunks).ok_or(Corrupt)?;
        if state == state::PROVEN {
            self.header.proven = self.header.proven.checked_add(chunks).ok_or(Corrupt)?;
        }
        Ok(())
    }

    /// Takes an entry's verdict away, if it has one. The entry is in no list.
    pub(super) fn drop_verdict(&mut self, index: u32) -> Result<()> {
        let entry = self.entry_mut(index)?;
        let chunks = chunks_of(entry.data_len);
        let mut next = std::mem::replace(&mut entry.next, NIL);
        entry.data_len = 0;
        let state = std::mem::replace(&mut entry.state, state::NONE);
        if state != state::NONE {
            self.header.kept = self.header.kept.checked_sub(chunks).ok_or(Corrupt)?;
        }
        if state == state::PROVEN {
            self.header.proven = self.header.proven.checked_sub(chunks).ok_or(Corrupt)?;
        }
        for _ in 1..chunks {
            let chunk = next;
            next = self.further(chunk)?.next;
            self.give_back(chunk, kind::FURTHER)?;
        }
        (next == NIL).then_some(()).ok_or(Corrupt)
    }
}
