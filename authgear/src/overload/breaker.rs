//! Circuit breaker of `max_fails` and `fail_timeout`: after too many failures in a row, the
//! resolver is left alone for a while, and then tried with a single request.

use core::cell::Cell;
use core::time::Duration;

/// Counts failures in a row. Times are passed in, from any monotonic clock.
#[derive(Debug)]
pub struct Breaker {
    max_fails: u32,
    fail_timeout: Duration,
    fails: Cell<u32>,
    /// Set while the breaker is open: until then no request is admitted, and after it one at a
    /// time, as a probe.
    until: Cell<Option<Duration>>,
    probing: Cell<bool>,
}

/// Permission for one request. An attempt dropped without an outcome counts as neither success
/// nor failure.
#[derive(Debug)]
pub struct Attempt<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
}

impl Breaker {
    /// A closed breaker that opens for `fail_timeout` after `max_fails` failures in a row; with 0
    /// it never opens.
    pub fn new(max_fails: u32, fail_timeout: Duration) -> Self {
        Self {
            max_fails,
            fail_timeout,
            fails: Cell::new(0),
            until: Cell::new(None),
            probing: Cell::new(false),
        }
    }

    /// Permission to send a request `now`, if the breaker is closed or a probe is due.
    pub fn admit(&self, now: Duration) -> Option<Attempt<'_>> {
        let is_probe = match self.until.get() {
            None => false,
            Some(until) if now < until || self.probing.get() => return None,
            Some(_) => !self.probing.replace(true),
        };
        Some(Attempt { breaker: self, is_probe })
    }

    /// Time from `now` until the next probe is due; zero while the breaker is closed.
    pub fn remaining(&self, now: Duration) -> Duration {
        self.until.get().map(|until| until.saturating_sub(now)).unwrap_or_default()
    }
}

impl Attempt<'_> {
    /// Closes the breaker.
    pub fn succeeded(self) {
        self.breaker.fails.set(0);
        self.breaker.until.set(None);
    }

    /// Counts a failure, and opens the breaker if there were too many.
    pub fn failed(self, now: Duration) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn open() -> Breaker {
        let breaker = Breaker::new(2, TIMEOUT);
        breaker.admit(at(0)).unwrap().failed(at(0));
        breaker.admit(at(1)).unwrap().failed(at(1));
        breaker
    }

    #[test]
    fn opens_after_max_fails_in_a_row_for_fail_timeout() {
        let breaker = open();
        assert!(breaker.admit(at(10)).is_none());
        assert_eq!(breaker.remaining(at(4)), at(7));
        assert!(breaker.admit(at(11)).is_some());
        assert_eq!(breaker.remaining(at(12)), Duration::ZERO);
    }

    #[test]
    fn a_success_between_failures_keeps_it_closed() {
        let breaker = Breaker::new(2, TIMEOUT);
        for second in 0..10 {
            breaker.admit(at(second)).unwrap().failed(at(second));
            breaker.admit(at(second)).unwrap().succeeded();
        }
        assert!(breaker.admit(at(10)).is_some());
    }

    #[test]
    fn never_opens_with_zero_max_fails() {
        let breaker = Breaker::new(0, TIMEOUT);
        for _ in 0..100 {
            breaker.admit(at(0)).unwrap().failed(at(0));
        }
        assert!(breaker.admit(at(0)).is_some());
    }

    #[test]
    fn admits_one_probe_at_a_time() {
        let breaker = open();
        let probe = breaker.admit(at(11)).unwrap();
        assert!(breaker.admit(at(11)).is_none());
        drop(probe);
        let probe = breaker.admit(at(11)).unwrap();
        probe.failed(at(11));
        assert!(breaker.admit(at(20)).is_none());
        breaker.admit(at(21)).unwrap().succeeded();
        assert!(breaker.admit(at(21)).is_some());
        assert!(breaker.admit(at(21)).is_some());
    }

    #[test]
    fn a_late_failure_of_an_earlier_attempt_does_not_end_a_probe() {
        let breaker = Breaker::new(1, TIMEOUT);
        let early = breaker.admit(at(0)).unwrap();
        breaker.admit(at(0)).unwrap().failed(at(0));
        let probe = breaker.admit(at(10)).unwrap();
        early.failed(at(10));
        assert!(breaker.admit(at(20)).is_none(), "the probe is still under way");
        drop(probe);
        assert!(breaker.admit(at(20)).is_some());
    }
}
