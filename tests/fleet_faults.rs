//! Faults of a fleet's Redis: what they cost a request, and that no event is lost.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::json;
use support::{
    eventually, get, unix_now, Backend, Builder, FakeAuthgear, Nginx, Redis, User, DEADLINE,
};

use crate::fleet::{
    cache, event, fleet, host, host_with, known_since, post, start, tell, verdict, wait_cut_off,
    wait_for_count, wait_in_sync,
};
use crate::fleet_verdicts::{looks, start_sharing, wait_for_records};
use crate::webhook::planned;

/// Longest time of a request that Redis has no part in, on a busy machine.
const UNDELAYED: Duration = Duration::from_millis(250);

/// Adds an event that Redis trims at once.
const TRIM: &str = "redis.call('XADD', KEYS[1], '*', 'e', 'x')
                    return redis.call('XTRIM', KEYS[1], 'MAXLEN', 0)";

/// Something that happens to Redis.
type Fault = fn(&Redis);

/// Users who are disabled one after another, and whose tokens hosts must refuse.
pub(crate) struct Users<'a> {
    authgear: &'a FakeAuthgear,
    tokens: Vec<String>,
}

impl<'a> Users<'a> {
    pub(crate) fn new(authgear: &'a FakeAuthgear) -> Self {
        Self { authgear, tokens: Vec::new() }
    }

    /// Tells a host of the end of one more user.
    pub(crate) fn end_one_more(&mut self, at: &Nginx) -> u16 {
        let name = format!("user{}", self.tokens.len());
        self.tokens.push(self.authgear.jwt(&User::named(&name)));
        tell(at, &event("user.disabled", &name, unix_now()))
    }

    /// Waits until a host refuses all of them.
    #[track_caller]
    pub(crate) fn wait_refused(&self, at: &Nginx, what: &str) {
        for (n, token) in self.tokens.iter().enumerate() {
            let is_refused = || get(at, "/jwt").bearer(token).send().status == 401;
            assert!(eventually(DEADLINE, is_refused), "{what}: user{n}: {}", fleet(at));
        }
    }
}

#[test]
fn a_redis_that_refuses_events_is_one_outage_and_hosts_go_on_reading() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let rules = ["on", ">hunter2", "allkeys", "allcommands"];
    redis.command(&[&["ACL", "SETUSER", "a"][..], &rules].concat());
    let login = format!("{} secret=fleet.secret user=a password=redis.password", redis.url());
    let a = host_with(&authgear, &backend, &login).secret_file("redis.password", "hunter2");
    let (a, b) = (start(&authgear, a), start(&authgear, host(&authgear, &backend, &redis.url())));
    let mut users = Users::new(&authgear);
    redis.command(&["ACL", "SETUSER", "a", "-xadd"]);
    assert_eq!(users.end_one_more(&a), 202);
    a.wait_for_error_log("authgear fleet is cut off: the server answers NOPERM");
    // Events of others arrive all the while.
    for _ in 0..5 {
        let since = Instant::now();
        assert_eq!(users.end_one_more(&b), 204);
        let token = users.tokens.last().expect("a token").clone();
        known_since(since, "an event of another host", || {
            get(&a, "/jwt").bearer(&token).send().status == 401
        });
    }
    wait_for_count(&a, "connections", "broken", 4);
    let log = a.error_log();
    assert_eq!(log.matches("authgear fleet is cut off").count(), 1);
    assert!(!log.contains("authgear fleet is in sync again"));

    redis.command(&["ACL", "SETUSER", "a", "+xadd"]);
    users.wait_refused(&b, "events are taken again");
    a.wait_for_error_log("authgear fleet is in sync again");
}

/// A proxy that leads the connection that writes to another Redis than the one that reads.
fn parting(read: SocketAddr, write: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let relay = move |mut client: TcpStream| -> io::Result<()> {
        // The name of the connection is in the first command.
        let mut first = [0; 512];
        let count = client.read(&mut first)?;
        let is_writer = first[..count].windows(14).any(|name| name == b"authgear-write");
        let mut server = TcpStream::connect(if is_writer { write } else { read })?;
        server.write_all(&first[..count])?;
        let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
        thread::spawn(move || io::copy(&mut answers, &mut back));
        io::copy(&mut client, &mut server)?;
        server.shutdown(Shutdown::Both)
    };
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || relay(client));
        }
    });
    addr
}

