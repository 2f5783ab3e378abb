//! `authgear_login` in Chromium, with the pages of the fake Authgear.

use serde_json::json;
use support::{get, Backend, FakeAuthgear, Nginx, User};

use crate::browser::Browser;
use crate::examples::example;
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
        let authgear = FakeAuthgear::start();
        for name in ["alice", "bob"] {
            authgear.add_user(User::named(name));
        }
        Self::start_with(authgear, Backend::start())
    }

    /// A host of the site.
    fn start_with(authgear: FakeAuthgear, backend: Backend) -> Self {
        let nginx = site(&authgear, &backend)
            .http(project("p", &authgear, "client_id web;"))
            .http("authgear_cache_zone z:1m; authgear_cache z;")
            // Authgear's own pages, by this nginx.
            .listen_extra(1)
            .http(
                "server {
                   listen %%ADDR2%%;
                   location / {
                     authgear p;
                     authgear_pages on;
                     proxy_set_header Host $http_host;
                     proxy_pass %%PAGES%%;
                   }
                 }",
            )
            .var("PAGES", authgear.origin())
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
                   return 200 '<!doctype html>
                     <a id=out href=http://%%ADDR%%/_authgear/logout>out</a>
                     <form method=post action=http://%%ADDR%%/_authgear/logout>
                       <button id=post>out</button>
                     </form>';
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
    let one = browser.tab();
    browser.new_tab();
    browser.go(&site.at("/two"));
    browser.wait_for_url(&site.login_page());
    click(&browser, "alice");
    browser.wait_for_url(&site.at("/two"));
    browser.show_tab(&one);
    click(&browser, "alice");
    browser.wait_for_url(&site.at("/one"));
    assert_shows(&browser, "alice");
}

#[test]
fn the_back_button_leads_over_a_login_and_no_further() {
    let site = Site::start();
    let browser = Browser::start();
    browser.go(&site.at("/welcome"));
    site.log_in(&browser, "/one", "alice");
    // The login page, as it was: with it, one can log in again.
    browser.run("history.back()");
    browser.wait_for_url(&site.login_page());
    click(&browser, "bob");
    browser.wait_for_url(&site.at("/one"));
    assert_shows(&browser, "bob");
    browser.run("history.go(-2)");
    browser.wait_for_url("/welcome");
    assert_eq!(site.authorize_hits(), 1);
}

#[test]
fn another_site_logs_nobody_out() {
    let site = Site::start();
    let browser = Browser::start();
    site.log_in(&browser, "/", "alice");
    let session = browser.cookie("session");
    for button in ["out", "post"] {
        // To browsers the name is another site than the address.
        browser.go(&format!("http://localhost:{}/welcome", site.nginx.port()));
        click(&browser, button);
        browser.wait_for_url(&site.at("/_authgear/logout"));
        assert_shows(&browser, "Log out?");
        assert_eq!(browser.cookie("session"), session, "{button}");
    }
    browser.go(&site.at("/"));
    assert_shows(&browser, "alice");
}

#[test]
fn a_logout_on_authgears_own_page_is_seen_by_the_next_request() {
    let site = Site::start();
    let browser = Browser::start();
    site.log_in(&browser, "/", "alice");
    let session = browser.cookie("session");
    let replayed = || get(&site.nginx, "/").cookie("session", &session).send().status;
    let hits = site.authgear.hits();
    // Kept: nobody is asked about it.
    assert_eq!((replayed(), site.authgear.hits()), (200, hits));
    let to = site.at("/");
    let pages = site.nginx.addr2();
    browser.go(&format!("http://{pages}/oauth2/end_session?post_logout_redirect_uri={to}"));
    browser.wait_for_url(&site.login_page());
    assert_eq!(replayed(), 401);
}

#[test]
fn a_login_as_somebody_else_on_authgears_own_page_ends_the_first_session_here() {
    let site = Site::start();
    let browser = Browser::start();
    site.log_in(&browser, "/", "alice");
    let session = browser.cookie("session");
    let pages = site.nginx.addr2();
    let callback = site.at("/_authgear/callback");
    browser.go(&format!(
        "http://{pages}/login?client_id=web&redirect_uri={callback}&x_page=login&state=/next"
    ));
    assert_shows(&browser, "Continue as alice");
    click(&browser, "bob");
    browser.wait_for_url(&site.at("/next"));
    assert_shows(&browser, "bob");
    assert_eq!(get(&site.nginx, "/").cookie("session", &session).send().status, 401);
}

#[test]
fn a_host_that_was_started_after_the_redirect_finishes_the_login() {
    let first = Site::start();
    let browser = Browser::start();
    browser.go(&first.at("/deep?a=b"));
    browser.wait_for_url(&first.login_page());
    let login = browser.url();
    let Site { authgear, _backend: backend, nginx } = first;
    let old = nginx.addr().to_string().replace(':', "%3A");
    // It closes the connections of the browser.
    nginx.signal(libc::SIGTERM);
    let second = Site::start_with(authgear, backend);
    browser.go(&login.replace(&old, &second.nginx.addr().to_string().replace(':', "%3A")));
    click(&browser, "alice");
    browser.wait_for_url(&second.at("/deep?a=b"));
    assert_shows(&browser, "alice");
}

#[test]
fn the_login_example_protects_a_static_site_in_a_browser() {
    let authgear = FakeAuthgear::start();
    authgear.add_user(User::named("alice"));
    let nginx = example(
        "login.conf",
        &[
            ("/var/www", "%%DIR%%/www"),
            ("https://myapp.authgear.cloud", authgear.origin()),
            ("0123456789abcdef", "web"),
        ],
    )
    .file("www/index.html", "<!doctype html>the site")
    .start();
    authgear.register("web", &[nginx.url("/_authgear/callback")]);
    let browser = Browser::start();
    browser.go(&nginx.url("/index.html?a"));
    browser.wait_for_url(&format!("{}/login?", authgear.origin()));
    click(&browser, "alice");
    browser.wait_for_url(&nginx.url("/index.html?a"));
    assert_shows(&browser, "the site");
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
