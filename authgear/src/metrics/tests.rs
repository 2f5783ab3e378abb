use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::identity::Identity;
use crate::shared::zone::Stats;
use crate::verdict::{NoSession, Unavailable};

const SECOND: Duration = Duration::from_secs(1);

type TestMetrics = Metrics<Vec<ProjectMetrics>>;

fn metrics() -> TestMetrics {
    Metrics::new((0..SLOTS).map(|_| ProjectMetrics::new()).collect())
}

fn report(metrics: &TestMetrics, names: &[&str]) -> Report {
    Report {
        build: Build { version: "0.1.0", nginx: "1.22.1".to_owned() },
        host: "host.test".to_owned(),
        workers: 4,
        started: 1_690_000_000,
        time: 1_700_000_000,
        recent_seconds: 300,
        recent_step: STEP,
        projects: metrics.projects(names.iter().copied()),
        zones: vec![ZoneReport::new(
            "z",
            Stats { entries: 3, chunks: 10, chunks_free: 4, evictions: 7 },
        )],
        locations: metrics.locations(["front"].into_iter()),
        purges: metrics.purges(),
        webhook_events: metrics.events(),
        revocations: 2,
        fleet: Some(metrics.fleet.report(true, 3, -2000)),
    }
}

fn one(metrics: &TestMetrics) -> ProjectReport {
    metrics.projects(["p"].into_iter()).remove(0)
}

/// Returns the value of a sample from the text.
fn sample(text: &str, name: &str) -> Option<String> {
    let name = format!("nginx_authgear_{name} ");
    let line = text.lines().find(|line| line.starts_with(&name))?;
    line.strip_prefix(&name).map(str::to_owned)
}

#[test]
fn each_project_has_its_own_slot_until_all_are_taken() {
    let metrics = &metrics();
    let names: Vec<String> = (0..PROJECTS + 3).map(|n| format!("project-{n}")).collect();
    for name in &names {
        let slot = metrics.slot(name);
        assert_eq!(slot, metrics.slot(name), "{name}");
        metrics.at(slot).request(Mode::Resolver, Access::Allow);
    }
    let reports = metrics.projects(names.iter().map(String::as_str));
    let told: Vec<_> = reports
        .iter()
        .map(|report| (report.name.as_str(), report.requests.0[0].1.get("allow")))
        .collect();
    let mut expected: Vec<_> = names[..PROJECTS].iter().map(|name| (name.as_str(), 1)).collect();
    expected.push(("(other)", 3));
    assert_eq!(told, expected);
}

