//! docs/forward-auth.md: the lines of the page in the real Caddy, Envoy and HAProxy, which ask
//! `authgear_verdict`.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Once;

use support::{
    eventually, get, Backend, FakeAuthgear, Fault, Nginx, RefusedAddr, Request, User, DEADLINE,
};

use crate::project::project;
use crate::site::{assert_nothing_forged, identity_of, report_skipped, site, FORGED};

/// The only block of the page in this language.
fn block(language: &str) -> String {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/forward-auth.md");
    let page = fs::read_to_string(page).expect("the page");
    let (_, rest) = page.split_once(&format!("```{language}\n")).expect("the block");
    rest.split("```").next().expect("its end").to_owned()
}

/// Replaces addresses and the like, each of which has to be there.
fn replaced(mut text: String, pairs: &[(&str, &str)]) -> String {
    for (from, to) in pairs {
        assert!(text.contains(from), "no {from} in {text}");
        text = text.replace(from, to);
    }
    text
}

/// Another proxy. It ends when dropped.
struct Proxy {
    process: Child,
    addr: SocketAddr,
    dir: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A proxy, and how it is started with the lines of the page.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Caddy,
    Envoy,
    Haproxy,
}

impl Kind {
    /// The program, if it is installed.
    fn program(self) -> Option<PathBuf> {
        let program: PathBuf = match self {
            Self::Caddy => "/usr/bin/caddy".into(),
            Self::Haproxy => "/usr/sbin/haproxy".into(),
            Self::Envoy => {
                let root = Path::new(env!("CARGO_MANIFEST_DIR"));
                // The package has a script in Python that replaces itself by the program.
                root.join("../build/bench-venv/bin/envoy")
            }
        };
        static REPORTED: [Once; 3] = [const { Once::new() }; 3];
        if !program.exists() {
            let what = format!("{self:?} (\"make clients\" could not install it)");
            report_skipped(&REPORTED[self as usize], &what);
            return None;
        }
        Some(program)
    }

    /// Starts it before `backend`. It asks `endpoint`.
    fn start(self, program: &Path, endpoint: &str, backend: SocketAddr) -> Proxy {
        let dir = tempfile::tempdir().expect("a directory");
        // Nobody else gets the port: the socket lives until the proxy listens.
        let reserved = RefusedAddr::bind();
        let addr = reserved.addr();
        let (own, backend) = (addr.to_string(), backend.to_string());
        let mut command = Command::new(program);
        let file = |name: &str, text: String| {
            let path = dir.path().join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        match self {
            Self::Caddy => {
                let (authz, path) = endpoint.split_once('/').expect("a path");
                let site = format!("http://:{}", addr.port());
                let text = replaced(
                    block("caddyfile"),
                    &[
                        ("app.example.com", &site),
                        ("127.0.0.1:8080", authz),
                        ("/authz", &format!("/{path}")),
                        ("127.0.0.1:8000", &backend),
                    ],
                );
                let text = format!("{{\nadmin off\nauto_https off\n}}\n{text}");
                command.args(["run", "--adapter", "caddyfile", "--config"]);
                command.arg(file("Caddyfile", text)).env("HOME", dir.path());
            }
            Self::Haproxy => {
                let script = replaced(block("lua"), &[("127.0.0.1:8080/authz", endpoint)]);
                let script = file("authgear.lua", script).display().to_string();
                let bind = format!("bind {own}\n");
                let pairs = [
                    ("authgear.lua", script.as_str()),
                    ("bind :80\n", &bind),
                    ("127.0.0.1:8000", &backend),
                ];
                command.arg("-db").arg("-f");
                command.arg(file("haproxy.cfg", replaced(block("haproxy"), &pairs)));
            }
            Self::Envoy => {
                let (authz, path) = endpoint.split_once('/').expect("a path");
                let filters = replaced(
                    block("yaml"),
                    &[("127.0.0.1:8080", authz), ("/authz?", &format!("/{path}?"))],
                );
                command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "error", "-c"]);
                command.arg(file("envoy.yaml", envoy(&filters, &own, authz, &backend)));
            }
        }
        let log = fs::File::create(dir.path().join("log")).expect("a log");
        command.stdout(Stdio::null()).stderr(log);
        let process = command.spawn().expect("the proxy");
        let mut proxy = Proxy { process, addr, dir };
        let up = eventually(DEADLINE, || {
            let ended = proxy.process.try_wait().expect("its state").is_some();
            ended || TcpStream::connect(addr).is_ok()
        });
        let log = || fs::read_to_string(proxy.dir.path().join("log")).unwrap_or_default();
        assert!(up && TcpStream::connect(addr).is_ok(), "{self:?}: {}", log());
        proxy
    }
}

