//! The example configurations run as they stand, but for ports, addresses and paths.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use support::{
    get, unix_now, webhook_signature, Backend, Builder, Ca, FakeAuthgear, Nginx, RefusedAddr,
    Request, User, WebSocket,
};
use tempfile::TempDir;

use crate::site::{assert_nothing_forged, identity_of, own_ip, Pairs, FORGED};

// A folder `examples` would be one of programs to Cargo.
#[path = "example_systems.rs"]
mod systems;

/// Each has a test below, in `example_systems.rs`, or in the file of its name.
const EXAMPLES: [&str; 23] = [
    "api.conf",
    "assertion.conf",
    "auth_request.conf",
    "bearer.conf",
    "cache.conf",
    "dry-run.conf",
    "fleet-mirror.conf",
    "fleet.conf",
    "forward-auth.conf",
    "grpc.conf",
    "internal-location.conf",
    "jwt.conf",
    "login-redirect.conf",
    "login.conf",
    "mcp.conf",
    "minimal.conf",
    "operating.conf",
    "project.conf",
    "require.conf",
    "satisfy.conf",
    "self-hosted.conf",
    "userinfo.conf",
    "websocket.conf",
];

/// The public host of the examples' project.
pub(crate) const HOST: &str = "myapp.authgear.cloud";

/// The resource of the MCP example.
pub(crate) const MCP: &str = "https://mcp.example.com/mcp";

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx-conf")
}

#[test]
fn every_example_has_a_test() {
    let files = fs::read_dir(folder()).expect("the examples");
    let names = files.map(|file| file.expect("a file").file_name().into_string().expect("a name"));
    assert_eq!(names.collect::<BTreeSet<_>>(), EXAMPLES.map(str::to_owned).into());
}

/// An example with these replacements, each of which has to match.
pub(crate) fn example(name: &str, replace: &[(&str, &str)]) -> Builder {
    let text = fs::read_to_string(folder().join(name)).expect("the example");
    let listen = if text.contains("listen 443") { "listen 443" } else { "listen 8080" };
    let replace: Vec<(String, String)> = [(listen, "listen %%ADDR%%")]
        .iter()
        .chain(replace)
        .map(|(from, to)| ((*from).to_owned(), (*to).to_owned()))
        .collect();
    let uses_module = text.contains("load_module");
    let builder = Nginx::builder()
        // The example loads it itself.
        .without_module()
        .main("# %%ADDR%%\n# %%DIR%%\n# %%MODULE%%")
        // The test defines the address of the host; no name server is asked.
        .file("resolv.conf", "")
        .mount("/etc/resolv.conf", "resolv.conf");
    builder.raw_conf(move |conf| {
        let (main, rest) = conf.split_once("events {").expect("main");
        let (_, http) = rest.split_once("http {\n").expect("http");
        let http = http.trim_end().strip_suffix('}').expect("the end of http");
        let mut values = main.lines().filter_map(|line| line.strip_prefix("# "));
        let mut value = || values.next().expect("a value").to_owned();
        let (addr, dir, module) = (value(), value(), value());

        let mut text = text;
        let mut swap = |from: &str, to: &str| {
            assert!(text.contains(from), "no {from} in the example");
            text = text.replace(from, to);
        };
        for (from, to) in &replace {
            swap(from, &to.replace("%%ADDR%%", &addr).replace("%%DIR%%", &dir));
        }
        if uses_module {
            swap("modules/ngx_http_authgear_module.so", &module);
        }
        // Logs and temporary files belong into the test's directory.
        swap("http {\n", &format!("http {{\n{http}"));
        format!("{main}{text}")
    })
}

/// Authgear at its public host, whose authority the system trusts.
pub(crate) struct Public {
    pub(crate) authgear: FakeAuthgear,
    hosts: String,
    roots: TempDir,
}

