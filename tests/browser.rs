//! A browser: Chromium without a window, driven by WebDriver (W3C).

use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use data_encoding::BASE64;
use serde_json::{json, Value};
use support::{Backend, Builder, FakeAuthgear, Nginx, User};
use tempfile::TempDir;

use crate::site::site;

/// A browser may be slow to start where much else runs.
const DEADLINE: Duration = Duration::from_secs(120);

/// A browser for one test. It ends when dropped.
pub(crate) struct Browser {
    driver: Child,
    agent: ureq::Agent,
    session: String,
    _profile: TempDir,
}

/// Starts chromedriver. Returns its port too.
///
/// It takes any free IPv4 port, and ends if the IPv6 port of the same number is taken: then another
/// one is started.
#[track_caller]
fn driver() -> (Child, u16) {
    for _ in 0..10 {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("chromedriver: {error} (\"make test\" installs it)"));
        let output = BufReader::new(driver.stdout.take().expect("its output"));
        let (send, port) = mpsc::channel();
        // chromedriver prints the port it chose. Its output is read to the end, so that it never
        // blocks.
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let words = line.strip_prefix("ChromeDriver was started successfully on port ");
                if let Some(port) = words.and_then(|port| port.trim_end_matches('.').parse().ok()) {
                    let _: Result<_, mpsc::SendError<u16>> = send.send(port);
                }
            }
        });
        match port.recv_timeout(DEADLINE) {
            Ok(port) => return (driver, port),
            Err(_) => {
                let _ = driver.kill();
                let _ = driver.wait();
            }
        }
    }
    panic!("chromedriver tells no port");
}

