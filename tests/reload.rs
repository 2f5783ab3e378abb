//! Reloads, exits and deaths of workers: no started request is lost, and no exit is delayed.

use std::cell::RefCell;
use std::fs;
use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use support::{
    eventually, get, module_path, Backend, Ca, Connection, FakeAuthgear, FakeDns, Fault, Gate,
    Nginx, Request, Response, SilentAddr, User, DEADLINE,
};

use crate::project::{project, project_at};
use crate::site::{identity_of, site, PROTECTED};

fn alice(nginx: &Nginx, authgear: &FakeAuthgear) -> Request {
    get(nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")))
}

#[track_caller]
fn assert_alice(answer: &Response) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.echo().identity(), identity_of(&User::named("alice")));
}

/// Two requests whose look-ups wait at the gate: over HTTP/1.1, and over HTTP/2 to `%%ADDR2%%`.
struct Waiting {
    authgear: FakeAuthgear,
    backend: Backend,
    gate: Gate,
    nginx: Nginx,
}

impl Waiting {
    fn new(settings: &str) -> Self {
        let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
        authgear.inject(Fault::Gate(gate.clone()));
        let nginx = site(&authgear, &backend)
            .main(settings)
            .listen_extra(1)
            .server(PROTECTED)
            .server("listen %%ADDR2%% http2;")
            .start();
        Self { authgear, backend, gate, nginx }
    }

    /// Runs `meanwhile` once both wait, opens the gate, and asserts that both are answered.
    fn answered_after(&self, meanwhile: impl FnOnce(&Nginx)) {
        let bearer = |user: &User| self.authgear.opaque_token(user);
        let h1 = get(&self.nginx, "/").bearer(&bearer(&User::named("alice"))).start();
        let h2 = get(&self.nginx.addr2(), "/").bearer(&bearer(&User::named("alice"))).start_h2();
        self.gate.wait_for_waiters(2);
        meanwhile(&self.nginx);
        assert_eq!(self.backend.hits(), 0);
        self.gate.open();
        assert_alice(&h1.wait());
        assert_alice(&h2.wait());
    }
}

#[test]
fn a_reload_loses_no_pending_request() {
    let waiting = Waiting::new("");
    let mut old = Vec::new();
    waiting.answered_after(|nginx| old = nginx.reload());
    old.into_iter().for_each(|pid| waiting.nginx.wait_gone(pid));
}

#[test]
fn quitting_loses_no_pending_request() {
    let waiting = Waiting::new("");
    waiting.answered_after(|nginx| {
        nginx.signal(libc::SIGQUIT);
        for pid in nginx.workers() {
            nginx.wait_for_error_log(&format!("{pid}#{pid}: gracefully shutting down"));
        }
    });
    waiting.nginx.stop();
}

#[test]
fn a_fast_stop_or_shutdown_timeout_ends_pending_requests_cleanly() {
    for (settings, signal) in
        [("", libc::SIGTERM), ("worker_shutdown_timeout 100ms;", libc::SIGQUIT)]
    {
        let waiting = Waiting::new(settings);
        let pending = alice(&waiting.nginx, &waiting.authgear).start();
        waiting.gate.wait_for_waiters(1);
        let workers = waiting.nginx.workers();
        waiting.nginx.signal(signal);
        workers.into_iter().for_each(|pid| waiting.nginx.wait_gone(pid));
        assert!(pending.try_wait().is_err());
        assert_eq!(waiting.backend.hits(), 0);
        waiting.nginx.stop();
    }
}

/// Sends requests in sequence over one connection until told to stop. A reused connection may be
/// closed when the next request comes, as usual in HTTP.
fn client(request: &Request, identity: &[(String, String)], stop: &AtomicBool, n: &AtomicUsize) {
    let mut kept: Option<Connection> = None;
    while !stop.load(Ordering::Relaxed) {
        let reused = kept.take().map(|mut connection| {
            let answer = connection.try_send(request);
            (connection, answer)
        });
        let (connection, answer) = match reused {
            Some((connection, Ok(answer))) => (connection, answer),
            Some((_, Err(error))) if error.kind() == ErrorKind::TimedOut => panic!("{error}"),
            Some((_, Err(_))) | None => {
                let mut connection = Connection::open_for(request);
                let answer = connection.send(request);
                (connection, answer)
            }
        };
        assert_eq!(answer.status, 200);
        assert_eq!(answer.echo().identity(), identity);
        n.fetch_add(1, Ordering::Relaxed);
        let closes = answer.header("connection").is_some_and(|value| value == "close");
        kept = (!closes).then_some(connection);
    }
}

