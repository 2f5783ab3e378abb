//! Counts requests.
//!
//! A client request counts once per project, by its first decision: nginx may redirect it to
//! another location of the project, which decides again.

use authgear::metrics::{Access, CacheStatus, Mode};
use authgear::verdict::{Reason, Verdict};

use super::state::RequestState;
use crate::conf::location::Fallback;
use crate::conf::project::Project;
use crate::conf::{self, LocationConf};
use crate::resolution::Resolution;
use crate::worker::Worker;

/// Counts the cache status of a verdict.
pub fn resolved(worker: &Worker, project: &Project, resolution: &Resolution) {
    if let Some(status) = resolution.cache_status.and_then(CacheStatus::of_variable) {
        worker.metrics(project).cache(status);
    }
}

/// Counts a request that goes on.
pub fn passed(
    worker: &Worker,
    state: &RequestState,
    location: &LocationConf,
    project: &Project,
    verdict: &Verdict,
) {
    let access = match verdict {
        Verdict::Valid(_) => Access::Allow,
        _ => Access::Anonymous,
    };
    if let Verdict::Unavailable(_) = verdict {
        if location.on_error() == Fallback::Anonymous && is_first(state, project) {
            worker.metrics(project).failure_mode_allowed();
        }
    }
    decided(worker, state, location, project, access);
}

/// Counts a request that is denied, or would be without `authgear_dry_run`.
pub fn denied(
    worker: &Worker,
    state: &RequestState,
    location: &LocationConf,
    project: &Project,
    verdict: &Verdict,
    why: Reason,
) {
    worker.metrics(project).denied(why, location.dry_run());
    if location.dry_run() {
        return passed(worker, state, location, project, verdict);
    }
    let access = match verdict {
        Verdict::Unavailable(_) if location.on_error() == Fallback::Deny => Access::Error,
        _ => Access::Deny,
    };
    decided(worker, state, location, project, access);
}

fn is_first(state: &RequestState, project: &Project) -> bool {
    state.counted.get() != Some(project.id)
}

fn decided(
    worker: &Worker,
    state: &RequestState,
    location: &LocationConf,
    project: &Project,
    access: Access,
) {
    if is_first(state, project) {
        state.counted.set(Some(project.id));
        worker.metrics(project).request(mode(location), access);
    }
}

fn mode(location: &LocationConf) -> Mode {
    match location.mode() {
        conf::Mode::Resolver => Mode::Resolver,
        conf::Mode::Jwt => Mode::Jwt,
        conf::Mode::Auto => Mode::Auto,
    }
}
