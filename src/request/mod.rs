//! The story of one request.
//!
//! 1. [`post_read`]: removes identity headers that the client sent, and requests for a tunnel of
//!    HTTP/2.
//! 2. [`server_rewrite`], [`preaccess`]: the same for requests that skip that phase. They also
//!    withdraw the headers that an earlier pass of this request injected. With `authgear_early`,
//!    [`preaccess`] makes the look-up.
//! 3. [`access`]: looks up the credentials, which may suspend the request, and passes the verdict
//!    on as request headers for the backend and as variables. Then the location's policy allows,
//!    denies, or has no opinion.
//! 4. [`precontent`]: hides the credentials of an allowed request from the backend, if the
//!    location says so.
//! 5. [`header_filter`]: completes a response that denies access, and relays cookies, before the
//!    filters of other modules. [`last_header_filter`] runs after them.

pub mod address;
mod client;
pub mod denial;
mod identity_headers;
mod login;
mod login_redirect;
mod metrics;
pub mod recheck;
mod resolve;
mod site_headers;
mod state;
mod upgrade;
mod userinfo;
pub mod variables;
mod watched;

use std::rc::Rc;

use authgear::identity::is_identity_header;
use authgear::verdict::Verdict;

use crate::conf::location::Fallback;
use crate::conf::project::Project;
use crate::conf::{Authgear, LocationConf};
use crate::credentials;
use crate::lookup;
use crate::recent::Look;
use crate::resolution::Resolution;
use crate::worker::Worker;
use denial::Denial;
use nginx::{Failed, Level, Phase, PhaseStatus, ReadyFields, Request, State};
use resolve::resolve;
pub use state::RequestState;

/// Runs a phase of `request`, which may be a subrequest. Each handler of nginx has a copy of it,
/// which has that phase alone.
#[inline]
pub fn phase(worker: &Worker, phase: Phase, request: &mut Request) -> PhaseStatus {
    request.log().debug(format_args!("authgear: phase {phase:?}"));
    match phase {
        Phase::PostRead => post_read(request),
        Phase::ServerRewrite => server_rewrite(worker, request),
        Phase::Preaccess => preaccess(worker, request),
        Phase::Access => access(worker, request),
        Phase::Precontent => precontent(worker, request),
    }
}

/// Removes identity headers that the client sent, and an `Upgrade` that the site does not take,
/// before maps and rewrites can read them.
fn post_read(request: &mut Request) -> PhaseStatus {
    match login::find(request) {
        Ok(()) => strip(request),
        Err(Failed) => FAILED,
    }
}

/// Answers the paths of `authgear_login`. Handles internal redirects, among them those by
/// `error_page` of requests that nginx refused before POST_READ.
fn server_rewrite(worker: &Worker, request: &mut Request) -> PhaseStatus {
    if !request.is_main() {
        return PhaseStatus::Declined;
    }
    match login::answer(worker, request) {
        PhaseStatus::Declined => begin_pass(request),
        answered => answered,
    }
}

/// Starts another pass of the client's request.
fn begin_pass(request: &mut Request) -> PhaseStatus {
    if !request.is_main() || !request.is_internal() {
        return PhaseStatus::Declined;
    }
    match withdraw(request) {
        Ok(()) => strip(request),
        Err(Failed) => PhaseStatus::InternalServerError,
    }
}

/// Handles redirects to named locations, which skip SERVER_REWRITE. Then finds the verdict early,
/// before the limits of nginx, if the location says so.
fn preaccess(worker: &Worker, request: &mut Request) -> PhaseStatus {
    let location = request.location::<Authgear>();
    let state = request.state::<Authgear>();
    let here = request.location_id::<Authgear>();
    let is_resumed = state.is_some_and(|state| state.waits_early.get() == Some(here));
    if !is_resumed {
        match begin_pass(request) {
            PhaseStatus::Declined => {}
            status => return status,
        }
    }
    match &location.project {
        Some(project) if location.early() => early(worker, request, location, project),
        _ => PhaseStatus::Declined,
    }
}

