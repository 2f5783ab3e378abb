//! Things that this worker made for verdicts that it used a moment ago, found by the verdict's
//! address.

use core::cell::RefCell;
use std::rc::Rc;

/// Number of places, of which a verdict has one. More sessions than this at a time share places,
/// and one of each place is found.
pub const PLACES: usize = 256;

/// A table in which a verdict has one place. It saves a hash of the verdict and its comparison.
pub struct Recent<T>(RefCell<Box<[Option<Rc<T>>]>>);

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self(RefCell::new((0..PLACES).map(|_| None).collect()))
    }
}

impl<T> Recent<T> {
    /// The entry at the place of `address`, if `is_wanted` says so. An entry keeps its verdict, so
    /// that no other one has that address: compare by [`Rc::ptr_eq`].
    pub fn get<V>(&self, address: &Rc<V>, is_wanted: impl FnOnce(&T) -> bool) -> Option<Rc<T>> {
        let all = self.0.borrow();
        let entry = all.get(place(address))?.as_ref()?;
        is_wanted(entry).then(|| Rc::clone(entry))
    }

    /// Puts `entry` at the place of `address`, whatever was there.
    pub fn put<V>(&self, address: &Rc<V>, entry: Rc<T>) {
        let replaced = self.0.borrow_mut().get_mut(place(address)).map(|own| own.replace(entry));
        drop(replaced);
    }
}

fn place<V>(address: &Rc<V>) -> usize {
    // Fibonacci hashing: allocations are some multiple of 16 bytes apart.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = (Rc::as_ptr(address).addr() as u64).wrapping_mul(GOLDEN);
    (hash >> (u64::BITS - PLACES.ilog2())) as usize
}
