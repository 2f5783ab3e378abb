//! Tests of the test support.

mod authgear;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use support::{
    get, sha256, Backend, Builder, Ca, Connection, FakeDns, Nginx, Redis, RedisReply, RefusedAddr,
    SilentAddr, WebSocket, H2,
};

/// Plain nginx with this in its server.
fn plain(server: &str) -> Builder {
    Nginx::builder().without_module().server(server)
}

fn proxy_to(backend: &Backend) -> Builder {
    plain("location / { proxy_pass %%BACKEND%%; }").var("BACKEND", backend.url())
}

#[test]
fn nginx_serves_tls_with_our_certificates() {
    let ca = Ca::new();
    let identity = ca.leaf(&["www.test"]);
    let nginx = plain("ssl_certificate cert.pem; ssl_certificate_key key.pem; return 200 secret;")
        .listen_options("ssl")
        .file("cert.pem", identity.cert_pem)
        .file("key.pem", identity.key_pem)
        .start();
    assert_eq!(get(&nginx, "/").tls(&ca, "www.test").send().text(), "secret");
}

#[test]
fn nginx_hands_requests_to_the_backend_and_reloads() {
    let backend = Backend::start();
    let nginx = proxy_to(&backend).start();
    let sent = get(&nginx, "/a?b=c").method("POST").header("X-odd-CASE", b"\xff").body("hello");
    let echo = sent.send().echo();
    assert_eq!((echo.method.as_str(), echo.target.as_str()), ("POST", "/a?b=c"));
    assert_eq!(echo.all("x-odd-case"), ["\u{ff}"]);
    assert!(echo.headers.iter().any(|(name, _)| name == "X-odd-CASE"));
    assert_eq!((echo.body_len, echo.body_sha256.as_str()), (5, sha256(b"hello").as_str()));
    assert_eq!(backend.requests(), [echo]);
    assert!(nginx.wait_for_access_lines(1)[0].contains("POST /a?b=c"));

    nginx.edit_conf(|conf| conf.replace("location / {", "location / { add_header X-New 1;"));
    let old = nginx.reload();
    assert_eq!(old.len(), 2);
    assert!(old.iter().all(|pid| !nginx.workers().contains(pid)));
    assert_eq!(get(&nginx, "/").send().header("x-new").as_deref(), Some("1"));
    old.into_iter().for_each(|pid| nginx.wait_gone(pid));

    let killed = nginx.workers()[0];
    nginx.kill_worker(killed);
    assert!(!nginx.workers().contains(&killed));
    assert_eq!(get(&nginx, "/").send().status, 200);
    nginx.stop();
    assert!(std::net::TcpStream::connect(nginx.addr()).is_err());
}

#[test]
fn nginx_has_all_requested_sockets() {
    let nginx = plain("return 200 one;")
        .http("server { listen %%ADDR2%%; return 200 two; }")
        .http("server { listen %%ADDR3%%; return 200 $remote_addr; }")
        .listen_extra(1)
        .listen_extra_on("::1")
        .start();
    assert_eq!(get(&nginx, "/").send().text(), "one");
    assert_eq!(get(&nginx.addr2(), "/").send().text(), "two");
    assert_eq!(get(&nginx.addr_n(3), "/").send().text(), "::1");
    assert!(nginx.error_log().contains("using inherited sockets"));
}

#[test]
fn nginx_tests_configurations() {
    let good = plain("return 204;").check();
    assert!(good.ok && good.output.contains("syntax is ok"), "{}", good.output);
    let bad = plain("nonsense;").check();
    assert!(!bad.ok && bad.output.contains("unknown directive \"nonsense\""), "{}", bad.output);
}

