//! `make test-live`, against the fake: all holds. Against a fake that differs, it says where.

use std::process::Command;

use serde_json::json;
use support::{Ca, FakeAuthgear, Fault, User, Version};

/// A project with a user who has a session and a token.
struct Project {
    authgear: FakeAuthgear,
    cookie: String,
    token: String,
}

impl Project {
    fn new(authgear: FakeAuthgear) -> Self {
        let alice = User::named("alice").roles(&["editor"]);
        let cookie = authgear.session(&alice);
        let token = authgear.jwt(&alice);
        authgear.set_profile("alice", json!({ "email": "alice@example.com" }));
        Self { authgear, cookie, token }
    }

    /// Runs it with these further arguments. Returns whether it found all as it should be, and what
    /// it prints.
    #[track_caller]
    fn check(&self, more: &[&str], environment: &[(&str, &str)]) -> (bool, String) {
        let mut live = Command::new(env!("CARGO_BIN_EXE_live"));
        live.arg(self.authgear.origin()).args(more);
        live.env("COOKIE", format!("{}session={}", self.authgear.cookie_prefix(), self.cookie));
        live.env("TOKEN", &self.token).envs(environment.iter().copied());
        let output = live.output().expect("the check");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).expect("text");
        for secret in [&self.cookie, &self.token].iter().flat_map(|secret| secret.split('.')) {
            assert!(!text.contains(secret), "a credential is printed: {text}");
        }
        (output.status.success(), text)
    }
}

fn lines<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(word)).collect()
}

#[test]
fn each_version_of_the_fake_passes_the_check_of_a_live_one() {
    for (version, audience) in [
        (Version::August2026, "it does, as before autumn 2026"),
        (Version::November2026, "it does not, as since autumn 2026"),
    ] {
        let authgear = FakeAuthgear::builder().version(version).cookie_prefix("my_").start();
        let project = Project::new(authgear);
        let (passed, text) = project.check(&[&project.authgear.resolver_url()], &[]);
        assert!(passed && text.contains("0 of 43 facts differ"), "{text}");
        assert_eq!(lines(&text, "skipped"), Vec::<&str>::new());
        assert!(lines(&text, "note").iter().any(|line| line.ends_with(audience)), "{text}");
    }
}

#[test]
fn the_check_of_a_live_one_works_over_tls_with_what_is_given() {
    let ca = Ca::new();
    let authgear = FakeAuthgear::builder().tls(ca.leaf(&["127.0.0.1"])).start();
    let project = Project::new(authgear);
    let roots = tempfile::tempdir().expect("a directory");
    let roots = ca.pem_path(roots.path());
    let trust = ("SSL_CERT_FILE", roots.to_str().expect("a path"));
    let (passed, text) = project.check(&[], &[trust, ("COOKIE", ""), ("TOKEN", "")]);
    assert!(passed, "{text}");
    let skipped = lines(&text, "skipped");
    assert!(skipped.iter().any(|line| line.ends_with(": needs COOKIE")), "{text}");
    assert_eq!(skipped.len(), 20, "{text}");
}

#[test]
fn the_check_of_a_live_one_names_what_differs() {
    let project = Project::new(FakeAuthgear::start());
    let differing = |fault: Fault, path: &str| {
        project.authgear.inject_at(path, fault);
        let (passed, text) = project.check(&[], &[]);
        project.authgear.clear();
        assert!(!passed, "{text}");
        lines(&text, "DIFFERS").join("\n")
    };
    // A resolver that says nothing about anybody; an answer that repeats the credentials.
    let silent = differing(Fault::SilentBlank, "/_resolver/resolve");
    assert!(
        silent.contains("an unknown session cookie: false: expected false, got nothing"),
        "{silent}"
    );
    assert!(!silent.contains("no credentials"), "{silent}");
    let repeated = format!("{} {}", project.cookie, project.token);
    let told = differing(
        Fault::Headers(vec![
            ("X-Authgear-Session-Valid".to_owned(), repeated.clone()),
            ("Allow".to_owned(), repeated),
        ]),
        "/_resolver/resolve",
    );
    assert!(
        told.contains("POST: 405 with Allow: expected 405 GET, HEAD, OPTIONS, got 200 ***"),
        "{told}"
    );
    // Another status of the keys.
    let keys = differing(Fault::Status(404), "/oauth2/jwks");
    assert!(keys.contains("RSA, RS256, for signatures, with ids: not so: some"), "{keys}");
}

#[test]
fn the_check_of_a_live_one_that_cannot_begin_says_why() {
    let project = Project::new(FakeAuthgear::start());
    let (passed, text) = project.check(&[], &[("COOKIE", &project.cookie)]);
    assert!(!passed && text.contains("COOKIE is no NAME=VALUE"), "{text}");
    project.authgear.stop();
    let (passed, text) = project.check(&[], &[]);
    assert!(!passed && text.contains("Connection refused"), "{text}");
}
