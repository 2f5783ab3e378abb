//! This worker's connection to Redis for verdicts that hosts share (`cache=on`).
//!
//! Commands go out in the order in which they come, and answers come in that order: nobody waits
//! for the connection, and none is made for a request. What cannot be asked now is not asked.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::pin::pin;
use core::task::{Poll, Waker};
use core::time::Duration;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use authgear::credentials::Credentials;
use authgear::fleet::record::{RecordKey, RecordKeys, RecordScope};
use authgear::fleet::reply::Reply;
use authgear::fleet::request;
use authgear::fleet::tier::{Patience, LEASE};
use authgear::metrics::{FleetCache, FleetConnection};
use event_listener::Event as Wake;

use super::link::{late, Link, LinkError};
use super::master;
use super::wait::{first_of, First, Pause};
use crate::conf::fleet::FleetSettings;
use crate::shared::handle::SharedHandle;
use nginx::{self, Elapsed, Level, Log};

/// Most commands that wait for an answer.
const SLOTS: usize = 256;

/// Most bytes that wait to be sent.
const BYTES: usize = 256 * 1024;

/// Longest pause of the task, which looks then whether the worker ends.
const POLL: Duration = Duration::from_millis(250);

/// Least age of a connection whose end while it is idle is no failure.
const LIVED: Duration = Duration::from_secs(1);

/// Time without news from Redis after which this host is cut off, and that has a line of its own.
/// An outage of as much that concerns verdicts alone has another.
pub(super) const CUT_OFF: Duration = Duration::from_secs(2);

/// The second tier, as this worker reaches it.
pub struct Tier {
    settings: Rc<FleetSettings>,
    shared: SharedHandle,
    keys: RecordKeys,
    line: RefCell<Line>,
    /// Notified when there is something to send.
    to_send: Wake,
    patience: RefCell<Patience>,
    /// Begin of an outage, by nginx's clock.
    failing_since: Cell<Option<Duration>>,
    is_closed: Cell<bool>,
}

/// Commands under way.
#[derive(Default)]
struct Line {
    is_open: bool,
    /// To be sent.
    bytes: Vec<u8>,
    /// One for each command that is not answered, in their order.
    slots: VecDeque<Slot>,
}

struct Slot {
    due: Duration,
    begun: Instant,
    /// Gets the answer; none if nobody wants it.
    waiting: Option<Rc<Waiting>>,
}

/// Someone who waits for an answer.
#[derive(Default)]
struct Waiting {
    /// Set once: the value that was there, or none if the connection has ended.
    answer: RefCell<Option<Option<Found>>>,
    waker: RefCell<Option<Waker>>,
}

/// The value of a key; none if there was none.
type Found = Option<Vec<u8>>;

impl Waiting {
    fn give(&self, answer: Option<Found>) {
        self.answer.replace(Some(answer));
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn answer(&self) -> Option<Found> {
        poll_fn(|cx| match self.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                self.waker.replace(Some(cx.waker().clone()));
                Poll::Pending
            }
        })
        .await
    }
}

/// Result of [`Tier::claim`].
#[derive(Debug)]
pub enum Claimed {
    /// Redis was not asked, or the connection ended.
    Skipped,
    /// No answer in time. The lease may be there.
    Late,
    /// No value was there. The lease is there now.
    Led,
    /// A record was there.
    Found(Vec<u8>),
}

impl Tier {
    /// A view without a connection. `None` where nothing is shared, or if no key can be derived.
    pub(super) fn new(settings: &Rc<FleetSettings>, shared: SharedHandle) -> Option<Self> {
        if !settings.shares_verdicts {
            return None;
        }
        Some(Self {
            keys: RecordKeys::new(&settings.secrets, &settings.prefix)?,
            settings: Rc::clone(settings),
            shared,
            line: RefCell::default(),
            to_send: Wake::new(),
            patience: RefCell::default(),
            failing_since: Cell::new(None),
            is_closed: Cell::new(false),
        })
    }

