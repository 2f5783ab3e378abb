//! A worker's part in the fleet: what it tells others, and what it knows of Redis.

use core::cell::{Cell, RefCell};
use core::pin::pin;
use core::time::Duration;
use std::rc::Rc;

use authgear::fleet::event::{Event, ProjectId, UserId, What};
use authgear::fleet::positions::{Place, PositionLog};
use authgear::fleet::ring::{EventRing, EventSlot, Put, Room, Standing};
use authgear::fleet::spaced::Spaced;
use authgear::fleet::stream_id::Position;
use authgear::fleet::tier::SKEW;
use authgear::metrics::{FleetEvent, FleetMetrics, FleetReport};
use authgear::shared::purges::PurgeEpoch;
use event_listener::Event as Wake;

use super::tier::{Tier, CUT_OFF};
use super::wait::{now_ms, unix_ms};
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

/// A worker's part in the fleet.
pub struct Fleet {
    pub(super) settings: Rc<FleetSettings>,
    pub(super) projects: Vec<Rc<Project>>,
    pub(super) retention: Duration,
    pub(super) shared: SharedHandle,
    /// Notified when another worker has woken this one.
    pub(super) woken: Wake,
    /// The second tier, if verdicts are shared.
    tier: Option<Rc<Tier>>,
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
        let settings = Rc::clone(main.fleet()?);
        // Before this worker changes anything.
        settings.zone.lock(|_, zone| zone.positions.begin(shared.purge_epoch()));
        Some(Self {
            tier: Tier::new(&settings, shared).map(Rc::new),
            settings,
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
        self.tier.iter().for_each(|tier| tier.close());
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

    /// Makes a change take effect in all workers, and tells other hosts. Without a project it
    /// concerns all of them. False if another user's refusal or period was forgotten for it.
    ///
    /// The zone of the fleet is locked all the while, and that of the module within: who reads the
    /// number of purges and the events that are pending finds both or none.
    pub fn change(self: &Rc<Self>, project: Option<&Project>, change: &Change<'_>) -> (bool, Told) {
        let events = events(project.map(Project::fleet_id), change);
        let scope = project.map(|project| project.scope.as_slice());
        let zone = self.settings.zone;
        let (now, retention) = (now_ms(), self.retention_ms());
        let (is_kept, put) = zone.lock(|_, zone| {
            // First, so that no host knows of it before this one.
            let is_kept = self.shared.apply(scope, change);
            let put = events.iter().map(|event| zone.ring.put(event, now, retention));
            let put: Vec<Put> = put.collect();
            if put.iter().any(|put| put.room != Room::Enough) {
                zone.positions.widened();
            }
            (is_kept, put)
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
        (is_kept, Told(Some(Waiting { fleet: Rc::clone(self), put })))
    }

    /// The second tier, if verdicts are shared.
    pub fn tier(&self) -> Option<&Rc<Tier>> {
        self.tier.as_ref()
    }

    /// The place up to which this host knows what others purge. None if it does not know that now,
    /// or if its clock is not that of Redis.
    pub fn place(&self) -> Option<Place> {
        self.with_positions(PositionLog::place)
    }

    /// The place, and the purge by which to judge a verdict that another host asked for at this
    /// position and time, in milliseconds since 1970: see [`PositionLog::epoch_of`].
    pub fn place_and_epoch(
        &self,
        position: Position,
        asked_at: u64,
    ) -> Option<(Place, Option<PurgeEpoch>)> {
        self.with_positions(|log| Some((log.place()?, log.epoch_of(position, asked_at))))
    }

    fn with_positions<R>(&self, read: impl FnOnce(&PositionLog) -> Option<R>) -> Option<R> {
        let zone = self.settings.zone;
        let header = zone.header();
        let is_in_sync = header.unconfirmed_for().is_some_and(|time| time < CUT_OFF);
        if !is_in_sync || !is_right(header.clock_offset()) {
            return None;
        }
        zone.lock(|_, zone| read(&zone.positions))
    }

    /// Notes by how many milliseconds the clock of Redis is ahead of this host's.
    pub(super) fn note_clock(&self, offset: i64) {
        let before = self.settings.zone.header().set_clock_offset(offset);
        if self.tier.is_some() && is_right(before) && !is_right(offset) {
            Log::cycle().write(
                Level::Warn,
                format_args!(
                    "authgear fleet shares no verdicts: the clock of Redis is {offset} ms ahead of \
                     this host's, redis: \"{}\"",
                    self.settings.server
                ),
            );
        }
    }

    /// A snapshot of the fleet's metrics.
    pub fn report(&self, metrics: &FleetMetrics) -> FleetReport {
        let zone = self.settings.zone;
        let in_sync = zone.header().unconfirmed_for().is_some_and(|time| time < CUT_OFF);
        let waiting = zone.lock(|_, zone| zone.ring.waiting()) as u64;
        metrics.report(in_sync, waiting, zone.header().clock_offset())
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

/// Returns true if the clocks of hosts may differ by so many milliseconds.
fn is_right(offset: i64) -> bool {
    offset.unsigned_abs() <= SKEW
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