/// Sets the variables of the verdict. The policy, the denial and the request headers follow in the
/// access phase, which finds the verdict in the request's state.
///
/// Under `satisfy any` another module may make the look-up needless. A preflight has no user.
fn early(
    worker: &Worker,
    request: &mut Request,
    location: &'static LocationConf,
    project: &Rc<Project>,
) -> PhaseStatus {
    if !request.is_main() || request.is_satisfied_by_any() || denial::is_preflight(request) {
        return PhaseStatus::Declined;
    }
    let Ok(state) = request.state_or_default::<Authgear>() else { return FAILED };
    // Taken before the verdict, so that a purge in between is noticed.
    let since = (nginx::unix_time().as_secs(), worker.shared().purge_generation());
    match resolve(worker, request, &state, location, project) {
        Ok(Some(resolution)) => {
            state.waits_early.set(None);
            state.early_since.set(Some(since));
            *state.current.borrow_mut() = Some(resolution);
            request.forget_variables();
            PhaseStatus::Declined
        }
        Ok(None) => {
            state.waits_early.set(Some(request.location_id::<Authgear>()));
            PhaseStatus::Again
        }
        Err(Failed) => FAILED,
    }
}

fn strip(request: &mut Request) -> PhaseStatus {
    let server = request.server::<Authgear>();
    if !request.is_main() || !server.strips_headers() {
        return PhaseStatus::Declined;
    }
    let refused = server.in_use && upgrade::is_refused(request);
    let unwanted = |name: &[u8]| {
        is_identity_header(name)
            || upgrade::is_unwanted(name, refused)
            || server.headers.iter().any(|header| header.is_alias(name))
    };
    match request.remove_headers_in(unwanted) {
        Ok(()) => {
            if refused {
                request.forget_upgrade();
            }
            PhaseStatus::Declined
        }
        Err(Failed) => PhaseStatus::InternalServerError,
    }
}

/// Undoes what an earlier pass did: only the location of this pass decides about identity headers
/// and credentials.
fn withdraw(request: &mut Request) -> Result<(), Failed> {
    let Some(state) = request.state::<Authgear>() else { return Ok(()) };
    state.granted.set(false);
    state.allowed_at.set(None);
    state.waits_early.set(None);
    state.watched.take();
    credentials::restore(request, &state);
    // post_action runs for a request whose client left while it waited, too.
    request.cancel_suspension(&state);
    state.pending.take();
    state.pending_userinfo.take();
    request.withdraw(&state)
}

/// Looks up the request's credentials, injects the verdict, and applies the location's policy.
fn access(worker: &Worker, request: &mut Request) -> PhaseStatus {
    let location = request.location::<Authgear>();
    let Some(project) = &location.project else { return PhaseStatus::Declined };
    let log = request.log();
    log.debug(format_args!("authgear: decides on access, project: \"{}\"", project.name));
    if location.preflight_pass() && denial::is_preflight(request) {
        return PhaseStatus::Declined;
    }
    let Ok(state) = request.state_or_default::<Authgear>() else {
        return PhaseStatus::InternalServerError;
    };
    recheck::begin(worker, &state, location);
    if let Some(since) = state.early_since.take() {
        forget_outdated(worker, &state, project, since);
    }
    let resolution = match resolve(worker, request, &state, location, project) {
        Ok(Some(resolution)) => resolution,
        Ok(None) => return PhaseStatus::Again,
        Err(Failed) => return PhaseStatus::InternalServerError,
    };
    let resolution = match userinfo::add(worker, request, &state, location, project, resolution) {
        Ok(Some(resolution)) => resolution,
        Ok(None) => return PhaseStatus::Again,
        Err(Failed) => return PhaseStatus::InternalServerError,
    };
    let verdict = &*resolution.verdict;
    log.debug(format_args!(
        "authgear: verdict {}, reason {}, source {}",
        verdict.session_word(),
        verdict.reason().as_str(),
        resolution.source.as_str()
    ));
    // A denial by another project does not hold here.
    drop(state.denial.borrow_mut().take_if(|denial| denial.project != project.id));
    if location.relay_cookies() {
        let bearer = resolution.bearer_elsewhere.clone();
        state.relay(&lookup::identify(request, location, project, bearer));
    }
    if inject(worker, request, &state, location, project, &resolution).is_err() {
        return PhaseStatus::InternalServerError;
    }
    let denial = match verdict {
        Verdict::Limited(wait) => Some(denial::limited(request, project, *wait)),
        Verdict::Unavailable(why) if location.on_error() == Fallback::Deny => {
            Some(denial::unavailable(worker, request, project, *why))
        }
        // Without requirements, the module neither allows nor denies: other modules and the
        // backend decide.
        _ if location.require().is_empty() => {
            metrics::passed(worker, &state, location, project, verdict);
            return PhaseStatus::Declined;
        }
        _ => match denial::check(request, &state.denied, location, project, &resolution) {
            Ok(denial) => denial,
            Err(Failed) => return PhaseStatus::InternalServerError,
        },
    };
    match denial {
        None => {
            state.denial.take();
            metrics::passed(worker, &state, location, project, verdict);
            state.allowed_at.set(Some(request.location_id::<Authgear>()));
            PhaseStatus::Allowed
        }
        Some(denial) => {
            metrics::denied(worker, &state, location, project, verdict, denial.reason);
            deny(request, &state, location, denial)
        }
    }
}

