//! Warnings of `nginx -t`, and the lines they name.

use std::collections::BTreeSet;

use support::{Builder, Nginx};

/// Asserts that `nginx -t` accepts this, with exactly these warnings, at the lines that end with `#
/// N`.
#[track_caller]
fn warns(builder: Builder, expected: &[&str]) {
    let (send, conf) = std::sync::mpsc::channel();
    let test = builder
        .raw_conf(move |conf| {
            send.send(conf.clone()).expect("the text");
            conf
        })
        .check();
    let conf = conf.recv().expect("the text");
    let mut reported = BTreeSet::new();
    for line in test.output.lines().filter(|line| line.contains("[warn]")) {
        let (_, warning) = line.split_once("[warn] ").expect("a warning");
        let warning = warning.split_once(": ").map_or(warning, |(pid, rest)| {
            if pid.ends_with(|c: char| c.is_ascii_digit()) && pid.contains('#') {
                rest
            } else {
                warning
            }
        });
        let (message, place) = warning.rsplit_once(" in /").expect("a place");
        let number: usize = place.rsplit(':').next().and_then(|n| n.parse().ok()).expect("a line");
        let text = conf.lines().nth(number - 1).expect("the line");
        let mark = text.rsplit_once("# ").map_or(text, |(_, mark)| mark);
        assert!(reported.insert(format!("{mark}: {message}")), "repeated: {}", test.output);
    }
    let expected: BTreeSet<String> = expected.iter().map(|text| (*text).to_owned()).collect();
    assert!(test.ok, "{}", test.output);
    assert_eq!(reported, expected, "{}", test.output);
}

fn http(text: &str) -> Builder {
    Nginx::builder().http(text)
}

fn server(text: &str) -> Builder {
    Nginx::builder().server(text)
}

#[test]
fn credentials_sent_in_clear_text_are_warned_about() {
    let clear = |line: &str, url: &str| {
        format!("{line}: credentials are sent to \"{url}\" in clear: use https")
    };
    let project = |lines: &str| {
        http(&format!("authgear_project p {{\n{lines}\n}}\nauthgear p;"))
            .server("location = /_auth { internal; }")
    };
    warns(
        project("endpoint http://192.0.2.1; # 1"),
        &[&clear("1", "http://192.0.2.1/_resolver/resolve")],
    );
    warns(
        project("endpoint https://a.test;\nresolver_url http://192.0.2.1:3001/resolve; # 1"),
        &[&clear("1", "http://192.0.2.1:3001/resolve")],
    );
    warns(
        project("resolver_url http://192.0.2.1:3001/resolve; # 1\nendpoint https://a.test;"),
        &[&clear("1", "http://192.0.2.1:3001/resolve")],
    );
    // An attacker who can change keys in transit can forge any token.
    warns(
        project("endpoint https://192.0.2.1;\njwks_url http://192.0.2.1/jwks; # 1"),
        &["1: keys are fetched from \"http://192.0.2.1/jwks\" in clear: use https"],
    );
    // The endpoint is only a name here; no connection is made to it.
    for safe in [
        "endpoint http://192.0.2.1; resolver_url https://192.0.2.2/resolve;",
        "endpoint http://192.0.2.1; resolver_url http://10.0.0.7:3001/resolve;",
        "endpoint http://192.0.2.1; resolver_url /_auth;",
        "endpoint http://localhost:3000;",
        "endpoint http://[::1]:3000;",
    ] {
        warns(project(&safe.replace("; ", ";\n")), &[]);
    }
    warns(
        server(
            "authgear http://192.0.2.1; # 1
             location /a { authgear http://192.0.2.1/; }
             location /b {
               authgear http://192.0.2.2; # 2
             }",
        ),
        &[&clear("1", "http://192.0.2.1/"), &clear("2", "http://192.0.2.2/")],
    );
}

#[test]
fn settings_without_effect_are_warned_about() {
    let declared = http(
        "authgear_project p { # 1
           endpoint https://192.0.2.1;
         }
         authgear_project q {
           endpoint https://192.0.2.1;
         }
         authgear_cache_zone y:1m; # 2
         authgear_cache_zone z:1m;",
    );
    warns(
        declared.server("location / { authgear q; authgear_cache z; }"),
        &["1: authgear_project \"p\" is never used", "2: authgear_cache_zone \"y\" is never used"],
    );
}

