//! `authgear_recheck`: open responses end with their session.

use std::io::ErrorKind;
use std::thread;
use std::time::Duration;

use support::{
    eventually, get, Backend, Builder, Ca, Connection, FakeAuthgear, Fault, Gate, Nginx, Request,
    User, WebSocket, DEADLINE, H2,
};

use crate::project::project;
use crate::site::site;

/// RFC 6455 section 7.4.1.
const POLICY_VIOLATION: u16 = 1008;

pub(crate) fn rechecking(authgear: &FakeAuthgear, backend: &Backend, recheck: &str) -> Builder {
    site(authgear, backend)
        .workers(2)
        .error_level("info")
        .log_format("$uri $authgear_reason")
        .http("authgear_cache_zone z:1m;")
        .http(
            "map $http_upgrade $connection_upgrade { default upgrade; '' close; }
             proxy_http_version 1.1;
             proxy_set_header Upgrade $http_upgrade;
             proxy_set_header Connection $connection_upgrade;",
        )
        .http(project("p", authgear, "max_fails 0;"))
        .server(format!("{recheck} authgear p; authgear_cache z; authgear_cache_valid valid=1h;"))
        .server(
            "location / { authgear_require session; proxy_pass http://%%BACKEND%%; }
             location /events { authgear_require session; proxy_pass http://%%BACKEND%%; }
             location /role { authgear_require role=editor; proxy_pass http://%%BACKEND%%; }
             location /jwt {
               authgear_mode jwt;
               authgear_require session;
               proxy_pass http://%%BACKEND%%;
             }
             location = /purge { authgear off; authgear_purge admin; }
             location = /status { authgear off; authgear_status; }",
        )
}

pub(crate) const ON: &str = "authgear_recheck 5m;";

pub(crate) fn purge(nginx: &Nginx, user: &str) {
    let answer = get(nginx, &format!("/purge?user={user}")).method("POST").send();
    assert_eq!(answer.status, 204);
}

pub(crate) fn socket(nginx: &Nginx, path: &str, session: &str) -> WebSocket {
    open(&get(nginx, path).cookie("session", session))
}

pub(crate) fn open(request: &Request) -> WebSocket {
    let mut socket = WebSocket::open(request).expect("an open WebSocket");
    assert_goes_on(&mut socket);
    socket
}

pub(crate) fn assert_goes_on(socket: &mut WebSocket) {
    socket.send("hello");
    assert_eq!(socket.receive(), "hello");
}

#[track_caller]
pub(crate) fn assert_ends(mut socket: WebSocket) {
    assert_eq!(socket.read_to_close(), (POLICY_VIOLATION, 0));
    assert!(socket.is_closed());
}

/// Asserts that the connection is closed, and what was sent on it has no end: the last chunk of a
/// stream is missing, for example.
#[track_caller]
pub(crate) fn assert_cut_off(mut response: Connection) {
    let error = response.try_read_response("GET").expect_err("no whole response");
    let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
    assert!(closed.contains(&error.kind()), "{error:?}");
}

#[test]
fn websockets_of_a_disabled_user_end_with_1008_in_every_worker_once_the_user_is_purged() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON).start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let session = authgear.session(&alice);
    let sockets: Vec<_> = (0..16).map(|_| socket(&nginx, "/ws", &session)).collect();
    let mut of_bob = socket(&nginx, "/ws", &authgear.session(&bob));
    authgear.disable(&alice.id);
    purge(&nginx, &alice.id);
    sockets.into_iter().for_each(assert_ends);
    assert_goes_on(&mut of_bob);
    let lines = nginx.wait_for_access_lines(17);
    assert!(lines.iter().any(|line| line == "/ws session_invalid"), "{lines:?}");
    assert!(nginx.error_log().contains("authgear ends the response: session_invalid"));
    let metrics = get(&nginx, "/status").header("Accept", "text/plain").send();
    let metrics = String::from_utf8(metrics.body).expect("text");
    let line = "nginx_authgear_ended_total{project=\"p\",reason=\"session_invalid\"} 16";
    assert!(metrics.contains(line), "{metrics}");
}

