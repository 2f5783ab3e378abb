//! Identical look-ups in flight at the same time are joined: Authgear serialises look-ups of a
//! session, and fails those that wait too long.
//!
//! One worker each, because this joins look-ups within a worker.

use support::{
    get, Backend, Builder, FakeAuthgear, Fault, Gate, Nginx, Pending, Request, ToAddr, User, H2,
};

use crate::project::{project, project_at, project_site, verdict};

/// Everything goes to the backend, with the verdict of project `p`.
fn one_worker(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    project_site(authgear, backend, settings)
        .workers(1)
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
        .server("location = /marker { return 204; }")
}

/// Holds back all answers from now on.
fn hold(authgear: &FakeAuthgear) -> Gate {
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    gate
}

/// Sends these requests, and returns when the worker has read them and decided which look-ups to
/// make.
#[track_caller]
fn start_all(nginx: &Nginx, requests: impl IntoIterator<Item = Request>) -> Vec<Pending> {
    let pending = requests.into_iter().map(|request| request.start()).collect();
    await_marker(nginx);
    pending
}

/// A worker handles connections and events in order: when this is answered, everything sent before
/// has been read.
#[track_caller]
pub(crate) fn await_marker(to: &impl ToAddr) {
    assert_eq!(get(to, "/marker").send().status, 204);
}

/// The status, the verdict, and the user that the backend gets.
#[track_caller]
fn outcome(pending: Pending) -> (u16, String, Option<String>) {
    let answer = pending.wait();
    let user = || answer.echo().header("x-authgear-user-id").map(str::to_owned);
    (answer.status, verdict(&answer), if answer.status == 200 { user() } else { None })
}

fn valid(user: &str) -> (u16, String, Option<String>) {
    (200, "valid ok resolver".to_owned(), Some(user.to_owned()))
}

fn error(reason: &str) -> (u16, String, Option<String>) {
    (503, format!("error {reason} resolver"), None)
}

#[test]
fn identical_look_ups_are_joined() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "").start();
    let token = authgear.opaque_token(&User::named("alice"));
    let gate = hold(&authgear);
    // Requests with the same credentials that differ in everything else.
    let request = |n: usize| {
        let request = get(&nginx, &format!("/{n}")).bearer(&token).cookie("n", &n.to_string());
        match n % 4 {
            0 => request,
            1 => request.method("POST").body("body"),
            2 => request.header("User-Agent", format!("agent {n}")),
            _ => request.from_addr("127.0.0.2"),
        }
    };
    let first = request(0).start();
    gate.wait_for_waiters(1);
    let others = start_all(&nginx, (1..20).map(request));
    gate.open();
    for pending in [first].into_iter().chain(others) {
        assert_eq!(outcome(pending), valid("alice"));
    }
    assert_eq!((authgear.hits(), backend.hits()), (1, 20));
    // The verdict is not cached.
    assert_eq!(outcome(request(20).start()), valid("alice"));
    assert_eq!(authgear.hits(), 2);
}

