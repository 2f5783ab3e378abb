//! The configuration of a test's nginx.

use std::env;
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::process::{command, Nginx};

/// The configuration of an [`Nginx`], in pieces.
///
/// Configuration text may hold placeholders:
///
/// | placeholder | stands for |
/// |---|---|
/// | `%%PORT%%`, `%%PORT2%%`, ... | the port of the server, and of each extra listening socket |
/// | `%%ADDR%%`, `%%ADDR2%%`, ... | its address with the port, for `listen` |
/// | `%%QUIC%%` | the address for HTTP/3, if there is one |
/// | `%%DIR%%` | the prefix directory, absolute |
/// | `%%MODULE%%` | the module's file |
/// | `%%NAME%%` | what [`var`](Self::var) set |
///
/// Pieces given several times add up.
pub struct Builder {
    main: String,
    events: String,
    http: String,
    server: Option<String>,
    raw: Vec<RawConf>,
    listen_options: String,
    log_format: String,
    error_level: String,
    with_module: bool,
    ip: IpAddr,
    extra: Vec<IpAddr>,
    quic: bool,
    pub(super) daemon: bool,
    vars: Vec<(String, String)>,
    files: Vec<(PathBuf, Vec<u8>)>,
    secrets: Vec<PathBuf>,
    pub(super) workers: usize,
    pub(super) env: Vec<(String, String)>,
    pub(super) mounts: Vec<(PathBuf, PathBuf)>,
    pub(super) allowed: Vec<String>,
}

