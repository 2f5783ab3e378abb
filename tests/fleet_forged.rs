//! An adversary that has all of Redis, and not the secret, beside users who change and end. No
//! answer is another user's, none is older than a purge that its host knows of, none is older than
//! `valid=`, and no user is refused.
//!
//! `make forger` runs it for longer. `FLEET_SEED=` is another plan: time and the processes are not
//! repeated.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use support::{get, unix_now, Backend, FakeAuthgear, Nginx, Redis, Request, Response, User};

use crate::fleet::{cache, event, fleet, host_with, post, tell, verdict};
use crate::fleet_adversary::{number, Chance};
use crate::fleet_faults::losses;
use crate::fleet_verdicts::start_sharing;

#[path = "fleet_forged/forger.rs"]
mod forger;

use forger::Forger;

/// Time of the attack, and its plan, if the environment does not name others.
const SECONDS: u64 = 12;
const SEED: u64 = 7;

const HOSTS: usize = 3;
const CLIENTS: u64 = 3;

/// Users whose sessions go on, those whose sessions ended before the attack, and those ended last,
/// who are still tried.
const LIVING: usize = 6;
const GONE: usize = 2;
const ENDED: usize = 8;

/// The first users, of whose changes no host is told: only age ends their verdicts.
const UNTOLD: usize = 2;

/// `valid=` and `invalid=` of the hosts.
const VALID: Duration = Duration::from_secs(7);

/// Margin after `VALID` for the clock of a worker.
const LATE: Duration = Duration::from_millis(500);

/// A user, whose role is changed and purged now and then, until the user is disabled.
struct Person {
    name: String,
    tokens: [String; 2],
    sessions: [String; 2],
    jwt: String,
    /// When the role became this one.
    changed: Vec<Instant>,
    /// First role that a host may still say: it knows of the purge of those before.
    least: [usize; HOSTS],
    ended: Option<Instant>,
    /// The host knows of the end.
    refuses: [bool; HOSTS],
}

/// Permitted answers to a request that begins now.
#[derive(Clone, Copy)]
struct Allowed {
    least: usize,
    /// 200.
    passes: bool,
    /// 200 by a token that the host verifies itself.
    passes_by_jwt: bool,
}

impl Person {
    fn new(authgear: &FakeAuthgear, n: usize) -> Self {
        // The record of a valid session is longer than a lease.
        let name = format!("user{n}-of-a-name-that-fills-a-block");
        let user = authgear.add_user(User::named(&name).roles(&[&role(0)]));
        Self {
            tokens: [(); 2].map(|()| authgear.opaque_token(&user)),
            sessions: [(); 2].map(|()| authgear.session(&user)),
            jwt: authgear.jwt(&user),
            name,
            changed: vec![Instant::now()],
            least: [0; HOSTS],
            ended: None,
            refuses: [false; HOSTS],
        }
    }

    /// A user whose sessions never pass: hosts share that, and the records of others are put there.
    fn gone(authgear: &FakeAuthgear, n: usize) -> Self {
        let ended = Instant::now().checked_sub(VALID + LATE);
        let person = Self { ended, ..Self::new(authgear, n) };
        authgear.disable(&person.name);
        person
    }

    /// A request with credentials that the hosts ask Authgear about.
    fn request(&self, host: &Nginx, chance: &mut Chance) -> Request {
        let n = chance.index(2);
        match chance.below(2) {
            0 => get(host, "/").bearer(&self.tokens[n]),
            _ => get(host, "/").cookie("session", &self.sessions[n]),
        }
    }

    fn allows(&self, host: usize, now: Instant) -> Allowed {
        let is_over = |since: &Instant| now >= *since + VALID + LATE;
        let by_age = self.changed.iter().rposition(is_over).unwrap_or_default();
        Allowed {
            least: self.least[host].max(by_age),
            passes: !self.refuses[host] && !self.ended.as_ref().is_some_and(is_over),
            passes_by_jwt: !self.refuses[host],
        }
    }
}

fn role(n: usize) -> String {
    format!("r{n}")
}

struct World<'a> {
    authgear: &'a FakeAuthgear,
    hosts: &'a [Nginx],
    people: Mutex<Vec<Person>>,
    is_over: AtomicBool,
    begun: Instant,
    trace: Mutex<Vec<String>>,
    faults: Mutex<Vec<String>>,
    answers: AtomicUsize,
    /// Answers by what another host had been told: those that pass, and refusals.
    shared: [AtomicUsize; 2],
    /// Attacks on the stream.
    attacks: AtomicUsize,
}

