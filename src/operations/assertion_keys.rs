//! `authgear_assertion_keys`: the public keys of assertions, for backends.

use authgear::assertion::KEY_SET_TYPE;

use crate::conf::operations::BuiltinEndpoint;
use crate::conf::Authgear;
use nginx::{Reply, Request};

/// Largest request body that is read.
pub const MAX_BODY: usize = 0;

/// Checks the method.
pub fn begin(request: &mut Request) -> Result<(), u16> {
    if request.is_get() || request.is_head() {
        return Ok(());
    }
    request.add_header_out("Allow", "GET, HEAD").map_err(|_| 500_u16)?;
    Err(405)
}

/// Makes the response. Backends keep it for some minutes: the documentation of a change of keys
/// counts on that.
pub fn answer(request: &mut Request) -> Reply {
    let location = request.location::<Authgear>();
    let Some(BuiltinEndpoint::AssertionKeys(keys)) = &location.endpoint else {
        return Reply::Status(500);
    };
    Reply::Body {
        content_type: KEY_SET_TYPE,
        headers: vec![("Cache-Control", "max-age=300".to_owned())],
        body: keys.document.clone().into_bytes(),
    }
}
