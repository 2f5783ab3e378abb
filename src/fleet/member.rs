//! A worker's part in the fleet: what it tells others, and what it knows of Redis.

use core::cell::{Cell, RefCell};
use core::future::{poll_fn, Future};
use core::pin::{pin, Pin};
use core::task::Poll;
use core::time::Duration;
use std::rc::Rc;

use authgear::fleet::event::{Event, ProjectId, UserId, What};
use authgear::fleet::ring::{EventRing, EventSlot, Put, Room, Standing};
use authgear::fleet::spaced::Spaced;
use authgear::metrics::{FleetEvent, FleetMetrics, FleetReport};
use event_listener::Event as Wake;

use crate::conf::fleet::{CutOff, FleetSettings};
use crate::conf::project::Project;
use crate::conf::MainConf;
use crate::shared::changes::Change;
use crate::shared::handle::SharedHandle;
use nginx::{self, Level, Log, Reply, SharedSlice};

/// Interval at which a worker looks at what it may not have been woken for.
pub(super) const POLL: Duration = Duration::from_millis(250);

/// Time after which a request no longer waits for Redis.
const PATIENCE: Duration = Duration::from_secs(1);

/// Time without news from Redis after which this host is cut off.
const CUT_OFF: Duration = Duration::from_secs(2);

/// A worker's part in the fleet.
pub struct Fleet {
    pub(super) settings: Rc<FleetSettings>,
    pub(super) projects: Vec<Rc<Project>>,
    pub(super) retention: Duration,
    pub(super) shared: SharedHandle,
    /// Notified when another worker has woken this one.
    pub(super) woken: Wake,
    /// The worker ends.
    is_closed: Cell<bool>,
    /// This worker has warned of a policy of Redis.
    pub(super) warned_of_policy: Cell<bool>,
    /// Lines of the log about events that were dropped.
    dropped_lines: RefCell<Spaced>,
}

impl Fleet {
    /// The part of a worker that begins, if there is a fleet.
    pub(super) fn new(main: &MainConf, shared: SharedHandle) -> Option<Self> {
        Some(Self {
            settings: Rc::clone(main.fleet()?),
            projects: main.projects().cloned().collect(),
            retention: main.fleet_retention(),
            shared,
            woken: Wake::new(),
            is_closed: Cell::new(false),
            warned_of_policy: Cell::new(false),
            dropped_lines: RefCell::default(),
        })
    }

    /// Called when another worker has woken this one.
    pub fn woken(&self) {
        self.woken.notify(usize::MAX);
    }

    /// Gives the duties of the keeper to another worker. Called when the worker ends.
    pub fn close(&self) {
        self.is_closed.set(true);
        self.give_up_lease();
    }

