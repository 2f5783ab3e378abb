//! The model of the faults: hosts in one process, a Redis in memory, and random walks.
//!
//! A walk puts events, lets connections make single steps in any order, and breaks things: it cuts
//! connections, kills keepers within a step, lets a replica take over without the last writes,
//! restarts the server with an old snapshot or with nothing, turns its clock, empties, trims and
//! deletes. Then it heals everything and waits until all is quiet. It fails if a look added up while
//! an entry that was there had not been applied, or if a host does not know of an event in the end.
//!
//! `FLEET_WALKS=100000` makes more walks than the test does by itself, `FLEET_SEED=` one of them.

mod host;
pub(super) mod random;
mod server;

use host::{Host, Servers, BACK};
use random::Random;
use server::Server;

/// Hosts of a walk.
const HOSTS: u8 = 3;

struct Walk {
    random: Random,
    now: u64,
    hosts: Vec<Host>,
    servers: Servers,
    master: u64,
    /// State of the replica and of the snapshot on disk.
    replica: Server,
    snapshot: Server,
    runs: u64,
    trace: Vec<String>,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let server = Server::new(1);
        Self {
            random: Random(seed),
            now: 1_000_000,
            hosts: (0..HOSTS).map(Host::new).collect(),
            servers: Servers::from([(1, server.clone())]),
            master: 1,
            replica: server.clone(),
            snapshot: server,
            runs: 1,
            trace: Vec::new(),
        }
    }

    fn note(&mut self, what: impl Into<String>) {
        self.trace.push(format!("{}: {}", self.now, what.into()));
    }

    fn host(&mut self) -> usize {
        self.random.below(HOSTS.into()) as usize
    }

    fn server(&mut self) -> &mut Server {
        self.servers.get_mut(&self.master).unwrap()
    }

    fn put(&mut self) {
        let host = self.host();
        if self.hosts[host].has_room() {
            self.hosts[host].put(self.now);
            self.note(format!("host {host} puts"));
        }
    }

    /// One step of a connection of a host. A new one may reach a server that is no master any more.
    fn step(&mut self, host: usize, may_fail: bool) {
        self.now += 1;
        let mut to = self.master;
        if may_fail && self.random.one_in(6) {
            let mut known: Vec<_> = self.servers.keys().copied().collect();
            known.sort_unstable();
            to = known[self.random.below(known.len() as u64) as usize];
        }
        let is_killed = may_fail && self.random.one_in(60);
        let own = &mut self.hosts[host];
        if self.random.one_in(2) {
            own.writes(&mut self.servers, to, self.now);
        } else {
            if self.random.one_in(3) {
                own.beat();
            }
            let killed = is_killed.then_some(&mut self.random);
            own.reads(&self.servers, to, self.now, killed);
        }
        let log: Vec<_> = self.hosts[host].log.iter_mut().flat_map(|log| log.drain(..)).collect();
        log.into_iter().for_each(|what| self.note(format!("host {host} {what}")));
    }

    fn skew(&mut self) -> i64 {
        let far = 4 * BACK;
        self.random.below(2 * far) as i64 - far as i64
    }

    /// Another server is the master from now on. The last one stays for a while, or is gone.
    fn becomes_master(&mut self, state: &Server, may_stay: bool) {
        self.runs += 1;
        let skew = if self.random.one_in(2) { self.skew() } else { 0 };
        let new = state.successor(self.runs, skew);
        (self.replica, self.snapshot) = (new.clone(), self.snapshot.clone());
        self.servers.insert(self.runs, new);
        let old = std::mem::replace(&mut self.master, self.runs);
        if !may_stay || self.random.one_in(2) {
            self.ends(old);
        }
    }

    fn ends(&mut self, server: u64) {
        self.hosts.iter_mut().for_each(|host| host.cut_from(server));
        self.servers.remove(&server);
    }

    fn fault(&mut self) {
        let host = self.host();
        let what = match self.random.below(16) {
            0 | 1 => {
                self.hosts[host].cut_reader();
                "cut of a reader"
            }
            2 | 3 => {
                self.hosts[host].cut_writer();
                "cut of a writer"
            }
            4 => {
                self.hosts[host].kill();
                "end of a keeper"
            }
            5 => {
                let state = self.replica.clone();
                self.becomes_master(&state, true);
                "failover"
            }
            6 => {
                let state = self.snapshot.clone();
                self.becomes_master(&state, false);
                "restart with a snapshot"
            }
            7 => {
                let empty = Server::new(0);
                self.becomes_master(&empty, false);
                "restart with nothing"
            }
            8 => {
                self.server().stream = None;
                "DEL"
            }
            9 | 10 => {
                let keep = self.random.below(6) as usize;
                self.server().trim(keep);
                "XTRIM"
            }
            11 => {
                let mut random = self.random.clone();
                self.server().delete(&mut random);
                self.random = random;
                "XDEL"
            }
            12 => {
                let skew = self.skew();
                self.server().skew = skew;
                "clock"
            }
            13 => {
                self.snapshot = self.server().clone();
                "snapshot"
            }
            14 => {
                let old = self.servers.keys().copied().filter(|own| *own != self.master).min();
                if let Some(old) = old {
                    self.ends(old);
                }
                "end of an old master"
            }
            _ => {
                self.now += self.random.below(3 * BACK);
                "time"
            }
        };
        self.note(format!("{what} (host {host})"));
    }

    fn run(&mut self) -> Result<(), String> {
        let steps = 100 + self.random.below(300);
        for _ in 0..steps {
            match self.random.below(40) {
                0..=3 => self.put(),
                4 | 5 => self.fault(),
                6..=8 => self.replica = self.server().clone(),
                _ => {
                    let host = self.host();
                    self.step(host, true);
                }
            }
            self.check_looks()?;
        }
        self.heal()
    }

    fn check_looks(&self) -> Result<(), String> {
        match self.hosts.iter().position(|host| !host.missed.is_empty()) {
            Some(host) => Err(format!("host {host} missed {:?}", self.hosts[host].missed)),
            None => Ok(()),
        }
    }

    fn written(&self) -> u64 {
        self.hosts.iter().map(|host| host.written).sum()
    }

    fn heal(&mut self) -> Result<(), String> {
        self.note("healed");
        let old: Vec<_> = self.servers.keys().copied().filter(|own| *own != self.master).collect();
        old.into_iter().for_each(|old| self.ends(old));
        let mut steps = 0;
        // All hosts are settled, and are so again after what any of them wrote until then.
        let mut written = None;
        while written != Some(self.written()) {
            written = Some(self.written());
            self.hosts.iter_mut().for_each(|host| host.quiet = 0);
            while !self.hosts.iter().all(Host::is_settled) {
                for host in 0..usize::from(HOSTS) {
                    self.step(host, false);
                }
                self.check_looks()?;
                steps += 1;
                if steps > 20_000 {
                    return Err("it never is quiet".into());
                }
            }
        }
        let lost: Vec<_> = self
            .hosts
            .iter()
            .enumerate()
            .flat_map(|(from, own)| own.put.iter().map(move |(number, at)| (from, *number, *at)))
            .flat_map(|(from, number, at)| {
                let to = self.hosts.iter().enumerate();
                let without = to.filter(move |(_, own)| !own.knows(from as u8, number, at));
                without.map(move |(to, _)| format!("{number} of host {from} at host {to}"))
            })
            .collect();
        if lost.is_empty() {
            Ok(())
        } else {
            Err(format!("lost: {}", lost.join(", ")))
        }
    }
}

/// Why a walk fails, with what happened in it.
fn walk(seed: u64) -> Option<String> {
    Walk::new(seed).run().err()?;
    // Again, and told.
    let mut walk = Walk::new(seed);
    walk.hosts.iter_mut().for_each(|host| host.log = Some(Vec::new()));
    let why = walk.run().err()?;
    Some(format!("FLEET_SEED={seed}: {why}\n{}", walk.trace.join("\n")))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn walks_with_faults_lose_no_event() {
    let seeds = match number("FLEET_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FLEET_WALKS").unwrap_or(10_000),
    };
    let mut failures = seeds.clone().filter_map(walk);
    if let Some(first) = failures.next() {
        let others = failures.count();
        panic!("{first}\nand {others} more of {} walks fail", seeds.end - seeds.start);
    }
}
