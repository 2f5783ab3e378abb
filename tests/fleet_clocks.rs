//! Clocks of a fleet that are wrong.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use support::{
    eventually, get, unix_now, Backend, Builder, FakeAuthgear, Nginx, Redis, RedisReply, User,
    DEADLINE,
};
use tempfile::TempDir;

use crate::fleet::{cache, fleet, host, post, start, wait_for_count, wait_in_sync};
use crate::fleet_adversary::Cable;
use crate::fleet_faults::{losses, Users};
use crate::fleet_verdicts::{looks, sharing, start_sharing, wait_for_records};

/// A minute.
const BEHIND: i64 = -60_000;

/// Deletes the stream, and adds as many entries as it had.
const ANEW: &str = "local count = redis.call('XLEN', KEYS[1])
                    redis.call('DEL', KEYS[1])
                    for _ = 1, count do redis.call('XADD', KEYS[1], '*', 'e', 'x') end";

/// Clock of the processes that it is preloaded into: see `clock.c`.
struct Clock {
    dir: TempDir,
    shift: File,
}

impl Clock {
    /// A clock that is wrong by so many milliseconds.
    fn wrong_by(millis: i64) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clock.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([dir.path().join("clock.so"), source])
            .status();
        assert!(compiled.expect("a C compiler").success());
        let path = dir.path().join("shift");
        fs::write(&path, millis.to_ne_bytes()).expect("a file");
        let shift = File::options().write(true).open(path).expect("a file");
        Self { dir, shift }
    }

    fn set(&self, millis: i64) {
        self.shift.write_all_at(&millis.to_ne_bytes(), 0).expect("the file");
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("a path").to_owned()
    }

    fn env(&self) -> [(&'static str, String); 2] {
        [("LD_PRELOAD", self.path("clock.so")), ("AUTHGEAR_TESTS_CLOCK", self.path("shift"))]
    }

    fn on(&self, host: Builder) -> Builder {
        self.env().iter().fold(host, |host, (name, value)| host.env(name, value))
    }

    /// Starts a Redis with this clock; `start` gets the environment variables.
    fn redis(&self, start: impl FnOnce(&[(&str, &str)]) -> Redis) -> Redis {
        let env = self.env();
        start(&env.each_ref().map(|(name, value)| (*name, value.as_str())))
    }
}

/// Seconds since 1970, by the clock of Redis.
fn time_of(redis: &Redis) -> i64 {
    let RedisReply::List(parts) = redis.command(&["TIME"]) else { panic!("no time") };
    let Some(RedisReply::Bytes(seconds)) = parts.into_iter().next() else { panic!("no time") };
    String::from_utf8(seconds).expect("digits").parse().expect("a number")
}

/// Seconds by which the clock of Redis is ahead of a host's.
fn offset(host: &Nginx) -> f64 {
    fleet(host)["clock_offset"].as_f64().expect("an offset")
}

/// Waits until a host has looked at the stream since now, and knows all events.
#[track_caller]
fn wait_looked(host: &Nginx) {
    let looked_after = unix_now() + 1;
    let has_looked = || fleet(host)["last_sync"].as_i64() > Some(looked_after);
    assert!(eventually(DEADLINE, has_looked), "{}", fleet(host));
}

/// Events go on: what a host tells, the other hears, and so does one that begins.
#[track_caller]
fn assert_nothing_lost(
    users: &mut Users<'_>,
    [a, b]: [&Nginx; 2],
    begin: impl FnOnce() -> Nginx,
    what: &str,
) {
    [a, b].into_iter().for_each(wait_in_sync);
    // As many events as were lost.
    for _ in 0..3 {
        assert_eq!(users.end_one_more(a), 204, "{what}");
    }
    assert_eq!(users.end_one_more(b), 204, "{what}");
    [a, b].into_iter().for_each(|host| users.wait_refused(host, what));
    users.wait_refused(&begin(), what);
}

#[test]
fn a_redis_that_begins_again_a_minute_behind_loses_no_event() {
    let (authgear, backend, clock) = (FakeAuthgear::start(), Backend::start(), Clock::wrong_by(0));
    let redis = clock.redis(|env| Redis::with_env(&[], env));
    let one = || start(&authgear, host(&authgear, &backend, &redis.url()));
    let [a, b] = [(); 2].map(|()| one());
    let mut users = Users::new(&authgear);
    (0..2).for_each(|_| assert_eq!(users.end_one_more(&a), 204));
    redis.save();
    (0..3).for_each(|_| assert_eq!(users.end_one_more(&a), 204));
    users.wait_refused(&b, "before");
    let before = time_of(&redis);
    clock.set(BEHIND);
    redis.restart();
    assert!(time_of(&redis) < before);
    let is_noticed = || losses(&a) > 0 && losses(&b) > 0;
    assert!(eventually(DEADLINE, is_noticed), "{}", fleet(&b));
    assert_nothing_lost(&mut users, [&a, &b], one, "with what was saved");
    // The same server, whose clock goes back once more: as many entries with earlier ids.
    clock.set(2 * BEHIND);
    wait_looked(&b);
    // b has compared the counts since the last event: what it notices next is the new loss.
    let noticed = losses(&b);
    redis.command(&["EVAL", ANEW, "1", "{authgear}:events"]);
    assert!(eventually(DEADLINE, || losses(&b) > noticed), "{}", fleet(&b));
    assert_nothing_lost(&mut users, [&a, &b], one, "the same count");
    assert!(offset(&b) < -110.0, "{}", fleet(&b));
}

