//! Key sets that tokens are verified with. One worker fetches them into the module's zone, and the
//! others read them there when they change.
//!
//! A request waits for keys only if its token needs one that is not known.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::rc::Rc;

use authgear::credentials::Credentials;
use authgear::shared::cache_key::Key;
use authgear::shared::zone::{Worth, NEVER};
use authgear::token::{Cause, JwksState, KeySet};
use event_listener::Event;

use crate::client;
use crate::conf::project::{KeySource, Project};
use crate::conf::UpstreamServer;
use crate::shared::handle::{Counters, SharedHandle};
use crate::shared::map::{FlightEnd, Map, Role};
use crate::shared::ModuleZone;
use nginx::{self, Level, Log};

/// Key set of one project in one worker.
pub struct Jwks {
    project: Rc<Project>,
    map: Rc<Map<ModuleZone>>,
    shared: SharedHandle,
    /// Key of the entry in the map.
    key: Key,
    current: RefCell<Option<Current>>,
    /// When the current keys were fetched.
    fetched_at: Cell<Option<u64>>,
    /// Count of changes of key sets when this one was read.
    changes: Cell<u64>,
    fetching: Cell<bool>,
    waiting: Cell<usize>,
    /// Notified when a fetch ended, successful or not.
    fetched: Event,
}

/// Most tokens that wait for keys of one project in one worker.
const MAX_WAITING: usize = 4096;

/// A token's place among those that wait for keys. Dropping it frees the place.
pub struct KeyWaiter(Rc<Jwks>);

impl Drop for KeyWaiter {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// Result of [`Jwks::fetched`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// There was no cause to fetch keys.
    No,
    /// A fetch that began before the call ended: it may not cover the cause.
    Before,
    /// A fetch that began with the call ended.
    Now,
}

struct Current {
    set: Rc<KeySet>,
    document: Vec<u8>,
}

impl Jwks {
    /// The key set of `project`, which is read at its first use.
    pub fn new(project: Rc<Project>, map: Rc<Map<ModuleZone>>, shared: SharedHandle) -> Self {
        Self {
            shared,
            key: Key::of(map.secret(), &project.tokens.scope, &Credentials::default()),
            project,
            map,
            current: RefCell::default(),
            fetched_at: Cell::new(None),
            changes: Cell::new(u64::MAX),
            fetching: Cell::new(false),
            waiting: Cell::new(0),
            fetched: Event::new(),
        }
    }

    /// The current keys; none before the first fetch.
    pub fn current(&self) -> Option<Rc<KeySet>> {
        if let KeySource::File(set) = &self.project.tokens.keys {
            return Some(Rc::clone(set));
        }
        let changes = self.map.header().key_changes();
        if self.changes.replace(changes) != changes {
            self.adopt(self.state());
        }
        self.current.borrow().as_ref().map(|current| Rc::clone(&current.set))
    }

    /// Takes over the keys of the zone. The current ones stay if the zone has none, or damaged ones.
    fn adopt(&self, state: JwksState) {
        let Some((fetched_at, document)) = state.keys else { return };
        self.fetched_at.set(Some(fetched_at));
        if self.current.borrow().as_ref().is_some_and(|current| current.document == document) {
            return;
        }
        let Ok((set, _)) = KeySet::parse(&document, &self.project.tokens.profile.algorithms) else {
            self.log(Level::Alert, format_args!("authgear keys in shared memory are damaged"));
            return;
        };
        *self.current.borrow_mut() = Some(Current { set: Rc::new(set), document });
    }

    fn state(&self) -> JwksState {
        let read = self.map.get(&self.key, |record| JwksState::decode(&record.data));
        read.unwrap_or_default()
    }

    fn wants(&self, cause: Cause) -> bool {
        let times = self.map.get(&self.key, |record| JwksState::decode_times(&record.data));
        let times = times.unwrap_or_default();
        // Another worker may have fetched them right now.
        if times.keys.as_ref().map(|(at, _)| *at) != self.fetched_at.get() {
            self.adopt(self.state());
        }
        times.wants(cause, &self.project.tokens.schedule, now())
    }

    /// Starts a fetch if there is `cause` to. True if one is running; if not, the current keys are
    /// the newest that can be had.
    pub fn fetch(self: &Rc<Self>, cause: Cause) -> bool {
        let KeySource::Url(_) = &self.project.tokens.keys else { return false };
        if !self.fetching.get() && self.wants(cause) {
            self.fetching.set(true);
            nginx::spawn(Rc::clone(self).run_fetch(cause));
        }
        self.fetching.get()
    }

    /// Does as [`Self::fetch`], and waits for the end of the fetch.
    pub async fn fetched(self: &Rc<Self>, cause: Cause) -> Fetched {
        let was_going_on = self.fetching.get();
        let fetched = self.fetched.listen();
        if !self.fetch(cause) {
            return Fetched::No;
        }
        fetched.await;
        if was_going_on {
            Fetched::Before
        } else {
            Fetched::Now
        }
    }

