//! The machine and the programs of a measurement.

use std::fs;
use std::process::Command;

use serde_json::{json, Value};

/// The machine, and the versions of the programs found.
pub fn describe() -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(0, |n| n.get());
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let memory = memory.and_then(|kib| kib.split_whitespace().next()?.parse::<u64>().ok());
    json!({
        "cpu": cpu.map_or("unknown", |(_, model)| model),
        "cores": cores,
        "memory_gib": memory.map(|kib| kib >> 20),
        "kernel": first_line("uname", &["-sr"]),
        "commit": first_line("git", &["rev-parse", "--short", "HEAD"]),
        "versions": {
            "nginx": first_line("nginx", &["-v"]).map(|said| said.replace("nginx version: nginx/", "")),
            "rustc": first_line("rustc", &["--version"]).map(|said| said.replace("rustc ", "")),
            "lua-nginx-module": package("libnginx-mod-http-lua"),
            "HAProxy": package("haproxy"),
            "Caddy": package("caddy"),
            "Apache": package("apache2"),
            "mod_auth_openidc": package("libapache2-mod-auth-openidc"),
            "Envoy": envoy(),
            "Redis": package("redis-tools"),
            "valgrind": package("valgrind"),
        },
    })
}

/// Envoy's version stands between its commit and its build type.
fn envoy() -> Option<String> {
    let said = first_line("build/bench-venv/bin/envoy", &["--version"])?;
    said.rsplit('/').nth(3).map(str::to_owned)
}

fn package(name: &str) -> Option<String> {
    first_line("dpkg-query", &["-W", "-f", "${Version}", name])
}

/// The first non-empty line of the command's output.
fn first_line(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
