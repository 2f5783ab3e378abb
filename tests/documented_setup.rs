//! Authgear's documented set-up: plain nginx with `auth_request`. The module is compared with its
//! results for Authgear's decision table.

use support::{decision_table, get, Backend, Builder, Ca, Case, FakeAuthgear, Fault, Nginx, User};

/// The server of the documentation, its lines as they stand there; comments and the DNS resolver,
/// which addresses do not need, left out.
pub(crate) const SERVER: &str = "
  location / {
    set $backend %%BACKEND%%;
    proxy_pass $backend;
    proxy_set_header Host $host;
    auth_request /_auth;

    auth_request_set $x_authgear_session_valid $upstream_http_x_authgear_session_valid;
    auth_request_set $x_authgear_user_id $upstream_http_x_authgear_user_id;
    auth_request_set $x_authgear_user_anonymous $upstream_http_x_authgear_user_anonymous;
    auth_request_set $x_authgear_user_verified $upstream_http_x_authgear_user_verified;
    auth_request_set $x_authgear_session_acr $upstream_http_x_authgear_session_acr;
    auth_request_set $x_authgear_session_amr $upstream_http_x_authgear_session_amr;
    auth_request_set $x_authgear_session_authenticated_at $upstream_http_x_authgear_session_authenticated_at;
    auth_request_set $x_authgear_user_can_reauthenticate $upstream_http_x_authgear_user_can_reauthenticate;

    proxy_set_header x-authgear-session-valid $x_authgear_session_valid;
    proxy_set_header x-authgear-user-id $x_authgear_user_id;
    proxy_set_header x-authgear-user-anonymous $x_authgear_user_anonymous;
    proxy_set_header x-authgear-user-verified $x_authgear_user_verified;
    proxy_set_header x-authgear-session-acr $x_authgear_session_acr;
    proxy_set_header x-authgear-session-amr $x_authgear_session_amr;
    proxy_set_header x-authgear-session-authenticated-at $x_authgear_session_authenticated_at;
    proxy_set_header x-authgear-user-can-reauthenticate $x_authgear_user_can_reauthenticate;
  }

  location = /_auth {
    internal;
    set $resolver %%AUTHGEAR%%/_resolver/resolve;
    proxy_pass $resolver;
    proxy_set_header Host %%AUTHGEAR_HOST%%;
    proxy_pass_request_body off;
    proxy_set_header Content-Length \"\";
  }
";

/// Plain nginx set up as documented for this Authgear.
pub(crate) fn documented_conf(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    let host = authgear.origin().split_once("://").map_or("", |(_, host)| host);
    Nginx::builder()
        .without_module()
        .server(SERVER)
        .var("BACKEND", backend.url())
        .var("AUTHGEAR", authgear.url())
        .var("AUTHGEAR_HOST", host)
}

/// The headers that the documented set-up passes to the backend: its list lacks the roles, and
/// nginx drops empty headers.
pub(crate) fn documented_identity(case: &Case) -> Vec<(String, String)> {
    let mut identity = case.identity();
    identity.retain(|(name, value)| name != "x-authgear-user-roles" && !value.is_empty());
    identity
}

/// An Authgear on HTTPS under a public name, as the documentation assumes.
pub(crate) fn public_authgear() -> FakeAuthgear {
    let identity = Ca::new().leaf(&["myapp.test"]);
    FakeAuthgear::builder().origin("https://myapp.test").tls(identity).start()
}

#[test]
fn the_documented_setup_passes_the_identity_of_every_row_of_the_decision_table() {
    let (authgear, backend) = (public_authgear(), Backend::start());
    let nginx = documented_conf(&authgear, &backend).start();
    for case in decision_table(&authgear) {
        let answer = case.apply(get(&nginx, "/path?query")).send();
        assert_eq!(answer.status, 200, "{}", case.name);
        assert_eq!(answer.header("set-cookie"), None, "{}", case.name);
        let echo = answer.echo();
        assert_eq!(echo.target, "/path?query");
        assert_eq!(echo.identity(), documented_identity(&case), "{}", case.name);
    }
    let asked = &authgear.requests()[0];
    assert_eq!((asked.method.as_str(), asked.body_len), ("GET", 0));
    assert_eq!(asked.header("host"), Some("myapp.test"));
}

#[test]
fn the_documented_setup_protects_only_the_headers_it_lists() {
    let (authgear, backend) = (public_authgear(), Backend::start());
    let nginx = documented_conf(&authgear, &backend).start();
    let bearer = authgear.opaque_token(&User::named("alice"));
    let forged = get(&nginx, "/")
        .bearer(&bearer)
        .header("X-Authgear-User-Id", "admin")
        .header("X-Authgear-User-Roles", "admin");
    let echo = forged.send().echo();
    assert_eq!(echo.all("x-authgear-user-id"), ["alice"]);
    assert_eq!(echo.all("x-authgear-user-roles"), ["admin"]);
}

#[test]
fn the_documented_setup_answers_500_when_authgear_fails() {
    let (authgear, backend) = (public_authgear(), Backend::start());
    let nginx = documented_conf(&authgear, &backend).start();
    for fault in [Fault::Status(500), Fault::Status(404), Fault::CloseAtOnce] {
        authgear.inject(fault);
        assert_eq!(get(&nginx, "/").send().status, 500);
    }
    authgear.stop();
    assert_eq!(get(&nginx, "/").send().status, 500);
    assert_eq!(backend.hits(), 0);
}
