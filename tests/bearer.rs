//! `authgear_bearer`: the token of clients that cannot send `Authorization`, such as WebSockets of
//! browsers.

use serde_json::json;
use support::{get, Backend, FakeAuthgear, User, WebSocket};

use crate::browser::Browser;
use crate::examples::{run, Public};
use crate::project::{project_site, verdict};

#[test]
fn a_token_from_a_variable_counts_as_bearer_without_authorization() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for mode in ["resolver", "jwt", "auto"] {
        // Another worker that has not seen the keys yet verifies the token again.
        let nginx = project_site(&authgear, &backend, "")
            .workers(1)
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

#[test]
fn purge_self_forgets_the_verdict_on_a_token_from_a_variable() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = project_site(&authgear, &backend, "")
        .http("authgear_cache_zone z:1m;")
        .server(
            "authgear p; authgear_cache z; authgear_bearer $http_x_token;
             location / { proxy_pass http://%%BACKEND%%; }
             location = /logout { authgear_purge self; }",
        )
        .start();
    let (alice, bob) = (User::named("alice"), User::named("bob"));
    let tokens = [&alice, &alice, &bob].map(|user| authgear.opaque_token(user));
    let dead = "dead".to_owned();
    let verdict_on = |token: &str| verdict(&get(&nginx, "/").header("X-Token", token).send());
    let log_out = |token: &str| {
        let logout = get(&nginx, "/logout").method("POST").header("X-Token", token);
        assert_eq!(logout.send().status, 204);
    };
    for token in tokens.iter().chain([&dead]) {
        assert!(verdict_on(token).ends_with(" resolver"), "{token}");
        assert!(verdict_on(token).ends_with(" cache"), "{token}");
    }
    // All verdicts on the user, and on no other one.
    log_out(&tokens[0]);
    let again = tokens.each_ref().map(|token| verdict_on(token));
    assert_eq!(again, ["valid ok resolver", "valid ok resolver", "valid ok cache"]);
    // A verdict without a user is forgotten by its credentials.
    assert!(verdict_on(&dead).ends_with(" cache"));
    log_out(&dead);
    assert!(verdict_on(&dead).ends_with(" resolver"));
}

#[test]
fn a_token_from_a_variable_keeps_set_cookie_from_being_relayed() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = project_site(&authgear, &backend, "")
        .server(
            "authgear p; authgear_bearer $arg_access_token; authgear_relay_cookies on;
             location / { proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let session = authgear.session(&User::named("alice"));
    authgear.expire(&session);
    let ask = |target: &str| get(&nginx, target).cookie("session", &session);
    let cleared = ask("/").send().all("set-cookie");
    assert!(cleared.len() == 1 && cleared[0].starts_with("session=;"), "{cleared:?}");
    let token = authgear.opaque_token(&User::named("bob"));
    for token in [token.as_str(), "dead"] {
        let by_header = ask("/").bearer(token).send().all("set-cookie");
        let by_variable = ask(&format!("/?access_token={token}")).send().all("set-cookie");
        assert_eq!(by_variable, by_header, "{token}");
        assert_eq!(by_variable.len(), 0, "{token}");
    }
}

/// nginx-conf/bearer.conf with a browser.
#[test]
fn a_browser_opens_a_web_socket_with_its_token_as_subprotocol() {
    let (public, backend) = (Public::start(45), Backend::start());
    let nginx = run(|| {
        // The application answers with the subprotocol that it was offered.
        let offered = "proxy_set_header   Sec-WebSocket-Protocol app.v1;";
        let answered = format!("{offered} add_header Sec-WebSocket-Protocol app.v1 always;");
        public.example_at("bearer.conf", &backend.addr().to_string()).raw_conf(move |conf| {
            assert!(conf.contains(offered), "{conf}");
            conf.replace(offered, &answered)
        })
    });
    let browser = Browser::start();
    // Any page of the site, here that of a denial.
    browser.go(&nginx.url("/live/page"));
    let open = |token: &str| {
        browser.run(&format!(
            "return await new Promise(done => {{
               const socket = new WebSocket(`ws://${{location.host}}/live/a`,
                                            ['app.v1', 'bearer.{token}']);
               socket.onopen = () => socket.send('hello');
               socket.onmessage = message => {{
                 done([socket.protocol, message.data]);
                 socket.close();
               }};
               socket.onerror = () => done('refused');
             }});"
        ))
    };
    let token = public.authgear.jwt(&User::named("alice"));
    assert_eq!(open(&token), json!(["app.v1", "hello"]));
    let request = backend.requests().remove(0);
    assert_eq!(request.header("x-authgear-user-id"), Some("alice"));
    assert_eq!(request.all("sec-websocket-protocol"), ["app.v1"]);
    assert_eq!(open("dead"), json!("refused"));
    assert_eq!(backend.hits(), 1);
}
