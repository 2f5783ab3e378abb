//! Memory of a session in a zone, and of a worker over time.

use std::io;
use std::sync::atomic::AtomicU32;
use std::thread;
use std::time::{Duration, Instant};

use authgear::credentials::{CookieNames, Credentials};
use authgear::identity::Identity;
use authgear::shared::cache_key::{Key, KeySecret};
use authgear::shared::purges::PurgeEpoch;
use authgear::shared::record;
use authgear::shared::zone::{Worth, Zone, NEVER};
use authgear::verdict::Verdict;
use serde_json::{json, Value};
use zerocopy::IntoBytes as _;

use crate::load::{Load, Requests};
use crate::locations;
use crate::peers::Peer;
use crate::process::{own_cpu, resident, Process};
use crate::site::{opaque, Site, IDENTITY};

const SESSIONS: usize = 1_000_000;

const RELOADS: usize = 200;

/// Longest time until the workers of a reload have taken over.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fills zones with a million sessions: one zone holds all of them, and one does not.
pub fn fill_zone() -> io::Result<Vec<Value>> {
    [(512, true), (512, false), (64, false)]
        .map(|(mib, roles)| fill(mib, roles))
        .into_iter()
        .collect()
}

fn fill(mib: usize, roles: bool) -> io::Result<Value> {
    let mut builder = Identity::builder();
    for (name, value) in IDENTITY {
        // Empty for nearly all users of Authgear.
        let value = if name.ends_with("Amr") { "" } else { value };
        if roles || !name.ends_with("Roles") {
            builder.push(name.as_bytes(), value.as_bytes()).map_err(io::Error::other)?;
        }
    }
    let data = record::encode(PurgeEpoch::default(), None, &Verdict::Valid(builder.build()))
        .unwrap_or_default();
    // Aligned like a zone.
    let mut memory = vec![0_u64; mib << 17];
    let memory = memory.as_mut_slice().as_mut_bytes();
    let dirty = AtomicU32::new(0);
    Zone::format(memory).map_err(io::Error::other)?;
    let secret = KeySecret::from_bytes([7; 16]);
    let names = CookieNames::default();
    let before = own_cpu();
    for n in 0..SESSIONS {
        let bearer = format!("Bearer {}", opaque(n));
        let credentials = Credentials::read(Some(bearer.as_bytes()), [], &names);
        let key = Key::of(&secret, b"scope", &credentials);
        let mut zone = Zone::open(memory, &dirty).map_err(io::Error::other)?;
        let _ = zone.store(&key, None, Worth::Lasting, (n as u64, NEVER), &data);
    }
    let micros = (own_cpu() - before) as f64 / 1e3 / SESSIONS as f64;
    let zone = Zone::open(memory, &dirty).map_err(io::Error::other)?;
    let stats = zone.stats();
    let used = (mib << 20) as f64 * (1.0 - stats.chunks_free as f64 / stats.chunks as f64);
    let per_session = used / stats.entries as f64;
    let with = if roles { "with roles" } else { "without roles" };
    println!(
        "zone of {mib} MiB, 1,000,000 sessions {with}: {} kept, {} evicted, {per_session:.0} bytes \
         each, {micros:.2} us to store",
        stats.entries, stats.evictions
    );
    Ok(json!({
        "mib": mib,
        "roles": roles,
        "kept": stats.entries,
        "evicted": stats.evictions,
        "bytes_per_session": per_session,
        "micros_to_store": micros,
    }))
}

/// Resident memory of workers under load, and of those started by a reload.
pub fn run(site: &Site) -> io::Result<Value> {
    let tokens: Vec<_> = (0..10_000).map(opaque).collect();
    let requests = Requests::of_tokens(&tokens);
    Ok(json!({
        "hits_kib": worn(site, "10m", &requests, 450_000, 10)?,
        // Room for some 4,000 sessions: each request is a miss, and evicts another session.
        "misses_kib": worn(site, "1m", &requests, 100_000, 5)?,
        "reloads_kib": reloaded(site, &requests)?,
        "locations_kib": locations::measure(site)?,
    }))
}

/// Memory of one worker, after each batch of requests.
fn worn(
    site: &Site,
    zone: &'static str,
    requests: &Requests,
    count: usize,
    times: usize,
) -> io::Result<Vec<u64>> {
    let running = Peer::Cached(zone).start(site, site.resolver)?;
    let mut load = Load::connect(running.addr, 16)?;
    let mut sizes = Vec::new();
    for _ in 0..times {
        load.run(requests, count)?;
        sizes.extend(running.process.children().first().map(|&worker| resident(worker)));
    }
    println!("zone {zone}, worker after every {count} requests: {sizes:?} KiB");
    Ok(sizes)
}

/// Memory of the master, and of the worker after each reload and 2,000 requests.
fn reloaded(site: &Site, requests: &Requests) -> io::Result<Vec<[u64; 2]>> {
    let running = Peer::Cached("10m").start(site, site.resolver)?;
    let mut sizes = Vec::new();
    for _ in 0..=RELOADS {
        Load::connect(running.addr, 16)?.run(requests, 2000)?;
        let before = running.process.children();
        let [worker] = *before else {
            return Err(io::Error::other(format!("workers: {before:?}")));
        };
        sizes.push([resident(worker), resident(running.process.id())]);
        reload(&running.process, worker)?;
    }
    println!("worker and master after each of {RELOADS} reloads: {sizes:?} KiB");
    Ok(sizes)
}

/// Reloads, and waits until another worker has taken the place of `worker`.
pub fn reload(process: &Process, worker: u32) -> io::Result<()> {
    process.signal("HUP");
    let signalled = Instant::now();
    while !is_replaced(worker, &process.children()) {
        if signalled.elapsed() > PATIENCE {
            return Err(io::Error::other("the old worker does not go"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn is_replaced(worker: u32, now: &[u32]) -> bool {
    now.len() == 1 && !now.contains(&worker)
}
