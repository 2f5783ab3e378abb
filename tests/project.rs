//! Projects with custom settings, and answers that show the verdict.

use support::{Backend, Builder, FakeAuthgear, Response};

use crate::site::site;

/// Adds the header that [`verdict`] reads to each answer.
pub(crate) const TELLING: &str =
    "add_header X-Verdict \"$authgear_session $authgear_reason $authgear_source\" always;";

/// The block of a project that uses this Authgear.
pub(crate) fn project(name: &str, authgear: &FakeAuthgear, settings: &str) -> String {
    project_at(name, authgear, &authgear.resolver_url(), settings)
}

/// The block of a project of this Authgear with another resolver URL.
pub(crate) fn project_at(
    name: &str,
    authgear: &FakeAuthgear,
    resolver_url: &str,
    settings: &str,
) -> String {
    let origin = authgear.origin();
    format!(
        "authgear_project {name} {{ endpoint {origin}; resolver_url {resolver_url}; {settings} }}"
    )
}

/// [`site`] with project `p` of these settings, and [`TELLING`]. The test adds the locations.
pub(crate) fn project_site(authgear: &FakeAuthgear, backend: &Backend, settings: &str) -> Builder {
    site(authgear, backend).http(project("p", authgear, settings)).server(TELLING)
}

/// Returns `$authgear_session`, `$authgear_reason` and `$authgear_source` of a location with
/// [`TELLING`].
#[track_caller]
pub(crate) fn verdict(answer: &Response) -> String {
    answer.header("x-verdict").unwrap_or_else(|| panic!("{} tells no verdict", answer.status))
}
