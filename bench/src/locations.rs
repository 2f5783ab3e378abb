//! Memory of a configuration with many locations.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{json, Value};

use crate::memory::reload;
use crate::peers::{module, nginx_binary};
use crate::process::{free_addr, resident, Process, MEASURED};
use crate::site::{nginx, Site, ORIGIN};

const LOCATIONS: usize = 20_000;

/// nginx takes seconds to read that many locations.
const PATIENCE: Duration = Duration::from_secs(60);

/// Directives of the module in the configuration.
#[derive(Clone, Copy)]
enum Use {
    /// The module is not loaded.
    Absent,
    Idle,
    /// Directives of `http {}`, which all locations inherit.
    Inherited,
    /// The same, and a directive in each location.
    Each,
}

/// Resident memory of the master: after the start, and after a reload, for which it has read the
/// configuration anew while it still had the old one.
pub fn measure(site: &Site) -> io::Result<Value> {
    let mut rows = Vec::new();
    for (name, used) in [
        ("without the module", Use::Absent),
        ("module idle", Use::Idle),
        ("inherited directives", Use::Inherited),
        ("a directive in each", Use::Each),
    ] {
        let [started, reloaded] = master(site, name, used)?;
        println!(
            "{LOCATIONS} locations, {name}: master {started} KiB, after a reload {reloaded} KiB"
        );
        rows.push(json!({ "name": name, "started": started, "reloaded": reloaded }));
    }
    Ok(rows.into())
}

fn master(site: &Site, name: &str, used: Use) -> io::Result<[u64; 2]> {
    let (dir, addr) = (site.directory(&name.replace(' ', "-"))?, free_addr()?);
    let mut command = MEASURED.command("env");
    command.arg(nginx_binary());
    let command = nginx(command, &dir, &configuration(used, &addr.to_string()));
    let process = Process::start_within(&mut command?, &dir, addr, PATIENCE)?;
    let begun = Instant::now();
    let worker = loop {
        match *process.children() {
            [worker] => break worker,
            _ if begun.elapsed() > PATIENCE => return Err(io::Error::other("not one worker")),
            _ => thread::sleep(Duration::from_millis(20)),
        }
    };
    let started = resident(process.id());
    reload(&process, worker)?;
    Ok([started, resident(process.id())])
}

fn configuration(used: Use, addr: &str) -> String {
    let load = match used {
        Use::Absent => String::new(),
        _ => format!("load_module {};", module().display()),
    };
    let inherited = match used {
        Use::Absent | Use::Idle => String::new(),
        Use::Inherited | Use::Each => format!(
            "authgear_cache_zone authgear:1m;
             authgear {ORIGIN}; authgear_cache authgear; authgear_mode auto;
             authgear_require session; authgear_login_redirect /login;"
        ),
    };
    let locations: String = (0..LOCATIONS)
        .map(|n| {
            let own = match used {
                Use::Each => format!("authgear_require role=r{n};"),
                _ => String::new(),
            };
            format!("location /{n} {{ proxy_pass http://127.0.0.1:1; {own} }}\n")
        })
        .collect();
    format!(
        "{load} daemon off; worker_processes 1; user root; pid nginx.pid;
        error_log logs/error.log error;
        events {{}}
        http {{
            access_log off; resolver 127.0.0.1; {inherited}
            server {{
                listen {addr};
                {locations}
            }}
        }}"
    )
}
