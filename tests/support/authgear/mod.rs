//! A fake Authgear: the resolver and the JWKS endpoint, exactly as the real one answers.

mod fault;
mod main_server;
mod oauth;
mod pages;
mod resolver;
mod seed;
mod serve;
mod services;
mod token;
mod userinfo;
mod users;
mod versions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use fault::Fault;
pub use resolver::PERMISSIONS_POLICY;
pub use token::{unix_now, SigningKey, Token};
pub use users::User;
pub use versions::{ClientKind, Version};

use crate::net::{ToAddr, ANY_PORT};
use crate::random;
use crate::recorded::{Log, Recorded};
use crate::server::{listen, listened, Server};
use crate::tls::{ServerIdentity, TlsAcceptor};
use crate::wait::Watched;
use oauth::Resource;
use resolver::{Deployment, JWKS_PATH};
use serve::{serve, Capacity, Shared, State};
use services::Service;

/// The deployment of a [`FakeAuthgear`].
#[derive(Debug)]
pub struct FakeAuthgearBuilder {
    origin: Option<String>,
    trust_proxy: bool,
    database: bool,
    cookie_prefix: String,
    cookie_domain: Option<String>,
    resources: Vec<Resource>,
    version: Version,
    session_mutex: bool,
    tls: Option<ServerIdentity>,
    listen: String,
    three_servers: bool,
    capacity: Option<Capacity>,
}

impl FakeAuthgearBuilder {
    /// The public origin: its host identifies the project, and it is the tokens' `aud`. By default
    /// the fake's own address.
    pub fn origin(mut self, origin: &str) -> Self {
        self.origin = Some(origin.to_owned());
        self
    }

    /// `TRUST_PROXY`: whether `X-Forwarded-*` count. Default: yes.
    pub fn trust_proxy(mut self, trust_proxy: bool) -> Self {
        self.trust_proxy = trust_proxy;
        self
    }

    /// Whether projects are found by Host (`CONFIG_SOURCE_TYPE=database`), unknown ones being 404.
    /// Default: yes.
    pub fn database(mut self, database: bool) -> Self {
        self.database = database;
        self
    }

    /// `http.cookie_prefix` of the project.
    pub fn cookie_prefix(mut self, prefix: &str) -> Self {
        self.cookie_prefix = prefix.to_owned();
        self
    }

    /// `http.cookie_domain` of the project.
    pub fn cookie_domain(mut self, domain: &str) -> Self {
        self.cookie_domain = Some(domain.to_owned());
        self
    }

    /// Registers a protected resource with its scopes. Clients that register themselves get tokens
    /// for it.
    pub fn resource(mut self, uri: &str, scopes: &[&str]) -> Self {
        let scopes = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.resources.push(Resource { uri: uri.to_owned(), scopes });
        self
    }

    /// The version to answer as; `2026-08` unless said otherwise.
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Whether a look-up of a session that is being looked up already gets a 500.
    pub fn session_mutex(mut self, session_mutex: bool) -> Self {
        self.session_mutex = session_mutex;
        self
    }

    pub fn tls(mut self, identity: ServerIdentity) -> Self {
        self.tls = Some(identity);
        self
    }

    /// The address to listen on. Default: `127.0.0.1:0`.
    pub fn listen(mut self, addr: &str) -> Self {
        self.listen = addr.to_owned();
        self
    }

    /// Starts the three servers of Authgear, each with an address of its own: main, the resolver,
    /// and the admin API.
    pub fn three_servers(mut self) -> Self {
        self.three_servers = true;
        self
    }

    /// Answers as many look-ups at a time as this, each after this time. The others wait.
    pub fn capacity(mut self, at_once: usize, service_time: Duration) -> Self {
        self.capacity = Some(Capacity::new(at_once, service_time));
        self
    }

    pub fn start(self) -> FakeAuthgear {
        let addr: SocketAddr = self.listen.parse().expect("an address to listen on");
        let listener = listen(addr).unwrap_or_else(|error| panic!("listen on {addr}: {error}"));
        let tls = self.tls.as_ref().map(TlsAcceptor::new);
        let scheme = if tls.is_some() { "https" } else { "http" };
        let own_origin = format!("{scheme}://{}", listened(&listener));
        let shared = Arc::new(Shared {
            deployment: Deployment {
                origin: self.origin.unwrap_or(own_origin),
                trust_proxy: self.trust_proxy,
                database: self.database,
                cookie_prefix: self.cookie_prefix,
                cookie_domain: self.cookie_domain,
                resources: self.resources,
                version: self.version,
                tls: tls.is_some(),
            },
            session_mutex: self.session_mutex,
            capacity: self.capacity,
            tls,
            log: Log::default(),
            state: Watched::new(State { keys: vec![SigningKey::nth(0)], ..State::default() }),
        });
        let start = |listener, service| {
            let serving = shared.clone();
            Server::start(listener, move |tcp, connection| {
                Box::pin(serve(tcp, connection, serving.clone(), service))
            })
        };
        let other = |service| start(listen(ANY_PORT).expect("a free port"), service);
        let others = self
            .three_servers
            .then(|| Others { resolver: other(Service::Resolver), admin: other(Service::Admin) });
        let service = if others.is_some() { Service::Main } else { Service::MainAndResolver };
        let server = start(listener, service);
        FakeAuthgear { server, others, shared }
    }
}