impl Public {
    /// Starts it at its own address: see [`own_ip`].
    pub(crate) fn start(n: u8) -> Self {
        let ip = own_ip(n);
        let (ca, roots) = (Ca::new(), tempfile::tempdir().expect("a directory"));
        ca.pem_path(roots.path());
        let authgear = FakeAuthgear::builder()
            .origin(&format!("https://{HOST}"))
            .tls(ca.leaf(&[HOST]))
            .listen(&format!("{ip}:443"))
            .resource(MCP, &["tools:read"])
            .resource("https://other.example.com/mcp", &["tools:read"])
            .start();
        Self { authgear, hosts: format!("{ip} {HOST}\n"), roots }
    }

    /// The authority that signed its certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.roots.path().join("ca.pem")
    }

    /// An example whose host resolves to this Authgear.
    fn example(&self, name: &str, backend: &Backend) -> Builder {
        self.example_at(name, &backend.addr().to_string())
    }

    /// The same with a backend at this address.
    pub(crate) fn example_at(&self, name: &str, backend: &str) -> Builder {
        let roots = self.ca_file();
        example(name, &[("127.0.0.1:8000", backend)])
            .file("hosts", self.hosts.as_str())
            .mount("/etc/hosts", "hosts")
            .env("SSL_CERT_FILE", roots.to_str().expect("a path"))
    }
}

/// Asserts that `nginx -t` prints no warning, and starts nginx.
#[track_caller]
pub(crate) fn run(builder: impl Fn() -> Builder) -> Nginx {
    let test = builder().check();
    let mut warnings = test.output.lines().filter(|line| line.contains("[warn]"));
    // Newer versions of nginx prefer another word, which older ones do not know.
    let silent = warnings.all(|line| line.contains("\"listen ... http2\" directive is deprecated"));
    assert!(test.ok && silent, "{}", test.output);
    builder().start()
}

fn alice() -> User {
    User::named("alice").roles(&["editor"])
}

/// Adds forged identity headers to a request.
fn with_forged_identity(request: Request) -> Request {
    request.header("X-Authgear-User-Id", FORGED).header("X-Authgear-User-Roles", FORGED)
}

#[test]
fn the_minimal_example_replaces_auth_request() {
    let (public, backend) = (Public::start(1), Backend::start());
    let before = run(|| public.example("auth_request.conf", &backend));
    let after = run(|| public.example("minimal.conf", &backend));
    let jwt = public.authgear.jwt(&alice());
    let session = public.authgear.session(&alice());
    let ended = public.authgear.session(&alice());
    public.authgear.expire(&ended);
    let invalid = vec![("x-authgear-session-valid".to_owned(), "false".to_owned())];
    for (name, value, identity) in [
        ("Authorization", format!("Bearer {jwt}"), identity_of(&alice())),
        ("Cookie", format!("session={session}"), identity_of(&alice())),
        ("Cookie", format!("session={ended}"), invalid),
        ("Accept", "*/*".to_owned(), Pairs::new()),
    ] {
        let ask = |nginx| get(nginx, "/").header(name, &value);
        assert_eq!(ask(&after).send().echo().identity(), identity);
        // The replaced configuration's list lacks the roles.
        let mut listed = identity;
        listed.retain(|(name, _)| name != "x-authgear-user-roles");
        assert_eq!(ask(&before).send().echo().identity(), listed);

        assert_nothing_forged(&with_forged_identity(ask(&after)).send().echo(), "minimal.conf");
        let echo = with_forged_identity(ask(&before)).send().echo();
        assert_eq!(echo.header("x-authgear-user-roles"), Some(FORGED));
    }
}