#[test]
fn a_writer_that_reaches_another_server_than_the_reader_is_an_outage() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (read, other) = (Redis::start(), Redis::start());
    let through = format!("redis://{}", parting(read.addr(), other.addr()));
    let a = host(&authgear, &backend, &through).start();
    a.wait_for_error_log("authgear fleet is cut off: another server answers than the one that is");
    assert_eq!(tell(&a, &event("user.disabled", "alice", unix_now())), 202);
    // Attempts have pauses between them.
    let opened = || fleet(&a)["connections"]["opened"].as_u64().expect("a count");
    let before = opened();
    assert!(!eventually(Duration::from_secs(1), || opened() > before + 12));
}

#[test]
fn an_event_that_another_one_replaced_is_not_said_to_be_stored() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let a = start(&authgear, host(&authgear, &backend, &redis.url()));
    redis.kill();
    wait_cut_off(&a);
    let now = unix_now();
    let first = planned("alice", now + 3600, now + 7200);
    let mut second = first.clone();
    second["context"]["timestamp"] = json!(now + 2);
    // The second replaces the first while the first waits for Redis.
    let statuses = thread::scope(|scope| {
        let waiting = scope.spawn(|| tell(&a, &first));
        assert!(eventually(DEADLINE, || fleet(&a)["ring_waiting"] == 1));
        let second = tell(&a, &second);
        [waiting.join().expect("an answer"), second]
    });
    assert_eq!(statuses, [202, 202]);
    assert_eq!(fleet(&a)["ring_waiting"], 1);
}

#[test]
fn a_redis_that_loses_its_data_loses_no_event() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = [(); 2].map(|()| start(&authgear, host(&authgear, &backend, &redis.url())));
    let mut users = Users::new(&authgear);
    assert_eq!(users.end_one_more(&a), 204);
    users.wait_refused(&b, "no fault");
    let faults: [(&str, Fault); 4] = [
        ("FLUSHALL", |redis| drop(redis.command(&["FLUSHALL"]))),
        ("DEL", |redis| drop(redis.command(&["DEL", "{authgear}:events"]))),
        ("restart, empty", Redis::restart),
        ("restart, old snapshot", Redis::restart),
    ];
    for (n, (what, fault)) in faults.into_iter().enumerate() {
        if what.ends_with("snapshot") {
            redis.save();
        }
        assert_eq!(users.end_one_more(&a), 204, "{what}");
        fault(&redis);
        // Who told the events has to say them again.
        let is_noticed = || losses(&a) > n as u64;
        assert!(eventually(DEADLINE, is_noticed), "{what}: {}", fleet(&a));
        [&a, &b].into_iter().for_each(wait_in_sync);
        assert_eq!(users.end_one_more(&a), 204, "{what}");
        users.wait_refused(&b, what);
        // What was lost was said again: a host that begins now hears it.
        let c = start(&authgear, host(&authgear, &backend, &redis.url()));
        users.wait_refused(&c, what);
    }
    // What nobody can say again was trimmed: a host that has not read it trusts nothing it has.
    redis.command(&["XTRIM", "{authgear}:events", "MAXLEN", "0"]);
    let d = start(&authgear, host(&authgear, &backend, &redis.url()));
    wait_for_count(&d, "losses", "trimmed", 1);
    // Purging brings no end back: the others say theirs again.
    users.wait_refused(&d, "trimmed");
}

#[test]
fn a_page_of_events_that_is_larger_than_a_reply_may_be_is_read_in_parts() {
    const LARGE: usize = 200;
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let a = start(&authgear, host(&authgear, &backend, &redis.url()));
    // Such as a later version may tell.
    let large = "x".repeat(3000);
    for _ in 0..LARGE {
        redis.command(&["XADD", "{authgear}:events", "*", "e", &large]);
    }
    assert_eq!(post(&a, "/purge?user=alice").send().status, 204);
    let b = start(&authgear, host(&authgear, &backend, &redis.url()));
    wait_for_count(&b, "events", "unreadable", LARGE as u64);
    wait_for_count(&b, "events", "applied", 1);
}

