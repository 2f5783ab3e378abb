//! Directives, and the configuration that they make. It does not change once it is read, and knows
//! no request.

mod arguments;
pub mod assertion;
pub mod audience;
pub mod bearer;
pub mod cache;
mod effect;
pub mod fleet;
pub mod lint;
pub mod location;
pub mod login;
mod marker;
pub mod operations;
pub mod policy;
pub mod project;
pub mod project_block;
pub mod protected_resource;
pub mod recheck;
mod scope;
pub mod status_zone;
pub mod unknown_limit;
pub mod upgrade;
mod upstream;
pub mod upstream_headers;

use core::cell::Cell;
use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use authgear::identity::{is_identity_header, SiteHeader};
use authgear::resolver::endpoint::Endpoint;

use crate::shared::{self, ModuleZone};
use cache::CacheZone;
pub use location::{LocationConf, Mode};
pub use marker::Authgear;
use nginx::{ComplexValue, Conf, ConfError, Resolver, SharedZone, SourceLocation};
use project::Project;
use project_block::ProjectBuilder;
use protected_resource::ServedResource;
use status_zone::StatusZone;
pub use upstream::UpstreamServer;

/// Configuration of `http {}`: projects and zones.
#[derive(Default)]
pub struct MainConf {
    /// `authgear_project NAME {}`.
    named: HashMap<String, Rc<Project>>,
    /// `authgear URL`, by origin.
    by_url: HashMap<String, Rc<Project>>,
    /// Positions of the blocks.
    named_at: Vec<(String, SourceLocation)>,
    /// Resources of `authgear_protected_resource`.
    resources: Vec<Rc<ServedResource>>,
    /// Signers of assertions.
    signers: Vec<Rc<assertion::Signer>>,
    zones: Vec<Rc<CacheZone>>,
    /// Positions of the directives.
    zones_at: Vec<SourceLocation>,
    longest_life: cache::LongestLife,
    /// Zones of `authgear_unknown_limit`.
    limit_zones: Vec<unknown_limit::LimitZoneUse>,
    /// The module's zone.
    module_zone: Option<SharedZone<ModuleZone>>,
    /// Origins without TLS that a warning was written about.
    exposed: HashSet<String>,
    url_vars: Option<RequestUrlVars>,
    request_id: Option<ComplexValue>,
    /// Variables that `authgear_require` names. nginx may have cached values from before the verdict.
    required_variables: Vec<String>,
    /// Whether this worker logged that a variable was evaluated before the verdict.
    pub reported_early: Cell<bool>,
    /// Whether the configuration uses a variable of userinfo.
    pub uses_userinfo: bool,
    /// True if a location has `authgear_status`.
    pub has_status: bool,
    /// Names of `authgear_status_zone`.
    pub status_zones: Vec<Rc<StatusZone>>,
    expected_projects: Vec<(String, SourceLocation)>,
    expected_zones: Vec<(String, SourceLocation)>,
    effects: effect::Effects,
    fleet: Option<Rc<fleet::FleetSettings>>,
    /// Position of an `authgear_fleet_cut_off`.
    cut_off_at: Option<SourceLocation>,
}

/// Identifies a project or a zone in worker processes. It is unique over reloads too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u64);

impl Id {
    fn new() -> Self {
        thread_local! {
            static NEXT: Cell<u64> = const { Cell::new(0) };
        }
        Self(NEXT.replace(NEXT.get() + 1))
    }
}

/// Variables that the URL of a client's request is made of.
#[derive(Clone, Copy, Debug)]
pub struct RequestUrlVars {
    /// `$scheme`
    pub scheme: ComplexValue,
    /// `$host`
    pub host: ComplexValue,
    /// `$server_port`
    pub port: ComplexValue,
    /// `$request_uri`
    pub request_uri: ComplexValue,
}

