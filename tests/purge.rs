//! Purges: once the answer is there, no worker serves what was purged.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use authgear::shared::purges::MARKS;
use support::{
    eventually, get, Backend, Builder, Connection, FakeAuthgear, Fault, Gate, Nginx, Request,
    Response, User, DEADLINE,
};

use crate::cache_workers::{await_worker, connections};
use crate::project::project;
use crate::site::site;
use crate::status::status;

const TELLING: &str = "add_header X-Cache \"$authgear_cache_status $authgear_source\" always;";

/// Verdicts are cached for long; `/purge` is for administrators, `/logout` for users.
fn purged(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    site(authgear, backend)
        .workers(4)
        .http("keepalive_requests 1000000; authgear_cache_zone z:1m;")
        .http(project("p", authgear, "timeout 4s; max_fails 0;"))
        .server(TELLING)
        .server("authgear_cache_valid valid=1h invalid=1h none=1h;")
        .server(format!("authgear p; authgear_cache z; {settings}"))
        .server(
            "location / { proxy_pass http://%%BACKEND%%; }
             location = /purge { authgear off; authgear_purge admin; }
             location = /logout { authgear_purge self; }
             location = /status { authgear off; authgear_status; }
             location = /jwt { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }
             location = /auto { authgear_mode auto; proxy_pass http://%%BACKEND%%; }",
        )
}

/// Starts nginx and waits for its key fetch, so that faults injected later do not affect it.
fn start(authgear: &FakeAuthgear, builder: Builder) -> Nginx {
    let nginx = builder.start();
    authgear.wait_for_jwks_hits(1);
    nginx
}

fn post(nginx: &Nginx, target: &str) -> Request {
    get(nginx, target).method("POST")
}

#[track_caller]
fn purge(nginx: &Nginx, query: &str) {
    let answer = post(nginx, &format!("/purge?{query}")).send();
    assert_eq!((answer.status, answer.body.len()), (204, 0), "{query}");
}

/// `$authgear_cache_status` and `$authgear_source`.
#[track_caller]
fn reported(answer: &Response) -> String {
    answer.header("x-cache").unwrap_or_else(|| panic!("{} tells nothing", answer.status))
}

#[track_caller]
fn roles(answer: &Response) -> String {
    answer.echo().header("x-authgear-user-roles").unwrap_or_default().to_owned()
}

const WORKER: &str = "location = /worker { authgear off; return 200 $pid; }";

#[test]
fn purging_a_user_takes_effect_in_every_worker() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "").server(WORKER).start();
    let alice = authgear.add_user(User::named("alice").roles(&["admin"]));
    let bob = authgear.add_user(User::named("bob"));
    let requests = [
        get(&nginx, "/").bearer(&authgear.opaque_token(&alice)),
        get(&nginx, "/").bearer(&authgear.opaque_token(&alice)),
        get(&nginx, "/").cookie("session", &authgear.session(&alice)),
    ];
    let other = get(&nginx, "/").bearer(&authgear.opaque_token(&bob));
    let mut workers = connections(&nginx);
    for (_, [connection, _]) in &mut workers {
        for request in requests.iter().chain([&other]) {
            connection.send(request);
            // From the worker's own copies, too.
            assert_eq!(reported(&connection.send(request)), "HIT cache");
        }
    }
    assert_eq!(authgear.hits(), 4);
    authgear.change_user("alice", |user| user.roles = vec!["editor".to_owned()]);
    purge(&nginx, "user=alice");
    for (n, (_, [connection, _])) in workers.iter_mut().enumerate() {
        for request in &requests {
            let answer = connection.send(request);
            let expected = if n == 0 { "MISS resolver" } else { "HIT cache" };
            assert_eq!((reported(&answer).as_str(), roles(&answer).as_str()), (expected, "editor"));
        }
        assert_eq!(reported(&connection.send(&other)), "HIT cache");
    }
    assert_eq!(authgear.hits(), 7);
}

#[test]
fn all_verdicts_can_be_purged() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "").start();
    let requests: Vec<_> = ["alice", "bob"]
        .iter()
        .map(|name| get(&nginx, "/").bearer(&authgear.opaque_token(&User::named(name))))
        .chain([get(&nginx, "/").bearer("dead")])
        .collect();
    for status in ["MISS resolver", "HIT cache"] {
        requests.iter().for_each(|request| assert_eq!(reported(&request.send()), status));
    }
    // In a form body, too.
    let form = "application/x-www-form-urlencoded";
    let answer = post(&nginx, "/purge").header("Content-Type", form).body("all=1").send();
    assert_eq!(answer.status, 204);
    for status in ["MISS resolver", "HIT cache"] {
        requests.iter().for_each(|request| assert_eq!(reported(&request.send()), status));
    }
    assert_eq!(status(&nginx)["purges"]["all"], 1);
}

