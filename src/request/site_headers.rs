//! Request headers of `authgear_header` and `authgear_assertion`, besides those of the verdict.

use std::rc::Rc;

use authgear::identity::{is_site_value, Name, SiteHeader};
use authgear::verdict::Verdict;

use super::identity_headers::{header_name, sent_fields};
use crate::assertions::{Asserted, AssertedFields};
use crate::conf::assertion::AssertionUse;
use crate::conf::project::Project;
use crate::conf::{Authgear, LocationConf};
use crate::credentials;
use crate::resolution::Resolution;
use crate::worker::Worker;
use nginx::{Failed, FieldsOf, HeaderName, Level, Request};

/// Headers for the backend of one request.
pub(super) struct SiteHeaders {
    /// None with `authgear_set_headers off`.
    verdict: Option<Rc<Verdict>>,
    lines: Vec<(&'static SiteHeader, Vec<u8>)>,
    /// The header of assertions, if the location has some, and the assertion about a user.
    assertion: Option<(&'static SiteHeader, Option<Rc<str>>)>,
}

/// The headers of `location`. The variables are those of `resolution` already.
///
/// An empty value is an absent header. So is one with control bytes, which would split the header:
/// a value such as `$arg_user` may come from the client.
pub(super) fn of(
    worker: &Worker,
    request: &Request,
    location: &'static LocationConf,
    project: &Project,
    resolution: &Resolution,
) -> Result<SiteHeaders, Failed> {
    let verdict = location.set_headers().then(|| Rc::clone(&resolution.verdict));
    let mut lines = Vec::with_capacity(location.headers().len());
    for line in location.headers() {
        let value = request.evaluate(line.value)?;
        if !is_site_value(value) {
            let name = line.header.as_str();
            request.log().write(
                Level::Error,
                format_args!(
                    "authgear_header \"{name}\" is left out: its value has control characters"
                ),
            );
        } else if !value.is_empty() {
            lines.push((&line.header, value.to_vec()));
        }
    }
    let assertion = location.assertion().map(|used| {
        let asserted = asserted(worker, request, project, used, resolution);
        (&*used.header, asserted.map(|asserted| Rc::clone(&asserted.fields.jwt)))
    });
    Ok(SiteHeaders { verdict, lines, assertion })
}

/// The verdict with its assertion, for a location that gives these two to the backend and nothing
/// else. It serves many requests.
pub(super) fn asserted_alone(
    worker: &Worker,
    request: &Request,
    location: &LocationConf,
    project: &Project,
    resolution: &Resolution,
) -> Option<Rc<Asserted>> {
    let used = location.assertion()?;
    if !location.headers().is_empty() || !location.set_headers() {
        return None;
    }
    asserted(worker, request, project, used, resolution)
        .filter(|asserted| asserted.fields.header == used.header)
}

fn asserted(
    worker: &Worker,
    request: &Request,
    project: &Project,
    used: &AssertionUse,
    resolution: &Resolution,
) -> Option<Rc<Asserted>> {
    worker.assertions().get_or_sign(used, resolution, |now| {
        let elsewhere = resolution.bearer_elsewhere.as_deref();
        credentials::read(request, project, elsewhere).expires_at(&project.cookies, now)
    })
}

impl FieldsOf<AssertedFields> for Authgear {
    fn most(asserted: &AssertedFields) -> usize {
        asserted.verdict.most_fields() + 1
    }

    fn fields(asserted: &AssertedFields) -> impl Iterator<Item = (HeaderName<'_>, &[u8])> {
        let name = asserted.header.as_str();
        let assertion = HeaderName::hashed(name.as_bytes(), asserted.header_hash);
        fields_beside(&asserted.verdict, Some(name))
            .chain(core::iter::once((assertion, asserted.jwt.as_bytes())))
    }
}

/// Fields of the verdict. One with the name of the assertion's header, which only another version of
/// Authgear can send, would stand beside it.
fn fields_beside<'a>(
    verdict: &'a Verdict,
    assertion: Option<&'a str>,
) -> impl Iterator<Item = (HeaderName<'a>, &'a [u8])> {
    let is_other = move |(name, _): &(Name<'_>, _)| match name {
        Name::Known(_) => true,
        Name::Other(name) => assertion != Some(*name),
    };
    let fields = sent_fields(verdict).filter(is_other);
    fields.map(|(name, value)| (header_name(name), value))
}

impl FieldsOf<SiteHeaders> for Authgear {
    fn most(headers: &SiteHeaders) -> usize {
        let assertions = usize::from(headers.assertion.is_some());
        headers.verdict.as_deref().map_or(0, Verdict::most_fields)
            + headers.lines.len()
            + assertions
    }

    fn fields(headers: &SiteHeaders) -> impl Iterator<Item = (HeaderName<'_>, &[u8])> {
        let lines = headers.lines.iter();
        let lines = lines
            .map(|(header, value)| (HeaderName::new(header.as_str().as_bytes()), value.as_slice()));
        let assertion = headers.assertion.iter().filter_map(|(header, jwt)| {
            Some((HeaderName::new(header.as_str().as_bytes()), jwt.as_ref()?.as_bytes()))
        });
        let own = headers.assertion.as_ref().map(|(header, _)| header.as_str());
        let verdict = headers.verdict.as_deref().into_iter();
        let fields = verdict.flat_map(move |verdict| fields_beside(verdict, own));
        fields.chain(lines).chain(assertion)
    }
}
