//! Tells Redis the events of this host.

use core::pin::pin;
use core::time::Duration;
use std::collections::VecDeque;

use authgear::fleet::cursor::Phase;
use authgear::fleet::event::Sealer;
use authgear::fleet::request;
use authgear::fleet::ring::{Sending, Ticket};
use authgear::metrics::{FleetConnection, FleetEvent};

use super::knowledge::Knowledge;
use super::link::{late, Link, LinkError};
use super::master;
use super::member::{Fleet, POLL};
use super::wait::{first_of, now_ms, First};
use nginx::{self, Elapsed};

/// Pause between two looks at what the reader does.
const PAUSE: Duration = Duration::from_millis(20);

/// Least age of a connection whose end while it is idle is no failure.
const LIVED: Duration = Duration::from_secs(1);

/// An event that Redis was told and has not answered yet.
struct UnderWay {
    ticket: Ticket,
    due: Duration,
}

/// Tells events until a connection fails.
pub(super) async fn run(fleet: &Fleet, knowledge: &Knowledge) -> LinkError {
    loop {
        let ended = match try_publish(fleet, knowledge).await {
            Err(ended) => ended,
            Ok(never) => match never {},
        };
        fleet.ring(|ring| ring.broken());
        match ended {
            Ended::Over => nginx::sleep(PAUSE).await,
            Ended::Failed(error) => return error,
        }
    }
}

/// End of a connection.
enum Ended {
    /// Redis closed it after it was idle for a while, or the reader has found another server.
    Over,
    Failed(LinkError),
}

impl From<LinkError> for Ended {
    fn from(error: LinkError) -> Self {
        Self::Failed(error)
    }
}

async fn try_publish(
    fleet: &Fleet,
    knowledge: &Knowledge,
) -> Result<core::convert::Infallible, Ended> {
    let settings = &fleet.settings;
    let publisher = settings.zone.header().ring.publisher();
    let sealer = Sealer::new(&settings.secrets, settings.prefix.as_str(), publisher);
    let sealer = sealer.map_err(|error| LinkError::new(error.to_string()))?;
    let stream = settings.prefix.stream();
    // The reader is to notice first which server this is.
    while knowledge.cursor.borrow().phase() == Phase::Down {
        nginx::sleep(PAUSE).await;
    }
    let mut link = fleet.open("authgear-write").await?;
    let server = link.server().await?.incarnation();
    if knowledge.cursor.borrow().phase() != Phase::Down
        && !knowledge.cursor.borrow().may_write(server)
    {
        return Err(LinkError::new("another server answers than the one that is read").into());
    }
    let opened = nginx::now();
    let mut under_way: VecDeque<UnderWay> = VecDeque::new();
    let mut bytes = Vec::new();
    loop {
        // Listens before it looks, so that no wake-up in between is lost.
        let woken = fleet.woken.listen();
        let is_read = {
            let cursor = knowledge.cursor.borrow();
            cursor.phase() != Phase::Down && cursor.may_write(server)
        };
        if !is_read {
            // The reader is about to find a server, or has found another one.
            return Err(Ended::Over);
        }
        if fleet.ring(|ring| ring.waiting()) == 0 {
            knowledge.can_write.set(true);
        }
        bytes.clear();
        for Sending { ticket, event } in fleet.ring(|ring| ring.take(now_ms())) {
            let sealed = sealer.seal(ticket.number, &event);
            let sealed = sealed.map_err(|error| LinkError::new(error.to_string()))?;
            request::add(&mut bytes, &stream, &sealed);
            under_way.push_back(UnderWay { ticket, due: nginx::now() + link.due() });
        }
        send(&link, &bytes).await?;
        let now = nginx::now();
        let wait = match under_way.front() {
            Some(oldest) => oldest.due.saturating_sub(now),
            None => {
                let due = fleet.ring(|ring| ring.next_due(now_ms()));
                due.map_or(POLL, |due| Duration::from_millis(due.max(1)))
            }
        };
        let receiving = pin!(link.receive());
        let news = pin!(nginx::timeout(wait.min(POLL), receiving));
        match first_of(news, pin!(woken)).await {
            First::Left(Ok(Ok(reply))) => {
                let Some(UnderWay { ticket, .. }) = under_way.pop_front() else {
                    return Err(LinkError::new("an answer to no command").into());
                };
                reply.added().map_err(LinkError::from)?;
                fleet.ring(|ring| ring.acknowledged(&ticket));
                knowledge.can_write.set(true);
                fleet.count(FleetEvent::Published);
                // Requests wait for it, in any worker.
                nginx::wake_all();
            }
            First::Left(Ok(Err(_))) if under_way.is_empty() && nginx::now() >= opened + LIVED => {
                return Err(Ended::Over);
            }
            First::Left(Ok(Err(error))) => return Err(error.into()),
            First::Left(Err(Elapsed)) | First::Right(()) => {
                let now = nginx::now();
                if under_way.front().is_some_and(|oldest| oldest.due <= now) {
                    return Err(late().into());
                }
            }
        }
    }
}

async fn send(link: &Link, bytes: &[u8]) -> Result<(), LinkError> {
    let sending = pin!(link.send(bytes));
    nginx::timeout(link.due(), sending).await.unwrap_or_else(|Elapsed| Err(late()))
}

impl Fleet {
    /// Opens a connection, and counts it.
    pub(super) async fn open(&self, name: &str) -> Result<Link, LinkError> {
        let opened = master::open(&self.settings, name).await;
        let outcome = match &opened {
            Ok(_) => FleetConnection::Opened,
            Err(_) => FleetConnection::Failed,
        };
        self.shared.count(|metrics| metrics.fleet.connection(outcome));
        opened
    }
}
