//! Access to the module's zone: purges, revocations, disabled periods and counters.

use core::cell::OnceCell;
use core::ops::Deref;
use core::time::Duration;

use authgear::metrics::{ProjectMetrics, ProjectSlot};
use authgear::overload::probe_schedule::SharedBreaker;
use authgear::shared::cache_key::Key;
use authgear::shared::disabled_periods::PeriodSet;
use authgear::shared::purges::{EntryScope, PurgeEpoch};
use authgear::shared::revocations::Revoked;
use authgear::shared::subject::PurgeTarget;
use authgear::verdict::Verdict;

use super::module_zone::{ModuleZone, SharedMetrics};
use nginx::{self, Level, Log, SharedZone};

/// A copyable handle of the module's zone. It is empty before the worker process has begun, and
/// where no `http {}` is configured: then nothing is purged, revoked or counted.
#[derive(Clone, Copy, Default)]
pub struct SharedHandle(Option<SharedZone<ModuleZone>>);

impl SharedHandle {
    /// A handle of `zone`.
    pub fn new(zone: Option<SharedZone<ModuleZone>>) -> Self {
        Self(zone)
    }

    /// The zone's header.
    pub fn zone(&self) -> Option<&ModuleZone> {
        self.0.as_ref().map(SharedZone::header)
    }

    fn locked<R>(&self, body: impl FnOnce(&ModuleZone) -> R) -> Option<R> {
        self.0.map(|zone| zone.lock(|_, header| body(header)))
    }