#[test]
fn settings_that_admit_header_aliases_are_warned_about() {
    let says = |directive: &str| {
        format!(
            "server {{: \"{directive}\" in a server with \"authgear\": names that backends take \
             for others, such as X_Real_IP for X-Real-IP, reach them; of x-authgear-* none does"
        )
    };
    let (underscores, invalid) =
        (says("underscores_in_headers on"), says("ignore_invalid_headers off"));
    let on = "location / { authgear https://192.0.2.1; }";
    warns(http("underscores_in_headers on;").server(on), &[&underscores]);
    warns(server(on).server("ignore_invalid_headers off;"), &[&invalid]);
    let both = "underscores_in_headers on; ignore_invalid_headers off;";
    warns(server(on).server(both), &[&underscores, &invalid]);
    warns(http(both).server("location / { authgear off; }"), &[]);
    warns(
        http(both).server(on).server("underscores_in_headers off; ignore_invalid_headers on;"),
        &[],
    );
}

/// The warning about a page that needs a session itself.
fn page(line: &str, target: &str, directive: &str) -> String {
    format!(
        "{line}: \"{target}\", to which \"{directive}\" leads, needs a session itself: \
         \"authgear_require off\" is missing in its location, which inherits what stands"
    )
}

#[test]
fn error_pages_for_401_that_need_a_session_are_warned_about() {
    const PAGE: &str = "error_page 401";
    let protected = |rest: &str| {
        server(&format!(
            "authgear https://192.0.2.1;
             authgear_require session; # 1
             {rest}"
        ))
    };
    warns(protected("error_page 401 /login.html;"), &[&page("1", "/login.html", PAGE)]);
    warns(protected("error_page 401 =200 /login?x;"), &[&page("1", "/login", PAGE)]);
    warns(
        protected(
            "location / { error_page 401 403 /a.html; }
             location /b { error_page 401 = @b; location /b/c { error_page 401 /a.html; } }
             location @b { return 204; }
             location /open { authgear_require off; error_page 401 /other.html; }
             location ~ x$ { error_page 401 /re.html; }",
        ),
        &[&page("1", "/a.html", PAGE), &page("1", "@b", PAGE), &page("1", "/re.html", PAGE)],
    );
    warns(
        server(
            "authgear https://192.0.2.1;
             error_page 401 /in/login.html;
             location / { authgear_require session; }
             location /in {
               authgear_require role=guest; # 2
               location /in/ { }
             }",
        ),
        &[&page("2", "/in/login.html", PAGE)],
    );
    for fine in [
        "error_page 401 /login.html; location = /login.html { authgear_require off; }",
        "error_page 401 /login.html; location = /login.html { authgear off; }",
        "error_page 401 /login.html; location /log { authgear_require off; }",
        "error_page 401 /a/login.html; location /a { authgear_require off; location /a/b { } }",
        "error_page 401 /login.html; location ~ html$ { authgear_require off; }",
        "error_page 401 /login.html; location ^~ /login { authgear_require off; } location ~ html$ { }",
        "error_page 401 @login; location @login { authgear_require off; }",
        // Only variables are required: they may hold without a session.
        "error_page 401 /login.html; location /login.html { authgear_require $is_args; }",
        "error_page 401 https://login.test/;",
        "error_page 401 /$is_args;",
        "error_page 403 503 /sorry.html;",
        "error_page 401 /login; location /login/ { proxy_pass http://127.0.0.1:1; }",
    ] {
        warns(protected(fine), &[]);
    }
    // No request is denied here.
    warns(server("authgear https://192.0.2.1; error_page 401 /login.html;"), &[]);
}

#[test]
fn login_pages_that_need_a_session_are_warned_about() {
    const LOGIN: &str = "authgear_login_redirect";
    let protected = |rest: &str| {
        server(&format!(
            "authgear https://192.0.2.1;
             authgear_require session; # 1
             authgear_login_redirect /login?to=$authgear_return_to;
             {rest}"
        ))
    };
    warns(protected(""), &[&page("1", "/login", LOGIN)]);
    warns(
        protected("location /login { authgear_require off; } location /x { authgear_login_redirect /x/login; }"),
        &[&page("1", "/x/login", LOGIN)],
    );
    for fine in [
        "location /login { authgear_require off; }",
        "location = /login { authgear off; }",
        "location ~ ^/log { authgear_require off; }",
    ] {
        warns(protected(fine), &[]);
    }
    for target in ["off", "https://login.test/", "//login.test/", "$scheme://$host/x", "/$arg_x"] {
        let elsewhere = format!(
            "location /login {{ authgear_require off; }}
             location /x {{ authgear_login_redirect {target}; }}"
        );
        warns(protected(&elsewhere), &[]);
    }
}