    /// Age in milliseconds from which an event concerns nothing.
    pub(super) fn retention_ms(&self) -> u64 {
        u64::try_from(self.retention.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns whether this worker ends.
    pub(super) fn ends(&self) -> bool {
        self.is_closed.get() || nginx::worker_is_exiting()
    }

    /// Takes or renews the lease of the keeper.
    pub(super) fn take_lease(&self) -> bool {
        self.settings.zone.lock(|_, zone| zone.take_lease())
    }

    /// Gives the lease of the keeper up, if this worker has it.
    pub(super) fn give_up_lease(&self) {
        if self.settings.zone.lock(|_, zone| zone.give_up_lease()) {
            nginx::wake_all();
        }
    }

    /// Returns whether this host has not known for so long what others told that only fresh answers count.
    pub fn is_cut_off(&self, cut_off: CutOff) -> bool {
        match cut_off {
            CutOff::Serve => false,
            CutOff::Ask(after) => {
                let since = self.settings.zone.header().unconfirmed_for();
                since.is_none_or(|time| time >= after)
            }
        }
    }

    /// Tells other hosts of a change here.
    pub fn tell(self: &Rc<Self>, project: Option<&Project>, change: &Change<'_>) -> Told {
        let project = project.map(Project::fleet_id);
        let events = events(project, change);
        let zone = self.settings.zone;
        let (now, retention) = (now_ms(), self.retention_ms());
        let put = self.ring(|ring| {
            let put = events.iter().map(|event| ring.put(event, now, retention));
            put.collect::<Vec<_>>()
        });
        if put.iter().any(|put| put.room == Room::Dropped)
            && self.dropped_lines.borrow_mut().take_or_forget(now)
        {
            Log::cycle().write(
                Level::Error,
                format_args!(
                    "authgear fleet: too many events wait for Redis, an end or period was dropped"
                ),
            );
        }
        zone.header().wake_keeper();
        Told(Some(Waiting { fleet: Rc::clone(self), put }))
    }

    /// A snapshot of the fleet's metrics.
    pub fn report(&self, metrics: &FleetMetrics) -> FleetReport {
        let zone = self.settings.zone;
        let in_sync = zone.header().unconfirmed_for().is_some_and(|time| time < CUT_OFF);
        metrics.report(in_sync, zone.lock(|_, zone| zone.ring.waiting()) as u64)
    }

    /// Returns whether Redis has all of these events.
    fn has_stored(&self, put: &[Put]) -> bool {
        let ring = &self.settings.zone.header().ring;
        put.iter().all(|put| ring.standing(put.slot, put.number) == Standing::Stored)
    }

    /// Runs `body` with the ring of this host's events, while no other process has it.
    pub(super) fn ring<R>(&self, body: impl FnOnce(&EventRing<SharedSlice<EventSlot>>) -> R) -> R {
        self.settings.zone.lock(|_, zone| body(&zone.ring))
    }

    /// Counts an event.
    pub(super) fn count(&self, event: FleetEvent) {
        self.shared.count(|metrics| metrics.fleet.event(event));
    }
}

/// Events that say what changed, of a project or of all.
fn events(project: Option<ProjectId>, change: &Change<'_>) -> Vec<Event> {
    let at = unix_ms();
    let of = |id: &[u8], what: &dyn Fn(UserId) -> What| match UserId::new(id) {
        Some(user) => Event { at, project, what: what(user) },
        None => Event::everything(at, project),
    };
    match *change {
        Change::Everybody => vec![Event::everything(at, project)],
        Change::Users(ids) => ids.iter().map(|id| Event::user(at, project, id)).collect(),
        Change::Ended { user, at: issued, until } => {
            vec![of(user, &|user| What::End { user, issued, until })]
        }
        Change::Period { user, order, period } => {
            vec![of(user, &|user| What::Period { user, order, period })]
        }
    }
}

/// Events that this host has told or will tell: none without a fleet.
#[derive(Default)]
pub struct Told(Option<Waiting>);

struct Waiting {
    fleet: Rc<Fleet>,
    put: Vec<Put>,
}

impl Told {
    /// The response to who caused the change: 204 when this host and Redis have it, 202 if Redis
    /// does not in time.
    pub fn reply(self) -> Reply {
        let Some(Waiting { fleet, put }) = self.0 else { return Reply::Status(204) };
        let stored = async move {
            loop {
                // Listens before it looks, so that no wake-up in between is lost.
                let woken = pin!(fleet.woken.listen());
                if fleet.has_stored(&put) {
                    return 204;
                }
                let _ = nginx::timeout(POLL, woken).await;
            }
        };
        Reply::Later { status: Box::pin(stored), deadline: PATIENCE, otherwise: 202 }
    }
}

/// Milliseconds of nginx's clock, which all workers share.
pub(super) fn now_ms() -> u64 {
    u64::try_from(nginx::now().as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970.
pub(super) fn unix_ms() -> u64 {
    u64::try_from(nginx::unix_time().as_millis()).unwrap_or(u64::MAX)
}

/// Output of the first of two futures.
pub(super) enum First<A, B> {
    Left(A),
    Right(B),
}

/// Waits for the first of two futures.
pub(super) async fn first_of<A, B>(
    mut left: Pin<&mut impl Future<Output = A>>,
    mut right: Pin<&mut impl Future<Output = B>>,
) -> First<A, B> {
    poll_fn(|cx| match left.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(First::Left(output)),
        Poll::Pending => right.as_mut().poll(cx).map(First::Right),
    })
    .await
}
