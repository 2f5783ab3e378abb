//! The key set: one worker fetches it in the background for all workers, and never more often than
//! needed.

use std::thread;
use std::time::{Duration, Instant};

use support::{
    eventually, get, Backend, Builder, FakeAuthgear, Fault, Gate, Nginx, RefusedAddr, Request,
    SigningKey, User,
};

use crate::project::{project_site, verdict, TELLING};
use crate::site::site;

const JWKS: &str = "/oauth2/jwks";

fn verifying(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    project_site(authgear, backend, settings)
        .server("authgear p; authgear_mode jwt; location / { proxy_pass http://%%BACKEND%%; }")
}

fn with_key(authgear: &FakeAuthgear, nginx: &Nginx, n: usize) -> Request {
    let token = authgear.token(&User::named("alice")).key(&SigningKey::nth(n));
    get(nginx, "/").bearer(&token.sign())
}

#[track_caller]
fn until(request: &Request, expected: &str) {
    let mut last = String::new();
    let found = eventually(Duration::from_secs(20), || {
        last = verdict(&request.send());
        last == expected
    });
    assert!(found, "{expected:?} expected, last {last:?}");
}

#[test]
fn one_worker_fetches_the_keys_before_the_first_token() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = verifying(&authgear, &backend, "").workers(4).start();
    authgear.wait_for_jwks_hits(1);
    for _ in 0..40 {
        assert_eq!(verdict(&with_key(&authgear, &nginx, 0).send()), "valid ok jwt");
    }
    assert_eq!((authgear.jwks_hits(), authgear.hits()), (1, 0));
    let request = authgear.requests().into_iter().find(|request| request.target == JWKS);
    let request = request.expect("the request for keys");
    assert_eq!(request.method, "GET");
    let origin = authgear.origin().strip_prefix("http://").expect("an http origin");
    let mut names: Vec<_> = request.headers.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "host", "x-forwarded-host", "x-forwarded-proto"]);
    assert_eq!(request.header("host"), Some(origin));
    // A reload that changes nothing of the project fetches nothing.
    nginx.reload();
    for _ in 0..10 {
        assert_eq!(verdict(&with_key(&authgear, &nginx, 0).send()), "valid ok jwt");
    }
    assert_eq!(authgear.jwks_hits(), 1);
}

#[test]
fn keys_are_not_fetched_where_no_location_needs_them() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let check = verifying(&authgear, &backend, "").check();
    assert!(check.ok, "{}", check.output);
    let nginx = verifying(&authgear, &backend, "")
        .raw_conf(|conf| conf.replace("authgear_mode jwt", "authgear_mode resolver"))
        .start();
    assert_eq!(verdict(&with_key(&authgear, &nginx, 0).send()), "valid ok resolver");
    nginx.quit();
    assert_eq!(authgear.jwks_hits(), 0);
}

#[test]
fn keys_are_fetched_again_at_each_refresh() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = verifying(&authgear, &backend, "jwks_refresh 1s;").workers(3).start();
    let before = with_key(&authgear, &nginx, 0);
    assert_eq!(verdict(&before.send()), "valid ok jwt");
    // No token names the new key: only time brings it.
    authgear.publish_keys(&[SigningKey::nth(1)]);
    until(&before, "none token_unknown_key jwt");
    assert_eq!(verdict(&with_key(&authgear, &nginx, 1).send()), "valid ok jwt");
}

#[test]
fn key_rotation_under_load_rejects_no_valid_token() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = verifying(&authgear, &backend, "jwks_cooldown 10s;").workers(4).start();
    assert_eq!(verdict(&with_key(&authgear, &nginx, 0).send()), "valid ok jwt");
    let old: Vec<_> = (0..4).map(|_| with_key(&authgear, &nginx, 0)).collect();
    let new: Vec<_> = (0..4).map(|_| with_key(&authgear, &nginx, 1)).collect();
    authgear.publish_keys(&[SigningKey::nth(1), SigningKey::nth(0)]);
    thread::scope(|scope| {
        for request in old.iter().chain(&new) {
            scope.spawn(|| {
                for _ in 0..50 {
                    assert_eq!(verdict(&request.send()), "valid ok jwt");
                }
            });
        }
    });
    assert_eq!(authgear.jwks_hits(), 2);
}

