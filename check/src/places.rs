//! Checks of the configuration alone.

use authgear::resolver::endpoint::{Scheme, Url};
use authgear::resolver::system_names;

use crate::finding::{Problem, Report};
use crate::project::{has_audience, mode, Keys, ResolverAddress, Use};
use crate::site::{Answer, Server, Site, Spot};

/// Checks places, and the URLs of projects.
pub fn check(site: &Site<'_>, uses: &[Use<'_>], report: &mut Report) {
    if site.spots().all(|(_, spot)| spot.settings.authgear().is_none()) {
        report.add(Problem::NotUsed, None, "\"authgear\" is on nowhere");
    }
    for (_, spot) in site.spots() {
        check_answers(spot, report);
    }
    for found in uses {
        check_urls(found, report);
    }
}

/// An answer before access makes the requirement of the same place void.
fn check_answers(spot: &Spot<'_>, report: &mut Report) {
    if spot.settings.require().is_empty() || spot.endpoint.is_some() || spot.internal {
        return;
    }
    // An error shows nothing. A redirect under a requirement that is inherited is rarely a mistake.
    let highest = if spot.has_requirement() { 399 } else { 299 };
    let shows = |answer: &&Answer| answer.always && answer.status <= highest;
    for answer in spot.answers.iter().filter(shows) {
        let what = format!(
            "\"{}\" in location {} is not protected by \"authgear_require\"",
            answer.text, spot.name
        );
        report.add(Problem::AnsweredBeforeAccess, Some(&answer.place), what);
    }
}

fn check_urls(found: &Use<'_>, report: &mut Report) {
    let project = &found.project;
    let place = Some(&project.place);
    match &project.resolver {
        ResolverAddress::Location(uri) if found.asks_resolver() => {
            for (server, spot) in &found.places {
                if mode(&spot.settings) != "jwt" && !has_location(server, uri) {
                    let what = format!(
                        "the server at {} has no location for \"resolver_url {uri}\"",
                        server.place
                    );
                    report.add(Problem::ResolverLocationMissing, place, what);
                }
            }
        }
        ResolverAddress::Url(url) if found.asks_resolver() => {
            if url.path() == "/" {
                let what = format!("resolver_url {url} has no path");
                report.add(Problem::ResolverUrlWithoutPath, place, what);
            }
            check_exposed(url, "credentials are sent to", found, report);
        }
        _ => {}
    }
    if let (Keys::Url(url), true) = (&project.keys, found.verifies_tokens()) {
        check_exposed(url, "keys are fetched from", found, report);
    }
    if !project.ssl_verify && project.uses_tls() {
        let what = format!("\"ssl_verify off\" in project \"{}\"", project.name);
        report.add(Problem::CertificateNotVerified, place, what);
    }
}

/// Returns true if a location is meant for the URI: `/` for everything is not.
fn has_location(server: &Server<'_>, uri: &str) -> bool {
    let path = uri.split('?').next().unwrap_or(uri);
    server.locations.iter().any(|(modifier, pattern)| match *modifier {
        "=" => *pattern == path,
        "" | "^~" => *pattern != "/" && path.starts_with(pattern),
        // What a regular expression matches is not decided here.
        _ => true,
    })
}

fn check_exposed(url: &Url, what: &str, found: &Use<'_>, report: &mut Report) {
    if url.scheme() != Scheme::Http || !url.is_exposed() {
        return;
    }
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let known = system_names::addresses(url.host(), &hosts);
    if known.is_empty() || !known.into_iter().all(system_names::is_private) {
        let what = format!("{what} \"{url}\" in clear");
        report.add(Problem::CredentialsInClear, Some(&found.project.place), what);
    }
}

/// Checks that browsers send Authgear's session cookie to each server that reads it. `domain` is
/// the cookie's, absent if it is for the host of the endpoint alone.
pub fn check_cookie_domain(found: &Use<'_>, domain: Option<&str>, report: &mut Report) {
    let host = found.project.endpoint.url().host();
    for (server, spot) in &found.places {
        if !needs_cookie(found, spot) {
            continue;
        }
        for name in server.names.iter().filter(|name| is_host(name)) {
            let reached = match domain {
                Some(domain) => is_within(name, domain.trim_start_matches('.')),
                None => name.eq_ignore_ascii_case(host),
            };
            if !reached {
                let what = format!(
                    "the session cookie is for {}, and not for \"{name}\"",
                    match domain {
                        Some(domain) => format!("the domain \"{}\"", crate::finding::shown(domain)),
                        None => format!("the host \"{host}\" alone"),
                    }
                );
                report.add(Problem::CookieDomain, Some(&server.place), what);
            }
        }
    }
}

