//! Instructions and system calls per request, which noise of the machine does not change.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{json, Value};

use crate::load::{Load, Requests};
use crate::peers::{Connections, Peer};
use crate::rounds::MANY;
use crate::site::{opaque, Site};

/// Few, because everything is slow under valgrind, except timeouts.
const CONNECTIONS: usize = 4;

struct Case {
    name: &'static str,
    peer: Peer,
    tokens: Vec<String>,
    /// Requests before those that are counted.
    warm_up: usize,
    count: usize,
}

/// Instructions in user space per request, under callgrind: the difference of a run with N requests
/// and one with 2N, so that one-time work cancels out. Profiles of the latter are left in
/// `profiles`, for callgrind_annotate.
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
        let once = collect(site, &case, &requests, case.count, profiles)?;
        let twice = collect(site, &case, &requests, 2 * case.count, profiles)?;
        let per_request = twice.saturating_sub(once) as f64 / case.count as f64;
        println!("{:<28} {:<50} {per_request:9.0}", case.name, case.peer.title());
        rows.push(json!({
            "case": case.name,
            "peer": case.peer.title(),
            "own": case.peer.is_own(),
            "instructions": per_request,
        }));
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
        case("hot", Peer::Cached("10m"), &one, 2000),
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
    count: usize,
    profiles: &Path,
) -> io::Result<u64> {
    let slug: String = case.peer.title().chars().filter(char::is_ascii_alphanumeric).collect();
    let file = fs::canonicalize(profiles)?.join(format!("{}-{slug}.callgrind", case.name));
    let mut valgrind = Command::new("valgrind");
    valgrind.arg("--tool=callgrind").arg(format!("--callgrind-out-file={}", file.display()));
    let running = case.peer.start_under(site, valgrind)?;
    let mut load = Load::connect(running.addr, CONNECTIONS)?;
    load.run(requests, case.warm_up)?;
    load.run(requests, count)?;
    drop(load);
    running.process.end("QUIT");
    let profile = fs::read_to_string(file)?;
    let total = profile.lines().rev().find_map(|line| line.strip_prefix("totals:"));
    let total = total.and_then(|total| total.trim().parse().ok());
    total.ok_or_else(|| io::Error::other("callgrind counted nothing"))
}

/// System calls per request, of the worker, by `strace -c`.
pub fn system_calls(site: &Site) -> io::Result<Vec<Value>> {
    const COUNT: usize = 4000;
    let mut rows = Vec::new();
    let requests = Requests::of_tokens(&[opaque(0)]);
    let peers = [
        Peer::Ceiling,
        Peer::Cached("10m"),
        Peer::Recheck,
        Peer::ProxyCacheSafe,
        Peer::Uncached,
        Peer::AuthRequestKeepalive,
        Peer::AuthRequest,
    ];
    for peer in peers {
        let running = peer.start(site, site.resolver)?;
        // One request at a time, so that the load of the machine does not matter.
        let mut load = Load::connect(running.addr, 1)?;
        load.run(&requests, 200)?;
        let output = site.directory("strace")?.join("counts");
        let Some(worker) = running.process.children().into_iter().next() else { continue };
        let mut strace = Command::new("strace")
            .args(["-c", "-p", &worker.to_string(), "-o"])
            .arg(&output)
            .stderr(Stdio::null())
            .spawn()?;
        thread::sleep(Duration::from_millis(500));
        load.run(&requests, COUNT)?;
        Command::new("kill").args(["-s", "INT", &strace.id().to_string()]).status()?;
        strace.wait()?;
        let counts = fs::read_to_string(output)?;
        let total = counts.lines().find(|line| line.trim_end().ends_with("total"));
        let calls = total.and_then(|line| line.split_whitespace().nth(3)?.parse::<f64>().ok());
        let calls = calls.unwrap_or(f64::NAN) / COUNT as f64;
        println!("{:<50} {calls:6.2} system calls", peer.title());
        rows.push(json!({ "peer": peer.title(), "own": peer.is_own(), "calls": calls }));
    }
    Ok(rows)
}
