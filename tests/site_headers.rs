//! `authgear_header`: headers of the application's own, for every kind of backend, and from nobody
//! else.

use support::{get, Backend, FakeAuthgear, Nginx, User};

use crate::site::{assert_nothing_forged, site, FORGED, KINDS};

/// Names of a client that a backend may read as `X-WEBAUTH-USER`.
const ALIASES: [&str; 5] =
    ["X-WEBAUTH-USER", "x-webauth-user", "X_WEBAUTH_USER", "X.Webauth.User", "X-Webauth_User"];

const ALIASES_ALLOWED: &str = "underscores_in_headers on; ignore_invalid_headers off;";

#[test]
fn every_kind_of_backend_gets_the_header_from_nginx_only() {
    let authgear = FakeAuthgear::start();
    let alice = User::named("alice");
    let token = authgear.opaque_token(&alice);
    for kind in KINDS {
        let backend = (kind.start)();
        let pass = kind.pass;
        let nginx = site(&authgear, &backend)
            .http(ALIASES_ALLOWED)
            .server(format!(
                "authgear_header X-WEBAUTH-USER $x_authgear_user_id;
                 authgear %%AUTHGEAR%%;
                 location / {{ {pass} }}
                 location /off/ {{ authgear off; {pass} }}
                 location /bare/ {{ authgear_set_headers off; {pass} }}"
            ))
            .start();
        for path in ["/", "/off/", "/bare/"] {
            for session in [true, false] {
                let mut request = get(&nginx, path);
                if session {
                    request = request.bearer(&token);
                }
                for alias in ALIASES {
                    request = request.header(alias, FORGED);
                }
                let echo = request.send().echo();
                let what = format!("{} {path} {session}", kind.name);
                assert_nothing_forged(&echo, &what);
                let user = (session && path != "/off/").then_some("alice");
                let param = echo.header("HTTP_X_WEBAUTH_USER");
                assert_eq!(echo.header("X-WEBAUTH-USER").or(param), user, "{what}");
                let identity = session && path == "/";
                assert_eq!(!echo.identity().is_empty(), identity, "{what}");
            }
        }
    }
}

#[test]
fn a_header_of_one_location_is_removed_in_the_whole_server_and_in_no_other() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .listen_extra(1)
        .server(
            "location / { proxy_pass http://%%BACKEND%%; }
             location /app/ {
               authgear %%AUTHGEAR%%;
               authgear_header X-User $x_authgear_user_id;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .http("server { listen %%ADDR2%%; location / { proxy_pass http://%%BACKEND%%; } }")
        .start();
    let forged = get(&nginx, "/").header("X-User", FORGED).send().echo();
    assert_eq!(forged.header("X-User"), None);
    let other = get(&nginx.addr2(), "/").header("X-User", FORGED).send().echo();
    assert_eq!(other.header("X-User"), Some(FORGED));
}

#[test]
fn a_header_is_removed_where_authgear_is_nowhere_on() {
    let backend = Backend::start();
    let nginx = Nginx::builder()
        .var("BACKEND", backend.addr())
        .server(
            "authgear_header X-User $x_authgear_user_id;
             location / { proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let echo = get(&nginx, "/").header("X-User", FORGED).send().echo();
    assert_nothing_forged(&echo, "no project");
}

#[test]
fn lines_replace_those_of_the_level_above() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let token = authgear.opaque_token(&User::named("alice").roles(&["editor"]));
    let nginx = site(&authgear, &backend)
        .allow_log("is evaluated before there is a verdict")
        .http("map $x_authgear_user_roles $level { default none; editor Editor; }")
        .http("proxy_set_header X-Nginx yes;")
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_header X-User $x_authgear_user_id;
             # Evaluates the map before there is a verdict.
             set $early $level;
             location / { proxy_pass http://%%BACKEND%%; }
             location /app/ {
               authgear_header X-Level $level;
               authgear_header X-Session ${authgear_session};
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let above = get(&nginx, "/").bearer(&token).send().echo();
    assert_eq!((above.header("X-User"), above.header("X-Level")), (Some("alice"), None));
    let own = get(&nginx, "/app/").bearer(&token).send().echo();
    assert_eq!(own.header("X-User"), None);
    assert_eq!((own.header("X-Level"), own.header("X-Session")), (Some("Editor"), Some("valid")));
}

#[test]
fn an_internal_redirect_leaves_no_header_of_the_first_location() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let token = authgear.opaque_token(&User::named("alice"));
    let nginx = site(&authgear, &backend)
        .server(
            "location / {
               authgear %%AUTHGEAR%%;
               authgear_header X-User $x_authgear_user_id;
               try_files /nothing @next;
             }
             location @next { authgear off; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let echo = get(&nginx, "/").bearer(&token).send().echo();
    assert_eq!(echo.header("X-User"), None);
}

#[test]
fn a_value_with_control_characters_is_left_out_and_logged() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let token = authgear.opaque_token(&User::named("alice"));
    let nginx = site(&authgear, &backend)
        .server(
            "location / {
               authgear %%AUTHGEAR%%;
               authgear_header X-Page $uri;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .allow_log("authgear_header \"x-page\" is left out")
        .start();
    let split = get(&nginx, "/a%0d%0aX-User:%20forged").bearer(&token).send().echo();
    assert_eq!(split.header("X-Page"), None);
    assert_nothing_forged(&split, "a split header");
    nginx.wait_for_error_log("authgear_header \"x-page\" is left out");
    let plain = get(&nginx, "/a").bearer(&token).send().echo();
    assert_eq!(plain.header("X-Page"), Some("/a"));
}
