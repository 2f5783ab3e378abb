//! Ways to run nginx: the verified identity is passed in each.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use support::{
    eventually, get, Backend, Builder, FakeAuthgear, Fault, Gate, Nginx, Recorded, User, DEADLINE,
};

use crate::project::{project_site, verdict};
use crate::site::{identity_of, own_ip};

/// A configuration with a cache, token verification and the resolver.
fn serving(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    project_site(authgear, backend, "").http("authgear_cache_zone z:1m;").server(
        "authgear p; authgear_cache z;
             location / { proxy_pass http://%%BACKEND%%; }
             location /jwt { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }",
    )
}

#[track_caller]
fn assert_serves(nginx: &Nginx, authgear: &FakeAuthgear) {
    let alice = User::named("alice").roles(&["admin"]);
    let token = authgear.opaque_token(&alice);
    for expected in ["valid ok resolver", "valid ok cache"] {
        let answer = get(nginx, "/").bearer(&token).send();
        assert_eq!(verdict(&answer), expected);
        assert_eq!(answer.echo().identity(), identity_of(&alice));
    }
    let answer = get(nginx, "/jwt").bearer(&authgear.jwt(&alice)).send();
    assert_eq!(verdict(&answer), "valid ok jwt");
    assert_eq!(answer.echo().identity(), identity_of(&alice));
}

/// A client's request, byte for byte.
fn bytes(path: &str, token: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    )
}

/// Sends that over nginx's Unix socket of this name. The answer is read later.
fn over_unix(nginx: &Nginx, name: &str, path: &str, token: &str) -> UnixStream {
    let (mut socket, path_of) = (None, nginx.dir().join(name));
    let connected = eventually(DEADLINE, || {
        socket = UnixStream::connect(&path_of).ok();
        socket.is_some()
    });
    assert!(connected, "{}", nginx.error_log());
    let mut socket = socket.expect("a socket");
    socket.set_read_timeout(Some(DEADLINE)).expect("a deadline");
    socket.write_all(bytes(path, token).as_bytes()).expect("a request");
    socket
}

#[track_caller]
fn assert_tells(mut answer: UnixStream, verdict: &str, user: &str) {
    let mut text = String::new();
    answer.read_to_string(&mut text).expect("an answer");
    assert!(text.contains(&format!("X-Verdict: {verdict}\r\n")), "{text}");
    assert!(text.contains(&format!("\"x-authgear-user-id\",\"{user}\"")), "{text}");
}

/// The look-up that Authgear got, among requests for its keys.
fn asked(authgear: &FakeAuthgear) -> Recorded {
    let mut requests = authgear.requests().into_iter();
    requests.find(|request| request.target.contains("resolve")).expect("a look-up")
}

#[test]
fn the_module_works_with_master_process_off() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = serving(&authgear, &backend)
        // No worker to wait for. Besides, nginx 1.22 as a single process crashes, with or without
        // modules, on inherited sockets.
        .workers(0)
        .raw_conf(|conf| {
            let (before, rest) = conf.split_once("listen 127").expect("listen");
            let (_, after) = rest.split_once(';').expect("an address");
            let dir = conf.split_once("pid ").and_then(|(_, rest)| rest.split_once("/nginx.pid"));
            let (dir, _) = dir.expect("a directory");
            format!("{before}listen unix:{dir}/one.sock;{after}")
                .replace("master_process on;", "master_process off;")
                .replace("worker_processes 0;", "worker_processes 1;")
        })
        .start();
    let alice = User::named("alice");
    let token = authgear.opaque_token(&alice);
    let ask = |path: &str, token: &str| over_unix(&nginx, "one.sock", path, token);
    assert_tells(ask("/", &token), "valid ok resolver", "alice");
    assert_tells(ask("/", &token), "valid ok cache", "alice");
    assert_tells(ask("/jwt", &authgear.jwt(&alice)), "valid ok jwt", "alice");
    // Joining and disconnecting work as usual.
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let bob = authgear.opaque_token(&User::named("bob"));
    let waiting: Vec<_> = (0..5).map(|_| ask("/", &bob)).collect();
    gate.wait_for_waiters(1);
    drop(ask("/", &bob));
    // When a later request is answered, all of them are waiting.
    assert_tells(ask("/jwt", &authgear.jwt(&alice)), "valid ok jwt", "alice");
    gate.open();
    for answer in waiting {
        assert_tells(answer, "valid ok resolver", "bob");
    }
    assert_eq!(authgear.hits(), 2);
}

