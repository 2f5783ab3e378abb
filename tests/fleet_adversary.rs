//! Random faults of Redis, of hosts and of the network between them: no event is lost. With an even
//! seed the hosts share verdicts, none of which may outlast a purge.
//!
//! `make adversary` runs it for longer, many times. `FLEET_SEED=` repeats a plan; time and the
//! processes are not repeated.

use std::env;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use support::{eventually, get, unix_now, Backend, FakeAuthgear, Nginx, Redis, User, DEADLINE};

use crate::fleet::{cache, event, fleet, host, post, start, tell, wait_in_sync};

/// Time of the faults, if the environment does not name another.
const SECONDS: u64 = 6;

const HOSTS: usize = 3;

const STREAM: &str = "{authgear}:events";

/// SplitMix64.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    pub(crate) fn index(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    pub(crate) fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}

/// Connections that a cable carries: `None` while it is cut.
type Carried = Arc<Mutex<Option<Vec<TcpStream>>>>;

/// The network between a host and Redis.
pub(crate) struct Cable {
    pub(crate) addr: SocketAddr,
    carried: Carried,
    redis: Arc<Mutex<SocketAddr>>,
}

impl Cable {
    pub(crate) fn to(redis: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let addr = listener.local_addr().expect("the bound address");
        let carried: Carried = Arc::new(Mutex::new(Some(Vec::new())));
        let redis = Arc::new(Mutex::new(redis));
        let own = (Arc::clone(&carried), Arc::clone(&redis));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let redis = *own.1.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = carry(client, redis, &own.0);
            }
        });
        Self { addr, carried, redis }
    }

    /// Leads later connections to another server, and ends those that are there.
    pub(crate) fn lead_to(&self, redis: SocketAddr) {
        *self.redis.lock().unwrap_or_else(PoisonError::into_inner) = redis;
        self.cut();
        self.mend();
    }

    /// Ends all connections, and lets no others come about until it is mended.
    fn cut(&self) {
        let carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner).take();
        carried.iter().flatten().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    fn mend(&self) {
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.get_or_insert_default();
    }
}

fn carry(client: TcpStream, redis: SocketAddr, carried: &Carried) -> io::Result<()> {
    let mut carried = carried.lock().unwrap_or_else(PoisonError::into_inner);
    // A client whose stream is dropped sees the end of the connection.
    let Some(carried) = &mut *carried else { return Ok(()) };
    let server = TcpStream::connect(redis)?;
    for (from, to) in [(&client, &server), (&server, &client)] {
        let (mut from, mut to) = (from.try_clone()?, to.try_clone()?);
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
        });
    }
    carried.extend([client, server]);
    Ok(())
}

struct World<'a> {
    chance: Chance,
    authgear: &'a FakeAuthgear,
    redis: &'a Redis,
    cables: Vec<Cable>,
    hosts: Vec<Nginx>,
    /// Tokens of users whose sessions ended, with the events in the words of the trace.
    ended: Vec<(String, String)>,
    /// Tokens of users who were removed and purged, and whose verdicts all hosts had kept before.
    purged: Vec<(String, String)>,
    begun: Instant,
    trace: Vec<String>,
}

