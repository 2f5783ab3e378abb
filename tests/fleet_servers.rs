//! Ways to the server of a fleet: addresses, TLS, passwords, Sentinel, a Redis Cluster.

use std::net::TcpListener;
use std::thread;
use std::time::Instant;

use support::{
    eventually, get, Backend, Ca, FakeAuthgear, Nginx, Redis, RedisReply, RefusedAddr, User,
    DEADLINE,
};

use crate::fleet::{cache, fleet, host, host_with, known_since, post, start, wait_in_sync};
use crate::fleet_faults::{answer, losses, Users};
use crate::fleet_verdicts::{looks, start_sharing, wait_for_records, wait_looking};

#[test]
fn each_way_of_connecting_works() {
    let (authgear, backend, ca) = (FakeAuthgear::start(), Backend::start(), Ca::new());
    let identity = ca.leaf(&["127.0.0.1"]);
    let directory = tempfile::TempDir::with_prefix("authgear-redis-tls-").expect("a directory");
    let file = |name: &str, contents: &[u8]| {
        let path = directory.path().join(name);
        std::fs::write(&path, contents).expect("a file");
        path.display().to_string()
    };
    let ca_file = file("ca.pem", ca.pem().as_bytes());
    let (cert, key) = (
        file("cert.pem", identity.cert_pem.as_bytes()),
        file("key.pem", identity.key_pem.as_bytes()),
    );
    let acl = "nginx on >hunter2 resetkeys ~{mine}:* resetchannels -@all +xadd +xread \
               +xinfo|stream +multi +exec +info +time +select +client|setname +set +del";
    let user = file("acl", format!("user {acl}\nuser default off\n").as_bytes());
    let plain = Redis::start();
    let with_password = Redis::with(&["--requirepass", "hunter2"]);
    let with_acl = Redis::with(&["--aclfile", &user]);
    let tls = ["--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-ca-cert-file", &ca_file];
    let with_tls = Redis::with_tls(&[&tls[..], &["--tls-auth-clients", "no"]].concat());
    let with_clients = Redis::with_tls(&tls);
    let host_cert = format!("ssl_certificate={cert} ssl_certificate_key={key}");
    let ways = [
        format!("unix:{}", plain.socket().display()),
        format!("redis://localhost:{} db=3", plain.addr().port()),
        format!("{} password=redis.password", with_password.url()),
        format!("{} user=nginx password=redis.password prefix=mine db=2", with_acl.url()),
        format!("rediss://{} ssl_trusted_certificate={ca_file}", with_tls.addr()),
        format!("rediss://{} ssl_verify=off", with_tls.addr()),
        format!("rediss://{} ssl_trusted_certificate={ca_file} {host_cert}", with_clients.addr()),
    ];
    for way in ways {
        let fleet = format!("{way} secret=fleet.secret cache=on timeout=1s");
        let [a, b] = [(); 2].map(|()| {
            let builder = host_with(&authgear, &backend, &fleet);
            start_sharing(&authgear, builder.secret_file("redis.password", "hunter2\n").workers(2))
        });
        let request = get(&b, "/").bearer(&authgear.opaque_token(&User::named("alice")));
        request.send();
        assert_eq!(cache(&request.send()), "HIT cache", "{way}");
        let since = Instant::now();
        assert_eq!(post(&a, "/purge?user=alice").send().status, 204, "{way}");
        known_since(since, &way, || !cache(&request.send()).starts_with("HIT"));
        assert!(!a.error_log().contains("hunter2"), "{way}");
    }
    let no_certificate = format!("rediss://{} ssl_verify=off", with_clients.addr());
    let nginx = host_with(&authgear, &backend, &format!("{no_certificate} secret=fleet.secret"));
    nginx.start().wait_for_error_log("authgear fleet is cut off");
    let unverified = format!("rediss://{} secret=fleet.secret", with_tls.addr());
    let nginx = host_with(&authgear, &backend, &unverified).start();
    let line = nginx.wait_for_error_log("authgear fleet is cut off");
    assert!(line.contains("certificate verify error"), "{line}");
}

/// A Sentinel that watches this server as `mine`, and knows its replica.
#[track_caller]
fn watching(redis: &Redis) -> Redis {
    let sentinel = redis.sentinel("mine");
    let knows_replica = || match sentinel.command(&["SENTINEL", "REPLICAS", "mine"]) {
        RedisReply::List(replicas) => !replicas.is_empty(),
        other => panic!("{other:?}"),
    };
    assert!(eventually(2 * DEADLINE, knows_replica), "the sentinel knows no replica");
    sentinel
}

/// Waits until the Sentinel names this replica as the master. While it makes it the master, it ends
/// the connections of clients.
#[track_caller]
pub(crate) fn wait_promoted(sentinel: &Redis, replica: &Redis) {
    let port = RedisReply::Bytes(replica.addr().port().to_string().into_bytes());
    let master = || sentinel.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mine"]);
    let is_named = || matches!(master(), RedisReply::List(words) if words.get(1) == Some(&port));
    assert!(eventually(2 * DEADLINE, is_named), "{:?}", master());
    assert!(replica.info("replication").contains("role:master"));
}

