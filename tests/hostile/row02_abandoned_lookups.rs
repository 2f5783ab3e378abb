//! Row 2: a look-up that no client waits for any more is dropped.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use support::{
    get, resident_bytes, Backend, Builder, FakeAuthgear, Fault, Gate, H2Frames, HeaderBlock,
    Request, User, DEADLINE,
};

use super::crowded;
use crate::project::project;

const CONNECTIONS: usize = 8;

fn protected(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    let settings = format!("max_connections {CONNECTIONS}; max_fails 0; {settings}");
    crowded(authgear, backend)
        .http(format!("authgear_cache_zone z:1m; {}", project("p", authgear, &settings)))
        .server("location / { authgear p; authgear_cache z; empty_gif; }")
}

/// Begins look-ups of tokens that nobody knows, `round` at a time, and resets each at once.
/// Returns when the worker has read all of them.
fn flood(connection: &mut H2Frames, tokens: impl Iterator<Item = usize>, round: usize) {
    let mut unsent = 0;
    for n in tokens {
        let token = format!("Bearer bogus-{n:026}");
        let block = HeaderBlock::get("/").literal("authorization", token.as_bytes());
        let stream = connection.request(&block);
        connection.reset(stream);
        unsent += 1;
        if unsent == round {
            connection.flush_and_ping();
            unsent = 0;
        }
    }
    connection.flush_and_ping();
}

#[test]
fn abandoned_lookups_are_not_asked_and_their_memory_is_given_back() {
    const TOKENS: usize = 10_000;
    const MOST: u64 = 24 << 20;
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = protected(&authgear, &backend, "timeout 60s;").start();
    let worker = nginx.workers()[0];
    let mut connection = H2Frames::open(&nginx);
    let warm = authgear.opaque_token(&User::named("warm"));
    assert_eq!(get(&nginx, "/").bearer(&warm).send_h2().status, 200);
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let (before, asked) = (resident_bytes(worker), authgear.hits());
    flood(&mut connection, 0..TOKENS, 100);
    let grown = resident_bytes(worker).saturating_sub(before);
    assert!(grown < MOST, "the worker has grown by {grown} bytes");
    gate.open();
    authgear.clear();
    // An honest look-up is the last in the queue.
    let token = authgear.opaque_token(&User::named("alice"));
    let honest = get(&nginx, "/").bearer(&token).deadline(Duration::from_secs(30)).send_h2();
    assert_eq!((honest.status, honest.header("x-reason").as_deref()), (200, Some("ok")));
    let asked = authgear.hits() - asked;
    assert!(asked <= 4 * CONNECTIONS, "{asked} look-ups, {TOKENS} of which nobody waited for");
}

#[test]
fn a_flood_of_abandoned_lookups_delays_an_honest_one_by_little() {
    const MOST: Duration = Duration::from_millis(1500);
    let service_time = Duration::from_millis(20);
    let authgear = FakeAuthgear::builder().capacity(CONNECTIONS, service_time).start();
    let backend = Backend::start();
    let nginx = protected(&authgear, &backend, "").start();
    let cached = get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("cached")));
    assert_eq!(cached.send_h2().header("x-cache").as_deref(), Some("MISS"));
    let (over, (flooded, flooding)) = (AtomicBool::new(false), mpsc::channel());
    let fine = |(status, took, hit): &(u16, Duration, Option<String>)| {
        *status == 200 && *took <= MOST && hit.as_deref() == Some("HIT")
    };
    let told: Vec<_> = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut connection = H2Frames::open(&nginx);
            let mut n = 0;
            while !over.load(Ordering::SeqCst) {
                flood(&mut connection, n..n + 500, 100);
                n += 500;
                let _ = flooded.send(());
            }
        });
        let is_flooding = flooding.recv_timeout(DEADLINE).is_ok();
        let ask = |request: &Request| {
            let answer = request.clone().deadline(2 * MOST).start_h2().try_wait();
            answer.map_or((0, None), |answer| (answer.status, answer.header("x-cache")))
        };
        let told = (0..if is_flooding { 4 } else { 0 }).map(|n| {
            let token = authgear.opaque_token(&User::named(&format!("honest-{n}")));
            let begin = Instant::now();
            let (status, _) = ask(&get(&nginx, "/").bearer(&token));
            let took = begin.elapsed();
            (status, took, ask(&cached).1)
        });
        // One that fails decides.
        let mut failed = false;
        let told = told.take_while(|told| !std::mem::replace(&mut failed, !fine(told))).collect();
        over.store(true, Ordering::SeqCst);
        let _ended = flood.join();
        told
    });
    assert!(!told.is_empty() && told.iter().all(fine), "status, time, cached session: {told:?}");
}
