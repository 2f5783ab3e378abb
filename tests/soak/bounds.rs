//! Limits of nginx's resources: memory, open files, look-ups, log lines.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::eventually;

use crate::model::may_reach_the_backend;
use crate::world::{World, PATIENCE};

/// Memory growth of the master, and of workers started later, after the warm-up.
const GROWTH: u64 = 8 << 10;
/// Memory growth of each worker while none is replaced.
const GROWTH_OF_ONE: u64 = 4 << 10;
/// Kept connections to the resolver, per worker and project.
const KEPT: usize = 16;
const LOG: u64 = 4 << 20;
/// More than clients, look-ups and requests to the backend can have open at a time.
const FILES: usize = 300;

/// Memory of the master, and the largest of any worker.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    /// In kB.
    master: u64,
    worker: u64,
    files: usize,
}

/// Limit of the growth of memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Memory {
    Limited,
    /// As with AddressSanitizer, which keeps memory that was freed.
    Any,
}

#[derive(Debug)]
pub struct Bounds {
    memory: Memory,
    idle_files: usize,
    warm: Option<Taken>,
    most: Taken,
    /// Workers, and their memory.
    calm: Vec<(u32, u64)>,
    look_ups: u64,
    key_fetches: u64,
    /// Bytes.
    log: u64,
}

impl Bounds {
    pub fn new(world: &World, memory: Memory) -> Self {
        Self {
            memory,
            idle_files: taken(world).files,
            warm: None,
            most: Taken::default(),
            calm: Vec::new(),
            look_ups: 0,
            key_fetches: 0,
            log: 0,
        }
    }

    /// Ends the warm-up: memory may not grow from now on.
    pub fn warm(&mut self, world: &World) {
        self.warm = Some(taken(world)).filter(|_| self.memory == Memory::Limited);
    }

    /// Marks that no worker is replaced from now on.
    pub fn calm(&mut self, world: &World) {
        if self.memory == Memory::Any {
            return;
        }
        self.calm = world.nginx.workers().into_iter().map(|pid| (pid, memory(pid))).collect();
    }

    /// Checks the limits. Call this often: the recordings of the fakes take memory.
    pub fn check(&mut self, world: &World, elapsed: Duration) {
        for request in world.backend.take_requests() {
            if !may_reach_the_backend(&request) {
                world.violated(format!("the backend has got {request:?}"));
            }
        }
        for request in world.authgears.iter().flat_map(|authgear| authgear.take_requests()) {
            let keys = request.target.starts_with("/oauth2/jwks");
            *(if keys { &mut self.key_fetches } else { &mut self.look_ups }) += 1;
        }
        let now = taken(world);
        self.most = Taken {
            master: self.most.master.max(now.master),
            worker: self.most.worker.max(now.worker),
            files: self.most.files.max(now.files),
        };
        let log = fs::metadata(world.nginx.dir().join("logs/error.log"));
        self.log = log.map_or(0, |log| log.len());

        // Twice what a cooldown of a second allows for two projects, and some at the start.
        let key_fetches = 4 * (elapsed.as_secs() + 10);
        let mut rules = vec![
            (
                "look-ups are not more than requests",
                self.look_ups <= world.asked.load(Ordering::Relaxed),
            ),
            ("keys are fetched once per cooldown", self.key_fetches <= key_fetches),
            ("the error log is small", self.log <= LOG),
            ("workers have few open files", now.files <= FILES),
        ];
        if let Some(warm) = self.warm {
            rules.push(("the master does not grow", now.master <= warm.master + GROWTH));
            rules.push(("workers do not grow", now.worker <= warm.worker + GROWTH));
        }
        for (pid, before) in &self.calm {
            rules.push(("a worker does not grow", memory(*pid) <= before + GROWTH_OF_ONE));
        }
        for (rule, _) in rules.into_iter().filter(|(_, holds)| !holds) {
            world.violated(format!("{rule}: {now:?} {self:?}"));
        }
    }

    /// Asserts that idle workers have open nothing but kept connections.
    pub fn check_idle(&self, world: &World) {
        let most = self.idle_files + 2 * KEPT;
        if !eventually(PATIENCE, || taken(world).files <= most) {
            world.violated(format!("idle workers have open files: {:?} {self:?}", taken(world)));
        }
    }

    pub fn summary(&self) -> String {
        let Self { warm, most, look_ups, key_fetches, log, .. } = self;
        let warm = warm.unwrap_or_default();
        format!(
            "memory, warm and at most: master {} and {} kB, a worker {} and {} kB\n\
             open files of a worker: {} at most\n\
             look-ups: {look_ups}; fetches of keys: {key_fetches}; error log: {} kB",
            warm.master,
            most.master,
            warm.worker,
            most.worker,
            most.files,
            log >> 10,
        )
    }
}

fn taken(world: &World) -> Taken {
    let workers = world.nginx.workers();
    Taken {
        master: memory(world.nginx.pid()),
        worker: workers.iter().map(|pid| memory(*pid)).max().unwrap_or_default(),
        files: workers.iter().map(|pid| open_files(*pid)).max().unwrap_or_default(),
    }
}

/// In kB; 0 of a process that has just ended.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
