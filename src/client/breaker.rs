//! The breaker of one project: failures of this worker, and the state that all workers share.

use core::cell::{Cell, RefCell};
use core::time::Duration;

use authgear::overload::client_network::ClientNetwork;
use authgear::overload::failures::{FailureStreak, ResolverFailure};
use authgear::overload::probe_schedule::SharedBreaker;
use authgear::shared::cache_key::Key;
use authgear::verdict::Unavailable;

use crate::conf::project::Project;
use crate::shared::handle::{ProjectBreaker, SharedHandle};

/// `max_fails` and `fail_timeout` of a project.
pub(super) struct Breaker {
    shared: ProjectBreaker,
    max_fails: u32,
    timeout: Duration,
    longest_pause: Duration,
    streak: RefCell<FailureStreak>,
    /// The state as this worker saw it last, to notice when another worker's probe succeeds.
    was_open: Cell<bool>,
}

impl Breaker {
    pub(super) fn new(project: &Project, shared: SharedHandle) -> Self {
        Self::over(project, project.breaker(shared))
    }

    /// A breaker of this worker alone, for a server besides the resolver.
    pub(super) fn of_worker(project: &Project) -> Self {
        Self::over(project, ProjectBreaker::Own(SharedBreaker::new()))
    }

    fn over(project: &Project, shared: ProjectBreaker) -> Self {
        Self {
            shared,
            max_fails: project.max_fails,
            timeout: project.timeout,
            longest_pause: project.fail_timeout,
            streak: RefCell::default(),
            was_open: Cell::new(false),
        }
    }

    fn state(&self) -> &SharedBreaker {
        &self.shared
    }

    /// Whether only probes may ask.
    pub(super) fn is_open(&self) -> bool {
        // A reload may have turned it off during a suspension.
        if self.max_fails == 0 {
            return false;
        }
        let is_open = self.state().is_open();
        if self.was_open.replace(is_open) && !is_open {
            self.streak.borrow_mut().reset();
        }
        is_open
    }

    /// Called when the server answered with this status about the credentials of `key`. True if the
    /// breaker is open now.
    pub(super) fn answered(&self, status: u16, key: &Key, client: ClientNetwork) -> bool {
        match status {
            502..=504 => self.failed(ResolverFailure::Resolver),
            500.. => self.failed(ResolverFailure::Request { credentials: *key.as_bytes(), client }),
            // A 4xx may be the fault of one client, and of a gateway before a server that hangs.
            400..=499 => false,
            _ => {
                self.succeeded();
                false
            }
        }
    }

    /// Called when the server gave no usable answer within `time`. True if the breaker is open now.
    pub(super) fn unanswered(&self, why: Unavailable, time: Duration) -> bool {
        match why {
            // The identity of a single user may be that large.
            Unavailable::TooLarge => {
                self.succeeded();
                false
            }
            // This host lacks memory, descriptors or worker_connections.
            Unavailable::Internal => false,
            // A second look-up had only what the first left: that was too short to tell.
            Unavailable::Timeout if time < self.timeout / 2 => false,
            _ => self.failed(ResolverFailure::Resolver),
        }
    }

    /// Closes the breaker for all workers.
    fn succeeded(&self) {
        self.streak.borrow_mut().reset();
        self.state().close();
        self.was_open.set(false);
    }

    /// Counts a failure. True if the breaker is open now.
    fn failed(&self, failure: ResolverFailure) -> bool {
        let is_enough = self.streak.borrow_mut().add(failure, self.max_fails);
        if is_enough {
            self.state().open(now(), self.longest_pause);
            self.was_open.set(true);
        }
        is_enough
    }

    /// Time until the next probe.
    pub(super) fn until_probe(&self) -> Duration {
        self.state().until_probe(now())
    }

    /// Takes the probe that is due, if no other worker has taken it. Another one may after
    /// `lease`.
    pub(super) fn take_probe(&self, lease: Duration) -> bool {
        self.state().take_probe(now(), lease)
    }

    /// Called when a probe failed.
    pub(super) fn probe_failed(&self) {
        self.state().probe_failed(now(), self.longest_pause);
    }
}

fn now() -> u64 {
    u64::try_from(nginx::now().as_millis()).unwrap_or(u64::MAX)
}
