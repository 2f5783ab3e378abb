//! The resolver's host as a name: nginx's `resolver`, the system's name servers, /etc/hosts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use support::{
    eventually, get, Backend, Builder, FakeAuthgear, FakeDns, Nginx, Response, User, DEADLINE,
};

use crate::project::{project_at, verdict, TELLING};
use crate::site::{own_ip, site};

const NAME: &str = "authgear.test";
const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const LOCAL6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
/// A loopback address where no fake of these tests listens.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99));
/// Resolves the name for each request, and never suspends the resolver.
const ANEW: &str = "keepalive 0; max_fails 0;";

const VALID: &str = "valid ok resolver";
const NO_ADDRESS: &str = "error dns_error resolver";
const REFUSED: &str = "error connect_error resolver";

/// A project that names this Authgear `NAME`.
fn by_name(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    let url = format!("http://{NAME}:{}/_resolver/resolve", authgear.addr().port());
    site(authgear, backend)
        .http(project_at("p", authgear, &url, settings))
        .server(TELLING)
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
}

fn asking(builder: Builder, dns: &FakeDns) -> Builder {
    builder.var("DNS", dns.addr()).http("resolver %%DNS%%;")
}

/// The same with a `resolver` directive.
fn with_resolver(authgear: &FakeAuthgear, backend: &Backend, dns: &FakeDns) -> Builder {
    asking(by_name(authgear, backend, ANEW), dns)
}

/// The same without: the system has this /etc/resolv.conf and /etc/hosts.
fn with_system(builder: Builder, resolv_conf: &str, hosts: &str) -> Builder {
    builder
        .file("resolv.conf", format!("{resolv_conf}options timeout:1 attempts:1\n"))
        .file("hosts", hosts)
        .mount("/etc/resolv.conf", "resolv.conf")
        .mount("/etc/hosts", "hosts")
}

/// A name server where a resolv.conf can name it, and the line that does. See [`own_ip`].
fn name_server(n: u8) -> (FakeDns, String) {
    let ip = own_ip(n);
    (FakeDns::start(&format!("{ip}:53")), format!("nameserver {ip}\n"))
}

fn ask(nginx: &Nginx, authgear: &FakeAuthgear) -> Response {
    get(nginx, "/").bearer(&authgear.opaque_token(&User::named("alice"))).send()
}

#[test]
fn the_resolver_directive_resolves_the_name() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let dns = FakeDns::start("127.0.0.1:0");
    dns.set(NAME, &[LOCAL], 60);
    // Each worker keeps addresses of its own.
    let nginx = with_resolver(&authgear, &backend, &dns).workers(1).start();
    assert_eq!(dns.queries(), 0);
    for _ in 0..5 {
        assert_eq!(verdict(&ask(&nginx, &authgear)), VALID);
    }
    assert_eq!(authgear.connections_opened(), 5);
    // One query per address family; the answers are kept for their time to live.
    assert_eq!(dns.queries_for(NAME), 2);
}

#[test]
fn a_changed_address_takes_effect_after_its_ttl() {
    let (first, backend) = (FakeAuthgear::start(), Backend::start());
    let elsewhere = format!("127.0.0.2:{}", first.addr().port());
    let second = FakeAuthgear::builder().listen(&elsewhere).database(false).start();
    let dns = FakeDns::start("127.0.0.1:0");
    dns.set(NAME, &[LOCAL], 0);
    let nginx = with_resolver(&first, &backend, &dns).start();
    assert_eq!(verdict(&ask(&nginx, &first)), VALID);

    dns.set(NAME, &[second.addr().ip()], 0);
    first.stop();
    // nginx counts time to live in whole seconds.
    assert!(eventually(DEADLINE, || verdict(&ask(&nginx, &second)) == VALID));
    assert_eq!(first.hits(), 1);
}

#[test]
fn a_name_without_an_address_fails_within_the_deadline() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let dns = FakeDns::start("127.0.0.1:0");
    let rows: [(&dyn Fn(), &str); 4] = [
        (&|| dns.nxdomain(NAME), "could not be resolved (Host not found)"),
        (&|| dns.servfail(NAME), "could not be resolved (Server failure)"),
        (&|| dns.swallow(NAME), "could not be resolved (Operation timed out)"),
        (&|| dns.set(NAME, &[], 60), "could not be resolved (Host not found)"),
    ];
    for (prepare, reported) in rows {
        prepare();
        let short = by_name(&authgear, &backend, "connect_timeout 300ms; timeout 1h;");
        let nginx = asking(short, &dns).start();
        let begin = Instant::now();
        let answer = ask(&nginx, &authgear);
        let took = begin.elapsed();
        assert_eq!((answer.status, verdict(&answer).as_str()), (503, NO_ADDRESS), "{reported}");
        assert!(took < Duration::from_secs(3), "{reported}: {took:?}");
        let line = nginx.wait_for_error_log("authgear resolver failed");
        assert!(line.contains(&format!("dns_error, \"{NAME}\" {reported}")), "{reported}: {line}");
    }
    assert_eq!((authgear.connections_opened(), backend.hits()), (0, 0));
}

#[test]
fn a_name_that_resolves_again_is_used_again() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let dns = FakeDns::start("127.0.0.1:0");
    let nginx = with_resolver(&authgear, &backend, &dns).start();
    assert_eq!(verdict(&ask(&nginx, &authgear)), NO_ADDRESS);
    dns.set(NAME, &[LOCAL], 60);
    assert!(eventually(DEADLINE, || verdict(&ask(&nginx, &authgear)) == VALID));
}

