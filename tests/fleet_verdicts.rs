//! Verdicts that hosts of a fleet share (`cache=on`).

use std::thread;
use std::time::{Duration, Instant};

use support::{
    eventually, get, Backend, Builder, FakeAuthgear, Fault, Gate, Nginx, Redis, RedisReply,
    Request, Response, User, DEADLINE,
};

use crate::fleet::{
    cache, fleet, host, host_with, known_since, post, start, verdict, wait_for_count, wait_in_sync,
};

/// Arguments of `authgear_fleet`. A busy machine takes longer than 50 ms.
pub(crate) fn arguments(redis: &Redis) -> String {
    format!("{} secret=fleet.secret cache=on timeout=1s", redis.url())
}

/// A host that shares verdicts.
pub(crate) fn sharing(authgear: &FakeAuthgear, backend: &Backend, redis: &Redis) -> Builder {
    host_with(authgear, backend, &arguments(redis))
}

/// Starts hosts that share verdicts.
pub(crate) fn start_all<const N: usize>(
    authgear: &FakeAuthgear,
    backend: &Backend,
    redis: &Redis,
) -> [Nginx; N] {
    [(); N].map(|()| start_sharing(authgear, sharing(authgear, backend, redis)))
}

/// Starts a host, and waits until all its workers can share.
#[track_caller]
pub(crate) fn start_sharing(authgear: &FakeAuthgear, builder: Builder) -> Nginx {
    let nginx = start(authgear, builder);
    // The keeper has two connections more.
    let all = nginx.workers().len() as u64 + 2;
    wait_for_count(&nginx, "connections", "opened", all);
    nginx
}

/// Number of looks with this outcome.
pub(crate) fn looks(nginx: &Nginx, outcome: &str) -> u64 {
    fleet(nginx)["cache"][outcome].as_u64().expect("a count")
}

/// Waits until a host of one worker looks at Redis once more: after an outage the connection for
/// verdicts comes back later than that for events.
#[track_caller]
pub(crate) fn wait_looking(authgear: &FakeAuthgear, nginx: &Nginx) {
    assert_eq!(nginx.workers().len(), 1, "others may look later");
    let before = looks(nginx, "lead");
    let leads = || {
        let token = authgear.opaque_token(&User::named("nobody asked about"));
        assert_eq!(cache(&get(nginx, "/").bearer(&token).send()), "MISS resolver");
        looks(nginx, "lead") > before
    };
    assert!(eventually(2 * DEADLINE, leads), "{}", fleet(nginx));
}

/// Waits until Redis has so many verdicts, and returns their names.
#[track_caller]
pub(crate) fn wait_for_records(redis: &Redis, count: usize) -> Vec<String> {
    let has_all = || verdicts(redis).len() == count;
    assert!(eventually(DEADLINE, has_all), "{:?}", verdicts(redis));
    verdicts(redis)
}

/// Names of verdicts: they live longer than leases here.
pub(crate) fn verdicts(redis: &Redis) -> Vec<String> {
    let RedisReply::List(names) = redis.command(&["KEYS", "*"]) else { panic!("no names") };
    let names = names.into_iter().map(|name| match name {
        RedisReply::Bytes(name) => String::from_utf8(name).expect("a name"),
        other => panic!("{other:?}"),
    });
    let lives = |name: &String| match redis.command(&["PTTL", name]) {
        RedisReply::Number(millis) => millis > 2000,
        other => panic!("{other:?}"),
    };
    names.filter(lives).collect()
}

fn alice(authgear: &FakeAuthgear) -> User {
    authgear.add_user(User::named("alice"))
}

/// The user that the backend gets.
fn user(answer: &Response) -> Option<String> {
    answer.echo().header("x-authgear-user-id").map(str::to_owned)
}