/// Envoy's configuration around the filters of the page.
fn envoy(filters: &str, own: &str, authz: &str, backend: &str) -> String {
    let address = |addr: &str| {
        let (ip, port) = addr.split_once(':').expect("a port");
        format!("{{socket_address: {{address: {ip}, port_value: {port}}}}}")
    };
    let cluster = |name: &str, addr: &str| {
        format!(
            "  - name: {name}
    connect_timeout: 2s
    load_assignment:
      cluster_name: {name}
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]
",
            address(addr)
        )
    };
    let filters: String = filters.lines().map(|line| format!("          {line}\n")).collect();
    format!(
        "static_resources:
  listeners:
  - address: {}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes: [{{match: {{prefix: /}}, route: {{cluster: backend}}}}]
{filters}  clusters:
{}{}",
        address(own),
        cluster("backend", backend),
        cluster("authz", authz),
    )
}

/// Headers of clients that want the identity of another user, in the forms that applications read.
const FORGERIES: [&str; 6] = [
    "X-Authgear-User-Id",
    "X-Authgear-User-Roles",
    "x-authgear-custom-attribute",
    "X_Authgear_User_Roles",
    "x-authgear_user_id",
    "X_AUTHGEAR-Session-Valid",
];

fn forged(mut request: Request) -> Request {
    for name in FORGERIES {
        request = request.header(name, FORGED);
    }
    request
}

/// Headers by which proxies describe the request that they ask about, sent by a client.
fn misled(request: Request) -> Request {
    request
        .header("X-Forwarded-Method", "OPTIONS")
        .header("X-Forwarded-Uri", "/public")
        .header("X-Forwarded-Host", "public.test")
        .header("X-Original-Url", "/public")
        .header("X-Original-Method", "OPTIONS")
        .header("Content-Type", "application/grpc")
        .header("Accept", "text/html")
        .header("Sec-Fetch-Mode", "navigate")
        .header("Sec-Fetch-Dest", "document")
}

fn endpoint(authgear: &FakeAuthgear, backend: &Backend) -> Nginx {
    site(authgear, backend)
        .http(project("p", authgear, "max_fails 0;"))
        .http("authgear_cache_zone verdicts:1m;")
        .server(
            "authgear p;
             authgear_cache verdicts;
             authgear_require session;
             authgear_login_redirect https://login.test/;
             error_page 401 403 =200 /sorry.html;
             location = /authz { authgear_verdict; }
             location = /authz/admin { authgear_require role=admin; authgear_verdict; }
             location / { authgear_require off; return 200 open; }",
        )
        .start()
}

