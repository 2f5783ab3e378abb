//! Header of the module's zone.

use core::sync::atomic::{AtomicU64, Ordering};

use authgear::metrics::{Metrics, ProjectMetrics, ProjectSlot, PROJECTS, SLOTS};
use authgear::overload::probe_schedule::SharedBreaker;
use authgear::shared::disabled_periods::DisabledPeriods;
use authgear::shared::purges::PurgeLog;
use authgear::shared::revocations::Revocations;

use super::map::{new_secret, HasMap, MapHeader};
use nginx::{SharedSlice, ZoneHeader, ZoneMemory};

/// Counters in the zone.
pub type SharedMetrics = Metrics<SharedSlice<ProjectMetrics>>;

/// Header of the module's zone.
pub struct ModuleZone {
    /// Header of the map of key sets.
    keys: MapHeader,
    /// Counts changes of key sets.
    key_changes: AtomicU64,
    /// Counters.
    pub metrics: SharedMetrics,
    /// The purge log. Changed under the lock.
    pub purges: PurgeLog,
    /// Users whose older tokens are refused. Changed under the lock.
    pub revocations: Revocations,
    /// Credentials that were logged out: no verdict on them is kept. Changed under the lock.
    pub logged_out: Revocations,
    /// Users who are disabled by the clock. Changed under the lock.
    pub disabled_periods: DisabledPeriods,
    /// Breakers of the projects that have a slot of their own.
    breakers: [SharedBreaker; PROJECTS],
}

impl ModuleZone {
    /// Count of changes of key sets.
    pub fn key_changes(&self) -> u64 {
        self.key_changes.load(Ordering::Acquire)
    }

    /// Breaker of the project with this slot. `None` if the project shares its slot with others.
    pub fn breaker(&self, slot: ProjectSlot) -> Option<&SharedBreaker> {
        self.breakers.get(slot.index())
    }

    /// Makes workers read the key sets again.
    pub fn keys_changed(&self) {
        self.key_changes.fetch_add(1, Ordering::Release);
    }
}

impl ZoneHeader for ModuleZone {
    fn init(memory: &mut ZoneMemory) -> Result<Self, String> {
        let metrics = Metrics::new(memory.slice(SLOTS, ProjectMetrics::new)?);
        metrics.starts(nginx::unix_time().as_secs());
        metrics.remember(nginx::now().as_secs());
        Ok(Self {
            keys: MapHeader::init(memory)?,
            key_changes: AtomicU64::new(0),
            metrics,
            purges: PurgeLog::new(new_secret()?),
            revocations: Revocations::new(new_secret()?),
            logged_out: Revocations::new(new_secret()?),
            disabled_periods: DisabledPeriods::new(new_secret()?),
            breakers: [const { SharedBreaker::new() }; PROJECTS],
        })
    }
}

impl HasMap for ModuleZone {
    fn map(&self) -> &MapHeader {
        &self.keys
    }
}
