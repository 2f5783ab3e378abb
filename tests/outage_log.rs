//! Error log lines about an outage: enough to repair it, one line only, and no secret.
//!
//! One worker each, because every worker logs on its own. Level `info`, because debug lines contain
//! everything.

use support::{get, Backend, Builder, FakeAuthgear, Fault, Nginx, RefusedAddr, SilentAddr, User};

use crate::project::{project, project_at, verdict, TELLING};
use crate::site::site;

fn one_worker(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend).workers(1).error_level("info").server(TELLING)
}

fn location(path: &str, project: &str) -> String {
    format!("location {path} {{ authgear {project}; proxy_pass http://%%BACKEND%%; }}")
}

/// Lines of the error log of this level.
fn lines(nginx: &Nginx, level: &str) -> Vec<String> {
    let level = format!("[{level}]");
    nginx.error_log().lines().filter(|line| line.contains(&level)).map(str::to_owned).collect()
}

/// Makes a request with a fresh token.
#[track_caller]
fn ask(nginx: &Nginx, authgear: &FakeAuthgear, path: &str) -> String {
    let token = authgear.opaque_token(&User::named("alice"));
    verdict(&get(nginx, path).bearer(&token).send())
}

#[track_caller]
fn assert_ends(line: &str, end: &str) {
    assert!(line.ends_with(end), "{line}\ndoes not end with\n{end}");
}

#[test]
fn wrong_servers_are_named_for_what_they_are() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend)
        .http(project("site", &authgear, "max_fails 2; fail_timeout 1d;"))
        .http(project("https", &authgear, "max_fails 0;"))
        .http(format!(
            "authgear_project location {{ endpoint {}; resolver_url /_site; }}",
            authgear.origin()
        ))
        .server(location("/site", "site"))
        .server(location("/https", "https"))
        .server(location("/location", "location"))
        .server("location = /_site { internal; proxy_pass http://%%BACKEND%%; }")
        .start();
    authgear.inject(Fault::StatusBody(200, b"<!doctype html><h1>Welcome</h1>".to_vec()));
    for verdict in ["not_a_resolver resolver", "not_a_resolver resolver", "resolver_suspended none"]
    {
        assert_eq!(ask(&nginx, &authgear, "/site"), format!("error {verdict}"));
    }
    assert_eq!(ask(&nginx, &authgear, "/location"), "error not_a_resolver resolver");
    authgear.clear();
    let words = b"Client sent an HTTP request to an HTTPS server.\n";
    authgear.inject(Fault::StatusBody(400, words.to_vec()));
    assert_eq!(ask(&nginx, &authgear, "/https"), "error bad_status resolver");
    let errors = lines(&nginx, "error");
    for detail in [
        "not_a_resolver, it answered with status 200 and a page: the URL is that of a website and \
         not of Authgear's resolver",
        "bad_status, it answered with status 400: this port speaks https, write https:// in the URL",
    ] {
        let logged = errors.iter().filter(|line| line.contains(detail)).count();
        assert_eq!(logged, 1, "{detail}: {errors:?}");
    }
    // The backend got the look-up of the location only.
    assert_eq!(backend.hits(), 1);
}

#[test]
fn a_session_cookie_under_another_prefix_is_logged_without_its_value() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend)
        .http(project("p", &authgear, "cookie_prefix shop_;"))
        .server(location("/", "p"))
        .start();
    let session = authgear.session(&User::named("alice"));
    let quiet = ["other=1", "my_session=plain", "session=", "shop_app_session=x"];
    for cookie in quiet {
        get(&nginx, "/").header("Cookie", cookie).send();
    }
    assert_eq!(lines(&nginx, "info").len(), 0, "{}", nginx.error_log());
    for (prefix, name) in [("", "session"), ("my_", "my_session")] {
        let cookie = format!("a=b; {name}={session}; c");
        let answer = get(&nginx, "/").header("Cookie", &cookie).send();
        assert_eq!(verdict(&answer), "none no_credentials none");
        let says = format!(
            "authgear found no credentials, but the cookie \"{name}\" has the form of an Authgear \
             session: cookie_prefix of the project \"p\" may have to be \"{prefix}\", client: "
        );
        let logged = lines(&nginx, "info");
        assert!(logged.last().is_some_and(|line| line.contains(&says)), "{logged:?}");
    }
    assert!(!nginx.error_log().contains(&session));
}

