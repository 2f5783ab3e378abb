//! Authgear's answers: pure functions of the request and the store.

use std::sync::Arc;
use std::time::SystemTime;

pub(crate) use super::main_server::JWKS_PATH;
use super::main_server::USERINFO_PATH;
use super::oauth::Resource;
use super::services::{Service, ADMIN_PATH, HEALTH_PATH};
use super::token::{decode, Decoded, SigningKey};
use super::users::{Store, User};
use super::versions::Version;
use crate::random;
use crate::recorded::Recorded;

const RESOLVER_PATHS: [&str; 2] = ["/resolve", "/_resolver/resolve"];

/// Returns true if the resolver has this path, or redirects it to one of its own.
pub(crate) fn is_resolver_path(path: &str) -> bool {
    RESOLVER_PATHS.contains(&canonical(path).as_str())
}

/// The path as the resolver redirects it.
fn canonical(path: &str) -> String {
    path.trim_end_matches('/').to_ascii_lowercase()
}

/// Authgear's `Permissions-Policy` header.
pub const PERMISSIONS_POLICY: &str = "accelerometer=(), ambient-light-sensor=(), autoplay=*, \
    battery=(), bluetooth=(), browsing-topics=(), camera=(), display-capture=(), \
    document-domain=(), encrypted-media=(), execution-while-not-rendered=*, \
    execution-while-out-of-viewport=*, fullscreen=*, gamepad=(), geolocation=(), gyroscope=(), \
    hid=(), identity-credentials-get=(), idle-detection=(), local-fonts=(), magnetometer=(), \
    microphone=(), midi=(), otp-credentials=(), payment=(), picture-in-picture=(), \
    publickey-credentials-create=(self), publickey-credentials-get=(self), screen-wake-lock=(), \
    serial=(), speaker-selection=(), storage-access=(), usb=(), web-share=(), \
    window-management=(), xr-spatial-tracking=()";

/// The deployment of this Authgear.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) origin: String,
    pub(crate) trust_proxy: bool,
    pub(crate) database: bool,
    pub(crate) cookie_prefix: String,
    /// `http.cookie_domain` of the project.
    pub(crate) cookie_domain: Option<String>,
    pub(crate) resources: Vec<Resource>,
    pub(crate) version: Version,
    pub(crate) tls: bool,
}

impl Deployment {
    fn header<'a>(&self, request: &'a Recorded, names: [&str; 2]) -> Option<&'a str> {
        let given = |name: &&str| request.header(name).filter(|value| !value.is_empty());
        names.iter().filter(|_| self.trust_proxy).find_map(given)
    }

    /// Host and port of the client's request, as Authgear determines them.
    fn authority<'a>(&self, request: &'a Recorded) -> &'a str {
        match self.header(request, ["x-forwarded-host", "x-original-host"]) {
            Some(forwarded) => forwarded.split(',').next().unwrap_or_default().trim(),
            None => request.header("host").unwrap_or_default(),
        }
    }

    fn scheme<'a>(&self, request: &'a Recorded) -> &'a str {
        let own = if self.tls { "https" } else { "http" };
        self.header(request, ["x-forwarded-proto", "x-original-proto"]).unwrap_or(own)
    }

    pub(crate) fn request_origin(&self, request: &Recorded) -> String {
        format!("{}://{}", self.scheme(request), self.authority(request))
    }

    pub(crate) fn knows_host(&self, request: &Recorded) -> bool {
        let own = self.origin.split_once("://").map_or("", |(_, authority)| authority);
        !self.database || host_of(self.authority(request)) == host_of(own)
    }

    /// `Set-Cookie` that ends an invalid session.
    pub(crate) fn cleared_session_cookie(&self, request: &Recorded) -> String {
        let domain = self.cookie_domain.as_ref();
        let domain = domain.map(|domain| format!(" Domain={domain};")).unwrap_or_default();
        let secure = if self.scheme(request) == "https" { " Secure;" } else { "" };
        format!(
            "{}session=; Path=/;{domain} Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly;{secure} \
             SameSite=Lax",
            self.cookie_prefix
        )
    }

    /// The first cookie of that name that is well-formed, as `readCookies` of Go's net/http.
    pub(crate) fn cookie<'a>(&self, request: &'a Recorded, name: &str) -> Option<&'a str> {
        const MAX: usize = 3000;
        let name = format!("{}{name}", self.cookie_prefix);
        let lines = request.all("cookie");
        if lines.iter().map(|line| line.matches(';').count() + 1).sum::<usize>() > MAX {
            return None;
        }
        let parts = lines.into_iter().flat_map(|line| trimmed(line).split(';'));
        parts.map(trimmed).filter(|part| !part.is_empty()).find_map(|part| {
            let (have, value) = part.split_once('=').unwrap_or((part, ""));
            let quoted = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
            let value = quoted.unwrap_or(value);
            let allowed = |c: char| matches!(c, ' '..='~') && c != '"' && c != '\\';
            (trimmed(have) == name && value.chars().all(allowed)).then_some(value)
        })
    }
}

