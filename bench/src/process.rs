//! Measured and serving processes: pinned to a core, and ended when dropped.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The core for the measured process alone.
pub const MEASURED: Core = Core(0);
/// The core for backend, resolver and load generator.
pub const OTHERS: Core = Core(1);

/// A CPU core.
#[derive(Clone, Copy)]
pub struct Core(usize);

impl Core {
    /// Returns `command`, to be run on this core only.
    pub fn command(self, command: &str) -> Command {
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", &(self.0 % cores()).to_string(), command]);
        pinned
    }

    /// Moves a running process with all its threads to this core.
    pub fn take(self, pid: u32) -> io::Result<()> {
        let core = (self.0 % cores()).to_string();
        let mut command = Command::new("taskset");
        command.args(["-a", "-p", "-c", &core, &pid.to_string()]).stdout(Stdio::null());
        match command.status()?.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("{command:?} failed"))),
        }
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, |n| n.get())
}

/// A running program with all its children.
pub struct Process {
    child: Child,
    /// The signal that ends it.
    signal: &'static str,
}

impl Process {
    /// Starts the program, and waits until it accepts connections. Its output goes to
    /// `dir/output.log`.
    pub fn start(command: &mut Command, dir: &Path, addr: SocketAddr) -> io::Result<Self> {
        Self::start_within(command, dir, addr, Duration::from_secs(15))
    }

    /// The same with a longer time limit.
    pub fn start_within(
        command: &mut Command,
        dir: &Path,
        addr: SocketAddr,
        patience: Duration,
    ) -> io::Result<Self> {
        let output = fs::File::create(dir.join("output.log"))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut process = Self { child: command.spawn()?, signal: "TERM" };
        let started = Instant::now();
        while TcpStream::connect(addr).is_err() {
            let exited = process.child.try_wait()?.is_some();
            if exited || started.elapsed() > patience {
                let said = fs::read_to_string(dir.join("output.log")).unwrap_or_default();
                let said = said.lines().rev().take(5).collect::<Vec<_>>().join(" | ");
                return Err(io::Error::other(format!("{command:?} does not serve: {said}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(process)
    }

    /// CPU time so far in nanoseconds, of all its processes and threads.
    pub fn cpu(&self) -> u64 {
        tree(self.child.id()).iter().map(|&pid| cpu_of(pid)).sum()
    }

    /// Number of voluntary context switches of its processes and threads so far.
    pub fn waits(&self) -> u64 {
        tree(self.child.id()).iter().map(|&pid| waits_of(pid)).sum()
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child processes, which for nginx are its workers.
    pub fn children(&self) -> Vec<u32> {
        children(self.child.id())
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        // On failure the process is gone already.
        let _ = Command::new("kill").args(["-s", name, &pid]).stderr(Stdio::null()).status();
    }

    /// Ends the process with this signal, and waits for its end.
    pub fn end(mut self, signal: &'static str) {
        self.signal = signal;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let begun = Instant::now();
        let mut signalled = None;
        while let Ok(None) = self.child.try_wait() {
            // Repeated, because nginx as a single process misses a signal that comes just before it
            // waits for events.
            if signalled
                .is_none_or(|signalled: Instant| signalled.elapsed() > Duration::from_secs(2))
            {
                self.signal(self.signal);
                signalled = Some(Instant::now());
            }
            if begun.elapsed() > Duration::from_secs(60) {
                let _ = self.child.kill();
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

fn tree(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut next = 0;
    while let Some(&pid) = all.get(next) {
        all.extend(children(pid));
        next += 1;
    }
    all
}

fn children(pid: u32) -> Vec<u32> {
    let threads = entries(&format!("/proc/{pid}/task"));
    let of = |thread| fs::read_to_string(format!("/proc/{pid}/task/{thread}/children"));
    let lists = threads.into_iter().filter_map(|thread| of(thread).ok());
    lists.flat_map(|list| numbers(&list)).collect()
}

fn cpu_of(pid: u32) -> u64 {
    let threads = entries(&format!("/proc/{pid}/task"));
    threads.into_iter().map(|thread| schedstat(&format!("/proc/{pid}/task/{thread}"))).sum()
}

fn waits_of(pid: u32) -> u64 {
    let count = |thread| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line?.trim().parse::<u64>().ok()
    };
    entries(&format!("/proc/{pid}/task")).into_iter().filter_map(count).sum()
}

/// The first number of `schedstat` is the time on a CPU, in nanoseconds.
fn schedstat(task: &str) -> u64 {
    let text = fs::read_to_string(format!("{task}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// CPU time of this thread in nanoseconds.
pub fn own_cpu() -> u64 {
    schedstat("/proc/thread-self")
}

/// Resident memory of `pid`, in KiB.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn entries(dir: &str) -> Vec<u32> {
    let dir = fs::read_dir(dir).into_iter().flatten().flatten();
    dir.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split_whitespace().filter_map(|n| n.parse().ok()).collect()
}

/// A free address.
pub fn free_addr() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
