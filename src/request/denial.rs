//! Denials of access, and the response that each kind of client gets.

use core::cell::Cell;
use core::time::Duration;
use std::rc::Rc;

use authgear::http::negotiation::{grpc_status, problem};
use authgear::http::redirect::leads_back;
use authgear::login::is_foreign_write;
use authgear::policy::{challenge_scope, ChallengeParameters, Condition, Shortfall};
use authgear::verdict::{Reason, Unavailable, Verdict};

use super::address;
use super::client::client;
use super::login_redirect::{redirect, Redirect};
use crate::conf::policy::Requirement;
use crate::conf::project::{Project, Upstream};
use crate::conf::Authgear;
use crate::conf::{Id, LocationConf};
use crate::credentials;
use crate::resolution::Resolution;
use crate::worker::Worker;
use nginx::{self, ComplexValue, Failed, LocationId, Request};

/// A denial of access.
pub struct Denial {
    /// The project whose verdict led to it.
    pub project: Id,
    /// Status of the response.
    pub status: u16,
    /// Reason for logs, variables and clients.
    pub reason: Reason,
    /// Whether the request is a gRPC call; nginx turns it into a GET for its error pages.
    pub is_grpc: bool,
    /// Location and path at which the request was denied.
    place: (LocationId, Vec<u8>),
    header: Option<(&'static str, String)>,
    /// Redirect to a login page, for a browser.
    login: Option<Redirect>,
}

impl Denial {
    /// Whether the response that is about to be sent is that of this denial. For a gRPC client it
    /// always is.
    pub fn is_final(&self, request: &Request) -> bool {
        self.status == request.status_out() || self.is_grpc
    }

    /// Whether no `error_page` redirected the request since.
    pub fn is_here(&self, request: &Request) -> bool {
        let (location, path) = &self.place;
        *location == request.location_id::<Authgear>() && path == request.path()
    }

