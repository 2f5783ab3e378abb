//! `authgear_fleet`, and what counts on a host that is cut off from its fleet.

use core::ffi::CStr;
use core::time::Duration;
use std::path::PathBuf;
use std::rc::Rc;

use authgear::fleet::request::Prefix;
use authgear::fleet::secret::{Secrets, MAX_SECRET_FILE};
use authgear::resolver::endpoint::{Scheme, Url};

use super::arguments::{first, flag, read_secret_file, set_once, truncated};
use super::location::LocationConf;
use super::upstream::{self, UpstreamServer};
use super::{Authgear, MainConf};
use crate::shared::{self, FleetZone};
use nginx::{
    self, Arguments, Conf, ConfError, Context, Directive, SharedZone, SourceLocation, SslContext,
};

const NAME: &str = "authgear_fleet";

/// The fleet that this host belongs to.
pub struct FleetSettings {
    /// The Redis.
    pub server: FleetServer,
    /// Secrets of the fleet.
    pub secrets: Secrets,
    /// Name and password for Redis.
    pub login: Option<FleetLogin>,
    /// Beginning of the names of all keys.
    pub prefix: Prefix,
    /// Number of the database.
    pub db: u32,
    /// Verdicts of the resolver are shared.
    pub shares_verdicts: bool,
    /// Longest time of an exchange.
    pub timeout: Duration,
    /// Shared memory.
    pub zone: SharedZone<FleetZone>,
    pub(super) place: SourceLocation,
}

/// Address of a Redis.
pub enum FleetServer {
    /// Over TCP, with or without TLS.
    Tcp(Box<UpstreamServer>),
    /// A socket of this host.
    Unix(PathBuf),
    /// Sentinels, which name the server.
    Sentinels(Sentinels),
}

/// Sentinels of Redis, and the master that they are asked for.
pub struct Sentinels {
    /// At least one. They and the master have the same settings of TLS.
    pub servers: Vec<UpstreamServer>,
    /// Name of the master.
    pub master: String,
    /// Password for the Sentinels.
    pub password: Option<Vec<u8>>,
}

/// Name and password for Redis.
pub struct FleetLogin {
    /// Name; none for the default user.
    pub user: Option<String>,
    /// Password.
    pub password: Vec<u8>,
}

impl core::fmt::Display for FleetServer {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let scheme = |server: &UpstreamServer| match server.tls {
            Some(_) => "rediss",
            None => "redis",
        };
        match self {
            Self::Tcp(server) => write!(f, "{}://{}", scheme(server), server.url.authority()),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Sentinels(sentinels) => {
                let hosts = sentinels.servers.iter().map(|server| server.url.authority());
                let hosts = hosts.map(|host| host.to_string()).collect::<Vec<_>>().join(",");
                let scheme = sentinels.servers.first().map_or("redis", scheme);
                write!(f, "{scheme}://{hosts} sentinel={}", sentinels.master)
            }
        }
    }
}

/// Treatment of verdicts on a host that has not known for some time what other hosts purged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CutOff {
    /// Verdicts count as without a fleet.
    #[default]
    Serve,
    /// After this time only fresh answers count.
    Ask(Duration),
}

/// Parameters of the directive.
#[derive(Default)]
struct Parameters {
    secrets: Option<Secrets>,
    user: Option<String>,
    password: Option<Vec<u8>>,
    prefix: Option<Prefix>,
    db: Option<u32>,
    timeout: Option<Duration>,
    sentinel: Option<String>,
    sentinel_password: Option<Vec<u8>>,
    cache: Option<bool>,
    ssl_verify: Option<bool>,
    ssl_trusted_certificate: Option<PathBuf>,
    ssl_certificate: Option<String>,
    ssl_certificate_key: Option<String>,
}

