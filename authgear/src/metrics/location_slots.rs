//! Counters by the names of `authgear_status_zone`, in shared memory.

use std::sync::atomic::{AtomicU64, Ordering};

use super::label_counters::LabelCounters;

/// Number of names with their own counters. All further names share one set.
pub const LOCATIONS: usize = 128;

/// `N` counters for each name.
pub(super) struct LocationSlots<const N: usize> {
    slots: [NamedCounters<N>; LOCATIONS],
    pub(super) other: NamedCounters<N>,
}

pub(super) struct NamedCounters<const N: usize> {
    /// Fingerprint of the name; 0 while the slot is free.
    owner: AtomicU64,
    pub(super) requests: LabelCounters<N>,
}

/// Index of the counters of a name. Equal in all processes, for the lifetime of the shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocationSlot(usize);

impl LocationSlot {
    /// Returns true if further names have the slot too.
    pub(super) fn is_shared(self) -> bool {
        self.0 >= LOCATIONS
    }
}

impl<const N: usize> NamedCounters<N> {
    const fn new() -> Self {
        Self { owner: AtomicU64::new(0), requests: LabelCounters::new() }
    }
}

impl<const N: usize> LocationSlots<N> {
    pub(super) const fn new() -> Self {
        Self { slots: [const { NamedCounters::new() }; LOCATIONS], other: NamedCounters::new() }
    }

    /// Returns the slot of the name with this fingerprint; takes a free one on first use.
    pub(super) fn find(&self, own: u64) -> LocationSlot {
        let is_own = |slot: &NamedCounters<N>| {
            let taken = slot.owner.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire);
            taken.is_ok() || taken == Err(own)
        };
        LocationSlot(self.slots.iter().position(is_own).unwrap_or(LOCATIONS))
    }

    pub(super) fn at(&self, slot: LocationSlot) -> &NamedCounters<N> {
        self.slots.get(slot.0).unwrap_or(&self.other)
    }
}
