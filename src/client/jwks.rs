//! Fetches the key set that Authgear publishes.

use authgear::resolver;
use authgear::token::MAX_KEY_SET;
use authgear::verdict::Unavailable;

use super::connection::connect;
use super::failure::Failure;
use crate::conf::project::Project;
use crate::conf::UpstreamServer;
use nginx::{self, Elapsed};

/// Largest header of a response, in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// Fetches the key set of `project` from `server`, within the project's `timeout`. Any document
/// with status 200 is returned.
pub async fn fetch_keys(project: &Project, server: &UpstreamServer) -> Result<Vec<u8>, Failure> {
    let request = resolver::jwks_request(&project.endpoint, server.url.path())
        .map_err(|error| Failure::new(Unavailable::Internal, error.to_string()))?;
    let exchange = async {
        let mut connection = connect(project, server, MAX_KEY_SET + MAX_HEADER).await?;
        connection.exchange(&request).await.map_err(|broken| broken.failure)
    };
    let response = match nginx::timeout(project.timeout, exchange).await {
        Ok(response) => response?,
        Err(Elapsed) => return Err(Failure::new(Unavailable::Timeout, "timed out")),
    };
    let status = response.status.as_u16();
    if status != 200 {
        // Authgear redirects requests that do not appear to reach its public origin.
        let hint = match status {
            300..=399 => ": it does not take the request for one at the endpoint (TRUST_PROXY)",
            _ => "",
        };
        let detail = format!("it answered with status {status}{hint}");
        return Err(Failure::new(Unavailable::BadStatus, detail));
    }
    Ok(response.body)
}