#[test]
fn every_counter_is_in_the_prometheus_report() {
    let metrics = &metrics();
    let p = metrics.at(metrics.slot("p"));
    for (n, &mode) in Mode::ALL.iter().enumerate() {
        for (m, &access) in Access::ALL.iter().enumerate() {
            (0..=n * 10 + m).for_each(|_| p.request(mode, access));
        }
    }
    for (n, &status) in CacheStatus::ALL.iter().enumerate() {
        (0..=n).for_each(|_| p.cache(status));
    }
    p.denied(Reason::RoleMissing, false);
    p.denied(Reason::NoSession, true);
    p.failed(Reason::Timeout);
    metrics.located(metrics.location("front"), Access::Deny);
    p.ended(Reason::SessionInvalid);
    p.failure_mode_allowed();
    p.connection(ConnectionState::Opened);
    p.connection(ConnectionState::Reused);
    p.connection(ConnectionState::Reused);
    p.fetched(Some(3), 1_600_000_000);
    p.fetched(None, 1_600_000_300);
    p.verified(Reason::Ok);
    p.verified(Reason::TokenExpired);
    metrics.purged(PurgeKind::Caller);
    metrics.event(EventOutcome::Forged);
    metrics.fleet.event(FleetEvent::Own);
    metrics.fleet.applied(Duration::from_millis(2));
    metrics.fleet.applied(Duration::from_secs(20));
    metrics.fleet.lost(FleetLoss::Gone);
    metrics.fleet.connection(FleetConnection::Broken);
    metrics.fleet.synced(1_650_000_000);
    metrics.fleet.cache(FleetCache::Follow);
    metrics.fleet.command(Duration::from_millis(2));
    let text = report(metrics, &["p"]).prometheus();
    let mut expected = vec![
        ("build_info{version=\"0.1.0\",nginx=\"1.22.1\"}".to_owned(), 1),
        ("denied_total{project=\"p\",reason=\"role_missing\"}".to_owned(), 1),
        ("dry_run_denied_total{project=\"p\",reason=\"no_session\"}".to_owned(), 1),
        ("errors_total{project=\"p\",reason=\"timeout\"}".to_owned(), 1),
        ("location_requests_total{status_zone=\"front\",result=\"deny\"}".to_owned(), 1),
        ("location_requests_total{status_zone=\"front\",result=\"allow\"}".to_owned(), 0),
        ("ended_total{project=\"p\",reason=\"session_invalid\"}".to_owned(), 1),
        ("failure_mode_allowed_total{project=\"p\"}".to_owned(), 1),
        ("resolver_connections_total{project=\"p\",state=\"opened\"}".to_owned(), 1),
        ("resolver_connections_total{project=\"p\",state=\"reused\"}".to_owned(), 2),
        ("jwks_fetch_total{project=\"p\",outcome=\"ok\"}".to_owned(), 1),
        ("jwks_fetch_total{project=\"p\",outcome=\"error\"}".to_owned(), 1),
        ("jwks_last_success_timestamp_seconds{project=\"p\"}".to_owned(), 1_600_000_000),
        ("jwks_keys{project=\"p\"}".to_owned(), 3),
        ("jwt_verifications_total{project=\"p\",result=\"valid\",reason=\"ok\"}".to_owned(), 1),
        (
            "jwt_verifications_total{project=\"p\",result=\"invalid\",reason=\"token_expired\"}"
                .to_owned(),
            1,
        ),
        ("cache_entries{zone=\"z\"}".to_owned(), 3),
        ("cache_bytes{zone=\"z\"}".to_owned(), 6 * 256),
        ("cache_size_bytes{zone=\"z\"}".to_owned(), 10 * 256),
        ("cache_evictions_total{zone=\"z\"}".to_owned(), 7),
        ("purges_total{what=\"self\"}".to_owned(), 1),
        ("purges_total{what=\"all\"}".to_owned(), 0),
        ("webhook_events_total{outcome=\"forged\"}".to_owned(), 1),
        ("revocations".to_owned(), 2),
        ("fleet_in_sync".to_owned(), 1),
        ("fleet_last_sync_timestamp_seconds".to_owned(), 1_650_000_000),
        ("fleet_ring_waiting".to_owned(), 3),
        ("fleet_events_total{what=\"own\"}".to_owned(), 1),
        ("fleet_events_total{what=\"applied\"}".to_owned(), 2),
        ("fleet_losses_total{reason=\"gone\"}".to_owned(), 1),
        ("fleet_connections_total{outcome=\"broken\"}".to_owned(), 1),
        ("fleet_cache_requests_total{outcome=\"follow\"}".to_owned(), 1),
        ("fleet_cache_requests_total{outcome=\"hit\"}".to_owned(), 0),
        ("fleet_command_duration_seconds_bucket{le=\"0.0025\"}".to_owned(), 1),
        ("fleet_event_delay_seconds_bucket{le=\"0.001\"}".to_owned(), 0),
        ("fleet_event_delay_seconds_bucket{le=\"0.0025\"}".to_owned(), 1),
        ("fleet_event_delay_seconds_bucket{le=\"+Inf\"}".to_owned(), 2),
    ];
    for (n, mode) in ["resolver", "jwt", "auto"].into_iter().enumerate() {
        for (m, access) in ["allow", "anonymous", "deny", "error"].into_iter().enumerate() {
            let name =
                format!("requests_total{{project=\"p\",mode=\"{mode}\",result=\"{access}\"}}");
            expected.push((name, n * 10 + m + 1));
        }
    }
    let statuses = ["hit", "miss", "expired", "stale", "updating", "joined", "shared", "bypass"];
    for (n, status) in statuses.into_iter().enumerate() {
        let name = format!("cache_requests_total{{project=\"p\",status=\"{status}\"}}");
        expected.push((name, n + 1));
    }
    for (name, value) in expected {
        assert_eq!(sample(&text, &name), Some(value.to_string()), "{name}\n{text}");
    }
}

