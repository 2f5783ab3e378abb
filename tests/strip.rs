//! Forged `x-authgear-*` headers of a client reach no backend, and its other headers are unchanged.

use support::{get, Backend, Builder, Connection, FakeAuthgear, Recorded, Request, User, H2};

use crate::site::{
    assert_nothing_forged, identity_of, site, Kind, Pairs, FORGED, KINDS, LARGE_HEADERS, PROTECTED,
};

/// Names that some backends fold into one of Authgear's.
const ALIASES: [&str; 13] = [
    "X-Authgear-User-Id",
    "x-authgear-user-id",
    "X-AUTHGEAR-SESSION-VALID",
    "X_Authgear_User_Id",
    "X.Authgear.User.Id",
    "x-Authgear_User.Roles",
    "X~Authgear~Session!Valid",
    "X-Authgear-",
    "X-Authgear-Anything-New",
    "X-Authgear-Body_Signature",
    "X-Authgear-Body-Signature2",
    "X-Authgear-User-Id",
    "X-Authgear-Session-Acr",
];

/// nginx drops most aliases itself, unless told otherwise.
const ALIASES_ALLOWED: &str = "underscores_in_headers on; ignore_invalid_headers off;";

/// A server that uses the module, on `%%ADDR%%` and for HTTP/2 on `%%ADDR2%%`, and one that does
/// not on `%%ADDR3%%` and `%%ADDR4%%`: both pass everything to the backend.
fn with_and_without(authgear: &FakeAuthgear, backend: &Backend, kind: Kind) -> Builder {
    let pass = kind.pass;
    site(authgear, backend)
        .http(ALIASES_ALLOWED)
        .http(LARGE_HEADERS)
        .http("keepalive_requests 10000;")
        .listen_extra(3)
        .server(format!("listen %%ADDR2%% http2; authgear %%AUTHGEAR%%; location / {{ {pass} }}"))
        .http(format!(
            "server {{
               listen %%ADDR3%%;
               listen %%ADDR4%% http2;
               server_name localhost;
               location / {{ {pass} }}
             }}"
        ))
}

/// The n-th header of a list: a forged one, or a legitimate one.
fn header(n: usize, forged: bool) -> (String, String) {
    match (forged, n % 10) {
        (true, _) => (ALIASES[n % ALIASES.len()].to_owned(), format!("{FORGED} {n}")),
        (false, 3) => ("Cookie".to_owned(), format!("c{n}={n}")),
        (false, 7) => ("X-Forwarded-For".to_owned(), format!("192.0.2.{n}")),
        (false, 9) => ("X-Authgear-Body-Signature".to_owned(), format!("signature {n}")),
        (false, _) => (format!("X-Pad-{n}"), format!("padding {n}")),
    }
}

/// Header lists with different forged parts. nginx keeps 20 headers in each part of a list.
fn lists() -> Vec<(String, Pairs)> {
    const LEN: usize = 45;
    let places = [0, 1, 2, 17, 18, 19, 20, 21, 22, 37, 38, 39, 40, 41, 42];
    let runs = places.iter().flat_map(|&at| [1, 2, 19, 20, 21].map(|len| (at, len)));
    let list = |forged: &dyn Fn(usize) -> bool| (0..LEN).map(|n| header(n, forged(n))).collect();
    let mut lists: Vec<(String, Pairs)> = runs
        .map(|(at, len)| (format!("{len} from {at}"), list(&|n| (at..at + len).contains(&n))))
        .collect();
    lists.push(("interleaved".to_owned(), list(&|n| n % 2 == 0)));
    lists.push(("interleaved, last".to_owned(), list(&|n| n % 2 == 1)));
    lists.push(("many".to_owned(), (0..400).map(|n| header(n, n % 3 != 0)).collect()));
    lists.push(("first and last".to_owned(), list(&|n| n == 0 || n == LEN - 1)));
    for len in [1, 8, 18, 19, 20, 21, 39, 40, 41] {
        lists.push((format!("only {len}"), (0..len).map(|n| header(n, true)).collect()));
    }
    lists
}

