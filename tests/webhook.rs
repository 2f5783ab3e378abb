//! Authgear's events: which are accepted, and their effect on the users concerned.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use serde_json::{json, Value};
use support::{
    eventually, get, unix_now, webhook_signature, Backend, Builder, Connection, FakeAuthgear,
    Nginx, Request, Response, User, DEADLINE,
};

use crate::project::project;
use crate::site::site;
use crate::status::status;

pub(crate) const SECRET: &str = "0123456789abcdefghijABCDEFGHIJ_Z";

const TELLING: &str = "add_header X-Cache \"$authgear_cache_status $authgear_source\" always;
     add_header X-Verdict \"$authgear_session $authgear_reason\" always;";

fn hooked(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    site(authgear, backend)
        .workers(4)
        .file("webhook.secret", format!("{SECRET}\n"))
        .http("keepalive_requests 1000000; authgear_cache_zone z:1m;")
        .http(project("p", authgear, settings))
        .server(TELLING)
        .server("authgear p; authgear_cache z; authgear_require session;")
        .server("authgear_cache_valid valid=1h invalid=1h none=1h;")
        .server(
            "location / { proxy_pass http://%%BACKEND%%; }
             location = /jwt { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }
             location = /auto { authgear_mode auto; proxy_pass http://%%BACKEND%%; }
             location = /status { authgear off; authgear_status; }
             location = /hook { authgear_webhook webhook.secret; }",
        )
}

pub(crate) fn event(kind: &str, user: &str, timestamp: i64) -> Value {
    json!({
        "id": "00000000000001b3", "seq": 435, "type": kind,
        "payload": {"user": {"id": user, "is_disabled": true, "roles": [], "groups": []}},
        "context": {"timestamp": timestamp, "user_id": user, "triggered_by": "admin_api",
                    "language": "en", "app_id": "myapp"},
    })
}

/// As Authgear posts it.
fn posted(nginx: &Nginx, target: &str, body: &[u8], secret: &str) -> Request {
    get(nginx, target)
        .method("POST")
        .header("Content-Type", "application/json")
        .header("x-authgear-body-signature", webhook_signature(secret.as_bytes(), body))
        .body(body)
}

#[track_caller]
pub(crate) fn tell(nginx: &Nginx, event: &Value) {
    let answer = posted(nginx, "/hook", event.to_string().as_bytes(), SECRET).send();
    assert_eq!((answer.status, answer.body.len()), (204, 0), "{event}");
}

#[track_caller]
fn header(answer: &Response, name: &str) -> String {
    answer.header(name).unwrap_or_else(|| panic!("{} tells nothing", answer.status))
}

fn reported(request: &Request) -> String {
    header(&request.send(), "x-cache")
}

#[test]
fn an_event_drops_cached_verdicts_of_its_user_in_every_mode() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "").start();
    let alice = authgear.add_user(User::named("alice"));
    let bob = authgear.add_user(User::named("bob"));
    let jwt = authgear.jwt(&alice);
    let of_alice = [
        (get(&nginx, "/").bearer(&authgear.opaque_token(&alice)), "MISS resolver"),
        (get(&nginx, "/").cookie("session", &authgear.session(&alice)), "MISS resolver"),
        (get(&nginx, "/jwt").bearer(&jwt), "MISS jwt"),
    ];
    let of_bob = get(&nginx, "/").bearer(&authgear.opaque_token(&bob));
    assert_eq!(reported(&of_bob), "MISS resolver");
    for (request, miss) in &of_alice {
        assert_eq!(reported(request), *miss);
    }
    for kind in ["user.profile.updated", "identity.email.added", "user.reenabled"] {
        for (request, _) in &of_alice {
            // Probably by each of the workers.
            (0..8).for_each(|_| assert_eq!(reported(request), "HIT cache", "{kind}"));
        }
        tell(&nginx, &event(kind, "alice", unix_now()));
        for (request, miss) in &of_alice {
            assert_eq!(reported(request), *miss, "{kind}");
        }
    }
    for kind in ["user.authenticated", "user.created", "something.new"] {
        tell(&nginx, &event(kind, "alice", unix_now()));
        for (request, _) in &of_alice {
            assert_eq!(reported(request), "HIT cache", "{kind}");
        }
    }
    assert_eq!(reported(&of_bob), "HIT cache");
    let events = &status(&nginx)["webhook_events"];
    assert_eq!((&events["handled"], &events["ignored"]), (&3.into(), &3.into()));
}

