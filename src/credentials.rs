//! The request's credentials: what Authgear is asked about, and what the backend need not see.
//!
//! A location may hide them from the backend ([`hide`]); whoever needs them reads them here, where
//! they are found all the same.

use authgear::credentials::{has_bearer_scheme, CookieNames, Credentials, Remainder};

use crate::conf::project::Project;
use crate::nginx::{Failed, Request, Shown, State};
use crate::Authgear;

const AUTHORIZATION: &[u8] = b"authorization";
const COOKIE: &[u8] = b"cookie";

/// The credentials that `project` reads.
pub fn read<'a>(request: &'a Request, project: &Project) -> Credentials<'a> {
    let authorization = request.sent::<Authgear>(AUTHORIZATION).next();
    Credentials::read(authorization, request.sent::<Authgear>(COOKIE), &project.cookies)
}

/// The bearer token, whichever project is to read it.
pub fn bearer(request: &Request) -> Option<&[u8]> {
    let authorization = request.sent::<Authgear>(AUTHORIZATION).next();
    Credentials::read(authorization, [], &CookieNames::default()).bearer()
}

/// Whether the request presents a bearer token, good or bad.
pub fn has_bearer(request: &Request) -> bool {
    request.sent::<Authgear>(AUTHORIZATION).next().is_some_and(has_bearer_scheme)
}

/// `$http_authorization`, as nginx has it, hidden or not. By nothing else that is hidden may a
/// cache be told what it must not keep.
pub fn authorization(request: &Request) -> Option<Vec<u8>> {
    let mut values = request.sent::<Authgear>(AUTHORIZATION);
    let first = values.next()?.to_vec();
    if nginx::REPEATED_HEADERS_ARE_JOINED {
        return Some(values.fold(first, |all, value| [&all, &b", "[..], value].concat()));
    }
    Some(first)
}

/// Takes the credentials of `project` away from whatever backend handles the request from here
/// on, until [`restore`]: bearer tokens, and Authgear's cookies among the others.
pub fn hide(
    request: &mut Request,
    state: &State<Authgear>,
    project: &Project,
) -> Result<(), Failed> {
    request.hide(state, |name, value| shown(project, name, value))
}

/// The same for a subrequest.
pub fn hide_in_subrequest(request: &mut Request, project: &Project) -> Result<(), Failed> {
    request.hide_in_subrequest(|name, value| shown(project, name, value))
}

fn shown(project: &Project, name: &'static [u8], value: &[u8]) -> Shown {
    match name {
        AUTHORIZATION if has_bearer_scheme(value) => Shown::Nothing,
        COOKIE => match project.cookies.remove_from(value) {
            Remainder::All => Shown::Whole,
            Remainder::Part(others) => Shown::Instead(others),
            Remainder::Nothing => Shown::Nothing,
        },
        _ => Shown::Whole,
    }
}

/// Gives them back: the next location decides anew.
pub fn restore(request: &mut Request, state: &State<Authgear>) {
    request.restore(state);
}