/// A GET with a list of headers, with or without the forged ones.
fn request(backend: &Backend, list: &Pairs, forged: bool) -> Request {
    let headers = list.iter().filter(|(_, value)| forged || !value.contains(FORGED));
    let request = get(backend, "/").header("Host", "site.test");
    headers.fold(request, |request, (name, value)| request.header(name, value))
}

/// All headers the backend got, without the ports of the two ways.
fn seen(echo: &Recorded) -> Pairs {
    let port = |name: &str| ["REMOTE_PORT", "SERVER_PORT"].contains(&name);
    echo.headers.iter().filter(|(name, _)| !port(name)).cloned().collect()
}

#[test]
fn backends_get_all_headers_except_forged_ones() {
    let authgear = FakeAuthgear::start();
    for kind in KINDS {
        let backend = (kind.start)();
        let nginx = with_and_without(&authgear, &backend, kind).start();
        let mut with = Connection::open(&nginx);
        let mut without = Connection::open(&nginx.addr_n(3));
        let (h2_with, h2_without) = (H2::open(&nginx.addr2()), H2::open(&nginx.addr_n(4)));
        for (name, list) in lists() {
            let all = request(&backend, &list, true);
            let clean = request(&backend, &list, false);
            let what = format!("{}, {name}", kind.name);
            let (sent, expected) = (with.send(&all).echo(), without.send(&clean).echo());
            assert_eq!(seen(&sent), seen(&expected), "{what}");
            let (sent, expected) = (h2_with.send(&all).echo(), h2_without.send(&clean).echo());
            assert_eq!(seen(&sent), seen(&expected), "{what}, HTTP/2");
        }
    }
    assert_eq!(authgear.hits(), 0);
}

#[test]
fn without_the_module_forged_headers_reach_the_backend() {
    // Without the module everything comes through: what the test above compares does differ.
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = with_and_without(&authgear, &backend, KINDS[0]).start();
    let list: Pairs = (0..ALIASES.len()).map(|n| header(n, true)).collect();
    let request = request(&backend, &list, true);
    let h1 = Connection::open(&nginx.addr_n(3)).send(&request).echo();
    let h2 = H2::open(&nginx.addr_n(4)).send(&request).echo();
    for echo in [h1, h2] {
        let forged = echo.headers.iter().filter(|(_, value)| value.contains(FORGED)).count();
        assert_eq!(forged, ALIASES.len(), "{echo:?}");
    }
}

#[test]
fn a_request_with_only_forged_headers_arrives_without_them() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = with_and_without(&authgear, &backend, KINDS[0]).start();
    for len in [1, 2, 19, 20, 21, 40, 41] {
        let forged = (0..len).map(|n| header(n, true));
        let lines: String = forged.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let raw = |lines: &str| format!("GET / HTTP/1.0\r\n{lines}\r\n");
        let echo = get(&nginx, "/").raw(raw(&lines)).send().echo();
        let expected = get(&nginx.addr_n(3), "/").raw(raw("")).send().echo();
        assert_eq!(seen(&echo), seen(&expected), "{len}");
    }
    // HTTP/0.9 has no headers at all, and nginx no list of them.
    let hits = backend.hits();
    let mut old = Connection::open(&nginx);
    old.write(b"GET /old\r\n");
    backend.wait_for_hits(hits + 1);
    assert_eq!(backend.requests()[hits].target, "/old");
}

