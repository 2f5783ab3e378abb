//! A real Redis server of a test.
//!
//! Debian's `redis-tools` holds the server's program under the name `redis-check-rdb`, which acts
//! by the name that it is called with. So no package is needed that starts a service.
//! `AUTHGEAR_REDIS` names another program, such as Valkey's.

use std::env;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempDir;
use tokio::net::TcpSocket;

use crate::net::{bound_socket, ANY_PORT};
use crate::runtime::runtime;
use crate::wait::{eventually, DEADLINE};

/// A Redis on a port of 127.0.0.1 and on a socket in a directory of its own. It keeps nothing on
/// disk unless [`save`](Self::save) is called.
pub struct Redis {
    dir: TempDir,
    addr: SocketAddr,
    port_option: &'static str,
    /// Keep the ports while no server listens on them.
    _ports: Vec<TcpSocket>,
    options: Vec<String>,
    env: Vec<(String, String)>,
    child: Mutex<Option<Child>>,
}

/// An answer of Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisReply {
    Text(String),
    Bytes(Vec<u8>),
    Number(i64),
    Error(String),
    List(Vec<RedisReply>),
    Nil,
}

impl Redis {
    /// Starts a Redis.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// Starts a Redis with more options, such as `["--requirepass", "x"]`.
    #[track_caller]
    pub fn with(options: &[&str]) -> Self {
        Self::listening("--port", options, &[])
    }

    /// The same with more environment variables.
    #[track_caller]
    pub fn with_env(options: &[&str], env: &[(&str, &str)]) -> Self {
        Self::listening("--port", options, env)
    }

    /// Starts a Redis whose port speaks TLS. [`command`](Self::command) does not.
    #[track_caller]
    pub fn with_tls(options: &[&str]) -> Self {
        Self::listening("--tls-port", options, &[])
    }

    #[track_caller]
    fn listening(port: &'static str, options: &[&str], env: &[(&str, &str)]) -> Self {
        let _runtime = runtime().enter();
        let socket = bound_socket(ANY_PORT).expect("a free port");
        let addr = socket.local_addr().expect("the bound address");
        let redis = Self {
            dir: TempDir::with_prefix("authgear-redis-").expect("a directory"),
            addr,
            port_option: port,
            _ports: vec![socket],
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            env: env.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
            child: Mutex::default(),
        };
        redis.run();
        redis
    }

    /// Starts a replica of this one, and waits until it has all.
    #[track_caller]
    pub fn replica(&self) -> Self {
        self.replica_with_env(&[])
    }

    /// The same with more environment variables.
    #[track_caller]
    pub fn replica_with_env(&self, env: &[(&str, &str)]) -> Self {
        let port = self.addr.port().to_string();
        let replica = Self::with_env(&["--replicaof", "127.0.0.1", &port], env);
        let is_online = || self.info("replication").contains("state=online");
        assert!(eventually(DEADLINE, is_online), "{}", self.info("replication"));
        replica
    }

    /// Starts a Sentinel that watches this one under a name.
    #[track_caller]
    pub fn sentinel(&self, name: &str) -> Self {
        let _runtime = runtime().enter();
        let socket = bound_socket(ANY_PORT).expect("a free port");
        let addr = socket.local_addr().expect("the bound address");
        let dir = TempDir::with_prefix("authgear-sentinel-").expect("a directory");
        let file = dir.path().join("sentinel.conf");
        let lines = format!(
            "bind 127.0.0.1\nport {}\nsentinel monitor {name} 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 2000\n",
            addr.port(),
            self.addr.port(),
        );
        fs::write(&file, lines).expect("a file");
        let options = vec![file.display().to_string(), "--sentinel".into()];
        let sentinel = Self {
            dir,
            addr,
            port_option: "--port",
            _ports: vec![socket],
            options,
            env: Vec::new(),
            child: Mutex::default(),
        };
        let mut command = sentinel.program();
        command.args(&sentinel.options);
        sentinel.run_by(command);
        sentinel
    }

