//! `authgear_status`: what was counted, for programs, Prometheus and people.

use authgear::metrics::{Build, Format, Report, ZoneReport, PROMETHEUS};

use crate::nginx::{self, Content, Reply, Request};
use crate::{lookup, worker, Authgear};

/// Answers requests where `authgear_status` stands.
pub struct Status;

impl Content for Status {
    const MAX_BODY: usize = 0;

    fn begin(request: &mut Request) -> Result<(), u16> {
        if request.is_get() || request.is_head() {
            return Ok(());
        }
        request.add_header_out("Allow", "GET, HEAD").map_err(|_| 500_u16)?;
        Err(405)
    }

    fn answer(request: &mut Request, _body: &[u8]) -> Reply {
        let Some(format) = Format::choose(request.query(), lookup::header(request, b"accept"))
        else {
            return Reply::Status(400);
        };
        let Some(report) = report(request) else { return Reply::Status(500) };
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
}

fn report(request: &Request) -> Option<Report> {
    let own = worker::own()?;
    let own = own.header();
    let main = request.main_conf::<Authgear>();
    let mut names: Vec<&str> = main.projects().map(|project| project.name.as_str()).collect();
    names.sort_unstable();
    let zones = main.zones().iter().map(|zone| {
        let stats = worker::cache(zone).stats().unwrap_or_default();
        ZoneReport::new(&zone.name, stats)
    });
    let time = nginx::unix_time().as_secs();
    Some(Report {
        build: Build { version: env!("CARGO_PKG_VERSION"), nginx: nginx::version().to_owned() },
        time,
        projects: own.metrics.projects(names.into_iter()),
        zones: zones.collect(),
        purges: own.metrics.purges(),
        webhook_events: own.metrics.events(),
        revocations: own.revocations.count(time) as u64,
    })
}