#[test]
fn the_project_example_works() {
    let (ca, backend) = (Ca::new(), Backend::start());
    let authgear = FakeAuthgear::builder()
        .origin(&format!("https://{HOST}"))
        .tls(ca.leaf(&["127.0.0.1"]))
        .start();
    let nginx = run(|| {
        let (resolver, backend) = (authgear.addr().to_string(), backend.addr().to_string());
        let replace = [
            ("10.0.0.7:3001", resolver.as_str()),
            ("/etc/nginx/private-ca.pem", "%%DIR%%/private-ca.pem"),
            ("127.0.0.1:8000", &backend),
        ];
        example("project.conf", &replace)
            .file("private-ca.pem", ca.pem())
            .file("html/assets/logo.svg", "logo")
    });
    let token = authgear.jwt(&alice());
    let mut lines = 0;
    let mut ask = |path: &str, logged: &str| {
        let answer = with_forged_identity(get(&nginx, path).bearer(&token)).send();
        lines += 1;
        let line = nginx.wait_for_access_lines(lines).remove(lines - 1);
        assert!(line.contains(logged), "{line}");
        answer
    };
    for path in ["/", "/catalogue/"] {
        let logged = format!("127.0.0.1 alice \"GET {path} HTTP/1.1\" 200 valid ok resolver 0.");
        assert_eq!(ask(path, &logged).echo().identity(), identity_of(&alice()), "{path}");
    }
    assert_eq!(ask("/assets/logo.svg", " 200 - - - -").text(), "logo");
    assert_eq!(authgear.hits(), 2);

    authgear.stop();
    ask("/", " 503 error connect_error resolver 0.");
    let answer = ask("/catalogue/", " 200 error connect_error resolver 0.");
    assert_eq!(answer.echo().identity(), Pairs::new());
}

#[test]
fn the_require_example_works() {
    let (public, backend) = (Public::start(3), Backend::start());
    let nginx = run(|| public.example("require.conf", &backend));
    let of_late = |user: User| User { authenticated_at: unix_now() - 60, ..user };
    let guest = User { anonymous: true, verified: false, ..User::named("guest") };
    for (user, statuses) in [
        (None, [200, 401, 401, 401]),
        (Some(guest), [200, 200, 403, 401]),
        (Some(of_late(User::named("bob"))), [200, 200, 200, 401]),
        (Some(User::named("carol").roles(&["admin"])), [200, 200, 200, 401]),
        (Some(of_late(User::named("dave").roles(&["operator"]))), [200, 200, 200, 200]),
    ] {
        let token = user.as_ref().map(|user| public.authgear.jwt(user));
        for (path, status) in ["/", "/account/", "/orders/", "/admin/"].into_iter().zip(statuses) {
            let request = with_forged_identity(get(&nginx, path));
            let answer = token.iter().fold(request, |request, token| request.bearer(token)).send();
            assert_eq!(answer.status, status, "{path} {user:?}");
            if status == 200 {
                let identity = user.as_ref().map(identity_of).unwrap_or_default();
                assert_eq!(answer.echo().identity(), identity, "{path}");
            }
        }
    }
}

#[test]
fn the_login_example_protects_a_static_site() {
    let public = Public::start(11);
    let nginx = run(|| {
        let roots = public.roots.path().join("ca.pem");
        example("login.conf", &[("/var/www", "%%DIR%%/www")])
            .file("www/index.html", "the site")
            .file("hosts", public.hosts.as_str())
            .mount("/etc/hosts", "hosts")
            .env("SSL_CERT_FILE", roots.to_str().expect("a path"))
    });
    let browser = |path: &str| get(&nginx, path).header("Accept", "text/html");
    let sent = browser("/index.html?a").send();
    let begin = "https://myapp.authgear.cloud/oauth2/authorize?response_type=none&scope=openid&\
                 client_id=0123456789abcdef&redirect_uri=";
    let to = sent.header("location").expect("a redirect");
    assert!(sent.status == 302 && to.starts_with(begin), "{to}");
    let session = public.authgear.session(&alice());
    let callback = browser("/_authgear/callback?state=/index.html").cookie("session", &session);
    let back = callback.send();
    assert_eq!((back.status, back.header("location").as_deref()), (303, Some("/index.html")));
    assert_eq!(browser("/index.html").cookie("session", &session).send().text(), "the site");
}

