//! TLS to the resolver: its identity is verified before any credential is sent.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use support::{
    eventually, get, Backend, Builder, Ca, ClientKind, FakeAuthgear, FakeDns, Fault, Nginx,
    RecordServer, Records, Response, ServerIdentity, Sluice, User, DEADLINE,
};

use crate::project::{project_at, verdict, TELLING};
use crate::site::{identity_of, site};

const NAME: &str = "myapp.test";
const VALID: &str = "valid ok resolver";
const NO_TLS: &str = "error tls_error resolver";

/// An Authgear with this identity, known by `NAME`.
fn authgear_with(identity: ServerIdentity) -> FakeAuthgear {
    FakeAuthgear::builder().origin(&format!("https://{NAME}")).tls(identity).start()
}

/// A project whose resolver is `host` at that port; `dns` knows the names.
fn asking(authgear: &FakeAuthgear, backend: &Backend, host: &str, settings: &str) -> Builder {
    let port = authgear.addr().port();
    let url = format!("https://{host}:{port}/_resolver/resolve");
    site(authgear, backend)
        .http(project_at("p", authgear, &url, settings))
        .server(TELLING)
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
}

/// Makes `dns` resolve every name of these tests to 127.0.0.1.
fn with_dns(builder: Builder, dns: &FakeDns) -> Builder {
    for name in [NAME, "other.test", "a.wild.test"] {
        dns.set(name, &[[127, 0, 0, 1].into()], 60);
    }
    builder.http("resolver %%DNS%% ipv6=off;").var("DNS", dns.addr())
}

fn ask(nginx: &Nginx, authgear: &FakeAuthgear) -> Response {
    get(nginx, "/").bearer(&authgear.opaque_token(&User::named("alice"))).send()
}

const TRUSTED: &str = "ssl_trusted_certificate ca.pem;";

#[test]
fn a_server_with_a_matching_certificate_is_asked_by_its_name() {
    let (ca, backend, dns) = (Ca::new(), Backend::start(), FakeDns::start("127.0.0.1:0"));
    for (name, host, sni) in [
        (NAME, NAME, Some(NAME)),
        ("*.wild.test", "a.wild.test", Some("a.wild.test")),
        // Addresses are not sent as SNI (RFC 6066, section 3).
        ("127.0.0.1", "127.0.0.1", None),
    ] {
        let authgear = authgear_with(ca.leaf(&["first.test", name]));
        let nginx = with_dns(asking(&authgear, &backend, host, TRUSTED), &dns);
        let nginx = nginx.file("ca.pem", ca.pem()).start();
        let answer = ask(&nginx, &authgear);
        assert_eq!(verdict(&answer), VALID, "{host}");
        assert_eq!(answer.echo().identity(), identity_of(&User::named("alice")), "{host}");
        assert_eq!(authgear.sni_seen(), [sni.map(str::to_owned)], "{host}");
        let asked = &authgear.requests()[0];
        assert_eq!(asked.header("host"), Some(NAME), "{host}");
        assert_eq!(asked.header("x-forwarded-proto"), Some("https"), "{host}");
    }
}

#[test]
fn system_roots_are_trusted_by_default() {
    let (ca, backend, dns) = (Ca::new(), Backend::start(), FakeDns::start("127.0.0.1:0"));
    // Configured by URL only: every setting has its default.
    let authgear = authgear_with(ca.leaf(&[NAME]));
    let build = |roots: &Ca| {
        let url = format!("authgear https://{NAME}:{};", authgear.addr().port());
        let nginx = site(&authgear, &backend)
            .server(url + TELLING)
            .server("location / { proxy_pass http://%%BACKEND%%; }");
        let dir = tempfile::tempdir().expect("a directory");
        let roots = roots.pem_path(dir.path());
        let nginx = with_dns(nginx, &dns).env("SSL_CERT_FILE", roots.to_str().expect("a path"));
        (nginx.start(), dir)
    };
    let (nginx, _roots) = build(&ca);
    assert_eq!(verdict(&ask(&nginx, &authgear)), VALID);
    let (nginx, _roots) = build(&Ca::new());
    assert_eq!(verdict(&ask(&nginx, &authgear)), NO_TLS);
    assert_eq!(authgear.hits(), 1);
}

