//! One line in the log per outage, not one per request.

use core::cell::Cell;
use core::time::Duration;

use super::Failure;
use crate::conf::project::Project;
use crate::nginx::{self, Level, Log};

/// Least time between two lines about one project, in one worker.
const QUIET: Duration = Duration::from_secs(10);

/// What was logged of a project's failures, and what was not.
#[derive(Default)]
pub(super) struct Outage {
    logged: Cell<Option<Duration>>,
    silent: Cell<u64>,
    failing: Cell<bool>,
}

impl Outage {
    /// A look-up failed.
    pub(super) fn report(&self, project: &Project, failure: &Failure) {
        self.failing.set(true);
        let now = nginx::now();
        if self.logged.get().is_some_and(|logged| now < logged + QUIET) {
            self.silent.set(self.silent.get() + 1);
            return;
        }
        self.logged.set(Some(now));
        let message = format_args!("authgear resolver failed: {failure}");
        match self.silent.take() {
            0 => line(Level::Error, project, message),
            n => line(Level::Error, project, format_args!("{message} ({n} failures not logged)")),
        }
    }

    /// A look-up was not even tried.
    pub(super) fn suspended(&self) {
        self.silent.set(self.silent.get() + 1);
    }

    /// A look-up succeeded.
    pub(super) fn over(&self, project: &Project) {
        if !self.failing.replace(false) {
            return;
        }
        let message = format_args!("authgear resolver answers again");
        match self.silent.take() {
            0 => line(Level::Notice, project, message),
            n => line(Level::Notice, project, format_args!("{message} ({n} failures not logged)")),
        }
    }
}

fn line(level: Level, project: &Project, message: core::fmt::Arguments<'_>) {
    let Project { name, resolver, .. } = project;
    let context = format_args!("{message}, project: \"{name}\", resolver: \"{resolver}\"");
    Log::cycle().write(level, context);
}
