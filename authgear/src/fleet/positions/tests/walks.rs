//! Random walks of hosts that share verdicts: none takes an answer that is older than a purge that
//! it has applied.
//!
//! Events arrive in any order with questions and answers. Servers fail over, without the last
//! events, and some hosts stay with the old one. Somebody puts any record back that there ever was.
//! Marks, rings and reading are modelled; the log is the real one.
//!
//! `FLEET_WALKS=100000` makes more walks than the test does by itself.

use std::collections::HashSet;

use super::super::*;
use crate::fleet::model::random::Random;

const HOSTS: usize = 3;
const USERS: usize = 2;
const STEPS: usize = 120;

#[derive(Clone, Copy)]
struct Rules {
    positions: bool,
    pending: bool,
    /// Clocks that agree, and records that tell their time.
    clocks: bool,
    failovers: bool,
}

const ALL: Rules = Rules { positions: true, pending: true, clocks: true, failovers: true };

#[derive(Clone, Copy)]
struct Event {
    user: usize,
    publisher: usize,
    number: u64,
    /// Change at Authgear that caused it.
    version: u64,
    position: u64,
}

#[derive(Clone, Default)]
struct Server {
    id: u64,
    stream: Vec<Event>,
    last: u64,
}

struct Own {
    event: Event,
    is_sent: bool,
    has_returned: bool,
}

#[derive(Clone, Copy)]
struct Asked {
    user: usize,
    version: u64,
    place: Place,
    at: u64,
}

struct Host {
    log: PositionLog,
    server: usize,
    at: usize,
    offset: i64,
    purges: u64,
    marks: [u64; USERS],
    /// Change of each user that this host knows of.
    knows: [u64; USERS],
    heard: HashSet<(usize, u64)>,
    ring: Vec<Own>,
    asking: Vec<Asked>,
}

struct Walk {
    random: Random,
    rules: Rules,
    now: u64,
    servers: Vec<Server>,
    hosts: Vec<Host>,
    versions: [u64; USERS],
    records: Vec<Asked>,
    losses: u64,
    taken: u64,
}

impl Walk {
    fn new(seed: u64, rules: Rules) -> Self {
        let mut random = Random(seed);
        let mut host = |_| {
            let log = PositionLog::new();
            log.begin(PurgeEpoch::default());
            let far = if rules.clocks { 1000 } else { 30_000 };
            let offset = random.below(2 * far) as i64 - far as i64;
            Host {
                log,
                server: 0,
                at: 0,
                offset,
                purges: 0,
                marks: [0; USERS],
                knows: [0; USERS],
                heard: HashSet::new(),
                ring: Vec::new(),
                asking: Vec::new(),
            }
        };
        let hosts = (0..HOSTS).map(&mut host).collect();
        let servers = vec![Server { id: 1, ..Server::default() }];
        let now = 10_000_000;
        let (versions, records) = ([0; USERS], Vec::new());
        Self { random, rules, now, servers, hosts, versions, records, losses: 0, taken: 0 }
    }

    fn user(&mut self) -> usize {
        self.random.below(USERS as u64) as usize
    }

    fn clock(&self, host: usize) -> u64 {
        self.now.saturating_add_signed(self.hosts[host].offset)
    }

    fn purge(&mut self, host: usize) {
        let user = self.user();
        self.versions[user] += 1;
        let version = self.versions[user];
        let own = &mut self.hosts[host];
        own.purges += 1;
        own.marks[user] = own.purges;
        own.knows[user] = version;
        let number = own.ring.len() as u64 + 1;
        let event = Event { user, publisher: host, number, version, position: 0 };
        own.ring.push(Own { event, is_sent: false, has_returned: false });
    }

    fn publish(&mut self, host: usize) {
        let own = &mut self.hosts[host];
        let server = &mut self.servers[own.server];
        let Some(next) = own.ring.iter_mut().find(|own| !own.is_sent) else { return };
        next.is_sent = true;
        server.last += 1;
        server.stream.push(Event { position: server.last, ..next.event });
    }

