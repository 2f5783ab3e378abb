//! The keeper: the one worker of a host that is connected to Redis.

use core::pin::pin;
use core::time::Duration;
use std::rc::Rc;

use authgear::metrics::FleetConnection;

use super::knowledge::Knowledge;
use super::link::LinkError;
use super::member::{Fleet, POLL};
use super::wait::{first_of, Pause};
use super::{publisher, reader};
use nginx::{self, Level, Log};

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
    fleet.settings.zone.lock(|_, zone| {
        zone.ring.taken_over();
        zone.positions.is_down();
    });
    let knowledge = Knowledge::new(fleet);
    let duties = pin!(async {
        first_of(pin!(read_on(fleet, &knowledge)), pin!(write_on(fleet, &knowledge))).await;
    });
    let lease = pin!(renew(fleet, &knowledge));
    first_of(duties, lease).await;
    knowledge.end(fleet);
    fleet.settings.zone.lock(|_, zone| {
        if zone.is_keeper() {
            zone.positions.is_down();
        }
    });
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
            Pause::default().after(true).await;
            continue;
        }
        pause_after(fleet, &mut pause, &error, was_in_sync).await;
    }
}

/// Writes until the worker ends. A Redis that refuses events does not keep this host from reading.
async fn write_on(fleet: &Fleet, knowledge: &Knowledge) {
    let mut pause = Pause::default();
    while !fleet.ends() {
        let error = publisher::run(fleet, knowledge).await;
        let was_of_use = knowledge.can_write.replace(false);
        pause_after(fleet, &mut pause, &error, was_of_use).await;
    }
}

/// Reports the end of a connection, and waits.
async fn pause_after(fleet: &Fleet, pause: &mut Pause, error: &LinkError, was_of_use: bool) {
    if fleet.ends() {
        return;
    }
    fleet.report_outage(error);
    pause.after(was_of_use).await;
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