/// Returns true if users of a place are known by a cookie: not where it is for tokens alone.
fn needs_cookie(found: &Use<'_>, spot: &Spot<'_>) -> bool {
    let settings = &spot.settings;
    if mode(settings) == "jwt" {
        return false;
    }
    let conditions = || settings.require().iter().flat_map(|line| &line.arguments);
    let of_tokens =
        |word: &String| ["scope=", "client=", "claim:"].iter().any(|begin| word.starts_with(begin));
    let for_tokens = found.project.has_audience
        || has_audience(settings)
        || settings.line("authgear_bearer").is_some_and(|line| line.first() != "off")
        || conditions().any(of_tokens);
    settings.has_login() || (!for_tokens && !settings.require().is_empty())
}

/// Returns true if a `server_name` is a host, or a host with `*.` before it.
fn is_host(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    !host.is_empty()
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.'))
        && !host.starts_with('.')
        && host.parse::<std::net::IpAddr>().is_err()
}

fn is_within(name: &str, domain: &str) -> bool {
    let (name, domain) = (name.to_ascii_lowercase(), domain.to_ascii_lowercase());
    let host = name.strip_prefix("*.").unwrap_or(&name);
    host == domain || host.strip_suffix(&domain).is_some_and(|rest| rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::syntax::parse;

    fn words(text: &str, domain: Option<Option<&str>>) -> Vec<&'static str> {
        let conf = parse("f", &format!("http {{ {text} }}")).expect("valid");
        let mut report = Report::default();
        let site = Site::new(&conf);
        let uses = crate::project::used(&site, Path::new("/"), &mut report);
        check(&site, &uses, &mut report);
        if let Some(domain) = domain {
            uses.iter().for_each(|found| check_cookie_domain(found, domain, &mut report));
        }
        report.findings.iter().map(|finding| finding.problem.word()).collect()
    }

    #[test]
    fn silent_faults_of_a_configuration_are_found() {
        let project =
            |lines: &str| format!("authgear_project a {{ endpoint https://a.example; {lines} }} ");
        let server = "server { location / { authgear a; authgear_require session; } }";
        for (text, expected) in [
            (server.replace("authgear a", "authgear https://a.example"), vec![]),
            ("server { location / { } }".into(), vec!["not_used"]),
            (
                "server { location / { authgear https://a.example; authgear_require session; \
                 return 200; } }"
                    .into(),
                vec!["answered_before_access"],
            ),
            (
                "server { authgear https://a.example; authgear_require session; location / { } \n\
                 location /old { return 301 /; } location /no { return 404; } \
                 location /ok { authgear_require off; return 200; } }"
                    .into(),
                vec![],
            ),
            (
                "server { authgear https://a.example; location /a { return 200; } \
                 authgear_require session; location / { } }"
                    .into(),
                vec!["answered_before_access"],
            ),
            (project("resolver_url /_auth;") + server, vec!["resolver_location_missing"]),
            (
                project("resolver_url /_auth;")
                    + "server { authgear a; location = /_auth { internal; } }",
                vec![],
            ),
            (project("resolver_url http://10.0.0.1;") + server, vec!["resolver_url_without_path"]),
            (
                project("resolver_url http://b.example/resolve;") + server,
                vec!["credentials_in_clear"],
            ),
            (project("ssl_verify off;") + server, vec!["certificate_not_verified"]),
        ] {
            assert_eq!(words(&text, None), expected, "{text}");
        }
    }

    #[test]
    fn the_cookie_must_reach_each_server_that_needs_it() {
        let server = |name: &str, lines: &str| {
            format!(
                "server {{ server_name {name}; location / {{ authgear https://auth.a.example; \
                 authgear_require session; {lines} }} }}"
            )
        };
        for (name, domain, reached) in [
            ("www.a.example", Some("a.example"), true),
            ("a.example", Some(".a.example"), true),
            ("*.a.example", Some("a.example"), true),
            ("www.b.example", Some("a.example"), false),
            ("xa.example", Some("a.example"), false),
            ("auth.a.example", None, true),
            ("www.a.example", None, false),
            ("_", None, true),
            ("~^www", None, true),
            ("\"\"", None, true),
        ] {
            let expected: &[&str] = if reached { &[] } else { &["cookie_domain"] };
            assert_eq!(words(&server(name, ""), Some(domain)), expected, "{name} {domain:?}");
        }
        for lines in [
            "authgear_mode jwt;",
            "authgear_audience https://api.a.example;",
            "authgear_bearer $b;",
        ] {
            assert!(words(&server("www.b.example", lines), Some(None)).is_empty(), "{lines}");
        }
        let login = "authgear_bearer $b; authgear_login_redirect https://auth.a.example/;";
        assert_eq!(words(&server("www.b.example", login), Some(None)), ["cookie_domain"]);
    }
}
