//! Many simultaneous requests with a session that is not cached.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use crate::load::{connect, read_answer, request};
use crate::peers::Peer;
use crate::rounds::median;
use crate::site::{opaque, CountingResolver, Site, DELAY};

const ROUNDS: usize = 5;

struct Herd {
    name: &'static str,
    requests: usize,
}

const HERDS: [Herd; 2] = [
    Herd { name: "200 requests", requests: 200 },
    Herd { name: "page with 30 assets", requests: 30 },
];

const PEERS: [Peer; 6] = [
    Peer::Ceiling,
    Peer::Cached("10m"),
    Peer::Uncached,
    Peer::AuthRequestKeepalive,
    Peer::ProxyCacheSafe,
    Peer::LuaDict,
];

/// Counts look-ups, and the time between the first and the last answer, with a slow resolver.
pub fn run(site: &Site) -> io::Result<Vec<Value>> {
    let resolver = CountingResolver::start(DELAY)?;
    let mut rows = Vec::new();
    for herd in &HERDS {
        println!("{} at once, resolver takes {} ms", herd.name, DELAY.as_millis());
        for peer in PEERS {
            if peer.missing().is_some() {
                continue;
            }
            let running = peer.start(site, resolver.addr)?;
            let (mut calls, mut first, mut last) = (vec![], vec![], vec![]);
            for round in 0..ROUNDS {
                resolver.take_answers();
                let mut times = stampede(&[running.addr], herd.requests, &opaque(round))?;
                times.sort();
                calls.push(resolver.take_answers() as f64);
                let (Some(leader), Some(end)) = (times.first(), times.last()) else { continue };
                first.push(millis(*leader));
                last.push(millis(*end - *leader));
            }
            let (calls, first, last) = (median(&calls), median(&first), median(&last));
            println!(
                "  {:<50} {calls:4} look-ups, first answer {first:6.1} ms, last {last:6.1} ms later",
                peer.title()
            );
            rows.push(json!({
                "herd": herd.name,
                "peer": peer.title(),
                "own": peer.is_own(),
                "calls": calls,
                "first_ms": first,
                "last_after_first_ms": last,
            }));
        }
    }
    Ok(rows)
}

/// The time of each answer since the requests were sent, to these addresses in turn.
pub fn stampede(addrs: &[SocketAddr], count: usize, token: &str) -> io::Result<Vec<Duration>> {
    let request = Arc::new(request(token));
    let barrier = Arc::new(Barrier::new(count));
    let threads: Vec<_> = addrs
        .iter()
        .copied()
        .cycle()
        .take(count)
        .map(|addr| {
            let (request, barrier) = (Arc::clone(&request), Arc::clone(&barrier));
            thread::spawn(move || {
                let connection = connect(addr);
                barrier.wait();
                let mut connection = connection?;
                let sent = Instant::now();
                connection.write_all(&request)?;
                read_answer(&mut connection)?;
                Ok::<_, io::Error>(sent.elapsed())
            })
        })
        .collect();
    let join = |thread: thread::JoinHandle<_>| {
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a request panicked")))
    };
    threads.into_iter().map(join).collect()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