#[test]
fn an_entry_that_is_larger_than_a_reply_may_be_is_an_outage_until_it_is_deleted() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let a = start(&authgear, host(&authgear, &backend, &redis.url()));
    redis.command(&["XADD", "{authgear}:events", "*", "e", &"x".repeat(70_000)]);
    a.wait_for_error_log("cut off: the stream has an entry that is too large, delete the stream");
    wait_cut_off(&a);
    // Attempts have pauses between them.
    let opened = || fleet(&a)["connections"]["opened"].as_u64().expect("a count");
    let before = opened();
    assert!(!eventually(Duration::from_secs(2), || opened() > before + 8));
    redis.command(&["DEL", "{authgear}:events"]);
    wait_in_sync(&a);
    assert_eq!(post(&a, "/purge?user=alice").send().status, 204);
}

#[test]
fn a_purge_that_is_owed_after_a_trim_waits_for_no_redis() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let a = start(&authgear, host(&authgear, &backend, &redis.url()).workers(1));
    let trim = |count| {
        // In one step, so that the host cannot read the event before.
        redis.command(&["EVAL", TRIM, "1", "{authgear}:events"]);
        wait_for_count(&a, "losses", "trimmed", count);
    };
    trim(1);
    let token = authgear.opaque_token(&User::named("alice"));
    assert_eq!(cache(&get(&a, "/").bearer(&token).send()), "MISS resolver");
    assert_eq!(cache(&get(&a, "/").bearer(&token).send()), "HIT cache");
    trim(2);
    assert_eq!(cache(&get(&a, "/").bearer(&token).send()), "HIT cache");
    redis.kill();
    let is_purged = || cache(&get(&a, "/").bearer(&token).send()) == "MISS resolver";
    assert!(eventually(2 * DEADLINE, is_purged), "{}", fleet(&a));
}

#[test]
fn an_event_of_a_project_that_a_host_does_not_have_is_counted_apart() {
    let (authgear, other) = (FakeAuthgear::start(), FakeAuthgear::start());
    let (backend, redis) = (Backend::start(), Redis::start());
    let a = host(&authgear, &backend, &redis.url())
        .server("location = /own { authgear off; authgear_purge admin project=p; }");
    let a = start(&authgear, a);
    let b = start(&other, host(&other, &backend, &redis.url()));
    assert_eq!(post(&a, "/own?user=alice").send().status, 204);
    wait_for_count(&b, "events", "foreign", 1);
    assert_eq!(fleet(&b)["events"]["applied"], 0);
}

/// Number of losses that a host has noticed.
pub(crate) fn losses(nginx: &Nginx) -> u64 {
    let all = fleet(nginx)["losses"].clone();
    all.as_object().expect("losses").values().filter_map(serde_json::Value::as_u64).sum()
}

#[test]
fn a_redis_that_hangs_costs_requests_nothing() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = [(); 2].map(|()| start(&authgear, host(&authgear, &backend, &redis.url())));
    let mut users = Users::new(&authgear);
    redis.hang();
    let token = authgear.opaque_token(&User::named("bob"));
    let mut slowest = Duration::ZERO;
    let mut ask = || {
        let begun = Instant::now();
        assert_eq!(get(&a, "/").bearer(&token).send().status, 200);
        slowest = slowest.max(begun.elapsed());
    };
    (0..20).for_each(|_| ask());
    let begun = Instant::now();
    assert_eq!(users.end_one_more(&a), 202);
    assert!((900..1500).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    [&a, &b].into_iter().for_each(wait_cut_off);
    (0..20).for_each(|_| ask());
    assert!(slowest < UNDELAYED, "{slowest:?}");
    users.wait_refused(&a, "hangs");
    redis.resume();
    users.wait_refused(&b, "resumed");
    [&a, &b].into_iter().for_each(wait_in_sync);
    a.wait_for_error_log("authgear fleet is cut off: Redis does not answer in time");
}