#[test]
fn the_userinfo_example_passes_a_verified_address_only() {
    let (public, backend) = (Public::start(46), Backend::start());
    let nginx = run(|| public.example("userinfo.conf", &backend));
    let session = public.authgear.session(&alice());
    let document = |verified: bool| {
        let id = &alice().id;
        let document = format!(
            r#"{{"sub":"{id}","email":"alice@example.com","email_verified":{verified},"name":"Alice"}}"#
        );
        public.authgear.set_userinfo(&alice(), &document, &document);
    };
    let received = || {
        let request = get(&nginx, "/").cookie("session", &session);
        let request = request.header("X-WEBAUTH-EMAIL", "mallory@example.com").send().echo();
        ["user", "email", "name"]
            .map(|name| request.header(&format!("x-webauth-{name}")).map(str::to_owned))
    };
    let (id, name) = (Some(alice().id), Some("Alice".to_owned()));
    document(false);
    assert_eq!(received(), [id.clone(), None, name.clone()]);
    nginx.reload();
    assert_eq!(received(), [id, None, name], "kept");
    let other = public.authgear.session(&alice());
    document(true);
    let sent = get(&nginx, "/").cookie("session", &other).send().echo();
    assert_eq!(sent.header("x-webauth-email"), Some("alice@example.com"));
}

#[test]
fn the_login_redirect_example_works() {
    let (public, backend) = (Public::start(4), Backend::start());
    let nginx = run(|| public.example("login-redirect.conf", &backend));
    let browser =
        |path: &str| with_forged_identity(get(&nginx, path)).header("Accept", "text/html");
    let sent = browser("/a?b=c").send();
    let here = nginx.addr().to_string().replace('.', "%2E").replace(':', "%3A");
    let to = format!("/login?return_to=http%3A%2F%2F{here}%2Fa%3Fb%3Dc");
    assert_eq!((sent.status, sent.all("location")), (302, vec![to.clone()]));
    assert_eq!(browser(&to).send().echo().identity(), Pairs::new());
    let session = public.authgear.session(&alice());
    let back = browser("/a?b=c").cookie("session", &session).send();
    assert_eq!(back.echo().identity(), identity_of(&alice()));
    public.authgear.expire(&session);
    let ended = browser("/a?b=c").cookie("session", &session).send();
    assert_eq!((ended.status, ended.all("location")), (302, vec![to]));
    let cleared = ended.header("set-cookie").expect("a cookie that is cleared");
    assert!(cleared.starts_with("session=; ") && cleared.contains(" 1970 "), "{cleared}");
    assert_eq!(with_forged_identity(get(&nginx, "/api/x")).send().status, 401);
    let preflight = with_forged_identity(get(&nginx, "/api/x"))
        .method("OPTIONS")
        .header("Origin", "https://app.test")
        .header("Access-Control-Request-Method", "POST");
    assert_eq!(preflight.send().echo().identity(), Pairs::new());
}

#[test]
fn the_api_example_works() {
    let (public, backend) = (Public::start(5), Backend::start());
    let nginx = run(|| public.example("api.conf", &backend));
    let at =
        |path: &str| with_forged_identity(get(&nginx, path)).header("Accept", "application/json");
    let token = public.authgear.jwt(&alice());
    let echo = at("/v1/things").bearer(&token).cookie("lang", "en").send().echo();
    assert_eq!(echo.identity(), identity_of(&alice()));
    assert_eq!((echo.all("authorization").len(), echo.all("cookie")), (0, vec!["lang=en"]));
    let metadata = "https://api.example.com/.well-known/oauth-protected-resource";
    for (path, token, status, error, reason) in [
        ("/v1/things", None, 401, "", "no_credentials"),
        ("/v1/things", Some("dead"), 401, "error=\"invalid_token\", ", "no_session"),
        ("/v1/admin/x", Some(&*token), 403, "error=\"insufficient_scope\", ", "role_missing"),
    ] {
        let answer = token.into_iter().fold(at(path), |r, token| r.bearer(token)).send();
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.json()["reason"], reason, "{path}");
        let challenge = format!("Bearer {error}resource_metadata=\"{metadata}\"");
        assert_eq!(answer.all("www-authenticate"), [challenge], "{path}");
    }
    let calls = public.authgear.hits();
    let preflight = at("/v1/things")
        .method("OPTIONS")
        .header("Origin", "https://app.test")
        .header("Access-Control-Request-Method", "PUT");
    assert_eq!(preflight.send().echo().identity(), Pairs::new());
    assert_eq!(at("/.well-known/oauth-protected-resource").send().status, 200);
    assert_eq!(public.authgear.hits(), calls);
}

