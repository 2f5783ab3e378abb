//! Counters over all workers, and their formats.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;
use support::{
    eventually, get, Backend, Builder, Connection, FakeAuthgear, Fault, Gate, Nginx, User, DEADLINE,
};

use crate::project::project;
use crate::site::site;

/// A project `p` with a cache, and the counters at `/status`.
pub(crate) fn counted(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    site(authgear, backend)
        .workers(4)
        .http("authgear_cache_zone z:1m;")
        .http(project("p", authgear, settings))
        .server("authgear p; authgear_cache z;")
        .server("location / { proxy_pass http://%%BACKEND%%; }")
        .server("location = /status { authgear off; authgear_status; }")
}

/// The counters as JSON.
#[track_caller]
pub(crate) fn status(nginx: &Nginx) -> Value {
    let answer = get(nginx, "/status").send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// The counters for Prometheus.
#[track_caller]
pub(crate) fn prometheus(nginx: &Nginx) -> String {
    let answer = get(nginx, "/status?format=prometheus").send();
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

#[track_caller]
fn assert_numbers(nginx: &Nginx, expected: &[(&str, u64)]) {
    let status = status(nginx);
    for (pointer, number) in expected {
        assert_eq!(status.pointer(pointer), Some(&Value::from(*number)), "{pointer}: {status}");
    }
}

#[test]
fn each_status_format_has_its_type_and_is_not_cached() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "").start();
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
    let asked = |target: &str, accept: &str| {
        let request = get(&nginx, target);
        if accept.is_empty() {
            request
        } else {
            request.header("Accept", accept)
        }
    };
    for (request, content_type) in [
        (asked("/status", ""), "application/json"),
        (asked("/status", "*/*"), "application/json"),
        (asked("/status", browser), "text/html; charset=utf-8"),
        (
            asked("/status", "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"),
            "text/plain; version=0.0.4; charset=utf-8",
        ),
        (asked("/status?format=json", browser), "application/json"),
        (asked("/status?format=html", ""), "text/html; charset=utf-8"),
    ] {
        let answer = request.send();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type").as_deref(), Some(content_type), "{request:?}");
        assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
        assert_eq!(answer.header("x-content-type-options").as_deref(), Some("nosniff"));
        let length = answer.header("content-length").expect("a length");
        assert_eq!(length, answer.body.len().to_string());
        let head = request.method("HEAD").send();
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-type").as_deref(), Some(content_type));
    }
    assert_eq!(asked("/status?format=xml", "").send().status, 400);
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = asked("/status", "").method(method).body("body").send();
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.header("allow").as_deref(), Some("GET, HEAD"), "{method}");
    }
}

