//! `max_fails` and `fail_timeout`: a resolver that does not answer is left alone for a while.

use core::cell::Cell;
use core::time::Duration;

/// Counts failures in a row.
pub(super) struct Breaker {
    max_fails: u32,
    fail_timeout: Duration,
    fails: Cell<u32>,
    /// Nobody is asked before, and then one: the probe.
    until: Cell<Option<Duration>>,
    probing: Cell<bool>,
}

/// Leave to ask once. Dropped without an outcome it counts as neither success nor failure.
pub(super) struct Attempt<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
}

impl Breaker {
    pub(super) fn new(max_fails: u32, fail_timeout: Duration) -> Self {
        Self {
            max_fails,
            fail_timeout,
            fails: Cell::new(0),
            until: Cell::new(None),
            probing: Cell::new(false),
        }
    }

    /// Whether the resolver may be asked `now`.
    pub(super) fn admit(&self, now: Duration) -> Option<Attempt<'_>> {
        let is_probe = match self.until.get() {
            None => false,
            Some(until) if now < until || self.probing.get() => return None,
            Some(_) => !self.probing.replace(true),
        };
        Some(Attempt { breaker: self, is_probe })
    }

    /// How long nobody is asked from `now` on.
    pub(super) fn remaining(&self, now: Duration) -> Duration {
        self.until.get().map(|until| until.saturating_sub(now)).unwrap_or_default()
    }
}

impl Attempt<'_> {
    /// The resolver answered.
    pub(super) fn succeeded(self) {
        self.breaker.fails.set(0);
        self.breaker.until.set(None);
    }

    /// It did not.
    pub(super) fn failed(self, now: Duration) {
        let fails = self.breaker.fails.get().saturating_add(1);
        self.breaker.fails.set(fails);
        if self.breaker.max_fails != 0 && fails >= self.breaker.max_fails {
            self.breaker.until.set(Some(now + self.breaker.fail_timeout));
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            self.breaker.probing.set(false);
        }
    }
}
