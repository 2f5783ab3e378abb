//! Joins identical look-ups that one process has in flight.
//!
//! A flight belongs to the process and not to a request. A waiter that is dropped leaves the
//! flight without ending it, and the leader's outcome goes to all waiters that are left. The leader
//! can ask whether any is left, and give up a look-up that nobody waits for.

use core::cell::{Cell, RefCell};
use core::future::{poll_fn, Future};
use core::task::{Poll, Waker};
use std::collections::HashMap;
use std::rc::{Rc, Weak};

use smallvec::SmallVec;

use crate::shared::cache_key::{Key, KeyHasher};

/// Most waiters of one flight. Beyond that, requests are refused and not kept waiting.
pub const MAX_WAITERS: usize = 4096;

/// Wakes the owner of a [`Waiter`] when its outcome is there.
pub trait Wake {
    /// Called once, and must not run the owner on the caller's stack.
    fn wake(&self);
}

/// The leader was dropped without an outcome: its task failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderLost;

/// Look-ups in flight, by key.
#[derive(Debug)]
pub struct SingleFlight<T, W>(RefCell<HashMap<Key, JoinedFlight<T, W>, KeyHasher>>);

#[derive(Debug)]
struct JoinedFlight<T, W> {
    /// With room for one, the usual number.
    waiters: SmallVec<[Weak<Waiter<T, W>>; 1]>,
    interest: Rc<Interest>,
}

/// Whether anybody wants the outcome of a flight.
#[derive(Debug, Default)]
struct Interest {
    /// Waiters that have not left.
    waiting: Cell<usize>,
    /// The flight goes on without waiters.
    is_detached: Cell<bool>,
    /// A waiter did not wait for the outcome and left the flight to go on.
    is_slow: Cell<bool>,
    /// The leader, while it waits for the last waiter to leave.
    leader: RefCell<Option<Waker>>,
}

impl Interest {
    fn is_lost(&self) -> bool {
        self.waiting.get() == 0 && !self.is_detached.get()
    }
}

/// A place in a flight. Dropping it leaves the flight.
#[derive(Debug)]
pub struct Waiter<T, W> {
    outcome: RefCell<Option<Result<T, LeaderLost>>>,
    wake: W,
    interest: Rc<Interest>,
}

/// Obligation to end a flight: with [`Self::complete`], or by being dropped, which gives the
/// waiters [`LeaderLost`].
#[derive(Debug)]
pub struct Leader<T: Clone, W: Wake> {
    flights: Rc<SingleFlight<T, W>>,
    key: Option<Key>,
    interest: Rc<Interest>,
}

/// A place in a flight, and the flight's leader if it is new.
type Joined<T, W> = (Rc<Waiter<T, W>>, Option<Leader<T, W>>);

impl<T, W> Default for SingleFlight<T, W> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T: Clone, W: Wake> SingleFlight<T, W> {
    /// Whether the flight of `key` takes another waiter.
    pub fn has_room(&self, key: &Key) -> bool {
        let mut flights = self.0.borrow_mut();
        let Some(JoinedFlight { waiters, .. }) = flights.get_mut(key) else { return true };
        if waiters.len() >= MAX_WAITERS {
            waiters.retain(|waiter| waiter.strong_count() > 0);
        }
        waiters.len() < MAX_WAITERS
    }

    /// Whether there is a flight of `key`.
    pub fn has_flight(&self, key: &Key) -> bool {
        self.0.borrow().contains_key(key)
    }

    /// Whether a waiter of the flight of `key` has [detached](Waiter::detach) it.
    pub fn is_slow(&self, key: &Key) -> bool {
        self.0.borrow().get(key).is_some_and(|flight| flight.interest.is_slow.get())
    }

    /// Adds a waiter to the flight of `key`. The first one also gets the leader of a new flight.
    pub fn join(self: &Rc<Self>, key: Key, wake: W) -> Joined<T, W> {
        let mut flights = self.0.borrow_mut();
        let is_new = !flights.contains_key(&key);
        let flight = flights.entry(key).or_insert_with(JoinedFlight::new);
        let interest = Rc::clone(&flight.interest);
        interest.waiting.set(interest.waiting.get() + 1);
        let outcome = RefCell::new(None);
        let waiter = Rc::new(Waiter { outcome, wake, interest: Rc::clone(&interest) });
        flight.waiters.push(Rc::downgrade(&waiter));
        let leader = is_new.then(|| Leader { flights: Rc::clone(self), key: Some(key), interest });
        (waiter, leader)
    }