/// Configuration of a `server {}`.
#[derive(Default)]
pub struct ServerConf {
    /// Whether `authgear` is on in one of its locations: then identity headers of clients are removed.
    pub in_use: bool,
    /// Headers of `authgear_header` and `authgear_assertion` in one of its locations: those of
    /// clients are removed too. Identity headers, which are removed anyway, are not among them.
    pub headers: Vec<SiteHeader>,
    /// True if one of its locations has such a directive.
    owns_headers: bool,
    /// Paths of `authgear_login` in its locations.
    pub logins: Vec<login::LoginRoute>,
}

impl ServerConf {
    /// Whether headers of clients are removed.
    pub fn strips_headers(&self) -> bool {
        self.in_use || self.owns_headers
    }

    /// Notes headers that only this server sets.
    fn own_headers<'a>(&mut self, headers: impl Iterator<Item = &'a SiteHeader>) {
        for header in headers {
            let name = header.as_str().as_bytes();
            self.owns_headers = true;
            if !is_identity_header(name) && !self.headers.iter().any(|own| own.is_alias(name)) {
                self.headers.push(header.clone());
            }
        }
    }
}

impl MainConf {
    /// Age from which no location uses a verdict.
    pub fn longest_life(&self) -> Duration {
        self.longest_life.total()
    }

    /// Longest time for which a project refuses tokens after an event.
    pub fn longest_refusal(&self) -> Duration {
        self.projects().map(|project| project.revocation_ttl).max().unwrap_or_default()
    }

    /// All cache zones.
    pub fn zones(&self) -> &[Rc<CacheZone>] {
        &self.zones
    }

    fn zone(&self, name: &str, place: &SourceLocation) -> Result<Rc<CacheZone>, ConfError> {
        let zone = self.zones.iter().find(|zone| zone.name == name);
        zone.cloned().ok_or_else(|| {
            let message = format!("unknown authgear_cache_zone \"{name}\"");
            ConfError::At(place.clone(), message)
        })
    }

    /// Notes that a directive names a zone: it must exist, even if no location uses it.
    fn expect_zone(&mut self, name: &str, place: SourceLocation) {
        self.expected_zones.push((name.to_owned(), place));
    }

    fn add_zone(&mut self, zone: Rc<CacheZone>, place: SourceLocation) {
        self.zones.push(zone);
        self.zones_at.push(place);
    }

    fn by_name(&self, name: &str, place: &SourceLocation) -> Result<Rc<Project>, ConfError> {
        let project = self.named.get(name);
        project.cloned().ok_or_else(|| {
            let hint = match name {
                "on" => {
                    ": name a project, by \"authgear https://myapp.authgear.cloud\" or the name of \
                     an authgear_project"
                        .to_owned()
                }
                host if host.contains('.') => {
                    format!(": to name a project by its endpoint, write \"https://{host}\"")
                }
                _ => ": define it by \"authgear_project NAME { ... }\" in http".to_owned(),
            };
            ConfError::At(place.clone(), format!("unknown authgear_project \"{name}\"{hint}"))
        })
    }

    /// Notes that a directive names a project: it must exist, even if no location uses it.
    fn expect_project(&mut self, name: &str, place: SourceLocation) {
        self.expected_projects.push((name.to_owned(), place));
    }

    fn require_variable(&mut self, name: &str) {
        self.required_variables.push(name.to_owned());
    }

    /// Whether an `authgear_require` names the variable.
    pub fn requires_variable(&self, name: &[u8]) -> bool {
        self.required_variables.iter().any(|own| own.as_bytes() == name)
    }

    /// `$request_id`, if the configuration uses it.
    pub fn request_id(&self) -> Option<ComplexValue> {
        self.request_id
    }

