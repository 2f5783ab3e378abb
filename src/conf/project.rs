//! Projects: `authgear_project NAME {}`, and those that a URL alone makes.

use core::cell::{Cell, OnceCell};
use core::ffi::CStr;
use core::fmt;
use core::time::Duration;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use authgear::credentials::CookieNames;
use authgear::endpoint::{Endpoint, Scheme, Url, UrlError};
use sha2::{Digest as _, Sha256};

use super::{Id, MainConf};
use crate::nginx::{
    self, Conf, ConfError, Context, Directive, Place, Resolver, SslContext, SslError,
};

/// One Authgear project, and how its resolver is asked.
pub struct Project {
    /// Unique in this process, over reloads too.
    pub id: Id,
    /// Digest of all that an answer depends on, besides the credentials: the part of keys that
    /// keeps projects apart, over reloads too.
    pub scope: [u8; 32],
    /// As the configuration names it: for logs.
    pub name: String,
    /// The public origin.
    pub endpoint: Endpoint,
    /// Who is asked.
    pub resolver: Upstream,
    /// Authgear's cookies.
    pub cookies: CookieNames,
    /// For the TCP and TLS handshakes with one address, and for a DNS answer.
    pub connect_timeout: Duration,
    /// For all that one client request waits.
    pub timeout: Duration,
    /// Most connections in use at a time, per worker.
    pub max_connections: usize,
    /// Failures in a row after which nobody is asked for `fail_timeout`; 0: never.
    pub max_fails: u32,
    /// See `max_fails`.
    pub fail_timeout: Duration,
    /// Most idle connections kept, per worker.
    pub keepalive: usize,
    /// How long an idle connection is kept.
    pub keepalive_timeout: Duration,
    /// Most bytes of an answer, header and body.
    pub max_response_size: usize,
}

/// Where a project's resolver is asked.
pub enum Upstream {
    /// By this module's own client.
    Url(Box<Server>),
    /// By a subrequest to this URI.
    Location(String),
}

/// A server that the module's client connects to.
pub struct Server {
    /// The URL that is asked.
    pub url: Url,
    /// Set for https.
    pub tls: Option<SslContext>,
    in_use: Cell<bool>,
    name_servers: OnceCell<Resolver>,
    /// Known when the configuration was read: the address itself, or what the system said.
    addresses: OnceCell<Vec<SocketAddr>>,
}

impl Server {
    /// The name servers that know the host's addresses, when it is a name.
    pub fn name_servers(&self) -> Option<Resolver> {
        self.name_servers.get().copied()
    }

    /// Addresses to use where there are no name servers, or they fail.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.addresses.get().map(Vec::as_slice).unwrap_or_default()
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(server) => server.url.fmt(f),
            Self::Location(uri) => uri.fmt(f),
        }
    }
}

impl Project {
    /// A location uses the project, with this `resolver` directive in force.
    pub(super) fn use_at(&self, resolver: Option<Resolver>) {
        let Upstream::Url(server) = &self.resolver else { return };
        server.in_use.set(true);
        if let Some(resolver) = resolver {
            // The first one stays: locations of one project share its connections.
            let _ = server.name_servers.set(resolver);
        }
    }

    /// The URL with a host name that is in use and that no `resolver` covers.
    pub(super) fn unresolved_name(&self) -> Option<&Url> {
        match &self.resolver {
            Upstream::Url(server)
                if server.in_use.get()
                    && server.name_servers.get().is_none()
                    && server.addresses.get().is_none() =>
            {
                Some(&server.url)
            }
            _ => None,
        }
    }

    pub(super) fn use_system(&self, addresses: Vec<SocketAddr>, resolver: Option<Resolver>) {
        let Upstream::Url(server) = &self.resolver else { return };
        let _ = server.addresses.set(addresses);
        if let Some(resolver) = resolver {
            let _ = server.name_servers.set(resolver);
        }
    }
}

