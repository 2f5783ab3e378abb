//! Admission of new keys to a full LRU cache.
//!
//! When the working set exceeds the LRU, every look-up would evict the entry that is needed next,
//! and the cache would never hit. Admitting a new key with probability 1/8 keeps most entries in
//! place, and a key that comes often gets in soon all the same.

use core::cell::Cell;

/// Decides at random; no secret depends on it.
#[derive(Debug, Default)]
pub struct Admission {
    state: Cell<u32>,
}

impl Admission {
    /// Whether to admit a new key: true one time in eight.
    pub fn admit(&self) -> bool {
        // A linear congruential generator (Numerical Recipes), of which the high bits are good.
        let next = self.state.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.state.set(next);
        next >> 29 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_about_one_in_eight() {
        let admission = Admission::default();
        let admitted = (0..80_000).filter(|_| admission.admit()).count();
        assert!((9_500..=10_500).contains(&admitted), "{admitted}");
    }

    #[test]
    fn a_key_that_comes_often_is_admitted_soon() {
        let admission = Admission::default();
        let mut wait = 0;
        for _ in 0..80_000 {
            wait = if admission.admit() { 0 } else { wait + 1 };
            assert!(wait < 200);
        }
    }
}