#[test]
fn different_look_ups_are_not_joined() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "")
        .http(project("prefixed", &authgear, "cookie_prefix dev_;"))
        .server("location /prefixed { authgear prefixed; proxy_pass http://%%BACKEND%%; }")
        .start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let (a, b) = (authgear.opaque_token(&alice), authgear.opaque_token(&bob));
    let (session_a, session_b) = (authgear.session(&alice), authgear.session(&bob));
    let (app_a, access_b) = (authgear.app_session(&alice), authgear.app_access_token(&bob));
    let at = |path: &str| get(&nginx, path);
    let cookies = |value: String| get(&nginx, "/").header("Cookie", value);
    let rows = [
        (at("/").bearer(&a), Some("alice")),
        (at("/").bearer(&b), Some("bob")),
        (at("/").header("Authorization", format!("bearer {b}")), Some("bob")),
        (at("/").bearer(&format!("{b} ")).cookie("session", &session_a), Some("bob")),
        (at("/").bearer(&format!("{b}x")).cookie("session", &session_a), Some("alice")),
        (at("/").bearer(&a).cookie("session", &session_b), Some("alice")),
        (at("/").bearer(&a).cookie("app_session", &session_b), Some("alice")),
        (cookies(format!("session={session_a}")), Some("alice")),
        (cookies(format!("session={session_b}")), Some("bob")),
        (cookies(format!("session={session_a}; session={session_b}")), Some("alice")),
        (cookies(format!("session={session_b}; session={session_a}")), Some("bob")),
        (cookies(format!("app_session={session_a}; session={session_b}")), Some("bob")),
        (cookies(format!("app_session={app_a}; session={session_b}")), Some("alice")),
        (cookies(format!("app_access_token={access_b}")), Some("bob")),
        (cookies(format!("app_access_token={app_a}")), None),
        (cookies(format!("app_session={app_a}")), Some("alice")),
        // The same credentials for another project.
        (at("/prefixed").bearer(&a), Some("alice")),
        (at("/prefixed").header("Cookie", format!("session={session_a}; dev_session=x")), None),
    ];
    let gate = hold(&authgear);
    let pending: Vec<_> = rows.iter().map(|(request, _)| request.start()).collect();
    gate.wait_for_waiters(rows.len());
    gate.open();
    for (pending, (request, user)) in pending.into_iter().zip(&rows) {
        let (status, _, seen) = outcome(pending);
        assert_eq!((status, seen.as_deref()), (200, *user), "{request:?}");
    }
    assert_eq!(authgear.hits(), rows.len());
}

#[test]
fn a_client_that_leaves_does_not_cancel_the_joined_look_up() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "").start();
    let token = authgear.opaque_token(&User::named("alice"));
    let request = || get(&nginx, "/").bearer(&token);
    // nginx logs disconnected clients with 499.
    let left = |n: usize| {
        let log = nginx.wait_for_access_lines(n);
        assert_eq!(log.iter().filter(|line| line.contains(" 499 ")).count(), n - 1, "{log:?}");
    };

    let gate = hold(&authgear);
    let first = request().start();
    gate.wait_for_waiters(1);
    let mut others = start_all(&nginx, (0..3).map(|_| request()));
    first.leave();
    others.pop().expect("one that leaves too").leave();
    left(3);
    assert_eq!(gate.waiting(), 1);
    gate.open();
    for pending in others {
        assert_eq!(outcome(pending), valid("alice"));
    }
    assert_eq!((authgear.hits(), backend.hits()), (1, 2));
}

#[test]
fn a_look_up_completes_after_all_its_clients_have_left() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend, "").start();
    let token = authgear.opaque_token(&User::named("alice"));
    let gate = hold(&authgear);
    let pending = get(&nginx, "/left").bearer(&token).start();
    gate.wait_for_waiters(1);
    pending.leave();
    assert!(nginx.wait_for_access_lines(1)[0].contains(" 499 "));
    let late = start_all(&nginx, [get(&nginx, "/late").bearer(&token)]);
    gate.open();
    for pending in late {
        assert_eq!(outcome(pending), valid("alice"));
    }
    assert_eq!((authgear.hits(), backend.hits()), (1, 1));
    // No request waits for this look-up when its answer comes.
    let gate = hold(&authgear);
    let pending = get(&nginx, "/left").bearer(&token).start();
    gate.wait_for_waiters(1);
    pending.leave();
    nginx.wait_for_access_lines(4);
    gate.open();
    gate.wait_for_no_waiters();
    assert_eq!(outcome(get(&nginx, "/").bearer(&token).start()), valid("alice"));
    assert_eq!(backend.hits(), 2);
}

