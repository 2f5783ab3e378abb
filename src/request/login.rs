//! The three paths of `authgear_login`, which the module answers before any location, and
//! `authgear_pages`.

use authgear::login::{self, Page, Visit};
use authgear::verdict::Verdict;

use super::resolve::resolve;
use super::{address, client};
use crate::conf::login::{LoginEndpoint, LoginRoute};
use crate::conf::{Authgear, LocationConf};
use crate::lookup;
use crate::worker::Worker;
use nginx::{Failed, Level, PhaseStatus, Request, State};

/// Notes that the request is for a path of `authgear_login`, before rewrites change the path.
pub fn find(request: &mut Request) -> Result<(), Failed> {
    let logins = &request.server::<Authgear>().logins;
    if logins.is_empty() || !request.is_main() || request.is_internal() {
        return Ok(());
    }
    let Some(route) = logins.iter().find(|route| route.path.as_bytes() == request.path()) else {
        return Ok(());
    };
    request.state_or_default::<Authgear>()?.login.set(Some(route));
    Ok(())
}

/// Answers a request for a path of `authgear_login`. May suspend the request.
pub fn answer(worker: &Worker, request: &mut Request) -> PhaseStatus {
    if request.server::<Authgear>().logins.is_empty() {
        return PhaseStatus::Declined;
    }
    let Some(state) = request.state::<Authgear>() else { return PhaseStatus::Declined };
    // Once: this pass may be that of an error page.
    let Some(route) = state.login.take() else { return PhaseStatus::Declined };
    let waited_at = state.waits_for_login.take();
    // post_action runs for a request whose client left while it waited, too.
    if waited_at.is_some_and(|path| path != request.path()) {
        return PhaseStatus::Declined;
    }
    let is_read = request.is_get() || request.is_head();
    let answer = match route.endpoint {
        LoginEndpoint::Callback if is_read => callback(worker, request, &state, route),
        LoginEndpoint::Signup if is_read => Ok(Some(signup(request, route))),
        LoginEndpoint::Logout if is_read || request.is_post() => {
            logout(worker, request, &state, route)
        }
        _ => Ok(Some(Answer::Status(405))),
    };
    let sent = match answer {
        Ok(None) => {
            state.login.set(Some(route));
            *state.waits_for_login.borrow_mut() = Some(request.path().to_vec());
            return PhaseStatus::Again;
        }
        Ok(Some(Answer::Status(status))) => return PhaseStatus::Http(status),
        Ok(Some(Answer::See(url))) => {
            let headers = [("Location", url), ("Cache-Control", "no-store".to_owned())];
            request.respond_with(303, "text/plain", &headers, b"")
        }
        Ok(Some(Answer::Page(Page { status, html }))) => {
            let headers = [
                ("Content-Security-Policy", login::PAGE_POLICY.to_owned()),
                ("Cache-Control", "no-store".to_owned()),
                ("X-Content-Type-Options", "nosniff".to_owned()),
            ];
            request.respond_with(status, "text/html; charset=utf-8", &headers, html.as_bytes())
        }
        Err(Failed) => Err(Failed),
    };
    sent.unwrap_or(PhaseStatus::InternalServerError)
}

enum Answer {
    Status(u16),
    /// A redirect, by 303.
    See(String),
    Page(Page),
}

/// Comes back from Authgear: forgets what is kept under the request's credentials, asks, and
/// redirects to the path in `state` if there is a session. Otherwise a page says so: a redirect
/// would come back.
fn callback(
    worker: &Worker,
    request: &mut Request,
    state: &State<Authgear>,
    route: &'static LoginRoute,
) -> Result<Option<Answer>, Failed> {
    if let Some(page) = login::error_page(request.query()) {
        return Ok(Some(Answer::Page(page)));
    }
    if !state.forgot.replace(true) {
        // No purge and no mark: anybody can call this.
        lookup::forget(worker, request, &route.project, None);
    }
    let Some(found) = resolve(worker, request, state, &route.lookup, &route.project)? else {
        return Ok(None);
    };
    Ok(Some(match &*found.verdict {
        Verdict::Valid(_) => {
            let target = login::return_path(request.query());
            Answer::See(String::from_utf8(target).map_err(|_| Failed)?)
        }
        Verdict::Unavailable(_) | Verdict::Limited(_) => Answer::Page(login::unavailable_page()),
        Verdict::Invalid | Verdict::BearerNotAccepted | Verdict::None(_) => {
            let host = address::authority(request).unwrap_or_default();
            Answer::Page(login::no_session_page(&host, route.project.endpoint.authority()))
        }
    }))
}

