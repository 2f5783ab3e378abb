//! Ways to the server of a fleet: addresses, TLS, passwords, Sentinel, a Redis Cluster.

use std::net::TcpListener;
use std::thread;
use std::time::Instant;

use support::{
    eventually, get, Backend, Ca, FakeAuthgear, Redis, RedisReply, RefusedAddr, User, DEADLINE,
};

use crate::fleet::{cache, host, host_with, known_since, post, start, wait_in_sync};
use crate::fleet_faults::{answer, losses, Users};
use crate::fleet_verdicts::start_sharing;

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

#[test]
fn after_a_failover_sentinel_names_the_new_master_and_no_event_is_lost() {
    let (authgear, backend, redis) = (FakeAuthgear::start(), Backend::start(), Redis::start());
    let (replica, sentinel) = (redis.replica(), redis.sentinel("mine"));
    let knows_replica = || match sentinel.command(&["SENTINEL", "REPLICAS", "mine"]) {
        RedisReply::List(replicas) => !replicas.is_empty(),
        other => panic!("{other:?}"),
    };
    assert!(eventually(2 * DEADLINE, knows_replica), "the sentinel knows no replica");
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
    let is_promoted = || replica.info("replication").contains("role:master");
    assert!(eventually(2 * DEADLINE, is_promoted), "{}", replica.info("replication"));
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
