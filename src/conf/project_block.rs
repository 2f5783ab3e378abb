//! `authgear_project NAME {}`: reads the settings of a project.

use core::cell::{Cell, OnceCell};
use core::ffi::CStr;
use core::time::Duration;
use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use authgear::credentials::CookieNames;
use authgear::fleet::record::RecordScope;
use authgear::resolver;
use authgear::resolver::endpoint::{self, Endpoint, Scheme, Url, UrlError};
use authgear::token::{Algorithm, KeySet, Profile, Schedule, MAX_KEY_SET};

use super::arguments::{first, flag, invalid, is_name, number, time, truncated};
use super::project::{KeySource, Project, Tokens, Upstream, UserinfoEndpoint};
use super::scope::scope;
use super::{Id, MainConf, UpstreamServer};
use nginx::{self, Conf, ConfError, Context, Directive, SourceLocation, SslContext, SslError};

/// Settings of a project while they are read.
pub(super) struct ProjectBuilder {
    seen: HashSet<String>,
    endpoint: Option<Endpoint>,
    client_id: Option<String>,
    resolver_url: Option<ResolverTarget>,
    /// Position of the setting that names the server.
    asked_at: Option<SourceLocation>,
    cookies: CookieNames,
    cookie_prefix: String,
    connect_timeout: Duration,
    timeout: Duration,
    max_connections: usize,
    max_fails: u32,
    fail_timeout: Duration,
    keepalive: usize,
    keepalive_timeout: Duration,
    ssl_name: Option<String>,
    ssl_verify: bool,
    ssl_trusted_certificate: Option<PathBuf>,
    max_response_size: usize,
    userinfo_url: Option<Url>,
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

/// Settings of an `authgear_project`.
const SETTINGS: [&str; 25] = [
    "endpoint",
    "client_id",
    "resolver_url",
    "cookie_prefix",
    "connect_timeout",
    "timeout",
    "fail_timeout",
    "keepalive_timeout",
    "max_connections",
    "max_fails",
    "keepalive",
    "revocation_ttl",
    "max_response_size",
    "ssl_name",
    "ssl_verify",
    "ssl_trusted_certificate",
    "jwks_url",
    "userinfo_url",
    "jwks_file",
    "jwks_refresh",
    "jwks_cooldown",
    "audience",
    "leeway",
    "algorithms",
    "machine_tokens",
];

enum ResolverTarget {
    Url(Url),
    Location(String),
}

impl ProjectBuilder {
    fn new() -> Self {
        Self {
            seen: HashSet::new(),
            endpoint: None,
            client_id: None,
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
            ssl_name: None,
            ssl_verify: true,
            ssl_trusted_certificate: None,
            max_response_size: 64 * 1024,
            userinfo_url: None,
            jwks_url: None,
            jwks_file: None,
            jwks_refresh: Duration::from_secs(300),
            jwks_cooldown: Duration::from_secs(30),
            audiences: Vec::new(),
            leeway: Duration::from_secs(5),
            algorithms: Vec::new(),
            machine_tokens: false,
            revocation_ttl: Duration::from_secs(30 * 60),
        }
    }