/// The warning about a variable that has no value yet.
fn too_early(line: &str, directive: &str, name: &str) -> String {
    let remedy = match directive {
        "if or set" => "\"authgear_require\" decides by it",
        _ => "\"authgear_early on\" finds it earlier",
    };
    format!(
        "{line}: \"{directive}\" uses \"${name}\" before there is a verdict, where it has no value: \
         {remedy}"
    )
}

#[test]
fn limits_by_a_variable_without_a_verdict_are_warned_about() {
    let limited = |location: &str| {
        http(
            "limit_req_zone $x_authgear_user_id zone=users:1m rate=1r/m;
             limit_req_zone $binary_remote_addr$authgear_host zone=addresses:1m rate=1r/m;
             limit_conn_zone a${authgear_claim_sub}b zone=claims:1m;",
        )
        .server(format!(
            "authgear https://192.0.2.1;
             authgear_require session; # 1
             {location}"
        ))
    };
    let (user, claim) = (
        too_early("1", "limit_req", "x_authgear_user_id"),
        too_early("1", "limit_conn", "authgear_claim_sub"),
    );
    warns(limited("location / { limit_req zone=users burst=5; root /a; }"), &[&user]);
    warns(limited("limit_conn claims 1; location / { limit_req zone=users; }"), &[&user, &claim]);
    warns(limited("location / { limit_req zone=addresses; limit_req zone=users; }"), &[&user]);
    for fine in [
        "location / { limit_req zone=addresses; }",
        "location / { authgear_early on; limit_req zone=users; limit_conn claims 1; }",
        "location / { authgear off; limit_req zone=users; }",
        "location @named { limit_req zone=users; }",
        "location / { auth_request_set $x_authgear_user_id a; limit_req zone=users; }",
    ] {
        warns(limited(fine), &[]);
    }
    // A zone that is defined after its use.
    warns(
        http("limit_req zone=later;")
            .server("authgear https://192.0.2.1;\nauthgear_require session; # 1\nlocation / { }")
            .http("limit_req_zone $authgear_session zone=later:1m rate=1r/m;"),
        &[&too_early("1", "limit_req", "authgear_session")],
    );
}

#[test]
fn conditions_without_a_verdict_are_warned_about() {
    let protected = |rest: &str| {
        server(&format!(
            "authgear https://192.0.2.1;
             authgear_require session; # 1
             {rest}"
        ))
    };
    let warning = |name: &str| too_early("1", "if or set", name);
    for (text, name) in [
        ("if ($authgear_session) { return 204; }", "authgear_session"),
        ("location / { if ($authgear_session = valid) { return 204; } }", "authgear_session"),
        ("location / { if ($x_authgear_user_id ~ a) { set $b 1; } }", "x_authgear_user_id"),
        ("location / { set $user $x_authgear_user_id; }", "x_authgear_user_id"),
        ("location ~ a { if ($arg_a) { set $b $authgear_reason; } }", "authgear_reason"),
    ] {
        warns(protected(text), &[&warning(name)]);
    }
    for fine in [
        "location / { if ($arg_a) { set $b $uri; } if ($authgear_host) { set $b 1; } }",
        "location / { authgear_require off; if ($authgear_reason) { return 204; } }",
        "location @page { if ($authgear_reason) { return 204; } }",
        "location /page { internal; if ($authgear_reason) { return 204; } }",
        "location / { rewrite ^/a(.*)$ /b$1 break; if (-f $request_filename) { break; } }",
    ] {
        warns(protected(fine), &[]);
    }
}