#[test]
fn log_lines_of_trouble_fail_the_test_unless_allowed() {
    let log_alert = |nginx: &Nginx| {
        let log = std::fs::OpenOptions::new().append(true).open(nginx.dir().join("logs/error.log"));
        std::io::Write::write_all(&mut log.expect("the log"), b"[alert] made up\n")
            .expect("a line");
    };
    let nginx = plain("return 204;").start();
    log_alert(&nginx);
    let failed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| nginx.stop()));
    assert!(failed.is_err());
    nginx.allow_log("made up");
    nginx.stop();
}

#[test]
fn nginx_sees_its_own_files_and_environment() {
    let nginx = plain("location / { proxy_pass http://only-here.test:%%PORT2%%; }")
        .http("server { listen %%ADDR2%%; return 200 $time_iso8601; }")
        .listen_extra(1)
        .file("hosts", "127.0.0.1 only-here.test\n")
        .mount("/etc/hosts", "hosts")
        .env("TZ", "<+07>-7")
        .start();
    let time = get(&nginx, "/").send().text();
    assert!(time.ends_with("+07:00"), "{time}");
    nginx.reload();
    assert_eq!(get(&nginx, "/").send().status, 200);
}

#[test]
fn every_backend_answers_through_nginx() {
    let check = |backend: &Backend, location: &str| {
        let nginx = plain(location).var("BACKEND", backend.addr()).start();
        let body = vec![b'x'; 100_000];
        let request = get(&nginx, "/p?q").method("POST").header("X-Authgear-User-Id", "me");
        for _ in 0..2 {
            let echo = request.clone().body(body.clone()).send().echo();
            assert_eq!((echo.method.as_str(), echo.target.as_str()), ("POST", "/p?q"));
            assert_eq!(echo.body_sha256, sha256(&body));
            assert_eq!(echo.identity(), [("x-authgear-user-id".to_owned(), "me".to_owned())]);
        }
        assert_eq!(backend.hits(), 2);
    };
    check(&Backend::start(), "location / { proxy_pass http://%%BACKEND%%; }");
    let fastcgi = "fastcgi_pass %%BACKEND%%; include /etc/nginx/fastcgi_params;";
    check(&Backend::fastcgi(), &format!("location / {{ {fastcgi} }}"));
    check(&Backend::fastcgi(), &format!("location / {{ {fastcgi} fastcgi_keep_conn on; }}"));
    let uwsgi = "location / { uwsgi_pass %%BACKEND%%; include /etc/nginx/uwsgi_params; }";
    check(&Backend::uwsgi(), uwsgi);
    let scgi = "location / { scgi_pass %%BACKEND%%; include /etc/nginx/scgi_params; }";
    check(&Backend::scgi(), scgi);
}

#[test]
fn grpc_and_http2_go_through_nginx() {
    let backend = Backend::grpc();
    let nginx = plain("location / { grpc_pass %%BACKEND%%; }")
        .listen_options("http2")
        .var("BACKEND", backend.addr())
        .start();
    let call = get(&nginx, "/pkg.Service/Method")
        .method("POST")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-authgear-user-id", "me")
        .body(*b"\0\0\0\0\x02hi");
    let connection = H2::open(&nginx);
    let (one, two) = (connection.start(&call), connection.start(&call));
    for answer in [one.wait(), two.wait()] {
        assert_eq!(answer.header("content-type").as_deref(), Some("application/grpc"));
        assert_eq!(answer.trailer("grpc-status").as_deref(), Some("0"));
        let echo = answer.echo();
        assert_eq!((echo.target.as_str(), echo.body_len), ("/pkg.Service/Method", 7));
        assert_eq!(echo.header("x-authgear-user-id"), Some("me"));
    }
    assert_eq!(call.send_h2().status, 200);
    assert_eq!(backend.hits(), 3);
}

