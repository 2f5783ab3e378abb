//! The story of one request.
//!
//! 1. [`post_read`]: what the client claims to be is taken away.
//! 2. [`server_rewrite`], [`preaccess`]: the same for requests that never saw that phase, and
//!    what an earlier pass of this request injected is withdrawn.
//! 3. [`access`]: the verdict on the credentials is found, and handed over: as request headers
//!    for the backend and as variables. It may suspend the request to ask.
//!    Then the location's policy allows, denies, or has no opinion.
//! 4. [`precontent`]: of who was let in, the backend gets the credentials, or not.
//! 5. [`header_filter`]: an answer that denies access says what would help.

use core::cell::{Cell, RefCell};
use core::time::Duration;
use std::rc::Rc;

use authgear::identity::is_identity_header;
use authgear::set_cookie::SetCookies;
use authgear::verdict::{Reason, Verdict};
use smallvec::SmallVec;

use crate::conf::location::Fallback;
use crate::conf::project::Project;
use crate::conf::{Id, LocationConf, Mode};
use crate::count;
use crate::credentials;
use crate::denial::{self, Denial};
use crate::lookup::{self, Finding, Pending, Progress, Step};
use crate::nginx::{Failed, FieldsOf, Level, Request, State, Status};
use crate::Authgear;

/// What a finding is of: the project, and who was to decide.
type Subject = (Id, Mode);

/// What is kept of a client request over its passes.
#[derive(Default)]
pub struct RequestState {
    /// Verdicts so far: a client request asks at most once per project and mode.
    findings: RefCell<SmallVec<[(Subject, Finding); 1]>>,
    /// The last verdict that was handed over, for variables.
    current: RefCell<Option<Finding>>,
    pending: RefCell<Option<Box<Pending>>>,
    /// Time spent waiting for verdicts.
    waited: Cell<Duration>,
    /// How the request was denied last.
    denial: RefCell<Option<Denial>>,
    /// Whether access was granted on this pass: what handles the request from here on sees of it
    /// what the location says.
    granted: Cell<bool>,
    /// Why, once that was answered.
    denied: Cell<Option<Reason>>,
    /// What Authgear told the client besides, where locations relay it.
    set_cookies: RefCell<Vec<Rc<SetCookies>>>,
    /// The project for which the request was counted.
    pub counted: Cell<Option<Id>>,
}

impl RequestState {
    /// The last verdict that was handed over.
    pub fn current(&self) -> Option<Finding> {
        self.current.borrow().clone()
    }

    /// Why the request was denied, if it was.
    pub fn denied(&self) -> Option<Reason> {
        self.denied.get().or(self.denial.borrow().as_ref().map(|denial| denial.reason))
    }

    /// The project whose verdict the request waits for.
    pub fn asking(&self) -> Option<Rc<Project>> {
        self.pending.borrow().as_ref().map(|pending| Rc::clone(pending.project()))
    }

    /// Time spent waiting for verdicts.
    pub fn waited(&self) -> Duration {
        self.waited.get()
    }

    fn finding(&self, subject: Subject) -> Option<Finding> {
        let findings = self.findings.borrow();
        findings.iter().find(|(own, _)| *own == subject).map(|(_, finding)| finding.clone())
    }

    /// What is relayed to the client of what Authgear told it: once.
    fn relay(&self, subject: Subject) {
        let mut findings = self.findings.borrow_mut();
        let finding = findings.iter_mut().find(|(own, _)| *own == subject);
        let set_cookies = finding.and_then(|(_, finding)| finding.set_cookies.take());
        self.set_cookies.borrow_mut().extend(set_cookies);
    }

    /// The verdict on which access to `location` was decided.
    pub fn finding_of(&self, location: &LocationConf) -> Option<Finding> {
        self.finding((location.project.as_ref()?.id, location.mode()))
    }

