//! `authgear_protected_resource`: the metadata document of an API, for clients of every origin.

use authgear::operations::protected_resource::{ALLOW_ORIGIN, CONTENT_TYPE};

use crate::conf::operations::BuiltinEndpoint;
use crate::conf::Authgear;
use nginx::{Reply, Request};

/// Largest request body that is read.
pub const MAX_BODY: usize = 0;

const METHODS: &str = "GET, HEAD, OPTIONS";

/// Checks the method, and answers CORS preflights: MCP clients in browsers add headers.
pub fn begin(request: &mut Request) -> Result<(), u16> {
    if request.is_get() || request.is_head() {
        return Ok(());
    }
    let mut add = |name, value| request.add_header_out(name, value).map_err(|_| 500_u16);
    add("Allow", METHODS)?;
    if !request.is_options() {
        return Err(405);
    }
    let mut add = |name, value| request.add_header_out(name, value).map_err(|_| 500_u16);
    add(ALLOW_ORIGIN.0, ALLOW_ORIGIN.1)?;
    add("Access-Control-Allow-Methods", METHODS)?;
    add("Access-Control-Allow-Headers", "*")?;
    Err(204)
}

/// Makes the response.
pub fn answer(request: &mut Request) -> Reply {
    let location = request.location::<Authgear>();
    let Some(BuiltinEndpoint::ProtectedResource(endpoint)) = &location.endpoint else {
        return Reply::Status(500);
    };
    Reply::Body {
        content_type: CONTENT_TYPE,
        headers: vec![(ALLOW_ORIGIN.0, ALLOW_ORIGIN.1.to_owned())],
        body: endpoint.document.clone().into_bytes(),
    }
}
