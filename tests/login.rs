//! `authgear_login`: a browser is led to Authgear and back, steps up, and logs out.

use support::{get, Backend, Builder, FakeAuthgear, Nginx, Request, Response, User};

use crate::project::project;
use crate::site::site;

const CLIENT: &str = "client_id web; max_fails 0;";

/// A server with `authgear_login`, whose verdicts are kept for a minute.
fn login_site(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend)
        .http(project("p", authgear, CLIENT))
        .http("authgear_cache_zone z:1m; authgear_cache z;")
        .server(
            "authgear p;
             authgear_require session;
             authgear_login on;
             location / { proxy_pass http://%%BACKEND%%; }
             location /fresh { authgear_require max_age=1m; proxy_pass http://%%BACKEND%%; }
             location /role { authgear_require role=admin error=401; proxy_pass http://%%BACKEND%%; }
             location /write { authgear_require session same_site; proxy_pass http://%%BACKEND%%; }
             location /_authgear { deny all; }",
        )
}

fn page(nginx: &Nginx, path: &str) -> Request {
    get(nginx, path)
        .header("Accept", "text/html")
        .header("Sec-Fetch-Mode", "navigate")
        .header("Sec-Fetch-Dest", "document")
}

fn status(request: Request) -> u16 {
    request.send().status
}

#[track_caller]
fn location(answer: &Response) -> String {
    answer.header("location").unwrap_or_else(|| panic!("{} without a Location", answer.status))
}

/// The URL at which a login begins, for a site at this address.
fn authorize(authgear: &FakeAuthgear, nginx: &Nginx, options: &str, state: &str) -> String {
    let callback = format!("http%3A//{}/_authgear/callback", nginx.addr()).replacen(
        &format!(":{}", nginx.addr().port()),
        &format!("%3A{}", nginx.addr().port()),
        1,
    );
    format!(
        "{}/oauth2/authorize?response_type=none&scope=openid&client_id=web&\
         redirect_uri={callback}{options}&state={state}",
        authgear.origin()
    )
}

#[test]
fn a_navigation_without_a_session_is_led_to_log_in_and_other_requests_are_not() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = login_site(&authgear, &backend).start();
    let answer = page(&nginx, "/a/b?c=d").send();
    assert_eq!(answer.status, 302);
    let expected = authorize(&authgear, &nginx, "&x_page=login", "/a/b%3Fc%3Dd");
    assert_eq!(location(&answer), expected);
    assert_eq!(answer.header("set-cookie"), None);
    // A path that is no path of this site is not repeated.
    let expected = authorize(&authgear, &nginx, "&x_page=login", "/");
    assert_eq!(location(&page(&nginx, "//evil.test/x").send()), expected);
    assert_eq!(status(get(&nginx, "/a").header("Accept", "application/json")), 401);
    assert_eq!(status(page(&nginx, "/a").method("POST")), 401);
    // A session that lacks a role is not helped by a login.
    let session = authgear.session(&User::named("bob"));
    assert_eq!(status(page(&nginx, "/role").cookie("session", &session)), 401);
}

#[test]
fn the_callback_forgets_asks_and_returns_to_the_page() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = login_site(&authgear, &backend).start();
    let session = authgear.session(&User::named("alice"));
    let back = |state: &str| {
        let path = format!("/_authgear/callback?state={state}");
        page(&nginx, &path).cookie("session", &session).send()
    };
    let answer = back("/a%3Fb%3Dc");
    assert_eq!((answer.status, location(&answer)), (303, "/a?b=c".to_owned()));
    assert_eq!(answer.header("cache-control").as_deref(), Some("no-store"));
    for state in ["//evil.test", "/%5Cevil.test", "%252f%252fevil.test", "https://evil.test", ""] {
        assert_eq!(location(&back(state)), "/", "{state}");
    }
    // Each of them asked, whatever is kept. What it learned is kept.
    assert_eq!(authgear.hits(), 6);
    assert_eq!(status(page(&nginx, "/").cookie("session", &session)), 200);
    assert_eq!(authgear.hits(), 6);
    assert_eq!(status(page(&nginx, "/_authgear/callback").method("POST")), 405);
}

#[test]
fn a_callback_without_a_session_or_with_an_error_is_a_page_and_never_a_redirect() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = login_site(&authgear, &backend).start();
    let none = page(&nginx, "/_authgear/callback?state=/a").send();
    assert_eq!((none.status, none.header("location")), (403, None));
    assert!(none.text().contains("cookie_not_shared"), "{}", none.text());
    let policy = none.header("content-security-policy").expect("a policy");
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let ended = authgear.session(&User::named("alice"));
    authgear.expire(&ended);
    let invalid = page(&nginx, "/_authgear/callback?state=/a").cookie("session", &ended).send();
    assert_eq!((invalid.status, invalid.header("location")), (403, None));
    let error = "/_authgear/callback?error=access_denied&error_description=%3Cb%3Ehello";
    let error = page(&nginx, error).send();
    assert_eq!((error.status, error.header("location")), (400, None));
    assert!(error.text().contains("access_denied") && !error.text().contains("hello"));
    authgear.stop();
    let session = authgear.session(&User::named("bob"));
    let down = page(&nginx, "/_authgear/callback?state=/a").cookie("session", &session).send();
    assert_eq!((down.status, down.header("location")), (503, None));
}