#[test]
fn websockets_go_through_nginx() {
    let backend = Backend::start();
    let upgrade = "proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
                   proxy_set_header Connection upgrade;";
    let location = format!(
        "location /ws {{ proxy_pass %%BACKEND%%; {upgrade} }} location / {{ return 401 no; }}"
    );
    let nginx = plain(&location).var("BACKEND", backend.url()).start();
    let mut socket = WebSocket::open(&get(&nginx, "/ws")).expect("an upgrade");
    socket.send("hello");
    assert_eq!(socket.receive(), "hello");
    socket.close();
    let refused = WebSocket::open(&get(&nginx, "/")).expect_err("no upgrade");
    assert_eq!((refused.status, refused.text().as_str()), (401, "no"));
}

#[test]
fn requests_are_sent_as_written() {
    let backend = Backend::start();
    let nginx = proxy_to(&backend).start();
    let raw = get(&nginx, "/").raw("GET /raw HTTP/1.0\r\nhOsT:  a.test\r\n\r\n").send();
    assert_eq!(raw.echo().target, "/raw");
    let source = plain("return 200 $remote_addr;").start();
    assert_eq!(get(&source, "/").from_addr("127.0.0.2").send().text(), "127.0.0.2");

    let mut kept = Connection::open(&nginx);
    for n in 1..=3 {
        let echo = kept.send(&get(&nginx, &format!("/{n}"))).echo();
        assert_eq!(echo.target, format!("/{n}"));
    }
    get(&nginx, "/left").send_and_leave();
}

#[test]
fn dns_answers_as_configured() {
    let dns = FakeDns::start("127.0.0.1:0");
    let backend = Backend::start();
    let nginx = plain("location / { proxy_pass http://$arg_host:%%PORT2%%; }")
        .http("resolver %%DNS%% ipv6=off valid=1s; resolver_timeout 1s;")
        .http("server { listen %%ADDR2%%; location / { proxy_pass %%BACKEND%%; } }")
        .listen_extra(1)
        .var("DNS", dns.addr())
        .var("BACKEND", backend.url())
        .start();
    let local: IpAddr = [127, 0, 0, 1].into();
    dns.set("here.test", &[local], 60);
    dns.nxdomain("gone.test");
    dns.servfail("broken.test");
    dns.swallow("silent.test");
    let status = |host: &str| get(&nginx, &format!("/?host={host}")).send().status;
    assert_eq!(status("here.test"), 200);
    assert_eq!(dns.queries_for("here.test"), 1);
    for host in ["gone.test", "broken.test", "silent.test", "never-heard-of.test"] {
        assert_eq!(status(host), 502, "{host}");
    }
    dns.wait_for_queries(5);
}

#[test]
fn refused_addresses_refuse_and_silent_ones_time_out() {
    let timeout = Duration::from_millis(100);
    let connect = |addr: SocketAddr| {
        let error = std::net::TcpStream::connect_timeout(&addr, timeout).expect_err("a connection");
        error.kind()
    };
    assert_eq!(connect(RefusedAddr::bind().addr()), std::io::ErrorKind::ConnectionRefused);
    let silent = SilentAddr::bind();
    assert_eq!(connect(silent.addr()), std::io::ErrorKind::TimedOut);
    assert_eq!(connect(silent.addr()), std::io::ErrorKind::TimedOut);
}

#[test]
fn a_redis_keeps_its_port_and_forgets_its_data_over_a_restart() {
    let redis = Redis::start();
    assert_eq!(redis.command(&["SET", "k", "value of k"]), RedisReply::Text("OK".into()));
    let dump = redis.dump();
    assert!(dump.windows(10).any(|bytes| bytes == b"value of k"), "{dump:?}");
    redis.restart();
    assert_eq!(redis.command(&["GET", "k"]), RedisReply::Nil);
    redis.kill();
    assert!(std::net::TcpStream::connect(redis.addr()).is_err());
    redis.restart();
    let list = [RedisReply::Bytes(b"1".to_vec()), RedisReply::Number(2)];
    let script = "return {redis.call('ECHO', '1'), 2}";
    assert_eq!(redis.command(&["EVAL", script, "0"]), RedisReply::List(list.to_vec()));
}
