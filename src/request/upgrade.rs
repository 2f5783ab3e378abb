//! The `Upgrade` header: which protocols a client may change to.
//!
//! After an upgrade nginx passes bytes through and checks nothing. A backend that accepts `h2c`
//! would answer any request in the tunnel, with any `x-authgear-*` header.

use authgear::http::upgrade::is_same_protocol;

use crate::conf::Authgear;
use nginx::Request;

const UPGRADE: &[u8] = b"upgrade";

/// Only a client that asks for `h2c` sends it (RFC 7540 section 3.2.1).
const HTTP2_SETTINGS: &[u8] = b"http2-settings";

/// Whether the request has an `Upgrade` that is removed. The only one that stays is a single field
/// with a single protocol, which is `websocket` or one of `authgear_upgrade`.
pub(super) fn is_refused(request: &Request) -> bool {
    if !request.has_upgrade() {
        return false;
    }
    let mut fields = request.headers_in().filter(|(name, _)| name.eq_ignore_ascii_case(UPGRADE));
    match (fields.next(), fields.next()) {
        (Some((_, value)), None) => {
            let others = request.location::<Authgear>().upgrade();
            !is_same_protocol(value, "websocket")
                && !others.iter().any(|protocol| is_same_protocol(value, protocol))
        }
        _ => true,
    }
}

/// Whether the header `name` belongs to an upgrade that is `refused`, or to one to HTTP/2.
pub(super) fn is_unwanted(name: &[u8], refused: bool) -> bool {
    name.eq_ignore_ascii_case(HTTP2_SETTINGS) || refused && name.eq_ignore_ascii_case(UPGRADE)
}
