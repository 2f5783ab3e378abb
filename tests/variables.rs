//! Variables: evaluated after the access phase they show the verdict, even if read earlier, and one
//! client request makes one look-up.

use support::{get, Backend, FakeAuthgear, Fault, Nginx, Request, User};

use crate::site::{site, PROTECTED};

/// All variables, for a header or a log.
const ALL: &str = "valid=$x_authgear_session_valid id=$x_authgear_user_id \
    anonymous=$x_authgear_user_anonymous verified=$x_authgear_user_verified \
    roles=$x_authgear_user_roles acr=$x_authgear_session_acr amr=$x_authgear_session_amr \
    at=$x_authgear_session_authenticated_at can=$x_authgear_user_can_reauthenticate \
    new=$x_authgear_new_thing session=$authgear_session reason=$authgear_reason \
    source=$authgear_source user=$remote_user";

/// The text of `ALL` with these values; empty values are not found.
fn all(values: &str, absent: &str) -> String {
    let names = ALL.split(' ').map(|pair| pair.split('=').next().expect("a name"));
    let values = values.split('|').map(|value| if value.is_empty() { absent } else { value });
    let pairs = names.zip(values).map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join(" ")
}

const NOTHING: &str = "|||||||||||||";

/// A fault of Authgear if any, a request, and the resulting values of `ALL`.
type Row = (Option<Fault>, Request, &'static str);

/// A row for each verdict.
fn verdicts(authgear: &FakeAuthgear, nginx: &Nginx) -> [Row; 7] {
    let alice = User::named("alice").roles(&["editor", "billing:admin"]).amr(&["pwd", "otp"]);
    let ended = authgear.session(&alice);
    authgear.expire(&ended);
    let header = |name: &str, value: &str| (format!("X-Authgear-{name}"), value.to_owned());
    let new = Fault::Headers(vec![
        header("Session-Valid", "true"),
        header("User-Id", "neo"),
        header("New-Thing", "1"),
        header("Session-Acr", "acr"),
    ]);
    let bearer = |token: &str| get(nginx, "/").bearer(token);
    [
        (
            None,
            bearer(&authgear.opaque_token(&alice)),
            "true|alice|false|true|editor,billing:admin||pwd otp|1700000000|true||valid|ok|resolver|alice",
        ),
        (Some(new), bearer("any"), "true|neo||||acr||||1|valid|ok|resolver|neo"),
        (
            None,
            get(nginx, "/").cookie("session", &ended),
            "false||||||||||invalid|session_invalid|resolver|",
        ),
        (None, bearer("nobody's"), "||||||||||none|no_session|resolver|"),
        (None, get(nginx, "/"), "||||||||||none|no_credentials|none|"),
        (Some(Fault::Status(500)), bearer("any"), "||||||||||error|bad_status|resolver|"),
        (Some(Fault::CloseAtOnce), bearer("any"), "||||||||||error|connection_closed|resolver|"),
    ]
}

#[test]
fn headers_and_logs_show_the_verdict() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .log_format(ALL)
        .http(
            "map $x_authgear_user_roles $editor { '~(^|,)editor(,|$)' yes; default no; }
             authgear_on_error anonymous;",
        )
        .server(PROTECTED)
        .server(format!("add_header X-All '{ALL}'; add_header X-Editor $editor;"))
        .start();
    for (n, (fault, request, values)) in verdicts(&authgear, &nginx).into_iter().enumerate() {
        authgear.clear();
        fault.into_iter().for_each(|fault| authgear.inject(fault));
        let answer = request.send();
        assert_eq!(answer.header("x-all"), Some(all(values, "")));
        let editor = if values.contains("editor") { "yes" } else { "no" };
        assert_eq!(answer.header("x-editor").as_deref(), Some(editor));
        assert_eq!(nginx.wait_for_access_lines(n + 1)[n], all(values, "-"));
    }
}

