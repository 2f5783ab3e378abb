//! What is counted, in memory that all workers share, and how it is told.
//!
//! [`Metrics`] are counters of fixed number and place: all zero to begin with, and changed by
//! single atomic additions, so that no worker waits for another and one that dies leaves nothing
//! half done. [`Report`] is what they say at one moment: [`Report::prometheus`] for Prometheus,
//! [`Report::json`] for programs, [`Report::page`] for people. Nothing in it is about a user.

mod format;
mod page;
mod prometheus;
mod report;
#[cfg(test)]
mod tests;

use std::fmt;
use std::hash::Hasher as _;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use siphasher::sip::SipHasher24;

use crate::verdict::{Reason, Verdict};

pub use format::Format;
pub use page::Page;
pub use prometheus::CONTENT_TYPE as PROMETHEUS;
pub use report::{
    Bucket, Build, Connections, JwksReport, LabelTable, Latency, OutageReport, ProjectReport,
    Report, ResolverReport, ZoneReport,
};

// Until src is renamed.
pub use {EventOutcome as Event, ProjectSlot as Slot, PurgeKind as Purge};

/// Projects that are told apart. What is beyond is counted together.
pub const PROJECTS: usize = 32;

/// Worker slots whose look-ups in flight are counted apart, so that those of a worker that died
/// can be forgotten.
pub const WORKERS: usize = 128;