#[test]
fn a_purge_can_be_limited_to_a_project() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "")
        .http(project("q", &authgear, "cookie_prefix q_;"))
        .server(
            "location = /q { authgear q; proxy_pass http://%%BACKEND%%; }
             location = /purge-q { authgear off; authgear_purge admin project=q; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let (p, q) = (get(&nginx, "/").bearer(&token), get(&nginx, "/q").bearer(&token));
    let both = |expected: [&str; 2]| {
        assert_eq!([reported(&p.send()), reported(&q.send())], expected);
    };
    both(["MISS resolver", "MISS resolver"]);
    both(["HIT cache", "HIT cache"]);
    for query in ["user=alice", "all=1"] {
        assert_eq!(post(&nginx, &format!("/purge-q?{query}")).send().status, 204);
        both(["HIT cache", "MISS resolver"]);
        both(["HIT cache", "HIT cache"]);
    }
    assert_eq!(post(&nginx, "/purge-q?user=bob").send().status, 204);
    both(["HIT cache", "HIT cache"]);
    purge(&nginx, "user=alice");
    both(["MISS resolver", "MISS resolver"]);
}

#[test]
fn purge_self_ends_all_sessions_of_the_user_in_all_modes() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "").start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let jwt = authgear.jwt(&alice);
    let opaque = authgear.opaque_token(&alice);
    let session = authgear.session(&alice);
    let of_alice = [
        (get(&nginx, "/").bearer(&opaque), "MISS resolver"),
        (get(&nginx, "/").cookie("session", &session), "MISS resolver"),
        (get(&nginx, "/").bearer(&jwt), "MISS resolver"),
        (get(&nginx, "/jwt").bearer(&jwt), "MISS jwt"),
    ];
    let of_bob = get(&nginx, "/").bearer(&authgear.opaque_token(&bob));
    assert_eq!(reported(&of_bob.send()), "MISS resolver");
    let logouts = [
        post(&nginx, "/logout").bearer(&opaque),
        post(&nginx, "/logout").cookie("session", &session).body("csrf=whatever"),
        post(&nginx, "/logout").bearer(&jwt).header("Sec-Fetch-Site", "same-origin"),
    ];
    for logout in &logouts {
        for (request, miss) in &of_alice {
            assert_eq!(reported(&request.send()), *miss);
            assert_eq!(reported(&request.send()), "HIT cache");
        }
        // Both modes share what a token says.
        assert_eq!(reported(&get(&nginx, "/auto").bearer(&jwt).send()), "HIT cache");
        assert_eq!(logout.send().status, 204);
    }
    assert_eq!(reported(&of_bob.send()), "HIT cache");
    // A request without a valid session purges nothing, and is not counted.
    assert_eq!(post(&nginx, "/logout").send().status, 204);
    assert_eq!(reported(&of_bob.send()), "HIT cache");
    let purges = &status(&nginx)["purges"];
    assert_eq!((&purges["self"], &purges["user"]), (&3.into(), &0.into()));
}

#[test]
fn purge_self_forgets_the_presented_credentials_of_any_kind() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let hidden = "location = /hidden { authgear_forward_credentials off; authgear_purge self; }";
    let nginx = purged(&authgear, &backend, "").workers(2).server(hidden).start();
    let alice = User::named("alice");
    let session = authgear.session(&alice);
    authgear.expire(&session);
    let request = get(&nginx, "/").cookie("session", &session);
    let other = get(&nginx, "/").bearer("dead");
    for status in ["MISS resolver", "HIT cache", "HIT cache", "HIT cache"] {
        assert_eq!([reported(&request.send()), reported(&other.send())], [status, status]);
    }
    // Whether or not the location forwards credentials.
    for path in ["/logout", "/hidden"] {
        assert_eq!(post(&nginx, path).cookie("session", &session).send().status, 204);
        assert_eq!(reported(&request.send()), "MISS resolver", "{path}");
        assert_eq!(reported(&other.send()), "HIT cache");
    }
}

