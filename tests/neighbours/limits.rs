//! `limit_req` and `limit_conn`, which run before the access phase.

use support::{get, Backend, FakeAuthgear, Fault, Gate, User};

use crate::site::{identity_of, site};

#[test]
fn rate_limited_requests_make_no_look_up_and_limits_can_be_keyed_by_user() {
    let (authgear, backend, gate) = (FakeAuthgear::start(), Backend::start(), Gate::new());
    let nginx = site(&authgear, &backend)
        .http(
            "limit_req_zone $server_name zone=requests:1m rate=1r/m;
             limit_req_zone $server_name zone=delayed:1m rate=50r/s;
             limit_req_zone $x_authgear_user_id zone=users:1m rate=1r/m;
             limit_conn_zone $server_name zone=connections:1m;",
        )
        .server(
            "authgear %%AUTHGEAR%%;
             location /requests { limit_req zone=requests; proxy_pass http://%%BACKEND%%; }
             location /delayed { limit_req zone=delayed burst=9; proxy_pass http://%%BACKEND%%; }
             location /early { limit_req zone=users; proxy_pass http://%%BACKEND%%; }
             location /users { try_files /nothing @limited; }
             location @limited { limit_req zone=users; proxy_pass http://%%BACKEND%%; }
             location /connections {
               limit_conn connections 1;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let alice = User::named("alice");
    let token = authgear.opaque_token(&alice);
    let request = |path: &str| get(&nginx, path).bearer(&token);
    let served = |path: &str| {
        let answer = request(path).send();
        if answer.status == 200 {
            assert_eq!(answer.echo().identity(), identity_of(&alice), "{path}");
        }
        answer.status
    };
    assert_eq!([served("/requests"), served("/requests")], [200, 503]);
    assert_eq!(authgear.hits(), 1);
    // Delayed requests are looked up afterwards.
    let pending = [(); 4].map(|()| request("/delayed").start());
    for pending in pending {
        assert_eq!(pending.wait().echo().identity(), identity_of(&alice));
    }
    // The limits apply before the look-up, so the user is unknown; but the verdict survives a
    // redirect.
    assert_eq!([served("/early"), served("/early")], [200, 200]);
    assert_eq!([served("/users"), served("/users")], [200, 503]);
    let bob = authgear.opaque_token(&User::named("bob"));
    assert_eq!(get(&nginx, "/users").bearer(&bob).send().status, 200);

    let asked = authgear.hits();
    authgear.inject(Fault::Gate(gate.clone()));
    let first = request("/connections").start();
    gate.wait_for_waiters(1);
    assert_eq!(served("/connections"), 503);
    gate.open();
    assert_eq!(first.wait().status, 200);
    assert_eq!(authgear.hits() - asked, 1);
}
