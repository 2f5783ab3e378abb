//! State of a worker process: the client and keys of each project, caches, and look-ups in
//! flight.
//!
//! Clients, keys and caches are made when they are first used, by id: with `master_process off`,
//! a reload brings new projects without a new process.

use core::cell::{OnceCell, RefCell};
use core::time::Duration;
use std::collections::BTreeMap;
use std::rc::Rc;

use authgear::metrics::STEP;
use authgear::shared::cache_key::KeySecret;
use authgear::verdict::freshness::{UseStale, Valid};

use crate::assertions::Assertions;
use crate::cache::Cache;
use crate::client::AuthgearClient;
use crate::conf::cache::CacheZone;
use crate::conf::project::{KeySource, Project};
use crate::conf::{Id, LocationConf, MainConf};
use crate::fleet::{self, Fleet, Told};
use crate::jwks::Jwks;
use crate::open_responses::{OpenResponses, StartTask};
use crate::recent::Recent;
use crate::shared::changes::Change;
use crate::shared::handle::{Counters, SharedHandle};
use crate::shared::map::{new_secret, Map};
use crate::shared::ModuleZone;
use crate::single_flight::SingleFlight;
use nginx::ReadyFields;

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
    assertions: Assertions,
    ready_fields: Recent<ReadyFields>,
    shared: SharedHandle,
    open_responses: Rc<OpenResponses>,
    fleet: Option<Rc<Fleet>>,
}

impl Worker {
    /// The state of a worker process that begins; starts to fetch keys where tokens are verified.
    /// `start_rechecks` starts the task that looks at open responses, when there is one.
    pub fn new(main: &'static MainConf, start_rechecks: StartTask) -> Self {
        let zone = main.module_zone();
        let shared = SharedHandle::new(zone);
        if let (Some(zone), Some(slot)) = (shared.zone(), nginx::wake_slot()) {
            zone.metrics.worker_begins(slot.into());
        }
        if let Some(zone) = shared.zone() {
            zone.purges.lives(main.longest_life().as_millis() as u64);
        }
        if main.has_status {
            nginx::spawn(remember(shared));
        }
        let key_sets = zone.map(|zone| Rc::new(Map::new(zone)));
        let open_responses = Rc::new(OpenResponses::new(start_rechecks));
        let fleet = fleet::start(main, shared);
        let worker = Self { key_sets, shared, open_responses, fleet, ..Self::default() };
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

    /// Assertions that this worker made.
    pub fn assertions(&self) -> &Assertions {
        &self.assertions
    }

    /// Request headers of verdicts that were used last.
    pub fn ready_fields(&self) -> &Recent<ReadyFields> {
        &self.ready_fields
    }

    /// Look-ups of this worker in flight.
    pub fn flights(&self) -> &Rc<SingleFlight> {
        &self.flights
    }

    /// Responses that `authgear_recheck` looks at.
    pub fn open_responses(&self) -> &Rc<OpenResponses> {
        &self.open_responses
    }

    /// The fleet of this host, if it has one.
    pub fn fleet(&self) -> Option<&Rc<Fleet>> {
        self.fleet.as_ref()
    }

    /// Returns whether only fresh answers count at this location, because this host does not know what
    /// others purged.
    pub fn is_cut_off(&self, location: &LocationConf) -> bool {
        let cut_off = location.cut_off();
        self.fleet.as_ref().is_some_and(|fleet| fleet.is_cut_off(cut_off))
    }

    /// Returns the times for which verdicts count at this location: short ones, and no stale ones,
    /// where only fresh answers do.
    pub fn lifetimes(&self, location: &LocationConf) -> (Valid, UseStale) {
        /// Age from which a verdict does not count then.
        const FRESH: Duration = Duration::from_secs(1);
        let (valid, stale) = (location.cache_valid(), location.cache_use_stale());
        match self.is_cut_off(location) {
            false => (valid, stale),
            true => (valid.at_most(FRESH), UseStale::default()),
        }
    }

    /// Makes a change take effect in all workers, and tells other hosts. Without a project it
    /// concerns all of them. False if another user's refusal or period was forgotten for it.
    pub fn change(&self, project: Option<&Project>, change: &Change<'_>) -> (bool, Told) {
        match &self.fleet {
            Some(fleet) => fleet.change(project, change),
            None => {
                let scope = project.map(|project| project.scope.as_slice());
                (self.shared.apply(scope, change), Told::default())
            }
        }
    }

    /// Called when another worker has woken this one: a look-up that it follows may have ended, or a
    /// purge may concern a response.
    pub fn woken(&self) {
        self.caches.borrow().values().for_each(|cache| cache.woken());
        self.key_sets.iter().for_each(|map| map.woken());
        self.fleet.iter().for_each(|fleet| fleet.woken());
        if self.open_responses.has_purges(self.shared.purge_generation()) {
            self.open_responses.wake();
        }
    }

    /// Closes all connections. Called before nginx destroys its pools.
    pub fn close(&self) {
        for client in self.clients.borrow().values() {
            client.close();
        }
        self.fleet.iter().for_each(|fleet| fleet.close());
    }
}

/// Takes snapshots of the counters, for the status page, until the worker is told to exit.
async fn remember(shared: SharedHandle) {
    while !nginx::worker_is_exiting() {
        shared.count(|metrics| metrics.remember(nginx::now().as_secs()));
        nginx::sleep(Duration::from_secs(STEP)).await;
    }
}
