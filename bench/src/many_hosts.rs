//! Look-ups at Authgear by the number of hosts: counted with few, computed up to a thousand.
//!
//! A session that sends `rate` requests a second to hosts at random is asked about once in `valid`
//! and the time until its next request. Without a fleet that is so at each host, which gets one of
//! `hosts` requests. In a fleet a verdict counts for a shorter time at the hosts that did not ask:
//! the next request that one of them gets after that is asked about.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use authgear::fleet::tier::APART;
use serde_json::{json, Value};
use support::Redis;

use crate::fleet::Hosts;
use crate::load::{connect, read_answer, request};
use crate::site::{opaque, CountingResolver, Site};

/// The extent of the measurement.
pub struct Extent {
    hosts: &'static [usize],
    sessions: usize,
    /// Time for which look-ups are counted.
    counted: Duration,
}

pub const FULL: Extent =
    Extent { hosts: &[1, 2, 3, 5, 10], sessions: 300, counted: Duration::from_secs(20) };

pub const QUICK: Extent = Extent { hosts: &[1, 3], sessions: 100, counted: Duration::from_secs(8) };

/// Numbers of hosts for which look-ups are computed.
const COMPUTED: [usize; 13] = [1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000];

/// Time for which verdicts are kept.
const VALID: Duration = Duration::from_secs(10);

/// Requests of a session in a second.
const RATE: f64 = 2.0;

/// Clients, each with its part of the sessions.
const CLIENTS: usize = 4;

/// Look-ups per second of a session at so many hosts.
fn computed(hosts: usize, is_fleet: bool) -> f64 {
    let (valid, count) = (VALID.as_secs_f64(), hosts as f64);
    if is_fleet && hosts > 1 {
        let shared = valid - APART as f64 / 1e3;
        return 1.0 / (shared + count / ((count - 1.0) * RATE));
    }
    let each = if is_fleet { 1.0 } else { count };
    each / (valid + each / RATE)
}

/// Counts look-ups, and computes them.
pub fn measure(site: &Site, extent: &Extent) -> io::Result<Value> {
    let sessions = extent.sessions;
    println!(
        "{sessions} sessions, {RATE} requests per second of each at random hosts, verdicts kept \
         for {VALID:?}: look-ups per second, computed in brackets"
    );
    let scaled = |hosts, is_fleet| computed(hosts, is_fleet) * sessions as f64;
    let mut points = Vec::new();
    for &hosts in extent.hosts {
        let [without, with] = count(site, extent, hosts)?;
        let expected = [scaled(hosts, false), scaled(hosts, true)];
        println!(
            "  {hosts:4} hosts: without a fleet {:7.1} ({:7.1}), fleet {:7.1} ({:7.1}); {:.0} and \
             {:.0} requests per second",
            without.look_ups,
            expected[0],
            with.look_ups,
            expected[1],
            without.requests,
            with.requests,
        );
        points.push(json!({
            "hosts": hosts,
            "without": without.look_ups, "without_computed": expected[0],
            "without_requests": without.requests,
            "with": with.look_ups, "with_computed": expected[1],
            "with_requests": with.requests,
        }));
    }
    let curve = COMPUTED.map(|hosts| {
        json!({ "hosts": hosts, "without": scaled(hosts, false), "with": scaled(hosts, true) })
    });
    Ok(json!({
        "sessions": sessions, "rate": RATE, "valid_s": VALID.as_secs_f64(),
        "counted_s": extent.counted.as_secs_f64(), "points": points, "curve": curve,
    }))
}

/// Numbers per second.
struct Counted {
    look_ups: f64,
    requests: f64,
}

