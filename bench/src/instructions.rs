//! Instructions and system calls per request, which noise of the machine does not change.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use crate::load::{Load, Requests};
use crate::peers::{Connections, Peer};
use crate::rounds::MANY;
use crate::sharing::{SecondTier, SharedWork};
use crate::site::{opaque, Site};

/// Few, because everything is slow under valgrind, except timeouts.
const CONNECTIONS: usize = 4;

/// Time in which the work of a host without requests is counted.
const IDLE: Duration = Duration::from_secs(15);

struct Case {
    name: &'static str,
    peer: Peer,
    tokens: Vec<String>,
    /// Requests before those that are counted.
    warm_up: usize,
    count: usize,
}

/// Instructions of a run, and its time.
struct Collected {
    instructions: f64,
    seconds: f64,
}

impl Collected {
    /// Instructions per second of a run with the same requests that lasted longer than `other`.
    fn per_second_after(&self, other: &Self) -> f64 {
        (self.instructions - other.instructions) / (self.seconds - other.seconds)
    }
}

/// Instructions in user space per request, under callgrind: the difference of a run with N requests
/// and one with 2N, so that one-time work cancels out. A host of a fleet also works while there are
/// no requests, and valgrind makes them slow: that work is counted alone, and subtracted. Profiles
/// of the run with 2N are left in `profiles`, for callgrind_annotate.
pub fn count(site: &Site, only: Option<&str>, profiles: &Path) -> io::Result<Vec<Value>> {
    fs::create_dir_all(profiles)?;
    let mut rows = Vec::new();
    for case in cases(site) {
        let name = format!("{}: {}", case.name, case.peer.title());
        if only.is_some_and(|only| !name.contains(only)) {
            continue;
        }
        if let Some(missing) = case.peer.missing() {
            println!("left out: {missing}");
            continue;
        }
        let requests = Requests::of_tokens(&case.tokens);
        let run = |count, idle| collect(site, &case, &requests, (count, idle), profiles);
        let once = run(case.count, Duration::ZERO)?;
        let background = match case.peer.is_host() {
            true => run(case.count, IDLE)?.per_second_after(&once),
            false => 0.0,
        };
        let twice = run(2 * case.count, Duration::ZERO)?;
        let more = twice.instructions - once.instructions;
        let longer = twice.seconds - once.seconds;
        let per_request = (more - background * longer) / case.count as f64;
        print!("{:<28} {:<50} {per_request:9.0}", case.name, case.peer.title());
        let mut row = json!({
            "case": case.name,
            "peer": case.peer.title(),
            "own": case.peer.is_own(),
            "instructions": per_request,
        });
        if case.peer.is_host() {
            row["background_per_second"] = background.into();
        }
        if let Some((base, target)) = case.peer.target() {
            let is_base = |row: &&Value| row["case"] == case.name && row["peer"] == base.title();
            let base_count = rows.iter().find(is_base).and_then(|row| row["instructions"].as_f64());
            if let Some(base_count) = base_count {
                let (name, ratio) = (base.title(), per_request / base_count);
                print!("  {ratio:6.4} of \"{name}\", at most {target}");
                row["beside"] = json!({ "peer": name, "target": target, "ratio": ratio });
            }
        }
        println!();
        rows.push(row);
    }
    Ok(rows)
}

fn cases(site: &Site) -> Vec<Case> {
    let one = vec![opaque(0)];
    let many: Vec<_> = (0..MANY).map(opaque).collect();
    // Each is a handshake before the count begins.
    let some: Vec<_> = (0..MANY / 10).map(opaque).collect();
    let jwt = vec![site.jwt()];
    let jwts: Vec<_> = (0..400).map(|_| site.jwt()).collect();
    let case = |name, peer, tokens: &[String], count| {
        let warm_up = if tokens.len() == MANY { MANY } else { 200 };
        Case { name, peer, tokens: tokens.to_vec(), warm_up, count }
    };
    vec![
        case("hot", Peer::Ceiling, &one, 2000),
        // Many, because a fleet's background work is not the same each time.
        case("hot", Peer::Cached("10m"), &one, 10_000),
        case("hot", Peer::Fleet, &one, 10_000),
        case("hot", Peer::Assertion, &one, 2000),
        case("hot", Peer::Recheck, &one, 2000),
        case("hot", Peer::ProxyCacheSafe, &one, 2000),
        case("hot", Peer::LuaDict, &one, 2000),
        case("hot", Peer::LuaLru, &one, 2000),
        case("many", Peer::Cached("10m"), &many, 10_000),
        case("many", Peer::ProxyCacheSafe, &many, 2000),
        case("many", Peer::LuaLru, &many, 2000),
        case("miss", Peer::Uncached, &many, 1000),
        case("miss", Peer::AuthRequestKeepalive, &many, 1000),
        // Each session comes once while requests are counted.
        case("shared", Peer::Sharing(SecondTier::Absent), &some, 500),
        case("shared", Peer::Sharing(SecondTier::Filled), &some, 500),
        case("shared", Peer::Sharing(SecondTier::Emptied), &some, 500),
        case("shared", Peer::Sharing(SecondTier::Down), &some, 500),
        case("miss-tls", Peer::UncachedTls(Connections::Kept), &some, 1000),
        case("miss-tls", Peer::AuthRequestTls(Connections::Kept), &some, 1000),
        case("miss-tls", Peer::UncachedTls(Connections::New), &some, 200),
        case("miss-tls", Peer::AuthRequestTls(Connections::New), &some, 200),
        case("jwt-hot", Peer::Ceiling, &jwt, 2000),
        case("jwt-hot", Peer::JwtCached("10m", 1024), &jwt, 2000),
        case("jwt-new", Peer::Jwt, &jwts, 400),
        case("jwt-new", Peer::JwtCached("64k", 1), &jwts, 400),
    ]
}

