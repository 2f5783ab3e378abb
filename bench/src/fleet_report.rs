//! The results of several hosts as Markdown.

use std::fmt::Write as _;

use serde_json::Value;

use crate::report::{list, number, text};

/// Appends the results; missing ones are left out.
pub fn write(out: &mut String, fleet: &Value) {
    if fleet.is_null() {
        return;
    }
    look_ups(out, &fleet["look_ups"]);
    cold(out, &fleet["cold"]);
    purges(out, &fleet["purges"]);
    redis(out, &fleet["redis"]);
    many_hosts(out, &fleet["many_hosts"]);
}

fn look_ups(out: &mut String, rows: &Value) {
    out.push_str("\n## A fleet: look-ups of a session while its verdict is kept\n");
    let Some(first) = list(rows).next() else { return };
    let _ = writeln!(
        out,
        "\nBursts of {} requests over {} hosts; {} sessions, {} times each.\n\n\
         | | look-ups | expected |\n|---|---|---|",
        first["burst"], first["hosts"], first["sessions"], first["times"]
    );
    for row in list(rows) {
        let (look_ups, expected) = (number(&row["look_ups"]), number(&row["expected"]));
        let _ = writeln!(out, "| {} | {look_ups:.2} | {expected:.2} |", text(&row["name"]));
    }
}

fn cold(out: &mut String, cold: &Value) {
    out.push_str(
        "\n## A fleet: 200 requests at once with a session not known yet\n\nThe resolver takes \
         50 ms.\n\n| | look-ups | first answer, ms | last one later by, ms | at most |\n\
         |---|---|---|---|---|\n",
    );
    for row in list(&cold["rows"]) {
        let _ = writeln!(
            out,
            "| {} | {} | {:.0} | {:.1} | {:.1} |",
            text(&row["name"]),
            number(&row["calls"]),
            number(&row["first_ms"]),
            number(&row["last_after_first_ms"]),
            number(&row["last_after_first_most_ms"]),
        );
    }
    let (beyond, target) = (number(&cold["beyond_ms"]), number(&cold["target_ms"]));
    let _ = writeln!(
        out,
        "\nThe last answer of the fleet comes {beyond:.1} ms beyond that of one host (median over \
         {} rounds; the target is {target:.0} ms).",
        cold["rounds"]
    );
}

fn purges(out: &mut String, rows: &Value) {
    out.push_str(
        "\n## A fleet: from a purge at one host until another one asks anew\n\n\
         | | purges | p50, ms | p99, ms | at most, ms |\n|---|---|---|---|---|\n",
    );
    for row in list(rows) {
        let _ = writeln!(
            out,
            "| {} | {} | {:.1} | {:.1} | {:.1} |",
            text(&row["name"]),
            row["count"],
            number(&row["p50_ms"]),
            number(&row["p99_ms"]),
            number(&row["most_ms"]),
        );
    }
    out.push_str("| target | | 5 | 120 | 1000 |\n");
}

fn redis(out: &mut String, redis: &Value) {
    out.push_str("\n## A fleet: Redis\n\n| | | target |\n|---|---|---|\n");
    let (records, readers) = (&redis["records"], &redis["readers"]);
    let _ = writeln!(
        out,
        "| memory of a session's verdict, of {} | {:.0} bytes | {} bytes |",
        records["count"],
        number(&records["bytes"]),
        records["target"],
    );
    for stream in list(&redis["streams"]) {
        let _ = writeln!(
            out,
            "| {} events, {} ({:.0} bytes each before Redis adds its own) | {:.2} MB | {} MB |",
            stream["length"],
            text(&stream["name"]),
            number(&stream["sealed_bytes"]),
            number(&stream["megabytes"]),
            stream["target_megabytes"],
        );
    }
    let _ = writeln!(
        out,
        "| CPU of Redis for an event, {0} hosts | {1:.1} ms | {2:.0} ms |\n\
         | CPU of Redis without events, {0} hosts | {3:.1} % of a core | |",
        readers["readers"],
        number(&readers["ms_per_event"]),
        number(&readers["target_ms"]),
        number(&readers["idle_percent"]),
    );
}

fn many_hosts(out: &mut String, many: &Value) {
    let _ = writeln!(
        out,
        "\n## A fleet: look-ups per second by the number of hosts\n\n{} sessions, each with {:.0} \
         requests per second at random hosts, verdicts kept for {:.0} s; counted for {:.0} s. \
         Twice the sessions are twice the look-ups. Computed: per session N/(T+N/r) without a fleet, \
         1/(T+1/r) with one.\n\n\
         | hosts | without a fleet | computed | fleet | computed |\n|---|---|---|---|---|",
        many["sessions"],
        number(&many["rate"]),
        number(&many["valid_s"]),
        number(&many["counted_s"]),
    );
    for row in list(&many["curve"]) {
        let measured = list(&many["points"]).find(|point| point["hosts"] == row["hosts"]);
        let counted = |key: &str| {
            measured.map_or(String::new(), |point| format!("{:.1}", number(&point[key])))
        };
        let _ = writeln!(
            out,
            "| {} | {} | {:.1} | {} | {:.1} |",
            row["hosts"],
            counted("without"),
            number(&row["without"]),
            counted("with"),
            number(&row["with"]),
        );
    }
}
