//! Warnings of `nginx -t` about configurations that are valid but probably wrong.
//!
//! Checks that need the settings of other modules are in docs/migration.md, to be made by hand.

use authgear::http::redirect::configured_path;

use super::operations::BuiltinEndpoint;
use super::Authgear;
use super::{LocationConf, MainConf};
use nginx::{Conf, Server, ServerLevel};

type ServerOf<'a> = Server<'a, Authgear>;

/// Checks the whole configuration. `is_of_verdict` tells whether a verdict gives the variable of a
/// name its value.
pub fn check(cf: &Conf<'_>, main: &MainConf, is_of_verdict: fn(&[u8]) -> bool) {
    unused(cf, main);
    for server in &cf.servers::<Authgear>() {
        open_purges(cf, server);
        misplaced_documents(cf, server);
    }
    for server in cf.servers::<Authgear>().iter().filter(|server| server.conf().in_use) {
        odd_headers(cf, server);
        remote_users(cf, server);
        login_pages(cf, server);
        early_variables(cf, server, is_of_verdict);
        inclusions(cf, server);
    }
}

fn unused(cf: &Conf<'_>, main: &MainConf) {
    for (name, place) in &main.named_at {
        if !main.expected_projects.iter().any(|(used, _)| used == name) {
            cf.warn_at(place, format_args!("authgear_project \"{name}\" is never used"));
        }
    }
    for (zone, place) in main.zones.iter().zip(&main.zones_at) {
        let name = &zone.name;
        if !main.expected_zones.iter().any(|(used, _)| used == name) {
            cf.warn_at(place, format_args!("authgear_cache_zone \"{name}\" is never used"));
        }
    }
}

/// Warns of a purge of any user that nothing protects.
fn open_purges(cf: &Conf<'_>, server: &ServerOf<'_>) {
    let guards =
        [c"ngx_http_access_module", c"ngx_http_auth_basic_module", c"ngx_http_auth_request_module"]
            .map(|name| cf.module_index(name));
    for level in server.levels() {
        let Some(BuiltinEndpoint::Purge(purge)) = &level.conf.endpoint else { continue };
        let is_guarded = guards.iter().any(|guard| level.is_used(*guard));
        if purge.is_self || is_guarded || needs_session(level.conf).is_some() {
            continue;
        }
        cf.warn_at(
            &purge.place,
            format_args!(
                "everybody may purge any user by \"authgear_purge admin\": protect it by \
                 \"allow\" and \"deny\", or by \"authgear_require\""
            ),
        );
    }
}

/// Warns of a metadata document that clients do not find: they ask for it at the path that RFC 9728
/// derives from the resource.
fn misplaced_documents(cf: &Conf<'_>, server: &ServerOf<'_>) {
    for level in server.levels() {
        let Some(BuiltinEndpoint::ProtectedResource(endpoint)) = &level.conf.endpoint else {
            continue;
        };
        let served = &endpoint.served;
        let path = served.resource.metadata_path();
        // Without an answer a regular expression decides, which cannot be tried here.
        let Some(found) = server.find(&path) else { continue };
        if !found.is(&level) {
            cf.warn_at(
                &served.place,
                format_args!(
                    "this location does not answer \"{}\", where clients look for the document \
                     of \"{}\": serve it in \"location = {0}\"",
                    String::from_utf8_lossy(&path),
                    served.resource.as_str()
                ),
            );
        }
    }
}

/// Warns of two modules that both name the user.
fn remote_users(cf: &Conf<'_>, server: &ServerOf<'_>) {
    let auth_basic = cf.module_index(c"ngx_http_auth_basic_module");
    let is_both = |level: &ServerLevel<'_, Authgear>| {
        let conf = level.conf;
        conf.project.is_some() && conf.remote_user() && level.is_used(auth_basic)
    };
    if server.levels().iter().any(is_both) {
        cf.warn_at(
            &server.place(),
            format_args!(
                "\"auth_basic\" in a place with \"authgear\": $remote_user is the user of the \
                 session, and not the name that the password belongs to; \
                 \"authgear_remote_user off\" leaves that name"
            ),
        );
    }
}

/// Warns of headers with unusual names. Aliases of `x-authgear-*` are removed, but a backend may
/// take other names for headers of the site.
fn odd_headers(cf: &Conf<'_>, server: &ServerOf<'_>) {
    for (set, directive) in [
        (server.takes_underscores(), "underscores_in_headers on"),
        (server.takes_invalid_headers(), "ignore_invalid_headers off"),
    ] {
        if set {
            cf.warn_at(
                &server.place(),
                format_args!(
                    "\"{directive}\" in a server with \"authgear\": names that backends take for \
                     others, such as X_Real_IP for X-Real-IP, reach them; of x-authgear-* none does"
                ),
            );
        }
    }
}

