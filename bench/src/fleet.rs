//! Several hosts that are one fleet, and the same hosts without: look-ups and delays.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use support::{eventually, get, Builder, FakeAuthgear, Nginx, Redis, User, DEADLINE};

use crate::herd::stampede;
use crate::load::{connect, contains, read_answer, request};
use crate::rounds::{median, most};
use crate::site::{opaque, CountingResolver, Site, DELAY, ORIGIN};
use crate::{many_hosts, redis_cost};

/// The extent of the measurements.
pub struct Extent {
    /// Sessions in bursts, and bursts of each.
    pub bursts: (usize, usize),
    /// Times that one cold session is asked for by many.
    pub cold: usize,
    pub purges: usize,
    /// Events that readers of a stream wait for.
    pub events: u32,
    pub many_hosts: many_hosts::Extent,
}

pub const FULL: Extent =
    Extent { bursts: (20, 5), cold: 15, purges: 200, events: 15, many_hosts: many_hosts::FULL };

pub const QUICK: Extent =
    Extent { bursts: (5, 2), cold: 5, purges: 30, events: 9, many_hosts: many_hosts::QUICK };

/// Hosts in the measurements with a fixed number of them.
const HOSTS: usize = 3;

/// Requests of a page.
const BURST: usize = 30;

/// Requests with one cold session.
const STAMPEDE: usize = 200;

/// Measures everything.
pub fn run(extent: &Extent) -> io::Result<Value> {
    let site = Site::start()?;
    Ok(json!({
        "look_ups": look_ups(&site, extent.bursts)?,
        "cold": cold(&site, extent.cold)?,
        "purges": purges(&site, extent.purges)?,
        "redis": redis_cost::measure(&site, extent.events)?,
        "many_hosts": many_hosts::measure(&site, &extent.many_hosts)?,
    }))
}

/// Hosts with the same configuration. With a Redis they are one fleet.
pub struct Hosts {
    all: Vec<Nginx>,
}

impl Hosts {
    /// Starts `count` hosts with this number of workers, which keep verdicts for `valid`. Waits
    /// until they are in the fleet.
    pub fn start(
        (site, resolver): (&Site, &str),
        (count, workers): (usize, usize),
        valid: Duration,
        redis: Option<&Redis>,
    ) -> io::Result<Self> {
        let host = |_| host(site, resolver, valid, redis).workers(workers).start();
        let hosts = Self { all: (0..count).map(host).collect() };
        if redis.is_some() {
            for host in &hosts.all {
                wait_in_fleet(host, workers)?;
            }
        }
        Ok(hosts)
    }

    /// Their addresses.
    pub fn addrs(&self) -> Vec<SocketAddr> {
        self.all.iter().map(Nginx::addr).collect()
    }
}