#[test]
fn a_purge_of_a_valid_session_ends_nothing_and_look_ups_are_joined() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON).start();
    let alice = User::named("alice");
    let session = authgear.session(&alice);
    let mut sockets: Vec<_> = (0..16).map(|_| socket(&nginx, "/ws", &session)).collect();
    assert_eq!(authgear.hits(), 1);
    purge(&nginx, &alice.id);
    authgear.wait_for_hits(2);
    sockets.iter_mut().for_each(assert_goes_on);
    // A request makes no further look-up: that of the sockets was kept for all.
    assert_eq!(get(&nginx, "/").cookie("session", &session).send().status, 200);
    assert_eq!(authgear.hits(), 2);
}

#[test]
fn without_the_directive_a_purge_ends_nothing() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for recheck in ["", "authgear_recheck off;"] {
        let nginx = rechecking(&authgear, &backend, recheck).start();
        let alice = User::named("alice");
        let mut socket = socket(&nginx, "/ws", &authgear.session(&alice));
        purge(&nginx, &alice.id);
        let asked = authgear.hits();
        assert_goes_on(&mut socket);
        assert_eq!(authgear.hits(), asked);
    }
}

#[test]
fn server_sent_events_end() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON).start();
    let alice = User::named("alice");
    let request = get(&nginx, "/events").cookie("session", &authgear.session(&alice));
    let mut events = Connection::open_for(&request);
    events.write(b"GET /events HTTP/1.1\r\nHost: test\r\nCookie: session=");
    events.write(format!("{}\r\n\r\n", authgear.session(&alice)).as_bytes());
    backend.wait_for_hits(1);
    authgear.disable(&alice.id);
    purge(&nginx, &alice.id);
    assert_cut_off(events);
    nginx.wait_for_error_log("authgear ends the response: session_invalid");
}

#[test]
fn over_http2_the_stream_alone_ends() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON).listen_options("http2").start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let connection = H2::open(&nginx);
    let of = |user, path| get(&nginx, path).cookie("session", &authgear.session(user));
    let events = connection.start(&of(&alice, "/events"));
    backend.wait_for_hits(1);
    authgear.disable(&alice.id);
    let purge = get(&nginx, &format!("/purge?user={}", alice.id)).method("POST");
    assert_eq!(connection.send(&purge).status, 204);
    assert!(events.try_wait().is_err());
    assert_eq!(connection.send(&of(&bob, "/")).status, 200);
}

#[test]
fn a_slow_reader_over_tls_gets_1008_after_the_frame_of_a_megabyte_that_was_under_way() {
    const SIZE: usize = 1 << 20;
    let (authgear, backend, ca) = (FakeAuthgear::start(), Backend::start(), Ca::new());
    let identity = ca.leaf(&["site.test"]);
    let nginx = rechecking(&authgear, &backend, ON)
        .listen_options("ssl sndbuf=16k")
        .listen_extra(1)
        .server("listen %%ADDR2%%; ssl_certificate cert.pem; ssl_certificate_key key.pem;")
        .file("cert.pem", identity.cert_pem)
        .file("key.pem", identity.key_pem)
        .start();
    let alice = User::named("alice");
    let request = get(&nginx, "/ws").cookie("session", &authgear.session(&alice));
    let mut socket = open(&request.tls(&ca, "site.test"));
    socket.send(&format!("long {SIZE}"));
    // The header of the frame, and little of its payload.
    assert_eq!(socket.read_bytes(10)[..2], [0x82, 127]);
    authgear.disable(&alice.id);
    let purge = get(&nginx.addr2(), &format!("/purge?user={}", alice.id)).method("POST");
    assert_eq!(purge.send().status, 204);
    nginx.wait_for_error_log("authgear ends the response: session_invalid");
    socket.send("this message comes too late");
    for _ in 0..16 {
        socket.read_bytes(SIZE / 16);
        thread::sleep(Duration::from_millis(20));
    }
    assert_ends(socket);
}

#[test]
fn the_expiry_of_a_token_ends_the_response() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON).start();
    let token = authgear.token(&User::named("alice")).expires_in(4).sign();
    let socket = open(&get(&nginx, "/jwt").bearer(&token));
    assert_ends(socket);
    nginx.wait_for_error_log("authgear ends the response: token_expired");
}

