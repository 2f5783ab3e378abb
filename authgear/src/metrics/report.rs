//! Snapshot of the counters.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

use super::label_counters::LabelCounters;
use super::snapshots::SnapshotClock;
use super::{
    Access, CacheStatus, ConnectionState, EventOutcome, Fetch, FleetCache, FleetConnection,
    FleetEvent, FleetLoss, FleetMetrics, Metrics, Mode, ProjectMetrics, ProjectSlot, PurgeKind,
    ACCESSES, BOUNDS, PROJECTS,
};
use crate::shared::zone::Stats;
use crate::verdict::{Reason, Unavailable};

/// Name for the projects without a slot. No project can have this name.
pub(super) const OTHER: &str = "(other)";

/// Values by label, in the order of the labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelTable<T = u64>(pub Vec<(&'static str, T)>);

impl LabelTable {
    /// Returns the number for a label; 0 if absent.
    pub fn get(&self, word: &str) -> u64 {
        self.0.iter().find(|(own, _)| *own == word).map_or(0, |(_, n)| *n)
    }

    fn is_zero(&self) -> bool {
        self.0.iter().all(|(_, n)| *n == 0)
    }
}

impl<T: Serialize> Serialize for LabelTable<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(word, value)| (*word, value)))
    }
}

/// Versions of this build.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    /// Version of the module.
    pub version: &'static str,
    /// Version of nginx.
    pub nginx: String,
}

/// Snapshot of all metrics.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Versions of this build.
    pub build: Build,
    /// Name of the host.
    pub host: String,
    /// Number of worker processes.
    pub workers: u64,
    /// Time of the start of the counters, in seconds since 1970.
    pub started: u64,
    /// Time of the snapshot, in seconds since 1970.
    pub time: u64,
    /// Seconds that [`ProjectReport::recent`] covers.
    pub recent_seconds: u64,
    /// Seconds of a step of [`x.
    pub recent_step: u64,
    /// The projects.
    pub projects: Vec<ProjectReport>,
    /// The cache's zones.
    pub zones: Vec<ZoneReport>,
    /// Locations with `authgear_status_zone`.
    pub locations: Vec<LocationReport>,
    /// Purges, by scope.
    pub purges: LabelTable,
    /// Webhook events, by result.
    pub webhook_events: LabelTable,
    /// Users whose older tokens are rejected.
    pub revocations: u64,
    /// The fleet, with `authgear_fleet`.
    pub fleet: Option<FleetReport>,
}

/// Metrics of a project.
#[derive(Clone, Debug, Serialize)]
pub struct ProjectReport {
    /// Name of the project.
    pub name: String,
    /// Requests, by mode and outcome.
    pub requests: LabelTable<LabelTable>,
    /// Denials, by reason.
    pub denied: LabelTable,
    /// Denials that `authgear_dry_run` suppressed, by reason.
    pub dry_run_denied: LabelTable,
    /// Requests that got 503, by reason.
    pub errors: LabelTable,
    /// Open responses that were ended, by reason.
    pub ended: LabelTable,
    /// See [`ProjectMetrics::failure_mode_allowed`].
    pub failure_mode_allowed: u64,
    /// Requests with credentials, by result of the cache.
    pub cache: LabelTable,
    /// The resolver.
    pub resolver: ResolverReport,
    /// The key set.
    pub jwks: JwksReport,
    /// Verified tokens, by reason.
    pub jwt_verifications: LabelTable,
    /// Counters of the last five minutes.
    pub recent: Recent,
}

/// Metrics of a resolver.
#[derive(Clone, Debug, Serialize)]
pub struct ResolverReport {
    /// Look-ups, by outcome.
    pub requests: LabelTable,
    /// Look-ups in flight.
    pub inflight: u64,
    /// Connections.
    pub connections: Connections,
    /// Duration of look-ups.
    pub latency: Latency,
    /// The last outage, if there was any.
    pub outage: Option<OutageReport>,
}