/// Warns of login pages that need a session themselves.
fn login_pages(cf: &Conf<'_>, server: &ServerOf<'_>) {
    let mut reported = Vec::new();
    let mut check = |directive: &str, target: &[u8]| {
        let Some(page) = server.find(target).map(|level| level.conf) else { return };
        let Some(place) = needs_session(page) else { return };
        let text = String::from_utf8_lossy(target).into_owned();
        if reported.iter().all(|(other, at)| *other != text || at != place) {
            cf.warn_at(
                place,
                format_args!(
                    "\"{text}\", to which \"{directive}\" leads, needs a session itself: \
                     \"authgear_require off\" is missing in its location, which inherits what \
                     stands"
                ),
            );
            reported.push((text, place.clone()));
        }
    };
    for level in server.levels() {
        if needs_session(level.conf).is_none() {
            continue;
        }
        for target in level.error_pages(401) {
            if target.starts_with(b"/") || target.starts_with(b"@") {
                check("error_page 401", target);
            }
        }
        if let Some(path) = level.conf.login_url().and_then(configured_path) {
            check("authgear_login_redirect", path.as_bytes());
        }
    }
}

/// Warns of variables of a verdict that are evaluated before there is one.
fn early_variables(cf: &Conf<'_>, server: &ServerOf<'_>, is_of_verdict: fn(&[u8]) -> bool) {
    let mut reported = Vec::new();
    let mut warn = |level: &LocationConf, directive: &str, name: &[u8], remedy: &str| {
        if !is_of_verdict(name) || cf.is_defined_elsewhere(name) {
            return;
        }
        let place = level.require_from.clone().unwrap_or_else(|| server.place());
        let name = String::from_utf8_lossy(name);
        let text = format!(
            "\"{directive}\" uses \"${name}\" before there is a verdict, where it has no value: \
             {remedy}"
        );
        if !reported.contains(&(text.clone(), place.clone())) {
            cf.warn_at(&place, format_args!("{text}"));
            reported.push((text, place));
        }
    };
    for level in server.levels() {
        let conf = level.conf;
        if conf.project.is_none() || level.is_internal() {
            continue;
        }
        if !conf.early() {
            for (directive, key) in level.limits(cf) {
                for name in variables_of(key) {
                    warn(conf, directive, name, "\"authgear_early on\" finds it earlier");
                }
            }
        }
        // Elsewhere a page for errors may choose by the verdict that led to it.
        if needs_session(conf).is_some() {
            for name in level.rewrite_variables(cf) {
                warn(conf, "if or set", name, "\"authgear_require\" decides by it");
            }
        }
    }
}

/// Names of the variables in a text of the configuration, `$name` or `${name}`.
fn variables_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'$').skip(1).map(|rest| {
        let rest = rest.strip_prefix(b"{").unwrap_or(rest);
        let is_end = |byte: &u8| !byte.is_ascii_alphanumeric() && *byte != b'_';
        let end = rest.iter().position(is_end).unwrap_or(rest.len());
        rest.get(..end).unwrap_or_default()
    })
}

/// Warns of protected locations that a response may include: a subrequest has no access phase.
fn inclusions(cf: &Conf<'_>, server: &ServerOf<'_>) {
    let levels = server.levels();
    let is_protected = |level: &ServerLevel<'_, Authgear>| needs_session(level.conf).is_some();
    let mut reported = Vec::new();
    let mut warn = |text: String| {
        if !reported.contains(&text) {
            cf.warn_at(&server.place(), format_args!("{text}"));
            reported.push(text);
        }
    };
    // Responses of a location that needs a session go to users only.
    for level in levels.iter().filter(|level| !is_protected(level)) {
        for (directive, uri) in level.additions(cf) {
            if server.find(uri).is_some_and(|target| is_protected(&target)) {
                warn(format!(
                    "\"{directive} {}\" shows a location that needs a session to everybody: \
                     subrequests are not checked",
                    String::from_utf8_lossy(uri)
                ));
            }
        }
        if level.has_ssi(cf) && levels.iter().any(is_protected) {
            warn(
                "\"ssi on\" in a location that needs no session, beside locations that need \
                 one: its pages can include them, as subrequests are not checked"
                    .to_owned(),
            );
        }
    }
}

/// Position of the `authgear_require` in force, if the location needs a session.
fn needs_session(location: &LocationConf) -> Option<&nginx::SourceLocation> {
    location.project.as_ref()?;
    let mut requirements = location.require().iter();
    requirements.find(|requirement| !requirement.conditions.is_empty())?;
    location.require_from.as_ref()
}