#[test]
fn an_event_drops_the_profile_of_its_user() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "")
        .server("authgear_userinfo on; add_header X-Name $authgear_user_name always;")
        .start();
    let request = get(&nginx, "/").cookie("session", &authgear.session(&User::named("alice")));
    authgear.set_profile("alice", json!({ "name": "Before" }));
    (0..8).for_each(|_| assert_eq!(header(&request.send(), "x-name"), "Before"));
    authgear.set_profile("alice", json!({ "name": "After" }));
    assert_eq!(header(&request.send(), "x-name"), "Before");
    tell(&nginx, &event("user.profile.updated", "alice", unix_now()));
    (0..8).for_each(|_| assert_eq!(header(&request.send(), "x-name"), "After"));
}

#[test]
fn an_event_about_a_promoted_user_covers_both_user_ids() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "").start();
    let requests = ["anonymous", "alice"]
        .map(|name| get(&nginx, "/").bearer(&authgear.opaque_token(&User::named(name))));
    requests.iter().for_each(|request| assert_eq!(reported(request), "MISS resolver"));
    let mut promoted = event("user.anonymous.promoted", "alice", unix_now());
    promoted["payload"]["anonymous_user"] = json!({"id": "anonymous"});
    tell(&nginx, &promoted);
    requests.iter().for_each(|request| assert_eq!(reported(request), "MISS resolver"));
}

#[test]
fn a_disabled_user_is_rejected_at_once() {
    for kind in ["user.disabled", "user.deletion_scheduled", "user.deleted", "user.anonymized"] {
        let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
        let nginx = hooked(&authgear, &backend, "").start();
        let (alice, bob) = (User::named("alice"), User::named("bob"));
        authgear.add_user(alice.clone());
        let old = authgear.jwt(&alice);
        let session = authgear.session(&alice);
        let requests = [
            get(&nginx, "/").bearer(&authgear.opaque_token(&alice)),
            get(&nginx, "/").cookie("session", &session),
            get(&nginx, "/jwt").bearer(&old),
            get(&nginx, "/auto").bearer(&old),
        ];
        for request in &requests {
            assert_eq!(request.send().status, 200, "{kind}");
        }
        authgear.disable("alice");
        let now = unix_now();
        let disabled = event(kind, "alice", now);
        tell(&nginx, &disabled);
        for request in &requests {
            assert_eq!(request.send().status, 401, "{kind} {request:?}");
        }
        // A token that no worker has seen before, and that was made before.
        let older = authgear.token(&alice).claim("iat", now - 5).sign();
        let answer = get(&nginx, "/jwt").bearer(&older).send();
        assert_eq!(header(&answer, "x-verdict"), "none token_revoked", "{kind}");
        assert_eq!(header(&answer, "x-cache"), "MISS jwt");
        let challenge = answer.header("www-authenticate").expect("a challenge");
        assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");
        // In mode auto the resolver decides.
        let answer = get(&nginx, "/auto").bearer(&older).send();
        assert_eq!(header(&answer, "x-cache"), "MISS resolver", "{kind}");
        // A newer token is accepted, because Authgear issued it afterwards; other users are
        // unaffected.
        let newer = authgear.token(&alice).claim("iat", now + 1).sign();
        let newer = get(&nginx, "/jwt").bearer(&newer);
        let counts = eventually(DEADLINE, || newer.send().status == 200);
        assert!(counts, "{kind}: {:?}", newer.send().header("x-verdict"));
        assert_eq!(get(&nginx, "/jwt").bearer(&authgear.jwt(&bob)).send().status, 200);
        assert_eq!(status(&nginx)["revocations"], 1);
        nginx.reload();
        let answer = get(&nginx, "/jwt").bearer(&older).send();
        assert_eq!(header(&answer, "x-verdict"), "none token_revoked", "{kind}");
    }
}