    /// Starts the nodes of a Redis Cluster, each with an equal part of the slots.
    #[track_caller]
    pub fn cluster<const N: usize>() -> [Self; N] {
        const SLOTS: usize = 16384;
        let _runtime = runtime().enter();
        let nodes = [(); N].map(|()| {
            let bus = bound_socket(ANY_PORT).expect("a free port");
            let port = bus.local_addr().expect("the bound address").port();
            let mut node = Self::with(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &port.to_string(),
                "--cluster-node-timeout",
                "5000",
            ]);
            node._ports.push(bus);
            (node, port)
        });
        for (n, (node, _)) in nodes.iter().enumerate() {
            let (from, to) = (n * SLOTS / N, (n + 1) * SLOTS / N - 1);
            let range = ["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()];
            assert_eq!(node.command(&range), RedisReply::Text("OK".into()));
            for (other, bus) in &nodes {
                let (port, bus) = (other.addr.port().to_string(), bus.to_string());
                node.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        let is_whole = |node: &Self| match node.command(&["CLUSTER", "INFO"]) {
            RedisReply::Bytes(text) => {
                let text = String::from_utf8_lossy(&text).into_owned();
                let all = format!("cluster_slots_ok:{SLOTS}");
                text.contains("cluster_state:ok") && text.contains(&all)
            }
            _ => false,
        };
        let nodes = nodes.map(|(node, _)| node);
        assert!(eventually(2 * DEADLINE, || nodes.iter().all(is_whole)), "no cluster");
        nodes
    }

    /// A section of `INFO`.
    #[track_caller]
    pub fn info(&self, section: &str) -> String {
        match self.command(&["INFO", section]) {
            RedisReply::Bytes(text) => String::from_utf8_lossy(&text).into_owned(),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn run(&self) {
        let socket = self.socket().display().to_string();
        let port = self.addr.port().to_string();
        let mut command = self.program();
        command
            .args(["--bind", "127.0.0.1", "--port", "0", self.port_option, &port])
            .args([
                "--unixsocket",
                &socket,
                "--save",
                "",
                "--appendonly",
                "no",
                "--daemonize",
                "no",
                "--repl-diskless-sync-delay",
                "0",
            ])
            .args(&self.options);
        self.run_by(command);
    }

    /// The server's program, in a directory of its own.
    fn program(&self) -> Command {
        let program = env::var_os("AUTHGEAR_REDIS").unwrap_or("redis-check-rdb".into());
        let mut command = Command::new(program);
        command.arg0("redis-server").current_dir(self.dir.path()).envs(self.env.iter().cloned());
        command
    }

    #[track_caller]
    fn run_by(&self, mut command: Command) {
        let child = command
            .stdin(Stdio::null())
            .stdout(fs::File::create(self.dir.path().join("log")).expect("a log"))
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-check-rdb of redis-tools");
        *self.child() = Some(child);
        let begun = eventually(DEADLINE, || TcpStream::connect(self.addr).is_ok());
        let log = || fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        assert!(begun, "redis did not start: {}", log());
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its process id.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child().as_ref().expect("a running redis").id()
    }

    /// `redis://` and the address.
    pub fn url(&self) -> String {
        format!("redis://{}", self.addr)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Kills it.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again: empty, unless there is a snapshot.
    #[track_caller]
    pub fn restart(&self) {
        self.kill();
        self.run();
    }

    /// Writes a snapshot, which the next start reads.
    #[track_caller]
    pub fn save(&self) {
        assert_eq!(self.command(&["SAVE"]), RedisReply::Text("OK".into()));
    }

    /// Stops it as SIGSTOP does: connections are accepted by the kernel, and nothing is answered.
    pub fn hang(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Ends [`hang`](Self::hang).
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: libc::c_int) {
        if let Some(child) = &*self.child() {
            let pid = libc::pid_t::try_from(child.id()).expect("a process id");
            // SAFETY: the child was not waited for, so its process id is its own.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Sends a command over a new connection, and returns the answer.
    #[track_caller]
    pub fn command(&self, words: &[impl AsRef<[u8]>]) -> RedisReply {
        let mut stream = TcpStream::connect(self.addr).expect("a connection to redis");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        let mut request = format!("*{}\r\n", words.len()).into_bytes();
        for word in words.iter().map(AsRef::as_ref) {
            request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            request.extend_from_slice(word);
            request.extend_from_slice(b"\r\n");
        }
        stream.write_all(&request).expect("a command");
        read(&mut BufReader::new(stream))
    }

    /// All that it keeps, as its snapshot has it.
    #[track_caller]
    pub fn dump(&self) -> Vec<u8> {
        self.save();
        let path = self.dir.path().join("dump.rdb");
        let dump = fs::read(&path).expect("a snapshot");
        fs::remove_file(path).expect("a snapshot");
        dump
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({})", self.addr)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

#[track_caller]
fn read(stream: &mut BufReader<TcpStream>) -> RedisReply {
    let mut line = String::new();
    stream.read_line(&mut line).expect("an answer of redis");
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).expect("an answer of redis");
    let number = || rest.parse::<i64>().expect("a number");
    match kind {
        "+" => RedisReply::Text(rest.to_owned()),
        "-" => RedisReply::Error(rest.to_owned()),
        ":" => RedisReply::Number(number()),
        "$" => match usize::try_from(number()) {
            Err(_) => RedisReply::Nil,
            Ok(length) => {
                let mut bytes = vec![0; length + 2];
                stream.read_exact(&mut bytes).expect("the bytes of an answer");
                bytes.truncate(length);
                RedisReply::Bytes(bytes)
            }
        },
        "*" => match usize::try_from(number()) {
            Err(_) => RedisReply::Nil,
            Ok(length) => RedisReply::List((0..length).map(|_| read(stream)).collect()),
        },
        _ => panic!("redis answered {line:?}"),
    }
}
