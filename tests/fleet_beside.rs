//! Shared verdicts beside the rest of the module: a logout, a period in which a user is disabled,
//! mode auto, open responses, and a host that is cut off.

use std::iter;
use std::time::Instant;

use support::{
    eventually, get, unix_now, Backend, FakeAuthgear, Nginx, Redis, RedisReply, Request, User,
    DEADLINE,
};

use crate::fleet::{
    cache, event, fleet, host_with, known_since, post, tell, verdict, wait_cut_off, wait_for_count,
    wait_in_sync,
};
use crate::fleet_verdicts::{
    arguments, looks, sharing, start_all, start_sharing, verdicts, wait_for_records,
};
use crate::recheck::{assert_ends, assert_goes_on, open};
use crate::webhook::planned;

/// A copy of a record, which can be put back.
struct Copied<'a> {
    redis: &'a Redis,
    name: String,
}

impl<'a> Copied<'a> {
    #[track_caller]
    fn of(redis: &'a Redis, name: String) -> Self {
        assert_eq!(redis.command(&["COPY", &name, "old"]), RedisReply::Number(1));
        Self { redis, name }
    }

    fn put_back(&self) {
        let put = self.redis.command(&["COPY", "old", &self.name, "REPLACE"]);
        assert_eq!(put, RedisReply::Number(1));
    }
}

#[test]
fn after_a_logout_no_host_uses_a_verdict_of_before_it() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let one = || {
        let builder = sharing(&authgear, &backend, &redis).server("authgear_login on;");
        let builder = builder.raw_conf(|conf| {
            let conf = conf.replace("endpoint ", "client_id web; endpoint ");
            // A login has no use there.
            conf.replace("authgear_mode jwt;", "authgear_mode jwt; authgear_login off;")
        });
        start_sharing(&authgear, builder)
    };
    let [a, b, c] = [(); 3].map(|()| one());
    let alice = User::named("alice");
    let session = authgear.session(&alice);
    let ask = |host: &Nginx, session: &str| get(host, "/").cookie("session", session).send();
    let at = |host: &Nginx| ask(host, &session);
    assert_eq!(cache(&at(&a)), "MISS resolver");
    let old = Copied::of(&redis, wait_for_records(&redis, 1).remove(0));
    assert_eq!(cache(&at(&b)), "SHARED cache");
    let logout = post(&a, "/_authgear/logout").cookie("session", &session);
    let since = Instant::now();
    assert_eq!(logout.header("Sec-Fetch-Site", "same-origin").send().status, 303);
    // At the host that is not told, as soon as it hears.
    let is_asked = || {
        old.put_back();
        cache(&at(&b)) == "MISS resolver"
    };
    known_since(since, "a logout", is_asked);
    // Until Authgear has ended the session, the host of the logout keeps and tells nothing. It uses
    // nothing that others are told, old or new.
    for _ in 0..2 {
        old.put_back();
        let kept = redis.command(&["GET", &old.name]);
        assert_eq!(cache(&at(&a)), "MISS resolver");
        assert_eq!(redis.command(&["GET", &old.name]), kept);
    }
    let uses_new_ones = || {
        let another = authgear.session(&alice);
        assert_eq!(cache(&ask(&c, &another)), "MISS resolver");
        cache(&ask(&a, &another)) == "SHARED cache"
    };
    assert!(eventually(DEADLINE, uses_new_ones), "{}", fleet(&a));
    redis.command(&["DEL", &old.name]);
    assert_eq!(cache(&at(&c)), "MISS resolver");
    assert!(eventually(DEADLINE, || verdicts(&redis).contains(&old.name)));
    let before = looks(&a, "purged");
    assert_eq!(cache(&at(&a)), "MISS resolver");
    assert_eq!(looks(&a, "purged"), before + 1, "{}", fleet(&a));
    authgear.expire(&session);
    old.put_back();
    assert_eq!(at(&a).status, 401);
    // A host that has begun since.
    let d = one();
    old.put_back();
    assert_eq!(at(&d).status, 401);
    assert_eq!(looks(&d, "purged"), 1, "{}", fleet(&d));
}

#[test]
fn in_a_period_in_which_a_user_is_disabled_no_verdict_of_before_it_counts() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b, c] = start_all(&authgear, &backend, &redis);
    let alice = authgear.add_user(User::named("alice"));
    let from = unix_now() + 15;
    assert_eq!(tell(&a, &planned("alice", from, from + 600)), 204);
    for host in [&b, &c] {
        wait_for_count(host, "events", "applied", 1);
    }
    // What was asked a while after the event, and before the period, is shared.
    let mut tried = Vec::new();
    let shares = || {
        tried = verdicts(&redis);
        let session = authgear.session(&alice);
        let at = |host| get(host, "/").cookie("session", &session).send();
        assert_eq!(cache(&at(&a)), "MISS resolver");
        (cache(&at(&b)) == "SHARED cache").then_some(session)
    };
    let mut sessions = iter::repeat_with(shares).take_while(|_| unix_now() < from).flatten();
    let session = sessions.next().expect("a shared session before the period");
    drop(sessions);
    let name = verdicts(&redis).into_iter().find(|name| !tried.contains(name));
    let old = Copied::of(&redis, name.expect("a record"));
    let at = |host: &Nginx| get(host, "/").cookie("session", &session).send();
    assert_eq!(cache(&at(&b)), "HIT cache");
    authgear.disable("alice");
    assert!(unix_now() < from, "the test was too slow");
    for host in [&a, &b] {
        assert!(eventually(2 * DEADLINE, || at(host).status == 401), "{}", fleet(host));
        assert!(unix_now() >= from);
    }
    // One that had no verdict, and one that begins within the period.
    let d = start_sharing(&authgear, sharing(&authgear, &backend, &redis));
    for host in [&c, &d] {
        old.put_back();
        assert_eq!(at(host).status, 401);
        assert_eq!(looks(host, "purged"), 1, "{}", fleet(host));
    }
}