#[test]
fn protected_locations_that_a_response_includes_are_warned_about() {
    let site = |rest: &str| {
        http("").server(format!(
            "authgear https://192.0.2.1;
             location /secret {{ authgear_require session; }}
             {rest}"
        ))
    };
    let addition = |directive: &str, uri: &str| {
        format!(
            "server {{: \"{directive} {uri}\" shows a location that needs a session to everybody: \
             subrequests are not checked"
        )
    };
    warns(
        site("location /a { add_before_body /secret/a; add_after_body /secret; }"),
        &[&addition("add_before_body", "/secret/a"), &addition("add_after_body", "/secret")],
    );
    warns(
        site("location /a { ssi on; }"),
        &["server {: \"ssi on\" in a location that needs no session, beside locations that need \
           one: its pages can include them, as subrequests are not checked"],
    );
    for fine in [
        "location /a { add_before_body /a/b; ssi off; }",
        "location /a { authgear_require session; add_before_body /secret; ssi on; }",
    ] {
        warns(site(fine), &[]);
    }
}

#[test]
fn metadata_documents_that_clients_do_not_find_are_warned_about() {
    let serving = |location: &str, resource: &str| {
        server(&format!(
            "authgear https://192.0.2.1;
             location {location} {{
               authgear_protected_resource {resource}; # here
             }}"
        ))
    };
    let well_known = "/.well-known/oauth-protected-resource";
    for (location, resource) in [
        (format!("= {well_known}/mcp"), "https://a.test/mcp"),
        (format!("{well_known}/mcp"), "https://a.test/mcp"),
        (format!("= {well_known}"), "https://a.test/"),
        (format!("= {well_known}"), "https://a.test?b=c"),
        (format!("= '{well_known}/a b'"), "https://a.test/a%20b"),
        // A regular expression cannot be tried.
        ("~ ^/.well-known/".to_owned(), "https://a.test/mcp"),
    ] {
        warns(serving(&location, resource), &[]);
    }
    for location in [format!("= {well_known}"), "/mcp".to_owned(), "= /mcp".to_owned()] {
        let warning = format!(
            "here: this location does not answer \"{well_known}/mcp\", where clients look for the \
             document of \"https://a.test/mcp\": serve it in \"location = {well_known}/mcp\""
        );
        warns(serving(&location, "https://a.test/mcp"), &[&warning]);
    }
}

#[test]
fn resolver_urls_without_a_location_of_their_own_are_warned_about() {
    let site = |rest: &str| {
        http(
            "authgear_project p {
               endpoint https://192.0.2.1;
               resolver_url /_auth; # 1
             }",
        )
        .server(format!("location / {{ authgear p; }} {rest}"))
    };
    let lost = |builder: Builder| {
        let output = builder.check().output;
        let warnings: Vec<_> = output.lines().filter(|line| line.contains("[warn]")).collect();
        let [line] = warnings[..] else { panic!("{output}") };
        assert!(
            line.contains("no location of the server in ")
                && line.contains(
                    " is for \"resolver_url\" \"/_auth\": the credentials of its users go to the \
                     backend of \"location /\"; define \"location = /_auth { internal; proxy_pass \
                     ...; }\" in /"
                ),
            "{line}"
        );
    };
    lost(site(""));
    lost(site("location /_authx { } location = /_auth/ { }"));
    lost(site("authgear off; location = /_authx { }"));
    for fine in [
        "location = /_auth { internal; }",
        "location = /_auth { }",
        "location /_ { }",
        "location ~ ^/_auth$ { internal; }",
    ] {
        warns(site(fine), &[]);
    }
    // In mode jwt nobody asks.
    warns(
        http("authgear_project p { endpoint https://192.0.2.1; resolver_url /_auth; }")
            .server("authgear p; authgear_mode jwt;"),
        &[],
    );
}

#[test]
fn resolver_urls_without_a_path_are_warned_about() {
    let project = |url: &str| {
        http(&format!(
            "authgear_project p {{
               endpoint https://192.0.2.1;
               resolver_url {url}; # 1
             }}
             authgear p;"
        ))
        .server("")
    };
    for url in ["http://10.0.0.7:3001", "http://10.0.0.7:3001/"] {
        warns(
            project(url),
            &["1: \"resolver_url\" \"http://10.0.0.7:3001/\" has no path: Authgear's resolver answers \
               at \"/_resolver/resolve\", and on a port of its own at \"/resolve\""],
        );
    }
    warns(project("http://10.0.0.7:3001/resolve"), &[]);
}