#[test]
fn every_address_of_a_name_is_tried() {
    let backend = Backend::start();
    let dns = FakeDns::start("127.0.0.1:0");
    for (listen, addresses) in [
        ("127.0.0.1:0", &[NOBODY, LOCAL][..]),
        ("127.0.0.1:0", &[LOCAL6, LOCAL]),
        ("[::1]:0", &[NOBODY, LOCAL6]),
        ("[::1]:0", &[LOCAL6]),
    ] {
        let authgear = FakeAuthgear::builder().listen(listen).start();
        dns.set(NAME, addresses, 60);
        let nginx = with_resolver(&authgear, &backend, &dns).start();
        // nginx starts with a random address.
        for _ in 0..10 {
            assert_eq!(verdict(&ask(&nginx, &authgear)), VALID, "{addresses:?}");
        }
    }
    let authgear = FakeAuthgear::start();
    dns.set(NAME, &[NOBODY, LOCAL6], 60);
    let nginx = with_resolver(&authgear, &backend, &dns).start();
    assert_eq!(verdict(&ask(&nginx, &authgear)), REFUSED);
    let line = nginx.wait_for_error_log("authgear resolver failed");
    assert!(line.contains("connect_error, connect() failed"), "{line}");
    assert!(line.contains("Connection refused"), "{line}");
}

#[test]
fn a_name_can_resolve_to_an_ipv6_address() {
    let (authgear, backend) = (FakeAuthgear::builder().listen("[::1]:0").start(), Backend::start());
    assert!(authgear.url().starts_with("http://[::1]:"));
    let nginx = site(&authgear, &backend).server(crate::site::PROTECTED).server(TELLING).start();
    assert_eq!(verdict(&ask(&nginx, &authgear)), VALID);
    let host = authgear.addr().to_string();
    assert_eq!(authgear.requests()[0].header("host"), Some(host.as_str()));
}

#[test]
fn without_a_resolver_directive_the_system_name_servers_are_used() {
    let (first, backend) = (FakeAuthgear::start(), Backend::start());
    let elsewhere = format!("127.0.0.2:{}", first.addr().port());
    let second = FakeAuthgear::builder().listen(&elsewhere).database(false).start();
    let (dns, resolv_conf) = name_server(1);
    dns.set(NAME, &[LOCAL], 0);
    let nginx = with_system(by_name(&first, &backend, ANEW), &resolv_conf, "").start();
    assert_eq!(verdict(&ask(&nginx, &first)), VALID);
    assert!(!nginx.error_log().contains("name servers of /etc/resolv.conf"));

    // The name is queried again, not only while the configuration is read.
    dns.set(NAME, &[second.addr().ip()], 0);
    first.stop();
    assert!(eventually(DEADLINE, || verdict(&ask(&nginx, &second)) == VALID));
    second.stop();
    first.restart_on(first.addr());

    // The addresses from start-up stay in use when queries fail.
    dns.servfail(NAME);
    assert!(eventually(DEADLINE, || verdict(&ask(&nginx, &first)) == VALID));
}

#[test]
fn a_name_that_does_not_resolve_yet_is_a_warning() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (dns, resolv_conf) = name_server(2);
    let build = || with_system(by_name(&authgear, &backend, ANEW), &resolv_conf, "");
    let test = build().check();
    let warning = format!(
        "host not found in \"http://{NAME}:{}/_resolver/resolve\" of authgear project \"p\", no \
         \"resolver\" is defined: the name servers of /etc/resolv.conf will be asked",
        authgear.addr().port()
    );
    assert!(test.ok && test.output.contains(&warning), "{}", test.output);

    let nginx = build().start();
    assert_eq!(verdict(&ask(&nginx, &authgear)), NO_ADDRESS);
    dns.set(NAME, &[LOCAL], 60);
    assert!(eventually(DEADLINE, || verdict(&ask(&nginx, &authgear)) == VALID));
}

#[test]
fn names_in_etc_hosts_resolve() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (dns, resolv_conf) = name_server(3);
    let hosts = format!("127.0.0.1 {NAME}\n");
    for resolv_conf in [resolv_conf.as_str(), ""] {
        let nginx = with_system(by_name(&authgear, &backend, ANEW), resolv_conf, &hosts).start();
        assert_eq!(verdict(&ask(&nginx, &authgear)), VALID, "{resolv_conf}");
    }
    // No name server is asked about them.
    dns.set(NAME, &[NOBODY], 60);
    let nginx = with_system(by_name(&authgear, &backend, ANEW), &resolv_conf, &hosts).start();
    assert_eq!((verdict(&ask(&nginx, &authgear)).as_str(), dns.queries_for(NAME)), (VALID, 0));
}

#[test]
fn a_name_without_any_name_server_is_refused() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let test = with_system(by_name(&authgear, &backend, ANEW), "", "").check();
    let error = format!(
        "host not found in \"http://{NAME}:{}/_resolver/resolve\" of authgear project \"p\", and \
         neither \"resolver\" nor /etc/resolv.conf names a server to ask",
        authgear.addr().port()
    );
    assert!(!test.ok && test.output.contains(&error), "{}", test.output);

    // An unused project is never an error.
    let unused = with_system(by_name(&authgear, &backend, ANEW), "", "");
    let unused = unused.raw_conf(|conf| conf.replace("authgear p;", ""));
    assert!(unused.check().ok);
}
