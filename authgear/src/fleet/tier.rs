//! Decisions of the second tier: what counts of a record, how long one is followed, and when Redis
//! is left alone.

use std::time::Duration;

use super::record::{Content, Record};
use super::stream_id::Incarnation;
use crate::verdict::freshness::Valid;
use crate::verdict::Verdict;

/// Greatest difference between the clock of a host that shares verdicts and that of Redis, in
/// milliseconds.
pub const SKEW: u64 = 2000;

/// Greatest difference between the clocks of two hosts that share verdicts, in milliseconds. The
/// clock of the host that asked may be ahead by as much: a record counts as so much older.
pub const APART: u64 = 2 * SKEW;

/// Life of a lease, in milliseconds.
pub const LEASE: u64 = 1500;

/// Longest time for which a lease is followed.
const FOLLOW: Duration = Duration::from_secs(1);

/// Reason for which a record does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Asked for while another server had the stream.
    Foreign,
    /// Too old for this location, of a time to come, or of credentials that have expired.
    Stale,
}

/// Meaning of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The verdict counts, unless it was purged.
    Counts {
        /// The verdict.
        verdict: Verdict,
        /// Its greatest possible age in milliseconds.
        age: u64,
    },
    /// Another host is asking.
    Follow,
    /// Ask, and overwrite.
    Refused(Refusal),
}

/// Decides what a record means at `now`, in milliseconds since 1970, on a host that reads the stream
/// of `incarnation`, at a location with these lifetimes.
pub fn meaning(record: Record, incarnation: Incarnation, now: u64, valid: &Valid) -> Meaning {
    let stale = Meaning::Refused(Refusal::Stale);
    if record.asked_at > now.saturating_add(APART) {
        return stale;
    }
    let age = now.saturating_sub(record.asked_at);
    let verdict = match record.content {
        Content::Lease(_) if age < LEASE => return Meaning::Follow,
        Content::Lease(_) => return stale,
        Content::Verdict(verdict) => verdict,
    };
    if record.incarnation != incarnation {
        return Meaning::Refused(Refusal::Foreign);
    }
    let is_over = record.expires_at.is_some_and(|at| at <= now);
    let age = age.saturating_add(APART);
    if is_over || age >= millis(valid.lifetime(&verdict)) {
        return stale;
    }
    Meaning::Counts { verdict, age }
}

/// Returns true if records of a location with these lifetimes can count at another host.
pub fn is_worth_sharing(valid: &Valid) -> bool {
    millis(valid.valid.max(valid.invalid)) > APART
}

/// Life in milliseconds of the record of a verdict that was asked for at `asked_at`. 0 if it is of
/// no use. It ends when the record counts no more, so that the next host to ask leaves a lease.
pub fn life(
    verdict: &Verdict,
    asked_at: u64,
    expires_at: Option<u64>,
    now: u64,
    valid: &Valid,
) -> u64 {
    let age = now.saturating_sub(asked_at);
    let left = millis(valid.lifetime(verdict)).saturating_sub(age.saturating_add(APART));
    expires_at.map_or(left, |at| left.min(at.saturating_sub(now)))
}

/// Time for which a lease is followed, of a look-up with this timeout.
pub fn follow_time(timeout: Duration) -> Duration {
    FOLLOW.min(timeout / 2)
}

/// Pause before the attempt with this number, from 0, to see whether a lease has ended.
pub fn pause(attempt: u32) -> Duration {
    Duration::from_millis(5 << attempt.min(1))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A breaker: after some failures in a row Redis is left alone for a while, and then asked once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience {
    failures: u32,
    /// Time of the last failure.
    failed_at: Duration,
    until: Duration,
}

impl Patience {
    const MOST: u32 = 3;
    const REST: Duration = Duration::from_secs(10);

    /// Returns true if Redis may be asked at `now`. After a rest one question is allowed. The next is
    /// allowed when that one was answered, or after another rest.
    pub fn allows(&mut self, now: Duration) -> bool {
        if self.failures < Self::MOST {
            return true;
        }
        let is_due = now >= self.until;
        if is_due {
            self.until = now + Self::REST;
        }
        is_due
    }

    /// Redis answered in time.
    pub fn answered(&mut self) {
        self.failures = 0;
    }

    /// Redis did not answer a question of `begun` in time. Questions that waited side by side count
    /// once: Redis may have paused.
    pub fn failed(&mut self, begun: Duration, now: Duration) {
        if self.failures > 0 && begun < self.failed_at {
            return;
        }
        self.failed_at = now;
        self.failures = self.failures.saturating_add(1);
        if self.failures >= Self::MOST {
            self.until = now + Self::REST;
        }
    }
}

#[cfg(test)]
mod tests;
