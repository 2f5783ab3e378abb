//! HTTP/3 clients are treated like others, although they have no TCP connection and no Host header.

use std::fs;
use std::sync::Once;

use support::{
    eventually, get, sha256, Backend, Builder, Ca, FakeAuthgear, Fault, Gate, Nginx, Request,
    Response, User, DEADLINE, H3,
};

use crate::project::{project, verdict, TELLING};
use crate::site::{assert_nothing_forged, identity_of, report_skipped, site, Pairs, FORGED};

/// Whether this nginx supports HTTP/3. If not, prints that these tests are skipped.
fn has_http3() -> bool {
    static REPORTED: Once = Once::new();
    let has = Nginx::has("http_v3_module");
    if !has {
        report_skipped(&REPORTED, "HTTP/3, which this nginx was built without");
    }
    has
}

struct Site {
    authgear: FakeAuthgear,
    backend: Backend,
    ca: Ca,
    nginx: Nginx,
}

impl Site {
    /// One worker: without BPF, others would get packets of its connections.
    fn start(build: impl FnOnce(Builder, &FakeAuthgear) -> Builder) -> Self {
        let (authgear, backend, ca) = (FakeAuthgear::start(), Backend::start(), Ca::new());
        let identity = ca.leaf(&["site.test"]);
        let builder = site(&authgear, &backend)
            .workers(1)
            .listen_quic()
            .file("cert.pem", identity.cert_pem)
            .file("key.pem", identity.key_pem)
            .server(
                "listen %%QUIC%% quic;
                 ssl_certificate cert.pem;
                 ssl_certificate_key key.pem;",
            )
            .server(TELLING);
        let nginx = build(builder, &authgear).start();
        Self { authgear, backend, ca, nginx }
    }

    /// Starts nginx with every location protected.
    fn protected() -> Self {
        Self::start(|builder, _| {
            builder.server("authgear %%AUTHGEAR%%; location / { proxy_pass http://%%BACKEND%%; }")
        })
    }

    fn get(&self, target: &str) -> Request {
        get(&self.nginx.quic_addr(), target).tls(&self.ca, "site.test").header("Host", "site.test")
    }

    fn of_user(&self, n: usize) -> (Request, Pairs) {
        let user = User::named(&format!("user-{n}"));
        (self.get("/").bearer(&self.authgear.opaque_token(&user)), identity_of(&user))
    }
}

#[track_caller]
fn assert_identity(answer: &Response, identity: &Pairs) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.echo().identity(), *identity);
}