    /// Compiles the variables that [`Self::url_vars`] and [`Self::request_id`] return.
    pub fn compile(&mut self, cf: &mut Conf<'_>) -> Result<(), ConfError> {
        self.url_vars = Some(RequestUrlVars {
            scheme: cf.complex_value("$scheme")?,
            host: cf.complex_value("$host")?,
            port: cf.complex_value("$server_port")?,
            request_uri: cf.complex_value("$request_uri")?,
        });
        // A random number that is useless unless the configuration logs it or passes it on.
        if cf.uses_variable("request_id") {
            self.request_id = Some(cf.complex_value("$request_id")?);
        }
        Ok(())
    }

    /// Declares the module's zone.
    pub fn declare_module_zone(&mut self, cf: &mut Conf<'_>) -> Result<(), ConfError> {
        self.module_zone = Some(shared::declare::<Authgear>(cf)?);
        Ok(())
    }

    /// The module's zone; none before it was declared.
    pub fn module_zone(&self) -> Option<SharedZone<ModuleZone>> {
        self.module_zone
    }

    /// Variables of the request's URL.
    pub fn url_vars(&self) -> Option<RequestUrlVars> {
        self.url_vars
    }

    /// Checks that every project and zone that a directive names exists.
    pub fn check_names(&self) -> Result<(), ConfError> {
        for (name, place) in &self.expected_projects {
            self.by_name(name, place)?;
        }
        for (name, place) in &self.expected_zones {
            self.zone(name, place)?;
        }
        Ok(())
    }

    fn by_url(&mut self, cf: &mut Conf<'_>, endpoint: &Endpoint) -> Result<Rc<Project>, ConfError> {
        if let Some(project) = self.by_url.get(endpoint.origin()) {
            return Ok(Rc::clone(project));
        }
        let project = Rc::new(ProjectBuilder::of(endpoint.clone()).finish(cf, endpoint.origin())?);
        self.by_url.insert(endpoint.origin().to_owned(), Rc::clone(&project));
        Ok(project)
    }

    /// Resolves the servers of projects in use without a `resolver` directive, by the system.
    pub fn find_servers(&mut self, cf: &mut Conf<'_>) -> Result<(), ConfError> {
        let mut system = None;
        for project in self.projects() {
            for server in project.servers() {
                let (url, name) = (&server.url, &project.name);
                let what = format!("\"{url}\" of authgear project \"{name}\"");
                server.find(cf, &mut system, &what)?;
            }
        }
        self.check_fleet(cf)
    }

    /// Checks that what is configured takes effect.
    pub fn check_effects(&self, cf: &Conf<'_>) -> Result<(), ConfError> {
        effect::check(cf, self)
    }

    /// Forgets what only checks of the configuration needed.
    pub fn forget_places(&mut self) {
        self.expected_projects = Vec::new();
        self.expected_zones = Vec::new();
        self.exposed = HashSet::new();
        self.effects = effect::Effects::default();
    }

    /// All projects, used or not.
    pub fn projects(&self) -> impl Iterator<Item = &Rc<Project>> {
        self.named.values().chain(self.by_url.values())
    }
}

/// The name servers of /etc/resolv.conf, if it names any.
fn system_resolver(cf: &mut Conf<'_>) -> Result<Option<Resolver>, ConfError> {
    const MAX_SIZE: usize = 64 * 1024;
    let Ok(text) = std::fs::read("/etc/resolv.conf") else { return Ok(None) };
    let parsed = text.get(..text.len().min(MAX_SIZE)).map(resolv_conf::Config::parse);
    let Some(Ok(config)) = parsed else { return Ok(None) };
    // nginx's resolver takes no scoped address (fe80::1%eth0).
    let servers: Vec<String> = (config.nameservers.iter())
        .filter_map(|server| match server {
            resolv_conf::ScopedIp::V4(ip) => Some(ip.to_string()),
            resolv_conf::ScopedIp::V6(ip, None) => Some(format!("[{ip}]")),
            resolv_conf::ScopedIp::V6(_, Some(_)) => None,
        })
        .collect();
    if servers.is_empty() {
        return Ok(None);
    }
    Resolver::new(cf, &servers).map(Some)
}
