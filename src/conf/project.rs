//! Authgear projects.

use core::cell::{Cell, OnceCell};
use core::fmt;
use core::time::Duration;
use std::rc::Rc;

use authgear::credentials::CookieNames;
use authgear::exchange::request::RequestPrefix;
use authgear::fleet::event::{project_id, ProjectId};
use authgear::fleet::record::RecordScope;
use authgear::metrics::ProjectSlot;
use authgear::resolver::endpoint::Endpoint;
use authgear::token::{KeySet, Profile, Schedule};

use super::{Id, Mode, UpstreamServer};
use crate::shared::handle::{Counters, ProjectBreaker, SharedHandle};
use nginx::{Resolver, SourceLocation};

/// An Authgear project, from `authgear_project NAME {}` or `authgear URL`.
pub struct Project {
    /// Unique in this process, over reloads too.
    pub id: Id,
    /// Digest of all settings that an answer depends on: a part of cache keys, which keeps
    /// projects apart, over reloads too.
    pub scope: [u8; 32],
    /// Name in the configuration, for logs.
    pub name: String,
    /// The public origin.
    pub endpoint: Endpoint,
    /// Client id for logins, if set.
    pub client_id: Option<String>,
    /// The resolver.
    pub resolver: Upstream,
    /// Beginning of all look-ups. A subrequest has the fields only.
    pub lookup_prefix: RequestPrefix,
    /// Position of the setting that names it; none for `authgear URL`.
    pub(super) resolver_at: Option<SourceLocation>,
    /// The userinfo endpoint of the main server.
    pub userinfo: UserinfoEndpoint,
    /// Names of Authgear's cookies.
    pub cookies: CookieNames,
    /// Limit of the TCP and TLS handshakes with one address, and of a DNS query.
    pub connect_timeout: Duration,
    /// Limit of the time that one client request waits.
    pub timeout: Duration,
    /// Most connections in use at a time, per worker.
    pub max_connections: usize,
    /// Failures in a row after which the resolver is left alone for `fail_timeout`; 0: never.
    pub max_fails: u32,
    /// See `max_fails`.
    pub fail_timeout: Duration,
    /// Most idle connections kept, per worker.
    pub keepalive: usize,
    /// Time that an idle connection is kept.
    pub keepalive_timeout: Duration,
    /// Most bytes of a response, header and body.
    pub max_response_size: usize,
    /// Settings for the verification of access tokens.
    pub tokens: Tokens,
    /// Time for which a user's older tokens are refused after a webhook event.
    pub revocation_ttl: Duration,
    pub(super) record_scope: Option<RecordScope>,
    /// Position of its counters, once that is known: each process finds the same.
    pub(super) slot: OnceCell<ProjectSlot>,
}

/// Way to a project's resolver.
pub enum Upstream {
    /// This module's client sends requests to it.
    Url(Box<UpstreamServer>),
    /// A subrequest to this URI reaches it.
    Location(String),
}

/// The userinfo endpoint of a project.
pub struct UserinfoEndpoint {
    /// Its server.
    pub server: Box<UpstreamServer>,
    /// Beginning of all requests to it.
    pub prefix: RequestPrefix,
    /// As [`Project::scope`], for the cache keys of its answers.
    pub scope: [u8; 32],
}

/// Source of the keys that tokens are verified with.
pub enum KeySource {
    /// A server, from which workers fetch them.
    Url(Box<UpstreamServer>),
    /// A file, which was read with the configuration.
    File(Rc<KeySet>),
}

/// Settings for the verification of access tokens.
pub struct Tokens {
    /// Requirements on tokens.
    pub profile: Profile,
    /// Source of keys.
    pub keys: KeySource,
    /// Times at which keys are fetched.
    pub schedule: Schedule,
    /// As [`Project::scope`], for the cache keys of verdicts that workers make on tokens.
    pub scope: [u8; 32],
    /// Whether the project has an `audience`: a JWT then counts in no mode unless it is verified.
    pub has_audience: bool,
    pub(super) has_location_audiences: Cell<bool>,
    pub(super) in_use: Cell<bool>,
}

impl Tokens {
    /// Whether a location verifies tokens.
    pub fn in_use(&self) -> bool {
        self.in_use.get()
    }

    /// Whether locations have audiences of their own: a cached verdict then counts only where its
    /// token is for the location.
    pub fn has_location_audiences(&self) -> bool {
        self.has_location_audiences.get()
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
    /// Notes that a location uses the project, with this `resolver` directive in force.
    /// `has_audience` tells whether an audience is configured for the location.
    pub(super) fn use_at(&self, mode: Mode, has_audience: bool, resolver: Option<Resolver>) {
        if let (Upstream::Url(server), Mode::Resolver | Mode::Auto) = (&self.resolver, mode) {
            server.use_at(resolver);
        }
        if has_audience || matches!(mode, Mode::Jwt | Mode::Auto) {
            self.tokens.in_use.set(true);
            if let KeySource::Url(server) = &self.tokens.keys {
                server.use_at(resolver);
            }
        }
    }

    /// Notes that a location asks userinfo, with this `resolver` directive in force.
    pub(super) fn use_userinfo_at(&self, resolver: Option<Resolver>) {
        self.userinfo.server.use_at(resolver);
    }

    /// Facts that verdicts depend on which hosts of a fleet share. `None` if the resolver is not
    /// verified: hosts that verify it must not use its verdicts.
    pub fn record_scope(&self) -> Option<&RecordScope> {
        self.record_scope.as_ref()
    }

    /// Name of the project in events of a fleet: SHA-256 of its endpoint.
    pub fn fleet_id(&self) -> ProjectId {
        project_id(self.endpoint.origin())
    }

    /// Counters of the project.
    pub fn counters(&self, shared: SharedHandle) -> Counters {
        shared.counters(&self.name, &self.slot)
    }

    /// Breaker of the project's resolver.
    pub fn breaker(&self, shared: SharedHandle) -> ProjectBreaker {
        shared.breaker(&self.name, &self.slot)
    }

    /// Servers that the module's client connects to.
    pub(super) fn servers(&self) -> impl Iterator<Item = &UpstreamServer> {
        let resolver = match &self.resolver {
            Upstream::Url(server) => Some(&**server),
            Upstream::Location(_) => None,
        };
        let keys = match &self.tokens.keys {
            KeySource::Url(server) => Some(&**server),
            KeySource::File(_) => None,
        };
        resolver.into_iter().chain(keys).chain([&*self.userinfo.server])
    }
}
