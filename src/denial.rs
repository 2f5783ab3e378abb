//! Who is denied access, and how each kind of client is told.

use core::fmt::Write as _;
use core::time::Duration;
use std::rc::Rc;

use authgear::denial::{grpc_status, problem, Client};
use authgear::policy::Shortfall;
use authgear::redirect::leads_back;
use authgear::verdict::{Reason, Unavailable, Verdict};

use crate::address;
use crate::conf::project::{Project, Upstream};
use crate::conf::{Id, LocationConf};
use crate::nginx::{self, ComplexValue, Failed, Request};
use crate::{credentials, lookup, worker, Authgear};

/// An answer to who is denied access.
pub struct Denial {
    /// The project on whose verdict that was decided.
    pub project: Id,
    /// Its status.
    pub status: u16,
    /// Why.
    pub reason: Reason,
    /// Whether a gRPC call is denied; nginx makes a GET of it for its error pages.
    is_grpc: bool,
    /// Where it was decided: the location, and the path.
    place: (&'static LocationConf, Vec<u8>),
    header: Option<(&'static str, String)>,
    /// Where a browser is sent instead.
    login: Option<String>,
}

impl Denial {
    /// Whether the answer that is about to be sent is this one. To a gRPC client no other makes
    /// sense.
    pub fn is_final(&self, request: &Request) -> bool {
        self.status == request.status_out() || self.is_grpc
    }

    /// Whether no `error_page` redirected the request since.
    pub fn is_here(&self, request: &Request) -> bool {
        let (location, path) = &self.place;
        core::ptr::eq(*location, request.location::<Authgear>()) && path == request.path()
    }

    /// Makes that answer fit the client. What is returned is its body.
    pub fn answer(&self, request: &mut Request) -> Result<Option<Vec<u8>>, Failed> {
        if self.is_grpc {
            request.answer(200, "application/grpc", 0);
            request.replace_header_out("Cache-Control", "no-store")?;
            request.add_header_out("grpc-status", grpc_status(self.status))?;
            request.add_header_out("grpc-message", self.reason.as_str())?;
            return Ok(Some(Vec::new()));
        }
        if let Some(url) = &self.login {
            request.answer(302, "", 0);
            request.add_header_out("Location", url)?;
            request.replace_header_out("Cache-Control", "no-store")?;
            return Ok(Some(Vec::new()));
        }
        if let Some((name, value)) = &self.header {
            request.add_header_out(name, value)?;
        }
        // What the user's own error page says is better than anything of ours.
        if !self.is_here(request) || !client(request).prefers_json() {
            return Ok(None);
        }
        let body = problem(self.status, self.reason.as_str()).into_bytes();
        request.answer(self.status, "application/problem+json", body.len());
        Ok(Some(body))
    }
}

/// Whether the location's requirements hold of the session; if not, how that is answered.
pub fn judge(
    request: &Request,
    location: &LocationConf,
    project: &Project,
    verdict: &Verdict,
) -> Result<Option<Denial>, Failed> {
    let now = nginx::unix_time().as_secs();
    for requirement in location.require() {
        let mut shortfall = None;
        for condition in &requirement.conditions {
            let checked = match verdict {
                Verdict::Valid(identity) => condition.check(identity, None, now),
                _ => Err(Shortfall::NoSession),
            };
            shortfall = shortfall.or(checked.err());
        }
        for &variable in &requirement.variables {
            if matches!(request.evaluate(variable)?, b"" | b"0") {
                shortfall = shortfall.or(Some(Shortfall::Variable));
            }
        }
        let Some(shortfall) = shortfall else { continue };
        let status = requirement.error.unwrap_or(shortfall.status());
        let bearer = credentials::has_bearer(request);
        let mut challenge = shortfall.challenge(status, bearer, &Default::default());
        if let (Some(challenge), Some(url)) = (&mut challenge, location.resource_metadata()) {
            let separator = if challenge == "Bearer" { " " } else { ", " };
            let _ = write!(challenge, "{separator}resource_metadata=\"{url}\"");
        }
        let reason = shortfall.reason().unwrap_or(verdict.reason());
        let header = challenge.map(|challenge| ("WWW-Authenticate", challenge));
        let login = match location.login_redirect() {
            Some(url) if status == 401 && client(request).is_navigation() => login(request, url)?,
            _ => None,
        };
        let (place, is_grpc) = (place(request), client(request).is_grpc());
        let project = project.id;
        return Ok(Some(Denial { project, status, reason, is_grpc, place, header, login }));
    }
    Ok(None)
}

/// An unknown identity is not passed on as an absent one.
pub fn unavailable(request: &Request, project: &Rc<Project>, why: Unavailable) -> Denial {
    let wait = match (why, &project.resolver) {
        (Unavailable::Keys, _) => worker::keys(project).map(|keys| keys.suspended_for()),
        (_, Upstream::Url(_)) => Some(worker::client(project).suspended_for()),
        (_, Upstream::Location(_)) => None,
    };
    let wait = wait.unwrap_or(Duration::ZERO);
    let seconds = wait.as_millis().div_ceil(1000).max(1);
    let header = Some(("Retry-After", seconds.to_string()));
    let (place, is_grpc) = (place(request), client(request).is_grpc());
    let (project, reason) = (project.id, why.reason());
    Denial { project, status: 503, reason, is_grpc, place, header, login: None }
}

fn place(request: &Request) -> (&'static LocationConf, Vec<u8>) {
    (request.location::<Authgear>(), request.path().to_vec())
}

/// Where to log in, unless the request is for that page itself.
fn login(request: &Request, url: ComplexValue) -> Result<Option<String>, Failed> {
    let url = String::from_utf8_lossy(request.evaluate(url)?).into_owned();
    let host = address::authority(request).unwrap_or_default();
    let is_here = leads_back(url.as_bytes(), &host, request.path(), request.uri_as_sent());
    // What comes from the client may be in it, encoded or not: it must stay one header.
    let is_url = !url.is_empty() && url.bytes().all(|byte| byte.is_ascii_graphic());
    Ok((!is_here && is_url).then_some(url))
}

/// A CORS preflight: browsers send it without credentials (Fetch, section 4.8).
pub fn is_preflight(request: &Request) -> bool {
    request.is_options()
        && lookup::header(request, b"origin").is_some()
        && lookup::header(request, b"access-control-request-method").is_some()
}

fn client(request: &Request) -> Client<'_> {
    let header = |name| lookup::header(request, name);
    Client {
        is_get: request.is_get(),
        is_post: request.is_post(),
        accept: header(b"accept"),
        content_type: header(b"content-type"),
        fetch_dest: header(b"sec-fetch-dest"),
        fetch_mode: header(b"sec-fetch-mode"),
        upgrade: header(b"upgrade"),
    }
}
