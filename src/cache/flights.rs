//! Identical look-ups that are in flight, joined.
//!
//! A flight belongs to the worker and not to a request: a client that leaves gives up its seat
//! and takes nothing with it. Authgear serialises the look-ups of one session behind a mutex, and
//! answers 500 when it cannot get it: joining is what makes a page with thirty images work.

use core::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use authgear::key::{Key, KeyHasher};

use crate::lookup::Landing;
use crate::nginx::Resume;

/// Most requests that one look-up answers, per worker: what is beyond is not kept waiting.
const MAX_SEATS: usize = 4096;

/// The flights of a worker.
#[derive(Default)]
pub struct Flights(RefCell<HashMap<Key, Vec<Weak<Seat>>, KeyHasher>>);

/// A request's place in a flight; dropping it gives it up.
pub struct Seat {
    landing: RefCell<Option<Landing>>,
    resume: Resume,
}

/// Who must bring a flight home: with a verdict, or, when dropped without one, with an error.
pub struct Pilot {
    flights: Rc<Flights>,
    key: Option<Key>,
}

impl Flights {
    /// Whether there is a seat left in the flight of `key`.
    pub fn has_room(&self, key: &Key) -> bool {
        let mut flights = self.0.borrow_mut();
        let Some(seats) = flights.get_mut(key) else { return true };
        if seats.len() >= MAX_SEATS {
            seats.retain(|seat| seat.strong_count() > 0);
        }
        seats.len() < MAX_SEATS
    }

    /// Takes a seat in the flight of `key`. The first to do so gets the pilot's seat too.
    pub fn join(self: &Rc<Self>, key: Key, resume: Resume) -> (Rc<Seat>, Option<Pilot>) {
        let pilot = self.begin(key);
        let seat = Rc::new(Seat { landing: RefCell::new(None), resume });
        self.0.borrow_mut().entry(key).or_default().push(Rc::downgrade(&seat));
        (seat, pilot)
    }

    /// Begins the flight of `key`, unless it is in the air.
    pub fn begin(self: &Rc<Self>, key: Key) -> Option<Pilot> {
        let mut flights = self.0.borrow_mut();
        if flights.contains_key(&key) {
            return None;
        }
        flights.insert(key, Vec::new());
        Some(Pilot { flights: Rc::clone(self), key: Some(key) })
    }
}

impl Seat {
    /// How the flight ended, once it did.
    pub fn landing(&self) -> Option<Landing> {
        self.landing.borrow().clone()
    }
}

impl Pilot {
    /// Tells everybody who still has a seat, and resumes them.
    pub fn land(mut self, landing: Landing) {
        self.end(&landing);
    }

    fn end(&mut self, landing: &Landing) {
        let Some(key) = self.key.take() else { return };
        let seats = self.flights.0.borrow_mut().remove(&key).unwrap_or_default();
        for seat in seats.iter().filter_map(Weak::upgrade) {
            *seat.landing.borrow_mut() = Some(landing.clone());
            seat.resume.resume();
        }
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        self.end(&Landing::crashed());
    }
}
