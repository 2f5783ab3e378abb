//! Row 14: smaller faults.

use std::net::SocketAddr;

use support::{get, Backend, Builder, FakeAuthgear, User};

use crate::project::project;
use crate::site::site;

fn protected(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend)
        .workers(1)
        .http("authgear_cache_zone z:1m;")
        .http(project("p", authgear, ""))
        .server("authgear p; authgear_require session;")
}

#[test]
fn a_content_type_of_grpc_makes_no_grpc_call_of_http1() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = protected(&authgear, &backend)
        .listen_extra(1)
        .server("listen %%ADDR2%% http2; location / { proxy_pass http://%%BACKEND%%; }")
        .start();
    let call = |to: SocketAddr| {
        get(&to, "/a.B/C").method("POST").header("Content-Type", "application/grpc")
    };
    let answer = call(nginx.addr()).body("x").send();
    assert_eq!((answer.status, answer.header("grpc-status")), (401, None));
    let line = nginx.wait_for_access_lines(1).pop().expect("a line");
    assert!(line.contains(" 401 "), "{line}");
    let answer = call(nginx.addr2()).send_h2();
    assert_eq!((answer.status, answer.header("grpc-status").as_deref()), (200, Some("16")));
}

#[test]
fn a_purge_that_everybody_may_order_is_warned_of() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for (location, warned) in [
        ("authgear off; authgear_purge admin;", true),
        ("authgear_require off; authgear_purge admin;", true),
        ("authgear off; authgear_purge admin; allow 127.0.0.1; deny all;", false),
        ("authgear_require role=admin; authgear_purge admin;", false),
        // Inherited from the server.
        ("authgear_purge admin;", false),
        ("authgear_purge self;", false),
    ] {
        let builder = protected(&authgear, &backend);
        let test = builder.server(format!("location = /purge {{ {location} }}")).check();
        let is_warning = |line: &str| line.contains("[warn]") && line.contains("authgear_purge");
        let found = test.output.lines().any(is_warning);
        assert_eq!((test.ok, found), (true, warned), "{location}: {}", test.output);
    }
}

#[test]
fn a_preflight_that_is_let_through_hands_on_no_credentials() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = protected(&authgear, &backend)
        .server("location / { authgear_preflight pass; proxy_pass http://%%BACKEND%%; }")
        .start();
    let alice = User::named("alice");
    let session = authgear.session(&alice);
    let preflight = get(&nginx, "/")
        .method("OPTIONS")
        .header("Origin", "https://app.test")
        .header("Access-Control-Request-Method", "POST")
        .bearer(&authgear.opaque_token(&alice))
        .header("Cookie", format!("a=b; session={session}; app_session=x; app_access_token=y"));
    let echo = preflight.send().echo();
    assert_eq!(echo.header("authorization"), None);
    assert_eq!(echo.header("cookie"), Some("a=b"));
    assert_eq!(authgear.hits(), 0);
}
