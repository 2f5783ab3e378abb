//! The measured programs: the module, and the alternatives to it, configured as their manuals say,
//! with one worker, and passing the same eight headers.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::others::{apache, caddy, envoy, ext_authz, haproxy, jwt_authn, local_keys};
use crate::process::{free_addr, Process, MEASURED};
use crate::sharing::SecondTier;
use crate::site::{nginx, Site, IDENTITY, ORIGIN, TLS_NAME};

/// A program and configuration to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// No authentication: the headers stand in the configuration.
    Ceiling,
    /// The module, with a cache zone of this size.
    Cached(&'static str),
    /// The same with a signed assertion.
    Assertion,
    /// The same, looking again at responses that are still open after five minutes.
    Recheck,
    /// The same on a host of a fleet that shares verdicts.
    Fleet,
    /// The module with a cache that forgets a verdict before its session comes again.
    Sharing(SecondTier),
    /// The module with a look-up for each request.
    Uncached,
    /// The same over TLS, with persistent connections or a new one for each look-up.
    UncachedTls(Connections),
    /// The module verifying tokens, without a cache.
    Jwt,
    /// The same, with a cache zone of this size, and this number of the worker's own entries.
    JwtCached(&'static str, usize),
    /// The module verifying tokens and looking up others, with a cache.
    Auto,
    /// `auth_request` as in Authgear's guide.
    AuthRequest,
    /// The same with persistent connections to the resolver.
    AuthRequestKeepalive,
    /// The same over TLS, with `proxy_ssl_session_reuse on`.
    AuthRequestTls(Connections),
    /// The same with the cache of Authgear's guide, whose key lacks two of three cookies.
    ProxyCache,
    /// The same with all credentials in the key, and one look-up at a time.
    ProxyCacheSafe,
    /// Lua with verdicts in a shared dictionary.
    LuaDict,
    /// Lua with verdicts in each worker.
    LuaLru,
    HaproxyJwt,
    CaddyForwardAuth,
    ApacheJwt,
    EnvoyExtAuthz,
    EnvoyJwt,
    EnvoyJwtCached,
}

/// Connections to the resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    Kept,
    /// A new one for each look-up, which resumes the last TLS session.
    New,
}

