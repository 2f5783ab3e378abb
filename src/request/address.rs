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
    let path = path_and_query(request)?;
    if let Some(origin) = request.location::<Authgear>().public_origin() {
        return Some([origin.as_bytes(), path].concat());
    }
    let scheme = request.evaluate(vars.scheme).ok()?;
    Some([scheme, b"://", &authority(request)?, path].concat())
}

/// Path and query of the request, as the client sent them.
pub fn path_and_query(request: &Request) -> Option<&[u8]> {
    let vars = request.main_conf::<Authgear>().url_vars()?;
    let uri = request.evaluate(vars.request_uri).ok()?;
    // The request URI of HTTP/1.1 may be absolute, which is no path.
    Some(if uri.starts_with(b"/") { uri } else { b"/" })
}

/// Scheme and host of this site for clients: `authgear_public_origin`, or those of the request.
/// `None` for a host that is no part of a URL.
pub fn origin(request: &Request) -> Option<String> {
    if let Some(origin) = request.location::<Authgear>().public_origin() {
        return Some(origin.to_owned());
    }
    let vars = request.main_conf::<Authgear>().url_vars()?;
    let scheme = request.evaluate(vars.scheme).ok()?;
    let origin = String::from_utf8([scheme, b"://", &authority(request)?].concat()).ok()?;
    origin.bytes().all(|byte| byte.is_ascii_graphic()).then_some(origin)
}