#[test]
fn one_session_on_three_hosts_is_one_look_up() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let hosts: [Nginx; 3] = start_all(&authgear, &backend, &redis);
    let alice = alice(&authgear);
    let (session, token) = (authgear.session(&alice), authgear.opaque_token(&alice));
    let kinds: [&dyn Fn(&Nginx) -> Request; 3] = [
        &|host| get(host, "/").cookie("session", &session),
        &|host| get(host, "/").bearer(&token),
        &|host| get(host, "/").cookie("session", "aaaaaaaaaaaaaaaa.bbbbbbbbbbbbbbbbbbbbbbbb"),
    ];
    for request in kinds {
        let before = authgear.hits();
        let first = request(&hosts[0]).send();
        assert_eq!(cache(&first), "MISS resolver");
        for host in hosts.iter().skip(1) {
            let answer = request(host).send();
            assert_eq!(cache(&answer), "SHARED cache", "{}", fleet(host));
            assert_eq!((answer.status, verdict(&answer)), (first.status, verdict(&first)));
            if answer.status == 200 {
                assert_eq!(user(&answer).as_deref(), Some("alice"));
            }
            assert_eq!(cache(&request(host).send()), "HIT cache");
        }
        assert_eq!(authgear.hits(), before + 1);
    }
    assert_eq!(looks(&hosts[0], "lead"), 3);
    let found = looks(&hosts[1], "hit") + looks(&hosts[1], "follow");
    assert_eq!(found, 3, "{}", fleet(&hosts[1]));
}

#[test]
fn many_cold_requests_over_three_hosts_make_one_look_up() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let hosts: [Nginx; 3] = start_all(&authgear, &backend, &redis);
    let token = authgear.opaque_token(&alice(&authgear));
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let first = get(&hosts[0], "/").bearer(&token).start();
    gate.wait_for_waiters(1);
    let others: Vec<_> = (0..60).map(|n| get(&hosts[n % 3], "/").bearer(&token).start()).collect();
    // In the time for which a lease is followed.
    thread::sleep(Duration::from_millis(100));
    gate.open();
    for pending in [first].into_iter().chain(others) {
        let answer = pending.wait();
        assert_eq!((answer.status, user(&answer).as_deref()), (200, Some("alice")));
    }
    assert_eq!(authgear.hits(), 1);
    assert_eq!([1, 2].map(|n| looks(&hosts[n], "follow")), [1, 1]);
}

#[test]
fn a_leader_that_is_killed_fails_or_is_slow_costs_a_look_up() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = start_all(&authgear, &backend, &redis);
    let token = |name: &str| authgear.opaque_token(&authgear.add_user(User::named(name)));
    let hold = || {
        let gate = Gate::new();
        authgear.inject_next(1, Fault::Gate(gate.clone()));
        gate
    };
    // Slow: the other host follows for a second, and asks.
    let (gate, slow) = (hold(), token("slow"));
    let pending = get(&a, "/").bearer(&slow).start();
    gate.wait_for_waiters(1);
    let begun = Instant::now();
    assert_eq!(cache(&get(&b, "/").bearer(&slow).send()), "MISS resolver");
    assert!((800..1800).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    assert_eq!(looks(&b, "overtaken"), 1);
    gate.open();
    assert_eq!(pending.wait().status, 200);
    // It fails, and takes its lease away: another host leads.
    let failing = token("failing");
    authgear.inject_next(1, Fault::Status(502));
    assert_eq!(get(&a, "/").bearer(&failing).send().status, 503);
    let begun = Instant::now();
    assert_eq!(cache(&get(&b, "/").bearer(&failing).send()), "MISS resolver");
    assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
    // All its workers are killed.
    let (gate, killed) = (hold(), token("killed"));
    let pending = get(&a, "/").bearer(&killed).start();
    gate.wait_for_waiters(1);
    a.workers().into_iter().for_each(|worker| a.kill_worker(worker));
    drop(pending);
    let begun = Instant::now();
    assert_eq!(cache(&get(&b, "/").bearer(&killed).send()), "MISS resolver");
    assert!(begun.elapsed() < Duration::from_millis(1800), "{:?}", begun.elapsed());
}

