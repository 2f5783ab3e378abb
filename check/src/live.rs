//! Checks against the live endpoint, with the requests that the module would make.

use std::collections::BTreeSet;
use std::time::Duration;

use authgear::credentials::{CookieNames, Credentials};
use authgear::resolver::endpoint::{Endpoint, Url};
use authgear::resolver::{self, ClientInfo};
use authgear::token::{Algorithm, KeySet};
use http::header::{DATE, LOCATION, SET_COOKIE};
use http::{HeaderMap, Request, StatusCode};

use crate::exchange::{exchange, Answer, Failure, Server, Trust};
use crate::finding::{shown, Problem, Report};
use crate::places;
use crate::project::{Keys, Project, ResolverAddress, Use};

/// Sent as `User-Agent`.
const AGENT: &[u8] = concat!("authgear-check/", env!("CARGO_PKG_VERSION")).as_bytes();

/// A value that no session has. It lets the resolver say that a session is invalid.
const NO_SESSION: &str = "authgear-check.no-session";

/// A host that no project has (RFC 6761).
const NO_PROJECT: &str = "https://authgear-check.invalid";

/// Path of the discovery document (RFC 8414).
const DISCOVERY: &str = "/.well-known/oauth-authorization-server";

/// Checks of one project.
struct Live<'a> {
    found: &'a Use<'a>,
    project: &'a Project,
    trust: Trust,
    name_servers: Vec<&'a str>,
    /// Servers whose fault has been told.
    failed: BTreeSet<String>,
    report: &'a mut Report,
}

/// Asks the servers of a project.
pub fn check(found: &Use<'_>, report: &mut Report) {
    let project = &found.project;
    let trust = match Trust::new(project.ssl_verify, project.trusted.as_deref()) {
        Ok(trust) => trust,
        Err(error) => {
            // The file itself has its finding.
            report.skip(format!("the servers of project \"{}\": {error}", project.name));
            return;
        }
    };
    let name_servers = found.name_servers();
    let mut live = Live { found, project, trust, name_servers, failed: BTreeSet::new(), report };
    if found.asks_resolver() {
        live.check_resolver();
    }
    if found.verifies_tokens() {
        live.check_keys();
    }
    live.check_issuer();
}

