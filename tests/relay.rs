//! `authgear_relay_cookies`: cookies that Authgear clears with its answer.

use support::{
    get, Backend, Builder, Connection, FakeAuthgear, Fault, Gate, Nginx, Request, Response, User,
    WebSocket,
};

use crate::project::{project, project_at, verdict, TELLING};
use crate::site::{site, PROTECTED};

/// The `Set-Cookie` of Authgear's answer about a session that has ended.
const CLEARED: &str =
    "session=; Path=/; Expires=Thu, 01 Jan 1970 00:00:00 GMT; HttpOnly; SameSite=Lax";

fn relaying(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend).server("authgear_relay_cookies on;")
}

/// The cookie of a session that has ended.
fn ended(authgear: &FakeAuthgear) -> String {
    let session = authgear.session(&User::named("alice"));
    authgear.expire(&session);
    session
}

/// Asserts that the answer has the relayed line and cannot be cached.
#[track_caller]
fn assert_cleared(answer: &Response, what: &str) {
    assert_eq!(answer.all("set-cookie"), [CLEARED], "{what}: {answer:?}");
    assert_eq!(answer.all("cache-control"), ["no-store"], "{what}");
}

#[track_caller]
fn assert_untouched(answer: &Response, what: &str) {
    assert_eq!(answer.all("set-cookie").len(), 0, "{what}: {answer:?}");
    assert_eq!(answer.all("cache-control").len(), 0, "{what}");
}