#[test]
fn private_roots_are_trusted_in_addition_to_system_roots() {
    let (system, private, backend) = (Ca::new(), Ca::new(), Backend::start());
    let dir = tempfile::tempdir().expect("a directory");
    let roots = system.pem_path(dir.path());
    for ca in [&system, &private] {
        let authgear = authgear_with(ca.leaf(&["127.0.0.1"]));
        let nginx = asking(&authgear, &backend, "127.0.0.1", TRUSTED)
            .file("ca.pem", private.pem())
            .env("SSL_CERT_FILE", roots.to_str().expect("a path"))
            .start();
        assert_eq!(verdict(&ask(&nginx, &authgear)), VALID);
    }
}

/// Identities that fail verification, and the log's reason for each.
fn impostors(ca: &Ca) -> [(&'static str, ServerIdentity, &'static str); 6] {
    [
        (NAME, ca.leaf(&["other.test"]), "hostname mismatch"),
        (NAME, ca.leaf(&["127.0.0.1"]), "hostname mismatch"),
        ("127.0.0.1", ca.leaf(&[NAME]), "IP address mismatch"),
        (NAME, ca.expired(&[NAME]), "certificate has expired"),
        (NAME, Ca::new().leaf(&[NAME]), "unable to verify the first certificate"),
        (NAME, ServerIdentity::self_signed(&[NAME]), "signed certificate"),
    ]
}

#[test]
fn servers_that_fail_verification_get_no_credentials() {
    let (ca, backend, dns) = (Ca::new(), Backend::start(), FakeDns::start("127.0.0.1:0"));
    for (host, identity, reason) in impostors(&ca) {
        let authgear = authgear_with(identity);
        let nginx = with_dns(asking(&authgear, &backend, host, TRUSTED), &dns);
        let nginx = nginx.file("ca.pem", ca.pem()).start();
        let answer = ask(&nginx, &authgear);
        assert_eq!((answer.status, verdict(&answer)), (503, NO_TLS.to_owned()), "{reason}");
        assert!(answer.header("retry-after").is_some(), "{reason}");
        let line = nginx.wait_for_error_log("authgear resolver failed");
        let reported =
            ["[error]", "tls_error", "certificate verify error", reason, "project: \"p\""];
        assert!(reported.iter().all(|text| line.contains(text)), "{reason}: {line}");
        authgear.wait_for_no_connections();
        assert_eq!(authgear.hits(), 0, "{reason}");
        assert!(!nginx.error_log().contains("[crit]"), "{reason}");
    }
    assert_eq!(backend.hits(), 0);
}

#[test]
fn a_server_is_known_by_its_ssl_name_where_its_address_is_another() {
    let (ca, backend, dns) = (Ca::new(), Backend::start(), FakeDns::start("127.0.0.1:0"));
    for (host, ssl_name, sni) in [
        ("127.0.0.1", NAME, Some(NAME)),
        ("127.0.0.1", "MyApp.Test.", Some(NAME)),
        ("other.test", NAME, Some(NAME)),
        (NAME, "127.0.0.9", None),
    ] {
        let authgear = authgear_with(ca.leaf(&[sni.unwrap_or(ssl_name)]));
        let port = authgear.addr().port();
        let settings =
            format!("{TRUSTED} ssl_name {ssl_name}; jwks_url https://{host}:{port}/oauth2/jwks;");
        let nginx = with_dns(asking(&authgear, &backend, host, &settings), &dns)
            .server("location /jwt { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }")
            .file("ca.pem", ca.pem())
            .workers(1)
            .start();
        let answer = ask(&nginx, &authgear);
        assert_eq!(verdict(&answer), VALID, "{host} {ssl_name}");
        // The name in the certificate is not what Authgear is asked about.
        let asked = authgear.requests();
        assert!(asked.iter().all(|one| one.header("host") == Some(NAME)), "{host} {ssl_name}");
        let token = authgear.jwt(&User::named("alice"));
        let answer = get(&nginx, "/jwt").bearer(&token).send();
        assert_eq!(verdict(&answer), "valid ok jwt", "{host} {ssl_name}");
        let seen = authgear.sni_seen();
        assert!(seen.iter().all(|one| one.as_deref() == sni), "{host} {ssl_name}: {seen:?}");
    }
}