#[test]
fn a_client_that_leaves_takes_its_lease_away() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let one = |settings: &str| sharing(&authgear, &backend, &redis).workers(1).http(settings);
    let a = start_sharing(&authgear, one(""));
    // One connection to Authgear at a time: the second look-up waits for its turn.
    a.edit_conf(|conf| conf.replace("endpoint ", "max_connections 1; endpoint "));
    a.wait_replaced(&a.reload());
    wait_in_sync(&a);
    wait_for_count(&a, "connections", "opened", 6);
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let tokens = ["alice", "bob"].map(|name| authgear.opaque_token(&User::named(name)));
    let first = get(&a, "/").bearer(&tokens[0]).start();
    gate.wait_for_waiters(1);
    let second = get(&a, "/").bearer(&tokens[1]).start();
    let names = || match redis.command(&["KEYS", "*"]) {
        RedisReply::List(names) => names.len(),
        other => panic!("{other:?}"),
    };
    assert!(eventually(DEADLINE, || looks(&a, "lead") == 2), "{}", fleet(&a));
    drop(second);
    // Before it ends: one lease is that of the first.
    assert!(eventually(Duration::from_millis(1200), || names() <= 1), "{}", names());
    gate.open();
    assert_eq!(first.wait().status, 200);
}

#[test]
fn a_purged_user_is_asked_about_whatever_redis_has() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = start_all(&authgear, &backend, &redis);
    let session = authgear.session(&alice(&authgear));
    let at = |host: &Nginx| get(host, "/").cookie("session", &session);
    assert_eq!(cache(&at(&a).send()), "MISS resolver");
    assert_eq!(cache(&at(&b).send()), "SHARED cache");
    let records = wait_for_records(&redis, 1);
    let old = redis.command(&["COPY", &records[0], "old"]);
    assert_eq!(old, RedisReply::Number(1));
    authgear.disable("alice");
    let since = Instant::now();
    assert_eq!(post(&a, "/purge?user=alice").send().status, 204);
    // At the host that purges, at once; at the other, when it knows; at one that begins, from what
    // it reads.
    assert_eq!(at(&a).send().status, 401);
    known_since(since, "a purge", || at(&b).send().status == 401);
    let c = start_sharing(&authgear, sharing(&authgear, &backend, &redis));
    assert_eq!(at(&c).send().status, 401);
    // Whatever was there is put back.
    for host in [&a, &b, &c] {
        let before = looks(host, "purged");
        redis.command(&["COPY", "old", &records[0], "REPLACE"]);
        assert_eq!(post(host, "/purge?user=nobody").send().status, 204);
        get(host, "/purge?all=1").method("POST").send();
        assert_eq!(at(host).send().status, 401);
        assert!(looks(host, "purged") > before, "{}", fleet(host));
    }
    let d = start_sharing(&authgear, sharing(&authgear, &backend, &redis));
    redis.command(&["COPY", "old", &records[0], "REPLACE"]);
    assert_eq!(at(&d).send().status, 401);
    assert_eq!(looks(&d, "purged"), 1, "{}", fleet(&d));
}

#[test]
fn a_purge_by_a_host_that_redis_does_not_hear_concerns_what_others_asked() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let rules = ["on", ">hunter2", "allkeys", "allcommands"];
    redis.command(&[&["ACL", "SETUSER", "a"][..], &rules].concat());
    let login = format!("{} user=a password=redis.password", arguments(&redis));
    let a = host_with(&authgear, &backend, &login).secret_file("redis.password", "hunter2");
    let a = start_sharing(&authgear, a);
    let [b] = start_all(&authgear, &backend, &redis);
    let session = authgear.session(&alice(&authgear));
    let at = |host: &Nginx| get(host, "/").cookie("session", &session);
    assert_eq!(cache(&at(&b).send()), "MISS resolver");
    wait_for_records(&redis, 1);
    // The host reads on, and its own purge is pending.
    redis.command(&["ACL", "SETUSER", "a", "-xadd"]);
    authgear.disable("alice");
    for user in ["alice", "bob"] {
        assert_eq!(post(&a, &format!("/purge?user={user}")).send().status, 202);
    }
    assert_eq!(fleet(&a)["in_sync"], true);
    assert_eq!(at(&a).send().status, 401);
    assert_eq!(looks(&a, "purged"), 1, "{}", fleet(&a));
    // Nor does a clock decide: what is asked later counts when the purge has come back.
    thread::sleep(Duration::from_millis(2500));
    let tokens = [(); 2].map(|()| authgear.opaque_token(&User::named("bob")));
    for token in &tokens {
        assert_eq!(cache(&get(&b, "/").bearer(token).send()), "MISS resolver");
    }
    wait_for_records(&redis, 3);
    assert_eq!(cache(&get(&a, "/").bearer(&tokens[0]).send()), "MISS resolver");
    assert_eq!(looks(&a, "purged"), 2, "{}", fleet(&a));
    redis.command(&["ACL", "SETUSER", "a", "+xadd"]);
    wait_for_count(&a, "events", "own", 2);
}

