//! Events of a fleet: what one host is told is known to all of them.

use std::time::Instant;

use support::{eventually, get, unix_now, Backend, FakeAuthgear, Redis, User, DEADLINE};

use crate::fleet::{
    cache, event, fleet, host, host_with, known_since, post, start, tell, verdict, wait_cut_off,
    wait_for_count, wait_in_sync, workers,
};
use crate::recheck::{assert_ends, assert_goes_on, socket};

#[test]
fn a_purge_at_one_host_is_known_to_every_worker_of_another() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = [(); 2].map(|()| start(&authgear, host(&authgear, &backend, &redis.url())));
    let alice = authgear.add_user(User::named("alice"));
    // Each verdict has one request, which sees first that it is gone.
    let requests = [
        get(&b, "/").cookie("session", &authgear.session(&alice)),
        get(&b, "/").bearer(&authgear.opaque_token(&alice)),
        get(&b, "/auto").cookie("session", &authgear.session(&alice)),
        get(&b, "/auto").bearer(&authgear.jwt(&alice)),
        get(&b, "/jwt").bearer(&authgear.jwt(&alice)),
    ];
    let bob = get(&b, "/").bearer(&authgear.opaque_token(&User::named("bob")));
    let mut workers = workers(&b);
    for query in ["user=alice", "all=1"] {
        for worker in &mut workers {
            for request in requests.iter().chain([&bob]) {
                worker.send(request);
                assert_eq!(cache(&worker.send(request)), "HIT cache");
            }
        }
        let since = Instant::now();
        assert_eq!(post(&a, &format!("/purge?{query}")).send().status, 204);
        for request in &requests {
            let mut is_known = || !cache(&workers[0].send(request)).starts_with("HIT");
            known_since(since, query, &mut is_known);
        }
        let kept = cache(&workers[0].send(&bob)).starts_with("HIT");
        assert_eq!(kept, query == "user=alice", "{query}");
    }
    assert_eq!(fleet(&a)["events"]["published"], 2);
    assert_eq!(fleet(&b)["events"]["applied"], 2);
}

#[test]
fn a_disabled_user_is_refused_by_every_worker_of_another_host() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = [(); 2].map(|()| start(&authgear, host(&authgear, &backend, &redis.url())));
    let alice = authgear.add_user(User::named("alice"));
    let jwt = authgear.jwt(&alice);
    let session = authgear.session(&alice);
    let by_token = get(&b, "/jwt").bearer(&jwt);
    let by_resolver = get(&b, "/").cookie("session", &session);
    let mut workers = workers(&b);
    for worker in &mut workers {
        assert_eq!(worker.send(&by_token).status, 200);
        assert_eq!(worker.send(&by_resolver).status, 200);
    }
    authgear.disable("alice");
    let since = Instant::now();
    assert_eq!(tell(&a, &event("user.disabled", "alice", unix_now())), 204);
    for worker in &mut workers {
        known_since(since, "the end of a token", || worker.send(&by_token).status == 401);
        known_since(since, "the end of a session", || worker.send(&by_resolver).status != 200);
        assert_eq!(verdict(&worker.send(&by_token)), "none token_revoked");
    }
    // A host that begins later has never heard of it but from Redis.
    let c = start(&authgear, host(&authgear, &backend, &redis.url()));
    let answer = get(&c, "/jwt").bearer(&jwt).send();
    assert_eq!((answer.status, verdict(&answer).as_str()), (401, "none token_revoked"));
    // Nor has Redis a user's name.
    let dump = redis.dump();
    assert!(dump.windows(6).any(|bytes| bytes == b"events"));
    assert!(!dump.windows(5).any(|bytes| bytes == b"alice"));
}

#[test]
fn an_event_at_one_host_ends_open_websockets_of_another() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let long_lived = "location /ws {
         authgear_recheck 1h;
         proxy_http_version 1.1;
         proxy_set_header Upgrade $http_upgrade;
         proxy_set_header Connection upgrade;
         proxy_pass http://%%BACKEND%%;
     }";
    let [a, b] = [(); 2]
        .map(|()| start(&authgear, host(&authgear, &backend, &redis.url()).server(long_lived)));
    let [alice, bob] = ["alice", "bob"].map(|name| authgear.add_user(User::named(name)));
    let socket = |user| socket(&b, "/ws", &authgear.session(user));
    let (of_alice, mut of_bob) = (socket(&alice), socket(&bob));
    authgear.disable("alice");
    assert_eq!(tell(&a, &event("user.disabled", "alice", unix_now())), 204);
    assert_ends(of_alice);
    assert_goes_on(&mut of_bob);
}

