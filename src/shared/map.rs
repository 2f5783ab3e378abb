//! A map in shared memory, with the look-ups of its keys that workers have in flight.

use core::cell::{Cell, RefCell};
use core::pin::pin;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use authgear::shared::cache_key::{Key, KeySecret};
use authgear::shared::zone::{self, Flight, Outcome, Owner, Record, Waiters, Worth, Zone};
use event_listener::Event;

use nginx::{self, Level, Log, SharedZone, ZoneHeader, ZoneMemory};

/// Interval at which a follower checks that its leader is alive, besides being woken.
const POLL: Duration = Duration::from_millis(250);

/// Code of a flight whose leader left without a result.
const ABANDONED: u8 = u8::MAX;

/// Number of groups of keys. When a key is forgotten, copies of the keys in its group become
/// invalid, and all other copies stay valid.
const FORGET_GROUPS: usize = 256;

/// The part of a map that is read without its lock.
pub struct MapHeader {
    /// See [`Zone::open`].
    dirty: AtomicU32,
    /// Changes when copies of the map's entries in workers become invalid.
    generation: AtomicU64,
    /// Counts of forgotten keys, by the first byte of the key: see [`Map::forget`].
    forgotten: [AtomicU64; FORGET_GROUPS],
    /// Secret of the keys; made with the map, and never written anywhere else.
    secret: KeySecret,
}

impl ZoneHeader for MapHeader {
    fn init(memory: &mut ZoneMemory) -> Result<Self, String> {
        Zone::format(memory.arena()?).map_err(|error| error.to_string())?;
        Ok(Self {
            dirty: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            forgotten: [const { AtomicU64::new(0) }; FORGET_GROUPS],
            secret: new_secret()?,
        })
    }
}

/// A header of shared memory whose arena is a map.
pub trait HasMap: ZoneHeader {
    /// The map's part of the header.
    fn map(&self) -> &MapHeader;
}

impl HasMap for MapHeader {
    fn map(&self) -> &Self {
        self
    }
}

/// Smallest size in bytes of a zone with a map: nginx's own pages, and the smallest arena.
pub fn least_size() -> usize {
    // ngx_slab_init() takes pages for its own tables, as many as one in a few hundred.
    const NGINX: usize = 5 * 4096;
    (NGINX + zone::MIN_SIZE).next_multiple_of(4096)
}

/// A random secret for keys.
pub fn new_secret() -> Result<KeySecret, String> {
    let mut secret = [0; 16];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| "no random numbers")?;
    Ok(KeySecret::from_bytes(secret))
}

/// A worker's access to a map.
pub struct Map<H> {
    zone: SharedZone<H>,
    /// Flights that this worker follows, by id. The event of a flight is notified when the flight
    /// may have ended.
    followed: RefCell<BTreeMap<u64, Rc<Event>>>,
    /// Count of ended flights at the last wake-up; see [`Zone::flights_ended_since`].
    seen_ended: Cell<u64>,
}

/// A follower of a flight in [`Map::followed`]. The last one that is dropped removes the flight.
struct Following<'a, H: HasMap> {
    map: &'a Map<H>,
    id: u64,
    ended: Rc<Event>,
}

impl<H: HasMap> Drop for Following<'_, H> {
    fn drop(&mut self) {
        // One reference is the map's, and one is this follower's.
        if Rc::strong_count(&self.ended) <= 2 {
            self.map.followed.borrow_mut().remove(&self.id);
        }
    }
}

/// Whether this worker makes the look-up or waits for another worker's.
pub enum Role<'a, H: HasMap> {
    /// This worker makes it.
    Leader(LeaderGuard<'a, H>),
    /// Another worker makes it.
    Follower(RemoteLeader),
}

/// Obligation to end a flight. A guard that is dropped before that lets another worker take over.
pub struct LeaderGuard<'a, H: HasMap> {
    map: &'a Map<H>,
    key: &'a Key,
    /// None if the zone had no room for the flight.
    id: Option<u64>,
}

/// The worker that makes a look-up.
pub struct RemoteLeader {
    id: u64,
    pid: u32,
    lease_until: Duration,
}

/// End of another worker's flight.
pub enum FlightEnd {
    /// The worker ended it, and may have stored an entry.
    Stored,
    /// The worker ended it with this code.
    Failed(u8),
    /// The worker is gone, or its lease is over.
    Abandoned,
}

impl<H: HasMap> Map<H> {
    /// The map in `zone`.
    pub fn new(zone: SharedZone<H>) -> Self {
        Self { zone, followed: RefCell::default(), seen_ended: Cell::new(0) }
    }

    /// The zone's header.
    pub fn header(&self) -> &H {
        self.zone.header()
    }

    /// The secret of the map's keys.
    pub fn secret(&self) -> &KeySecret {
        &self.header().map().secret
    }

    /// Generation of the map and of the group of `key`. A copy of the entry is valid for one
    /// generation.
    pub fn generation(&self, key: &Key) -> (u64, u64) {
        let generation = self.header().map().generation.load(Ordering::Acquire);
        (generation, self.group(key).map_or(0, |group| group.load(Ordering::Acquire)))
    }

    /// Count of the group of `key`. `None` never occurs: a byte has as many values as there are
    /// groups.
    fn group(&self, key: &Key) -> Option<&AtomicU64> {
        let [first, ..] = key.as_bytes();
        self.header().map().forgotten.get(usize::from(*first))
    }

    /// Removes the entry of `key`, and invalidates its copies in all workers. True if a look-up of
    /// it is in flight: then the entry stays, and the look-up goes on.
    pub fn forget(&self, key: &Key) -> bool {
        let is_in_flight = self.with(|zone| zone.forget(key)).unwrap_or_default();
        // After the removal: a worker that reads the zone from here on finds no entry.
        if let Some(group) = self.group(key) {
            group.fetch_add(1, Ordering::AcqRel);
        }
        is_in_flight
    }