#[test]
fn the_cookie_of_a_dead_session_is_cleared_with_any_answer() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = relaying(&authgear, &backend)
        .listen_extra(1)
        .file("html/file.txt", "file")
        .server(
            "listen %%ADDR2%% http2;
             authgear %%AUTHGEAR%%;
             authgear_login_redirect https://login.test/;
             location / { proxy_pass http://%%BACKEND%%; }
             location /file.txt { root html; }
             location /redirected/ { root html; error_page 404 = /; }
             location /strict { authgear_require session; proxy_pass http://%%BACKEND%%; }
             location /page {
               authgear_require session;
               error_page 401 /sorry.html;
               proxy_pass http://%%BACKEND%%;
             }
             location /named {
               authgear_require session;
               error_page 401 = @sorry;
               proxy_pass http://%%BACKEND%%;
             }
             location /lost {
               authgear_require session;
               error_page 401 =302 https://elsewhere.test/;
               proxy_pass http://%%BACKEND%%;
             }
             location = /sorry.html { authgear off; authgear_relay_cookies off; return 200 sorry; }
             location @sorry { authgear off; return 200 sorry; }
             location /dry {
               authgear_require session;
               authgear_dry_run on;
               proxy_pass http://%%BACKEND%%;
             }
             location /ws {
               proxy_http_version 1.1;
               proxy_set_header Upgrade $http_upgrade;
               proxy_set_header Connection upgrade;
               proxy_pass http://%%BACKEND%%;
             }
             location /silent { authgear_relay_cookies off; proxy_pass http://%%BACKEND%%; }
             location /silent/then { root html; error_page 404 = /; }",
        )
        .start();
    let dead = ended(&authgear);
    let ask = |path: &str| get(&nginx, path).cookie("session", &dead);
    let browser = |request: Request| request.header("Accept", "text/html");
    let json = |request: Request| request.header("Accept", "application/json");
    for (what, request, status) in [
        ("proxied", ask("/"), 200),
        ("a file", ask("/file.txt"), 200),
        ("part of a file", ask("/file.txt").header("Range", "bytes=1-2"), 206),
        ("no part of a file", ask("/file.txt").header("Range", "bytes=9-"), 416),
        ("head", ask("/").method("HEAD"), 200),
        ("post", ask("/").method("POST").body("x"), 200),
        ("redirected", ask("/redirected/x"), 200),
        ("denied", ask("/strict"), 401),
        ("denied in JSON", json(ask("/strict")), 401),
        ("sent to log in", browser(ask("/strict")), 302),
        ("a page of the user's", ask("/page"), 401),
        ("a named page", ask("/named"), 200),
        ("sent elsewhere", ask("/lost"), 302),
        ("dry run", ask("/dry"), 200),
        // One location makes the look-up, and another one passes the identity.
        ("asked where it is off", ask("/silent/then"), 200),
    ] {
        let answer = request.send();
        assert_eq!(answer.status, status, "{what}");
        assert_cleared(&answer, what);
    }
    let h2 = get(&nginx.addr2(), "/").cookie("session", &dead).send_h2();
    assert_cleared(&h2, "h2");
    let call = get(&nginx.addr2(), "/strict").method("POST").cookie("session", &dead);
    let call = call.header("Content-Type", "application/grpc").send_h2();
    assert_eq!(call.header("grpc-status").as_deref(), Some("16"));
    assert_cleared(&call, "grpc");
    assert!(WebSocket::open(&ask("/ws")).is_ok());

    assert_untouched(&ask("/silent").send(), "off");
    assert_untouched(&get(&nginx, "/").send(), "nothing to clear");
    let alice = authgear.session(&User::named("alice"));
    assert_untouched(&get(&nginx, "/").cookie("session", &alice).send(), "a session");
    authgear.inject(Fault::Status(500));
    assert_eq!(ask("/").send().all("set-cookie").len(), 0);
}

#[test]
fn only_cookies_of_the_project_are_relayed() {
    let authgear = FakeAuthgear::builder().cookie_prefix("my_").start();
    let backend = Backend::start();
    let nginx = relaying(&authgear, &backend)
        .http(project("p", &authgear, "cookie_prefix my_;"))
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    let set = |value: &str| ("Set-Cookie".to_owned(), value.to_owned());
    let long = format!("my_session={}", "a".repeat(4096));
    let mut headers = vec![
        set("my_session=1; Path=/; Secure"),
        set("other=1; Path=/"),
        set("session=1"),
        set("My_session=1"),
        set("my_session"),
        set("my_session=a\tb"),
        set(&long),
        set("my_app_session=2; Domain=example.com"),
        set("my_app_access_token=3"),
    ];
    let relayed = |headers: &Vec<(String, String)>| {
        authgear.inject(Fault::Headers(headers.clone()));
        get(&nginx, "/").cookie("my_session", "x").send().all("set-cookie")
    };
    let own = ["my_session=1; Path=/; Secure", "my_app_session=2; Domain=example.com"];
    assert_eq!(relayed(&headers), [&own[..], &["my_app_access_token=3"]].concat());
    headers.extend((0..40).map(|n| set(&format!("my_session={n}"))));
    assert_eq!(relayed(&headers).len(), 16);
}

#[test]
fn a_relayed_cookie_is_sent_once_and_never_cached() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = relaying(&authgear, &backend)
        .http("authgear_cache_zone z:1m;")
        .server("add_header X-Cache $authgear_cache_status always;")
        .server("authgear %%AUTHGEAR%%; authgear_cache z; authgear_cache_valid invalid=1h;")
        .server("location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    let dead = ended(&authgear);
    let ask = || get(&nginx, "/").cookie("session", &dead).send();
    let first = ask();
    assert_eq!(first.header("x-cache").as_deref(), Some("MISS"));
    assert_cleared(&first, "asked");
    let second = ask();
    assert_eq!(second.header("x-cache").as_deref(), Some("HIT"));
    assert_untouched(&second, "kept");
    assert_eq!(authgear.hits(), 1);
}

#[test]
fn requests_that_joined_a_look_up_get_its_cookies() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = relaying(&authgear, &backend)
        .workers(1)
        .server(PROTECTED)
        .server("location = /marker { return 204; }")
        .start();
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    let dead = ended(&authgear);
    let mut pending: Vec<_> =
        (0..5).map(|_| get(&nginx, "/").cookie("session", &dead).start()).collect();
    // A worker handles events in order: it has read the others.
    assert_eq!(get(&nginx, "/marker").send().status, 204);
    // When the first client leaves, the look-up goes on.
    pending.remove(0).leave();
    assert_eq!(get(&nginx, "/marker").send().status, 204);
    gate.open();
    for pending in pending {
        assert_cleared(&pending.wait(), "joined");
    }
    assert_eq!(authgear.hits(), 1);
}

#[test]
fn the_next_request_on_the_connection_gets_no_relayed_cookie() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = relaying(&authgear, &backend).server(PROTECTED).start();
    let dead = ended(&authgear);
    let mut connection = Connection::open(&nginx);
    for _ in 0..2 {
        assert_cleared(&connection.send(&get(&nginx, "/").cookie("session", &dead)), "the one");
        assert_untouched(&connection.send(&get(&nginx, "/")), "the next");
    }
}