    /// Name of the record of these credentials, and the key that seals it.
    pub fn key(&self, scope: &RecordScope, credentials: &Credentials<'_>) -> Option<RecordKey> {
        self.keys.of(scope, credentials)
    }

    /// Counts the end of a look.
    pub fn count(&self, outcome: FleetCache) {
        self.shared.count(|metrics| metrics.fleet.cache(outcome));
    }

    /// Leaves a lease if nothing is there, and returns what is. Takes as long as `timeout` allows, and
    /// ends at `until` by nginx's clock.
    pub async fn claim(&self, key: &RecordKey, lease: &[u8], until: Duration) -> Claimed {
        let begun = nginx::now();
        let waiting = Rc::new(Waiting::default());
        let is_put = self.has_room()
            && self.patience.borrow_mut().allows(begun)
            && self.put(Some(Rc::clone(&waiting)), |out| {
                request::claim(out, key.name(), lease, LEASE);
            });
        if !is_put {
            return Claimed::Skipped;
        }
        let answer = pin!(waiting.answer());
        let timeout = self.settings.timeout.min(until.saturating_sub(begun));
        match nginx::timeout(timeout, answer).await {
            Ok(Some(found)) => {
                self.patience.borrow_mut().answered();
                found.map_or(Claimed::Led, Claimed::Found)
            }
            Ok(None) => Claimed::Skipped,
            Err(Elapsed) => {
                self.patience.borrow_mut().failed(begun, nginx::now());
                Claimed::Late
            }
        }
    }

    /// Stores a record for so many milliseconds. Nobody waits for it.
    pub fn store(&self, key: &RecordKey, record: &[u8], life: u64) {
        self.put(None, |out| request::store(out, key.name(), record, life));
    }

    /// Removes a lease. Nobody waits for it.
    pub fn delete(&self, key: &RecordKey) {
        self.put(None, |out| request::delete(out, key.name()));
    }

    /// Returns true if there is a connection with room for a command.
    pub fn has_room(&self) -> bool {
        self.line.borrow().has_room()
    }

    /// Puts a command, if there is a connection with room for it.
    fn put(&self, waiting: Option<Rc<Waiting>>, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut line = self.line.borrow_mut();
        if !line.has_room() {
            return false;
        }
        write(&mut line.bytes);
        let due = nginx::now() + master::due(&self.settings);
        line.slots.push_back(Slot { due, begun: Instant::now(), waiting });
        drop(line);
        self.to_send.notify(usize::MAX);
        true
    }

    /// Ends the connection. Called when the worker ends.
    pub(super) fn close(&self) {
        self.is_closed.set(true);
        self.end_line();
        self.to_send.notify(usize::MAX);
    }

    fn ends(&self) -> bool {
        self.is_closed.get() || nginx::worker_is_exiting()
    }

    /// Lets nobody wait for the connection that has ended.
    fn end_line(&self) {
        let Line { slots, .. } = self.line.take();
        slots.into_iter().filter_map(|slot| slot.waiting).for_each(|waiting| waiting.give(None));
    }
}

impl Line {
    /// Returns true if there is a connection with room for a command.
    pub fn has_room(&self) -> bool {
        self.is_open && self.slots.len() < SLOTS && self.bytes.len() < BYTES
    }
}

/// Keeps a connection open until the worker ends.
pub(super) async fn run(tier: Rc<Tier>) {
    let mut pause = Pause::default();
    while !tier.ends() {
        let begun = nginx::now();
        let error = match tier.serve().await {
            Err(error) => error,
            Ok(never) => match never {},
        };
        let (was_open, was_idle) = {
            let line = tier.line.borrow();
            (line.is_open, line.slots.is_empty())
        };
        tier.end_line();
        if tier.ends() {
            break;
        }
        // Redis may close a connection that is idle.
        if !(was_open && was_idle && nginx::now() >= begun + LIVED) {
            tier.report(&error);
        }
        pause.after(was_open).await;
    }
}

