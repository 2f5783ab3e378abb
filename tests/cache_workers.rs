//! Look-ups shared by all workers, also when workers die meanwhile.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::{
    eventually, get, Backend, Builder, Connection, FakeAuthgear, Fault, Gate, Nginx, User,
};

use crate::project::project;
use crate::site::site;

const TELLING: &str = "add_header X-Cache \"$authgear_cache_status\" always;
                       add_header X-Worker $pid always;";

fn shared(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    site(authgear, backend)
        .workers(4)
        .http("authgear_cache_zone z:1m;")
        .http(project("p", authgear, settings))
        .server(TELLING)
        .server("authgear p; authgear_cache z;")
        .server("location / { proxy_pass http://%%BACKEND%%; }")
        .server("location = /worker { authgear off; return 200 $pid; }")
}

/// Two connections to each of four workers. `/worker` returns a worker's pid.
pub(crate) fn connections(nginx: &Nginx) -> Vec<(u32, [Connection; 2])> {
    let mut found: HashMap<u32, Vec<Connection>> = HashMap::new();
    let all = eventually(Duration::from_secs(20), || {
        let mut connection = Connection::open(nginx);
        let worker = connection.send(&get(nginx, "/worker")).text().parse().expect("a pid");
        // Open connections make a worker busier, so that the others are more likely to accept.
        found.entry(worker).or_default().push(connection);
        found.len() == 4 && found.values().all(|connections| connections.len() > 1)
    });
    assert!(all, "not every worker accepts connections: {:?}", found.keys());
    let pairs = found.into_iter().filter_map(|(worker, mut connections)| {
        Some((worker, [connections.pop()?, connections.pop()?]))
    });
    pairs.collect()
}

/// Waits until a worker has read what was sent to it before: it handles events in their order.
#[track_caller]
pub(crate) fn await_worker(nginx: &Nginx, connection: &mut Connection) {
    assert_eq!(connection.send(&get(nginx, "/worker")).status, 200);
}

/// The bytes of a request, to be written to a chosen connection.
fn asking(token: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes()
}

#[test]
fn many_cold_requests_over_all_workers_make_one_look_up() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = shared(&authgear, &backend, "").error_level("info").start();
    let token = authgear.opaque_token(&User::named("alice"));
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let pending: Vec<_> = (0..200).map(|_| get(&nginx, "/").bearer(&token).start()).collect();
    gate.wait_for_waiters(1);
    for (_, [mut connection, _]) in connections(&nginx) {
        await_worker(&nginx, &mut connection);
    }
    gate.open();
    let landed = Instant::now();
    let mut reported: HashMap<String, usize> = HashMap::new();
    for pending in pending {
        let answer = pending.wait();
        assert_eq!(answer.echo().header("x-authgear-user-id"), Some("alice"));
        *reported.entry(answer.header("x-cache").expect("a status")).or_default() += 1;
    }
    assert_eq!(authgear.hits(), 1);
    assert_eq!((reported.get("MISS"), reported.len()), (Some(&1), 2), "{reported:?}");
    // Far from any polling interval, even on a busy machine.
    assert!(landed.elapsed() < Duration::from_secs(2), "{:?}", landed.elapsed());
}

#[test]
fn a_waiting_worker_gets_the_verdict_at_once() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = shared(&authgear, &backend, "").start();
    let alice = User::named("alice");
    let mut workers = connections(&nginx).into_iter();
    let (_, [mut leader, _]) = workers.next().expect("a worker");
    let (_, [mut follower, mut marker]) = workers.next().expect("another worker");
    // The fastest of several rounds: a wait that polls with a timer is never that fast.
    let mut fastest = Duration::MAX;
    for _ in 0..10 {
        let token = authgear.opaque_token(&alice);
        let gate = Gate::new();
        authgear.inject(Fault::Gate(gate.clone()));
        leader.write(&asking(&token));
        gate.wait_for_waiters(1);
        follower.write(&asking(&token));
        await_worker(&nginx, &mut marker);
        gate.open();
        leader.read_response("GET");
        let led = Instant::now();
        let answer = follower.read_response("GET");
        fastest = fastest.min(led.elapsed());
        assert_eq!(answer.header("x-cache").as_deref(), Some("JOINED"));
    }
    assert_eq!(authgear.hits(), 10);
    assert!(fastest < Duration::from_millis(50), "{fastest:?}");
}

#[test]
fn only_the_worker_that_made_the_look_up_relays_cookies() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = shared(&authgear, &backend, "").server("authgear_relay_cookies on;").start();
    let dead = authgear.session(&User::named("alice"));
    authgear.expire(&dead);
    let mut workers = connections(&nginx).into_iter();
    let (_, [mut leader, _]) = workers.next().expect("a worker");
    let (_, [mut follower, mut marker]) = workers.next().expect("another worker");
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let asking = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: session={dead}\r\n\r\n");
    leader.write(asking.as_bytes());
    gate.wait_for_waiters(1);
    follower.write(asking.as_bytes());
    await_worker(&nginx, &mut marker);
    gate.open();
    let (led, followed) = (leader.read_response("GET"), follower.read_response("GET"));
    assert_eq!(led.all("set-cookie").len(), 1);
    assert_eq!(followed.header("x-cache").as_deref(), Some("JOINED"));
    assert_eq!(followed.all("set-cookie").len(), 0);
}