#[test]
fn requests_are_counted_by_outcome() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "max_fails 0;")
        .server(
            "location /users/ { authgear_require session; proxy_pass http://%%BACKEND%%; }
             location /admin/ { authgear_require role=admin; proxy_pass http://%%BACKEND%%; }
             location /dry/ { authgear_require role=admin; authgear_dry_run on;
                              proxy_pass http://%%BACKEND%%; }
             location /any/ { authgear_on_error anonymous; proxy_pass http://%%BACKEND%%; }
             location /fresh/ { authgear_cache off; proxy_pass http://%%BACKEND%%; }
             location /off/ { authgear off; proxy_pass http://%%BACKEND%%; }
             location /index/ { try_files /nothing /users/; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice").roles(&["editor"]));
    let alice = |path: &str| get(&nginx, path).bearer(&token).send().status;
    assert_eq!(alice("/"), 200);
    for _ in 0..4 {
        assert_eq!(alice("/users/"), 200);
    }
    for _ in 0..3 {
        assert_eq!(alice("/admin/"), 403);
    }
    for _ in 0..2 {
        assert_eq!(alice("/dry/"), 200);
    }
    assert_eq!(alice("/fresh/"), 200);
    // One request, one decision that counts.
    assert_eq!(alice("/index/"), 200);
    assert_eq!(get(&nginx, "/").send().status, 200);
    assert_eq!(get(&nginx, "/off/").send().status, 200);
    for _ in 0..5 {
        assert_eq!(get(&nginx, "/users/").send().status, 401);
    }
    authgear.inject(Fault::Status(500));
    let other = authgear.opaque_token(&User::named("bob"));
    for (path, status) in [("/", 503), ("/users/", 503), ("/any/", 200)] {
        assert_eq!(get(&nginx, path).bearer(&other).send().status, status, "{path}");
    }
    let p = "/projects/0";
    assert_numbers(
        &nginx,
        &[
            (&format!("{p}/requests/resolver/allow"), 1 + 4 + 2 + 1 + 1),
            (&format!("{p}/requests/resolver/anonymous"), 2),
            (&format!("{p}/requests/resolver/deny"), 3 + 5),
            (&format!("{p}/requests/resolver/error"), 2),
            (&format!("{p}/requests/jwt/allow"), 0),
            (&format!("{p}/denied/role_missing"), 3),
            (&format!("{p}/denied/no_credentials"), 5),
            (&format!("{p}/errors/bad_status"), 2),
            (&format!("{p}/dry_run_denied/role_missing"), 2),
            (&format!("{p}/failure_mode_allowed"), 1),
            (&format!("{p}/cache/hit"), 4 + 3 + 2 + 1),
            (&format!("{p}/cache/miss"), 1 + 3),
            (&format!("{p}/cache/bypass"), 1),
            (&format!("{p}/resolver/requests/valid"), 2),
            (&format!("{p}/resolver/requests/bad_status"), 3),
            (&format!("{p}/resolver/latency/count"), 5),
            (&format!("{p}/resolver/inflight"), 0),
            ("/zones/0/entries", 2),
        ],
    );
    let p = &status(&nginx)["projects"][0];
    assert_eq!(p["denied"].get("bad_status"), None, "{p}");
    let sum = |table: &Value| table.as_object().expect("a table").values().map(number).sum::<u64>();
    assert_eq!(sum(&p["denied"]), number(&p["requests"]["resolver"]["deny"]));
    assert_eq!(sum(&p["errors"]), number(&p["requests"]["resolver"]["error"]));
    let outage = &p["resolver"]["outage"];
    assert_eq!((&outage["failing"], &outage["reason"]), (&true.into(), &"bad_status".into()));
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

#[test]
fn status_zones_count_a_request_once_for_the_first_location_that_decides() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "max_fails 0;")
        .server(
            "authgear_status_zone site;
             location /users/ { authgear_require session; proxy_pass http://%%BACKEND%%; }
             location /admin/ {
               authgear_status_zone admin; authgear_require role=admin;
               proxy_pass http://%%BACKEND%%; error_page 403 /users/;
             }
             location /unnamed/ { authgear_status_zone off; try_files /nothing /users/; }
             location /off/ { authgear off; try_files /nothing /users/; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let alice = |path: &str| get(&nginx, path).bearer(&token).send().status;
    assert_eq!((alice("/"), alice("/users/"), alice("/admin/")), (200, 200, 403));
    assert_eq!(alice("/unnamed/"), 200);
    // Nothing decides before the redirect.
    assert_eq!(alice("/off/"), 200);
    assert_eq!(get(&nginx, "/").send().status, 200);
    assert_eq!(get(&nginx, "/users/").send().status, 401);
    authgear.inject(Fault::Status(500));
    let other = authgear.opaque_token(&User::named("bob"));
    assert_eq!(get(&nginx, "/admin/").bearer(&other).send().status, 503);
    let located = |name: &str, numbers: [u64; 4]| {
        let [allow, anonymous, deny, error] = numbers;
        serde_json::json!({ "name": name, "requests":
            { "allow": allow, "anonymous": anonymous, "deny": deny, "error": error } })
    };
    let expected = [located("admin", [0, 0, 1, 1]), located("site", [3, 1, 1, 0])];
    assert_eq!(status(&nginx)["locations"], Value::from(expected.to_vec()));
    assert!(prometheus(&nginx).contains(
        "nginx_authgear_location_requests_total{status_zone=\"site\",result=\"anonymous\"} 1\n"
    ));
    let recent = &status(&nginx)["projects"][0]["recent"];
    assert_eq!(
        recent["requests"],
        serde_json::json!(
        { "allow": 4, "anonymous": 1, "deny": 2, "error": 1 })
    );
    assert_eq!(number(&recent["failed"]), 1);
}

#[test]
fn names_of_status_zones_are_checked() {
    for (line, says) in [
        ("authgear_status_zone 'a b';", "invalid value \"a b\" in \"authgear_status_zone\""),
        ("authgear_status_zone;", "invalid number of arguments"),
        ("authgear_status_zone a; authgear_status_zone b;", "directive is duplicate"),
    ] {
        let test = Nginx::builder().server(line).check();
        assert!(!test.ok && test.output.contains(says), "{}", test.output);
    }
    let named = |count: usize| {
        let lines = (0..count).map(|n| format!("location /{n} {{ authgear_status_zone z{n}; }}"));
        Nginx::builder().server(lines.collect::<String>()).check()
    };
    assert!(named(128).ok);
    let many = named(129);
    assert!(many.output.contains("there is room for 128"), "{}", many.output);
}

/// 40 projects have numbers of their own.
#[test]
fn each_of_many_projects_has_its_own_numbers() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let mut builder = counted(&authgear, &backend, "");
    for n in 0..40 {
        builder = builder
            .http(project(&format!("p{n}"), &authgear, ""))
            .server(format!("location /{n} {{ authgear p{n}; proxy_pass http://%%BACKEND%%; }}"));
    }
    let nginx = builder.start();
    for n in 0..40 {
        assert_eq!(get(&nginx, &format!("/{n}")).send().status, 200);
    }
    let status = status(&nginx);
    let projects = status["projects"].as_array().expect("projects");
    assert_eq!(projects.len(), 41);
    for project in projects.iter().filter(|project| project["name"] != "p") {
        assert_eq!(project["requests"]["resolver"]["anonymous"], 1, "{project}");
    }
}

#[test]
fn key_fetches_and_token_verifications_are_counted() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "")
        .server(
            "location = /jwt { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }
             location = /auto { authgear_mode auto; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let alice = User::named("alice");
    let (token, expired) = (authgear.jwt(&alice), authgear.token(&alice).expires_in(-5).sign());
    let ask = |path: &str, token: &str| get(&nginx, path).bearer(token).send();
    let begun = support::unix_now() as u64;
    for _ in 0..3 {
        ask("/jwt", &token);
    }
    ask("/jwt", &expired);
    ask("/jwt", &expired);
    ask("/jwt", "opaque");
    // The first one is cached already, and the resolver decides about the second.
    ask("/auto", &token);
    ask("/auto", &authgear.opaque_token(&alice));
    assert_numbers(
        &nginx,
        &[
            ("/projects/0/requests/jwt/allow", 3),
            ("/projects/0/requests/jwt/anonymous", 3),
            ("/projects/0/requests/auto/allow", 2),
            ("/projects/0/jwt_verifications/ok", 1),
            ("/projects/0/jwt_verifications/token_expired", 2),
            ("/projects/0/jwt_verifications/token_malformed", 1),
            ("/projects/0/jwks/fetches/ok", 1),
            ("/projects/0/jwks/fetches/error", 0),
            ("/projects/0/jwks/keys", 1),
            ("/projects/0/resolver/requests/valid", 1),
        ],
    );
    let fetched = status(&nginx)["projects"][0]["jwks"]["last_success"].as_u64();
    assert!(fetched >= Some(begun - 2) && fetched <= Some(support::unix_now() as u64));
    let text = prometheus(&nginx);
    assert!(text.contains(
        "nginx_authgear_jwt_verifications_total{project=\"p\",result=\"invalid\",\
         reason=\"token_expired\"} 2\n"
    ));
}

#[test]
fn counters_survive_workers_and_reloads() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "").start();
    let token = authgear.opaque_token(&User::named("alice"));
    let ask = |n: usize| {
        for _ in 0..n {
            assert_eq!(get(&nginx, "/").bearer(&token).send().status, 200);
        }
    };
    let allowed = "/projects/0/requests/resolver/allow";
    ask(10);
    nginx.kill_worker(nginx.workers()[0]);
    assert_numbers(&nginx, &[(allowed, 10)]);
    ask(5);
    nginx.reload();
    assert_numbers(&nginx, &[(allowed, 15)]);
    // A project keeps its counters by name, whatever its settings.
    nginx.edit_conf(|conf| conf.replace("resolver_url", "cookie_prefix x_; resolver_url"));
    nginx.reload();
    ask(3);
    assert_numbers(&nginx, &[(allowed, 18), ("/projects/0/resolver/requests/valid", 2)]);
}

#[test]
fn the_in_flight_gauge_counts_look_ups_and_drops_those_of_a_dead_worker() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "max_connections 8;").workers(2).start();
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let pending: Vec<_> = (0..6)
        .map(|n| {
            let token = authgear.opaque_token(&User::named(&format!("user-{n}")));
            get(&nginx, "/").bearer(&token).start()
        })
        .collect();
    gate.wait_for_waiters(6);
    let inflight = || status(&nginx)["projects"][0]["resolver"]["inflight"].clone();
    assert_eq!(inflight(), 6);
    for worker in nginx.workers() {
        nginx.kill_worker(worker);
    }
    let gone = eventually(DEADLINE, || inflight() == 0);
    assert!(gone, "{} still under way", inflight());
    drop(pending);
    gate.open();
}

#[test]
fn connections_and_joined_requests_are_counted() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "").workers(1).start();
    let alice = User::named("alice");
    for _ in 0..3 {
        let token = authgear.opaque_token(&alice);
        assert_eq!(get(&nginx, "/").bearer(&token).send().status, 200);
    }
    let token = authgear.opaque_token(&alice);
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let pending: Vec<_> = (0..5).map(|_| get(&nginx, "/").bearer(&token).start()).collect();
    gate.wait_for_waiters(1);
    // The worker has read all five when it has answered a later one.
    assert_eq!(get(&nginx, "/").send().status, 200);
    gate.open();
    for pending in pending {
        assert_eq!(pending.wait().status, 200);
    }
    assert_numbers(
        &nginx,
        &[
            ("/projects/0/resolver/connections/opened", 1),
            ("/projects/0/resolver/connections/reused", 3),
            ("/projects/0/cache/joined", 4),
            ("/projects/0/cache/miss", 4),
        ],
    );
}

/// The status names no user, whatever was looked up.
#[test]
fn status_contains_nothing_about_users() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "").start();
    let alice = User::named("alice-who-is-known").roles(&["role-of-hers"]);
    let (token, session) = (authgear.opaque_token(&alice), authgear.session(&alice));
    let request = get(&nginx, "/path-of-hers").bearer(&token).cookie("session", &session);
    assert_eq!(request.send().status, 200);
    for form in ["json", "prometheus", "html"] {
        let text = get(&nginx, &format!("/status?format={form}")).send().text();
        for secret in [&alice.id, "role-of-hers", "path-of-hers", &token, &session, "127.0.0.1"] {
            // The name of the project is the test's own.
            assert!(!text.contains(secret), "{form} has {secret}");
        }
    }
}

