//! Limits of sharing verdicts: who shares nothing, how long Redis is waited for, how long a shared
//! verdict counts, and how often a server is asked that does not wait.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use support::{eventually, get, Backend, Ca, FakeAuthgear, Nginx, Redis, User, DEADLINE};

use crate::fleet::{cache, fleet, host, start, wait_for_count};
use crate::fleet_faults::{losses, Users};
use crate::fleet_verdicts::{looks, sharing, start_sharing, wait_for_records};

#[test]
fn a_project_that_verifies_no_certificate_shares_nothing() {
    let (backend, redis, ca) = (Backend::start(), Redis::start(), Ca::new());
    let authgear = FakeAuthgear::builder().tls(ca.leaf(&["127.0.0.1"])).start();
    let with = |setting: &'static str| {
        let builder = sharing(&authgear, &backend, &redis).file("ca.pem", ca.pem());
        let lines = format!("{setting}; endpoint ");
        start_sharing(&authgear, builder.raw_conf(move |conf| conf.replace("endpoint ", &lines)))
    };
    let token = authgear.opaque_token(&User::named("alice"));
    let ask = |host: &Nginx| cache(&get(host, "/").bearer(&token).send());
    let unverified = [(); 2].map(|()| with("ssl_verify off"));
    unverified.iter().for_each(|host| assert_eq!(ask(host), "MISS resolver"));
    // Nor does it read what others share.
    let verified = [(); 2].map(|()| with("ssl_trusted_certificate ca.pem"));
    assert_eq!(verified.each_ref().map(ask), ["MISS resolver", "SHARED cache"]);
    wait_for_records(&redis, 1);
    assert_eq!(ask(&with("ssl_verify off")), "MISS resolver");
    for host in &unverified {
        let counts = fleet(host)["cache"].clone();
        let counts = counts.as_object().expect("counts");
        assert!(counts.values().all(|count| count == 0), "{counts:?}");
    }
}

#[test]
fn redis_is_waited_for_in_a_part_of_the_timeout_of_the_project() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let one = sharing(&authgear, &backend, &redis)
        .workers(1)
        .raw_conf(|conf| conf.replace("endpoint ", "timeout 800ms; endpoint "));
    let a = start_sharing(&authgear, one);
    let token = authgear.opaque_token(&User::named("alice"));
    redis.hang();
    let begun = Instant::now();
    let answer = get(&a, "/").bearer(&token).send();
    let took = begun.elapsed();
    // `timeout=` of the fleet is a second.
    assert_eq!((answer.status, cache(&answer).as_str()), (200, "MISS resolver"), "{took:?}");
    assert!(took.as_millis() >= 380, "{took:?}");
    redis.resume();
    assert_eq!(looks(&a, "timeout"), 1, "{}", fleet(&a));
}

#[test]
fn a_shared_verdict_counts_as_four_seconds_older() {
    const VALID: u64 = 10;
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = [(); 2].map(|()| {
        let builder = sharing(&authgear, &backend, &redis);
        let change = |conf: String| conf.replace("valid=1h", &format!("valid={VALID}s"));
        start_sharing(&authgear, builder.raw_conf(change))
    });
    let token = authgear.opaque_token(&User::named("alice"));
    let ask = |host: &Nginx| cache(&get(host, "/").bearer(&token).send());
    let before = Instant::now();
    assert_eq!(ask(&a), "MISS resolver");
    let after = Instant::now();
    assert_eq!(ask(&b), "SHARED cache");
    assert_eq!(ask(&b), "HIT cache");
    let mut counted = after;
    let has_ended = || {
        let asked = Instant::now();
        let counts = ask(&b) != "MISS resolver";
        if counts {
            counted = asked;
        }
        !counts
    };
    assert!(eventually(DEADLINE, has_ended), "{}", fleet(&b));
    assert_eq!(authgear.hits(), 2, "{}", fleet(&b));
    let (least, most) = (counted - after, before.elapsed());
    let end = Duration::from_secs(VALID - 4);
    // A worker's clock may stand still for a moment.
    assert!(most >= end && least < end + Duration::from_secs(1), "{least:?} {most:?}");
    // The host that was told goes on.
    assert_eq!(ask(&a), "HIT cache");
}

/// A way to Redis on which waiting for events returns at once, and the number of times.
fn impatient(redis: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = listener.local_addr().expect("an address");
    let waits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&waits);
    let relay = move |mut client: TcpStream| -> io::Result<()> {
        let mut server = TcpStream::connect(redis)?;
        let (mut answers, mut back) = (server.try_clone()?, client.try_clone()?);
        thread::spawn(move || io::copy(&mut answers, &mut back));
        let mut request = [0; 4096];
        loop {
            // The connection that reads has one command at a time.
            let count = client.read(&mut request)?;
            if request[..count].windows(9).any(|word| word == b"\r\nBLOCK\r\n") {
                counted.fetch_add(1, Ordering::SeqCst);
                client.write_all(b"*-1\r\n")?;
            } else if count == 0 {
                return server.shutdown(Shutdown::Both);
            } else {
                server.write_all(&request[..count])?;
            }
        }
    };
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let relay = relay.clone();
            thread::spawn(move || relay(client));
        }
    });
    (addr, waits)
}

#[test]
fn a_server_that_does_not_wait_for_events_is_asked_with_pauses() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let (way, waits) = impatient(redis.addr());
    let a = start(&authgear, host(&authgear, &backend, &format!("redis://{way}")));
    let b = start(&authgear, host(&authgear, &backend, &redis.url()));
    let (begun, before) = (Instant::now(), waits.load(Ordering::SeqCst));
    let asked = || waits.load(Ordering::SeqCst) - before;
    assert!(eventually(DEADLINE, || asked() >= 20));
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(1500), "20 times in {took:?}");
    // Events arrive by the look of each second.
    let mut users = Users::new(&authgear);
    assert_eq!(users.end_one_more(&b), 204);
    users.wait_refused(&a, "looked for");
    assert_eq!(users.end_one_more(&a), 204);
    users.wait_refused(&b, "told");
    wait_for_count(&a, "events", "own", 1);
    assert_eq!(fleet(&a)["in_sync"], true);
    assert_eq!([losses(&a), losses(&b)], [0, 0]);
}