type RawConf = Box<dyn FnOnce(String) -> String>;

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("http", &self.http)
            .field("server", &self.server)
            .finish_non_exhaustive()
    }
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            main: String::new(),
            events: String::new(),
            http: String::new(),
            server: None,
            raw: Vec::new(),
            listen_options: String::new(),
            log_format: r#"$remote_addr "$request" $status $body_bytes_sent"#.to_owned(),
            error_level: "debug".to_owned(),
            with_module: true,
            ip: Ipv4Addr::LOCALHOST.into(),
            extra: Vec::new(),
            quic: false,
            daemon: false,
            vars: Vec::new(),
            files: Vec::new(),
            secrets: Vec::new(),
            workers: 2,
            env: Vec::new(),
            mounts: Vec::new(),
            allowed: Vec::new(),
        }
    }

    /// Adds to the main context.
    pub fn main(mut self, text: impl AsRef<str>) -> Self {
        add(&mut self.main, text);
        self
    }

    /// Adds to `events {}`.
    pub fn events(mut self, text: impl AsRef<str>) -> Self {
        add(&mut self.events, text);
        self
    }

    /// Adds to `http {}`, before the server.
    pub fn http(mut self, text: impl AsRef<str>) -> Self {
        add(&mut self.http, text);
        self
    }

    /// Adds to the server that listens on `%%ADDR%%`. Never called, there is none: then `http`
    /// holds the servers.
    pub fn server(mut self, text: impl AsRef<str>) -> Self {
        add(self.server.get_or_insert_default(), text);
        self
    }

    /// Options after the address in the server's `listen`, such as `http2` or `ssl`.
    pub fn listen_options(mut self, options: &str) -> Self {
        self.listen_options = options.to_owned();
        self
    }

    /// `n` more listening sockets: `%%ADDR2%%` and so on. The configuration must listen on them.
    pub fn listen_extra(mut self, n: usize) -> Self {
        self.extra.extend(vec![IpAddr::V4(Ipv4Addr::LOCALHOST); n]);
        self
    }

    /// One more listening socket on this address.
    pub fn listen_extra_on(mut self, ip: &str) -> Self {
        self.extra.push(ip.parse().expect("an address to listen on"));
        self
    }

    /// A socket for HTTP/3, `%%QUIC%%`. The configuration must listen on it.
    pub fn listen_quic(mut self) -> Self {
        self.quic = true;
        self
    }

    /// Runs nginx in the background, as services are (`daemon on`), with a parent that is not the
    /// test. It opens its sockets itself, on an address that no other process uses.
    pub fn daemon(mut self, ip: Ipv4Addr) -> Self {
        self.daemon = true;
        self.ip = ip.into();
        self
    }

    /// Changes the final configuration, placeholders already replaced.
    pub fn raw_conf(mut self, change: impl FnOnce(String) -> String + 'static) -> Self {
        self.raw.push(Box::new(change));
        self
    }

    /// Makes `%%NAME%%` a placeholder.
    pub fn var(mut self, name: &str, value: impl ToString) -> Self {
        self.vars.push((name.to_owned(), value.to_string()));
        self
    }

    /// Puts a file into the prefix directory.
    pub fn file(mut self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((path.into(), contents.into()));
        self
    }

    /// The same for a file that only its owner can read.
    pub fn secret_file(mut self, path: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.secrets.push(path.into());
        self.file(path, contents)
    }

    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    pub fn error_level(mut self, level: &str) -> Self {
        self.error_level = level.to_owned();
        self
    }

    /// The format of the access log's lines.
    pub fn log_format(mut self, format: &str) -> Self {
        self.log_format = format.to_owned();
        self
    }

    /// Plain nginx.
    pub fn without_module(mut self) -> Self {
        self.with_module = false;
        self
    }

    /// An environment variable for all of nginx's processes.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// For this nginx only, `target` is that file (relative to the prefix directory).
    pub fn mount(mut self, target: &str, file: impl AsRef<Path>) -> Self {
        self.mounts.push((target.into(), file.as_ref().to_owned()));
        self
    }

    /// See [`Nginx::allow_log`].
    pub fn allow_log(mut self, substring: &str) -> Self {
        self.allowed.push(substring.to_owned());
        self
    }

    /// Starts nginx and returns when all its workers serve. Panics when it does not start.
    #[track_caller]
    pub fn start(self) -> Nginx {
        Nginx::start(self)
    }

    /// Runs `nginx -t`.
    pub fn check(mut self) -> ConfigTest {
        let site = self.build();
        let mut command = command(&self, &site);
        let output = command.arg("-t").output().expect("nginx -t");
        let text = [output.stdout, output.stderr].concat();
        ConfigTest {
            ok: output.status.success(),
            output: String::from_utf8_lossy(&text).into_owned(),
        }
    }

    /// Lays out the prefix directory and opens the sockets.
    pub(super) fn build(&mut self) -> Site {
        let dir = TempDir::with_prefix("authgear-nginx-").expect("a directory");
        let ips = [self.ip].into_iter().chain(self.extra.clone());
        let listen = |ip| {
            let addr = SocketAddr::new(ip, 0);
            let listener = match self.daemon {
                true => reserve(addr),
                false => TcpListener::bind(addr),
            };
            let listener = listener.expect("a free port");
            // nginx takes it for its own: its workers would block in accept().
            listener.set_nonblocking(true).expect("a socket");
            listener
        };
        let listeners: Vec<TcpListener> = ips.map(listen).collect();
        let quic = self.quic.then(|| {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
            socket.set_nonblocking(true).expect("a socket");
            socket
        });
        let site = Site { dir, listeners, quic };

        for folder in ["logs", "tmp", "html"] {
            fs::create_dir(site.path(folder)).expect("a folder of nginx");
        }
        for (path, contents) in &self.files {
            let path = site.path(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("the folder of a file");
            fs::write(path, contents).expect("a file of nginx");
        }
        for path in &self.secrets {
            let mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(site.path(path), mode).expect("a file of nobody else's");
        }
        let mut conf = self.substitute(&self.template(), &site);
        for change in self.raw.drain(..) {
            conf = change(conf);
        }
        fs::write(site.path("nginx.conf"), conf).expect("nginx.conf");
        site
    }

    fn template(&self) -> String {
        // SAFETY: geteuid has no preconditions and cannot fail.
        let root = unsafe { libc::geteuid() } == 0;
        let user = if root { "user root;" } else { "" };
        let module = if self.with_module { "load_module %%MODULE%%;" } else { "" };
        let daemon = if self.daemon { "on" } else { "off" };
        let env: String = self.env.iter().map(|(name, _)| format!("env {name};\n")).collect();
        let server = self.server.as_ref().map_or_else(String::new, |server| {
            let options = &self.listen_options;
            format!("server {{\nlisten %%ADDR%% {options};\nserver_name localhost;\n{server}}}\n")
        });
        let Self { workers, error_level, main, events, log_format, http, .. } = self;
        format!(
            "{module}
daemon {daemon};
master_process on;
worker_processes {workers};
pid %%DIR%%/nginx.pid;
lock_file %%DIR%%/nginx.lock;
error_log %%DIR%%/logs/error.log {error_level};
{user}
{env}{main}
events {{
{events}}}
http {{
log_format test '{log_format}';
access_log %%DIR%%/logs/access.log test;
client_body_temp_path %%DIR%%/tmp/client;
proxy_temp_path %%DIR%%/tmp/proxy;
fastcgi_temp_path %%DIR%%/tmp/fastcgi;
uwsgi_temp_path %%DIR%%/tmp/uwsgi;
scgi_temp_path %%DIR%%/tmp/scgi;
{http}{server}}}
"
        )
    }

    fn substitute(&self, text: &str, site: &Site) -> String {
        // Between every other pair of marks stands a name.
        let parts = text.split("%%").enumerate();
        parts
            .map(|(n, part)| if n % 2 == 0 { part.to_owned() } else { self.value(part, site) })
            .collect()
    }

    fn value(&self, name: &str, site: &Site) -> String {
        let nth = |prefix| match name.strip_prefix(prefix)? {
            "" => site.addrs().first().copied(),
            n => site.addrs().get(n.parse::<usize>().ok()?.checked_sub(1)?).copied(),
        };
        if let Some((_, value)) = self.vars.iter().find(|(have, _)| have == name) {
            return value.clone();
        }
        match name {
            "QUIC" => site.quic_addr().expect("a socket for HTTP/3").to_string(),
            "DIR" => site.dir.path().display().to_string(),
            "MODULE" => module_path().display().to_string(),
            _ => (nth("PORT").map(|addr| addr.port().to_string()))
                .or_else(|| nth("ADDR").map(|addr| addr.to_string()))
                .unwrap_or_else(|| panic!("nothing is known as %%{name}%%")),
        }
    }
}

/// A socket that does not listen yet: it blocks no other listener, even if a process that was just
/// forked keeps a copy for a moment.
fn reserve(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    Ok(socket.into())
}

fn add(piece: &mut String, text: impl AsRef<str>) {
    piece.push_str(text.as_ref());
    piece.push('\n');
}

/// `AUTHGEAR_MODULE`, or where `cargo build --release` puts the module.
pub fn module_path() -> PathBuf {
    env::var_os("AUTHGEAR_MODULE").map(PathBuf::from).unwrap_or_else(|| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../target/release/libngx_http_authgear_module.so")
    })
}

/// The result of `nginx -t`.
#[derive(Clone, Debug)]
pub struct ConfigTest {
    pub ok: bool,
    pub output: String,
}

/// The prefix directory, with the sockets to hand over.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) dir: TempDir,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) quic: Option<UdpSocket>,
}

impl Site {
    pub(super) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(path)
    }

    pub(super) fn addrs(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|listener| listener.local_addr().expect("an address")).collect()
    }
    pub(super) fn quic_addr(&self) -> Option<SocketAddr> {
        self.quic.as_ref().map(|socket| socket.local_addr().expect("an address"))
    }
}