#[test]
fn the_mcp_example_works() {
    let (public, backend) = (Public::start(9), Backend::start());
    let nginx = run(|| public.example("mcp.conf", &backend));
    let token = |audience: &str, scope: &str| {
        let token = public.authgear.token(&alice()).claim("aud", vec![audience]);
        token.claim("scope", scope).sign()
    };
    let denied = get(&nginx, "/mcp").send();
    let metadata = "https://mcp.example.com/.well-known/oauth-protected-resource/mcp";
    let challenge = format!(
        "Bearer scope=\"openid offline_access tools:read\", resource_metadata=\"{metadata}\""
    );
    assert_eq!((denied.status, denied.all("www-authenticate")), (401, vec![challenge]));
    let document = get(&nginx, "/.well-known/oauth-protected-resource/mcp").send().json();
    assert_eq!(document["resource"], MCP);
    assert_eq!(document["authorization_servers"][0], format!("https://{HOST}"));
    for (audience, scope, status) in [
        (MCP, "openid tools:read", 200),
        (MCP, "openid", 403),
        ("https://other.example.com", "openid tools:read", 401),
    ] {
        let request = get(&nginx, "/mcp").bearer(&token(audience, scope));
        assert_eq!(with_forged_identity(request).send().status, status, "{audience} {scope}");
    }
}

#[test]
fn the_websocket_example_ends_a_connection_with_its_session() {
    let (public, backend) = (Public::start(47), Backend::start());
    let nginx = run(|| public.example("websocket.conf", &backend));
    let user = alice();
    let session = public.authgear.session(&user);
    let request = with_forged_identity(get(&nginx, "/live/a"))
        .header("Sec-Fetch-Site", "same-origin")
        .cookie("session", &session);
    let mut socket = WebSocket::open(&request).expect("an open WebSocket");
    public.authgear.disable(&user.id);
    let logout = get(&nginx, "/logout")
        .method("POST")
        .header("Sec-Fetch-Site", "same-origin")
        .cookie("session", &session);
    assert_eq!(logout.send().status, 204);
    assert_eq!(socket.read_to_close(), (1008, 0));
    assert_eq!(backend.requests()[0].identity(), identity_of(&user));
}

#[test]
fn the_bearer_example_works() {
    let (public, backend) = (Public::start(10), Backend::start());
    let nginx = run(|| public.example("bearer.conf", &backend));
    let offer = |token: &str| {
        let offer = format!("app.v1, bearer.{token}");
        with_forged_identity(get(&nginx, "/live/a")).header("Sec-WebSocket-Protocol", offer)
    };
    WebSocket::open(&offer(&public.authgear.jwt(&alice()))).expect("an open WebSocket").close();
    let request = backend.requests().remove(0);
    assert_eq!(request.identity(), identity_of(&alice()));
    assert_eq!(request.all("sec-websocket-protocol"), ["app.v1"]);
    assert_eq!(WebSocket::open(&offer("dead")).expect_err("a refusal").status, 401);
}

