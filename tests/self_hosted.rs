//! nginx-conf/self-hosted.conf: the three servers of Authgear behind the nginx of the application.

use std::net::SocketAddr;

use serde_json::json;
use support::{
    get, webhook_signature, Backend, Builder, Ca, FakeAuthgear, Fault, Nginx, Request, User,
};

use crate::browser::Browser;
use crate::examples::{example, run};
use crate::site::{own_ip, Pairs};

const PAGES: &str = "auth.example.com";
const APPLICATION: &str = "www.example.com";
const SECRET: &str = "0123456789abcdefghijABCDEFGHIJ_Z";

/// A text that only the page of a failed login shows.
const PROBLEM: &str = "There was a problem performing this action";

struct Deployment {
    authgear: FakeAuthgear,
    backend: Backend,
    ca: Ca,
    /// Address of nginx in the private network.
    private: SocketAddr,
}

impl Deployment {
    /// Starts all but nginx. `n` distinguishes the callers.
    fn start(n: u16) -> Self {
        let authgear = FakeAuthgear::builder()
            .origin(&format!("https://{PAGES}"))
            .cookie_domain("example.com")
            .cookie_prefix("myapp_")
            .three_servers()
            .start();
        for name in ["alice", "bob"] {
            authgear.add_user(User::named(name));
        }
        let uris = ["_authgear/callback", ""].map(|path| format!("https://{APPLICATION}/{path}"));
        authgear.register("0123456789abcdef", &uris);
        let private = (own_ip(44), 8080 + n).into();
        Self { authgear, backend: Backend::start(), ca: Ca::new(), private }
    }

    /// The example with these further replacements.
    fn example(&self, more: &[(&str, &str)]) -> Builder {
        let [resolver, admin] = self.authgear.other_addrs();
        let addrs = [self.backend.addr(), self.authgear.addr(), resolver, admin, self.private];
        let [backend, main, resolver, admin, private] = addrs.map(|addr| addr.to_string());
        let replace = [
            ("127.0.0.1:8000", backend.as_str()),
            ("10.0.0.7:3000", &main),
            ("10.0.0.7:3001", &resolver),
            ("10.0.0.7:3002", &admin),
            ("10.0.0.5:8081", &private),
            ("allow 10.0.0.0/8", "allow 127.0.0.1"),
            ("/etc/nginx/example.com", "%%DIR%%/example.com"),
            ("/etc/nginx/authgear-webhook.secret", "%%DIR%%/webhook.secret"),
        ];
        let identity = self.ca.leaf(&[PAGES, APPLICATION]);
        example("self-hosted.conf", &[&replace[..], more].concat())
            .file("example.com.pem", identity.cert_pem)
            .file("example.com.key", identity.key_pem)
            .secret_file("webhook.secret", SECRET)
    }

    fn ask(&self, nginx: &Nginx, host: &str, path: &str) -> Request {
        get(nginx, path).tls(&self.ca, host).header("Host", host)
    }

    /// A request to the server for the private network.
    fn ask_privately(&self, path: &str) -> Request {
        get(&self.private, path).method("POST")
    }
}

fn click(browser: &Browser, element: &str) {
    browser.run(&format!("document.querySelector('{element}').click()"));
}

#[test]
fn a_browser_logs_in_and_out_on_pages_of_authgear_behind_the_same_nginx() {
    let deployment = Deployment::start(1);
    let nginx = run(|| deployment.example(&[]));
    let browser = Browser::with_hosts(&[PAGES, APPLICATION], nginx.addr());
    let page = format!("https://{APPLICATION}/deep/page?a=b");
    browser.go(&page);
    browser.wait_for_url(&format!("https://{PAGES}/login?"));
    click(&browser, "#alice");
    browser.wait_for_url(&page);
    assert!(browser.text().contains("\"x-authgear-user-id\",\"alice\""), "{}", browser.text());

    let session = browser.cookie("myapp_session");
    let replayed = || {
        let request = deployment.ask(&nginx, APPLICATION, "/").cookie("myapp_session", &session);
        request.send().status
    };
    let asked = deployment.authgear.hits();
    assert_eq!((replayed(), deployment.authgear.hits()), (200, asked), "it is cached");
    browser.go(&format!("https://{PAGES}/logout"));
    click(&browser, "button");
    browser.wait_for_url(&format!("https://{PAGES}/settings"));
    assert_eq!(replayed(), 401);
    browser.go(&page);
    browser.wait_for_url(&format!("https://{PAGES}/login?"));

    // The admin API was asked by nobody.
    assert_eq!(deployment.authgear.connections_to_others()[1], 0);
}

#[test]
fn nobody_can_log_in_where_the_header_of_the_login_page_is_removed() {
    let deployment = Deployment::start(2);
    let line = ("Forwarded         \"\";", "Forwarded \"\"; proxy_set_header X-Authgear-XHR \"\";");
    let nginx = run(|| deployment.example(&[line]));
    let browser = Browser::with_hosts(&[PAGES, APPLICATION], nginx.addr());
    browser.go(&format!("https://{APPLICATION}/"));
    browser.wait_for_url(&format!("https://{PAGES}/login?"));
    click(&browser, "#alice");
    let shown = support::eventually(support::DEADLINE, || browser.text().contains(PROBLEM));
    assert!(shown, "{} at {}", browser.text(), browser.url());
}