impl World<'_> {
    fn people(&self) -> MutexGuard<'_, Vec<Person>> {
        self.people.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, what: &str) {
        let line = format!("{:.3} {what}", self.begun.elapsed().as_secs_f64());
        self.trace.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    fn fault(&self, what: String) {
        self.note(&format!("FAULT: {what}"));
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// Indexes of those who are tried.
    fn tried(&self) -> Vec<usize> {
        let people = self.people();
        let is_ended = |n: &usize| people[*n].ended.is_some();
        let (ended, mut tried): (Vec<_>, Vec<_>) = (0..people.len()).partition(is_ended);
        tried.extend(LIVING..LIVING + GONE);
        tried.extend(ended.iter().rev().take(ENDED));
        tried
    }

    /// Asks hosts as browsers do.
    fn visit(&self, mut chance: Chance) {
        while self.goes_on() {
            let tried = self.tried();
            let (who, host) = (tried[chance.index(tried.len())], chance.index(HOSTS));
            let is_jwt = chance.below(6) == 0;
            let (request, allowed) = {
                let person = &self.people()[who];
                let request = match is_jwt {
                    true => get(&self.hosts[host], "/jwt").bearer(&person.jwt),
                    false => person.request(&self.hosts[host], &mut chance),
                };
                (request, person.allows(host, Instant::now()))
            };
            let answer = request.send();
            self.judge(who, host, allowed, is_jwt, &answer);
        }
    }

    fn judge(&self, who: usize, host: usize, allowed: Allowed, is_jwt: bool, answer: &Response) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        let cache = cache(answer);
        if cache.starts_with("SHARED") {
            self.shared[usize::from(answer.status == 401)].fetch_add(1, Ordering::Relaxed);
        }
        let is_revoked = verdict(answer) == "none token_revoked";
        let fault = {
            let person = &mut self.people()[who];
            match answer.status {
                200 => {
                    let echo = answer.echo();
                    let user = echo.header("x-authgear-user-id").unwrap_or_default();
                    let role_is = echo.header("x-authgear-user-roles").unwrap_or_default();
                    let number = role_is.strip_prefix('r').and_then(|n| n.parse::<usize>().ok());
                    let passes = if is_jwt { allowed.passes_by_jwt } else { allowed.passes };
                    if user != person.name {
                        Some(format!("is {user}"))
                    } else if !passes {
                        Some("goes on after the end".into())
                    } else if !is_jwt && number.is_none_or(|number| number < allowed.least) {
                        Some(format!("has {role_is}, not {}", role(allowed.least)))
                    } else {
                        None
                    }
                }
                401 if person.ended.is_some() => {
                    person.refuses[host] |= is_jwt && is_revoked;
                    None
                }
                status => Some(format!("gets {status}")),
            }
        };
        if let Some(fault) = fault {
            let (name, by) = (self.people()[who].name.clone(), if is_jwt { "JWT" } else { "" });
            self.fault(format!("{name} at host {host} {fault} {by} ({cache})"));
        }
    }

    /// Changes and ends users.
    fn administer(&self, mut chance: Chance) {
        while self.goes_on() {
            thread::sleep(chance.millis(20, 600));
            let living: Vec<_> = {
                let people = self.people();
                (0..people.len()).filter(|n| people[*n].ended.is_none()).collect()
            };
            let (who, host) = (living[chance.index(living.len())], chance.index(HOSTS));
            match chance.below(8) {
                _ if who < UNTOLD => drop(self.change(who)),
                0 | 1 => self.end(who, host),
                2 => drop(self.change(who)),
                _ => self.change_and_purge(who, host),
            }
        }
    }

    /// Changes a user's role at Authgear.
    fn change(&self, who: usize) -> (String, usize) {
        let (name, number) = {
            let person = &self.people()[who];
            (person.name.clone(), person.changed.len())
        };
        self.authgear.change_user(&name, |user| user.roles = vec![role(number)]);
        self.people()[who].changed.push(Instant::now());
        (name, number)
    }

    fn change_and_purge(&self, who: usize, host: usize) {
        let (name, number) = self.change(who);
        let status = post(&self.hosts[host], &format!("/purge?user={name}")).send().status;
        self.people()[who].least[host] = number;
        self.note(&format!("{name} is {} at host {host}: {status}", role(number)));
        if ![204, 202].contains(&status) {
            self.fault(format!("a purge at host {host}: {status}"));
        }
    }

    fn end(&self, who: usize, host: usize) {
        let name = self.people()[who].name.clone();
        // Before Authgear refuses: a refusal is no fault from here on.
        self.people()[who].ended = Some(Instant::now() + Duration::from_secs(1));
        self.authgear.disable(&name);
        self.people()[who].ended = Some(Instant::now());
        let status = tell(&self.hosts[host], &event("user.disabled", &name, unix_now()));
        self.people()[who].refuses[host] = true;
        self.note(&format!("{name} ends at host {host}: {status}"));
        if ![204, 202].contains(&status) {
            self.fault(format!("an event at host {host}: {status}"));
        }
        let mut people = self.people();
        let next = Person::new(self.authgear, people.len());
        people.push(next);
    }

    fn forge(&self, redis: &Redis, chance: Chance) {
        let mut forger = Forger::new(redis, chance);
        while self.goes_on() {
            if let Some(attack) = forger.attack() {
                self.note(&attack);
                self.attacks.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[test]
fn whoever_has_redis_and_no_secret_makes_no_answer() {
    let seed = number("FLEET_SEED").unwrap_or(SEED);
    let time = Duration::from_secs(number("FLEET_SECONDS").unwrap_or(SECONDS));
    println!("FLEET_SEED={seed}");
    // In some milliseconds leases can be copied.
    let authgear = FakeAuthgear::builder().capacity(16, Duration::from_millis(4)).start();
    let (backend, redis) = (Backend::start(), Redis::start());
    let fleet_line = format!("{} secret=fleet.secret cache=on timeout=1s", redis.url());
    let valid = VALID.as_secs();
    let lifetimes = format!("authgear_cache_valid valid={valid}s invalid={valid}s none=1s;");
    let hosts: [Nginx; HOSTS] = [(); HOSTS].map(|()| {
        let builder = host_with(&authgear, &backend, &fleet_line).workers(2).error_level("notice");
        let change = lifetimes.clone();
        let of_test = "authgear_cache_valid valid=1h invalid=1h none=1h;";
        start_sharing(&authgear, builder.raw_conf(move |conf| conf.replace(of_test, &change)))
    });
    let living = (0..LIVING).map(|n| Person::new(&authgear, n));
    let gone = (LIVING..LIVING + GONE).map(|n| Person::gone(&authgear, n));
    let world = World {
        authgear: &authgear,
        hosts: &hosts,
        people: Mutex::new(living.chain(gone).collect()),
        is_over: AtomicBool::new(false),
        begun: Instant::now(),
        trace: Mutex::default(),
        faults: Mutex::default(),
        answers: AtomicUsize::new(0),
        shared: Default::default(),
        attacks: AtomicUsize::new(0),
    };
    let chance = |n| Chance(seed.wrapping_mul(100).wrapping_add(n));
    thread::scope(|scope| {
        let world = &world;
        (0..CLIENTS).for_each(|n| drop(scope.spawn(move || world.visit(chance(n)))));
        scope.spawn(move || world.administer(chance(CLIENTS)));
        scope.spawn(|| world.forge(&redis, chance(CLIENTS + 1)));
        thread::sleep(time);
        world.is_over.store(true, Ordering::Relaxed);
    });
    let mut looks = BTreeMap::<String, u64>::new();
    for host in &hosts {
        for (outcome, count) in fleet(host)["cache"].as_object().expect("counts") {
            *looks.entry(outcome.clone()).or_default() += count.as_u64().expect("a count");
        }
    }
    let (answers, attacks) = (world.answers.into_inner(), world.attacks.into_inner());
    let shared = world.shared.map(AtomicUsize::into_inner);
    println!(
        "{answers} answers, {shared:?} of them shared; {attacks} attacks on the stream, losses \
         {:?}; looks at Redis: {looks:?}",
        hosts.each_ref().map(losses)
    );
    let faults = world.faults.into_inner().unwrap_or_else(PoisonError::into_inner);
    let trace = world.trace.into_inner().unwrap_or_else(PoisonError::into_inner).join("\n");
    assert!(faults.is_empty(), "FLEET_SEED={seed}: {faults:#?}\n{trace}");
    // Otherwise nothing was tried.
    assert!(!shared.contains(&0) && attacks > 0, "{shared:?} {attacks}");
    assert!(looks["unreadable"] > 0 && looks["purged"] > 0, "{looks:?}");
}