fn deny(
    request: &Request,
    state: &State<Authgear>,
    location: &LocationConf,
    denial: Denial,
) -> PhaseStatus {
    let reason = denial.reason.as_str();
    if location.dry_run() {
        request.log().write(Level::Info, format_args!("authgear would deny access: {reason}"));
        return PhaseStatus::Declined;
    }
    request.log().write(Level::Info, format_args!("authgear denied access: {reason}"));
    let status = PhaseStatus::Http(denial.status);
    *state.denial.borrow_mut() = Some(Box::new(denial));
    status
}

/// Applies the location's settings on credentials and headers. Access has been granted by now, by
/// this module or another one.
fn precontent(worker: &Worker, request: &mut Request) -> PhaseStatus {
    let location = request.location::<Authgear>();
    let state = request.state::<Authgear>();
    if !request.is_main() {
        // A subrequest that runs before access is decided (auth_request) gets everything.
        if state.is_some_and(|state| !state.granted.get()) {
            return PhaseStatus::Declined;
        }
        return subrequest(request, location)
            .map_or_else(|Failed| FAILED, |()| PhaseStatus::Declined);
    }
    if let Some(state) = &state {
        state.granted.set(true);
        // Drop a denial that `satisfy any` overrode. Keep it if `error_page` redirected the request.
        drop(state.denial.borrow_mut().take_if(|denial| denial.is_here(request)));
    }
    let Some(project) = &location.project else { return PhaseStatus::Declined };
    recheck::watch(worker, request, location);
    // Nobody has checked the credentials of a preflight that is let through.
    let unchecked = location.preflight_pass() && denial::is_preflight(request);
    if location.forward_credentials() && !unchecked {
        return PhaseStatus::Declined;
    }
    let Ok(state) = request.state_or_default::<Authgear>() else { return FAILED };
    state.granted.set(true);
    match credentials::hide(request, &state, project) {
        Ok(()) => PhaseStatus::Declined,
        Err(Failed) => FAILED,
    }
}

const FAILED: PhaseStatus = PhaseStatus::InternalServerError;

/// Hides from a subrequest what its own location keeps back, besides what the client's request
/// hides.
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

/// Forgets an early verdict if a purge, or a period of being disabled, came after it: limits may have
/// delayed the request since.
fn forget_outdated(
    worker: &Worker,
    state: &State<Authgear>,
    project: &Project,
    (found_at, generation): (u64, u64),
) {
    let shared = worker.shared();
    let is_disabled = || match state.current().as_ref().map(|found| &*found.verdict) {
        Some(Verdict::Valid(identity)) => identity
            .user_id()
            .is_some_and(|user| shared.is_disabled(&project.scope, user, found_at)),
        _ => false,
    };
    if generation != shared.purge_generation() || is_disabled() {
        state.forget(project.id);
    }
}

