//! Zone of `authgear_unknown_limit`: accounts of clients' look-ups.

use authgear::overload::lookup_limit::{self, Leave, Limit};
use authgear::shared::cache_key::KeySecret;

use super::map::new_secret;
use nginx::{self, SharedZone, ZoneHeader, ZoneKind, ZoneMemory};

/// Header of a zone of `authgear_unknown_limit`. The arena is the table of accounts.
pub struct LimitZone {
    /// Secret of the keys: a client cannot choose the place of its account.
    secret: KeySecret,
}

impl ZoneHeader for LimitZone {
    const KIND: ZoneKind = ZoneKind::Second;

    fn init(memory: &mut ZoneMemory) -> Result<Self, String> {
        let arena = memory.arena()?;
        if arena.len() < lookup_limit::MIN_SIZE {
            return Err("no room for accounts".into());
        }
        arena.fill(0);
        Ok(Self { secret: new_secret()? })
    }
}

/// Counts a look-up of the client with this identity, unless it is beyond `limit`.
pub fn take(zone: SharedZone<LimitZone>, identity: &[u8], limit: Limit) -> Leave {
    let key = lookup_limit::key_of(zone.header().secret.as_bytes(), identity);
    let now = u64::try_from(nginx::now().as_millis()).unwrap_or(u64::MAX);
    zone.lock(|table, _| lookup_limit::take(table, key, now, limit))
}
