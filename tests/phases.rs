//! In each phase of a look-up, clients that leave and workers that end disturb no other request.

use std::net::{IpAddr, Ipv4Addr};

use support::{
    eventually, get, Backend, Ca, FakeAuthgear, FakeDns, Fault, Gate, Nginx, Pending, Request,
    Response, Sluice, User, DEADLINE,
};

use crate::joining::await_marker;
use crate::project::project_at;
use crate::reload::open_files;
use crate::site::{identity_of, site};

/// The phase a look-up is waiting in.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Name,
    /// The server's part of the handshake, after this many bytes.
    Handshake(u64),
    Answer,
    /// The rest of an answer, after this many bytes.
    Rest(u64),
    /// A connection below `max_connections`, while another look-up uses it.
    Connection,
    /// The same look-up, already made by another request.
    Another,
    Keys,
}

const PHASES: [Phase; 9] = [
    Phase::Name,
    Phase::Handshake(0),
    Phase::Handshake(100),
    Phase::Answer,
    Phase::Rest(0),
    Phase::Rest(200),
    Phase::Connection,
    Phase::Another,
    Phase::Keys,
];

/// Requests held in one phase until the gate opens.
struct PendingLookups {
    phase: Phase,
    nginx: Nginx,
    pending: Vec<Pending>,
    alice: Request,
    gate: Gate,
    /// The number of open files of an idle worker.
    idle: usize,
    authgear: FakeAuthgear,
    _backend: Backend,
    _dns: FakeDns,
    _sluice: Option<Sluice>,
}

