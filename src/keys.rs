//! The keys that tokens are verified with: one worker fetches them, all know them.
//!
//! They are in the module's own zone. A worker reads them there when they change, and keeps what
//! it read: nobody waits for keys but who needs some that are not there.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::rc::Rc;

use authgear::credentials::Credentials;
use authgear::key::Key;
use authgear::token::{Cause, KeySet, Published};
use authgear::zone::{Worth, NEVER};
use event_listener::Event;

use crate::client;
use crate::conf::project::{KeySource, Project};
use crate::conf::Server;
use crate::nginx::{self, Level, Log};
use crate::shared::map::{Ended, Map, Turn};
use crate::shared::Own;
use crate::worker;

/// The keys of one project, for one worker.
pub struct Keys {
    project: Rc<Project>,
    map: Rc<Map<Own>>,
    /// Where they are in the map.
    key: Key,
    current: RefCell<Option<Current>>,
    /// When they were, by what is known here.
    fetched_at: Cell<Option<u64>>,
    /// The count of changes in the map when they were read.
    changes: Cell<u64>,
    fetching: Cell<bool>,
    waiting: Cell<usize>,
    /// Notified when a fetch ended, well or not.
    fetched: Event,
}

/// Most tokens that wait for keys of one project, per worker.
const MAX_WAITING: usize = 4096;

/// A token's place among those that wait.
pub struct Waiting(Rc<Keys>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// Whether keys were fetched for who asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched {
    /// There was no cause to.
    No,
    /// That was going on already: they may have been asked for before there was this cause.
    Before,
    /// Yes.
    Now,
}

struct Current {
    set: Rc<KeySet>,
    document: Vec<u8>,
}

impl Keys {
    /// The keys of `project`; they are read when they are needed.
    pub fn new(project: Rc<Project>, map: Rc<Map<Own>>) -> Self {
        Self {
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

    /// The keys as they are known now.
    pub fn current(&self) -> Option<Rc<KeySet>> {
        if let KeySource::File(set) = &self.project.tokens.keys {
            return Some(Rc::clone(set));
        }
        let changes = self.map.header().key_changes();
        if self.changes.replace(changes) != changes {
            self.adopt(self.published());
        }
        self.current.borrow().as_ref().map(|current| Rc::clone(&current.set))
    }

    /// What was there before stays if there is nothing, or nothing good: the zone was emptied.
    fn adopt(&self, published: Published) {
        let Some((fetched_at, document)) = published.keys else { return };
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

    fn published(&self) -> Published {
        let read = self.map.get(&self.key, |record| Published::decode(&record.data));
        read.unwrap_or_default()
    }

    fn wants(&self, cause: Cause) -> bool {
        let times = self.map.get(&self.key, |record| Published::decode_times(&record.data));
        let times = times.unwrap_or_default();
        // Another worker may have fetched them right now.
        if times.keys.as_ref().map(|(at, _)| *at) != self.fetched_at.get() {
            self.adopt(self.published());
        }
        times.wants(cause, &self.project.tokens.schedule, now())
    }

    /// Has them fetched, if there is `cause` to. True if that is going on now; if not, they are
    /// as new as they get.
    pub fn fetch(self: &Rc<Self>, cause: Cause) -> bool {
        let KeySource::Url(_) = &self.project.tokens.keys else { return false };
        if !self.fetching.get() && self.wants(cause) {
            self.fetching.set(true);
            nginx::spawn(Rc::clone(self).find(cause));
        }
        self.fetching.get()
    }

    /// The same, and waits for the end of it.
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

    /// A place among those who wait for them, if there is one left.
    pub fn wait(self: &Rc<Self>) -> Option<Waiting> {
        let waiting = self.waiting.get();
        (waiting < MAX_WAITING).then(|| {
            self.waiting.set(waiting + 1);
            Waiting(Rc::clone(self))
        })
    }

    /// How long nobody asks for them, after a failure.
    pub fn suspended_for(&self) -> Duration {
        let due_at = self.published().due_at(&self.project.tokens.schedule);
        Duration::from_millis(due_at).saturating_sub(nginx::now())
    }

    /// Has them fetched whenever it is time, until the worker is to end.
    pub async fn keep_fresh(self: Rc<Self>) {
        // Time for another worker to do it; and if the zone cannot keep them, no storm.
        const LEAST: Duration = Duration::from_secs(1);
        loop {
            self.fetched(Cause::Due).await;
            nginx::sleep(self.suspended_for().max(LEAST)).await;
            if nginx::worker_is_exiting() {
                return;
            }
        }
    }

    /// Fetches them, or waits until another worker did.
    async fn find(self: Rc<Self>, cause: Cause) {
        struct Done<'a>(&'a Keys);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.fetching.set(false);
                self.0.fetched.notify(usize::MAX);
            }
        }
        let _done = Done(&self);
        let KeySource::Url(server) = &self.project.tokens.keys else { return };
        // A leader that does not come back within its own deadline is lost.
        let lease = self.project.timeout + Duration::from_millis(500);
        let lead = loop {
            match self.map.turn(&self.key, lease) {
                Turn::Lead(lead) => break lead,
                Turn::Follow(leader) => match self.map.follow(&self.key, leader).await {
                    Ended::Stored if !self.wants(cause) => return,
                    Ended::Stored | Ended::Failed(_) | Ended::Abandoned => {}
                },
            }
        };
        // Another worker's fetch may have ended since this one was begun.
        if !self.wants(cause) {
            return;
        }
        let fetched = self.ask(server).await;
        let mut published = self.published();
        match fetched {
            Ok((set, skipped)) => {
                self.succeeded(server, &published, &set, skipped);
                published.succeeded(cause, now(), set.to_json().into_bytes());
            }
            Err(why) => {
                self.failed(server, &published, &why);
                published.failed(cause, now());
            }
        }
        if !lead.store(Worth::Lasting, (now(), NEVER), &published.encode()) {
            self.log(Level::Error, format_args!("authgear keys are too large for shared memory"));
        }
        self.map.header().keys_changed();
    }

    async fn ask(&self, server: &Server) -> Result<(KeySet, usize), String> {
        let document = client::fetch_keys(&self.project, server).await;
        let document = document.map_err(|failure| failure.to_string())?;
        KeySet::parse(&document, &self.project.tokens.profile.algorithms)
            .map_err(|error| error.to_string())
    }

    fn succeeded(&self, server: &Server, before: &Published, set: &KeySet, skipped: usize) {
        worker::metrics(&self.project).fetched(Some(set.len()), nginx::unix_time().as_secs());
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

    /// One line for each outage: until it is over, no other worker writes one either.
    fn failed(&self, server: &Server, before: &Published, why: &str) {
        worker::metrics(&self.project).fetched(None, nginx::unix_time().as_secs());
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

    fn log(&self, level: Level, message: core::fmt::Arguments<'_>) {
        Log::cycle().write(level, format_args!("{message}, project: \"{}\"", self.project.name));
    }
}

/// Milliseconds, as the zone has them.
fn now() -> u64 {
    nginx::now().as_millis() as u64
}
