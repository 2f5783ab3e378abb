//! The trouble: workers die, nginx reloads, Authgear and Redis fail, sessions end.

use std::sync::{Arc, OnceLock, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use support::{Fault, Pending};

use crate::chance::Chance;
use crate::model::{user, Ask, Credential, End, Kind, FRESH, PROJECTS, VERIFIED};
use crate::world::{of_user, token_of, World, PATIENCE, TIMEOUT};

/// After this time, look-ups made in an outage have failed, and a blank answer is no longer cached.
const SETTLED: Duration = TIMEOUT.saturating_add(Duration::from_secs(1));

/// Number of ended credentials that clients still try.
const REMEMBERED: usize = 80;

/// Workers have trouble until `calm`; the rest goes on until the end.
pub fn start<'scope>(
    scope: &'scope Scope<'scope, '_>,
    world: &'scope World,
    seed: u64,
    calm: Instant,
) {
    let spawn = move |thread, what: &'static str, does: fn(&World, &mut Chance, usize)| {
        scope.spawn(move || {
            let mut chance = Chance::new(seed, thread as u64);
            world.guard(what, || does(world, &mut chance, thread));
        });
    };
    for project in 0..PROJECTS.len() {
        spawn(project, "an outage", outages);
    }
    spawn(98, "an outage of Redis", |world, chance, _| redis(world, chance));
    spawn(PROJECTS.len(), "the end of a session", |world, chance, _| ends(world, chance));
    scope.spawn(move || {
        let mut chance = Chance::new(seed, 99);
        world.guard("a reload or a kill", || workers(world, &mut chance, calm));
    });
}

fn workers(world: &World, chance: &mut Chance, calm: Instant) {
    let (nginx, trouble) = (&world.nginx, &world.trouble);
    let kill = |chance: &mut Chance| {
        trouble.kills.begin();
        nginx.kill_worker(*chance.of(&nginx.workers()));
        trouble.kills.end();
    };
    while !world.over_within(chance.millis(200, 4000)) && Instant::now() < calm {
        let (reloads, kills) = *chance.of(&[(true, false), (false, true), (true, true)]);
        if reloads {
            let old = nginx.workers();
            trouble.reloads.begin();
            nginx.signal(libc::SIGHUP);
            if kills {
                // In the middle of the reload.
                kill(chance);
            }
            nginx.wait_replaced(&old);
            trouble.reloads.end();
        } else {
            kill(chance);
        }
    }
}

fn fault(chance: &mut Chance) -> Fault {
    // An unknown user, in an answer that is cut off.
    let broken = "HTTP/1.1 200 OK\r\nX-Authgear-Session-Valid: true\r\n\
                  X-Authgear-User-Id: intruder\r\nContent-Length: 9\r\n\r\nbody";
    chance
        .of(&[
            Fault::Status(500),
            Fault::Status(503),
            Fault::StatusBody(404, vec![b'x'; 1000]),
            Fault::Redirect(302, "/".to_owned()),
            Fault::Raw(b"garbage\r\n\r\n".to_vec()),
            Fault::Raw(broken.into()),
            Fault::CloseAtOnce,
            Fault::CloseAfter(60),
            Fault::Reset,
            Fault::Oversized { header: 10, body: 100_000 },
            Fault::Hang,
            Fault::HangAfter(60),
            Fault::Slowly { step: 1, pause: Duration::from_millis(50) },
            Fault::SilentBlank,
        ])
        .clone()
}

fn outages(world: &World, chance: &mut Chance, project: usize) {
    let authgear = &world.authgears[project];
    while !world.over_within(chance.millis(300, 3000)) {
        let (slow, refuses, fault) = (chance.one_in(3), chance.one_in(10), fault(chance));
        let time = chance.millis(300, 5000);
        if slow {
            // No failure, but a slow answer.
            authgear.inject(Fault::Slowly { step: usize::MAX, pause: chance.millis(10, 300) });
            world.over_within(time);
            authgear.clear();
            world.count("Authgear", "slow for a while");
            continue;
        }
        let blank = matches!(fault, Fault::SilentBlank) && !refuses;
        world.count("Authgear", if blank { "blank for a while" } else { "out for a while" });
        let periods = if blank { &world.trouble.blanks } else { &world.trouble.outages };
        periods[project].begin();
        if refuses {
            let addr = authgear.addr();
            authgear.stop();
            world.over_within(time);
            authgear.restart_on(addr);
        } else {
            authgear.inject(fault);
            world.over_within(time);
            authgear.clear();
        }
        // Faults go on while clients may still be sending.
        if !world.over_within(SETTLED) {
            recover(world, project);
            periods[project].end();
        }
    }
}

