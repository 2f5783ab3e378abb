//! `authgear_verdict`: the decision on a request, for another proxy. tests/forward_auth.rs has the
//! proxies.

use authgear::identity::NAMES;
use support::{get, Backend, Builder, FakeAuthgear, Fault, Nginx, Request, Response, User};

use crate::project::project;
use crate::site::{identity_of, site, Pairs, FORGED};

/// Settings around the endpoint that would spoil it if they applied.
fn endpoints(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    site(authgear, backend)
        .listen_extra(1)
        .http(project("p", authgear, "max_fails 0;"))
        .http("authgear_cache_zone z:1m; proxy_cache_path %%DIR%%/kept keys_zone=kept:1m;")
        .server(
            "listen %%ADDR2%% http2;
             authgear p;
             authgear_cache z;
             authgear_require session;
             authgear_login_redirect https://login.test/;
             error_page 401 403 429 503 =200 /sorry.html;
             error_page 412 =200 /sorry.html;
             expires 1h;
             add_header Cache-Control public always;
             location = /sorry.html { authgear_require off; return 200 sorry; }
             location = /authz { authgear_verdict; }
             location = /authz/admin {
               authgear_require role=admin;
               error_page 403 =200 /sorry.html;
               authgear_verdict;
             }
             location = /authz/limited {
               authgear_unknown_limit zone=unknown:64k rate=1r/m burst=1;
               authgear_cache off;
               authgear_verdict;
             }
             location = /authz/header {
               authgear_header X-WebAuth-User $x_authgear_user_id;
               authgear_verdict;
             }
             location = /authz/bare { authgear_set_headers off; authgear_verdict; }
             location = /authz/any {
               satisfy any;
               allow all;
               authgear_verdict;
             }
             location = /authz/early { authgear_early on; satisfy any; allow all; authgear_verdict; }
             location = /via { authgear_require off; try_files /nothing /authz/any; }
             location = /sub {
               authgear_require off;
               auth_request /authz;
               error_page 404 /sorry.html;
               proxy_pass http://%%BACKEND%%;
             }
             location = /kept {
               authgear off;
               proxy_cache kept;
               proxy_cache_valid any 1h;
               proxy_pass http://%%ADDR%%/authz;
             }",
        )
}

/// The identity that the endpoint tells: a proxy would leave the client's header where it copies
/// nothing, so what the verdict lacks is empty.
fn told(user: &User) -> Pairs {
    let mut told = identity_of(user);
    for name in NAMES {
        if told.iter().all(|(own, _)| own != name) {
            told.push((name.to_owned(), String::new()));
        }
    }
    told.sort();
    told
}

#[track_caller]
fn assert_not_kept(answer: &Response, what: &str) {
    assert_eq!(answer.all("cache-control"), ["no-store"], "{what}");
    assert_eq!(answer.header("location"), None, "{what}");
    assert_eq!(answer.header("grpc-status"), None, "{what}");
    assert!(!answer.text().contains("sorry"), "{what}");
}

#[test]
fn a_session_is_answered_with_all_identity_headers() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = endpoints(&authgear, &backend).start();
    let alice = User::named("alice").roles(&["editor", "viewer"]);
    let (token, session) = (authgear.opaque_token(&alice), authgear.session(&alice));
    let with = get(&nginx, "/authz").bearer(&token);
    for request in [
        with.clone(),
        get(&nginx, "/authz").cookie("session", &session),
        with.clone().method("POST").body("a=b"),
        with.clone().method("HEAD"),
        with.clone().method("OPTIONS"),
        with.clone().method("DELETE"),
        // Conditions of the client's request are for its own resource.
        with.clone().header("If-Match", "\"x\""),
        with.clone().header("If-Unmodified-Since", "Thu, 01 Jan 1970 00:00:00 GMT"),
        with.clone().header("If-None-Match", "*"),
        with.clone().header("Range", "bytes=0-0"),
    ] {
        for request in [
            request.clone(),
            request.header("X-Authgear-User-Id", FORGED).header("X_Authgear_User_Roles", FORGED),
        ] {
            let answer = request.send();
            assert_eq!(answer.status, 200, "{request:?}");
            assert_eq!(answer.identity(), told(&alice), "{request:?}");
            assert_eq!(answer.text(), "");
            assert_not_kept(&answer, &format!("{request:?}"));
        }
    }
    let h2 = get(&nginx.addr2(), "/authz").bearer(&token).send_h2();
    assert_eq!((h2.status, h2.identity()), (200, told(&alice)));
    assert_eq!(backend.hits(), 0);
}

#[test]
fn the_answer_has_the_headers_that_a_backend_would_get() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = endpoints(&authgear, &backend).start();
    let alice = User::named("alice");
    let token = authgear.opaque_token(&alice);
    let ask = |path| get(&nginx, path).bearer(&token).header("X-WebAuth-User", FORGED).send();
    let header = ask("/authz/header");
    assert_eq!(header.all("x-webauth-user"), ["alice"]);
    assert_eq!(header.identity(), told(&alice));
    assert_eq!(ask("/authz").all("x-webauth-user"), [""; 0]);
    let bare = ask("/authz/bare");
    assert_eq!((bare.status, bare.identity()), (200, Pairs::new()));
}

