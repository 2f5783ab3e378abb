//! `authgear_bearer`: the token of clients that cannot send `Authorization`, such as WebSockets of
//! browsers.

use support::{get, Backend, FakeAuthgear, User, WebSocket};

use crate::project::{project_site, verdict};

#[test]
fn a_token_from_a_variable_counts_as_bearer_without_authorization() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for mode in ["resolver", "jwt", "auto"] {
        let nginx = project_site(&authgear, &backend, "")
            .http(
                "authgear_cache_zone z:1m;
                 map $http_sec_websocket_protocol $offered {
                   ~(^|,\\s*)bearer\\.(?<token>[^,\\s]+) $token;
                 }",
            )
            .server(format!(
                "authgear p; authgear_mode {mode}; authgear_cache z; authgear_require session;
                 authgear_bearer $offered $arg_access_token;
                 add_header X-Subject $authgear_claim_sub always;
                 location / {{ proxy_pass http://%%BACKEND%%; proxy_http_version 1.1;
                   proxy_set_header Upgrade $http_upgrade;
                   proxy_set_header Connection upgrade; }}
                 location /off {{ authgear_bearer off; proxy_pass http://%%BACKEND%%; }}
                 location = /moved {{ error_page 404 = /target; root /nowhere; }}"
            ))
            .start();
        let (alice, bob) = (authgear.jwt(&User::named("alice")), authgear.jwt(&User::named("bob")));
        let user = |target: &str| {
            let answer = get(&nginx, target).send();
            assert_eq!(answer.status, 200, "{mode} {target}");
            let user = answer.echo().header("x-authgear-user-id").map(str::to_owned);
            if mode == "jwt" {
                assert_eq!(answer.header("x-subject"), user);
            }
            user.expect("a user")
        };
        assert_eq!(user(&format!("/?access_token={alice}")), "alice");
        assert_eq!(user(&format!("/?access_token={bob}")), "bob");
        // The redirect drops the arguments; the verdict and the claims stay.
        assert_eq!(user(&format!("/moved?access_token={bob}")), "bob");
        // The key is that of the same token in a header.
        let same = verdict(&get(&nginx, "/").bearer(&alice).send());
        assert!(same == "valid ok cache", "{mode} {same}");
        // An Authorization header takes precedence, whatever it holds.
        let dead = get(&nginx, &format!("/?access_token={alice}")).bearer("dead").send();
        assert_eq!(dead.status, 401, "{mode}");
        assert_eq!(get(&nginx, "/?access_token=").send().status, 401, "{mode}");
        assert_eq!(get(&nginx, &format!("/off?access_token={alice}")).send().status, 401);
        let invalid = get(&nginx, "/?access_token=dead").send();
        assert_eq!(invalid.all("www-authenticate"), ["Bearer error=\"invalid_token\""]);

        let offer = format!("app.v1, bearer.{alice}");
        let request = get(&nginx, "/ws").header("Sec-WebSocket-Protocol", offer);
        let mut socket = WebSocket::open(&request).expect("an open WebSocket");
        socket.send("hello");
        assert_eq!(socket.receive(), "hello");
        socket.close();
        let refused = WebSocket::open(&get(&nginx, "/ws")).expect_err("no token");
        assert_eq!(refused.status, 401);
    }
}