#[test]
fn a_record_that_does_not_count_is_replaced() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let hosts = || {
        sharing(&authgear, &backend, &redis).workers(1).server(
            "location = /short {
                 authgear_cache_valid valid=4s invalid=5s;
                 proxy_pass http://%%BACKEND%%;
             }",
        )
    };
    let [a, b] = [(); 2].map(|()| start_sharing(&authgear, hosts()));
    let tokens = ["alice", "bob", "carol", "dan"]
        .map(|name| authgear.opaque_token(&authgear.add_user(User::named(name))));
    let at = |host: &Nginx, n: usize| get(host, "/").bearer(&tokens[n]).send();
    at(&a, 0);
    let of_alice = wait_for_records(&redis, 1).remove(0);
    at(&a, 1);
    let of_bob = wait_for_records(&redis, 2).into_iter().find(|name| *name != of_alice);
    let of_bob = of_bob.expect("a record of bob's");
    // Of somebody else, and anything at all.
    redis.command(&["COPY", &of_alice, &of_bob, "REPLACE"]);
    let answer = at(&b, 1);
    assert_eq!((cache(&answer).as_str(), user(&answer).as_deref()), ("MISS resolver", Some("bob")));
    redis.command(&["SET", &of_alice, "garbage"]);
    let answer = at(&b, 0);
    assert_eq!(
        (cache(&answer).as_str(), user(&answer).as_deref()),
        ("MISS resolver", Some("alice"))
    );
    assert_eq!(looks(&b, "unreadable"), 2);
    // They were replaced.
    let c = start_sharing(&authgear, hosts());
    for (n, name) in [(0, "alice"), (1, "bob")] {
        let answer = at(&c, n);
        assert_eq!(
            (cache(&answer).as_str(), user(&answer).as_deref()),
            ("SHARED cache", Some(name))
        );
    }
    // Too old for a location that wants a later one.
    at(&a, 2);
    wait_for_records(&redis, 3);
    let answer = get(&b, "/short").bearer(&tokens[2]).send();
    assert_eq!(cache(&answer), "MISS resolver");
    assert_eq!(looks(&b, "stale"), 1, "{}", fleet(&b));
    // Of another life of the server. The verdict for `/short` was not stored: carol's older record
    // is there.
    at(&a, 3);
    wait_for_records(&redis, 4);
    redis.save();
    redis.restart();
    wait_for_count(&b, "losses", "incarnation", 1);
    wait_looking(&authgear, &b);
    assert_eq!(cache(&at(&b, 3)), "MISS resolver");
    assert_eq!(looks(&b, "foreign"), 1, "{}", fleet(&b));
}

#[test]
fn what_does_not_agree_shares_nothing() {
    let (backend, redis) = (Backend::start(), Redis::start());
    let prefixed = |prefix: &str| FakeAuthgear::builder().cookie_prefix(prefix).start();
    let (authgear, other) = (prefixed(""), prefixed(""));
    let token = "a-token-that-both-have";
    for authgear in [&authgear, &other] {
        let alice = alice(authgear);
        authgear.add_opaque_token(token, &alice, support::ClientKind::FirstParty);
    }
    let a = start_sharing(&authgear, sharing(&authgear, &backend, &redis));
    assert_eq!(cache(&get(&a, "/").bearer(token).send()), "MISS resolver");
    wait_for_records(&redis, 1);
    let secret = "another secret, which has thirty-two bytes too\n";
    let with =
        |more: &str| host_with(&authgear, &backend, &format!("{} {more}", arguments(&redis)));
    let builders = [
        ("secret", with("").secret_file("fleet.secret", secret)),
        ("prefix", with("prefix=other")),
        ("endpoint", sharing(&other, &backend, &redis)),
        (
            "cookie_prefix",
            with("").raw_conf(|conf| conf.replace("endpoint ", "cookie_prefix other_; endpoint ")),
        ),
    ];
    for (what, builder) in builders {
        let host = start_sharing(if what == "endpoint" { &other } else { &authgear }, builder);
        assert_eq!(cache(&get(&host, "/").bearer(token).send()), "MISS resolver", "{what}");
        assert_eq!(looks(&host, "lead"), 1, "{what}: {}", fleet(&host));
    }
    // Settings that may differ.
    let timeout = with("").raw_conf(|conf| conf.replace("endpoint ", "timeout 7s; endpoint "));
    let host = start_sharing(&authgear, timeout);
    assert_eq!(cache(&get(&host, "/").bearer(token).send()), "SHARED cache");
}

