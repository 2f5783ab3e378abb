//! What the counters say at one moment.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Serialize, Serializer};

use super::{
    Access, CacheStatus, ConnectionState, EventOutcome, Fetch, LabelCounters, Metrics, Mode,
    ProjectMetrics, PurgeKind, ACCESSES, BOUNDS, PROJECTS,
};
use crate::shared::zone::Stats;
use crate::verdict::{Reason, Unavailable};

/// The name under which what had no slot of its own is told. No project can have it.
pub(super) const OTHER: &str = "(other)";

/// Words and what belongs to them, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelTable<T = u64>(pub Vec<(&'static str, T)>);

impl LabelTable {
    /// The number of a word; 0 if it is not there.
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

/// What was built.
#[derive(Clone, Debug, Serialize)]
pub struct Build {
    /// Version of the module.
    pub version: &'static str,
    /// Version of nginx.
    pub nginx: String,
}

/// All that is told.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was built.
    pub build: Build,
    /// When, in seconds since 1970.
    pub time: u64,
    /// The projects.
    pub projects: Vec<ProjectReport>,
    /// The cache's zones.
    pub zones: Vec<ZoneReport>,
    /// Purges, by what was purged.
    pub purges: LabelTable,
    /// Events of webhooks, by what became of them.
    pub webhook_events: LabelTable,
    /// Users whose older tokens are refused.
    pub revocations: u64,
}

/// What is told about a project.
#[derive(Clone, Debug, Serialize)]
pub struct ProjectReport {
    /// Its name.
    pub name: String,
    /// By mode, what became of requests.
    pub requests: LabelTable<LabelTable>,
    /// Why they were turned away.
    pub denied: LabelTable,
    /// Why they would have been.
    pub dry_run_denied: LabelTable,
    /// See [`ProjectMetrics::failure_mode_allowed`].
    pub failure_mode_allowed: u64,
    /// How the cache served them.
    pub cache: LabelTable,
    /// The resolver.
    pub resolver: ResolverReport,
    /// Keys.
    pub jwks: JwksReport,
    /// Tokens that were looked into, by reason.
    pub jwt_verifications: LabelTable,
}

/// What is told about a resolver.
#[derive(Clone, Debug, Serialize)]
pub struct ResolverReport {
    /// Look-ups, by outcome.
    pub requests: LabelTable,
    /// Look-ups that are under way.
    pub inflight: u64,
    /// Connections.
    pub connections: Connections,
    /// How long look-ups took.
    pub latency: Latency,
    /// The last outage, if there was any.
    pub outage: Option<OutageReport>,
}

/// Connections to a resolver.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Connections {
    /// That were made.
    pub opened: u64,
    /// How often one was used again.
    pub reused: u64,
}

/// A histogram.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// How many took no longer than this, and longer than the bucket before.
    pub buckets: Vec<Bucket>,
    /// Seconds, of all.
    pub sum: f64,
    /// How many in all.
    pub count: u64,
}

/// A bucket of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Bucket {
    /// Its upper bound in seconds; the last has none.
    pub le: Option<f64>,
    /// How many are in it.
    pub count: u64,
}

/// Failures of a resolver.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct OutageReport {
    /// Whether the last look-up failed.
    pub failing: bool,
    /// The first failure after the last success, in seconds since 1970.
    pub since: u64,
    /// The last failure.
    pub last: u64,
    /// Why that was.
    pub reason: &'static str,
}

/// What is told about the keys of a project.
#[derive(Clone, Debug, Serialize)]
pub struct JwksReport {
    /// Fetches, by outcome.
    pub fetches: LabelTable,
    /// Of the last one that succeeded, in seconds since 1970.
    pub last_success: Option<u64>,
    /// Keys that are there.
    pub keys: u64,
}

/// What is told about a zone of the cache.
#[derive(Clone, Debug, Serialize)]
pub struct ZoneReport {
    /// Its name.
    pub name: String,
    /// Entries.
    pub entries: u64,
    /// Bytes that they take.
    pub bytes: u64,
    /// Bytes that they may take.
    pub size: u64,
    /// Entries that were removed to make room.
    pub evictions: u64,
}

impl ZoneReport {
    /// What is told of these numbers.
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

/// Reasons that came up: each for itself is rare.
fn reasons<const N: usize>(counters: &LabelCounters<N>) -> LabelTable {
    let mut table = table(Reason::ALL.iter().map(|reason| reason.as_str()), counters);
    table.0.retain(|(_, n)| *n != 0);
    table
}

/// How a look-up may fail.
const FAILURES: [Unavailable; 10] = [
    Unavailable::Dns,
    Unavailable::Connect,
    Unavailable::Tls,
    Unavailable::Timeout,
    Unavailable::Closed,
    Unavailable::BadStatus,
    Unavailable::BadAnswer,
    Unavailable::TooLarge,
    Unavailable::Suspended,
    Unavailable::Internal,
];

/// What a look-up ends with, and the place of its counter.
fn outcomes() -> impl Iterator<Item = (&'static str, Reason)> {
    let answers =
        [("valid", Reason::Ok), ("invalid", Reason::SessionInvalid), ("none", Reason::NoSession)];
    let failures = FAILURES.iter().map(|why| (why.reason().as_str(), why.reason()));
    answers.into_iter().chain(failures)
}

impl ProjectMetrics {
    fn report(&self, name: &str) -> ProjectReport {
        let modes = Mode::ALL.iter().map(|&mode| {
            let of = |access: &Access| {
                let n = self.requests.get(mode as usize * ACCESSES + *access as usize);
                (access.as_str(), n)
            };
            (mode.as_str(), LabelTable(Access::ALL.iter().map(of).collect()))
        });
        let latency = {
            let bounds = BOUNDS.iter().map(|bound| Some(*bound as f64 / 1e6)).chain([None]);
            let buckets: Vec<Bucket> = bounds
                .enumerate()
                .map(|(n, le)| Bucket { le, count: self.latency.get(n) })
                .collect();
            let count = buckets.iter().map(|bucket| bucket.count).sum();
            Latency { buckets, sum: load(&self.latency_sum) as f64 / 1e6, count }
        };
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
            },
            jwt_verifications: reasons(&self.verifications),
        }
    }

    fn is_untouched(&self) -> bool {
        let report = self.report(OTHER);
        report.requests.0.iter().all(|(_, table)| table.is_zero())
            && report.resolver.requests.is_zero()
            && report.jwks.fetches.is_zero()
    }
}

impl Metrics {
    /// What is told about the projects of these names, and about all that had no slot.
    pub fn projects<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<ProjectReport> {
        let slots = names.map(|name| (name, self.slot(name)));
        let own = slots.filter(|(_, slot)| slot.0 < PROJECTS);
        let mut reports: Vec<_> = own.map(|(name, slot)| self.at(slot).report(name)).collect();
        if !self.other.is_untouched() {
            reports.push(self.other.report(OTHER));
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
    /// As JSON.
    pub fn json(&self) -> String {
        // Its keys are strings and its numbers finite: nothing can go wrong.
        serde_json::to_string(self).unwrap_or_default()
    }
}