/// Passes the verdict on as request headers, for any kind of backend, and as variables.
fn inject(
    worker: &Worker,
    request: &mut Request,
    state: &State<Authgear>,
    location: &'static LocationConf,
    project: &Project,
    resolution: &Resolution,
) -> Result<(), Failed> {
    *state.current.borrow_mut() = Some(resolution.clone());
    request.forget_variables();
    if let Some(asserted) =
        site_headers::asserted_alone(worker, request, location, project, resolution)
    {
        return match asserted.ready(ReadyFields::of::<Authgear, _>) {
            Some(ready) => request.inject_ready(state, ready),
            None => request.inject(state, &asserted.fields),
        };
    }
    if !location.headers().is_empty() || location.assertion().is_some() {
        let headers = site_headers::of(worker, request, location, project, resolution)?;
        return request.inject(state, &Rc::new(headers));
    }
    if !location.set_headers() {
        return Ok(());
    }
    add_fields(worker, request, state, &resolution.verdict)
}

/// Adds the fields of a verdict, which many requests may share.
fn add_fields(
    worker: &Worker,
    request: &mut Request,
    state: &State<Authgear>,
    verdict: &Rc<Verdict>,
) -> Result<(), Failed> {
    let all = worker.ready_fields();
    match all.look(verdict, |ready| ready.is_of(verdict)) {
        Look::Found(ready) => return request.inject_ready(state, &ready),
        Look::Missed => {}
        Look::MissedAgain => {
            all.put(verdict, Rc::new(ReadyFields::of::<Authgear, _>(verdict)));
        }
    }
    request.inject(state, verdict)
}

/// Completes the response of a denial once that is final: `satisfy` may still allow the request,
/// and `error_page` may answer with another status. A gRPC client always gets the denial.
pub fn header_filter(worker: &Worker, request: &mut Request) -> Result<Option<Vec<u8>>, Failed> {
    if !request.is_main() {
        return Ok(None);
    }
    if request.location::<Authgear>().answers_verdict() {
        request.ignore_conditions();
    }
    let Some(state) = request.state::<Authgear>() else { return Ok(None) };
    login::watch_pages(worker, request, &state);
    relay_cookies(request, &state)?;
    recheck::count_frames(request, &state);
    let Some(denial) = state.denial.take() else { return Ok(None) };
    if !denial.is_final(request) {
        *state.denial.borrow_mut() = Some(denial);
        return Ok(None);
    }
    state.denied.set(Some(denial.reason));
    state.denied_call.set(denial.is_grpc);
    let body = denial.answer(request)?;
    request.pass_image_filter()?;
    Ok(body)
}

/// Makes the response to a gRPC call that was denied one of trailers only, with one `grpc-status`:
/// that of `add_header`, if an error page has one.
///
/// Forbids caches to keep an answer of `authgear_verdict`, whatever `expires` and `add_header` say.
pub fn last_header_filter(request: &mut Request) -> Result<(), Failed> {
    if !request.is_main() {
        return Ok(());
    }
    if request.location::<Authgear>().answers_verdict() {
        request.replace_header_out("Cache-Control", "no-store")?;
    }
    let Some(state) = request.state::<Authgear>() else { return Ok(()) };
    if state.denied_call.get() {
        request.keep_last_header_out("grpc-status");
        request.keep_last_header_out("grpc-message");
        request.end_with_header();
    }
    Ok(())
}

/// Adds Authgear's cookies, and forbids caches to store the response, which is for this client
/// alone then.
fn relay_cookies(request: &mut Request, state: &State<Authgear>) -> Result<(), Failed> {
    let all = state.set_cookies.borrow();
    let lines = all.iter().flat_map(|cookies| cookies.iter());
    for line in lines {
        // nginx runs filters again for a response that replaces another one.
        if !request.has_header_out("Set-Cookie", line) {
            request.add_header_out("Set-Cookie", line)?;
        }
    }
    if !all.is_empty() {
        request.replace_header_out("Cache-Control", "no-store")?;
    }
    Ok(())
}
