//! Clients that leave, or close their half of the connection, while a look-up runs. The handler
//! that follows decides: an upstream ends the request, unless it ignores clients that leave, and
//! anything else answers.

use support::{eventually, get, Backend, FakeAuthgear, Fault, Gate, User, DEADLINE};

use crate::site::{site, KINDS};

#[test]
fn an_upstream_that_ignores_leaving_clients_gets_their_requests() {
    for kind in KINDS.iter().filter(|kind| kind.name != "grpc" && kind.name != "proxy 1.1") {
        let (authgear, backend, gate) = (FakeAuthgear::start(), (kind.start)(), Gate::new());
        let nginx = site(&authgear, &backend)
            .listen_extra(1)
            .server(format!(
                "listen %%ADDR2%% http2;
                 authgear %%AUTHGEAR%%;
                 {}_ignore_client_abort on;
                 location / {{ {} }}",
                kind.name, kind.pass
            ))
            .start();
        // Credentials of their own, so that each has its own look-up.
        let [half, left, other] = [(); 3].map(|()| authgear.opaque_token(&User::named("alice")));
        authgear.inject(Fault::Gate(gate.clone()));
        let mut half_closed = get(&nginx, "/half").bearer(&half).start();
        half_closed.close_half();
        let leaving = get(&nginx, "/left").bearer(&left).start();
        let reset = get(&nginx.addr2(), "/reset").bearer(&other).start_h2();
        gate.wait_for_waiters(3);
        leaving.leave();
        drop(reset);
        // nginx has seen it all when it answers a later request.
        assert_eq!(get(&nginx, "/later").send().status, 200);
        gate.open();
        assert_eq!(half_closed.wait().status, 200, "{}", kind.name);
        backend.wait_for_hits(4);
        let got = backend.requests();
        for path in ["/half", "/left", "/reset"] {
            let request = got.iter().find(|request| request.target == path);
            let id = request.and_then(|request| request.header("x-authgear-user-id"));
            if kind.name == "proxy" {
                assert_eq!(id, Some("alice"), "{path}");
            }
        }
    }
}

#[test]
fn a_half_closed_client_is_answered_as_its_handler_would_with_a_cached_verdict() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .file("html/file", "file")
        .log_format("$uri $status")
        .http("authgear_cache_zone z:1m;")
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_cache z;
             authgear_require session;
             location /file { root html; }
             location /status { authgear_status; }
             location /variable {
               set $to %%BACKEND%%;
               proxy_ignore_client_abort on;
               if ($arg_a) { set $b 1; }
               proxy_pass http://$to;
             }
             location /if {
               if ($arg_a) { proxy_pass http://%%BACKEND%%; }
             }
             location / { proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    for (path, is_answered) in [
        ("/file", true),
        ("/status", true),
        ("/variable?a=1", true),
        ("/if?a=1", false),
        ("/proxied", false),
    ] {
        let token = authgear.opaque_token(&User::named("alice"));
        for is_cached in [false, true] {
            let gate = Gate::new();
            if !is_cached {
                authgear.inject_next(1, Fault::Gate(gate.clone()));
            }
            // The request and the end of the client's half arrive together.
            let mut client = get(&nginx, path).bearer(&token).start();
            client.close_half();
            if !is_cached {
                // A client that has left before its look-up begins has none made.
                if is_answered {
                    gate.wait_for_waiters(1);
                } else {
                    assert!(eventually(DEADLINE, || nginx.access_log().contains("499")), "{path}");
                    authgear.clear();
                }
                gate.open();
            }
            let status = client.try_wait().ok().map(|answer| answer.status);
            let expected = is_answered.then_some(200);
            // A request that its upstream ends may have been answered by then.
            if is_answered || !is_cached {
                assert_eq!(status, expected, "{path}, cached: {is_cached}");
            }
        }
    }
}

#[test]
fn an_upstream_without_it_ends_the_request_of_a_leaving_client() {
    for kind in &KINDS {
        let (authgear, backend, gate) = (FakeAuthgear::start(), (kind.start)(), Gate::new());
        let nginx = site(&authgear, &backend)
            .listen_extra(1)
            .log_format("$uri $status")
            .server(format!(
                "listen %%ADDR2%% http2;
                 authgear %%AUTHGEAR%%;
                 location / {{ {} }}
                 location = /later {{ authgear off; return 204; }}",
                kind.pass
            ))
            .start();
        let [half, left, reset] = [(); 3].map(|()| authgear.opaque_token(&User::named("alice")));
        authgear.inject(Fault::Gate(gate.clone()));
        let mut half_closed = get(&nginx, "/half").bearer(&half).start();
        let leaving = get(&nginx, "/left").bearer(&left).start();
        let reset = get(&nginx.addr2(), "/reset").bearer(&reset).start_h2();
        gate.wait_for_waiters(3);
        half_closed.close_half();
        leaving.leave();
        drop(reset);
        for path in ["/half", "/left", "/reset"] {
            let ended = || nginx.access_log().contains(&format!("{path} 499"));
            assert!(eventually(DEADLINE, ended), "{path}, {}", kind.name);
        }
        gate.open();
        assert!(half_closed.try_wait().is_err(), "{}", kind.name);
        assert_eq!(get(&nginx, "/later").send().status, 204);
        assert_eq!(backend.hits(), 0, "{}", kind.name);
    }
}
