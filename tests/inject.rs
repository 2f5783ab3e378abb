//! Identity headers to backends: those of the location that passes the request on, once, and of no
//! other.

use support::{get, Backend, FakeAuthgear, Fault, Nginx, Request, User};

use crate::site::{assert_nothing_forged, identity_of, site, Pairs, FORGED, KINDS, LARGE_HEADERS};

fn pairs<const N: usize>(headers: [(&str, &str); N]) -> Pairs {
    headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn ended_session() -> Pairs {
    pairs([("x-authgear-session-valid", "false")])
}

#[test]
fn every_kind_of_backend_gets_the_exact_identity_values() {
    let authgear = FakeAuthgear::start();
    let roles: Vec<String> = (0..50).map(|n| format!("{n}:{}", "r".repeat(36))).collect();
    let roles: Vec<&str> = roles.iter().map(String::as_str).collect();
    let users = [
        User::named("alice"),
        User::named("5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f").roles(&["editor", "billing:admin"]),
        User::named("many roles").roles(&roles),
        User::named("amr").amr(&["pwd", "otp", "mfa"]),
        // As the fakes write bytes: those of an e with an acute accent in UTF-8, and in Latin-1.
        User::named("ren\u{c3}\u{a9}").roles(&["caf\u{e9}"]),
        User {
            anonymous: true,
            verified: false,
            can_reauthenticate: false,
            authenticated_at: 0,
            ..User::named("guest")
        },
    ];
    for kind in KINDS {
        let backend = (kind.start)();
        let location = format!("location / {{ authgear %%AUTHGEAR%%; {} }}", kind.pass);
        let nginx = site(&authgear, &backend).server(location).start();
        for user in &users {
            let what = format!("{} {}", kind.name, user.id);
            for request in [
                get(&nginx, "/").bearer(&authgear.opaque_token(user)),
                get(&nginx, "/").bearer(&authgear.jwt(user)),
                get(&nginx, "/").cookie("session", &authgear.session(user)),
            ] {
                assert_eq!(request.send().echo().identity(), identity_of(user), "{what}");
            }
        }
        let ended = authgear.session(&users[0]);
        authgear.expire(&ended);
        let rows = [
            (get(&nginx, "/").cookie("session", &ended), ended_session()),
            (get(&nginx, "/").bearer("nobody's"), Pairs::new()),
            (get(&nginx, "/"), Pairs::new()),
        ];
        for (request, identity) in rows {
            assert_eq!(request.send().echo().identity(), identity, "{}", kind.name);
        }
    }
}

#[test]
fn unknown_authgear_headers_are_passed_on() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend).server(crate::site::PROTECTED).start();
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    authgear.inject(Fault::Headers(vec![
        header("X-Authgear-Session-Valid", "true"),
        header("X-Authgear-User-Id", "alice"),
        header("X-Authgear-New-Thing", "1"),
        header("X-Authgear-Body-Signature", "no identity"),
        header("X-Other", "no identity"),
    ]));
    let echo = get(&nginx, "/").bearer("token").send().echo();
    let expected = pairs([
        ("x-authgear-new-thing", "1"),
        ("x-authgear-session-valid", "true"),
        ("x-authgear-user-id", "alice"),
    ]);
    assert_eq!(echo.identity(), expected);
    assert_eq!(echo.header("x-other"), None);
}