#[test]
fn without_redis_an_event_is_accepted_and_told_when_it_is_back() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = [(); 2].map(|()| start(&authgear, host(&authgear, &backend, &redis.url())));
    let jwt = authgear.jwt(&User::named("alice"));
    let requests = [&a, &b].map(|host| get(host, "/jwt").bearer(&jwt));
    redis.kill();
    [&a, &b].into_iter().for_each(wait_cut_off);
    let since = Instant::now();
    assert_eq!(tell(&a, &event("user.disabled", "alice", unix_now())), 202);
    assert!(since.elapsed().as_millis() < 1500, "{:?}", since.elapsed());
    let [at_a, at_b] = requests.each_ref().map(|request| request.send().status);
    assert_eq!((at_a, at_b), (401, 200));
    assert_eq!(fleet(&a)["ring_waiting"], 1);
    redis.restart();
    [&a, &b].into_iter().for_each(wait_in_sync);
    let is_known = || requests[1].send().status == 401;
    assert!(eventually(DEADLINE, is_known), "{}", fleet(&b));
    assert_eq!(fleet(&a)["ring_waiting"], 0);
    for host in [&a, &b] {
        host.wait_for_error_log("authgear fleet is cut off");
        host.wait_for_error_log("authgear fleet is in sync again");
        let log = host.error_log();
        assert_eq!(log.matches("authgear fleet is cut off").count(), 1, "{log}");
    }
}

#[test]
fn a_host_that_was_cut_off_alone_catches_up() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let redis = Redis::start();
    let rules = ["on", ">hunter2", "allkeys", "allcommands"];
    redis.command(&[&["ACL", "SETUSER", "b"][..], &rules].concat());
    let a = start(&authgear, host(&authgear, &backend, &redis.url()));
    let login = format!("{} secret=fleet.secret user=b password=redis.password", redis.url());
    let b = host_with(&authgear, &backend, &login).secret_file("redis.password", "hunter2");
    let b = start(&authgear, b);
    redis.command(&["ACL", "SETUSER", "b", "off"]);
    redis.command(&["CLIENT", "KILL", "USER", "b"]);
    wait_cut_off(&b);
    let tokens: Vec<String> =
        (0..250).map(|n| authgear.jwt(&User::named(&format!("user{n}")))).collect();
    for n in 0..tokens.len() {
        let user = format!("user{n}");
        assert_eq!(tell(&a, &event("user.disabled", &user, unix_now())), 204);
    }
    assert_eq!(get(&b, "/jwt").bearer(&tokens[0]).send().status, 200);
    redis.command(&["ACL", "SETUSER", "b", "on"]);
    wait_in_sync(&b);
    for token in &tokens {
        assert_eq!(get(&b, "/jwt").bearer(token).send().status, 401);
    }
    b.wait_for_error_log("authgear fleet is cut off: ");
}

#[test]
fn a_keeper_that_is_killed_and_a_reload_lose_nothing() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = [(); 2].map(|()| start(&authgear, host(&authgear, &backend, &redis.url())));
    let tokens: Vec<String> =
        (0..6).map(|n| authgear.jwt(&User::named(&format!("user{n}")))).collect();
    let refused = |n: usize| get(&b, "/jwt").bearer(&tokens[n]).send().status == 401;
    // One of these workers keeps the fleet.
    for (n, worker) in b.workers().into_iter().enumerate() {
        b.kill_worker(worker);
        let user = format!("user{n}");
        assert_eq!(tell(&a, &event("user.disabled", &user, unix_now())), 204);
        assert!(eventually(DEADLINE, || refused(n)), "{n}: {}", fleet(&b));
    }
    let old = b.reload();
    assert_eq!(tell(&a, &event("user.disabled", "user4", unix_now())), 204);
    assert!(eventually(DEADLINE, || refused(4)), "{}", fleet(&b));
    // A reload of the host that tells.
    let gone = a.reload();
    let status = tell(&a, &event("user.disabled", "user5", unix_now()));
    assert!([204, 202].contains(&status), "{status}");
    assert!(eventually(DEADLINE, || refused(5)), "{}", fleet(&b));
    old.into_iter().for_each(|worker| b.wait_gone(worker));
    gone.into_iter().for_each(|worker| a.wait_gone(worker));
}