#[test]
fn a_look_up_in_flight_during_a_purge_is_repeated() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let builder = purged(&authgear, &backend, "")
        .server(WORKER)
        .server("location = /uncached { authgear_cache off; proxy_pass http://%%BACKEND%%; }");
    let nginx = start(&authgear, builder);
    authgear.add_user(User::named("alice").roles(&["admin"]));
    for path in ["/", "/uncached"] {
        authgear.change_user("alice", |user| user.roles = vec!["admin".to_owned()]);
        let alice = User::named("alice");
        let token = authgear.opaque_token(&alice);
        let request = get(&nginx, path).bearer(&token);
        let asked = authgear.hits();
        let mut workers = connections(&nginx);
        // Authgear has decided, and its answer is delayed.
        let gate = Gate::new();
        authgear.inject_next(1, Fault::Gate(gate.clone()));
        let bytes =
            format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n");
        let (_, [first, second]) = workers.first_mut().expect("a worker");
        first.write(bytes.as_bytes());
        gate.wait_for_waiters(1);
        // Another request of that worker, and with a cache those of others, wait for the same
        // answer.
        second.write(bytes.as_bytes());
        let mut pending = Vec::new();
        let others = workers.split_off(1);
        if path == "/" {
            for (_, [mut connection, mut marker]) in others {
                connection.write(bytes.as_bytes());
                await_worker(&nginx, &mut marker);
                pending.push(connection);
            }
        }
        authgear.change_user("alice", |user| user.roles = vec!["editor".to_owned()]);
        purge(&nginx, "user=alice");
        gate.open();
        let (_, own) = workers.pop().expect("a worker");
        for mut connection in own.into_iter().chain(pending) {
            assert_eq!(roles(&connection.read_response("GET")), "editor", "{path}");
        }
        assert_eq!(authgear.hits(), asked + 2, "{path}");
        assert_eq!(roles(&request.send()), "editor", "{path}");
    }
}

#[test]
fn stale_verdicts_of_a_purged_user_are_not_served() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let settings = "authgear_cache_use_stale error=1h;";
    let builder = purged(&authgear, &backend, settings).server(
        "location = /short { authgear_cache_valid valid=1ms; proxy_pass http://%%BACKEND%%; }",
    );
    let nginx = start(&authgear, builder);
    let alice = User::named("alice");
    let request = get(&nginx, "/short").bearer(&authgear.opaque_token(&alice));
    assert_eq!(request.send().status, 200);
    let gate = Gate::new();
    authgear.inject(Fault::Gate(gate.clone()));
    // A stale verdict exists, and Authgear fails.
    let pending = request.start();
    gate.wait_for_waiters(1);
    purge(&nginx, "user=alice");
    authgear.stop();
    assert_eq!(pending.wait().status, 503);
    assert_eq!(request.send().status, 503);
}

#[test]
fn a_subrequest_in_flight_during_a_purge_is_repeated() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let origin = authgear.origin().to_owned();
    let builder = purged(&authgear, &backend, "")
        .http(format!("authgear_project l {{ endpoint {origin}; resolver_url /_auth; }}"))
        .var("RESOLVER", authgear.resolver_url())
        .server(
            "location = /l { authgear l; proxy_pass http://%%BACKEND%%; }
             location = /_auth { internal; proxy_pass %%RESOLVER%%;
                                 proxy_set_header Host $authgear_host;
                                 proxy_set_header X-Forwarded-Proto $authgear_scheme; }",
        );
    let nginx = start(&authgear, builder);
    authgear.add_user(User::named("alice").roles(&["admin"]));
    let request = get(&nginx, "/l").bearer(&authgear.opaque_token(&User::named("alice")));
    let gate = Gate::new();
    authgear.inject_next(1, Fault::Gate(gate.clone()));
    let pending = request.start();
    gate.wait_for_waiters(1);
    authgear.change_user("alice", |user| user.roles = vec!["editor".to_owned()]);
    purge(&nginx, "user=alice");
    gate.open();
    let answer = pending.wait();
    assert_eq!((reported(&answer).as_str(), roles(&answer).as_str()), ("MISS resolver", "editor"));
    assert_eq!(authgear.hits(), 2);
    let answer = request.send();
    assert_eq!((reported(&answer).as_str(), roles(&answer).as_str()), ("HIT cache", "editor"));
}