#[test]
fn prometheus_client_parses_the_metrics() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "")
        .server("location /url { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }")
        .server("location /in { authgear_require role=a; proxy_pass http://%%BACKEND%%; }")
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    for path in ["/", "/", "/url", "/in"] {
        get(&nginx, path).bearer(&token).send();
    }
    let text = prometheus(&nginx);
    let script = "
import sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family.name
    assert family.type in ('counter', 'gauge', 'histogram'), (family.name, family.type)
    for sample in family.samples:
        print(sample.name, *('%s=%s' % label for label in sorted(sample.labels.items())), sample.value)
";
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    python.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("written");
    let output = python.wait_with_output().expect("python3");
    assert!(output.status.success(), "{text}");
    let read = String::from_utf8(output.stdout).expect("text");
    for line in [
        "nginx_authgear_requests_total mode=resolver project=p result=allow 2.0",
        "nginx_authgear_denied_total project=p reason=role_missing 1.0",
        "nginx_authgear_resolver_request_duration_seconds_count project=p 1.0",
        "nginx_authgear_resolver_request_duration_seconds_bucket le=+Inf project=p 1.0",
        "nginx_authgear_cache_entries zone=z",
    ] {
        assert!(read.contains(line), "{line} is not in\n{read}");
    }
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(read.lines().count(), samples);
}