#[test]
fn a_host_that_is_cut_off_can_ask_anew() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let builder = host(&authgear, &backend, &redis.url())
        .server("authgear_fleet_cut_off ask after=2s; authgear_cache_use_stale error=1h;")
        .server(
            "location = /serve { authgear_fleet_cut_off serve; proxy_pass http://%%BACKEND%%; }
             location = /jwt-serve {
                 authgear_fleet_cut_off serve; authgear_mode jwt; proxy_pass http://%%BACKEND%%;
             }",
        );
    let nginx = start(&authgear, builder);
    let alice = authgear.add_user(User::named("alice"));
    let (session, jwt) = (authgear.session(&alice), authgear.jwt(&alice));
    let of = |target: &str| get(&nginx, target).cookie("session", &session);
    let (by_jwt, by_auto) = (get(&nginx, "/jwt").bearer(&jwt), get(&nginx, "/auto").bearer(&jwt));
    let ask = |request: &support::Request| {
        let answer = request.send();
        (answer.status, cache(&answer), verdict(&answer))
    };
    let hit = (200, "HIT cache".to_owned(), "valid ok".to_owned());
    for request in [&of("/"), &of("/serve"), &by_jwt, &by_auto] {
        request.send();
        assert_eq!(ask(request), hit);
    }
    redis.kill();
    wait_cut_off(&nginx);
    let refused = (503, "BYPASS none".to_owned(), "error fleet_cut_off".to_owned());
    assert!(eventually(DEADLINE, || ask(&by_jwt) == refused), "{:?}", ask(&by_jwt));
    assert_eq!(ask(&by_auto).1, "MISS resolver");
    assert_eq!(ask(&of("/serve")), hit);
    assert_eq!(get(&nginx, "/jwt-serve").bearer(&jwt).send().status, 200);
    // The verdict is older than a second; the answer to it is not for a second.
    assert_eq!(ask(&of("/")).1, "EXPIRED resolver".replace("EXPIRED", "MISS"));
    assert_eq!(ask(&of("/")), hit);
    // Nothing is served stale.
    authgear.stop();
    let is_denied = || ask(&of("/")).0 == 503;
    assert!(eventually(DEADLINE, is_denied), "{:?}", ask(&of("/")));
    redis.restart();
    wait_in_sync(&nginx);
    assert_eq!(ask(&by_jwt).0, 200);
}

#[test]
fn until_the_first_catch_up_a_host_is_cut_off() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    redis.kill();
    let builder = host(&authgear, &backend, &redis.url());
    let nginx = builder.server("authgear_fleet_cut_off ask after=1h;").start();
    authgear.wait_for_jwks_hits(1);
    let by_jwt = get(&nginx, "/jwt").bearer(&authgear.jwt(&User::named("alice")));
    assert_eq!(verdict(&by_jwt.send()), "error fleet_cut_off");
    redis.restart();
    wait_in_sync(&nginx);
    assert_eq!(by_jwt.send().status, 200);
}

/// A server that answers each command with the same bytes.
struct Parrot {
    addr: SocketAddr,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Parrot {
    fn start(says: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (addr, over) = (listener.local_addr().expect("an address"), Arc::default());
        let its_over: Arc<AtomicBool> = Arc::clone(&over);
        let thread = thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if its_over.load(Ordering::SeqCst) {
                    break;
                }
                let says = says.clone();
                thread::spawn(move || answer(stream, &says));
            }
        });
        Self { addr, over, thread: Some(thread) }
    }
}

/// Answers until the client is gone.
pub(crate) fn answer(mut stream: TcpStream, says: &[u8]) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer), Ok(count) if count > 0) {
        if stream.write_all(says).is_err() {
            break;
        }
    }
}

impl Drop for Parrot {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[test]
fn garbage_from_redis_is_an_outage_and_nothing_else() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let token = authgear.opaque_token(&User::named("alice"));
    for says in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
        b"-NOAUTH Authentication required with the password hunter2.\r\n".to_vec(),
        b"-READONLY You can't write against a read only replica.\r\n".to_vec(),
        b"+OK\r\n".to_vec(),
        b"$100000\r\n".iter().copied().chain([b'x'; 100_000]).collect(),
        b"$-5\r\n".to_vec(),
        b"*1\r\n".repeat(100_000),
        b"*1000000000\r\n".to_vec(),
        vec![0; 1000],
    ] {
        let shown = String::from_utf8_lossy(says.get(..30).unwrap_or(&says)).into_owned();
        let parrot = Parrot::start(says);
        let redis = format!("redis://{}", parrot.addr);
        let nginx = host(&authgear, &backend, &redis).workers(1).start();
        let line = nginx.wait_for_error_log("authgear fleet is cut off");
        assert!(line.contains("[error]") && !line.contains("hunter2"), "{shown}: {line}");
        assert_eq!(get(&nginx, "/").bearer(&token).send().status, 200, "{shown}");
        assert_eq!(post(&nginx, "/purge?user=alice").send().status, 202, "{shown}");
        assert_eq!(fleet(&nginx)["in_sync"], false, "{shown}");
    }
}