    fn read(&mut self, host: usize) {
        let (time, newest) = (self.clock(host), self.servers.len() - 1);
        let own = &mut self.hosts[host];
        if own.server != newest && self.random.one_in(3) {
            (own.server, own.at) = (newest, 0);
            own.log.lost();
            for event in &mut own.ring {
                (event.is_sent, event.has_returned) = (false, false);
            }
        }
        let server = &self.servers[own.server];
        for event in &server.stream[own.at..] {
            if event.publisher == host {
                own.ring[event.number as usize - 1].has_returned = true;
            } else if own.heard.insert((event.publisher, event.number)) {
                own.purges += 1;
                own.marks[event.user] = own.purges;
                own.knows[event.user] = own.knows[event.user].max(event.version);
            }
        }
        own.at = server.stream.len();
        let pending = own.ring.iter().find(|own| !own.has_returned).map(|own| own.event.number);
        let least_pending = pending.filter(|_| self.rules.pending);
        let events = OwnEvents { least_pending, last: own.ring.len() as u64 };
        let place = (Incarnation(server.id), Position(server.last));
        own.log.has_read(place, time, PurgeEpoch::of_number(own.purges), events);
    }

    fn ask(&mut self, host: usize) {
        let (user, at) = (self.user(), self.clock(host));
        let Some(place) = self.hosts[host].log.place() else { return };
        let version = self.versions[user];
        self.hosts[host].asking.push(Asked { user, version, place, at });
    }

    fn answer(&mut self, host: usize) {
        let own = &mut self.hosts[host];
        let Some(asked) = own.asking.pop() else { return };
        if own.log.place().is_some_and(|now| now.era == asked.place.era) {
            self.records.push(asked);
        }
    }

    /// Any record that there ever was.
    fn look(&mut self, host: usize) {
        let Some(last) = self.records.len().checked_sub(1) else { return };
        let record = self.records[last - self.random.below(last as u64 + 1) as usize];
        let own = &self.hosts[host];
        let here = own.log.place().map(|place| place.incarnation);
        if here != Some(record.place.incarnation) {
            return;
        }
        let asked_at = if self.rules.clocks { record.at } else { record.at + 1_000_000 };
        let epoch = match self.rules.positions {
            true => own.log.epoch_of(record.place.position, asked_at),
            false => Some(PurgeEpoch::of_number(own.purges)),
        };
        if epoch.is_some_and(|epoch| own.marks[record.user] <= epoch.number()) {
            self.taken += 1;
            self.losses += u64::from(record.version < own.knows[record.user]);
        }
    }

    fn fail_over(&mut self) {
        let old = self.servers.last().cloned().unwrap_or_default();
        let lost = self.random.below(3) as usize;
        let kept = old.stream.len().saturating_sub(lost);
        let stream = old.stream[..kept].to_vec();
        let last = stream.last().map_or(0, |event| event.position);
        self.servers.push(Server { id: old.id + 1, stream, last });
    }

    fn run(mut self) -> (u64, u64) {
        for _ in 0..STEPS {
            self.now += self.random.below(400);
            let host = self.random.below(HOSTS as u64) as usize;
            match self.random.below(16) {
                0 => self.purge(host),
                1..=2 => self.publish(host),
                3..=5 => self.read(host),
                6..=8 => self.ask(host),
                9..=11 => self.answer(host),
                12 if self.rules.failovers && self.random.one_in(4) => self.fail_over(),
                _ => self.look(host),
            }
        }
        (self.losses, self.taken)
    }
}

/// Number of walks with a loss, and of records that were taken.
fn walks(rules: Rules) -> (u64, u64) {
    let count = std::env::var("FLEET_WALKS").ok().and_then(|count| count.parse().ok());
    let all = (0..count.unwrap_or(3000)).map(|seed| Walk::new(seed, rules).run());
    all.fold((0, 0), |(losses, taken), walk| (losses + u64::from(walk.0 > 0), taken + walk.1))
}

#[test]
fn no_host_takes_an_answer_from_before_a_purge_that_it_applied() {
    for rules in [
        ALL,
        Rules { failovers: false, ..ALL },
        // The order of events alone is enough while one server lasts.
        Rules { clocks: false, failovers: false, ..ALL },
    ] {
        let (losses, taken) = walks(rules);
        assert_eq!(losses, 0);
        assert!(taken > 1000, "{taken}");
    }
}

#[test]
fn each_rule_carries_weight() {
    let skewed = Rules { clocks: false, failovers: false, ..ALL };
    for (what, rules) in [
        ("positions", Rules { positions: false, ..ALL }),
        ("pending marks", Rules { pending: false, ..skewed }),
    ] {
        let (losses, _) = walks(rules);
        println!("without {what}: {losses} walks with a loss");
        assert!(losses > 0, "{what}");
    }
}
