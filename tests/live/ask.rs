//! Requests to a live Authgear, with the headers of the module's look-ups.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use http::{HeaderMap, Request, Uri};
use serde_json::Value;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use ureq::tls::{parse_pem, PemItem, RootCerts, TlsConfig};

const DEADLINE: Duration = Duration::from_secs(20);

/// Most bytes of a body that are read.
const MAX_BODY: u64 = 1 << 20;

/// Names and values of headers.
pub(crate) type Headers<'a> = [(&'a str, &'a str)];

/// The Authgear, and how to ask it.
pub(crate) struct Live {
    agent: ureq::Agent,
    /// Public origin.
    pub(crate) origin: String,
    authority: String,
    scheme: String,
    resolver: String,
    /// True if the resolver is asked past the proxy that the public sees.
    pub(crate) is_direct: bool,
    /// Name and value of the session cookie.
    pub(crate) cookie: Option<(String, String)>,
    pub(crate) token: Option<String>,
}

/// An answer, or none.
pub(crate) struct Answer {
    /// 0 if there was no answer.
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The status, and the resolver's word about the session.
    pub(crate) fn word(&self) -> String {
        let word = self.header("x-authgear-session-valid");
        let any = self.headers.keys().any(|name| name.as_str().starts_with("x-authgear-"));
        match (self.status, word) {
            (0, _) => "no answer".to_owned(),
            (200, Some(word @ ("true" | "false"))) => word.to_owned(),
            (200, None) if !any => "nothing".to_owned(),
            (status, _) => format!("status {status}"),
        }
    }

    /// The body, if it is a JSON object.
    pub(crate) fn document(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

impl Live {
    /// Reads the arguments: the public origin, and the resolver's URL if it is another.
    pub(crate) fn new(
        arguments: &[String],
        cookie: Option<String>,
        token: Option<String>,
    ) -> Result<Self, String> {
        let given = |value: Option<String>| value.filter(|value| !value.is_empty());
        let (origin, resolver) = match arguments {
            [origin] => (origin, None),
            [origin, resolver] => (origin, Some(resolver)),
            _ => return Err("one or two URLs are wanted".to_owned()),
        };
        let origin = origin.trim_end_matches('/');
        let uri: Uri = origin.parse().map_err(|_| format!("\"{origin}\" is no URL"))?;
        let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(format!("\"{origin}\" is no URL with a scheme and a host"));
        };
        let cookie = match given(cookie) {
            None => None,
            Some(cookie) => match cookie.split_once('=') {
                Some((name, value)) if name.ends_with("session") => {
                    Some((name.to_owned(), value.to_owned()))
                }
                _ => return Err("COOKIE is no NAME=VALUE of a session cookie".to_owned()),
            },
        };
        let own = || format!("{origin}/_resolver/resolve");
        Ok(Self {
            agent: agent()?,
            origin: origin.to_owned(),
            authority: authority.to_string(),
            scheme: scheme.to_owned(),
            resolver: resolver.cloned().unwrap_or_else(own),
            is_direct: resolver.is_some(),
            cookie,
            token: given(token),
        })
    }

    /// Name of the session cookie.
    pub(crate) fn session_name(&self) -> &str {
        self.cookie.as_ref().map_or("session", |(name, _)| name)
    }

    /// Name of another cookie of Authgear's, with the same prefix.
    pub(crate) fn cookie_name(&self, name: &str) -> String {
        format!("{}{name}", self.session_name().trim_end_matches("session"))
    }

    /// Sends a request. The origin's headers of a look-up come first, unless `headers` has them.
    pub(crate) fn ask(&self, method: &str, url: &str, headers: &Headers<'_>) -> Answer {
        let (authority, scheme) = (self.authority.as_str(), self.scheme.as_str());
        let usual = [
            ("host", authority),
            ("x-forwarded-host", authority),
            ("x-forwarded-proto", scheme),
            ("user-agent", "nginx-authgear-test-live"),
        ];
        let is_other = |name: &str| headers.iter().all(|(own, _)| *own != name);
        let usual = usual.into_iter().filter(|(name, _)| is_other(name));
        let request = Request::builder().method(method).uri(url);
        let request = usual
            .chain(headers.iter().copied())
            .fold(request, |request, (name, value)| request.header(name, value));
        let none = Answer { status: 0, headers: HeaderMap::new(), body: Vec::new() };
        let Ok(request) = request.body(()) else { return none };
        let Ok(answer) = self.agent.run(request) else { return none };
        let (parts, mut body) = answer.into_parts();
        let body = body.with_config().limit(MAX_BODY).read_to_vec().unwrap_or_default();
        Answer { status: parts.status.as_u16(), headers: parts.headers, body }
    }

    /// Returns why the public origin or the resolver cannot be reached.
    pub(crate) fn reach(&self) -> Result<(), String> {
        for url in [&self.origin, &self.resolver] {
            self.agent.get(url).call().map_err(|error| format!("{url}: {error}"))?;
        }
        Ok(())
    }

    /// Asks the main server.
    pub(crate) fn get(&self, path: &str, headers: &Headers<'_>) -> Answer {
        self.ask("GET", &format!("{}{path}", self.origin), headers)
    }

    /// Asks the resolver.
    pub(crate) fn resolve(&self, headers: &Headers<'_>) -> Answer {
        self.ask("GET", &self.resolver, headers)
    }

    /// Asks the resolver by another method, or at a path beside its own.
    pub(crate) fn resolve_by(&self, method: &str, more: &str) -> Answer {
        self.ask(method, &format!("{}{more}", self.resolver), &[])
    }

    /// Asks for the health of the resolver.
    pub(crate) fn health(&self) -> Answer {
        let (scheme, rest) = self.resolver.split_once("://").unwrap_or_default();
        let authority = rest.split('/').next().unwrap_or_default();
        self.ask("GET", &format!("{scheme}://{authority}/healthz"), &[])
    }

    /// Header and claims of the token, if it is a JWT.
    pub(crate) fn jwt(&self) -> Option<(Value, Value)> {
        let mut parts = self.token.as_ref()?.split('.');
        let mut part = || {
            let bytes = BASE64URL_NOPAD.decode(parts.next()?.as_bytes()).ok()?;
            serde_json::from_slice(&bytes).ok()
        };
        Some((part()?, part()?))
    }

    /// The text without the credentials, should an answer have repeated one.
    pub(crate) fn without_credentials(&self, text: &str) -> String {
        let cookie = self.cookie.as_ref().map(|(_, value)| value);
        let mut text = text.to_owned();
        for secret in cookie.into_iter().chain(&self.token).filter(|secret| !secret.is_empty()) {
            text = text.replace(secret.as_str(), "***");
        }
        text
    }
}

/// A client that follows no redirect, and trusts what the system trusts.
fn agent() -> Result<ureq::Agent, String> {
    const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
    let path = std::env::var("SSL_CERT_FILE").unwrap_or_else(|_| SYSTEM.to_owned());
    let pem = fs::read(&path).map_err(|error| format!("{path}: {error}"))?;
    let roots: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    let tls = TlsConfig::builder()
        .root_certs(RootCerts::new_with_certs(&roots))
        .unversioned_rustls_crypto_provider(Arc::new(default_provider()))
        .build();
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(DEADLINE))
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .tls_config(tls);
    Ok(config.build().into())
}