/// New tokens reach all workers while their users are disabled: none is accepted once the event was
/// answered.
#[test]
fn no_token_is_accepted_after_the_event_that_disabled_its_user() {
    const USERS: usize = 12;
    const TOKENS: usize = 12;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "")
        .error_level("error")
        .server("location = /gif { authgear_mode jwt; empty_gif; }")
        .start();
    let issued = unix_now() - 5;
    let tokens: Vec<Vec<String>> = (0..USERS)
        .map(|user| {
            let user = User::named(&format!("user-{user}"));
            (0..TOKENS).map(|_| authgear.token(&user).claim("iat", issued).sign()).collect()
        })
        .collect();
    // Users with a lower number are disabled; the next one is being disabled.
    let (ended, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let counts = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in 0..6 {
            let (nginx, tokens, ended) = (&nginx, &tokens, &ended);
            let (over, counts) = (&over, &counts);
            scope.spawn(move || {
                let mut connection = Connection::open(nginx);
                let mut n = client;
                while !over.load(Ordering::SeqCst) {
                    n += 1;
                    let ended = ended.load(Ordering::SeqCst);
                    // The user being disabled, and sometimes a disabled one.
                    let user = if n % 4 == 0 { n / 4 % USERS } else { ended.min(USERS - 1) };
                    let request = get(nginx, "/gif").bearer(&tokens[user][n % TOKENS]);
                    let answer = connection.send(&request);
                    if user < ended {
                        let reported = header(&answer, "x-verdict");
                        assert_eq!((answer.status, reported.as_str()), (401, "none token_revoked"));
                    } else {
                        counts.fetch_add(usize::from(answer.status == 200), Ordering::SeqCst);
                    }
                }
            });
        }
        for user in 0..USERS {
            let before = counts.load(Ordering::SeqCst);
            let busy = || counts.load(Ordering::SeqCst) > before + 20;
            if !eventually(DEADLINE, busy) {
                over.store(true, Ordering::SeqCst);
                panic!("no token counts");
            }
            tell(&nginx, &event("user.disabled", &format!("user-{user}"), unix_now()));
            ended.store(user + 1, Ordering::SeqCst);
        }
        over.store(true, Ordering::SeqCst);
    });
    for token in tokens.iter().flatten() {
        assert_eq!(get(&nginx, "/gif").bearer(token).send().status, 401);
    }
}

#[test]
fn a_revocation_expires_and_replays_do_not_extend_it() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "revocation_ttl 5s;").start();
    let alice = User::named("alice");
    let token = authgear.token(&alice).claim("iat", unix_now() - 10).sign();
    let request = get(&nginx, "/jwt").bearer(&token);
    assert_eq!(request.send().status, 200);
    // An old event has no effect.
    tell(&nginx, &event("user.disabled", "alice", unix_now() - 10));
    assert_eq!(request.send().status, 200);
    let disabled = event("user.disabled", "alice", unix_now());
    tell(&nginx, &disabled);
    assert_eq!(request.send().status, 401);
    let ended = eventually(DEADLINE, || {
        // The event is replayed repeatedly.
        tell(&nginx, &disabled);
        request.send().status == 200
    });
    assert!(ended, "a replayed event refuses for ever");
    assert_eq!(status(&nginx)["revocations"], 0);
}