#[test]
fn a_certificate_without_the_ssl_name_is_refused() {
    let (ca, backend, dns) = (Ca::new(), Backend::start(), FakeDns::start("127.0.0.1:0"));
    // The host of the URL, which the certificate has, does not count.
    for (host, ssl_name) in [(NAME, "other.test"), ("127.0.0.1", NAME), (NAME, "127.0.0.1")] {
        let authgear = authgear_with(ca.leaf(&[host]));
        let settings = format!("{TRUSTED} ssl_name {ssl_name};");
        let nginx = with_dns(asking(&authgear, &backend, host, &settings), &dns);
        let nginx = nginx.file("ca.pem", ca.pem()).start();
        let answer = ask(&nginx, &authgear);
        assert_eq!((answer.status, verdict(&answer)), (503, NO_TLS.to_owned()), "{ssl_name}");
        assert_eq!(authgear.hits(), 0, "{ssl_name}");
    }
}

#[test]
fn verification_can_be_turned_off() {
    let (ca, backend, dns) = (Ca::new(), Backend::start(), FakeDns::start("127.0.0.1:0"));
    for (host, identity, reason) in impostors(&ca) {
        let authgear = authgear_with(identity);
        let nginx = with_dns(asking(&authgear, &backend, host, "ssl_verify off;"), &dns).start();
        assert_eq!(verdict(&ask(&nginx, &authgear)), VALID, "{reason}");
        let sni = (host == NAME).then(|| NAME.to_owned());
        assert_eq!(authgear.sni_seen(), [sni], "{reason}");
    }
}

#[test]
fn servers_without_tls_get_no_credentials() {
    let backend = Backend::start();
    let plain = FakeAuthgear::start();
    let nginx = asking(&plain, &backend, "127.0.0.1", "ssl_verify off;").start();
    let answer = ask(&nginx, &plain);
    assert_eq!((answer.status, verdict(&answer)), (503, NO_TLS.to_owned()));
    assert_eq!(plain.hits(), 0);
}

/// Accepts one connection and runs `answer` once the client's first bytes are there.
fn serve_one(answer: fn(TcpStream)) -> (SocketAddr, thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let addr = listener.local_addr().expect("its address");
    let serving = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let _ = stream.read(&mut [0; 4096]);
        answer(stream);
    });
    (addr, serving)
}