/// Waits until every worker uses the resolver again.
fn recover(world: &World, project: usize) {
    let id = format!("{}-0", PROJECTS[project]);
    let mut suspended = world.nginx.workers();
    let since = Instant::now();
    while !suspended.is_empty() {
        let ask = || {
            let token = token_of(project, &world.authgears[project], &user(&id));
            world.ask(&FRESH, project, Arc::new(token))
        };
        // Several requests, because a single one would always reach the same worker.
        let asks: Vec<_> = (0..8).map(|_| ask()).collect();
        let from = Instant::now();
        let begun = |ask: &Ask| ask.request(world.nginx.addr()).deadline(PATIENCE).start();
        let pending: Vec<Pending> = asks.iter().map(begun).collect();
        for pending in pending {
            match pending.try_wait() {
                Ok(answer) if answer.status == 200 => {
                    let worker = answer.header("x-worker").and_then(|pid| pid.parse().ok());
                    suspended.retain(|pid| Some(*pid) != worker);
                }
                Ok(answer) if since.elapsed() > PATIENCE => {
                    return world.violated(format!("{} long after an outage", answer.status));
                }
                Err(error) if !world.trouble.kills.overlap(from, Instant::now()) => {
                    return world.violated(format!("no answer, and no kill: {error:?}"));
                }
                Ok(_) | Err(_) => {}
            }
        }
        let workers = world.nginx.workers();
        suspended.retain(|pid| workers.contains(pid));
        if since.elapsed() > 2 * PATIENCE && !suspended.is_empty() {
            return world.violated(format!("workers {suspended:?} do not answer"));
        }
    }
}

/// Waits until the first host refuses a token whose end the second one was told of. Returns false if
/// the test is over before.
fn is_known(world: &World, project: usize, token: &Arc<Credential>) -> bool {
    let since = Instant::now();
    loop {
        let ask = world.ask(&VERIFIED, project, Arc::clone(token));
        let answer = world.insist(&ask.request(world.nginx.addr()));
        if answer.is_some_and(|answer| answer.status == 401) {
            return true;
        }
        if since.elapsed() > PATIENCE {
            world.violated(format!("not known after {PATIENCE:?}: {ask:?}"));
        }
        if world.over_within(Duration::from_millis(50)) {
            return false;
        }
    }
}

fn redis(world: &World, chance: &mut Chance) {
    while !world.over_within(chance.millis(500, 4000)) {
        let time = chance.millis(100, 3000);
        let what = match chance.below(4) {
            0 => {
                world.redis.hang();
                world.over_within(time);
                world.redis.resume();
                "hung for a while"
            }
            1 => {
                world.redis.kill();
                world.over_within(time);
                world.redis.restart();
                "down for a while, and empty"
            }
            2 => {
                world.redis.command(&["FLUSHALL"]);
                "emptied"
            }
            _ => {
                world.redis.command(&["XTRIM", "{authgear}:events", "MAXLEN", "0"]);
                "trimmed"
            }
        };
        world.count("Redis", what);
    }
}

/// Restores everything at the end.
pub fn recover_all(world: &World) {
    std::thread::sleep(SETTLED);
    for project in 0..PROJECTS.len() {
        recover(world, project);
        world.trouble.outages[project].end();
        world.trouble.blanks[project].end();
    }
}

/// Adds users and ends them: disabled by an event, or removed and purged.
fn ends(world: &World, chance: &mut Chance) {
    for n in 0.. {
        let project = chance.below(PROJECTS.len());
        let authgear = &world.authgears[project];
        let id = format!("{}-passing-{n}", PROJECTS[project]);
        let user = authgear.add_user(user(&id));
        let of_tokens = chance.one_in(2);
        let end = Arc::new(End { of_tokens, begun: OnceLock::new(), over: OnceLock::new() });
        let credentials = of_user(project, authgear, &user).into_iter();
        let credentials = credentials.map(|c| Arc::new(Credential { end: Some(end.clone()), ..c }));
        let mut passing = world.passing.lock().unwrap_or_else(PoisonError::into_inner);
        passing.extend(credentials);
        let is_token = |own: &&Arc<Credential>| own.kind == Kind::Jwt;
        let token = passing.iter().rfind(is_token).expect("a token").clone();
        let forgotten = passing.len().saturating_sub(REMEMBERED);
        passing.drain(..forgotten);
        drop(passing);
        if world.over_within(chance.millis(200, 2500)) {
            return;
        }
        let _ = end.begun.set(Instant::now());
        let is_elsewhere = of_tokens && chance.one_in(2);
        if of_tokens {
            authgear.disable(&id);
            let host = if is_elsewhere { &world.second } else { &world.nginx };
            world.tell_disabled(host, project, &id);
        } else {
            authgear.remove_user(&id);
            let everybody = chance.one_in(4);
            let whom = if everybody { "all=1".to_owned() } else { format!("user={id}") };
            world.purge(project, &whom);
        }
        if is_elsewhere && !is_known(world, project, &token) {
            return;
        }
        let _ = end.over.set(Instant::now());
        let how = match (of_tokens, is_elsewhere) {
            (true, true) => "event at the second host",
            (true, false) => "event",
            (false, _) => "purge",
        };
        world.count("users that ended", how);
    }
}
