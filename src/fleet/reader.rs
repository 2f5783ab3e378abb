//! Reads what Redis has, as the cursor says.

use core::cell::Cell;
use core::pin::pin;
use core::time::Duration;
use std::collections::VecDeque;

use authgear::fleet::cursor::{Do, Input, Loss};
use authgear::fleet::positions::OwnEvents;
use authgear::fleet::reply::{Entry, Look, LookReplies};
use authgear::fleet::request;
use authgear::fleet::stream_id::StreamId;
use authgear::metrics::FleetLoss;

use super::knowledge::Knowledge;
use super::link::{late, Link, LinkError};
use super::member::Fleet;
use super::wait::{now_ms, system_ms, unix_ms};
use nginx::{self, Elapsed, Level, Log};

/// Time between two looks.
const BEAT: Duration = Duration::from_secs(1);

/// Least time between two waits for events: many events are read together.
const PAUSE: Duration = Duration::from_millis(100);

/// Reads until the connection fails.
pub(super) async fn run(fleet: &Fleet, knowledge: &Knowledge) -> LinkError {
    let error = match read(fleet, knowledge).await {
        Err(error) => error,
        Ok(never) => match never {},
    };
    fleet.settings.zone.lock(|_, zone| zone.positions.is_down());
    // A purge that is done while Redis is away ends no outage.
    knowledge.knew_all_at.set(None);
    let mut cursor = knowledge.cursor.borrow_mut();
    let page = cursor.page();
    cursor.step(match error {
        LinkError::TooLarge => Input::TooLarge,
        LinkError::Failed(_) => Input::Broken,
    });
    match error {
        LinkError::TooLarge if cursor.page() == page => {
            let detail = "the stream has an entry that is too large, delete the stream";
            LinkError::new(detail)
        }
        error => error,
    }
}

/// A connection that reads.
struct Reader<'a> {
    link: Link,
    stream: String,
    knowledge: &'a Knowledge,
    /// When the last look was sent.
    looked: Cell<Duration>,
    /// When events arrived last.
    woken: Cell<Duration>,
}

async fn read(
    fleet: &Fleet,
    knowledge: &Knowledge,
) -> Result<core::convert::Infallible, LinkError> {
    let mut link = fleet.open("authgear-read").await?;
    let server = link.server().await?;
    if let Some(policy) = server.unfit_policy() {
        warn_of_policy(fleet, policy);
    }
    let time = ask_time(fleet, &mut link).await?;
    let connected = Input::Connected { incarnation: server.incarnation(), time };
    let mut todo = VecDeque::from(knowledge.cursor.borrow_mut().step(connected));
    let stream = fleet.settings.prefix.stream();
    let (looked, woken) = (Cell::new(nginx::now()), Cell::default());
    let mut reader = Reader { link, stream, knowledge, looked, woken };
    while let Some(next) = todo.pop_front() {
        let input = match next {
            Do::Look(from) => {
                let before = system_ms();
                let look = reader.look(from).await?;
                if let Some(time) = look.server.time() {
                    compare_clocks(fleet, before, time);
                }
                Input::Look(look)
            }
            Do::Block(from) => {
                reader.has_read(fleet);
                reader.block(from).await?
            }
            Do::Close => return Err(LinkError::new("what Redis says cannot be")),
            other => {
                reader.obey(fleet, other);
                continue;
            }
        };
        todo.extend(knowledge.cursor.borrow_mut().step(input));
    }
    Err(LinkError::new("nothing to do"))
}

/// Asks Redis for its time, in milliseconds since 1970, and compares it with this host's.
async fn ask_time(fleet: &Fleet, link: &mut Link) -> Result<u64, LinkError> {
    let mut bytes = Vec::new();
    request::time(&mut bytes);
    let before = system_ms();
    let time = link.ask(&bytes, Duration::ZERO).await?.time()?;
    compare_clocks(fleet, before, time);
    Ok(time)
}

/// Compares the time of Redis, which it told in an exchange that began at `before`, with this host's.
fn compare_clocks(fleet: &Fleet, before: u64, time: u64) {
    // Any time within the exchange is right.
    let right = time.clamp(before, system_ms().max(before));
    fleet.note_clock(i64::try_from(time).unwrap_or(i64::MAX).saturating_sub_unsigned(right));
}