    /// Purges `subjects` in all workers: verdicts of look-ups that began before are not used any
    /// more. Workers that look at open responses are woken.
    pub fn purge(&self, subjects: &[PurgeTarget<'_>]) {
        let now = nginx::now().as_millis() as u64;
        if self.locked(|zone| zone.purges.purge(subjects, now)) == Some(false) {
            Log::cycle().write(
                Level::Notice,
                format_args!(
                    "too many authgear purges to keep apart: older verdicts were purged too"
                ),
            );
        }
        nginx::wake_all();
    }

    /// Purges everything.
    pub fn purge_all(&self) {
        self.locked(|zone| zone.purges.purge_all());
        nginx::wake_all();
    }

    /// Position in the purge log at which a look-up begins. Purges after it cancel its verdict.
    pub fn purge_epoch(&self) -> PurgeEpoch {
        self.zone().map(|zone| zone.purges.now()).unwrap_or_default()
    }

    /// Generation of the purge log, which every purge changes.
    pub fn purge_generation(&self) -> u64 {
        self.zone().map_or(0, |zone| zone.purges.generation())
    }

    /// Whether the verdict of a look-up that began at `since` was purged meanwhile. `key` is that
    /// of its credentials, and `scope` that of its project.
    pub fn is_purged(
        &self,
        since: PurgeEpoch,
        key: Option<&Key>,
        scope: &[u8; 32],
        verdict: &Verdict,
    ) -> bool {
        let user = match verdict {
            Verdict::Valid(identity) => identity.user_id(),
            _ => None,
        };
        let entry = EntryScope { key, project: scope, user };
        self.zone().is_some_and(|zone| zone.purges.is_purged(since, &entry))
    }

    /// Whether tokens of `user` that were issued at `issued` are refused. Seconds since 1970.
    pub fn is_revoked(&self, scope: &[u8; 32], user: &[u8], issued: u64) -> bool {
        let now = nginx::unix_time().as_secs();
        self.zone().is_some_and(|zone| zone.revocations.is_refused(scope, user, issued, now))
    }

    /// Refuses tokens of `user` that were issued up to `issued`, from `now` until `until`. Seconds
    /// since 1970.
    pub fn revoke(
        &self,
        user: &PurgeTarget<'_>,
        issued: u64,
        until: u64,
        now: u64,
    ) -> Option<Revoked> {
        self.locked(|zone| zone.revocations.revoke(user, issued, until, now))
    }

    /// Keeps no verdict on the credentials of `key` for `time`: they were logged out.
    pub fn keep_nothing(&self, key: &Key, time: Duration) {
        let now = nginx::unix_time().as_secs();
        let until = now.saturating_add(time.as_secs()).saturating_add(1);
        let _ =
            self.locked(|zone| zone.logged_out.revoke(&PurgeTarget::Holder(key), 0, until, now));
    }

    /// Whether no verdict on the credentials of `key` is kept now.
    pub fn is_logged_out(&self, key: &Key) -> bool {
        let now = nginx::unix_time().as_secs();
        self.zone().is_some_and(|zone| zone.logged_out.has(&PurgeTarget::Holder(key), now))
    }

    /// Whether `user` is disabled now, for a period that began after `since`: see
    /// [`DisabledPeriods::is_disabled`](authgear::shared::disabled_periods::DisabledPeriods::is_disabled).
    pub fn is_disabled(&self, scope: &[u8; 32], user: &[u8], since: u64) -> bool {
        let now = nginx::unix_time().as_secs();
        self.zone().is_some_and(|zone| zone.disabled_periods.is_disabled(scope, user, since, now))
    }

    /// Whether any user may be disabled for a period now.
    pub fn has_disabled_periods(&self) -> bool {
        let now = nginx::unix_time().as_secs();
        self.zone().is_some_and(|zone| zone.disabled_periods.may_apply(now))
    }

    /// Remembers the period for which `user` is disabled, or lifts it. Seconds since 1970.
    pub fn set_disabled_period(
        &self,
        user: &PurgeTarget<'_>,
        order: u64,
        period: Option<(u64, u64)>,
    ) -> Option<PeriodSet> {
        let now = nginx::unix_time().as_secs();
        self.locked(|zone| zone.disabled_periods.set(user, order, period, now))
    }

    /// Counts what belongs to no project.
    pub fn count(&self, count: impl FnOnce(&SharedMetrics)) {
        if let Some(zone) = self.zone() {
            count(&zone.metrics);
        }
    }

    /// Breaker of the project `name`. `slot` keeps its position, as for [`Self::counters`].
    pub fn breaker(&self, name: &str, slot: &OnceCell<ProjectSlot>) -> ProjectBreaker {
        let found = self.0.and_then(|zone| {
            let slot = *slot.get_or_init(|| zone.header().metrics.slot(name));
            zone.header().breaker(slot).is_some().then_some((zone, slot))
        });
        match found {
            Some((zone, slot)) => ProjectBreaker::Shared(zone, slot),
            None => ProjectBreaker::Own(SharedBreaker::new()),
        }
    }

    /// Counters of the project `name`. `slot` keeps their position, which is the same in each
    /// process.
    pub fn counters(&self, name: &str, slot: &OnceCell<ProjectSlot>) -> Counters {
        Counters(self.0.map(|zone| {
            let find = || zone.header().metrics.slot(name);
            (zone, *slot.get_or_init(find))
        }))
    }
}

/// The breaker of one project: in shared memory, or this worker's own where the project has no
/// place there.
pub enum ProjectBreaker {
    /// All workers share it.
    Shared(SharedZone<ModuleZone>, ProjectSlot),
    /// This worker's own.
    Own(SharedBreaker),
}

impl Deref for ProjectBreaker {
    type Target = SharedBreaker;

    fn deref(&self) -> &SharedBreaker {
        static CLOSED: SharedBreaker = SharedBreaker::new();
        match self {
            Self::Shared(zone, slot) => zone.header().breaker(*slot).unwrap_or(&CLOSED),
            Self::Own(breaker) => breaker,
        }
    }
}

/// Counters of one project; where there is no zone, counts are lost.
pub struct Counters(Option<(SharedZone<ModuleZone>, ProjectSlot)>);

impl Deref for Counters {
    type Target = ProjectMetrics;

    fn deref(&self) -> &ProjectMetrics {
        static NOWHERE: ProjectMetrics = ProjectMetrics::new();
        match &self.0 {
            Some((zone, slot)) => zone.header().metrics.at(*slot),
            None => &NOWHERE,
        }
    }
}
