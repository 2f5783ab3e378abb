//! What was measured on, and with.

use std::fs;
use std::process::Command;

use serde_json::{json, Value};

/// The machine, and the versions of what is there.
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
        "kernel": said("uname", &["-sr"]),
        "commit": said("git", &["rev-parse", "--short", "HEAD"]),
        "versions": {
            "nginx": said("nginx", &["-v"]).map(|said| said.replace("nginx version: nginx/", "")),
            "rustc": said("rustc", &["--version"]).map(|said| said.replace("rustc ", "")),
            "lua-nginx-module": package("libnginx-mod-http-lua"),
            "HAProxy": package("haproxy"),
            "Caddy": package("caddy"),
            "Apache": package("apache2"),
            "mod_auth_openidc": package("libapache2-mod-auth-openidc"),
            "Envoy": envoy(),
            "valgrind": package("valgrind"),
        },
    })
}

/// Its version stands between its commit and how it was built.
fn envoy() -> Option<String> {
    let said = said("build/bench-venv/bin/envoy", &["--version"])?;
    said.rsplit('/').nth(3).map(str::to_owned)
}

fn package(name: &str) -> Option<String> {
    said("dpkg-query", &["-W", "-f", "${Version}", name])
}

/// First line with anything in it.
fn said(command: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(command).args(arguments).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}