impl Parameters {
    fn read(cf: &mut Conf<'_>, words: &[String]) -> Result<Self, ConfError> {
        let mut read = Self::default();
        for word in words {
            let Some((key, value)) = word.split_once('=') else {
                return Err(unknown(word));
            };
            match key {
                "secret" => set_once(&mut read.secrets, secrets(cf, value)?)?,
                "user" => set_once(&mut read.user, user(value)?)?,
                "password" => set_once(&mut read.password, password(cf, value)?)?,
                "prefix" => set_once(&mut read.prefix, prefix(value)?)?,
                "db" => set_once(&mut read.db, db(value)?)?,
                "timeout" => set_once(&mut read.timeout, timeout(value)?)?,
                "sentinel" => set_once(&mut read.sentinel, master(value)?)?,
                "sentinel_password" => {
                    set_once(&mut read.sentinel_password, password(cf, value)?)?;
                }
                "cache" => set_once(&mut read.cache, flag(key, value)?)?,
                "ssl_verify" => set_once(&mut read.ssl_verify, flag(key, value)?)?,
                "ssl_trusted_certificate" => {
                    set_once(&mut read.ssl_trusted_certificate, cf.full_path(value)?)?;
                }
                "ssl_certificate" => {
                    set_once(&mut read.ssl_certificate, file(key, value)?)?;
                }
                "ssl_certificate_key" => {
                    set_once(&mut read.ssl_certificate_key, file(key, value)?)?;
                }
                _ => return Err(unknown(word)),
            }
        }
        Ok(read)
    }

    /// The certificate and the key of this host.
    fn certificate(&self) -> Result<Option<(&str, &str)>, ConfError> {
        let missing = match (&self.ssl_certificate, &self.ssl_certificate_key) {
            (None, None) => return Ok(None),
            (Some(certificate), Some(key)) => return Ok(Some((certificate, key))),
            (Some(_), None) => "\"ssl_certificate=\" without \"ssl_certificate_key=\"",
            (None, Some(_)) => "\"ssl_certificate_key=\" without \"ssl_certificate=\"",
        };
        Err(ConfError::new(format!("{missing} in \"{NAME}\"")))
    }

    fn login(
        user: Option<String>,
        password: Option<Vec<u8>>,
    ) -> Result<Option<FleetLogin>, ConfError> {
        match (user, password) {
            (None, None) => Ok(None),
            (user, Some(password)) => Ok(Some(FleetLogin { user, password })),
            (Some(_), None) => {
                Err(ConfError::new(format!("\"user=\" without \"password=\" in \"{NAME}\"")))
            }
        }
    }
}

fn unknown(word: &str) -> ConfError {
    let word = truncated(word.split('=').next().unwrap_or_default());
    ConfError::new(format!("unknown parameter \"{word}\" of \"{NAME}\""))
}

fn wrong(key: &str, value: &str, right: &str) -> ConfError {
    let value = truncated(value);
    ConfError::new(format!("invalid value \"{value}\" in \"{key}\", it must be {right}"))
}

fn secrets(cf: &mut Conf<'_>, path: &str) -> Result<Secrets, ConfError> {
    let (name, text) = read_secret_file(cf, "secret", path, MAX_SECRET_FILE)?;
    Secrets::read(&text)
        .map_err(|error| ConfError::new(format!("invalid secret file \"{name}\": {error}")))
}

fn user(value: &str) -> Result<String, ConfError> {
    const LONGEST: usize = 256;
    match (1..=LONGEST).contains(&value.len()) {
        true => Ok(value.to_owned()),
        false => Err(wrong("user", value, "a name of 1 to 256 bytes")),
    }
}

/// Reads a password: the content of the file without its final line ending.
fn password(cf: &mut Conf<'_>, path: &str) -> Result<Vec<u8>, ConfError> {
    const LONGEST: usize = 1024;
    let (name, mut text) = read_secret_file(cf, "password", path, LONGEST + 2)?;
    for end in [b'\n', b'\r'] {
        if text.last() == Some(&end) {
            text.pop();
        }
    }
    match (1..=LONGEST).contains(&text.len()) {
        true => Ok(text),
        false => Err(ConfError::new(format!(
            "invalid password file \"{name}\": it must hold from 1 to {LONGEST} bytes"
        ))),
    }
}