/// Four workers make look-ups while the user changes and is purged repeatedly. A request that
/// follows a purge gets nothing from before it.
#[test]
fn concurrent_look_ups_never_serve_a_verdict_from_before_a_purge() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "")
        .error_level("error")
        .server(
            "location = /short { authgear_cache_valid valid=3ms; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let version = |n: usize| format!("v{n:06}");
    let alice = authgear.add_user(User::named("alice").roles(&[&version(0)]));
    let tokens: Vec<String> = (0..4).map(|_| authgear.opaque_token(&alice)).collect();
    let (purged_up_to, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for client in 0..8 {
            let (nginx, tokens) = (&nginx, &tokens);
            let (purged_up_to, over, answered) = (&purged_up_to, &over, &answered);
            scope.spawn(move || {
                let mut connection = Connection::open(nginx);
                let path = if client % 2 == 0 { "/" } else { "/short" };
                let request = get(nginx, path).bearer(&tokens[client % tokens.len()]);
                while !over.load(Ordering::SeqCst) {
                    let least = version(purged_up_to.load(Ordering::SeqCst));
                    let answer = connection.send(&request);
                    let roles = roles(&answer);
                    assert!(roles >= least, "{roles} after {least}: {}", reported(&answer));
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let mut n = 0;
        while authgear.hits() < 1000 {
            n += 1;
            let role = version(n);
            authgear.change_user("alice", |user| user.roles = vec![role.clone()]);
            purge(&nginx, if n % 16 == 0 { "all=1" } else { "user=alice" });
            purged_up_to.store(n, Ordering::SeqCst);
            // So that some requests are answered from the cache.
            let before = answered.load(Ordering::SeqCst);
            let goes_on = || answered.load(Ordering::SeqCst) >= before + 40;
            if !eventually(DEADLINE, goes_on) {
                over.store(true, Ordering::SeqCst);
                panic!("nothing is answered any more");
            }
        }
        over.store(true, Ordering::SeqCst);
    });
    let status = status(&nginx);
    let cache = &status["projects"][0]["cache"];
    assert!(cache["hit"].as_u64() > Some(100), "{cache}");
}

#[test]
fn purges_survive_a_reload() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "").start();
    let request = get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    assert_eq!(reported(&request.send()), "MISS resolver");
    purge(&nginx, "user=alice");
    nginx.reload();
    assert_eq!(reported(&request.send()), "MISS resolver");
    nginx.reload();
    assert_eq!(reported(&request.send()), "HIT cache");
}

#[test]
fn overflowing_the_purge_log_purges_older_verdicts() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "").workers(2).error_level("notice").start();
    let request = get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    assert_eq!(reported(&request.send()), "MISS resolver");
    let mut connection = Connection::open(&nginx);
    for n in 0..MARKS {
        let order = post(&nginx, &format!("/purge?user=somebody-{n}"));
        assert_eq!(connection.send(&order).status, 204);
        if n % 1000 == 999 {
            connection = Connection::open(&nginx);
        }
    }
    assert_eq!(reported(&request.send()), "HIT cache");
    purge(&nginx, "user=one-more");
    nginx.wait_for_error_log("too many authgear purges to keep apart");
    assert_eq!(reported(&request.send()), "MISS resolver");
}

