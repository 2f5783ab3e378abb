//! Row 3: beyond Authgear's capacity, as many requests are answered as it has capacity for.

use std::time::{Duration, Instant};

use support::{closed_loop, get, open_loop, Backend, FakeAuthgear, Fared, Nginx, Request, User};

use super::{crowded, from};
use crate::project::project;

const CONNECTIONS: usize = 8;
const SERVICE_TIME: Duration = Duration::from_millis(50);
const TIMEOUT: Duration = Duration::from_millis(500);
/// Longer than it takes a queue at 1.5 times the capacity to reach the timeout: 1 s.
const LASTS: Duration = Duration::from_millis(2600);
/// From when on answers are counted.
const SETTLED: Duration = Duration::from_millis(1300);

/// Requests of as many users, each with an address and a look-up of its own.
fn honest(authgear: &FakeAuthgear, nginx: &Nginx, n: usize) -> Vec<Request> {
    let request = |n: usize| {
        let token = authgear.opaque_token(&User::named(&format!("user-{n}")));
        from(&format!("10.1.{}.{}", n / 250, n % 250), get(nginx, "/").bearer(&token))
    };
    (0..n).map(request).collect()
}

/// Answers per second of a closed loop with a client for each connection.
fn capacity(authgear: &FakeAuthgear, nginx: &Nginx) -> f64 {
    const REQUESTS: usize = 100;
    let requests = honest(authgear, nginx, REQUESTS);
    let begin = Instant::now();
    let fared = closed_loop(nginx, &requests, CONNECTIONS);
    let took = begin.elapsed();
    assert!(fared.iter().all(|fared| fared.status() == 200), "{:?}", fared[0]);
    REQUESTS as f64 / took.as_secs_f64()
}

#[track_caller]
fn assert_goodput(times: f64) {
    let authgear = FakeAuthgear::builder().capacity(CONNECTIONS, SERVICE_TIME).start();
    let backend = Backend::start();
    let settings =
        format!("max_connections {CONNECTIONS}; max_fails 0; timeout {}ms;", TIMEOUT.as_millis());
    let nginx = crowded(&authgear, &backend)
        .http(project("p", &authgear, &settings))
        .server("location / { authgear p; empty_gif; }")
        .start();
    let before = capacity(&authgear, &nginx);
    let rate = before * times;
    let requests = honest(&authgear, &nginx, (rate * LASTS.as_secs_f64()) as usize);
    let fared = open_loop(&nginx, &requests, rate);
    // Other processes may have left less processor time since.
    let capacity = before.min(capacity(&authgear, &nginx));

    let counted = || fared.iter().filter(|fared| fared.due >= SETTLED);
    let good = counted().filter(|fared| fared.status() == 200).count() as f64;
    let goodput = good / (LASTS - SETTLED).as_secs_f64();
    let share = goodput / capacity;
    assert!(share >= 0.8, "{goodput:.0}/s of {capacity:.0}/s at {times} times the load");

    let refused: Vec<&Fared> = counted().filter(|fared| fared.status() != 200).collect();
    let waits = |fared: &Fared| fared.header("retry-after").is_some_and(|wait| wait != "0");
    assert!(refused.iter().all(|fared| fared.status() == 503 && waits(fared)), "{refused:?}");
    let reasons: Vec<_> = refused.iter().filter_map(|fared| fared.header("x-reason")).collect();
    let expected = reasons.iter().filter(|reason| *reason == "resolver_overloaded").count();
    assert!(expected * 20 >= refused.len() * 19, "{reasons:?}");
    let quick = refused.iter().filter(|fared| fared.took < TIMEOUT * 3 / 4).count();
    assert!(quick * 10 >= refused.len() * 9, "{quick} of {} refusals are quick", refused.len());
}

#[test]
fn at_one_and_a_half_times_the_capacity_most_of_it_is_used_well() {
    assert_goodput(1.5);
}

#[test]
fn at_three_times_the_capacity_most_of_it_is_used_well() {
    assert_goodput(3.0);
}