#[test]
fn look_ups_are_reported_by_outcome_and_duration() {
    let metrics = &metrics();
    let p = metrics.at(metrics.slot("p"));
    let first = p.asking(Some(3));
    let second = p.asking(Some(WORKERS - 1));
    // Workers beyond the maximum are not counted.
    drop(p.asking(Some(WORKERS)));
    drop(p.asking(None));
    assert_eq!(one(metrics).resolver.inflight, 2);
    drop(first);
    assert_eq!(one(metrics).resolver.inflight, 1);
    // The worker died, and its successor starts.
    metrics.worker_begins(WORKERS - 1);
    assert_eq!(one(metrics).resolver.inflight, 0);
    drop(second);
    assert_eq!(one(metrics).resolver.inflight, 0, "never below zero");

    let valid = Verdict::Valid(Identity::default());
    let micros = Duration::from_micros;
    for (verdict, took) in [
        (&valid, micros(0)),
        (&valid, micros(1_000)),
        (&valid, micros(1_001)),
        (&Verdict::Invalid, micros(2_500)),
        (&Verdict::None(NoSession::Resolver), micros(9_999_999)),
        (&Verdict::Unavailable(Unavailable::Timeout), micros(10_000_001)),
        (&Verdict::Unavailable(Unavailable::Dns), Duration::MAX),
    ] {
        p.asked(verdict, took, 1_000);
    }
    p.left_alone(&Verdict::Unavailable(Unavailable::Suspended));
    let resolver = one(metrics).resolver;
    for (outcome, n) in [
        ("valid", 3),
        ("invalid", 1),
        ("none", 1),
        ("timeout", 1),
        ("dns_error", 1),
        ("resolver_suspended", 1),
        ("bad_status", 0),
    ] {
        assert_eq!(resolver.requests.get(outcome), n, "{outcome}");
    }
    let counts: Vec<u64> = resolver.latency.buckets.iter().map(|bucket| bucket.count).collect();
    assert_eq!(counts, [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(resolver.latency.count, 7);
}

#[test]
fn the_prometheus_histogram_is_cumulative() {
    let metrics = &metrics();
    let p = metrics.at(metrics.slot("p"));
    for millis in [1, 1, 3, 40, 400, 20_000] {
        p.asked(&Verdict::Invalid, Duration::from_millis(millis), 0);
    }
    let text = report(metrics, &["p"]).prometheus();
    let name = "resolver_request_duration_seconds";
    for (le, n) in
        [("0.001", 2), ("0.0025", 2), ("0.005", 3), ("0.05", 4), ("0.5", 5), ("10", 5), ("+Inf", 6)]
    {
        let bucket = format!("{name}_bucket{{project=\"p\",le=\"{le}\"}}");
        assert_eq!(sample(&text, &bucket), Some(n.to_string()), "{bucket}");
    }
    assert_eq!(sample(&text, &format!("{name}_sum{{project=\"p\"}}")).as_deref(), Some("20.445"));
    assert_eq!(sample(&text, &format!("{name}_count{{project=\"p\"}}")).as_deref(), Some("6"));
}

#[test]
fn an_outage_is_reported_during_and_after_it() {
    let metrics = &metrics();
    let p = metrics.at(metrics.slot("p"));
    let told = || one(metrics).resolver.outage.map(|o| (o.failing, o.since, o.last, o.reason));
    p.asked(&Verdict::Invalid, SECOND, 100);
    assert_eq!(told(), None);
    p.asked(&Verdict::Unavailable(Unavailable::Connect), SECOND, 110);
    p.asked(&Verdict::Unavailable(Unavailable::Timeout), SECOND, 115);
    assert_eq!(told(), Some((true, 110, 115, "timeout")));
    p.asked(&Verdict::Invalid, SECOND, 120);
    assert_eq!(told(), Some((false, 110, 115, "timeout")));
    p.asked(&Verdict::Unavailable(Unavailable::Tls), SECOND, 130);
    assert_eq!(told(), Some((true, 130, 130, "tls_error")));
}

#[test]
fn concurrent_counts_are_not_lost() {
    const EACH: u64 = 20_000;
    let metrics = &metrics();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let p = metrics.at(metrics.slot("p"));
                for _ in 0..EACH {
                    let _in_flight = p.asking(Some(1));
                    p.request(Mode::Auto, Access::Deny);
                    p.asked(&Verdict::Invalid, Duration::from_micros(5), 1);
                }
            });
        }
    });
    let report = one(metrics);
    assert_eq!(report.requests.get_mode("auto").get("deny"), 4 * EACH);
    assert_eq!(report.resolver.latency.count, 4 * EACH);
    assert_eq!(report.resolver.inflight, 0);
    let sum = 4.0 * EACH as f64 * 5e-6;
    assert!((report.resolver.latency.sum - sum).abs() < 1e-9);
}