#[test]
fn a_replica_that_takes_over_a_minute_behind_and_lacks_events_loses_none() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let clock = Clock::wrong_by(BEHIND);
    let replica = clock.redis(|env| redis.replica_with_env(env));
    let cables = [(); 2].map(|()| Cable::to(redis.addr()));
    let [a, b] = cables.each_ref().map(|cable| {
        start(&authgear, host(&authgear, &backend, &format!("redis://{}", cable.addr)))
    });
    let mut users = Users::new(&authgear);
    (0..2).for_each(|_| assert_eq!(users.end_one_more(&a), 204));
    let has_two = || replica.command(&["XLEN", "{authgear}:events"]) == RedisReply::Number(2);
    assert!(eventually(DEADLINE, has_two));
    replica.command(&["REPLICAOF", "NO", "ONE"]);
    (0..3).for_each(|_| assert_eq!(users.end_one_more(&a), 204));
    users.wait_refused(&b, "before");
    redis.kill();
    cables.iter().for_each(|cable| cable.lead_to(replica.addr()));
    let is_noticed = || losses(&a) > 0 && losses(&b) > 0;
    assert!(eventually(DEADLINE, is_noticed), "{}", fleet(&b));
    let one = || start(&authgear, host(&authgear, &backend, &replica.url()));
    assert_nothing_lost(&mut users, [&a, &b], one, "another server");
    assert!(offset(&b) < -50.0, "{}", fleet(&b));
}

#[test]
fn a_host_whose_clock_is_wrong_shares_nothing_says_so_and_hears_events() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let a = start_sharing(&authgear, sharing(&authgear, &backend, &redis));
    for wrong_by in [5000, -5000] {
        let clock = Clock::wrong_by(wrong_by);
        let b = start_sharing(&authgear, clock.on(sharing(&authgear, &backend, &redis)));
        let line = b.wait_for_error_log("authgear fleet shares no verdicts: the clock of Redis is");
        let millis = offset(&b) * 1000.0 + wrong_by as f64;
        assert!(line.contains("[warn]") && millis.abs() < 1000.0, "{millis} {line}");
        // Neither does it use what another host was told, nor does it tell.
        let user = authgear.add_user(User::named(&format!("off{wrong_by}")));
        let (token, own) = (authgear.opaque_token(&user), authgear.opaque_token(&user));
        let ask = |host: &Nginx, token: &str| cache(&get(host, "/").bearer(token).send());
        assert_eq!(ask(&a, &token), "MISS resolver");
        let count = wait_for_records(&redis, 1).len();
        assert_eq!(ask(&b, &token), "MISS resolver");
        assert_eq!(ask(&b, &own), "MISS resolver");
        assert_eq!(looks(&b, "skipped"), 2, "{}", fleet(&b));
        assert_eq!(ask(&a, &own), "MISS resolver");
        wait_for_records(&redis, count + 1);
        // It hears events, and tells them.
        for (from, to) in [(&a, &b), (&b, &a)] {
            assert_eq!(ask(to, &token), "HIT cache");
            assert_eq!(post(from, &format!("/purge?user={}", user.id)).send().status, 204);
            assert!(eventually(DEADLINE, || ask(to, &token) != "HIT cache"), "{}", fleet(to));
            ask(to, &token);
            ask(from, &token);
        }
        assert_eq!(fleet(&b)["in_sync"], true);
        wait_for_count(&b, "events", "applied", 1);
        // Once it is right, it shares.
        clock.set(0);
        let shares = || {
            let token = authgear.opaque_token(&User::named("bob"));
            ask(&a, &token);
            ask(&b, &token) == "SHARED cache"
        };
        assert!(eventually(2 * DEADLINE, shares), "{}", fleet(&b));
        let noticed = losses(&a);
        redis.command(&["FLUSHDB"]);
        assert!(eventually(DEADLINE, || losses(&a) > noticed), "{}", fleet(&a));
        // It may have been in sync a moment before.
        wait_looked(&a);
    }
}

#[test]
fn a_verdict_counts_no_longer_than_its_time_whatever_the_clocks_of_two_hosts_are() {
    const VALID: Duration = Duration::from_secs(12);
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let clocks = [1700, -1700].map(Clock::wrong_by);
    let [ahead, behind] = clocks.each_ref().map(|clock| {
        let builder = clock.on(sharing(&authgear, &backend, &redis).workers(1));
        let valid = format!("valid={}s", VALID.as_secs());
        start_sharing(&authgear, builder.raw_conf(move |conf| conf.replace("valid=1h", &valid)))
    });
    let token = authgear.opaque_token(&User::named("alice"));
    let ask = |host: &Nginx| cache(&get(host, "/").bearer(&token).send());
    assert_eq!(ask(&ahead), "MISS resolver");
    // It was asked for before.
    let told = Instant::now();
    // Until then the record is of a time to come, which hides a part of its age.
    thread::sleep(Duration::from_secs(4));
    assert_eq!(ask(&behind), "SHARED cache", "{}", fleet(&behind));
    let mut counted = Duration::ZERO;
    let has_ended = || {
        let asked = told.elapsed();
        let counts = ask(&behind) != "MISS resolver";
        if counts {
            counted = asked;
        }
        !counts
    };
    assert!(eventually(2 * DEADLINE, has_ended), "{}", fleet(&behind));
    assert_eq!(authgear.hits(), 2, "{}", fleet(&behind));
    assert!(counted > Duration::ZERO && counted < VALID, "{counted:?}");
}