    /// Runs `body` with the map, while no other process has it.
    pub fn with<R>(&self, body: impl FnOnce(&mut Zone<'_>) -> R) -> Option<R> {
        self.zone.lock(|arena, header| {
            let header = header.map();
            let mut zone = Zone::open(arena, &header.dirty)
                .inspect_err(|error| {
                    Log::cycle().write(Level::Error, format_args!("authgear zone: {error}"));
                })
                .ok()?;
            let result = body(&mut zone);
            if zone.emptied() {
                header.generation.fetch_add(1, Ordering::AcqRel);
                Log::cycle().write(
                    Level::Warn,
                    format_args!(
                        "authgear zone emptied: a process died while changing it, \
                         or it was damaged"
                    ),
                );
            }
            Some(result)
        })
    }

    /// The entry of `key`, read by `decode`.
    pub fn get<T>(&self, key: &Key, decode: impl FnOnce(&Record<'_>) -> Option<T>) -> Option<T> {
        self.with(|zone| zone.get(key).and_then(|record| decode(&record)))?
    }

    /// Stores `data` and its times `(fetched_at, expires_at)` under `key`, and ends its flight, if
    /// any. False if `data` is too large.
    pub fn store(&self, key: &Key, worth: Worth, times: (u64, u64), data: &[u8]) -> bool {
        self.put(key, None, worth, times, data)
    }

    fn put(
        &self,
        key: &Key,
        id: Option<u64>,
        worth: Worth,
        times: (u64, u64),
        data: &[u8],
    ) -> bool {
        let stored = self.with(|zone| zone.store(key, id, worth, times, data));
        let stored = stored.unwrap_or_default();
        wake(stored.waiters);
        stored.kept
    }

    fn fail(&self, key: &Key, id: u64, why: u8) {
        let waiters = self.with(|zone| zone.fail(key, id, why));
        wake(waiters.unwrap_or_default());
    }

    /// Begins a flight of `key` for the time of `lease`, or follows the one that there is.
    pub fn role<'a>(&'a self, key: &'a Key, lease: Duration) -> Role<'a, H> {
        let now = nginx::now().as_millis() as u64;
        let owner = Owner { slot: nginx::wake_slot().unwrap_or(u16::MAX), pid: std::process::id() };
        let lease_until = now + lease.as_millis() as u64;
        let flight = self.with(|zone| zone.lead(key, owner, now, lease_until));
        match flight.unwrap_or(Flight::Alone) {
            Flight::Leader { id } => Role::Leader(LeaderGuard { map: self, key, id: Some(id) }),
            // No room in the zone: each worker makes its own look-up.
            Flight::Alone => Role::Leader(LeaderGuard { map: self, key, id: None }),
            Flight::Follower { id, owner, lease_until } => Role::Follower(RemoteLeader {
                id,
                pid: owner.pid,
                lease_until: Duration::from_millis(lease_until),
            }),
        }
    }

    /// Waits for the end of another worker's flight.
    pub async fn follow(&self, key: &Key, leader: RemoteLeader) -> FlightEnd {
        let ended = Rc::clone(self.followed.borrow_mut().entry(leader.id).or_default());
        let following = Following { map: self, id: leader.id, ended };
        loop {
            // Listen before reading the outcome, so that no wake-up in between is lost.
            let woken = following.ended.listen();
            let outcome = self.with(|zone| zone.outcome(key, leader.id));
            match outcome.unwrap_or(Outcome::Gone) {
                Outcome::Pending => {}
                Outcome::Failed(ABANDONED) => return FlightEnd::Abandoned,
                Outcome::Failed(code) => return FlightEnd::Failed(code),
                Outcome::Gone => return FlightEnd::Stored,
            }
            if nginx::now() >= leader.lease_until {
                return FlightEnd::Abandoned;
            }
            if !nginx::process_exists(leader.pid) {
                self.fail(key, leader.id, ABANDONED);
                return FlightEnd::Abandoned;
            }
            let _ = nginx::timeout(POLL, pin!(woken)).await;
        }
    }

    /// Called when another worker has woken this one. Resumes those who follow a flight that ended
    /// since the last call, and nobody else.
    pub fn woken(&self) {
        let followed = self.followed.borrow();
        if followed.is_empty() {
            return;
        }
        let ended = self.with(|zone| {
            let since = self.seen_ended.replace(zone.flights_ended());
            let ids = zone.flights_ended_since(since)?;
            Some(ids.filter_map(|id| followed.get(&id).cloned()).collect::<Vec<_>>())
        });
        let ended = ended.flatten().unwrap_or_else(|| followed.values().cloned().collect());
        drop(followed);
        for ended in ended {
            ended.notify(usize::MAX);
        }
    }
}

impl<H: HasMap> LeaderGuard<'_, H> {
    /// Ends the flight with `data`, which is stored. False if it is too large.
    pub fn store(mut self, worth: Worth, times: (u64, u64), data: &[u8]) -> bool {
        // Without a flight of its own, it ends no other worker's flight.
        let id = self.id.take();
        self.map.put(self.key, id, worth, times, data)
    }

    /// Ends the flight with this code; nothing is stored.
    pub fn fail(mut self, why: u8) {
        if let Some(id) = self.id.take() {
            self.map.fail(self.key, id, why);
        }
    }
}

impl<H: HasMap> Drop for LeaderGuard<'_, H> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.map.fail(self.key, id, ABANDONED);
        }
    }
}

fn wake(waiters: Waiters) {
    if !waiters.is_empty() {
        nginx::wake(waiters.into());
    }
}
