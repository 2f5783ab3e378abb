//! Lua in every phase, loaded after the module and before it.

use support::{get, sha256, Backend, FakeAuthgear, Fault, Gate, Request, User};

use super::{has_debian_modules, with_lua};
use crate::project::{project, verdict, TELLING};
use crate::site::{assert_nothing_forged, identity_of, site, Pairs, FORGED};

#[test]
fn lua_reads_the_identity_in_every_phase() {
    if !has_debian_modules() {
        return;
    }
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for (order, builder) in with_lua(|| site(&authgear, &backend)) {
        let asked = authgear.hits();
        let nginx = builder
            .workers(1)
            .server(
                "authgear %%AUTHGEAR%%;
                 rewrite_by_lua_block {
                   -- Before there is a verdict, which must not count for later.
                   ngx.header['X-Early'] = tostring(ngx.var.x_authgear_user_id)
                 }
                 access_by_lua_block {
                   ngx.header['X-Access'] = tostring(ngx.var.x_authgear_user_id)
                 }
                 header_filter_by_lua_block {
                   ngx.header['X-Filter'] = ngx.var.x_authgear_user_id
                 }
                 log_by_lua_block {
                   ngx.log(ngx.NOTICE, 'logging ', ngx.var.x_authgear_user_id,
                     ' ', ngx.var.authgear_session, ' ', ngx.var.authgear_source)
                 }
                 location / { proxy_pass http://%%BACKEND%%; }
                 location /content {
                   content_by_lua_block {
                     ngx.say(ngx.var.x_authgear_user_id, ' ', ngx.var.x_authgear_user_roles, ' ',
                       ngx.req.get_headers()['x-authgear-user-id'], ' ', ngx.var.remote_user)
                   }
                 }",
            )
            .start();
        let alice = User::named("alice").roles(&["admin"]);
        let token = authgear.opaque_token(&alice);
        let forging = |path: &str| {
            get(&nginx, path).bearer(&token).header("X-Authgear-User-Id", FORGED).send()
        };
        let (proxied, content) = (forging("/"), forging("/content"));
        let echo = proxied.echo();
        assert_eq!(echo.identity(), identity_of(&alice), "{order}");
        assert_nothing_forged(&echo, order);
        assert_eq!(content.text(), "alice admin alice alice\n", "{order}");
        let in_access = if order.ends_with("deciding first") { "nil" } else { "alice" };
        for answer in [proxied, content] {
            for (name, value) in [("early", "nil"), ("access", in_access), ("filter", "alice")] {
                let reported = answer.header(&format!("X-{name}"));
                assert_eq!(reported.as_deref(), Some(value), "{order}, {name}");
            }
        }
        nginx.wait_for_error_log("logging alice valid resolver");
        assert_eq!(authgear.hits() - asked, 2, "{order}");
    }
}

#[test]
fn lua_can_wait_in_the_access_phase_beside_the_module() {
    if !has_debian_modules() {
        return;
    }
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for (order, builder) in with_lua(|| site(&authgear, &backend)) {
        let nginx = builder
            .http(project("p", &authgear, ""))
            .http(project("inner", &authgear, "").replace(&authgear.resolver_url(), "/_auth"))
            .var("RESOLVER", authgear.resolver_url())
            .server(TELLING)
            .server(
                "access_by_lua_block {
                   ngx.sleep(0.01)
                   ngx.req.read_body()
                   ngx.sleep(0.01)
                   ngx.ctx.runs = (ngx.ctx.runs or 0) + 1
                 }
                 header_filter_by_lua_block { ngx.header['X-Runs'] = ngx.ctx.runs }
                 authgear p;
                 location / { authgear_require session; proxy_pass http://%%BACKEND%%; }
                 location /open { proxy_pass http://%%BACKEND%%; }
                 location /inner { authgear inner; proxy_pass http://%%BACKEND%%; }
                 location /read {
                   rewrite_by_lua_block { ngx.req.read_body() }
                   authgear inner;
                   proxy_pass http://%%BACKEND%%;
                 }
                 location = /_auth {
                   internal;
                   proxy_pass %%RESOLVER%%;
                   proxy_pass_request_body off;
                   proxy_set_header Content-Length '';
                   proxy_set_header Host $authgear_host;
                   proxy_set_header X-Forwarded-Proto $authgear_scheme;
                 }",
            )
            .start();
        let alice = User::named("alice");
        let token = authgear.opaque_token(&alice);
        let body = vec![b'x'; 100_000];
        for path in ["/", "/open", "/inner", "/read"] {
            let (asked, gate) = (authgear.hits(), Gate::new());
            authgear.inject_next(1, Fault::Gate(gate.clone()));
            let post = get(&nginx, path).method("POST").body(body.clone()).bearer(&token);
            let pending = post.start();
            gate.wait_for_waiters(1);
            gate.open();
            let answer = pending.wait();
            assert_eq!(verdict(&answer), "valid ok resolver", "{order} {path}");
            assert_eq!(answer.header("x-runs").as_deref(), Some("1"), "{order} {path}");
            let echo = answer.echo();
            assert_eq!(echo.identity(), identity_of(&alice), "{order} {path}");
            assert_eq!(echo.body_sha256, sha256(&body), "{order} {path}");
            assert_eq!(authgear.hits() - asked, 1, "{order} {path}");
        }
        let asked = authgear.hits();
        assert_eq!(get(&nginx, "/").bearer("dead").send().status, 401, "{order}");
        assert_eq!(authgear.hits() - asked, 1, "{order}");
    }
}

/// Another module grants access after ours has denied, and the application then denies itself: our
/// denial does not change that answer.
#[test]
fn a_denial_overridden_by_satisfy_any_leaves_no_trace() {
    if !has_debian_modules() {
        return;
    }
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for (order, builder) in with_lua(|| site(&authgear, &backend)) {
        let nginx = builder
            .log_format("$authgear_reason")
            .http(project("p", &authgear, "max_fails 0;"))
            .server(
                "authgear p;
                 authgear_require session;
                 authgear_login_redirect https://login.test/;
                 satisfy any;
                 location / {
                   access_by_lua_block {
                     ngx.sleep(0.01)
                     if ngx.var.arg_let == 'in' then ngx.exit(ngx.OK) end
                     ngx.exit(ngx.HTTP_UNAUTHORIZED)
                   }
                   content_by_lua_block {
                     ngx.status = tonumber(ngx.var.arg_status)
                     ngx.say('application')
                   }
                 }",
            )
            .start();
        type Make = fn(Request) -> Request;
        const CLIENTS: [(&str, Make); 4] = [
            ("browser", |r| r.header("Accept", "text/html")),
            ("fetch", |r| r.header("Accept", "application/json")),
            ("bearer", |r| r.bearer("dead")),
            ("gRPC", |r| r.method("POST").header("Content-Type", "application/grpc")),
        ];
        for (client, make) in CLIENTS {
            for status in [200, 401, 403, 503] {
                let path = format!("/?let=in&status={status}");
                let answer = make(get(&nginx, &path)).send();
                let what = format!("{client}, {status}, {order}");
                assert_eq!(
                    (answer.status, answer.text().as_str()),
                    (status, "application\n"),
                    "{what}"
                );
                for name in ["www-authenticate", "location", "cache-control", "grpc-status"] {
                    assert_eq!(answer.header(name), None, "{name} for {what}");
                }
            }
        }
        // A request that neither module accepts is denied by both.
        let browser = CLIENTS[0].1(get(&nginx, "/?status=200"));
        let answer = browser.send();
        assert_eq!(answer.status, 302, "{order}");
    }
}

#[test]
fn redirects_and_subrequests_by_lua_are_judged_by_their_target_location() {
    if !has_debian_modules() {
        return;
    }
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for (order, builder) in with_lua(|| site(&authgear, &backend)) {
        let nginx = builder
            .server(
                "authgear %%AUTHGEAR%%;
                 location / { proxy_pass http://%%BACKEND%%; }
                 location /off { authgear off; proxy_pass http://%%BACKEND%%; }
                 location /bare { authgear_set_headers off; proxy_pass http://%%BACKEND%%; }
                 location /admin { authgear_require role=admin; proxy_pass http://%%BACKEND%%; }
                 location @named { proxy_pass http://%%BACKEND%%; }
                 location @off { authgear off; proxy_pass http://%%BACKEND%%; }
                 location /exec { access_by_lua_block { ngx.sleep(0.01) ngx.exec(ngx.var.arg_to) } }
                 location /content { content_by_lua_block { ngx.exec(ngx.var.arg_to) } }
                 location /capture {
                   content_by_lua_block {
                     local part = ngx.location.capture(ngx.var.arg_to)
                     ngx.status = part.status
                     ngx.print(part.body)
                   }
                 }",
            )
            .start();
        let alice = User::named("alice");
        let token = authgear.opaque_token(&alice);
        let (alice, nobody) = (identity_of(&alice), Pairs::new());
        for (path, identity, calls) in [
            ("/exec?to=/", &alice, 1),
            ("/exec?to=@named", &alice, 1),
            ("/exec?to=/off", &nobody, 1),
            ("/exec?to=@off", &nobody, 1),
            ("/exec?to=/bare", &nobody, 1),
            ("/content?to=/", &alice, 1),
            ("/content?to=@named", &alice, 1),
            ("/content?to=/off", &nobody, 1),
            ("/content?to=@off", &nobody, 1),
            ("/capture?to=/", &alice, 1),
            ("/capture?to=/bare", &nobody, 1),
            // Only the client's request is looked up.
            ("/capture?to=/off", &alice, 1),
            ("/capture?to=/admin", &alice, 1),
        ] {
            // A request redirected before any decision is authorized in its target location.
            let off = path.starts_with("/exec") && path.ends_with("off");
            let calls = if off && order.ends_with("deciding first") { 0 } else { calls };
            let asked = authgear.hits();
            let request = get(&nginx, path).bearer(&token).header("X-Authgear-User-Id", FORGED);
            let answer = request.send();
            assert_eq!(answer.status, 200, "{path}, {order}");
            let echo = answer.echo();
            assert_eq!(echo.identity(), *identity, "{path}, {order}");
            assert_nothing_forged(&echo, path);
            assert_eq!(authgear.hits() - asked, calls, "{path}, {order}");
        }
        for path in ["/exec?to=/admin", "/content?to=/admin"] {
            assert_eq!(get(&nginx, path).bearer(&token).send().status, 403, "{path}, {order}");
        }
    }
}

#[test]
fn headers_changed_by_lua_take_effect() {
    if !has_debian_modules() {
        return;
    }
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for (order, builder) in with_lua(|| site(&authgear, &backend)) {
        let nginx = builder
            .server(
                "authgear %%AUTHGEAR%%;
                 location / {
                   rewrite_by_lua_block {
                     ngx.req.set_header('Authorization', 'Bearer ' .. ngx.var.arg_token)
                     ngx.req.clear_header('X-First')
                     ngx.req.clear_header('X-Between')
                     ngx.req.set_header('Cookie', {'a=b', 'c=d'})
                   }
                   proxy_pass http://%%BACKEND%%;
                 }
                 location /after {
                   access_by_lua_block {
                     ngx.req.clear_header('Authorization')
                     ngx.req.clear_header('X-Authgear-User-Verified')
                     ngx.req.set_header('X-Authgear-User-Id', 'renamed')
                     if ngx.var.arg_to then ngx.exec(ngx.var.arg_to) end
                   }
                   proxy_pass http://%%BACKEND%%;
                 }
                 location @on { proxy_pass http://%%BACKEND%%; }
                 location @off { authgear off; proxy_pass http://%%BACKEND%%; }",
            )
            .start();
        let alice = User::named("alice");
        let token = authgear.opaque_token(&alice);
        let path = format!("/?token={token}");
        let request = get(&nginx, &path).header("X-First", "1").header("X-Kept", "2");
        let echo =
            request.header("X-Between", "3").bearer("dead").header("X-Last", "4").send().echo();
        assert_eq!(echo.identity(), identity_of(&alice), "{order}");
        assert_eq!(echo.header("authorization"), Some(format!("Bearer {token}").as_str()));
        let left = ["x-first", "x-kept", "x-between", "x-last"].map(|name| echo.all(name));
        assert_eq!(left, [vec![], vec!["2"], vec![], vec!["4"]], "{order}");
        if order.ends_with("deciding first") {
            continue;
        }
        // After our module, Lua overrides it until the request is redirected.
        let mut renamed = identity_of(&alice);
        renamed.retain(|(name, _)| name != "x-authgear-user-verified");
        let id = renamed.iter_mut().find(|(name, _)| name == "x-authgear-user-id").expect("an id");
        id.1 = "renamed".to_owned();
        for (to, identity) in
            [("", renamed), ("?to=@on", identity_of(&alice)), ("?to=@off", Pairs::new())]
        {
            let path = format!("/after{to}");
            let echo = get(&nginx, &path).bearer(&token).send().echo();
            assert_eq!(echo.identity(), identity, "{path}, {order}");
            assert_eq!(echo.header("authorization"), None, "{path}, {order}");
        }
    }
}
