//! Shared memory of all worker processes.
//!
//! Verdicts are in the zones that `authgear_cache_zone` declares, accounts of look-ups in those of
//! `authgear_unknown_limit`, events for other hosts in that of `authgear_fleet`. The module's zone, which is
//! always there, has the key sets, counters, the purge log, revocations and disabled
//! periods.

pub mod changes;
pub mod fleet_zone;
pub mod handle;
pub mod limit_zone;
pub mod map;
mod module_zone;

pub use fleet_zone::FleetZone;
pub use module_zone::ModuleZone;
use nginx::{Conf, ConfError, Module, SharedZone};

/// Size in bytes of the module's zone: the same in every configuration, so that the zone survives
/// a reload.
const SIZE: usize = 4 * 1024 * 1024;

/// Name of the module's zone, which no `authgear_cache_zone` can have.
const NAME: &str = "authgear:own";

/// Declares the zone for module `M`.
pub fn declare<M: Module>(cf: &mut Conf<'_>) -> Result<SharedZone<ModuleZone>, ConfError> {
    cf.shared_zone::<M, ModuleZone>(NAME, SIZE)
}

/// Size in bytes of the zone of the fleet.
const FLEET_SIZE: usize = 2 * 1024 * 1024;

/// Name of the zone of the fleet.
const FLEET_NAME: &str = "authgear:fleet";

/// Declares the zone of the fleet for module `M`.
pub fn declare_fleet<M: Module>(cf: &mut Conf<'_>) -> Result<SharedZone<FleetZone>, ConfError> {
    cf.shared_zone::<M, FleetZone>(FLEET_NAME, FLEET_SIZE)
}