/// As `textproto.TrimString` of Go, which knows these four characters only.
fn trimmed(text: &str) -> &str {
    text.trim_matches([' ', '\t', '\n', '\r'])
}

fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => authority,
    }
}

/// An answer before a fault changes it.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The client asked to close the connection, and is told so.
    pub(crate) closes: bool,
}

impl Answer {
    /// An answer with this body and no headers yet.
    pub(crate) fn bytes(status: u16, body: Vec<u8>) -> Self {
        Self { body, ..Self::new(status, []) }
    }

    fn new<'a>(status: u16, headers: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { status, headers, body: Vec::new(), closes: false }
    }

    /// An error as Go's `http.Error` writes it.
    pub(crate) fn text(status: u16, text: &str) -> Self {
        let headers = [
            ("Content-Type", "text/plain; charset=utf-8".to_owned()),
            ("X-Content-Type-Options", "nosniff".to_owned()),
        ];
        Self { body: format!("{text}\n").into_bytes(), ..Self::new(status, headers) }
    }

    /// The answer of the panic middleware.
    pub(crate) fn internal_error() -> Self {
        Self::early_internal_error().with(common_headers())
    }

    /// The same, of a fault before the headers of all answers are set.
    fn early_internal_error() -> Self {
        // In the order of Go's struct.
        let body = format!(
            "{{\"error\":{{\"name\":\"InternalError\",\"reason\":\"UnexpectedError\",\"message\":\
             \"unexpected error occurred\",\"code\":500,\"tracking_id\":\"{}-{}\"}}}}",
            hex(32),
            hex(16)
        );
        let headers = [("Content-Type", "application/json".to_owned())];
        Self { body: body.into_bytes(), ..Self::new(500, headers) }
    }

    /// The resolver's answer with these `x-authgear-*` headers.
    pub(crate) fn resolved(identity: Vec<(String, String)>) -> Self {
        Self::new(200, []).with(identity).with(common_headers())
    }

    /// Sets headers, and keeps all of them sorted, as Go does.
    pub(crate) fn with(mut self, headers: Vec<(String, String)>) -> Self {
        self.headers.retain(|(have, _)| headers.iter().all(|(new, _)| new != have));
        self.headers.extend(headers);
        self.headers.sort_by(|(a, _), (b, _)| a.cmp(b));
        self
    }

    /// Adds the headers that Go's server adds last.
    pub(crate) fn finished(mut self, method: &str) -> Self {
        let has = |headers: &[(String, String)], name| headers.iter().any(|(own, _)| own == name);
        self.headers.push(date());
        if (method != "HEAD" || !self.body.is_empty()) && !has(&self.headers, "Content-Length") {
            self.headers.push(("Content-Length".to_owned(), self.body.len().to_string()));
        }
        if !self.body.is_empty() && !has(&self.headers, "Content-Type") {
            let sniffed = "text/plain; charset=utf-8".to_owned();
            self.headers.push(("Content-Type".to_owned(), sniffed));
        }
        if self.closes {
            self.headers.push(("Connection".to_owned(), "close".to_owned()));
        }
        self
    }
}

fn hex(digits: usize) -> String {
    random::uuid().replace('-', "")[..digits].to_owned()
}

pub(crate) fn date() -> (String, String) {
    ("Date".to_owned(), httpdate::fmt_http_date(SystemTime::now()))
}

