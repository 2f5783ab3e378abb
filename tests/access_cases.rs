//! Cases in which nginx tests its access modules, with `authgear_require` as the access module.

use std::time::{Duration, Instant};

use support::{get, Backend, Connection, FakeAuthgear, Fault, Gate, User, H2};

use crate::site::{identity_of, site};

#[test]
fn of_several_refusals_the_first_or_the_one_that_asks_for_credentials_is_answered() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let others = [
        ("allow", "allow all;"),
        ("deny", "deny all;"),
        ("basic", "auth_basic site; auth_basic_user_file %%DIR%%/htpasswd;"),
    ];
    let mut locations = String::new();
    for satisfy in ["all", "any"] {
        for (name, other) in others {
            for refusal in [401, 403] {
                locations += &format!(
                    "location = /{satisfy}/{name}/{refusal} {{
                       satisfy {satisfy};
                       {other}
                       authgear_require session error={refusal};
                       proxy_pass http://%%BACKEND%%;
                     }}"
                );
            }
        }
    }
    let nginx = site(&authgear, &backend)
        .file("htpasswd", "basil:{PLAIN}secret\n")
        .server("authgear %%AUTHGEAR%%;")
        .server(locations)
        .start();
    let alice = authgear.session(&User::named("alice"));
    // Answers to a valid session, to a request that 401 refuses, and to one that 403 refuses.
    for (place, valid, unauthorized, forbidden) in [
        ("/all/allow", 200, 401, 403),
        ("/all/deny", 403, 403, 403),
        ("/all/basic", 401, 401, 401),
        ("/any/allow", 200, 200, 200),
        ("/any/deny", 200, 401, 403),
        ("/any/basic", 200, 401, 401),
    ] {
        for (refusal, refused) in [(401, unauthorized), (403, forbidden)] {
            let request = || get(&nginx, &format!("{place}/{refusal}"));
            let with_session = request().cookie("session", &alice).send().status;
            let others =
                [request().send().status, request().cookie("session", "dead").send().status];
            assert_eq!((with_session, others), (valid, [refused; 2]), "{place}/{refusal}");
        }
    }
}

#[test]
fn auth_delay_delays_refusals_that_ask_for_credentials() {
    const DELAY: Duration = Duration::from_millis(400);
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_login_redirect https://login.test/;
             authgear_require session;
             auth_delay 1h;
             location / { proxy_pass http://%%BACKEND%%; }
             location /forbidden {
               authgear_require session error=403;
               proxy_pass http://%%BACKEND%%;
             }
             location /delayed {
               auth_delay 400ms;
               proxy_pass http://%%BACKEND%%;
               location /delayed/any { satisfy any; deny all; proxy_pass http://%%BACKEND%%; }
             }",
        )
        .start();
    let alice = authgear.session(&User::named("alice"));
    assert_eq!(get(&nginx, "/").cookie("session", &alice).send().status, 200);
    assert_eq!(get(&nginx, "/forbidden").send().status, 403);
    for path in ["/delayed", "/delayed/any"] {
        // A redirect to log in is a refusal with 401 that the module turns into a redirect, as
        // `error_page 401` would.
        for (session, accept, status) in
            [("dead", "*/*", 401), ("", "*/*", 401), ("dead", "text/html", 302)]
        {
            let begun = Instant::now();
            let request = get(&nginx, path).cookie("session", session).header("Accept", accept);
            let answer = request.send();
            assert_eq!(answer.status, status, "{path}");
            // nginx counts in milliseconds from the start of its event loop's turn.
            assert!(begun.elapsed() > DELAY.mul_f32(0.9), "{path}: {:?}", begun.elapsed());
        }
    }
}

#[test]
fn a_refusal_before_the_body_was_read_leaves_the_next_request_intact() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .listen_extra(1)
        .server(
            "listen %%ADDR2%% http2;
             authgear %%AUTHGEAR%%;
             client_max_body_size 0;
             location / { authgear_require session; proxy_pass http://%%BACKEND%%; }
             location = /next { return 200 next; }",
        )
        .start();
    let (mut h1, h2) = (Connection::open(&nginx), H2::open(&nginx.addr2()));
    for length in [10, 10 * 1024, 300 * 1024] {
        for session in ["", "dead"] {
            let post = get(&nginx, "/").method("POST").cookie("session", session);
            let post = post.body(vec![b'b'; length]);
            let next = get(&nginx, "/next");
            for (answer, next) in
                [(h1.send(&post), h1.send(&next)), (h2.send(&post), h2.send(&next))]
            {
                assert_eq!((answer.status, next.text().as_str()), (401, "next"), "{length}");
            }
        }
    }
    assert_eq!(backend.hits(), 0);
}

#[test]
fn a_body_that_was_read_before_an_internal_redirect_reaches_the_protected_fallback() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "authgear %%AUTHGEAR%%;
             location = /first {
               proxy_pass http://%%ADDR%%/missing;
               proxy_intercept_errors on;
               error_page 404 = /fallback;
               client_body_buffer_size 4k;
             }
             location = /missing { return 404; }
             location = /fallback { authgear_require session; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let (alice, body) = (User::named("alice"), vec![b'b'; 10 * 1024]);
    let token = authgear.opaque_token(&alice);
    let post = get(&nginx, "/first").method("POST").body(body.clone());
    assert_eq!(post.send().status, 401);
    let gate = Gate::new();
    authgear.inject_next(1, Fault::Gate(gate.clone()));
    let answering = post.bearer(&token).start();
    gate.wait_for_waiters(1);
    gate.open();
    let echo = answering.wait().echo();
    assert_eq!((echo.body_len, echo.identity()), (body.len(), identity_of(&alice)));
}
