//! When Authgear cannot be reached, the request is denied, or continues without a session if so
//! configured. It never gets one, and no `error_page` bypasses this.

use support::{
    get, Backend, Builder, FakeAuthgear, Fault, Nginx, RefusedAddr, Request, Response, SilentAddr,
    User,
};

use crate::project::{project, project_at, project_site, verdict, TELLING};
use crate::site::{assert_nothing_forged, site, FORGED};

/// A request with a valid session and forged identity headers.
fn client(nginx: &Nginx, authgear: &FakeAuthgear, path: &str) -> Request {
    let alice = User::named("alice").roles(&["editor"]);
    get(nginx, path)
        .bearer(&authgear.opaque_token(&alice))
        .cookie("session", &authgear.session(&alice))
        .header("X-Authgear-Session-Valid", "true")
        .header("X-Authgear-User-Id", FORGED)
        .header("X_Authgear_User_Roles", FORGED)
}

#[track_caller]
fn assert_denied(answer: &Response, what: &str) {
    assert_eq!(answer.status, 503, "{what}");
    assert_eq!(answer.all("retry-after"), ["1"], "{what}");
}

/// Two locations for each of these projects: `/deny/NAME` and `/open/NAME`.
fn locations(mut builder: Builder, names: &[&str]) -> Builder {
    for name in names {
        let pass = "proxy_pass http://%%BACKEND%%;";
        builder = builder.server(format!(
            "location = /deny/{name} {{ authgear {name}; {pass} }}
             location = /open/{name} {{ authgear {name}; authgear_on_error anonymous; {pass} }}"
        ));
    }
    builder.server(TELLING).http("underscores_in_headers on;")
}

#[test]
fn every_kind_of_failure_is_denied_or_continues_without_a_session() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let (refused, silent) = (RefusedAddr::bind(), SilentAddr::bind());
    let at = |name, addr: String, settings| {
        project_at(name, &authgear, &format!("{addr}/resolve"), settings)
    };
    let patient = "max_fails 0; max_response_size 8k;";
    let builder = site(&authgear, &backend)
        .http(project("fake", &authgear, patient))
        .http(project("impatient", &authgear, "max_fails 0; timeout 200ms;"))
        .http(at("refused", format!("http://{}", refused.addr()), patient))
        .http(at(
            "silent",
            format!("http://{}", silent.addr()),
            "max_fails 0; connect_timeout 200ms;",
        ))
        .http(at("plain", format!("https://{}", authgear.addr()), patient));
    let nginx = locations(builder, &["fake", "impatient", "refused", "silent", "plain"]).start();

    type Row = (String, &'static str, &'static str, Option<Fault>);
    let row = |what: &str, project, reason, fault| -> Row { (what.into(), project, reason, fault) };
    let fake = |what: &str, reason, fault| row(what, "fake", reason, Some(fault));
    let session = "X-Authgear-Session-Valid: true\r\nX-Authgear-User-Id: alice\r\n";
    let raw = |status_line: &str, rest: &str| {
        Fault::Raw(format!("{status_line}\r\n{session}{rest}").into())
    };
    let ok = |rest: &str| raw("HTTP/1.1 200 OK", rest);
    let chunked = |body: &str| ok(&format!("Transfer-Encoding: chunked\r\n\r\n{body}"));
    let (closed, bad, large) = ("connection_closed", "bad_answer", "answer_too_large");
    let mut rows = vec![
        row("connection refused", "refused", "connect_error", None),
        row("connection neither made nor refused", "silent", "connect_error", None),
        row("no TLS", "plain", "tls_error", None),
        row("no answer", "impatient", "timeout", Some(Fault::Hang)),
        row("an answer that stops", "impatient", "timeout", Some(Fault::HangAfter(20))),
        fake("closed", closed, Fault::CloseAtOnce),
        fake("reset", closed, Fault::Reset),
        fake("a body that breaks off", closed, ok("Content-Length: 9\r\n\r\nbody")),
        fake("chunks that break off", closed, chunked("9\r\nbody")),
        fake("chunks that are none", bad, chunked("zz\r\nbody\r\n0\r\n\r\n")),
        fake("two lengths", bad, ok("Content-Length: 1\r\nContent-Length: 2\r\n\r\nab")),
        fake("a folded header", bad, ok(" x\r\n\r\n")),
        fake("garbage", bad, Fault::Raw(b"\0\x01garbage\r\n\r\n".into())),
        fake("another protocol", bad, Fault::Raw(b"SSH-2.0-x\r\n".into())),
        fake("another HTTP", bad, raw("HTTP/2.0 200 OK", "\r\n")),
        fake("no status", bad, raw("HTTP/1.1 OK", "\r\n")),
        fake("an upgrade", "bad_status", raw("HTTP/1.1 101 x", "Upgrade: h2c\r\n\r\n")),
        fake("a large head", large, Fault::Oversized { header: 9000, body: 0 }),
        fake("a large body", large, Fault::Oversized { header: 0, body: 9000 }),
    ];
    for status in [301, 302, 303, 307, 308] {
        let elsewhere = Fault::Redirect(status, authgear.resolver_url());
        rows.push(fake(&format!("redirect {status}"), "bad_status", elsewhere));
    }
    for status in [304, 400, 401, 403, 404, 405, 407, 418, 429, 500, 501, 502, 503, 504, 599] {
        rows.push(fake(&format!("status {status}"), "bad_status", Fault::Status(status)));
        let with_session = raw(&format!("HTTP/1.1 {status} x"), "\r\n");
        rows.push(fake(&format!("{status} with a session"), "bad_status", with_session));
    }
    for length in [1, 8, 15, 20, 100, 400, 900] {
        rows.push(fake(&format!("{length} bytes"), closed, Fault::CloseAfter(length)));
    }
    for (n, (what, project, reason, fault)) in rows.into_iter().enumerate() {
        fault.into_iter().for_each(|fault| authgear.inject(fault));
        let reported = format!("error {reason} resolver");
        let denied = client(&nginx, &authgear, &format!("/deny/{project}")).send();
        assert_eq!(verdict(&denied), reported, "{what}");
        assert_denied(&denied, &what);
        assert_eq!(backend.hits(), n, "{what}");

        let open = client(&nginx, &authgear, &format!("/open/{project}")).send();
        assert_eq!((open.status, verdict(&open)), (200, reported), "{what}");
        let echo = open.echo();
        assert_eq!(echo.identity(), [], "{what}");
        assert_nothing_forged(&echo, &what);
        assert_eq!(open.header("retry-after"), None, "{what}");
    }
}