#[test]
fn a_thousand_unknown_key_ids_cause_one_fetch() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    let nginx = verifying(&authgear, &backend, "").workers(4).start();
    assert_eq!(verdict(&with_key(&authgear, &nginx, 0).send()), "valid ok jwt");
    let unknown = |n: usize| {
        let token = authgear.token(&User::named("alice")).header("kid", format!("kid-{n}"));
        get(&nginx, "/").bearer(&token.sign())
    };
    authgear.inject_at(JWKS, Fault::Gate(gate.clone()));
    let waiting: Vec<_> = (0..100).map(|n| unknown(n).start()).collect();
    gate.wait_for_waiters(1);
    // Tokens with known keys do not wait for the fetch.
    assert_eq!(verdict(&with_key(&authgear, &nginx, 0).send()), "valid ok jwt");
    gate.open();
    for pending in waiting {
        assert_eq!(verdict(&pending.wait()), "none token_unknown_key jwt");
    }
    for n in 100..1000 {
        assert_eq!(verdict(&unknown(n).send()), "none token_unknown_key jwt");
    }
    assert_eq!(authgear.jwks_hits(), 2);
    assert_eq!(verdict(&with_key(&authgear, &nginx, 0).send()), "valid ok jwt");
}

#[test]
fn failed_fetches_keep_the_last_good_keys() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let settings = "jwks_refresh 1s; jwks_cooldown 1s; timeout 1s;";
    let nginx = verifying(&authgear, &backend, settings).workers(2).start();
    let request = with_key(&authgear, &nginx, 0);
    assert_eq!(verdict(&request.send()), "valid ok jwt");
    let faults = [
        Fault::Status(500),
        Fault::Redirect(307, "http://127.0.0.1:1/".to_owned()),
        Fault::StatusBody(200, b"<html>".to_vec()),
        Fault::StatusBody(200, b"{\"keys\":[]}".to_vec()),
        Fault::StatusBody(200, vec![b' '; 300 * 1024]),
        Fault::Hang,
        Fault::CloseAfter(200),
    ];
    for fault in faults {
        authgear.clear();
        authgear.inject_at(JWKS, fault.clone());
        let hits = authgear.jwks_hits();
        authgear.wait_for_jwks_hits(hits + 2);
        assert_eq!(verdict(&request.send()), "valid ok jwt", "{fault:?}");
    }
    authgear.clear();
    let again = eventually(Duration::from_secs(20), || {
        nginx.error_log().contains("authgear keys are fetched again from")
    });
    assert!(again);
    let log = nginx.error_log();
    let errors: Vec<_> = log.lines().filter(|line| line.contains("[error]")).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].contains("authgear keys not fetched, the last ones are kept: bad_status"));
    assert!(errors[0].ends_with("project: \"p\""), "{}", errors[0]);
    // A new worker does not need Authgear either.
    authgear.stop();
    for worker in nginx.workers() {
        nginx.kill_worker(worker);
    }
    assert_eq!(verdict(&request.send()), "valid ok jwt");
}

#[test]
fn without_keys_tokens_fail_as_an_outage_until_keys_arrive() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let addr = authgear.addr();
    let nginx = verifying(&authgear, &backend, "jwks_cooldown 2s;").server(
        "location /must { authgear_require session; proxy_pass http://%%BACKEND%%; }
             location /open { authgear_on_error anonymous; proxy_pass http://%%BACKEND%%; }",
    );
    let token = authgear.jwt(&User::named("alice"));
    authgear.stop();
    let nginx = nginx.start();
    for path in ["/", "/must"] {
        let answer = get(&nginx, path).bearer(&token).send();
        assert_eq!((answer.status, verdict(&answer)), (503, "error keys_unavailable jwt".into()));
        let wait: u64 = answer.header("retry-after").expect("a time").parse().expect("seconds");
        assert!((1..=3).contains(&wait), "{wait}");
    }
    let answer = get(&nginx, "/open").bearer(&token).send();
    assert_eq!((answer.status, verdict(&answer)), (200, "error keys_unavailable jwt".into()));
    assert_eq!(answer.echo().header("x-authgear-session-valid"), None);
    // A request without a token has no session, with or without keys.
    assert_eq!(verdict(&get(&nginx, "/").send()), "none no_credentials none");
    authgear.restart_on(addr);
    until(&get(&nginx, "/").bearer(&token), "valid ok jwt");
    assert_eq!(authgear.hits(), 0);
}

#[test]
fn a_token_waits_for_the_first_keys() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    authgear.inject_at(JWKS, Fault::Gate(gate.clone()));
    let nginx = verifying(&authgear, &backend, "").workers(2).start();
    gate.wait_for_waiters(1);
    let waiting: Vec<_> = (0..20).map(|_| with_key(&authgear, &nginx, 0).start()).collect();
    let leaving = with_key(&authgear, &nginx, 0).start();
    leaving.leave();
    gate.open();
    for pending in waiting {
        assert_eq!(verdict(&pending.wait()), "valid ok jwt");
    }
    assert_eq!(authgear.jwks_hits(), 1);
}

