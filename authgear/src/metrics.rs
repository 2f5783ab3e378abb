//! Counters in shared memory, and reports of them.
//!
//! [`Metrics`] has a fixed layout of counters that start at zero. Workers change them by single
//! atomic operations, so no worker waits for another, and a worker that dies leaves no partial
//! update. [`Report`] is a snapshot: [`Report::prometheus`] for Prometheus, [`Report::json`] for
//! programs, [`Report::page`] for people. No value identifies a user.

macro_rules! labels {
    ($(#[$doc:meta])+ $kind:ident { $($(#[$variant_doc:meta])+ $name:ident = $word:literal,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $kind {
            $($(#[$variant_doc])+ $name,)+
        }

        impl $kind {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The value of the label.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }
        }
    };
}

mod fleet;
mod format;
mod history;
mod label_counters;
mod location;
mod location_slots;
mod page;
mod prometheus;
mod report;
mod snapshots;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::Hasher as _;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use siphasher::sip::SipHasher24;

use crate::verdict::{Reason, Verdict};

pub use fleet::{FleetCache, FleetConnection, FleetEvent, FleetLoss, FleetMetrics};
pub use format::Format;
use label_counters::LabelCounters;
use location_slots::LocationSlots;
pub use location_slots::{LocationSlot, LOCATIONS};
pub use page::Page;
pub use prometheus::CONTENT_TYPE as PROMETHEUS;
pub use report::{
    Bucket, Build, Connections, FetchOutage, FleetReport, JwksReport, LabelTable, Latency,
    LocationReport, OutageReport, ProjectReport, Recent, RecentCache, Report, ResolverReport,
    Series, ZoneReport,
};
use snapshots::{SnapshotClock, SnapshotRing};
pub use snapshots::{STEP, STEPS};

/// Number of projects with their own counters. All further projects share one set.
pub const PROJECTS: usize = 256;

/// Number of workers with their own gauge of look-ups in flight, so that the gauge of a worker that
/// died can be reset.
pub const WORKERS: usize = 128;

/// Upper bounds of the histogram's buckets, in microseconds. A further bucket has no bound.
pub const BOUNDS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

labels! {
    /// Source of the verdict on a request.
    Mode {
        /// Authgear's resolver.
        Resolver = "resolver",
        /// A token that the module verifies.
        Jwt = "jwt",
        /// A token where possible, otherwise the resolver.
        Auto = "auto",
    }
}

labels! {
    /// Outcome of a request.
    Access {
        /// Allowed with a valid session.
        Allow = "allow",
        /// Allowed without a session.
        Anonymous = "anonymous",
        /// Denied.
        Deny = "deny",
        /// Denied because the look-up failed.
        Error = "error",
    }
}

labels! {
    /// Result of the cache: `$authgear_cache_status` in lower case.
    CacheStatus {
        /// `HIT`
        Hit = "hit",
        /// `MISS`
        Miss = "miss",
        /// `EXPIRED`
        Expired = "expired",
        /// `STALE`
        Stale = "stale",
        /// `UPDATING`
        Updating = "updating",
        /// `JOINED`
        Joined = "joined",
        /// `SHARED`
        Shared = "shared",
        /// `BYPASS`
        Bypass = "bypass",
    }
}

impl CacheStatus {
    /// Value of `$authgear_cache_status`.
    pub fn variable(self) -> &'static str {
        match self {
            Self::Hit => "HIT",
            Self::Miss => "MISS",
            Self::Expired => "EXPIRED",
            Self::Stale => "STALE",
            Self::Updating => "UPDATING",
            Self::Joined => "JOINED",
            Self::Shared => "SHARED",
            Self::Bypass => "BYPASS",
        }
    }
}

labels! {
    /// Origin of a connection to the resolver.
    ConnectionState {
        /// Newly opened.
        Opened = "opened",
        /// Reused from the keepalive pool.
        Reused = "reused",
    }
}

labels! {
    /// Result of a fetch of the key set.
    Fetch {
        /// Successful.
        Ok = "ok",
        /// Failed.
        Error = "error",
    }
}

labels! {
    /// Scope of a purge.
    PurgeKind {
        /// One user.
        User = "user",
        /// The caller of `authgear_purge self`.
        Caller = "self",
        /// Everything.
        All = "all",
    }
}

labels! {
    /// Result of a webhook event.
    EventOutcome {
        /// Handled.
        Handled = "handled",
        /// Ignored: an event that requires no action.
        Ignored = "ignored",
        /// Rejected: the signature is wrong or missing.
        Forged = "forged",
        /// Rejected: the body is not a valid event.
        Invalid = "invalid",
    }
}

const REASONS: usize = Reason::ALL.len();
const ACCESSES: usize = Access::ALL.len();

/// Counters of a snapshot: those of [`Access`], the cache's hits and look-ups, the resolver's look-ups
/// and failures, and the histogram.
const WIDTH: usize = ACCESSES + 4 + BOUNDS.len() + 1;

/// Number of [`ProjectMetrics`] that [`Metrics`] needs: the last are those of projects without a slot.
pub const SLOTS: usize = PROJECTS + 1;