fn collect(
    site: &Site,
    case: &Case,
    requests: &Requests,
    (count, idle): (usize, Duration),
    profiles: &Path,
) -> io::Result<Collected> {
    let slug: String = case.peer.title().chars().filter(char::is_ascii_alphanumeric).collect();
    let file = fs::canonicalize(profiles)?.join(format!("{}-{slug}.callgrind", case.name));
    let mut valgrind = Command::new("valgrind");
    valgrind.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", file.display()));
    let begun = Instant::now();
    let running = case.peer.start_under(site, valgrind)?;
    let tier = SharedWork::of(case.peer, site)?;
    let mut load = Load::connect(running.addr, CONNECTIONS)?.expect(case.peer.cache_status());
    load.run(requests, case.warm_up)?;
    let looks = tier.begin(&running)?;
    load.run(requests, count)?;
    tier.check(&running, looks, count)?;
    thread::sleep(idle);
    drop(load);
    let seconds = begun.elapsed().as_secs_f64();
    running.process.end("QUIT");
    let profile = fs::read_to_string(file)?;
    let total = profile.lines().rev().find_map(|line| line.strip_prefix("totals:"));
    let total = total.and_then(|total| total.trim().parse().ok());
    let instructions = total.ok_or_else(|| io::Error::other("callgrind counted nothing"))?;
    Ok(Collected { instructions, seconds })
}

/// System calls per request, of the worker, by `strace -c`.
pub fn system_calls(site: &Site) -> io::Result<Vec<Value>> {
    const COUNT: usize = 4000;
    let mut rows = Vec::new();
    let one = Requests::of_tokens(&[opaque(0)]);
    let many = Requests::of_tokens(&(0..MANY).map(opaque).collect::<Vec<_>>());
    let peers = [
        Peer::Ceiling,
        Peer::Cached("10m"),
        Peer::Fleet,
        Peer::Recheck,
        Peer::ProxyCacheSafe,
        Peer::Uncached,
        Peer::Sharing(SecondTier::Absent),
        Peer::Sharing(SecondTier::Filled),
        Peer::Sharing(SecondTier::Emptied),
        Peer::Sharing(SecondTier::Down),
        Peer::AuthRequestKeepalive,
        Peer::AuthRequest,
        Peer::UncachedTls(Connections::Kept),
        Peer::AuthRequestTls(Connections::Kept),
    ];
    for peer in peers {
        if let Some(missing) = peer.missing() {
            println!("left out: {missing}");
            continue;
        }
        let requests = if matches!(peer, Peer::Sharing(_)) { &many } else { &one };
        let running = peer.start(site, site.resolver)?;
        let tier = SharedWork::of(peer, site)?;
        // One request at a time, so that the load of the machine does not matter.
        let mut load = Load::connect(running.addr, 1)?.expect(peer.cache_status());
        tier.begin(&running)?;
        load.run(requests, 200)?;
        let output = site.directory("strace")?.join("counts");
        let Some(worker) = running.process.children().into_iter().next() else { continue };
        let mut strace = Command::new("strace")
            .args(["-c", "-p", &worker.to_string(), "-o"])
            .arg(&output)
            .stderr(Stdio::null())
            .spawn()?;
        let looks = tier.begin(&running)?;
        thread::sleep(Duration::from_millis(500));
        load.run(requests, COUNT)?;
        Command::new("kill").args(["-s", "INT", &strace.id().to_string()]).status()?;
        strace.wait()?;
        tier.check(&running, looks, COUNT)?;
        let counts = fs::read_to_string(output)?;
        let total = counts.lines().find(|line| line.trim_end().ends_with("total"));
        let calls = total.and_then(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok());
        let calls = calls.unwrap_or(f64::NAN) / COUNT as f64;
        println!("{:<50} {calls:6.2} system calls", peer.title());
        rows.push(json!({ "peer": peer.title(), "own": peer.is_own(), "calls": calls }));
    }
    Ok(rows)
}
