//! `make soak`: clients of every kind use an nginx for minutes, while workers die and Authgear
//! fails. Another host of its fleet is told of some ends, over a Redis that fails too. Every answer is compared with a model: no client gets another one's identity or a purged
//! one, no outage grants access or lasts longer than its cause, and no request is lost that plain
//! nginx would have kept.

mod bounds;
mod chance;
mod load;
mod model;
mod sockets;
mod trouble;
mod world;

use std::env;
use std::process::{self, ExitCode};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bounds::{Bounds, Memory};
use model::{Trouble, FRESH, PLACES};
use world::World;

fn main() -> ExitCode {
    let Arguments { time, seed, memory } = match arguments() {
        Ok(arguments) => arguments,
        Err(argument) => {
            eprintln!(
                "{argument:?} makes no sense; usage: soak [--any-memory] [--seconds N] [--seed N]"
            );
            return ExitCode::FAILURE;
        }
    };
    println!("soak: {} s, seed {seed}", time.as_secs());
    let world = World::new();
    let bounds = soak(&world, time, seed, memory);
    println!("{}", summary(&world, &bounds));
    match world.violation() {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            eprintln!("soak: violated with seed {seed}: {violation}");
            ExitCode::FAILURE
        }
    }
}

struct Arguments {
    time: Duration,
    seed: u64,
    memory: Memory,
}

fn arguments() -> Result<Arguments, String> {
    let (mut seconds, mut seed, mut memory) = (600, u64::from(process::id()), Memory::Limited);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        if argument == "--any-memory" {
            memory = Memory::Any;
            continue;
        }
        let number = arguments.next().and_then(|number| number.parse().ok());
        match (argument.as_str(), number) {
            ("--seconds", Some(number)) => seconds = number,
            ("--seed", Some(number)) => seed = number,
            _ => return Err(argument),
        }
    }
    Ok(Arguments { time: Duration::from_secs(seconds), seed, memory })
}

fn soak(world: &World, time: Duration, seed: u64, memory: Memory) -> Bounds {
    let begun = Instant::now();
    let mut bounds = Bounds::new(world, memory);
    thread::scope(|scope| {
        load::start(scope, world, seed);
        // A worker must live long to show growth.
        trouble::start(scope, world, seed, begun + time * 7 / 10);
        let (mut warm, mut calm) = (Some(time / 5), Some(time * 8 / 10));
        while !world.over_within(Duration::from_secs(1)) && begun.elapsed() < time {
            if warm.take_if(|at| begun.elapsed() > *at).is_some() {
                bounds.warm(world);
            }
            if calm.take_if(|at| begun.elapsed() > *at).is_some() {
                bounds.calm(world);
            }
            bounds.check(world, begun.elapsed());
        }
        world.end();
    });
    if world.violation().is_none() {
        world.guard("the end", || end(world, &mut bounds, begun));
    }
    bounds
}

/// Checks the end: each credential has its verdict everywhere, and nothing leaked.
fn end(world: &World, bounds: &mut Bounds, begun: Instant) {
    trouble::recover_all(world);
    sockets::end(world);
    let passing = world.passing.lock().expect("no client failed").clone();
    for credential in world.standing.iter().chain(&passing) {
        for (place, project) in PLACES.iter().chain([&FRESH]).flat_map(|p| [(p, 0), (p, 1)]) {
            let ask = world.ask(place, project, Arc::clone(credential));
            let from = Instant::now();
            if let Some(answer) = world.insist(&ask.request(world.nginx.addr())) {
                world.judge(&ask, from, &answer);
            }
        }
    }
    bounds.check(world, begun.elapsed());
    bounds.check_idle(world);
    // Fails if the error log tells of trouble.
    world.nginx.stop();
    world.second.stop();
    world.authgears.iter().for_each(|authgear| authgear.wait_for_no_connections());
}

fn summary(world: &World, bounds: &Bounds) -> String {
    let mut lines = Vec::new();
    for (what, outcomes) in &*world.tally.lock().expect("no client failed") {
        let outcomes: Vec<_> = outcomes.iter().map(|(of, n)| format!("{of}: {n}")).collect();
        lines.push(format!("{what:<28} {}", outcomes.join(", ")));
    }
    let Trouble { kills, reloads, .. } = &world.trouble;
    lines.push(format!("kills: {}, reloads: {}", kills.count(), reloads.count()));
    lines.push(bounds.summary());
    lines.join("\n")
}
