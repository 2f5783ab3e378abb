//! Problems of the documented set-up that the module does not have: docs/migration.md names each of
//! these tests.
//!
//! Both use the same backend and the same Authgear.

use std::fs;
use std::path::Path;

use support::{get, Backend, Builder, FakeAuthgear, Fault, Gate, Nginx, Request, Response, User};

use crate::documented_setup::{documented_conf, public_authgear, SERVER};
use crate::site::identity_of;

struct Sites {
    authgear: FakeAuthgear,
    backend: Backend,
}

impl Sites {
    fn new() -> Self {
        Self::with(public_authgear())
    }

    fn with(authgear: FakeAuthgear) -> Self {
        Self { authgear, backend: Backend::start() }
    }

    /// The documented set-up.
    fn before(&self) -> Builder {
        documented_conf(&self.authgear, &self.backend)
    }

    /// The same with the cache of the documentation's last section.
    fn before_with_cache(&self) -> Builder {
        let cache = "internal;
            proxy_cache auth_cache;
            proxy_cache_key \"$cookie_session|$http_authorization\";
            proxy_cache_valid 200 10m;";
        self.before()
            .http("proxy_cache_path %%DIR%%/tmp/auth keys_zone=auth_cache:10m;")
            .raw_conf(move |conf| conf.replacen("internal;", cache, 1))
    }

    /// The module in its place.
    fn after(&self) -> Builder {
        let (origin, resolver) = (self.authgear.origin(), self.authgear.resolver_url());
        Nginx::builder()
            .var("BACKEND", self.backend.url())
            .http(format!(
                "authgear_project p {{
                   endpoint {origin};
                   resolver_url {resolver};
                   ssl_verify off;
                 }}"
            ))
            .server("authgear p; location / { proxy_pass %%BACKEND%%; }")
    }

    fn after_with_cache(&self) -> Builder {
        self.after().http("authgear_cache_zone z:1m; authgear_cache z;")
    }

    /// The number of calls to Authgear during `act`.
    fn calls(&self, act: impl FnOnce()) -> usize {
        let before = self.authgear.hits();
        act();
        self.authgear.hits() - before
    }
}

/// The first migration step: both at once, the module in a dry run.
#[test]
fn the_module_can_run_beside_the_documented_setup() {
    let sites = Sites::new();
    let alice = User::named("alice").roles(&["editor"]);
    let nginx = sites
        .after()
        .var("AUTHGEAR", sites.authgear.url())
        .var("AUTHGEAR_HOST", "myapp.test")
        .log_format("$x_authgear_user_id $authgear_session $authgear_source")
        .raw_conf(|conf| conf.replace("location / { proxy_pass", "location /new { proxy_pass"))
        .server("authgear_require session; authgear_dry_run on;")
        .server(SERVER)
        .start();
    let session = sites.authgear.session(&alice);
    let request = || get(&nginx, "/").cookie("session", &session);
    let calls = sites.calls(|| {
        let echo = request().header("X-Authgear-User-Id", "admin").send().echo();
        assert_eq!(echo.identity(), identity_of(&alice));
    });
    assert_eq!(calls, 2);
    assert_eq!(get(&nginx, "/").send().echo().identity(), []);
    let logged = ["alice valid resolver", " none none"];
    assert_eq!(nginx.wait_for_access_lines(2), logged);
}

fn user(answer: &Response) -> Option<String> {
    answer.echo().header("x-authgear-user-id").map(str::to_owned)
}

#[test]
fn the_documented_cache_key_serves_identities_of_other_users() {
    let sites = Sites::new();
    let cookie =
        |name: &str| format!("app_session={}", sites.authgear.app_session(&User::named(name)));
    let (alice, bob) = (cookie("alice"), cookie("bob"));
    let seen = |nginx: &Nginx| {
        let with = |cookie: &str| user(&get(nginx, "/").header("Cookie", cookie).send());
        [with(&alice), with(&bob), user(&get(nginx, "/").send())]
    };
    let (alice_s, bob_s) = (Some("alice".to_owned()), Some("bob".to_owned()));
    let before = seen(&sites.before_with_cache().start());
    assert_eq!(before, [alice_s.clone(), alice_s.clone(), alice_s.clone()]);
    assert_eq!(seen(&sites.after_with_cache().start()), [alice_s, bob_s, None]);
}

#[test]
fn the_documented_setup_looks_up_a_dead_session_on_every_request() {
    let sites = Sites::new();
    let session = sites.authgear.session(&User::named("alice"));
    sites.authgear.expire(&session);
    let five = |nginx: &Nginx| {
        sites.calls(|| {
            for _ in 0..5 {
                let answer = get(nginx, "/").cookie("session", &session).send();
                assert_eq!(answer.echo().header("x-authgear-session-valid"), Some("false"));
            }
        })
    };
    assert_eq!(five(&sites.before_with_cache().start()), 5);
    assert_eq!(five(&sites.after_with_cache().start()), 1);
}

