//! One counter for each value of a label.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter for each value of a label, in the order of the values.
pub(super) struct LabelCounters<const N: usize>([AtomicU64; N]);

impl<const N: usize> LabelCounters<N> {
    pub(super) const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }

    pub(super) fn add(&self, index: usize) {
        if let Some(counter) = self.0.get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn get(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}
