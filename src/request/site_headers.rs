//! Request headers of `authgear_header`, besides those of the verdict.

use std::rc::Rc;

use authgear::identity::{is_site_value, SiteHeader};
use authgear::verdict::Verdict;

use crate::conf::{Authgear, LocationConf};
use crate::resolution::Resolution;
use nginx::{Failed, FieldsOf, HeaderName, Level, Request};

/// Headers for the backend of one request.
pub(super) struct SiteHeaders {
    /// None with `authgear_set_headers off`.
    verdict: Option<Rc<Verdict>>,
    lines: Vec<(&'static SiteHeader, Vec<u8>)>,
}

/// The headers of `location`. The variables are those of `resolution` already.
///
/// An empty value is an absent header. So is one with control bytes, which would split the header:
/// a value such as `$arg_user` may come from the client.
pub(super) fn of(
    request: &Request,
    location: &'static LocationConf,
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
    Ok(SiteHeaders { verdict, lines })
}

impl FieldsOf<SiteHeaders> for Authgear {
    fn most(headers: &SiteHeaders) -> usize {
        headers.verdict.as_deref().map_or(0, Verdict::most_fields) + headers.lines.len()
    }

    fn fields(headers: &SiteHeaders) -> impl Iterator<Item = (HeaderName<'_>, &[u8])> {
        let lines = headers.lines.iter();
        let lines = lines
            .map(|(header, value)| (HeaderName::new(header.as_str().as_bytes()), value.as_slice()));
        headers.verdict.as_deref().into_iter().flat_map(Self::fields).chain(lines)
    }
}