#[test]
fn the_self_hosted_example_keeps_the_private_servers_private() {
    let deployment = Deployment::start(3);
    let nginx = run(|| deployment.example(&[]));
    let Deployment { authgear, backend, .. } = &deployment;
    let ask = |host: &str, path: &str| deployment.ask(&nginx, host, path);
    let session = authgear.session(&User::named("alice"));

    // Neither public host leads to the resolver or the admin API.
    for path in ["/_resolver/resolve", "/resolve", "/_api/admin/graphql"] {
        assert_eq!(ask(PAGES, path).send().status, 404, "{path}");
        assert_eq!(ask(APPLICATION, path).send().status, 401, "{path}");
    }
    assert_eq!(authgear.connections_to_others(), [0, 0]);
    assert_eq!(backend.hits(), 0);

    // The module asks the resolver at its own port, about the public host.
    authgear.take_requests();
    assert_eq!(ask(APPLICATION, "/").cookie("myapp_session", &session).send().status, 200);
    let asked = authgear.take_requests().remove(0);
    assert_eq!(asked.target, "/_resolver/resolve");
    assert_eq!(asked.all("x-forwarded-proto"), ["https"]);
    assert_eq!(
        (asked.header("host"), asked.header("x-forwarded-host")),
        (Some(PAGES), Some(PAGES))
    );
    assert_eq!(authgear.connections_to_others(), [1, 0]);

    // Authgear gets no header that it trusts from a client, and no identity.
    let forged = ["Forwarded", "X-Forwarded-For", "X-Real-IP", "X-Original-For"]
        .into_iter()
        .fold(ask(PAGES, "/settings"), |request, name| request.header(name, "for=192.0.2.1"));
    let forged = ["X-Forwarded-Host", "X-Original-Host"]
        .into_iter()
        .fold(forged, |request, name| request.header(name, "evil.example"))
        .header("X-Forwarded-Proto", "http, https")
        .header("X-Original-Proto", "http")
        .cookie("myapp_session", &session);
    assert_eq!(forged.send().status, 200);
    let got = authgear.take_requests().remove(0);
    assert_eq!(got.identity(), Pairs::new());
    let trusted = ["forwarded", "x-forwarded-", "x-original-", "x-real-ip"];
    let mut trusted: Vec<_> = got
        .headers
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
        .filter(|(name, _)| trusted.iter().any(|begin| name.starts_with(begin)))
        .collect();
    trusted.sort();
    let expected = [
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", PAGES),
        ("x-forwarded-proto", "https"),
        ("x-real-ip", "127.0.0.1"),
    ];
    assert_eq!(trusted, expected.map(|(name, value)| (name.to_owned(), value)));
    assert_eq!(got.header("host"), Some(PAGES));

    // A long state fits the buffers.
    let state = "s".repeat(6000);
    let authorize = ask(
        PAGES,
        &format!(
            "/oauth2/authorize?response_type=none&scope=openid&client_id=0123456789abcdef&\
             redirect_uri=https%3A%2F%2F{APPLICATION}%2F_authgear%2Fcallback&state={state}"
        ),
    );
    let sent = authorize.send();
    assert!(sent.header("location").is_some_and(|to| to.contains(&state)), "{}", sent.status);
}

#[test]
fn the_private_server_of_the_self_hosted_example_has_the_admin_api_and_the_webhooks() {
    let deployment = Deployment::start(4);
    let nginx = run(|| deployment.example(&[]));
    let Deployment { authgear, .. } = &deployment;
    let session = authgear.session(&User::named("alice"));
    let ask = || {
        let request = deployment.ask(&nginx, APPLICATION, "/").cookie("myapp_session", &session);
        request.send().status
    };
    assert_eq!(ask(), 200);

    let admin = || deployment.ask_privately("/_api/admin/graphql").bearer("admin");
    assert_eq!(admin().from_addr("127.0.0.2").send().status, 403);
    assert_eq!(authgear.connections_to_others(), [1, 0]);
    assert_eq!(admin().send().json(), json!({ "data": null }));

    // A kept session of a disabled user ends with the event.
    let event = json!({
        "id": "1", "seq": 1, "type": "user.disabled",
        "payload": { "user": { "id": "alice", "is_disabled": true } },
        "context": { "timestamp": support::unix_now(), "user_id": "alice" },
    })
    .to_string();
    let signature = webhook_signature(SECRET.as_bytes(), event.as_bytes());
    let hook = deployment.ask_privately("/hooks/authgear").body(event.as_str());
    let hook = hook.header("x-authgear-body-signature", signature);
    authgear.disable("alice");
    assert_eq!(ask(), 200, "it is cached");
    assert_eq!(hook.clone().from_addr("127.0.0.2").send().status, 403);
    assert_eq!((ask(), hook.send().status), (200, 204));
    assert_eq!(ask(), 401);
}

#[test]
fn pages_of_authgear_stay_open_while_the_resolver_fails() {
    let deployment = Deployment::start(5);
    let nginx = run(|| deployment.example(&[]));
    let session = deployment.authgear.session(&User::named("alice"));
    deployment.authgear.inject_at("/_resolver/resolve", Fault::Status(503));
    let status = |host: &str| {
        let request = deployment.ask(&nginx, host, "/settings");
        request.cookie("myapp_session", &session).send().status
    };
    assert_eq!((status(APPLICATION), status(PAGES)), (503, 200));
}
