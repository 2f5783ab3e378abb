//! A running nginx: its processes and their end.

use std::env;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use super::config::{Builder, Site};
use super::log;
use crate::net::ToAddr;
use crate::wait::{eventually, DEADLINE};

/// A running nginx. When dropped it quits, and the test fails if its error log tells of trouble.
#[derive(Debug)]
pub struct Nginx {
    pub(super) dir: TempDir,
    pub(super) allowed: Mutex<Vec<String>>,
    child: Mutex<Child>,
    /// The first master, if it is a daemon: it leads a session, in which its successors are too.
    session: Option<u32>,
    addrs: Vec<SocketAddr>,
    quic: Option<SocketAddr>,
    /// Inodes of the accepting sockets, to see which processes have them.
    inodes: Vec<u64>,
    worker_count: usize,
}

impl ToAddr for Nginx {
    fn to_addr(&self) -> SocketAddr {
        self.addr()
    }
}

impl Nginx {
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Whether the tested nginx was built `--with-` this feature.
    pub fn has(feature: &str) -> bool {
        static BUILT: OnceLock<String> = OnceLock::new();
        let built = BUILT.get_or_init(|| {
            let output = Command::new(nginx_path()).arg("-V").output();
            String::from_utf8_lossy(&output.expect("nginx -V").stderr).into_owned()
        });
        let option = format!("--with-{feature}");
        built.split_whitespace().any(|word| word == option)
    }