impl Live<'_> {
    fn request(
        &self,
        endpoint: &Endpoint,
        path: &str,
        cookie: Option<&str>,
    ) -> Option<Request<()>> {
        let names = CookieNames::new(b"").ok()?;
        let none = Credentials::read(None, std::iter::empty::<&[u8]>(), &names);
        let client = ClientInfo { user_agent: Some(AGENT), ..ClientInfo::default() };
        let prefix = resolver::prefix(endpoint, path).ok()?;
        let head = resolver::request(&prefix, &none, &client)?;
        let mut request = Request::get(path);
        for (name, value) in head.fields() {
            request = request.header(name, value);
        }
        if let Some(cookie) = cookie {
            request = request.header(http::header::COOKIE, cookie);
        }
        request.body(()).ok()
    }

    /// Sends a request. A failure is told once for each server.
    fn ask(&mut self, url: &Url, is_set: bool, request: Option<Request<()>>) -> Option<Answer> {
        let name = self.project.certificate_name(url, is_set);
        let key = format!("{} {name}", Endpoint::parse(&origin(url)).ok()?.origin());
        if self.failed.contains(&key) {
            return None;
        }
        let server = Server {
            url,
            certificate_name: name,
            name_servers: &self.name_servers,
            connect_timeout: self.project.connect_timeout,
            timeout: self.project.timeout,
        };
        match exchange(&server, &self.trust, request?) {
            Ok(answer) => {
                self.check_clock(url, &answer);
                Some(answer)
            }
            Err(failure) => {
                self.failed.insert(key);
                self.tell(url, is_set, failure);
                None
            }
        }
    }

    fn tell(&mut self, url: &Url, is_set: bool, failure: Failure) {
        let (problem, why) = match failure {
            Failure::Dns(why) => (Problem::DnsFailed, why),
            Failure::Connect(why) => (Problem::ConnectFailed, why),
            Failure::Tls(why) => (Problem::TlsFailed, why),
            Failure::Http(why) => (Problem::NoHttpAnswer, why),
        };
        let what = format!("{}: {}", origin(url), shown(&why));
        let is_derived = !is_set && (self.project.has_resolver_url || self.project.has_jwks_url);
        let is_needed = match &self.project.resolver {
            ResolverAddress::Url(own) => origin(own) == origin(url) && self.found.asks_resolver(),
            ResolverAddress::Location(_) => false,
        } || self.found.verifies_tokens();
        // The public endpoint need not be reachable where its parts have addresses of their own.
        if is_derived && !is_needed {
            self.report.skip(format!("issuer of project \"{}\": {what}", self.project.name));
        } else {
            self.report.add(problem, Some(&self.project.place), what);
        }
    }

    fn check_clock(&mut self, url: &Url, answer: &Answer) {
        let date = answer.headers.get(DATE).and_then(|value| value.to_str().ok());
        let Some(date) = date.and_then(|date| httpdate::parse_http_date(date).ok()) else { return };
        // `Date` has whole seconds, and the answer was on its way.
        let slack = Duration::from_secs(2);
        let (behind, skew) = match date.duration_since(answer.at) {
            Ok(ahead) => (true, ahead),
            Err(error) => (false, error.duration()),
        };
        if skew > self.project.leeway + slack {
            let side = if behind { "behind" } else { "ahead of" };
            let what = format!(
                "the clock of this machine is {}s {side} that of {}; \"leeway\" is {}s",
                skew.as_secs(),
                origin(url),
                self.project.leeway.as_secs()
            );
            let known = self.report.findings.iter().any(|finding| {
                finding.problem == Problem::ClockSkew
                    && finding.place.as_ref() == Some(&self.project.place)
            });
            if !known {
                self.report.add(Problem::ClockSkew, Some(&self.project.place), what);
            }
        }
    }

    fn check_resolver(&mut self) {
        let url = match &self.project.resolver {
            ResolverAddress::Url(url) => url.clone(),
            ResolverAddress::Location(uri) => {
                let name = &self.project.name;
                let what = format!("the resolver of project \"{name}\", which is location {uri}");
                self.report.skip(what);
                return;
            }
        };
        let (is_set, place) = (self.project.has_resolver_url, self.project.place.clone());
        let endpoint = &self.project.endpoint;
        let plain = self.request(endpoint, url.path(), None);
        let Some(answer) = self.ask(&url, is_set, plain) else { return };
        if answer.status != StatusCode::OK {
            let what = format!("{url} answers {} for {}", status(&answer), endpoint.origin());
            self.report.add(Problem::ResolverStatus, Some(&place), what);
            return;
        }
        if !answer.body.is_empty() || has_identity(&answer.headers) {
            let what = match answer.body.is_empty() {
                true => format!("{url} answers a request without credentials with an identity"),
                false => format!("{url} answers 200 with a body, as a website does"),
            };
            self.report.add(Problem::NotAResolver, Some(&place), what);
            return;
        }
        let prefix = &self.project.cookie_prefix;
        let cookie = format!("{prefix}session={NO_SESSION}");
        let invalid = self.request(endpoint, url.path(), Some(&cookie));
        let Some(answer) = self.ask(&url, is_set, invalid) else { return };
        if has_identity(&answer.headers) {
            let domain = cookie_domain(&answer.headers, prefix);
            places::check_cookie_domain(self.found, domain.as_deref(), self.report);
            return;
        }
        self.check_prefix(&url, is_set);
    }

    /// The resolver did not read the cookie: its name is another, or this is no resolver.
    fn check_prefix(&mut self, url: &Url, is_set: bool) {
        let (place, prefix) = (self.project.place.clone(), self.project.cookie_prefix.clone());
        let bare = self.request(
            &self.project.endpoint,
            url.path(),
            Some(&format!("session={NO_SESSION}")),
        );
        if !prefix.is_empty() {
            let reads_bare = self.ask(url, is_set, bare).is_some_and(|a| has_identity(&a.headers));
            if reads_bare {
                let what = format!("cookie_prefix is \"{prefix}\", and Authgear has none");
                self.report.add(Problem::CookiePrefix, Some(&place), what);
                return;
            }
        }
        let elsewhere = Endpoint::parse(NO_PROJECT).ok();
        let unknown = elsewhere.and_then(|host| self.request(&host, url.path(), None));
        let Some(answer) = self.ask(url, is_set, unknown) else { return };
        if answer.status == StatusCode::NOT_FOUND {
            let what = format!("Authgear at {url} does not read a cookie \"{prefix}session\"");
            self.report.add(Problem::CookiePrefix, Some(&place), what);
        } else {
            let what =
                format!("{url} answers 200 for every host and for a session that does not exist");
            self.report.add(Problem::NotAResolver, Some(&place), what);
        }
    }

    fn check_keys(&mut self) {
        let Keys::Url(url) = &self.project.keys else { return };
        let url = url.clone();
        let (is_set, place) = (self.project.has_jwks_url, self.project.place.clone());
        let request = self.request(&self.project.endpoint, url.path(), None);
        let Some(answer) = self.ask(&url, is_set, request) else { return };
        if answer.status != StatusCode::OK {
            let what = format!("{url} answers {}", status(&answer));
            self.report.add(Problem::JwksFailed, Some(&place), what);
            return;
        }
        let Err(error) = KeySet::parse(&answer.body, &self.project.algorithms) else { return };
        if KeySet::parse(&answer.body, Algorithm::ALL).is_ok() {
            let accepted: Vec<_> =
                self.project.algorithms.iter().map(|algorithm| algorithm.as_str()).collect();
            let what = format!("no key at {url} is for \"algorithms {}\"", accepted.join(" "));
            self.report.add(Problem::JwksAlgorithm, Some(&place), what);
        } else {
            self.report.add(Problem::JwksUnusable, Some(&place), format!("{url}: {error}"));
        }
    }

    /// The issuer in the discovery document is the endpoint. The document is asked where the keys
    /// are, under the endpoint's name.
    fn check_issuer(&mut self) {
        let endpoint = &self.project.endpoint;
        let (url, is_set) = match &self.project.keys {
            Keys::Url(url) if self.project.has_jwks_url => (url.clone(), true),
            _ => (endpoint.url().clone(), false),
        };
        let place = self.project.place.clone();
        let request = self.request(endpoint, DISCOVERY, None);
        let Some(answer) = self.ask(&url, is_set, request) else { return };
        let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
        let issuer = match location.filter(|_| answer.status.is_redirection()) {
            // Authgear redirects to its public origin.
            Some(location) => location.strip_suffix(DISCOVERY).map(str::to_owned),
            None => issuer(&answer),
        };
        match issuer {
            Some(issuer) if issuer == endpoint.origin() && answer.status == StatusCode::OK => {}
            // The keys have their finding.
            Some(issuer) if issuer == endpoint.origin() => {}
            Some(issuer) => {
                let what = format!(
                    "the issuer is {}, and endpoint is {}",
                    shown(&issuer),
                    endpoint.origin()
                );
                self.report.add(Problem::IssuerMismatch, Some(&place), what);
            }
            // The resolver is known to be right, and its server may have no other page.
            None if self.project.has_resolver_url && !self.found.verifies_tokens() => {
                let what = format!("{}{DISCOVERY} answers {}", origin(&url), status(&answer));
                self.report.skip(format!("issuer of project \"{}\": {what}", self.project.name));
            }
            None => {
                let what = format!(
                    "{}{DISCOVERY} answers {} and names no issuer",
                    origin(&url),
                    status(&answer)
                );
                self.report.add(Problem::DiscoveryFailed, Some(&place), what);
            }
        }
    }
}