fn host(site: &Site, resolver: &str, valid: Duration, redis: Option<&Redis>) -> Builder {
    let fleet = redis.map(|redis| {
        format!("authgear_fleet {} secret=fleet.secret cache=on timeout=1s;", redis.url())
    });
    Nginx::builder()
        .error_level("warn")
        .events("worker_connections 4096;")
        .secret_file("fleet.secret", "the secret of a fleet, of 32 bytes at least\n")
        .http("access_log off; keepalive_requests 1000000; authgear_cache_zone z:10m;")
        .http(format!(
            "authgear_project p {{ endpoint {ORIGIN}; jwks_file {}; resolver_url {resolver};
                 keepalive 64; }}
             upstream backend {{ server {}; keepalive 64; }}",
            site.key_set().display(),
            site.backend
        ))
        .http(fleet.unwrap_or_default())
        .server(format!(
            "authgear p; authgear_cache z; authgear_cache_valid valid={}ms;
             add_header X-Cache $authgear_cache_status;
             proxy_http_version 1.1; proxy_set_header Connection '';
             location / {{ proxy_pass http://backend; }}
             location = /status {{ authgear off; authgear_status; }}
             location = /purge {{ authgear off; authgear_purge admin; }}",
            valid.as_millis()
        ))
}

fn wait_in_fleet(host: &Nginx, workers: usize) -> io::Result<()> {
    let fleet = || get(host, "/status?format=json").send().json()["fleet"].clone();
    // The keeper has two connections more.
    let connections = workers as u64 + 2;
    let is_ready = || {
        let fleet = fleet();
        fleet["in_sync"] == true && fleet["connections"]["opened"].as_u64() >= Some(connections)
    };
    match eventually(DEADLINE, is_ready) {
        true => Ok(()),
        false => Err(io::Error::other(format!("not in the fleet: {}", fleet()))),
    }
}

/// Look-ups of a session in each time for which its verdict is kept, when a page asks all hosts.
fn look_ups(site: &Site, (sessions, times): (usize, usize)) -> io::Result<Vec<Value>> {
    const VALID: Duration = Duration::from_secs(6);
    println!("bursts of {BURST} requests over {HOSTS} hosts, verdicts kept for {VALID:?}");
    let mut rows = Vec::new();
    let redis = Redis::start();
    for (name, redis, target) in [("without a fleet", None, 3.0), ("fleet", Some(&redis), 1.0)] {
        let resolver = CountingResolver::start(DELAY)?;
        let hosts = Hosts::start((site, &resolver.url()), (HOSTS, 2), VALID, redis)?;
        let addrs = hosts.addrs();
        for _ in 0..times {
            let begun = Instant::now();
            for session in 0..sessions {
                stampede(&addrs, BURST, &opaque(session))?;
            }
            // All verdicts are over before they are asked for again.
            std::thread::sleep(VALID + begun.elapsed());
        }
        let each = resolver.take_answers() as f64 / (sessions * times) as f64;
        println!("  {name:<20} {each:6.3} look-ups, expected {target}");
        rows.push(json!({
            "name": name, "look_ups": each, "expected": target,
            "sessions": sessions, "times": times, "burst": BURST, "hosts": HOSTS,
        }));
    }
    Ok(rows)
}

/// Many requests with one session that nobody knows: look-ups, and times of answers.
fn cold(site: &Site, rounds: usize) -> io::Result<Value> {
    const VALID: Duration = Duration::from_secs(3600);
    const TARGET_MS: f64 = 15.0;
    println!("{STAMPEDE} cold requests, resolver takes {} ms", DELAY.as_millis());
    let redis = Redis::start();
    let resolver = CountingResolver::start(DELAY)?;
    let url = resolver.url();
    let start = |count, redis| Hosts::start((site, &url), (count, 1), VALID, redis);
    let one = start(1, None)?;
    let apart = start(HOSTS, None)?;
    let fleet = start(HOSTS, Some(&redis))?;
    let kinds = [
        ("1 host without a fleet", one.addrs()),
        ("3 hosts without a fleet", apart.addrs()),
        ("3 hosts, fleet", fleet.addrs()),
    ];
    let mut kinds = kinds.map(|(name, addrs)| (name, addrs, Vec::new(), Vec::new(), Vec::new()));
    for round in 0..rounds {
        for (_, addrs, calls, first, last) in &mut kinds {
            resolver.take_answers();
            let mut times = stampede(addrs, STAMPEDE, &opaque(round))?;
            times.sort();
            calls.push(resolver.take_answers() as f64);
            let (Some(leader), Some(end)) = (times.first(), times.last()) else { continue };
            first.push(millis(*leader));
            last.push(millis(*end - *leader));
        }
    }
    let mut rows = Vec::new();
    for (name, _, calls, first, last) in &kinds {
        let (calls, first) = (median(calls), median(first));
        let (median, most) = (median(last), most(last));
        println!(
            "  {name:<25} {calls:4} look-ups, first answer {first:6.1} ms, last {median:6.1} ms \
             later, {most:6.1} at most"
        );
        rows.push(json!({
            "name": name, "calls": calls, "first_ms": first,
            "last_after_first_ms": median, "last_after_first_most_ms": most,
        }));
    }
    let [(.., one), _, (.., fleet)] = &kinds;
    let beyond: Vec<_> = fleet.iter().zip(one).map(|(fleet, one)| fleet - one).collect();
    let beyond = median(&beyond);
    println!("  the last one of a fleet {beyond:.1} ms beyond one host's, at most {TARGET_MS}");
    Ok(json!({ "rows": rows, "beyond_ms": beyond, "target_ms": TARGET_MS, "rounds": rounds }))
}

/// Delays from a purge at one host until another one asks anew.
fn purges(site: &Site, count: usize) -> io::Result<Vec<Value>> {
    const VALID: Duration = Duration::from_secs(3600);
    /// Longest time between two purges at random times.
    const APART: f64 = 400.0;
    println!("purges at one host, until another one asks anew");
    let (authgear, redis) = (FakeAuthgear::builder().origin(ORIGIN).start(), Redis::start());
    let resolver = authgear.resolver_url();
    let hosts = Hosts::start((site, &resolver), (2, 2), VALID, Some(&redis))?;
    let [at, other] = *hosts.addrs() else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for (name, apart) in [("at any time", APART), ("one after another", 0.0)] {
        let mut delays = Vec::new();
        for n in 0..count {
            let user = format!("user{n}-{apart}");
            let token = authgear.opaque_token(&authgear.add_user(User::named(&user)));
            // The fractions of multiples of the golden ratio are spread evenly.
            let pause = apart * (n as f64 * 0.618_034).fract();
            std::thread::sleep(Duration::from_secs_f64(pause / 1e3));
            delays.push(millis(purge(at, other, &user, &token)?));
        }
        delays.sort_by(f64::total_cmp);
        let at = |part: f64| delays.get((count as f64 * part) as usize).copied();
        let [p50, p99, most] =
            [at(0.5), at(0.99), delays.last().copied()].map(|delay| delay.unwrap_or(f64::NAN));
        println!("  {name:<20} p50 {p50:7.2} ms, p99 {p99:7.2}, at most {most:7.2}");
        rows.push(json!({
            "name": name, "count": count, "p50_ms": p50, "p99_ms": p99, "most_ms": most,
        }));
    }
    Ok(rows)
}

/// The time from the purge of a user at one host until another does not use its verdict.
fn purge(at: SocketAddr, other: SocketAddr, user: &str, token: &str) -> io::Result<Duration> {
    let mut asking = connect(other)?;
    let mut is_hit = || {
        asking.write_all(&request(token))?;
        Ok::<_, io::Error>(contains(&read_answer(&mut asking)?, b"X-Cache: HIT"))
    };
    is_hit()?;
    if !is_hit()? {
        return Err(io::Error::other("a verdict is not kept"));
    }
    let mut purging = connect(at)?;
    let begun = Instant::now();
    let post = format!("POST /purge?user={user} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    purging.write_all(post.as_bytes())?;
    while is_hit()? {
        if begun.elapsed() > DEADLINE {
            return Err(io::Error::other("a purge is never known"));
        }
    }
    let delay = begun.elapsed();
    let answer = read_answer(&mut purging)?;
    match answer.starts_with(b"HTTP/1.1 204") {
        true => Ok(delay),
        false => Err(io::Error::other(String::from_utf8_lossy(&answer).into_owned())),
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