/// A host that shares verdicts.
fn sharing(authgear: &FakeAuthgear, backend: &Backend, redis: &str, arguments: &str) -> Builder {
    host_with(authgear, backend, &format!("{redis} secret=fleet.secret cache=on {arguments}"))
}

/// Asks a host about one more user, whom no host knows, and returns the time that it took.
#[track_caller]
fn ask_anew(authgear: &FakeAuthgear, host: &Nginx, status: &str) -> Duration {
    let token = authgear.opaque_token(&User::named("alice"));
    let begun = Instant::now();
    assert_eq!(cache(&get(host, "/").bearer(&token).send()), status);
    let took = begun.elapsed();
    assert_eq!(cache(&get(host, "/").bearer(&token).send()), "HIT cache");
    took
}

#[test]
fn a_redis_that_is_gone_or_hangs_costs_a_look_for_a_verdict_its_timeout_at_most() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let one = sharing(&authgear, &backend, &redis.url(), "timeout=400ms").workers(1);
    let a = start_sharing(&authgear, one);
    ask_anew(&authgear, &a, "MISS resolver");
    redis.hang();
    let mut waited = 0;
    for _ in 0..20 {
        let took = ask_anew(&authgear, &a, "MISS resolver");
        waited += usize::from(took > Duration::from_millis(300));
        assert!(took < Duration::from_millis(400) + UNDELAYED, "{took:?}");
    }
    // After half a second without an answer the connection is closed.
    assert!((1..=3).contains(&waited), "{waited} requests waited");
    assert_eq!(looks(&a, "timeout") + looks(&a, "skipped"), 20, "{}", fleet(&a));
    redis.resume();
    wait_in_sync(&a);
    let is_back = || {
        ask_anew(&authgear, &a, "MISS resolver");
        looks(&a, "lead") > 1
    };
    assert!(eventually(2 * DEADLINE, is_back), "{}", fleet(&a));
    redis.kill();
    wait_cut_off(&a);
    let before = looks(&a, "skipped");
    for _ in 0..20 {
        let took = ask_anew(&authgear, &a, "MISS resolver");
        assert!(took < UNDELAYED, "{took:?}");
    }
    assert_eq!(looks(&a, "skipped"), before + 20);
    redis.restart();
    wait_in_sync(&a);
    let before = looks(&a, "lead");
    let is_back = || {
        ask_anew(&authgear, &a, "MISS resolver");
        looks(&a, "lead") > before
    };
    assert!(eventually(2 * DEADLINE, is_back), "{}", fleet(&a));
    // The outage of Redis has a line of its own.
    assert!(!a.error_log().contains("shares no verdicts"));
}

/// A proxy that changes what Redis answers.
fn changing(redis: SocketAddr, change: fn(&mut Vec<u8>)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let relay = move |mut client: TcpStream| -> io::Result<()> {
        let mut server = TcpStream::connect(redis)?;
        let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
        thread::spawn(move || -> io::Result<()> {
            let mut chunk = [0; 65536];
            loop {
                let count = answers.read(&mut chunk)?;
                let mut bytes = chunk[..count].to_vec();
                change(&mut bytes);
                back.write_all(&bytes)?;
                if count == 0 {
                    return back.shutdown(Shutdown::Both);
                }
            }
        });
        io::copy(&mut client, &mut server)?;
        server.shutdown(Shutdown::Both)
    };
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || relay(client));
        }
    });
    addr
}

#[test]
fn a_slow_redis_costs_a_look_for_a_verdict_its_time() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let slow = changing(redis.addr(), |_| thread::sleep(Duration::from_millis(40)));
    let url = format!("redis://{slow}");
    let [a, b] = [(); 2].map(|()| {
        start_sharing(&authgear, sharing(&authgear, &backend, &url, "timeout=500ms").workers(1))
    });
    let token = authgear.opaque_token(&User::named("bob"));
    for (host, status) in [(&a, "MISS resolver"), (&b, "SHARED cache")] {
        let begun = Instant::now();
        assert_eq!(cache(&get(host, "/").bearer(&token).send()), status);
        let took = begun.elapsed();
        assert!((40..40 + 400).contains(&took.as_millis()), "{took:?}");
        for _ in 0..10 {
            let begun = Instant::now();
            assert_eq!(cache(&get(host, "/").bearer(&token).send()), "HIT cache");
            assert!(begun.elapsed() < UNDELAYED, "{:?}", begun.elapsed());
        }
    }
    // One that takes longer than may be is left alone after three looks.
    let slow = changing(redis.addr(), |_| thread::sleep(Duration::from_millis(40)));
    let url = format!("redis://{slow}");
    let c = sharing(&authgear, &backend, &url, "timeout=10ms").workers(1);
    let c = start_sharing(&authgear, c);
    for _ in 0..10 {
        ask_anew(&authgear, &c, "MISS resolver");
    }
    assert_eq!((looks(&c, "timeout"), looks(&c, "skipped")), (3, 7), "{}", fleet(&c));
}

