//! The keeper: the one worker of a host that is connected to Redis.

use core::pin::pin;
use core::time::Duration;
use std::rc::Rc;

use authgear::metrics::FleetConnection;

use super::knowledge::Knowledge;
use super::link::LinkError;
use super::member::{first_of, Fleet, POLL};
use super::{publisher, reader};
use nginx::{self, Level, Log};

/// Shortest and longest pause between two attempts to connect, on average.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Waits until this worker is the keeper, and does its duties; until the worker ends.
pub(super) async fn run(fleet: Rc<Fleet>) {
    while !fleet.ends() {
        // Listens before it looks, so that no wake-up in between is lost.
        let woken = pin!(fleet.woken.listen());
        if fleet.take_lease() {
            keep(&fleet).await;
        } else {
            let _ = nginx::timeout(POLL, woken).await;
        }
    }
    fleet.give_up_lease();
}

/// Does the duties of the keeper until the lease is lost or the worker ends.
async fn keep(fleet: &Fleet) {
    Log::cycle().debug(format_args!("authgear: this worker keeps the fleet"));
    fleet.ring(|ring| ring.taken_over());
    let knowledge = Knowledge::new(fleet);
    let duties = pin!(async {
        first_of(pin!(read_on(fleet, &knowledge)), pin!(write_on(fleet, &knowledge))).await;
    });
    let lease = pin!(renew(fleet, &knowledge));
    first_of(duties, lease).await;
    knowledge.end(fleet);
}

/// Renews the lease until it is lost or the worker ends, and does what is owed: Redis may be away.
async fn renew(fleet: &Fleet, knowledge: &Knowledge) {
    while !fleet.ends() && fleet.take_lease() {
        knowledge.do_what_is_due(fleet);
        nginx::sleep(POLL).await;
    }
}

/// Reads until the worker ends, over one connection after another.
async fn read_on(fleet: &Fleet, knowledge: &Knowledge) {
    let mut pause = Pause::default();
    while !fleet.ends() {
        let error = reader::run(fleet, knowledge).await;
        let was_in_sync = knowledge.was_in_sync.replace(false);
        if matches!(error, LinkError::TooLarge) {
            // No outage: a smaller page is asked for.
            nginx::sleep(around(PAUSES.0)).await;
            continue;
        }
        pause.after(fleet, &error, was_in_sync).await;
    }
}

/// Writes until the worker ends. A Redis that refuses events does not keep this host from reading.
async fn write_on(fleet: &Fleet, knowledge: &Knowledge) {
    let mut pause = Pause::default();
    while !fleet.ends() {
        let error = publisher::run(fleet, knowledge).await;
        pause.after(fleet, &error, knowledge.can_write.replace(false)).await;
    }
}

/// The pause between two attempts to connect.
struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSES.0)
    }
}

impl Pause {
    /// Reports an error, and waits. The pause is the shortest one if the connection was of use.
    async fn after(&mut self, fleet: &Fleet, error: &LinkError, was_of_use: bool) {
        if fleet.ends() {
            return;
        }
        fleet.report_outage(error);
        let (least, most) = PAUSES;
        self.0 = if was_of_use { least } else { (self.0 * 2).min(most) };
        nginx::sleep(around(self.0)).await;
    }
}

/// A random time from half of `pause` to one and a half: hosts do not come back all at once.
fn around(pause: Duration) -> Duration {
    let mut random = [128];
    // Without random numbers the pause is as it is.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let [random] = random;
    pause / 2 + pause * u32::from(random) / 256
}

impl Fleet {
    /// Logs the beginning of an outage.
    fn report_outage(&self, error: &LinkError) {
        self.shared.count(|metrics| metrics.fleet.connection(FleetConnection::Broken));
        if !self.settings.zone.header().set_failing(true) {
            Log::cycle().write(
                Level::Error,
                format_args!(
                    "authgear fleet is cut off: {error}, redis: \"{}\"",
                    self.settings.server
                ),
            );
        }
    }

    /// Notes that reading added up `since` this time, and logs the end of an outage, unless Redis
    /// still takes no events.
    pub(super) fn in_sync(&self, since: Duration, can_write: bool) {
        let zone = self.settings.zone.header();
        zone.confirm(since);
        let now = nginx::unix_time().as_secs();
        self.shared.count(|metrics| metrics.fleet.synced(now));
        if can_write && zone.set_failing(false) {
            Log::cycle().write(
                Level::Notice,
                format_args!(
                    "authgear fleet is in sync again, redis: \"{}\"",
                    self.settings.server
                ),
            );
        }
    }
}
