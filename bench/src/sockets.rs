//! Idle WebSockets with `authgear_recheck`: memory of each, and look-ups over time.

use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use support::{get, Backend, FakeAuthgear, Nginx, User};

use crate::load::{connect, read_answer};
use crate::process::resident;

/// Number of sockets that is measured if no other is given: one worker may get all of them, and has
/// 20,000 descriptors.
pub const COUNT: usize = 9_800;

/// Sockets of a session.
const PER_SESSION: usize = 10;

/// TIME of the directive, and what jitter adds at most.
const TIME: Duration = Duration::from_secs(60);
const JITTER: Duration = Duration::from_secs(6);

/// Argument of the program that makes it the backend: a process has not enough descriptors for both
/// ends of so many sockets.
pub const BACKEND: &str = "idle-backend";

/// Serves as the backend until its input ends.
pub fn serve() -> io::Result<()> {
    let backend = Backend::start();
    println!("{}", backend.addr());
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

/// The backend in a process of its own, which ends when dropped.
struct IdleBackend {
    process: Child,
    addr: SocketAddr,
}

impl IdleBackend {
    fn start() -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(BACKEND).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let mut line = String::new();
        if let Some(output) = process.stdout.take() {
            BufReader::new(output).read_line(&mut line)?;
        }
        let addr = line.trim().parse().map_err(io::Error::other)?;
        Ok(Self { process, addr })
    }
}

impl Drop for IdleBackend {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Opens `count` sockets without the directive and with it, and prints what they cost.
pub fn run(count: usize) -> io::Result<()> {
    let without = measure(count, false)?;
    let with = measure(count, true)?;
    println!("{count} sockets: {without} bytes of the workers each, {with} with authgear_recheck");
    Ok(())
}

/// Returns the bytes of each socket.
fn measure(count: usize, rechecks: bool) -> io::Result<u64> {
    let (authgear, backend) = (FakeAuthgear::start(), IdleBackend::start()?);
    let time = if rechecks { format!("{}s", TIME.as_secs()) } else { "off".to_owned() };
    let nginx = Nginx::builder()
        .var("BACKEND", backend.addr)
        .main("worker_rlimit_nofile 20000;")
        .events("worker_connections 19900;")
        .error_level("warn")
        .http("access_log off; proxy_read_timeout 1h; authgear_cache_zone z:10m;")
        .http(format!(
            "authgear_project p {{ endpoint {}; resolver_url {}; }}",
            authgear.origin(),
            authgear.resolver_url()
        ))
        .server(format!(
            "authgear p; authgear_cache z; authgear_cache_valid valid=5s;
             authgear_recheck {time};
             proxy_http_version 1.1;
             proxy_set_header Upgrade $http_upgrade;
             proxy_set_header Connection upgrade;
             location / {{ authgear_require session; proxy_pass http://%%BACKEND%%; }}
             location = /purge {{ authgear off; authgear_purge admin; }}"
        ))
        .start();
    let memory = || nginx.workers().iter().map(|&worker| resident(worker)).sum::<u64>() << 10;
    let of = |name: &str| authgear.session(&User::named(name));
    let warm = of("warm");
    let first = (0..50).map(|_| open(nginx.addr(), &warm)).collect::<io::Result<Vec<_>>>()?;
    let before = memory();
    let begun = Instant::now();
    let mut sockets = Vec::new();
    for n in 0..count / PER_SESSION {
        let session = of(&format!("user{n}"));
        for _ in 0..PER_SESSION {
            sockets.push(open(nginx.addr(), &session)?);
        }
    }
    let each = memory().saturating_sub(before) / sockets.len() as u64;
    println!("{count} sockets opened in {:.1} s", begun.elapsed().as_secs_f64());
    if rechecks {
        let period = begun.elapsed() + TIME + JITTER + Duration::from_secs(3);
        let begun = begun + TIME;
        println!("  look-ups in each second, from {} s on:", TIME.as_secs());
        thread::sleep(begun.saturating_duration_since(Instant::now()));
        look_ups_per_second(&authgear, authgear.hits(), period.saturating_sub(TIME));
    }
    println!("  look-ups in each second after a purge of everything:");
    let asked = authgear.hits();
    let purged = get(&nginx, "/purge?all=1").method("POST").send();
    if purged.status != 204 {
        return Err(io::Error::other(format!("a purge: {}", purged.status)));
    }
    look_ups_per_second(&authgear, asked, Duration::from_secs(5));
    let closed = first.iter().chain(&sockets).filter(|socket| !is_open(socket)).count();
    if closed > 0 {
        return Err(io::Error::other(format!("{closed} sockets were closed")));
    }
    Ok(each)
}

/// Prints the look-ups of each second, after the first `asked`.
fn look_ups_per_second(authgear: &FakeAuthgear, mut asked: usize, time: Duration) {
    let begun = Instant::now();
    let mut counts = Vec::new();
    while begun.elapsed() < time {
        thread::sleep(Duration::from_secs(1));
        let now = authgear.hits();
        counts.push(now - asked);
        asked = now;
    }
    println!("  {counts:?}, {} in all", counts.iter().sum::<usize>());
}

/// Opens a WebSocket.
fn open(addr: SocketAddr, session: &str) -> io::Result<TcpStream> {
    let mut socket = connect(addr)?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Cookie: session={session}\r\n\r\n"
    );
    socket.write_all(request.as_bytes())?;
    let answer = read_answer(&mut socket)?;
    if !answer.starts_with(b"HTTP/1.1 101") {
        return Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()));
    }
    Ok(socket)
}

/// Returns true if the server neither closed the socket nor sent anything.
fn is_open(socket: &TcpStream) -> bool {
    let is_waiting = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
    socket.set_nonblocking(true).is_ok() && socket.peek(&mut [0; 8]).is_err_and(is_waiting)
}
