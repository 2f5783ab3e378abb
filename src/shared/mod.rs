//! Shared memory of all worker processes.
//!
//! Verdicts are in the zones that `authgear_cache_zone` declares. The module's zone, which is
//! always there, has the key sets, counters, the purge log and revocations.

pub mod handle;
pub mod map;

use core::sync::atomic::{AtomicU64, Ordering};

use authgear::metrics::Metrics;
use authgear::purges::Purges;
use authgear::revocations::Revocations;

use map::{new_secret, HasMap, MapHeader};
use nginx::{Conf, ConfError, Header, Module, SharedZone};

/// Size in bytes of the module's zone: the same in every configuration, so that the zone survives
/// a reload.
const SIZE: usize = 2 * 1024 * 1024;

/// Name of the module's zone, which no `authgear_cache_zone` can have.
const NAME: &str = "authgear:own";

/// Header of the module's zone.
pub struct ModuleZone {
    /// Header of the map of key sets.
    keys: MapHeader,
    /// Counts changes of key sets.
    key_changes: AtomicU64,
    /// Counters.
    pub metrics: Metrics,
    /// The purge log. Changed under the lock.
    pub purges: Purges,
    /// Users whose older tokens are refused. Changed under the lock.
    pub revocations: Revocations,
}

impl ModuleZone {
    /// Count of changes of key sets.
    pub fn key_changes(&self) -> u64 {
        self.key_changes.load(Ordering::Acquire)
    }

    /// Makes workers read the key sets again.
    pub fn keys_changed(&self) {
        self.key_changes.fetch_add(1, Ordering::Release);
    }
}

impl Header for ModuleZone {
    fn init(arena: &mut [u8]) -> Result<Self, String> {
        let secret = || new_secret().map_err(|error| format!("no random numbers: {error}"));
        Ok(Self {
            keys: MapHeader::init(arena)?,
            key_changes: AtomicU64::new(0),
            metrics: Metrics::new(),
            purges: Purges::new(secret()?),
            revocations: Revocations::new(secret()?),
        })
    }
}

impl HasMap for ModuleZone {
    fn map(&self) -> &MapHeader {
        &self.keys
    }
}

/// Declares the zone for module `M`.
pub fn declare<M: Module>(cf: &mut Conf<'_>) -> Result<SharedZone<ModuleZone>, ConfError> {
    cf.shared_zone::<M, ModuleZone>(NAME, SIZE)
}
