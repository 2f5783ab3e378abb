//! What a worker process has for as long as it lives: clients, and flights.

use core::cell::RefCell;
use core::ops::Deref;
use std::collections::BTreeMap;
use std::rc::Rc;

use authgear::key::KeySecret;
use authgear::metrics::{Metrics, ProjectMetrics, Slot};
use authgear::purges::{Held, Number};
use authgear::revocations::Revoked;
use authgear::subject::Subject;
use authgear::verdict::Verdict;

use crate::cache::flights::Flights;
use crate::cache::{Cache, Place};
use crate::client::Client;
use crate::conf::cache::CacheZone;
use crate::conf::project::{KeySource, Project};
use crate::conf::{Id, MainConf};
use crate::keys::Keys;
use crate::nginx::{self, Level, Log, SharedZone};
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
    if let (Some(own), Some(slot)) = (&own, nginx::own_slot()) {
        own.header().metrics.worker_begins(slot.into());
    }
    if let Some(own) = &own {
        own.header().purges.lives(main.longest_life().as_millis() as u64);
    }
    WORKER.with_borrow_mut(|worker| worker.own = own);
    for project in main.projects() {
        if let KeySource::File(keys) = &project.tokens.keys {
            metrics(project).has_keys(keys.len());
        }
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

/// The module's own zone.
pub fn own() -> Option<Rc<Map<Own>>> {
    WORKER.with_borrow(|worker| worker.own.clone())
}

/// What is counted about a project.
pub struct Counters(Option<(SharedZone<Own>, Slot)>);

impl Deref for Counters {
    type Target = ProjectMetrics;

    fn deref(&self) -> &ProjectMetrics {
        static NOWHERE: Metrics = Metrics::new();
        match &self.0 {
            Some((zone, slot)) => zone.header().metrics.at(*slot),
            None => NOWHERE.at(Slot::default()),
        }
    }
}

/// The counters of `project`.
pub fn metrics(project: &Project) -> Counters {
    let zone = WORKER.with_borrow(|worker| worker.own.as_ref().map(|own| own.zone()));
    Counters(zone.map(|zone| {
        let find = || zone.header().metrics.slot(&project.name);
        (zone, *project.slot.get_or_init(find))
    }))
}

/// Counts what is no project's.
pub fn count(count: impl FnOnce(&Metrics)) {
    if let Some(own) = own() {
        count(&own.header().metrics);
    }
}

/// Purges these: what was asked about them before does not count any more, in any worker.
pub fn purge(subjects: &[Subject<'_>]) {
    let Some(own) = own() else { return };
    let now = nginx::now().as_millis() as u64;
    if !own.locked(|own| own.purges.purge(subjects, now)) {
        Log::cycle().write(
            Level::Notice,
            format_args!("too many authgear purges to keep apart: older verdicts were purged too"),
        );
    }
}

/// Purges everything.
pub fn purge_all() {
    if let Some(own) = own() {
        own.locked(|own| own.purges.purge_all());
    }
}

/// The number of a look-up that begins now.
pub fn purge_number() -> Number {
    own().map(|own| own.header().purges.now()).unwrap_or_default()
}

/// Changes with every purge.
pub fn purge_generation() -> u64 {
    own().map_or(0, |own| own.header().purges.generation())
}

/// Whether what was asked `since` then and answered with `verdict` was purged meanwhile.
pub fn is_purged(since: Number, place: &Place, verdict: &Verdict) -> bool {
    let user = match verdict {
        Verdict::Valid(identity) => identity.user_id(),
        _ => None,
    };
    let held = Held { key: &place.key, project: &place.scope, user };
    own().is_some_and(|own| own.header().purges.is_purged(since, &held))
}

/// Whether tokens of `user` that were issued then are refused.
pub fn is_revoked(project: &Project, user: &[u8], issued: u64) -> bool {
    let now = nginx::unix_time().as_secs();
    let refused =
        |own: Rc<Map<Own>>| own.header().revocations.is_refused(&project.scope, user, issued, now);
    own().is_some_and(refused)
}

/// From `now` until `until` refuses tokens of `user` that were issued up to `issued`. Seconds
/// since 1970.
pub fn revoke(user: &Subject<'_>, issued: u64, until: u64, now: u64) -> Option<Revoked> {
    Some(own()?.locked(|own| own.revocations.revoke(user, issued, until, now)))
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
