//! The status page in a real browser: Chromium, without a window.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::{get, Backend, FakeAuthgear, Fault, Gate, Nginx, User};
use tempfile::TempDir;

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

    #[track_caller]
    fn screenshot(&self, url: &str, file: &Path, dark: bool) {
        let mut options =
            vec![format!("--screenshot={}", file.display()), "--window-size=1180,1500".to_owned()];
        if dark {
            // The setting that a page asks for as prefers-color-scheme.
            options.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        self.open(url, &options);
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

    let folder = screenshots();
    for (name, dark) in [("status-light.png", false), ("status-dark.png", true)] {
        let file = folder.join(name);
        browser.screenshot(&url, &file, dark);
        let png = std::fs::read(&file).expect("a screenshot");
        assert!(png.starts_with(b"\x89PNG") && png.len() > 20_000, "{name}: {}", png.len());
    }
}

/// The directory for the screenshots.
fn screenshots() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/screenshots");
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
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
