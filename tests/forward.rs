//! `authgear_forward_credentials`: which backends get the credentials.

use std::net::SocketAddr;

use support::{get, Backend, Builder, FakeAuthgear, Fault, Nginx, Recorded, Request, User};

use crate::project::project;
use crate::site::{identity_of, site, KINDS};

/// Values of a header, whatever kind of backend recorded it.
fn values<'a>(echo: &'a Recorded, name: &str) -> Vec<&'a str> {
    let parameter = format!("HTTP_{}", name.to_uppercase());
    [echo.all(name), echo.all(&parameter)].concat()
}

/// `Authorization` and `Cookie` as a backend got them.
fn credentials(echo: &Recorded) -> (String, String) {
    (values(echo, "authorization").join(" & "), values(echo, "cookie").join(" & "))
}

fn nothing() -> (String, String) {
    Default::default()
}

#[test]
fn no_kind_of_backend_gets_credentials_that_are_not_forwarded() {
    let authgear = FakeAuthgear::start();
    let alice = User::named("alice");
    for kind in KINDS {
        let backend = (kind.start)();
        let place = |path: &str, forward: &str| {
            format!("location {path} {{ authgear_forward_credentials {forward}; {} }}", kind.pass)
        };
        let nginx = site(&authgear, &backend)
            .server("authgear %%AUTHGEAR%%;")
            .server(place("/off", "off") + &place("/on", "on"))
            .start();
        let bearer = format!("Bearer {}", authgear.opaque_token(&alice));
        let session = format!("session={}", authgear.session(&alice));
        let send = |path: &str, headers: &[(&str, &str)]| {
            let request = get(&nginx, path).header("X-First", "1");
            let request = headers.iter().fold(request, |r, (name, value)| r.header(name, value));
            request.header("X-Last", "1").send().echo()
        };
        for (headers, authorization, cookies) in [
            (&[("Authorization", bearer.as_str())][..], "", ""),
            (&[("Cookie", &session)], "", ""),
            (
                &[("cookie", &format!("lang=en; {session}; theme=\"x\""))],
                "",
                "lang=en; theme=\"x\"",
            ),
            (
                &[("Cookie", &format!("{session}; lang=en")), ("Authorization", &bearer)],
                "",
                "lang=en",
            ),
            (&[("Cookie", &session), ("Authorization", "Basic YTpi")], "Basic YTpi", ""),
            (&[("Cookie", "lang=en"), ("Authorization", &bearer)], "", "lang=en"),
        ] {
            let what = format!("{}: {headers:?}", kind.name);
            let echo = send("/off", headers);
            let expected = (authorization.to_owned(), cookies.to_owned());
            assert_eq!(credentials(&echo), expected, "{what}");
            assert_eq!(echo.identity(), identity_of(&alice), "{what}");
            let others = (values(&echo, "x-first"), values(&echo, "x_first"));
            assert_eq!(others.0.len() + others.1.len(), 1, "{what}");

            let forwarded = credentials(&send("/on", headers));
            let sent = |name: &str| {
                let of_name = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
                of_name.map(|(_, value)| (*value).to_owned()).unwrap_or_default()
            };
            assert_eq!(forwarded, (sent("authorization"), sent("cookie")), "{what}");
        }
    }
}

