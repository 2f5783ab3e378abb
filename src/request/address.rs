//! The request's address, as the client knows it.

use authgear::http::redirect::authority_of;

use crate::conf::Authgear;
use nginx::Request;

/// Host and port, as the client sent them.
pub fn authority(request: &Request) -> Option<Vec<u8>> {
    if let Some(host) = request.header(b"host").filter(|host| !host.is_empty()) {
        return Some(host.to_vec());
    }
    // HTTP/3 has no Host, and nginx does not make one from :authority. HTTP/1.0 may have none.
    let vars = request.main_conf::<Authgear>().url_vars()?;
    let value = |value| request.evaluate(value).ok();
    authority_of(value(vars.scheme)?, value(vars.host)?, value(vars.port)?)
}

/// The URL of the request.
pub fn url(request: &Request) -> Option<Vec<u8>> {
    let vars = request.main_conf::<Authgear>().url_vars()?;
    let (scheme, uri) =
        (request.evaluate(vars.scheme).ok()?, request.evaluate(vars.request_uri).ok()?);
    // The request URI of HTTP/1.1 may be absolute, which is no path.
    let path = if uri.starts_with(b"/") { uri } else { b"/" };
    Some([scheme, b"://", &authority(request)?, path].concat())
}
