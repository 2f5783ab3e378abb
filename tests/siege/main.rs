//! `make siege`: runs each flood of tests/hostile for a while, against an nginx with the module
//! and against one without it, and prints how honest clients fare meanwhile. The exit status is 1
//! if a bound is broken.

mod flood;
mod honest;
mod site;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use flood::{Flood, FLOODS};
use honest::Report;
use site::Site;

/// Longest wait of an honest new session while one address floods.
const NEW_WAIT: Duration = Duration::from_millis(1500);
/// Longest wait of a cached session, beyond twice that of nginx without the module.
const CACHED_WAIT: Duration = Duration::from_millis(50);
const GROWTH: u64 = 64 << 20;
/// Least share of the resolver's capacity that is answered 200 at overload.
const GOODPUT: f64 = 0.8;
/// Least share of the sessions in the cache that a flood leaves there.
const KEPT: f64 = 0.95;
/// Longest time until new sessions are let in, once Authgear answers again.
const RECOVERY: Duration = Duration::from_millis(2500);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let seconds = match arguments.as_slice() {
        [] => Some(60),
        [name, seconds] if name == "--seconds" => seconds.parse().ok().filter(|n| *n > 0),
        _ => None,
    };
    let Some(seconds) = seconds else {
        eprintln!("{arguments:?} makes no sense; usage: siege [--seconds N], N at least 1");
        return ExitCode::FAILURE;
    };
    let time = Duration::from_secs(seconds);
    println!("siege: {seconds} s a flood, with the module and without it");
    let mut broken = Vec::new();
    for flood in FLOODS {
        let with = honest::observe(&Site::start(flood, true), flood, time);
        let without = honest::observe(&Site::start(flood, false), flood, time);
        println!("\n{}\n  module   {with}\n  without  {without}", flood.name());
        broken.extend(check(flood, &with, &without));
    }
    for bound in &broken {
        eprintln!("siege: broken: {bound}");
    }
    if broken.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn check(flood: Flood, with: &Report, without: &Report) -> Vec<String> {
    let mut broken = Vec::new();
    let mut rule = |holds: bool, what: String| {
        if !holds {
            broken.push(format!("{}: {what}", flood.name()));
        }
    };
    if flood.spares_others() {
        let wait = with.new.longest();
        rule(wait <= NEW_WAIT, format!("new sessions wait {wait:?}"));
        let share = with.new.share();
        rule(share >= GOODPUT, format!("{:.0} % of new sessions are let in", share * 100.0));
    }
    let (wait, plain) = (with.cached.longest(), without.cached.longest());
    let cached = format!("cached sessions wait {wait:?}, {plain:?} without the module");
    rule(wait <= plain * 2 + CACHED_WAIT, cached);
    let share = with.cached.share();
    rule(share >= 0.99, format!("{:.0} % of cached sessions are let in", share * 100.0));
    let grown = with.peak.saturating_sub(with.before);
    rule(grown <= GROWTH, format!("the worker has grown by {} MB", grown >> 20));
    if let Some(share) = with.of_capacity {
        rule(share >= GOODPUT, format!("{:.0} % of the capacity is used well", share * 100.0));
    }
    if let Some((kept, all)) = with.kept {
        let holds = kept as f64 >= all as f64 * KEPT;
        rule(holds, format!("{kept} of {all} cached sessions are kept"));
    }
    if let Some(took) = with.recovered {
        rule(took <= RECOVERY, format!("new sessions are let in {took:?} after Authgear is back"));
    }
    broken
}