impl Tier {
    /// Opens a connection and uses it until it fails.
    async fn serve(&self) -> Result<core::convert::Infallible, LinkError> {
        let mut link = self.open().await?;
        self.works();
        loop {
            // Listens before it looks, so that no wake-up in between is lost.
            let woken = self.to_send.listen();
            if self.ends() {
                return Err(LinkError::new("the worker ends"));
            }
            let bytes = core::mem::take(&mut self.line.borrow_mut().bytes);
            if !bytes.is_empty() {
                let sending = pin!(link.send(&bytes));
                let sent = nginx::timeout(link.due(), sending).await;
                sent.unwrap_or_else(|Elapsed| Err(late()))?;
            }
            let now = nginx::now();
            let due = self.line.borrow().slots.front().map(|oldest| oldest.due);
            if due.is_some_and(|due| due <= now) {
                return Err(late());
            }
            let wait = due.map_or(POLL, |due| due.saturating_sub(now).min(POLL));
            let receiving = pin!(link.receive());
            let news = pin!(nginx::timeout(wait, receiving));
            if let First::Left(Ok(reply)) = first_of(news, pin!(woken)).await {
                self.answered(&reply?)?;
            }
        }
    }

    /// Opens a connection, and tries whether Redis takes verdicts.
    async fn open(&self) -> Result<Link, LinkError> {
        let opened = async {
            let mut link = master::open(&self.settings, "authgear-verdicts").await?;
            let mut bytes = Vec::new();
            let name = format!("{}:try", self.settings.prefix.in_braces());
            request::claim(&mut bytes, &name, b"", 1);
            link.ask(&bytes, Duration::ZERO).await?.value()?;
            Ok(link)
        }
        .await;
        let outcome = match &opened {
            Ok(_) => FleetConnection::Opened,
            Err(_) => FleetConnection::Failed,
        };
        self.shared.count(|metrics| metrics.fleet.connection(outcome));
        opened
    }

    fn answered(&self, reply: &Reply) -> Result<(), LinkError> {
        // An error ends the connection, and with it all who wait.
        reply.no_error()?;
        let slot = self.line.borrow_mut().slots.pop_front();
        let Some(Slot { begun, waiting, .. }) = slot else {
            return Err(LinkError::new("an answer to no command"));
        };
        self.shared.count(|metrics| metrics.fleet.command(begun.elapsed()));
        let Some(waiting) = waiting else { return Ok(()) };
        match reply.value() {
            Ok(found) => {
                waiting.give(Some(found.map(<[u8]>::to_vec)));
                Ok(())
            }
            Err(error) => {
                waiting.give(None);
                Err(error.into())
            }
        }
    }

    /// Verdicts can be shared.
    fn works(&self) {
        self.line.borrow_mut().is_open = true;
        self.failing_since.set(None);
        if self.settings.zone.header().set_sharing_broken(false) {
            Log::cycle().write(
                Level::Notice,
                format_args!(
                    "authgear fleet shares verdicts again, redis: \"{}\"",
                    self.settings.server
                ),
            );
        }
    }

    /// Logs an outage that concerns verdicts alone: others have a line already.
    fn report(&self, error: &LinkError) {
        self.shared.count(|metrics| metrics.fleet.connection(FleetConnection::Broken));
        let now = nginx::now();
        let since = self.failing_since.get().unwrap_or(now);
        self.failing_since.set(Some(since));
        let zone = self.settings.zone.header();
        let is_in_sync = zone.unconfirmed_for().is_some_and(|time| time < CUT_OFF);
        let is_alone = is_in_sync && now >= since + CUT_OFF;
        if is_alone && !zone.set_sharing_broken(true) {
            Log::cycle().write(
                Level::Warn,
                format_args!(
                    "authgear fleet shares no verdicts: {error}, redis: \"{}\"",
                    self.settings.server
                ),
            );
        }
    }
}