#[test]
fn a_redis_that_takes_no_verdicts_is_said_once_and_events_go_on() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let rules = ["on", ">hunter2", "allkeys", "allcommands"];
    redis.command(&[&["ACL", "SETUSER", "a"][..], &rules].concat());
    let login = sharing(&authgear, &backend, &redis.url(), "user=a password=redis.password");
    let a = start_sharing(&authgear, login.secret_file("redis.password", "hunter2"));
    redis.command(&["ACL", "SETUSER", "a", "-set"]);
    let is_said = || {
        assert!(ask_anew(&authgear, &a, "MISS resolver") < UNDELAYED);
        a.error_log().contains("authgear fleet shares no verdicts: the server answers NOPERM")
    };
    assert!(eventually(2 * DEADLINE, is_said), "{}", fleet(&a));
    assert_eq!(fleet(&a)["in_sync"], true);
    assert_eq!(post(&a, "/purge?user=alice").send().status, 204);
    redis.command(&["ACL", "SETUSER", "a", "+set"]);
    a.wait_for_error_log("authgear fleet shares verdicts again");
    let log = a.error_log();
    assert_eq!(log.matches("authgear fleet shares no verdicts").count(), 1, "{log}");
    assert!(!log.contains("authgear fleet is cut off"), "{log}");
}

#[test]
fn keys_of_another_type_or_size_cost_a_look_up_and_nothing_else() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = [(); 2].map(|()| {
        let one = sharing(&authgear, &backend, &redis.url(), "timeout=1s").workers(1);
        start_sharing(&authgear, one)
    });
    let token = authgear.opaque_token(&User::named("bob"));
    assert_eq!(cache(&get(&a, "/").bearer(&token).send()), "MISS resolver");
    let name = wait_for_records(&redis, 1).remove(0);
    let large = "x".repeat(70_000);
    let puts: [&[&str]; 2] = [&["SET", &name, &large], &["LPUSH", &name, "x"]];
    for (n, put) in puts.into_iter().enumerate() {
        redis.command(&["DEL", &name]);
        redis.command(put);
        assert_eq!(post(&a, "/purge?user=bob").send().status, 204);
        let is_asked = || cache(&get(&b, "/").bearer(&token).send()) == "MISS resolver";
        assert!(eventually(DEADLINE, is_asked), "{n}: {}", fleet(&b));
        wait_for_count(&b, "connections", "broken", n as u64 + 1);
        wait_for_count(&b, "connections", "opened", n as u64 + 4);
    }
    assert_eq!(fleet(&b)["in_sync"], true);
}

#[test]
fn a_host_whose_clock_is_not_that_of_redis_shares_nothing() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    // The answer to TIME has the seconds first, and so has the time of INFO.
    let later = changing(redis.addr(), |bytes| {
        for before in [&b"*2\r\n$10\r\n"[..], b"server_time_usec:"] {
            let at = bytes.windows(before.len()).position(|window| window == before);
            if let Some(at) = at.map(|at| at + before.len()) {
                let seconds = std::str::from_utf8(&bytes[at..at + 10]).expect("digits");
                let seconds: u64 = seconds.parse().expect("a time");
                bytes[at..at + 10].copy_from_slice((seconds + 5).to_string().as_bytes());
            }
        }
    });
    let url = format!("redis://{later}");
    let a = start_sharing(&authgear, sharing(&authgear, &backend, &url, "timeout=1s"));
    a.wait_for_error_log("authgear fleet shares no verdicts: the clock of Redis is ");
    ask_anew(&authgear, &a, "MISS resolver");
    assert_eq!(looks(&a, "skipped"), 1, "{}", fleet(&a));
    let offset = fleet(&a)["clock_offset"].as_f64().expect("an offset");
    assert!((4.0..6.0).contains(&offset), "{offset}");
    assert_eq!(fleet(&a)["in_sync"], true);
}
