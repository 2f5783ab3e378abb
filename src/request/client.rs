//! The kind of client that sent a request.

use authgear::http::negotiation::ClientHeaders;
use nginx::Request;

/// Facts about the client that the request tells.
pub fn client(request: &Request) -> ClientHeaders<'_> {
    let header = |name: &[u8]| request.header(name);
    ClientHeaders {
        is_get: request.is_get(),
        is_post: request.is_post(),
        is_http2_or_later: request.is_http2_or_later(),
        accept: header(b"accept"),
        content_type: header(b"content-type"),
        fetch_dest: header(b"sec-fetch-dest"),
        fetch_mode: header(b"sec-fetch-mode"),
        upgrade: header(b"upgrade"),
    }
}
