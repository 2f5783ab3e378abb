//! Directives: which configurations `nginx -t` refuses, with which message, and how levels inherit.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use support::{get, Backend, Builder, Ca, FakeAuthgear, Nginx, RefusedAddr, SigningKey, User};

use crate::project::{project, project_at, project_site, verdict};
use crate::site::site;

/// The mark at the end of the faulty line.
const HERE: &str = "# here";

/// Asserts that `nginx -t` refuses this with that message, at the file and line of [`HERE`].
#[track_caller]
fn refused(builder: Builder, says: &str) {
    let here = Arc::new(Mutex::new(0));
    let line = here.clone();
    let test = builder
        .raw_conf(move |conf| {
            let marked = conf.lines().position(|line| line.ends_with(HERE));
            *line.lock().expect("a line") = marked.expect("a faulty line") + 1;
            conf
        })
        .check();
    let line = *here.lock().expect("a line");
    let errors: Vec<_> = test.output.lines().filter(|line| line.contains("[emerg]")).collect();
    let place = format!("/nginx.conf:{line}");
    let reported =
        matches!(errors[..], [e] if e.contains(&format!("{says} in /")) && e.ends_with(&place));
    assert!(!test.ok && reported, "{says} ...{place}\n{}", test.output);
}

fn http(text: impl AsRef<str>) -> Builder {
    Nginx::builder().http(text)
}

fn server(text: &str) -> Builder {
    Nginx::builder().server(text)
}

/// A project with this line, and an endpoint if the line is none.
fn setting(line: &str) -> Builder {
    let endpoint = if line.starts_with("endpoint ") { "" } else { "endpoint https://a.test;" };
    http(format!("authgear_project p {{\n{endpoint}\n{line} {HERE}\n}}"))
}

/// A value as error messages show it.
fn shown(value: &str) -> String {
    match value.get(..100) {
        Some(start) if value.len() > 100 => format!("{start}..."),
        _ => value.to_owned(),
    }
}

#[test]
fn invalid_endpoints_and_resolver_urls_are_refused() {
    let long = format!("https://{}", "a".repeat(2048));
    let rows = [
        ("a.test", "it must begin with \"http://\" or \"https://\""),
        ("\"\"", "it must begin with \"http://\" or \"https://\""),
        ("ftp://a.test", "it must begin with \"http://\" or \"https://\""),
        ("https://", "it has no host"),
        ("https://:443", "it has no host"),
        ("https:///x", "it has no host"),
        ("https://u:p@a.test", "it must not have a user name or password"),
        ("https://u@a.test", "it must not have a user name or password"),
        ("https://a.test?q", "it must not have a query"),
        ("https://a.test#f", "it must not have a fragment"),
        ("https://a..test", "it has an invalid host"),
        ("https://1.2.3", "it has an invalid host"),
        ("https://a.test:0", "it has an invalid port"),
        ("https://a.test:65536", "it has an invalid port"),
        ("'https://a test'", "it has an invalid character"),
        (&long, "it is longer than 2048 bytes"),
    ];
    for (value, says) in rows {
        let quoted = shown(value.trim_matches(['"', '\'']));
        let says_endpoint = format!("invalid \"endpoint\" \"{quoted}\": {says}");
        refused(setting(&format!("endpoint {value};")), &says_endpoint);
        let says_resolver = format!(
            "invalid \"resolver_url\" \"{quoted}\": {says}; it may be a URL, or the URI of an internal \
             location, which begins with \"/\""
        );
        refused(setting(&format!("resolver_url {value};")), &says_resolver);
    }
    let path = "invalid \"endpoint\" \"https://a.test/x\": it must not have a path";
    refused(setting("endpoint https://a.test/x;"), path);
    // A subrequest cannot go there.
    for (uri, says) in [
        ("'/a b'", "it has an invalid character"),
        ("/a\u{e9}", "it has an invalid character"),
        ("/a?b", "it must not have a query"),
        ("/a#b", "it must not have a fragment"),
    ] {
        let says = format!("invalid \"resolver_url\" \"{}\": {says}", uri.trim_matches('\''));
        refused(setting(&format!("resolver_url {uri};")), &says);
    }
}

