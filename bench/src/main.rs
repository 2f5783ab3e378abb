//! Benchmarks of the module and its alternatives: see README.md.

mod fleet;
mod fleet_report;
mod herd;
mod instructions;
mod load;
mod locations;
mod machine;
mod many_hosts;
mod memory;
mod others;
mod peers;
mod process;
mod redis_cost;
mod report;
mod rounds;
mod sharing;
mod site;
mod sockets;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{json, Value};

use site::Site;

/// The extent of a measurement.
struct Effort {
    rounds: usize,
    per_round: usize,
    /// Number of different JWTs: signing each takes time.
    jwts: usize,
    /// Whether the results are only shown, not kept.
    is_rough: bool,
}

const FULL: Effort = Effort { rounds: 45, per_round: 2000, jwts: 2000, is_rough: false };
/// For another nginx than the one of the kept results.
const SHOWN: Effort = Effort { is_rough: true, ..FULL };
const QUICK: Effort = Effort { rounds: 5, per_round: 2000, jwts: 500, is_rough: true };

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match *arguments {
        ["load"] => load(&FULL),
        ["load", "--quick"] => load(&QUICK),
        ["load", "--show"] => load(&SHOWN),
        ["load", only] => Site::start().and_then(|site| rounds::run(&site, &FULL, only)).map(drop),
        ["instructions"] => instructions(None),
        ["instructions", only] => instructions(Some(only)),
        ["memory"] => memory(),
        ["memory", "locations"] => {
            Site::start().and_then(|site| locations::measure(&site)).map(drop)
        }
        ["fleet"] => fleet::run(&fleet::FULL)
            .and_then(|results| keep("fleet", results))
            .and_then(|()| report()),
        ["fleet", "--quick"] => fleet::run(&fleet::QUICK).map(drop),
        ["sockets"] => sockets::run(sockets::COUNT),
        ["sockets", count] => match count.parse() {
            Ok(count) => sockets::run(count),
            Err(error) => Err(io::Error::other(error)),
        },
        [sockets::BACKEND] => sockets::serve(),
        ["report"] => report(),
        _ => {
            eprintln!(
                "usage: bench load [--quick | --show | CASE] | instructions [CASE] | \
                 memory [locations] | fleet [--quick] | sockets [N] | report"
            );
            return ExitCode::FAILURE;
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the bench failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn load(effort: &Effort) -> io::Result<()> {
    let site = Site::start()?;
    let rows = rounds::run(&site, effort, "")?;
    let herds = herd::run(&site)?;
    let zone = memory::fill_zone()?;
    if effort.is_rough {
        return Ok(());
    }
    keep(
        "load",
        json!({
            "rounds": effort.rounds,
            "per_round": effort.per_round,
            "rows": rows.iter().map(rounds::Row::to_json).collect::<Vec<_>>(),
            "herds": herds,
            "zone": zone,
            "verification_micros": rounds::verification(&site)?,
        }),
    )?;
    report()
}

/// CASE of `bench instructions` that counts only system calls.
const SYSTEM_CALLS: &str = "system calls";

fn instructions(only: Option<&str>) -> io::Result<()> {
    let site = Site::start()?;
    if only == Some(SYSTEM_CALLS) {
        return instructions::system_calls(&site).map(drop);
    }
    let counts = instructions::count(&site, only, Path::new("build/profiles"))?;
    if only.is_some() {
        return Ok(());
    }
    let calls = instructions::system_calls(&site)?;
    keep("instructions", json!({ "counts": counts, "system_calls": calls }))?;
    report()
}

fn memory() -> io::Result<()> {
    keep("memory", memory::run(&Site::start()?)?)?;
    report()
}

fn report() -> io::Result<()> {
    let [load, instructions, memory, fleet] = ["load", "instructions", "memory", "fleet"].map(kept);
    let text = report::markdown(&load, &instructions, &memory, &fleet);
    fs::write(Path::new(RESULTS).join("results.md"), text)
}

const RESULTS: &str = "bench/results";

fn keep(name: &str, mut results: Value) -> io::Result<()> {
    results["machine"] = machine::describe();
    fs::create_dir_all(RESULTS)?;
    let text = serde_json::to_string_pretty(&results).map_err(io::Error::other)?;
    fs::write(Path::new(RESULTS).join(format!("{name}.json")), text + "\n")
}

fn kept(name: &str) -> Value {
    let text = fs::read_to_string(Path::new(RESULTS).join(format!("{name}.json")));
    text.ok().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default()
}