/// Sends the client's request to `/` of this server during each of several failures. Asserts that
/// the backend of `authgear` gets no request.
#[track_caller]
fn never_open(what: &str, server: &str, check: impl Fn(&Response, &str)) {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(project("p", &authgear, "max_fails 0;"))
        .http("underscores_in_headers on;")
        .server("authgear p; location / { proxy_pass http://%%BACKEND%%; }")
        .server(server)
        .start();
    for fault in [
        Fault::CloseAtOnce,
        Fault::Status(401),
        Fault::Status(403),
        Fault::Status(404),
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Redirect(302, "/".into()),
        Fault::Raw(b"garbage\r\n\r\n".into()),
    ] {
        let what = format!("{what}: {fault:?}");
        authgear.inject(fault);
        let answer = client(&nginx, &authgear, "/").send();
        check(&answer, &what);
    }
    authgear.stop();
    check(&client(&nginx, &authgear, "/").send(), what);
    assert_eq!(backend.hits(), 0, "{what}");
}

#[test]
fn error_pages_do_not_bypass_authentication() {
    const ALL: &str = "401 403 404 500 502 503 504";
    let off = "authgear off; return 200 maintenance;";
    let maintenance = |answer: &Response, what: &str| {
        assert_eq!((answer.status, answer.text().as_str()), (200, "maintenance"), "{what}");
        assert_eq!(answer.header("retry-after"), None, "{what}");
    };
    let cycle = |answer: &Response, what: &str| assert_eq!(answer.status, 500, "{what}");

    never_open("no page", "", assert_denied);
    never_open(
        "a page of other codes",
        "error_page 401 403 404 500 502 504 =200 /;",
        assert_denied,
    );
    never_open(
        "a page that is off",
        &format!("error_page {ALL} =200 /page; location = /page {{ {off} }}"),
        maintenance,
    );
    never_open(
        "a named location that is off",
        &format!("error_page {ALL} =200 @page; location @page {{ {off} }}"),
        maintenance,
    );
    never_open(
        "a page for the code",
        "error_page 503 /page.html; location = /page.html { authgear off; try_files /none @page; }
         location @page { authgear off; return 503 maintenance; }",
        |answer, what| {
            assert_denied(answer, what);
            assert_eq!(answer.text(), "maintenance", "{what}");
        },
    );
    // These pages are protected themselves.
    never_open("a page", &format!("error_page {ALL} =200 /page;"), assert_denied);
    never_open("the page itself", &format!("error_page {ALL} =200 /;"), assert_denied);
    never_open("the page's own code", &format!("error_page {ALL} = /;"), assert_denied);
    let pass = "location @page { proxy_pass http://%%BACKEND%%; }";
    never_open("a named location", &format!("error_page {ALL} =200 @page; {pass}"), assert_denied);
    never_open(
        "intercepted errors",
        &format!("error_page {ALL} =200 @page; proxy_intercept_errors on; {pass}"),
        assert_denied,
    );
    never_open(
        "recursion",
        &format!("recursive_error_pages on; error_page {ALL} =200 /page;"),
        cycle,
    );
    never_open(
        "recursion to a named location",
        &format!("recursive_error_pages on; error_page {ALL} =200 @page; {pass}"),
        cycle,
    );
    never_open(
        "recursion that ends",
        &format!(
            "recursive_error_pages on; error_page {ALL} =200 /page; location = /page {{ \
             error_page 503 =200 @end; proxy_pass http://%%BACKEND%%; }} \
             location @end {{ {off} }}"
        ),
        maintenance,
    );
    never_open(
        "a redirect",
        &format!("error_page {ALL} =302 https://status.test/;"),
        |answer, what| {
            assert_eq!(answer.status, 302, "{what}");
            assert_eq!(answer.header("location").as_deref(), Some("https://status.test/"));
        },
    );
}