#[test]
fn an_endpoint_can_be_limited_to_events_of_a_project() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "")
        .http(project("q", &authgear, "cookie_prefix q_;"))
        .server(
            "location = /q { authgear q; authgear_mode jwt; proxy_pass http://%%BACKEND%%; }
             location = /anew { authgear_mode jwt; authgear_cache_valid valid=0s;
                                proxy_pass http://%%BACKEND%%; }
             location = /hook-q { authgear_webhook webhook.secret project=q; }",
        )
        .start();
    let token = authgear.token(&User::named("alice")).claim("iat", unix_now() - 5).sign();
    let both = || ["/jwt", "/q"].map(|path| get(&nginx, path).bearer(&token).send().status);
    assert_eq!(both(), [200, 200]);
    let body = event("user.deleted", "alice", unix_now()).to_string();
    let answer = posted(&nginx, "/hook-q", body.as_bytes(), SECRET).send();
    assert_eq!(answer.status, 204);
    assert_eq!(both(), [200, 401]);
    // A look-up by another project of the same Authgear does not count for this one.
    assert_eq!(get(&nginx, "/anew").bearer(&token).send().status, 200);
    assert_eq!(both(), [200, 401]);
    tell(&nginx, &event("user.deleted", "alice", unix_now()));
    assert_eq!(both(), [401, 401]);
}

#[test]
fn events_without_a_valid_signature_are_rejected() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "").error_level("info").start();
    let request = get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    assert_eq!(reported(&request), "MISS resolver");
    let body = event("user.disabled", "alice", unix_now()).to_string().into_bytes();
    let signed = |body: &[u8]| posted(&nginx, "/hook", body, SECRET);
    let with_signature = |signature: &str| {
        get(&nginx, "/hook").method("POST").header("x-authgear-body-signature", signature)
    };
    let signature = webhook_signature(SECRET.as_bytes(), &body);
    let large = vec![b' '; 256 * 1024];
    let too_large = vec![b' '; 256 * 1024 + 1];
    let session = authgear.opaque_token(&User::named("root").roles(&["admin"]));
    for (request, status) in [
        (get(&nginx, "/hook").method("POST").body(body.clone()), 401),
        (posted(&nginx, "/hook", &body, "another-secret-of-32-characters_"), 401),
        (with_signature(&signature.to_uppercase()).body(body.clone()), 401),
        (with_signature(&signature).body([&body[..], b" "].concat()), 401),
        (with_signature("").body(body.clone()), 401),
        // No session replaces a signature.
        (get(&nginx, "/hook").method("POST").bearer(&session).body(body.clone()), 401),
        (signed(b""), 400),
        (signed(b"{}"), 400),
        (signed(b"not json"), 400),
        (signed(&large), 400),
        (signed(&too_large), 413),
        (signed(b"{\"type\":\"user.disabled\"}"), 400),
        (get(&nginx, "/hook"), 405),
        (signed(&body).method("PUT"), 405),
    ] {
        assert_eq!(request.send().status, status, "{}", request.send().text());
    }
    // The length of a chunked body is not known in advance.
    let mut chunked =
        b"POST /hook HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..=64 {
        chunked.extend_from_slice(b"1000\r\n");
        chunked.extend_from_slice(&[b' '; 0x1000]);
        chunked.extend_from_slice(b"\r\n");
    }
    chunked.extend_from_slice(b"0\r\n\r\n");
    assert_eq!(get(&nginx, "/hook").method("POST").raw(chunked).send().status, 413);
    assert_eq!(reported(&request), "HIT cache");
    // The second body is in a file.
    let padded = [&body[..], &vec![b' '; 100_000]].concat();
    for body in [&body, &padded] {
        assert_eq!(signed(body).send().status, 204);
    }
    assert_eq!(reported(&request), "MISS resolver");
    let events = &status(&nginx)["webhook_events"];
    assert_eq!(events["handled"], 2);
    assert!(events["forged"].as_u64() >= Some(6) && events["invalid"].as_u64() >= Some(5));
    let log = nginx.error_log();
    assert!(log.contains("authgear webhook with a wrong signature"));
    assert!(!log.contains("alice") && !log.contains(&signature), "{log}");
}

