//! `authgear_status`: counters, for programs, Prometheus and people.

use authgear::metrics::{Build, Format, Report, ZoneReport, PROMETHEUS, STEP};

use crate::conf::Authgear;
use crate::worker::Worker;
use nginx::{self, Reply, Request};

/// Largest request body that is read.
pub const MAX_BODY: usize = 0;

/// Checks the method.
pub fn begin(request: &mut Request) -> Result<(), u16> {
    if request.is_get() || request.is_head() {
        return Ok(());
    }
    request.add_header_out("Allow", "GET, HEAD").map_err(|_| 500_u16)?;
    Err(405)
}

/// Makes the response.
pub fn answer(worker: &Worker, request: &mut Request) -> Reply {
    let Some(format) = Format::choose(request.query(), request.header(b"accept")) else {
        return Reply::Status(400);
    };
    let Some(report) = report(worker, request) else { return Reply::Status(500) };
    let mut headers = vec![
        ("Cache-Control", "no-store".to_owned()),
        ("X-Content-Type-Options", "nosniff".to_owned()),
        ("Vary", "Accept".to_owned()),
    ];
    let (content_type, body) = match format {
        Format::Json => ("application/json", report.json()),
        Format::Prometheus => (PROMETHEUS, report.prometheus()),
        Format::Html => {
            let page = report.page();
            headers.push(("Content-Security-Policy", page.policy));
            headers.push(("Referrer-Policy", "no-referrer".to_owned()));
            ("text/html; charset=utf-8", page.html)
        }
    };
    Reply::Body { content_type, headers, body: body.into_bytes() }
}

fn report(worker: &Worker, request: &Request) -> Option<Report> {
    let shared = worker.shared();
    let zone = shared.zone()?;
    let main = request.main_conf::<Authgear>();
    let mut names: Vec<&str> = main.projects().map(|project| project.name.as_str()).collect();
    names.sort_unstable();
    let mut locations: Vec<&str> =
        main.status_zones.iter().map(|zone| zone.name.as_str()).collect();
    locations.sort_unstable();
    let zones = main.zones().iter().map(|zone| {
        let stats = worker.cache(zone).stats().unwrap_or_default();
        ZoneReport::new(&zone.name, stats)
    });
    let time = nginx::unix_time().as_secs();
    Some(Report {
        build: Build { version: env!("CARGO_PKG_VERSION"), nginx: nginx::version().to_owned() },
        host: nginx::hostname(),
        workers: nginx::worker_count(),
        started: zone.metrics.started(),
        time,
        recent_seconds: zone.metrics.remembered(nginx::now().as_secs()),
        recent_step: STEP,
        projects: zone.metrics.projects(names.into_iter()),
        zones: zones.collect(),
        locations: zone.metrics.locations(locations.into_iter()),
        purges: zone.metrics.purges(),
        webhook_events: zone.metrics.events(),
        revocations: zone.revocations.count(time) as u64,
        fleet: worker.fleet().map(|fleet| fleet.report(&zone.metrics.fleet)),
    })
}