#[test]
fn a_response_ends_when_the_policy_no_longer_holds() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON).start();
    let editor = authgear.add_user(User::named("alice").roles(&["editor"]));
    let session = authgear.session(&editor);
    let (of_editor, mut other) =
        (socket(&nginx, "/role", &session), socket(&nginx, "/ws", &session));
    authgear.change_user(&editor.id, |user| user.roles.clear());
    purge(&nginx, &editor.id);
    assert_ends(of_editor);
    assert_goes_on(&mut other);
    nginx.wait_for_error_log("authgear ends the response: role_missing");
}

#[test]
fn an_outage_ends_nothing() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON).allow_log("authgear resolver").start();
    let alice = User::named("alice");
    let mut socket = socket(&nginx, "/ws", &authgear.session(&alice));
    authgear.inject(Fault::Status(503));
    purge(&nginx, &alice.id);
    authgear.wait_for_hits(2);
    // The purge of another user lets each worker look at all its responses once more.
    purge(&nginx, "bob");
    assert_goes_on(&mut socket);
    assert!(!nginx.error_log().contains("authgear ends the response"));
}

#[test]
fn workers_of_the_former_configuration_end_their_responses() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON).start();
    let alice = User::named("alice");
    let mut socket = socket(&nginx, "/ws", &authgear.session(&alice));
    let old = nginx.reload();
    assert_goes_on(&mut socket);
    authgear.disable(&alice.id);
    purge(&nginx, &alice.id);
    assert_ends(socket);
    nginx.wait_replaced(&old);
}

#[test]
fn a_verdict_is_looked_at_again_after_the_time() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, "authgear_recheck 10s;")
        .http("authgear_cache_valid valid=2s;")
        .server("location /uncached { authgear_cache off; proxy_pass http://%%BACKEND%%; }")
        .start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let of_alice = socket(&nginx, "/uncached", &authgear.session(&alice));
    let mut of_bob = socket(&nginx, "/uncached", &authgear.session(&bob));
    authgear.disable(&alice.id);
    let asked = authgear.hits();
    assert!(eventually(DEADLINE + Duration::from_secs(15), || authgear.hits() == asked + 2));
    assert_ends(of_alice);
    assert_goes_on(&mut of_bob);
}

#[test]
fn wrong_values_are_refused() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for (line, message) in [
        (
            "authgear_recheck 9s;",
            "invalid value \"9s\" in \"authgear_recheck\" directive, it must be a time from 10s to 1d",
        ),
        ("authgear_recheck on;", "invalid value \"on\" in \"authgear_recheck\" directive"),
        ("authgear_recheck 5m; authgear_recheck off;", "\"authgear_recheck\" directive is duplicate"),
        (
            "location /asks { authgear q; authgear_recheck 5m; } location = /resolver { return 200; }",
            "\"authgear_recheck\" needs a URL as \"resolver_url\" of the project \"q\", not a location",
        ),
    ] {
        let other = format!(
            "authgear_project q {{ endpoint {}; resolver_url /resolver; }}",
            authgear.url()
        );
        let test = rechecking(&authgear, &backend, "").http(other).server(line).check();
        assert!(!test.ok, "{line}");
        assert!(test.output.contains(message), "{line}: {}", test.output);
    }
}

/// `make bench-sockets` does the same with 9,800, and prints their memory.
#[test]
fn idle_sockets_make_no_storm_when_everything_is_purged() {
    const COUNT: usize = 200;
    const PER_SESSION: usize = 10;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON).events("worker_connections 1000;").start();
    let mut sockets = Vec::new();
    for n in 0..COUNT / PER_SESSION {
        let session = authgear.session(&User::named(&format!("user{n}")));
        sockets.extend((0..PER_SESSION).map(|_| socket(&nginx, "/ws", &session)));
    }
    let (asked, sessions) = (authgear.hits(), COUNT / PER_SESSION);
    let answer = get(&nginx, "/purge?all=1").method("POST").send();
    assert_eq!(answer.status, 204);
    authgear.wait_for_hits(asked + sessions);
    // One look-up for each session, and no socket is lost.
    sockets.iter_mut().for_each(assert_goes_on);
    assert_eq!(authgear.hits(), asked + sessions);
}