#[test]
fn invalid_values_of_settings_are_refused() {
    let time = "it must be a time above 0 and up to 1d, such as 500ms or 5s";
    let mut rows = vec![
        ("max_connections", "0", "it must be a number from 1 to 65535"),
        ("max_connections", "65536", "it must be a number from 1 to 65535"),
        ("max_connections", "many", "it must be a number from 1 to 65535"),
        ("max_fails", "-1", "it must be a number from 0 to 4294967295"),
        ("max_fails", "1.5", "it must be a number from 0 to 4294967295"),
        ("max_fails", "4294967296", "it must be a number from 0 to 4294967295"),
        ("keepalive", "off", "it must be a number from 0 to 65535"),
        ("keepalive", "65536", "it must be a number from 0 to 65535"),
        ("max_response_size", "8191", "it must be a size from 8k to 1m"),
        ("max_response_size", "1025k", "it must be a size from 8k to 1m"),
        ("max_response_size", "big", "it must be a size from 8k to 1m"),
        ("ssl_verify", "true", "it must be \"on\" or \"off\""),
        ("ssl_verify", "ON", "it must be \"on\" or \"off\""),
    ];
    for key in ["connect_timeout", "timeout", "fail_timeout", "keepalive_timeout"] {
        rows.extend(["0", "-1s", "soon", "86401s", "1y"].map(|value| (key, value, time)));
    }
    for key in ["jwks_refresh", "jwks_cooldown", "revocation_ttl"] {
        rows.extend(
            ["0", "999ms", "soon", "86401s"]
                .map(|value| (key, value, "it must be a time from 1s to 1d")),
        );
    }
    let known = "it must be among RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";
    rows.extend([
        ("leeway", "-1s", "it must be whole seconds up to 5m"),
        ("leeway", "500ms", "it must be whole seconds up to 5m"),
        ("leeway", "301s", "it must be whole seconds up to 5m"),
        ("machine_tokens", "yes", "it must be \"on\" or \"off\""),
        ("algorithms", "HS256", known),
        ("algorithms", "none", known),
        ("algorithms", "rs256", known),
    ]);
    refused(
        setting("algorithms RS256 HS512;"),
        &format!("invalid value \"HS512\" in \"algorithms\" directive, {known}"),
    );
    refused(
        setting("audience https://a.test 'b c';"),
        "invalid value \"b c\" in \"audience\" directive, it must be from 1 to 16 audiences, without spaces",
    );
    let many = vec!["a"; 17].join(" ");
    refused(
        setting(&format!("audience {many};")),
        &format!("invalid value \"{many}\" in \"audience\" directive, it must be from 1 to 16 audiences, without spaces"),
    );
    refused(
        setting("jwks_url ftp://a;"),
        "invalid \"jwks_url\" \"ftp://a\": it must begin with \"http://\" or \"https://\"",
    );
    for name in ["a.test:443", "https://a.test", "*.a.test", "10.0.0.700", "-a"] {
        rows.push(("ssl_name", name, "it must be the host name or the address in the certificate"));
    }
    for line in ["", "resolver_url http://10.0.0.7:3001/resolve;", "resolver_url /_auth;"] {
        refused(
            http(format!(
                "authgear_project p {{ endpoint https://a.test; {line}\nssl_name b.test; }} {HERE}"
            )),
            "\"ssl_name\" \"b.test\" has no effect: neither \"resolver_url\" nor \"jwks_url\" is an \
             https URL",
        );
    }
    for (key, value, says) in rows {
        let says = format!("invalid value \"{value}\" in \"{key}\" directive, {says}");
        refused(setting(&format!("{key} {value};")), &says);
    }

    let long = "a".repeat(65);
    for (prefix, says) in [
        ("a=b", "it has an invalid character"),
        ("'a b'", "it has an invalid character"),
        (&long, "it is longer than 64 bytes"),
    ] {
        let quoted = prefix.trim_matches('\'');
        let says = format!("invalid \"cookie_prefix\" \"{quoted}\": {says}");
        refused(setting(&format!("cookie_prefix {prefix};")), &says);
    }
    // The error names the line of the block's end, where TLS is set up.
    let missing = "authgear_project p {\nendpoint https://a.test;\n\
                   ssl_trusted_certificate no/such.pem;\n} # here";
    refused(http(missing), "no/such.pem\": No such file or directory (os error 2)");
    let no_certificate = http(missing.replace("no/such", "empty")).file("empty.pem", "nothing");
    refused(no_certificate, "empty.pem\": no certificate or crl found");
}

