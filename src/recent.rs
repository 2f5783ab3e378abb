//! Things that this worker made for verdicts that it used a moment ago, found by the verdict's
//! address.

use core::any::Any;
use core::cell::RefCell;
use core::ptr;
use std::rc::{Rc, Weak};

/// Number of places, of which a verdict has one. More sessions than this at a time share places,
/// and one of each place is found.
pub const PLACES: usize = 256;

/// A table in which a verdict has one place. It saves a hash of the verdict and its comparison.
pub struct Recent<T>(RefCell<Box<[Place<T>]>>);

/// Result of [`Recent::look`].
pub enum Look<T> {
    /// The entry.
    Found(Rc<T>),
    /// No entry. One that is made now may never be used: more verdicts may be in use than there are
    /// places, or each may be used once.
    Missed,
    /// No entry, as the last time that its place was looked at: one that is made now will be used.
    MissedAgain,
}

struct Place<T> {
    entry: Option<Rc<T>>,
    /// The verdict that was last looked for in vain, unless the entry was found since. No other one
    /// has its address meanwhile.
    missed: Option<Weak<dyn Any>>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        let empty = || Place { entry: None, missed: None };
        Self(RefCell::new((0..PLACES).map(|_| empty()).collect()))
    }
}

impl<T> Recent<T> {
    /// The entry at the place of `address`, if `is_wanted` says so. An entry keeps its verdict, so
    /// that no other one has that address: compare by [`Rc::ptr_eq`].
    pub fn get<V>(&self, address: &Rc<V>, is_wanted: impl FnOnce(&T) -> bool) -> Option<Rc<T>> {
        let all = self.0.borrow();
        let entry = all.get(place(address))?.entry.as_ref()?;
        is_wanted(entry).then(|| Rc::clone(entry))
    }

    /// Like [`Self::get`]; tells whether an entry is worth making if there is none.
    pub fn look<V: 'static>(&self, address: &Rc<V>, is_wanted: impl FnOnce(&T) -> bool) -> Look<T> {
        let mut all = self.0.borrow_mut();
        let Some(place) = all.get_mut(place(address)) else { return Look::Missed };
        if let Some(entry) = place.entry.as_ref().filter(|entry| is_wanted(entry)) {
            place.missed = None;
            return Look::Found(Rc::clone(entry));
        }
        let is_it = |missed: &Weak<dyn Any>| ptr::addr_eq(missed.as_ptr(), Rc::as_ptr(address));
        if place.missed.as_ref().is_some_and(is_it) {
            return Look::MissedAgain;
        }
        place.missed = Some(Rc::downgrade(address) as Weak<dyn Any>);
        Look::Missed
    }

    /// Puts `entry` at the place of `address`, whatever was there.
    pub fn put<V>(&self, address: &Rc<V>, entry: Rc<T>) {
        let mut all = self.0.borrow_mut();
        let replaced = all.get_mut(place(address)).map(|place| place.entry.replace(entry));
        drop(all);
        drop(replaced);
    }
}

fn place<V>(address: &Rc<V>) -> usize {
    // Fibonacci hashing: allocations are some multiple of 16 bytes apart.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let hash = (Rc::as_ptr(address).addr() as u64).wrapping_mul(GOLDEN);
    (hash >> (u64::BITS - PLACES.ilog2())) as usize
}