fn origin(url: &Url) -> String {
    format!("{}://{}", url.scheme().as_str(), url.authority())
}

fn status(answer: &Answer) -> String {
    let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
    // The query of a redirect may be secret.
    let location = location.map(|to| shown(to.split(['?', '#']).next().unwrap_or_default()));
    match location {
        Some(to) => format!("{} to {to}", answer.status.as_u16()),
        None => answer.status.as_u16().to_string(),
    }
}

fn has_identity(headers: &HeaderMap) -> bool {
    headers.contains_key("x-authgear-session-valid")
}

fn issuer(answer: &Answer) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(&answer.body).ok()?;
    document.get("issuer")?.as_str().map(str::to_owned)
}

/// `Domain` of the session cookie that the resolver clears.
fn cookie_domain(headers: &HeaderMap, prefix: &str) -> Option<String> {
    let name = format!("{prefix}session=");
    let fields = headers.get_all(SET_COOKIE).iter().filter_map(|value| value.to_str().ok());
    let field = fields.into_iter().find(|field| field.starts_with(&name))?;
    field.split(';').find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("domain").then(|| value.trim().to_owned())
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_domain_of_the_session_cookie_is_read() {
        let mut headers = HeaderMap::new();
        assert_eq!(cookie_domain(&headers, ""), None);
        headers.append(SET_COOKIE, HeaderValue::from_static("other=; Domain=b.example"));
        headers
            .append(SET_COOKIE, HeaderValue::from_static("p_session=; Path=/; domain=a.example"));
        assert_eq!(cookie_domain(&headers, "p_").as_deref(), Some("a.example"));
        assert_eq!(cookie_domain(&headers, ""), None);
    }

    #[test]
    fn a_redirect_is_shown_without_its_query() {
        let mut headers = HeaderMap::new();
        headers.insert(LOCATION, HeaderValue::from_static("https://a.example/x?token=s3cret"));
        let answer = Answer {
            status: StatusCode::FOUND,
            headers,
            body: Vec::new(),
            at: SystemTime::UNIX_EPOCH,
        };
        assert_eq!(status(&answer), "302 to https://a.example/x");
    }
}
