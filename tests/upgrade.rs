//! Binary upgrades while requests wait: to a new binary, or back to the old one.

use support::{get, Backend, Builder, FakeAuthgear, Fault, Gate, Nginx, Request, Response, User};

use crate::project::{project, verdict, TELLING};
use crate::site::{identity_of, own_ip, site};

/// A daemon in which requests can wait.
struct Upgrading {
    authgear: FakeAuthgear,
    backend: Backend,
    nginx: Nginx,
}

impl Upgrading {
    fn start(n: u8, build: impl FnOnce(Builder) -> Builder) -> Self {
        let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
        let builder = site(&authgear, &backend)
            .daemon(own_ip(n))
            .http("authgear_cache_zone z:1m;")
            .http(project("p", &authgear, ""))
            .server(TELLING)
            .server(
                "authgear p;
                 location / { authgear_cache z; proxy_pass http://%%BACKEND%%; }
                 location /jwt { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }",
            );
        let nginx = build(builder).start();
        // So that a key fetch is not taken for a look-up.
        authgear.wait_for_jwks_hits(1);
        Self { authgear, backend, nginx }
    }

    fn request(&self, name: &str) -> Request {
        get(&self.nginx, "/").bearer(&self.authgear.opaque_token(&User::named(name)))
    }

    /// Starts a request whose look-up waits.
    fn waiting(&self, name: &str, gate: &Gate) -> support::Pending {
        self.authgear.inject_next(1, Fault::Gate(gate.clone()));
        let waiting = gate.waiting();
        let pending = self.request(name).start();
        gate.wait_for_waiters(waiting + 1);
        pending
    }

    /// Waits until only workers of the other master accept.
    fn wait_for_end_of(&self, workers: &[u32]) {
        for pid in workers {
            let line = format!("{pid}#{pid}: gracefully shutting down");
            self.nginx.wait_for_error_log(&line);
        }
    }
}

#[track_caller]
fn assert_verdict(answer: &Response, expected: &str, name: &str) {
    assert_eq!(verdict(answer), expected, "{name}");
    assert_eq!(answer.echo().identity(), identity_of(&User::named(name)));
}

#[test]
fn a_new_binary_takes_over_and_loses_no_pending_request() {
    let site = Upgrading::start(201, |builder| builder);
    let (nginx, authgear, gate) = (&site.nginx, &site.authgear, Gate::new());
    let bob = site.request("bob");
    assert_verdict(&bob.send(), "valid ok resolver", "bob");
    assert_verdict(&bob.send(), "valid ok cache", "bob");
    let pending = site.waiting("alice", &gate);

    let workers = nginx.workers();
    let old = nginx.upgrade();
    assert_ne!(nginx.pid(), old);
    assert_eq!(nginx.workers_of(old), workers);
    nginx.signal_to(old, libc::SIGQUIT);
    site.wait_for_end_of(&workers);
    // The old binary's cache is its own: the new one makes one look-up, and caches that.
    let asked = authgear.hits();
    assert_verdict(&bob.send(), "valid ok resolver", "bob");
    for _ in 0..10 {
        assert_verdict(&bob.send(), "valid ok cache", "bob");
    }
    let token = authgear.jwt(&User::named("carol"));
    assert_verdict(&get(nginx, "/jwt").bearer(&token).send(), "valid ok jwt", "carol");
    assert_eq!((authgear.hits() - asked, gate.waiting()), (1, 1));

    gate.open();
    assert_verdict(&pending.wait(), "valid ok resolver", "alice");
    workers.into_iter().chain([old]).for_each(|pid| nginx.wait_gone(pid));
    assert_verdict(&bob.send(), "valid ok cache", "bob");
    nginx.stop();
    assert!(nginx.exited());
    authgear.wait_for_no_connections();
}

#[test]
fn a_rollback_to_the_old_binary_loses_no_pending_request() {
    let site = Upgrading::start(202, |builder| builder);
    let (nginx, authgear, gate) = (&site.nginx, &site.authgear, Gate::new());
    let bob = site.request("bob");
    assert_verdict(&bob.send(), "valid ok resolver", "bob");
    let of_old = site.waiting("alice", &gate);

    let old_workers = nginx.workers();
    let old = nginx.upgrade();
    nginx.signal_to(old, libc::SIGWINCH);
    site.wait_for_end_of(&old_workers);
    authgear.wait_for_jwks_hits(2);
    let of_new = site.waiting("carol", &gate);
    let (new, new_workers) = (nginx.pid(), nginx.workers());
    assert_verdict(&bob.send(), "valid ok resolver", "bob");

    // The old binary's workers start again with their cache.
    nginx.signal_to(old, libc::SIGHUP);
    nginx.wait_for_workers_of(old);
    nginx.signal_to(new, libc::SIGQUIT);
    site.wait_for_end_of(&new_workers);
    assert_verdict(&bob.send(), "valid ok cache", "bob");
    assert_eq!(gate.waiting(), 2);

    gate.open();
    assert_verdict(&of_old.wait(), "valid ok resolver", "alice");
    assert_verdict(&of_new.wait(), "valid ok resolver", "carol");
    old_workers.into_iter().chain(new_workers).chain([new]).for_each(|pid| nginx.wait_gone(pid));
    assert_eq!((nginx.pid(), authgear.hits()), (old, 4));
    assert_verdict(&bob.send(), "valid ok cache", "bob");
    nginx.stop();
    assert!(nginx.exited());
    authgear.wait_for_no_connections();
}

#[test]
fn worker_shutdown_timeout_ends_waiting_requests_of_the_old_binary_only() {
    let site = Upgrading::start(203, |builder| builder.main("worker_shutdown_timeout 100ms;"));
    let (nginx, gate) = (&site.nginx, Gate::new());
    let pending = site.waiting("alice", &gate);
    let workers = nginx.workers();
    let old = nginx.upgrade();
    nginx.signal_to(old, libc::SIGQUIT);
    workers.into_iter().chain([old]).for_each(|pid| nginx.wait_gone(pid));
    assert!(pending.try_wait().is_err());
    gate.wait_for_no_waiters();
    assert_eq!(site.backend.hits(), 0);
    assert_verdict(&site.request("alice").send(), "valid ok resolver", "alice");
    nginx.stop();
    assert!(nginx.exited());
}