#[test]
fn reloads_under_load_lose_no_request() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    // Log little, so that more requests are made.
    let nginx = site(&authgear, &backend).error_level("info").server(PROTECTED).start();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|n| {
                let user = User::named(&format!("user-{n}"));
                let request = get(&nginx, "/").bearer(&authgear.opaque_token(&user));
                let (stop, answered) = (&stop, &answered);
                scope.spawn(move || client(&request, &identity_of(&user), stop, answered))
            })
            .collect();
        for _ in 0..5 {
            let begun = answered.load(Ordering::Relaxed);
            for pid in nginx.reload() {
                nginx.wait_gone(pid);
            }
            // Each configuration serves its share of requests, unless a client failed.
            let served = || answered.load(Ordering::Relaxed) > begun + 40;
            eventually(DEADLINE, || served() || clients.iter().any(|c| c.is_finished()));
        }
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("every request is answered");
        }
    });
    assert!(answered.into_inner() >= 200);
}

#[test]
fn idle_workers_exit_at_once_on_reload() {
    // The keepalive time of connections to the resolver exceeds every deadline of this test.
    let ca = Ca::new();
    let tls = FakeAuthgear::builder().tls(ca.leaf(&["127.0.0.1"])).start();
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let settings = "keepalive_timeout 1h; ssl_trusted_certificate ca.pem;";
    let nginx = site(&authgear, &backend)
        .file("ca.pem", ca.pem())
        .http(project("tls", &tls, settings))
        .http(project("plain", &authgear, "keepalive_timeout 1h;"))
        .server(
            "location / { authgear plain; proxy_pass http://%%BACKEND%%; }
             location /tls { authgear tls; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let use_both = || {
        for _ in 0..10 {
            assert_alice(&alice(&nginx, &authgear).send());
            let token = tls.opaque_token(&User::named("alice"));
            assert_alice(&get(&nginx, "/tls").bearer(&token).send());
        }
        assert!(authgear.connections_open() >= 1 && tls.connections_open() >= 1);
    };
    use_both();
    for pid in nginx.reload() {
        nginx.wait_gone(pid);
    }
    authgear.wait_for_no_connections();
    tls.wait_for_no_connections();
    use_both();
    nginx.stop();
}

#[test]
fn an_abandoned_look_up_does_not_delay_worker_exit() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (dns, silent) = (FakeDns::start("127.0.0.1:0"), SilentAddr::bind());
    let mute = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let mute_addr = mute.local_addr().expect("an address");
    let open = RefCell::new(Vec::new());
    let connecting = |nginx: &Nginx| {
        nginx.wait_for_error_log(&format!("connect to {}", silent.addr()));
    };
    let shaking_hands = |_: &Nginx| {
        let (mut stream, _) = mute.accept().expect("a client");
        assert_eq!(stream.read(&mut [0; 1]).expect("a handshake"), 1);
        open.borrow_mut().push(stream);
    };
    dns.swallow("authgear.test");
    authgear.inject(Fault::Hang);
    // Phases in which a look-up can hang, and how to detect each.
    type WaitThere<'a> = &'a dyn Fn(&Nginx);
    let places: [(&str, &str, WaitThere); 4] = [
        ("name", "http://authgear.test:80/", &|_| dns.wait_for_queries(1)),
        ("connection", &format!("http://{}/", silent.addr()), &connecting),
        ("handshake", &format!("https://{mute_addr}/"), &shaking_hands),
        ("answer", &authgear.resolver_url(), &|_| authgear.wait_for_hits(1)),
    ];
    for (place, url, wait_there) in places {
        let nginx = site(&authgear, &backend)
            .var("DNS", dns.addr())
            .http(project_at("p", &authgear, url, "timeout 1h; connect_timeout 1h;"))
            .http("resolver %%DNS%%;")
            .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
            .log_format("$status")
            .start();
        let pending = alice(&nginx, &authgear).start();
        wait_there(&nginx);
        pending.leave();
        assert_eq!(nginx.wait_for_access_lines(1), ["499"], "{place}");
        for pid in nginx.reload() {
            nginx.wait_gone(pid);
        }
        nginx.stop();
    }
    authgear.wait_for_no_connections();
}

/// The worker that connected to this Authgear last.
fn asking_worker(nginx: &Nginx, authgear: &FakeAuthgear) -> u32 {
    let log = nginx.error_log();
    let connect = format!("connect to {}", authgear.addr());
    let line = log.lines().rev().find(|line| line.contains(&connect)).expect("a connection");
    let (_, rest) = line.split_once("[debug] ").expect("a level");
    rest.split_once('#').and_then(|(pid, _)| pid.parse().ok()).expect("a process")
}

#[test]
fn a_dying_worker_loses_only_its_own_requests() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(project("p", &authgear, "keepalive 0;"))
        .server("location / { authgear p; proxy_pass http://%%BACKEND%%; }")
        .start();
    for kills_the_asking_one in [false, true, false, true] {
        let gate = Gate::new();
        authgear.inject_next(1, Fault::Gate(gate.clone()));
        let pending = alice(&nginx, &authgear).start();
        gate.wait_for_waiters(1);
        let asking = asking_worker(&nginx, &authgear);
        let mut workers = nginx.workers();
        workers.retain(|pid| (*pid == asking) == kills_the_asking_one);
        nginx.kill_worker(workers[0]);
        // Both workers serve, the new one too.
        for _ in 0..20 {
            assert_alice(&alice(&nginx, &authgear).send());
        }
        gate.open();
        match pending.try_wait() {
            Ok(answer) => assert_alice(&answer),
            Err(_) => assert!(kills_the_asking_one),
        }
    }
}

