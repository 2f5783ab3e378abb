//! Warnings of `nginx -t` about configurations that are valid but probably wrong.
//!
//! Checks that need the settings of other modules are in docs/migration.md, to be made by hand.

use authgear::http::redirect::configured_path;

use super::operations::BuiltinEndpoint;
use super::Authgear;
use super::{LocationConf, MainConf};
use nginx::{Conf, Server, ServerLevel};

type ServerOf<'a> = Server<'a, Authgear>;

/// Checks the whole configuration.
pub fn check(cf: &Conf<'_>, main: &MainConf) {
    unused(cf, main);
    for server in &cf.servers::<Authgear>() {
        open_purges(cf, server);
        misplaced_documents(cf, server);
    }
    for server in cf.servers::<Authgear>().iter().filter(|server| server.conf().in_use) {
        odd_headers(cf, server);
        remote_users(cf, server);
        login_pages(cf, server);
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
        if !core::ptr::eq(found.conf, level.conf) {
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

/// Position of the `authgear_require` in force, if the location needs a session.
fn needs_session(location: &LocationConf) -> Option<&nginx::SourceLocation> {
    location.project.as_ref()?;
    let mut requirements = location.require().iter();
    requirements.find(|requirement| !requirement.conditions.is_empty())?;
    location.require_from.as_ref()
}
