//! Servers that the module's client connects to, and their addresses.

use core::cell::{Cell, OnceCell};
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use authgear::resolver::endpoint::{Scheme, Url};
use authgear::resolver::system_names;

use super::system_resolver;
use nginx::{Conf, ConfError, Resolver, SslContext};

/// A server that the module's client connects to.
pub struct UpstreamServer {
    /// URL of requests.
    pub url: Url,
    /// TLS settings, for https.
    pub tls: Option<Rc<SslContext>>,
    /// Name in its certificate, if that is not the URL's host.
    ssl_name: Option<String>,
    in_use: Cell<bool>,
    name_servers: OnceCell<Resolver>,
    /// The host is an address, or a name that the system knows: no name server is asked.
    is_fixed: bool,
    /// Addresses that the configuration names, or that the system returned when it was read.
    addresses: OnceCell<Vec<SocketAddr>>,
}

impl UpstreamServer {
    /// The server of `url`, whose certificate has `ssl_name` if that is given. `tls` makes the
    /// settings of TLS, for https.
    pub(super) fn new(
        url: Url,
        ssl_name: Option<String>,
        tls: impl FnOnce() -> Result<Rc<SslContext>, ConfError>,
    ) -> Result<Self, ConfError> {
        let tls = match url.scheme() {
            Scheme::Http => None,
            Scheme::Https => Some(tls()?),
        };
        let addresses = OnceCell::new();
        let known = known_addresses(&url);
        let is_fixed = !known.is_empty();
        if is_fixed {
            let known = known.into_iter().map(|ip| SocketAddr::new(ip, url.port()));
            let _ = addresses.set(known.collect());
        }
        let (in_use, name_servers) = (Cell::new(false), OnceCell::new());
        Ok(Self { url, tls, ssl_name, in_use, name_servers, is_fixed, addresses })
    }

    /// Name for SNI and for the verification of its certificate.
    pub fn tls_name(&self) -> &str {
        self.ssl_name.as_deref().unwrap_or(self.url.host())
    }

    /// Name servers for the host, if its addresses are not fixed.
    pub fn name_servers(&self) -> Option<Resolver> {
        self.name_servers.get().copied().filter(|_| !self.is_fixed)
    }

    /// Name servers for other hosts, if any are known.
    pub fn resolver(&self) -> Option<Resolver> {
        self.name_servers.get().copied()
    }

    /// Whether the host's addresses may change while nginx runs.
    pub fn may_move(&self) -> bool {
        !self.is_fixed
    }

    /// Addresses to use if there are no name servers, or they fail.
    pub fn addresses(&self) -> &[SocketAddr] {
        self.addresses.get().map(Vec::as_slice).unwrap_or_default()
    }

    /// Notes that a location uses it, with this `resolver` directive in force.
    pub(super) fn use_at(&self, resolver: Option<Resolver>) {
        self.in_use.set(true);
        if let Some(resolver) = resolver {
            // The first one stays: locations of one project share its connections.
            let _ = self.name_servers.set(resolver);
        }
    }

    /// Finds the system's name servers and the host's addresses, if the server is in use without a
    /// `resolver` directive. `system` keeps the name servers for the next call, and `what` says for
    /// messages what has the host.
    pub(super) fn find(
        &self,
        cf: &mut Conf<'_>,
        system: &mut Option<Option<Resolver>>,
        what: &str,
    ) -> Result<(), ConfError> {
        let known = self.name_servers.get().is_some() || self.addresses.get().is_some();
        if !self.in_use.get() || known {
            return Ok(());
        }
        let resolver = match *system {
            Some(found) => found,
            None => *system.insert(system_resolver(cf)?),
        };
        let url = &self.url;
        let addresses = match (cf.addresses(url.host(), url.port()), resolver) {
            (Ok(addresses), _) => addresses,
            (Err(error), Some(_)) => {
                cf.warn(format_args!(
                    "{} in {what}, no \"resolver\" is defined: the name servers of \
                     /etc/resolv.conf will be asked",
                    error.0
                ));
                Vec::new()
            }
            (Err(error), None) => {
                return Err(ConfError::new(format!(
                    "{} in {what}, and neither \"resolver\" nor /etc/resolv.conf names a server \
                     to ask",
                    error.0
                )));
            }
        };
        let _ = self.addresses.set(addresses);
        if let Some(resolver) = resolver {
            let _ = self.name_servers.set(resolver);
        }
        Ok(())
    }
}

/// Addresses of the URL's host that need no name server.
fn known_addresses(url: &Url) -> Vec<IpAddr> {
    if let Some(ip) = url.ip() {
        return vec![ip];
    }
    let mut hosts = Vec::new();
    // Without a hosts file the system knows no names but localhost.
    if let Ok(file) = std::fs::File::open("/etc/hosts") {
        let _ = file.take(system_names::MAX_HOSTS_FILE as u64).read_to_end(&mut hosts);
    }
    system_names::addresses(url.host(), &String::from_utf8_lossy(&hosts))
}

/// Whether requests to `url` may cross a public network unencrypted.
pub(super) fn is_exposed(url: &Url) -> bool {
    let is_private = || {
        let known = known_addresses(url);
        !known.is_empty() && known.into_iter().all(system_names::is_private)
    };
    url.is_exposed() && !is_private()
}
