//! `X-Accel-Redirect` of a backend.

use support::{get, Backend, FakeAuthgear, User};

use crate::site::{site, FORGED};

#[test]
fn x_accel_redirect_targets_are_protected_by_their_location() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .listen_extra(1)
        .file("html/files/report", "report")
        .http(
            "server {
               listen %%ADDR2%%;
               access_log off;
               location / { add_header X-Accel-Redirect $arg_to; return 200 application; }
             }",
        )
        .server(
            "authgear %%AUTHGEAR%%;
             location / { proxy_pass http://%%ADDR2%%; }
             location /files/ { internal; root html; authgear_require session; }
             location /off/ { internal; authgear off; proxy_pass http://%%BACKEND%%; }
             location /on/ { internal; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let (alice, dead) = (Some(token.as_str()), Some("dead"));
    for (path, token, expected) in [
        ("/?to=/files/report", alice, (200, 1)),
        ("/?to=/files/report", dead, (401, 1)),
        ("/?to=/files/report", None, (401, 0)),
        ("/files/report", alice, (404, 0)),
        ("/?to=/off/", alice, (200, 1)),
        ("/?to=/on/", alice, (200, 1)),
    ] {
        let asked = authgear.hits();
        let request = get(&nginx, path).header("X-Authgear-User-Id", FORGED);
        let request = token.map_or(request.clone(), |token| request.bearer(token));
        let answer = request.send();
        assert_eq!((answer.status, authgear.hits() - asked), expected, "{path} {token:?}");
    }
    let got = backend.requests();
    let users: Vec<_> = got.iter().map(|request| request.all("x-authgear-user-id")).collect();
    assert_eq!(users, [vec![], vec!["alice"]]);
}