fn file(key: &str, value: &str) -> Result<String, ConfError> {
    match value.is_empty() {
        false => Ok(value.to_owned()),
        true => Err(wrong(key, value, "the name of a file")),
    }
}

fn prefix(value: &str) -> Result<Prefix, ConfError> {
    let right = "1 to 64 letters, digits, \"_\", \".\" and \"-\"";
    Prefix::new(value).map_err(|_| wrong("prefix", value, right))
}

fn master(value: &str) -> Result<String, ConfError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    match (1..=64).contains(&value.len()) && value.bytes().all(is_allowed) {
        true => Ok(value.to_owned()),
        false => {
            let right = "1 to 64 letters, digits, \"_\", \".\" and \"-\"";
            Err(wrong("sentinel", value, right))
        }
    }
}

fn db(value: &str) -> Result<u32, ConfError> {
    const MOST: u32 = 65535;
    let number = value.parse().ok().filter(|number| *number <= MOST);
    number.ok_or_else(|| wrong("db", value, "a number from 0 to 65535"))
}

fn timeout(value: &str) -> Result<Duration, ConfError> {
    let (least, most) = (Duration::from_millis(5), Duration::from_secs(1));
    Conf::parse_time(value)
        .filter(|time| (least..=most).contains(time))
        .ok_or_else(|| wrong("timeout", value, "a time from 5ms to 1s"))
}

/// `authgear_fleet URL secret=FILE [parameter=value ...]`
pub struct FleetDirective;

impl Directive for FleetDirective {
    type Scope = nginx::Main<Authgear>;
    const NAME: &'static CStr = c"authgear_fleet";
    const CONTEXT: Context = Context::Http;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut MainConf) -> Result<(), ConfError> {
        const TIMEOUT: Duration = Duration::from_millis(50);
        if conf.fleet.is_some() {
            return Err(ConfError::Duplicate);
        }
        let arguments = cf.arguments();
        let url = first(cf);
        if url.contains('@') {
            return Err(ConfError::new(format!(
                "\"{NAME}\" has a password in its URL, which \"nginx -T\" shows: use \
                 password=FILE"
            )));
        }
        let mut read = Parameters::read(cf, arguments.get(2..).unwrap_or_default())?;
        let server = server(cf, &url, &mut read)?;
        let Some(secrets) = read.secrets else {
            return Err(ConfError::new(format!("\"{NAME}\" has no \"secret=\"")));
        };
        let login = Parameters::login(read.user, read.password)?;
        let zone = shared::declare_fleet::<Authgear>(cf)?;
        // Events of other hosts concern open responses, and what workers have to say is told by the
        // keeper.
        nginx::want_wake_all();
        conf.fleet = Some(Rc::new(FleetSettings {
            server,
            secrets,
            login,
            prefix: match read.prefix {
                Some(given) => given,
                None => prefix("authgear")?,
            },
            db: read.db.unwrap_or(0),
            shares_verdicts: read.cache.unwrap_or(false),
            timeout: read.timeout.unwrap_or(TIMEOUT),
            zone,
            place: cf.place(),
        }));
        Ok(())
    }
}

