//! By what address the client reached this server.

use authgear::redirect::authority_of;

use crate::lookup;
use crate::nginx::Request;
use crate::Authgear;

/// Host and port, as the client named them.
pub fn authority(request: &Request) -> Option<Vec<u8>> {
    if let Some(host) = lookup::header(request, b"host").filter(|host| !host.is_empty()) {
        return Some(host.to_vec());
    }
    // HTTP/3 has no Host, and nginx makes none of :authority; nor has HTTP/1.0.
    let here = request.main_conf::<Authgear>().here()?;
    let value = |value| request.evaluate(value).ok();
    authority_of(value(here.scheme)?, value(here.host)?, value(here.port)?)
}

/// The URL of the request.
pub fn url(request: &Request) -> Option<Vec<u8>> {
    let here = request.main_conf::<Authgear>().here()?;
    let (scheme, uri) =
        (request.evaluate(here.scheme).ok()?, request.evaluate(here.request_uri).ok()?);
    // The URI of HTTP/1.1 may be absolute, and then is not what follows an authority.
    let path = if uri.starts_with(b"/") { uri } else { b"/" };
    Some([scheme, b"://", &authority(request)?, path].concat())
}
