//! The status page in a real browser: Chromium, without a window.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{eventually, get, Backend, FakeAuthgear, Fault, Gate, Nginx, User, DEADLINE};
use tempfile::TempDir;

use crate::browser;
use crate::project::project;
use crate::status::{counted, status};

struct Browser {
    profile: TempDir,
}

impl Browser {
    fn new() -> Self {
        Self { profile: TempDir::with_prefix("authgear-chromium-").expect("a directory") }
    }

    /// Opens a URL with these options, and lets its virtual time run for some seconds.
    #[track_caller]
    fn open(&self, url: &str, options: &[String]) -> Output {
        let output = Command::new("/usr/bin/chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--hide-scrollbars"])
            .args(["--enable-logging=stderr", "--virtual-time-budget=7000"])
            .arg(format!("--user-data-dir={}", self.profile.path().display()))
            .args(options)
            .arg(url)
            .output()
            .expect("chromium");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    }

    /// The document after its script ran, and the browser's console messages.
    #[track_caller]
    fn dump(&self, url: &str) -> (String, String) {
        let Output { stdout, stderr, .. } = self.open(url, &["--dump-dom".to_owned()]);
        let console = String::from_utf8_lossy(&stderr);
        let console = console.lines().filter(|line| line.contains("CONSOLE"));
        (String::from_utf8_lossy(&stdout).into_owned(), console.collect::<Vec<_>>().join("\n"))
    }
}

