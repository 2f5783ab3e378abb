//! The results as Markdown.

use std::fmt::Write as _;

use serde_json::Value;

use crate::fleet_report;

const SCENARIOS: [(&str, &str); 8] = [
    ("hot", "One session, known"),
    ("many", "10,000 sessions, known"),
    ("miss", "Each request is asked about"),
    ("shared", "Each request is asked about, by a host of a fleet"),
    ("miss-tls", "Each request is asked about, over TLS"),
    ("jwt-hot", "One JWT, seen before"),
    ("jwt-new", "JWTs never seen before"),
    ("hostile", "Forged and malformed tokens, one of ten is good"),
];

/// Formats all measurements; missing ones are left out.
pub fn markdown(load: &Value, instructions: &Value, memory: &Value, fleet: &Value) -> String {
    let mut out = String::from(
        "# Results\n\nMade by `make bench`, `make bench-instructions`, `make bench-memory` and \
         `make bench-fleet`; README.md beside this folder says how to read them.\n",
    );
    let measured =
        [("load", load), ("instructions", instructions), ("memory", memory), ("fleet", fleet)];
    machine(&mut out, &measured);
    cpu(&mut out, load);
    herds(&mut out, load);
    counts(&mut out, instructions);
    zones(&mut out, load);
    sizes(&mut out, memory);
    fleet_report::write(&mut out, fleet);
    out
}

fn machine(out: &mut String, measured: &[(&str, &Value)]) {
    for (name, results) in measured {
        let machine = &results["machine"];
        if machine.is_null() {
            continue;
        }
        let _ = write!(
            out,
            "\n{name}: commit {}, {} ({} cores, {} GiB), {}; ",
            text(&machine["commit"]),
            text(&machine["cpu"]),
            machine["cores"],
            machine["memory_gib"],
            text(&machine["kernel"]),
        );
        let versions = machine["versions"].as_object().into_iter().flatten();
        let versions: Vec<_> = versions
            .filter(|(_, version)| version.is_string())
            .map(|(name, version)| format!("{name} {}", text(version)))
            .collect();
        let _ = writeln!(out, "{}.", versions.join(", "));
    }
}

fn cpu(out: &mut String, load: &Value) {
    for (name, title) in SCENARIOS {
        let rows: Vec<_> = list(&load["rows"]).filter(|row| row["scenario"] == name).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(
            out,
            "\n## {title}\n\n\
             | | to the ceiling | least to most | all rounds | CPU µs per request | waits |\n\
             |---|---|---|---|---|---|"
        );
        for row in &rows {
            let _ = writeln!(
                out,
                "| {} | {:.2} | {:.2} to {:.2} | {:.2} | {:.1} | {:.2} |",
                peer(row),
                number(&row["ratio"]),
                number(&row["ratio_least"]),
                number(&row["ratio_most"]),
                number(&row["ratio_of_all"]),
                number(&row["micros"]),
                number(&row["waits"]),
            );
        }
        if name == "jwt-new" {
            let micros = number(&load["verification_micros"]);
            let _ = writeln!(out, "| verification alone, in a loop | | | | {micros:.1} | |");
        }
        beside(out, &rows, "| least to most ", "|---", |beside| {
            let [least, most] = ["ratio_least", "ratio_most"].map(|key| number(&beside[key]));
            format!("| {least:.3} to {most:.3} ")
        });
    }
}

/// The table of rows that have a target beside another one; `extra` makes cells of their own.
fn beside(
    out: &mut String,
    rows: &[&Value],
    head: &str,
    rule: &str,
    extra: impl Fn(&Value) -> String,
) {
    let rows: Vec<_> = rows.iter().filter(|row| row["beside"].is_object()).collect();
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "\n| | to | ratio {head}| target |\n|---|---|---{rule}|---|");
    for row in rows {
        let beside = &row["beside"];
        let (base, target) = (text(&beside["peer"]), &beside["target"]);
        let (ratio, extra) = (number(&beside["ratio"]), extra(beside));
        let _ = writeln!(out, "| {} | {base} | {ratio:.3} {extra}| at most {target} |", peer(row));
    }
}

fn herds(out: &mut String, load: &Value) {
    if list(&load["herds"]).next().is_none() {
        return;
    }
    out.push_str(
        "\n## Requests at once with a session not known yet\n\nThe resolver takes 50 ms.\n\n\
         | | | look-ups | first answer, ms | last one later by, ms |\n|---|---|---|---|---|\n",
    );
    for row in list(&load["herds"]) {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.0} | {:.1} |",
            text(&row["herd"]),
            peer(row),
            number(&row["calls"]),
            number(&row["first_ms"]),
            number(&row["last_after_first_ms"]),
        );
    }
}

fn counts(out: &mut String, instructions: &Value) {
    let rows: Vec<_> = list(&instructions["counts"]).collect();
    if rows.is_empty() {
        return;
    }
    out.push_str(
        "\n## Instructions per request\n\nIn user space, counted by callgrind.\n\n\
         | | | instructions | over the ceiling |\n|---|---|---|---|\n",
    );
    let ceiling = |jwt: bool| {
        let mut rows = rows.iter();
        let of = if jwt { "jwt-hot" } else { "hot" };
        rows.find(|row| row["case"] == of && row["own"] == false)
            .map_or(f64::NAN, |row| number(&row["instructions"]))
    };
    for row in &rows {
        let count = number(&row["instructions"]);
        let over = count - ceiling(text(&row["case"]).starts_with("jwt"));
        let _ =
            writeln!(out, "| {} | {} | {count:.0} | {over:.0} |", text(&row["case"]), peer(row));
    }
    beside(out, &rows, "", "", |_| String::new());
    out.push_str("\n| | system calls per request |\n|---|---|\n");
    for row in list(&instructions["system_calls"]) {
        let _ = writeln!(out, "| {} | {:.2} |", peer(row), number(&row["calls"]));
    }
}

fn zones(out: &mut String, load: &Value) {
    if list(&load["zone"]).next().is_none() {
        return;
    }
    out.push_str(
        "\n## A million sessions in a zone\n\n\
         | zone, MiB | roles | kept | evicted | bytes per session | µs to store |\n\
         |---|---|---|---|---|---|\n",
    );
    for row in list(&load["zone"]) {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {:.0} | {:.2} |",
            row["mib"],
            if row["roles"] == true { "two" } else { "none" },
            row["kept"],
            row["evicted"],
            number(&row["bytes_per_session"]),
            number(&row["micros_to_store"]),
        );
    }
}

fn sizes(out: &mut String, memory: &Value) {
    if memory.is_null() {
        return;
    }
    let _ = writeln!(
        out,
        "\n## Resident memory of a worker, KiB\n\n\
         - after every 450,000 hits: {}\n- after every 100,000 misses: {}\n\
         - worker and master after each of 200 reloads: {}",
        memory["hits_kib"], memory["misses_kib"], memory["reloads_kib"],
    );
    if memory["locations_kib"].is_null() {
        return;
    }
    let _ = writeln!(
        out,
        "\n## Resident memory of the master with 20,000 locations, KiB\n\n\
         | | after the start | after a reload |\n|---|---|---|"
    );
    for row in list(&memory["locations_kib"]) {
        let (name, started, reloaded) = (text(&row["name"]), &row["started"], &row["reloaded"]);
        let _ = writeln!(out, "| {name} | {started} | {reloaded} |");
    }
}

fn peer(row: &Value) -> String {
    let name = text(&row["peer"]);
    if row["own"] == true {
        format!("**{name}**")
    } else {
        name.to_owned()
    }
}

pub fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}