/// Reads the URL.
fn server(cf: &mut Conf<'_>, url: &str, read: &mut Parameters) -> Result<FleetServer, ConfError> {
    if read.sentinel.is_none() && read.sentinel_password.is_some() {
        return Err(ConfError::new(format!(
            "\"sentinel_password=\" without \"sentinel=\" in \"{NAME}\""
        )));
    }
    let (scheme, rest) = if let Some(path) = url.strip_prefix("unix:") {
        without_ssl(read)?;
        if read.sentinel.is_some() {
            return Err(ConfError::new(format!("\"sentinel=\" with \"unix:\" in \"{NAME}\"")));
        }
        return match path.starts_with('/') && path.len() <= LONGEST_PATH {
            true => Ok(FleetServer::Unix(PathBuf::from(path))),
            false => Err(invalid(url)),
        };
    } else if let Some(rest) = url.strip_prefix("redis://") {
        without_ssl(read)?;
        (Scheme::Http, rest)
    } else if let Some(rest) = url.strip_prefix("rediss://") {
        (Scheme::Https, rest)
    } else {
        return Err(invalid(url));
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let tls = tls(cf, scheme, read)?;
    let mut tcp = |host: &str, port: u16| {
        let http = host_and_port(scheme, host, port).ok_or_else(|| invalid(url))?;
        if upstream::is_exposed(&http) {
            let host = http.host();
            cf.warn(format_args!("\"authgear_fleet\" in clear to \"{host}\": use rediss://"));
        }
        let tls = || tls.clone().ok_or_else(|| invalid(url));
        UpstreamServer::new(http, None, tls)
    };
    if rest.contains(',') && read.sentinel.is_none() {
        return Err(ConfError::new(format!(
            "several hosts in \"{}\" of \"{NAME}\" without \"sentinel=\"",
            truncated(url)
        )));
    }
    let Some(master) = read.sentinel.take() else {
        return Ok(FleetServer::Tcp(Box::new(tcp(rest, PORT)?)));
    };
    let hosts = rest.split(',');
    if hosts.clone().count() > MOST_SENTINELS {
        return Err(ConfError::new(format!(
            "too many hosts in \"{}\" of \"{NAME}\", {MOST_SENTINELS} at most",
            truncated(url)
        )));
    }
    Ok(FleetServer::Sentinels(Sentinels {
        servers: hosts.map(|host| tcp(host, SENTINEL_PORT)).collect::<Result<_, _>>()?,
        master,
        password: read.sentinel_password.take(),
    }))
}

fn invalid(url: &str) -> ConfError {
    ConfError::new(format!(
        "invalid URL \"{}\" in \"{NAME}\", it must be redis://HOST[:PORT], \
         rediss://HOST[:PORT] or unix:PATH",
        truncated(url)
    ))
}

/// Reads a host and its port. They are kept as a URL of HTTP, where both are read in the same way.
fn host_and_port(scheme: Scheme, text: &str, port: u16) -> Option<Url> {
    if text.contains('/') {
        return None;
    }
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
    let scheme = scheme.as_str();
    let url = match has_port {
        true => Url::parse(&format!("{scheme}://{text}")),
        false => Url::parse(&format!("{scheme}://{text}:{port}")),
    };
    url.ok()
}

/// Settings of TLS, for `rediss://`.
fn tls(
    cf: &mut Conf<'_>,
    scheme: Scheme,
    read: &Parameters,
) -> Result<Option<Rc<SslContext>>, ConfError> {
    if scheme == Scheme::Http {
        return Ok(None);
    }
    let (verify, trusted) =
        (read.ssl_verify.unwrap_or(true), read.ssl_trusted_certificate.as_deref());
    let mut tls = super::project_block::tls(cf, verify, trusted)?;
    if let Some((certificate, key)) = read.certificate()? {
        tls.set_certificate(cf, certificate, key)?;
    }
    Ok(Some(Rc::new(tls)))
}

/// Port of Redis.
const PORT: u16 = 6379;
/// Port of Sentinel.
const SENTINEL_PORT: u16 = 26379;
/// Maximum number of Sentinels.
const MOST_SENTINELS: usize = 16;
/// Longest path of a socket (`sun_path`).
const LONGEST_PATH: usize = 107;

fn without_ssl(read: &Parameters) -> Result<(), ConfError> {
    let given = [
        ("ssl_verify", read.ssl_verify.is_some()),
        ("ssl_trusted_certificate", read.ssl_trusted_certificate.is_some()),
        ("ssl_certificate", read.ssl_certificate.is_some()),
        ("ssl_certificate_key", read.ssl_certificate_key.is_some()),
    ];
    match given.iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((name, _)) => {
            Err(ConfError::new(format!("\"{name}=\" without \"rediss://\" in \"{NAME}\"")))
        }
    }
}