/// Upper bounds of the histogram's buckets, in microseconds. There is one more without a bound.
pub const BOUNDS: [u64; 13] = [
    1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

macro_rules! labels {
    ($(#[$doc:meta])+ $kind:ident { $($(#[$variant_doc:meta])+ $name:ident = $word:literal,)+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $kind {
            $($(#[$variant_doc])+ $name,)+
        }

        impl $kind {
            /// All of them.
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

labels! {
    /// What decides about a request.
    Mode {
        /// Authgear's resolver.
        Resolver = "resolver",
        /// A token that is verified here.
        Jwt = "jwt",
        /// The one, where it can, or the other.
        Auto = "auto",
    }
}

labels! {
    /// What became of a request.
    Access {
        /// It went on with a valid session.
        Allow = "allow",
        /// It went on without one.
        Anonymous = "anonymous",
        /// It was turned away.
        Deny = "deny",
        /// It was turned away because nobody could say who sends it.
        Error = "error",
    }
}

labels! {
    /// How the cache served a request: `$authgear_cache_status`, in small letters.
    CacheStatus {
        /// See the documentation of the variable, as for the others.
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
        /// `BYPASS`
        Bypass = "bypass",
    }
}

impl CacheStatus {
    /// The status that the variable has this value for.
    pub fn of_variable(value: &str) -> Option<Self> {
        let all = Self::ALL.iter().copied();
        all.into_iter().find(|status| status.as_str().eq_ignore_ascii_case(value))
    }
}

labels! {
    /// How a connection to the resolver came about.
    ConnectionState {
        /// It was made.
        Opened = "opened",
        /// It was there.
        Reused = "reused",
    }
}

labels! {
    /// How a fetch of keys ended.
    Fetch {
        /// With keys.
        Ok = "ok",
        /// Without.
        Error = "error",
    }
}

labels! {
    /// What was purged.
    PurgeKind {
        /// A user.
        User = "user",
        /// The caller of `authgear_purge self`.
        Caller = "self",
        /// Everything.
        All = "all",
    }
}

labels! {
    /// What became of a webhook's event.
    EventOutcome {
        /// It was acted upon.
        Handled = "handled",
        /// It is none that matters here.
        Ignored = "ignored",
        /// Its signature was wrong, or missing.
        Forged = "forged",
        /// It made no sense.
        Invalid = "invalid",
    }
}

/// As many counters as a label has values, `of` by their place.
struct LabelCounters<const N: usize>([AtomicU64; N]);

impl<const N: usize> LabelCounters<N> {
    const fn new() -> Self {
        Self([const { AtomicU64::new(0) }; N])
    }

    fn add(&self, index: usize) {
        if let Some(counter) = self.0.get(index) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn get(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

const REASONS: usize = Reason::ALL.len();
const ACCESSES: usize = Access::ALL.len();

/// All that is counted.
pub struct Metrics {
    slots: [ProjectMetrics; PROJECTS],
    /// Of projects for which there was no slot.
    other: ProjectMetrics,
    purges: LabelCounters<{ PurgeKind::ALL.len() }>,
    events: LabelCounters<{ EventOutcome::ALL.len() }>,
}

/// What is counted about one project.
pub struct ProjectMetrics {
    /// Fingerprint of its name, 0 while nobody has this slot.
    whose: AtomicU64,
    requests: LabelCounters<{ Mode::ALL.len() * ACCESSES }>,
    denied: LabelCounters<REASONS>,
    dry_run_denied: LabelCounters<REASONS>,
    failure_mode_allowed: AtomicU64,
    cache: LabelCounters<{ CacheStatus::ALL.len() }>,
    /// Answers, by what [`Verdict::reason`] says.
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
    /// Place in [`Reason::ALL`].
    failed_why: AtomicU64,
    fetches: LabelCounters<{ Fetch::ALL.len() }>,
    fetched_last: AtomicU64,
    keys: AtomicU64,
    verifications: LabelCounters<REASONS>,
}

/// The place of a project's [`ProjectMetrics`]; it is the same in all processes, for as long as
/// the memory is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProjectSlot(usize);

/// A look-up in flight, until it is dropped.
#[derive(Debug)]
pub struct InFlight<'m>(Option<&'m AtomicU32>);

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Nothing was counted yet.
    pub const fn new() -> Self {
        Self {
            slots: [const { ProjectMetrics::new() }; PROJECTS],
            other: ProjectMetrics::new(),
            purges: LabelCounters::new(),
            events: LabelCounters::new(),
        }
    }

    /// The slot of the project with this name, which it has from then on.
    ///
    /// It is the name that is looked for and not the settings: a counter goes on when a setting
    /// is changed, and two projects of equal settings are two.
    pub fn slot(&self, name: &str) -> ProjectSlot {
        let own = fingerprint(name);
        for (n, slot) in self.slots.iter().enumerate() {
            let taken = slot.whose.compare_exchange(0, own, Ordering::AcqRel, Ordering::Acquire);
            if taken.is_ok() || taken == Err(own) {
                return ProjectSlot(n);
            }
        }
        ProjectSlot(PROJECTS)
    }

    /// What is counted in a slot.
    pub fn at(&self, slot: ProjectSlot) -> &ProjectMetrics {
        self.slots.get(slot.0).unwrap_or(&self.other)
    }

    /// A worker begins, under a number that one before it may have had: what that one had in
    /// flight is gone.
    pub fn worker_begins(&self, worker: usize) {
        for project in self.slots.iter().chain([&self.other]) {
            if let Some(in_flight) = project.in_flight.get(worker) {
                in_flight.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Something was purged.
    pub fn purged(&self, what: PurgeKind) {
        self.purges.add(what as usize);
    }

    /// A webhook called.
    pub fn event(&self, outcome: EventOutcome) {
        self.events.add(outcome as usize);
    }
}

impl ProjectMetrics {
    const fn new() -> Self {
        Self {
            whose: AtomicU64::new(0),
            requests: LabelCounters::new(),
            denied: LabelCounters::new(),
            dry_run_denied: LabelCounters::new(),
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
            keys: AtomicU64::new(0),
            verifications: LabelCounters::new(),
        }
    }

    /// What became of a request.
    pub fn request(&self, mode: Mode, access: Access) {
        self.requests.add(mode as usize * ACCESSES + access as usize);
    }

    /// A request was turned away, or would have been but for `authgear_dry_run`.
    pub fn denied(&self, why: Reason, dry_run: bool) {
        let counters = if dry_run { &self.dry_run_denied } else { &self.denied };
        counters.add(why as usize);
    }

    /// A request went on as anonymous because nobody could say who sends it.
    pub fn failure_mode_allowed(&self) {
        self.failure_mode_allowed.fetch_add(1, Ordering::Relaxed);
    }

    /// How the cache served a request.
    pub fn cache(&self, status: CacheStatus) {
        self.cache.add(status as usize);
    }

    /// The resolver is about to be asked, by this worker.
    pub fn asking(&self, worker: Option<usize>) -> InFlight<'_> {
        let in_flight = worker.and_then(|worker| self.in_flight.get(worker));
        if let Some(in_flight) = in_flight {
            in_flight.fetch_add(1, Ordering::Relaxed);
        }
        InFlight(in_flight)
    }

    /// The resolver was asked: what came of it, after `took`, at `now` in seconds since 1970.
    pub fn asked(&self, verdict: &Verdict, took: Duration, now: u64) {
        let why = verdict.reason() as usize;
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

    /// The resolver was not asked though it should have been, after too many failures.
    pub fn left_alone(&self, verdict: &Verdict) {
        self.answers.add(verdict.reason() as usize);
    }

    /// A connection is about to be used.
    pub fn connection(&self, state: ConnectionState) {
        self.connections.add(state as usize);
    }

    /// Keys were fetched, so many, at `now` in seconds since 1970; none if that failed.
    pub fn fetched(&self, keys: Option<usize>, now: u64) {
        let Some(keys) = keys else { return self.fetches.add(Fetch::Error as usize) };
        self.fetches.add(Fetch::Ok as usize);
        self.keys.store(keys as u64, Ordering::Relaxed);
        self.fetched_last.store(now, Ordering::Relaxed);
    }

    /// Keys are there that need no fetch, so many.
    pub fn has_keys(&self, keys: usize) {
        self.keys.store(keys as u64, Ordering::Relaxed);
    }

    /// A token was looked into: [`Reason::Ok`] if it counts, or why it does not.
    pub fn verified(&self, result: Reason) {
        self.verifications.add(result as usize);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(in_flight) = self.0 {
            // Never below zero, whatever was forgotten in between.
            let less = |n: u32| n.checked_sub(1);
            let _ = in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl fmt::Debug for ProjectMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProjectMetrics")
    }
}

/// Stands for a name; never 0. There is nothing to hide in a configuration's own names.
fn fingerprint(name: &str) -> u64 {
    let mut hasher = SipHasher24::new();
    hasher.write(name.as_bytes());
    hasher.finish().max(1)
}
