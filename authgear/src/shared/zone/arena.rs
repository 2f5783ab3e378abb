//! The lists, chains and buckets of a zone.
//!
//! Whatever is read from memory is checked before it is used, and every loop is bounded by the
//! number of chunks: a process that went wrong must not make the others panic or hang.

use zerocopy::{transmute_mut, transmute_ref};

use super::layout::{kind, Ends, Entry, Further, Region, FURTHER, INLINE, NIL};
use super::MAX_DATA;
use crate::shared::cache_key::Key;

/// Two places of a zone contradict each other.
#[derive(Debug)]
pub(super) struct Corrupt;

pub(super) type Result<T> = std::result::Result<T, Corrupt>;

/// How many chunks data of this length takes besides the first.
pub(super) fn further_chunks(data_len: usize) -> usize {
    data_len.saturating_sub(INLINE).div_ceil(FURTHER)
}

impl Region<'_> {
    fn chunk(&self, index: u32, kind: u32) -> Result<&Entry> {
        let chunk = self.chunks.get(index as usize).ok_or(Corrupt)?;
        // Behind what was ever used lie chunks from before the zone was emptied.
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

    /// How many chunks nobody uses.
    pub(super) fn available(&self) -> usize {
        let untouched = self.chunks.len().saturating_sub(self.header.touched as usize);
        untouched.saturating_add(self.header.free_count as usize)
    }

    /// A chunk whose contents are anything.
    fn allocate(&mut self, kind: u32) -> Result<u32> {
        let index = if self.header.free == NIL {
            let index = self.header.touched;
            // Fails when there is none.
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
        // A key is a hash: some of its bits are as good as any.
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
        entry.has_verdict = 0;
        entry.flight = 0;
        entry.waiters = [0; 2];
        entry.failed = 0;
        self.header.entries = self.header.entries.checked_add(1).ok_or(Corrupt)?;
        Ok(index)
    }

    /// Removes an entry that is in no list any more.
    pub(super) fn delete(&mut self, index: u32) -> Result<()> {
        self.drop_verdict(index)?;
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

    fn ends(&mut self, flying: bool) -> &mut Ends {
        if flying {
            &mut self.header.flying
        } else {
            &mut self.header.idle
        }
    }

    /// Puts an entry that is in no list in front of the one it belongs to.
    pub(super) fn link(&mut self, index: u32) -> Result<()> {
        let flying = self.entry(index)?.flight != 0;
        let older = std::mem::replace(&mut self.ends(flying).head, index);
        let entry = self.entry_mut(index)?;
        entry.newer = NIL;
        entry.older = older;
        if older == NIL {
            let tail = std::mem::replace(&mut self.ends(flying).tail, index);
            return (tail == NIL).then_some(()).ok_or(Corrupt);
        }
        let newer = std::mem::replace(&mut self.entry_mut(older)?.newer, index);
        (newer == NIL).then_some(()).ok_or(Corrupt)
    }

    /// Takes an entry out of its list; to be done before its flight begins or ends.
    pub(super) fn unlink(&mut self, index: u32) -> Result<()> {
        let entry = self.entry(index)?;
        let (flying, newer, older) = (entry.flight != 0, entry.newer, entry.older);
        let from_newer = match newer {
            NIL => &mut self.ends(flying).head,
            _ => &mut self.entry_mut(newer)?.older,
        };
        if std::mem::replace(from_newer, older) != index {
            return Err(Corrupt);
        }
        let from_older = match older {
            NIL => &mut self.ends(flying).tail,
            _ => &mut self.entry_mut(older)?.newer,
        };
        if std::mem::replace(from_older, newer) != index {
            return Err(Corrupt);
        }
        Ok(())
    }

    /// Makes room for so many chunks, and says whether there is.
    ///
    /// Of what is in flight only the flight that began first is looked at: leases are about
    /// equally long. `all`: flights too have to make room, in the end.
    pub(super) fn make_room(&mut self, chunks: usize, now: u64, all: bool) -> Result<bool> {
        // Each turn ends with one entry less.
        for _ in 0..=self.chunks.len() {
            if self.available() >= chunks {
                return Ok(true);
            }
            let Ends { tail: flying, .. } = self.header.flying;
            let victim = if flying != NIL && self.entry(flying)?.lease_until <= now {
                flying
            } else if self.header.idle.tail != NIL {
                self.header.idle.tail
            } else if all && flying != NIL {
                flying
            } else {
                return Ok(false);
            };
            self.unlink(victim)?;
            self.delete(victim)?;
            self.header.evictions = self.header.evictions.wrapping_add(1);
        }
        Err(Corrupt)
    }

    // Data

    /// The data of an entry's verdict, if it is in one piece.
    pub(super) fn short_data(entry: &Entry) -> Option<&[u8]> {
        entry.data.get(..entry.data_len as usize)
    }

    /// The data of an entry's verdict, if it is not in one piece.
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

    /// Gives an entry without verdict one; there is room.
    pub(super) fn set_verdict(
        &mut self,
        index: u32,
        fetched_at: u64,
        expires_at: u64,
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
        entry.has_verdict = 1;
        entry.data.get_mut(..inline.len()).ok_or(Corrupt)?.copy_from_slice(inline);
        Ok(())
    }

    /// Takes an entry's verdict away, if it has one.
    pub(super) fn drop_verdict(&mut self, index: u32) -> Result<()> {
        let entry = self.entry_mut(index)?;
        let chunks = further_chunks(entry.data_len as usize);
        let mut next = std::mem::replace(&mut entry.next, NIL);
        entry.data_len = 0;
        entry.has_verdict = 0;
        for _ in 0..chunks {
            let chunk = next;
            next = self.further(chunk)?.next;
            self.give_back(chunk, kind::FURTHER)?;
        }
        (next == NIL).then_some(()).ok_or(Corrupt)
    }
}
