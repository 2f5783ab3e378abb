//! Counters of `authgear_fleet`.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::label_counters::LabelCounters;
use super::BOUNDS;

labels! {
    /// An event, and what became of it here.
    FleetEvent {
        /// Redis has an event of this host.
        Published = "published",
        /// An event of another host took effect here.
        Applied = "applied",
        /// An event that was heard before, or is too old.
        Again = "again",
        /// An event that concerns no project of this host.
        Foreign = "foreign",
        /// An event of this host came back.
        Own = "own",
        /// No secret of this host opens the event.
        Unreadable = "unreadable",
        /// The event is not authentic.
        Forged = "forged",
    }
}

labels! {
    /// A loss of events in Redis.
    FleetLoss {
        /// Another server, or another history of the server.
        Incarnation = "incarnation",
        /// The count of events is not that of the events read.
        Count = "count",
        /// The stream is gone.
        Gone = "gone",
        /// Events were trimmed before this host read them.
        Trimmed = "trimmed",
    }
}

labels! {
    /// Outcome of a connection to Redis.
    FleetConnection {
        /// Set up.
        Opened = "opened",
        /// Could not be set up.
        Failed = "failed",
        /// Ended by an error.
        Broken = "broken",
    }
}

labels! {
    /// End of a look for a verdict that another host asked for.
    FleetCache {
        /// A verdict that counts was there.
        Hit = "hit",
        /// Redis had no record: this host asks.
        Lead = "lead",
        /// Another host was asking, and its verdict counts.
        Follow = "follow",
        /// Another host was asking for too long.
        Overtaken = "overtaken",
        /// The user was purged since, or may have been.
        Purged = "purged",
        /// Too old for this location.
        Stale = "stale",
        /// Asked for while another server had the events.
        Foreign = "foreign",
        /// The value of the key is not authentic.
        Unreadable = "unreadable",
        /// Redis did not answer in time.
        Timeout = "timeout",
        /// Redis was not asked.
        Skipped = "skipped",
    }
}

/// Counters of the fleet, in shared memory.
pub struct FleetMetrics {
    pub(super) events: LabelCounters<{ FleetEvent::ALL.len() }>,
    pub(super) losses: LabelCounters<{ FleetLoss::ALL.len() }>,
    pub(super) connections: LabelCounters<{ FleetConnection::ALL.len() }>,
    pub(super) cache: LabelCounters<{ FleetCache::ALL.len() }>,
    pub(super) commands: LabelCounters<{ BOUNDS.len() + 1 }>,
    /// Microseconds.
    pub(super) commands_sum: AtomicU64,
    pub(super) delay: LabelCounters<{ BOUNDS.len() + 1 }>,
    /// Microseconds.
    pub(super) delay_sum: AtomicU64,
    /// Seconds since 1970; 0 for never.
    pub(super) last_sync: AtomicU64,
}

impl Default for FleetMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FleetMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetMetrics").finish_non_exhaustive()
    }
}

impl FleetMetrics {
    /// Creates counters that are all zero.
    pub const fn new() -> Self {
        Self {
            events: LabelCounters::new(),
            losses: LabelCounters::new(),
            connections: LabelCounters::new(),
            cache: LabelCounters::new(),
            commands: LabelCounters::new(),
            commands_sum: AtomicU64::new(0),
            delay: LabelCounters::new(),
            delay_sum: AtomicU64::new(0),
            last_sync: AtomicU64::new(0),
        }
    }

    /// Counts an event.
    pub fn event(&self, event: FleetEvent) {
        self.events.add(event as usize);
    }

    /// Counts an event of another host that took effect here after this time.
    pub fn applied(&self, delay: Duration) {
        self.event(FleetEvent::Applied);
        observe(&self.delay, &self.delay_sum, delay);
    }

    /// Counts the end of a look for a verdict.
    pub fn cache(&self, outcome: FleetCache) {
        self.cache.add(outcome as usize);
    }

    /// Counts a command about verdicts that Redis answered after this time.
    pub fn command(&self, time: Duration) {
        observe(&self.commands, &self.commands_sum, time);
    }

    /// Counts a loss.
    pub fn lost(&self, loss: FleetLoss) {
        self.losses.add(loss as usize);
    }

    /// Counts a connection.
    pub fn connection(&self, connection: FleetConnection) {
        self.connections.add(connection as usize);
    }

    /// Notes the time, in seconds since 1970, at which this host had all events.
    pub fn synced(&self, now: u64) {
        self.last_sync.fetch_max(now, Ordering::Relaxed);
    }
}

fn observe(counters: &LabelCounters<{ BOUNDS.len() + 1 }>, sum: &AtomicU64, time: Duration) {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    counters.add(BOUNDS.iter().take_while(|bound| micros > **bound).count());
    sum.fetch_add(micros, Ordering::Relaxed);
}