    fn keep(&self, subject: Subject, finding: Finding) -> Finding {
        self.findings.borrow_mut().push((subject, finding.clone()));
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
    match withdraw(request) {
        Ok(()) => strip(request),
        Err(Failed) => Status::InternalServerError,
    }
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

/// Only the location of this pass says who the client is, and what of its credentials goes on.
fn withdraw(request: &mut Request) -> Result<(), Failed> {
    let Some(state) = request.state::<Authgear>() else { return Ok(()) };
    state.granted.set(false);
    credentials::restore(request, &state);
    // post_action goes on with a request whose client left while it waited.
    request.cancel_suspension(&state);
    state.pending.take();
    request.withdraw(&state)
}

/// Finds the verdict on the request's credentials and hands it over.
pub fn access(request: &mut Request) -> Status {
    let location = request.location::<Authgear>();
    let Some(project) = &location.project else { return Status::Declined };
    if location.preflight_pass() && denial::is_preflight(request) {
        return Status::Declined;
    }
    let Ok(state) = request.state_or_default::<Authgear>() else {
        return Status::InternalServerError;
    };
    let finding = match find(request, &state, location, project) {
        Ok(Some(finding)) => finding,
        Ok(None) => return Status::Again,
        Err(Failed) => return Status::InternalServerError,
    };
    // What was denied on another project's account is not denied here.
    drop(state.denial.borrow_mut().take_if(|denial| denial.project != project.id));
    if location.relay_cookies() {
        state.relay((project.id, location.mode()));
    }
    if hand_over(request, &state, location, &finding).is_err() {
        return Status::InternalServerError;
    }
    let denial = match &*finding.verdict {
        Verdict::Unavailable(why) if location.on_error() == Fallback::Deny => {
            Some(denial::unavailable(request, project, *why))
        }
        // Without requirements nobody is turned away, and nobody is let in either: another
        // module may have its say, and then the backend.
        _ if location.require().is_empty() => {
            count::passed(&state, location, project, &finding.verdict);
            return Status::Declined;
        }
        verdict => match denial::judge(request, location, project, verdict) {
            Ok(denial) => denial,
            Err(Failed) => return Status::InternalServerError,
        },
    };
    match denial {
        None => {
            state.denial.take();
            count::passed(&state, location, project, &finding.verdict);
            Status::Allowed
        }
        Some(denial) => {
            count::denied(&state, location, project, &finding.verdict, denial.reason);
            deny(request, &state, location, denial)
        }
    }
}

fn deny(
    request: &Request,
    state: &State<Authgear>,
    location: &LocationConf,
    denial: Denial,
) -> Status {
    let reason = denial.reason.as_str();
    if location.dry_run() {
        request.log().write(Level::Info, format_args!("authgear would deny access: {reason}"));
        return Status::Declined;
    }
    request.log().write(Level::Info, format_args!("authgear denied access: {reason}"));
    let status = Status::Http(denial.status);
    *state.denial.borrow_mut() = Some(denial);
    status
}

/// Access was granted, whoever granted it and whatever the verdict: from here on the request shows
/// what its location says.
pub fn precontent(request: &mut Request) -> Status {
    let location = request.location::<Authgear>();
    let state = request.state::<Authgear>();
    if !request.is_main() {
        // One that still decides about access sees all.
        if state.is_some_and(|state| !state.granted.get()) {
            return Status::Declined;
        }
        return subrequest(request, location).map_or_else(|Failed| FAILED, |()| Status::Declined);
    }
    if let Some(state) = &state {
        state.granted.set(true);
        // Who was let in after all was not denied; who was redirected to an error page was.
        drop(state.denial.borrow_mut().take_if(|denial| denial.is_here(request)));
    }
    let Some(project) = &location.project else { return Status::Declined };
    if location.forward_credentials() {
        return Status::Declined;
    }
    let Ok(state) = request.state_or_default::<Authgear>() else { return FAILED };
    state.granted.set(true);
    match credentials::hide(request, &state, project) {
        Ok(()) => Status::Declined,
        Err(Failed) => FAILED,
    }
}

const FAILED: Status = Status::InternalServerError;

/// A subrequest has what the client's request shows, less what its own location keeps back.
fn subrequest(request: &mut Request, location: &LocationConf) -> Result<(), Failed> {
    let Some(project) = &location.project else { return Ok(()) };
    if !location.forward_credentials() {
        credentials::hide_in_subrequest(request, project)?;
    }
    if !location.set_headers() {
        request.leave_out_headers(is_identity_header)?;
    }
    Ok(())
}

/// The verdict of `project` on the request; none while the request must wait for it.
fn find(
    request: &mut Request,
    state: &State<Authgear>,
    location: &LocationConf,
    project: &Rc<Project>,
) -> Result<Option<Finding>, Failed> {
    let subject = (project.id, location.mode());
    if let Some(finding) = state.finding(subject) {
        return Ok(Some(finding));
    }
    let pending = state.pending.take().filter(|pending| pending.subject() == subject);
    if let Some(pending) = pending {
        match pending.outcome() {
            Progress::Waiting => {
                *state.pending.borrow_mut() = Some(pending);
                return Ok(None);
            }
            Progress::Again => state.waited.set(state.waited.get() + pending.waited()),
            Progress::Found(finding) => {
                state.waited.set(state.waited.get() + pending.waited());
                count::found(project, &finding);
                return Ok(Some(state.keep(subject, finding)));
            }
        }
    }
    match lookup::start(request, state, location, project)? {
        Step::Found(finding) => {
            count::found(project, &finding);
            Ok(Some(state.keep(subject, finding)))
        }
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
    location: &LocationConf,
    finding: &Finding,
) -> Result<(), Failed> {
    *state.current.borrow_mut() = Some(finding.clone());
    request.forget_variables();
    if !location.set_headers() {
        return Ok(());
    }
    request.inject(state, &finding.verdict)
}

impl FieldsOf<Verdict> for Authgear {
    fn fields(verdict: &Verdict) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        // nginx's proxy modules send no empty headers either.
        let fields = verdict.fields().filter(|(_, value)| !value.is_empty());
        fields.map(|(name, value)| (name.as_bytes(), value))
    }
}

/// Completes an answer that denies access, once it is final that it does: `satisfy` may let the
/// request in all the same, and `error_page` may answer something else. To a gRPC client nothing
/// else makes sense.
pub fn header_filter(request: &mut Request) -> Result<Option<Vec<u8>>, Failed> {
    if !request.is_main() {
        return Ok(None);
    }
    let Some(state) = request.state::<Authgear>() else { return Ok(None) };
    relay_cookies(request, &state)?;
    let Some(denial) = state.denial.take() else { return Ok(None) };
    if !denial.is_final(request) {
        *state.denial.borrow_mut() = Some(denial);
        return Ok(None);
    }
    state.denied.set(Some(denial.reason));
    denial.answer(request)
}

/// Whatever is answered, and by whom, is for this client alone then.
fn relay_cookies(request: &mut Request, state: &State<Authgear>) -> Result<(), Failed> {
    let all = state.set_cookies.borrow();
    let lines = all.iter().flat_map(|cookies| cookies.iter());
    for line in lines {
        // nginx runs filters again for an answer that takes the place of another.
        if !request.has_header_out("Set-Cookie", line) {
            request.add_header_out("Set-Cookie", line)?;
        }
    }
    if !all.is_empty() {
        request.replace_header_out("Cache-Control", "no-store")?;
    }
    Ok(())
}