#[test]
fn after_a_failover_sentinel_names_the_new_master_and_no_event_is_lost() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let (replica, sentinel) = (redis.replica(), watching(&redis));
    // The first one refuses connections, and the second names a master that does.
    let refused = RefusedAddr::bind();
    let port = refused.addr().port().to_string();
    let named = format!("*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n", port.len());
    let stale = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let stale_addr = stale.local_addr().expect("the bound address");
    thread::spawn(move || {
        for stream in stale.incoming().flatten() {
            let named = named.clone();
            thread::spawn(move || answer(stream, named.as_bytes()));
        }
    });
    let by = format!("redis://{},{stale_addr},{}", refused.addr(), sentinel.addr());
    let fleet_of = |master: &str| format!("{by} sentinel={master} secret=fleet.secret");
    let other = host_with(&authgear, &backend, &fleet_of("other")).start();
    other.wait_for_error_log("the Sentinel knows no master \"other\", sentinel: ");
    let hosts =
        [(); 2].map(|()| start(&authgear, host_with(&authgear, &backend, &fleet_of("mine"))));
    let [a, b] = hosts;
    let mut users = Users::new(&authgear);
    assert_eq!(users.end_one_more(&a), 204);
    users.wait_refused(&b, "before");
    redis.kill();
    // Redis may have it or not when the answer comes.
    users.end_one_more(&a);
    wait_promoted(&sentinel, &replica);
    [&a, &b].into_iter().for_each(wait_in_sync);
    users.end_one_more(&a);
    users.wait_refused(&b, "after");
    assert!(losses(&b) > 0);
}

#[test]
fn hosts_find_the_node_of_a_cluster_that_has_the_stream() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nodes = Redis::cluster::<2>();
    let hosts =
        nodes.each_ref().map(|node| start(&authgear, host(&authgear, &backend, &node.url())));
    let [a, b] = &hosts;
    let mut users = Users::new(&authgear);
    for (from, to) in [(a, b), (b, a)] {
        assert_eq!(users.end_one_more(from), 204);
        users.wait_refused(to, "in a cluster");
    }
}

/// Waits until a host uses what another one was told of one more session.
#[track_caller]
fn wait_sharing(authgear: &FakeAuthgear, [a, b]: [&Nginx; 2]) {
    let shares = || {
        let token = authgear.opaque_token(&User::named("one more"));
        assert_eq!(cache(&get(a, "/").bearer(&token).send()), "MISS resolver");
        cache(&get(b, "/").bearer(&token).send()) == "SHARED cache"
    };
    assert!(eventually(2 * DEADLINE, shares), "{}", fleet(b));
}

#[test]
fn a_verdict_of_before_a_failover_does_not_count_and_hosts_share_again_after_it() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let (replica, sentinel) = (redis.replica(), watching(&redis));
    let way = format!("redis://{} sentinel=mine secret=fleet.secret", sentinel.addr());
    let [a, b] = [(); 2].map(|()| {
        let builder = host_with(&authgear, &backend, &format!("{way} cache=on timeout=1s"));
        start_sharing(&authgear, builder.workers(1))
    });
    let first = authgear.opaque_token(&User::named("bob"));
    assert_eq!(cache(&get(&a, "/").bearer(&first).send()), "MISS resolver");
    assert_eq!(cache(&get(&b, "/").bearer(&first).send()), "SHARED cache");
    let token = authgear.opaque_token(&User::named("alice"));
    let at = |host| cache(&get(host, "/").bearer(&token).send());
    assert_eq!(at(&a), "MISS resolver");
    // The server that takes over has it.
    let records = wait_for_records(&redis, 2);
    let has_all = || records.iter().all(|name| exists(&replica, name));
    assert!(eventually(DEADLINE, has_all), "{records:?}");
    redis.kill();
    wait_promoted(&sentinel, &replica);
    let is_noticed = || losses(&a) > 0 && losses(&b) > 0;
    assert!(eventually(2 * DEADLINE, is_noticed), "{}", fleet(&b));
    wait_looking(&authgear, &b);
    assert!(records.iter().all(|name| exists(&replica, name)), "{records:?}");
    assert_eq!(at(&b), "MISS resolver");
    assert_eq!(looks(&b, "foreign"), 1, "{}", fleet(&b));
    wait_sharing(&authgear, [&a, &b]);
}

fn exists(redis: &Redis, name: &str) -> bool {
    redis.command(&["EXISTS", name]) == RedisReply::Number(1)
}

#[test]
fn hosts_share_over_the_node_of_a_cluster_that_has_the_key() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nodes = Redis::cluster::<2>();
    let [a, b] = nodes.each_ref().map(|node| {
        let fleet = format!("{} secret=fleet.secret cache=on timeout=1s", node.url());
        start_sharing(&authgear, host_with(&authgear, &backend, &fleet))
    });
    for hosts in [[&a, &b], [&b, &a]] {
        let token = authgear.opaque_token(&User::named("alice"));
        let [first, second] = hosts.map(|host| get(host, "/").bearer(&token));
        assert_eq!(cache(&first.send()), "MISS resolver");
        assert_eq!(cache(&second.send()), "SHARED cache", "{}", fleet(hosts[1]));
    }
    let keys = |node: &Redis| match node.command(&["KEYS", "*"]) {
        RedisReply::List(names) => names.len(),
        other => panic!("{other:?}"),
    };
    let mut counts = nodes.each_ref().map(keys);
    counts.sort_unstable();
    // One node has both verdicts. No event was told, so there is no stream.
    assert_eq!(counts, [0, 2]);
}
