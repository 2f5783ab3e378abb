//! When an allocation of nginx fails, whichever it is, the request fails too: none gets through
//! without its verdict or with forged headers, and the worker survives.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::{
    eventually, get, webhook_signature, Backend, FakeAuthgear, Nginx, Request, Response, User,
    DEADLINE,
};
use tempfile::TempDir;

use crate::project::project;
use crate::site::{assert_nothing_forged, identity_of, site, FORGED};

/// Lets one of nginx's allocations fail: `allocations.c` says which ones count.
struct Allocations {
    dir: TempDir,
    left: File,
}

impl Allocations {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("allocations.c");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([dir.path().join("allocations.so"), source])
            .status();
        assert!(compiled.expect("a C compiler").success());
        let path = dir.path().join("left");
        fs::write(&path, (-1_i64).to_ne_bytes()).expect("a file");
        let left = File::options().read(true).write(true).open(path).expect("a file");
        Self { dir, left }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("a path").to_owned()
    }

    /// Lets `n` allocations succeed from now on, and the next one fail.
    fn fail_after(&self, n: i64) {
        self.left.write_all_at(&n.to_ne_bytes(), 0).expect("the file");
    }

    /// Stops failing allocations. Returns whether one has failed.
    fn failed(&self) -> bool {
        let mut left = [0; 8];
        self.left.read_exact_at(&mut left, 0).expect("the file");
        self.fail_after(-1);
        i64::from_ne_bytes(left) < 0
    }
}

const SECRET: &str = "0123456789abcdefghijABCDEFGHIJ_Z";

