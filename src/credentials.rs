//! The request's credentials.
//!
//! A location may hide them from the backend ([`hide`]). The functions here read them hidden or
//! not.

use std::rc::Rc;

use authgear::credentials::{
    has_bearer_scheme, session_prefix_of_another, CookieNames, Credentials, Remainder,
    MAX_AUTHORIZATION,
};
use authgear::token::Claims;

use crate::conf::project::Project;
use crate::conf::{Authgear, LocationConf};
use nginx::{Failed, Request, Shown, State};

const AUTHORIZATION: &[u8; 13] = b"authorization";
const COOKIE: &[u8; 6] = b"cookie";

/// An `Authorization` value that stands for the token in a variable of `authgear_bearer`.
pub type BearerElsewhere = Rc<[u8]>;

/// The credentials that `project` reads. `elsewhere` counts where there is no `Authorization`.
pub fn read<'a>(
    request: &'a Request,
    project: &Project,
    elsewhere: Option<&'a [u8]>,
) -> Credentials<'a> {
    let authorization = authorizations(request).next().or(elsewhere);
    Credentials::read(authorization, cookies(request), &project.cookies)
}

/// The prefix of a cookie that looks like a session of Authgear's, but is not one of `project`: see
/// [`session_prefix_of_another`].
pub fn prefix_of_another<'a>(request: &'a Request, project: &Project) -> Option<&'a str> {
    let mut fields = cookies(request);
    fields.find_map(|field| session_prefix_of_another(field, &project.cookies))
}

/// Evaluates the variables of `authgear_bearer`, for a request without `Authorization`. The first
/// that is not empty counts.
pub fn bearer_elsewhere(
    request: &Request,
    location: &LocationConf,
) -> Result<Option<BearerElsewhere>, Failed> {
    let Some(variables) = location.bearer() else { return Ok(None) };
    if authorizations(request).next().is_some() {
        return Ok(None);
    }
    for &variable in variables.iter() {
        let token = request.evaluate(variable)?;
        // A longer token is no credential, and is not copied.
        if !token.is_empty() && token.len() <= MAX_AUTHORIZATION {
            return Ok(Some([b"Bearer ", token].concat().into()));
        }
    }
    Ok(None)
}

fn authorizations(request: &Request) -> impl Iterator<Item = &[u8]> {
    request.sent::<Authgear, { AUTHORIZATION.len() }>(AUTHORIZATION)
}

fn cookies(request: &Request) -> impl Iterator<Item = &[u8]> {
    request.sent::<Authgear, { COOKIE.len() }>(COOKIE)
}

/// The bearer token, which needs no settings of a project. `elsewhere` is as for [`read`].
pub fn bearer<'a>(request: &'a Request, elsewhere: Option<&'a [u8]>) -> Option<&'a [u8]> {
    let authorization = authorizations(request).next().or(elsewhere);
    Credentials::read(authorization, [], &CookieNames::default()).bearer()
}

/// The claim `name` of the request's bearer token, which was verified.
pub fn claim(request: &Request, elsewhere: Option<&[u8]>, name: &[u8]) -> Option<Vec<u8>> {
    Some(Claims::of_verified(bearer(request, elsewhere)?)?.find(name)?.into_owned())
}

/// Whether the request presents a bearer token, well-formed or not.
pub fn has_bearer(request: &Request) -> bool {
    authorizations(request).next().is_some_and(has_bearer_scheme)
}

/// Value of `$http_authorization`, hidden or not: `proxy_no_cache` and the like depend on it.
pub fn authorization(request: &Request) -> Option<Vec<u8>> {
    let mut values = authorizations(request);
    let first = values.next()?.to_vec();
    if nginx::REPEATED_HEADERS_ARE_JOINED {
        return Some(values.fold(first, |all, value| [&all, &b", "[..], value].concat()));
    }
    Some(first)
}

/// Hides the credentials of `project` from the backend, until [`restore`]: bearer tokens, and
/// Authgear's cookies among the others.
pub fn hide(
    request: &mut Request,
    state: &State<Authgear>,
    project: &Project,
) -> Result<(), Failed> {
    request.hide(state, |name, value| shown(project, name, value))
}

/// Hides the credentials of `project` from the backend of a subrequest.
pub fn hide_in_subrequest(request: &mut Request, project: &Project) -> Result<(), Failed> {
    request.hide_in_subrequest(|name, value| shown(project, name, value))
}

fn shown(project: &Project, name: &'static [u8], value: &[u8]) -> Shown {
    match name {
        b"authorization" if has_bearer_scheme(value) => Shown::Nothing,
        b"cookie" => match project.cookies.remove_from(value) {
            Remainder::All => Shown::Whole,
            Remainder::Part(others) => Shown::Instead(others),
            Remainder::Nothing => Shown::Nothing,
        },
        _ => Shown::Whole,
    }
}

/// Undoes [`hide`] for the next location.
pub fn restore(request: &mut Request, state: &State<Authgear>) {
    request.restore(state);
}
