//! Cache of verdicts: a per-worker LRU before a zone that all workers share.
//!
//! The LRU is read without a lock. Its entries are valid as long as neither the zone's generation
//! nor that of the purge log changes.

mod entry;

use core::cell::RefCell;
use core::future::Future;
use core::num::NonZeroUsize;
use core::pin::Pin;
use core::time::Duration;
use std::rc::Rc;

use authgear::credentials::Credentials;
use authgear::shared::cache_key::{Key, KeyHasher, KeysOfScope};
use authgear::shared::front::{Draw, Proof};
use authgear::shared::zone::{Record, Stats};
use authgear::verdict::freshness::{Freshness, UseStale, Valid};
use authgear::verdict::Verdict;
use lru::LruCache;

use crate::conf::cache::CacheZone;
use crate::shared::handle::SharedHandle;
use crate::shared::map::{FlightEnd, Map, MapHeader, Role};
pub use entry::{AskedAt, CacheEntry, EntryId};
use nginx::Log;

/// Result of [`Cache::get`].
pub struct CacheLookup {
    /// The entry, and the use that may be made of it.
    pub usable: Option<(Freshness, CacheEntry)>,
    /// For [`Cache::get_or_fetch`].
    pub seen: SeenVersion,
    /// Whether the zone remembers a valid session, usable or not.
    pub was_valid: bool,
}

impl CacheLookup {
    /// Nothing found.
    pub const NONE: Self = Self { usable: None, seen: SeenVersion::NONE, was_valid: false };
}

/// Version of the entry that a read found in the zone, usable or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenVersion(Option<Duration>);

impl SeenVersion {
    /// No entry was seen.
    pub const NONE: Self = Self(None);

    fn of(entry: &CacheEntry) -> Self {
        Self(Some(entry.fetched_at()))
    }
}

struct FrontEntry {
    entry: CacheEntry,
    generation: Generation,
    proof: Proof,
}

/// Generations of the zone, of the key's group in it, and of the purge log.
type Generation = ((u64, u64), u64);

/// A worker's view of a zone.
pub struct Cache {
    map: Map<MapHeader>,
    front: RefCell<LruCache<Key, FrontEntry, KeyHasher>>,
    draw: Draw,
    shared: SharedHandle,
    /// The scope of the last key, and the maker of its keys.
    last_scope: RefCell<([u8; 32], KeysOfScope)>,
}

/// Result of a look-up.
pub enum FetchResult {
    /// An answer of Authgear's, to be stored.
    Keep(CacheEntry),
    /// A verdict that is not stored. `code` passes it on to other workers.
    Pass {
        /// The verdict.
        verdict: Rc<Verdict>,
        /// Argument of [`Cache::get_or_fetch`]'s `decode`.
        code: u8,
    },
}

impl Cache {
    /// A view with an empty LRU.
    pub fn new(zone: &CacheZone, shared: SharedHandle) -> Self {
        let front = NonZeroUsize::new(zone.front).unwrap_or(NonZeroUsize::MIN);
        let front = RefCell::new(LruCache::with_hasher(front, KeyHasher::default()));
        let map = Map::new(zone.shared);
        let scope = [0; 32];
        let last_scope = RefCell::new((scope, KeysOfScope::new(map.secret(), &scope)));
        Self { map, front, draw: Draw::default(), shared, last_scope }
    }

    /// Key of `credentials` with this zone's secret.
    pub fn key(&self, scope: &[u8; 32], credentials: &Credentials<'_>) -> Key {
        let mut last = self.last_scope.borrow_mut();
        if last.0 != *scope {
            *last = (*scope, KeysOfScope::new(self.map.secret(), scope));
        }
        last.1.key(credentials)
    }

    /// Returns the generations to store with an entry that the worker copies from the zone. Call it
    /// before the read: a purge between the two then invalidates the copy.
    fn generation(&self, key: &Key) -> Generation {
        (self.map.generation(key), self.shared.purge_generation())
    }

    /// The entry `id`, for a location with these settings.
    pub fn get(&self, id: &EntryId, valid: &Valid, stale: &UseStale) -> CacheLookup {
        let generation = self.generation(&id.key);
        let front = self
            .front
            .borrow_mut()
            .get_mut(&id.key)
            .filter(|front| front.generation == generation)
            .filter(|front| !front.entry.is_disabled(id, self.shared))
            .map(|front| (front.entry.clone(), front.proof.note_hit()));
        if let Some((entry, is_first_hit)) = front {
            // Another worker may have refreshed an entry that is not fresh here.
            if entry.freshness(valid, stale) == Some(Freshness::Fresh) {
                if is_first_hit {
                    self.map.with(|zone| zone.touch(&id.key));
                }
                let usable = Some((Freshness::Fresh, entry));
                return CacheLookup { usable, seen: SeenVersion::NONE, was_valid: true };
            }
        }
        let Some((entry, proof)) = self.read(id) else { return CacheLookup::NONE };
        self.store_in_front(&id.key, &entry, generation, proof);
        let seen = SeenVersion::of(&entry);
        let freshness = entry.freshness(valid, stale);
        let was_valid = matches!(*entry.verdict, Verdict::Valid(_));
        CacheLookup { usable: freshness.map(|freshness| (freshness, entry)), seen, was_valid }
    }

