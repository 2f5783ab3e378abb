//! `authgear_verdict`: the decision on a request, for another proxy that asks by a request of its
//! own.
//!
//! The access phase has decided by then: a denial never comes here. The method, the path and
//! `X-Forwarded-*` do not matter.

use authgear::identity::{is_identity_header, NAMES};

use crate::conf::Authgear;
use nginx::{Failed, Level, Reply, Request};

/// Largest request body that is read.
pub const MAX_BODY: usize = 0;

/// Makes the response: the headers that a backend of this location would get.
pub fn answer(request: &mut Request) -> Reply {
    let location = request.location_id::<Authgear>();
    let state = request.state::<Authgear>();
    // `satisfy any` may have allowed the request, and a subrequest is not checked at all.
    if !request.is_main() || !state.is_some_and(|state| state.is_allowed_at(location)) {
        request.log().write(
            Level::Error,
            format_args!("authgear_verdict: access was granted without a verdict"),
        );
        return Reply::Status(403);
    }
    match add_headers(request) {
        Ok(()) => Reply::Body { content_type: "", headers: Vec::new(), body: Vec::new() },
        Err(Failed) => Reply::Status(500),
    }
}

/// Copies the headers that the module gave the request. Those of the client with such names were
/// removed before.
///
/// Authgear's own headers that the verdict lacks are empty: a proxy that copies headers may leave
/// the client's where there is nothing to copy.
fn add_headers(request: &mut Request) -> Result<(), Failed> {
    let location = request.location::<Authgear>();
    let lines = location.headers();
    let is_own = |name: &[u8]| {
        is_identity_header(name)
            || lines.iter().any(|line| line.header.is_alias(name))
            || location.assertion().is_some_and(|used| used.header.is_alias(name))
    };
    let own = request.headers_in().filter(|(name, _)| is_own(name));
    let own: Vec<_> = own.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
    own.iter().try_for_each(|(name, value)| request.copy_header_out(name, value))?;
    let is_missing = |name: &&str| !own.iter().any(|(own, _)| own == name.as_bytes());
    let mut missing = NAMES.into_iter().filter(|_| location.set_headers()).filter(is_missing);
    missing.try_for_each(|name| request.add_header_out(name, ""))
}
