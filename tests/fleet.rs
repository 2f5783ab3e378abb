//! Hosts of a fleet, for tests: several nginx on one Redis.

use std::time::{Duration, Instant};

use serde_json::{json, Value};
use support::{
    eventually, get, webhook_signature, Backend, Builder, Connection, FakeAuthgear, Nginx, Request,
    Response, DEADLINE,
};

use crate::project::project;
use crate::site::site;
use crate::status::status;

/// The secret of the fleet.
pub(crate) const SECRET: &str = "the secret of a fleet, of 32 bytes at least";
/// The secret of the webhook.
const HOOK: &str = "0123456789abcdefghijABCDEFGHIJ_Z";
/// Time in which an event is known to all hosts.
pub(crate) const KNOWN: Duration = Duration::from_secs(1);

/// A host: verdicts are kept for long, and all modes have a location.
pub(crate) fn host(authgear: &FakeAuthgear, backend: &Backend, redis: &str) -> Builder {
    host_with(authgear, backend, &format!("{redis} secret=fleet.secret"))
}

/// The same with these arguments of `authgear_fleet`.
pub(crate) fn host_with(authgear: &FakeAuthgear, backend: &Backend, fleet: &str) -> Builder {
    site(authgear, backend)
        .workers(4)
        .secret_file("webhook.secret", format!("{HOOK}\n"))
        .secret_file("fleet.secret", format!("{SECRET}\n"))
        .http("keepalive_requests 1000000; authgear_cache_zone z:1m;")
        .http(format!("authgear_fleet {fleet};"))
        .http(project("p", authgear, ""))
        .server(
            "add_header X-Cache \"$authgear_cache_status $authgear_source\" always;
             add_header X-Verdict \"$authgear_session $authgear_reason\" always;
             authgear p; authgear_cache z; authgear_require session;
             authgear_cache_valid valid=1h invalid=1h none=1h;
             location / { proxy_pass http://%%BACKEND%%; }
             location = /jwt { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }
             location = /auto { authgear_mode auto; proxy_pass http://%%BACKEND%%; }
             location = /worker { authgear off; return 200 $pid; }
             location = /status { authgear off; authgear_status; }
             location = /purge { authgear off; authgear_purge admin; }
             location = /logout { authgear_purge self; }
             location = /hook { authgear_webhook webhook.secret; }",
        )
}

/// Starts a host and waits until it knows all events and has the keys of tokens.
#[track_caller]
pub(crate) fn start(authgear: &FakeAuthgear, builder: Builder) -> Nginx {
    let before = authgear.jwks_hits();
    let nginx = builder.start();
    authgear.wait_for_jwks_hits(before + 1);
    wait_in_sync(&nginx);
    nginx
}

/// The state of the fleet at a host.
pub(crate) fn fleet(nginx: &Nginx) -> Value {
    status(nginx)["fleet"].clone()
}

/// Waits until a host knows all events.
#[track_caller]
pub(crate) fn wait_in_sync(nginx: &Nginx) {
    let in_sync = eventually(DEADLINE, || fleet(nginx)["in_sync"] == json!(true));
    assert!(in_sync, "not in sync: {}", fleet(nginx));
}

/// Waits until a host is cut off.
#[track_caller]
pub(crate) fn wait_cut_off(nginx: &Nginx) {
    let cut_off = eventually(DEADLINE, || fleet(nginx)["in_sync"] == json!(false));
    assert!(cut_off, "in sync: {}", fleet(nginx));
}

/// Waits until a counter has a value.
#[track_caller]
pub(crate) fn wait_for_count(nginx: &Nginx, table: &str, label: &str, count: u64) {
    let has = || fleet(nginx)[table][label].as_u64() >= Some(count);
    assert!(eventually(DEADLINE, has), "{table} {label}: {}", fleet(nginx));
}

pub(crate) fn post(nginx: &Nginx, target: &str) -> Request {
    get(nginx, target).method("POST")
}

/// Posts an event as Authgear does, and returns the status.
pub(crate) fn tell(nginx: &Nginx, event: &Value) -> u16 {
    let body = event.to_string();
    let signature = webhook_signature(HOOK.as_bytes(), body.as_bytes());
    let request = post(nginx, "/hook").header("x-authgear-body-signature", signature);
    request.body(body.as_bytes()).send().status
}

/// An event about a user who is disabled.
pub(crate) fn event(kind: &str, user: &str, timestamp: i64) -> Value {
    json!({
        "id": "00000000000001b3", "seq": 435, "type": kind,
        "payload": {"user": {"id": user, "is_disabled": true, "roles": [], "groups": []}},
        "context": {"timestamp": timestamp, "user_id": user, "app_id": "myapp"},
    })
}

/// `$authgear_cache_status` and `$authgear_source`.
#[track_caller]
pub(crate) fn cache(answer: &Response) -> String {
    answer.header("x-cache").unwrap_or_else(|| panic!("{} tells nothing", answer.status))
}

/// `$authgear_session` and `$authgear_reason`.
#[track_caller]
pub(crate) fn verdict(answer: &Response) -> String {
    answer.header("x-verdict").unwrap_or_else(|| panic!("{} tells nothing", answer.status))
}

/// Waits until a condition holds, which must be within [`KNOWN`] of `since`.
#[track_caller]
pub(crate) fn known_since(since: Instant, what: &str, mut holds: impl FnMut() -> bool) {
    assert!(eventually(DEADLINE, &mut holds), "never: {what}");
    let took = since.elapsed();
    assert!(took < KNOWN, "{what} took {took:?}");
}

/// A connection to each worker of a host.
pub(crate) fn workers(nginx: &Nginx) -> Vec<Connection> {
    let pairs = crate::cache_workers::connections(nginx);
    pairs.into_iter().map(|(_, [connection, _])| connection).collect()
}
