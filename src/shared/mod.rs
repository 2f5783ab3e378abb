//! What worker processes share.
//!
//! Verdicts are in the zones that the user declares. All else is in one of the module's own,
//! which is always there: the keys of tokens, counters, and what was purged or revoked.

pub mod map;

use core::sync::atomic::{AtomicU64, Ordering};

use authgear::metrics::Metrics;
use authgear::purges::Purges;
use authgear::revocations::Revocations;

use crate::nginx::{Conf, ConfError, Header, SharedZone};
use crate::Authgear;
use map::{new_secret, HasMap, MapHeader};

/// Bytes of the module's own zone: the same in every configuration, so that it outlives a reload.
const SIZE: usize = 2 * 1024 * 1024;

/// Its name, which no `authgear_cache_zone` can have.
const NAME: &str = "authgear:own";

/// The module's own zone.
pub struct Own {
    /// Of the map of key sets.
    keys: MapHeader,
    /// Counts changes of any of them.
    key_changes: AtomicU64,
    /// What is counted.
    pub metrics: Metrics,
    /// What was purged. Changed under the lock.
    pub purges: Purges,
    /// Users whose older tokens are refused. Changed under the lock.
    pub revocations: Revocations,
}

impl Own {
    /// Counts changes of key sets.
    pub fn key_changes(&self) -> u64 {
        self.key_changes.load(Ordering::Acquire)
    }

    /// A key set changed: workers will read it anew.
    pub fn keys_changed(&self) {
        self.key_changes.fetch_add(1, Ordering::Release);
    }
}

impl Header for Own {
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

impl HasMap for Own {
    fn map(&self) -> &MapHeader {
        &self.keys
    }
}

/// Declares the zone.
pub fn declare(cf: &mut Conf<'_>) -> Result<SharedZone<Own>, ConfError> {
    cf.shared_zone::<Authgear, Own>(NAME, SIZE)
}