/// Leads to Authgear's page to sign up, and from there to the path in `state`.
fn signup(request: &Request, route: &LoginRoute) -> Answer {
    let url = || {
        let logins = &request.server::<Authgear>().logins;
        // A callback of the project.
        let callback = logins.iter().find(|other| {
            other.endpoint == LoginEndpoint::Callback && other.project.id == route.project.id
        })?;
        let origin = address::origin(request)?;
        Some(login::authorize_url(
            route.project.endpoint.origin(),
            route.project.client_id.as_deref()?,
            &format!("{origin}{}", callback.path),
            Visit::Signup,
            &login::return_path(request.query()),
        ))
    };
    url().map_or(Answer::Status(400), Answer::See)
}

/// Logs out: purges the user, keeps nothing under the request's credentials, and leads to Authgear,
/// which needs the cookies and clears them. A request that another site may have caused gets a page
/// that asks.
fn logout(
    worker: &Worker,
    request: &mut Request,
    state: &State<Authgear>,
    route: &'static LoginRoute,
) -> Result<Option<Answer>, Failed> {
    let header = |name: &[u8]| request.header(name);
    let is_own = login::is_own_logout(
        request.is_post(),
        client::client(request).is_navigation(),
        header(b"sec-fetch-site"),
        header(b"origin"),
        address::authority(request).as_deref(),
    );
    if !is_own {
        return Ok(Some(Answer::Page(login::logout_page(&route.path))));
    }
    let project = &route.project;
    let Some(found) = resolve(worker, request, state, &route.lookup, project)? else {
        return Ok(None);
    };
    end(worker, request, route, &found.verdict);
    let return_to = match route.post_logout.strip_prefix('/') {
        None => route.post_logout.to_string(),
        Some(path) => {
            let Some(origin) = address::origin(request) else {
                return Ok(Some(Answer::Status(400)));
            };
            format!("{origin}/{path}")
        }
    };
    Ok(Some(Answer::See(login::end_session_url(project.endpoint.origin(), &return_to))))
}

/// Forgets the session here.
fn end(worker: &Worker, request: &Request, route: &LoginRoute, verdict: &Verdict) {
    let Verdict::Valid(identity) = verdict else {
        lookup::forget(worker, request, &route.project, None);
        return;
    };
    // Before the purge, so that every look-up after it finds the mark.
    lookup::keep_nothing(worker, request, &route.project);
    let whose = (Some(&*route.project), identity);
    lookup::purge_session(worker, request, &route.project, None, whose);
    request.log().write(Level::Info, format_args!("authgear logged a user out"));
}

/// Whether the response, one of Authgear's own pages, changes the session of the client: it sets or
/// clears a cookie of the project, or revokes the token that came along.
fn changes_session(request: &Request, location: &LocationConf) -> bool {
    let Some(project) = &location.project else { return false };
    let is_revoke = request.is_post() && request.path().ends_with(b"/oauth2/revoke");
    is_revoke
        || request.any_header_out("Set-Cookie", |value| {
            let name = value.split(|&byte| byte == b'=').next().unwrap_or_default();
            project.cookies.contains(name.trim_ascii())
        })
}

/// Forgets the client's session if Authgear's own page changes it (`authgear_pages`).
pub fn watch_pages(worker: &Worker, request: &Request, state: &State<Authgear>) {
    let location = request.location::<Authgear>();
    let Some(project) = location.project.as_ref().filter(|_| location.pages()) else { return };
    if !changes_session(request, location) {
        return;
    }
    let resolution = state.resolution_for(request, location);
    let elsewhere = resolution.as_ref().and_then(|found| found.bearer_elsewhere.as_deref());
    match resolution.as_ref().map(|found| &*found.verdict) {
        Some(Verdict::Valid(identity)) => {
            let whose = (Some(&**project), identity);
            lookup::purge_session(worker, request, project, elsewhere, whose);
        }
        _ => drop(lookup::forget(worker, request, project, elsewhere)),
    }
}
