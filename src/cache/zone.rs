//! The shared zone: verdicts that all workers have, and look-ups that any of them makes.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;

use authgear::key::{Key, KeySecret};
use authgear::zone::{self, Flight, Outcome, Owner, Waiters, Zone};

use super::Kept;
use crate::nginx::{self, Level, Log, SharedZone};

/// The part of a zone that is read without its lock.
pub struct ZoneHeader {
    /// See [`Zone::open`].
    dirty: AtomicU32,
    /// Changes when what workers keep of the zone is no longer to be used.
    generation: AtomicU64,
    /// Of the keys; made with the zone, and never leaves it.
    secret: KeySecret,
}

impl nginx::Header for ZoneHeader {
    fn init(arena: &mut [u8]) -> Result<Self, String> {
        Zone::format(arena).map_err(|error| error.to_string())?;
        Ok(Self {
            dirty: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            secret: super::new_secret().map_err(|error| format!("no random numbers: {error}"))?,
        })
    }
}

/// Least bytes that `authgear_cache_zone` takes: nginx's own pages, and an arena that works.
pub fn least_size() -> usize {
    // ngx_slab_init() takes pages for its own tables, as many as one in a few hundred.
    const NGINX: usize = 5 * 4096;
    (NGINX + zone::MIN_SIZE).next_multiple_of(4096)
}

/// A worker's access to a zone.
#[derive(Clone, Copy)]
pub(super) struct Shared(SharedZone<ZoneHeader>);

impl Shared {
    pub(super) fn new(zone: SharedZone<ZoneHeader>) -> Self {
        Self(zone)
    }

    pub(super) fn secret(&self) -> &KeySecret {
        &self.0.header().secret
    }

    pub(super) fn generation(&self) -> u64 {
        self.0.header().generation.load(Ordering::Acquire)
    }

    fn with<R>(&self, body: impl FnOnce(&mut Zone<'_>) -> R) -> Option<R> {
        self.0.lock(|arena, header| {
            let mut zone = Zone::open(arena, &header.dirty)
                .inspect_err(|error| {
                    Log::cycle().write(Level::Error, format_args!("authgear cache zone: {error}"));
                })
                .ok()?;
            let result = body(&mut zone);
            if zone.emptied() {
                header.generation.fetch_add(1, Ordering::AcqRel);
                let message = format_args!("authgear cache zone emptied: a process died while changing it, or it was damaged");
                Log::cycle().write(Level::Warn, message);
            }
            Some(result)
        })
    }

    /// What is kept under `key`.
    pub(super) fn get(&self, key: &Key) -> Option<Kept> {
        self.with(|zone| zone.get(key).and_then(|record| Kept::decode(&record)))?
    }

    /// Keeps `kept`, ends flight `id`, and wakes who waits for it.
    pub(super) fn store(&self, key: &Key, id: Option<u64>, kept: &Kept) {
        let mut data = Vec::new();
        if !kept.verdict.encode(&mut data) {
            if let Some(id) = id {
                self.fail(key, id, super::ABANDONED);
            }
            return;
        }
        let (fetched_at, expires_at) = kept.times();
        let stored = self.with(|zone| zone.store(key, id, fetched_at, expires_at, &data));
        wake(stored.unwrap_or_default().waiters);
    }

    /// Ends flight `id` without a verdict, and wakes who waits for it.
    pub(super) fn fail(&self, key: &Key, id: u64, why: u8) {
        let waiters = self.with(|zone| zone.fail(key, id, why));
        wake(waiters.unwrap_or_default());
    }

    /// Takes the lead of the look-up of `key`, or a seat behind whoever has it.
    pub(super) fn lead(&self, key: &Key, lease: Duration) -> Flight {
        let now = nginx::now().as_millis() as u64;
        let owner = Owner { slot: nginx::own_slot().unwrap_or(u16::MAX), pid: std::process::id() };
        let lease_until = now + lease.as_millis() as u64;
        self.with(|zone| zone.lead(key, owner, now, lease_until)).unwrap_or(Flight::Alone)
    }

    /// What became of flight `id`.
    pub(super) fn outcome(&self, key: &Key, id: u64) -> Outcome {
        self.with(|zone| zone.outcome(key, id)).unwrap_or(Outcome::Gone)
    }
}

fn wake(waiters: Waiters) {
    if !waiters.is_empty() {
        nginx::wake(waiters.into());
    }
}
