//! Events of other hosts, and their effect here.

use core::time::Duration;

use authgear::fleet::event::{Event, What};
use authgear::fleet::hearing::{Heard, Hearing};
use authgear::fleet::secret::SecretId;
use authgear::fleet::spaced::Spaced;
use authgear::metrics::FleetEvent;

use super::member::Fleet;
use super::wait::{now_ms, unix_ms};
use crate::conf::project::Project;
use crate::shared::changes::Change;
use nginx::{self, Level, Log};

/// Opens events and makes them take effect.
pub(super) struct Listener {
    hearing: Hearing,
    /// Lines of the log about events that are not authentic.
    lines: Spaced,
    /// Saying ends and periods again, which another host has asked for.
    ends: Spaced,
}

impl Listener {
    pub(super) fn new(fleet: &Fleet) -> Self {
        let settings = &fleet.settings;
        let own = settings.zone.header().ring.publisher();
        let retention = fleet.retention_ms();
        let prefix = settings.prefix.as_str();
        let hearing = Hearing::new(settings.secrets.clone(), prefix, own, retention);
        Self { hearing, lines: Spaced::default(), ends: Spaced::default() }
    }

    /// Returns whether another host has asked to hear ends and periods again, and it is time to say
    /// them.
    pub(super) fn says_ends(&mut self, now: u64) -> bool {
        self.ends.take(now)
    }

    /// Returns whether another host has asked to hear them, and they were not said since.
    pub(super) fn owes_ends(&self) -> bool {
        self.ends.is_owed()
    }

    /// Hears a value of the stream.
    pub(super) fn hear(&mut self, fleet: &Fleet, value: &[u8]) {
        match self.hearing.hear(value, unix_ms()) {
            Heard::Own(number) => {
                fleet.settings.zone.lock(|_, zone| zone.ring.returned(number));
                fleet.count(FleetEvent::Own);
            }
            Heard::Again | Heard::Old => fleet.count(FleetEvent::Again),
            Heard::New(Event { what: What::Again, .. }) => {
                self.ends.want();
                fleet.count(FleetEvent::Applied);
            }
            Heard::New(event) => {
                fleet.ring(|ring| ring.replaced_by(&event));
                if !fleet.apply(&event) {
                    return fleet.count(FleetEvent::Foreign);
                }
                let delay = unix_ms().saturating_sub(event.at);
                // A period of long ago is said again: its age is no delay.
                if delay > fleet.retention_ms() {
                    return fleet.count(FleetEvent::Applied);
                }
                let delay = Duration::from_millis(delay);
                fleet.shared.count(|metrics| metrics.fleet.applied(delay));
            }
            Heard::Unreadable(secret) => {
                self.report(fleet, secret, "that no secret of this host opens");
                fleet.count(FleetEvent::Unreadable);
            }
            Heard::Forged(secret) => {
                self.report(fleet, Some(secret), "that is not authentic");
                fleet.count(FleetEvent::Forged);
            }
        }
    }

    fn report(&mut self, fleet: &Fleet, secret: Option<SecretId>, what: &str) {
        if !self.lines.take_or_forget(now_ms()) {
            return;
        }
        let secret = secret.map(|id| id.to_string()).unwrap_or_else(|| "unknown".into());
        Log::cycle().write(
            Level::Error,
            format_args!(
                "authgear fleet has an event {what}, secret id: {secret}, redis: \"{}\"",
                fleet.settings.server
            ),
        );
    }
}

impl Fleet {
    /// Makes an event of another host take effect in all workers. Returns false if it concerns no
    /// project of this host.
    fn apply(&self, event: &Event) -> bool {
        let Some(id) = event.project else {
            let ttl = self.projects.iter().map(|project| project.revocation_ttl).max();
            self.apply_to(None, ttl.unwrap_or_default(), event);
            return true;
        };
        let mut concerned = self.projects.iter().filter(|own| own.fleet_id() == id).peekable();
        let is_concerned = concerned.peek().is_some();
        concerned.for_each(|own| self.apply_to(Some(own), own.revocation_ttl, event));
        is_concerned
    }

    fn apply_to(&self, project: Option<&Project>, ttl: Duration, event: &Event) {
        /// Clocks of hosts differ.
        const AHEAD: u64 = 60;
        let now = nginx::unix_time().as_secs();
        let scope = project.map(|project| project.scope.as_slice());
        let id;
        let change = match &event.what {
            What::Everything => Change::Everybody,
            What::User(user) => {
                id = [user.as_bytes()];
                Change::Users(&id)
            }
            What::End { user, issued, until } => Change::Ended {
                user: user.as_bytes(),
                at: (*issued).min(now.saturating_add(AHEAD)),
                until: (*until).min(now.saturating_add(ttl.as_secs())),
            },
            What::Period { user, order, period } => {
                Change::Period { user: user.as_bytes(), order: *order, period: *period }
            }
            What::Again => return,
        };
        // A full table is no more than is said where the event came from.
        self.shared.apply(scope, &change);
    }
}
