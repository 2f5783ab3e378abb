//! `authgear_recheck`: ends a response whose session has ended, or whose user may not have it any
//! more.
//!
//! [`watch`] notes the response when access was granted. [`tick`] looks at the verdict again when
//! the response has been open for some time, and at once when a purge concerns its user. It takes
//! the request's own way to the cache and to the look-ups in flight.

use core::time::Duration;
use std::rc::Rc;

use authgear::http::upgrade::is_same_protocol;
use authgear::http::websocket::{FramePosition, POLICY_VIOLATION};
use authgear::recheck;
use authgear::shared::purges::PurgeEpoch;
use authgear::token::TokenError;
use authgear::verdict::{Reason, Verdict};

use super::denial;
use super::state::RequestState;
use super::watched::Watched;
use crate::conf::location::Fallback;
use crate::conf::project::Project;
use crate::conf::{Authgear, LocationConf};
use crate::credentials;
use crate::lookup::{self, Poll, Started, Waits};
use crate::open_responses::OpenResponses;
use crate::resolution::Resolution;
use crate::worker::Worker;
use nginx::{Ending, Failed, Frames, Level, Open, Request, State};

/// Age at which a response is looked at for the first time: most have ended by then.
const FIRST: Duration = Duration::from_secs(1);

/// Most look-ups of a worker for open responses at a time.
const AT_ONCE: usize = 64;

/// Time between two passes over all responses, for purges.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Time for which a WebSocket is waited for: for the end of the frame under way, and for room for
/// the last one.
const PATIENCE: Duration = Duration::from_secs(10);

/// Time that a client has to answer the last frame.
const ANSWER: Duration = Duration::from_millis(500);

/// Most verdicts that are kept because variables may point to them. Variables of a response that has
/// seen more of them show the last of these; policy is always checked with the new one.
const MOST_FORMER: usize = 64;

/// Outcome of a look at a response.
enum Next {
    /// The response goes on. The time of its next look is set if there is one.
    Later,
    /// The response waits for a look-up.
    Wait,
    /// The response ends.
    End,
}

/// Notes the position in the purge log before the first verdict of a request.
pub(super) fn begin(worker: &Worker, state: &RequestState, location: &LocationConf) {
    if location.recheck().is_some() && state.asked_since.get().is_none() {
        state.asked_since.set(Some(position(worker)));
    }
}

fn position(worker: &Worker) -> (PurgeEpoch, u64) {
    (worker.shared().purge_epoch(), nginx::unix_time().as_secs())
}

/// Watches the response of a request with a session that was granted access.
pub(super) fn watch(worker: &Worker, request: &Request, location: &LocationConf) {
    if location.recheck().is_none() {
        return;
    }
    let Some(state) = request.state::<Authgear>() else { return };
    let is_valid = |found: &Resolution| matches!(&*found.verdict, Verdict::Valid(_));
    if !state.current.borrow().as_ref().is_some_and(is_valid) {
        return;
    }
    let Some(asked_since) = state.asked_since.get() else { return };
    let entry = worker.open_responses().add(request.open(&state), FIRST);
    *state.watched.borrow_mut() = Some(Rc::new(Watched::new(entry, asked_since)));
}

/// Counts the frames of a WebSocket whose header is about to be sent.
pub(super) fn count_frames(request: &mut Request, state: &State<Authgear>) {
    let is_websocket = request.status_out() == 101
        && state.watched.borrow().is_some()
        && request.header(b"upgrade").is_some_and(|name| is_same_protocol(name, "websocket"));
    if is_websocket {
        request.count_frames(state, Box::<WebSocketFrames>::default());
    }
}

#[derive(Default)]
struct WebSocketFrames(FramePosition);

impl Frames for WebSocketFrames {
    fn pass(&mut self, bytes: &[u8]) {
        self.0.pass(bytes);
    }

    fn is_between(&self) -> bool {
        self.0.is_between()
    }

    fn rest_of_frame(&self, bytes: &[u8]) -> usize {
        self.0.rest_of_frame(bytes)
    }

    fn last_frame(&self) -> &'static [u8] {
        POLICY_VIOLATION
    }
}

/// A turn of the worker's task.
pub fn tick(worker: &Worker) {
    let list = worker.open_responses();
    let shared = worker.shared();
    // Periods of being disabled begin by the clock.
    if list.see_purges(shared.purge_generation(), PAUSE) || shared.has_disabled_periods() {
        for open in list.all() {
            open.with(|request| look_first_if_concerned(worker, request));
        }
    }
    for open in list.take_ending() {
        end(list, open);
    }
    for open in list.take_waiting() {
        look(worker, list, open);
    }
    while list.waiting() < AT_ONCE {
        let Some(open) = list.take_due() else { break };
        look(worker, list, open);
    }
}

