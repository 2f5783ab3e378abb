//! Rings of snapshots in shared memory.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Seconds between two snapshots.
pub const STEP: u64 = 15;

/// Steps that a report covers.
pub const STEPS: usize = 20;

/// One more than are read, and the one that may be half written.
const SNAPSHOTS: usize = STEPS + 2;

/// Snapshots of `WIDTH` counters. They are cut to 32 bits: only differences are read.
pub(super) struct SnapshotRing<const WIDTH: usize>([[AtomicU32; WIDTH]; SNAPSHOTS]);

/// When the snapshots were taken, in seconds of a monotonic clock.
pub(super) struct SnapshotClock {
    times: [AtomicU64; SNAPSHOTS],
    /// Number of snapshots so far.
    taken: AtomicU64,
    /// Time of the next one.
    due: AtomicU64,
}

fn position(snapshot: u64) -> usize {
    (snapshot % SNAPSHOTS as u64) as usize
}

impl<const WIDTH: usize> SnapshotRing<WIDTH> {
    pub(super) const fn new() -> Self {
        Self([const { [const { AtomicU32::new(0) }; WIDTH] }; SNAPSHOTS])
    }

    pub(super) fn read(&self, snapshot: u64) -> Option<[u32; WIDTH]> {
        let places = self.0.get(position(snapshot))?;
        Some(places.each_ref().map(|place| place.load(Ordering::Relaxed)))
    }

    pub(super) fn write(&self, snapshot: u64, values: [u32; WIDTH]) {
        let Some(places) = self.0.get(position(snapshot)) else { return };
        for (place, value) in places.iter().zip(values) {
            place.store(value, Ordering::Relaxed);
        }
    }
}

impl SnapshotClock {
    pub(super) const fn new() -> Self {
        Self {
            times: [const { AtomicU64::new(0) }; SNAPSHOTS],
            taken: AtomicU64::new(0),
            due: AtomicU64::new(0),
        }
    }

    /// Returns the number of the snapshot that this caller takes now, if one is due.
    pub(super) fn begin(&self, now: u64) -> Option<u64> {
        let due = self.due.load(Ordering::Acquire);
        if now < due {
            return None;
        }
        let next = now.saturating_add(STEP);
        self.due.compare_exchange(due, next, Ordering::AcqRel, Ordering::Relaxed).ok()?;
        let snapshot = self.taken.load(Ordering::Acquire);
        if let Some(time) = self.times.get(position(snapshot)) {
            time.store(now, Ordering::Relaxed);
        }
        Some(snapshot)
    }

    /// Makes a snapshot readable.
    pub(super) fn end(&self, snapshot: u64) {
        self.taken.store(snapshot.wrapping_add(1), Ordering::Release);
    }

    /// Returns the numbers of the snapshots to read, the oldest first.
    pub(super) fn readable(&self) -> Range<u64> {
        let taken = self.taken.load(Ordering::Acquire);
        taken.saturating_sub(STEPS as u64 + 1)..taken
    }

    /// Returns when the oldest of them was taken.
    pub(super) fn oldest(&self) -> Option<u64> {
        let time = self.times.get(position(self.readable().next()?))?;
        Some(time.load(Ordering::Relaxed))
    }
}
