//! Verdicts that hosts of a fleet share, as a host finds them that forgets its own.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::{eventually, get, Redis, RedisReply, RefusedAddr};

use crate::load::{Load, Requests};
use crate::peers::{Peer, Running};
use crate::process::OTHERS;
use crate::rounds::MANY;
use crate::site::{opaque, Site};

/// Longest wait for the fleet. Under valgrind everything takes long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Redis of a fleet, when this host would ask the resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondTier {
    /// There is no fleet.
    Absent,
    /// Another host has left each verdict.
    Filled,
    /// An empty Redis: this host leaves a lease, asks, and leaves the verdict.
    Emptied,
    /// Connections are refused.
    Down,
}

impl SecondTier {
    /// The most that a request may take of a look-up without a fleet.
    pub fn target(self) -> Option<f64> {
        match self {
            Self::Absent => None,
            Self::Filled => Some(0.75),
            Self::Emptied => Some(1.2),
            Self::Down => Some(1.02),
        }
    }

    /// `$authgear_cache_status` of an answer.
    pub fn cache_status(self) -> &'static str {
        match self {
            Self::Filled => "SHARED",
            Self::Absent | Self::Emptied | Self::Down => "MISS",
        }
    }

    /// The counter of looks that end like this.
    fn outcome(self) -> Option<&'static str> {
        match self {
            Self::Absent => None,
            Self::Filled => Some("hit"),
            Self::Emptied => Some("lead"),
            Self::Down => Some("skipped"),
        }
    }
}

/// Redis servers of a site's fleets, which are started when they are needed.
pub struct Stores {
    secret: PathBuf,
    kept: OnceLock<Redis>,
    emptied: OnceLock<Redis>,
    refused: RefusedAddr,
    /// Set when another host has filled the one.
    is_filled: OnceLock<()>,
}

impl Stores {
    /// Makes a secret in `dir`.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let secret = dir.join("fleet.secret");
        fs::write(&secret, "the secret of a fleet, of 32 bytes at least\n")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            secret,
            kept: OnceLock::new(),
            emptied: OnceLock::new(),
            refused: RefusedAddr::bind(),
            is_filled: OnceLock::new(),
        })
    }

    /// The lines of `http {}` of a host with its counters at `status`. A busy machine takes longer
    /// than the 50 ms that are the default.
    pub fn of(&self, tier: SecondTier, status: SocketAddr) -> String {
        let addr = match tier {
            SecondTier::Absent => return String::new(),
            SecondTier::Filled => self.kept().addr(),
            SecondTier::Emptied => self.emptied().addr(),
            SecondTier::Down => self.refused.addr(),
        };
        format!(
            "authgear_fleet redis://{addr} secret={} cache=on timeout=1s;
             server {{ listen {status}; location / {{ authgear_status; }} }}",
            self.secret.display()
        )
    }

    fn kept(&self) -> &Redis {
        self.kept.get_or_init(start)
    }

    fn emptied(&self) -> &Redis {
        self.emptied.get_or_init(start)
    }

    /// Lets another host look up [`MANY`] sessions.
    fn fill(&self, site: &Site) -> io::Result<()> {
        if self.is_filled.get().is_some() {
            return Ok(());
        }
        let other = Peer::Fleet.start(site, site.resolver)?;
        let tokens: Vec<_> = (0..MANY).map(opaque).collect();
        Load::connect(other.addr, 16)?.run(&Requests::of_tokens(&tokens), MANY)?;
        wait_for_keys(self.kept(), MANY)?;
        let _ = self.is_filled.set(());
        Ok(())
    }
}

/// Starts a Redis beside the other servers.
fn start() -> Redis {
    let redis = Redis::start();
    if let Err(error) = OTHERS.take(redis.pid()) {
        eprintln!("Redis stays on all cores: {error}");
    }
    redis
}

/// Waits until Redis has this number of keys at least: a host leaves one of its own for a moment.
pub fn wait_for_keys(redis: &Redis, count: usize) -> io::Result<()> {
    let keys = || redis.command(&["DBSIZE"]);
    let has_all = || matches!(keys(), RedisReply::Number(number) if number >= count as i64);
    match eventually(PATIENCE, has_all) {
        true => Ok(()),
        false => Err(io::Error::other(format!("{:?} keys in Redis", keys()))),
    }
}

/// The work of Redis for a peer whose requests are counted.
pub struct SharedWork<'a> {
    tier: SecondTier,
    stores: &'a Stores,
}

impl<'a> SharedWork<'a> {
    /// Prepares Redis for a peer.
    pub fn of(peer: Peer, site: &'a Site) -> io::Result<Self> {
        let tier = match peer {
            Peer::Sharing(tier) => tier,
            _ => SecondTier::Absent,
        };
        if tier == SecondTier::Filled {
            site.stores.fill(site)?;
        }
        Ok(Self { tier, stores: &site.stores })
    }

    /// Called before requests are counted. Returns the number of looks so far.
    pub fn begin(&self, running: &Running) -> io::Result<u64> {
        if self.tier == SecondTier::Emptied {
            // The fleet has no events, so that this is no loss.
            self.stores.emptied().command(&["FLUSHALL"]);
        }
        self.looks(running)
    }

    /// Fails unless all but one of a hundred of `count` requests made a look with the right outcome.
    pub fn check(&self, running: &Running, before: u64, count: usize) -> io::Result<()> {
        if self.tier == SecondTier::Absent {
            return Ok(());
        }
        let looks = self.looks(running)?.saturating_sub(before);
        if looks * 100 < count as u64 * 99 {
            let outcome = self.tier.outcome().unwrap_or_default();
            return Err(io::Error::other(format!("{looks} of {count} looks are {outcome:?}")));
        }
        Ok(())
    }

    fn looks(&self, running: &Running) -> io::Result<u64> {
        let Some(outcome) = self.tier.outcome() else { return Ok(0) };
        let fleet = running.fleet();
        let none = || io::Error::other(format!("no counter {outcome}: {fleet}"));
        fleet["cache"][outcome].as_u64().ok_or_else(none)
    }
}

impl Running {
    /// Its counters of the fleet.
    fn fleet(&self) -> Value {
        get(&self.status, "/?format=json").send().json()["fleet"].clone()
    }

    /// Waits until this host knows all events, and can share verdicts. It is asked seldom, so that
    /// hardly any of its instructions are those of its answers.
    pub fn wait_in_fleet(&self) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            thread::sleep(Duration::from_millis(500));
            let fleet = self.fleet();
            // The keeper has two connections, and the worker one.
            let connections = fleet["connections"]["opened"].as_u64();
            if fleet["in_sync"] == true && connections >= Some(3) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(io::Error::other(format!("not in the fleet: {fleet}")));
            }
        }
    }
}