#[test]
fn reading_a_variable_before_the_verdict_does_not_fix_its_value() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .log_format(ALL)
        .server(format!(
            "set $early '{ALL}';
             if ($x_authgear_user_id) {{ return 418; }}
             if ($authgear_session) {{ return 418; }}
             if ($remote_user) {{ return 418; }}
             location / {{
               authgear %%AUTHGEAR%%;
               authgear_on_error anonymous;
               if ($x_authgear_session_valid = true) {{ return 418; }}
               add_header X-Early $early;
               add_header X-All '{ALL}';
               proxy_pass http://%%BACKEND%%;
             }}"
        ))
        .start();
    for (n, (fault, request, values)) in verdicts(&authgear, &nginx).into_iter().enumerate() {
        authgear.clear();
        fault.into_iter().for_each(|fault| authgear.inject(fault));
        let answer = request.send();
        assert_eq!(answer.header("x-early"), Some(all(NOTHING, "")));
        assert_eq!(answer.header("x-all"), Some(all(values, "")));
        assert_eq!(nginx.wait_for_access_lines(n + 1)[n], all(values, "-"));
    }
}

#[test]
fn phases_after_access_can_use_the_variables() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .file("html/alice/home.txt", "alice's home")
        .file("html/alice.txt", "alice's file")
        .server(
            "authgear %%AUTHGEAR%%;
             location /home { alias %%DIR%%/html/$x_authgear_user_id/home.txt; }
             location /try { root html; try_files /$x_authgear_user_id.txt =404; }
             location /pass { proxy_pass http://%%BACKEND%%/users/$x_authgear_user_id; }
             location /header {
               proxy_set_header X-User-Id $x_authgear_user_id;
               proxy_pass http://%%BACKEND%%;
             }
             location /project {
               add_header X-Endpoint $authgear_scheme://$authgear_host;
               try_files /alice.txt =404;
             }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let ask = |path: &str| get(&nginx, path).bearer(&token).send();
    assert_eq!(ask("/home").text(), "alice's home");
    assert_eq!(ask("/try").text(), "alice's file");
    assert_eq!(get(&nginx, "/try").send().status, 404);
    assert_eq!(ask("/pass").echo().target, "/users/alice");
    assert_eq!(ask("/header").echo().header("x-user-id"), Some("alice"));
    assert_eq!(ask("/project").header("x-endpoint"), Some(authgear.url()));
}

#[test]
fn without_authgear_the_variables_are_empty() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .listen_extra(1)
        .log_format(ALL)
        .server(
            "location / { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }
             location /off { authgear off; proxy_pass http://%%BACKEND%%; }",
        )
        .http("server { listen %%ADDR2%%; location / { proxy_pass http://%%BACKEND%%; } }")
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    get(&nginx, "/off").bearer(&token).send();
    get(&nginx.addr2(), "/").bearer(&token).send();
    assert_eq!(nginx.wait_for_access_lines(2), [all(NOTHING, "-"), all(NOTHING, "-")]);
}

#[test]
fn the_time_variable_is_the_time_spent_waiting() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .http(
            "authgear_project slow { endpoint %%AUTHGEAR%%; timeout 200ms; }
             authgear_on_error anonymous;",
        )
        .server(
            "add_header X-Time $authgear_time;
             location / { authgear slow; proxy_pass http://%%BACKEND%%; }
             location /off { authgear off; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let time = |request: Request| request.send().header("x-time");
    assert_eq!(time(get(&nginx, "/off")), None);
    assert_eq!(time(get(&nginx, "/")).as_deref(), Some("0.000"));
    authgear.inject(Fault::Hang);
    let waited = time(get(&nginx, "/").bearer("any")).expect("a time");
    assert_eq!(waited.split_once('.').map(|(_, milliseconds)| milliseconds.len()), Some(3));
    let waited: f64 = waited.parse().expect("a number");
    assert!((0.2..5.0).contains(&waited), "{waited}");
}

#[test]
fn subrequests_see_the_variables_of_the_client_request() {
    let (authgear, backend, other) =
        (FakeAuthgear::start(), Backend::start(), FakeAuthgear::start());
    let nginx = site(&authgear, &backend)
        .var("OTHER", other.url())
        .file(
            "html/page.html",
            "<!--# echo var=\"x_authgear_user_id\" --> <!--# echo var=\"authgear_session\" --> \
             <!--# include virtual=\"/same\" --><!--# include virtual=\"/off\" -->\
             <!--# include virtual=\"/other\" -->",
        )
        .server(
            "root html;
             proxy_set_header X-User-Id $x_authgear_user_id;
             proxy_set_header X-Session $authgear_session;
             location / { authgear %%AUTHGEAR%%; ssi on; }
             location /same { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }
             location /off { authgear off; proxy_pass http://%%BACKEND%%; }
             location /other { authgear %%OTHER%%; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let page = get(&nginx, "/page.html").bearer(&token).send();
    assert!(page.text().starts_with("alice valid "), "{}", page.text());
    assert_eq!(backend.hits(), 3);
    for included in backend.requests() {
        assert_eq!(included.header("x-user-id"), Some("alice"), "{}", included.target);
        assert_eq!(included.header("x-session"), Some("valid"), "{}", included.target);
        assert_eq!(included.header("x-authgear-user-id"), Some("alice"), "{}", included.target);
    }
    assert_eq!((authgear.hits(), other.hits()), (1, 0));
}

#[test]
fn remote_user_is_the_user_of_the_session() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::fastcgi());
    let fastcgi = "fastcgi_pass %%BACKEND%%; include /etc/nginx/fastcgi_params;";
    let nginx = site(&authgear, &backend)
        .log_format("$remote_user")
        .file("htpasswd", "basil:{PLAIN}secret\n")
        .server(format!(
            "authgear %%AUTHGEAR%%;
             location / {{ {fastcgi} }}
             location /password {{
               auth_basic site;
               auth_basic_user_file %%DIR%%/htpasswd;
               {fastcgi}
             }}
             location /off {{ authgear off; {fastcgi} }}"
        ))
        .start();
    let alice = User::named("alice");
    let (token, session) = (authgear.opaque_token(&alice), authgear.session(&alice));
    let ended = authgear.session(&alice);
    authgear.expire(&ended);
    let basic = |request: Request| request.header("Authorization", "Basic YmFzaWw6c2VjcmV0");
    let rows = [
        (get(&nginx, "/").bearer(&token), "alice"),
        (get(&nginx, "/").cookie("session", &session), "alice"),
        (get(&nginx, "/").cookie("session", &ended), ""),
        (get(&nginx, "/").bearer("nobody's"), ""),
        (get(&nginx, "/"), ""),
        (get(&nginx, "/off").bearer(&token), ""),
        (basic(get(&nginx, "/password")), ""),
        (basic(get(&nginx, "/password").cookie("session", &session)), "alice"),
        // A user name without a checked password is not the remote user.
        (basic(get(&nginx, "/").cookie("session", &session)), "alice"),
    ];
    for (n, (request, user)) in rows.into_iter().enumerate() {
        let echo = request.send().echo();
        assert_eq!(echo.header("REMOTE_USER"), Some(user), "row {n}");
        let logged = if user.is_empty() { "-" } else { user };
        assert_eq!(nginx.wait_for_access_lines(n + 1)[n], logged, "row {n}");
    }
}

#[test]
fn one_client_request_makes_one_look_up() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .listen_extra(1)
        .log_format("$x_authgear_user_id")
        .file("html/dir/index.html", "index")
        .file("html/file.html", "file")
        .http(
            "server {
               listen %%ADDR2%%;
               access_log off;
               location /accel { add_header X-Accel-Redirect /file.html; return 200; }
               location /accel-named { add_header X-Accel-Redirect @named; return 200; }
               location /gone { return 404; }
             }",
        )
        .server(
            "authgear %%AUTHGEAR%%;
             root html;
             recursive_error_pages on;
             location / { index index.html; }
             location /try { try_files /missing $uri /file.html; }
             location /try-named { try_files /missing @named; }
             location /error { error_page 404 = /file.html; }
             location /error-named { error_page 404 = @named; }
             location /chain { error_page 404 = /error; }
             location /accel { proxy_pass http://%%ADDR2%%; }
             location /intercepted {
               proxy_pass http://%%ADDR2%%/gone;
               proxy_intercept_errors on;
               error_page 404 = @named;
             }
             location /rewritten { rewrite ^ /dir/ last; }
             location @named { proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let paths = "/file.html /dir/ /try /try-named /error /error-named /chain /accel /accel-named \
                 /intercepted /rewritten";
    for (n, path) in paths.split(' ').enumerate() {
        let answer = get(&nginx, path).bearer(&token).send();
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(authgear.hits(), n + 1, "{path}");
        assert_eq!(nginx.wait_for_access_lines(n + 1)[n], "alice", "{path}");
    }
}

#[test]
fn an_outage_is_remembered_across_internal_redirects() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "authgear %%AUTHGEAR%%;
             add_header X-Reason $authgear_reason always;
             location /page { error_page 503 = /sorry; proxy_pass http://%%BACKEND%%; }
             location /sorry { authgear_on_error anonymous; proxy_pass http://%%BACKEND%%; }
             location /named { error_page 503 = @sorry; proxy_pass http://%%BACKEND%%; }
             location @sorry { authgear_on_error anonymous; proxy_pass http://%%BACKEND%%; }
             location /again { error_page 503 /denied; proxy_pass http://%%BACKEND%%; }
             location /denied { proxy_pass http://%%BACKEND%%; }
             location /off { error_page 503 = /static; proxy_pass http://%%BACKEND%%; }
             location /static { authgear off; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    authgear.inject(Fault::Status(500));
    for (n, (path, status)) in
        [("/page", 200), ("/named", 200), ("/again", 503), ("/off", 200)].into_iter().enumerate()
    {
        let answer = get(&nginx, path).bearer(&token).send();
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("x-reason").as_deref(), Some("bad_status"), "{path}");
        assert_eq!(authgear.hits(), n + 1, "{path}");
        if status == 200 {
            assert_eq!(answer.echo().identity(), [], "{path}");
        }
    }
    assert_eq!(backend.hits(), 3);
}

/// Directives that define a variable of a name that the module uses. Without the module nginx
/// accepts each.
#[test]
fn variables_that_the_configuration_defines_stay_as_it_says() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    for name in ["http_authorization", "authgear_session", "authgear_claim_x", "x_authgear_user_id"]
    {
        let telling = format!("add_header X-Value \"${name}\" always;");
        let nginx = site(&authgear, &backend)
            .http(format!("map $arg_x ${name} {{ default mapped; }}"))
            .server(format!("{telling} location / {{ proxy_pass http://%%BACKEND%%; }}"))
            .start();
        assert_eq!(get(&nginx, "/").send().header("x-value").as_deref(), Some("mapped"), "{name}");

        let nginx = site(&authgear, &backend)
            .http(format!("geo ${name} {{ default placed; }}"))
            .server(format!("{telling} location / {{ proxy_pass http://%%BACKEND%%; }}"))
            .start();
        assert_eq!(get(&nginx, "/").send().header("x-value").as_deref(), Some("placed"), "{name}");

        let nginx = site(&authgear, &backend)
            .server(format!(
                "{telling}
                 location / {{ proxy_pass http://%%BACKEND%%; }}
                 location /set {{ set ${name} own; proxy_pass http://%%BACKEND%%; }}
                 location /asked {{
                   auth_request /auth;
                   auth_request_set ${name} $upstream_status;
                   proxy_pass http://%%BACKEND%%;
                 }}
                 location = /auth {{ internal; proxy_pass http://%%BACKEND%%; }}"
            ))
            .start();
        let value = |path: &str| get(&nginx, path).send().header("x-value");
        assert_eq!(value("/set").as_deref(), Some("own"), "{name}");
        assert_eq!(value("/asked").as_deref(), Some("200"), "{name}");
    }
}

/// `set` in one location leaves the variable as it is in others.
#[test]
fn a_variable_set_in_one_location_has_its_own_value_in_others() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = site(&authgear, &backend)
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_forward_credentials off;
             add_header X-Value \"$http_authorization\" always;
             add_header X-Session \"$authgear_session\" always;
             location / { proxy_pass http://%%BACKEND%%; }
             location /set { set $http_authorization own; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    let bearer = format!("Bearer {token}");
    for (path, value) in [("/", &*bearer), ("/set", "own")] {
        let answer = get(&nginx, path).bearer(&token).send();
        assert_eq!(answer.header("x-value").as_deref(), Some(value), "{path}");
        assert_eq!(answer.header("x-session").as_deref(), Some("valid"), "{path}");
    }
}