#[test]
fn unusable_key_files_are_refused() {
    let with = |contents: &str| setting("jwks_file keys.json;").file("keys.json", contents);
    let rows = [
        ("", "the key set is not JSON"),
        ("[]", "the document is not a key set"),
        ("{\"keys\":[]}", "the key set has no usable key"),
        ("{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}", "the key set has no usable key"),
        (&" ".repeat(300 * 1024), "the key set is too large"),
    ];
    for (contents, says) in rows {
        let test = with(contents).check();
        assert!(!test.ok && test.output.contains(says), "{says}: {}", test.output);
        assert!(test.output.contains("invalid \"jwks_file\" \""), "{}", test.output);
    }
    let test = setting("jwks_file nowhere.json;").check();
    assert!(!test.ok && test.output.contains("nowhere.json\": No such file"), "{}", test.output);
    let test = setting("jwks_file keys.json; jwks_url https://a.test/jwks;").check();
    let both = "authgear_project \"p\" has both \"jwks_url\" and \"jwks_file\"";
    assert!(!test.ok && test.output.contains(both), "{}", test.output);
    // An unusable key is a warning, not an error.
    let mut keys = serde_json::json!({"keys": [SigningKey::nth(0).jwk()]});
    keys["keys"].as_array_mut().expect("keys").push(serde_json::json!({"kty": "oct", "k": "AAAA"}));
    let test = with(&keys.to_string()).check();
    assert!(test.ok && test.output.contains("[warn] 1 of 2 keys in"), "{}", test.output);
}

#[test]
fn misuse_of_authgear_mode_is_refused() {
    let right = "it must be \"resolver\", \"jwt\" or \"auto\"";
    refused(
        server("authgear_mode off; # here"),
        &format!("invalid value \"off\" in \"authgear_mode\" directive, {right}"),
    );
    refused(
        server("authgear_mode jwt; authgear_mode auto; # here"),
        "\"authgear_mode\" directive is duplicate",
    );
    refused(
        server("authgear_mode; # here"),
        "invalid number of arguments in \"authgear_mode\" directive",
    );
}

#[test]
fn malformed_project_blocks_are_refused() {
    for name in ["nonsense", "Timeout"] {
        let says = format!(
            "unknown setting \"{name}\" of authgear_project, it must be one of \
             endpoint, client_id, resolver_url, cookie_prefix, connect_timeout, timeout, \
             fail_timeout, keepalive_timeout, max_connections, max_fails, keepalive, \
             revocation_ttl, max_response_size, ssl_name, ssl_verify, \
             ssl_trusted_certificate, jwks_url, userinfo_url, jwks_file, jwks_refresh, \
             jwks_cooldown, audience, leeway, algorithms, machine_tokens"
        );
        refused(setting(&format!("{name} 1;")), &says);
    }
    for line in [
        "timeout;",
        "timeout 1s 2s;",
        "cookie_prefix;",
        "endpoint a b;",
        "keepalive 1 2;",
        "audience;",
        "algorithms;",
    ] {
        let key = line.split([' ', ';']).next().unwrap_or_default();
        refused(setting(line), &format!("invalid number of arguments in \"{key}\" directive"));
    }
    for (key, value) in [
        ("endpoint", "https://a.test"),
        ("resolver_url", "/_auth"),
        ("cookie_prefix", "a"),
        ("connect_timeout", "1s"),
        ("timeout", "1s"),
        ("max_connections", "1"),
        ("max_fails", "1"),
        ("fail_timeout", "1s"),
        ("revocation_ttl", "1h"),
        ("keepalive", "1"),
        ("keepalive_timeout", "1s"),
        ("ssl_name", "a.test"),
        ("ssl_verify", "on"),
        ("ssl_trusted_certificate", "a.pem"),
        ("max_response_size", "8k"),
        ("jwks_url", "https://a.test"),
        ("jwks_file", "a.json"),
        ("jwks_refresh", "1m"),
        ("jwks_cooldown", "1m"),
        ("audience", "a"),
        ("leeway", "1s"),
        ("algorithms", "RS256"),
        ("machine_tokens", "on"),
    ] {
        let twice = format!("authgear_project p {{\n{key} {value};\n{key} {value}; {HERE}\n}}");
        refused(http(twice), &format!("\"{key}\" directive is duplicate"));
    }
    refused(
        http("authgear_project p {\ntimeout 1s;\n} # here"),
        "authgear_project \"p\" has no \"endpoint\", such as https://myapp.authgear.cloud",
    );
    refused(setting("timeout 1s {"), "unexpected \"{\"");

    let block = "{\nendpoint https://a.test;\n}";
    let long = "a".repeat(65);
    for name in ["1a", "off", "a/b", "-a", "\"\"", "a:b", &long] {
        let quoted = name.trim_matches('"');
        let says = format!(
            "invalid name \"{quoted}\" of authgear_project: letters, digits, \"_\", \"-\" and \
             \".\" are allowed, the first a letter or \"_\", and \"off\" is taken"
        );
        let opening = block.replacen('{', &format!("{{ {HERE}"), 1);
        refused(http(format!("authgear_project {name} {opening}")), &says);
    }
    refused(
        http(format!("authgear_project p {block}\nauthgear_project p {{ # here\n}}")),
        "duplicate authgear_project \"p\"",
    );
    let arguments = "invalid number of arguments in \"authgear_project\" directive";
    refused(http("authgear_project { # here\n}"), arguments);
    refused(http("authgear_project a b { # here\n}"), arguments);
    let unopened = "directive \"authgear_project\" has no opening \"{\"";
    refused(http("authgear_project p; # here"), unopened);
    let misplaced = "\"authgear_project\" directive is not allowed here";
    refused(server("authgear_project p { # here\n}"), misplaced);
    refused(server("location / {\nauthgear_project p { # here\n} }"), misplaced);
}