#[test]
fn the_grpc_example_works() {
    let (public, backend) = (Public::start(6), Backend::grpc());
    let nginx = run(|| public.example("grpc.conf", &backend));
    let token = public.authgear.jwt(&alice());
    let call = |path: &str, token: Option<&str>| {
        let request = with_forged_identity(get(&nginx, path)).method("POST").body(vec![0; 5]);
        let request = request.header("Content-Type", "application/grpc").header("TE", "trailers");
        token.into_iter().fold(request, |request, token| request.bearer(token)).send_h2()
    };
    let good = call("/shop.Orders/List", Some(&token));
    assert_eq!(good.trailer("grpc-status").as_deref(), Some("0"));
    assert_eq!(good.echo().identity(), identity_of(&alice()));
    assert_eq!(good.echo().all("authorization").len(), 0);
    let healthy = call("/grpc.health.v1.Health/Check", None);
    assert_eq!(healthy.trailer("grpc-status").as_deref(), Some("0"));
    let status = |path: &str, token: Option<&str>| call(path, token).header("grpc-status");
    assert_eq!(status("/shop.Orders/List", None).as_deref(), Some("16"));
    assert_eq!(status("/shop.Admin/Delete", Some(&token)).as_deref(), Some("7"));
    public.authgear.stop();
    assert_eq!(status("/shop.Orders/List", Some(&token)).as_deref(), Some("14"));
}

#[test]
fn the_dry_run_example_works() {
    let (public, backend) = (Public::start(7), Backend::start());
    let nginx = run(|| public.example("dry-run.conf", &backend));
    let token = public.authgear.jwt(&alice());
    let mut lines = 0;
    let mut ask = |path: &str, token: Option<&str>, logged: &str| {
        let request = with_forged_identity(get(&nginx, path));
        let answer = token.into_iter().fold(request, |r, token| r.bearer(token)).send();
        lines += 1;
        let line = nginx.wait_for_access_lines(lines).remove(lines - 1);
        assert!(line.ends_with(logged), "{line}");
        answer.echo().identity()
    };
    assert_eq!(ask("/", Some(&token), " 200 valid ok"), identity_of(&alice()));
    assert_eq!(ask("/", None, " 200 none no_credentials"), Pairs::new());
    assert_eq!(ask("/admin/", Some(&token), " 200 valid ok"), identity_of(&alice()));
    public.authgear.stop();
    assert_eq!(ask("/", Some(&token), " 200 error connect_error"), Pairs::new());
    let log = fs::read_to_string(nginx.dir().join("logs/trial.log")).expect("the trial's log");
    let denied: Vec<&str> =
        log.lines().filter_map(|line| line.split("would deny access: ").nth(1)).collect();
    let reasons = ["no_credentials, client: ", "role_missing, client: ", "connect_error, client: "];
    assert_eq!(denied.len(), reasons.len(), "{log}");
    for (line, reason) in denied.iter().zip(reasons) {
        assert!(line.starts_with(reason), "{line}");
    }
}

#[test]
fn the_satisfy_example_works() {
    let (public, backend) = (Public::start(8), Backend::start());
    let token = public.authgear.jwt(&alice());
    let at_home = run(|| public.example("satisfy.conf", &backend));
    let in_office = run(|| {
        let builder = public.example("satisfy.conf", &backend);
        builder.raw_conf(|conf| conf.replace("192.168.1.0/24", "127.0.0.0/8"))
    });
    // Statuses without a session and with one, at home and in the office.
    for (method, path, home, office) in [
        ("GET", "/", [401, 200], [200, 200]),
        ("GET", "/internal/", [403, 403], [401, 200]),
        ("GET", "/catalogue/", [200, 200], [200, 200]),
        ("POST", "/catalogue/", [401, 200], [401, 200]),
    ] {
        for (nginx, expected) in [(&at_home, home), (&in_office, office)] {
            let request = with_forged_identity(get(nginx, path)).method(method);
            let statuses = [request.send().status, request.bearer(&token).send().status];
            assert_eq!(statuses, expected, "{method} {path}");
        }
    }
    // Requests that nginx decided by address made no look-up.
    assert_eq!(public.authgear.hits(), 6);
}