#[test]
fn headers_set_in_the_configuration_take_precedence() {
    let authgear = FakeAuthgear::start();
    let alice = User::named("alice").roles(&["editor"]);
    let token = authgear.opaque_token(&alice);
    let own = |kind: usize, lines: &str| {
        let kind = KINDS[kind];
        let backend = (kind.start)();
        let location = format!("location / {{ authgear %%AUTHGEAR%%; {} {lines} }}", kind.pass);
        let nginx = site(&authgear, &backend).server(location).start();
        get(&nginx, "/").bearer(&token).header("X-Authgear-User-Id", FORGED).send().echo()
    };
    let (proxy, fastcgi, uwsgi, scgi, grpc) = (0, 2, 3, 4, 5);
    let unchanged = |name: &str| {
        identity_of(&alice).into_iter().filter(|(have, _)| have != name).collect::<Pairs>()
    };
    let overridden = |value: &str| {
        let mut identity = unchanged("x-authgear-user-id");
        identity.push(("x-authgear-user-id".to_owned(), value.to_owned()));
        identity.sort();
        identity
    };
    for (kind, lines, expected) in [
        (proxy, "proxy_set_header X-Own 1;", identity_of(&alice)),
        (proxy, "proxy_set_header X-Authgear-User-Id mine;", overridden("mine")),
        (proxy, "proxy_set_header x-authgear-user-roles '';", unchanged("x-authgear-user-roles")),
        (grpc, "grpc_set_header X-Authgear-User-Id mine;", overridden("mine")),
        (fastcgi, "fastcgi_param HTTP_X_AUTHGEAR_USER_ID mine;", overridden("mine")),
        (uwsgi, "uwsgi_param HTTP_X_AUTHGEAR_USER_ID mine;", overridden("mine")),
        (scgi, "scgi_param HTTP_X_AUTHGEAR_USER_ID mine;", overridden("mine")),
    ] {
        assert_eq!(own(kind, lines).identity(), expected, "{lines}");
    }
}

/// nginx finds replaced headers by hash. The module computes the hashes of injected headers, for
/// names of any length.
#[test]
fn each_identity_header_can_be_replaced_by_the_configuration() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let mut headers: Pairs = identity_of(&User::named("alice").roles(&["editor"]));
    headers.extend(
        (1..=24)
            .map(|n| (format!("x-authgear-{}", &"abcdefghijklmnopqrstuvwxyz"[..n]), "x".into())),
    );
    authgear.inject(Fault::Headers(headers.clone()));
    let lines: String =
        headers.iter().map(|(name, _)| format!("proxy_set_header {name} own;\n")).collect();
    let nginx = site(&authgear, &backend)
        .http("proxy_headers_hash_max_size 4096; proxy_headers_hash_bucket_size 256;")
        .server(format!(
            "location / {{ authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; {lines} }}"
        ))
        .start();
    let echo = get(&nginx, "/").bearer("token").send().echo();
    for (name, _) in headers {
        assert_eq!(echo.all(&name), ["own"], "{name}");
    }
}

/// Two projects: a request made by [`Both`] is alice's for one and bob's for the other.
struct Both {
    one: FakeAuthgear,
    other: FakeAuthgear,
    alice: User,
    bob: User,
    token: String,
    session: String,
}

impl Both {
    fn new() -> Self {
        let (one, other) = (FakeAuthgear::start(), FakeAuthgear::start());
        let (alice, bob) = (User::named("alice").roles(&["one"]), User::named("bob"));
        let (token, session) = (one.opaque_token(&alice), other.session(&bob));
        Self { one, other, alice, bob, token, session }
    }

    /// The second project does not know the bearer, and the first ignores the cookie.
    fn request(&self, nginx: &Nginx, path: &str) -> Request {
        let request = get(nginx, path).bearer(&self.token).cookie("session", &self.session);
        let request = request.header("X-Authgear-User-Id", FORGED);
        // Enough headers for several parts of nginx's list.
        (0..45).fold(request, |r, n| r.header(&format!("X-Pad-{n}"), n.to_string()))
    }
}