impl Browser {
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::with_preferences(&json!({}))
    }

    /// A browser with these preferences of Chromium's profile.
    #[track_caller]
    pub(crate) fn with_preferences(preferences: &Value) -> Self {
        Self::with(preferences, &[])
    }

    /// A browser for which these hosts are at this address. It takes any certificate.
    #[track_caller]
    pub(crate) fn with_hosts(hosts: &[&str], addr: SocketAddr) -> Self {
        let rules: Vec<_> = hosts.iter().map(|host| format!("MAP {host} {addr}")).collect();
        let rules = format!("--host-resolver-rules={}", rules.join(", "));
        Self::with(&json!({}), &["--ignore-certificate-errors", &rules])
    }

    #[track_caller]
    fn with(preferences: &Value, more_arguments: &[&str]) -> Self {
        let (driver, port) = driver();
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(DEADLINE))
            .http_status_as_error(false)
            .proxy(None);
        let profile = TempDir::with_prefix("authgear-chromium-").expect("a directory");
        let mut browser = Self {
            driver,
            agent: config.build().into(),
            session: String::new(),
            _profile: profile,
        };
        browser.session = format!("http://127.0.0.1:{port}/session");
        let profile = browser._profile.path().display();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--no-proxy-server",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &format!("--user-data-dir={profile}"),
        ];
        let arguments = [&arguments[..], more_arguments].concat();
        let options =
            json!({ "binary": "/usr/bin/chromium", "args": arguments, "prefs": preferences });
        let milliseconds = u64::try_from(DEADLINE.as_millis()).expect("a time");
        let timeouts = json!({ "script": milliseconds, "pageLoad": milliseconds });
        let wanted =
            json!({ "alwaysMatch": { "goog:chromeOptions": options, "timeouts": timeouts } });
        let made = browser.post("", &json!({ "capabilities": wanted }));
        let id = made["sessionId"].as_str().expect("a session").to_owned();
        browser.session = format!("{}/{id}", browser.session);
        browser
    }

    #[track_caller]
    fn post(&self, command: &str, body: &Value) -> Value {
        let request = self.agent.post(format!("{}{command}", self.session));
        let request = request.header("Content-Type", "application/json");
        Self::value(request.send(body.to_string().as_bytes()))
    }

    #[track_caller]
    fn get(&self, command: &str) -> Value {
        Self::value(self.agent.get(format!("{}{command}", self.session)).call())
    }

    #[track_caller]
    fn value(answer: Result<http::Response<ureq::Body>, ureq::Error>) -> Value {
        let mut answer = answer.expect("an answer of chromedriver's");
        let text = answer.body_mut().read_to_string().expect("text");
        let mut value: Value = serde_json::from_str(&text).expect("JSON");
        assert!(answer.status().is_success(), "{value}");
        value["value"].take()
    }

    /// Opens a tab and shows it.
    #[track_caller]
    pub(crate) fn new_tab(&self) {
        let tab = self.post("/window/new", &json!({ "type": "tab" }));
        self.show_tab(tab["handle"].as_str().expect("a handle"));
    }

    /// The tab that is shown.
    #[track_caller]
    pub(crate) fn tab(&self) -> String {
        self.get("/window").as_str().expect("a handle").to_owned()
    }

    #[track_caller]
    pub(crate) fn show_tab(&self, handle: &str) {
        self.post("/window", &json!({ "handle": handle }));
    }

    /// Opens a page and follows redirects.
    #[track_caller]
    pub(crate) fn go(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// The current URL.
    #[track_caller]
    pub(crate) fn url(&self) -> String {
        self.get("/url").as_str().expect("a URL").to_owned()
    }

    /// The text of the page.
    #[track_caller]
    pub(crate) fn text(&self) -> String {
        let text = self.run("return document.body ? document.body.innerText : ''");
        text.as_str().expect("text").to_owned()
    }

    /// Runs a script and returns its result; a promise is awaited.
    #[track_caller]
    pub(crate) fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Sets the size of the page, and whether it is shown in dark mode.
    #[track_caller]
    pub(crate) fn view(&self, width: u32, height: u32, dark: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1,
            "mobile": width < 500 });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
        let scheme = if dark { "dark" } else { "light" };
        let scheme = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", &scheme);
    }

    /// Sends a command of Chromium's DevTools protocol.
    #[track_caller]
    fn devtools(&self, command: &str, parameters: &Value) {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    /// A picture of what is shown, in PNG.
    #[track_caller]
    pub(crate) fn screenshot(&self) -> Vec<u8> {
        let picture = self.get("/screenshot");
        let picture = picture.as_str().expect("a picture");
        BASE64.decode(picture.as_bytes()).expect("base64")
    }

    /// Waits until the current URL contains this.
    #[track_caller]
    pub(crate) fn wait_for_url(&self, part: &str) {
        let there = support::eventually(DEADLINE, || self.url().contains(part));
        assert!(there, "{part} expected, it is at {}: {}", self.url(), self.text());
    }

    /// Value of a cookie of the current page.
    #[track_caller]
    pub(crate) fn cookie(&self, name: &str) -> String {
        let cookie = self.get(&format!("/cookie/{name}"));
        cookie["value"].as_str().expect("a value").to_owned()
    }

    /// Names of the cookies for the current page.
    #[track_caller]
    pub(crate) fn cookies(&self) -> Vec<String> {
        let cookies = self.get("/cookie");
        let names = cookies.as_array().expect("cookies").iter();
        names.map(|cookie| cookie["name"].as_str().expect("a name").to_owned()).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // chromedriver ends the browser, and then we end it.
        if self.session.contains("/session/") {
            let _ = self.agent.delete(&self.session).call();
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// An application with a login page that sets the session, and comes back.
pub(crate) fn application(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    let session = authgear.session(&User::named("alice"));
    site(authgear, backend).var("SESSION", session).server(
        "authgear %%AUTHGEAR%%;
             authgear_require session;
             authgear_login_redirect /login?return_to=$authgear_return_to;
             authgear_relay_cookies on;
             location / { proxy_pass http://%%BACKEND%%; }
             location = /login {
               authgear_require off;
               default_type text/html;
               return 200 \"<!doctype html><script>
                 document.cookie = 'session=%%SESSION%%; path=/';
                 location.replace(new URLSearchParams(location.search).get('return_to'));
               </script>\";
             }
             location = /public {
               authgear off;
               default_type text/html;
               return 200 '<!doctype html><p>public</p>';
             }
             location = /favicon.ico { authgear off; return 204; }",
    )
}

#[test]
fn a_browser_logs_in_returns_to_its_page_and_drops_the_cleared_cookie() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx: Nginx = application(&authgear, &backend).start();
    let at = |path: &str| format!("http://{}{path}", nginx.addr());
    let browser = Browser::start();

    // A background request of a page gets a status, no redirect to log in.
    browser.go(&at("/public"));
    let reported = browser.run(
        "const answer = await fetch('/data', { headers: { Accept: 'application/json' } });
         return [answer.status, answer.redirected, (await answer.json()).reason];",
    );
    assert_eq!(reported, json!([401, false, "no_credentials"]));
    let image = "return await new Promise(done => {
        const image = new Image();
        image.onload = () => done('shown');
        image.onerror = () => done('not shown');
        image.src = '/image.png';
        document.body.append(image);
      });";
    assert_eq!(browser.run(image), json!("not shown"));
    assert_eq!((browser.cookies().len(), backend.hits()), (0, 0));

    // A page request is redirected to log in, and back to its URL.
    let page = "/a%20b/?c=d&e=http://evil.test/";
    browser.go(&at(page));
    browser.wait_for_url("/a%20b/");
    assert_eq!(browser.url(), at(page));
    let alice = "\"x-authgear-user-id\",\"alice\"";
    let shown = support::eventually(DEADLINE, || browser.text().contains(alice));
    assert!(shown, "{}", browser.text());
    assert_eq!(browser.cookies(), ["session"]);
    let reported = browser.run("return (await fetch('/data')).status");
    assert_eq!(reported, json!(200));

    // The session ends: the request is denied, and the browser drops its cookie.
    let session = browser.cookie("session");
    authgear.expire(&session);
    let asked = authgear.hits();
    let reported = browser.run("return (await fetch('/data')).status");
    assert_eq!(reported, json!(401));
    assert_eq!(browser.cookies().len(), 0);
    let reported = browser.run("return (await fetch('/data')).status");
    assert_eq!(reported, json!(401));
    assert_eq!(authgear.hits(), asked + 1);
}