#[test]
fn purge_requests_are_executed_or_rejected_with_a_status() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "").start();
    let request = get(&nginx, "/").bearer(&authgear.opaque_token(&User::named("alice")));
    assert_eq!(reported(&request.send()), "MISS resolver");
    let form = |body: &str| {
        let order = post(&nginx, "/purge");
        order.header("Content-Type", "application/x-www-form-urlencoded").body(body)
    };
    let host = nginx.addr().to_string();
    let evil = "https://evil.test";
    let all = || post(&nginx, "/purge?all=1");
    for (order, status) in [
        (post(&nginx, "/purge"), 400),
        (post(&nginx, "/purge?user="), 400),
        (post(&nginx, "/purge?user=alice&all=1"), 400),
        (post(&nginx, "/purge?users=alice"), 400),
        (post(&nginx, "/purge?all=yes"), 400),
        (form("user=alice&x=1"), 400),
        (form(&format!("user={}", "a".repeat(257))), 400),
        (form(&format!("user={}", "a".repeat(5000))), 413),
        (post(&nginx, "/purge").body("user=alice"), 400),
        (post(&nginx, "/purge").header("Content-Type", "application/json").body("{}"), 400),
        (get(&nginx, "/purge?all=1"), 405),
        (all().method("DELETE"), 405),
        (all().header("Sec-Fetch-Site", "cross-site"), 403),
        (all().header("Origin", evil), 403),
        (all().header("Origin", "null"), 403),
        (post(&nginx, "/logout").header("Origin", evil), 403),
        (post(&nginx, "/logout?user=bob"), 400),
        (get(&nginx, "/logout"), 405),
    ] {
        let answer = order.send();
        assert_eq!(answer.status, status, "{order:?}");
        if status == 405 {
            assert_eq!(answer.header("allow").as_deref(), Some("POST"));
        }
        assert_eq!(reported(&request.send()), "HIT cache", "{order:?}");
    }
    for order in [
        all().header("Sec-Fetch-Site", "same-origin"),
        all().header("Origin", format!("http://{host}")),
        all().header("Sec-Fetch-Site", "none").header("Origin", evil),
        form("user=alice"),
        form("user=%61lice"),
        // A body that exceeds nginx's buffer is in a file.
        form(&format!("{}user=alice", "&".repeat(4000))),
    ] {
        assert_eq!(order.send().status, 204, "{order:?}");
        assert_eq!(reported(&request.send()), "MISS resolver", "{order:?}");
    }
}

#[test]
fn purge_self_fails_without_a_verdict() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let builder = purged(&authgear, &backend, "").server(
        "location = /bridged { authgear_on_error anonymous; authgear_purge self; }
             location = /any { satisfy any; allow all; authgear_purge self; }",
    );
    let nginx = start(&authgear, builder);
    authgear.inject(Fault::Status(500));
    let token = authgear.opaque_token(&User::named("alice"));
    for path in ["/logout", "/bridged"] {
        assert_eq!(post(&nginx, path).bearer(&token).send().status, 503, "{path}");
    }
    assert_eq!(post(&nginx, "/any").bearer(&token).send().status, 403);
    nginx.wait_for_error_log("authgear_purge self: access was granted without a verdict");
}

#[test]
fn access_control_decides_who_can_purge() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = purged(&authgear, &backend, "")
        .server(
            "location = /admins { authgear_require role=admin; authgear_purge admin; }
             location = /nobody { deny all; authgear off; authgear_purge admin; }",
        )
        .start();
    let admin = authgear.opaque_token(&User::named("root").roles(&["admin"]));
    let alice = authgear.opaque_token(&User::named("alice"));
    let order = |path: &str| post(&nginx, &format!("{path}?all=1"));
    assert_eq!(order("/admins").send().status, 401);
    assert_eq!(order("/admins").bearer(&alice).send().status, 403);
    assert_eq!(order("/admins").bearer(&admin).send().status, 204);
    assert_eq!(order("/nobody").send().status, 403);
}

#[test]
fn misconfigured_purge_endpoints_are_refused() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let zone = "authgear_cache_zone z:1m;";
    for (zone, location, error) in [
        ("", "authgear p; authgear_purge self;", "without an \"authgear_cache_zone\""),
        ("", "authgear_purge admin;", "without an \"authgear_cache_zone\""),
        (zone, "authgear_purge self;", "\"authgear_purge self\" where \"authgear\" is not on"),
        (zone, "authgear_purge all;", "it must be \"self\" or \"admin\""),
        (zone, "authgear_purge admin q;", "it must be project= with the name"),
        (zone, "authgear_purge admin project=q;", "unknown authgear_project \"q\""),
        (zone, "authgear_purge;", "invalid number of arguments"),
        (zone, "authgear_purge admin; authgear_purge admin;", "has one of"),
        (zone, "authgear_purge admin; authgear_status;", "has one of"),
        (zone, "authgear_status on;", "invalid number of arguments"),
    ] {
        let test = site(&authgear, &backend)
            .http(zone)
            .http(project("p", &authgear, ""))
            .server(format!("location /x {{ {location} }}"))
            .check();
        assert!(!test.ok, "{location}");
        assert!(test.output.contains(error), "{location}: {}", test.output);
        assert!(test.output.contains("nginx.conf:"), "{location}: {}", test.output);
    }
    for outside in ["authgear_status;", "authgear_purge admin;"] {
        let test = site(&authgear, &backend).http(zone).server(outside).check();
        assert!(!test.ok && test.output.contains("is not allowed here"), "{}", test.output);
    }
}