#[test]
fn an_outage_logs_one_line_when_it_begins_and_one_when_it_ends() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend)
        .http(project("one", &authgear, "max_fails 0;"))
        .http(project("two", &authgear, "max_fails 2; fail_timeout 1d;"))
        .server(location("/one", "one"))
        .server(location("/two", "two"))
        .start();
    let (addr, resolver) = (authgear.addr(), authgear.resolver_url());
    authgear.stop();
    for _ in 0..5 {
        assert_eq!(ask(&nginx, &authgear, "/one"), "error connect_error resolver");
        ask(&nginx, &authgear, "/two");
    }
    let errors = lines(&nginx, "error");
    assert_eq!(errors.len(), 2, "{errors:?}");
    for (line, project) in errors.iter().zip(["one", "two"]) {
        assert!(
            line.contains("authgear resolver failed: connect_error, connect() failed"),
            "{line}"
        );
        assert!(line.contains("Connection refused"), "{line}");
        let end = format!("address: {addr}, project: \"{project}\", resolver: \"{resolver}\"");
        assert_ends(line, &end);
    }
    // Each denied request is logged, with nginx's usual context.
    let denied = lines(&nginx, "info");
    for (word, path, count) in [
        ("connect_error", "/one", 5),
        ("connect_error", "/two", 2),
        ("resolver_suspended", "/two", 3),
    ] {
        let reported = |line: &&String| {
            line.contains(&format!("authgear denied access: {word}, client: 127.0.0.1, server: "))
                && line.contains(&format!("request: \"GET {path} HTTP/1.1\""))
        };
        assert_eq!(denied.iter().filter(reported).count(), count, "{word} {path}: {denied:?}");
    }
    let again = "authgear resolver answers again";
    assert!(!nginx.error_log().contains(again));

    authgear.restart_on(addr);
    for _ in 0..3 {
        assert_eq!(ask(&nginx, &authgear, "/one"), "valid ok resolver");
    }
    let notices: Vec<_> =
        lines(&nginx, "notice").into_iter().filter(|line| line.contains(again)).collect();
    assert_eq!(notices.len(), 1, "{notices:?}");
    let end =
        format!("{again} (4 failures not logged), project: \"one\", resolver: \"{resolver}\"");
    assert_ends(&notices[0], &end);
}

#[test]
fn the_next_line_has_the_number_of_suppressed_ones() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let silent = SilentAddr::bind();
    let resolver = format!("http://{}", silent.addr());
    // Each failure takes a second, so that about ten fill the time between two lines.
    let settings = "max_fails 0; connect_timeout 1s;";
    let nginx = one_worker(&authgear, &backend)
        .http(project_at("p", &authgear, &resolver, settings))
        .server(location("/", "p"))
        .start();
    let mut asked = 0;
    while lines(&nginx, "error").len() < 2 {
        assert_eq!(ask(&nginx, &authgear, "/"), "error connect_error resolver");
        asked += 1;
        assert!(asked < 20, "no second line");
    }
    assert!(asked > 10, "a second line after {asked} s");
    let errors = lines(&nginx, "error");
    let failed = format!(
        "authgear resolver failed: connect_error, connect timed out, address: {}",
        silent.addr()
    );
    assert!(errors[0].contains(&format!("{failed}, project: \"p\"")), "{}", errors[0]);
    let left_out = format!("{failed} ({} failures not logged), project: \"p\"", asked - 2);
    assert!(errors[1].contains(&left_out), "{left_out}: {}", errors[1]);
}

