//! Probes of a resolver that fails: when, by which worker, and what ends the outage.
//!
//! The state is shared by all workers of a host and is used without a lock: each step is one
//! atomic operation on a word. While the breaker is open nothing is asked but probes.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Pauses before the first probes. Later ones wait for the last of these.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];

/// Breaker of one resolver, in memory that all workers of a host share.
///
/// Times are milliseconds of nginx's monotonic clock.
#[derive(Debug, Default)]
pub struct SharedBreaker {
    /// 0 while closed, else the time of the next probe.
    next_probe_at: AtomicU64,
    /// Probes that failed in this outage.
    failed_probes: AtomicU32,
}

impl SharedBreaker {
    /// A closed breaker.
    pub const fn new() -> Self {
        Self { next_probe_at: AtomicU64::new(0), failed_probes: AtomicU32::new(0) }
    }

    /// Whether only probes may ask.
    pub fn is_open(&self) -> bool {
        self.next_probe_at.load(Ordering::Acquire) != 0
    }

    /// Opens the breaker at `now`, if it is closed. The first probe follows after 0.25 s, or after
    /// `longest` if that is shorter. True if this call opened it.
    pub fn open(&self, now: u64, longest: Duration) -> bool {
        let at = after(now, PAUSES.first().copied().unwrap_or_default().min(longest));
        let opened =
            self.next_probe_at.compare_exchange(0, at, Ordering::AcqRel, Ordering::Relaxed);
        if opened.is_ok() {
            self.failed_probes.store(0, Ordering::Relaxed);
        }
        opened.is_ok()
    }

    /// Closes the breaker: the resolver answered. True if it was open.
    pub fn close(&self) -> bool {
        self.next_probe_at.swap(0, Ordering::AcqRel) != 0
    }

    /// Time from `now` until the next probe. Zero while closed, and while a probe is due.
    pub fn until_probe(&self, now: u64) -> Duration {
        let at = self.next_probe_at.load(Ordering::Acquire);
        Duration::from_millis(at.saturating_sub(now))
    }

    /// Takes the probe that is due at `now`, if no other worker has taken it. The caller must end
    /// it by [`Self::close`] or [`Self::probe_failed`]. If the caller dies, the probe is due again
    /// after `lease`.
    pub fn take_probe(&self, now: u64, lease: Duration) -> bool {
        let at = self.next_probe_at.load(Ordering::Acquire);
        if at == 0 || at > now {
            return false;
        }
        let until = after(now, lease);
        self.next_probe_at.compare_exchange(at, until, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The probe failed at `now`. The next follows after the next pause, which is at most
    /// `longest`.
    pub fn probe_failed(&self, now: u64, longest: Duration) {
        let failed = self.failed_probes.load(Ordering::Relaxed).saturating_add(1);
        self.failed_probes.store(failed, Ordering::Relaxed);
        let index = usize::try_from(failed).unwrap_or(usize::MAX).min(PAUSES.len() - 1);
        let at = after(now, PAUSES.get(index).copied().unwrap_or_default().min(longest));
        // Another worker may have closed the breaker meanwhile: it stays closed.
        let _ = self.next_probe_at.fetch_update(Ordering::AcqRel, Ordering::Acquire, |current| {
            (current != 0).then_some(at)
        });
    }
}

/// Never 0, which means closed.
fn after(now: u64, pause: Duration) -> u64 {
    now.saturating_add(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(10);
    const LEASE: Duration = Duration::from_secs(5);

    #[test]
    fn probes_follow_after_a_quarter_half_and_each_whole_second() {
        let breaker = SharedBreaker::new();
        let mut now = 1000;
        assert!(breaker.open(now, LONG));
        let mut pauses = Vec::new();
        for _ in 0..5 {
            let pause = breaker.until_probe(now);
            pauses.push(pause.as_millis());
            assert!(!breaker.take_probe(now, LEASE));
            now += pause.as_millis() as u64;
            assert!(breaker.take_probe(now, LEASE));
            breaker.probe_failed(now, LONG);
        }
        assert_eq!(pauses, [250, 500, 1000, 1000, 1000]);
    }

    #[test]
    fn no_pause_is_longer_than_fail_timeout() {
        let breaker = SharedBreaker::new();
        let longest = Duration::from_millis(100);
        breaker.open(0, longest);
        assert_eq!(breaker.until_probe(0), longest);
        assert!(breaker.take_probe(100, LEASE));
        breaker.probe_failed(100, longest);
        assert_eq!(breaker.until_probe(100), longest);
    }

    #[test]
    fn one_worker_probes_at_a_time() {
        let breaker = SharedBreaker::new();
        breaker.open(0, LONG);
        assert!(breaker.take_probe(250, LEASE));
        assert!(!breaker.take_probe(251, LEASE));
        // That worker died.
        assert!(breaker.take_probe(250 + 5000, LEASE));
    }

    #[test]
    fn a_success_closes_the_breaker_for_all_workers() {
        let breaker = SharedBreaker::new();
        assert!(breaker.open(0, LONG));
        assert!(!breaker.open(10, LONG));
        assert!(breaker.is_open());
        assert!(breaker.close());
        assert!(!breaker.close());
        // A probe that fails late does not open it again.
        breaker.probe_failed(300, LONG);
        assert!(!breaker.is_open());
        assert!(!breaker.take_probe(10_000, LEASE));
    }

    #[test]
    fn a_new_outage_begins_with_short_pauses() {
        let breaker = SharedBreaker::new();
        breaker.open(0, LONG);
        for now in [250, 750, 1750] {
            assert!(breaker.take_probe(now, LEASE));
            breaker.probe_failed(now, LONG);
        }
        breaker.close();
        breaker.open(5000, LONG);
        assert_eq!(breaker.until_probe(5000), Duration::from_millis(250));
    }
}
