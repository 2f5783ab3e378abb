//! Fetches the keys that Authgear publishes.

use authgear::token::{self, MAX_KEY_SET};
use authgear::verdict::Unavailable;

use super::{connect, Failure};
use crate::conf::project::Project;
use crate::conf::Server;
use crate::nginx::{self, Elapsed};

/// Most bytes of an answer's header.
const MAX_HEADER: usize = 16 * 1024;

/// The key set of `project` as `server` has it, within the project's `timeout`: any document that
/// comes with status 200.
pub async fn fetch_keys(project: &Project, server: &Server) -> Result<Vec<u8>, Failure> {
    let request = token::request(&project.endpoint, server.url.path())
        .map_err(|error| Failure::new(Unavailable::Internal, error.to_string()))?;
    let exchange = async {
        let mut connection = connect(project, server, MAX_KEY_SET + MAX_HEADER).await?;
        connection.exchange(&request).await.map_err(|broken| broken.failure)
    };
    let answer = match nginx::timeout(project.timeout, exchange).await {
        Ok(answer) => answer?,
        Err(Elapsed) => return Err(Failure::new(Unavailable::Timeout, "timed out")),
    };
    let status = answer.status.as_u16();
    if status != 200 {
        // It redirects who does not ask as if at the public origin.
        let hint = match status {
            300..=399 => ": it does not take the request for one at the endpoint (TRUST_PROXY)",
            _ => "",
        };
        let detail = format!("it answered with status {status}{hint}");
        return Err(Failure::new(Unavailable::BadStatus, detail));
    }
    Ok(answer.body)
}