#[test]
fn returns_that_answer_before_the_policy_are_warned_about() {
    let protected = |rest: &str| {
        server(&format!(
            "authgear https://192.0.2.1;
             authgear_require session; # 1
             {rest}"
        ))
    };
    let open = |status: u16, of: &str| {
        format!(
            "1: \"return {status}\" of {of} answers everybody, before \"authgear_require\" is \
             checked: let a file or a backend answer, or write \"authgear_require off\" there"
        )
    };
    warns(protected("location /a { return 200 secret; }"), &[&open(200, "\"location /a\"")]);
    warns(protected("location ~ b$ { return 204; }"), &[&open(204, "\"location b$\"")]);
    warns(protected("return 200 secret;"), &[&open(200, "the server")]);
    warns(
        server(
            "return 200 $host;
             location /in {
               authgear https://192.0.2.1;
               authgear_require $is_args; # 1
             }",
        ),
        &[&open(200, "the server")],
    );
    for fine in [
        "location /a { authgear_require off; return 200 open; }",
        "location /a { return 301 /b; }",
        "location /a { return 404; }",
        "location /a { if ($request_method = OPTIONS) { return 204; } }",
        "location @a { return 200 page; }",
        "location /a { internal; return 200 page; }",
    ] {
        warns(protected(fine), &[]);
    }
    warns(server("authgear https://192.0.2.1; return 200 open;"), &[]);
}

#[test]
fn fields_that_authgear_never_sends_are_warned_about() {
    let site = |rest: &str| {
        http("").server(format!("authgear https://192.0.2.1; location / {{ {rest} }}"))
    };
    let empty = |name: &str| {
        format!(
            "}}: \"${name}\" is empty: Authgear sends no such header, unless a newer one does; it is \
             none of $x_authgear_session_valid, $x_authgear_user_id, $x_authgear_user_anonymous, \
             $x_authgear_user_verified, $x_authgear_user_can_reauthenticate, \
             $x_authgear_user_roles, $x_authgear_session_acr, $x_authgear_session_amr, \
             $x_authgear_session_authenticated_at"
        )
    };
    let once = "add_header A $x_authgear_usr_id; add_header B a${x_authgear_usr_id}b;";
    let output = site(once).check().output;
    assert_eq!(output.matches("[warn]").count(), 1, "{output}");
    assert!(output.contains(&empty("x_authgear_usr_id")["}: ".len()..]), "{output}");
    for fine in [
        "add_header A $x_authgear_user_id; add_header B $x_authgear_user_roles;",
        "set $x_authgear_mine 1; add_header A $x_authgear_mine;",
        "add_header A $authgear_claim_anything; add_header B $authgear_user_custom_anything;",
    ] {
        warns(site(fine), &[]);
    }
}

#[test]
fn caches_and_login_pages_that_take_no_effect_are_warned_about() {
    let cache =
        "\"authgear_cache\" has no effect: no location that it applies to has \"authgear\" on";
    let login =
        "\"authgear_login_redirect\" has no effect: no location that it applies to needs a \
                 session: add \"authgear_require session\"";
    let site = |text: &str| http("authgear_cache_zone z:1m;").server(text);
    warns(site("authgear_cache z; # 1\nlocation / { }"), &[&format!("1: {cache}")]);
    warns(
        site(
            "authgear_cache z;
             authgear https://192.0.2.1;
             location / {
               authgear off;
               authgear_cache z; # 2
             }",
        ),
        &[&format!("2: {cache}")],
    );
    warns(
        site("authgear https://192.0.2.1; authgear_cache z;\nauthgear_login_redirect /login; # 1"),
        &[&format!("1: {login}")],
    );
    for fine in [
        "authgear_cache z; location / { authgear https://192.0.2.1; }",
        "location / { authgear_cache z; limit_except GET { authgear https://192.0.2.1; } }",
        "authgear https://192.0.2.1; authgear_cache z; authgear_login_redirect /a;
         location /in { authgear_require session; } location = /a { }",
        "authgear https://192.0.2.1; authgear_cache off; authgear_login_redirect off;",
    ] {
        let zone = if fine.contains("authgear_cache z") { "" } else { "authgear_cache z; " };
        let location = format!("location /other {{ authgear https://192.0.2.1; {zone}}}");
        warns(site(&format!("{fine} {location}")), &[]);
    }
}