#[test]
fn a_failed_look_up_fails_for_all_workers() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = shared(&authgear, &backend, "max_fails 0; timeout 2s;").start();
    let token = authgear.opaque_token(&User::named("alice"));
    authgear.inject(Fault::Hang);
    let pending: Vec<_> = (0..40).map(|_| get(&nginx, "/").bearer(&token).start()).collect();
    for pending in pending {
        assert_eq!(pending.wait().status, 503);
    }
    assert_eq!(authgear.hits(), 1);
    assert_eq!(backend.hits(), 0);
    authgear.clear();
    assert_eq!(get(&nginx, "/").bearer(&token).send().status, 200);
}

#[test]
fn a_waiting_worker_takes_over_the_look_up_of_a_killed_worker() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = shared(&authgear, &backend, "timeout 8s;").start();
    nginx.allow_log("exited on signal 9");
    let token = authgear.opaque_token(&User::named("alice"));
    let mut workers = connections(&nginx).into_iter();
    let (leader, [mut asks, _]) = workers.next().expect("a worker");
    let (_, [mut follower, mut marker]) = workers.next().expect("another worker");
    let gate = Gate::new();
    authgear.inject_next(1, Fault::Gate(gate.clone()));
    asks.write(&asking(&token));
    gate.wait_for_waiters(1);
    follower.write(&asking(&token));
    await_worker(&nginx, &mut marker);
    nginx.kill_worker(leader);
    let answer = follower.read_response("GET");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.echo().header("x-authgear-user-id"), Some("alice"));
    assert_eq!(authgear.hits(), 2);
}

/// Workers are killed repeatedly under full load. The others answer correctly meanwhile, and all
/// works afterwards.
#[test]
fn killed_workers_leave_the_zone_usable() {
    const USERS: usize = 40;
    let seconds = std::env::var("AUTHGEAR_CRASH_SECONDS").ok().and_then(|s| s.parse().ok());
    let duration = Duration::from_secs(seconds.unwrap_or(30));
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .workers(4)
        .error_level("notice")
        // A small zone, so that entries are evicted all the time.
        .http("authgear_cache_zone z:64k front=2;")
        .http(project("p", &authgear, ""))
        .server("authgear p; authgear_cache z; authgear_cache_valid valid=20ms none=10ms;")
        .server("location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    nginx.allow_log("exited on signal 9");
    // nginx unlocks the zone of a worker that died with it locked, and says so.
    nginx.allow_log("was locked by");
    let users: Vec<_> = (0..USERS)
        .map(|n| {
            let roles: Vec<String> = (0..n).map(|role| format!("role_{role}")).collect();
            let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
            let user = authgear.add_user(User::named(&format!("user-{n}")).roles(&roles));
            (user.id.clone(), authgear.opaque_token(&user))
        })
        .collect();
    let over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in 0..8 {
            let (users, over, answered, nginx) = (&users, &over, &answered, &nginx);
            scope.spawn(move || {
                let mut n = client;
                while !over.load(Ordering::Relaxed) {
                    n += 7;
                    let (id, token) = &users[n % USERS];
                    // A connection may end with its worker, but an answer has to be right.
                    let Ok(answer) = get(nginx, "/").bearer(token).start().try_wait() else {
                        continue;
                    };
                    assert_eq!(answer.status, 200);
                    assert_eq!(answer.echo().header("x-authgear-user-id"), Some(&**id));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let until = Instant::now() + duration;
        while Instant::now() < until {
            let before = answered.load(Ordering::Relaxed);
            let worker = nginx.workers()[before % 4];
            nginx.kill_worker(worker);
            let goes_on = || answered.load(Ordering::Relaxed) >= before + 50;
            assert!(eventually(Duration::from_secs(10), goes_on), "nothing is answered any more");
        }
        over.store(true, Ordering::Relaxed);
    });
    for (id, token) in users.iter().chain(&users) {
        let answer = get(&nginx, "/").bearer(token).send();
        assert_eq!(answer.echo().header("x-authgear-user-id"), Some(&**id));
    }
}

/// Neither the shared memory nor a worker's own copies contain a token or cookie.
#[test]
fn no_credential_is_in_the_zone() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = shared(&authgear, &backend, "").workers(1).error_level("info").start();
    let alice = User::named("alice-whom-the-zone-knows");
    let (token, session) = (authgear.opaque_token(&alice), authgear.session(&alice));
    for _ in 0..3 {
        let request = get(&nginx, "/").bearer(&token).cookie("session", &session);
        assert_eq!(request.send().status, 200);
    }
    let memory = shared_memory(nginx.workers()[0]);
    let has = |what: &str| memory.windows(what.len()).any(|window| window == what.as_bytes());
    assert!(has(&alice.id), "this is not the zone");
    assert!(!has(&token), "the token is in the zone");
    let (id, secret) = session.split_once('.').expect("a session cookie");
    assert!(!has(id) && !has(secret), "the cookie is in the zone");
}

/// Returns all anonymous shared memory of a process: nginx's zones.
fn shared_memory(pid: u32) -> Vec<u8> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("mem");
    let mut found = Vec::new();
    for map in maps.lines().filter(|map| map.contains("rw-s") && map.contains("/dev/zero")) {
        let range = map.split(' ').next().expect("a range");
        let (from, to) = range.split_once('-').expect("from-to");
        let address = |hex| u64::from_str_radix(hex, 16).expect("an address");
        let mut bytes = vec![0; (address(to) - address(from)) as usize];
        memory.read_exact_at(&mut bytes, address(from)).expect("the zone's bytes");
        found.extend(bytes);
    }
    found
}