#[test]
fn after_internal_redirects_the_backend_gets_the_identity_of_the_last_location_only() {
    let (both, backend) = (Both::new(), Backend::start());
    let nginx = site(&both.one, &backend)
        .http(LARGE_HEADERS)
        .var("OTHER", both.other.url())
        .file("html/dir/index.html", "")
        .server(
            "recursive_error_pages on;
             root html;
             add_header X-User $x_authgear_user_id always;

             location /one { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }
             location /other { authgear %%OTHER%%; proxy_pass http://%%BACKEND%%; }
             location /off { authgear off; proxy_pass http://%%BACKEND%%; }
             location @one { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }
             location @other { authgear %%OTHER%%; proxy_pass http://%%BACKEND%%; }
             location @off { authgear off; proxy_pass http://%%BACKEND%%; }

             location /page-one { authgear %%AUTHGEAR%%; error_page 404 = /one; }
             location /page-other { authgear %%AUTHGEAR%%; error_page 404 = /other; }
             location /page-off { authgear %%AUTHGEAR%%; error_page 404 = /off; }
             location /named-one { authgear %%AUTHGEAR%%; error_page 404 = @one; }
             location /named-other { authgear %%AUTHGEAR%%; error_page 404 = @other; }
             location /named-off { authgear %%AUTHGEAR%%; error_page 404 = @off; }
             location /try-one { authgear %%AUTHGEAR%%; try_files $uri /one; }
             location /try-other { authgear %%AUTHGEAR%%; try_files $uri /other; }
             location /try-off { authgear %%AUTHGEAR%%; try_files $uri @off; }
             location /dir/ { authgear %%AUTHGEAR%%; }
             location = /dir/index.html { authgear %%OTHER%%; proxy_pass http://%%BACKEND%%; }

             location /there-and-back { authgear %%AUTHGEAR%%; error_page 404 = /via-other; }
             location /via-other { authgear %%OTHER%%; error_page 404 = /via-off; }
             location /via-off { authgear off; error_page 404 = /via-one; }
             location /via-one { authgear %%AUTHGEAR%%; error_page 404 = @one; }
             location /from-off { authgear off; error_page 404 = /one; }",
        )
        .start();
    let (alice, bob) = (identity_of(&both.alice), identity_of(&both.bob));
    let nobody = Pairs::new();
    let rows = [
        ("/page-one", &alice, "alice"),
        ("/page-other", &bob, "bob"),
        ("/page-off", &nobody, "alice"),
        ("/named-one", &alice, "alice"),
        ("/named-other", &bob, "bob"),
        ("/named-off", &nobody, "alice"),
        ("/try-one", &alice, "alice"),
        ("/try-other", &bob, "bob"),
        ("/try-off", &nobody, "alice"),
        ("/dir/", &bob, "bob"),
        ("/there-and-back", &alice, "alice"),
        ("/from-off", &alice, "alice"),
    ];
    let padding: Pairs = (0..45).map(|n| (format!("X-Pad-{n}"), n.to_string())).collect();
    for (path, identity, variable) in rows {
        let calls = (both.one.hits(), both.other.hits());
        let answer = both.request(&nginx, path).send();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        let echo = answer.echo();
        assert_eq!(echo.identity(), *identity, "{path}");
        assert_nothing_forged(&echo, path);
        assert_eq!(answer.header("x-user").as_deref(), Some(variable), "{path}");
        let left: Pairs =
            echo.headers.iter().filter(|(name, _)| name.starts_with("X-Pad-")).cloned().collect();
        assert_eq!(left, padding, "{path}");
        assert!(both.one.hits() <= calls.0 + 1 && both.other.hits() <= calls.1 + 1, "{path}");
    }
}

#[test]
fn conditional_and_nested_locations_pass_the_identity() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "location /if {
               authgear %%AUTHGEAR%%;
               if ($arg_x) { proxy_pass http://%%BACKEND%%; }
               if ($arg_y) { set $y 1; }
               proxy_pass http://%%BACKEND%%;
             }
             location /deep {
               authgear %%AUTHGEAR%%;
               location /deep/er { proxy_pass http://%%BACKEND%%; }
               location /deep/off { authgear off; proxy_pass http://%%BACKEND%%; }
             }
             location /except {
               limit_except POST { authgear %%AUTHGEAR%%; }
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let alice = User::named("alice");
    let token = authgear.opaque_token(&alice);
    let (alice, nobody) = (identity_of(&alice), Pairs::new());
    for (method, path, identity) in [
        ("GET", "/if", &alice),
        ("GET", "/if?x=1", &alice),
        ("GET", "/if?y=1", &alice),
        ("GET", "/deep/er", &alice),
        ("GET", "/deep/off", &nobody),
        ("GET", "/except", &alice),
        ("PUT", "/except", &alice),
        ("POST", "/except", &nobody),
    ] {
        let echo = get(&nginx, path).method(method).bearer(&token).send().echo();
        assert_eq!(echo.identity(), *identity, "{method} {path}");
    }
}

#[test]
fn a_redirect_to_another_project_does_not_keep_the_first_identity() {
    let (both, backend) = (Both::new(), Backend::start());
    let nginx = site(&both.one, &backend)
        .var("OTHER", both.other.url())
        .server(
            "location / { authgear %%AUTHGEAR%%; error_page 404 = @other; }
             location @other { authgear %%OTHER%%; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let only = |request: Request| request.bearer(&both.token);
    let echo = only(get(&nginx, "/x")).send().echo();
    assert_eq!(echo.identity(), Pairs::new());

    both.other.expire(&both.session);
    let echo = both.request(&nginx, "/x").send().echo();
    assert_eq!(echo.identity(), ended_session());

    // The verdict of one project does not stand in for a missing one of another.
    both.other.inject(Fault::Status(500));
    assert_eq!(both.request(&nginx, "/x").send().status, 503);
    assert_eq!(backend.hits(), 2);
}

#[test]
fn access_granted_without_authgear_passes_no_identity() {
    let (both, backend) = (Both::new(), Backend::start());
    let nginx = site(&both.one, &backend)
        .file("htpasswd", "basil:{PLAIN}secret\n")
        .server(
            "authgear %%AUTHGEAR%%;
             satisfy any;
             location /address {
               allow 127.0.0.1;
               deny all;
               proxy_pass http://%%BACKEND%%;
             }
             location /password {
               auth_basic site;
               auth_basic_user_file %%DIR%%/htpasswd;
               proxy_pass http://%%BACKEND%%;
             }
             location /asked { satisfy all; error_page 404 = /address; }",
        )
        .start();
    let cookie = |path: &str| get(&nginx, path).cookie("session", &both.one.session(&both.alice));
    assert_eq!(cookie("/address").send().echo().identity(), Pairs::new());
    let password = cookie("/password").header("Authorization", "Basic YmFzaWw6c2VjcmV0");
    assert_eq!(password.send().echo().identity(), Pairs::new());
    assert_eq!(both.one.hits(), 0);

    // A look-up in the first location does not change that for the next.
    assert_eq!(cookie("/asked").send().echo().identity(), Pairs::new());
    assert_eq!(both.one.hits(), 1);

    // A session alone grants no access: another module decides.
    assert_eq!(cookie("/address").from_addr("127.0.0.2").send().status, 403);
    assert_eq!(cookie("/password").send().status, 401);
    assert_eq!(backend.hits(), 3);
}

#[test]
fn a_request_denied_by_another_module_makes_no_look_up() {
    let (both, backend, guard) = (Both::new(), Backend::start(), Backend::start());
    let nginx = site(&both.one, &backend)
        .var("GUARD", guard.addr())
        .file("htpasswd", "basil:{PLAIN}secret\n")
        .server(
            "authgear %%AUTHGEAR%%;
             location /address { deny all; proxy_pass http://%%BACKEND%%; }
             location /password {
               auth_basic site;
               auth_basic_user_file %%DIR%%/htpasswd;
               proxy_pass http://%%BACKEND%%;
             }
             location /refused { auth_request /no; proxy_pass http://%%BACKEND%%; }
             location /granted { auth_request /yes; proxy_pass http://%%BACKEND%%; }
             location = /no { return 403; }
             location = /yes { internal; proxy_pass http://%%GUARD%%; }",
        )
        .start();
    for (path, status) in [("/address", 403), ("/password", 401), ("/refused", 403)] {
        assert_eq!(both.request(&nginx, path).send().status, status, "{path}");
        assert_eq!((both.one.hits(), backend.hits()), (0, 0), "{path}");
    }
    let echo = both.request(&nginx, "/granted").send().echo();
    assert_eq!(echo.identity(), identity_of(&both.alice));
    let asked = &guard.requests()[0];
    assert_eq!(asked.identity(), Pairs::new());
    assert_nothing_forged(asked, "auth_request");

    let password = |request: Request| request.header("Authorization", "Basic YmFzaWw6c2VjcmV0");
    let session = get(&nginx, "/password").cookie("session", &both.one.session(&both.alice));
    assert_eq!(password(session).send().echo().identity(), identity_of(&both.alice));
}