#[test]
fn misuse_of_authgear_is_refused() {
    for value in ["1a", "a/b", "\"\"", "$host", "a.test:80", "https:/a.test", "OFF!"] {
        let quoted = value.trim_matches('"');
        let says = format!(
            "invalid value \"{quoted}\" in \"authgear\" directive, it must be the URL of an \
             Authgear endpoint (https://...), the name of an \"authgear_project\" or \"off\""
        );
        refused(server(&format!("authgear {value}; # here")), &says);
    }
    for (url, says) in [
        ("ftp://a.test", "it must begin with \"http://\" or \"https://\""),
        ("https://a.test/x", "it must not have a path"),
        ("https://a.test/?q", "it must not have a query"),
        ("https://u@a.test", "it must not have a user name or password"),
    ] {
        let says = format!("invalid Authgear endpoint \"{url}\": {says}");
        refused(server(&format!("authgear {url}; # here")), &says);
    }
    let arguments = "invalid number of arguments in \"authgear\" directive";
    refused(server("authgear; # here"), arguments);
    refused(server("authgear off off; # here"), arguments);
    let duplicate = "\"authgear\" directive is duplicate";
    refused(server("authgear off; authgear off; # here"), duplicate);
    refused(http("authgear off;\nauthgear https://192.0.2.1; # here"), duplicate);
    refused(server("location / {\nauthgear off;\nauthgear off; # here\n}"), duplicate);
    let misplaced = "\"authgear\" directive is not allowed here";
    refused(Nginx::builder().main("authgear off; # here"), misplaced);
    refused(server("location / { if ($arg_a) {\nauthgear off; # here\n} }"), misplaced);

    // The error names the line of `authgear`, wherever it is found.
    let unknown = UNKNOWN;
    for text in ["authgear nope; # here\nreturn 204;", "location / {\nauthgear nope; # here\n}\n"] {
        refused(server(text), unknown);
    }
    refused(server("location / { limit_except GET {\nauthgear nope; # here\n} }"), unknown);
    refused(http("authgear nope; # here").server("location / { }"), unknown);
}

#[test]
fn unknown_projects_are_refused_with_what_may_be_meant() {
    for (value, hint) in [
        (
            "on",
            "name a project, by \"authgear https://myapp.authgear.cloud\" or the name of an \
             authgear_project",
        ),
        (
            "auth.example.com",
            "to name a project by its endpoint, write \"https://auth.example.com\"",
        ),
        ("shop", "define it by \"authgear_project NAME { ... }\" in http"),
    ] {
        let says = format!("unknown authgear_project \"{value}\": {hint}");
        refused(server(&format!("authgear {value}; # here")), &says);
    }
}