fn look(worker: &Worker, list: &OpenResponses, open: Open) {
    match open.with(|request| next(worker, request)) {
        None | Some(Next::Later) => {}
        Some(Next::Wait) => list.waits(open),
        Some(Next::End) => end(list, open),
    }
}

/// Ends a response, or goes on to end it.
fn end(list: &OpenResponses, open: Open) {
    let now = nginx::now();
    let ending = open.end();
    let is_over = open.with(|request| {
        let state = request.state::<Authgear>();
        let Some(watched) = state.and_then(|state| state.watched.borrow().clone()) else {
            return true;
        };
        if ending == Ending::LastFrameSent && watched.said_at.get().is_none() {
            watched.said_at.set(Some(now));
        }
        let is_answered = |at| now.saturating_sub(at) >= ANSWER;
        watched.said_at.get().is_some_and(is_answered)
            || now.saturating_sub(watched.ending_since.get()) >= PATIENCE
    });
    match is_over {
        None => {}
        Some(true) => {
            open.close();
        }
        Some(false) => list.ends(open),
    }
}

fn look_first_if_concerned(worker: &Worker, request: &Request) {
    let Some((state, project)) = of(request) else { return };
    let watched = state.watched.borrow().clone();
    // A look-up that failed has its own time.
    let watched = watched.filter(|watched| watched.failing_since.get().is_none());
    if let Some(watched) = watched.filter(|watched| is_concerned(worker, &state, project, watched))
    {
        watched.entry.look_first();
    }
}

fn of(request: &Request) -> Option<(State<Authgear>, &'static Rc<Project>)> {
    let project = request.location::<Authgear>().project.as_ref()?;
    Some((request.state::<Authgear>()?, project))
}

/// Returns true if a purge, or a period of being disabled, concerns the user since the verdict was
/// found.
fn is_concerned(
    worker: &Worker,
    state: &RequestState,
    project: &Project,
    watched: &Watched,
) -> bool {
    let shared = worker.shared();
    let Some(found) = state.current() else { return false };
    let user = match &*found.verdict {
        Verdict::Valid(identity) => identity.user_id(),
        _ => None,
    };
    // Purges of a cache key are of look-ups in flight. That of a user comes with them.
    shared.is_purged(watched.since.get(), None, &project.scope, &found.verdict)
        || shared.has_disabled_periods()
            && user.is_some_and(|user| {
                shared.is_disabled(&project.scope, user, watched.found_at.get())
            })
}

/// Looks at a response.
fn next(worker: &Worker, request: &mut Request) -> Next {
    let location = request.location::<Authgear>();
    let (Some((state, project)), Some(time)) = (of(request), location.recheck()) else {
        return Next::Later;
    };
    let Some(watched) = state.watched.borrow().clone() else { return Next::Later };
    if let Some(pending) = watched.pending.take() {
        if !pending.is_over() {
            *watched.pending.borrow_mut() = Some(pending);
            return Next::Wait;
        }
        match pending.poll(worker) {
            Poll::Ready(found) => return decide(worker, request, &state, &watched, found, time),
            // Asked again: without a look to come, the response would never end.
            Poll::Again | Poll::Waiting => {}
        }
    } else if watched.expires_at.get().is_none() {
        find_expiry(request, &state, project, &watched);
        if !is_concerned(worker, &state, project, &watched) {
            watched.entry.look_in(wait(&watched, time).saturating_sub(FIRST));
            return Next::Later;
        }
    }
    if is_expired(request, &state, project, &watched) {
        let why = TokenError::Expired.reason();
        return refuse(worker, request, &state, &watched, project, why);
    }
    ask(worker, request, &state, &watched, project, time)
}

/// Starts the look-up.
fn ask(
    worker: &Worker,
    request: &mut Request,
    state: &State<Authgear>,
    watched: &Rc<Watched>,
    project: &Rc<Project>,
    time: Duration,
) -> Next {
    let location = request.location::<Authgear>();
    let Some(waker) = worker.open_responses().waker() else {
        watched.entry.look_in(FIRST);
        return Next::Later;
    };
    let elsewhere = location.bearer().and_then(|own| state.bearer_elsewhere(own, None));
    let id = lookup::identify(request, location, project, elsewhere.clone());
    watched.asked_since.set(position(worker));
    match lookup::start(worker, request, &Waits::Open(&waker), location, project, &id) {
        Ok(Started::Waiting(pending)) => {
            *watched.pending.borrow_mut() = Some(pending);
            Next::Wait
        }
        Ok(Started::Ready(found)) => {
            let found = Resolution { bearer_elsewhere: elsewhere, ..found };
            decide(worker, request, state, watched, found, time)
        }
        Err(Failed) => {
            watched.entry.look_in(time);
            Next::Later
        }
    }
}