#[test]
fn denials_have_the_status_of_the_policy_and_no_page_redirect_or_grpc_answer() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = endpoints(&authgear, &backend).start();
    let token = authgear.opaque_token(&User::named("alice"));
    let grpc = |request: Request| {
        let request = request.method("POST").header("Content-Type", "application/grpc");
        request.header("TE", "trailers")
    };
    let browser = |request: Request| {
        let request = request.header("Accept", "text/html,*/*;q=0.8");
        request.header("Sec-Fetch-Mode", "navigate").header("Sec-Fetch-Dest", "document")
    };
    let forwarded = |request: Request| {
        let request = request.header("X-Forwarded-Method", "OPTIONS");
        let request = request.header("X-Forwarded-Uri", "/sorry.html");
        let request = request.header("X-Original-URL", "/sorry.html");
        request.header("X-Rewrite-URL", "/sorry.html").header("X-HTTP-Method-Override", "OPTIONS")
    };
    let preflight = |request: Request| {
        let request = request.method("OPTIONS").header("Origin", "https://app.test");
        request.header("Access-Control-Request-Method", "GET")
    };
    type Make = fn(Request) -> Request;
    let makes: [(&str, Make); 5] = [
        ("plain", |request| request),
        ("grpc", grpc),
        ("browser", browser),
        ("forwarded", forwarded),
        ("preflight", preflight),
    ];
    let check = |what: &str, request: &Request, status: u16, header: &str, h2: bool| {
        for (kind, make) in makes {
            let request = make(request.clone());
            let answer = if h2 { request.send_h2() } else { request.send() };
            let what = format!("{what} {kind} h2={h2}");
            assert_eq!(answer.status, status, "{what}");
            assert!(answer.header(header).is_some(), "{what}");
            assert_eq!(answer.identity(), Pairs::new(), "{what}");
            assert_not_kept(&answer, &what);
        }
    };
    for h2 in [false, true] {
        let to = |path| if h2 { get(&nginx.addr2(), path) } else { get(&nginx, path) };
        let none = to("/authz");
        check("no session", &none, 401, "www-authenticate", h2);
        check("an ended session", &none.bearer("dead"), 401, "www-authenticate", h2);
        let admin = to("/authz/admin").bearer(&token);
        check("no admin", &admin, 403, "www-authenticate", h2);
        authgear.inject(Fault::Status(500));
        check("an outage", &to("/authz").bearer("new"), 503, "retry-after", h2);
        authgear.clear();
    }
    for token in ["a", "b"] {
        let within = get(&nginx, "/authz/limited").bearer(token).send();
        assert_eq!(within.status, 401);
    }
    check("a limit", &get(&nginx, "/authz/limited").bearer("c"), 429, "retry-after", false);
}

#[test]
fn a_cache_before_the_endpoint_keeps_no_answer() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = endpoints(&authgear, &backend).start();
    let token = authgear.opaque_token(&User::named("alice"));
    assert_eq!(get(&nginx, "/kept").bearer(&token).send().status, 200);
    assert_eq!(get(&nginx, "/kept").send().status, 401);
    assert_eq!(get(&nginx, "/kept").bearer(&token).send().status, 200);
}

#[test]
fn access_that_another_module_granted_is_no_leave() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = endpoints(&authgear, &backend)
        .allow_log("authgear_verdict: access was granted without a verdict")
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    for path in ["/authz/any", "/authz/early", "/via", "/sub"] {
        for request in [get(&nginx, path), get(&nginx, path).bearer(&token)] {
            let answer = request.send();
            assert_eq!((answer.status, answer.identity()), (403, Pairs::new()), "{path}");
        }
    }
    nginx.wait_for_error_log("authgear_verdict: access was granted without a verdict");
    assert_eq!(backend.hits(), 0);
}

#[test]
fn an_endpoint_that_could_answer_200_without_a_session_is_refused() {
    let check = |lines: &str| {
        let server = format!(
            "authgear https://a.test; set $internal 1;
             location = /x {{\n{lines} authgear_verdict;\n}}"
        );
        Nginx::builder().server(server).check()
    };
    for (lines, says) in [
        ("", "would give leave to everybody"),
        ("authgear_require off;", "would give leave to everybody"),
        ("authgear_require $internal;", "would give leave to everybody"),
        ("authgear_require any session $internal;", "would give leave to everybody"),
        ("authgear off;", "where \"authgear\" is not on"),
        ("authgear_require session; authgear_dry_run on;", "authgear_dry_run on"),
        ("authgear_require session; authgear_preflight pass;", "authgear_preflight pass"),
        ("authgear_require session same_site;", "same_site"),
        ("authgear_require session; authgear_status;", "a location has one of"),
    ] {
        let test = check(lines);
        assert!(!test.ok && test.output.contains(says), "{lines}: {}", test.output);
        let is_placed =
            test.output.contains("[emerg] \"authgear_verdict\"") || says == "a location has one of";
        assert!(is_placed, "{lines}: {}", test.output);
    }
    for lines in [
        "authgear_require session;",
        "authgear_require any role=admin verified;",
        "authgear_require session $internal;",
        "authgear_require any session $internal; authgear_require verified;",
    ] {
        let test = check(lines);
        assert!(test.ok, "{lines}: {}", test.output);
    }
}