#[test]
fn endpoints_that_another_directive_would_answer_for_are_refused() {
    let says = |directive: &str| {
        format!(
            "\"{directive}\" in a location that another directive answers, such as \"proxy_pass\": \
             give it a location of its own"
        )
    };
    let at = |lines: &str| server(&format!("location /here {{\n{lines}\n}}"));
    refused(
        at("authgear_status; # here\nproxy_pass http://127.0.0.1:1;"),
        &says("authgear_status"),
    );
    refused(
        at("proxy_pass http://127.0.0.1:1;\nauthgear_status; # here"),
        &says("authgear_status"),
    );
    refused(
        at("authgear_purge admin; # here\nempty_gif;").http("authgear_cache_zone z:1m;"),
        &says("authgear_purge"),
    );
}

#[test]
fn login_pages_without_a_path_are_refused() {
    for value in ["login", "login?to=$authgear_return_to", "?login", "auth.example.com/login"] {
        let says = format!(
            "invalid value \"{value}\" in \"authgear_login_redirect\" directive, it must be an \
             absolute URL or a path: begin it with \"/\", \"https://\" or a variable"
        );
        refused(server(&format!("authgear_login_redirect {value}; # here")), &says);
    }
}

/// The prefix of `$authgear_...` swallows none of the module's own names.
#[test]
fn unknown_variables_of_the_module_are_refused() {
    for name in ["authgear_sesion", "authgear_user_mail", "authgear"] {
        let says = format!("unknown \"{name}\" variable");
        let test = server(&format!("add_header X-A ${name};")).check();
        assert!(!test.ok && test.output.contains(&says), "{}", test.output);
    }
}

const UNKNOWN: &str =
    "unknown authgear_project \"nope\": define it by \"authgear_project NAME { ... \
                       }\" in http";

#[test]
fn project_names_at_http_level_must_exist() {
    // nginx merges this level into servers only, and this one does not inherit it.
    let overridden = http("authgear nope; # here").server("authgear off;");
    refused(overridden, UNKNOWN);
}

#[test]
fn misuse_of_authgear_on_error_is_refused() {
    for value in ["allow", "\"\"", "Deny", "off"] {
        let quoted = value.trim_matches('"');
        let says = format!(
            "invalid value \"{quoted}\" in \"authgear_on_error\" directive, it must be \"deny\" or \
             \"anonymous\""
        );
        refused(server(&format!("authgear_on_error {value}; # here")), &says);
    }
    let arguments = "invalid number of arguments in \"authgear_on_error\" directive";
    refused(server("authgear_on_error; # here"), arguments);
    refused(server("authgear_on_error deny anonymous; # here"), arguments);
    let duplicate = "\"authgear_on_error\" directive is duplicate";
    refused(server("authgear_on_error deny;\nauthgear_on_error deny; # here"), duplicate);
    let misplaced = "\"authgear_on_error\" directive is not allowed here";
    refused(Nginx::builder().main("authgear_on_error deny; # here"), misplaced);
    for block in ["if ($arg_a)", "limit_except GET"] {
        let text = format!("location / {{ {block} {{\nauthgear_on_error deny; # here\n}} }}");
        refused(server(&text), misplaced);
    }
}