#[test]
fn a_broken_handshake_is_an_error_of_the_look_up() {
    // As a server without TLS answers; a handshake message announced and not sent; an alert;
    // nothing; nothing, ever.
    let http: fn(TcpStream) = |mut stream| drop(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n"));
    let hello: fn(TcpStream) = |mut stream| drop(stream.write_all(&[22, 3, 3, 0, 100, 2, 0]));
    let alert: fn(TcpStream) = |mut stream| drop(stream.write_all(&[21, 3, 3, 0, 2, 2, 40]));
    let close: fn(TcpStream) = drop;
    let hang: fn(TcpStream) = |mut stream| drop(stream.read(&mut [0; 1]));
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for (way, answer, reason) in [
        ("http", http, "tls_error, SSL_do_handshake() failed"),
        ("hello", hello, "tls_error, peer closed connection in SSL handshake"),
        ("alert", alert, "tls_error, SSL_do_handshake() failed"),
        ("close", close, "tls_error, peer closed connection in SSL handshake"),
        ("hang", hang, "connect_error, connect timed out"),
    ] {
        let (addr, serving) = serve_one(answer);
        let url = format!("https://{addr}/");
        let nginx = site(&authgear, &backend)
            .http(project_at("p", &authgear, &url, "connect_timeout 200ms; timeout 8s;"))
            .server(TELLING)
            .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
            .start();
        let begin = Instant::now();
        let answer = ask(&nginx, &authgear);
        let took = begin.elapsed();
        assert_eq!(answer.status, 503, "{way}");
        let line = nginx.wait_for_error_log("authgear resolver failed");
        assert!(line.contains(&format!("failed: {reason}")), "{way}: {line}");
        assert!(line.contains(&format!("address: {addr}")), "{way}: {line}");
        assert!(took < Duration::from_secs(4), "{way}: {took:?}");
        // The connection is closed as well, not only abandoned.
        serving.join().expect("the server");
    }
}

#[test]
fn tls_connections_are_reused() {
    let (ca, backend) = (Ca::new(), Backend::start());
    let authgear = authgear_with(ca.leaf(&["127.0.0.1"]));
    // Each worker has connections of its own.
    let nginx = asking(&authgear, &backend, "127.0.0.1", TRUSTED).file("ca.pem", ca.pem());
    let nginx = nginx.workers(1).start();
    for _ in 0..5 {
        assert_eq!(verdict(&ask(&nginx, &authgear)), VALID);
    }
    assert_eq!(authgear.connections_opened(), 1);

    // A connection that the server closed meanwhile is no failure.
    authgear.close_idle_connections();
    assert_eq!(verdict(&ask(&nginx, &authgear)), VALID);
    authgear.close_on_next_reuse();
    assert_eq!(verdict(&ask(&nginx, &authgear)), VALID);
    assert_eq!(authgear.connections_opened(), 3);
    assert!(!nginx.error_log().contains("resolver failed"));
}

#[test]
fn a_new_connection_resumes_the_session_of_the_last_one() {
    let (ca, backend) = (Ca::new(), Backend::start());
    let identity = ca.leaf(&["127.0.0.1"]);
    let authgear = authgear_with(identity.clone());
    // Each look-up has a connection of its own.
    let cold = format!("{TRUSTED} keepalive 0;");
    let nginx = asking(&authgear, &backend, "127.0.0.1", &cold).file("ca.pem", ca.pem());
    let nginx = nginx.workers(1).start();
    let token = authgear.opaque_token(&User::named("alice"));
    let ask = || get(&nginx, "/").bearer(&token).send();
    for _ in 0..3 {
        assert_eq!(verdict(&ask()), VALID);
    }
    assert_eq!(authgear.sessions_resumed(), [false, true, true]);

    // A server that does not know the session makes a full handshake: it was started anew.
    let addr = authgear.addr().to_string();
    authgear.stop();
    let builder = FakeAuthgear::builder().origin(&format!("https://{NAME}"));
    let anew = builder.tls(identity).listen(&addr).start();
    anew.add_opaque_token(&token, &User::named("alice"), ClientKind::FirstParty);
    for _ in 0..3 {
        assert_eq!(verdict(&ask()), VALID);
    }
    assert_eq!(anew.sessions_resumed(), [false, true, true]);

    // A session does not stand in for a certificate.
    anew.stop();
    let impostor = FakeAuthgear::builder().origin(&format!("https://{NAME}"));
    let impostor = impostor.tls(ServerIdentity::self_signed(&["127.0.0.1"])).listen(&addr).start();
    for _ in 0..2 {
        assert_eq!(verdict(&ask()), NO_TLS);
    }
    assert_eq!(impostor.hits(), 0);
    // nginx answers when it has refused the certificate, before the server knows.
    let told = || impostor.sessions_resumed() == [false, false];
    assert!(eventually(DEADLINE, told), "{:?}", impostor.sessions_resumed());
}

#[test]
fn connections_made_at_once_resume_a_session_each() {
    let (ca, backend) = (Ca::new(), Backend::start());
    let authgear = authgear_with(ca.leaf(&["127.0.0.1"]));
    // After the handshake nothing of the server arrives, no new session either.
    let sluice = Sluice::after_handshake(authgear.addr());
    let url = format!("https://{}/_resolver/resolve", sluice.addr());
    let nginx = site(&authgear, &backend)
        .http(project_at("p", &authgear, &url, &format!("{TRUSTED} keepalive 0;")))
        .server(TELLING)
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
        .file("ca.pem", ca.pem())
        .workers(1)
        .start();
    assert_eq!(verdict(&ask(&nginx, &authgear)), VALID);
    let held: Vec<_> = (1..=2)
        .map(|count| {
            let token = authgear.opaque_token(&User::named("alice"));
            let held = get(&nginx, "/").bearer(&token).start();
            // The server sends something after the handshake: a new session.
            sluice.gate().wait_for_waiters(count);
            held
        })
        .collect();
    let told = || authgear.sessions_resumed() == [false, true, true];
    assert!(eventually(DEADLINE, told), "{:?}", authgear.sessions_resumed());
    sluice.gate().open();
    for held in held {
        assert_eq!(verdict(&held.wait()), VALID);
    }
}

#[test]
fn projects_share_no_tls_sessions() {
    let (ca, backend) = (Ca::new(), Backend::start());
    let authgear = authgear_with(ca.leaf(&["127.0.0.1"]));
    let url = format!("https://{}/_resolver/resolve", authgear.addr());
    let nginx = site(&authgear, &backend)
        .http(project_at("strict", &authgear, &url, &format!("{TRUSTED} keepalive 0;")))
        .http(project_at("lax", &authgear, &url, "ssl_verify off; keepalive 0;"))
        .server(TELLING)
        .server(
            "location /strict { authgear strict; proxy_pass http://%%BACKEND%%; }
             location /lax { authgear lax; proxy_pass http://%%BACKEND%%; }",
        )
        .file("ca.pem", ca.pem())
        .workers(1)
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    for path in ["/lax", "/strict", "/lax", "/strict"] {
        assert_eq!(verdict(&get(&nginx, path).bearer(&token).send()), VALID, "{path}");
    }
    assert_eq!(authgear.sessions_resumed(), [false, false, true, true]);
}

#[test]
fn truncated_tls_answers_are_errors() {
    let (ca, backend) = (Ca::new(), Backend::start());
    let authgear = authgear_with(ca.leaf(&["127.0.0.1"]));
    let nginx = asking(&authgear, &backend, "127.0.0.1", "ssl_verify off; max_fails 0;").start();
    // Longer than a record of TLS, which is 16k at most.
    let long = vec![b'x'; 50_000];
    let closed = "error connection_closed resolver";
    for (fault, expected) in [
        (Fault::LengthBody(long.clone()), VALID),
        (Fault::Chunked(long.clone()), VALID),
        (Fault::CloseDelimited(long), VALID),
        (Fault::CloseAtOnce, closed),
        (Fault::CloseAfter(20), closed),
        (Fault::Reset, closed),
    ] {
        authgear.inject(fault.clone());
        assert_eq!(verdict(&ask(&nginx, &authgear)), expected, "{fault:.20?}");
    }
}

/// An answer of the resolver with a body of this many bytes.
fn answer(body: usize) -> (Vec<u8>, Vec<u8>) {
    let head = format!(
        "HTTP/1.1 200 OK\r\nX-Authgear-Session-Valid: true\r\nX-Authgear-User-Id: alice\r\n\
         Content-Length: {body}\r\n\r\n"
    );
    (head.into_bytes(), vec![b'x'; body])
}

#[test]
fn an_answer_may_come_in_any_records() {
    let (ca, authgear, backend) = (Ca::new(), FakeAuthgear::start(), Backend::start());
    let kept = |writes: Vec<Vec<Vec<u8>>>| (Records { writes, ends: false }, true);
    let (head, body) = answer(5);
    let halves = |bytes: &[u8]| [bytes[..3].to_vec(), bytes[3..].to_vec()];
    let mut cases = vec![
        kept(vec![vec![answer(0).0]]),
        kept(vec![vec![head.clone(), body.clone()]]),
        kept(vec![vec![head.clone()], vec![body.clone()]]),
        kept(vec![halves(&head).to_vec(), halves(&body).to_vec()]),
        kept(vec![head.iter().map(|&byte| vec![byte]).collect(), vec![body.clone()]]),
        // The connection has ended when the answer is read.
        (Records { writes: vec![vec![answer(0).0]], ends: true }, false),
        (Records { writes: vec![vec![head.clone(), body.clone()]], ends: true }, false),
        (Records { writes: vec![vec![head], vec![body]], ends: true }, false),
    ];
    // Around the limits of a record, of libssl's buffer, and of the client's.
    for size in [4096, 8191, 8192, 8193, 16_383, 16_384, 16_385, 16_700, 33_000, 66_000] {
        let (head, body) = answer(size);
        let all: Vec<u8> = [head.clone(), body.clone()].concat();
        cases.push(kept(vec![vec![all]]));
        cases.push(kept(vec![vec![head.clone()], vec![body.clone()]]));
        cases.push(kept(vec![body.chunks(1000).fold(vec![head], |mut records, chunk| {
            records.push(chunk.to_vec());
            records
        })]));
    }
    for is_old in [false, true] {
        let answers = cases.iter().map(|(records, _)| records.clone()).collect();
        let server = RecordServer::start(&ca.leaf(&["127.0.0.1"]), is_old, answers);
        let url = format!("https://{}/_resolver/resolve", server.addr());
        let settings = format!("{TRUSTED} max_response_size 1m;");
        let nginx = site(&authgear, &backend)
            .http(project_at("p", &authgear, &url, &settings))
            .server(TELLING)
            .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
            .file("ca.pem", ca.pem())
            .workers(1)
            .start();
        let mut expected = 1;
        for (n, (_, is_kept)) in cases.iter().enumerate() {
            assert_eq!(verdict(&ask(&nginx, &authgear)), VALID, "case {n}, TLS 1.2: {is_old}");
            assert_eq!(server.connections_opened(), expected, "case {n}, TLS 1.2: {is_old}");
            expected += usize::from(!is_kept);
        }
    }
}