#[test]
fn a_proxy_set_header_in_a_location_drops_the_documented_headers() {
    let sites = Sites::new();
    let alice = User::named("alice");
    let token = sites.authgear.opaque_token(&alice);
    let own = "location /own {
        proxy_set_header X-Own 1;
        proxy_pass %%BACKEND%%;
      }";
    // As an administrator would write it to keep the lines in one place.
    let before = sites
        .before()
        .server("auth_request /_auth;")
        .server(
            "auth_request_set $id $upstream_http_x_authgear_user_id;
             proxy_set_header x-authgear-user-id $id;",
        )
        .server(own)
        .start();
    let forged = |request: Request| request.header("X-Authgear-User-Id", "admin");
    let ask = |nginx: &Nginx| forged(get(nginx, "/own")).bearer(&token).send().echo();
    assert_eq!(ask(&before).all("x-authgear-user-id"), ["admin"]);
    let echo = ask(&sites.after().server(own).start());
    assert_eq!((echo.identity(), echo.header("x-own")), (identity_of(&alice), Some("1")));
}

#[test]
fn headers_the_documented_setup_does_not_list_can_be_forged() {
    let sites = Sites::new();
    let token = sites.authgear.opaque_token(&User::named("alice"));
    let roles = |nginx: &Nginx| {
        let request = get(nginx, "/").bearer(&token).header("X-Authgear-User-Roles", "admin");
        request.send().echo().all("x-authgear-user-roles").concat()
    };
    assert_eq!(roles(&sites.before().start()), "admin");
    assert_eq!(roles(&sites.after().start()), "");
}

#[test]
fn the_documented_setup_opens_a_connection_per_request() {
    let sites = Sites::new();
    let token = sites.authgear.opaque_token(&User::named("alice"));
    let connections = |nginx: &Nginx| {
        let asked = sites.authgear.hits();
        for _ in 0..10 {
            assert_eq!(get(nginx, "/").bearer(&token).send().status, 200);
        }
        let mut used: Vec<u64> =
            sites.authgear.requests().iter().skip(asked).map(|asked| asked.connection).collect();
        used.dedup();
        used.len()
    };
    assert_eq!(connections(&sites.before().workers(1).start()), 10);
    assert_eq!(connections(&sites.after().workers(1).start()), 1);
}

#[test]
fn the_documented_setup_fails_some_simultaneous_requests_of_a_session() {
    let authgear = FakeAuthgear::builder().session_mutex(true).start();
    let sites = Sites::with(authgear);
    let session = sites.authgear.session(&User::named("alice"));
    let marker = "location = /marker { auth_request off; return 204; }";
    let statuses = |nginx: &Nginx, calls: usize| {
        let gate = Gate::new();
        sites.authgear.inject(Fault::Gate(gate.clone()));
        let one = || get(nginx, "/").cookie("session", &session).start();
        let pending: Vec<_> = (0..30).map(|_| one()).collect();
        // The single worker has read all of them, because it handles events in order.
        assert_eq!(get(nginx, "/marker").send().status, 204);
        gate.wait_for_waiters(calls);
        gate.open();
        let statuses = pending.into_iter().map(|pending| pending.wait().status);
        statuses.filter(|status| *status == 200).count()
    };
    let mut good = 0;
    let before = sites.before().workers(1).server(marker).start();
    assert_eq!(sites.calls(|| good = statuses(&before, 30)), 30);
    // Authgear locks the session for each look-up, and fails those that do not get the lock.
    assert_eq!(good, 1);
    let after = sites.after().workers(1).server(marker.replace("auth_request off;", "")).start();
    assert_eq!(sites.calls(|| good = statuses(&after, 1)), 1);
    assert_eq!(good, 30);
}

#[test]
fn the_documented_cache_writes_tokens_to_disk() {
    let sites = Sites::new();
    let token = sites.authgear.opaque_token(&User::named("alice"));
    let on_disk = |nginx: &Nginx| {
        assert_eq!(get(nginx, "/").bearer(&token).send().status, 200);
        nginx.wait_for_access_lines(1);
        holds(&nginx.dir().join("tmp"), token.as_bytes())
    };
    assert!(on_disk(&sites.before_with_cache().start()));
    assert!(!on_disk(&sites.after_with_cache().start()));
}

