//! Counts requests.
//!
//! A client request counts once per project, by its first decision: nginx may redirect it to
//! another location of the project, which decides again.

use authgear::metrics::{Access, Mode};
use authgear::verdict::{Reason, Verdict};

use super::state::RequestState;
use crate::conf::location::Fallback;
use crate::conf::project::Project;
use crate::conf::{self, LocationConf};
use crate::resolution::Resolution;
use crate::worker::Worker;

/// Counts the cache status of a verdict.
pub fn resolved(worker: &Worker, project: &Project, resolution: &Resolution) {
    if let Some(status) = resolution.cache_status {
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
    let is_error =
        matches!(verdict, Verdict::Unavailable(_)) && location.on_error() == Fallback::Deny;
    if is_first(state, project) {
        let metrics = worker.metrics(project);
        match (location.dry_run(), is_error) {
            (false, true) => metrics.failed(why),
            (dry_run, _) => metrics.denied(why, dry_run),
        }
    }
    if location.dry_run() {
        return passed(worker, state, location, project, verdict);
    }
    let access = if is_error { Access::Error } else { Access::Deny };
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
    if !state.located.replace(true) {
        locate(worker, location, access);
    }
    if is_first(state, project) {
        state.counted.set(Some(project.id));
        worker.metrics(project).request(mode(location), access);
    }
}

/// Counts the request for the first location that decides, whatever comes after.
fn locate(worker: &Worker, location: &LocationConf, access: Access) {
    let Some(zone) = location.status_zone() else { return };
    worker.shared().count(|metrics| {
        let slot = *zone.slot.get_or_init(|| metrics.location(&zone.name));
        metrics.located(slot, access);
    });
}

fn mode(location: &LocationConf) -> Mode {
    match location.mode() {
        conf::Mode::Resolver => Mode::Resolver,
        conf::Mode::Jwt => Mode::Jwt,
        conf::Mode::Auto => Mode::Auto,
    }
}
