//! `authgear_require`: which requests are admitted, and the denial of the others.

use support::{get, Backend, Builder, FakeAuthgear, Fault, Nginx, Request, User};

use crate::project::project;
use crate::site::site;

/// One location per policy; the answer has the reason.
fn places(authgear: &FakeAuthgear, backend: &Backend) -> Builder {
    let policies = [
        ("session", "authgear_require session;"),
        ("verified", "authgear_require verified;"),
        ("known", "authgear_require not_anonymous;"),
        ("reauth", "authgear_require can_reauthenticate;"),
        ("editors", "authgear_require role=editor,billing:admin;"),
        ("mfa", "authgear_require amr=mfa;"),
        ("fresh", "authgear_require max_age=10m;"),
        ("flag", "authgear_require $arg_flag;"),
        ("all", "authgear_require session verified; authgear_require role=editor;"),
        ("hidden", "authgear_require role=editor error=401;"),
        ("closed", "authgear_require session error=403;"),
        ("api", "authgear_require session; authgear_resource_metadata https://a.test/meta;"),
        ("dry", "authgear_require role=nobody; authgear_dry_run on;"),
        ("open", "authgear_require off;"),
    ];
    let place = |(name, policy): (&str, &str)| {
        format!("location /{name} {{ {policy} proxy_pass http://%%BACKEND%%; }}")
    };
    site(authgear, backend)
        .server("add_header X-Reason $authgear_reason always; authgear %%AUTHGEAR%%;")
        .server(policies.map(place).concat())
}

struct Row<'a> {
    request: Request,
    place: &'a str,
    status: u16,
    reason: &'a str,
    challenge: Option<&'a str>,
}

#[test]
fn each_location_admits_only_users_that_meet_its_conditions() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = places(&authgear, &backend).start();
    let now = support::unix_now() as i64;
    let alice = User {
        authenticated_at: now - 60,
        ..User::named("alice").roles(&["editor"]).amr(&["pwd", "mfa"])
    };
    let guest = User {
        anonymous: true,
        verified: false,
        can_reauthenticate: false,
        authenticated_at: now - 3600,
        ..User::named("guest").roles(&["editors", "edito"]).amr(&["pwd"])
    };
    let (good, poor) = (authgear.opaque_token(&alice), authgear.opaque_token(&guest));
    let dead = authgear.session(&alice);
    authgear.expire(&dead);
    let at = |place: &str| get(&nginx, &format!("/{place}"));
    const INVALID: Option<&str> = Some("Bearer error=\"invalid_token\"");
    const SCOPE: Option<&str> = Some("Bearer error=\"insufficient_scope\"");
    const STEP_UP: Option<&str> = Some("Bearer error=\"insufficient_user_authentication\"");
    let row = |place, request: fn(Request, &str) -> Request, credential: &str| {
        (place, request(at(place), credential))
    };
    let bearer = |place, token: &str| row(place, |request, token| request.bearer(token), token);
    let mut rows = Vec::new();
    let mut add = |(place, request), status, reason, challenge| {
        rows.push(Row { request, place, status, reason, challenge });
    };
    for place in ["session", "verified", "known", "reauth", "editors", "mfa", "fresh", "all"] {
        add(bearer(place, &good), 200, "ok", None);
        add(bearer(place, "dead"), 401, "no_session", INVALID);
        add((place, at(place)), 401, "no_credentials", Some("Bearer"));
        add((place, at(place).cookie("session", &dead)), 401, "session_invalid", Some("Bearer"));
    }
    add(bearer("session", &poor), 200, "ok", None);
    add(bearer("verified", &poor), 403, "not_verified", SCOPE);
    add(bearer("known", &poor), 403, "anonymous_user", SCOPE);
    add(bearer("reauth", &poor), 403, "cannot_reauthenticate", None);
    add(bearer("editors", &poor), 403, "role_missing", SCOPE);
    add(bearer("mfa", &poor), 401, "amr_missing", STEP_UP);
    let too_old = "Bearer error=\"insufficient_user_authentication\", max_age=\"600\"";
    add(bearer("fresh", &poor), 401, "authentication_too_old", Some(too_old));
    add(bearer("all", &poor), 403, "not_verified", SCOPE);
    let cookie = authgear.session(&guest);
    add(("editors", at("editors").cookie("session", &cookie)), 403, "role_missing", None);
    add(bearer("hidden", &poor), 401, "role_missing", Some("Bearer"));
    add(bearer("hidden", &good), 200, "ok", None);
    add(("closed", at("closed")), 403, "no_credentials", None);
    add(bearer("flag", &good), 403, "variable_unset", None);
    for (query, status, reason) in [
        ("flag=", 403, "variable_unset"),
        ("flag=0", 403, "variable_unset"),
        ("flag=00", 200, "ok"),
    ] {
        let request = get(&nginx, &format!("/flag?{query}")).bearer(&good);
        add(("flag", request), status, reason, None);
    }
    add(("flag", get(&nginx, "/flag?flag=1")), 200, "no_credentials", None);
    let metadata = "resource_metadata=\"https://a.test/meta\"";
    let (plain, invalid) =
        (format!("Bearer {metadata}"), format!("Bearer error=\"invalid_token\", {metadata}"));
    add(("api", at("api")), 401, "no_credentials", Some(&plain));
    add(bearer("api", "dead"), 401, "no_session", Some(&invalid));
    for place in ["dry", "open"] {
        add((place, at(place)), 200, "no_credentials", None);
        add(bearer(place, &poor), 200, "ok", None);
    }
    for Row { request, place, status, reason, challenge } in rows {
        let answer = request.send();
        let reported = (answer.status, answer.header("x-reason"));
        assert_eq!(reported, (status, Some(reason.to_owned())), "{place}: {request:?}");
        let challenges = answer.all("www-authenticate");
        assert_eq!(challenges, challenge.as_slice(), "{place}: {request:?}");
    }
}