    /// Begins a flight that goes on without waiters. `None` if `key` is in flight.
    pub fn lead(self: &Rc<Self>, key: Key) -> Option<Leader<T, W>> {
        let mut flights = self.0.borrow_mut();
        if flights.contains_key(&key) {
            return None;
        }
        let flight = JoinedFlight::new();
        let interest = Rc::clone(&flight.interest);
        interest.is_detached.set(true);
        flights.insert(key, flight);
        Some(Leader { flights: Rc::clone(self), key: Some(key), interest })
    }
}

impl<T, W> JoinedFlight<T, W> {
    fn new() -> Self {
        Self { waiters: SmallVec::new(), interest: Rc::default() }
    }
}

impl<T, W> Waiter<T, W> {
    /// Lets the flight go on when this waiter, and all others, have left. The flight counts as
    /// slow from now on.
    pub fn detach(&self) {
        self.interest.is_slow.set(true);
        self.interest.is_detached.set(true);
    }
}

impl<T, W> Drop for Waiter<T, W> {
    fn drop(&mut self) {
        let interest = &self.interest;
        interest.waiting.set(interest.waiting.get().saturating_sub(1));
        if interest.is_lost() {
            let leader = interest.leader.take();
            if let Some(leader) = leader {
                leader.wake();
            }
        }
    }
}

impl<T: Clone, W> Waiter<T, W> {
    /// Returns true if the flight has ended.
    pub fn has_outcome(&self) -> bool {
        self.outcome.borrow().is_some()
    }

    /// The outcome, once the flight has ended.
    pub fn outcome(&self) -> Option<Result<T, LeaderLost>> {
        self.outcome.borrow().clone()
    }
}

impl<T: Clone, W: Wake> Leader<T, W> {
    /// Ends the flight: gives `outcome` to all waiters that are left, and wakes them.
    pub fn complete(mut self, outcome: T) {
        self.end(&Ok(outcome));
    }