#[test]
fn a_worker_makes_at_most_64_look_ups_for_open_responses_at_a_time() {
    const COUNT: usize = 200;
    const AT_ONCE: usize = 64;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, "authgear_recheck 10s;")
        .workers(1)
        .events("worker_connections 2000;")
        .http(project("q", &authgear, "max_connections 500; timeout 1m;"))
        .server("location /q { authgear q; authgear_cache off; proxy_pass http://%%BACKEND%%; }")
        .start();
    let session = |n| authgear.session(&User::named(&format!("user{n}")));
    let mut sockets: Vec<_> = (0..COUNT).map(|n| socket(&nginx, "/q", &session(n))).collect();
    let asked = authgear.hits();
    assert_eq!(asked, COUNT);
    // Authgear answers none of those whose time has come.
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    assert!(eventually(DEADLINE + Duration::from_secs(10), || gate.waiting() >= AT_ONCE));
    // Longer than the jitter of a second, and the task's turn.
    assert!(!eventually(Duration::from_millis(2500), || gate.waiting() > AT_ONCE));
    gate.open();
    assert!(eventually(DEADLINE, || authgear.hits() >= asked + COUNT));
    sockets.iter_mut().for_each(assert_goes_on);
    assert_eq!(authgear.hits(), asked + COUNT);
}

#[test]
fn an_upload_and_a_download_end() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON)
        .file("html/file", vec![b'x'; 1 << 20])
        .server("location /file { authgear_require session; root %%DIR%%/html; limit_rate 1k; }")
        .start();
    let alice = User::named("alice");
    let session = authgear.session(&alice);
    let begin = |line: &str, headers: &str, until: &str| {
        let mut connection = Connection::open(&nginx);
        let request =
            format!("{line} HTTP/1.1\r\nHost: a\r\nCookie: session={session}\r\n{headers}\r\n");
        connection.write(request.as_bytes());
        connection.read_until(until);
        connection
    };
    // nginx asks for the body once access was granted.
    let upload = "Expect: 100-continue\r\nContent-Length: 1000\r\n";
    let mut upload = begin("POST /", upload, "100 Continue\r\n\r\n");
    upload.write(b"some of the body");
    let mut download = begin("GET /file", "", "\r\n\r\n");
    authgear.disable(&alice.id);
    purge(&nginx, &alice.id);
    assert_eq!(upload.read_to_end(), b"");
    assert!(download.read_to_end().len() < 1 << 20);
    assert_eq!(backend.hits(), 0);
    let lines = nginx.wait_for_access_lines(3);
    for path in ["/", "/file"] {
        let line = format!("{path} session_invalid");
        assert!(lines.contains(&line), "{lines:?}");
    }
}

#[test]
fn a_location_may_be_without_and_a_policy_on_trial_ends_nothing() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON)
        .server(
            "location /off { authgear_recheck off; proxy_pass http://%%BACKEND%%; }
             location /trial { authgear_dry_run on; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let alice = User::named("alice");
    let session = authgear.session(&alice);
    let (mut off, mut trial) =
        (socket(&nginx, "/off", &session), socket(&nginx, "/trial", &session));
    let on = socket(&nginx, "/ws", &session);
    authgear.disable(&alice.id);
    purge(&nginx, &alice.id);
    assert_ends(on);
    nginx.wait_for_error_log("authgear would end the response: session_invalid");
    assert_goes_on(&mut trial);
    assert_goes_on(&mut off);
}

#[test]
fn variables_show_the_first_64_changes_and_the_policy_all() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON)
        .workers(1)
        .log_format("$uri $authgear_reason $x_authgear_user_roles")
        .start();
    let role = |n: usize| format!("n{n}");
    let alice = authgear.add_user(User::named("alice").roles(&["editor"]));
    let socket = socket(&nginx, "/role", &authgear.session(&alice));
    for n in 1..=80 {
        let asked = authgear.hits();
        authgear.change_user(&alice.id, |user| user.roles = vec!["editor".into(), role(n)]);
        purge(&nginx, &alice.id);
        authgear.wait_for_hits(asked + 1);
    }
    authgear.change_user(&alice.id, |user| user.roles.clear());
    purge(&nginx, &alice.id);
    assert_ends(socket);
    let lines = nginx.wait_for_access_lines(82);
    let shown = lines.last().and_then(|line| line.strip_prefix("/role role_missing editor,n"));
    let shown: usize = shown.and_then(|n| n.parse().ok()).expect("the role of a change");
    // A look-up that a purge overtakes is repeated.
    assert!((64..80).contains(&shown), "{shown}");
}
