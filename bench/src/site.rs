//! The environment of a peer: backend, resolver, project, tokens.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use serde_json::{json, Value};
use support::{private_key, Ca, FakeAuthgear, KeyType, SigningKey, User, PERMISSIONS_POLICY};

use crate::peers::{nginx_binary, TEMPORARY};
use crate::process::{free_addr, Process, OTHERS};
use crate::sharing::Stores;

/// The identity headers that every peer passes: those that Authgear sends for a user.
pub const IDENTITY: [(&str, &str); 8] = [
    ("X-Authgear-Session-Valid", "true"),
    ("X-Authgear-User-Id", USER),
    ("X-Authgear-User-Anonymous", "false"),
    ("X-Authgear-User-Verified", "true"),
    ("X-Authgear-User-Can-Reauthenticate", "true"),
    ("X-Authgear-User-Roles", "admin,store:view"),
    ("X-Authgear-Session-Amr", "pwd"),
    ("X-Authgear-Session-Authenticated-At", "1700000000"),
];

/// The user of all requests.
pub const USER: &str = "5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f";

/// The project's public address; no connection is made to it.
pub const ORIGIN: &str = "http://auth.example.com";

/// The name in the certificate of the resolver: nginx's proxy verifies no addresses.
pub const TLS_NAME: &str = "resolver.test";

/// Time that a slow resolver takes.
pub const DELAY: Duration = Duration::from_millis(50);

/// Servers and files shared by all peers.
pub struct Site {
    dir: tempfile::TempDir,
    pub backend: SocketAddr,
    pub resolver: SocketAddr,
    /// The same over TLS.
    pub tls_resolver: SocketAddr,
    pub stores: Stores,
    authgear: FakeAuthgear,
    user: User,
    _servers: Process,
}

impl Site {
    /// Starts backend and resolver.
    pub fn start() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        let (backend, resolver, tls_resolver) = (free_addr()?, free_addr()?, free_addr()?);
        let authgear = FakeAuthgear::builder().origin(ORIGIN).start();
        let user = User::named(USER).roles(&["admin", "store:view"]).amr(&["pwd"]);
        let jwk = SigningKey::nth(0).jwk();
        fs::write(dir.path().join("jwks.json"), json!({ "keys": [jwk] }).to_string())?;
        fs::write(dir.path().join("public.pem"), pem(&jwk)?)?;
        // ECDSA needs random numbers, whose collection takes another number of instructions each time.
        fs::write(dir.path().join("assertion.pem"), private_key(KeyType::Ed25519))?;

        let own = dir.path().join("servers");
        fs::create_dir_all(own.join("logs"))?;
        let ca = Ca::new();
        ca.pem_path(dir.path());
        let leaf = ca.leaf(&[TLS_NAME]);
        fs::write(own.join("leaf.pem"), leaf.cert_pem)?;
        fs::write(own.join("leaf.key"), leaf.key_pem)?;
        fs::write(own.join("nginx.conf"), servers(backend, resolver, tls_resolver))?;
        let mut command = OTHERS.command("env");
        command.arg(nginx_binary());
        command.args(["-p".as_ref(), own.as_os_str(), "-c".as_ref(), "nginx.conf".as_ref()]);
        let servers = Process::start(&mut command, &own, backend)?;
        let stores = Stores::new(dir.path())?;
        Ok(Self { dir, backend, resolver, tls_resolver, stores, authgear, user, _servers: servers })
    }

    /// Creates a directory for `name`, with room for nginx's logs.
    pub fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let dir = self.dir.path().join(name);
        fs::create_dir_all(dir.join("logs"))?;
        Ok(dir)
    }

    /// The file with the published key set.
    pub fn key_set(&self) -> PathBuf {
        self.dir.path().join("jwks.json")
    }

    /// The file with its only key, in PEM.
    pub fn public_key(&self) -> PathBuf {
        self.dir.path().join("public.pem")
    }

    /// The file with the authority that issued the certificate of the resolver.
    pub fn authority(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The file with a key for assertions.
    pub fn assertion_key(&self) -> PathBuf {
        self.dir.path().join("assertion.pem")
    }

    /// A new access token of the user.
    pub fn jwt(&self) -> String {
        self.authgear.jwt(&self.user)
    }
}

