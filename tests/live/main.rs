//! `make test-live`: asks an Authgear that somebody runs, and prints where its answers differ from
//! what the module and its tests expect. The exit status is 1 if one does.
//!
//! It reads only: it makes no session, and ends none. `COOKIE` (`NAME=VALUE`) and `TOKEN` in the
//! environment let it ask more. It prints neither, nor any other value of an answer.

mod ask;
mod facts;

use std::env;
use std::process::ExitCode;

use ask::Live;
use facts::{Outcome, FACTS};

const USAGE: &str =
    "usage: make test-live AUTHGEAR=https://HOST [RESOLVER=URL], with COOKIE=NAME=VALUE \
                     and TOKEN in the environment";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let live = match Live::new(&arguments, env::var("COOKIE").ok(), env::var("TOKEN").ok()) {
        Ok(live) => live,
        Err(why) => {
            eprintln!("{why}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(why) = live.reach() {
        eprintln!("{}", live.without_credentials(&why));
        return ExitCode::FAILURE;
    }
    let mut differing = 0;
    for (about, text, check) in FACTS {
        let (word, more) = match check(&live) {
            Outcome::Holds => ("holds", String::new()),
            Outcome::Noted(what) => ("note", format!(": {what}")),
            Outcome::NotAsked(needs) => ("skipped", format!(": needs {needs}")),
            Outcome::Differs(what) => {
                differing += 1;
                ("DIFFERS", format!(": {what}"))
            }
        };
        println!("{word:8}{about:9}{text}{}", live.without_credentials(&more));
    }
    println!("{differing} of {} facts differ", FACTS.len());
    match differing {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