/// Connections to a resolver.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Connections {
    /// Newly opened connections.
    pub opened: u64,
    /// Look-ups that reused a connection.
    pub reused: u64,
}

/// A histogram.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Counts by duration; not cumulative.
    pub buckets: Vec<Bucket>,
    /// Sum of all durations, in seconds.
    pub sum: f64,
    /// Number of look-ups in all buckets. Look-ups that were not made are not in it.
    pub count: u64,
}

/// Bucket of a histogram.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bucket {
    /// Upper bound in seconds; the last bucket has none.
    pub le: Option<f64>,
    /// Look-ups in this bucket.
    pub count: u64,
}

/// Failures of a resolver.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OutageReport {
    /// Whether the last look-up failed.
    pub failing: bool,
    /// Time of the first failure after the last success, in seconds since 1970.
    pub since: u64,
    /// Time of the last failure, in seconds since 1970.
    pub last: u64,
    /// Reason of the last failure.
    pub reason: &'static str,
}

/// Metrics of a project's key set.
#[derive(Clone, Debug, Serialize)]
pub struct JwksReport {
    /// Fetches, by outcome.
    pub fetches: LabelTable,
    /// Time of the last successful fetch, in seconds since 1970.
    pub last_success: Option<u64>,
    /// Number of usable keys.
    pub keys: u64,
    /// The last outage, if there was any.
    pub outage: Option<FetchOutage>,
}

/// Failed fetches of a key set.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FetchOutage {
    /// Time of the first failure since the last success, in seconds since 1970; none if the last
    /// fetch succeeded.
    pub since: Option<u64>,
    /// Time of the last failure, in seconds since 1970.
    pub last: u64,
}

/// Metrics of a cache zone.
#[derive(Clone, Debug, Serialize)]
pub struct ZoneReport {
    /// Name of the zone.
    pub name: String,
    /// Number of entries.
    pub entries: u64,
    /// Bytes in use.
    pub bytes: u64,
    /// Capacity in bytes.
    pub size: u64,
    /// Entries evicted to make room.
    pub evictions: u64,
}

/// Counters of the last five minutes, or of the time since the start if that is less.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Recent {
    /// Requests, by outcome.
    pub requests: LabelTable,
    /// Requests with credentials that the cache served, and all that could be.
    pub cache: RecentCache,
    /// Look-ups that were made, by the buckets of their duration.
    pub lookups: Vec<u64>,
    /// Look-ups that failed.
    pub failed: u64,
    /// The same by step, the oldest first.
    pub series: Series,
}

/// Use of the cache.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct RecentCache {
    /// Requests that the cache served.
    pub served: u64,
    /// Requests that it could have served.
    pub asked: u64,
}

/// Counters by step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Series {
    /// All requests.
    pub requests: Vec<u64>,
    /// Denied requests.
    pub denied: Vec<u64>,
    /// Requests that got 503.
    pub errors: Vec<u64>,
    /// Look-ups.
    pub lookups: Vec<u64>,
}

/// Metrics of the locations with a name.
#[derive(Clone, Debug, Serialize)]
pub struct LocationReport {
    /// The name.
    pub name: String,
    /// Requests, by outcome.
    pub requests: LabelTable,
}

/// Metrics of the fleet.
#[derive(Clone, Debug, Serialize)]
pub struct FleetReport {
    /// True if this host has all events.
    pub in_sync: bool,
    /// Time at which it had all events last, in seconds since 1970.
    pub last_sync: Option<u64>,
    /// Events of this host that Redis does not have.
    pub ring_waiting: u64,
    /// Events, by what became of them.
    pub events: LabelTable,
    /// Losses, by reason.
    pub losses: LabelTable,
    /// Connections, by outcome.
    pub connections: LabelTable,
    /// Time from an event to its effect here.
    pub delay: Latency,
    /// Looks for verdicts of other hosts, by outcome.
    pub cache: LabelTable,
    /// Time until Redis answered a command about verdicts.
    pub commands: Latency,
    /// Seconds by which the clock of Redis is ahead.
    pub clock_offset: f64,
}