impl Peer {
    /// The name in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Ceiling => "nginx, no authentication, 8 static headers",
            Self::Cached(_) => "authgear, cache",
            Self::Assertion => "authgear, cache, assertion",
            Self::Recheck => "authgear, cache, recheck",
            Self::Fleet => "authgear, cache, fleet",
            Self::Sharing(SecondTier::Absent) => "authgear, look-up at the resolver",
            Self::Sharing(SecondTier::Filled) => "authgear, fleet, verdict of another host",
            Self::Sharing(SecondTier::Emptied) => "authgear, fleet, claim, look-up and store",
            Self::Sharing(SecondTier::Down) => "authgear, fleet, look-up while Redis is down",
            Self::Uncached => "authgear, no cache",
            Self::UncachedTls(Connections::Kept) => "authgear, no cache, TLS",
            Self::UncachedTls(Connections::New) => "authgear, no cache, TLS, new connections",
            Self::Jwt => "authgear, jwt",
            Self::JwtCached(..) => "authgear, jwt, cache",
            Self::Auto => "authgear, auto, cache",
            Self::AuthRequest => "auth_request, as documented",
            Self::AuthRequestKeepalive => "auth_request, keepalive",
            Self::AuthRequestTls(Connections::Kept) => "auth_request, TLS, keepalive",
            Self::AuthRequestTls(Connections::New) => "auth_request, TLS, new connections",
            Self::ProxyCache => "auth_request, proxy_cache as documented (leaks)",
            Self::ProxyCacheSafe => "auth_request, proxy_cache, safe key",
            Self::LuaDict => "Lua, shared dictionary",
            Self::LuaLru => "Lua, LRU per worker",
            Self::HaproxyJwt => "HAProxy jwt_verify",
            Self::CaddyForwardAuth => "Caddy forward_auth",
            Self::ApacheJwt => "Apache mod_auth_openidc",
            Self::EnvoyExtAuthz => "Envoy ext_authz",
            Self::EnvoyJwt => "Envoy jwt_authn",
            Self::EnvoyJwtCached => "Envoy jwt_authn, cache",
        }
    }

    /// Whether the peer is this project's module.
    pub fn is_own(self) -> bool {
        self.title().starts_with("authgear")
    }

    /// The other peer that this one is compared with, and the most that it may take of it.
    pub fn target(self) -> Option<(Self, f64)> {
        let look_up = Self::Sharing(SecondTier::Absent);
        match self {
            Self::Fleet => Some((Self::Cached("10m"), 1.005)),
            Self::Sharing(tier) => Some((look_up, tier.target()?)),
            Self::Uncached => Some((Self::AuthRequestKeepalive, 0.85)),
            Self::UncachedTls(connections) => Some((Self::AuthRequestTls(connections), 1.0)),
            _ => None,
        }
    }

    /// `$authgear_cache_status` of all its answers, if they tell it.
    pub fn cache_status(self) -> Option<&'static str> {
        match self {
            Self::Sharing(tier) => Some(tier.cache_status()),
            _ => None,
        }
    }

    /// Returns true for a host of a fleet.
    pub fn is_host(self) -> bool {
        self == Self::Fleet || matches!(self, Self::Sharing(tier) if tier != SecondTier::Absent)
    }

    /// The reason why the peer cannot be measured here, if any.
    pub fn missing(self) -> Option<String> {
        let needed: &[&str] = match self {
            Self::LuaDict | Self::LuaLru if env::var_os("AUTHGEAR_NGINX").is_some() => {
                return Some(format!("{}: its module is for the system's nginx", self.title()));
            }
            Self::LuaDict | Self::LuaLru => &[LUA_MODULE, NDK_MODULE],
            Self::HaproxyJwt => &["/usr/sbin/haproxy"],
            Self::CaddyForwardAuth => &["/usr/bin/caddy"],
            Self::ApacheJwt => {
                &["/usr/sbin/apache2", "/usr/lib/apache2/modules/mod_auth_openidc.so"]
            }
            Self::EnvoyExtAuthz | Self::EnvoyJwt | Self::EnvoyJwtCached => &[ENVOY],
            Self::Fleet | Self::Sharing(_) if env::var_os("AUTHGEAR_REDIS").is_none() => {
                &["/usr/bin/redis-check-rdb"]
            }
            _ => &[],
        };
        let missing = needed.iter().find(|file| !Path::new(file).exists());
        missing.map(|file| format!("{}: no {file}", self.title()))
    }

    /// Starts it on the measured core.
    pub fn start(self, site: &Site, resolver: SocketAddr) -> io::Result<Running> {
        let ports = Ports { addr: free_addr()?, status: free_addr()? };
        let Ports { addr, status } = ports;
        let dir = site.directory(&format!("{}-{}", self.slug(), addr.port()))?;
        let mut command = self.command(site, resolver, ports, &dir, MEASURED.command("env"))?;
        let running = Running { process: Process::start(&mut command, &dir, addr)?, addr, status };
        self.wait_ready(&running)?;
        Ok(running)
    }

    /// Starts it, if it is nginx, as one process under `tool`.
    pub fn start_under(self, site: &Site, mut tool: Command) -> io::Result<Running> {
        let ports = Ports { addr: free_addr()?, status: free_addr()? };
        let Ports { addr, status } = ports;
        let dir = site.directory(&format!("{}-{}", self.slug(), addr.port()))?;
        let main = "master_process off;";
        tool.arg(nginx_binary());
        let Some(conf) = self.nginx_conf(site, site.resolver, ports, main) else {
            return Err(io::Error::other("not nginx"));
        };
        let mut command = nginx(tool, &dir, &conf)?;
        let patience = Duration::from_secs(60);
        let process = Process::start_within(&mut command, &dir, addr, patience)?;
        let running = Running { process, addr, status };
        self.wait_ready(&running)?;
        Ok(running)
    }

    /// Waits for the connections to Redis.
    fn wait_ready(self, running: &Running) -> io::Result<()> {
        match self {
            Self::Fleet | Self::Sharing(SecondTier::Filled | SecondTier::Emptied) => {
                running.wait_in_fleet()
            }
            _ => Ok(()),
        }
    }

    fn slug(self) -> String {
        let title = self.title().chars();
        title
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .collect()
    }

    fn command(
        self,
        site: &Site,
        resolver: SocketAddr,
        ports: Ports,
        dir: &Path,
        mut pinned: Command,
    ) -> io::Result<Command> {
        let addr = ports.addr;
        if let Some(conf) = self.nginx_conf(site, resolver, ports, "") {
            pinned.arg(nginx_binary());
            return nginx(pinned, dir, &conf);
        }
        let (file, conf) = match self {
            Self::HaproxyJwt => ("haproxy.cfg", haproxy(site, addr)),
            Self::CaddyForwardAuth => ("Caddyfile", caddy(site, resolver, addr)),
            Self::ApacheJwt => ("apache.conf", apache(&local_keys(site), site, addr, dir)),
            Self::EnvoyJwt => ("envoy.yaml", envoy(&jwt_authn(site, false)?, site, resolver, addr)),
            Self::EnvoyJwtCached => {
                ("envoy.yaml", envoy(&jwt_authn(site, true)?, site, resolver, addr))
            }
            _ => ("envoy.yaml", envoy(&ext_authz(resolver), site, resolver, addr)),
        };
        let file = dir.join(file);
        fs::write(&file, conf)?;
        match self {
            Self::HaproxyJwt => pinned.arg("haproxy").arg("-db").arg("-f").arg(file),
            Self::CaddyForwardAuth => {
                pinned.arg("GOMAXPROCS=1").arg(format!("HOME={}", dir.display()));
                pinned.args(["caddy", "run", "--adapter", "caddyfile", "--config"]).arg(file)
            }
            Self::ApacheJwt => pinned.args(["apache2", "-D", "FOREGROUND", "-f"]).arg(file),
            _ => pinned
                .args([ENVOY, "--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"])
                .arg(file),
        };
        Ok(pinned)
    }

    /// The nginx configuration of a peer that is nginx; `main` goes to the main context.
    fn nginx_conf(
        self,
        site: &Site,
        resolver: SocketAddr,
        Ports { addr, status }: Ports,
        main: &str,
    ) -> Option<String> {
        let keys = site.key_set();
        let keys = keys.display();
        let project = format!(
            "authgear_project bench {{ endpoint {ORIGIN}; jwks_file {keys};
                 resolver_url http://{resolver}/_resolver/resolve; keepalive 64; }}"
        );
        let (http, server) = match self {
            Self::Ceiling => (String::new(), location(&header_lines("proxy_set_header"))),
            Self::Uncached => (project, location("authgear bench;")),
            Self::UncachedTls(connections) => {
                let keepalive = match connections {
                    Connections::Kept => 64,
                    Connections::New => 0,
                };
                let project = format!(
                    "authgear_project bench {{ endpoint {ORIGIN}; jwks_file {keys};
                         resolver_url https://{}/_resolver/resolve; keepalive {keepalive};
                         ssl_name {TLS_NAME}; ssl_trusted_certificate {}; }}",
                    site.tls_resolver,
                    site.authority().display()
                );
                (project, location("authgear bench;"))
            }
            Self::Cached(size) => (
                format!("{project} authgear_cache_zone verdicts:{size};"),
                location("authgear bench; authgear_cache verdicts; authgear_cache_valid valid=1h;"),
            ),
            Self::Fleet => (
                format!(
                    "{project} authgear_cache_zone verdicts:10m; {}",
                    site.stores.of(SecondTier::Filled, status)
                ),
                location("authgear bench; authgear_cache verdicts; authgear_cache_valid valid=1h;"),
            ),
            Self::Sharing(tier) => (
                format!(
                    "{project} authgear_cache_zone verdicts:64k front=1; {}",
                    site.stores.of(tier, status)
                ),
                location("authgear bench; authgear_cache verdicts; authgear_cache_valid valid=1h;
                          add_header X-Cache $authgear_cache_status;"),
            ),
            Self::Jwt => (project, location("authgear bench; authgear_mode jwt;")),
            Self::Assertion => (
                format!("{project} authgear_cache_zone verdicts:10m;"),
                location(&format!(
                    "authgear bench; authgear_cache verdicts; authgear_cache_valid valid=1h;
                     authgear_assertion {} audience=urn:bench issuer={ORIGIN};",
                    site.assertion_key().display()
                )),
            ),
            Self::Recheck => (
                format!("{project} authgear_cache_zone verdicts:10m;"),
                location("authgear bench; authgear_cache verdicts; authgear_cache_valid valid=1h;
                          authgear_recheck 5m;"),
            ),
            Self::JwtCached(size, front) => (
                format!("{project} authgear_cache_zone verdicts:{size} front={front};"),
                location("authgear bench; authgear_mode jwt; authgear_cache verdicts;
                          authgear_cache_valid valid=1h;"),
            ),
            Self::Auto => (
                format!("{project} authgear_cache_zone verdicts:10m;"),
                location("authgear bench; authgear_mode auto; authgear_cache verdicts;
                          authgear_cache_valid valid=1h;"),
            ),
            Self::AuthRequest => (
                String::new(),
                auth_request(&format!("proxy_pass http://{resolver}/_resolver/resolve;")),
            ),
            Self::AuthRequestKeepalive => (
                upstream("resolver", resolver),
                auth_request(&format!("{KEEPALIVE} proxy_pass http://resolver/_resolver/resolve;")),
            ),
            Self::AuthRequestTls(connections) => {
                let (url, persistent) = match connections {
                    Connections::Kept => ("https://resolver".to_owned(), KEEPALIVE),
                    Connections::New => (format!("https://{}", site.tls_resolver), ""),
                };
                let ask = format!(
                    "{persistent} proxy_ssl_session_reuse on; proxy_ssl_protocols TLSv1.2 TLSv1.3;
                     proxy_ssl_verify on; proxy_ssl_trusted_certificate {};
                     proxy_ssl_name {TLS_NAME}; proxy_pass {url}/_resolver/resolve;",
                    site.authority().display()
                );
                (upstream("resolver", site.tls_resolver), auth_request(&ask))
            }
            Self::ProxyCache => (
                format!("{} proxy_cache_path cache keys_zone=auth:10m;", upstream("resolver", resolver)),
                auth_request(&format!(
                    "{KEEPALIVE} proxy_pass http://resolver/_resolver/resolve;
                     proxy_cache auth; proxy_cache_valid 200 10m;
                     proxy_cache_key '$cookie_session|$http_authorization';"
                )),
            ),
            Self::ProxyCacheSafe => (
                format!("{} proxy_cache_path cache keys_zone=auth:10m;", upstream("resolver", resolver)),
                auth_request(&format!(
                    "{KEEPALIVE} proxy_pass http://resolver/_resolver/resolve;
                     proxy_cache auth; proxy_cache_valid 200 10m; proxy_cache_lock on;
                     proxy_cache_key '$cookie_session|$cookie_app_session|$cookie_app_access_token|$http_authorization';"
                )),
            ),
            Self::LuaDict => {
                (lua(resolver, "lua_shared_dict auth 64m;", ""), lua_location(LUA_DICT))
            }
            Self::LuaLru => (
                lua(resolver, "", "kept = require('resty.lrucache').new(20000)"),
                lua_location(LUA_LRU),
            ),
            _ => return None,
        };
        let modules = match self {
            Self::LuaDict | Self::LuaLru => {
                format!("load_module {NDK_MODULE}; load_module {LUA_MODULE};")
            }
            _ if self.is_own() => format!("load_module {};", module().display()),
            _ => String::new(),
        };
        let backend = upstream("backend", site.backend);
        Some(format!(
            "daemon off; worker_processes 1; user root; pid nginx.pid;
            error_log logs/error.log error; {main}
            {modules}
            events {{ worker_connections 4096; }}
            http {{
                access_log off; keepalive_requests 1000000000;
                {TEMPORARY}
                {backend}
                {http}
                server {{ listen {addr} backlog=4096; {server} }}
            }}"
        ))
    }
}

/// Addresses of a peer.
#[derive(Clone, Copy)]
struct Ports {
    addr: SocketAddr,
    /// Address of its counters, for a host of a fleet.
    status: SocketAddr,
}

/// A running peer.
pub struct Running {
    pub process: Process,
    pub addr: SocketAddr,
    pub status: SocketAddr,
}

const NDK_MODULE: &str = "/usr/share/nginx/modules/ndk_http_module.so";
const LUA_MODULE: &str = "/usr/share/nginx/modules/ngx_http_lua_module.so";
/// The program that `make bench` installs.
const ENVOY: &str = "build/bench-venv/bin/envoy";

/// nginx makes these directories, and Debian's are root's.
pub const TEMPORARY: &str = "client_body_temp_path temp; proxy_temp_path temp;
    fastcgi_temp_path temp; uwsgi_temp_path temp; scgi_temp_path temp;";

const KEEPALIVE: &str = "proxy_http_version 1.1; proxy_set_header Connection '';";

/// The module's file: `AUTHGEAR_MODULE`, or where `make build` puts it.
pub fn module() -> PathBuf {
    env::var_os("AUTHGEAR_MODULE").map(PathBuf::from).unwrap_or_else(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        root.join("target/release/libngx_http_authgear_module.so")
    })
}

