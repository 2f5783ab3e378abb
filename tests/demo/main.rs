//! `make demo`: nginx with nginx-conf/minimal.conf, a demo Authgear and a backend that shows what
//! it receives. A second server has a login to walk through in a browser.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use support::{eventually, get, Backend, FakeAuthgear, Request, User};

mod serve;

use serve::Serve;

/// A request, and what the backend must receive.
struct Scene {
    title: &'static str,
    headers: Vec<(&'static str, String)>,
    /// Value of `x-authgear-session-valid`, and of `x-authgear-user-id`.
    expected: (Option<&'static str>, Option<&'static str>),
}

/// The run that the arguments ask for.
enum Asked {
    /// nginx, Authgear and backend; `once` exits after the scenes.
    Scenes { port: u16, once: bool },
    /// Authgear alone.
    Serve(Serve),
}

fn main() -> ExitCode {
    let done = match arguments() {
        Ok(Asked::Scenes { port, once }) => run(port, once),
        Ok(Asked::Serve(settings)) => serve::serve(&settings).map(|()| true),
        Err(argument) => {
            eprintln!(
                "unexpected argument {argument:?}; usage: demo [--port N] [--once], or \
                 demo --serve ADDRESS --origin URL --site URL..."
            );
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("an answer was not as expected");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("the demo failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn arguments() -> Result<Asked, String> {
    let (mut port, mut once) = (0, false);
    let (mut listen, mut origin, mut sites) = (None, None, Vec::new());
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| argument.clone());
        match argument.as_str() {
            "--once" => once = true,
            "--port" => port = value()?.parse().map_err(|_| argument.clone())?,
            "--serve" => listen = Some(value()?),
            "--origin" => origin = Some(value()?),
            "--site" => sites.push(value()?),
            _ => return Err(argument),
        }
    }
    match (listen, origin, sites.is_empty()) {
        (None, None, true) => Ok(Asked::Scenes { port, once }),
        (Some(listen), Some(origin), false) => Ok(Asked::Serve(Serve { listen, origin, sites })),
        _ => Err("--serve".to_owned()),
    }
}

fn run(port: u16, once: bool) -> io::Result<bool> {
    let authgear = FakeAuthgear::start();
    let backend = Backend::start();
    let scenes = scenes(&authgear);
    let nginx = Nginx::start(port, &authgear, &backend)?;

    println!("Authgear (a demo of it) listens on {}", authgear.url());
    println!("nginx listens on http://{}, with this configuration:\n", nginx.addr);
    for line in nginx.conf.lines() {
        println!("    {line}");
    }
    let mut as_expected = true;
    for scene in &scenes {
        as_expected &= show(scene, nginx.addr)?;
    }
    println!("\nAuthgear was asked {} times.", authgear.hits());
    authgear.add_user(User::named("carol"));
    let uris = ["/_authgear/callback", "/"].map(|path| format!("http://{}{path}", nginx.site));
    authgear.register("demo", &uris);
    as_expected &= leads_to_login(nginx.site, &authgear);
    println!(
        "\nOpen http://{}/ in a browser: log in as alice, bob or carol, step up, log",
        nginx.site
    );
    println!("out, and look at the status page.");
    if !once {
        println!("The curl lines above work until Ctrl-C.");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(tokio::signal::ctrl_c())?;
        println!();
    }
    Ok(as_expected)
}

fn scenes(authgear: &FakeAuthgear) -> Vec<Scene> {
    let alice = authgear.add_user(User::named("alice").roles(&["editor", "billing"]));
    let bob = authgear.add_user(User::named("bob"));
    let ended = authgear.session(&alice);
    authgear.expire(&ended);
    let bearer = |token: &str| ("Authorization", format!("Bearer {token}"));
    let cookie = |session: &str| ("Cookie", format!("session={session}"));
    vec![
        Scene {
            title: "alice, by an access token",
            headers: vec![bearer(&authgear.opaque_token(&alice))],
            expected: (Some("true"), Some("alice")),
        },
        Scene {
            title: "bob, by a JWT access token",
            headers: vec![bearer(&authgear.jwt(&bob))],
            expected: (Some("true"), Some("bob")),
        },
        Scene {
            title: "alice, by the cookie of her session",
            headers: vec![cookie(&authgear.session(&alice))],
            expected: (Some("true"), Some("alice")),
        },
        Scene {
            title: "a session that has ended",
            headers: vec![cookie(&ended)],
            expected: (Some("false"), None),
        },
        Scene { title: "nobody", headers: Vec::new(), expected: (None, None) },
        Scene {
            title: "somebody who claims to be alice",
            headers: vec![
                ("X-Authgear-Session-Valid", "true".into()),
                ("X-Authgear-User-Id", "alice".into()),
            ],
            expected: (None, None),
        },
    ]
}

/// Sends the request of one scene. Returns whether the backend received the expected headers.
fn show(scene: &Scene, addr: SocketAddr) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    writeln!(out, "\n{}:", scene.title)?;
    write!(out, "    curl")?;
    for (name, value) in &scene.headers {
        write!(out, " -H '{name}: {value}'")?;
    }
    writeln!(out, " http://{addr}/")?;
    let request = scene
        .headers
        .iter()
        .fold(get(&addr, "/"), |request: Request, (name, value)| request.header(name, value));
    let response = request.send();
    let received = response.echo();
    writeln!(out, "  answer {}; the backend received", response.status)?;
    let identity = received.identity();
    for (name, value) in &identity {
        writeln!(out, "    {name}: {value}")?;
    }
    if identity.is_empty() {
        writeln!(out, "    no x-authgear-* header")?;
    }
    let value = |name: &str| received.header(name).map(str::to_owned);
    let (valid, user) = scene.expected;
    Ok(response.status == 200
        && value("x-authgear-session-valid").as_deref() == valid
        && value("x-authgear-user-id").as_deref() == user)
}

/// Whether a browser without a session is led to Authgear's login page.
fn leads_to_login(site: SocketAddr, authgear: &FakeAuthgear) -> bool {
    let answer = get(&site, "/me").header("Accept", "text/html").send();
    let begin = format!("{}/oauth2/authorize?", authgear.origin());
    answer.status == 302 && answer.header("location").is_some_and(|to| to.starts_with(&begin))
}

/// The server with a login.
fn site(addr: SocketAddr, authgear: &FakeAuthgear, backend: &Backend) -> String {
    let (endpoint, backend) = (authgear.url(), backend.url());
    format!(
        "    authgear_project demo {{ endpoint {endpoint}; client_id demo; }}
    server {{
        listen           {addr};
        authgear         demo;
        authgear_require session;
        authgear_login   on;
        location = / {{
            default_type text/html;
            return 200 '<!doctype html><title>Demo</title><ul>
                <li><a href=/me>who the backend believes you are</a>
                <li><a href=/fresh>a page that wants a login of the last ten seconds</a>
                <li><a href=/_authgear/logout>log out</a>
                <li><a href=/status>status page</a></ul>';
        }}
        location /me {{ proxy_pass {backend}; }}
        location /fresh {{ authgear_require max_age=10s; proxy_pass {backend}; }}
        location = /status {{ authgear_status; }}
    }}
"
    )
}

/// An nginx with minimal.conf, stopped when dropped.
struct Nginx {
    child: Child,
    addr: SocketAddr,
    /// Address of the server with a login.
    site: SocketAddr,
    conf: String,
    _dir: tempfile::TempDir,
}

impl Nginx {
    fn start(port: u16, authgear: &FakeAuthgear, backend: &Backend) -> io::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
        let module = std::env::var_os("AUTHGEAR_MODULE").map(PathBuf::from);
        let module =
            module.unwrap_or_else(|| root.join("target/release/libngx_http_authgear_module.so"));
        // A port of 0 is any free one. It is given back here, and nginx takes it next.
        let (one, other) =
            (TcpListener::bind(("127.0.0.1", port))?, TcpListener::bind(("127.0.0.1", 0))?);
        let (addr, site_addr) = (one.local_addr()?, other.local_addr()?);
        drop((one, other));
        let conf = std::fs::read_to_string(root.join("nginx-conf/minimal.conf"))?
            .replace("modules/ngx_http_authgear_module.so", &module.display().to_string())
            .replace("listen 8080", &format!("listen {addr}"))
            .replace("https://myapp.authgear.cloud", &authgear.url())
            .replace("http://127.0.0.1:8000", &backend.url());

