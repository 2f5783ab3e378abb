//! Waiting for conditions with a deadline, without fixed sleeps.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// The time limit of every wait in the support.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Polls a condition outside this process until it holds; false when the deadline passed. For state
/// of this process there is [`Watched`].
pub fn eventually(deadline: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + deadline;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A value that tests wait on.
#[derive(Debug, Default)]
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub fn new(value: T) -> Self {
        Self { value: Mutex::new(value), changed: Condvar::new() }
    }

    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    pub fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until the condition holds; false when the deadline passed.
    pub fn holds_within(&self, deadline: Duration, mut holds: impl FnMut(&T) -> bool) -> bool {
        let guard = self.lock();
        let (_guard, timeout) = self
            .changed
            .wait_timeout_while(guard, deadline, |value| !holds(value))
            .unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: fmt::Debug> Watched<T> {
    /// Waits until the condition holds; panics with the value when the deadline passed.
    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl FnMut(&T) -> bool) {
        if !self.holds_within(DEADLINE, holds) {
            panic!("waited {DEADLINE:?} in vain for {what}; it is {:?}", self.lock());
        }
    }
}

/// Holds answers back until the test opens it. Clones are the same gate.
#[derive(Clone, Debug)]
pub struct Gate(Arc<GateState>);

#[derive(Debug)]
struct GateState {
    waiting: Watched<usize>,
    open: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(GateState { waiting: Watched::new(0), open: watch::Sender::new(false) }))
    }

    /// Releases all waiting answers and all later ones.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }

    /// The number of answers held back. An answer whose client left no longer counts.
    pub fn waiting(&self) -> usize {
        self.0.waiting.read(|waiting| *waiting)
    }

    /// Waits until at least `n` answers are being held back.
    #[track_caller]
    pub fn wait_for_waiters(&self, n: usize) {
        self.0.waiting.wait_until(&format!("{n} waiters at the gate"), |waiting| *waiting >= n);
    }

    /// Waits until no answer is held back.
    #[track_caller]
    pub fn wait_for_no_waiters(&self) {
        self.0.waiting.wait_until("an empty gate", |waiting| *waiting == 0);
    }

    pub(crate) async fn pass(&self) {
        struct Waiter<'a>(&'a GateState);
        impl Drop for Waiter<'_> {
            fn drop(&mut self) {
                self.0.waiting.update(|waiting| *waiting -= 1);
            }
        }

        let mut open = self.0.open.subscribe();
        self.0.waiting.update(|waiting| *waiting += 1);
        let _waiter = Waiter(&self.0);
        // The sender lives in the gate, so this fails only when it is open.
        let _ = open.wait_for(|open| *open).await;
    }
}