#[test]
fn cookies_of_others_on_several_lines_are_kept() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .listen_extra(1)
        .server(
            "listen %%ADDR2%% http2;
             authgear %%AUTHGEAR%%;
             authgear_forward_credentials off;
             location / {
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let session = format!("session={}", authgear.session(&User::named("alice")));
    let lines = |to: SocketAddr| {
        [&format!("lang=en; {session}"), &session, "app_session=x", "theme=dark"]
            .iter()
            .fold(get(&to, "/"), |request, line| request.header("Cookie", line))
    };
    let echo = lines(nginx.addr()).send().echo();
    assert_eq!(echo.all("cookie"), ["lang=en", "theme=dark"]);
    // nginx joins the cookie lines of HTTP/2.
    let h2 = lines(nginx.addr2()).send_h2().echo();
    assert_eq!(h2.all("cookie"), ["lang=en; theme=dark"]);
    for echo in [echo, h2] {
        assert_eq!(echo.header("x-authgear-user-id"), Some("alice"));
    }
}

/// Variables show what the client sent. A backend gets that only where the configuration passes the
/// variable on.
#[test]
fn variables_show_the_credentials_that_the_client_sent() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .log_format("<$http_authorization> <$http_cookie> <$cookie_session>")
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_forward_credentials off;
             location / { proxy_pass http://%%BACKEND%%; }
             location /named { proxy_set_header X-Session $cookie_session; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let request = |path: &str| get(&nginx, path).bearer("token").cookie("session", "x");
    assert_eq!(credentials(&request("/").send().echo()), nothing());
    let echo = request("/named").send().echo();
    assert_eq!((credentials(&echo), echo.all("x-session")), (nothing(), vec!["x"]));
    let line = "<Bearer token> <session=x> <x>";
    assert_eq!(nginx.wait_for_access_lines(2), [line, line]);
    // Unchanged for requests without credentials, and where nothing is withheld.
    assert_eq!(get(&nginx, "/").send().status, 200);
    get(&nginx, "/").header("Authorization", "Basic YTpi").send();
    let lines = nginx.wait_for_access_lines(4);
    assert_eq!(lines[2..], ["<-> <-> <->", "<Basic YTpi> <-> <->"]);
}

/// Caching rules of nginx that depend on credentials work, whether or not the backend gets them.
#[test]
fn a_proxy_cache_keyed_by_credentials_separates_users() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for forward in ["on", "off"] {
        let nginx = site(&authgear, &backend)
            .http("proxy_cache_path %%DIR%%/kept keys_zone=kept:1m;")
            .server(format!(
                "authgear %%AUTHGEAR%%; authgear_forward_credentials {forward};
                 proxy_cache kept; proxy_cache_valid any 1m;
                 location /by-header {{
                   proxy_no_cache $http_authorization; proxy_cache_bypass $http_authorization;
                   proxy_pass http://%%BACKEND%%;
                 }}
                 location /by-cookie {{
                   proxy_cache_key $uri$cookie_session;
                   proxy_pass http://%%BACKEND%%;
                 }}"
            ))
            .start();
        for name in ["alice", "bob", "alice"] {
            let user = User::named(name);
            let token = authgear.opaque_token(&user);
            let session = authgear.session(&user);
            for answer in [
                get(&nginx, "/by-header").bearer(&token).send(),
                get(&nginx, "/by-cookie").cookie("session", &session).send(),
            ] {
                assert_eq!(answer.echo().header("x-authgear-user-id"), Some(name), "{forward}");
            }
        }
    }
}

/// Two projects, each of which knows one of the request's credentials.
fn two_projects(one: &FakeAuthgear, other: &FakeAuthgear, backend: &Backend) -> Builder {
    site(one, backend)
        .http(project("other", other, "cookie_prefix my_;"))
        .file("html/dir/index.html", "")
        .server(
            "recursive_error_pages on;
             root html;
             location /on { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }
             location /none { authgear off; proxy_pass http://%%BACKEND%%; }
             location @on { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }

             location /off/ {
               authgear %%AUTHGEAR%%;
               authgear_forward_credentials off;
               proxy_pass http://%%BACKEND%%;

               location /off/page { error_page 404 = /on; root html; }
               location /off/named { error_page 404 = @on; root html; }
               location /off/none { error_page 404 = /none; root html; }
               location /off/try { try_files $uri /on; }
               location /off/try-named { try_files $uri @on; }
               location /off/other { error_page 404 = /other; root html; }
               location /off/same { error_page 404 = /off/; root html; }
               location /off/via { error_page 404 = /off/page; root html; }
             }
             location /other {
               authgear other;
               authgear_require session;
               authgear_forward_credentials off;
               proxy_pass http://%%BACKEND%%;
             }
             location /dir/ { authgear %%AUTHGEAR%%; authgear_forward_credentials off; }
             location = /dir/index.html { authgear other; proxy_pass http://%%BACKEND%%; }",
        )
}

#[test]
fn each_location_on_the_way_decides_anew_what_is_forwarded() {
    let one = FakeAuthgear::start();
    let other = FakeAuthgear::builder().cookie_prefix("my_").start();
    let backend = Backend::start();
    let nginx = two_projects(&one, &other, &backend).start();
    let bearer = one.opaque_token(&User::named("alice"));
    let session = other.session(&User::named("bob"));
    let cookies = format!("a=1; session=x; my_session={session}; b=2");
    let all = (format!("Bearer {bearer}"), cookies.clone());
    let without = |cookies: &str| (String::new(), cookies.to_owned());
    let first = without(&format!("a=1; my_session={session}; b=2"));
    let (alice, bob, nobody) = (Some("alice"), Some("bob"), None);
    for (path, credentials_got, user) in [
        ("/off/", &first, alice),
        ("/off/page", &all, alice),
        ("/off/named", &all, alice),
        ("/off/none", &all, nobody),
        ("/off/try", &all, alice),
        ("/off/try-named", &all, alice),
        ("/off/same", &first, alice),
        ("/off/via", &all, alice),
        // The bearer and the cookies of the other project are removed; for it, those of the first
        // are application cookies.
        ("/off/other", &without("a=1; session=x; b=2"), bob),
        ("/dir/", &all, bob),
    ] {
        let request = get(&nginx, path).bearer(&bearer).header("Cookie", &cookies);
        // Enough for several parts of nginx's list.
        let request = (0..45).fold(request, |r, n| r.header(&format!("X-Pad-{n}"), "1"));
        let echo = request.send().echo();
        assert_eq!(credentials(&echo), *credentials_got, "{path}");
        assert_eq!(echo.header("x-authgear-user-id"), user, "{path}");
        let pads = echo.headers.iter().filter(|(name, _)| name.starts_with("X-Pad-"));
        assert_eq!(pads.count(), 45, "{path}");
    }
    // The remaining headers keep their order.
    let request = get(&nginx, "/off/page").header("X-A", "1").bearer(&bearer);
    let names = request.header("X-B", "1").header("Cookie", &cookies).header("X-C", "1");
    let echo = names.send().echo();
    let order: Vec<&str> = echo.headers.iter().map(|(name, _)| name.as_str()).collect();
    let positions = ["X-A", "Authorization", "X-B", "Cookie", "X-C"]
        .map(|name| order.iter().position(|have| *have == name));
    assert!(positions.is_sorted() && positions[0].is_some(), "{order:?}");
}

#[test]
fn a_request_with_only_credentials_reaches_the_backend_without_them() {
    let one = FakeAuthgear::start();
    let other = FakeAuthgear::builder().cookie_prefix("my_").start();
    let backend = Backend::start();
    let nginx = two_projects(&one, &other, &backend).start();
    let bearer = one.opaque_token(&User::named("alice"));
    let send = |path: &str| {
        let raw = format!("GET {path} HTTP/1.0\r\nAuthorization: Bearer {bearer}\r\n\r\n");
        get(&nginx, path).raw(raw).send().echo()
    };
    assert_eq!(credentials(&send("/off/")), nothing());
    assert_eq!(credentials(&send("/off/page")).0, format!("Bearer {bearer}"));
    assert_eq!(send("/off/page").header("x-authgear-user-id"), Some("alice"));
}

#[test]
fn credentials_are_withheld_whatever_the_verdict_and_whichever_module_grants_access() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(project("p", &authgear, "max_fails 0;"))
        .server(
            "authgear p;
             authgear_forward_credentials off;
             location / { proxy_pass http://%%BACKEND%%; }
             location /anonymous { authgear_on_error anonymous; proxy_pass http://%%BACKEND%%; }
             location /dry {
               authgear_require session;
               authgear_dry_run on;
               proxy_pass http://%%BACKEND%%;
             }
             location /cors {
               authgear_require session;
               authgear_preflight pass;
               proxy_pass http://%%BACKEND%%;
             }
             location /local {
               authgear_require session;
               satisfy any;
               allow 127.0.0.1;
               deny all;
               proxy_pass http://%%BACKEND%%;
             }
             location /asks {
               auth_request /asked;
               proxy_pass http://%%BACKEND%%;
             }
             location = /asked { authgear off; proxy_pass http://%%BACKEND%%/asked; }
             location /except {
               authgear off;
               limit_except GET { authgear p; }
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let request = |path: &str| get(&nginx, path).bearer("dead").cookie("session", "dead");
    let sent = ("Bearer dead".to_owned(), "session=dead".to_owned());
    for path in ["/", "/dry", "/local", "/asks"] {
        assert_eq!(credentials(&request(path).send().echo()), nothing(), "{path}");
    }
    // A module that decides earlier gets what the client sent.
    let asked = backend.requests().into_iter().find(|asked| asked.target == "/asked");
    assert_eq!(credentials(&asked.expect("a question")), sent);
    let preflight = request("/cors")
        .method("OPTIONS")
        .header("Origin", "https://app.test")
        .header("Access-Control-Request-Method", "PUT");
    assert_eq!(credentials(&preflight.send().echo()), nothing());
    assert_eq!(credentials(&request("/except").send().echo()), sent);
    assert_eq!(credentials(&request("/except").method("PUT").send().echo()), nothing());
    authgear.inject(Fault::Status(500));
    assert_eq!(credentials(&request("/anonymous").send().echo()), nothing());
}

#[test]
fn withheld_credentials_still_authenticate_the_request() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "root html;
             location /hidden {
               authgear %%AUTHGEAR%%;
               authgear_forward_credentials off;
               error_page 404 = /strict;
             }
             location /strict { authgear %%AUTHGEAR%%; authgear_require session; }",
        )
        .start();
    let answer = get(&nginx, "/hidden").bearer("dead").send();
    assert_eq!(answer.status, 401);
    assert_eq!(answer.all("www-authenticate"), ["Bearer error=\"invalid_token\""]);
    assert_eq!(authgear.hits(), 1);
}

#[test]
fn a_mirror_gets_the_credentials_its_location_forwards() {
    let (authgear, backend, mirror) = (FakeAuthgear::start(), Backend::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .var("MIRROR", mirror.addr())
        .server(
            "location = /mirror { internal; proxy_pass http://%%MIRROR%%; }
             location / {
               authgear %%AUTHGEAR%%;
               authgear_forward_credentials off;
               mirror /mirror;
               proxy_pass http://%%BACKEND%%;
             }
             location /moved {
               authgear %%AUTHGEAR%%;
               authgear_forward_credentials off;
               mirror /mirror;
               error_page 404 = /on;
               root html;
             }
             location /on { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let send = |path: &str| {
        let request: Request = get(&nginx, path).bearer(&token).header("Cookie", "session=x; a=1");
        credentials(&request.send().echo())
    };
    let without = (String::new(), "a=1".to_owned());
    assert_eq!(send("/"), without);
    // The location of the redirect restores the credentials for the request, but not for the
    // mirror's.
    assert_eq!(send("/moved").0, format!("Bearer {token}"));
    mirror.wait_for_hits(2);
    for asked in mirror.requests() {
        assert_eq!(credentials(&asked), without);
        assert_eq!(asked.header("x-authgear-user-id"), Some("alice"));
    }
}

#[test]
fn forward_credentials_is_inherited_and_refuses_invalid_values() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http("authgear_forward_credentials off;")
        .server(
            "authgear %%AUTHGEAR%%;
             location / { proxy_pass http://%%BACKEND%%; }
             location /on { authgear_forward_credentials on; proxy_pass http://%%BACKEND%%; }
             location /no-authgear { authgear off; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    for (path, hidden) in [("/", true), ("/on", false), ("/no-authgear", false)] {
        let echo = get(&nginx, path).bearer("token").send().echo();
        assert_eq!(credentials(&echo).0.is_empty(), hidden, "{path}");
    }
    let wrong = Nginx::builder().server("authgear_forward_credentials no;").check();
    let says = "invalid value \"no\" in \"authgear_forward_credentials\" directive, it must be";
    assert!(!wrong.ok && wrong.output.contains(says), "{}", wrong.output);
}
