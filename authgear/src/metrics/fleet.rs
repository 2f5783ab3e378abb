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

/// Counters of the fleet, in shared memory.
pub struct FleetMetrics {
    pub(super) events: LabelCounters<{ FleetEvent::ALL.len() }>,
    pub(super) losses: LabelCounters<{ FleetLoss::ALL.len() }>,
    pub(super) connections: LabelCounters<{ FleetConnection::ALL.len() }>,
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
        let micros = u64::try_from(delay.as_micros()).unwrap_or(u64::MAX);
        self.delay.add(BOUNDS.iter().take_while(|bound| micros > **bound).count());
        self.delay_sum.fetch_add(micros, Ordering::Relaxed);
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