/// Four connections to four workers, all of them busy.
#[test]
fn counters_are_exact_over_100_000_concurrent_requests() {
    const CLIENTS: usize = 4;
    const BATCHES: usize = 500;
    const BATCH: usize = 50;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "")
        .error_level("error")
        .http("access_log off; keepalive_requests 1000000;")
        .server("location /users { authgear_require session; empty_gif; }")
        .server("location /admin { authgear_require role=admin; empty_gif; }")
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    assert_eq!(get(&nginx, "/users").bearer(&token).send().status, 200);
    // Three admitted requests and two denied ones.
    let one = |path: &str, bearer: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\n{bearer}\r\n").into_bytes()
    };
    let bearer = format!("Authorization: Bearer {token}\r\n");
    let five: Vec<u8> = [
        one("/users", &bearer),
        one("/users", ""),
        one("/users", &bearer),
        one("/admin", &bearer),
        one("/users", &bearer),
    ]
    .concat();
    let batch = five.repeat(BATCH / 5);
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let (nginx, batch) = (&nginx, &batch);
            scope.spawn(move || {
                let mut connection = Connection::open(nginx);
                for _ in 0..BATCHES {
                    connection.write(batch);
                    for n in 0..BATCH {
                        let expected = [200, 401, 200, 403, 200][n % 5];
                        assert_eq!(connection.read_response("GET").status, expected);
                    }
                }
            });
        }
    });
    let fifth = (CLIENTS * BATCHES * BATCH / 5) as u64;
    assert_numbers(
        &nginx,
        &[
            ("/projects/0/requests/resolver/allow", 3 * fifth + 1),
            ("/projects/0/requests/resolver/deny", 2 * fifth),
            ("/projects/0/requests/resolver/anonymous", 0),
            ("/projects/0/denied/role_missing", fifth),
            ("/projects/0/denied/no_credentials", fifth),
            ("/projects/0/cache/hit", 4 * fifth),
            ("/projects/0/cache/miss", 1),
            ("/projects/0/resolver/requests/valid", 1),
        ],
    );
}