#[test]
fn the_cache_example_works() {
    let (public, backend) = (Public::start(2), Backend::start());
    let nginx = run(|| public.example("cache.conf", &backend));
    let token = public.authgear.jwt(&alice());
    for (n, (path, calls, status)) in
        [("/", 1, "MISS"), ("/", 1, "HIT"), ("/payments/", 2, "BYPASS"), ("/", 2, "HIT")]
            .into_iter()
            .enumerate()
    {
        let echo = with_forged_identity(get(&nginx, path).bearer(&token)).send().echo();
        assert_eq!(echo.identity(), identity_of(&alice()), "{n}");
        assert_eq!(public.authgear.hits(), calls, "{n}");
        let line = nginx.wait_for_access_lines(n + 1).remove(n);
        assert!(
            line.contains(&format!("alice \"GET {path} HTTP/1.1\" 200 valid {status}")),
            "{line}"
        );
    }
    // Logged-in users do not notice the outage.
    public.authgear.stop();
    assert_eq!(get(&nginx, "/").bearer(&token).send().status, 200);
    assert_eq!(get(&nginx, "/payments/").bearer(&token).send().status, 503);
}

#[test]
fn the_jwt_example_works() {
    let (public, backend) = (Public::start(2), Backend::start());
    let nginx = run(|| public.example("jwt.conf", &backend));
    let (authgear, alice) = (&public.authgear, alice());
    let (jwt, opaque) = (authgear.jwt(&alice), authgear.opaque_token(&alice));
    let machine = authgear.machine_token("https://api.example.com").sign();
    let session = authgear.session(&alice);
    let first = with_forged_identity(get(&nginx, "/api/").bearer(&jwt)).send().echo();
    assert_eq!(first.header("x-client-id"), Some("4b60ac4a9a2a4a3b"));
    // Another worker may write the next line before this one.
    nginx.wait_for_access_lines(1);
    let rows = [
        (get(&nginx, "/api/").bearer(&jwt), 200, 0, "200 valid ok cache 4b60ac4a9a2a4a3b"),
        (get(&nginx, "/api/").bearer(&machine), 200, 0, "200 valid ok jwt 4b60ac4a9a2a4a3b"),
        (get(&nginx, "/api/").bearer(&opaque), 401, 0, "401 none token_malformed jwt -"),
        (
            get(&nginx, "/api/").cookie("session", &session),
            401,
            0,
            "401 none no_credentials none -",
        ),
        (get(&nginx, "/").bearer(&jwt), 200, 0, "200 valid ok cache 4b60ac4a9a2a4a3b"),
        (get(&nginx, "/").cookie("session", &session), 200, 1, "200 valid ok resolver -"),
        (get(&nginx, "/payments/").bearer(&jwt), 200, 2, "200 valid ok resolver -"),
    ];
    for (n, (request, status, calls, logged)) in rows.into_iter().enumerate() {
        assert_eq!(with_forged_identity(request).send().status, status, "{n}");
        assert_eq!(authgear.hits(), calls, "{n}");
        let line = nginx.wait_for_access_lines(n + 2).remove(n + 1);
        assert!(line.ends_with(logged), "{line}");
    }
}