/// The nginx to run: `AUTHGEAR_NGINX`, or the one in `PATH`.
pub fn nginx_binary() -> OsString {
    env::var_os("AUTHGEAR_NGINX").unwrap_or_else(|| "nginx".into())
}

fn upstream(name: &str, addr: SocketAddr) -> String {
    format!("upstream {name} {{ server {addr}; keepalive 64; keepalive_requests 1000000000; }}")
}

fn location(directives: &str) -> String {
    format!("location / {{ {directives} {KEEPALIVE} proxy_pass http://backend; }}")
}

fn header_lines(directive: &str) -> String {
    IDENTITY.iter().map(|(name, value)| format!("{directive} {name} '{value}';\n")).collect()
}

/// The guide's configuration. It names `acr`, which Authgear does not send, and lacks the roles,
/// which it does: this one has the roles, so that all peers pass the same headers.
fn auth_request(ask: &str) -> String {
    let names: Vec<_> =
        IDENTITY.iter().map(|(name, _)| name.to_ascii_lowercase().replace('-', "_")).collect();
    let set: String = names
        .iter()
        .zip(IDENTITY)
        .map(|(variable, (name, _))| {
            format!(
                "auth_request_set ${variable} $upstream_http_{variable};
                 proxy_set_header {name} ${variable};\n"
            )
        })
        .collect();
    format!(
        "{}
        location = /_auth {{
            internal; {ask}
            proxy_set_header Host auth.example.com;
            proxy_pass_request_body off; proxy_set_header Content-Length '';
        }}",
        location(&format!("auth_request /_auth; {set}"))
    )
}