    /// Default settings, for `authgear URL`.
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
                    ConfError::new(format!(
                        "invalid \"endpoint\" \"{}\": it {error}",
                        truncated(value)
                    ))
                })?);
                self.asked_at.get_or_insert(cf.place());
            }
            "client_id" => self.client_id = Some(client_id(key, value)?),
            "resolver_url" => {
                self.resolver_url = Some(resolver_target(cf, value)?);
                self.asked_at = Some(cf.place());
            }
            "cookie_prefix" => {
                self.cookies = CookieNames::new(value.as_bytes()).map_err(|error| {
                    ConfError::new(format!(
                        "invalid \"cookie_prefix\" \"{}\": it {error}",
                        truncated(value)
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
            "ssl_name" => {
                let name = endpoint::server_name(value);
                self.ssl_name = Some(name.map_err(|_| {
                    invalid(key, value, "the host name or the address in the certificate")
                })?);
            }
            "ssl_verify" => self.ssl_verify = flag(key, value)?,
            "ssl_trusted_certificate" => {
                self.ssl_trusted_certificate = Some(cf.full_path(value)?);
            }
            "jwks_url" => {
                let url = Url::parse(value).map_err(|error| {
                    ConfError::new(format!(
                        "invalid \"jwks_url\" \"{}\": it {error}",
                        truncated(value)
                    ))
                })?;
                if super::upstream::is_exposed(&url) {
                    cf.warn(format_args!("keys are fetched from \"{url}\" in clear: use https"));
                }
                self.jwks_url = Some(url);
            }
            "userinfo_url" => {
                let url = Url::parse(value).map_err(|error| {
                    let value = truncated(value);
                    ConfError::new(format!("invalid \"userinfo_url\" \"{value}\": it {error}"))
                })?;
                let place = cf.place();
                warn_if_exposed(cf, &url, &place);
                self.userinfo_url = Some(url);
            }
            "jwks_file" => self.jwks_file = Some(cf.full_path(value)?),
            "jwks_refresh" => self.jwks_refresh = time(key, value, Duration::from_secs(1))?,
            "jwks_cooldown" => self.jwks_cooldown = time(key, value, Duration::from_secs(1))?,
            "audience" => self.audiences = audiences(key, values)?,
            "leeway" => self.leeway = leeway(key, value)?,
            "algorithms" => self.algorithms = algorithms(key, values)?,
            "machine_tokens" => self.machine_tokens = flag(key, value)?,
            _ => {
                return Err(ConfError::new(format!(
                    "unknown setting \"{}\" of authgear_project, it must be one of {}",
                    truncated(key),
                    SETTINGS.join(", ")
                )));
            }
        }
        if !self.seen.insert(key.to_owned()) {
            return Err(ConfError::new(format!("\"{key}\" directive is duplicate")));
        }
        Ok(())
    }

    /// Returns `ssl_name`, or an error if no server is asked by that name.
    fn ssl_name_in_use(&self) -> Result<Option<String>, ConfError> {
        let Some(name) = &self.ssl_name else { return Ok(None) };
        let resolver = match &self.resolver_url {
            Some(ResolverTarget::Url(url)) => Some(url),
            _ => None,
        };
        let mut urls = resolver.into_iter().chain(&self.jwks_url);
        match urls.any(|url| url.scheme() == Scheme::Https) {
            true => Ok(Some(name.clone())),
            false => Err(ConfError::new(format!(
                "\"ssl_name\" \"{name}\" has no effect: neither \"resolver_url\" nor \"jwks_url\" \
                 is an https URL"
            ))),
        }
    }

    /// Checks the settings, and makes the project.
    pub(super) fn finish(self, cf: &mut Conf<'_>, name: &str) -> Result<Project, ConfError> {
        let ssl_name = self.ssl_name_in_use()?;
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
        // Verdicts that came over an unverified connection are not used for a verified one.
        let trust = match &self.ssl_trusted_certificate {
            _ if !self.ssl_verify => "anybody".to_owned(),
            Some(file) => file.display().to_string(),
            None => String::new(),
        };
        let named = ssl_name.clone().unwrap_or_default();
        let mut context = None;
        let mut tls = || match &context {
            Some(context) => Ok(Rc::clone(context)),
            None => {
                let made = tls(cf, self.ssl_verify, self.ssl_trusted_certificate.as_deref())?;
                Ok(Rc::clone(context.insert(Rc::new(made))))
            }
        };
        let resolver = match self.resolver_url {
            Some(ResolverTarget::Location(uri)) => Upstream::Location(uri),
            Some(ResolverTarget::Url(url)) => {
                Upstream::Url(Box::new(UpstreamServer::new(url, ssl_name.clone(), &mut tls)?))
            }
            None => {
                let url = endpoint.resolver_url();
                Upstream::Url(Box::new(UpstreamServer::new(url, None, &mut tls)?))
            }
        };
        let url = self.userinfo_url.unwrap_or_else(|| endpoint.userinfo_url());
        let userinfo = UpstreamServer::new(url, None, &mut tls)?;
        let mut profile = Profile {
            issuer: endpoint.origin().to_owned(),
            audiences: self.audiences,
            algorithms: self.algorithms,
            leeway: self.leeway.as_secs(),
            machine_tokens: self.machine_tokens,
        };
        let has_audience = !profile.audiences.is_empty();
        if !has_audience {
            profile.audiences.push(endpoint.origin().to_owned());
        }
        if profile.algorithms.is_empty() {
            profile.algorithms.push(Algorithm::default());
        }
        let (keys, source) = match &self.jwks_file {
            Some(file) => {
                let keys = read_keys(cf, file, &profile.algorithms)?;
                // Verdicts of other keys are not used.
                let source = keys.to_json();
                (KeySource::File(Rc::new(keys)), source)
            }
            None => {
                // The endpoint's own certificate has the endpoint's name.
                let ssl_name = ssl_name.filter(|_| self.jwks_url.is_some());
                let url = self.jwks_url.unwrap_or_else(|| endpoint.jwks_url());
                let source = url.to_string();
                (KeySource::Url(Box::new(UpstreamServer::new(url, ssl_name, &mut tls)?)), source)
            }
        };
        if let (Upstream::Url(server), Some(place)) = (&resolver, &self.asked_at) {
            warn_if_exposed(cf, &server.url, place);
        }
        let record_scope =
            self.ssl_verify.then(|| RecordScope::new(endpoint.origin(), &self.cookie_prefix));
        let settings = [vec![resolver.to_string(), self.cookie_prefix, trust, named, source]]
            .into_iter()
            .chain([settings_of(&profile), vec![has_audience.to_string()]])
            .flatten()
            .collect::<Vec<_>>();
        let url = userinfo.url.to_string();
        let texts = settings.iter().map(String::as_str).chain([url.as_str(), "userinfo"]);
        let prefix =
            |path| resolver::prefix(&endpoint, path).map_err(|e| ConfError::new(e.to_string()));
        let lookup_prefix = prefix(match &resolver {
            Upstream::Url(server) => server.url.path(),
            Upstream::Location(_) => "/",
        })?;
        let userinfo = UserinfoEndpoint {
            scope: scope(texts),
            prefix: prefix(userinfo.url.path())?,
            server: Box::new(userinfo),
        };
        let tokens = Tokens {
            scope: scope(settings.iter().map(String::as_str).chain(["token"])),
            profile,
            keys,
            schedule: Schedule {
                refresh: self.jwks_refresh.as_millis() as u64,
                cooldown: self.jwks_cooldown.as_millis() as u64,
            },
            has_audience,
            has_location_audiences: Cell::new(false),
            in_use: Cell::new(false),
        };
        Ok(Project {
            id: Id::new(),
            record_scope,
            scope: scope(settings.iter().map(String::as_str)),
            name: name.to_owned(),
            endpoint,
            client_id: self.client_id,
            resolver,
            lookup_prefix,
            resolver_at: self.asked_at,
            userinfo,
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

/// Reads the value of `resolver_url`, and warns of a URL without a path.
fn resolver_target(cf: &mut Conf<'_>, value: &str) -> Result<ResolverTarget, ConfError> {
    let wrong = |error: UrlError, hint| {
        let value = truncated(value);
        let message = format!("invalid \"resolver_url\" \"{value}\": it {error}");
        ConfError::new(message + hint)
    };
    if value.starts_with('/') {
        let url = format!("http://location{value}");
        Url::parse(&url).map_err(|error| wrong(error, ""))?;
        return Ok(ResolverTarget::Location(value.to_owned()));
    }
    let hint = "; it may be a URL, or the URI of an internal location, which begins with \"/\"";
    let url = Url::parse(value).map_err(|error| wrong(error, hint))?;
    if url.path() == "/" {
        cf.warn(format_args!(
            "\"resolver_url\" \"{url}\" has no path: Authgear's resolver answers at \
             \"/_resolver/resolve\", and on a port of its own at \"/resolve\""
        ));
    }
    Ok(ResolverTarget::Url(url))
}

/// Settings of a profile, without ambiguity: a fixed number of them precedes the algorithms.
fn settings_of(profile: &Profile) -> Vec<String> {
    let Profile { issuer, audiences, algorithms, leeway, machine_tokens } = profile;
    let settings = [issuer.clone(), leeway.to_string(), machine_tokens.to_string()].into_iter();
    let algorithms = algorithms.iter().map(|algorithm| algorithm.as_str().to_owned());
    settings.chain(algorithms).chain(["audience".to_owned()]).chain(audiences.clone()).collect()
}

/// Warns of credentials that are sent without TLS.
pub(super) fn warn_if_exposed(cf: &Conf<'_>, url: &Url, place: &SourceLocation) {
    if super::upstream::is_exposed(url) {
        cf.warn_at(place, format_args!("credentials are sent to \"{url}\" in clear: use https"));
    }
}

/// Makes settings of TLS.
pub(super) fn tls(
    cf: &mut Conf<'_>,
    verify: bool,
    trusted: Option<&Path>,
) -> Result<SslContext, ConfError> {
    SslContext::new(cf, verify, trusted).map_err(|error| match (error, trusted) {
        (SslError::TrustedCertificate(reason), Some(file)) => ConfError::new(format!(
            "cannot load \"ssl_trusted_certificate\" \"{}\": {reason}",
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

fn client_id(key: &str, value: &str) -> Result<String, ConfError> {
    const LONGEST: usize = 256;
    let is_id = (1..=LONGEST).contains(&value.len()) && value.bytes().all(|b| b.is_ascii_graphic());
    is_id
        .then(|| value.to_owned())
        .ok_or_else(|| invalid(key, value, "the client id of an application in Authgear's portal"))
}

fn response_size(key: &str, value: &str) -> Result<usize, ConfError> {
    const RANGE: core::ops::RangeInclusive<usize> = 8 * 1024..=1024 * 1024;
    Conf::parse_size(value)
        .filter(|size| RANGE.contains(size))
        .ok_or_else(|| invalid(key, value, "a size from 8k to 1m"))
}

pub(super) fn audiences(key: &str, values: &[String]) -> Result<Vec<String>, ConfError> {
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

/// `authgear_project NAME { ... }`
pub struct ProjectDirective;

impl Directive for ProjectDirective {
    type Scope = nginx::Main<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_project";
    const CONTEXT: Context = Context::Http;
    const BLOCK: bool = true;

    fn set(cf: &mut Conf<'_>, conf: &mut MainConf) -> Result<(), ConfError> {
        let name = &first(cf);
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
        let mut builder = ProjectBuilder::new();
        cf.block(&mut |cf| builder.line(cf))?;
        let project = builder.finish(cf, name)?;
        conf.named.insert(name.to_owned(), Rc::new(project));
        conf.named_at.push((name.to_owned(), place));
        Ok(())
    }
}