impl LabelTable<LabelTable> {
    fn get_mode(&self, mode: &str) -> &LabelTable {
        &self.0.iter().find(|(own, _)| *own == mode).expect("a mode").1
    }
}

#[test]
fn recent_counters_are_those_of_the_last_five_minutes() {
    let metrics = &metrics();
    metrics.remember(1_000);
    let p = metrics.at(metrics.slot("p"));
    let valid = Verdict::Valid(Identity::default());
    let failed = Verdict::Unavailable(Unavailable::Timeout);
    // In step n, n requests are allowed; one is denied, and one fails, in each third step.
    for n in 0..40_u64 {
        (0..n).for_each(|_| p.request(Mode::Auto, Access::Allow));
        if n % 3 == 0 {
            p.request(Mode::Jwt, Access::Deny);
            p.request(Mode::Resolver, Access::Error);
            p.cache(CacheStatus::Miss);
            p.asked(&failed, SECOND, 0);
        }
        p.cache(CacheStatus::Hit);
        p.cache(CacheStatus::Bypass);
        p.asked(&valid, Duration::from_millis(2), 0);
        let now = 1_000 + STEP * (n + 1);
        // One worker of several takes the snapshot, and none before it is due.
        metrics.remember(now - 1);
        metrics.remember(now);
        metrics.remember(now);
    }
    let now = 1_000 + STEP * 40;
    assert_eq!(metrics.remembered(now), 300);
    let recent = one(metrics).recent;
    // Steps 20 to 39, and the one that has just begun.
    assert_eq!(recent.series.requests.len(), STEPS + 1);
    assert_eq!(recent.requests.get("allow"), (20..40).sum::<u64>());
    assert_eq!(recent.requests.get("deny"), 7);
    assert_eq!(recent.requests.get("error"), 7);
    assert_eq!((recent.cache.served, recent.cache.asked), (20, 27));
    assert_eq!((recent.lookups[1], recent.lookups[9], recent.failed), (20, 7, 7));
    assert_eq!(recent.series.requests[..4], [20, 23, 22, 23]);
    assert_eq!(recent.series.denied[..4], [0, 1, 0, 0]);
    assert_eq!(recent.series.errors[..4], [0, 1, 0, 0]);
    assert_eq!(recent.series.lookups[..4], [1, 2, 1, 1]);
    p.request(Mode::Jwt, Access::Allow);
    assert_eq!(one(metrics).recent.series.requests[STEPS], 1);
}

