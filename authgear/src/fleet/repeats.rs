//! Events that were heard before: the last numbers of each publisher.

use std::collections::HashMap;

use super::event::Publisher;

/// Maximum number of publishers that are remembered.
pub const MAX_PUBLISHERS: usize = 2048;

/// Numbers that are remembered of a publisher.
pub const WINDOW: u64 = 64;

/// The last numbers of one publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberWindow {
    greatest: u64,
    /// Bit `n` stands for `greatest - n`.
    seen: u64,
}

impl NumberWindow {
    /// A window that has seen `number` only.
    pub const fn new(number: u64) -> Self {
        Self { greatest: number, seen: 1 }
    }

    /// Notes a number, and returns whether it is not known to have been seen. A number before the
    /// window is not known: to hear an event again is harmless, and to miss one is not.
    pub fn is_new(&mut self, number: u64) -> bool {
        if let Some(ahead) = number.checked_sub(self.greatest).filter(|ahead| *ahead > 0) {
            let shift = u32::try_from(ahead).unwrap_or(u32::MAX);
            self.seen = self.seen.checked_shl(shift).unwrap_or(0) | 1;
            self.greatest = number;
            return true;
        }
        let behind = self.greatest - number;
        let Some(bit) = u32::try_from(behind).ok().and_then(|n| 1_u64.checked_shl(n)) else {
            return true;
        };
        let is_new = self.seen & bit == 0;
        self.seen |= bit;
        is_new
    }
}

/// Memory of the numbers of each publisher. Only authentic numbers may be told, so that nobody
/// without the secret fills it.
#[derive(Debug)]
pub struct Repeats<T> {
    publishers: HashMap<Publisher, (u64, T)>,
    capacity: usize,
    /// Counts uses.
    clock: u64,
}

impl<T> Repeats<T> {
    /// Remembers `capacity` publishers at most. Beyond it, the one that was used longest ago is
    /// forgotten.
    pub fn new(capacity: usize) -> Self {
        Self { publishers: HashMap::new(), capacity: capacity.max(1), clock: 0 }
    }

    /// Numbers of a publisher.
    pub fn get(&mut self, publisher: &Publisher) -> Option<&mut T> {
        self.clock += 1;
        let (used, value) = self.publishers.get_mut(publisher)?;
        *used = self.clock;
        Some(value)
    }

    /// Remembers a publisher.
    pub fn insert(&mut self, publisher: Publisher, value: T) {
        let is_known = self.publishers.contains_key(&publisher);
        if !is_known && self.publishers.len() >= self.capacity {
            let oldest = self.publishers.iter().min_by_key(|(_, (used, _))| *used);
            if let Some(oldest) = oldest.map(|(publisher, _)| *publisher) {
                self.publishers.remove(&oldest);
            }
        }
        self.clock += 1;
        self.publishers.insert(publisher, (self.clock, value));
    }

    /// Number of publishers that are remembered.
    pub fn len(&self) -> usize {
        self.publishers.len()
    }

    /// Returns true if no publisher is remembered.
    pub fn is_empty(&self) -> bool {
        self.publishers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn the_last_64_numbers_are_remembered() {
        let mut window = NumberWindow::new(100);
        assert!(!window.is_new(100));
        assert!(window.is_new(37) && !window.is_new(37));
        // Beyond the window: heard again.
        assert!(window.is_new(36) && window.is_new(36));
        assert!(window.is_new(163) && !window.is_new(100));
        assert!(window.is_new(164) && window.is_new(100));
        assert!(window.is_new(u64::MAX) && !window.is_new(u64::MAX));
        assert!(window.is_new(164) && window.is_new(0));
    }

    #[test]
    fn the_publisher_that_was_used_longest_ago_is_forgotten() {
        let publisher = |n| Publisher::from_bytes([n; 16]);
        let mut repeats = Repeats::new(2);
        repeats.insert(publisher(1), 1);
        repeats.insert(publisher(2), 2);
        assert_eq!(repeats.get(&publisher(1)), Some(&mut 1));
        repeats.insert(publisher(3), 3);
        assert_eq!(repeats.get(&publisher(1)), Some(&mut 1));
        assert_eq!(repeats.len(), 2);
        assert_eq!(repeats.get(&publisher(2)), None);
        repeats.insert(publisher(3), 4);
        assert_eq!(repeats.get(&publisher(3)), Some(&mut 4));
        assert_eq!(repeats.len(), 2);
    }

    proptest! {
        #[test]
        fn no_number_is_a_repeat_that_was_not_heard(
            numbers in prop::collection::vec(prop_oneof![0..200_u64, any::<u64>()], 1..300),
        ) {
            let mut heard = HashSet::from([50]);
            let mut greatest = 50;
            let mut window = NumberWindow::new(50);
            for number in numbers {
                let is_new = window.is_new(number);
                prop_assert!(is_new || heard.contains(&number));
                // Within the window, every repeat is one.
                let is_close = number > greatest || greatest - number < WINDOW;
                prop_assert!(!is_close || is_new != heard.contains(&number));
                heard.insert(number);
                greatest = greatest.max(number);
            }
        }
    }
}