#[test]
fn a_background_refresh_relays_no_cookie() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = relaying(&authgear, &backend)
        .workers(1)
        .http("authgear_cache_zone z:1m;")
        .server(
            "add_header X-Cache $authgear_cache_status always;
             authgear %%AUTHGEAR%%;
             authgear_cache z;
             authgear_cache_valid valid=0;
             authgear_cache_use_stale updating=1h error=1h;
             location / { proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let session = authgear.session(&User::named("alice"));
    let ask = || get(&nginx, "/").cookie("session", &session).send();
    assert_untouched(&ask(), "a session");
    authgear.expire(&session);
    let stale = ask();
    assert_eq!(stale.header("x-cache").as_deref(), Some("STALE"));
    assert_untouched(&stale, "stale");
    authgear.wait_for_hits(2);
}

#[test]
fn cookies_set_by_a_resolver_location_are_relayed() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = relaying(&authgear, &backend)
        .http(project_at("p", &authgear, "/_auth", ""))
        .server(TELLING)
        .server(
            "authgear p;
             location / { proxy_pass http://%%BACKEND%%; }
             location /strict { authgear_require session; proxy_pass http://%%BACKEND%%; }
             location = /_auth {
               internal;
               proxy_pass %%AUTHGEAR%%/_resolver/resolve;
               proxy_set_header Host $authgear_host;
             }",
        )
        .start();
    let dead = ended(&authgear);
    for (path, status) in [("/", 200), ("/strict", 401)] {
        let answer = get(&nginx, path).cookie("session", &dead).send();
        assert_eq!(
            (answer.status, &*verdict(&answer)),
            (status, "invalid session_invalid resolver")
        );
        assert_cleared(&answer, path);
    }
    let lines = ["session=1", "other=2", "app_session=3"];
    let lines = lines.map(|line| ("Set-Cookie".to_owned(), line.to_owned()));
    authgear.inject(Fault::Headers(lines.into()));
    let answer = get(&nginx, "/").cookie("session", &dead).send();
    assert_eq!(answer.all("set-cookie"), ["session=1", "app_session=3"]);
}

#[test]
fn a_proxy_cache_does_not_store_relayed_cookies() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = relaying(&authgear, &backend)
        // A single worker has stored a page before it reads the next request.
        .workers(1)
        .listen_extra(1)
        .http(
            "proxy_cache_path %%DIR%%/tmp/cache keys_zone=pages:1m;
             server {
               listen %%ADDR2%%;
               location / { add_header Cache-Control \"public, max-age=60\"; return 200 page; }
             }",
        )
        .server(
            "authgear %%AUTHGEAR%%;
             location / {
               proxy_cache pages;
               proxy_pass http://%%ADDR2%%;
               add_header X-Page $upstream_cache_status;
             }
             location /expires { expires 1h; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let dead = ended(&authgear);
    let first = get(&nginx, "/").cookie("session", &dead).send();
    assert_eq!(first.header("x-page").as_deref(), Some("MISS"));
    assert_cleared(&first, "what is public is not");
    let other = get(&nginx, "/").send();
    assert_eq!(other.header("x-page").as_deref(), Some("HIT"));
    assert_eq!(other.all("set-cookie").len(), 0);
    assert_eq!(other.all("cache-control"), ["public, max-age=60"]);
    let expires = get(&nginx, "/expires").cookie("session", &dead).send();
    assert!(expires.all("cache-control").contains(&"no-store".to_owned()));
}

#[test]
fn relay_cookies_is_inherited_and_refuses_invalid_values() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http("authgear_relay_cookies on;")
        .server(
            "authgear %%AUTHGEAR%%;
             location / { proxy_pass http://%%BACKEND%%; }
             location /off { authgear_relay_cookies off; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    for (path, lines) in [("/", 1), ("/off", 0)] {
        let answer = get(&nginx, path).cookie("session", &ended(&authgear)).send();
        assert_eq!(answer.all("set-cookie").len(), lines, "{path}");
    }
    let wrong = Nginx::builder().server("authgear_relay_cookies yes;").check();
    let says = "invalid value \"yes\" in \"authgear_relay_cookies\" directive, it must be";
    assert!(!wrong.ok && wrong.output.contains(says), "{}", wrong.output);
}

/// Authgear decides on the bearer, and then clears the cookie all the same.
#[test]
fn an_answer_about_a_bearer_clears_no_cookie() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = relaying(&authgear, &backend)
        .http(project_at("located", &authgear, "/_auth", ""))
        .server("authgear %%AUTHGEAR%%; location / { proxy_pass http://%%BACKEND%%; }")
        .server(
            "location /located/ { authgear located; proxy_pass http://%%BACKEND%%; }
             location = /_auth {
               internal;
               proxy_pass %%AUTHGEAR%%/_resolver/resolve;
               proxy_set_header Host $authgear_host;
             }",
        )
        .start();
    let bearer = authgear.opaque_token(&User::named("bob"));
    authgear.disable("bob");
    let good = authgear.session(&User::named("alice"));
    for path in ["/", "/located/"] {
        let request = get(&nginx, path).cookie("session", &good);
        assert_untouched(&request.bearer(&bearer).send(), path);
    }
}