#[track_caller]
fn forwards_users_and_denies_others(kind: Kind) {
    let Some(program) = kind.program() else { return };
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = endpoint(&authgear, &backend);
    let proxy =
        |path: &str| kind.start(&program, &format!("{}/{path}", nginx.addr()), backend.addr());
    let (all, admins) = (proxy("authz"), proxy("authz/admin"));
    let alice = User::named("alice");
    let root = User::named("root").roles(&["admin"]);
    let bearer = |user: &User| authgear.opaque_token(user);
    let (by_token, admin) = (bearer(&alice), bearer(&root));
    let session = authgear.session(&alice);
    // A client of its own headers, of forged ones, and of ones that name another request.
    let ask = |proxy: &Proxy, path: &str| {
        get(&proxy.addr, path).header("Host", "app.test").header("X-Other", "kept")
    };
    for request in [
        ask(&all, "/page?a=b").bearer(&by_token),
        ask(&all, "/page?a=b").cookie("session", &session),
        ask(&all, "/page?a=b").bearer(&by_token).method("POST").body("body"),
    ] {
        for request in [request.clone(), misled(request)] {
            let answer = forged(request).send();
            assert_eq!(answer.status, 200, "{kind:?}");
            let echo = answer.echo();
            assert_nothing_forged(&echo, &format!("{kind:?}"));
            let identity: Vec<_> =
                echo.identity().into_iter().filter(|(_, value)| !value.is_empty()).collect();
            let mut expected = identity_of(&alice);
            expected.sort_unstable();
            let mut found = identity;
            found.sort_unstable();
            assert_eq!(found, expected, "{kind:?}");
            assert_eq!((&*echo.target, echo.header("x-other")), ("/page?a=b", Some("kept")));
        }
    }
    let hits = backend.hits();
    for (what, proxy, path, token, status) in [
        ("no session", &all, "/public", None, 401),
        ("an ended session", &all, "/", Some("dead"), 401),
        ("no admin", &admins, "/", Some(by_token.as_str()), 403),
        // A path of the client's leads to no other location.
        ("a path upwards", &admins, "/../authz", Some(by_token.as_str()), 403),
        ("another path upwards", &admins, "/..%2f..%2f", Some(by_token.as_str()), 403),
    ] {
        let makes: [fn(Request) -> Request; 3] = [|request| request, forged, misled];
        for make in makes {
            let request = make(ask(proxy, path));
            let answer = token.into_iter().fold(request, Request::bearer).send();
            // Some proxies refuse such paths themselves, and Envoy tells a gRPC client in its way.
            let refused = what.contains("upwards") && answer.status == 400;
            let call = answer.header("grpc-status").is_some_and(|status| status != "0");
            assert!(answer.status == status || refused || call, "{kind:?} {what}: {answer:?}");
            if status == 401 {
                let challenge = answer.header("www-authenticate").unwrap_or_default();
                assert!(challenge.starts_with("Bearer"), "{kind:?} {what}: {answer:?}");
            }
        }
    }
    authgear.inject(Fault::Status(500));
    let answer = ask(&all, "/").bearer(&admin).send();
    // Envoy passes nothing on of an answer with 5xx.
    let told = answer.header("retry-after").is_some() || kind == Kind::Envoy;
    assert_eq!((answer.status, told), (503, true), "{kind:?}");
    authgear.clear();
    assert_eq!(ask(&admins, "/").bearer(&admin).send().status, 200);
    assert_eq!(backend.hits(), hits + 1, "{kind:?} forwarded a request without leave");
    nginx.quit();
    let answer = ask(&all, "/").bearer(&by_token).send();
    assert!(answer.status >= 500, "{kind:?} without an endpoint: {}", answer.status);
    assert_eq!(backend.hits(), hits + 1, "{kind:?} forwarded a request without an answer");
}

#[test]
fn caddy_forwards_users_and_denies_others() {
    forwards_users_and_denies_others(Kind::Caddy);
}

#[test]
fn envoy_forwards_users_and_denies_others() {
    forwards_users_and_denies_others(Kind::Envoy);
}

#[test]
fn haproxy_forwards_users_and_denies_others() {
    forwards_users_and_denies_others(Kind::Haproxy);
}

/// The fault that docs/forward-auth.md warns of.
#[test]
fn a_proxy_that_asks_the_resolver_itself_admits_everybody() {
    let Some(program) = Kind::Caddy.program() else { return };
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let resolver = format!("{}/_resolver/resolve", authgear.addr());
    let proxy = Kind::Caddy.start(&program, &resolver, backend.addr());
    let host = authgear.addr().to_string();
    assert_eq!(get(&proxy.addr, "/").header("Host", &host).send().status, 200);
    assert_eq!(backend.hits(), 1);
}