#[test]
fn recent_counters_of_a_new_start_are_all() {
    let metrics = &metrics();
    assert_eq!(metrics.remembered(7), 0);
    metrics.remember(7);
    metrics.at(metrics.slot("p")).request(Mode::Jwt, Access::Anonymous);
    assert_eq!(metrics.remembered(9), 2);
    let recent = one(metrics).recent;
    assert_eq!(recent.requests.get("anonymous"), 1);
    assert_eq!(recent.series.requests, [1]);
}

#[test]
fn an_outage_of_keys_is_reported_during_and_after_it() {
    let metrics = &metrics();
    let p = metrics.at(metrics.slot("p"));
    let told = || one(metrics).jwks.outage.map(|outage| (outage.since, outage.last));
    p.fetched(Some(1), 100);
    assert_eq!(told(), None);
    p.fetched(None, 110);
    p.fetched(None, 120);
    assert_eq!(told(), Some((Some(110), 120)));
    p.fetched(Some(1), 130);
    assert_eq!(told(), Some((None, 120)));
}

#[test]
fn each_status_zone_has_its_own_slot_until_all_are_taken() {
    let metrics = &metrics();
    let names: Vec<String> = (0..LOCATIONS + 2).map(|n| format!("zone-{n}")).collect();
    for name in &names {
        metrics.located(metrics.location(name), Access::Allow);
        assert_eq!(metrics.location(name), metrics.location(name));
    }
    let reports = metrics.locations(names.iter().map(String::as_str));
    assert_eq!(reports.len(), LOCATIONS + 1);
    let told = reports.iter().map(|report| report.requests.get("allow"));
    let expected = std::iter::repeat_n(1, LOCATIONS).chain([2]);
    assert!(told.eq(expected));
    assert_eq!(reports[LOCATIONS].name, "(other)");
}

#[test]
fn the_json_has_what_the_page_reads() {
    let metrics = &metrics();
    metrics.at(metrics.slot("p")).asked(&Verdict::Unavailable(Unavailable::Tls), SECOND, 7);
    let json: serde_json::Value =
        serde_json::from_str(&report(metrics, &["p"]).json()).expect("JSON");
    for (pointer, value) in [
        ("/projects/0/name", serde_json::json!("p")),
        ("/projects/0/requests/resolver/allow", serde_json::json!(0)),
        ("/projects/0/cache/hit", serde_json::json!(0)),
        ("/projects/0/resolver/requests/tls_error", serde_json::json!(1)),
        ("/projects/0/resolver/latency/buckets/9/count", serde_json::json!(1)),
        ("/projects/0/resolver/latency/buckets/13/le", serde_json::Value::Null),
        ("/projects/0/resolver/outage/reason", serde_json::json!("tls_error")),
        ("/projects/0/jwks/last_success", serde_json::Value::Null),
        ("/zones/0/bytes", serde_json::json!(1536)),
        ("/webhook_events/handled", serde_json::json!(0)),
    ] {
        assert_eq!(json.pointer(pointer), Some(&value), "{pointer}");
    }
}

#[test]
fn the_page_escapes_names_and_loads_nothing_from_elsewhere() {
    let metrics = &metrics();
    let name = "</script><script>alert(1)</script><!--";
    let page = report(metrics, &[name]).page();
    let scripts = page.html.matches("<script").count();
    assert_eq!((scripts, page.html.matches("</script").count()), (2, 2), "{}", page.html);
    assert!(!page.html.contains("<!--"));
    // Resources of other origins would have a URL.
    assert_eq!(page.html.replace("http://www.w3.org/2000/svg", "").matches("//www").count(), 0);
    assert!(!page.html.contains("src=") && !page.html.contains("style="));
    for directive in ["default-src 'none'", "script-src 'sha256-", "style-src 'sha256-"] {
        assert!(page.policy.contains(directive), "{}", page.policy);
    }
    assert!(!page.policy.contains("unsafe"));
}

