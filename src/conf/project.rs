//! Projects: `authgear_project NAME {}`, and those that a URL alone makes.

use core::cell::{Cell, OnceCell};
use core::ffi::CStr;
use core::fmt;
use core::time::Duration;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use authgear::credentials::CookieNames;
use authgear::endpoint::{Endpoint, Url, UrlError};
use authgear::metrics::Slot;
use authgear::token::{Algorithm, KeySet, Profile, Schedule, MAX_KEY_SET};
use sha2::{Digest as _, Sha256};

use super::{Id, MainConf, Mode, Server};
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
    /// How access tokens are verified here, where they are.
    pub tokens: Tokens,
    /// How long a user's older tokens are refused after an event that says so.
    pub revocation_ttl: Duration,
    /// Where it is counted, once that is known: each process finds the same.
    pub slot: OnceCell<Slot>,
}

/// Where a project's resolver is asked.
pub enum Upstream {
    /// By this module's own client.
    Url(Box<Server>),
    /// By a subrequest to this URI.
    Location(String),
}

/// Where the keys of tokens come from.
pub enum KeySource {
    /// They are fetched.
    Url(Box<Server>),
    /// They were read with the configuration.
    File(Rc<KeySet>),
}

/// How access tokens are verified here.
pub struct Tokens {
    /// What they must be.
    pub profile: Profile,
    /// The keys they are verified with.
    pub keys: KeySource,
    /// When those are fetched.
    pub schedule: Schedule,
    /// The same as [`Project::scope`] but for verdicts that the worker itself found: what is purged
    /// or refused of a project is so in both.
    pub scope: [u8; 32],
    in_use: Cell<bool>,
}