#[test]
fn an_error_page_is_authorized_by_its_own_location() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let other = FakeAuthgear::start();
    let nginx = site(&authgear, &backend)
        .var("OTHER", other.url())
        .http("underscores_in_headers on;")
        .server(TELLING)
        .server(
            "location /anonymous { authgear %%AUTHGEAR%%; error_page 503 = @anonymous; }
             location @anonymous {
               authgear %%AUTHGEAR%%;
               authgear_on_error anonymous;
               proxy_pass http://%%BACKEND%%;
             }
             location /other { authgear %%AUTHGEAR%%; error_page 503 = @other; }
             location @other { authgear %%OTHER%%; proxy_pass http://%%BACKEND%%; }
             location /off { authgear %%AUTHGEAR%%; error_page 503 = @off; }
             location @off { authgear off; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    authgear.inject(Fault::Status(500));
    let session = other.session(&User::named("bob"));
    let ask = |path: &str| {
        let request = get(&nginx, path).cookie("session", &session);
        let answer = request.header("X-Authgear-User-Id", FORGED).send();
        let echo = answer.echo();
        assert_nothing_forged(&echo, path);
        (answer.status, verdict(&answer), echo.header("x-authgear-user-id").map(str::to_owned))
    };
    let failed = || "error bad_status resolver".to_owned();
    assert_eq!(ask("/anonymous"), (200, failed(), None));
    assert_eq!((authgear.hits(), other.hits()), (1, 0));
    assert_eq!(ask("/other"), (200, "valid ok resolver".to_owned(), Some("bob".to_owned())));
    assert_eq!((authgear.hits(), other.hits()), (2, 1));
    assert_eq!(ask("/off"), (200, failed(), None));
    assert_eq!((authgear.hits(), other.hits()), (3, 1));
}

#[test]
fn a_hanging_resolver_does_not_delay_other_requests() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let other = FakeAuthgear::start();
    // One worker, which has the waiting requests.
    let nginx = project_site(&authgear, &backend, "timeout 3s; max_fails 0;")
        .workers(1)
        .var("OTHER", other.url())
        .server(
            "location / { authgear p; proxy_pass http://%%BACKEND%%; }
             location /other { authgear %%OTHER%%; proxy_pass http://%%BACKEND%%; }
             location /off { authgear off; proxy_pass http://%%BACKEND%%; }
             location /static { return 200 static; }",
        )
        .start();
    authgear.inject(Fault::Hang);
    let request = |n: usize| get(&nginx, "/").bearer(&format!("token {n}"));
    let pending: Vec<_> = (0..64).map(|n| request(n).start()).collect();
    // As many look-ups as `max_connections` allows.
    authgear.wait_for_hits(64);
    let bob = other.opaque_token(&User::named("bob"));
    for (path, user) in
        [("/static", None), ("/off", None), ("/other", Some("bob")), ("/no-credentials", None)]
    {
        let request = get(&nginx, path);
        let request = if user.is_some() { request.bearer(&bob) } else { request };
        let answer = request.send();
        assert_eq!(answer.status, 200, "{path}");
        if path != "/static" {
            assert_eq!(answer.echo().header("x-authgear-user-id"), user, "{path}");
        }
    }
    let log = nginx.wait_for_access_lines(4);
    assert!(!log.iter().any(|line| line.contains(" 503 ")), "they had to wait: {log:?}");
    for pending in pending {
        let answer = pending.wait();
        assert_eq!(verdict(&answer), "error timeout resolver");
        assert_denied(&answer, "no answer");
    }
    authgear.clear();
    assert_eq!(client(&nginx, &authgear, "/").send().status, 200);
}