#[test]
fn require_lines_of_a_location_replace_inherited_ones() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http("authgear_require role=nobody;")
        .server(
            "authgear %%AUTHGEAR%%;
             location / { proxy_pass http://%%BACKEND%%; }
             location /replaced { authgear_require session; proxy_pass http://%%BACKEND%%; }
             location /lifted { authgear_require off; proxy_pass http://%%BACKEND%%; }
             location /off { authgear off; proxy_pass http://%%BACKEND%%; }
             location /read {
               authgear_require off;
               limit_except GET { authgear_require session; }
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    for (path, with, without) in
        [("/", 403, 401), ("/replaced", 200, 401), ("/lifted", 200, 200), ("/off", 200, 200)]
    {
        assert_eq!(get(&nginx, path).bearer(&token).send().status, with, "{path}");
        assert_eq!(get(&nginx, path).send().status, without, "{path}");
    }
    assert_eq!(get(&nginx, "/read").send().status, 200);
    assert_eq!(get(&nginx, "/read").method("POST").send().status, 401);
    assert_eq!(get(&nginx, "/read").method("POST").bearer(&token).send().status, 200);
}

#[test]
fn require_works_with_satisfy_and_error_page() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_require session;
             location /any {
               satisfy any;
               deny all;
               proxy_pass http://%%BACKEND%%;
             }
             location /unopinionated {
               authgear_require off;
               satisfy any;
               deny all;
               proxy_pass http://%%BACKEND%%;
             }
             location /local {
               satisfy any;
               allow 127.0.0.0/8;
               proxy_pass http://%%BACKEND%%;
             }
             location /page { error_page 401 /login.html; proxy_pass http://%%BACKEND%%; }
             location = /login.html { authgear_require off; return 200 login; }
             location /moved { error_page 401 =302 https://login.test/; proxy_pass http://%%BACKEND%%; }
             location /backend-says {
               authgear_require off;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let status = |path: &str| {
        (get(&nginx, path).bearer(&token).send().status, get(&nginx, path).send().status)
    };
    assert_eq!(status("/any"), (200, 401));
    assert_eq!(status("/unopinionated"), (403, 403));
    assert_eq!(status("/local"), (200, 200));
    assert_eq!(status("/page").0, 200);
    let page = get(&nginx, "/page").send();
    assert_eq!((page.status, page.text().as_str()), (401, "login"));
    assert_eq!(page.all("www-authenticate"), ["Bearer"]);
    let moved = get(&nginx, "/moved").send();
    assert_eq!((moved.status, moved.all("www-authenticate").len()), (302, 0));
}

#[test]
fn require_without_authgear_denies_everyone() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(project("p", &authgear, "max_fails 0;"))
        .server(
            "authgear p;
             authgear_require session;
             location / { proxy_pass http://%%BACKEND%%; }
             location /anonymous { authgear_on_error anonymous; proxy_pass http://%%BACKEND%%; }
             location /dry { authgear_dry_run on; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    authgear.inject(Fault::Status(500));
    let send = |path: &str| get(&nginx, path).bearer(&token).send();
    assert_eq!(send("/").status, 503);
    assert_eq!(send("/anonymous").status, 401);
    assert_eq!(backend.hits(), 0);
    let dry = send("/dry");
    assert_eq!((dry.status, dry.echo().identity()), (200, Vec::new()));
    nginx.wait_for_error_log("authgear would deny access: bad_status");
}

#[test]
fn a_required_variable_is_evaluated_after_the_verdict_even_if_read_before() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http("map $x_authgear_user_id $not_banned { alice 0; default 1; }")
        .server(
            "authgear %%AUTHGEAR%%;
             location / {
               if ($not_banned = x) { return 500; }
               authgear_require session $not_banned;
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .start();
    for (user, status) in [("alice", 403), ("bob", 200)] {
        let token = authgear.opaque_token(&User::named(user));
        assert_eq!(get(&nginx, "/").bearer(&token).send().status, status, "{user}");
    }
}

#[test]
fn identity_headers_can_be_turned_off() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_set_headers off;
             proxy_set_header X-User $x_authgear_user_id;
             location / { proxy_pass http://%%BACKEND%%; }
             location /on { authgear_set_headers on; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let echo = |path: &str| {
        get(&nginx, path).bearer(&token).header("X-Authgear-User-Id", "forged").send().echo()
    };
    let without = echo("/");
    assert_eq!((without.header("x-user"), without.identity().len()), (Some("alice"), 0));
    assert_eq!(echo("/on").header("x-authgear-user-id"), Some("alice"));
}

#[test]
fn invalid_conditions_are_refused() {
    for (line, says) in [
        ("authgear_require sesion;", "invalid value \"sesion\" in \"authgear_require\""),
        ("authgear_require role=;", "invalid value \"role=\""),
        ("authgear_require max_age=x;", "invalid value \"max_age=x\""),
        ("authgear_require session error=500;", "it must be error=401 or error=403"),
        ("authgear_require error=401;", "has no condition"),
        ("authgear_require off session;", "invalid value \"off\""),
        ("authgear_require session; authgear_require off;", "directive is duplicate"),
        ("authgear_require off; authgear_require session;", "stands with other conditions"),
        ("authgear_require $a$b;", "it must be one variable"),
        ("authgear_require $nosuch;", "unknown \"nosuch\" variable"),
        ("authgear_resource_metadata /x;", "it must be a URL or \"off\""),
        ("authgear_resource_metadata 'https://a/\"';", "it must be a URL or \"off\""),
        ("authgear_dry_run yes;", "it must be \"on\" or \"off\""),
    ] {
        let server = format!("authgear https://127.0.0.1; location / {{ {line} return 204; }}");
        let test = Nginx::builder().server(server).check();
        assert!(!test.ok, "{line} is accepted");
        assert!(test.output.contains(says), "{line}: {says:?} expected in {}", test.output);
    }
    let alone = Nginx::builder().server("location / { authgear_require session; }").check();
    assert!(
        !alone.ok && alone.output.contains("where \"authgear\" is not on in /"),
        "{}",
        alone.output
    );
    let amr = "authgear https://127.0.0.1; location / { authgear_require amr=mfa; return 204; }";
    let amr = Nginx::builder().server(amr).check();
    assert!(
        amr.ok && amr.output.contains("[warn] \"amr=mfa\" hardly ever holds"),
        "{}",
        amr.output
    );
}

#[test]
fn a_required_variable_set_by_the_configuration_keeps_its_value() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "authgear %%AUTHGEAR%%;
             location / {
               set $wanted $arg_wanted;
               authgear_require $wanted;
               proxy_set_header X-Wanted $wanted;
               proxy_pass http://%%BACKEND%%;
             }
             location /asked {
               auth_request /yes;
               auth_request_set $answer $upstream_http_content_type;
               authgear_require $answer;
               proxy_set_header X-Wanted $answer;
               proxy_pass http://%%BACKEND%%;
             }
             location = /yes { authgear off; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    for (path, status) in [("/?wanted=1", 200), ("/?wanted=0", 403), ("/", 403), ("/asked", 200)] {
        let answer = get(&nginx, path).bearer(&token).send();
        assert_eq!(answer.status, status, "{path}");
        if status == 200 {
            assert!(answer.echo().header("x-wanted").is_some(), "{path}");
        }
    }
}

/// A row: location, client and scope of the token, status and reason.
#[test]
fn scope_client_and_claims_of_a_verified_token_count() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let pass = "proxy_pass http://%%BACKEND%%;";
    let nginx = site(&authgear, &backend)
        .http("authgear_cache_zone z:1m;")
        .server(crate::project::TELLING)
        .server(format!(
            "authgear %%AUTHGEAR%%; authgear_mode jwt; authgear_cache z;
             location /scope {{ authgear_require scope=read,write; {pass} }}
             location /both {{ authgear_require scope=read scope=write; {pass} }}
             location /client {{ authgear_require client=dcrc_*,own; {pass} }}
             location /claim {{ authgear_require claim:tenant.id=7,8; {pass} }}
             location /any {{ authgear_require any scope=write client=own; {pass} }}
             location /asked {{ authgear_mode resolver; authgear_require scope=read; {pass} }}"
        ))
        .start();
    let alice = User::named("alice");
    let token = |client: &str, scope: &str, tenant: u32| {
        authgear
            .token(&alice)
            .claim("client_id", client)
            .claim("scope", scope)
            .claim("tenant", serde_json::json!({"id": tenant}))
            .sign()
    };
    support::eventually(support::DEADLINE, || {
        get(&nginx, "/scope").bearer(&token("own", "read", 7)).send().status == 200
    });
    for (path, client, scope, tenant, status, reason) in [
        ("/scope", "own", "openid read", 7, 200, "ok"),
        ("/scope", "own", "openid", 7, 403, "scope_missing"),
        ("/both", "own", "read write", 7, 200, "ok"),
        ("/both", "own", "write", 7, 403, "scope_missing"),
        ("/client", "dcrc_1", "", 7, 200, "ok"),
        ("/client", "dcr", "", 7, 403, "client_not_allowed"),
        ("/claim", "own", "", 8, 200, "ok"),
        ("/claim", "own", "", 9, 403, "claim_mismatch"),
        ("/any", "own", "", 7, 200, "ok"),
        ("/any", "other", "write", 7, 200, "ok"),
        ("/any", "other", "", 7, 403, "scope_missing"),
        ("/asked", "own", "read", 7, 403, "scope_missing"),
    ] {
        let token = token(client, scope, tenant);
        // The second request finds the verdict in the cache.
        for _ in 0..2 {
            let answer = get(&nginx, path).bearer(&token).send();
            let verdict = crate::project::verdict(&answer);
            let found = verdict.split(' ').nth(1).unwrap_or_default();
            assert_eq!((answer.status, found), (status, reason), "{path} {client} {scope}");
        }
    }
    let denied = get(&nginx, "/both").bearer(&token("own", "write", 7)).send();
    let challenge = "Bearer error=\"insufficient_scope\", scope=\"read write\"";
    assert_eq!(denied.header("www-authenticate").as_deref(), Some(challenge));
}

#[test]
fn a_condition_on_a_token_is_warned_of_where_the_resolver_decides() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let output = site(&authgear, &backend)
        .server("authgear %%AUTHGEAR%%; location / { authgear_require scope=read; }")
        .check();
    assert!(format!("{output:?}").contains("denies all requests"), "{output:?}");
}
