//! The story of one request.
//!
//! 1. [`post_read`]: what the client claims to be is taken away.
//! 2. [`server_rewrite`], [`preaccess`]: the same for requests that never saw that phase, and
//!    what an earlier pass of this request injected is withdrawn.
//! 3. [`access`]: the verdict on the credentials is found, and handed over: as request headers
//!    for the backend and as variables. It may suspend the request to ask.
//! 4. [`header_filter`]: an answer that tells of an outage says when to come again.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::rc::Rc;

use authgear::identity::is_identity_header;
use authgear::verdict::{Unavailable, Verdict};

use crate::conf::location::Fallback;
use crate::conf::project::{Project, Upstream};
use crate::conf::{Id, LocationConf};
use crate::lookup::{self, Finding, Pending, Step};
use crate::nginx::{Failed, Level, Request, State, Status};
use crate::{worker, Authgear};

/// What is kept of a client request over its passes.
#[derive(Default)]
pub struct RequestState {
    /// Verdicts so far: a client request asks at most once per project.
    findings: RefCell<Vec<(Id, Finding)>>,
    /// The last verdict that was handed over, for variables.
    current: RefCell<Option<Finding>>,
    pending: RefCell<Option<Box<Pending>>>,
    /// Time spent waiting for verdicts.
    waited: Cell<Duration>,
    /// Seconds for `Retry-After`, once the request was denied for want of a verdict.
    retry_after: Cell<Option<u64>>,
}

impl RequestState {
    /// The last verdict that was handed over.
    pub fn current(&self) -> Option<Finding> {
        self.current.borrow().clone()
    }

    /// The project whose verdict the request waits for.
    pub fn asking(&self) -> Option<Rc<Project>> {
        self.pending.borrow().as_ref().map(|pending| Rc::clone(pending.project()))
    }

    /// Time spent waiting for verdicts.
    pub fn waited(&self) -> Duration {
        self.waited.get()
    }

    fn finding(&self, project: Id) -> Option<Finding> {
        let findings = self.findings.borrow();
        findings.iter().find(|(id, _)| *id == project).map(|(_, finding)| finding.clone())
    }

    fn keep(&self, project: Id, finding: Finding) -> Finding {
        self.findings.borrow_mut().push((project, finding.clone()));
        finding
    }
}

/// What a client says it is, is taken away before anything else looks at the request: maps and
/// rewrites see none of it.
pub fn post_read(request: &mut Request) -> Status {
    strip(request)
}

/// Redirects, among them those by `error_page` of requests that nginx refused before POST_READ.
pub fn server_rewrite(request: &mut Request) -> Status {
    if !request.is_main() || !request.is_internal() {
        return Status::Declined;
    }
    withdraw(request);
    strip(request)
}

/// Redirects to named locations come here without SERVER_REWRITE.
pub fn preaccess(request: &mut Request) -> Status {
    server_rewrite(request)
}

fn strip(request: &mut Request) -> Status {
    if !request.is_main() || !request.server::<Authgear>().in_use {
        return Status::Declined;
    }
    match request.remove_headers_in(is_identity_header) {
        Ok(()) => Status::Declined,
        Err(Failed) => Status::InternalServerError,
    }
}

/// Only the location of this pass says who the client is.
fn withdraw(request: &mut Request) {
    if let Some(state) = request.state::<Authgear>() {
        request.withdraw(&state);
    }
}

/// Finds the verdict on the request's credentials and hands it over.
pub fn access(request: &mut Request) -> Status {
    let location = request.location::<Authgear>();
    let Some(project) = &location.project else { return Status::Declined };
    let Ok(state) = request.state_or_default::<Authgear>() else {
        return Status::InternalServerError;
    };
    let finding = match find(request, &state, location, project) {
        Ok(Some(finding)) => finding,
        Ok(None) => return Status::Again,
        Err(Failed) => return Status::InternalServerError,
    };
    if hand_over(request, &state, &finding).is_err() {
        return Status::InternalServerError;
    }
    match &*finding.verdict {
        Verdict::Unavailable(why) if location.on_error() == Fallback::Deny => {
            deny_unavailable(request, &state, project, *why)
        }
        // Whether a session is needed is the backend's to say.
        _ => Status::Declined,
    }
}

/// The verdict of `project` on the request; none while the request must wait for it.
fn find(
    request: &mut Request,
    state: &State<Authgear>,
    location: &LocationConf,
    project: &Rc<Project>,
) -> Result<Option<Finding>, Failed> {
    if let Some(finding) = state.finding(project.id) {
        return Ok(Some(finding));
    }
    if let Some(pending) = state.pending.take() {
        let Some(finding) = pending.outcome() else {
            *state.pending.borrow_mut() = Some(pending);
            return Ok(None);
        };
        state.waited.set(state.waited.get() + pending.waited());
        return Ok(Some(state.keep(pending.project().id, finding)));
    }
    match lookup::start(request, state, location, project)? {
        Step::Found(finding) => Ok(Some(state.keep(project.id, finding))),
        Step::Waiting(pending) => {
            *state.pending.borrow_mut() = Some(pending);
            Ok(None)
        }
    }
}

/// The verdict becomes request headers, for whatever kind of backend, and variables.
fn hand_over(
    request: &mut Request,
    state: &State<Authgear>,
    finding: &Finding,
) -> Result<(), Failed> {
    *state.current.borrow_mut() = Some(finding.clone());
    request.forget_variables();
    // nginx's proxy modules send no empty headers either.
    let fields: Vec<(&[u8], &[u8])> = (finding.verdict.fields())
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.as_bytes(), value))
        .collect();
    request.inject(state, &fields)
}

/// An unknown identity is not passed on as an absent one.
fn deny_unavailable(
    request: &Request,
    state: &State<Authgear>,
    project: &Rc<Project>,
    why: Unavailable,
) -> Status {
    let wait = match &project.resolver {
        Upstream::Url(_) => worker::client(project).suspended_for(),
        Upstream::Location(_) => Duration::ZERO,
    };
    state.retry_after.set(Some(wait.as_millis().div_ceil(1000).max(1) as u64));
    let reason = why.reason().as_str();
    request.log().write(Level::Info, format_args!("authgear denied access: {reason}"));
    Status::Http(503)
}

/// Tells who was denied for want of a verdict when to come again.
pub fn header_filter(request: &mut Request) -> Result<(), Failed> {
    if !request.is_main() || request.status_out() != 503 {
        return Ok(());
    }
    let retry_after = request.state::<Authgear>().and_then(|state| state.retry_after.take());
    match retry_after {
        Some(seconds) => request.add_header_out("Retry-After", &seconds.to_string()),
        None => Ok(()),
    }
}