/// Whether any file below has these bytes in it.
fn holds(folder: &Path, bytes: &[u8]) -> bool {
    fs::read_dir(folder).expect("a folder").any(|entry| {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            return holds(&path, bytes);
        }
        let text = fs::read(&path).expect("a file");
        text.windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn the_documented_setup_passes_aliases_of_identity_headers() {
    let sites = Sites::new();
    let odd = "underscores_in_headers on; ignore_invalid_headers off;";
    let aliases = |nginx: &Nginx| {
        let request = get(nginx, "/")
            .bearer(&sites.authgear.opaque_token(&User::named("alice")))
            .header("X_Authgear_User_Id", "admin")
            .header("X.Authgear.User.Id", "admin");
        let echo = request.send().echo();
        echo.headers.iter().filter(|(_, value)| value == "admin").count()
    };
    assert_eq!(aliases(&sites.before().http(odd).start()), 2);
    assert_eq!(aliases(&sites.after().http(odd).start()), 0);
}

#[test]
fn the_documented_setup_asks_twice_for_an_index_page() {
    let sites = Sites::new();
    let token = sites.authgear.opaque_token(&User::named("alice"));
    let ask = |nginx: &Nginx, path: &str| {
        sites.calls(|| assert_eq!(get(nginx, path).bearer(&token).send().status, 200))
    };
    let folder = |builder: Builder, auth: &str| {
        builder
            .file("html/dir/index.html", "index")
            .file("html/fallback.html", "fallback")
            .server(format!(
                "location /dir/ {{ {auth} root html; }}
                 location /tried {{ {auth} root html; try_files $uri /fallback.html; }}
                 location = /fallback.html {{ {auth} root html; }}"
            ))
            .start()
    };
    let before = folder(sites.before(), "auth_request /_auth;");
    let after = folder(sites.after(), "");
    for path in ["/dir/", "/tried"] {
        assert_eq!((ask(&before, path), ask(&after, path)), (2, 1), "{path}");
    }
}

#[test]
fn an_error_page_lets_requests_through_the_documented_setup_during_an_outage() {
    let sites = Sites::new();
    let page = "error_page 502 =200 /sorry.html;
        location = /sorry.html { auth_request off; root html; }";
    let start = |builder: Builder| builder.file("html/sorry.html", "sorry").start();
    let before = start(sites.before().server(page));
    let after = start(sites.after().server(page.replace("auth_request off;", "authgear off;")));
    sites.authgear.stop();
    let ask = |nginx: &Nginx| get(nginx, "/").bearer("token").send().status;
    // The user is unknown, and the backend gets the request as if Authgear had accepted it.
    assert_eq!((ask(&before), sites.backend.hits()), (200, 1));
    assert_eq!((ask(&after), sites.backend.hits()), (503, 1));
}

#[test]
fn the_documented_setup_looks_up_requests_without_credentials() {
    let sites = Sites::new();
    let ask = |nginx: &Nginx| sites.calls(|| assert_eq!(get(nginx, "/").send().status, 200));
    assert_eq!(ask(&sites.before().start()), 1);
    assert_eq!(ask(&sites.after().start()), 0);
}

/// Checks that `nginx -t` cannot make, and that the documentation asks the reader to make.
#[test]
fn the_manual_checks_of_the_migration_guide_are_needed() {
    let sites = Sites::new();
    let nginx = sites
        .after()
        .http("map $x_authgear_user_id $kept { default $x_authgear_user_id; }")
        .http("map $x_authgear_user_id $anew { volatile; default $x_authgear_user_id; }")
        .server(
            "authgear_require session;
             location /returned { return 200 open; }
             location /bare {
               proxy_pass_request_headers off;
               proxy_set_header X-User $x_authgear_user_id;
               proxy_pass %%BACKEND%%;
             }
             location /mapped {
               if ($kept = x) { return 500; }
               if ($anew = x) { return 500; }
               proxy_set_header X-Kept $kept;
               proxy_set_header X-Anew $anew;
               proxy_pass %%BACKEND%%;
             }
             location /left-over {
               proxy_set_header x-authgear-user-id $upstream_http_x_authgear_user_id;
               proxy_pass %%BACKEND%%;
             }",
        )
        .start();
    let token = sites.authgear.opaque_token(&User::named("alice"));
    assert_eq!(get(&nginx, "/returned").send().text(), "open");
    let echo = |path: &str| get(&nginx, path).bearer(&token).send().echo();
    let bare = echo("/bare");
    assert_eq!((bare.identity(), bare.header("x-user")), (Vec::new(), Some("alice")));
    let mapped = echo("/mapped");
    assert_eq!((mapped.header("x-kept"), mapped.header("x-anew")), (None, Some("alice")));
    assert_eq!(echo("/left-over").header("x-authgear-user-id"), None);
}

#[test]
fn tests_and_files_named_in_the_migration_guide_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs::read_to_string(root.join("docs/migration.md")).expect("the documentation");
    let tests: String = fs::read_dir(root.join("tests"))
        .expect("the tests")
        .filter_map(|file| fs::read_to_string(file.expect("a file").path()).ok())
        .collect();
    let (_, better) = text.split_once("## What gets better").expect("a section");
    let (better, _) = better.split_once("\n## ").expect("its end");
    let rows = better.lines().filter(|line| line.starts_with("| **"));
    let cells = rows.map(|row| row.trim_end_matches(" |").rsplit(" | ").next().expect("a cell"));
    let cells: Vec<&str> = cells.collect();
    assert!(cells.len() >= 7, "{cells:?}");
    for cell in cells {
        for name in cell.split('`').skip(1).step_by(2) {
            let name = name.rsplit("::").next().expect("a name");
            assert!(tests.contains(&format!("fn {name}()")), "there is no test {name}");
        }
    }
    for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
        let here = link.is_empty() || link.contains("://");
        assert!(here || root.join("docs").join(link).exists(), "there is no {link}");
    }
}