#[test]
fn the_backend_gets_the_identity_from_nginx_only() {
    if !has_http3() {
        return;
    }
    let site = Site::protected();
    let alice = User::named("alice").roles(&["admin"]);
    let (token, session) = (site.authgear.opaque_token(&alice), site.authgear.session(&alice));
    let forged = ["x-authgear-user-id", "x-authgear-session-valid", "x.authgear.user.roles"]
        .into_iter()
        .fold(site.get("/path?a=b"), |request, name| request.header(name, FORGED));
    for (request, identity) in [
        (forged.clone().bearer(&token), identity_of(&alice)),
        // Clients may send each cookie as a header of its own (RFC 9114, section 4.2.1).
        (forged.clone().cookie("a", "b").cookie("session", &session), identity_of(&alice)),
        (forged.clone().bearer("dead"), Pairs::new()),
        (forged, Pairs::new()),
    ] {
        let answer = request.send_h3();
        assert_identity(&answer, &identity);
        assert_nothing_forged(&answer.echo(), "over HTTP/3");
        assert_eq!(answer.echo().target, "/path?a=b");
    }
    let asked = site.authgear.requests();
    assert_eq!(asked.len(), 3);
    assert_eq!(asked[0].header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(asked[1].header("cookie"), Some(format!("session={session}").as_str()));
}

#[test]
fn clients_without_a_session_are_denied_or_redirected_to_log_in() {
    if !has_http3() {
        return;
    }
    let site = Site::start(|builder, _| {
        builder.server(
            "authgear %%AUTHGEAR%%;
             authgear_require session;
             authgear_login_redirect https://login.test/?to=$authgear_return_to;
             location / { proxy_pass http://%%BACKEND%%; }
             location /admin { authgear_require role=admin; proxy_pass http://%%BACKEND%%; }
             location /login { authgear_login_redirect https://site.test/login; return 200; }",
        )
    });
    let problem = site.get("/").header("Accept", "application/json").send_h3();
    assert_eq!(
        (problem.status, problem.header("www-authenticate").as_deref()),
        (401, Some("Bearer"))
    );
    assert_eq!(problem.json()["reason"], "no_credentials");
    let token = site.authgear.opaque_token(&User::named("alice"));
    assert_eq!(site.get("/admin").bearer(&token).send_h3().status, 403);

    let navigating = |path: &str, host: &str| {
        let request = get(&site.nginx.quic_addr(), path).tls(&site.ca, "site.test");
        request.header("Host", host).header("Accept", "text/html").send_h3()
    };
    let port = site.nginx.quic_addr().port();
    for (host, encoded) in [
        ("site.test", format!("site%2Etest%3A{port}")),
        (&format!("site.test:{port}"), format!("site%2Etest%3A{port}")),
    ] {
        let answer = navigating("//evil.test/a?b=c", host);
        let to =
            format!("https://login.test/?to=https%3A%2F%2F{encoded}%2F%2Fevil%2Etest%2Fa%3Fb%3Dc");
        assert_eq!((answer.status, answer.all("location")), (302, vec![to]), "{host}");
    }
    assert_eq!(site.backend.hits(), 0);
}

#[test]
fn tokens_are_verified_and_verdicts_are_cached() {
    if !has_http3() {
        return;
    }
    let site = Site::start(|builder, authgear| {
        builder.http("authgear_cache_zone z:1m;").http(project("p", authgear, "")).server(
            "authgear p;
                 location / { authgear_cache z; proxy_pass http://%%BACKEND%%; }
                 location /jwt { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }",
        )
    });
    let alice = User::named("alice");
    let (opaque, jwt) = (site.authgear.opaque_token(&alice), site.authgear.jwt(&alice));
    let kept = H3::open_for(&site.get("/"));
    for (path, token, expected) in [
        ("/", &opaque, "valid ok resolver"),
        ("/", &opaque, "valid ok cache"),
        ("/jwt", &jwt, "valid ok jwt"),
        ("/jwt", &jwt, "valid ok jwt"),
    ] {
        let answer = kept.send(&site.get(path).bearer(token));
        assert_eq!(verdict(&answer), expected);
        assert_identity(&answer, &identity_of(&alice));
    }
    assert_eq!(verdict(&kept.send(&site.get("/jwt").bearer(&opaque))), "none token_malformed jwt");
    assert_eq!(site.authgear.hits(), 1);
}

#[test]
fn bodies_that_arrive_during_the_look_up_reach_the_backend_whole() {
    if !has_http3() {
        return;
    }
    let site = Site::start(|builder, _| {
        builder.http("client_max_body_size 10m;").server(
            "authgear %%AUTHGEAR%%;
             location / { proxy_pass http://%%BACKEND%%; }
             location /unbuffered {
               proxy_request_buffering off; proxy_http_version 1.1;
               proxy_pass http://%%BACKEND%%;
             }",
        )
    });
    let (alice, kept) = (User::named("alice"), H3::open_for(&site.get("/")));
    let token = site.authgear.opaque_token(&alice);
    for path in ["/", "/unbuffered"] {
        for len in [0, 1, 1000, 100_000, 1 << 20] {
            for held_back in [false, true] {
                let gate = Gate::new();
                if held_back {
                    site.authgear.inject_next(1, Fault::Gate(gate.clone()));
                }
                let body: Vec<u8> = (0..len).map(|n| (n ^ n >> 8 ^ n >> 16) as u8).collect();
                let post = site.get(path).method("POST").bearer(&token).body(body.clone());
                let pending = kept.start(&post);
                if held_back {
                    gate.wait_for_waiters(1);
                    gate.open();
                }
                let answer = pending.wait();
                assert_identity(&answer, &identity_of(&alice));
                let echo = answer.echo();
                let (got, sent) = ((echo.body_len, echo.body_sha256), (len, sha256(&body)));
                assert_eq!(got, sent, "{len} bytes to {path}, held back: {held_back}");
            }
        }
    }
}

#[test]
fn streams_of_one_connection_carry_their_own_identities() {
    const STREAMS: usize = 100;
    if !has_http3() {
        return;
    }
    let (site, gate) = (Site::protected(), Gate::new());
    site.authgear.inject(Fault::Gate(gate.clone()));
    let connection = H3::open_for(&site.get("/"));
    let begun: Vec<_> = (0..STREAMS)
        .map(|n| {
            let (request, identity) = site.of_user(n);
            (connection.start(&request), identity)
        })
        .collect();
    // As many simultaneous look-ups as connections by default.
    gate.wait_for_waiters(64);
    gate.open();
    for (pending, identity) in begun {
        assert_identity(&pending.wait(), &identity);
    }
    assert_eq!(site.authgear.hits(), STREAMS);
}

#[test]
fn clients_that_disconnect_disturb_no_other_request_and_leak_nothing() {
    const CLIENTS: usize = 20;
    if !has_http3() {
        return;
    }
    let gate = Gate::new();
    let site = Site::start(|builder, authgear| {
        builder
            .log_format("$status")
            .http(project("p", authgear, "keepalive 0; max_connections 1000; timeout 1h;"))
            .server("location / { authgear p; proxy_pass http://%%BACKEND%%; }")
    });
    let worker = site.nginx.workers()[0];
    let open_files = || fs::read_dir(format!("/proc/{worker}/fd")).expect("a worker").count();
    let (request, identity) = site.of_user(0);
    assert_identity(&request.send_h3(), &identity);
    site.authgear.wait_for_no_connections();
    let before = open_files();

    site.authgear.inject(Fault::Gate(gate.clone()));
    let leaving: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let (request, _) = site.of_user(n);
            match n % 3 {
                0 => request.start_h3(),
                1 => request.method("POST").body("whole").start_h3(),
                _ => H3::open_for(&request).start_unfinished(&request.method("POST").body("part")),
            }
        })
        .collect();
    gate.wait_for_waiters(CLIENTS);
    drop(leaving);
    let logged = site.nginx.wait_for_access_lines(1 + CLIENTS);
    // nginx logs this status for requests whose QUIC connection is closed.
    assert!(logged[1..].iter().all(|status| status == "000"), "{logged:?}");
    assert_eq!(gate.waiting(), CLIENTS);

    gate.open();
    site.authgear.wait_for_no_connections();
    assert!(eventually(DEADLINE, || open_files() <= before), "{} of {before}", open_files());
    assert_identity(&request.send_h3(), &identity);
    assert_eq!((site.backend.hits(), site.nginx.workers()), (2, vec![worker]));
}

#[test]
fn a_reset_stream_does_not_disturb_the_other_streams() {
    if !has_http3() {
        return;
    }
    let (site, gate) = (Site::protected(), Gate::new());
    site.authgear.inject(Fault::Gate(gate.clone()));
    let connection = H3::open_for(&site.get("/"));
    let (one, identity) = site.of_user(1);
    let staying = connection.start(&one);
    let (other, _) = site.of_user(2);
    let unfinished = connection.start_unfinished(&other.method("POST").body("part"));
    let finished = connection.start(&site.of_user(3).0);
    gate.wait_for_waiters(3);
    drop((unfinished, finished));
    // nginx may notice only with the answer that a client with a complete request is gone.
    let log = || site.nginx.access_log();
    let is_told = |line: &str| line.contains("\"POST ") && line.ends_with("499 0");
    assert!(eventually(DEADLINE, || log().lines().any(is_told)), "{}", log());
    gate.open();
    assert_identity(&staying.wait(), &identity);
    assert_identity(&connection.send(&one), &identity);
    assert!(site.backend.requests().iter().all(|request| request.method == "GET"));
}

#[test]
fn a_reload_loses_no_pending_request() {
    if !has_http3() {
        return;
    }
    let gate = Gate::new();
    let site = Site::start(|builder, _| {
        // The new worker may get the packets that close a connection of the old one, which then
        // waits for its timeout, with or without modules.
        builder.server(
            "keepalive_timeout 4s;
             location / { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }",
        )
    });
    site.authgear.inject(Fault::Gate(gate.clone()));
    let begun: Vec<_> = (0..5)
        .map(|n| {
            let (request, identity) = site.of_user(n);
            (request.start_h3(), identity)
        })
        .collect();
    gate.wait_for_waiters(5);
    let old = site.nginx.reload();
    assert_eq!(site.backend.hits(), 0);
    gate.open();
    for (pending, identity) in begun {
        assert_identity(&pending.wait(), &identity);
    }
    old.into_iter().for_each(|pid| site.nginx.wait_gone(pid));
    let (request, identity) = site.of_user(0);
    assert_identity(&request.send_h3(), &identity);
}