#[test]
fn another_secret_opens_nothing() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let a = start(&authgear, host(&authgear, &backend, &redis.url()));
    let other = "another secret, which has thirty-two bytes too\n";
    let b = host(&authgear, &backend, &redis.url()).secret_file("fleet.secret", other);
    let b = start(&authgear, b);
    let request = get(&b, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    request.send();
    assert_eq!(post(&a, "/purge?user=alice").send().status, 204);
    wait_for_count(&b, "events", "unreadable", 1);
    assert_eq!(cache(&request.send()), "HIT cache");
    let line =
        b.wait_for_error_log("authgear fleet has an event that no secret of this host opens");
    assert!(line.contains("[error]") && line.contains("secret id: "), "{line}");
}

#[test]
fn both_secrets_of_a_rotation_open() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let (old, new) = (crate::fleet::SECRET, "the new secret of the fleet, of 32 bytes");
    let a = host(&authgear, &backend, &redis.url()).secret_file("fleet.secret", new);
    let b = host(&authgear, &backend, &redis.url())
        .secret_file("fleet.secret", format!("{old}\n{new}\n"));
    let (a, b) = (start(&authgear, a), start(&authgear, b));
    let request = get(&b, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    request.send();
    assert_eq!(cache(&request.send()), "HIT cache");
    let since = Instant::now();
    assert_eq!(post(&a, "/purge?user=alice").send().status, 204);
    known_since(since, "a purge", || !cache(&request.send()).starts_with("HIT"));
}

#[test]
fn clients_that_leave_while_redis_is_waited_for_disturb_nothing() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let a = start(&authgear, host(&authgear, &backend, &redis.url()).workers(1));
    redis.hang();
    let purge = |user: usize| post(&a, &format!("/purge?user=user{user}"));
    for user in 0..20 {
        purge(user).send_and_leave();
    }
    let pending: Vec<_> = (20..40).map(|user| purge(user).start()).collect();
    for pending in pending {
        assert_eq!(pending.wait().status, 202);
    }
    assert_eq!(fleet(&a)["ring_waiting"], 40);
    redis.resume();
    let is_told = || fleet(&a)["ring_waiting"] == 0;
    assert!(eventually(DEADLINE, is_told), "{}", fleet(&a));
}

#[test]
fn a_host_that_quits_answers_those_who_wait_for_redis() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let a = start(&authgear, host(&authgear, &backend, &redis.url()));
    redis.hang();
    let pending: Vec<_> = (0..8).map(|n| post(&a, &format!("/purge?user=u{n}")).start()).collect();
    assert!(eventually(DEADLINE, || fleet(&a)["ring_waiting"] == 8), "{}", fleet(&a));
    a.quit();
    for pending in pending {
        assert_eq!(pending.wait().status, 202);
    }
}

#[test]
fn many_purges_at_once_all_arrive() {
    const PURGES: usize = 2000;
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = [(); 2]
        .map(|()| start(&authgear, host(&authgear, &backend, &redis.url()).error_level("info")));
    let request = get(&b, "/").bearer(&authgear.opaque_token(&User::named("last")));
    request.send();
    std::thread::scope(|threads| {
        for thread in 0..8 {
            let a = &a;
            threads.spawn(move || {
                for n in (thread..PURGES).step_by(8) {
                    let status = post(a, &format!("/purge?user=user{n}")).send().status;
                    assert!([204, 202].contains(&status), "{status}");
                }
            });
        }
    });
    assert_eq!(post(&a, "/purge?user=last").send().status, 204);
    let has_all = || fleet(&b)["events"]["applied"].as_u64() == Some(PURGES as u64 + 1);
    assert!(eventually(DEADLINE, has_all), "{} {}", fleet(&a), fleet(&b));
    assert!(!cache(&request.send()).starts_with("HIT"));
}