/// Counts without a fleet and with one, at the same time.
fn count(site: &Site, extent: &Extent, hosts: usize) -> io::Result<[Counted; 2]> {
    let redis = Redis::start();
    let resolvers =
        [CountingResolver::start(Duration::ZERO)?, CountingResolver::start(Duration::ZERO)?];
    let [apart, fleet] = [None, Some(&redis)];
    let start = |resolver: &CountingResolver, redis| {
        Hosts::start((site, &resolver.url()), (hosts, 1), VALID, redis)
    };
    let [at, of] = &resolvers;
    let fleets = [start(at, apart)?, start(of, fleet)?];
    let ends = AtomicBool::new(false);
    let sent = [AtomicU64::new(0), AtomicU64::new(0)];
    let cycles = [false, true].map(|is_fleet| {
        let each = if is_fleet { 1 } else { hosts };
        Duration::from_secs_f64(each as f64 / computed(hosts, is_fleet))
    });
    thread::scope(|scope| {
        let mut clients = Vec::new();
        for ((fleet, sent), cycle) in fleets.iter().zip(&sent).zip(cycles) {
            for client in 0..CLIENTS {
                let sessions = (client..extent.sessions).step_by(CLIENTS).collect();
                let mut client = Client::connect(&fleet.addrs(), sessions, cycle)?;
                let ends = &ends;
                clients.push(scope.spawn(move || client.run(ends, sent)));
            }
        }
        // The sessions have forgotten that they began together.
        thread::sleep(2 * cycles.into_iter().fold(Duration::ZERO, Ord::max));
        let take = || {
            let sent = sent.each_ref().map(|sent| sent.swap(0, Ordering::Relaxed));
            (resolvers.each_ref().map(CountingResolver::take_answers), sent, Instant::now())
        };
        let (_, _, begun) = take();
        thread::sleep(extent.counted);
        let ([of_apart, of_fleet], [by_apart, by_fleet], ended) = take();
        ends.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap_or_else(|_| Err(io::Error::other("a client panicked")))?;
        }
        let seconds = (ended - begun).as_secs_f64();
        let counted = |look_ups, requests| Counted {
            look_ups: look_ups as f64 / seconds,
            requests: requests as f64 / seconds,
        };
        Ok([counted(of_apart, by_apart), counted(of_fleet, by_fleet)])
    })
}

/// Sends the requests of some sessions when they are due.
struct Client {
    hosts: Vec<TcpStream>,
    /// Next request of each session: time since the start in nanoseconds, and session.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    random: Random,
}

impl Client {
    /// Connects to hosts. Sessions begin at random within `cycle`.
    fn connect(addrs: &[SocketAddr], sessions: Vec<usize>, cycle: Duration) -> io::Result<Self> {
        let hosts = addrs.iter().map(|addr| connect(*addr)).collect::<io::Result<_>>()?;
        let mut random = Random(sessions.first().map_or(1, |first| *first as u64 + 1));
        let begin = |session| Reverse((nanos(random.part() * cycle.as_secs_f64()), session));
        Ok(Self { hosts, due: sessions.into_iter().map(begin).collect(), random })
    }

    fn run(&mut self, ends: &AtomicBool, sent: &AtomicU64) -> io::Result<()> {
        let begun = Instant::now();
        while let (false, Some(Reverse((at, session)))) =
            (ends.load(Ordering::Relaxed), self.due.pop())
        {
            thread::sleep(Duration::from_nanos(at).saturating_sub(begun.elapsed()));
            let which = (self.random.part() * self.hosts.len() as f64) as usize;
            let Some(host) = self.hosts.get_mut(which) else { continue };
            host.write_all(&request(&opaque(session)))?;
            let answer = read_answer(host)?;
            if !answer.starts_with(b"HTTP/1.1 204") {
                return Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned()));
            }
            sent.fetch_add(1, Ordering::Relaxed);
            let pause = -(1.0 - self.random.part()).ln() / RATE;
            self.due.push(Reverse((at + nanos(pause), session)));
        }
        Ok(())
    }
}

fn nanos(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// Numbers that look random: the generator SplitMix64.
struct Random(u64);

impl Random {
    /// A number from 0 to below 1.
    fn part(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
