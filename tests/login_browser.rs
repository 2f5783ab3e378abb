//! `authgear_login` in Chromium, with the pages of the fake Authgear.

use serde_json::json;
use support::{get, Backend, FakeAuthgear, Nginx, User};

use crate::browser::Browser;
use crate::project::project;
use crate::site::site;

/// A site with `authgear_login`, registered at Authgear, which knows alice and bob.
struct Site {
    authgear: FakeAuthgear,
    _backend: Backend,
    nginx: Nginx,
}

impl Site {
    fn start() -> Self {
        let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
        for name in ["alice", "bob"] {
            authgear.add_user(User::named(name));
        }
        let nginx = site(&authgear, &backend)
            .http(project("p", &authgear, "client_id web;"))
            .http("authgear_cache_zone z:1m; authgear_cache z;")
            .server(
                "authgear p;
                 authgear_require session;
                 authgear_login on;
                 location / { proxy_pass http://%%BACKEND%%; }
                 location /fresh {
                   authgear_cache off;
                   authgear_require max_age=1h;
                   proxy_pass http://%%BACKEND%%;
                 }
                 location /welcome {
                   authgear_require off;
                   default_type text/html;
                   return 200 '<!doctype html><a id=out href=/_authgear/logout>out</a>';
                 }
                 location = /favicon.ico { authgear off; return 204; }",
            )
            .start();
        let uris = ["/_authgear/callback", "/"].map(|path| nginx.url(path));
        authgear.register("web", &uris);
        Self { authgear, _backend: backend, nginx }
    }

    fn at(&self, path: &str) -> String {
        self.nginx.url(path)
    }

    fn login_page(&self) -> String {
        format!("{}/login?", self.authgear.origin())
    }

    fn authorize_hits(&self) -> usize {
        let requests = self.authgear.requests();
        requests.iter().filter(|request| request.target.starts_with("/oauth2/authorize")).count()
    }

    /// Opens a page, which leads to the login, and logs in there.
    #[track_caller]
    fn log_in(&self, browser: &Browser, path: &str, user: &str) {
        browser.go(&self.at(path));
        browser.wait_for_url(&self.login_page());
        click(browser, user);
        browser.wait_for_url(&self.at(path));
        assert_shows(browser, user);
    }
}

fn click(browser: &Browser, id: &str) {
    browser.run(&format!("document.getElementById('{id}').click()"));
}

#[track_caller]
fn assert_shows(browser: &Browser, text: &str) {
    let shown =
        support::eventually(std::time::Duration::from_secs(60), || browser.text().contains(text));
    assert!(shown, "{text} expected at {}: {}", browser.url(), browser.text());
}

#[test]
fn a_browser_logs_in_steps_up_and_logs_out_without_a_line_in_the_application() {
    let site = Site::start();
    let browser = Browser::start();
    site.log_in(&browser, "/deep/page?b=c&d=//e", "alice");
    assert_eq!(browser.url(), site.at("/deep/page?b=c&d=//e"));

    // The page that went before is no longer shown; the one after is.
    browser.go(&site.at("/next"));
    browser.run("history.back()");
    browser.wait_for_url("/deep/page");

    // A session that is too old authenticates again, without the choice to continue.
    site.authgear.change_user("alice", |alice| alice.authenticated_at = 1);
    browser.go(&site.at("/fresh"));
    browser.wait_for_url("prompt=login");
    assert!(!browser.text().contains("Continue"), "{}", browser.text());
    click(&browser, "alice");
    browser.wait_for_url(&site.at("/fresh"));
    assert_shows(&browser, "alice");

    // A click logs out, here and at Authgear; the old cookie is worth nothing.
    let session = browser.cookie("session");
    let replayed = || get(&site.nginx, "/").cookie("session", &session).send().status;
    assert_eq!(replayed(), 200);
    browser.go(&site.at("/welcome"));
    click(&browser, "out");
    browser.wait_for_url(&site.login_page());
    assert_eq!(browser.cookies(), ["authgear_step_up"]);
    assert_eq!(replayed(), 401);
}

#[test]
fn an_address_that_is_typed_in_asks_before_it_logs_out() {
    let site = Site::start();
    let browser = Browser::start();
    site.log_in(&browser, "/", "bob");
    browser.go(&site.at("/_authgear/logout"));
    assert_shows(&browser, "Log out?");
    assert!(browser.cookies().contains(&"session".to_owned()));
    browser.run("document.querySelector('button').click()");
    browser.wait_for_url(&site.login_page());
    assert!(!browser.cookies().contains(&"session".to_owned()));
    let other = get(&site.nginx, "/").header("Accept", "text/html").send();
    assert_eq!(other.status, 302);
}

#[test]
fn a_cancelled_login_is_explained_and_not_repeated() {
    let site = Site::start();
    let browser = Browser::start();
    browser.go(&site.at("/a"));
    browser.wait_for_url(&site.login_page());
    click(&browser, "cancel");
    browser.wait_for_url("error=access_denied");
    assert_shows(&browser, "access_denied");
    assert_eq!(site.authorize_hits(), 1);
}

#[test]
fn a_browser_that_refuses_cookies_gets_a_page_after_one_login() {
    let site = Site::start();
    let refuses = json!({ "profile.default_content_setting_values.cookies": 2 });
    let browser = Browser::with_preferences(&refuses);
    browser.go(&site.at("/a"));
    browser.wait_for_url(&site.login_page());
    click(&browser, "alice");
    browser.wait_for_url("/_authgear/callback");
    assert_shows(&browser, "cookie_not_shared");
    assert_eq!(site.authorize_hits(), 1);
}

#[test]
fn two_tabs_that_begin_a_login_both_come_back_to_their_pages() {
    let site = Site::start();
    let browser = Browser::start();
    browser.go(&site.at("/one"));
    browser.wait_for_url(&site.login_page());
    let one = browser.url();
    browser.go(&site.at("/two"));
    browser.wait_for_url(&site.login_page());
    click(&browser, "alice");
    browser.wait_for_url(&site.at("/two"));
    browser.go(&one);
    click(&browser, "alice");
    browser.wait_for_url(&site.at("/one"));
    assert_shows(&browser, "alice");
}

#[test]
fn a_new_user_signs_up_and_comes_to_the_page_that_was_named() {
    let site = Site::start();
    let browser = Browser::start();
    browser.go(&site.at("/_authgear/signup?state=/hello"));
    browser.wait_for_url("x_page=signup");
    assert_shows(&browser, "Sign up");
    click(&browser, "bob");
    browser.wait_for_url(&site.at("/hello"));
    assert_shows(&browser, "bob");
}