#[test]
fn valid_configurations_are_accepted() {
    let all = "authgear_project A_b-c.9 {
        endpoint HTTPS://192.0.2.1:443/;
        resolver_url http://10.0.0.2:3001/resolve;
        cookie_prefix \"\";
        connect_timeout 1ms;
        timeout 1d;
        max_connections 65535;
        max_fails 0;
        fail_timeout 1m30s;
        keepalive 0;
        keepalive_timeout 1h;
        ssl_verify off;
        ssl_trusted_certificate ca.pem;
        max_response_size 8k;
        jwks_url https://192.0.2.3/keys;
        jwks_refresh 1d;
        jwks_cooldown 1s;
        audience https://a.test https://b.test urn:c;
        leeway 5m;
        algorithms RS256 ES256 EdDSA;
        machine_tokens on;
    }";
    let rows = [
        server("authgear https://192.0.2.1;"),
        server("authgear http://[fd00::1]:8080/;"),
        server("authgear off;"),
        server("location / { limit_except GET { authgear https://192.0.2.1; } }"),
        http("authgear https://192.0.2.1; authgear_on_error anonymous;")
            .server("authgear off; authgear_on_error deny; location / { authgear_on_error deny; }"),
        // Names are looked up only for projects in use.
        http("authgear_project p { endpoint https://no-such-host.invalid; }"),
        http(all).server("authgear A_b-c.9;"),
        http("authgear later;").http("authgear_project later { endpoint https://192.0.2.1; }"),
        http("authgear_project p { endpoint https://192.0.2.1; resolver_url /_auth; }"),
        http("authgear_project p { endpoint https://192.0.2.1; max_response_size 1m; max_fails 4294967295; }"),
    ];
    for (n, builder) in rows.into_iter().enumerate() {
        let test = builder.file("ca.pem", Ca::new().pem()).check();
        // Unused projects are warned about: see lint.rs.
        let mut warnings = test.output.lines().filter(|line| line.contains("[warn]"));
        let silent = warnings.all(|line| line.contains("is never used"));
        assert!(test.ok && silent, "row {n}: {}", test.output);
    }
}

