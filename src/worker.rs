//! What a worker process has for as long as it lives: clients, and flights.

use core::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use authgear::key::KeySecret;

use crate::cache::flights::Flights;
use crate::cache::Cache;
use crate::client::Client;
use crate::conf::cache::CacheZone;
use crate::conf::project::{KeySource, Project};
use crate::conf::{Id, MainConf};
use crate::keys::Keys;
use crate::nginx;
use crate::shared::map::{new_secret, Map};
use crate::shared::Own;

/// Maps have few entries: nothing is hashed to find one.
#[derive(Default)]
struct Worker {
    clients: BTreeMap<Id, Rc<Client>>,
    caches: BTreeMap<Id, Rc<Cache>>,
    flights: Rc<Flights>,
    secret: Option<KeySecret>,
    own: Option<Rc<Map<Own>>>,
    keys: BTreeMap<Id, Rc<Keys>>,
}

thread_local! {
    static WORKER: RefCell<Worker> = RefCell::default();
}

/// The worker begins.
pub fn init(main: &'static MainConf) {
    let own = main.own_zone().map(|zone| Rc::new(Map::new(zone)));
    WORKER.with_borrow_mut(|worker| worker.own = own);
    for project in main.projects() {
        let is_fetched = matches!(project.tokens.keys, KeySource::Url(_));
        if project.tokens.in_use() && is_fetched {
            if let Some(keys) = keys(project) {
                nginx::spawn(keys.keep_fresh());
            }
        }
    }
}

/// The keys of `project`; none before the worker began.
pub fn keys(project: &Rc<Project>) -> Option<Rc<Keys>> {
    WORKER.with_borrow_mut(|worker| {
        let own = worker.own.as_ref()?;
        let keys = worker.keys.entry(project.id);
        let new = || Rc::new(Keys::new(Rc::clone(project), Rc::clone(own)));
        Some(Rc::clone(keys.or_insert_with(new)))
    })
}

/// The client of `project`.
pub fn client(project: &Rc<Project>) -> Rc<Client> {
    WORKER.with_borrow_mut(|worker| {
        let client = worker.clients.entry(project.id);
        Rc::clone(client.or_insert_with(|| Rc::new(Client::new(Rc::clone(project)))))
    })
}

/// This worker's view of `zone`.
pub fn cache(zone: &Rc<CacheZone>) -> Rc<Cache> {
    WORKER.with_borrow_mut(|worker| {
        let cache = worker.caches.entry(zone.id);
        Rc::clone(cache.or_insert_with(|| Rc::new(Cache::new(zone))))
    })
}

/// Another worker woke this one.
pub fn woken() {
    WORKER.with_borrow(|worker| {
        worker.caches.values().for_each(|cache| cache.woken());
        worker.own.iter().for_each(|own| own.woken());
    });
}

/// The secret of keys where there is no zone; none without random numbers.
pub fn secret() -> Option<KeySecret> {
    WORKER.with_borrow_mut(|worker| {
        if worker.secret.is_none() {
            worker.secret = new_secret().ok();
        }
        worker.secret.clone()
    })
}

/// The flights of this worker.
pub fn flights() -> Rc<Flights> {
    WORKER.with_borrow(|worker| Rc::clone(&worker.flights))
}

/// The worker ends: connections must be closed while nginx still stands.
pub fn exit() {
    let worker = WORKER.take();
    for client in worker.clients.values() {
        client.close();
    }
}