#[test]
fn a_session_that_is_too_old_steps_up_once() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = login_site(&authgear, &backend).start();
    let session = authgear.session(&User::named("alice"));
    let first = page(&nginx, "/fresh?a").cookie("session", &session).send();
    let expected = authorize(&authgear, &nginx, "&x_page=login&prompt=login", "/fresh%3Fa");
    assert_eq!((first.status, location(&first)), (302, expected));
    let mark = first.header("set-cookie").expect("a mark");
    assert_eq!(mark, "authgear_step_up=1; Path=/; Max-Age=300; HttpOnly; SameSite=Lax");
    let cookies = format!("session={session}; authgear_step_up=1");
    let second = page(&nginx, "/fresh?a").header("Cookie", &cookies).send();
    assert_eq!((second.status, second.header("location")), (401, None));
}

#[test]
fn a_logout_forgets_the_user_and_keeps_nothing_until_authgear_has_ended_the_session() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = login_site(&authgear, &backend).start();
    let session = authgear.session(&User::named("alice"));
    let here = || status(page(&nginx, "/").cookie("session", &session));
    assert_eq!((here(), here(), authgear.hits()), (200, 200, 1));
    let logout = || page(&nginx, "/_authgear/logout").cookie("session", &session);
    // A link of another site, and one that was typed in, are asked about first.
    for site in ["cross-site", "none"] {
        for method in ["GET", "POST"] {
            let asked = logout().method(method).header("Sec-Fetch-Site", site).send();
            assert_eq!((asked.status, asked.header("location")), (200, None), "{site} {method}");
            assert!(asked.text().contains("<form method=\"post\" action=\"/_authgear/logout\">"));
        }
    }
    assert_eq!((here(), authgear.hits()), (200, 1));
    let out = logout().header("Sec-Fetch-Site", "same-origin").send();
    let target = format!("http%3A//{}", nginx.addr())
        .replace(&format!(":{}", nginx.addr().port()), &format!("%3A{}", nginx.addr().port()));
    let url =
        format!("{}/oauth2/end_session?post_logout_redirect_uri={target}/", authgear.origin());
    assert_eq!((out.status, location(&out)), (303, url));
    assert_eq!(out.header("set-cookie"), None);
    // Authgear has not ended the session yet: what it says is not kept.
    assert_eq!((here(), here(), authgear.hits()), (200, 200, 3));
    authgear.expire(&session);
    assert_eq!((here(), authgear.hits()), (302, 4));
    let post = logout().method("POST").header("Sec-Fetch-Site", "same-origin").body("a=b");
    assert_eq!(status(post), 303);
}

#[test]
fn authgear_returns_from_a_logout_to_the_place_that_is_named() {
    let authgear = FakeAuthgear::start();
    for (post_logout, expected) in [
        ("/bye", "http%3A//www.example.com/bye"),
        ("https://example.com/", "https%3A//example.com/"),
        ("https://example.com", "https%3A//example.com"),
    ] {
        let nginx = Nginx::builder()
            .http(project("p", &authgear, CLIENT))
            .server(format!("authgear p; authgear_login on post_logout={post_logout};"))
            .start();
        let out = page(&nginx, "/_authgear/logout").header("Host", "www.example.com");
        let out = out.header("Sec-Fetch-Site", "same-origin").send();
        let url =
            format!("{}/oauth2/end_session?post_logout_redirect_uri={expected}", authgear.origin());
        assert_eq!((out.status, location(&out)), (303, url));
    }
}