    /// Adapts the response to the client. Returns its body, if it replaces nginx's.
    pub fn answer(&self, request: &mut Request) -> Result<Option<Vec<u8>>, Failed> {
        if self.is_grpc {
            if !self.is_here(request) && is_grpc_answer(request) {
                return Ok(None);
            }
            request.answer(200, "application/grpc", 0);
            request.replace_header_out("Cache-Control", "no-store")?;
            request.add_header_out("grpc-status", grpc_status(self.status))?;
            request.add_header_out("grpc-message", self.reason.as_str())?;
            return Ok(Some(Vec::new()));
        }
        if let Some(Redirect { url, cookie }) = &self.login {
            request.answer(302, "", 0);
            request.add_header_out("Location", url)?;
            if let Some(cookie) = cookie {
                request.add_header_out("Set-Cookie", cookie)?;
            }
            request.replace_header_out("Cache-Control", "no-store")?;
            return Ok(Some(Vec::new()));
        }
        if let Some((name, value)) = &self.header {
            request.add_header_out(name, value)?;
        }
        // An error page of the site is not replaced.
        if !self.is_here(request) || !client(request).prefers_json() {
            return Ok(None);
        }
        let body = problem(self.status, self.reason.as_str()).into_bytes();
        request.answer(self.status, "application/problem+json", body.len());
        Ok(Some(body))
    }
}

/// Returns the first condition of a line that does not hold, if the line does not.
fn shortfall(
    request: &Request,
    requirement: &Requirement,
    resolution: &Resolution,
) -> Result<Option<Shortfall>, Failed> {
    let now = nginx::unix_time().as_secs();
    let token = credentials::bearer(request, resolution.bearer_elsewhere.as_deref());
    let token = token.filter(|_| resolution.by_token);
    let conditions = requirement.conditions.iter().map(|condition| match &*resolution.verdict {
        Verdict::Valid(_) if *condition == Condition::SameSite && is_foreign(request) => {
            Err(Shortfall::CrossSite)
        }
        Verdict::Valid(identity) => condition.check(identity, token, now),
        _ => Err(Shortfall::NoSession),
    });
    let mut failed = false;
    let variables =
        requirement.variables.iter().map(|&variable| match request.evaluate(variable) {
            Ok(b"" | b"0") => Err(Shortfall::Variable),
            Ok(_) => Ok(()),
            Err(Failed) => {
                failed = true;
                Err(Shortfall::Variable)
            }
        });
    let checked = requirement.combination.check(conditions.chain(variables));
    if failed {
        return Err(Failed);
    }
    Ok(checked.err())
}

/// Checks the location's requirements for a response that is open; returns the reason if one does
/// not hold.
pub(super) fn unmet(
    request: &Request,
    location: &LocationConf,
    resolution: &Resolution,
) -> Result<Option<Reason>, Failed> {
    for requirement in location.require() {
        if let Some(shortfall) = shortfall(request, requirement, resolution)? {
            return Ok(Some(shortfall.reason().unwrap_or(resolution.verdict.reason())));
        }
    }
    Ok(None)
}

/// Checks the location's requirements; returns the denial if one does not hold. `told` is the reason
/// that `$authgear_reason` tells.
pub fn check(
    request: &Request,
    told: &Cell<Option<Reason>>,
    location: &LocationConf,
    project: &Project,
    resolution: &Resolution,
) -> Result<Option<Denial>, Failed> {
    let verdict = &*resolution.verdict;
    for requirement in location.require() {
        let Some(shortfall) = shortfall(request, requirement, resolution)? else { continue };
        let status = requirement.error.unwrap_or(shortfall.status());
        let challenge = location.challenge().then(|| {
            // The client asks for what the challenge lists: a token must meet all lines.
            let conditions = location.require().iter().flat_map(|line| &line.conditions);
            let scope = challenge_scope(conditions, location.challenges_with_openid());
            let resource_metadata = location.resource_metadata();
            let parameters = ChallengeParameters { scope: &scope, resource_metadata };
            let has_bearer =
                resolution.bearer_elsewhere.is_some() || credentials::has_bearer(request);
            shortfall.challenge(status, has_bearer, &parameters)
        });
        let challenge = challenge.flatten();
        let reason = shortfall.reason().unwrap_or(verdict.reason());
        let header = challenge.map(|challenge| ("WWW-Authenticate", challenge));
        let is_login =
            status == 401 && !location.answers_verdict() && client(request).is_navigation();
        let login = match location.login_redirect() {
            None if is_login && location.login().is_some() => match shortfall {
                Shortfall::NoSession => redirect(request, location, false),
                Shortfall::MaxAge(_) | Shortfall::Amr => redirect(request, location, true),
                _ => None,
            },
            Some(url) if is_login => {
                // The URL may depend on $authgear_reason.
                let before = told.replace(Some(reason));
                let url = login_page(request, url);
                told.set(before);
                url?.map(|url| Redirect { url, cookie: None })
            }
            _ => None,
        };
        let (place, is_grpc) = (place(request), is_grpc(request));
        let project = project.id;
        return Ok(Some(Denial { project, status, reason, is_grpc, place, header, login }));
    }
    Ok(None)
}

/// The denial of a request whose look-up failed.
pub fn unavailable(
    worker: &Worker,
    request: &Request,
    project: &Rc<Project>,
    why: Unavailable,
) -> Denial {
    let wait = match (why, &project.resolver) {
        (Unavailable::Keys, _) => worker.keys(project).map(|keys| keys.suspended_for()),
        (_, Upstream::Url(_)) => Some(worker.client(project).suspended_for()),
        (_, Upstream::Location(_)) => None,
    };
    let wait = wait.unwrap_or(Duration::ZERO);
    let header = Some(("Retry-After", whole_seconds(wait)));
    let (place, is_grpc) = (place(request), is_grpc(request));
    let (project, reason) = (project.id, why.reason());
    Denial { project, status: 503, reason, is_grpc, place, header, login: None }
}

/// The denial of a request whose client made too many look-ups.
pub fn limited(request: &Request, project: &Project, wait: Duration) -> Denial {
    let header = Some(("Retry-After", whole_seconds(wait)));
    let (place, is_grpc) = (place(request), is_grpc(request));
    let (project, reason) = (project.id, Reason::TooManyLookups);
    Denial { project, status: 429, reason, is_grpc, place, header, login: None }
}

/// `wait` for `Retry-After`: rounded up, and at least 1.
fn whole_seconds(wait: Duration) -> String {
    wait.as_millis().div_ceil(1000).max(1).to_string()
}

/// Returns true if the request is a gRPC call. A proxy that asks for a verdict may pass on the type
/// of the client's call, and would take 200 for leave.
fn is_grpc(request: &Request) -> bool {
    !request.location::<Authgear>().answers_verdict() && client(request).is_grpc()
}

/// Whether an error page of the site answers as gRPC servers do.
fn is_grpc_answer(request: &Request) -> bool {
    request.content_type_out().starts_with(b"application/grpc")
        || request.names_header_out("grpc-status")
}

fn place(request: &Request) -> (LocationId, Vec<u8>) {
    (request.location_id::<Authgear>(), request.path().to_vec())
}

/// URL of the login page, unless the request is for that page itself.
fn login_page(request: &Request, url: ComplexValue) -> Result<Option<String>, Failed> {
    let url = String::from_utf8_lossy(request.evaluate(url)?).into_owned();
    let host = address::authority(request).unwrap_or_default();
    let is_here = leads_back(url.as_bytes(), &host, request.path(), request.uri_as_sent());
    // The URL may contain text from the client: it must stay one header line.
    let is_url = !url.is_empty() && url.bytes().all(|byte| byte.is_ascii_graphic());
    Ok((!is_here && is_url).then_some(url))
}

/// Returns whether a request that writes, by the cookie of a session, may come from another site.
/// No site can make a browser send a bearer token of another one.
fn is_foreign(request: &Request) -> bool {
    let is_read = request.is_get() || request.is_head() || request.is_options();
    if (is_read && request.header(b"upgrade").is_none()) || credentials::has_bearer(request) {
        return false;
    }
    let header = |name: &[u8]| request.header(name);
    let own = address::origin(request);
    is_foreign_write(
        header(b"sec-fetch-site"),
        header(b"origin"),
        own.as_deref().map(str::as_bytes),
    )
}

/// Whether the request is a CORS preflight, which browsers send without credentials (Fetch,
/// section 4.8).
pub fn is_preflight(request: &Request) -> bool {
    request.is_options()
        && request.header(b"origin").is_some()
        && request.header(b"access-control-request-method").is_some()
}