/// Opaque tokens as Authgear makes them: 32 letters and digits.
pub fn opaque(n: usize) -> String {
    format!("{n:08}aB3dE5gH7jK9mN1pQ3sT5vW7")
}

/// One nginx with two servers. The backend's answer contains the user it got.
fn servers(backend: SocketAddr, resolver: SocketAddr, tls_resolver: SocketAddr) -> String {
    let identity: String =
        IDENTITY.iter().map(|(name, value)| format!("add_header {name} \"{value}\";\n")).collect();
    format!(
        "daemon off; worker_processes 1; user root; pid nginx.pid;
        error_log logs/error.log error;
        events {{ worker_connections 8192; }}
        http {{
            access_log off; keepalive_requests 1000000000; default_type ''; {TEMPORARY}
            server {{
                listen {backend} backlog=4096;
                location / {{ add_header X-Seen $http_x_authgear_user_id always; return 204; }}
            }}
            server {{
                listen {resolver} backlog=4096;
                listen {tls_resolver} ssl backlog=4096;
                ssl_certificate leaf.pem; ssl_certificate_key leaf.key;
                ssl_protocols TLSv1.2 TLSv1.3;
                location /_resolver/resolve {{
                    {identity}
                    add_header Permissions-Policy \"{PERMISSIONS_POLICY}\";
                    add_header X-Content-Type-Options nosniff;
                    add_header X-Robots-Tag 'noindex, nofollow';
                    return 200;
                }}
            }}
        }}"
    )
}

/// SubjectPublicKeyInfo (RFC 5280) of an RSA key of 2048 bits whose exponent is 65537.
fn pem(jwk: &Value) -> io::Result<String> {
    const BEFORE_MODULUS: &[u8] = b"\x30\x82\x01\x22\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\
        \x01\x01\x05\x00\x03\x82\x01\x0f\x00\x30\x82\x01\x0a\x02\x82\x01\x01\x00";
    const EXPONENT: &[u8] = b"\x02\x03\x01\x00\x01";
    let modulus = jwk["n"].as_str().unwrap_or_default();
    let modulus = BASE64URL_NOPAD.decode(modulus.as_bytes()).map_err(io::Error::other)?;
    let text = BASE64.encode(&[BEFORE_MODULUS, &modulus, EXPONENT].concat());
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    Ok(format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n")))
}

/// A resolver that waits before each answer, and counts the answers.
pub struct CountingResolver {
    pub addr: SocketAddr,
    answers: Arc<AtomicUsize>,
}

impl CountingResolver {
    /// Starts a resolver that takes `delay`.
    pub fn start(delay: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?;
        let answers = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&answers);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                // The peer decides when the connection ends.
                thread::spawn(move || serve(connection, delay, &counter));
            }
        });
        Ok(Self { addr, answers })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/_resolver/resolve", self.addr)
    }

    /// The number of look-ups since the last call.
    pub fn take_answers(&self) -> usize {
        self.answers.swap(0, Ordering::Relaxed)
    }
}

fn serve(connection: TcpStream, delay: Duration, counter: &AtomicUsize) -> io::Result<()> {
    connection.set_nodelay(true)?;
    let identity: String =
        IDENTITY.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let answer = format!(
        "HTTP/1.1 200 OK\r\n{identity}Permissions-Policy: {PERMISSIONS_POLICY}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    let mut connection = connection;
    for line in BufReader::new(connection.try_clone()?).lines() {
        if line?.is_empty() {
            counter.fetch_add(1, Ordering::Relaxed);
            thread::sleep(delay);
            connection.write_all(answer.as_bytes())?;
        }
    }
    Ok(())
}

/// `nginx -p dir` with this configuration in it.
pub fn nginx(mut command: Command, dir: &Path, conf: &str) -> io::Result<Command> {
    fs::write(dir.join("nginx.conf"), conf)?;
    command.args(["-p".as_ref(), dir.as_os_str(), "-c".as_ref(), "nginx.conf".as_ref()]);
    Ok(command)
}