fn lua(resolver: SocketAddr, zone: &str, init: &str) -> String {
    let names: String = IDENTITY.iter().map(|(name, _)| format!("'{name}',")).collect();
    format!(
        "{} {zone} lua_package_path '/usr/share/lua/5.1/?.lua;;';
        init_by_lua_block {{ names = {{ {names} }} }}
        init_worker_by_lua_block {{ {init} }}",
        upstream("resolver", resolver)
    )
}

fn lua_location(get_and_put: &str) -> String {
    let access = format!(
        "access_by_lua_block {{
            local var = ngx.var
            local key = (var.http_authorization or '') .. '|' .. (var.cookie_session or '') .. '|' ..
                (var.cookie_app_session or '') .. '|' .. (var.cookie_app_access_token or '')
            {get_and_put}
        }}"
    );
    format!(
        "{}
        location = /_auth {{
            internal; {KEEPALIVE} proxy_pass http://resolver/_resolver/resolve;
            proxy_set_header Host auth.example.com;
            proxy_pass_request_body off; proxy_set_header Content-Length '';
        }}",
        location(&access)
    )
}

const LUA_DICT: &str = "
    local packed = ngx.shared.auth:get(key)
    if not packed then
        local answer = ngx.location.capture('/_auth')
        if answer.status ~= 200 then return ngx.exit(503) end
        local values = {}
        for i, name in ipairs(names) do values[i] = answer.header[name] or '' end
        packed = table.concat(values, '\\n') .. '\\n'
        ngx.shared.auth:set(key, packed, 60)
    end
    local i = 1
    for value in string.gmatch(packed, '([^\\n]*)\\n') do
        ngx.req.set_header(names[i], value)
        i = i + 1
    end";

const LUA_LRU: &str = "
    local values = kept:get(key)
    if not values then
        local answer = ngx.location.capture('/_auth')
        if answer.status ~= 200 then return ngx.exit(503) end
        values = {}
        for i, name in ipairs(names) do values[i] = answer.header[name] or '' end
        kept:set(key, values, 60)
    end
    for i = 1, #names do ngx.req.set_header(names[i], values[i]) end";