/// All counters, in shared memory. `S` holds those of projects.
pub struct Metrics<S> {
    slots: S,
    purges: LabelCounters<{ PurgeKind::ALL.len() }>,
    events: LabelCounters<{ EventOutcome::ALL.len() }>,
    locations: LocationSlots<ACCESSES>,
    /// Counters of `authgear_fleet`.
    pub fleet: FleetMetrics,
    clock: SnapshotClock,
    /// Seconds since 1970.
    started: AtomicU64,
}

/// Counters of one project.
pub struct ProjectMetrics {
    /// Fingerprint of the project's name; 0 while the slot is free.
    owner: AtomicU64,
    requests: LabelCounters<{ Mode::ALL.len() * ACCESSES }>,
    denied: LabelCounters<REASONS>,
    dry_run_denied: LabelCounters<REASONS>,
    errors: LabelCounters<REASONS>,
    ended: LabelCounters<REASONS>,
    failure_mode_allowed: AtomicU64,
    cache: LabelCounters<{ CacheStatus::ALL.len() }>,
    /// Results of look-ups, by [`Verdict::reason`].
    answers: LabelCounters<REASONS>,
    latency: LabelCounters<{ BOUNDS.len() + 1 }>,
    /// Microseconds.
    latency_sum: AtomicU64,
    connections: LabelCounters<{ ConnectionState::ALL.len() }>,
    in_flight: [AtomicU32; WORKERS],
    failing: AtomicU64,
    /// Seconds since 1970; 0 for never.
    failing_since: AtomicU64,
    failed_last: AtomicU64,
    /// Index in [`Reason::ALL`].
    failed_why: AtomicU64,
    fetches: LabelCounters<{ Fetch::ALL.len() }>,
    fetched_last: AtomicU64,
    /// Seconds since 1970: of the first failed fetch since the last success, and of the last one; 0
    /// for never.
    fetch_failed_first: AtomicU64,
    fetch_failed_last: AtomicU64,
    keys: AtomicU64,
    verifications: LabelCounters<REASONS>,
    history: SnapshotRing<WIDTH>,
}

/// Index of a project's [`ProjectMetrics`]. Equal in all processes, for the lifetime of the shared
/// memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProjectSlot(usize);

impl ProjectSlot {
    /// Number of the slot. [`PROJECTS`] is the slot that further projects share.
    pub fn index(self) -> usize {
        self.0
    }
}

/// Guard of a look-up in flight; dropping it ends the look-up.
#[derive(Debug)]
pub struct InFlight<'m>(Option<&'m AtomicU32>);

impl Default for ProjectMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Deref<Target = [ProjectMetrics]>> Metrics<S> {
    /// Creates counters that are all zero, with [`SLOTS`] new counters of projects.
    pub const fn new(slots: S) -> Self {
        Self {
            slots,
            purges: LabelCounters::new(),
            events: LabelCounters::new(),
            locations: LocationSlots::new(),
            fleet: FleetMetrics::new(),
            clock: SnapshotClock::new(),
            started: AtomicU64::new(0),
        }
    }

    /// Sets the time of the start, in seconds since 1970.
    pub fn starts(&self, now: u64) {
        self.started.store(now, Ordering::Relaxed);
    }