#[test]
fn events_are_accepted_over_http2() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "").listen_options("http2").start();
    let request = get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    let reported = || header(&request.send_h2(), "x-cache");
    assert_eq!([reported(), reported()], ["MISS resolver", "HIT cache"]);
    let body = event("user.profile.updated", "alice", unix_now()).to_string();
    let large = format!("{body}{}", " ".repeat(200_000));
    for body in [&body, &large] {
        let answer = posted(&nginx, "/hook", body.as_bytes(), SECRET).send_h2();
        assert_eq!((answer.status, answer.body.len()), (204, 0));
        assert_eq!([reported(), reported()], ["MISS resolver", "HIT cache"]);
    }
    let too_large = vec![b' '; 300 * 1024];
    assert_eq!(posted(&nginx, "/hook", &too_large, SECRET).send_h2().status, 413);
    assert_eq!(posted(&nginx, "/hook", b"{}", "another-secret-of-32-chars").send_h2().status, 401);
    let answer = get(&nginx, "/status").send_h2();
    assert_eq!((answer.status, &answer.json()["webhook_events"]["handled"]), (200, &2.into()));
}

#[test]
fn a_new_secret_takes_effect_after_a_reload() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "").start();
    let new = "ZYXWVUTSRQ-zyxwvutsrq-0123456789";
    let with = |secret: &str| {
        let body = event("user.created", "alice", 1).to_string();
        posted(&nginx, "/hook", body.as_bytes(), secret).send().status
    };
    assert_eq!((with(SECRET), with(new)), (204, 401));
    fs::write(nginx.dir().join("webhook.secret"), new).expect("the secret");
    assert_eq!((with(SECRET), with(new)), (204, 401));
    nginx.reload();
    assert_eq!((with(SECRET), with(new)), (401, 204));
    // A secret as authgear.secrets.yaml has it.
    let k = "WllYV1ZVVFNSUS16eXh3dnV0c3JxLTAxMjM0NTY3ODk";
    let jwk = format!("{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"{k}\"}}]}}\n");
    fs::write(nginx.dir().join("webhook.secret"), jwk).expect("the secret");
    nginx.reload();
    assert_eq!((with(SECRET), with(new)), (401, 204));
}

#[test]
fn the_revocation_table_is_bounded() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "").workers(1).error_level("warn").start();
    let mut connection = Connection::open(&nginx);
    let now = unix_now();
    let disabled = |connection: &mut Connection, user: &str, at: i64| {
        let body = event("user.disabled", user, at).to_string();
        let answer = connection.send(&posted(&nginx, "/hook", body.as_bytes(), SECRET));
        assert_eq!(answer.status, 204);
    };
    // The entry that expires first is replaced.
    disabled(&mut connection, "first", now - 60);
    for n in 1..4096 {
        disabled(&mut connection, &format!("user-{n}"), now);
        if n % 500 == 0 {
            connection = Connection::open(&nginx);
        }
    }
    let status_of = |user: &str| {
        let token = authgear.token(&User::named(user)).claim("iat", now - 100).sign();
        get(&nginx, "/jwt").bearer(&token).send().status
    };
    assert_eq!((status_of("first"), status_of("user-1"), status_of("last")), (401, 401, 200));
    disabled(&mut connection, "last", now);
    nginx.wait_for_error_log("too many users whose tokens are refused, the oldest is forgotten");
    assert_eq!((status_of("first"), status_of("user-1"), status_of("last")), (200, 401, 401));
    assert_eq!(status(&nginx)["revocations"], 4096);
}