impl ZoneReport {
    /// Creates the metrics of a zone from its statistics.
    pub fn new(name: &str, stats: Stats) -> Self {
        let bytes = |chunks: usize| (chunks * crate::shared::zone::CHUNK) as u64;
        Self {
            name: name.to_owned(),
            entries: stats.entries as u64,
            bytes: bytes(stats.chunks.saturating_sub(stats.chunks_free)),
            size: bytes(stats.chunks),
            evictions: stats.evictions,
        }
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn table<const N: usize>(
    words: impl Iterator<Item = &'static str>,
    counters: &LabelCounters<N>,
) -> LabelTable {
    LabelTable(words.enumerate().map(|(n, word)| (word, counters.get(n))).collect())
}

/// Collects the reasons that occurred. Reasons with a count of zero are omitted.
fn reasons<const N: usize>(counters: &LabelCounters<N>) -> LabelTable {
    let mut table = table(Reason::ALL.iter().map(|reason| reason.as_str()), counters);
    table.0.retain(|(_, n)| *n != 0);
    table
}

/// Failures of a look-up.
const FAILURES: [Unavailable; 12] = [
    Unavailable::Dns,
    Unavailable::Connect,
    Unavailable::Tls,
    Unavailable::Timeout,
    Unavailable::Closed,
    Unavailable::BadStatus,
    Unavailable::BadAnswer,
    Unavailable::NotAResolver,
    Unavailable::TooLarge,
    Unavailable::Suspended,
    Unavailable::Overloaded,
    Unavailable::Internal,
];

/// Outcomes of a look-up: the label, and the reason whose counter has the number.
fn outcomes() -> impl Iterator<Item = (&'static str, Reason)> {
    let answers =
        [("valid", Reason::Ok), ("invalid", Reason::SessionInvalid), ("none", Reason::NoSession)];
    let failures = FAILURES.iter().map(|why| (why.reason().as_str(), why.reason()));
    answers.into_iter().chain(failures)
}

impl FleetMetrics {
    /// Returns a snapshot.
    pub fn report(&self, in_sync: bool, ring_waiting: u64, clock_offset: i64) -> FleetReport {
        let last_sync = self.last_sync.load(Ordering::Relaxed);
        FleetReport {
            in_sync,
            last_sync: (last_sync != 0).then_some(last_sync),
            ring_waiting,
            events: table(FleetEvent::ALL.iter().map(|event| event.as_str()), &self.events),
            losses: table(FleetLoss::ALL.iter().map(|loss| loss.as_str()), &self.losses),
            connections: table(
                FleetConnection::ALL.iter().map(|connection| connection.as_str()),
                &self.connections,
            ),
            delay: histogram(&self.delay, &self.delay_sum),
            cache: table(FleetCache::ALL.iter().map(|outcome| outcome.as_str()), &self.cache),
            commands: histogram(&self.commands, &self.commands_sum),
            clock_offset: clock_offset as f64 / 1e3,
        }
    }
}

fn histogram<const N: usize>(counters: &LabelCounters<N>, sum: &AtomicU64) -> Latency {
    let bounds = BOUNDS.iter().map(|bound| Some(*bound as f64 / 1e6)).chain([None]);
    let buckets = bounds.enumerate().map(|(n, le)| Bucket { le, count: counters.get(n) });
    let buckets: Vec<Bucket> = buckets.collect();
    let count = buckets.iter().map(|bucket| bucket.count).sum();
    Latency { buckets, sum: load(sum) as f64 / 1e6, count }
}

impl ProjectMetrics {
    fn report(&self, name: &str, clock: &SnapshotClock) -> ProjectReport {
        let modes = Mode::ALL.iter().map(|&mode| {
            let of = |access: &Access| {
                let n = self.requests.get(mode as usize * ACCESSES + *access as usize);
                (access.as_str(), n)
            };
            (mode.as_str(), LabelTable(Access::ALL.iter().map(of).collect()))
        });
        let latency = histogram(&self.latency, &self.latency_sum);
        let last = load(&self.failed_last);
        let reason = usize::try_from(load(&self.failed_why)).ok();
        let reason = reason.and_then(|n| Reason::ALL.get(n)).unwrap_or(&Reason::InternalError);
        let outage = (last != 0).then(|| OutageReport {
            failing: load(&self.failing) != 0,
            since: load(&self.failing_since),
            last,
            reason: reason.as_str(),
        });
        let in_flight = self.in_flight.iter().map(|n| u64::from(n.load(Ordering::Relaxed)));
        ProjectReport {
            name: name.to_owned(),
            requests: LabelTable(modes.collect()),
            denied: reasons(&self.denied),
            dry_run_denied: reasons(&self.dry_run_denied),
            errors: reasons(&self.errors),
            ended: reasons(&self.ended),
            failure_mode_allowed: load(&self.failure_mode_allowed),
            cache: table(CacheStatus::ALL.iter().map(|s| s.as_str()), &self.cache),
            resolver: ResolverReport {
                requests: LabelTable(
                    outcomes()
                        .map(|(word, reason)| (word, self.answers.get(reason as usize)))
                        .collect(),
                ),
                inflight: in_flight.sum(),
                connections: Connections {
                    opened: self.connections.get(ConnectionState::Opened as usize),
                    reused: self.connections.get(ConnectionState::Reused as usize),
                },
                latency,
                outage,
            },
            jwks: JwksReport {
                fetches: table(Fetch::ALL.iter().map(|f| f.as_str()), &self.fetches),
                last_success: Some(load(&self.fetched_last)).filter(|time| *time != 0),
                keys: load(&self.keys),
                outage: Some(load(&self.fetch_failed_last)).filter(|time| *time != 0).map(|last| {
                    let since = Some(load(&self.fetch_failed_first)).filter(|time| *time != 0);
                    FetchOutage { since, last }
                }),
            },
            jwt_verifications: reasons(&self.verifications),
            recent: self.recent(clock),
        }
    }

    fn is_untouched(&self, clock: &SnapshotClock) -> bool {
        let report = self.report(OTHER, clock);
        report.requests.0.iter().all(|(_, table)| table.is_zero())
            && report.resolver.requests.is_zero()
            && report.jwks.fetches.is_zero()
    }
}

impl<S: Deref<Target = [ProjectMetrics]>> Metrics<S> {
    /// Returns the metrics of the projects with these names, and of all projects without a slot.
    pub fn projects<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<ProjectReport> {
        let slots = names.map(|name| (name, self.slot(name)));
        let own = slots.filter(|(_, slot)| slot.0 < PROJECTS);
        let mut reports: Vec<_> =
            own.map(|(name, slot)| self.at(slot).report(name, &self.clock)).collect();
        let other = self.at(ProjectSlot(PROJECTS));
        if !other.is_untouched(&self.clock) {
            reports.push(other.report(OTHER, &self.clock));
        }
        reports
    }

    /// See [`Report::purges`].
    pub fn purges(&self) -> LabelTable {
        table(PurgeKind::ALL.iter().map(|p| p.as_str()), &self.purges)
    }

    /// See [`Report::webhook_events`].
    pub fn events(&self) -> LabelTable {
        table(EventOutcome::ALL.iter().map(|e| e.as_str()), &self.events)
    }
}

impl Report {
    /// Formats the report as JSON.
    pub fn json(&self) -> String {
        // Cannot fail: keys are strings and numbers are finite.
        serde_json::to_string(self).unwrap_or_default()
    }
}