#[test]
fn waiting_for_keys_ends_at_the_deadline() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    authgear.inject_at(JWKS, Fault::Hang);
    let nginx = verifying(&authgear, &backend, "timeout 500ms;").workers(1).start();
    authgear.wait_for_jwks_hits(1);
    let begun = Instant::now();
    let answer = with_key(&authgear, &nginx, 0).send();
    assert_eq!((answer.status, verdict(&answer)), (503, "error keys_unavailable jwt".into()));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

/// A fetch sent before a key was published proves nothing about a token with that key.
#[test]
fn an_unknown_key_causes_another_fetch_after_the_one_in_progress() {
    for fails in [false, true] {
        let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
        let nginx = verifying(&authgear, &backend, "jwks_refresh 1s;").workers(1).start();
        assert_eq!(verdict(&with_key(&authgear, &nginx, 0).send()), "valid ok jwt");
        let hits = authgear.jwks_hits();
        authgear.inject_next(1, Fault::Gate(gate.clone()));
        gate.wait_for_waiters(1);
        authgear.publish_keys(&[SigningKey::nth(1), SigningKey::nth(0)]);
        if fails {
            authgear.inject_next(1, Fault::Status(500));
        }
        let pending = with_key(&authgear, &nginx, 1).start();
        // When a later request is answered, both are waiting.
        let other = with_key(&authgear, &nginx, 0).send();
        assert_eq!(verdict(&other), "valid ok jwt");
        gate.open();
        let expected = if fails { "none token_unknown_key jwt" } else { "valid ok jwt" };
        assert_eq!(verdict(&pending.wait()), expected);
        assert_eq!(authgear.jwks_hits(), hits + 2, "{fails}");
    }
}

#[test]
fn another_worker_fetches_the_keys_when_the_fetching_worker_dies() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    authgear.inject_next(1, Fault::Gate(gate.clone()));
    let nginx = verifying(&authgear, &backend, "timeout 30s;").workers(2).start();
    gate.wait_for_waiters(1);
    let workers = nginx.workers();
    for worker in workers {
        nginx.kill_worker(worker);
    }
    assert_eq!(verdict(&with_key(&authgear, &nginx, 0).send()), "valid ok jwt");
    gate.open();
}

#[test]
fn cached_verdicts_of_a_token_end_when_its_key_is_withdrawn() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = verifying(&authgear, &backend, "jwks_refresh 1s; jwks_cooldown 1h;")
        .workers(2)
        .http("authgear_cache_zone z:1m;")
        .server("authgear_cache z; authgear_cache_valid valid=1h;")
        .start();
    let request = with_key(&authgear, &nginx, 0);
    assert_eq!(verdict(&request.send()), "valid ok jwt");
    assert_eq!(verdict(&request.send()), "valid ok cache");
    authgear.publish_keys(&[SigningKey::nth(1)]);
    until(&request, "none token_unknown_key jwt");
}

#[test]
fn keys_can_be_read_from_a_file() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let set = |n: usize| serde_json::json!({"keys": [SigningKey::nth(n).jwk()]}).to_string();
    let nginx = verifying(&authgear, &backend, "jwks_file keys.json;")
        .workers(2)
        .file("keys.json", set(0))
        .start();
    let (old, new) = (with_key(&authgear, &nginx, 0), with_key(&authgear, &nginx, 1));
    assert_eq!(verdict(&old.send()), "valid ok jwt");
    assert_eq!(verdict(&new.send()), "none token_unknown_key jwt");
    std::fs::write(nginx.dir().join("keys.json"), set(1)).expect("a file");
    assert_eq!(verdict(&old.send()), "valid ok jwt");
    nginx.reload();
    until(&old, "none token_unknown_key jwt");
    assert_eq!(verdict(&new.send()), "valid ok jwt");
    assert_eq!((authgear.jwks_hits(), authgear.hits()), (0, 0));
}

#[test]
fn keys_can_be_fetched_from_another_url() {
    let authgear = FakeAuthgear::builder().origin("https://myapp.test").start();
    let backend = Backend::start();
    let refused = RefusedAddr::bind();
    let nginx = site(&authgear, &backend)
        .http(format!(
            "authgear_project p {{ endpoint https://myapp.test; jwks_url {};
             resolver_url http://{}/; }}",
            authgear.jwks_url(),
            refused.addr()
        ))
        .server(TELLING)
        .server("authgear p; authgear_mode jwt; location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    assert_eq!(verdict(&with_key(&authgear, &nginx, 0).send()), "valid ok jwt");
    let request = authgear.requests().pop().expect("the request for keys");
    assert_eq!(request.header("host"), Some("myapp.test"));
    assert_eq!(request.header("x-forwarded-proto"), Some("https"));
}
