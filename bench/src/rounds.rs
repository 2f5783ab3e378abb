//! CPU time per request, measured in rounds that visit each peer.

use std::fs;
use std::io::{self, Write as _};

use authgear::token::{self, Algorithm, KeySet, Profile};
use serde_json::{json, Value};

use crate::load::{connect, contains, read_answer, Load, Requests};
use crate::peers::{Connections, Peer, Running};
use crate::process::own_cpu;
use crate::sharing::{SecondTier, SharedWork};
use crate::site::{opaque, Site, ORIGIN, USER};
use crate::Effort;

/// Connections to each peer.
const CONNECTIONS: usize = 16;

/// Number of sessions in the scenario with many.
pub const MANY: usize = 10_000;

/// The peers that keep verdicts, and the ceiling.
const CACHING: [Peer; 9] = [
    Peer::Ceiling,
    Peer::Cached("10m"),
    Peer::Fleet,
    Peer::Assertion,
    Peer::Recheck,
    Peer::ProxyCache,
    Peer::ProxyCacheSafe,
    Peer::LuaDict,
    Peer::LuaLru,
];

/// A kind of requests, and the peers that get them.
struct Scenario {
    name: &'static str,
    title: &'static str,
    peers: &'static [Peer],
    requests: Requests,
    /// Requests before the first round.
    warm_up: usize,
    per_round: usize,
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub scenario: &'static str,
    pub peer: Peer,
    /// Microseconds per request, in each round.
    pub micros: Vec<f64>,
    /// Waits per request, in each round.
    pub waits: Vec<f64>,
    /// Ratios to the ceiling of the same round.
    pub ratios: Vec<f64>,
    /// Ratio of the time of all rounds to that of the ceiling.
    pub of_all: f64,
    /// Ratios to the peer of the row's target in the same round.
    pub beside: Vec<f64>,
}

impl Row {
    pub fn to_json(&self) -> Value {
        let mut row = json!({
            "scenario": self.scenario,
            "peer": self.peer.title(),
            "own": self.peer.is_own(),
            "micros": median(&self.micros),
            "micros_least": least(&self.micros),
            "micros_most": most(&self.micros),
            "waits": median(&self.waits),
            "ratio": median(&self.ratios),
            "ratio_of_all": self.of_all,
            "ratio_least": least(&self.ratios),
            "ratio_most": most(&self.ratios),
        });
        if let Some((base, target)) = self.peer.target() {
            row["beside"] = json!({
                "peer": base.title(),
                "target": target,
                "ratio": median(&self.beside),
                "ratio_least": least(&self.beside),
                "ratio_most": most(&self.beside),
            });
        }
        row
    }
}

