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

/// Whether a variable is nginx's own and shows what [`hide`] hides. `of_prefix` if it is one that
/// nginx makes of a prefix, as it does all of these but one.
pub fn is_shown_by(variable: &[u8], of_prefix: bool) -> bool {
    let shows = variable == b"http_authorization" || variable.starts_with(b"cookie_");
    (of_prefix && shows) || variable == b"http_cookie"
}

/// Takes the credentials of `project` away from whatever handles the request from here on, until
/// [`restore`]: bearer tokens, and Authgear's cookies among the others.
pub fn hide(
    request: &mut Request,
    state: &State<Authgear>,
    project: &Project,
) -> Result<(), Failed> {
    let hidden = request.hide(state, |name, value| match name {
        AUTHORIZATION if has_bearer_scheme(value) => Shown::Nothing,
        COOKIE => match project.cookies.remove_from(value) {
            Remainder::All => Shown::Whole,
            Remainder::Part(others) => Shown::Instead(others),
            Remainder::Nothing => Shown::Nothing,
        },
        _ => Shown::Whole,
    })?;
    if hidden {
        request.forget_variables();
    }
    Ok(())
}

/// Gives them back: the next location decides anew.
pub fn restore(request: &mut Request, state: &State<Authgear>) {
    if request.restore(state) {
        request.forget_variables();
    }
}