#[test]
fn the_module_works_in_a_daemon() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = serving(&authgear, &backend).daemon(own_ip(200)).start();
    assert_serves(&nginx, &authgear);
    for pid in nginx.reload() {
        nginx.wait_gone(pid);
    }
    assert_serves(&nginx, &authgear);
    nginx.stop();
    assert!(nginx.exited());
    authgear.wait_for_no_connections();
}

#[test]
fn the_module_works_with_worker_processes_auto() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let processors = std::thread::available_parallelism().expect("processors").get();
    let nginx = serving(&authgear, &backend)
        .workers(processors)
        .raw_conf(|conf| {
            let (before, rest) = conf.split_once("worker_processes ").expect("workers");
            let (_, after) = rest.split_once(';').expect("a number");
            format!("{before}worker_processes auto;{after}")
        })
        .start();
    assert_serves(&nginx, &authgear);
}

#[test]
fn the_module_works_behind_a_unix_socket() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = serving(&authgear, &backend).server("listen unix:%%DIR%%/listening.sock;").start();
    let token = authgear.opaque_token(&User::named("alice"));
    assert_tells(over_unix(&nginx, "listening.sock", "/", &token), "valid ok resolver", "alice");
    // Clients of a Unix socket have no address to pass on.
    assert_eq!(asked(&authgear).header("x-forwarded-for"), None);
}

#[test]
fn the_module_works_behind_the_proxy_protocol() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = serving(&authgear, &backend)
        .listen_options("proxy_protocol")
        .server("set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;")
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let proxied = |line: &str| {
        let raw = format!("{line}\r\n{}", bytes("/", &token));
        get(&nginx, "/").raw(raw).send()
    };
    let answer = proxied("PROXY TCP4 192.0.2.9 127.0.0.1 4711 80");
    assert_eq!(verdict(&answer), "valid ok resolver");
    assert_eq!(asked(&authgear).header("x-forwarded-for"), Some("192.0.2.9"));
}

/// Uses response filters together with the module.
#[test]
fn the_module_works_with_response_filters() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = serving(&authgear, &backend)
        .server(
            "gzip on; gzip_min_length 1; gzip_types *; gzip_http_version 1.0; gzip_proxied any;
             sub_filter_types *; sub_filter role_missing ROLE_MISSING; sub_filter_once off;
             location /must { authgear_require role=nobody; proxy_pass http://%%BACKEND%%; }
             location /page { ssi on; root %%DIR%%/html; authgear_require session;
               add_before_body /before; }
             location = /before { return 200 before; }",
        )
        .file(
            "html/page/index.html",
            "<!--# echo var=\"x_authgear_user_id\" -->, <!--# include virtual=\"/page/part\" -->",
        )
        .file("html/page/part", "part")
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let json = |path: &str| get(&nginx, path).bearer(&token).header("Accept", "application/json");
    let answer = json("/must").send();
    assert_eq!(answer.status, 403);
    assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"));
    assert!(answer.text().contains("\"reason\":\"ROLE_MISSING\""), "{}", answer.text());
    let answer = json("/must").header("Accept-Encoding", "gzip").send();
    assert_eq!(answer.header("content-encoding").as_deref(), Some("gzip"));
    assert_eq!(answer.body.get(..2), Some(&[0x1f, 0x8b][..]));
    let page = get(&nginx, "/page/").bearer(&token).send();
    assert_eq!((page.status, page.text().as_str()), (200, "beforealice, part"));
    assert_eq!(get(&nginx, "/page/").send().status, 401);
}