    /// The zone's entry, unless it was purged or its user is disabled now.
    fn read(&self, id: &EntryId) -> Option<(CacheEntry, Proof)> {
        let decode = |record: &Record<'_>| {
            Some((CacheEntry::decode(record)?, Proof::of_read(record.proven)))
        };
        self.map.get(&id.key, decode).filter(|(entry, _)| {
            !entry.is_purged(id, self.shared) && !entry.is_disabled(id, self.shared)
        })
    }

    /// The zone's entry, if it is another one than was `seen`.
    fn newer(&self, id: &EntryId, seen: SeenVersion) -> Option<CacheEntry> {
        let generation = self.generation(&id.key);
        let found = self.read(id);
        let (entry, proof) = found.filter(|(entry, _)| SeenVersion::of(entry) != seen)?;
        self.store_in_front(&id.key, &entry, generation, proof);
        Some(entry)
    }

    fn store_in_front(&self, key: &Key, entry: &CacheEntry, generation: Generation, proof: Proof) {
        let mut front = self.front.borrow_mut();
        let is_full = front.len() == front.cap().get();
        if !front.contains(key) && !proof.may_enter(is_full, || self.draw.wins()) {
            return;
        }
        let replaced = front.push(*key, FrontEntry { entry: entry.clone(), generation, proof });
        drop(front);
        drop(replaced);
    }

    /// Makes the look-up of `id` by `fetch`, or waits for another worker that is making it. True
    /// if another worker made it; `fetch` is not polled then.
    pub async fn get_or_fetch(
        &self,
        id: &EntryId,
        seen: SeenVersion,
        lease: Duration,
        fetch: Pin<&mut impl Future<Output = FetchResult>>,
        decode: impl Fn(u8) -> Rc<Verdict>,
    ) -> (FetchResult, bool) {
        let key = &id.key;
        let leader = loop {
            match self.map.role(key, lease) {
                Role::Leader(leader) => break leader,
                Role::Follower(leader) => {
                    Log::cycle().debug(format_args!("authgear: waits for another worker"));
                    match self.map.follow(key, leader).await {
                        FlightEnd::Failed(code) => {
                            return (FetchResult::Pass { verdict: decode(code), code }, true);
                        }
                        FlightEnd::Stored => {
                            if let Some(entry) = self.newer(id, seen) {
                                return (FetchResult::Keep(entry), true);
                            }
                        }
                        // Its leader is gone: this worker or another one takes over.
                        FlightEnd::Abandoned => {}
                    }
                }
            }
        };
        // Another worker's look-up may have ended since this one read the zone.
        if let Some(entry) = self.newer(id, seen) {
            return (FetchResult::Keep(entry), true);
        }
        Log::cycle().debug(format_args!("authgear: leads the look-up for all workers"));
        let generation = self.generation(&id.key);
        let result = fetch.await;
        match &result {
            FetchResult::Keep(entry) => {
                if let Some(data) = entry.encode() {
                    leader.store(entry.worth(), entry.zone_times(), &data);
                    self.store_in_front(key, entry, generation, Proof::of_stored(entry.worth()));
                }
            }
            FetchResult::Pass { code, .. } => leader.fail(*code),
        }
        (result, false)
    }

    /// Stores the entry of a look-up that was made without [`Self::get_or_fetch`].
    pub fn put(&self, id: &EntryId, entry: &CacheEntry) {
        let generation = self.generation(&id.key);
        // Checked after the generation was taken: a later purge changes that.
        if entry.is_purged(id, self.shared) {
            return;
        }
        if let Some(data) = entry.encode() {
            self.map.store(&id.key, entry.worth(), entry.zone_times(), &data);
            self.store_in_front(&id.key, entry, generation, Proof::of_stored(entry.worth()));
        }
    }

    /// Removes the entry of `key`, for all workers. True if a look-up of it is in flight, which goes
    /// on.
    pub fn forget(&self, key: &Key) -> bool {
        self.map.forget(key)
    }

    /// Fill level of the zone.
    pub fn stats(&self) -> Option<Stats> {
        self.map.with(|zone| zone.stats())
    }

    /// Called when another worker has woken this one: a look-up that it follows may have ended.
    pub fn woken(&self) {
        self.map.woken();
    }
}