/// Decides on a response by a new verdict.
fn decide(
    worker: &Worker,
    request: &mut Request,
    state: &State<Authgear>,
    watched: &Rc<Watched>,
    found: Resolution,
    time: Duration,
) -> Next {
    let location = request.location::<Authgear>();
    let Some(project) = &location.project else { return Next::Later };
    let reason = found.verdict.reason();
    let is_valid = matches!(&*found.verdict, Verdict::Valid(_));
    let failed = matches!(&*found.verdict, Verdict::Unavailable(_) | Verdict::Limited(_));
    if failed {
        let now = nginx::now();
        let since = watched.failing_since.get().unwrap_or(now);
        watched.failing_since.set(Some(since));
        let number = watched.entry.number();
        match recheck::retry(time, number, now.saturating_sub(since)) {
            Some(wait) => {
                watched.entry.look_in(wait);
                return Next::Later;
            }
            None if location.on_error() == Fallback::Anonymous && location.require().is_empty() => {
                watched.entry.look_in(time);
                return Next::Later;
            }
            None => {}
        }
    }
    if !is_valid {
        return refuse(worker, request, state, watched, project, reason);
    }
    watched.failing_since.set(None);
    let (since, found_at) = watched.asked_since.get();
    watched.since.set(since);
    watched.found_at.set(found_at);
    show(request, state, watched, &found);
    match denial::unmet(request, location, &found) {
        Ok(None) => {}
        Ok(Some(why)) => return refuse(worker, request, state, watched, project, why),
        Err(Failed) => {
            return refuse(worker, request, state, watched, project, Reason::InternalError);
        }
    }
    find_expiry(request, state, project, watched);
    watched.entry.look_in(wait(watched, time));
    if is_concerned(worker, state, project, watched) {
        watched.entry.look_first();
    }
    Next::Later
}

/// Lets variables show the new verdict, if it is another one.
fn show(request: &mut Request, state: &RequestState, watched: &Watched, found: &Resolution) {
    let mut current = state.current.borrow_mut();
    if current.as_ref().is_some_and(|current| current.verdict == found.verdict) {
        return;
    }
    let mut former = watched.former.borrow_mut();
    if former.len() >= MOST_FORMER {
        return;
    }
    former.extend(current.replace(found.clone()));
    drop(former);
    drop(current);
    request.forget_variables();
}

/// Ends the response for the reason `why`, unless the policy is on trial.
fn refuse(
    worker: &Worker,
    request: &Request,
    state: &RequestState,
    watched: &Watched,
    project: &Project,
    why: Reason,
) -> Next {
    let reason = why.as_str();
    if request.location::<Authgear>().dry_run() {
        request.log().write(Level::Info, format_args!("authgear would end the response: {reason}"));
        return Next::Later;
    }
    request.log().write(Level::Info, format_args!("authgear ends the response: {reason}"));
    worker.metrics(project).ended(why);
    state.denied.set(Some(why));
    watched.ending_since.set(nginx::now());
    Next::End
}

/// Finds when the first of the tokens expires.
fn find_expiry(request: &Request, state: &RequestState, project: &Project, watched: &Watched) {
    let elsewhere = bearer_elsewhere(state);
    let credentials = credentials::read(request, project, elsewhere.as_deref());
    let expires_at = credentials.expires_at(&project.cookies, watched.found_at.get());
    watched.expires_at.set(Some(expires_at));
}

/// Returns true if the response is by a token alone that has expired.
fn is_expired(
    request: &Request,
    state: &RequestState,
    project: &Project,
    watched: &Watched,
) -> bool {
    let now = nginx::unix_time().as_secs();
    let is_past = watched.expires_at.get().flatten().is_some_and(|at| at <= now);
    let elsewhere = bearer_elsewhere(state);
    is_past && !credentials::read(request, project, elsewhere.as_deref()).has_cookies()
}

fn bearer_elsewhere(state: &RequestState) -> Option<Rc<[u8]>> {
    state.current.borrow().as_ref().and_then(|found| found.bearer_elsewhere.clone())
}

/// Time until the next look.
fn wait(watched: &Watched, time: Duration) -> Duration {
    let now = nginx::unix_time();
    let left = |at| Duration::from_secs(at).saturating_sub(now);
    recheck::wait(time, watched.entry.number(), watched.expires_at.get().flatten().map(left))
}