#[test]
fn any_host_of_the_site_finishes_a_login_that_another_one_began() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let one = login_site(&authgear, &backend).start();
    let begun = location(&page(&one, "/a?b=c").send());
    one.stop();
    let other = login_site(&authgear, &backend).start();
    let (_, state) = begun.split_once("&state=").expect("a state");
    let session = authgear.session(&User::named("alice"));
    let callback = page(&other, &format!("/_authgear/callback?state={state}"));
    assert_eq!(location(&callback.cookie("session", &session).send()), "/a?b=c");
}

#[test]
fn the_page_to_sign_up_returns_to_a_path_of_this_site() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = login_site(&authgear, &backend).start();
    for (state, expected) in [("/a", "/a"), ("//evil.test", "/"), ("", "/")] {
        let answer = page(&nginx, &format!("/_authgear/signup?state={state}")).send();
        let expected = authorize(&authgear, &nginx, "&x_page=signup", expected);
        assert_eq!((answer.status, location(&answer)), (303, expected));
    }
}

#[test]
fn a_return_and_a_rewrite_of_the_server_come_before_the_paths_and_locations_after() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .listen_extra(1)
        .http(project("p", &authgear, CLIENT))
        .http("authgear_public_origin https://www.example.com;")
        .http("authgear p; authgear_require session; authgear_login on;")
        .server("rewrite ^ /other; location / { return 204; }")
        .http("server { listen %%ADDR2%%; return 301 https://www.example.com$request_uri; }")
        .start();
    let signup = page(&nginx, "/_authgear/signup").send();
    let begin = "&redirect_uri=https%3A//www.example.com/_authgear/callback&x_page=signup";
    assert!(location(&signup).contains(begin), "{}", location(&signup));
    let plain = get(&nginx.addr2(), "/_authgear/callback?state=/a").send();
    let https = "https://www.example.com/_authgear/callback?state=/a";
    assert_eq!((plain.status, location(&plain)), (301, https.to_owned()));
}

#[test]
fn of_two_ways_to_log_in_that_of_the_lower_level_is_taken() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .listen_extra(1)
        .http(project("p", &authgear, CLIENT))
        .http("authgear p; authgear_require session; authgear_public_origin https://a.test;")
        .server(
            "authgear_login on;
             location / { try_files /none =404; }
             location /a {
               authgear_login_redirect /x?r=$authgear_return_to;
               try_files /none =404;
             }",
        )
        .http(
            "server {
               listen %%ADDR2%%;
               authgear_login_redirect /x;
               location / { try_files /none =404; }
               location /b { authgear_login on; try_files /none =404; }
             }",
        )
        .start();
    let led = location(&page(&nginx, "/a").send());
    assert!(led.ends_with("/x?r=https%3A%2F%2Fa%2Etest%2Fa"), "{led}");
    let other = get(&nginx.addr2(), "/b").header("Accept", "text/html").send();
    let other = location(&other);
    assert!(other.contains("/oauth2/authorize?"), "{other}");
    // try_files of a location does not apply to the paths of the login.
    let callback = get(&nginx.addr2(), "/_authgear/callback").send();
    assert_eq!(callback.status, 403);
}

#[test]
fn a_write_by_a_cookie_must_come_from_this_site_where_that_is_required() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = login_site(&authgear, &backend).start();
    let alice = User::named("alice");
    let session = authgear.session(&alice);
    let write = || get(&nginx, "/write").method("POST").cookie("session", &session);
    let origin = format!("http://{}", nginx.addr());
    assert_eq!(status(get(&nginx, "/write").cookie("session", &session)), 200);
    assert_eq!(status(write().header("Sec-Fetch-Site", "same-origin")), 200);
    assert_eq!(status(write().header("Origin", &origin)), 200);
    for (name, value) in [("Sec-Fetch-Site", "cross-site"), ("Origin", "https://evil.test")] {
        let denied = write().header(name, value).header("Accept", "application/json").send();
        assert_eq!(denied.status, 403);
        assert!(denied.text().contains("\"cross_site\""), "{}", denied.text());
    }
    assert_eq!(status(write()), 403);
    // A page of any site can open a WebSocket with the cookies of this one.
    let opens = || {
        let request = get(&nginx, "/write").cookie("session", &session);
        request.header("Connection", "Upgrade").header("Upgrade", "websocket")
    };
    assert_eq!(status(opens().header("Origin", "https://evil.test")), 403);
    assert_ne!(status(opens().header("Origin", &origin)), 403);
    let bearer = format!("Bearer {}", authgear.jwt(&alice));
    assert_eq!(status(get(&nginx, "/write").method("POST").header("Authorization", &bearer)), 200);
}