pub(crate) fn common_headers() -> Vec<(String, String)> {
    [
        ("Permissions-Policy", PERMISSIONS_POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Robots-Tag", "noindex, nofollow"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// All input of an answer besides the request.
pub(crate) struct Authgear<'a> {
    pub(crate) deployment: &'a Deployment,
    pub(crate) store: &'a Store,
    pub(crate) keys: &'a [Arc<SigningKey>],
    /// Seconds since 1970.
    pub(crate) now: i64,
}

/// The answer, and the session that Authgear locks for it.
pub(crate) struct Decision {
    pub(crate) answer: Answer,
    pub(crate) session: Option<String>,
}

impl Authgear<'_> {
    pub(crate) fn decide(&self, service: Service, request: &Recorded, body: &[u8]) -> Decision {
        let mut decision = match self.oauth(request, body) {
            _ if !service.has(request.path()) => {
                Decision { answer: Answer::text(404, "404 page not found"), session: None }
            }
            Some(answer) => Decision { answer, session: None },
            None => self.route(request),
        };
        let connection = request.header("connection").unwrap_or_default();
        decision.answer.closes = connection.eq_ignore_ascii_case("close");
        decision
    }

    fn route(&self, request: &Recorded) -> Decision {
        let (path, method) = (request.path(), request.method.as_str());
        let canonical = canonical(path);
        let is_get = matches!(method, "GET" | "HEAD");
        let answer = if RESOLVER_PATHS.contains(&path) {
            match is_get {
                // Go cannot use a list as the scheme of a URL.
                true if self.deployment.scheme(request).contains(',') => {
                    Answer::early_internal_error()
                }
                true if self.deployment.knows_host(request) => return self.resolve(request),
                true => Answer::text(404, "app not found").with(common_headers()),
                false => method_not_allowed("GET, HEAD, OPTIONS"),
            }
        } else if is_get && RESOLVER_PATHS.contains(&canonical.as_str()) {
            moved_permanently(&canonical)
        } else if path == ADMIN_PATH {
            self.admin(request)
        } else if path == HEALTH_PATH && is_get {
            let headers =
                [("Content-Length", "2".to_owned()), ("Content-Type", "text/plain".to_owned())];
            Answer { body: b"OK".to_vec(), ..Answer::new(200, headers) }
        } else if path == JWKS_PATH || path == USERINFO_PATH {
            match method {
                "GET" | "OPTIONS" if !self.deployment.knows_host(request) => {
                    Answer::text(404, "app not found").with(common_headers())
                }
                "GET" | "OPTIONS" if is_crawler(request) => Answer::text(403, "Forbidden"),
                "GET" | "OPTIONS" if path == JWKS_PATH => self.jwks(request),
                "GET" | "OPTIONS" => self.userinfo(request),
                _ => method_not_allowed("GET, OPTIONS"),
            }
        } else {
            Answer::text(404, "404 page not found")
        };
        Decision { answer, session: None }
    }

    /// The credential that counts, and its user's id.
    pub(crate) fn holder(&self, request: &Recorded) -> Option<(String, &String)> {
        self.by_access_token(request).or_else(|| {
            let cookie = self.deployment.cookie(request, "session")?;
            Some((cookie.to_owned(), self.store.by_session(cookie)?))
        })
    }

    fn resolve(&self, request: &Recorded) -> Decision {
        let Some((session, user)) = self.holder(request) else {
            let answer = match self.deployment.cookie(request, "session") {
                Some(_) => self.invalid(request),
                None => Answer::resolved(Vec::new()),
            };
            return Decision { answer, session: None };
        };
        if self.deployment.version.refuses(self.store.client_of(&session)) {
            return Decision { answer: not_valid(), session: Some(session) };
        }
        let answer = match self.store.user(user).filter(|user| !user.disabled) {
            Some(user) => Answer::resolved(User::headers(user)),
            None => self.invalid(request),
        };
        Decision { answer, session: Some(session) }
    }

    /// Access tokens, which come before the session cookie. Invalid ones count as absent.
    fn by_access_token(&self, request: &Recorded) -> Option<(String, &String)> {
        let cookie = |name| self.deployment.cookie(request, name);
        let app_session = || {
            cookie("app_session").and_then(|c| Some((c.to_owned(), self.store.by_app_session(c)?)))
        };
        bearer(request)
            .and_then(|token| self.granted(request, token))
            .or_else(app_session)
            .or_else(|| self.granted(request, cookie("app_access_token")?))
    }

    fn granted(&self, request: &Recorded, token: &str) -> Option<(String, &String)> {
        let origin = self.deployment.request_origin(request);
        let origin = self.deployment.version.checks_audience().then_some(&*origin);
        let hash = match decode(token, self.keys, origin, self.now) {
            Decoded::Grant(hash) => hash,
            Decoded::Opaque => crate::crypto::sha256(token.as_bytes()),
            Decoded::Invalid => return None,
        };
        let user = self.store.by_grant(&hash)?;
        Some((hash, user))
    }

    /// The answer for an invalid session; its cookie is cleared if there was one.
    fn invalid(&self, request: &Recorded) -> Answer {
        let mut answer = not_valid();
        if self.deployment.cookie(request, "session").is_some() {
            let clear = self.deployment.cleared_session_cookie(request);
            answer = answer.with(vec![("Set-Cookie".to_owned(), clear)]);
        }
        answer
    }
}

fn not_valid() -> Answer {
    let verdict = ("X-Authgear-Session-Valid".to_owned(), "false".to_owned());
    Answer::resolved(vec![verdict])
}

fn moved_permanently(path: &str) -> Answer {
    let headers =
        [("Content-Type", "text/html; charset=utf-8".to_owned()), ("Location", path.to_owned())];
    let body = format!("<a href=\"{path}\">Moved Permanently</a>.\n\n").into_bytes();
    Answer { body, ..Answer::new(301, headers) }
}

fn method_not_allowed(allow: &str) -> Answer {
    let allow = vec![("Allow".to_owned(), allow.to_owned())];
    Answer::text(405, "Method Not Allowed").with(allow)
}

/// The token of the first Authorization value, if its scheme is bearer.
fn bearer(request: &Recorded) -> Option<&str> {
    let (scheme, token) = request.header("authorization")?.split_once(' ')?;
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// Returns true if the main server blocks the client by its User-Agent.
fn is_crawler(request: &Recorded) -> bool {
    let agent = request.header("user-agent").unwrap_or_default();
    ["Googlebot", "bingbot"].iter().any(|name| agent.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_policy_is_as_long_as_authgears() {
        assert_eq!(PERMISSIONS_POLICY.len(), 673);
    }
}
