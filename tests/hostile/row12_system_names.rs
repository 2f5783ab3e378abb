//! Row 12: names that the system itself knows never go to a name server.

use std::net::{IpAddr, Ipv4Addr};

use support::{get, Backend, Builder, FakeAuthgear, FakeDns, User};

use crate::project::{project_at, verdict, TELLING};
use crate::site::{own_ip, site};

const VALID: &str = "valid ok resolver";
/// Where another server listens, to which a name server sends whoever asks.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 98));
const IN_CLEAR: &str = "in clear";

fn by_name(authgear: &FakeAuthgear, backend: &Backend, name: &str) -> Builder {
    let url = format!("http://{name}:{}/_resolver/resolve", authgear.addr().port());
    site(authgear, backend)
        .http(project_at("p", authgear, &url, "keepalive 0; max_fails 0;"))
        .server(TELLING)
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
}

fn with_hosts(builder: Builder, hosts: &str) -> Builder {
    builder.file("hosts", hosts).mount("/etc/hosts", "hosts")
}

/// The credentials go to Authgear, no matter what the name server says, and it is not even asked.
#[track_caller]
fn assert_not_asked(
    dns: &FakeDns,
    name: &str,
    build: impl FnOnce(&FakeAuthgear, &Backend) -> Builder,
) {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let elsewhere = format!("{ELSEWHERE}:{}", authgear.addr().port());
    let thief = FakeAuthgear::builder().listen(&elsewhere).database(false).start();
    dns.set(name, &[ELSEWHERE], 60);
    let nginx = build(&authgear, &backend).start();
    let token = authgear.opaque_token(&User::named("alice"));
    let told = verdict(&get(&nginx, "/").bearer(&token).send());
    assert_eq!(thief.hits(), 0, "{name}: credentials were sent to another host");
    assert_eq!((told.as_str(), dns.queries_for(name)), (VALID, 0), "{name}");
}

#[test]
fn localhost_is_this_machine() {
    for name in ["localhost", "authgear.localhost", "LOCALHOST", "localhost."] {
        let dns = FakeDns::start("127.0.0.1:0");
        assert_not_asked(&dns, &name.to_lowercase(), |authgear, backend| {
            by_name(authgear, backend, name).var("DNS", dns.addr()).http("resolver %%DNS%%;")
        });
    }
}

#[test]
fn localhost_is_this_machine_without_a_resolver_directive() {
    let ip = own_ip(101);
    let dns = FakeDns::start(&format!("{ip}:53"));
    for name in ["localhost", "authgear.localhost"] {
        assert_not_asked(&dns, name, |authgear, backend| {
            with_hosts(by_name(authgear, backend, name), "")
                .file("resolv.conf", format!("nameserver {ip}\noptions timeout:1 attempts:1\n"))
                .mount("/etc/resolv.conf", "resolv.conf")
        });
    }
}

#[test]
fn a_name_of_the_hosts_file_has_the_address_that_stands_there() {
    const NAME: &str = "authgear.test";
    let hosts = format!("127.0.0.1 other.test {NAME}\n");
    let dns = FakeDns::start("127.0.0.1:0");
    assert_not_asked(&dns, NAME, |authgear, backend| {
        let builder = by_name(authgear, backend, NAME).var("DNS", dns.addr());
        with_hosts(builder.http("resolver %%DNS%%;"), &hosts)
    });
    let ip = own_ip(102);
    let dns = FakeDns::start(&format!("{ip}:53"));
    assert_not_asked(&dns, NAME, |authgear, backend| {
        with_hosts(by_name(authgear, backend, NAME), &hosts)
            .file("resolv.conf", format!("nameserver {ip}\noptions timeout:1 attempts:1\n"))
            .mount("/etc/resolv.conf", "resolv.conf")
    });
}

#[test]
fn only_what_leaves_the_machine_is_warned_of() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let hosts = "127.0.0.1 localhost near.test\n203.0.113.5 far.test\n";
    let dns = FakeDns::start("127.0.0.1:0");
    for (name, warned) in [
        ("localhost", false),
        ("authgear.localhost", false),
        ("near.test", false),
        ("far.test", true),
        ("unknown.test", true),
    ] {
        let builder = by_name(&authgear, &backend, name).var("DNS", dns.addr());
        let test = with_hosts(builder.http("resolver %%DNS%%;"), hosts).check();
        assert_eq!((test.ok, test.output.contains(IN_CLEAR)), (true, warned), "{}", test.output);
    }
}