#[test]
fn a_failed_look_up_fails_all_joined_requests() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    // An unknown host is a 404.
    let stranger = FakeAuthgear::builder().origin("http://stranger.test").start();
    let nginx = one_worker(&authgear, &backend, "")
        .http(project_at("unknown", &stranger, &authgear.resolver_url(), ""))
        .http(project("impatient", &authgear, "timeout 500ms;"))
        .server(
            "location /unknown { authgear unknown; proxy_pass http://%%BACKEND%%; }
             location /impatient { authgear impatient; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let fails = |path: &str, reason: &str, happen: &dyn Fn(&Gate)| {
        let (hits, gate) = (authgear.hits(), hold(&authgear));
        let first = get(&nginx, path).bearer("token").start();
        gate.wait_for_waiters(1);
        let others = start_all(&nginx, (0..5).map(|_| get(&nginx, path).bearer("token")));
        happen(&gate);
        for pending in [first].into_iter().chain(others) {
            assert_eq!(outcome(pending), error(reason), "{path}");
        }
        assert_eq!(authgear.hits(), hits + 1, "{path}");
    };
    fails("/unknown", "bad_status", &Gate::open);
    fails("/impatient", "timeout", &|_| {});
    fails("/", "connection_closed", &|_| authgear.stop());
    assert_eq!(backend.hits(), 0);
}

#[test]
fn thirty_simultaneous_requests_of_one_session_succeed() {
    // Authgear answers 500 to a look-up of a session that is being looked up.
    let authgear = FakeAuthgear::builder().session_mutex(true).start();
    let backend = Backend::start();
    let nginx = one_worker(&authgear, &backend, "").start();
    let session = authgear.session(&User::named("alice"));
    let gate = Gate::new();
    authgear.inject_next(1, Fault::Gate(gate.clone()));
    let image = |n: usize| get(&nginx, &format!("/{n}.png")).cookie("session", &session);
    let images = start_all(&nginx, (0..30).map(image));
    gate.wait_for_waiters(1);
    gate.open();
    for pending in images {
        assert_eq!(outcome(pending), valid("alice"));
    }
    assert_eq!(authgear.hits(), 1);

    // The same over one connection, where nothing shows when the last request was sent.
    let nginx = one_worker(&authgear, &backend, "").listen_options("http2").start();
    let browser = H2::open(&nginx);
    let image = |n: usize| get(&nginx, &format!("/{n}.png")).cookie("session", &session);
    let images: Vec<_> = (0..30).map(|n| browser.start(&image(n))).collect();
    for pending in images {
        let answer = pending.wait();
        assert_eq!((answer.status, verdict(&answer)), (200, "valid ok resolver".to_owned()));
    }
}

#[test]
fn the_number_of_requests_joined_to_a_look_up_is_limited() {
    const ROOM: usize = 4096;
    const BEYOND: usize = 4;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    // Debug lines of so many requests take longer than they.
    let nginx = one_worker(&authgear, &backend, "timeout 10s;")
        .error_level("info")
        .listen_options("http2")
        .http("http2_max_concurrent_streams 10000; keepalive_requests 10000;")
        .server("location = /many { try_files /none =204; }")
        .start();
    let gate = hold(&authgear);
    let client = H2::open(&nginx);
    let request = get(&nginx, "/many").bearer(&authgear.opaque_token(&User::named("alice")));
    let pending: Vec<_> = (0..ROOM + BEYOND).map(|_| client.start(&request)).collect();
    // Requests above the limit are answered at once.
    let answered = nginx.wait_for_access_lines(BEYOND);
    assert!(answered.iter().all(|line| line.contains(" 503 ")), "{answered:?}");
    assert_eq!((gate.waiting(), authgear.hits()), (1, 1));
    gate.open();
    let mut reported: Vec<_> = pending
        .into_iter()
        .map(|pending| pending.wait())
        .map(|answer| (answer.status, verdict(&answer), answer.header("retry-after")))
        .collect();
    reported.sort();
    let (valid, beyond) = reported.split_at(ROOM);
    assert!(valid.iter().all(|reported| *reported == (204, "valid ok resolver".to_owned(), None)));
    let full = (503, "error too_many_waiting none".to_owned(), Some("1".to_owned()));
    assert!(beyond.iter().all(|reported| *reported == full), "{beyond:?}");
    assert_eq!(authgear.hits(), 1);
}
