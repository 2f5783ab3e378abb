//! The text format of Prometheus, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::{self, Write as _};

use super::report::{FleetReport, LabelTable, Latency, ProjectReport, Report};

/// Media type of [`Report::prometheus`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Prefix of all metric names.
const PREFIX: &str = "nginx_authgear_";

/// Label value, quoted and escaped.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('"')?;
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        f.write_char('"')
    }
}

type Labels<'a> = &'a [(&'static str, &'a str)];

/// Writer of one metric.
struct Metric<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl<'a> Metric<'a> {
    fn new(text: &'a mut String, name: &'static str, kind: &str, help: &str) -> Self {
        // Writing to a `String` does not fail, here and below.
        let _ = writeln!(text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {kind}");
        Self { text, name }
    }

    fn sample(&mut self, suffix: &str, labels: Labels<'_>, value: impl fmt::Display) {
        let _ = write!(self.text, "{PREFIX}{}{suffix}", self.name);
        let mut separator = '{';
        for (name, value) in labels {
            let _ = write!(self.text, "{separator}{name}={}", Quoted(value));
            separator = ',';
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.text, "{end} {value}");
    }

    /// Writes one sample for each value of `label`.
    fn table(&mut self, labels: Labels<'_>, label: &'static str, table: &LabelTable) {
        for (word, n) in &table.0 {
            let labels = [labels, &[(label, word)]].concat();
            self.sample("", &labels, n);
        }
    }

    fn histogram(&mut self, labels: Labels<'_>, latency: &Latency) {
        let mut count = 0;
        for bucket in &latency.buckets {
            count += bucket.count;
            let le = bucket.le.map_or("+Inf".to_owned(), |le| le.to_string());
            self.sample("_bucket", &[labels, &[("le", &le)]].concat(), count);
        }
        self.sample("_sum", labels, latency.sum);
        self.sample("_count", labels, latency.count);
    }
}

impl Report {
    /// Formats the report for Prometheus.
    pub fn prometheus(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let text = &mut text;
        let mut metric = Metric::new(text, "build_info", "gauge", "What was built; always 1.");
        let labels = [("version", self.build.version), ("nginx", &self.build.nginx)];
        metric.sample("", &labels, 1);
        for project in PROJECT {
            let mut metric = Metric::new(text, project.name, project.kind, project.help);
            for report in &self.projects {
                (project.write)(&mut metric, report, &[("project", &report.name)]);
            }
        }
        type OfZone = fn(&super::ZoneReport) -> u64;
        let of_zones: [(&'static str, &str, &str, OfZone); 4] = [
            ("cache_entries", "gauge", "Entries of the zone.", |zone| zone.entries),
            ("cache_bytes", "gauge", "Bytes that they take.", |zone| zone.bytes),
            ("cache_size_bytes", "gauge", "Bytes that they may take.", |zone| zone.size),
            ("cache_evictions_total", "counter", "Entries removed to make room.", |zone| {
                zone.evictions
            }),
        ];
        for (name, kind, help, get) in of_zones {
            let mut metric = Metric::new(text, name, kind, help);
            for zone in &self.zones {
                metric.sample("", &[("zone", &zone.name)], get(zone));
            }
        }
        let mut metric =
            Metric::new(text, "location_requests_total", "counter", "Requests, by status zone.");
        for location in &self.locations {
            metric.table(&[("status_zone", &location.name)], "result", &location.requests);
        }
        Metric::new(text, "purges_total", "counter", "Purges, by what was purged.").table(
            &[],
            "what",
            &self.purges,
        );
        Metric::new(text, "webhook_events_total", "counter", "Events of webhooks, by outcome.")
            .table(&[], "outcome", &self.webhook_events);
        Metric::new(text, "revocations", "gauge", "Users whose older tokens are refused.").sample(
            "",
            &[],
            self.revocations,
        );
        if let Some(fleet) = &self.fleet {
            write_fleet(text, fleet);
        }
        std::mem::take(text)
    }
}

fn write_fleet(text: &mut String, fleet: &FleetReport) {
    let help = "1 if this host has the events of all hosts of its fleet.";
    Metric::new(text, "fleet_in_sync", "gauge", help).sample("", &[], u8::from(fleet.in_sync));
    let name = "fleet_last_sync_timestamp_seconds";
    let help = "When this host had the events of all hosts last.";
    let mut metric = Metric::new(text, name, "gauge", help);
    if let Some(time) = fleet.last_sync {
        metric.sample("", &[], time);
    }
    let help = "Events of this host that Redis does not have yet.";
    Metric::new(text, "fleet_ring_waiting", "gauge", help).sample("", &[], fleet.ring_waiting);
    let help = "Seconds by which the clock of Redis is ahead.";
    let mut metric = Metric::new(text, "fleet_clock_offset_seconds", "gauge", help);
    metric.sample("", &[], fleet.clock_offset);
    let tables: [(&'static str, &str, &'static str, &LabelTable); 4] = [
        ("fleet_events_total", "Events, by what became of them here.", "what", &fleet.events),
        ("fleet_losses_total", "Losses of events in Redis, by reason.", "reason", &fleet.losses),
        ("fleet_connections_total", "Connections to Redis.", "outcome", &fleet.connections),
        (
            "fleet_cache_requests_total",
            "Looks for verdicts of other hosts, by outcome.",
            "outcome",
            &fleet.cache,
        ),
    ];
    for (name, help, label, table) in tables {
        Metric::new(text, name, "counter", help).table(&[], label, table);
    }
    let help = "Time from an event at another host to its effect here, by the clocks of both.";
    Metric::new(text, "fleet_event_delay_seconds", "histogram", help).histogram(&[], &fleet.delay);
    let help = "Time until Redis answered a command about verdicts.";
    let mut metric = Metric::new(text, "fleet_command_duration_seconds", "histogram", help);
    metric.histogram(&[], &fleet.commands);
}

/// Definition of a metric of each project.
struct OfProject {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    write: fn(&mut Metric<'_>, &ProjectReport, Labels<'_>),
}

const PROJECT: &[OfProject] = &[
    OfProject {
        name: "requests_total",
        kind: "counter",
        help: "Client requests, by what decides about them and what became of them.",
        write: |metric, report, labels| {
            for (mode, table) in &report.requests.0 {
                metric.table(&[labels, &[("mode", mode)]].concat(), "result", table);
            }
        },
    },
    OfProject {
        name: "denied_total",
        kind: "counter",
        help: "Denials, by reason.",
        write: |metric, report, labels| metric.table(labels, "reason", &report.denied),
    },
    OfProject {
        name: "dry_run_denied_total",
        kind: "counter",
        help: "What would have been denied but for authgear_dry_run, by reason.",
        write: |metric, report, labels| metric.table(labels, "reason", &report.dry_run_denied),
    },
    OfProject {
        name: "errors_total",
        kind: "counter",
        help: "Requests that got 503, by reason.",
        write: |metric, report, labels| metric.table(labels, "reason", &report.errors),
    },
    OfProject {
        name: "ended_total",
        kind: "counter",
        help: "Open responses that authgear_recheck ended, by reason.",
        write: |metric, report, labels| metric.table(labels, "reason", &report.ended),
    },
    OfProject {
        name: "failure_mode_allowed_total",
        kind: "counter",
        help: "Requests that went on as anonymous because Authgear could not be asked.",
        write: |metric, report, labels| metric.sample("", labels, report.failure_mode_allowed),
    },
    OfProject {
        name: "cache_requests_total",
        kind: "counter",
        help: "Requests with credentials to look up, by how the cache served them.",
        write: |metric, report, labels| metric.table(labels, "status", &report.cache),
    },
    OfProject {
        name: "resolver_requests_total",
        kind: "counter",
        help: "Look-ups at the resolver, by outcome.",
        write: |metric, report, labels| {
            metric.table(labels, "outcome", &report.resolver.requests);
        },
    },
    OfProject {
        name: "resolver_request_duration_seconds",
        kind: "histogram",
        help: "Time that look-ups at the resolver took.",
        write: |metric, report, labels| {
            metric.histogram(labels, &report.resolver.latency);
        },
    },
    OfProject {
        name: "resolver_inflight",
        kind: "gauge",
        help: "Look-ups at the resolver that are under way.",
        write: |metric, report, labels| metric.sample("", labels, report.resolver.inflight),
    },
    OfProject {
        name: "resolver_failing",
        kind: "gauge",
        help: "1 if the last look-up at the resolver failed.",
        write: |metric, report, labels| {
            let failing = report.resolver.outage.is_some_and(|outage| outage.failing);
            metric.sample("", labels, u8::from(failing));
        },
    },
    OfProject {
        name: "resolver_connections_total",
        kind: "counter",
        help: "Connections to the resolver that were made, or used again.",
        write: |metric, report, labels| {
            let connections = report.resolver.connections;
            for (state, n) in [("opened", connections.opened), ("reused", connections.reused)] {
                metric.sample("", &[labels, &[("state", state)]].concat(), n);
            }
        },
    },
    OfProject {
        name: "jwks_fetch_total",
        kind: "counter",
        help: "Fetches of keys, by outcome.",
        write: |metric, report, labels| metric.table(labels, "outcome", &report.jwks.fetches),
    },
    OfProject {
        name: "jwks_last_success_timestamp_seconds",
        kind: "gauge",
        help: "When keys were fetched last.",
        write: |metric, report, labels| {
            if let Some(time) = report.jwks.last_success {
                metric.sample("", labels, time);
            }
        },
    },
    OfProject {
        name: "jwks_keys",
        kind: "gauge",
        help: "Keys that tokens are verified with.",
        write: |metric, report, labels| metric.sample("", labels, report.jwks.keys),
    },
    OfProject {
        name: "jwt_verifications_total",
        kind: "counter",
        help: "Tokens that were looked into, by result and reason.",
        write: |metric, report, labels| {
            for (reason, n) in &report.jwt_verifications.0 {
                let result = if *reason == "ok" { "valid" } else { "invalid" };
                let own = [("result", result), ("reason", *reason)];
                metric.sample("", &[labels, &own].concat(), n);
            }
        },
    },
];