    /// A place among the tokens that wait for keys, if one is left.
    pub fn wait(self: &Rc<Self>) -> Option<KeyWaiter> {
        let waiting = self.waiting.get();
        (waiting < MAX_WAITING).then(|| {
            self.waiting.set(waiting + 1);
            KeyWaiter(Rc::clone(self))
        })
    }

    /// Time until the next fetch may begin.
    pub fn suspended_for(&self) -> Duration {
        let due_at = self.state().due_at(&self.project.tokens.schedule);
        Duration::from_millis(due_at).saturating_sub(nginx::now())
    }

    /// Fetches keys whenever they are due, until the worker is told to exit.
    pub async fn keep_fresh(self: Rc<Self>) {
        // Leaves time for another worker's fetch, and avoids a loop if the zone cannot store the
        // keys.
        const LEAST: Duration = Duration::from_secs(1);
        loop {
            self.fetched(Cause::Due).await;
            nginx::sleep(self.suspended_for().max(LEAST)).await;
            if nginx::worker_is_exiting() {
                return;
            }
        }
    }

    /// Fetches keys, or waits until another worker did.
    async fn run_fetch(self: Rc<Self>, cause: Cause) {
        struct FetchEnd<'a>(&'a Jwks);
        impl Drop for FetchEnd<'_> {
            fn drop(&mut self) {
                self.0.fetching.set(false);
                self.0.fetched.notify(usize::MAX);
            }
        }
        let _done = FetchEnd(&self);
        let KeySource::Url(server) = &self.project.tokens.keys else { return };
        // A leader that exceeds its own deadline is lost.
        let lease = self.project.timeout + Duration::from_millis(500);
        let leader = loop {
            match self.map.role(&self.key, lease) {
                Role::Leader(leader) => break leader,
                Role::Follower(leader) => match self.map.follow(&self.key, leader).await {
                    FlightEnd::Stored if !self.wants(cause) => return,
                    FlightEnd::Stored | FlightEnd::Failed(_) | FlightEnd::Abandoned => {}
                },
            }
        };
        // Another worker's fetch may have ended since this one began.
        if !self.wants(cause) {
            return;
        }
        let name = &self.project.name;
        Log::cycle().debug(format_args!("authgear: fetches keys, project: \"{name}\""));
        let fetched = self.request(server).await;
        let mut state = self.state();
        match fetched {
            Ok((set, skipped)) => {
                self.succeeded(server, &state, &set, skipped);
                state.succeeded(cause, now(), set.to_json().into_bytes());
            }
            Err(why) => {
                self.failed(server, &state, &why);
                state.failed(cause, now());
            }
        }
        if !leader.store(Worth::Lasting, (now(), NEVER), &state.encode()) {
            self.log(Level::Error, format_args!("authgear keys are too large for shared memory"));
        }
        self.map.header().keys_changed();
    }

    async fn request(&self, server: &UpstreamServer) -> Result<(KeySet, usize), String> {
        let document = client::fetch_keys(&self.project, server).await;
        let document = document.map_err(|failure| failure.to_string())?;
        KeySet::parse(&document, &self.project.tokens.profile.algorithms)
            .map_err(|error| error.to_string())
    }

    fn succeeded(&self, server: &UpstreamServer, before: &JwksState, set: &KeySet, skipped: usize) {
        self.metrics().fetched(Some(set.len()), nginx::unix_time().as_secs());
        let url = &server.url;
        if before.failures > 0 {
            self.log(Level::Notice, format_args!("authgear keys are fetched again from \"{url}\""));
        }
        let is_new = |(_, document): &(u64, Vec<u8>)| document != set.to_json().as_bytes();
        if before.keys.as_ref().is_none_or(is_new) {
            let level = if skipped > 0 { Level::Warn } else { Level::Notice };
            let keys = set.len();
            self.log(
                level,
                format_args!(
                    "authgear keys changed: {keys} can be used and {skipped} cannot, of \"{url}\""
                ),
            );
        }
    }

    /// Logs one line for each outage: until it is over, no worker writes another one.
    fn failed(&self, server: &UpstreamServer, before: &JwksState, why: &str) {
        self.metrics().fetched(None, nginx::unix_time().as_secs());
        if before.failures > 0 {
            return;
        }
        let url = &server.url;
        let what = if before.keys.is_some() { "the last ones are kept" } else { "there are none" };
        self.log(
            Level::Error,
            format_args!("authgear keys not fetched, {what}: {why}, jwks_url: \"{url}\""),
        );
    }

    fn metrics(&self) -> Counters {
        self.project.counters(self.shared)
    }

    fn log(&self, level: Level, message: core::fmt::Arguments<'_>) {
        Log::cycle().write(level, format_args!("{message}, project: \"{}\"", self.project.name));
    }
}

/// Time of nginx's clock in milliseconds, the unit of times in the zone.
fn now() -> u64 {
    nginx::now().as_millis() as u64
}
