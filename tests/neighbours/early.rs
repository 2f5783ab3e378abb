//! `authgear_early`: the verdict before `limit_req` and `limit_conn`.

use support::{get, Backend, FakeAuthgear, Fault, Gate, User};

use crate::project::project;
use crate::site::{identity_of, site};

#[test]
fn limits_can_be_keyed_by_the_user_of_the_same_location() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(project("p", &authgear, "max_fails 0;"))
        .http(
            "limit_req_zone $x_authgear_user_id zone=users:1m rate=1r/m;
             limit_conn_zone $x_authgear_user_id zone=connections:1m;
             limit_conn_status 429;",
        )
        .server(
            "authgear p;
             authgear_require session;
             authgear_early on;
             location /users { limit_req zone=users; proxy_pass http://%%BACKEND%%; }
             location /connections { limit_conn connections 1; proxy_pass http://%%BACKEND%%; }
             location /named { try_files /nothing @users; }
             location @users { limit_req zone=users; proxy_pass http://%%BACKEND%%; }
             location /denied { deny all; proxy_pass http://%%BACKEND%%; }
             location /any { satisfy any; allow all; proxy_pass http://%%BACKEND%%; }
             location /late { authgear_early off; deny all; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let tokens = ["alice", "bob"].map(|name| authgear.opaque_token(&User::named(name)));
    let request = |path: &str, user: usize| get(&nginx, path).bearer(&tokens[user]);
    for (user, expected) in [(0, 200), (0, 503), (1, 200), (1, 503)] {
        let gate = Gate::new();
        authgear.inject_next(1, Fault::Gate(gate.clone()));
        let pending = request("/users", user).start();
        gate.wait_for_waiters(1);
        gate.open();
        assert_eq!(pending.wait().status, expected, "{user}");
    }
    // One look-up for each request.
    assert_eq!(authgear.hits(), 4);
    assert_eq!(request("/named", 0).send().status, 503);
    assert_eq!(authgear.hits(), 5);
    let echo = request("/connections", 0).send().echo();
    assert_eq!(echo.identity(), identity_of(&User::named("alice")));
    // The policy, the denial and the failure of a look-up are those of the access phase.
    assert_eq!(get(&nginx, "/users").bearer("dead").send().status, 401);
    assert_eq!(get(&nginx, "/users").send().status, 401);
    for (path, status, looks_up) in
        [("/denied", 403, true), ("/late", 403, false), ("/any", 200, false)]
    {
        let asked = authgear.hits();
        assert_eq!(request(path, 0).send().status, status, "{path}");
        assert_eq!(authgear.hits() > asked, looks_up, "{path}");
    }
    let preflight = request("/denied", 0)
        .method("OPTIONS")
        .header("Origin", "https://app.test")
        .header("Access-Control-Request-Method", "POST");
    let asked = authgear.hits();
    assert_eq!(preflight.send().status, 403);
    assert_eq!(authgear.hits(), asked);
    authgear.inject(Fault::Status(500));
    assert_eq!(request("/connections", 0).send().status, 503);
}

#[test]
fn a_variable_that_is_evaluated_too_early_is_logged_once_a_worker() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .workers(1)
        .http("limit_req_zone $x_authgear_user_id zone=users:1m rate=1r/m;")
        .server(
            "authgear %%AUTHGEAR%%;
             location /fine { proxy_set_header X-User $x_authgear_user_id; return 204; }
             location /public { authgear off; if ($authgear_session) { return 204; } return 204; }
             location / { limit_req zone=users; proxy_pass http://%%BACKEND%%; }
             location /returned { add_header X-User $x_authgear_user_id; return 204; }",
        )
        .start();
    let warnings = || nginx.error_log().matches("is evaluated before there is a verdict").count();
    for path in ["/fine", "/public", "/returned"] {
        assert_eq!(get(&nginx, path).send().status, 204, "{path}");
    }
    assert_eq!(warnings(), 0);
    for _ in 0..3 {
        assert_eq!(get(&nginx, "/").send().status, 200);
    }
    assert_eq!(warnings(), 1);
    let line = nginx.wait_for_error_log("is evaluated before there is a verdict");
    assert!(line.contains("[warn]") && line.contains("$x_authgear_user_id"), "{line}");
}