impl Tokens {
    /// Whether tokens are verified anywhere.
    pub fn in_use(&self) -> bool {
        self.in_use.get()
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
    pub(super) fn use_at(&self, mode: Mode, resolver: Option<Resolver>) {
        if let (Upstream::Url(server), Mode::Resolver | Mode::Auto) = (&self.resolver, mode) {
            server.use_at(resolver);
        }
        if matches!(mode, Mode::Jwt | Mode::Auto) {
            self.tokens.in_use.set(true);
            if let KeySource::Url(server) = &self.tokens.keys {
                server.use_at(resolver);
            }
        }
    }

    /// The servers that the module's client connects to.
    pub(super) fn servers(&self) -> impl Iterator<Item = &Server> {
        let resolver = match &self.resolver {
            Upstream::Url(server) => Some(&**server),
            Upstream::Location(_) => None,
        };
        let keys = match &self.tokens.keys {
            KeySource::Url(server) => Some(&**server),
            KeySource::File(_) => None,
        };
        resolver.into_iter().chain(keys)
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
    jwks_url: Option<Url>,
    jwks_file: Option<PathBuf>,
    jwks_refresh: Duration,
    jwks_cooldown: Duration,
    audiences: Vec<String>,
    leeway: Duration,
    algorithms: Vec<Algorithm>,
    machine_tokens: bool,
    revocation_ttl: Duration,
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
            jwks_url: None,
            jwks_file: None,
            jwks_refresh: Duration::from_secs(300),
            jwks_cooldown: Duration::from_secs(30),
            audiences: Vec::new(),
            leeway: Duration::ZERO,
            algorithms: Vec::new(),
            machine_tokens: false,
            revocation_ttl: Duration::from_secs(30 * 60),
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
        let values = arguments.get(1..).unwrap_or_default();
        let value = match values {
            [value] => value.as_str(),
            [first, ..] if matches!(key, "audience" | "algorithms") => first.as_str(),
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
            "revocation_ttl" => self.revocation_ttl = time(key, value, Duration::from_secs(1))?,
            "max_response_size" => self.max_response_size = response_size(key, value)?,
            "ssl_verify" => self.ssl_verify = flag(key, value)?,
            "ssl_trusted_certificate" => {
                self.ssl_trusted_certificate = Some(cf.full_path(value)?);
            }
            "jwks_url" => {
                let url = Url::parse(value).map_err(|error| {
                    ConfError::new(format!("invalid \"jwks_url\" \"{}\": it {error}", shown(value)))
                })?;
                if url.is_exposed() {
                    cf.warn(format_args!("keys are fetched from \"{url}\" in clear: use https"));
                }
                self.jwks_url = Some(url);
            }
            "jwks_file" => self.jwks_file = Some(cf.full_path(value)?),
            "jwks_refresh" => self.jwks_refresh = time(key, value, Duration::from_secs(1))?,
            "jwks_cooldown" => self.jwks_cooldown = time(key, value, Duration::from_secs(1))?,
            "audience" => self.audiences = audiences(key, values)?,
            "leeway" => self.leeway = leeway(key, value)?,
            "algorithms" => self.algorithms = algorithms(key, values)?,
            "machine_tokens" => self.machine_tokens = flag(key, value)?,
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
        if self.jwks_url.is_some() && self.jwks_file.is_some() {
            return Err(ConfError::new(format!(
                "authgear_project \"{name}\" has both \"jwks_url\" and \"jwks_file\""
            )));
        }
        // What was believed without a certificate is not believed with one.
        let trust = match &self.ssl_trusted_certificate {
            _ if !self.ssl_verify => "anybody".to_owned(),
            Some(file) => file.display().to_string(),
            None => String::new(),
        };
        let mut context = None;
        let mut tls = || match &context {
            Some(context) => Ok(Rc::clone(context)),
            None => {
                let made = tls(cf, self.ssl_verify, self.ssl_trusted_certificate.as_deref())?;
                Ok(Rc::clone(context.insert(Rc::new(made))))
            }
        };
        let resolver = match self.resolver_url {
            Some(Target::Location(uri)) => Upstream::Location(uri),
            Some(Target::Url(url)) => Upstream::Url(Box::new(Server::new(url, &mut tls)?)),
            None => Upstream::Url(Box::new(Server::new(endpoint.resolver_url(), &mut tls)?)),
        };
        let mut profile = Profile {
            issuer: endpoint.origin().to_owned(),
            audiences: self.audiences,
            algorithms: self.algorithms,
            leeway: self.leeway.as_secs(),
            machine_tokens: self.machine_tokens,
        };
        if profile.audiences.is_empty() {
            profile.audiences.push(endpoint.origin().to_owned());
        }
        if profile.algorithms.is_empty() {
            profile.algorithms.push(Algorithm::default());
        }
        let (keys, source) = match &self.jwks_file {
            Some(file) => {
                let keys = read_keys(cf, file, &profile.algorithms)?;
                // Other keys are another source.
                let source = keys.to_json();
                (KeySource::File(Rc::new(keys)), source)
            }
            None => {
                let url = self.jwks_url.unwrap_or_else(|| endpoint.jwks_url());
                let source = url.to_string();
                (KeySource::Url(Box::new(Server::new(url, &mut tls)?)), source)
            }
        };
        if let (Upstream::Url(server), Some(place)) = (&resolver, &self.asked_at) {
            warn_if_exposed(cf, &server.url, place);
        }
        let settings = [vec![resolver.to_string(), self.cookie_prefix, trust, source]]
            .into_iter()
            .chain([settings_of(&profile)])
            .flatten()
            .collect::<Vec<_>>();
        let tokens = Tokens {
            scope: scope(settings.iter().map(String::as_str).chain(["token"])),
            profile,
            keys,
            schedule: Schedule {
                refresh: self.jwks_refresh.as_millis() as u64,
                cooldown: self.jwks_cooldown.as_millis() as u64,
            },
            in_use: Cell::new(false),
        };
        Ok(Project {
            id: Id::new(),
            scope: scope(settings.iter().map(String::as_str)),
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
            tokens,
            revocation_ttl: self.revocation_ttl,
            slot: OnceCell::new(),
        })
    }
}

/// What a profile says. Where each part ends is plain: before the algorithms is a fixed number.
fn settings_of(profile: &Profile) -> Vec<String> {
    let Profile { issuer, audiences, algorithms, leeway, machine_tokens } = profile;
    let settings = [issuer.clone(), leeway.to_string(), machine_tokens.to_string()].into_iter();
    let algorithms = algorithms.iter().map(|algorithm| algorithm.as_str().to_owned());
    settings.chain(algorithms).chain(["audience".to_owned()]).chain(audiences.clone()).collect()
}

/// Warns of a server that is asked, with credentials, by who knows which way.
pub(super) fn warn_if_exposed(cf: &Conf<'_>, url: &Url, place: &Place) {
    if url.is_exposed() {
        cf.warn_at(place, format_args!("credentials are sent to \"{url}\" in clear: use https"));
    }
}

/// Settings of any length, each told from the next.
fn scope<'a>(settings: impl Iterator<Item = &'a str>) -> [u8; 32] {
    let mut digest = Sha256::new();
    for setting in settings {
        digest.update((setting.len() as u64).to_be_bytes());
        digest.update(setting);
    }
    digest.finalize().into()
}

fn tls(cf: &mut Conf<'_>, verify: bool, trusted: Option<&Path>) -> Result<SslContext, ConfError> {
    SslContext::new(cf, verify, trusted).map_err(|error| match (error, trusted) {
        (SslError::TrustedCertificate, Some(file)) => ConfError::new(format!(
            "cannot load \"ssl_trusted_certificate\" \"{}\"",
            file.display()
        )),
        _ => ConfError::new("cannot set up TLS for Authgear"),
    })
}

fn read_keys(
    cf: &mut Conf<'_>,
    file: &Path,
    algorithms: &[Algorithm],
) -> Result<KeySet, ConfError> {
    let read = || -> io::Result<Vec<u8>> {
        let mut document = Vec::new();
        File::open(file)?.take(MAX_KEY_SET as u64 + 1).read_to_end(&mut document)?;
        Ok(document)
    };
    let name = file.display();
    let document =
        read().map_err(|error| ConfError::new(format!("cannot read \"{name}\": {error}")))?;
    let (keys, skipped) = KeySet::parse(&document, algorithms)
        .map_err(|error| ConfError::new(format!("invalid \"jwks_file\" \"{name}\": {error}")))?;
    if skipped > 0 {
        let all = keys.len() + skipped;
        cf.warn(format_args!("{skipped} of {all} keys in \"{name}\" cannot be used"));
    }
    Ok(keys)
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
    Conf::parse_time(value).filter(|time| (least..=MOST).contains(time)).ok_or_else(|| {
        let from = match least.as_secs() {
            0 => "above 0 and up to 1d, such as 500ms or 5s".to_owned(),
            seconds => format!("from {seconds}s to 1d"),
        };
        invalid(key, value, &format!("a time {from}"))
    })
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

fn audiences(key: &str, values: &[String]) -> Result<Vec<String>, ConfError> {
    const MOST: usize = 16;
    const LONGEST: usize = 2048;
    let right = || format!("from 1 to {MOST} audiences, without spaces");
    for value in values {
        if value.is_empty() || value.len() > LONGEST || !value.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(invalid(key, value, &right()));
        }
    }
    match values {
        [_, ..] if values.len() <= MOST => Ok(values.to_vec()),
        _ => Err(invalid(key, &values.join(" "), &right())),
    }
}

fn algorithms(key: &str, values: &[String]) -> Result<Vec<Algorithm>, ConfError> {
    let mut algorithms = Vec::new();
    for value in values {
        let algorithm = Algorithm::parse(value).ok_or_else(|| {
            let known: Vec<_> = Algorithm::ALL.iter().map(|known| known.as_str()).collect();
            invalid(key, value, &format!("among {}", known.join(", ")))
        })?;
        if !algorithms.contains(&algorithm) {
            algorithms.push(algorithm);
        }
    }
    Ok(algorithms)
}

fn leeway(key: &str, value: &str) -> Result<Duration, ConfError> {
    const MOST: Duration = Duration::from_secs(300);
    Conf::parse_time(value)
        .filter(|time| *time <= MOST && time.subsec_millis() == 0)
        .ok_or_else(|| invalid(key, value, "whole seconds up to 5m"))
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
        conf.named.insert(name.to_owned(), Rc::new(project));
        conf.named_at.push((name.to_owned(), place));
        Ok(())
    }
}