/// Small pools, so that most of what a request needs is an allocation of its own.
fn start(allocations: &Allocations, authgear: &FakeAuthgear, backend: &Backend) -> Nginx {
    let fastcgi = Backend::fastcgi();
    let nginx = site(authgear, backend)
        .workers(1)
        .error_level("warn")
        .env("LD_PRELOAD", &allocations.path("allocations.so"))
        .env("AUTHGEAR_TESTS_ALLOCATIONS", &allocations.path("left"))
        .allow_log("failed (12: Cannot allocate memory)")
        .var("FASTCGI", fastcgi.addr())
        .file("secret", SECRET)
        .http("underscores_in_headers on; request_pool_size 256; connection_pool_size 256; authgear_cache_zone z:1m;")
        .http(project("p", authgear, "max_fails 0; keepalive 0;"))
        .http(project("kept", authgear, "max_fails 0;"))
        .server(
            "authgear p; authgear_relay_cookies on;
             location / { proxy_pass http://%%BACKEND%%; }
             location /required {
               authgear_require session role=admin;
               authgear_forward_credentials off;
               proxy_pass http://%%BACKEND%%;
             }
             location /login {
               authgear_require session;
               authgear_login_redirect https://login.test/?to=$authgear_return_to;
               proxy_pass http://%%BACKEND%%;
             }
             location /kept { authgear kept; proxy_pass http://%%BACKEND%%; }
             location /cache { authgear_cache z; proxy_pass http://%%BACKEND%%; }
             location /jwt { authgear_mode jwt; proxy_pass http://%%BACKEND%%; }
             location /off { authgear off; proxy_pass http://%%BACKEND%%; }
             location /inside { try_files /none /; }
             location /page { authgear_require session; error_page 401 = /off; }
             location /status { authgear off; authgear_status; }
             location /purge { authgear off; authgear_purge admin; }
             location /hook { authgear off; authgear_webhook secret; }",
        )
        .start();
    authgear.wait_for_jwks_hits(1);
    nginx
}

type Right<'a> = &'a dyn Fn(&Response) -> bool;

#[test]
fn a_failed_allocation_lets_no_request_through_without_a_verdict() {
    let allocations = Allocations::new();
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = start(&allocations, &authgear, &backend);
    let worker = nginx.workers();

    let alice = User::named("alice").roles(&["admin", "editor"]);
    let token = authgear.opaque_token(&alice);
    // More headers than one part of nginx's list holds.
    let forging = |request: Request| {
        (0..25).fold(request, |request, n| {
            let request = request.header(&format!("X-Other-{n}"), "other");
            match n % 5 {
                0 => request.header("X-Authgear-User-Id", FORGED),
                1 => request.header("X_Authgear_User_Roles", FORGED),
                2 => request.header("X-Authgear-Anything", FORGED),
                _ => request,
            }
        })
    };
    let to = |path: &str| forging(get(&nginx, path));
    let by_alice = |path: &str| to(path).bearer(&token).cookie("other", "1").cookie("more", "2");
    let session = authgear.session(&alice);
    let ended = authgear.session(&alice);
    authgear.expire(&ended);
    let forged = format!("{}AAAA", authgear.jwt(&alice));
    let event = json!({
        "id": "1", "seq": 1, "type": "user.disabled",
        "payload": {"user": {"id": "bob", "is_disabled": true}}, "context": {"timestamp": 1},
    })
    .to_string();

    let is_alice: Right<'_> =
        &|answer| answer.status == 200 && answer.echo().identity() == identity_of(&alice);
    let is_nobody: Right<'_> =
        &|answer| answer.status == 200 && answer.echo().identity().is_empty();
    let says_no_session: Right<'_> = &|answer| {
        answer.status == 200
            && answer.echo().identity() == [("x-authgear-session-valid".into(), "false".into())]
    };
    let is = |status: u16| move |answer: &Response| answer.status == status;
    let cases: [(&str, Request, Right<'_>); 17] = [
        ("a look-up", by_alice("/"), is_alice),
        ("a session", to("/").cookie("session", &session), is_alice),
        ("an ended one", to("/").cookie("session", &ended), says_no_session),
        ("a kept connection", by_alice("/kept"), is_alice),
        ("a kept verdict", by_alice("/cache"), is_alice),
        ("a role", by_alice("/required"), is_alice),
        ("a token", to("/jwt").bearer(&authgear.jwt(&alice)), is_alice),
        ("a wrong token", to("/jwt").bearer(&forged), is_nobody),
        ("nobody", to("/"), is_nobody),
        ("an internal redirect", by_alice("/inside"), is_alice),
        ("where it is off", by_alice("/off"), is_nobody),
        ("denied", to("/required"), &is(401)),
        ("a page instead", to("/page"), is_nobody),
        ("sent to log in", to("/login").header("Accept", "text/html"), &is(302)),
        ("the state", to("/status"), &is(200)),
        ("a purge", to("/purge?user=carol").method("POST"), &is(204)),
        (
            "an event",
            get(&nginx, "/hook")
                .method("POST")
                .header(
                    "x-authgear-body-signature",
                    webhook_signature(SECRET.as_bytes(), event.as_bytes()),
                )
                .body(event.clone()),
            &is(204),
        ),
    ];
    for (name, request, is_right) in cases {
        let answer = request.send();
        assert!(is_right(&answer), "{name}: {} {}", answer.status, answer.text());
        for n in 0.. {
            allocations.fail_after(n);
            let answer = request.start().try_wait();
            if !allocations.failed() {
                assert!(n > 10, "{name}: {n} allocations");
                break;
            }
            if let Ok(answer) = answer {
                let is_failure = [500, 503].contains(&answer.status);
                assert!(
                    is_failure || is_right(&answer),
                    "{name}, {n}: {} {}",
                    answer.status,
                    answer.text()
                );
            }
            assert_eq!(nginx.workers(), worker, "{name}, {n}");
        }
        let answer = request.send();
        assert!(is_right(&answer), "{name}: {} {}", answer.status, answer.text());
    }
    for request in backend.requests() {
        assert_nothing_forged(&request, &request.target);
        let identity = request.identity();
        let whose = match &*request.target {
            "/required" | "/kept" | "/cache" | "/inside" => identity == identity_of(&alice),
            "/off" => identity.is_empty(),
            _ => true,
        };
        assert!(whose, "{request:?}");
    }
    // One connection is kept for the next request.
    assert!(eventually(DEADLINE, || authgear.connections_open() <= 1));
}
