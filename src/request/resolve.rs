//! The verdict on a request, over its suspensions.

use std::rc::Rc;

use super::metrics;
use crate::conf::project::Project;
use crate::conf::{Authgear, LocationConf};
use crate::credentials;
use crate::lookup::{self, Poll, Started, Waits};
use crate::resolution::Resolution;
use crate::worker::Worker;
use nginx::{Failed, Request, State};

/// The verdict of `project` on the request. `None` while the request must wait for it.
pub fn resolve(
    worker: &Worker,
    request: &mut Request,
    state: &State<Authgear>,
    location: &LocationConf,
    project: &Rc<Project>,
) -> Result<Option<Resolution>, Failed> {
    let elsewhere = match location.bearer() {
        None => None,
        Some(variables) => {
            let now = credentials::bearer_elsewhere(request, location)?;
            state.bearer_elsewhere(variables, now)
        }
    };
    let id = lookup::identify(request, location, project, elsewhere);
    if let Some(resolution) = state.resolution(&id) {
        return Ok(Some(resolution));
    }
    let pending = state.pending.take().filter(|pending| *pending.id() == id);
    if let Some(pending) = pending {
        match pending.poll(worker) {
            Poll::Waiting => {
                *state.pending.borrow_mut() = Some(pending);
                return Ok(None);
            }
            Poll::Again => state.add_waited(pending.waited()),
            Poll::Ready(resolution) => {
                state.add_waited(pending.waited());
                metrics::resolved(worker, project, &resolution);
                return Ok(Some(state.keep(id, resolution)));
            }
        }
    }
    match lookup::start(worker, request, &Waits::Suspended(state), location, project, &id)? {
        Started::Ready(resolution) => {
            metrics::resolved(worker, project, &resolution);
            Ok(Some(state.keep(id, resolution)))
        }
        Started::Waiting(pending) => {
            *state.pending.borrow_mut() = Some(pending);
            Ok(None)
        }
    }
}