    /// Time of the start, in seconds since 1970.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Returns the slot of the project with this name; takes a free one on first use.
    ///
    /// Slots belong to names, not settings: counters continue when a setting changes, and two
    /// projects with equal settings are counted separately.
    pub fn slot(&self, name: &str) -> ProjectSlot {
        let own = fingerprint(name);
        for (n, slot) in self.slots.iter().take(PROJECTS).enumerate() {
            let taken = slot.owner.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire);
            if taken.is_ok() || taken == Err(own) {
                return ProjectSlot(n);
            }
        }
        ProjectSlot(PROJECTS)
    }

    /// Returns the counters of a slot.
    pub fn at(&self, slot: ProjectSlot) -> &ProjectMetrics {
        static NOWHERE: ProjectMetrics = ProjectMetrics::new();
        self.slots.get(slot.0).or(self.slots.last()).unwrap_or(&NOWHERE)
    }

    /// Resets the look-ups in flight of a worker number. Call when a worker starts, since a previous
    /// worker with this number may have died.
    pub fn worker_begins(&self, worker: usize) {
        for project in self.slots.iter() {
            if let Some(in_flight) = project.in_flight.get(worker) {
                in_flight.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Counts a purge.
    pub fn purged(&self, kind: PurgeKind) {
        self.purges.add(kind as usize);
    }

    /// Counts a webhook event.
    pub fn event(&self, outcome: EventOutcome) {
        self.events.add(outcome as usize);
    }
}

impl ProjectMetrics {
    /// Creates counters that are all zero.
    pub const fn new() -> Self {
        Self {
            owner: AtomicU64::new(0),
            requests: LabelCounters::new(),
            denied: LabelCounters::new(),
            dry_run_denied: LabelCounters::new(),
            errors: LabelCounters::new(),
            ended: LabelCounters::new(),
            failure_mode_allowed: AtomicU64::new(0),
            cache: LabelCounters::new(),
            answers: LabelCounters::new(),
            latency: LabelCounters::new(),
            latency_sum: AtomicU64::new(0),
            connections: LabelCounters::new(),
            in_flight: [const { AtomicU32::new(0) }; WORKERS],
            failing: AtomicU64::new(0),
            failing_since: AtomicU64::new(0),
            failed_last: AtomicU64::new(0),
            failed_why: AtomicU64::new(0),
            fetches: LabelCounters::new(),
            fetched_last: AtomicU64::new(0),
            fetch_failed_first: AtomicU64::new(0),
            fetch_failed_last: AtomicU64::new(0),
            keys: AtomicU64::new(0),
            verifications: LabelCounters::new(),
            history: SnapshotRing::new(),
        }
    }

    /// Counts a request.
    pub fn request(&self, mode: Mode, access: Access) {
        self.requests.add(mode as usize * ACCESSES + access as usize);
    }

    /// Counts a denial, or one that `authgear_dry_run` suppressed.
    pub fn denied(&self, why: Reason, dry_run: bool) {
        let counters = if dry_run { &self.dry_run_denied } else { &self.denied };
        counters.add(why as usize);
    }

    /// Counts a request that got 503.
    pub fn failed(&self, why: Reason) {
        self.errors.add(why as usize);
    }

    /// Counts an open response that `authgear_recheck` ended.
    pub fn ended(&self, why: Reason) {
        self.ended.add(why as usize);
    }

    /// Counts a request that was allowed without a session because the look-up failed.
    pub fn failure_mode_allowed(&self) {
        self.failure_mode_allowed.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a result of the cache.
    pub fn cache(&self, status: CacheStatus) {
        self.cache.add(status as usize);
    }

    /// Counts a look-up in flight of this worker, until the guard is dropped.
    pub fn asking(&self, worker: Option<usize>) -> InFlight<'_> {
        let in_flight = worker.and_then(|worker| self.in_flight.get(worker));
        if let Some(in_flight) = in_flight {
            in_flight.fetch_add(1, Ordering::Relaxed);
        }
        InFlight(in_flight)
    }

    /// Counts a finished look-up that took this long. `now` is in seconds since 1970.
    pub fn asked(&self, verdict: &Verdict, took: Duration, now: u64) {
        let why = match verdict {
            // One outcome of a look-up: the resolver's `false`.
            Verdict::BearerNotAccepted => Reason::SessionInvalid,
            other => other.reason(),
        } as usize;
        self.answers.add(why);
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.latency.add(BOUNDS.partition_point(|bound| *bound < took));
        self.latency_sum.fetch_add(took, Ordering::Relaxed);
        if matches!(verdict, Verdict::Unavailable(_)) {
            if self.failing.swap(1, Ordering::Relaxed) == 0 {
                self.failing_since.store(now, Ordering::Relaxed);
            }
            self.failed_why.store(why as u64, Ordering::Relaxed);
            self.failed_last.store(now, Ordering::Relaxed);
        } else if self.failing.load(Ordering::Relaxed) != 0 {
            self.failing.store(0, Ordering::Relaxed);
        }
    }

    /// Counts a look-up that the circuit breaker prevented.
    pub fn left_alone(&self, verdict: &Verdict) {
        self.answers.add(verdict.reason() as usize);
    }

    /// Counts a connection that a look-up uses.
    pub fn connection(&self, state: ConnectionState) {
        self.connections.add(state as usize);
    }

    /// Counts a fetch of the key set at `now`, in seconds since 1970. `keys` is the number of keys, or
    /// `None` if the fetch failed.
    pub fn fetched(&self, keys: Option<usize>, now: u64) {
        let Some(keys) = keys else {
            let first = &self.fetch_failed_first;
            let _ = first.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            self.fetch_failed_last.store(now, Ordering::Relaxed);
            return self.fetches.add(Fetch::Error as usize);
        };
        self.fetch_failed_first.store(0, Ordering::Relaxed);
        self.fetches.add(Fetch::Ok as usize);
        self.keys.store(keys as u64, Ordering::Relaxed);
        self.fetched_last.store(now, Ordering::Relaxed);
    }

    /// Sets the number of keys that were loaded without a fetch.
    pub fn has_keys(&self, keys: usize) {
        self.keys.store(keys as u64, Ordering::Relaxed);
    }

    /// Counts a verified token: [`Reason::Ok`] if accepted, otherwise the reason of its rejection.
    pub fn verified(&self, result: Reason) {
        self.verifications.add(result as usize);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(in_flight) = self.0 {
            // Not below zero, since `worker_begins` may have reset it.
            let less = |n: u32| n.checked_sub(1);
            let _ = in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

impl<S> fmt::Debug for Metrics<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl fmt::Debug for ProjectMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProjectMetrics")
    }
}

/// Returns a hash of a project's name, never 0. Unkeyed, since names in the configuration are not
/// secret.
fn fingerprint(name: &str) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(name.as_bytes());
    hasher.finish().max(1)
}
