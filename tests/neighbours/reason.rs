//! `$authgear_reason` while the login URL is made.

use support::{get, Backend, FakeAuthgear, User};

use crate::site::site;

#[test]
fn a_login_url_can_be_chosen_by_the_reason_of_the_denial() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .log_format("$authgear_reason")
        .http("map $authgear_reason $prompt { default none; authentication_too_old login; }")
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_require session;
             authgear_require max_age=1m;
             authgear_login_redirect https://login.test/?prompt=$prompt&reason=$authgear_reason;
             location / { proxy_pass http://%%BACKEND%%; }
             location /dry { authgear_dry_run on; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let old = User { authenticated_at: 1, ..User::named("alice") };
    let token = authgear.opaque_token(&old);
    let browser = |path: &str| get(&nginx, path).header("Accept", "text/html");
    for (request, expected) in [
        (browser("/").bearer(&token), "?prompt=login&reason=authentication_too_old"),
        (browser("/").bearer("dead"), "?prompt=none&reason=no_session"),
        (browser("/"), "?prompt=none&reason=no_credentials"),
    ] {
        let to = request.send().header("location").expect("a redirect");
        assert_eq!(to, format!("https://login.test/{expected}"));
    }
    // A trial changes no reason.
    assert_eq!(browser("/dry").bearer(&token).send().status, 200);
    assert_eq!(nginx.wait_for_access_lines(4)[3], "ok");
}