/// Whether `name` may name a project.
pub(super) fn is_name(name: &str) -> bool {
    const LONGEST: usize = 64;
    name.len() <= LONGEST
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// A project whose settings are being read.
pub(super) struct Draft {
    seen: HashSet<String>,
    endpoint: Option<Endpoint>,
    resolver_url: Option<Target>,
    /// Where who is asked is named.
    asked_at: Option<Place>,
    cookies: CookieNames,
    cookie_prefix: String,
    connect_timeout: Duration,
    timeout: Duration,
    max_connections: usize,
    max_fails: u32,
    fail_timeout: Duration,
    keepalive: usize,
    keepalive_timeout: Duration,
    ssl_verify: bool,
    ssl_trusted_certificate: Option<PathBuf>,
    max_response_size: usize,
}

enum Target {
    Url(Url),
    Location(String),
}

impl Draft {
    fn new() -> Self {
        Self {
            seen: HashSet::new(),
            endpoint: None,
            resolver_url: None,
            asked_at: None,
            cookies: CookieNames::default(),
            cookie_prefix: String::new(),
            connect_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
            max_connections: 64,
            max_fails: 3,
            fail_timeout: Duration::from_secs(10),
            keepalive: 16,
            keepalive_timeout: Duration::from_secs(60),
            ssl_verify: true,
            ssl_trusted_certificate: None,
            max_response_size: 64 * 1024,
        }
    }

    /// The defaults, for `authgear URL`.
    pub(super) fn of(endpoint: Endpoint) -> Self {
        Self { endpoint: Some(endpoint), ..Self::new() }
    }

    /// Reads one line of the block.
    fn line(&mut self, cf: &mut Conf<'_>) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let key = arguments.first().map(String::as_str).unwrap_or_default();
        let value = match arguments.get(1..) {
            Some([value]) => value.as_str(),
            _ => {
                let message = format!("invalid number of arguments in \"{key}\" directive");
                return Err(ConfError::new(message));
            }
        };
        let one = Duration::from_millis(1);
        match key {
            "endpoint" => {
                self.endpoint = Some(Endpoint::parse(value).map_err(|error| {
                    ConfError::new(format!("invalid \"endpoint\" \"{}\": it {error}", shown(value)))
                })?);
                self.asked_at.get_or_insert(cf.place());
            }
            "resolver_url" => {
                let wrong = |error: UrlError, hint| {
                    let value = shown(value);
                    let message = format!("invalid \"resolver_url\" \"{value}\": it {error}");
                    ConfError::new(message + hint)
                };
                self.resolver_url = Some(if value.starts_with('/') {
                    let url = format!("http://location{value}");
                    Url::parse(&url).map_err(|error| wrong(error, ""))?;
                    Target::Location(value.to_owned())
                } else {
                    let hint = "; it may be a URL, or the URI of an internal location, which \
                                begins with \"/\"";
                    Target::Url(Url::parse(value).map_err(|error| wrong(error, hint))?)
                });
                self.asked_at = Some(cf.place());
            }
            "cookie_prefix" => {
                self.cookies = CookieNames::new(value.as_bytes()).map_err(|error| {
                    ConfError::new(format!(
                        "invalid \"cookie_prefix\" \"{}\": it {error}",
                        shown(value)
                    ))
                })?;
                self.cookie_prefix = value.to_owned();
            }
            "connect_timeout" => self.connect_timeout = time(key, value, one)?,
            "timeout" => self.timeout = time(key, value, one)?,
            "fail_timeout" => self.fail_timeout = time(key, value, one)?,
            "keepalive_timeout" => self.keepalive_timeout = time(key, value, one)?,
            "max_connections" => self.max_connections = number(key, value, 1, 65535)?,
            "max_fails" => self.max_fails = number(key, value, 0, u32::MAX)?,
            "keepalive" => self.keepalive = number(key, value, 0, 65535)?,
            "max_response_size" => self.max_response_size = response_size(key, value)?,
            "ssl_verify" => self.ssl_verify = flag(key, value)?,
            "ssl_trusted_certificate" => {
                self.ssl_trusted_certificate = Some(cf.full_path(value)?);
            }
            _ => return Err(ConfError::new(format!("unknown directive \"{key}\""))),
        }
        if !self.seen.insert(key.to_owned()) {
            return Err(ConfError::new(format!("\"{key}\" directive is duplicate")));
        }
        Ok(())
    }

    /// The project, complete and consistent.
    pub(super) fn finish(self, cf: &mut Conf<'_>, name: &str) -> Result<Project, ConfError> {
        let Some(endpoint) = self.endpoint else {
            return Err(ConfError::new(format!(
                "authgear_project \"{name}\" has no \"endpoint\", such as \
                 https://myapp.authgear.cloud"
            )));
        };
        // What was believed without a certificate is not believed with one.
        let trust = match &self.ssl_trusted_certificate {
            _ if !self.ssl_verify => "anybody".to_owned(),
            Some(file) => file.display().to_string(),
            None => String::new(),
        };
        let resolver = match self.resolver_url {
            Some(Target::Location(uri)) => Upstream::Location(uri),
            Some(Target::Url(url)) => {
                server(cf, url, self.ssl_verify, self.ssl_trusted_certificate)?
            }
            None => {
                let url = endpoint.resolver_url();
                server(cf, url, self.ssl_verify, self.ssl_trusted_certificate)?
            }
        };
        if let (Upstream::Url(server), Some(place)) = (&resolver, &self.asked_at) {
            warn_if_exposed(cf, &server.url, place);
        }
        Ok(Project {
            id: Id::new(),
            scope: scope(&[endpoint.origin(), &resolver.to_string(), &self.cookie_prefix, &trust]),
            name: name.to_owned(),
            endpoint,
            resolver,
            cookies: self.cookies,
            connect_timeout: self.connect_timeout,
            timeout: self.timeout,
            max_connections: self.max_connections,
            max_fails: self.max_fails,
            fail_timeout: self.fail_timeout,
            keepalive: self.keepalive,
            keepalive_timeout: self.keepalive_timeout,
            max_response_size: self.max_response_size,
        })
    }
}

/// Warns of a server that is asked, with credentials, by who knows which way.
pub(super) fn warn_if_exposed(cf: &Conf<'_>, url: &Url, place: &Place) {
    if url.is_exposed() {
        let message = format_args!("credentials are sent to \"{url}\" in clear: use https");
        cf.warn_at(place, message);
    }
}

/// Settings of any length, each told from the next.
fn scope(settings: &[&str]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for setting in settings {
        digest.update((setting.len() as u64).to_be_bytes());
        digest.update(setting);
    }
    digest.finalize().into()
}

fn server(
    cf: &mut Conf<'_>,
    url: Url,
    verify: bool,
    trusted: Option<PathBuf>,
) -> Result<Upstream, ConfError> {
    let tls = match url.scheme() {
        Scheme::Http => None,
        Scheme::Https => {
            Some(SslContext::new(cf, verify, trusted.as_deref()).map_err(|e| {
                match (e, trusted) {
                    (SslError::TrustedCertificate, Some(file)) => ConfError::new(format!(
                        "cannot load \"ssl_trusted_certificate\" \"{}\"",
                        file.display()
                    )),
                    _ => ConfError::new("cannot set up TLS for the resolver"),
                }
            })?)
        }
    };
    let addresses = OnceCell::new();
    if let Some(ip) = url.ip() {
        let _ = addresses.set(vec![SocketAddr::new(ip, url.port())]);
    }
    Ok(Upstream::Url(Box::new(Server {
        url,
        tls,
        in_use: Cell::new(false),
        name_servers: OnceCell::new(),
        addresses,
    })))
}

/// `value` as an error shows it: nginx cuts off lines that are too long.
pub(super) fn shown(value: &str) -> String {
    const LONGEST: usize = 100;
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}

pub(super) fn invalid(key: &str, value: &str, right: &str) -> ConfError {
    let value = shown(value);
    ConfError::new(format!("invalid value \"{value}\" in \"{key}\" directive, it must be {right}"))
}

fn time(key: &str, value: &str, least: Duration) -> Result<Duration, ConfError> {
    const MOST: Duration = Duration::from_secs(86400);
    Conf::parse_time(value)
        .filter(|time| (least..=MOST).contains(time))
        .ok_or_else(|| invalid(key, value, "a time above 0 and up to 1d, such as 500ms or 5s"))
}

fn number<T>(key: &str, value: &str, least: T, most: T) -> Result<T, ConfError>
where
    T: PartialOrd + fmt::Display + std::str::FromStr,
{
    value
        .parse()
        .ok()
        .filter(|number| (&least..=&most).contains(&number))
        .ok_or_else(|| invalid(key, value, &format!("a number from {least} to {most}")))
}

fn response_size(key: &str, value: &str) -> Result<usize, ConfError> {
    const RANGE: core::ops::RangeInclusive<usize> = 8 * 1024..=1024 * 1024;
    Conf::parse_size(value)
        .filter(|size| RANGE.contains(size))
        .ok_or_else(|| invalid(key, value, "a size from 8k to 1m"))
}

pub(super) fn flag(key: &str, value: &str) -> Result<bool, ConfError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(invalid(key, value, "\"on\" or \"off\"")),
    }
}

impl Directive for Project {
    type Scope = nginx::Main<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_project";
    const CONTEXT: Context = Context::Http;
    const BLOCK: bool = true;

    fn set(cf: &mut Conf<'_>, conf: &mut MainConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let name = arguments.get(1).map(String::as_str).unwrap_or_default();
        if !is_name(name) || name == "off" {
            return Err(ConfError::new(format!(
                "invalid name \"{name}\" of authgear_project: letters, digits, \"_\", \"-\" and \
                 \".\" are allowed, the first a letter or \"_\", and \"off\" is taken"
            )));
        }
        if conf.named.contains_key(name) {
            return Err(ConfError::new(format!("duplicate authgear_project \"{name}\"")));
        }
        let place = cf.place();
        let mut draft = Draft::new();
        cf.block(&mut |cf| draft.line(cf))?;
        let project = draft.finish(cf, name)?;
        conf.named.insert(name.to_owned(), std::rc::Rc::new(project));
        conf.named_at.push((name.to_owned(), place));
        Ok(())
    }
}
