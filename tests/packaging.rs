//! Dashboard and alert rules use only metrics that exist.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::{get, Backend, FakeAuthgear, Redis, User};

use crate::status::{counted, prometheus};

fn file(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    fs::read_to_string(folder.join(name)).expect("the file")
}

/// Names of the module's metrics in a text.
fn names(text: &str) -> BTreeSet<String> {
    const PREFIX: &str = "nginx_authgear_";
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    text.match_indices(PREFIX)
        .map(|(at, _)| text[at..].chars().take_while(|&c| is_name(c)).collect())
        .collect()
}

/// Metric names in a scrape, including the series of histograms.
fn scraped() -> BTreeSet<String> {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let nginx = counted(&authgear, &backend, "")
        .server("authgear_status_zone site;")
        .secret_file("fleet.secret", crate::fleet::SECRET)
        .http(format!("authgear_fleet {} secret=fleet.secret;", redis.url()))
        .start();
    crate::fleet::wait_in_sync(&nginx);
    let token = authgear.opaque_token(&User::named("alice"));
    assert_eq!(get(&nginx, "/").bearer(&token).send().status, 200);
    let text = prometheus(&nginx);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let typed = types.filter_map(|line| line.split(' ').next().map(str::to_owned));
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let sampled = samples.flat_map(|line| names(line).into_iter().take(1));
    typed.chain(sampled).collect()
}

#[test]
fn metrics_in_dashboard_and_alerts_exist() {
    let scraped = scraped();
    for name in ["grafana-dashboard.json", "prometheus-alerts.yml"] {
        let asked = names(&file(name));
        assert!(asked.len() > 5, "{name}");
        let unknown: Vec<_> = asked.difference(&scraped).collect();
        assert!(unknown.is_empty(), "{name} asks for {unknown:?}, there are {scraped:?}");
    }
    // The dashboard uses all metrics.
    let shown = names(&file("grafana-dashboard.json"));
    let is_shown = |name: &&String| {
        shown.contains(*name)
            || ["_bucket", "_sum", "_count"]
                .iter()
                .any(|part| shown.contains(&format!("{name}{part}")))
    };
    let missing: Vec<_> = scraped.iter().filter(|name| !is_shown(name)).collect();
    assert!(missing.is_empty(), "the dashboard does not show {missing:?}");
}

#[test]
fn every_metric_is_documented() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let text = fs::read_to_string(folder.join("operating.md")).expect("operating.md");
    let documented = names(&text);
    let parts = ["_bucket", "_sum", "_count"];
    let reported: BTreeSet<_> = scraped()
        .into_iter()
        .map(|name| {
            let part = parts.iter().find_map(|part| name.strip_suffix(part)).map(str::to_owned);
            part.unwrap_or(name)
        })
        .collect();
    assert_eq!(documented, reported);
}

#[test]
fn the_dashboard_is_well_formed() {
    let dashboard: Value = serde_json::from_str(&file("grafana-dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().filter_map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty(), "{title}");
        for target in targets {
            let query = target["expr"].as_str().expect("a query");
            let balanced = |open: char, close: char| {
                query.matches(open).count() == query.matches(close).count()
            };
            assert!(balanced('(', ')') && balanced('{', '}') && balanced('[', ']'), "{query}");
        }
    }
}

#[test]
fn every_alert_has_a_description() {
    let rules = file("prometheus-alerts.yml");
    let alerts: Vec<&str> = rules.split("- alert: ").skip(1).collect();
    let names: BTreeSet<_> = alerts.iter().filter_map(|alert| alert.lines().next()).collect();
    assert_eq!(names.len(), alerts.len());
    for alert in alerts {
        for part in ["expr:", "severity:", "summary:", "description:"] {
            assert!(alert.contains(part), "{part} in {alert}");
        }
    }
}

/// Series of a healthy site, of one failure, of outages and of old keys, and the alerts that fire.
#[test]
fn alerts_fire_in_outages_and_not_for_good_after_one_failure() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let promtool = |arguments: &[&str]| {
        let output = Command::new(root.join("build/promtool"))
            .args(arguments)
            .current_dir(&root)
            .output()
            .unwrap_or_else(|error| panic!("promtool: {error} (\"make clients\" unpacks it)"));
        let text =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{}", text.concat());
        text.concat()
    };
    let checked = promtool(&["check", "rules", "packaging/prometheus-alerts.yml"]);
    let rules = file("prometheus-alerts.yml").matches("- alert: ").count();
    assert!(checked.contains(&format!("{rules} rules found")), "{checked}");
    promtool(&["test", "rules", "tests/alerts/series.yml"]);
}
