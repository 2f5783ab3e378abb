//! Configurations of the peers that are not nginx.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::site::{Site, IDENTITY, ORIGIN};

/// HAProxy cannot write paths to claims with dots in their names: those headers are static.
pub fn haproxy(site: &Site, addr: SocketAddr) -> String {
    let key = site.public_key();
    let fixed: String = IDENTITY
        .iter()
        .filter(|(name, _)| !FROM_CLAIMS.iter().any(|(claimed, _)| claimed == name))
        .map(|(name, value)| format!("    http-request set-header {name} {value}\n"))
        .collect();
    let claimed: String = FROM_CLAIMS
        .iter()
        .map(|(name, claim)| {
            format!(
                "    http-request set-header {name} \
                 %[var(txn.bearer),jwt_payload_query('$.{claim}')]\n"
            )
        })
        .collect();
    format!(
        "global
    nbthread 1
    maxconn 2000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend in
    bind {addr}
    http-request set-var(txn.bearer) http_auth_bearer
    http-request set-var(txn.alg) var(txn.bearer),jwt_header_query('$.alg')
    http-request set-var(txn.iss) var(txn.bearer),jwt_payload_query('$.iss')
    http-request deny unless {{ var(txn.alg) -m str RS256 }}
    http-request deny unless {{ var(txn.iss) -m str {ORIGIN} }}
    http-request deny unless {{ var(txn.bearer),jwt_verify(txn.alg,\"{}\") 1 }}
{claimed}{fixed}    default_backend app
backend app
    http-reuse always
    server app {}
",
        key.display(),
        site.backend
    )
}

/// The headers that HAProxy and Envoy can make from claims.
const FROM_CLAIMS: [(&str, &str); 2] =
    [("X-Authgear-User-Id", "sub"), ("X-Authgear-Session-Authenticated-At", "auth_time")];

pub fn caddy(site: &Site, resolver: SocketAddr, addr: SocketAddr) -> String {
    let names: Vec<_> = IDENTITY.iter().map(|(name, _)| *name).collect();
    format!(
        "{{
    admin off
    auto_https off
}}
:{} {{
    bind 127.0.0.1
    forward_auth {resolver} {{
        uri /_resolver/resolve
        copy_headers {}
    }}
    reverse_proxy {}
}}
",
        addr.port(),
        names.join(" "),
        site.backend
    )
}

pub fn local_keys(site: &Site) -> String {
    let kid = support::SigningKey::nth(0).kid.clone();
    format!("OIDCOAuthVerifyCertFiles {kid}#{}", site.public_key().display())
}

pub fn apache(verify: &str, site: &Site, addr: SocketAddr, dir: &Path) -> String {
    let modules: String = [
        "mpm_event",
        "authn_core",
        "authz_core",
        "authz_user",
        "headers",
        "proxy",
        "proxy_http",
        "auth_openidc",
    ]
    .iter()
    .map(|name| format!("LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n"))
    .collect();
    let fixed: String = IDENTITY
        .iter()
        .filter(|(name, _)| *name != "X-Authgear-User-Id")
        .map(|(name, value)| format!("    RequestHeader set {name} \"{value}\"\n"))
        .collect();
    format!(
        "{modules}ServerName app.example.com
User www-data
Group www-data
Listen {addr}
DefaultRuntimeDir {dir}
PidFile {dir}/apache.pid
ErrorLog {dir}/logs/error.log
LogLevel error
Mutex pthread default
StartServers 1
ServerLimit 1
ThreadLimit 25
ThreadsPerChild 25
MaxRequestWorkers 25
KeepAlive On
KeepAliveTimeout 300
MaxKeepAliveRequests 0
OIDCCryptoPassphrase bench
OIDCOAuthRemoteUserClaim sub
{verify}
<Location />
    AuthType oauth20
    Require valid-user
    RequestHeader set X-Authgear-User-Id expr=%{{REMOTE_USER}}
{fixed}</Location>
ProxyPass / http://{}/
",
        site.backend,
        dir = dir.display(),
    )
}

pub fn ext_authz(resolver: SocketAddr) -> String {
    format!(
        "          - name: envoy.filters.http.ext_authz
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              http_service:
                server_uri: {{uri: \"http://{resolver}\", cluster: resolver, timeout: 5s}}
                path_prefix: /_resolver/resolve
                authorization_response:
                  allowed_upstream_headers: {{patterns: [{{prefix: x-authgear-}}]}}
"
    )
}

pub fn jwt_authn(site: &Site, cache: bool) -> io::Result<String> {
    let keys = fs::read_to_string(site.key_set())?;
    let cache =
        if cache { "                  jwt_cache_config: {jwt_cache_size: 20000}\n" } else { "" };
    let claims: String = FROM_CLAIMS
        .iter()
        .map(|(header, claim)| {
            format!("                  - {{header_name: {header}, claim_name: {claim}}}\n")
        })
        .collect();
    Ok(format!(
        "          - name: envoy.filters.http.jwt_authn
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                authgear:
                  issuer: {ORIGIN}
                  audiences: [{ORIGIN}]
                  forward: true
                  local_jwks: {{inline_string: '{keys}'}}
{cache}                  claim_to_headers:
{claims}              rules: [{{match: {{prefix: /}}, requires: {{provider_name: authgear}}}}]
"
    ))
}

pub fn envoy(filter: &str, site: &Site, resolver: SocketAddr, addr: SocketAddr) -> String {
    let is_jwt = filter.contains("jwt_authn");
    let fixed: String = IDENTITY
        .iter()
        .filter(|(name, _)| is_jwt && !FROM_CLAIMS.iter().any(|(claimed, _)| claimed == name))
        .map(|(name, value)| {
            format!("              - {{header: {{key: {name}, value: \"{value}\"}}}}\n")
        })
        .collect();
    let fixed = match &*fixed {
        "" => String::new(),
        fixed => format!("              request_headers_to_add:\n{fixed}"),
    };
    let cluster = |name: &str, addr: SocketAddr| {
        format!(
            "  - name: {name}
    connect_timeout: 2s
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]
",
            addr.ip(),
            addr.port()
        )
    };
    format!(
        "static_resources:
  listeners:
  - address: {{socket_address: {{address: {}, port_value: {}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: backend}}}}]
{fixed}          http_filters:
{filter}          - name: envoy.filters.http.router
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
{}{}",
        addr.ip(),
        addr.port(),
        cluster("backend", site.backend),
        cluster("resolver", resolver),
    )
}