#[test]
fn a_reload_applies_new_settings() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let other = FakeAuthgear::start();
    let nginx = site(&authgear, &backend).server(PROTECTED).start();
    let bob = get(&nginx, "/").bearer(&other.opaque_token(&User::named("bob")));
    assert_eq!(bob.send().echo().identity(), []);
    let (old, new) = (authgear.url(), other.url());
    nginx.edit_conf(|conf| conf.replace(&old, &new));
    nginx.reload();
    assert_eq!(bob.send().echo().identity(), identity_of(&User::named("bob")));
    nginx.edit_conf(|conf| conf.replace(&format!("authgear {new};"), "authgear off;"));
    nginx.reload();
    assert_eq!(bob.send().echo().identity(), []);
    assert_eq!((authgear.hits(), other.hits()), (1, 1));
}

/// Resident memory of a process, in kB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

pub(crate) fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").count()
}

#[test]
fn reload_after_reload_leaves_nothing_behind() {
    let ca = Ca::new();
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .file("ca.pem", ca.pem())
        .http("authgear_project tls { endpoint https://a.test; ssl_trusted_certificate ca.pem; }")
        .http("resolver 127.0.0.1;")
        .server(PROTECTED)
        .server("location /tls { authgear tls; }")
        .start();
    let reload = || {
        nginx.reload().into_iter().for_each(|pid| nginx.wait_gone(pid));
        assert_alice(&alice(&nginx, &authgear).send());
    };
    reload();
    let (files, memory) = (open_files(nginx.pid()), memory(nginx.pid()));
    (0..20).for_each(|_| reload());
    assert_eq!(open_files(nginx.pid()), files);
    // The trusted certificates of one configuration take about a megabyte.
    let grown = self::memory(nginx.pid()).saturating_sub(memory);
    assert!(grown < 4096, "{grown} kB");
}

#[test]
fn look_ups_waiting_for_a_connection_do_not_delay_worker_exit() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = Nginx::builder()
        .workers(1)
        .http(format!(
            "authgear_project p {{
               endpoint {}; max_connections 1; timeout 1h; connect_timeout 1h;
             }}",
            authgear.origin()
        ))
        .var("BACKEND", backend.addr())
        .server("location / { authgear p; proxy_pass http://%%BACKEND%%; }")
        .start();
    authgear.inject(Fault::Hang);
    let pending: Vec<_> =
        (0..4).map(|n| get(&nginx, "/").bearer(&format!("token {n}")).start()).collect();
    authgear.wait_for_hits(1);
    pending.into_iter().for_each(support::Pending::leave);
    // Dropping nginx fails the test unless it ends in time.
    nginx.wait_for_access_lines(4);
    nginx.quit();
}

#[test]
fn a_request_that_continues_without_its_client_is_handled_once() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = Nginx::builder()
        .workers(1)
        .var("AUTHGEAR", authgear.url())
        .var("BACKEND", backend.addr())
        .server(
            "location / { authgear %%AUTHGEAR%%; post_action /after; proxy_pass http://%%BACKEND%%; }
             location /after { proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let request = get(&nginx, "/").bearer(&token).start();
    gate.wait_for_waiters(1);
    request.leave();
    nginx.wait_for_error_log("client prematurely closed connection");
    gate.open();
    backend.wait_for_hits(1);
    assert_eq!(get(&nginx, "/").bearer(&token).send().status, 200);
    backend.wait_for_hits(3);
    let paths: Vec<_> = backend.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(paths, ["/after", "/", "/after"]);
}

/// Returns true if the nginx under test is of musl. Its `dlopen()` tells libraries apart by the file,
/// not by the name, so that a reload loads the new module.
fn loads_a_file_of_the_same_name_again() -> bool {
    let Some(nginx) = std::env::var_os("AUTHGEAR_NGINX") else { return false };
    let binary = fs::read(nginx).expect("the binary");
    binary.windows(12).any(|part| part == b"/lib/ld-musl")
}

#[test]
fn a_reload_tells_that_the_module_was_replaced() {
    const WARNING: &str = "was replaced: a reload loads no new module";
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("module.so");
    let under_test = module_path();
    fs::copy(&under_test, &file).expect("a copy");
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .var("MODULE", file.display())
        .allow_log(WARNING)
        .http(project("p", &authgear, ""))
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    nginx.reload();
    assert!(!nginx.error_log().contains(WARNING));

    // As dpkg does: the new file is renamed to the place of the old one.
    let new = dir.path().join("new.so");
    fs::copy(&under_test, &new).expect("a copy");
    fs::rename(&new, &file).expect("to rename");
    nginx.reload();
    if loads_a_file_of_the_same_name_again() {
        assert!(!nginx.error_log().contains(WARNING));
        return;
    }
    let path = file.canonicalize().expect("the file");
    nginx.wait_for_error_log(&format!("although its file {} {WARNING}", path.display()));
}