impl PendingLookups {
    fn in_phase(phase: Phase, main: &str) -> Self {
        let (ca, backend) = (Ca::new(), Backend::start());
        let authgear = match phase {
            Phase::Handshake(_) => FakeAuthgear::builder().tls(ca.leaf(&["127.0.0.1"])).start(),
            _ => FakeAuthgear::start(),
        };
        let sluice = match phase {
            Phase::Handshake(bytes) | Phase::Rest(bytes) => {
                Some(Sluice::before(authgear.addr(), bytes))
            }
            _ => None,
        };
        let gate = sluice.as_ref().map(|sluice| sluice.gate().clone()).unwrap_or_default();
        let dns = FakeDns::start("127.0.0.1:0");
        dns.hold("authgear.test", &gate, &[IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        let url = match (phase, &sluice) {
            (Phase::Name, _) => format!("http://authgear.test:{}/resolve", authgear.addr().port()),
            (_, Some(sluice)) => {
                let scheme = if matches!(phase, Phase::Handshake(_)) { "https" } else { "http" };
                format!("{scheme}://{}/resolve", sluice.addr())
            }
            _ => authgear.resolver_url(),
        };
        let mode = if matches!(phase, Phase::Keys) { "jwt" } else { "resolver" };
        let most = if matches!(phase, Phase::Connection) { 1 } else { 8 };
        match phase {
            Phase::Answer | Phase::Connection | Phase::Another | Phase::Keys => {
                authgear.inject(Fault::Gate(gate.clone()));
            }
            _ => {}
        }
        let settings = format!(
            "timeout 1h; connect_timeout 1h; keepalive 0; max_connections {most};
             ssl_trusted_certificate ca.pem;"
        );
        let nginx = site(&authgear, &backend)
            .main(main)
            .workers(1)
            .var("DNS", dns.addr())
            .file("ca.pem", ca.pem())
            .log_format("$status")
            .http("resolver %%DNS%%; authgear_cache_zone z:1m;")
            .http(project_at("p", &authgear, &url, &settings))
            .server(format!(
                "authgear p; authgear_mode {mode}; authgear_require session; authgear_cache z;
                 location / {{ proxy_pass http://%%BACKEND%%; }}
                 location = /marker {{ authgear off; access_log off; return 204; }}"
            ))
            .start();
        let idle = open_files(nginx.workers()[0]);
        let user = User::named("alice");
        let tokens: Vec<_> = match phase {
            Phase::Keys => (0..4).map(|_| authgear.jwt(&user)).collect(),
            Phase::Another => vec![authgear.opaque_token(&user); 4],
            _ => (0..4).map(|_| authgear.opaque_token(&user)).collect(),
        };
        let alice = get(&nginx, "/").bearer(&tokens[0]);
        let pending = tokens.iter().map(|token| get(&nginx, "/").bearer(token).start()).collect();
        gate.wait_for_waiters(match phase {
            // Requests waiting for the same thing make one look-up.
            Phase::Name | Phase::Connection | Phase::Another | Phase::Keys => 1,
            _ => 4,
        });
        await_marker(&nginx);
        Self {
            phase,
            nginx,
            pending,
            alice,
            gate,
            idle,
            authgear,
            _backend: backend,
            _dns: dns,
            _sluice: sluice,
        }
    }

    #[track_caller]
    fn assert_alice(&self, answer: &Response) {
        assert_eq!(answer.status, 200, "{:?}", self.phase);
        let identity = answer.echo().identity();
        assert_eq!(identity, identity_of(&User::named("alice")), "{:?}", self.phase);
    }

    /// Asserts that requests are served and nothing leaked.
    #[track_caller]
    fn assert_serves(&self) {
        // After a fetching worker was killed, the next one fetches the keys eventually.
        let mut answer = self.alice.send();
        eventually(DEADLINE, || {
            let unavailable = answer.status == 503;
            if unavailable {
                answer = self.alice.send();
            }
            !unavailable
        });
        self.assert_alice(&answer);
        self.authgear.wait_for_no_connections();
    }
}

#[test]
fn clients_that_leave_in_any_phase_leak_nothing() {
    for phase in PHASES {
        let mut held = PendingLookups::in_phase(phase, "");
        let pending = std::mem::take(&mut held.pending);
        let workers = held.nginx.workers();
        pending.into_iter().for_each(Pending::leave);
        assert_eq!(held.nginx.wait_for_access_lines(4), ["499"; 4], "{phase:?}");
        held.gate.open();
        held.assert_serves();
        // The socket for DNS queries stays open.
        let most = held.idle + usize::from(matches!(phase, Phase::Name));
        let open = || open_files(workers[0]);
        assert!(eventually(DEADLINE, || open() <= most), "{phase:?}: {} of {most}", open());
        assert_eq!(held.nginx.workers(), workers);
    }
}

#[test]
fn a_reload_completes_requests_waiting_in_any_phase() {
    for phase in PHASES {
        let mut held = PendingLookups::in_phase(phase, "");
        let old = held.nginx.reload();
        held.gate.open();
        for pending in std::mem::take(&mut held.pending) {
            held.assert_alice(&pending.wait());
        }
        old.into_iter().for_each(|pid| held.nginx.wait_gone(pid));
        held.assert_serves();
    }
}

#[test]
fn worker_shutdown_timeout_ends_waiting_requests_only() {
    for phase in PHASES {
        let mut held = PendingLookups::in_phase(phase, "worker_shutdown_timeout 100ms;");
        for pid in held.nginx.reload() {
            held.nginx.wait_gone(pid);
        }
        for pending in std::mem::take(&mut held.pending) {
            assert!(pending.try_wait().is_err(), "{phase:?}");
        }
        held.gate.open();
        held.assert_serves();
    }
}

#[test]
fn a_killed_worker_loses_only_its_own_waiting_requests() {
    for phase in PHASES {
        let mut held = PendingLookups::in_phase(phase, "");
        for pid in held.nginx.workers() {
            held.nginx.kill_worker(pid);
        }
        for pending in std::mem::take(&mut held.pending) {
            assert!(pending.try_wait().is_err(), "{phase:?}");
        }
        held.gate.open();
        held.assert_serves();
    }
}