/// Colours of the page's style in light and in dark mode: red, green and blue from 0 to 1.
fn colours() -> [std::collections::HashMap<String, [f64; 3]>; 2] {
    let style = include_str!("page.css");
    let blocks: Vec<_> = style.split(":root {").skip(1).collect();
    let [light, dark] = blocks[..] else { panic!("one block for each mode") };
    [light, dark].map(|block| {
        let block = block.split('}').next().expect("a block");
        let lines = block.split(';').filter_map(|line| line.trim().strip_prefix("--"));
        let pairs = lines.map(|line| {
            let (name, value) = line.split_once(": #").expect("a colour");
            let part = |at: usize| u8::from_str_radix(&value[at..at + 2], 16).expect("hexadecimal");
            (name.to_owned(), [0, 2, 4].map(|at| f64::from(part(at)) / 255.0))
        });
        pairs.collect()
    })
}

/// Relative luminance (WCAG 2.2).
fn luminance(colour: [f64; 3]) -> f64 {
    let [red, green, blue] = colour.map(|part| match part {
        part if part <= 0.04045 => part / 12.92,
        part => ((part + 0.055) / 1.055).powf(2.4),
    });
    0.2126 * red + 0.7152 * green + 0.0722 * blue
}

/// Contrast of text as WCAG 2.2 level AA asks: 4.5 to 1, and 3 to 1 for graphics.
#[test]
fn the_page_has_enough_contrast() {
    for (mode, colours) in ["light", "dark"].into_iter().zip(colours()) {
        let contrast = |one: &str, other: &str| {
            let [one, other] = [one, other].map(|name| luminance(colours[name]));
            (one.max(other) + 0.05) / (one.min(other) + 0.05)
        };
        for text in ["text", "faint", "accent", "good", "warn", "bad", "rest"] {
            for ground in ["card", "ground"] {
                let found = contrast(text, ground);
                assert!(found >= 4.5, "{text} on {ground}, {mode}: {found:.2}");
            }
            let found = contrast(text, "track");
            assert!(found >= 3.0, "{text} on track, {mode}: {found:.2}");
        }
    }
    assert!((luminance([1.0; 3]) - 1.0).abs() < 1e-9 && luminance([0.0; 3]) == 0.0);
}

type Sample = (String, Vec<(String, String)>, f64);

/// Parses the line of a sample by the rules of the format.
fn parse(line: &str) -> Option<Sample> {
    let name_ends = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_ends);
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"")?;
            let mut value = String::new();
            let mut chars = after.char_indices();
            let end = loop {
                match chars.next()? {
                    (_, '\\') => value.push(match chars.next()?.1 {
                        'n' => '\n',
                        c @ ('\\' | '"') => c,
                        _ => return None,
                    }),
                    (at, '"') => break at,
                    (_, c) => value.push(c),
                }
            };
            labels.push((label.to_owned(), value));
            rest = &after[end + 1..];
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break rest = rest.strip_prefix('}')?,
            }
        }
    }
    Some((name.to_owned(), labels, rest.strip_prefix(' ')?.parse().ok()?))
}

proptest! {
    #[test]
    fn any_project_name_is_escaped_in_the_prometheus_report(name in "\\PC{0,20}|[\\\\\"\n{}, =]{0,12}") {
        let metrics = &metrics();
        metrics.at(metrics.slot(&name)).request(Mode::Jwt, Access::Deny);
        let text = report(metrics, &[&name]).prometheus();
        let mut typed = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.split(' ');
                if words.next() == Some("TYPE") {
                    prop_assert!(typed.insert(words.next().expect("a name").to_owned()));
                }
                continue;
            }
            let parsed = parse(line);
            prop_assert!(parsed.is_some(), "{}", line);
            let (metric, labels, _) = parsed.expect("a sample");
            prop_assert!(seen.insert((metric.clone(), labels.clone())), "twice: {}", line);
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| metric.strip_suffix(s));
            prop_assert!(typed.contains(&metric) || family.is_some_and(|f| typed.contains(f)));
            for (_, project) in labels.iter().filter(|(label, _)| label == "project") {
                prop_assert_eq!(project, &name);
            }
        }
    }
}
