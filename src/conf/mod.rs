//! Directives, and the configuration they make. It is immutable once read, and knows no request.

pub mod backend;
pub mod cache;
pub mod lint;
pub mod location;
pub mod operating;
pub mod policy;
pub mod project;
mod server;

use core::cell::Cell;
use core::time::Duration;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use authgear::endpoint::Endpoint;

use crate::nginx::{ComplexValue, Conf, ConfError, Place, Resolver, SharedZone};
use crate::shared::{self, Own};
use cache::CacheZone;
pub use location::{LocationConf, Mode};
use project::{Draft, Project};
pub use server::Server;

/// Configuration of `http {}`: the projects.
#[derive(Default)]
pub struct MainConf {
    /// `authgear_project NAME {}`.
    named: HashMap<String, Rc<Project>>,
    /// `authgear URL`, by origin.
    by_url: HashMap<String, Rc<Project>>,
    /// Where those stand.
    named_at: Vec<(String, Place)>,
    zones: Vec<Rc<CacheZone>>,
    /// Where they stand.
    zones_at: Vec<Place>,
    longest_life: cache::LongestLife,
    /// The module's own zone.
    own_zone: Option<SharedZone<Own>>,
    /// Origins that were warned of.
    exposed: HashSet<String>,
    here: Option<Here>,
    request_id: Option<ComplexValue>,
    /// Variables that requirements name: what nginx keeps of them may be from before the verdict.
    required_variables: Vec<String>,
    expected_projects: Vec<(String, Place)>,
    expected_zones: Vec<(String, Place)>,
}

fn unknown(what: &str, name: &str, place: &Place) -> ConfError {
    ConfError::At(place.clone(), format!("unknown {what} \"{name}\""))
}

/// Names a project or a zone in worker processes: over reloads too, no two have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(u64);

impl Id {
    fn new() -> Self {
        thread_local! {
            static NEXT: Cell<u64> = const { Cell::new(0) };
        }
        Self(NEXT.replace(NEXT.get() + 1))
    }
}

/// What the address of a client's request is made of.
#[derive(Clone, Copy, Debug)]
pub struct Here {
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
#[derive(Debug, Default)]
pub struct ServerConf {
    /// Whether `authgear` is on anywhere in it: then nobody outside says who they are.
    pub in_use: bool,
}

impl MainConf {
    /// Time after which no verdict counts in any location.
    pub fn longest_life(&self) -> Duration {
        self.longest_life.total()
    }

    /// The cache's zones.
    pub fn zones(&self) -> &[Rc<CacheZone>] {
        &self.zones
    }

    fn zone(&self, name: &str, place: &Place) -> Result<Rc<CacheZone>, ConfError> {
        let zone = self.zones.iter().find(|zone| zone.name == name);
        zone.cloned().ok_or_else(|| unknown("authgear_cache_zone", name, place))
    }

    /// A place names a zone: it must exist, even if no location comes to use it.
    fn expect_zone(&mut self, name: &str, place: Place) {
        self.expected_zones.push((name.to_owned(), place));
    }

    fn add_zone(&mut self, zone: Rc<CacheZone>, place: Place) {
        self.zones.push(zone);
        self.zones_at.push(place);
    }

    fn by_name(&self, name: &str, place: &Place) -> Result<Rc<Project>, ConfError> {
        let project = self.named.get(name);
        project.cloned().ok_or_else(|| unknown("authgear_project", name, place))
    }

    /// A place names a project: it must exist, even if no location comes to use it.
    fn expect_project(&mut self, name: &str, place: Place) {
        self.expected_projects.push((name.to_owned(), place));
    }

    fn require_variable(&mut self, name: &str) {
        self.required_variables.push(name.to_owned());
    }

    /// Whether `authgear_require` names the variable somewhere.
    pub fn requires_variable(&self, name: &[u8]) -> bool {
        self.required_variables.iter().any(|own| own.as_bytes() == name)
    }

    /// What nginx calls the client's request in logs.
    pub fn request_id(&self) -> Option<ComplexValue> {
        self.request_id
    }

    /// Prepares what [`Self::here`] and [`Self::request_id`] return.
    pub fn compile(&mut self, cf: &mut Conf<'_>) -> Result<(), ConfError> {
        self.here = Some(Here {
            scheme: cf.complex_value("$scheme")?,
            host: cf.complex_value("$host")?,
            port: cf.complex_value("$server_port")?,
            request_uri: cf.complex_value("$request_uri")?,
        });
        // nginx makes it of random numbers, which is of no use if nothing else tells it.
        if cf.uses_variable("request_id") {
            self.request_id = Some(cf.complex_value("$request_id")?);
        }
        Ok(())
    }

    /// Declares what [`Self::own_zone`] returns.
    pub fn declare_own_zone(&mut self, cf: &mut Conf<'_>) -> Result<(), ConfError> {
        self.own_zone = Some(shared::declare(cf)?);
        Ok(())
    }

    /// The module's own zone: there since the configuration was read.
    pub fn own_zone(&self) -> Option<SharedZone<Own>> {
        self.own_zone
    }

    /// The URL of the client's request, as the client knows it.
    pub fn here(&self) -> Option<Here> {
        self.here
    }

    /// Whether every name that was used exists.
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
        let project = Rc::new(Draft::of(endpoint.clone()).finish(cf, endpoint.origin())?);
        self.by_url.insert(endpoint.origin().to_owned(), Rc::clone(&project));
        Ok(project)
    }

    /// Finds name servers, and addresses to begin with, for the projects in use that no
    /// `resolver` directive covers: those of the system.
    pub fn find_servers(&mut self, cf: &mut Conf<'_>) -> Result<(), ConfError> {
        let mut system = None;
        for project in self.projects() {
            for server in project.servers() {
                server.find(cf, &mut system, &project.name)?;
            }
        }
        Ok(())
    }

    /// All of them, used or not.
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
    // A scoped address (fe80::1%eth0) is nothing that nginx's resolver can be told.
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