    #[track_caller]
    pub(super) fn start(mut builder: Builder) -> Self {
        let mut site = builder.build();
        let (addrs, quic) = (site.addrs(), site.quic_addr());
        let inodes = site.listeners.iter().map(inode).collect();
        if builder.daemon {
            site.listeners.clear();
        }
        let output = File::create(site.path("logs/stderr.log")).expect("stderr.log");
        let child = command(&builder, &site)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("stderr.log"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run nginx: {error}"));
        let Site { dir, listeners, quic: quic_socket } = site;
        let mut nginx = Self {
            dir,
            allowed: Mutex::new(builder.allowed),
            session: None,
            child: Mutex::new(child),
            addrs,
            quic,
            inodes,
            worker_count: builder.workers,
        };
        if builder.daemon {
            // The parent may write the pid before the master leads a session, and end only after
            // that.
            let leads = |pid: u32| session_of(pid) == Some(pid);
            let leader = || nginx.pid_in_file().is_some_and(leads);
            let forked = eventually(DEADLINE, || nginx.exited() && leader());
            nginx.session = nginx.pid_in_file();
            assert!(forked, "nginx did not go to the background");
        }
        let ready = || nginx.exited() || nginx.workers().len() == nginx.worker_count;
        let started = eventually(DEADLINE, ready) && !nginx.exited();
        // From here on only nginx has them: when it is gone, connections are refused.
        drop((listeners, quic_socket));
        if !started {
            panic!("nginx did not start");
        }
        nginx
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr_n(1)
    }

    /// The first extra listening socket, `%%ADDR2%%`.
    pub fn addr2(&self) -> SocketAddr {
        self.addr_n(2)
    }

    /// `%%ADDRn%%`, counted from 1.
    pub fn addr_n(&self, n: usize) -> SocketAddr {
        self.addrs[n - 1]
    }

    /// `%%QUIC%%`.
    pub fn quic_addr(&self) -> SocketAddr {
        self.quic.expect("a socket for HTTP/3")
    }

    pub fn port(&self) -> u16 {
        self.addr().port()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// The prefix directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The master's process id; once there is a successor, its.
    pub fn pid(&self) -> u32 {
        match self.session {
            Some(first) => self.pid_in_file().unwrap_or(first),
            None => self.child.lock().unwrap_or_else(PoisonError::into_inner).id(),
        }
    }

    fn pid_in_file(&self) -> Option<u32> {
        fs::read_to_string(self.dir().join("nginx.pid")).ok()?.trim().parse().ok()
    }

    /// The workers that serve; those that are shutting down are not among them.
    pub fn workers(&self) -> Vec<u32> {
        self.workers_of(self.pid())
    }

    /// The same for one of two masters.
    pub fn workers_of(&self, master: u32) -> Vec<u32> {
        let mut workers = children(master);
        workers.retain(|pid| is(*pid, "worker process"));
        workers
    }

    /// Changes the configuration for the next [`reload`](Self::reload).
    pub fn edit_conf(&self, change: impl FnOnce(String) -> String) {
        let path = self.dir().join("nginx.conf");
        let conf = fs::read_to_string(&path).expect("nginx.conf");
        fs::write(path, change(conf)).expect("nginx.conf");
    }

    /// Reloads and returns once only new workers accept connections. Gives back the old workers,
    /// which may still work on requests: see [`wait_gone`](Self::wait_gone).
    #[track_caller]
    pub fn reload(&self) -> Vec<u32> {
        let old = self.workers();
        self.signal(libc::SIGHUP);
        let reloaded = eventually(DEADLINE, || {
            let new = self.workers().into_iter().filter(|pid| !old.contains(pid)).count();
            new == self.worker_count && !old.iter().any(|pid| self.listens(*pid))
        });
        assert!(reloaded, "nginx did not reload");
        old
    }

    /// Waits until the master's processes are workers that serve, as many as configured, and none
    /// of `old`: then the reload is over, even if workers were killed meanwhile.
    ///
    /// A process that is not yet called a worker, or that shuts down, is waited for. A master
    /// starts all new workers before it ends an old one. So a worker that it started with the old
    /// configuration, in place of a killed one, cannot be taken for a new one.
    #[track_caller]
    pub fn wait_replaced(&self, old: &[u32]) {
        let replaced = eventually(DEADLINE, || {
            let all = children(self.pid());
            all.len() == self.worker_count
                && all.iter().all(|pid| is(*pid, "worker process") && !old.contains(pid))
        });
        assert!(replaced, "the workers {old:?} were not all replaced");
    }

    /// Makes a daemon start its successor, and returns once both serve. Returns the old master.
    #[track_caller]
    pub fn upgrade(&self) -> u32 {
        let old = self.pid();
        kill(old, libc::SIGUSR2);
        assert!(eventually(DEADLINE, || self.pid() != old), "nginx started no successor");
        self.wait_for_workers_of(self.pid());
        old
    }

    /// Waits until all workers of one of two masters serve.
    #[track_caller]
    pub fn wait_for_workers_of(&self, master: u32) {
        let serves = || self.workers_of(master).len() == self.worker_count;
        assert!(eventually(DEADLINE, serves), "not all workers of {master} serve");
    }

    fn listens(&self, pid: u32) -> bool {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let inodes = files.flatten().filter_map(|file| fs::metadata(file.path()).ok());
        inodes.into_iter().any(|metadata| self.inodes.contains(&metadata.ino()))
    }

    /// Waits until a process has ended.
    #[track_caller]
    pub fn wait_gone(&self, pid: u32) {
        let gone = || session_of(pid).is_none();
        assert!(eventually(DEADLINE, gone), "process {pid} is still there");
    }

    /// Kills a worker and waits until another has taken its place. The master reports the kill,
    /// and a lock that the worker held then: it releases that lock.
    #[track_caller]
    pub fn kill_worker(&self, pid: u32) {
        self.allow_log(&format!("worker process {pid} exited on signal 9"));
        self.allow_log(&format!("was locked by {pid}"));
        kill(pid, libc::SIGKILL);
        self.wait_gone(pid);
        let replaced = eventually(DEADLINE, || self.workers().len() == self.worker_count);
        assert!(replaced, "no worker took the place of {pid}");
    }

    /// Sends the master a signal.
    pub fn signal(&self, signal: libc::c_int) {
        kill(self.pid(), signal);
    }

    /// Sends a signal to one of two masters.
    pub fn signal_to(&self, master: u32, signal: libc::c_int) {
        kill(master, signal);
    }

    /// Quits gracefully and waits for the end.
    #[track_caller]
    pub fn quit(&self) {
        self.end(libc::SIGQUIT);
    }

    /// Like dropping: quits, and panics if the error log has trouble.
    #[track_caller]
    pub fn stop(&self) {
        self.quit();
        let troubles = self.troubles();
        assert!(troubles.is_empty(), "nginx logged:\n{}", troubles.join("\n"));
    }

    /// Ends nginx, with increasingly strong signals. Failing to quit is trouble of its own.
    fn end(&self, signal: libc::c_int) {
        if self.exited() {
            return;
        }
        let children = children(self.pid());
        self.signal_all(signal);
        if self.exits_within(DEADLINE) {
            return;
        }
        log::append(self.dir(), "[alert] nginx did not quit in time");
        self.signal_all(libc::SIGTERM);
        if self.exits_within(Duration::from_secs(3)) {
            return;
        }
        kill(self.pid(), libc::SIGKILL);
        children.into_iter().chain(self.in_session()).for_each(|pid| kill(pid, libc::SIGKILL));
        self.exits_within(DEADLINE);
    }

    /// Sends each master a signal: while a daemon is replaced there are two.
    fn signal_all(&self, signal: libc::c_int) {
        match self.session {
            None => self.signal(signal),
            Some(_) => {
                let masters =
                    self.in_session().into_iter().filter(|pid| is(*pid, "master process"));
                masters.for_each(|pid| kill(pid, signal));
            }
        }
    }

    /// All processes of a daemon and of its successors.
    fn in_session(&self) -> Vec<u32> {
        let Some(session) = self.session else { return Vec::new() };
        let names =
            fs::read_dir("/proc").expect("processes").flatten().map(|file| file.file_name());
        let pids = names.filter_map(|name| name.to_str()?.parse().ok());
        pids.filter(|pid| session_of(*pid) == Some(session)).collect()
    }

    fn exits_within(&self, deadline: Duration) -> bool {
        eventually(deadline, || self.exited())
    }

    /// Whether no process of it runs.
    pub fn exited(&self) -> bool {
        if self.session.is_some() {
            return self.in_session().is_empty();
        }
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        !matches!(child.try_wait(), Ok(None))
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if thread::panicking() {
            // Requests may hang, so it is not shut down gracefully.
            self.end(libc::SIGTERM);
            eprintln!("nginx logged, debug lines left out:\n{}", self.troubles_tail());
            if env::var_os("AUTHGEAR_TESTS_KEEP").is_some() {
                self.dir.disable_cleanup(true);
                eprintln!("kept: {}", self.dir().display());
            }
        } else {
            self.stop();
        }
    }
}

/// The command that runs nginx for that site, its sockets handed over.
pub(super) fn command(builder: &Builder, site: &Site) -> Command {
    let mut command = launcher(builder, site);
    command.arg("-p").arg(site.dir.path()).args(["-c", "nginx.conf", "-e", "logs/error.log"]);
    command.envs(builder.env.iter().map(|(name, value)| (name, value)));

    let tcp = site.listeners.iter().map(AsRawFd::as_raw_fd);
    let fds: Vec<_> = tcp.chain(site.quic.as_ref().map(AsRawFd::as_raw_fd)).collect();
    if builder.daemon {
        // nginx with this variable would not go to the background, and make may have set it for
        // itself.
        command.env_remove("NGINX");
    } else {
        command.env("NGINX", fds.iter().map(|fd| format!("{fd};")).collect::<String>());
    }
    let inherit = move || {
        for fd in &fds {
            // SAFETY: fcntl may be called after fork, and F_SETFD passes no pointer.
            if unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) } == -1 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure does nothing but call fcntl; it neither allocates nor locks.
    unsafe { command.pre_exec(inherit) };
    command
}

/// The start of a command line that runs nginx, in a mount namespace of its own if need be.
fn launcher(builder: &Builder, site: &Site) -> Command {
    let nginx = nginx_path();
    if builder.mounts.is_empty() {
        return Command::new(nginx);
    }
    const MOUNT: &str = r#"while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit; shift 2; done; shift; exec "$@""#;
    // SAFETY: these have no preconditions and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let mut command = Command::new("unshare");
    command.env("PATH", path()).arg("--mount");
    if uid != 0 {
        command.arg("--map-root-user");
    }
    command.args(["--", "sh", "-c", MOUNT, "sh"]);
    for (target, file) in &builder.mounts {
        command.arg(site.path(file)).arg(target);
    }
    command.arg("--");
    if uid != 0 {
        // Root in the namespace only to mount: nginx runs as the user of the test.
        let (user, group) = (format!("--map-user={uid}"), format!("--map-group={gid}"));
        command.args(["unshare", "--user", &user, &group, "--"]);
    }
    command.arg(nginx);
    command
}

/// `AUTHGEAR_NGINX`, or the one in `PATH`: nginx starts its successor by the same name, and does
/// not search.
fn nginx_path() -> PathBuf {
    env::var_os("AUTHGEAR_NGINX").map(PathBuf::from).unwrap_or_else(|| {
        let path = path();
        let found =
            env::split_paths(&path).map(|folder| folder.join("nginx")).find(|f| f.is_file());
        found.unwrap_or_else(|| panic!("no nginx in {path}"))
    })
}

/// The search path for programs: users other than root often lack nginx's folder.
fn path() -> String {
    format!("{}:/usr/local/sbin:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default())
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether a process calls itself this process of nginx.
fn is(pid: u32, kind: &str) -> bool {
    let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let title = String::from_utf8_lossy(&title);
    // What qemu runs cannot change its title.
    if title.starts_with("qemu-") {
        return true;
    }
    let title = title.split('\0').next().and_then(|title| title.trim().strip_prefix("nginx: "));
    // The title of a master continues with its command line.
    title.is_some_and(|title| title == kind || title.starts_with(&format!("{kind} /")))
}

/// The session of a process that runs: none of one that has ended and waits to be reaped.
fn session_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let runs = fields.next() != Some("Z");
    runs.then(|| fields.nth(2)?.parse().ok()).flatten()
}

fn kill(pid: u32, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(pid).expect("a process id");
    // SAFETY: kill passes no pointer; the process is one that this test has started.
    unsafe { libc::kill(pid, signal) };
}

fn inode(socket: &impl AsRawFd) -> u64 {
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    fs::metadata(path).expect("an open socket").ino()
}