/// The servers besides main, where they are apart.
#[derive(Debug)]
struct Others {
    resolver: Server,
    admin: Server,
}

/// A running fake. It stops when dropped.
#[derive(Debug)]
pub struct FakeAuthgear {
    server: Server,
    others: Option<Others>,
    shared: Arc<Shared>,
}

impl ToAddr for FakeAuthgear {
    fn to_addr(&self) -> SocketAddr {
        self.addr()
    }
}

impl FakeAuthgear {
    /// Starts a fake whose public origin is its own address.
    pub fn start() -> Self {
        Self::builder().start()
    }

    pub fn builder() -> FakeAuthgearBuilder {
        FakeAuthgearBuilder {
            origin: None,
            trust_proxy: true,
            database: true,
            cookie_prefix: String::new(),
            cookie_domain: None,
            resources: Vec::new(),
            version: Version::default(),
            session_mutex: false,
            tls: None,
            listen: "127.0.0.1:0".to_owned(),
            three_servers: false,
            capacity: None,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// Scheme and address: the argument for `authgear URL` when no origin was set.
    pub fn url(&self) -> String {
        let scheme = if self.shared.deployment.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.addr())
    }

    pub fn origin(&self) -> &str {
        &self.shared.deployment.origin
    }

    pub fn cookie_prefix(&self) -> &str {
        &self.shared.deployment.cookie_prefix
    }

    pub fn resolver_url(&self) -> String {
        format!("{}/_resolver/resolve", self.url())
    }

    pub fn jwks_url(&self) -> String {
        format!("{}{JWKS_PATH}", self.url())
    }

    /// Adds a user, or replaces the one of that id.
    pub fn add_user(&self, user: User) -> User {
        self.shared.state.update(|state| state.store.put(user.clone()));
        user
    }

    pub fn remove_user(&self, id: &str) {
        self.shared.state.update(|state| state.store.remove(id));
    }

    pub fn disable(&self, id: &str) {
        self.change_user(id, |user| user.disabled = true);
    }

    pub fn change_user(&self, id: &str, change: impl FnOnce(&mut User)) {
        self.shared.state.update(|state| state.store.change(id, change));
    }

    // Credentials. Each call makes a new one; the user is added if not there yet.

    /// An opaque access token.
    pub fn opaque_token(&self, user: &User) -> String {
        self.shared.state.update(|state| state.store.grant(user))
    }

    /// A JWT access token.
    pub fn jwt(&self, user: &User) -> String {
        self.token(user).sign()
    }

    /// A JWT access token to be changed before it is signed.
    pub fn token(&self, user: &User) -> Token {
        let opaque = self.opaque_token(user);
        Token::access(self.signing_key(), self.origin(), user, &opaque)
    }

    /// A machine's token for a resource (`client_credentials`).
    pub fn machine_token(&self, resource: &str) -> Token {
        Token::machine(self.signing_key(), self.origin(), resource)
    }

    pub fn id_token(&self, user: &User) -> Token {
        Token::id(self.signing_key(), self.origin(), user)
    }

    /// A refresh token, which the resolver does not accept.
    pub fn refresh_token(&self) -> String {
        random::session()
    }

    /// The value of an IdP `session` cookie.
    pub fn session(&self, user: &User) -> String {
        self.shared.state.update(|state| state.store.session(user))
    }

    /// The value of an `app_session` cookie.
    pub fn app_session(&self, user: &User) -> String {
        self.shared.state.update(|state| state.store.app_session(user))
    }

    /// The value of an `app_access_token` cookie.
    pub fn app_access_token(&self, user: &User) -> String {
        self.opaque_token(user)
    }

    /// Ends the session or the grant of the credential.
    pub fn expire(&self, credential: &str) {
        let claims = token::claims_of(credential);
        let jti = claims.as_ref().and_then(|claims| claims["jti"].as_str());
        self.shared.state.update(|state| state.store.end(jti.unwrap_or(credential)));
    }

    /// Publishes these keys from now on; the first one signs.
    pub fn publish_keys(&self, keys: &[Arc<SigningKey>]) {
        self.shared.state.update(|state| state.keys = keys.to_vec());
    }

    fn signing_key(&self) -> Arc<SigningKey> {
        self.shared.state.read(|state| state.keys[0].clone())
    }

    // Faults. Those of `inject_next` come first, in order; then those for a path; then the general
    // one.

    /// Injects a fault for all requests from now on.
    pub fn inject(&self, fault: Fault) {
        self.shared.state.update(|state| state.faults.inject(fault));
    }

    /// Injects a fault for the next `n` requests without one.
    pub fn inject_next(&self, n: usize, fault: Fault) {
        self.shared.state.update(|state| state.faults.inject_next(n, fault));
    }

    /// Injects a fault for all requests of this path, such as `/oauth2/jwks`.
    pub fn inject_at(&self, path: &str, fault: Fault) {
        self.shared.state.update(|state| state.faults.inject_at(path, fault));
    }

    /// Injects a fault for all requests whose `Authorization` contains this text.
    pub fn inject_for(&self, text: &str, fault: Fault) {
        self.shared.state.update(|state| state.faults.inject_for(text, fault));
    }

    /// Injects a fault for those requests with the same credentials whose turn it is. The turns are
    /// counted for each credentials, and repeat.
    pub fn inject_by_turns(&self, turns: &[bool], fault: Fault) {
        self.shared.state.update(|state| state.faults.inject_by_turns(turns, fault));
    }

    /// Removes all faults.
    pub fn clear(&self) {
        self.shared.state.update(|state| state.faults.clear());
    }

    /// The next request that comes over a connection used before is read and recorded; then the
    /// connection is closed without any answer.
    pub fn close_on_next_reuse(&self) {
        self.shared.state.update(|state| state.close_on_next_reuse = true);
    }

    /// Closes the connections that wait for a next request, and returns once they are closed.
    #[track_caller]
    pub fn close_idle_connections(&self) {
        self.server.close_idle();
    }

    /// Closes the listener and all connections. New ones are refused.
    #[track_caller]
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Listens again, here or elsewhere, after [`stop`](Self::stop).
    pub fn restart_on(&self, addr: SocketAddr) {
        self.server.restart_on(addr).unwrap_or_else(|error| panic!("listen on {addr}: {error}"));
    }

    // Recorded requests.

    pub fn requests(&self) -> Vec<Recorded> {
        self.shared.log.all()
    }

    /// Returns the same and clears them: they no longer count.
    pub fn take_requests(&self) -> Vec<Recorded> {
        self.shared.log.take()
    }

    /// The number of requests, without those for keys.
    pub fn hits(&self) -> usize {
        self.shared.log.count(not_jwks)
    }

    #[track_caller]
    pub fn wait_for_hits(&self, n: usize) {
        self.shared.log.wait_for(n, not_jwks);
    }

    pub fn jwks_hits(&self) -> usize {
        self.shared.log.count(jwks)
    }

    #[track_caller]
    pub fn wait_for_jwks_hits(&self, n: usize) {
        self.shared.log.wait_for(n, jwks);
    }

    /// The SNI of each TLS client, also of failed handshakes.
    pub fn sni_seen(&self) -> Vec<Option<String>> {
        self.shared.state.read(|state| state.sni.clone())
    }

    /// Returns true if each TLS connection resumed a session, in the order of their handshakes.
    pub fn sessions_resumed(&self) -> Vec<bool> {
        self.shared.state.read(|state| state.resumed.clone())
    }

    fn others(&self) -> &Others {
        self.others.as_ref().expect("three servers")
    }

    /// Addresses of resolver and admin API, of three servers.
    pub fn other_addrs(&self) -> [SocketAddr; 2] {
        [self.others().resolver.addr(), self.others().admin.addr()]
    }

    /// The numbers of connections that resolver and admin API have got, of three servers.
    pub fn connections_to_others(&self) -> [u64; 2] {
        [self.others().resolver.opened(), self.others().admin.opened()]
    }

    pub fn connections_opened(&self) -> u64 {
        self.server.opened()
    }

    pub fn connections_open(&self) -> usize {
        self.server.open()
    }

    #[track_caller]
    pub fn wait_for_no_connections(&self) {
        self.server.wait_for_no_connections();
    }
}

fn jwks(request: &Recorded) -> bool {
    request.path() == JWKS_PATH
}

fn not_jwks(request: &Recorded) -> bool {
    !jwks(request)
}