#[test]
fn the_identity_replaces_forged_headers() {
    let authgear = FakeAuthgear::start();
    let alice = User::named("alice").roles(&["editor"]);
    let token = authgear.opaque_token(&alice);
    for kind in KINDS {
        let backend = (kind.start)();
        let nginx = with_and_without(&authgear, &backend, kind).start();
        let (mut h1, h2) = (Connection::open(&nginx), H2::open(&nginx.addr2()));
        for (name, list) in lists().into_iter().step_by(7) {
            let list: Pairs =
                list.into_iter().filter(|(n, _)| n != "X-Authgear-Body-Signature").collect();
            let request = request(&backend, &list, true).bearer(&token);
            for echo in [h1.send(&request).echo(), h2.send(&request).echo()] {
                let what = format!("{}, {name}", kind.name);
                assert_eq!(echo.identity(), identity_of(&alice), "{what}");
                assert_nothing_forged(&echo, &what);
            }
        }
    }
}

#[test]
fn forged_headers_are_invisible_to_the_configuration() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(ALIASES_ALLOWED)
        .http(
            "map $http_x_authgear_user_id $mapped { '' nobody; default $http_x_authgear_user_id; }",
        )
        .server(
            "authgear %%AUTHGEAR%%;
             if ($http_x_authgear_user_id) { return 418; }
             if ($mapped != nobody) { return 418; }
             location /return { return 200 '[$http_x_authgear_user_id][$mapped]'; }
             location /if { if ($http_x_authgear_user_id) { return 418; } return 200 [][nobody]; }
             location /off { authgear off; return 200 '[$http_x_authgear_user_id][$mapped]'; }
             location /rewrite {
               rewrite ^ /to?id=$http_x_authgear_user_id break;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    for alias in ["X-Authgear-User-Id", "x_authgear_user_id", "X-Authgear_User-ID"] {
        let ask = |path: &str| get(&nginx, path).header(alias, FORGED).send();
        for path in ["/return", "/if", "/off"] {
            assert_eq!(ask(path).text(), "[][nobody]", "{alias} {path}");
        }
        assert_eq!(ask("/rewrite").echo().target, "/to?id=", "{alias}");
    }
}

#[test]
fn forged_headers_are_stripped_in_every_location_of_the_server() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(ALIASES_ALLOWED)
        .server(
            "error_page 404 = @named;
             location / { proxy_pass http://%%BACKEND%%; }
             location /deep/ {
               location /deep/er/ { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }
               proxy_pass http://%%BACKEND%%;
             }
             location /off/ { authgear off; proxy_pass http://%%BACKEND%%; }
             location /headers/ {
               authgear off;
               proxy_set_header X-Own 1;
               proxy_pass http://%%BACKEND%%;
             }
             location /regex { if ($arg_x) { proxy_pass http://%%BACKEND%%; } return 404; }
             location /except/ {
               limit_except POST { authgear %%AUTHGEAR%%; }
               proxy_pass http://%%BACKEND%%;
             }
             location /rewritten/ { rewrite ^ /off/ last; }
             location /missing/ { root %%DIR%%/html; }
             location @named { proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let paths = "/ /deep/ /deep/er/ /off/ /headers/ /regex?x=1 /except/ /rewritten/ /missing/";
    for path in paths.split(' ') {
        for method in ["GET", "POST"] {
            let anonymous = get(&nginx, path).method(method);
            let anonymous = ALIASES.iter().fold(anonymous, |r, alias| r.header(alias, FORGED));
            for request in [anonymous.clone().bearer(&token), anonymous] {
                let answer = request.send();
                assert_nothing_forged(&answer.echo(), &format!("{method} {path}"));
            }
        }
    }
}

#[test]
fn servers_without_authgear_keep_all_headers() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let pass = "location / { proxy_pass http://%%BACKEND%%; }";
    let nginx = site(&authgear, &backend)
        .listen_extra(3)
        .http("authgear %%AUTHGEAR%%;")
        .server("location / { proxy_pass http://%%ADDR2%%; }")
        .http(format!("server {{ listen %%ADDR2%%; authgear off; {pass} }}"))
        .http(format!(
            "server {{
               listen %%ADDR3%%;
               authgear off;
               {pass}
               location /on {{ authgear %%AUTHGEAR%%; }}
             }}"
        ))
        .http(format!("server {{ listen %%ADDR4%%; {pass} }}"))
        .start();
    let alice = User::named("alice");
    let forged = |n| get(&nginx.addr_n(n), "/").header("X-Authgear-User-Id", FORGED);
    // The identity set by the first server is not forged for the next hop.
    let next_hop = forged(1).bearer(&authgear.opaque_token(&alice)).send().echo();
    assert_eq!(next_hop.identity(), identity_of(&alice));
    for (n, seen) in [(2, Some(FORGED)), (3, None), (4, None)] {
        let echo = forged(n).send().echo();
        assert_eq!(echo.header("x-authgear-user-id"), seen, "server {n}");
    }
}

/// Headers that Authgear's own pages and servers send, and their aliases.
#[test]
fn headers_of_authgear_itself_pass_under_their_exact_names_only() {
    let authgear = FakeAuthgear::start();
    for kind in KINDS {
        let backend = (kind.start)();
        let nginx = with_and_without(&authgear, &backend, kind).start();
        for name in ["x-authgear-body-signature", "x-authgear-xhr", "x-authgear-portal-is-proxied"]
        {
            for spelling in [name.to_owned(), name.to_ascii_uppercase()] {
                let request =
                    get(&nginx, "/").header(&spelling, "abc").header("X-Authgear-User-Id", FORGED);
                let h2 = get(&nginx.addr2(), "/").header(&spelling, "abc");
                for echo in [request.send().echo(), h2.send_h2().echo()] {
                    let kept = (name.to_owned(), "abc".to_owned());
                    assert_eq!(echo.identity(), [kept], "{} {spelling}", kind.name);
                }
            }
            let alias = name.replacen("x-authgear-", "X-Authgear_", 1);
            let echo = get(&nginx, "/").header(&alias, "abc").send().echo();
            assert_eq!(echo.identity(), [], "{} {alias}", kind.name);
        }
    }
}

#[test]
fn neither_trailers_nor_connection_tokens_forge_or_hide() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let pass = "proxy_http_version 1.1; proxy_pass http://%%BACKEND%%;";
    let nginx = site(&authgear, &backend)
        .server(format!(
            "authgear %%AUTHGEAR%%;
             location / {{ {pass} }}
             location /unbuffered {{ proxy_request_buffering off; {pass} }}"
        ))
        .start();
    let alice = User::named("alice");
    let token = authgear.opaque_token(&alice);
    for path in ["/", "/unbuffered"] {
        let raw = format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\
             Connection: close, X-Authgear-User-Id, X-Authgear-Session-Valid\r\n\
             Trailer: X-Authgear-User-Id\r\nTransfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Authgear-User-Id: {FORGED}\r\n\r\n"
        );
        let echo = get(&nginx, path).method("POST").raw(raw).send().echo();
        assert_eq!(echo.identity(), identity_of(&alice), "{path}");
        assert_eq!(echo.body_len, 5, "{path}");
        assert_nothing_forged(&echo, path);
    }
}

#[test]
fn mirrors_get_the_identity_and_no_forged_headers() {
    let (authgear, backend, mirror) = (FakeAuthgear::start(), Backend::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .var("MIRROR", mirror.addr())
        .server(PROTECTED)
        .server(
            "mirror /mirror;
             location = /mirror {
               internal;
               proxy_pass http://%%MIRROR%%$request_uri;
             }",
        )
        .start();
    let alice = User::named("alice");
    let forged = get(&nginx, "/").header("X-Authgear-User-Id", FORGED).body("body").method("POST");
    let rows = [
        (forged.clone().bearer(&authgear.opaque_token(&alice)), identity_of(&alice)),
        (forged, Pairs::new()),
    ];
    for (n, (request, identity)) in rows.into_iter().enumerate() {
        assert_eq!(request.send().echo().identity(), identity);
        mirror.wait_for_hits(n + 1);
        let mirrored = &mirror.requests()[n];
        assert_eq!((mirrored.identity(), mirrored.body_len), (identity, 4));
    }
    assert_eq!(authgear.hits(), 1);
}
