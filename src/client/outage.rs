//! One line in the log per outage, not one per request.

use core::cell::Cell;
use core::fmt;
use core::time::Duration;

use super::failure::Failure;
use crate::conf::project::Project;
use nginx::{self, Level, Log};

/// Shortest time between two lines about one project, in one worker.
const QUIET: Duration = Duration::from_secs(10);

/// State of the log of one project's failures: the time of the last line, and the number of failures
/// since then that were not logged.
#[derive(Default)]
pub(super) struct Outage {
    /// The failures are those of userinfo, and not of the resolver.
    of_userinfo: bool,
    logged: Cell<Option<Duration>>,
    silent: Cell<u64>,
    /// Whether the beginning of the outage was logged, so that its end is.
    failing: Cell<bool>,
}

impl Outage {
    /// Lines about userinfo.
    pub(super) fn of_userinfo() -> Self {
        Self { of_userinfo: true, ..Self::default() }
    }

    /// Called when a look-up failed.
    pub(super) fn report(&self, project: &Project, failure: &Failure) {
        if self.may_log() {
            self.failing.set(true);
            self.line(Level::Error, project, format_args!("failed: {failure}"));
        }
    }

    /// Called when a look-up was refused because too many others wait. The resolver has not failed.
    pub(super) fn overloaded(&self, project: &Project, failure: &Failure) {
        if self.may_log() {
            self.line(Level::Error, project, format_args!("failed: {failure}"));
        }
    }

    fn may_log(&self) -> bool {
        let now = nginx::now();
        if self.logged.get().is_some_and(|logged| now < logged + QUIET) {
            self.silent.set(self.silent.get() + 1);
            return false;
        }
        self.logged.set(Some(now));
        true
    }

    /// Called when a look-up was not made because the breaker is open.
    pub(super) fn suspended(&self) {
        self.silent.set(self.silent.get() + 1);
    }

    /// Called when a look-up succeeded.
    pub(super) fn over(&self, project: &Project) {
        if !self.failing.replace(false) {
            return;
        }
        self.line(Level::Notice, project, format_args!("answers again"));
    }

    fn line(&self, level: Level, project: &Project, message: fmt::Arguments<'_>) {
        let not_logged = match self.silent.take() {
            0 => String::new(),
            n => format!(" ({n} failures not logged)"),
        };
        let Project { name, resolver, userinfo, .. } = project;
        let (what, url): (_, &dyn fmt::Display) = match self.of_userinfo {
            true => ("userinfo", &userinfo.server.url),
            false => ("resolver", resolver),
        };
        Log::cycle().write(
            level,
            format_args!(
                "authgear {what} {message}{not_logged}, project: \"{name}\", {what}: \"{url}\""
            ),
        );
    }
}
