//! `authgear_recheck` in all processes of nginx: events, logouts, reloads and upgrades.

use support::{
    get, unix_now, Backend, Builder, Connection, FakeAuthgear, Nginx, Request, User, WebSocket,
    DEADLINE,
};

use crate::cache_workers::connections;
use crate::project::project;
use crate::recheck::{
    assert_cut_off, assert_ends, assert_goes_on, open, purge, rechecking, socket, ON,
};
use crate::site::{own_ip, site};
use crate::webhook::{event, tell, SECRET};

/// The usual site, which is told of events too.
fn hooked(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    rechecking(authgear, backend, ON).file("webhook.secret", format!("{SECRET}\n")).server(
        "location = /hook { authgear_webhook webhook.secret; }
         location = /logout { authgear_purge self; }
         location = /worker { authgear off; return 200 $pid; }",
    )
}

fn open_on(connection: Connection, request: &Request) -> WebSocket {
    let mut socket = WebSocket::open_on(connection, request).expect("an open WebSocket");
    assert_goes_on(&mut socket);
    socket
}

/// Starts an event stream, and returns after its first event.
fn stream(mut connection: Connection, session: &str) -> Connection {
    let request =
        format!("GET /events HTTP/1.1\r\nHost: test\r\nCookie: session={session}\r\n\r\n");
    connection.write(request.as_bytes());
    connection.read_until("data: a\n");
    connection
}

fn new_stream(nginx: &Nginx, session: &str) -> Connection {
    stream(Connection::open(nginx), session)
}

/// A WebSocket and an event stream in each of four workers.
fn in_every_worker(nginx: &Nginx, path: &str, session: &str) -> (Vec<WebSocket>, Vec<Connection>) {
    let request = get(nginx, path).cookie("session", session);
    connections(nginx)
        .into_iter()
        .map(|(_, [first, second])| (open_on(first, &request), stream(second, session)))
        .unzip()
}

#[test]
fn an_event_ends_websockets_and_event_streams_in_every_worker_at_once() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend).workers(4).start();
    let mut of_bob = in_every_worker(&nginx, "/ws", &authgear.session(&User::named("bob"))).0;
    for kind in ["user.disabled", "user.deleted", "user.deletion_scheduled", "user.anonymized"] {
        let user = authgear.add_user(User::named(&format!("of {kind}")));
        let (sockets, streams) = in_every_worker(&nginx, "/ws", &authgear.session(&user));
        assert_eq!((sockets.len(), streams.len()), (4, 4));
        authgear.disable(&user.id);
        tell(&nginx, &event(kind, &user.id, unix_now()));
        sockets.into_iter().for_each(assert_ends);
        streams.into_iter().for_each(assert_cut_off);
        of_bob.iter_mut().for_each(assert_goes_on);
    }
}

#[test]
fn an_event_ends_websockets_by_a_token_that_is_still_good() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend).start();
    let of = |name: &str| open(&get(&nginx, "/jwt").bearer(&authgear.jwt(&User::named(name))));
    let (of_alice, mut of_bob) = (of("alice"), of("bob"));
    tell(&nginx, &event("user.disabled", "alice", unix_now()));
    assert_ends(of_alice);
    assert_goes_on(&mut of_bob);
    nginx.wait_for_error_log("authgear ends the response: token_revoked");
}

#[test]
fn an_event_that_ends_no_session_makes_one_look_up_and_ends_no_response() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend).workers(4).start();
    let session = authgear.session(&User::named("alice"));
    let (mut sockets, streams) = in_every_worker(&nginx, "/ws", &session);
    let asked = authgear.hits();
    tell(&nginx, &event("user.profile.updated", "alice", unix_now()));
    authgear.wait_for_hits(asked + 1);
    sockets.iter_mut().for_each(assert_goes_on);
    assert_eq!(authgear.hits(), asked + 1);
    drop(streams);
    assert!(!nginx.error_log().contains("authgear ends the response"));
}

#[test]
fn a_purge_by_the_logged_out_user_ends_responses_of_the_session() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = hooked(&authgear, &backend).workers(4).start();
    let alice = User::named("alice");
    let (session, other) = (authgear.session(&alice), authgear.session(&alice));
    let (sockets, streams) = in_every_worker(&nginx, "/ws", &session);
    let mut elsewhere = socket(&nginx, "/ws", &other);
    authgear.expire(&session);
    let logout = get(&nginx, "/logout").method("POST").cookie("session", &session);
    assert_eq!(logout.send().status, 204);
    sockets.into_iter().for_each(assert_ends);
    streams.into_iter().for_each(assert_cut_off);
    assert_goes_on(&mut elsewhere);
}

#[test]
fn former_workers_and_a_former_binary_end_their_responses() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .daemon(own_ip(204))
        .error_level("info")
        .http(project("p", &authgear, ""))
        .server(
            "authgear p; authgear_recheck 10s;
             proxy_http_version 1.1;
             proxy_set_header Upgrade $http_upgrade;
             proxy_set_header Connection upgrade;
             location / { authgear_require session; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let (of_alice, of_bob) = (authgear.session(&alice), authgear.session(&bob));
    let patient = |path: &str| get(&nginx, path).deadline(2 * DEADLINE);
    let responses = || {
        let socket = |session: &str| open(&patient("/ws").cookie("session", session));
        let events = stream(Connection::open_for(&patient("/events")), &of_alice);
        (socket(&of_alice), events, socket(&of_bob))
    };
    // Of the first configuration, of the second, and of the second binary.
    let mut all = vec![responses()];
    let mut former = nginx.reload();
    all.push(responses());
    former.extend(nginx.workers());
    let old = nginx.upgrade();
    nginx.signal_to(old, libc::SIGQUIT);
    for pid in &former {
        nginx.wait_for_error_log(&format!("{pid}#{pid}: gracefully shutting down"));
    }
    all.push(responses());
    authgear.disable(&alice.id);
    let mut others = Vec::new();
    for (socket, stream, other) in all {
        assert_ends(socket);
        assert_cut_off(stream);
        others.push(other);
    }
    others.iter_mut().for_each(assert_goes_on);
    drop(others);
    former.into_iter().chain([old]).for_each(|pid| nginx.wait_gone(pid));
    nginx.stop();
    assert!(nginx.exited());
}

#[test]
fn a_purge_reaches_event_streams_of_former_workers() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = rechecking(&authgear, &backend, ON).start();
    let alice = User::named("alice");
    let streams: Vec<_> = (0..8).map(|_| new_stream(&nginx, &authgear.session(&alice))).collect();
    let old = nginx.reload();
    authgear.disable(&alice.id);
    purge(&nginx, &alice.id);
    streams.into_iter().for_each(assert_cut_off);
    nginx.wait_replaced(&old);
}