#[test]
fn nginx_logs_no_errors_of_its_own_about_the_resolver() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let refused = RefusedAddr::bind();
    let resolvers = [
        format!("http://{}/resolve", refused.addr()),
        format!("https://{}/resolve", refused.addr()),
        // This server has no TLS.
        format!("https://{}/resolve", authgear.addr()),
    ];
    let faults = [
        Fault::Reset,
        Fault::CloseAtOnce,
        Fault::CloseAfter(20),
        Fault::Raw(b"garbage\r\n\r\n".into()),
        Fault::Status(502),
    ];
    let mut builder = one_worker(&authgear, &backend);
    // One project per failure, because repeated failures of a project are not logged.
    for n in 0..resolvers.len() + faults.len() {
        let name = format!("p{n}");
        let block = match resolvers.get(n) {
            Some(resolver) => project_at(&name, &authgear, resolver, ""),
            None => project(&name, &authgear, ""),
        };
        builder = builder.http(block).server(location(&format!("= /{n}"), &name));
    }
    let nginx = builder.start();
    let mut faults = faults.into_iter();
    for n in 0..resolvers.len() + faults.len() {
        if n >= resolvers.len() {
            authgear.inject(faults.next().expect("a fault"));
        }
        for _ in 0..2 {
            assert!(ask(&nginx, &authgear, &format!("/{n}")).starts_with("error "), "{n}");
        }
        let errors = lines(&nginx, "error");
        assert_eq!(errors.len(), n + 1, "{errors:?}");
        assert!(errors[n].contains("authgear resolver failed: "), "{}", errors[n]);
        assert!(errors[n].contains(&format!("project: \"p{n}\"")), "{}", errors[n]);
    }
    for level in ["warn", "crit"] {
        assert_eq!(lines(&nginx, level), [""; 0]);
    }
}

#[test]
fn requests_that_continue_without_a_session_are_not_logged_as_denied() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = one_worker(&authgear, &backend)
        .server("authgear_on_error anonymous;")
        .server(location("/", "%%AUTHGEAR%%"))
        .start();
    assert_eq!(ask(&nginx, &authgear, "/"), "valid ok resolver");
    assert_eq!(lines(&nginx, "error"), [""; 0]);
    authgear.inject(Fault::Status(500));
    assert_eq!(ask(&nginx, &authgear, "/"), "error bad_status resolver");
    let errors = lines(&nginx, "error");
    let says = format!(
        "authgear resolver failed: bad_status, it answered with status 500, project: \"{}\", \
         resolver: \"{}\"",
        authgear.origin(),
        authgear.resolver_url()
    );
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_ends(&errors[0], &says);
    assert!(!nginx.error_log().contains("denied"));
}

#[test]
fn no_secret_is_logged() {
    const SECRETS: [&str; 4] = ["s3cret-token", "s3cret-session", "s3cret-app", "s3cret-set"];
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let secrets = SECRETS.join(" ");
    // Answers that contain the request's secrets.
    let identity = |value: &str| {
        Fault::Headers(vec![
            header("X-Authgear-Session-Valid", "true"),
            header("X-Authgear-User-Id", value),
            header("Set-Cookie", &format!("session={secrets}")),
        ])
    };
    let faults = [
        Fault::Raw(format!("{secrets}\r\n\r\n").into()),
        Fault::Raw(format!("HTTP/1.1 200 {secrets}\r\n{secrets}\r\n\r\n").into()),
        Fault::Raw(format!("HTTP/1.1 {secrets}\r\n\r\n").into()),
        Fault::Raw(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {secrets}\r\n\r\n").into()),
        Fault::Raw(format!("HTTP/1.1 200 OK\r\nContent-Length: {secrets}\r\n\r\n").into()),
        Fault::StatusBody(500, secrets.clone().into()),
        Fault::Redirect(302, format!("https://{}/", SECRETS.join("."))),
        Fault::CloseAtOnce,
        Fault::Reset,
        identity(&format!("{secrets}\u{1}")),
        identity(&format!("{secrets}\t")),
        identity(&secrets),
        Fault::SilentBlank,
    ];
    let mut builder = one_worker(&authgear, &backend);
    for n in 0..faults.len() {
        let name = format!("p{n}");
        let block = project(&name, &authgear, "max_fails 1;");
        builder = builder.http(block).server(location(&format!("= /{n}"), &name));
    }
    let nginx = builder.start();
    let mut failed = 0;
    for (n, fault) in faults.into_iter().enumerate() {
        authgear.inject(fault);
        let request = get(&nginx, &format!("/{n}"))
            .bearer(SECRETS[0])
            .header("Cookie", format!("session={}; app_session={}", SECRETS[1], SECRETS[2]));
        for _ in 0..2 {
            failed += usize::from(request.send().status == 503);
        }
    }
    assert!(failed >= 18, "only {failed} failed");
    let log = nginx.error_log();
    assert!(log.contains("authgear resolver failed: ") && log.contains("authgear denied access: "));
    let reported: Vec<_> = log.lines().filter(|line| line.contains("s3cret")).collect();
    assert!(reported.is_empty(), "{reported:?}");
}