        let dir = tempfile::tempdir()?;
        // Settings for what Debian's nginx would write to the system's folders.
        let mut here = String::from("http {\n    access_log off;\n");
        for temp in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            here += &format!("    {temp}_temp_path {}/{temp};\n", dir.path().display());
        }
        here += &site(site_addr, authgear, backend);
        let path = dir.path().join("nginx.conf");
        std::fs::write(&path, conf.replace("http {\n", &here))?;
        let error_log = dir.path().join("error.log");
        let mut child = Command::new("nginx")
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(&path)
            .arg("-g")
            .arg(format!(
                "daemon off; pid {}/nginx.pid; error_log {};",
                dir.path().display(),
                error_log.display()
            ))
            .stderr(File::create(dir.path().join("stderr.log"))?)
            .spawn()?;
        let up = || {
            TcpStream::connect(addr).is_ok()
                || child.try_wait().is_ok_and(|status| status.is_some())
        };
        if !eventually(Duration::from_secs(10), up) || child.try_wait()?.is_some() {
            let log = std::fs::read_to_string(dir.path().join("stderr.log"))?
                + &std::fs::read_to_string(error_log).unwrap_or_default();
            return Err(io::Error::other(format!("nginx did not start:\n{log}")));
        }
        Ok(Self { child, addr, site: site_addr, conf, _dir: dir })
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if let Ok(pid) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: a signal to a child that was not waited for yet.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        let _ = self.child.wait();
    }
}
