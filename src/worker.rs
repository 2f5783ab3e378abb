//! State of a worker process: the client and keys of each project, caches, and look-ups in
//! flight.
//!
//! Clients, keys and caches are made when they are first used, by id: with `master_process off`,
//! a reload brings new projects without a new process.

use core::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use authgear::shared::cache_key::KeySecret;

use crate::cache::Cache;
use crate::client::AuthgearClient;
use crate::conf::cache::CacheZone;
use crate::conf::project::{KeySource, Project};
use crate::conf::{Id, MainConf};
use crate::jwks::Jwks;
use crate::shared::handle::{Counters, SharedHandle};
use crate::shared::map::{new_secret, Map};
use crate::shared::ModuleZone;
use crate::single_flight::SingleFlight;

/// A worker process. Callbacks borrow it; tasks clone the handles they need, and never hold it
/// over an await.
#[derive(Default)]
pub struct Worker {
    // Ordered maps: with so few entries, a comparison costs less than a hash.
    clients: RefCell<BTreeMap<Id, Rc<AuthgearClient>>>,
    caches: RefCell<BTreeMap<Id, Rc<Cache>>>,
    keys: RefCell<BTreeMap<Id, Rc<Jwks>>>,
    flights: Rc<SingleFlight>,
    /// Secret of cache keys where there is no cache zone.
    secret: OnceCell<KeySecret>,
    /// Map of key sets in the module's zone.
    key_sets: Option<Rc<Map<ModuleZone>>>,
    shared: SharedHandle,
}

impl Worker {
    /// The state of a worker process that begins; starts to fetch keys where tokens are verified.
    pub fn new(main: &'static MainConf) -> Self {
        let zone = main.module_zone();
        let shared = SharedHandle::new(zone);
        if let (Some(zone), Some(slot)) = (shared.zone(), nginx::wake_slot()) {
            zone.metrics.worker_begins(slot.into());
        }
        if let Some(zone) = shared.zone() {
            zone.purges.lives(main.longest_life().as_millis() as u64);
        }
        let key_sets = zone.map(|zone| Rc::new(Map::new(zone)));
        let worker = Self { key_sets, shared, ..Self::default() };
        for project in main.projects() {
            if let KeySource::File(keys) = &project.tokens.keys {
                worker.metrics(project).has_keys(keys.len());
            }
            let is_fetched = matches!(project.tokens.keys, KeySource::Url(_));
            if project.tokens.in_use() && is_fetched {
                if let Some(keys) = worker.keys(project) {
                    nginx::spawn(keys.keep_fresh());
                }
            }
        }
        worker
    }

    /// The module's zone: purges, revocations, counters.
    pub fn shared(&self) -> SharedHandle {
        self.shared
    }

    /// Counters of `project`.
    pub fn metrics(&self, project: &Project) -> Counters {
        project.counters(self.shared)
    }

    /// Keys of `project`; none where there is no module zone.
    pub fn keys(&self, project: &Rc<Project>) -> Option<Rc<Jwks>> {
        let key_sets = self.key_sets.as_ref()?;
        let mut all = self.keys.borrow_mut();
        let new = || Rc::new(Jwks::new(Rc::clone(project), Rc::clone(key_sets), self.shared));
        Some(Rc::clone(all.entry(project.id).or_insert_with(new)))
    }

    /// Client of `project`.
    pub fn client(&self, project: &Rc<Project>) -> Rc<AuthgearClient> {
        let mut clients = self.clients.borrow_mut();
        let new = || Rc::new(AuthgearClient::new(Rc::clone(project), self.shared));
        Rc::clone(clients.entry(project.id).or_insert_with(new))
    }

    /// This worker's view of `zone`.
    pub fn cache(&self, zone: &Rc<CacheZone>) -> Rc<Cache> {
        let mut caches = self.caches.borrow_mut();
        let new = || Rc::new(Cache::new(zone, self.shared));
        Rc::clone(caches.entry(zone.id).or_insert_with(new))
    }

    /// Secret of cache keys where there is no cache zone. `None` if no random numbers are
    /// available.
    pub fn secret(&self) -> Option<&KeySecret> {
        if self.secret.get().is_none() {
            let _ = self.secret.set(new_secret().ok()?);
        }
        self.secret.get()
    }

    /// Look-ups of this worker in flight.
    pub fn flights(&self) -> &Rc<SingleFlight> {
        &self.flights
    }

    /// Called when another worker has woken this one: a look-up that it follows may have ended.
    pub fn woken(&self) {
        self.caches.borrow().values().for_each(|cache| cache.woken());
        self.key_sets.iter().for_each(|map| map.woken());
    }

    /// Closes all connections. Called before nginx destroys its pools.
    pub fn close(&self) {
        for client in self.clients.borrow().values() {
            client.close();
        }
    }
}
