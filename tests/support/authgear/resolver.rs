//! Authgear's answers: pure functions of the request and the store.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;

use super::token::{decode, Decoded, SigningKey};
use super::users::{Store, User};
use crate::recorded::Recorded;

pub(crate) const JWKS_PATH: &str = "/oauth2/jwks";
const RESOLVER_PATHS: [&str; 2] = ["/resolve", "/_resolver/resolve"];

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

    fn request_origin(&self, request: &Recorded) -> String {
        format!("{}://{}", self.scheme(request), self.authority(request))
    }

    fn knows_host(&self, request: &Recorded) -> bool {
        let own = self.origin.split_once("://").map_or("", |(_, authority)| authority);
        !self.database || host_of(self.authority(request)) == host_of(own)
    }

    /// The first cookie of that name that is well-formed, as `readCookies` of Go's net/http.
    fn cookie<'a>(&self, request: &'a Recorded, name: &str) -> Option<&'a str> {
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
}

impl Answer {
    fn new<'a>(status: u16, headers: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Self { status, headers, body: Vec::new() }
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
        let error = json!({"error": {"name": "InternalError", "reason": "UnexpectedError",
            "message": "unexpected error occurred", "code": 500}});
        let headers = [("Content-Type", "application/json".to_owned())];
        let error = Self { body: error.to_string().into_bytes(), ..Self::new(500, headers) };
        error.with(common_headers())
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
        self.headers.push(date());
        if method != "HEAD" || !self.body.is_empty() {
            self.headers.push(("Content-Length".to_owned(), self.body.len().to_string()));
        }
        self
    }
}

pub(crate) fn date() -> (String, String) {
    ("Date".to_owned(), httpdate::fmt_http_date(SystemTime::now()))
}

fn common_headers() -> Vec<(String, String)> {
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
}

/// The answer, and the session that Authgear locks for it.
pub(crate) struct Decision {
    pub(crate) answer: Answer,
    pub(crate) session: Option<String>,
}

impl Authgear<'_> {
    pub(crate) fn decide(&self, request: &Recorded) -> Decision {
        let (path, method) = (request.path(), request.method.as_str());
        let answer = if RESOLVER_PATHS.contains(&path) {
            match method {
                "GET" | "HEAD" if self.deployment.knows_host(request) => {
                    return self.resolve(request)
                }
                "GET" | "HEAD" => Answer::text(404, "app not found").with(common_headers()),
                _ => method_not_allowed("GET, HEAD"),
            }
        } else if path == JWKS_PATH {
            match method {
                "GET" | "OPTIONS" if self.deployment.knows_host(request) => self.jwks(request),
                "GET" | "OPTIONS" => Answer::text(404, "app not found").with(common_headers()),
                _ => method_not_allowed("GET, OPTIONS"),
            }
        } else {
            Answer::text(404, "404 page not found")
        };
        Decision { answer, session: None }
    }

    fn jwks(&self, request: &Recorded) -> Answer {
        let origin = &self.deployment.origin;
        if self.deployment.request_origin(request) != *origin {
            let location = [("Location", format!("{origin}{}", request.target))];
            return Answer::new(307, location).with(common_headers());
        }
        let keys: Vec<_> = self.keys.iter().map(|key| key.jwk()).collect();
        let headers = [
            ("Access-Control-Allow-Origin", "*".to_owned()),
            ("Content-Type", "application/json".to_owned()),
            ("Vary", "User-Agent".to_owned()),
        ];
        let body = format!("{}\n", json!({ "keys": keys })).into_bytes();
        Answer { body, ..Answer::new(200, headers) }.with(common_headers())
    }

    fn resolve(&self, request: &Recorded) -> Decision {
        let session_cookie = self.deployment.cookie(request, "session");
        let by_session = session_cookie
            .and_then(|cookie| Some((cookie.to_owned(), self.store.by_session(cookie)?)));

        let Some((session, user)) = self.by_access_token(request).or(by_session) else {
            let answer = match session_cookie {
                Some(_) => self.invalid(request),
                None => Answer::resolved(Vec::new()),
            };
            return Decision { answer, session: None };
        };
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
        let hash = match decode(token, self.keys, &origin) {
            Decoded::Grant(hash) => hash,
            Decoded::Opaque => crate::crypto::sha256(token.as_bytes()),
            Decoded::Invalid => return None,
        };
        let user = self.store.by_grant(&hash)?;
        Some((hash, user))
    }

    /// The answer for an invalid session; its cookie is cleared if there was one.
    fn invalid(&self, request: &Recorded) -> Answer {
        let verdict = ("X-Authgear-Session-Valid".to_owned(), "false".to_owned());
        let mut answer = Answer::resolved(vec![verdict]);
        if self.deployment.cookie(request, "session").is_some() {
            let secure = if self.deployment.scheme(request) == "https" { " Secure;" } else { "" };
            let clear = format!(
                "{}session=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly;{secure} \
                 SameSite=Lax",
                self.deployment.cookie_prefix
            );
            answer = answer.with(vec![("Set-Cookie".to_owned(), clear)]);
        }
        answer
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions_policy_is_as_long_as_authgears() {
        assert_eq!(PERMISSIONS_POLICY.len(), 673);
    }
}