impl Reader<'_> {
    /// Notes the place up to which all events were applied, unless this worker has lost the lease.
    fn has_read(&self, fleet: &Fleet) {
        if self.knowledge.owes_a_purge() {
            return;
        }
        let Some(place) = self.knowledge.cursor.borrow().position() else { return };
        fleet.settings.zone.lock(|_, zone| {
            if zone.is_keeper() {
                let (least_pending, last) = zone.ring.unreturned();
                let own = OwnEvents { least_pending, last };
                // nginx's clock may be behind a change of another worker.
                let time = system_ms();
                zone.positions.has_read(place, time, fleet.shared.purge_epoch(), own);
            }
        });
    }

    /// Looks behind `from`.
    async fn look(&mut self, from: StreamId) -> Result<Look, LinkError> {
        self.looked.set(nginx::now());
        let mut bytes = Vec::new();
        let count = self.knowledge.cursor.borrow().look_size();
        request::look(&mut bytes, &self.stream, from, count);
        let (due, link) = (self.link.due(), &mut self.link);
        let looking = pin!(async {
            link.send(&bytes).await?;
            let mut replies = LookReplies::new();
            loop {
                if let Some(look) = replies.add(link.receive().await?)? {
                    return Ok(look);
                }
            }
        });
        nginx::timeout(due, looking).await.unwrap_or_else(|Elapsed| Err(late()))
    }

    /// Waits for entries behind `from` until it is time to look.
    async fn block(&mut self, from: StreamId) -> Result<Input, LinkError> {
        let pause = (self.woken.get() + PAUSE).saturating_sub(nginx::now());
        if !pause.is_zero() {
            nginx::sleep(pause).await;
        }
        let beat = self.looked.get() + BEAT;
        let wait = beat.saturating_sub(nginx::now()).max(Duration::from_millis(1));
        let mut bytes = Vec::new();
        let millis = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let page = self.knowledge.cursor.borrow().page();
        request::block(&mut bytes, &self.stream, from, page, millis);
        let asked = nginx::now();
        let entries: Vec<Entry> = self.link.ask(&bytes, wait).await?.entries()?;
        let now = nginx::now();
        // A server that does not wait is not asked at the speed of its answers.
        if !entries.is_empty() || now < asked + wait / 2 {
            self.woken.set(now);
        }
        if now >= beat {
            self.knowledge.cursor.borrow_mut().step(Input::Beat);
        }
        Ok(Input::Woken(entries))
    }

    /// Does what needs no connection.
    fn obey(&self, fleet: &Fleet, what: Do) {
        let zone = fleet.settings.zone;
        match what {
            Do::Apply(entry) => self.knowledge.listener.borrow_mut().hear(fleet, &entry.value),
            Do::SayAgain => {
                fleet.ring(|ring| ring.say_again());
                fleet.woken();
            }
            Do::Recover => self.knowledge.recover(fleet),
            Do::Lost(loss) => {
                if loss != Loss::Trimmed {
                    self.knowledge.knew_all_at.set(None);
                }
                zone.lock(|_, zone| zone.positions.lost());
                self.report_loss(fleet, loss);
            }
            // Another keeper is to find what is owed.
            Do::Keep(_) if self.knowledge.owes() => {}
            Do::Keep(saved) => zone.lock(|_, zone| zone.cursor.store(&saved)),
            Do::Confirm => {
                let (now, retention) = (now_ms(), fleet.retention_ms());
                let unix = unix_ms() / 1000;
                let again = fleet.ring(|ring| {
                    ring.expire(now, retention, unix);
                    ring.renew(now, retention, unix) + ring.looked()
                });
                self.knowledge.do_what_is_due(fleet);
                if again > 0 {
                    fleet.woken();
                }
                self.knowledge.was_in_sync.set(true);
                if self.knowledge.owes_a_purge() {
                    self.knowledge.knew_all_at.set(Some(self.looked.get()));
                    return;
                }
                fleet.in_sync(self.looked.get(), self.knowledge.can_write.get());
            }
            Do::Look(_) | Do::Block(_) | Do::Close => {}
        }
    }

    fn report_loss(&self, fleet: &Fleet, loss: Loss) {
        let (counted, what) = match loss {
            Loss::Incarnation => (FleetLoss::Incarnation, "another server has the stream"),
            Loss::Count => (FleetLoss::Count, "the count of events does not agree"),
            Loss::Gone => (FleetLoss::Gone, "the stream is gone"),
            Loss::Trimmed => {
                let what = "events were trimmed before this host read them, it purges everything";
                (FleetLoss::Trimmed, what)
            }
        };
        fleet.shared.count(|metrics| metrics.fleet.lost(counted));
        if !self.knowledge.loss_lines.borrow_mut().take_or_forget(now_ms()) {
            return;
        }
        Log::cycle().write(
            Level::Notice,
            format_args!(
                "authgear fleet may have lost events: {what}, redis: \"{}\"",
                fleet.settings.server
            ),
        );
    }
}

fn warn_of_policy(fleet: &Fleet, policy: &str) {
    if fleet.warned_of_policy.replace(true) {
        return;
    }
    Log::cycle().write(
        Level::Warn,
        format_args!(
            "authgear fleet: the maxmemory-policy \"{policy}\" of Redis can evict or refuse \
             events, set volatile-lru or volatile-ttl, redis: \"{}\"",
            fleet.settings.server
        ),
    );
}