#[test]
fn redis_has_no_token_and_no_user() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a] = start_all(&authgear, &backend, &redis);
    let user = authgear.add_user(User::named("alice-of-wonderland").roles(&["role-of-hers"]));
    let (token, session) = (authgear.opaque_token(&user), authgear.session(&user));
    assert_eq!(get(&a, "/").bearer(&token).send().status, 200);
    assert_eq!(get(&a, "/").cookie("session", &session).send().status, 200);
    wait_for_records(&redis, 2);
    let dump = redis.dump();
    for secret in ["wonderland", "role-of-hers", &token, &session] {
        assert!(!dump.windows(secret.len()).any(|bytes| bytes == secret.as_bytes()), "{secret}");
    }
    assert!(dump.windows(11).any(|bytes| bytes == b"{authgear}:"));
}

#[test]
fn what_a_host_forgets_is_asked_about() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let forget = "location = /forget { authgear_require off; authgear_purge self; }";
    // Another worker may look before Redis has removed the record.
    let builder = sharing(&authgear, &backend, &redis).server(forget).workers(1);
    let a = start_sharing(&authgear, builder);
    let b = start_sharing(&authgear, sharing(&authgear, &backend, &redis));
    let session = authgear.session(&alice(&authgear));
    authgear.expire(&session);
    let cookie = format!("session={session}");
    let ask = |host: &Nginx| cache(&get(host, "/").header("Cookie", &*cookie).send());
    assert_eq!(ask(&a), "MISS resolver");
    wait_for_records(&redis, 1);
    assert_eq!(ask(&b), "SHARED cache");
    let forgotten = post(&a, "/forget").header("Cookie", &*cookie).send();
    assert_eq!(forgotten.status, 204);
    assert_eq!(ask(&a), "MISS resolver");
}

#[test]
fn nothing_is_shared_unless_it_is_wanted() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let off = start(&authgear, host(&authgear, &backend, &redis.url()));
    let token = authgear.opaque_token(&alice(&authgear));
    assert_eq!(cache(&get(&off, "/").bearer(&token).send()), "MISS resolver");
    wait_for_count(&off, "connections", "opened", 2);
    assert_eq!(fleet(&off)["connections"]["opened"], 2);
    assert_eq!(redis.command(&["KEYS", "*"]), RedisReply::List(Vec::new()));
    // Nor where a location has no cache.
    let on = sharing(&authgear, &backend, &redis)
        .server("location = /bare { authgear_cache off; proxy_pass http://%%BACKEND%%; }")
        .server(
            "location = /brief {
                 authgear_cache_valid valid=4s invalid=4s;
                 proxy_pass http://%%BACKEND%%;
             }",
        );
    let on = start_sharing(&authgear, on);
    for _ in 0..2 {
        assert_eq!(cache(&get(&on, "/bare").bearer(&token).send()), "BYPASS resolver");
    }
    // Nor where no verdict would count at another host.
    let brief = get(&on, "/brief").bearer(&token).send();
    assert_eq!(cache(&brief), "MISS resolver");
    assert_eq!(looks(&on, "lead"), 0, "{}", fleet(&on));
    // What may be a passing fault is not.
    authgear.inject(Fault::SilentBlank);
    assert_eq!(get(&on, "/").bearer("unknown").send().status, 401);
    assert!(eventually(DEADLINE, || looks(&on, "lead") == 1));
    assert_eq!(verdicts(&redis), Vec::<String>::new());
}