    /// Completes when nobody waits any more. A flight that goes on without waiters never does.
    pub fn abandoned(&self) -> impl Future<Output = ()> {
        let interest = Rc::clone(&self.interest);
        poll_fn(move |cx| {
            if interest.is_lost() {
                return Poll::Ready(());
            }
            interest.leader.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
    }

    fn end(&mut self, outcome: &Result<T, LeaderLost>) {
        let Some(key) = self.key.take() else { return };
        let flight = self.flights.0.borrow_mut().remove(&key);
        let waiters = flight.map(|flight| flight.waiters).unwrap_or_default();
        for waiter in waiters.iter().filter_map(Weak::upgrade) {
            *waiter.outcome.borrow_mut() = Some(outcome.clone());
            waiter.wake.wake();
        }
    }
}

impl<T: Clone, W: Wake> Drop for Leader<T, W> {
    fn drop(&mut self) {
        self.end(&Err(LeaderLost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::cell::Cell;
    use proptest::prelude::*;

    #[derive(Clone, Default)]
    struct Counter(Rc<Cell<usize>>);

    impl Wake for Counter {
        fn wake(&self) {
            self.0.set(self.0.get() + 1);
        }
    }

    type Flights = SingleFlight<u32, Counter>;

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 16])
    }

    #[test]
    fn the_first_to_join_leads_and_all_get_the_outcome() {
        let (flights, woken) = (Rc::new(Flights::default()), Counter::default());
        let (first, leader) = flights.join(key(1), woken.clone());
        let (second, none) = flights.join(key(1), woken.clone());
        assert!(none.is_none());
        assert!(flights.has_flight(&key(1)) && !flights.has_flight(&key(2)));
        assert_eq!((first.outcome(), second.outcome()), (None, None));
        leader.unwrap().complete(7);
        assert_eq!((first.outcome(), second.outcome()), (Some(Ok(7)), Some(Ok(7))));
        assert_eq!(woken.0.get(), 2);
        assert!(flights.lead(key(1)).is_some(), "a new flight begins after the end of the last");
    }

    #[test]
    fn waiters_of_a_dropped_leader_get_leader_lost() {
        let (flights, woken) = (Rc::new(Flights::default()), Counter::default());
        let (waiter, leader) = flights.join(key(1), woken.clone());
        drop(leader);
        assert_eq!(waiter.outcome(), Some(Err(LeaderLost)));
        assert_eq!(woken.0.get(), 1);
    }

    #[test]
    fn a_dropped_waiter_leaves_the_flight_and_is_not_woken() {
        let (flights, woken) = (Rc::new(Flights::default()), Counter::default());
        let (waiter, leader) = flights.join(key(1), woken.clone());
        drop(waiter);
        let (late, _) = flights.join(key(1), woken.clone());
        leader.unwrap().complete(7);
        assert_eq!((late.outcome(), woken.0.get()), (Some(Ok(7)), 1));
    }

    #[test]
    fn a_flight_without_a_waiter_can_be_joined() {
        let flights = Rc::new(Flights::default());
        let leader = flights.lead(key(1)).unwrap();
        assert!(flights.lead(key(1)).is_none());
        let (waiter, none) = flights.join(key(1), Counter::default());
        assert!(none.is_none());
        leader.complete(3);
        assert_eq!(waiter.outcome(), Some(Ok(3)));
    }

    #[test]
    fn a_full_flight_has_room_again_when_waiters_leave() {
        let flights = Rc::new(Flights::default());
        let _leader = flights.lead(key(1));
        let join = || flights.join(key(1), Counter::default()).0;
        let mut waiters: Vec<_> = (0..MAX_WAITERS).map(|_| join()).collect();
        assert!(!flights.has_room(&key(1)));
        assert!(flights.has_room(&key(2)));
        waiters.pop();
        assert!(flights.has_room(&key(1)));
    }

    /// Polls `future` once, with a waker that does nothing.
    fn is_ready(future: impl Future<Output = ()>) -> bool {
        let mut future = core::pin::pin!(future);
        let mut cx = core::task::Context::from_waker(Waker::noop());
        future.as_mut().poll(&mut cx).is_ready()
    }

    #[test]
    fn a_flight_is_abandoned_when_its_last_waiter_leaves() {
        let flights = Rc::new(Flights::default());
        let (first, leader) = flights.join(key(1), Counter::default());
        let (second, _) = flights.join(key(1), Counter::default());
        let leader = leader.unwrap();
        assert!(!is_ready(leader.abandoned()));
        drop(first);
        assert!(!is_ready(leader.abandoned()));
        drop(second);
        assert!(is_ready(leader.abandoned()));
        // Somebody who joins wants it again.
        let (_late, none) = flights.join(key(1), Counter::default());
        assert!(none.is_none() && !is_ready(leader.abandoned()));
    }

    #[test]
    fn a_detached_flight_is_never_abandoned() {
        let flights = Rc::new(Flights::default());
        let leader = flights.lead(key(1)).unwrap();
        assert!(!is_ready(leader.abandoned()));
        let (waiter, leader) = flights.join(key(2), Counter::default());
        assert!(!flights.is_slow(&key(2)));
        waiter.detach();
        assert!(flights.is_slow(&key(2)) && !flights.is_slow(&key(1)));
        drop(waiter);
        assert!(!is_ready(leader.unwrap().abandoned()));
    }

    proptest! {
        #[test]
        fn every_waiter_gets_one_outcome_of_its_own_flight(
            steps in proptest::collection::vec((0_u8..3, 0_u8..4), 1..200),
        ) {
            let flights = Rc::new(Flights::default());
            let mut leaders: [Option<Leader<u32, Counter>>; 3] = [None, None, None];
            let mut number = [0_u32; 3];
            let mut waiters = Vec::new();
            for (k, step) in steps {
                let at = usize::from(k);
                match step {
                    0 | 1 => {
                        let woken = Counter::default();
                        let (waiter, leader) = flights.join(key(k), woken.clone());
                        prop_assert_eq!(leader.is_some(), leaders[at].is_none());
                        if let Some(leader) = leader {
                            number[at] += 1;
                            leaders[at] = Some(leader);
                        }
                        waiters.push((waiter, woken, at, number[at]));
                    }
                    2 => if let Some(leader) = leaders[at].take() { leader.complete(number[at]) },
                    _ => leaders[at] = None,
                }
            }
            drop(leaders);
            for (waiter, woken, _, flight) in waiters {
                prop_assert_eq!(woken.0.get(), 1);
                match waiter.outcome() {
                    Some(Ok(outcome)) => prop_assert_eq!(outcome, flight),
                    outcome => prop_assert_eq!(outcome, Some(Err(LeaderLost))),
                }
            }
        }
    }
}
