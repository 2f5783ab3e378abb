//! Counters of the last five minutes: snapshots in shared memory.
//!
//! A timer of each worker calls [`Metrics::remember`]; the first one of a step takes the snapshot. So
//! requests pay nothing, and all readers see the same minutes.

use std::ops::Deref;
use std::sync::atomic::Ordering;

use super::report::{LabelTable, Recent, RecentCache, Series};
use super::snapshots::SnapshotClock;
use super::{
    Access, CacheStatus, Metrics, Mode, ProjectMetrics, ACCESSES, BOUNDS, PROJECTS, WIDTH,
};
use crate::verdict::Reason;

impl ProjectMetrics {
    /// The counters of a snapshot, now.
    fn tally(&self) -> [u32; WIDTH] {
        let mut all = [0; WIDTH];
        let accesses = (0..ACCESSES).map(|access| {
            let modes = 0..Mode::ALL.len();
            modes.map(|mode| self.requests.get(mode * ACCESSES + access)).sum::<u64>()
        });
        let cache = |statuses: &[CacheStatus]| {
            statuses.iter().map(|status| self.cache.get(*status as usize)).sum::<u64>()
        };
        let served = cache(&[
            CacheStatus::Hit,
            CacheStatus::Stale,
            CacheStatus::Updating,
            CacheStatus::Shared,
        ]);
        let missed = cache(&[CacheStatus::Miss, CacheStatus::Expired, CacheStatus::Joined]);
        let answers = [Reason::Ok, Reason::SessionInvalid, Reason::NoSession];
        let answered: u64 = answers.iter().map(|reason| self.answers.get(*reason as usize)).sum();
        let buckets = (0..=BOUNDS.len()).map(|bucket| self.latency.get(bucket));
        let asked: u64 = buckets.clone().sum();
        let rest = [served, served + missed, asked, asked.saturating_sub(answered)];
        for (place, value) in all.iter_mut().zip(accesses.chain(rest).chain(buckets)) {
            *place = value as u32;
        }
        all
    }

    pub(super) fn recent(&self, clock: &SnapshotClock) -> Recent {
        let stored = clock.readable().filter_map(|snapshot| self.history.read(snapshot));
        let all: Vec<_> = stored.chain([self.tally()]).collect();
        let steps: Vec<[u64; WIDTH]> = (all.windows(2))
            .filter_map(|pair| match pair {
                [before, after] => Some(std::array::from_fn(|n| {
                    let of = |tally: &[u32; WIDTH]| tally.get(n).copied().unwrap_or_default();
                    u64::from(of(after).wrapping_sub(of(before)))
                })),
                _ => None,
            })
            .collect();
        let total = |n: usize| steps.iter().filter_map(|step| step.get(n)).sum::<u64>();
        let series = |columns: &[usize]| -> Vec<u64> {
            let of = |step: &[u64; WIDTH]| columns.iter().filter_map(|n| step.get(*n)).sum();
            steps.iter().map(of).collect()
        };
        let (deny, error) = (Access::Deny as usize, Access::Error as usize);
        let accesses: Vec<usize> = (0..ACCESSES).collect();
        let names = Access::ALL.iter().map(|access| (access.as_str(), total(*access as usize)));
        Recent {
            requests: LabelTable(names.collect()),
            cache: RecentCache { served: total(ACCESSES), asked: total(ACCESSES + 1) },
            lookups: (ACCESSES + 4..WIDTH).map(total).collect(),
            failed: total(ACCESSES + 3),
            series: Series {
                requests: series(&accesses),
                denied: series(&[deny]),
                errors: series(&[error]),
                lookups: series(&[ACCESSES + 2]),
            },
        }
    }
}

impl<S: Deref<Target = [ProjectMetrics]>> Metrics<S> {
    /// Takes a snapshot if one is due at `now`, in seconds of a monotonic clock, and no other worker
    /// takes it.
    pub fn remember(&self, now: u64) {
        let Some(snapshot) = self.clock.begin(now) else { return };
        let is_used = |n: usize, slot: &ProjectMetrics| {
            n == PROJECTS || slot.owner.load(Ordering::Relaxed) != 0
        };
        let used = self.slots.iter().enumerate().filter(|(n, slot)| is_used(*n, slot));
        for (_, project) in used {
            project.history.write(snapshot, project.tally());
        }
        self.clock.end(snapshot);
    }

    /// Seconds that the report of recent counters covers at `now`; 0 before the first snapshot.
    pub fn remembered(&self, now: u64) -> u64 {
        self.clock.oldest().map_or(0, |oldest| now.saturating_sub(oldest))
    }
}