#[test]
fn in_mode_auto_what_the_resolver_said_is_shared_and_a_token_is_verified_by_each_host() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let [a, b] = start_all(&authgear, &backend, &redis);
    let alice = authgear.add_user(User::named("alice"));
    let (opaque, jwt) = (authgear.opaque_token(&alice), authgear.jwt(&alice));
    let ask = |host: &Nginx, token: &str| cache(&get(host, "/auto").bearer(token).send());
    for host in [&a, &b] {
        let answer = ask(host, &jwt);
        assert!(answer.ends_with(" jwt"), "{answer}");
        assert_eq!(ask(host, &jwt), "HIT cache");
    }
    assert_eq!((authgear.hits(), looks(&a, "lead"), looks(&b, "hit")), (0, 0, 0));
    assert_eq!(redis.command(&["KEYS", "*"]), RedisReply::List(Vec::new()));
    assert_eq!(ask(&a, &opaque), "MISS resolver");
    assert_eq!(ask(&b, &opaque), "SHARED cache");
    wait_for_records(&redis, 1);
    // A mode is no part of what is shared.
    let c = start_sharing(&authgear, sharing(&authgear, &backend, &redis));
    assert_eq!(cache(&get(&c, "/").bearer(&opaque).send()), "SHARED cache");
    assert_eq!(authgear.hits(), 1);
}

#[test]
fn an_open_response_is_looked_at_with_a_shared_verdict_and_ends_with_a_purge_elsewhere() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    // The first look is after 20 to 22 seconds. This host's own verdict counts for 11, and what the
    // other host is told after 15 counts until 26.
    let [a, b] = [(); 2].map(|()| {
        let builder = sharing(&authgear, &backend, &redis).server(
            "location /ws {
                 authgear_recheck 20s;
                 proxy_http_version 1.1;
                 proxy_set_header Upgrade $http_upgrade;
                 proxy_set_header Connection upgrade;
                 proxy_pass http://%%BACKEND%%;
             }",
        );
        let change = |conf: String| conf.replace("valid=1h invalid=1h", "valid=15s invalid=1h");
        start_sharing(&authgear, builder.raw_conf(change))
    });
    let alice = authgear.add_user(User::named("alice"));
    let session = authgear.session(&alice);
    let of = |host: &Nginx, path: &str| -> Request { get(host, path).cookie("session", &session) };
    assert_eq!(cache(&of(&a, "/").send()), "MISS resolver");
    let mut socket = open(&of(&b, "/ws"));
    assert_eq!((looks(&b, "hit"), authgear.hits()), (1, 1));
    // The other host asks once more when its verdict is too old.
    let asks_again = || {
        assert_eq!(of(&a, "/").send().status, 200);
        authgear.hits() == 2
    };
    assert!(eventually(2 * DEADLINE, asks_again));
    assert!(eventually(2 * DEADLINE, || looks(&b, "hit") == 2), "{}", fleet(&b));
    assert_goes_on(&mut socket);
    assert_eq!(authgear.hits(), 2);
    authgear.disable("alice");
    assert_eq!(tell(&a, &event("user.disabled", "alice", unix_now())), 204);
    assert_ends(socket);
}

#[test]
fn while_a_host_is_cut_off_it_uses_no_shared_verdict_and_tells_none() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let rules = ["on", ">hunter2", "allkeys", "allcommands"];
    redis.command(&[&["ACL", "SETUSER", "b"][..], &rules].concat());
    let login = format!("{} user=b password=redis.password", arguments(&redis));
    let b = host_with(&authgear, &backend, &login)
        .secret_file("redis.password", "hunter2\n")
        .server("authgear_fleet_cut_off ask after=2s;");
    let b = start_sharing(&authgear, b);
    let a = start_sharing(&authgear, sharing(&authgear, &backend, &redis));
    let [known, other, own] =
        ["alice", "bob", "carol"].map(|name| authgear.opaque_token(&User::named(name)));
    let ask = |host: &Nginx, token: &str| {
        let answer = get(host, "/").bearer(token).send();
        assert_eq!(verdict(&answer), "valid ok");
        cache(&answer)
    };
    for token in [&known, &other] {
        assert_eq!(ask(&a, token), "MISS resolver");
    }
    assert_eq!(ask(&b, &known), "SHARED cache");
    // It reads no events. For verdicts Redis is still there.
    redis.command(&["ACL", "SETUSER", "b", "-xread"]);
    wait_cut_off(&b);
    let used = || ["hit", "follow", "lead"].map(|outcome| looks(&b, outcome));
    let before = used();
    assert_eq!(ask(&b, &other), "MISS resolver");
    assert_eq!(ask(&b, &own), "MISS resolver");
    assert!(eventually(DEADLINE, || ask(&b, &known) == "MISS resolver"), "{}", fleet(&b));
    assert_eq!(used(), before, "{}", fleet(&b));
    assert_eq!(ask(&a, &own), "MISS resolver");
    redis.command(&["ACL", "SETUSER", "b", "+xread"]);
    wait_in_sync(&b);
    let shares = || {
        let token = authgear.opaque_token(&User::named("dan"));
        ask(&a, &token);
        ask(&b, &token) == "SHARED cache"
    };
    assert!(eventually(2 * DEADLINE, shares), "{}", fleet(&b));
}
