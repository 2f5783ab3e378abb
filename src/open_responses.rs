//! Responses of this worker that `authgear_recheck` looks at, in the order of their times.
//!
//! An entry belongs to its request's state and is taken out with it. One task for the worker looks
//! at those whose time has come: once a second, and when it is woken.

use core::cell::{Cell, RefCell};
use core::future::{poll_fn, Future};
use core::pin::pin;
use core::task::{Poll, Waker};
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use nginx::Open;

/// Time between two turns of the task.
const TICK: Duration = Duration::from_secs(1);

/// Time and number of an entry.
type Place = (Duration, u64);

/// Starts the task of a worker's responses.
pub type StartTask = fn(Rc<OpenResponses>);

/// The responses of a worker.
#[derive(Default)]
pub struct OpenResponses {
    by_time: RefCell<BTreeMap<Place, Open>>,
    numbers: Cell<u64>,
    /// Starts the task; taken when the first response is there.
    start: Cell<Option<StartTask>>,
    /// Wakes the task.
    waker: RefCell<Option<Waker>>,
    /// Responses that wait for look-ups.
    waiting: RefCell<Vec<Open>>,
    /// Responses that end.
    ending: RefCell<Vec<Open>>,
    /// Generation of the purge log of the last [`Self::see_purges`], and its time.
    seen: Cell<(u64, Duration)>,
}

/// An entry, which its request's state owns.
pub struct Entry {
    list: Rc<OpenResponses>,
    number: u64,
    open: Open,
    time: Cell<Option<Duration>>,
}

impl OpenResponses {
    /// `start` starts the task, for the first response.
    pub fn new(start: StartTask) -> Self {
        Self { start: Cell::new(Some(start)), ..Self::default() }
    }

    /// Adds a response whose time is in `wait`.
    pub fn add(self: &Rc<Self>, open: Open, wait: Duration) -> Entry {
        if let Some(start) = self.start.take() {
            start(Rc::clone(self));
        }
        let number = self.numbers.get();
        self.numbers.set(number.wrapping_add(1));
        let entry = Entry { list: Rc::clone(self), number, open, time: Cell::new(None) };
        entry.look_in(wait);
        entry
    }

    /// Takes out the response whose time came first.
    pub fn take_due(&self) -> Option<Open> {
        let mut by_time = self.by_time.borrow_mut();
        let first = by_time.first_entry()?;
        (first.key().0 <= nginx::now()).then(|| first.remove())
    }

    /// All responses that neither wait for a look-up nor end.
    pub fn all(&self) -> Vec<Open> {
        self.by_time.borrow().values().cloned().collect()
    }

    /// Number of responses that wait for look-ups.
    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Adds a response that was taken out, and waits for a look-up.
    pub fn waits(&self, open: Open) {
        self.waiting.borrow_mut().push(open);
    }

    /// Takes out all responses that wait for look-ups.
    pub fn take_waiting(&self) -> Vec<Open> {
        self.waiting.take()
    }

    /// Adds a response that was taken out, and ends.
    pub fn ends(&self, open: Open) {
        self.ending.borrow_mut().push(open);
    }

    /// Takes out all responses that end.
    pub fn take_ending(&self) -> Vec<Open> {
        self.ending.take()
    }

    /// Whether purges came since this was true last. Purges in a row are seen together, after
    /// `pause`.
    pub fn see_purges(&self, generation: u64, pause: Duration) -> bool {
        let (seen, at) = self.seen.get();
        let now = nginx::now();
        if seen == generation || now.saturating_sub(at) < pause {
            return false;
        }
        self.seen.set((generation, now));
        true
    }

    /// Returns true if there are purges that [`Self::see_purges`] has not seen.
    pub fn has_purges(&self, generation: u64) -> bool {
        self.seen.get().0 != generation
    }

    /// Completes with the task's next turn: after a second, when the task is woken, or in `pause` if
    /// there are purges that were not seen.
    pub async fn turn(&self, generation: u64, pause: Duration) {
        let time = if self.has_purges(generation) { pause } else { TICK };
        let mut sleep = pin!(nginx::sleep(time));
        let mut is_woken = false;
        poll_fn(|cx| {
            if core::mem::replace(&mut is_woken, true) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(cx.waker().clone());
            sleep.as_mut().poll(cx)
        })
        .await;
    }

    /// Wakes the task.
    pub fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The waker of the task, once it has begun.
    pub fn waker(&self) -> Option<Waker> {
        self.waker.borrow().clone()
    }
}

impl Entry {
    /// Number of the entry: those of a worker are consecutive.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Puts the response back into the list, for a look in `wait`.
    pub fn look_in(&self, wait: Duration) {
        self.set_time(Some(nginx::now() + wait));
    }

    /// Puts the response before all others, if it is in the list.
    pub fn look_first(&self) {
        let is_listed = |time| self.list.by_time.borrow().contains_key(&(time, self.number));
        if self.time.get().is_some_and(is_listed) {
            self.set_time(Some(Duration::ZERO));
        }
    }

    fn set_time(&self, time: Option<Duration>) {
        let mut by_time = self.list.by_time.borrow_mut();
        if let Some(time) = self.time.replace(time) {
            by_time.remove(&(time, self.number));
        }
        if let Some(time) = time {
            by_time.insert((time, self.number), self.open.clone());
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.set_time(None);
    }
}
