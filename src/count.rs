//! What of requests is counted.
//!
//! A client request counts once per project, by what its first decision makes of it: nginx may
//! redirect it to another location of the project, and another decision.

use authgear::metrics::{Access, CacheStatus, Mode};
use authgear::verdict::{Reason, Verdict};

use crate::access::RequestState;
use crate::conf::location::Fallback;
use crate::conf::project::Project;
use crate::conf::{self, LocationConf};
use crate::lookup::Finding;
use crate::worker;

/// How the verdict was found.
pub fn found(project: &Project, finding: &Finding) {
    if let Some(status) = finding.cache_status.and_then(CacheStatus::of_variable) {
        worker::metrics(project).cache(status);
    }
}

/// The request goes on.
pub fn passed(state: &RequestState, location: &LocationConf, project: &Project, verdict: &Verdict) {
    let access = match verdict {
        Verdict::Valid(_) => Access::Allow,
        _ => Access::Anonymous,
    };
    if let Verdict::Unavailable(_) = verdict {
        if location.on_error() == Fallback::Anonymous && is_first(state, project) {
            worker::metrics(project).failure_mode_allowed();
        }
    }
    decided(state, location, project, access);
}

/// The request is turned away, or would be.
pub fn denied(
    state: &RequestState,
    location: &LocationConf,
    project: &Project,
    verdict: &Verdict,
    why: Reason,
) {
    worker::metrics(project).denied(why, location.dry_run());
    if location.dry_run() {
        return passed(state, location, project, verdict);
    }
    let access = match verdict {
        Verdict::Unavailable(_) if location.on_error() == Fallback::Deny => Access::Error,
        _ => Access::Deny,
    };
    decided(state, location, project, access);
}

fn is_first(state: &RequestState, project: &Project) -> bool {
    state.counted.get() != Some(project.id)
}

fn decided(state: &RequestState, location: &LocationConf, project: &Project, access: Access) {
    if is_first(state, project) {
        state.counted.set(Some(project.id));
        worker::metrics(project).request(mode(location), access);
    }
}

fn mode(location: &LocationConf) -> Mode {
    match location.mode() {
        conf::Mode::Resolver => Mode::Resolver,
        conf::Mode::Jwt => Mode::Jwt,
        conf::Mode::Auto => Mode::Auto,
    }
}
