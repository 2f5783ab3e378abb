//! Checks of `nginx -t` that what is configured takes effect, and the one that it says.

use std::collections::HashSet;

use authgear::identity::NAMES;

use super::operations::answered_elsewhere;
use super::project::Upstream;
use super::{Authgear, LocationConf, MainConf, Mode};
use nginx::{Conf, ConfError, Server, SourceLocation};

/// Name of a directive that takes effect only together with others.
pub(super) const CACHE: &str = "authgear_cache";
/// See [`CACHE`].
pub(super) const LOGIN_REDIRECT: &str = "authgear_login_redirect";

/// Directives that take effect only together with others, and those that do.
#[derive(Default)]
pub(super) struct Effects {
    expected: Vec<(&'static str, SourceLocation)>,
    seen: HashSet<(&'static str, SourceLocation)>,
}

impl Effects {
    /// Notes a line with the directive.
    pub(super) fn note(&mut self, directive: &'static str, place: SourceLocation) {
        self.expected.push((directive, place));
    }
}

impl LocationConf {
    /// Notes which directives take effect in this location, where a project decides.
    pub(super) fn note_effects(&self, main: &mut MainConf) {
        if let Some(super::location::CacheUse::Zone(_, place)) = self.cache.as_deref() {
            main.effects.seen.insert((CACHE, place.clone()));
        }
        if let Some(Some(page)) = &self.login_redirect {
            if !self.require().is_empty() {
                main.effects.seen.insert((LOGIN_REDIRECT, page.place.clone()));
            }
        }
    }
}

/// Checks the whole configuration.
pub(super) fn check(cf: &Conf<'_>, main: &MainConf) -> Result<(), ConfError> {
    for (directive, place) in &main.effects.expected {
        if main.effects.seen.contains(&(directive, place.clone())) {
            continue;
        }
        let needs = match *directive {
            CACHE => "has \"authgear\" on",
            _ => "needs a session: add \"authgear_require session\"",
        };
        cf.warn_at(
            place,
            format_args!("\"{directive}\" has no effect: no location that it applies to {needs}"),
        );
    }
    unknown_fields(cf);
    for server in &cf.servers::<Authgear>() {
        owned_locations(server)?;
        if server.conf().in_use {
            resolver_locations(cf, server);
            returns(cf, server);
        }
    }
    Ok(())
}

/// Warns of `$x_authgear_NAME` where Authgear sends no such header. The prefix defines it all the
/// same, because a newer Authgear may send more.
fn unknown_fields(cf: &Conf<'_>) {
    let known = NAMES.map(|name| format!("${}", name.replace('-', "_")));
    let mut reported = HashSet::new();
    for name in cf.used_variables().filter(|name| name.starts_with(b"x_authgear_")) {
        let text = format!("${}", String::from_utf8_lossy(name));
        if known.contains(&text) || cf.is_defined_elsewhere(name) || !reported.insert(name) {
            continue;
        }
        cf.warn_at(
            &cf.place(),
            format_args!(
                "\"{text}\" is empty: Authgear sends no such header, unless a newer one does; it \
                 is none of {}",
                known.join(", ")
            ),
        );
    }
}

/// Refuses an endpoint of the module that another directive of the location replaces.
fn owned_locations(server: &Server<'_, Authgear>) -> Result<(), ConfError> {
    for level in server.levels() {
        let Some(owner) = &level.conf.content else { continue };
        if level.content() != Some(owner.mark) {
            let message = answered_elsewhere(&owner.directive);
            return Err(ConfError::At(owner.place.clone(), message));
        }
    }
    Ok(())
}

/// Warns of a `resolver_url` that names no location: the subrequest, with the credentials, would go
/// where requests without a location of their own go.
fn resolver_locations(cf: &Conf<'_>, server: &Server<'_, Authgear>) {
    let mut reported = HashSet::new();
    for level in server.levels() {
        let Some(project) = &level.conf.project else { continue };
        let (Upstream::Location(uri), Some(place)) = (&project.resolver, &project.resolver_at)
        else {
            continue;
        };
        if level.conf.mode() == Mode::Jwt || !reported.insert(place) {
            continue;
        }
        // Without an answer a regular expression decides, which cannot be tried here.
        let Some(found) = server.find(uri.as_bytes()) else { continue };
        if !found.is_internal() && matches!(found.name(), b"" | b"/") {
            cf.warn_at(
                place,
                format_args!(
                    "no location of the server in {} is for \"resolver_url\" \"{uri}\": the \
                     credentials of its users go to the backend of \"location /\"; define \
                     \"location = {uri} {{ internal; proxy_pass ...; }}\"",
                    server.place()
                ),
            );
        }
    }
}

/// Warns of a `return` that answers with content before `authgear_require` is checked.
fn returns(cf: &Conf<'_>, server: &Server<'_, Authgear>) {
    let levels = server.levels();
    let of_server = |name: &[u8]| name.is_empty();
    for level in &levels {
        let Some(status @ 200..=299) = level.returns_at_once(cf) else { continue };
        if level.is_internal() {
            continue;
        }
        // That of the server answers in all its locations.
        let mut affected = levels
            .iter()
            .filter(|other| of_server(level.name()) || other.is(level))
            .map(|other| other.conf)
            .filter(|conf| conf.project.is_some() && !conf.require().is_empty());
        let Some(place) = affected.find_map(|conf| conf.require_from.as_ref()) else { continue };
        let name = String::from_utf8_lossy(level.name());
        let of = if of_server(level.name()) {
            "the server".to_owned()
        } else {
            format!("\"location {name}\"")
        };
        cf.warn_at(
            place,
            format_args!(
                "\"return {status}\" of {of} answers everybody, before \"authgear_require\" is \
                 checked: let a file or a backend answer, or write \"authgear_require off\" there"
            ),
        );
    }
}