/// Traffic of all kinds: two projects, one of which fails.
fn busy(authgear: &FakeAuthgear, other: &FakeAuthgear, backend: &Backend) -> Nginx {
    let nginx = counted(authgear, backend, "")
        .http(project("shop", other, "max_fails 0;"))
        .server(
            "location /shop { authgear shop; proxy_pass http://%%BACKEND%%; }
             location /admin { authgear_require role=admin; proxy_pass http://%%BACKEND%%; }
             location /users { authgear_require session; proxy_pass http://%%BACKEND%%; }
             location /jwt { authgear_mode jwt; authgear_require session; empty_gif; }",
        )
        .start();
    authgear.wait_for_jwks_hits(1);
    for n in 0..40_u64 {
        let user = User::named(&format!("user-{n}"));
        let token = authgear.opaque_token(&user);
        if n % 8 == 0 {
            // Some look-ups take longer.
            let gate = Gate::new();
            authgear.inject_next(1, Fault::Gate(gate.clone()));
            let pending = get(&nginx, "/").bearer(&token).start();
            gate.wait_for_waiters(1);
            for _ in 0..n {
                get(&nginx, "/").send();
            }
            gate.open();
            assert_eq!(pending.wait().status, 200);
        }
        for _ in 0..=n % 7 {
            assert_eq!(get(&nginx, "/").bearer(&token).send().status, 200);
        }
        if n % 3 == 0 {
            assert_eq!(get(&nginx, "/admin").bearer(&token).send().status, 403);
        }
        if n % 4 == 0 {
            get(&nginx, "/").send();
            assert_eq!(get(&nginx, "/users").send().status, 401);
            get(&nginx, "/shop").bearer(&other.opaque_token(&user)).send();
            assert_eq!(get(&nginx, "/jwt").bearer(&authgear.jwt(&user)).send().status, 200);
            assert_eq!(get(&nginx, "/jwt").bearer(&token).send().status, 401);
        }
    }
    other.inject(Fault::Status(500));
    for _ in 0..3 {
        let token = other.opaque_token(&User::named("late"));
        assert_eq!(get(&nginx, "/shop").bearer(&token).send().status, 503);
    }
    nginx
}

#[test]
fn the_page_shows_live_numbers_in_dark_and_light_mode() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let other = FakeAuthgear::start();
    let nginx = busy(&authgear, &other, &backend);
    let url = format!("http://{}/status?format=html", nginx.addr());
    let browser = Browser::new();
    let (document, console) = browser.dump(&url);
    // The page violates no policy and its script has no error.
    assert_eq!(console, "", "{document}");
    let now = status(&nginx);
    for project in now["projects"].as_array().expect("projects") {
        let name = project["name"].as_str().expect("a name");
        assert!(document.contains(&format!("<h2>{name}</h2>")), "{document}");
    }
    for shown in [
        "class=\"histogram\"",
        "class=\"live\" id=\"live\">live<",
        "Hit ratio",
        "role_missing",
        "token_malformed",
        "fetches that failed",
        "bad_status",
        "failing since",
        "99 % within",
        " entries, ",
    ] {
        assert!(document.contains(shown), "{shown} is not in {document}");
    }
    // The page has fetched the counters again since it was loaded.
    let asked = nginx.access_log();
    let fetched = asked.lines().filter(|line| line.contains("/status?format=json")).count();
    assert!(fetched >= 2, "{fetched} times:\n{asked}");
}

/// The directory for the screenshots.
fn screenshots() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/screenshots");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// Projects in each state: one answers, one fails, one has no keys, one is not asked, and the
/// verdicts of one are not cached.
fn all_states(
    authgear: &FakeAuthgear,
    failing: &FakeAuthgear,
    keyless: &FakeAuthgear,
    backend: &Backend,
) -> Nginx {
    keyless.inject_at("/oauth2/jwks", Fault::Status(500));
    let nginx = counted(authgear, backend, "")
        .http(project("failing", failing, "max_fails 0;"))
        .http(project("keyless", keyless, ""))
        .http(project("quiet", authgear, ""))
        .http(project("uncached", authgear, ""))
        .server(
            "location /failing { authgear failing; proxy_pass http://%%BACKEND%%; }
             location /keyless { authgear keyless; authgear_mode auto; empty_gif; }
             location /quiet { authgear quiet; empty_gif; }
             location /uncached {
               authgear uncached; authgear_cache off; authgear_status_zone uncached;
               proxy_pass http://%%BACKEND%%;
             }
             location /admin { authgear_require role=admin; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let ask = |authgear: &FakeAuthgear, path: &str| {
        let token = authgear.opaque_token(&User::named("alice"));
        get(&nginx, path).bearer(&token).send().status
    };
    for _ in 0..3 {
        assert_eq!((ask(authgear, "/"), ask(authgear, "/admin")), (200, 403));
        assert_eq!(ask(authgear, "/uncached"), 200);
    }
    failing.inject(Fault::Status(500));
    assert_eq!(ask(failing, "/failing"), 503);
    nginx
}

#[test]
fn what_fails_comes_first_and_fits_a_phone() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (failing, keyless) = (FakeAuthgear::start(), FakeAuthgear::start());
    let nginx = all_states(&authgear, &failing, &keyless, &backend);
    let outage = || status(&nginx)["projects"][1]["jwks"]["outage"].is_object();
    assert!(eventually(DEADLINE, outage), "{}", status(&nginx));
    let url = format!("http://{}/status?format=html", nginx.addr());
    let browser = browser::Browser::start();
    browser.view(1180, 1000, false);
    browser.go(&url);

    let rows = "return [...document.querySelectorAll('.overview tbody tr')].map(row => \
                [row.querySelector('a').textContent, row.querySelector('.badge').textContent])";
    let rows = browser.run(rows);
    let row = |n: usize| [0, 1].map(|m| rows[n][m].as_str().expect("text").to_owned());
    assert_eq!(row(0)[0], "failing", "{rows}");
    assert!(row(0)[1].starts_with("failing since ") && row(0)[1].ends_with("bad_status"), "{rows}");
    assert_eq!(row(1)[0], "keyless", "{rows}");
    assert!(row(1)[1].starts_with("no keys, fetches fail since "), "{rows}");
    assert_eq!(rows.as_array().expect("rows").len(), 5);
    // The tile of errors is red. A place without a cache is no fault.
    let of = |selector: &str, property: &str| {
        let script =
            format!("return getComputedStyle(document.querySelector(`{selector}`)).{property}");
        browser.run(&script).as_str().expect("a value").to_owned()
    };
    let red = of(".badge.bad", "color");
    assert_eq!(of(".tile.bad b", "color"), red);
    let text = browser.text();
    for shown in [" workers", "since 20", "no cache", "Status zones"] {
        assert!(text.contains(shown), "{shown} is not in {text}");
    }
    let painted = "return [...document.querySelectorAll('rect.bad')].every(bar => \
                   !bar.textContent.startsWith('no cache'))";
    assert_eq!(browser.run(painted), true);

    // Only what fails, and by name. The filter stays when the numbers are fetched again.
    let count = "return document.querySelectorAll('.overview tbody tr').length";
    browser.run("document.getElementById('failing').click()");
    assert_eq!(browser.run(count), 2);
    browser.run("document.getElementById('failing').click()");
    let type_name = "const filter = document.getElementById('filter'); filter.value = 'QUI'; \
                     filter.focus(); filter.dispatchEvent(new Event('input'))";
    browser.run(type_name);
    let time = browser.run("return document.getElementById('page').dataset.time");
    let renewed = || browser.run("return document.getElementById('page').dataset.time") != time;
    assert!(eventually(DEADLINE, renewed));
    assert_eq!(browser.run(count), 1);
    assert_eq!(browser.run("return document.activeElement.id"), "filter");

    // A link opens the card of its project.
    browser.go(&format!("{url}#project-quiet"));
    let card = "const card = document.getElementById('project-quiet'); return card && card.open";
    assert!(eventually(DEADLINE, || browser.run(card) == true));
    browser.go(&format!("{url}#project-p"));
    assert!(eventually(DEADLINE, || browser.text().contains("role_missing\t3 (100 %)")));

    for dark in [false, true] {
        browser.view(360, 800, dark);
        browser.go(&url);
        let measured = "return [document.documentElement.scrollWidth, \
            Math.min(...[...document.querySelectorAll('.zone svg')].map(bar => bar.clientWidth))]";
        let measured = browser.run(measured);
        // Nothing leaves its card either.
        let outside = "return [...document.querySelectorAll('.card')].flatMap(card => \
            [...card.querySelectorAll('*')].filter(part => part.getBoundingClientRect().right > \
            card.getBoundingClientRect().right).map(part => part.outerHTML.slice(0, 80)))";
        assert_eq!(browser.run(outside), serde_json::json!([]));
        assert_eq!(measured[0], 360, "{measured}");
        assert!(measured[1].as_u64() > Some(200), "{measured}");
    }
    keep("phone", &browser);
    browser.view(1180, 900, false);
    browser.go(&url);
    keep("failing", &browser);
}

#[test]
fn many_projects_are_one_line_each_and_none_is_said_so() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let mut builder = counted(&authgear, &backend, "");
    for n in 0..40 {
        builder = builder
            .http(project(&format!("customer-{n:02}"), &authgear, ""))
            .server(format!("location /{n} {{ authgear customer-{n:02}; empty_gif; }}"));
    }
    let nginx = builder.start();
    for n in 0..40 {
        (0..n % 7).for_each(|_| assert_eq!(get(&nginx, &format!("/{n}")).send().status, 200));
    }
    let browser = browser::Browser::start();
    browser.view(1180, 1000, false);
    browser.go(&format!("http://{}/status?format=html", nginx.addr()));
    let closed = "return [...document.querySelectorAll('details')].every(card => !card.open)";
    assert_eq!(browser.run(closed), true);
    let height = browser.run("return document.documentElement.scrollHeight");
    // They took 19,630 pixels as cards.
    assert!(height.as_u64() < Some(6_000), "{height}");
    let lines = "return document.querySelectorAll('.overview tbody tr').length";
    assert_eq!(browser.run(lines), 41);
    keep("many", &browser);

    let empty = Nginx::builder().server("location = /status { authgear_status; }").start();
    browser.view(1180, 400, false);
    browser.go(&format!("http://{}/status?format=html", empty.addr()));
    assert!(browser.text().contains("No location uses a project."), "{}", browser.text());
    assert!(browser.text().contains("There are none"), "{}", browser.text());
    keep("empty", &browser);

    let nginx = busy(&authgear, &FakeAuthgear::start(), &backend);
    for (name, dark) in [("light", false), ("dark", true)] {
        browser.view(1180, 1100, dark);
        browser.go(&format!("http://{}/status?format=html", nginx.addr()));
        keep(name, &browser);
    }
    // Its connections would keep nginx from quitting.
    drop(browser);
}

/// Keeps a picture in target/screenshots, to be looked at.
#[track_caller]
fn keep(name: &str, browser: &browser::Browser) {
    let png = browser.screenshot();
    assert!(png.starts_with(b"\x89PNG"));
    std::fs::write(screenshots().join(format!("status-{name}.png")), png).expect("a file");
}

#[test]
fn the_page_loads_nothing_from_other_origins() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = counted(&authgear, &backend, "").start();
    let answer = get(&nginx, "/status?format=html").send();
    let policy = answer.header("content-security-policy").expect("a policy");
    for directive in [
        "default-src 'none'",
        "script-src 'sha256-",
        "style-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
    ] {
        assert!(policy.contains(directive), "{policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
}

#[test]
fn a_host_of_a_fleet_shows_whether_it_is_in_sync() {
    let (authgear, backend, redis) =
        (FakeAuthgear::start(), Backend::start(), support::Redis::start());
    let nginx = crate::fleet::host(&authgear, &backend, &redis.url()).start();
    let url = format!("http://{}/status?format=html", nginx.addr());
    let browser = Browser::new();
    crate::fleet::wait_in_sync(&nginx);
    let (document, console) = browser.dump(&url);
    assert_eq!(console, "", "{document}");
    for shown in ["<h2>Fleet</h2>", ">in sync<", "Waiting for Redis"] {
        assert!(document.contains(shown), "{shown} is not in {document}");
    }
    redis.kill();
    crate::fleet::wait_cut_off(&nginx);
    let (document, _) = browser.dump(&url);
    assert!(document.contains(">cut off, in sync "), "{document}");
}
