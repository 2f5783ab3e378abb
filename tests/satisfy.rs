//! `satisfy` and `limit_except`: Authgear is one of nginx's access modules, and asked last.

use support::{get, Backend, Builder, FakeAuthgear, Fault, Request, User};

use crate::project::project;
use crate::site::site;

/// One location per access module, once with `satisfy all` and once with `satisfy any`.
fn places(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    let ways = [
        ("allowed", "allow 127.0.0.1; deny all;"),
        ("denied", "deny all;"),
        ("password", "auth_basic site; auth_basic_user_file %%DIR%%/htpasswd;"),
        ("granted", "auth_request /yes;"),
        ("refused", "auth_request /no;"),
        ("unasked", "auth_request /challenge;"),
    ];
    let place = |satisfy: &str| {
        ways.map(|(name, way)| {
            format!(
                "location /{satisfy}/{name} {{
                   satisfy {satisfy}; {way} proxy_pass http://%%BACKEND%%;
                 }}"
            )
        })
        .concat()
    };
    site(authgear, backend)
        .file("htpasswd", "basil:{PLAIN}secret\n")
        .http(project("p", authgear, "max_fails 0;"))
        .server("authgear p; authgear_require session;")
        .server(place("all") + &place("any"))
        .server(
            "location = /yes { internal; authgear off; return 204; }
             location = /no { internal; authgear off; return 403; }
             location = /challenge { internal; authgear off; return 401; }",
        )
}

#[test]
fn authgear_is_asked_only_if_other_access_modules_do_not_decide() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = places(&authgear, &backend).start();
    let session = authgear.session(&User::named("alice"));
    let valid = |r: Request| r.cookie("session", &session);
    let dead = |r: Request| r.cookie("session", "dead");
    let with = |r: Request| r.header("Authorization", "Basic YmFzaWw6c2VjcmV0");
    let wrong = |r: Request| r.header("Authorization", "Basic YmFzaWw6d3Jvbmc=");
    // Status and calls: with a valid session, with a dead one, and with none.
    for (place, add, expected) in [
        ("/all/allowed", None, [(200, 1), (401, 1), (401, 0)]),
        ("/all/denied", None, [(403, 0), (403, 0), (403, 0)]),
        ("/all/password", Some(true), [(200, 1), (401, 1), (401, 0)]),
        ("/all/password", Some(false), [(401, 0), (401, 0), (401, 0)]),
        ("/all/password", None, [(401, 0), (401, 0), (401, 0)]),
        ("/all/granted", None, [(200, 1), (401, 1), (401, 0)]),
        ("/all/refused", None, [(403, 0), (403, 0), (403, 0)]),
        ("/all/unasked", None, [(401, 0), (401, 0), (401, 0)]),
        ("/any/allowed", None, [(200, 0), (200, 0), (200, 0)]),
        ("/any/denied", None, [(200, 1), (401, 1), (401, 0)]),
        ("/any/password", Some(true), [(200, 0), (200, 0), (200, 0)]),
        ("/any/password", Some(false), [(200, 1), (401, 1), (401, 0)]),
        ("/any/password", None, [(200, 1), (401, 1), (401, 0)]),
        ("/any/granted", None, [(200, 0), (200, 0), (200, 0)]),
        ("/any/refused", None, [(200, 1), (401, 1), (401, 0)]),
        ("/any/unasked", None, [(200, 1), (401, 1), (401, 0)]),
    ] {
        let request = || match add {
            Some(true) => with(get(&nginx, place)),
            Some(false) => wrong(get(&nginx, place)),
            None => get(&nginx, place),
        };
        let requests = [valid(request()), dead(request()), request()];
        for (n, (request, (status, calls))) in requests.into_iter().zip(expected).enumerate() {
            let (asked, passed) = (authgear.hits(), backend.hits());
            let answer = request.send();
            let what = format!("{place}, password {add:?}, session {n}");
            assert_eq!((answer.status, authgear.hits() - asked), (status, calls), "{what}");
            assert_eq!(backend.hits() - passed, usize::from(status == 200), "{what}");
            if status == 200 {
                let user = answer.echo().header("x-authgear-user-id").map(str::to_owned);
                let known = (calls == 1).then(|| "alice".to_owned());
                assert_eq!(user, known, "{what}");
                assert_eq!(answer.all("www-authenticate").len(), 0, "{what}");
            }
        }
    }
    // Where either is sufficient, the denial offers both.
    let both = get(&nginx, "/any/password").send().all("www-authenticate");
    assert_eq!(both, ["Basic realm=\"site\"", "Bearer"]);
}

#[test]
fn an_outage_affects_only_requests_that_need_authgear() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = places(&authgear, &backend).start();
    authgear.inject(Fault::Status(500));
    for (place, status) in [
        ("/all/allowed", 503),
        ("/all/denied", 403),
        ("/any/allowed", 200),
        ("/any/denied", 503),
        ("/any/granted", 200),
        ("/any/refused", 503),
    ] {
        assert_eq!(get(&nginx, place).bearer("token").send().status, status, "{place}");
    }
}

#[test]
fn limit_except_can_set_another_policy_for_methods() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "authgear %%AUTHGEAR%%;
             location /read {
               limit_except GET { authgear_require session; }
               proxy_pass http://%%BACKEND%%;
             }
             location /shut {
               limit_except GET { deny all; authgear_require session; }
               proxy_pass http://%%BACKEND%%;
             }
             location /strict {
               authgear_require session;
               limit_except GET { authgear_require role=admin; }
               proxy_pass http://%%BACKEND%%;
             }
             location /off {
               authgear_require session;
               limit_except GET { authgear off; }
               proxy_pass http://%%BACKEND%%;
             }
             location /on {
               authgear off;
               limit_except GET OPTIONS { authgear %%AUTHGEAR%%; authgear_require session; }
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    // Status and calls: with a session, and without one.
    for (method, place, with, without) in [
        ("GET", "/read", (200, 1), 200),
        ("HEAD", "/read", (200, 1), 200),
        ("POST", "/read", (200, 1), 401),
        ("GET", "/shut", (200, 1), 200),
        ("POST", "/shut", (403, 0), 403),
        ("GET", "/strict", (200, 1), 401),
        ("DELETE", "/strict", (403, 1), 401),
        ("GET", "/off", (200, 1), 401),
        ("POST", "/off", (200, 0), 200),
        ("GET", "/on", (200, 0), 200),
        ("OPTIONS", "/on", (200, 0), 200),
        ("PUT", "/on", (200, 1), 401),
    ] {
        let request = get(&nginx, place).method(method);
        let asked = authgear.hits();
        let status = request.clone().bearer(&token).send().status;
        assert_eq!((status, authgear.hits() - asked), with, "{method} {place}");
        assert_eq!(request.send().status, without, "{method} {place}");
    }
}
