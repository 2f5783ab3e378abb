//! A map in shared memory: what all workers know, and what any of them is finding out.

use core::cell::{Cell, RefCell};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use authgear::key::{Key, KeySecret};
use authgear::zone::{self, Flight, Outcome, Owner, Record, Waiters, Worth, Zone};
use event_listener::Event;

use crate::nginx::{self, Header, Level, Log, SharedZone};

/// How often a follower looks whether the leader of its flight is still there, besides being
/// woken.
const POLL: Duration = Duration::from_millis(250);

/// Code of a failure that is none: the leader went away.
const ABANDONED: u8 = u8::MAX;

/// The part of a map that is read without its lock.
pub struct MapHeader {
    /// See [`Zone::open`].
    dirty: AtomicU32,
    /// Changes when what workers keep of the map is no longer to be used.
    generation: AtomicU64,
    /// Of the keys; made with the map, and never leaves it.
    secret: KeySecret,
}

impl Header for MapHeader {
    fn init(arena: &mut [u8]) -> Result<Self, String> {
        Zone::format(arena).map_err(|error| error.to_string())?;
        Ok(Self {
            dirty: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            secret: new_secret().map_err(|error| format!("no random numbers: {error}"))?,
        })
    }
}

/// A header of shared memory whose arena is a map.
pub trait HasMap: Header {
    /// The map's part of it.
    fn map(&self) -> &MapHeader;
}

impl HasMap for MapHeader {
    fn map(&self) -> &Self {
        self
    }
}

/// Least bytes that a zone with a map takes: nginx's own pages, and an arena that works.
pub fn least_size() -> usize {
    // ngx_slab_init() takes pages for its own tables, as many as one in a few hundred.
    const NGINX: usize = 5 * 4096;
    (NGINX + zone::MIN_SIZE).next_multiple_of(4096)
}

/// A secret for keys.
pub fn new_secret() -> Result<KeySecret, getrandom::Error> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret)?;
    Ok(KeySecret::from_bytes(secret))
}

/// A worker's access to a map.
pub struct Map<H> {
    zone: SharedZone<H>,
    /// Flights that this worker follows, by id. Each is notified when it may have ended.
    followed: RefCell<BTreeMap<u64, Rc<Event>>>,
    /// See [`Zone::flights_ended_since`].
    seen_ended: Cell<u64>,
}

/// A place in [`Map::followed`].
struct Following<'a, H: HasMap> {
    map: &'a Map<H>,
    id: u64,
    ended: Rc<Event>,
}

impl<H: HasMap> Drop for Following<'_, H> {
    fn drop(&mut self) {
        // The map's, and this one.
        if Rc::strong_count(&self.ended) <= 2 {
            self.map.followed.borrow_mut().remove(&self.id);
        }
    }
}

/// Who finds something out.
pub enum Turn<'a, H: HasMap> {
    /// The caller.
    Lead(Lead<'a, H>),
    /// Another worker.
    Follow(Leader),
}

/// The lead of a flight. Dropped before its end, it lets others take over.
pub struct Lead<'a, H: HasMap> {
    map: &'a Map<H>,
    key: &'a Key,
    /// None if there was no room to note it.
    id: Option<u64>,
}

/// Another worker's flight.
pub struct Leader {
    id: u64,
    pid: u32,
    lease_until: Duration,
}

/// How another worker's flight ended.
pub enum Ended {
    /// Something may be kept now.
    Stored,
    /// With this failure.
    Failed(u8),
    /// Not: that worker is gone, or too slow.
    Abandoned,
}

impl<H: HasMap> Map<H> {
    /// The map in `zone`.
    pub fn new(zone: SharedZone<H>) -> Self {
        Self { zone, followed: RefCell::default(), seen_ended: Cell::new(0) }
    }

    /// All of the header.
    pub fn header(&self) -> &H {
        self.zone.header()
    }

    /// The zone it is in.
    pub fn zone(&self) -> SharedZone<H> {
        self.zone
    }

    /// The secret of the map's keys.
    pub fn secret(&self) -> &KeySecret {
        &self.header().map().secret
    }

    /// What changes when nothing is to be used any more that was kept of the map before.
    pub fn generation(&self) -> u64 {
        self.header().map().generation.load(Ordering::Acquire)
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

    /// Runs `body` with the header, while no other process has the zone.
    pub fn locked<R>(&self, body: impl FnOnce(&H) -> R) -> R {
        self.zone.lock(|_, header| body(header))
    }

    /// What `decode` makes of what is kept under `key`.
    pub fn get<T>(&self, key: &Key, decode: impl FnOnce(&Record<'_>) -> Option<T>) -> Option<T> {
        self.with(|zone| zone.get(key).and_then(|record| decode(&record)))?
    }

    /// Keeps `data`, with its times `(fetched_at, expires_at)`, under `key`, and ends whatever
    /// flight there is. False if it is too large.
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

    /// Takes the lead of the flight of `key`, or a seat behind whoever has it.
    pub fn turn<'a>(&'a self, key: &'a Key, lease: Duration) -> Turn<'a, H> {
        let now = nginx::now().as_millis() as u64;
        let owner = Owner { slot: nginx::own_slot().unwrap_or(u16::MAX), pid: std::process::id() };
        let lease_until = now + lease.as_millis() as u64;
        let flight = self.with(|zone| zone.lead(key, owner, now, lease_until));
        match flight.unwrap_or(Flight::Alone) {
            Flight::Leader { id } => Turn::Lead(Lead { map: self, key, id: Some(id) }),
            // No room in the zone: everybody for himself.
            Flight::Alone => Turn::Lead(Lead { map: self, key, id: None }),
            Flight::Follower { id, owner, lease_until } => Turn::Follow(Leader {
                id,
                pid: owner.pid,
                lease_until: Duration::from_millis(lease_until),
            }),
        }
    }

    /// Waits for the end of another worker's flight.
    pub async fn follow(&self, key: &Key, leader: Leader) -> Ended {
        let ended = Rc::clone(self.followed.borrow_mut().entry(leader.id).or_default());
        let following = Following { map: self, id: leader.id, ended };
        loop {
            // Before looking, so that no wake-up in between is lost.
            let woken = following.ended.listen();
            let outcome = self.with(|zone| zone.outcome(key, leader.id));
            match outcome.unwrap_or(Outcome::Gone) {
                Outcome::Pending => {}
                Outcome::Failed(ABANDONED) => return Ended::Abandoned,
                Outcome::Failed(code) => return Ended::Failed(code),
                Outcome::Gone => return Ended::Stored,
            }
            if nginx::now() >= leader.lease_until {
                return Ended::Abandoned;
            }
            if !nginx::process_exists(leader.pid) {
                self.fail(key, leader.id, ABANDONED);
                return Ended::Abandoned;
            }
            let _ = nginx::timeout(POLL, woken).await;
        }
    }

    /// This worker was woken: resumes those who follow a flight that ended since the last time.
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

impl<H: HasMap> Lead<'_, H> {
    /// Ends the flight: `data` is kept. False if it is too large.
    pub fn store(mut self, worth: Worth, times: (u64, u64), data: &[u8]) -> bool {
        // Without a flight of its own it ends none of another's: it ends with what is kept now.
        let id = self.id.take();
        self.map.put(self.key, id, worth, times, data)
    }

    /// Ends the flight: nothing is kept, for this reason.
    pub fn fail(mut self, why: u8) {
        if let Some(id) = self.id.take() {
            self.map.fail(self.key, id, why);
        }
    }
}

impl<H: HasMap> Drop for Lead<'_, H> {
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
