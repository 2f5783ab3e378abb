//! `authgear_userinfo`: the profile of a request's user, for variables.

use std::rc::Rc;

use authgear::metrics::CacheStatus;
use authgear::verdict::{Unavailable, Verdict};

use super::state::RequestState;
use crate::conf::project::Project;
use crate::conf::{Authgear, LocationConf};
use crate::lookup::{self, LookupId, Poll, Started};
use crate::resolution::Resolution;
use crate::worker::Worker;
use nginx::{Failed, Request, State};

/// Asks userinfo about the user of `resolution`, if the location says so and a variable needs it.
/// Returns the verdict to decide on: a failure takes the place of the session. `None` while the
/// request must wait.
pub(super) fn add(
    worker: &Worker,
    request: &mut Request,
    state: &State<Authgear>,
    location: &LocationConf,
    project: &Rc<Project>,
    resolution: Resolution,
) -> Result<Option<Resolution>, Failed> {
    state.userinfo.take();
    if !location.userinfo() || !request.main_conf::<Authgear>().uses_userinfo {
        return Ok(Some(resolution));
    }
    let Verdict::Valid(identity) = &*resolution.verdict else { return Ok(Some(resolution)) };
    // A machine has no profile.
    let Some(user) = identity.user_id() else { return Ok(Some(resolution)) };
    let bearer_elsewhere = resolution.bearer_elsewhere.clone();
    let mode = location.mode();
    let id = LookupId { project: project.id, mode, audience: None, bearer_elsewhere };
    let by_token = resolution.by_token;
    let Some(answer) = resolve(worker, request, state, location, project, &id, by_token)? else {
        return Ok(None);
    };
    let why = match &*answer.verdict {
        Verdict::Valid(profile) if profile.user_id() == Some(user) => {
            *state.userinfo.borrow_mut() = Some(answer.verdict);
            return Ok(Some(resolution));
        }
        // Authgear knows no session any more: the verdict is kept for its time, the profile is not.
        Verdict::Invalid | Verdict::BearerNotAccepted | Verdict::None(_) => {
            return Ok(Some(resolution));
        }
        Verdict::Valid(_) | Verdict::Limited(_) => Unavailable::BadAnswer,
        Verdict::Unavailable(why) => *why,
    };
    let status = answer.cache_status.unwrap_or(CacheStatus::Bypass);
    Ok(Some(Resolution::of_resolver(Rc::new(Verdict::Unavailable(why)), status)))
}

/// The answer of userinfo. `None` while the request must wait for it.
fn resolve(
    worker: &Worker,
    request: &mut Request,
    state: &State<Authgear>,
    location: &LocationConf,
    project: &Rc<Project>,
    id: &LookupId,
    by_token: bool,
) -> Result<Option<Resolution>, Failed> {
    if let Some(answer) = answered(state, id) {
        return Ok(Some(answer));
    }
    let pending = state.pending_userinfo.take().filter(|pending| pending.id() == id);
    if let Some(pending) = pending {
        match pending.poll(worker) {
            Poll::Waiting => {
                *state.pending_userinfo.borrow_mut() = Some(pending);
                return Ok(None);
            }
            Poll::Again => state.add_waited(pending.waited()),
            Poll::Ready(answer) => {
                state.add_waited(pending.waited());
                return Ok(Some(keep(state, id, answer)));
            }
        }
    }
    match lookup::userinfo::start(worker, request, state, location, project, id, by_token)? {
        Started::Ready(answer) => Ok(Some(keep(state, id, answer))),
        Started::Waiting(pending) => {
            *state.pending_userinfo.borrow_mut() = Some(pending);
            Ok(None)
        }
    }
}

fn answered(state: &RequestState, id: &LookupId) -> Option<Resolution> {
    let answered = state.answered_userinfo.borrow();
    answered.as_ref().filter(|kept| kept.0 == *id).map(|kept| kept.1.clone())
}

fn keep(state: &RequestState, id: &LookupId, answer: Resolution) -> Resolution {
    *state.answered_userinfo.borrow_mut() = Some(Box::new((id.clone(), answer.clone())));
    answer
}