impl World<'_> {
    fn note(&mut self, what: String) {
        self.trace.push(format!("{:.3} {what}", self.begun.elapsed().as_secs_f64()));
    }

    fn end_a_user(&mut self) {
        let (name, at) = (format!("ended{}", self.ended.len()), self.chance.index(HOSTS));
        let token = self.authgear.jwt(&User::named(&name));
        let status = tell(&self.hosts[at], &event("user.disabled", &name, unix_now()));
        assert!([204, 202].contains(&status), "{status}");
        self.note(format!("{name} at host {at}: {status}"));
        self.ended.push((token, name));
    }

    fn purge_a_user(&mut self) {
        let (name, at) = (format!("purged{}", self.purged.len()), self.chance.index(HOSTS));
        let user = self.authgear.add_user(User::named(&name));
        let token = self.authgear.opaque_token(&user);
        for host in &self.hosts {
            assert_eq!(get(host, "/").bearer(&token).send().status, 200);
        }
        self.authgear.remove_user(&name);
        let status = post(&self.hosts[at], &format!("/purge?user={name}")).send().status;
        assert!([204, 202].contains(&status), "{status}");
        // Whatever Redis still has.
        let refused = get(&self.hosts[at], "/").bearer(&token).send();
        assert_eq!(refused.status, 401, "{name} at host {at}: {}", cache(&refused));
        self.note(format!("{name} at host {at}: {status}"));
        self.purged.push((token, name));
    }

    /// Lets something happen, which is over when this returns, or mended in the end.
    fn trouble(&mut self) {
        let host = self.chance.index(HOSTS);
        let what = match self.chance.below(14) {
            0..=2 => {
                self.cables[host].cut();
                format!("cut host {host}")
            }
            3..=5 => {
                self.cables[host].mend();
                format!("mended host {host}")
            }
            6 => {
                self.redis.command(&["FLUSHALL"]);
                "FLUSHALL".into()
            }
            7 => {
                self.redis.command(&["DEL", STREAM]);
                "DEL".into()
            }
            8 => {
                let keep = self.chance.below(8).to_string();
                self.redis.command(&["XTRIM", STREAM, "MAXLEN", &keep]);
                format!("XTRIM to {keep}")
            }
            9 => {
                self.redis.restart();
                "restart with what was saved".into()
            }
            10 => {
                self.redis.save();
                "SAVE".into()
            }
            11 => {
                self.redis.hang();
                let time = self.chance.millis(100, 3000);
                thread::sleep(time);
                self.redis.resume();
                format!("hung for {time:?}")
            }
            12 => {
                let workers = self.hosts[host].workers();
                let worker = workers[self.chance.index(workers.len())];
                self.hosts[host].kill_worker(worker);
                format!("killed a worker of host {host}")
            }
            _ => {
                self.hosts[host].reload();
                format!("reloaded host {host}")
            }
        };
        self.note(what);
    }

    fn heal(&mut self) {
        self.note("all is mended".into());
        self.cables.iter().for_each(Cable::mend);
        self.hosts.iter().for_each(wait_in_sync);
    }

    /// Events that a host does not know of.
    fn lost(&self) -> Vec<String> {
        let mut lost = Vec::new();
        for (n, host) in self.hosts.iter().enumerate() {
            for (token, name) in &self.ended {
                let is_refused = || get(host, "/jwt").bearer(token).send().status == 401;
                if !eventually(DEADLINE, is_refused) {
                    lost.push(format!("{name} at host {n}: {}", fleet(host)));
                }
            }
            for (token, name) in &self.purged {
                let is_refused = || get(host, "/").bearer(token).send().status == 401;
                if !eventually(DEADLINE, is_refused) {
                    lost.push(format!("{name} at host {n}: {}", fleet(host)));
                }
            }
        }
        lost
    }
}

/// Number that a variable of the environment has.
pub(crate) fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

#[test]
fn no_event_is_lost_over_random_faults() {
    let random = || SystemTime::UNIX_EPOCH.elapsed().expect("a time").as_nanos() as u64;
    let seed = number("FLEET_SEED").unwrap_or_else(random);
    let time = Duration::from_secs(number("FLEET_SECONDS").unwrap_or(SECONDS));
    println!("FLEET_SEED={seed}");
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let cables: Vec<_> = (0..HOSTS).map(|_| Cable::to(redis.addr())).collect();
    let host = |cable: &Cable| {
        let shares = if seed.is_multiple_of(2) { "on" } else { "off" };
        let url = format!("redis://{} cache={shares}", cable.addr);
        start(&authgear, host(&authgear, &backend, &url).workers(2).allow_log("zone emptied"))
    };
    let hosts = cables.iter().map(host).collect();
    let mut world = World {
        chance: Chance(seed),
        authgear: &authgear,
        redis: &redis,
        cables,
        hosts,
        ended: Vec::new(),
        purged: Vec::new(),
        begun: Instant::now(),
        trace: Vec::new(),
    };
    while world.begun.elapsed() < time {
        match world.chance.below(8) {
            0..=2 => world.end_a_user(),
            3 => world.purge_a_user(),
            4 | 5 => world.trouble(),
            _ => thread::sleep(world.chance.millis(1, 300)),
        }
    }
    world.heal();
    let lost = world.lost();
    let (ended, purged) = (world.ended.len(), world.purged.len());
    println!("{ended} users ended, {purged} purged, {} lost", lost.len());
    assert!(lost.is_empty(), "FLEET_SEED={seed}: {lost:#?}\n{}", world.trace.join("\n"));
}