#[test]
fn the_operating_example_works() {
    const SECRET: &str = "0123456789abcdefghijABCDEFGHIJ_Z";
    let (public, backend) = (Public::start(5), Backend::start());
    let nginx = run(|| {
        let roots = public.roots.path().join("ca.pem");
        let replace = [
            ("127.0.0.1:8000", backend.addr().to_string()),
            ("/etc/nginx/authgear-webhook.secret", "%%DIR%%/webhook.secret".to_owned()),
        ];
        let replace = replace.each_ref().map(|(from, to)| (*from, to.as_str()));
        example("operating.conf", &replace)
            .secret_file("webhook.secret", SECRET)
            .file("hosts", public.hosts.as_str())
            .mount("/etc/hosts", "hosts")
            .env("SSL_CERT_FILE", roots.to_str().expect("a path"))
    });
    let authgear = &public.authgear;
    let (alice, bob) = (authgear.jwt(&alice()), authgear.jwt(&User::named("bob")));
    let mut lines = 0;
    let mut ask = |token: Option<&str>| {
        let request = with_forged_identity(get(&nginx, "/"));
        let status = token.into_iter().fold(request, Request::bearer).send().status;
        lines += 1;
        let line = nginx.wait_for_access_lines(lines).remove(lines - 1);
        let reported = line.split(" session=").nth(1).expect("a verdict");
        (status, reported.split(" waited=").next().expect("more").to_owned())
    };
    let reported = |status, reported: &str| (status, reported.to_owned());
    assert_eq!(ask(Some(&alice)), reported(200, "valid reason=ok source=resolver cache=MISS"));
    assert_eq!(ask(Some(&alice)), reported(200, "valid reason=ok source=cache cache=HIT"));
    assert_eq!(ask(Some(&bob)), reported(200, "valid reason=ok source=resolver cache=MISS"));
    assert_eq!(ask(None), reported(401, "none reason=no_credentials source=none cache=-"));
    let post = |target: &str| get(&nginx, target).method("POST");
    let event = "{\"type\":\"user.profile.updated\",\"payload\":{\"user\":{\"id\":\"bob\"}}}";
    let signature = webhook_signature(SECRET.as_bytes(), event.as_bytes());
    let hook = post("/hooks/authgear").header("x-authgear-body-signature", signature).body(event);
    for (order, kept) in [
        (post("/logout/forget").bearer(&alice), [false, true]),
        (hook, [true, false]),
        (post("/authgear/purge?user=alice"), [false, true]),
        (post("/authgear/purge?all=1"), [false, false]),
    ] {
        assert_eq!(order.send().status, 204, "{order:?}");
        let before = authgear.hits();
        for (token, kept) in [&alice, &bob].into_iter().zip(kept) {
            let asked = authgear.hits();
            assert_eq!(get(&nginx, "/").bearer(token).send().status, 200);
            assert_eq!(authgear.hits() == asked, kept, "{order:?}");
        }
        assert!(authgear.hits() > before);
    }
    let answer = get(&nginx, "/authgear/status?format=prometheus").send();
    let project = format!("project=\"https://{HOST}\"");
    let denied = format!("nginx_authgear_denied_total{{{project},reason=\"no_credentials\"}} 1");
    assert!(answer.text().contains(&denied), "{}", answer.text());
    assert_eq!(get(&nginx, "/authgear/status").from_addr("127.0.0.2").send().status, 403);
    assert_eq!(post("/authgear/purge?all=1").from_addr("127.0.0.2").send().status, 403);
}

#[test]
fn the_internal_location_example_works() {
    let (backend, refused) = (Backend::start(), RefusedAddr::bind());
    let authgear = FakeAuthgear::builder().origin(&format!("https://{HOST}")).start();
    // Either server of the upstream may be the one that is there.
    let (up, down) = (authgear.addr().to_string(), refused.addr().to_string());
    for (first, second) in [(&up, &down), (&down, &up), (&down, &down)] {
        let nginx = run(|| {
            let backend = backend.addr().to_string();
            let replace = [
                ("10.0.0.7:3001", first.as_str()),
                ("10.0.0.8:3001", second),
                ("127.0.0.1:8000", &backend),
            ];
            example("internal-location.conf", &replace)
        });
        let answer = with_forged_identity(get(&nginx, "/").bearer(&authgear.jwt(&alice()))).send();
        if first == second {
            assert_eq!(answer.status, 503);
        } else {
            assert_eq!(answer.echo().identity(), identity_of(&alice()));
        }
    }
}