#[test]
fn a_page_of_authgear_that_clears_the_cookie_makes_this_server_forget() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(project("p", &authgear, CLIENT))
        .http("authgear_cache_zone z:1m; authgear_cache z;")
        .server(
            "authgear p;
             location / { proxy_pass http://%%BACKEND%%; }
             location /pages/ { authgear_pages on; proxy_pass http://%%ADDR%%/clearing/; }
             location = /oauth2/revoke { authgear_pages on; proxy_pass http://%%BACKEND%%; }
             location /other/ { proxy_pass http://%%ADDR%%/clearing/; }
             location /clearing/ {
               authgear off;
               add_header Set-Cookie 'session=; Path=/';
               return 200;
             }",
        )
        .start();
    let session = authgear.session(&User::named("alice"));
    let hits_after = |path: &str| {
        assert_eq!(status(get(&nginx, path).cookie("session", &session)), 200);
        authgear.hits()
    };
    assert_eq!((hits_after("/"), hits_after("/other/"), hits_after("/")), (1, 1, 1));
    assert_eq!((hits_after("/pages/"), hits_after("/")), (1, 2));
    let revoke = || get(&nginx, "/oauth2/revoke").cookie("session", &session);
    assert_eq!((status(revoke()), hits_after("/")), (200, 2));
    assert_eq!((status(revoke().method("POST").body("token=x")), hits_after("/")), (200, 3));
}

#[test]
fn nginx_t_refuses_a_login_that_cannot_work() {
    let named = "authgear_project p { endpoint https://192.0.2.1; client_id web; }
         authgear_project q { endpoint https://192.0.2.2; client_id web; }
         authgear_project bare { endpoint https://192.0.2.3; }";
    for (server, expected) in [
        ("authgear bare; authgear_login on;", "without \"client_id\""),
        ("authgear https://192.0.2.1; authgear_login on;", "without \"client_id\""),
        ("authgear p; authgear_login on; authgear_mode jwt;", "ignores the cookies"),
        ("authgear p; authgear_login on; authgear_require amr=mfa;", "amr="),
        ("authgear p; authgear_login on; authgear_login_redirect /x;", "at the same level"),
        ("authgear p; authgear_login_redirect /x; authgear_login on;", "at the same level"),
        (
            "authgear p; authgear_login on; location /q { authgear q; authgear_login on; }",
            "have the same path \"/_authgear/callback\"",
        ),
        ("authgear p; authgear_login on callback=x;", "callback=, logout=, signup="),
        ("authgear p; authgear_login on callback=/a logout=/a;", "same path for two purposes"),
        ("authgear p; authgear_login on post_logout=a;", "callback=, logout=, signup="),
        ("authgear p; authgear_login on post_logout=//a/;", "callback=, logout=, signup="),
        ("authgear p; authgear_login on post_logout=javascript:a;", "callback=, logout=, signup="),
        ("authgear p; authgear_login off post_logout=/;", "callback=, logout=, signup="),
        (
            "authgear p; authgear_login on;
             location /a { authgear_login on post_logout=/bye; }",
            "post_logout=/ and post_logout=/bye for the same path",
        ),
        ("authgear p; authgear_login maybe;", "\"on\" or \"off\""),
        ("authgear p; authgear_login on; authgear_login on;", "is duplicate"),
    ] {
        let test = Nginx::builder().http(named).server(server).check();
        assert!(!test.ok && test.output.contains(expected), "{server}: {}", test.output);
    }
    for server in [
        "authgear p; authgear_login on; location /a { authgear_login_redirect /x; }",
        "authgear p; authgear_login_redirect /x; location /a { authgear_login on; }",
        "authgear p; authgear_login off; authgear_login_redirect /x;",
        "authgear p; authgear_login on; authgear_mode auto; authgear_require amr=mfa;",
        "authgear p; authgear_login on; location /q { authgear q;
           authgear_login on callback=/q/cb logout=/q/out signup=/q/up; }",
    ] {
        let test = Nginx::builder().http(named).server(server).check();
        assert!(test.ok, "{server}: {}", test.output);
    }
}