fn least(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

pub fn most(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs all scenarios, or those whose names begin with `only`.
pub fn run(site: &Site, effort: &Effort, only: &str) -> io::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for scenario in scenarios(site, effort) {
        if !scenario.name.starts_with(only) {
            continue;
        }
        println!("{}: {}", scenario.name, scenario.title);
        rows.extend(run_scenario(site, &scenario, effort.rounds)?);
    }
    Ok(rows)
}

fn scenarios(site: &Site, effort: &Effort) -> Vec<Scenario> {
    let one = [opaque(0)];
    let many: Vec<_> = (0..MANY).map(opaque).collect();
    let jwt = [site.jwt()];
    let jwts: Vec<_> = (0..effort.jwts).map(|_| site.jwt()).collect();
    let per_round = effort.per_round;
    vec![
        Scenario {
            name: "hot",
            title: "one session, known",
            peers: &CACHING,
            requests: Requests::of_tokens(&one),
            warm_up: 500,
            per_round,
        },
        Scenario {
            name: "many",
            title: "10,000 sessions, known",
            peers: &CACHING,
            requests: Requests::of_tokens(&many),
            warm_up: MANY,
            per_round,
        },
        Scenario {
            name: "miss",
            title: "each request is asked about",
            peers: &[
                Peer::Ceiling,
                Peer::Uncached,
                Peer::AuthRequest,
                Peer::AuthRequestKeepalive,
                Peer::CaddyForwardAuth,
                Peer::EnvoyExtAuthz,
            ],
            requests: Requests::of_tokens(&many),
            warm_up: 500,
            per_round,
        },
        Scenario {
            name: "shared",
            title: "each request is asked about, by a host of a fleet",
            peers: &[
                Peer::Ceiling,
                Peer::Sharing(SecondTier::Absent),
                Peer::Sharing(SecondTier::Filled),
                Peer::Sharing(SecondTier::Emptied),
                Peer::Sharing(SecondTier::Down),
            ],
            requests: Requests::of_tokens(&many),
            warm_up: 500,
            // A session comes once in a round.
            per_round: per_round.min(MANY),
        },
        Scenario {
            name: "miss-tls",
            title: "each request is asked about, over TLS",
            peers: &[
                Peer::Ceiling,
                Peer::UncachedTls(Connections::Kept),
                Peer::AuthRequestTls(Connections::Kept),
                Peer::UncachedTls(Connections::New),
                Peer::AuthRequestTls(Connections::New),
            ],
            requests: Requests::of_tokens(&many),
            warm_up: 500,
            per_round,
        },
        Scenario {
            name: "jwt-hot",
            title: "one JWT, seen before",
            peers: &[
                Peer::Ceiling,
                Peer::JwtCached("10m", 1024),
                Peer::Auto,
                Peer::Jwt,
                Peer::HaproxyJwt,
                Peer::EnvoyJwtCached,
                Peer::ApacheJwt,
            ],
            requests: Requests::of_tokens(&jwt),
            warm_up: 500,
            per_round,
        },
        // Verdicts are evicted before their token comes again.
        Scenario {
            name: "jwt-new",
            title: "JWTs never seen before",
            peers: &[
                Peer::Ceiling,
                Peer::Jwt,
                Peer::JwtCached("64k", 1),
                Peer::HaproxyJwt,
                Peer::EnvoyJwt,
                Peer::ApacheJwt,
            ],
            requests: Requests::of_tokens(&jwts),
            warm_up: 500,
            per_round,
        },
        Scenario {
            name: "hostile",
            title: "forged and malformed tokens, one of ten is good",
            peers: &[
                Peer::Ceiling,
                Peer::JwtCached("10m", 1024),
                Peer::Auto,
                Peer::AuthRequestKeepalive,
            ],
            requests: Requests::of_tokens(&hostile(&jwts)),
            warm_up: 500,
            per_round,
        },
    ]
}

/// Tokens as attackers send them: of ten one is good, six have a wrong signature, and three are long
/// and none at all.
fn hostile(jwts: &[String]) -> Vec<String> {
    const LONG: usize = 4000;
    let hostile = |(n, jwt): (usize, &String)| match n % 10 {
        0 => jwt.clone(),
        1..=6 => {
            let (signed, _) = jwt.rsplit_once('.').unwrap_or((jwt, ""));
            format!("{signed}.{n:0>342}")
        }
        _ => format!("{n:a>LONG$}"),
    };
    jwts.iter().enumerate().map(hostile).collect()
}

/// Order of a round: each begins with another peer, and every second one goes backwards, so that no
/// peer always comes after the same one.
fn order(round: usize, peers: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..peers).collect();
    order.rotate_left(round % peers.max(1));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn run_scenario(site: &Site, scenario: &Scenario, rounds: usize) -> io::Result<Vec<Row>> {
    let mut contestants = Vec::new();
    for &peer in scenario.peers {
        if let Some(missing) = peer.missing() {
            println!("  left out: {missing}");
            continue;
        }
        let running = peer.start(site, site.resolver)?;
        check(peer, &running, &scenario.requests)?;
        let tier = SharedWork::of(peer, site)?;
        let mut load = Load::connect(running.addr, CONNECTIONS)?.expect(peer.cache_status());
        load.run(&scenario.requests, scenario.warm_up)?;
        let row = Row {
            scenario: scenario.name,
            peer,
            micros: vec![],
            waits: vec![],
            of_all: 0.0,
            ratios: vec![],
            beside: vec![],
        };
        contestants.push((running, tier, load, row));
    }
    for round in 0..rounds {
        let mut measured: Vec<(Peer, f64)> = Vec::new();
        for index in order(round, contestants.len()) {
            let Some((running, tier, load, row)) = contestants.get_mut(index) else { continue };
            let looks = tier.begin(running)?;
            let before = (running.process.cpu(), running.process.waits());
            load.run(&scenario.requests, scenario.per_round)?;
            let (cpu, waits) = (running.process.cpu(), running.process.waits());
            tier.check(running, looks, scenario.per_round)?;
            // A thread that has ended takes its count away.
            let per_request = |after: u64, before| {
                after.saturating_sub(before) as f64 / scenario.per_round as f64
            };
            let micros = per_request(cpu, before.0) / 1e3;
            measured.push((row.peer, micros));
            row.micros.push(micros);
            row.waits.push(per_request(waits, before.1));
        }
        for (_, _, _, row) in &mut contestants {
            let of = |peer| measured.iter().find(|(of, _)| *of == peer).map(|(_, micros)| *micros);
            let (Some(own), Some(ceiling)) = (of(row.peer), of(Peer::Ceiling)) else {
                continue;
            };
            row.ratios.push(own / ceiling);
            row.of_all += own;
            row.beside.extend(row.peer.target().and_then(|(base, _)| Some(own / of(base)?)));
        }
    }
    let ceiling = contestants.first().map_or(f64::NAN, |(_, _, _, row)| row.of_all);
    contestants.iter_mut().for_each(|(_, _, _, row)| row.of_all /= ceiling);
    let rows: Vec<_> = contestants.into_iter().map(|(_, _, _, row)| row).collect();
    for row in &rows {
        let (micros, ratio) = (median(&row.micros), median(&row.ratios));
        print!("  {:<50} {micros:8.2} us  {ratio:6.3}", row.peer.title());
        if let Some((base, target)) = row.peer.target() {
            let (name, ratio) = (base.title(), median(&row.beside));
            print!("  {ratio:6.3} of \"{name}\", at most {target}");
        }
        println!();
    }
    Ok(rows)
}

/// Asserts that the backend got the identity: a peer that does nothing would be fast.
fn check(peer: Peer, running: &Running, requests: &Requests) -> io::Result<()> {
    let mut connection = connect(running.addr)?;
    connection.write_all(requests.first())?;
    let answer = read_answer(&mut connection)?;
    let expected = format!("x-seen: {USER}");
    if contains(&answer.to_ascii_lowercase(), expected.as_bytes()) {
        return Ok(());
    }
    let (peer, answer) = (peer.title(), String::from_utf8_lossy(&answer));
    Err(io::Error::other(format!("{peer}: the backend did not learn the user: {answer}")))
}

/// Microseconds to verify a token, in this process.
pub fn verification(site: &Site) -> io::Result<f64> {
    let algorithms = [Algorithm::RS256];
    let keys = fs::read(site.key_set())?;
    let (keys, _) = KeySet::parse(&keys, &algorithms).map_err(io::Error::other)?;
    let profile = Profile {
        issuer: ORIGIN.into(),
        audiences: vec![ORIGIN.into()],
        algorithms: algorithms.into(),
        leeway: 0,
        machine_tokens: false,
    };
    let tokens: Vec<_> = (0..200).map(|_| site.jwt()).collect();
    let now = support::unix_now().unsigned_abs();
    let mut rounds = Vec::new();
    for _ in 0..9 {
        let before = own_cpu();
        for token in &tokens {
            token::verify(token.as_bytes(), &keys, &profile, now).map_err(io::Error::other)?;
        }
        rounds.push((own_cpu() - before) as f64 / 1e3 / tokens.len() as f64);
    }
    Ok(median(&rounds))
}