#[test]
fn unusable_secret_files_are_refused() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let check = |contents: &str, directive: &str| {
        site(&authgear, &backend)
            .http(project("p", &authgear, ""))
            .file("webhook.secret", contents)
            .server(format!("location = /hook {{ {directive} }}"))
            .check()
    };
    let good = "authgear_webhook webhook.secret;";
    let test = check(SECRET, good);
    assert!(test.ok, "{}", test.output);
    assert!(test.output.contains("can be read by everybody (mode 0644)"), "{}", test.output);
    for (contents, directive, error) in [
        ("short", good, "it must hold from 16 to 1024 bytes"),
        ("", good, "it must hold from 16 to 1024 bytes"),
        ("{}", good, "it has no key of type \"oct\""),
        (SECRET, "authgear_webhook nothing.secret;", "cannot read the secret file"),
        (SECRET, "authgear_webhook webhook.secret q;", "it must be project= with the name"),
        (SECRET, "authgear_webhook webhook.secret project=q;", "unknown authgear_project \"q\""),
        (SECRET, "authgear_webhook;", "invalid number of arguments"),
        (SECRET, "authgear_webhook webhook.secret; authgear_status;", "has one of"),
    ] {
        let test = check(contents, directive);
        assert!(!test.ok && test.output.contains(error), "{directive}: {}", test.output);
        assert!(!test.output.contains(SECRET));
    }
}

fn rfc3339(time: i64) -> String {
    let mut date = std::process::Command::new("date");
    date.args(["-u", "-d", &format!("@{time}"), "+%Y-%m-%dT%H:%M:%SZ"]);
    let out = date.output().expect("date");
    String::from_utf8(out.stdout).expect("a time").trim().to_owned()
}

/// An event about a period that begins at `from`, which Authgear sends as soon as it is planned.
pub(crate) fn planned(user: &str, from: i64, until: i64) -> Value {
    let mut planned = event("user.disabled", user, unix_now());
    planned["payload"]["user"]["is_disabled"] = json!(false);
    planned["payload"]["user"]["temporarily_disabled_from"] = json!(rfc3339(from));
    planned["payload"]["user"]["temporarily_disabled_until"] = json!(rfc3339(until));
    planned
}

fn sleep_until(time: i64) {
    let reached = eventually(DEADLINE, || unix_now() >= time);
    assert!(reached);
    // nginx's own clock may lag by a moment.
    thread::sleep(std::time::Duration::from_millis(300));
}

#[test]
fn a_planned_period_counts_from_its_beginning_to_its_end_in_every_mode() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "").start();
    let alice = authgear.add_user(User::named("alice"));
    let token = authgear.jwt(&alice);
    let session = authgear.session(&alice);
    let requests = [
        get(&nginx, "/").cookie("session", &session),
        get(&nginx, "/jwt").bearer(&token),
        get(&nginx, "/auto").bearer(&token),
    ];
    let (from, until) = (unix_now() + 3, unix_now() + 6);
    tell(&nginx, &planned("alice", from, until));
    // Each of the workers probably keeps the verdicts.
    for request in requests.iter().cycle().take(24) {
        assert_eq!(request.send().status, 200, "before the period");
    }
    assert!(unix_now() < from, "the test was too slow");
    authgear.disable("alice");
    sleep_until(from);
    for request in requests.iter().cycle().take(24) {
        assert_eq!(request.send().status, 401, "during the period: {request:?}");
    }
    assert!(unix_now() < until, "the test was too slow");
    authgear.change_user("alice", |user| user.disabled = false);
    sleep_until(until);
    for request in requests.iter().skip(1).cycle().take(8) {
        assert_eq!(request.send().status, 200, "after the period: {request:?}");
    }
}

#[test]
fn a_lifted_period_counts_no_more() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend, "").start();
    let alice = authgear.add_user(User::named("alice"));
    let request = get(&nginx, "/jwt").bearer(&authgear.jwt(&alice));
    tell(&nginx, &planned("alice", unix_now(), unix_now() + 600));
    assert!(eventually(DEADLINE, || request.send().status == 401));
    let mut lifted = event("user.reenabled", "alice", unix_now());
    lifted["seq"] = json!(436);
    lifted["payload"]["user"]["is_disabled"] = json!(false);
    tell(&nginx, &lifted);
    assert_eq!(request.send().status, 200);
}