/// `authgear_fleet_cut_off serve | ask [after=TIME]`
pub struct CutOffDirective;

impl Directive for CutOffDirective {
    type Scope = nginx::Location<Authgear>;
    const NAME: &'static CStr = c"authgear_fleet_cut_off";
    const CONTEXT: Context = Context::HttpServerLocation;
    const ARGUMENTS: Arguments = Arguments::OneOrTwo;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        const NAME: &str = "authgear_fleet_cut_off";
        const AFTER: Duration = Duration::from_secs(10);
        const LEAST: Duration = Duration::from_secs(2);
        const MOST: Duration = Duration::from_secs(86400);
        let arguments = cf.arguments();
        let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
        let value = match words.as_slice() {
            ["serve"] => CutOff::Serve,
            ["ask"] => CutOff::Ask(AFTER),
            ["ask", after] => {
                let time = after.strip_prefix("after=").and_then(Conf::parse_time);
                let time = time.filter(|time| (LEAST..=MOST).contains(time));
                CutOff::Ask(time.ok_or_else(|| {
                    wrong(NAME, after, "after= with a time from 2s to 1d, such as after=10s")
                })?)
            }
            _ => {
                let words = words.join(" ");
                return Err(wrong(NAME, &words, "\"serve\", or \"ask\" and after="));
            }
        };
        let place = cf.place();
        cf.main::<Authgear>().cut_off_at.get_or_insert(place);
        set_once(&mut conf.cut_off, value)
    }
}

impl LocationConf {
    /// Value of `authgear_fleet_cut_off`.
    pub fn cut_off(&self) -> CutOff {
        self.cut_off.unwrap_or_default()
    }
}

impl MainConf {
    /// The fleet that this host belongs to.
    pub fn fleet(&self) -> Option<&Rc<FleetSettings>> {
        self.fleet.as_ref()
    }

    /// Time for which events are kept, since that long they may change a decision.
    pub fn fleet_retention(&self) -> Duration {
        const LEAST: Duration = Duration::from_secs(600);
        /// Clocks of hosts differ.
        const MARGIN: Duration = Duration::from_secs(60);
        LEAST.max(self.longest_refusal()).max(self.longest_life()) + MARGIN
    }

    /// Checks the fleet once all is read, and finds its server.
    pub(super) fn check_fleet(&self, cf: &mut Conf<'_>) -> Result<(), ConfError> {
        let Some(fleet) = &self.fleet else {
            return match &self.cut_off_at {
                Some(place) => Err(ConfError::At(
                    place.clone(),
                    "\"authgear_fleet_cut_off\" without \"authgear_fleet\"".into(),
                )),
                None => Ok(()),
            };
        };
        if !cf.servers::<Authgear>().iter().any(|server| server.conf().in_use) {
            cf.warn_at(&fleet.place, format_args!("\"authgear_fleet\" is never used"));
        }
        if fleet.shares_verdicts && self.zones().is_empty() {
            cf.warn_at(
                &fleet.place,
                format_args!(
                    "\"cache=on\" of \"authgear_fleet\" without an \"authgear_cache_zone\": \
                     verdicts are not shared"
                ),
            );
        }
        let servers = match &fleet.server {
            FleetServer::Tcp(server) => core::slice::from_ref(&**server),
            FleetServer::Unix(_) => &[],
            FleetServer::Sentinels(sentinels) => &sentinels.servers,
        };
        let mut system = None;
        for server in servers {
            server.use_at(cf.resolver());
            server.find(cf, &mut system, &format!("\"{}\" of \"{NAME}\"", fleet.server))?;
        }
        Ok(())
    }
}