#[test]
fn authgear_is_inherited_and_can_be_replaced_at_each_level() {
    let (one, two, backend) = (FakeAuthgear::start(), FakeAuthgear::start(), Backend::start());
    let nginx = site(&one, &backend)
        .var("TWO", two.url())
        // A NAME may stand before its block.
        .http("authgear two; proxy_http_version 1.1;")
        .http(project("two", &two, ""))
        .server(
            "location /http { proxy_pass http://%%BACKEND%%; }
             location /if { if ($arg_a) { set $a b; } proxy_pass http://%%BACKEND%%; }
             location /off {
               authgear off;
               proxy_pass http://%%BACKEND%%;
               location /off/nested { proxy_pass http://%%BACKEND%%; }
               location /off/on { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }
             }
             location /writes {
               authgear off;
               limit_except GET { authgear %%AUTHGEAR%%; }
               proxy_pass http://%%BACKEND%%;
             }
             location /reads {
               limit_except GET { authgear off; }
               proxy_pass http://%%BACKEND%%;
             }",
        )
        .http(
            "server {
               listen %%ADDR2%%;
               authgear %%AUTHGEAR%%;
               location / { proxy_pass http://%%BACKEND%%; }
               location /two { authgear two; proxy_pass http://%%BACKEND%%; }
             }",
        )
        .listen_extra(1)
        .start();
    let token_one = one.opaque_token(&User::named("one"));
    let token_two = two.opaque_token(&User::named("two"));
    // Each Authgear knows one of the tokens.
    let who = |to: SocketAddr, method: &str, path: &str| {
        let user = |token| {
            let answer = get(&to, path).method(method).bearer(token).send();
            answer.echo().header("x-authgear-user-id").map(str::to_owned)
        };
        user(&token_one).or_else(|| user(&token_two))
    };
    let (here, there) = (nginx.addr(), nginx.addr2());
    for (to, method, path, expected) in [
        (here, "GET", "/http", Some("two")),
        (here, "GET", "/if?a=1", Some("two")),
        (here, "GET", "/off", None),
        (here, "GET", "/off/nested", None),
        (here, "GET", "/off/on", Some("one")),
        (here, "GET", "/writes", None),
        (here, "POST", "/writes", Some("one")),
        (here, "GET", "/reads", Some("two")),
        (here, "POST", "/reads", None),
        (there, "GET", "/", Some("one")),
        (there, "GET", "/two", Some("two")),
    ] {
        assert_eq!(who(to, method, path).as_deref(), expected, "{method} {path}");
    }
}

#[test]
fn a_location_below_an_endpoint_is_protected_as_those_beside_it() {
    let authgear = FakeAuthgear::start();
    let nginx = Nginx::builder()
        .var("AUTHGEAR", authgear.url())
        .file("secret", "0123456789abcdefghijABCDEFGHIJ_Z")
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_require session;
             location /beside { try_files /none =204; }
             location /hook {
               authgear_webhook secret;
               location /hook/below { try_files /none =204; }
             }",
        )
        .start();
    let token = authgear.opaque_token(&User::named("alice"));
    for (path, bare, with_session) in
        [("/hook", 405, 405), ("/beside", 401, 204), ("/hook/below", 401, 204)]
    {
        assert_eq!(get(&nginx, path).send().status, bare, "{path}");
        assert_eq!(get(&nginx, path).bearer(&token).send().status, with_session, "{path}");
    }
}

#[test]
fn an_error_page_that_shares_its_configuration_is_a_location_of_its_own() {
    let authgear = FakeAuthgear::start();
    let nginx = Nginx::builder()
        .var("AUTHGEAR", authgear.url())
        .server(
            "authgear %%AUTHGEAR%%;
             authgear_require session;
             error_page 401 = @login;
             location / { try_files /none =204; }
             location @login { return 401 \"own page\"; }",
        )
        .start();
    let answer = get(&nginx, "/").header("Accept", "application/json").send();
    assert_eq!((answer.status, answer.body.as_slice()), (401, &b"own page"[..]));
}

#[test]
fn authgear_on_error_is_inherited_and_can_be_replaced() {
    let (authgear, refused) = (FakeAuthgear::start(), RefusedAddr::bind());
    let resolver = format!("http://{}", refused.addr());
    let nginx = Nginx::builder()
        .http(project_at("p", &authgear, &resolver, ""))
        .http("authgear p;")
        .server(
            "location / { try_files /none =204; }
             location /open {
               authgear_on_error anonymous;
               try_files /none =204;
               location /open/nested { try_files /none =204; }
               location /open/shut { authgear_on_error deny; try_files /none =204; }
             }",
        )
        .start();
    for (path, status) in [("/", 503), ("/open", 204), ("/open/nested", 204), ("/open/shut", 503)] {
        assert_eq!(get(&nginx, path).bearer("token").send().status, status, "{path}");
    }
}

#[test]
fn equal_urls_share_a_project_and_a_name_is_a_separate_one() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    // One worker: connections are kept per worker, and tell projects apart.
    let nginx = project_site(&authgear, &backend, "")
        .workers(1)
        .server(
            "location /one { authgear %%AUTHGEAR%%; proxy_pass http://%%BACKEND%%; }
             location /two { authgear %%AUTHGEAR%%/; proxy_pass http://%%BACKEND%%; }
             location /name { authgear p; proxy_pass http://%%BACKEND%%; }",
        )
        .start();
    for path in ["/one", "/two", "/name", "/name", "/two", "/one"] {
        let answer = get(&nginx, path).bearer("token").send();
        assert_eq!(verdict(&answer), "none no_session resolver", "{path}");
    }
    let connections: Vec<u64> = authgear.requests().iter().map(|asked| asked.connection).collect();
    assert_eq!(connections, [1, 1, 2, 2, 1, 1]);
}

#[test]
fn headers_that_an_application_does_not_own_are_refused() {
    let reserved = "nginx or proxies use this header themselves";
    let syntax = "it must be the name of a header";
    for (name, error) in [
        ("Host", reserved),
        ("authorization", reserved),
        ("Content_Length", reserved),
        ("X-Forwarded-User", reserved),
        ("X_Authgear_User_Id", reserved),
        ("X:User", syntax),
        ("-User", syntax),
    ] {
        let line = format!("authgear_header {name} $x_authgear_user_id; {HERE}");
        let says = format!("invalid header \"{name}\" in \"authgear_header\": {error}",);
        let test = server(&line).check();
        assert!(!test.ok && test.output.contains(&says), "{says}\n{}", test.output);
    }
    for value in ["alice", "$x_authgear_user_id.", "\"\"", "$"] {
        let shown = value.trim_matches('"');
        refused(
            server(&format!("authgear_header X-User {value}; {HERE}")),
            &format!(
                "invalid value \"{shown}\" in \"authgear_header\" directive, it must be one \
                 variable, such as $x_authgear_user_id"
            ),
        );
    }
    let twice = "authgear_header X-User $x_authgear_user_id;
                 authgear_header x_user $x_authgear_user_roles;";
    refused(
        server(&format!("{twice} {HERE}")),
        "\"authgear_header\" names \"x_user\" twice on one level",
    );
    refused(
        server(&format!("authgear_header X-User; {HERE}")),
        "invalid number of arguments in \"authgear_header\" directive",
    );
}
