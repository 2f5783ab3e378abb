//! Fetches the key set that Authgear publishes.

use core::pin::pin;

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
        connection.exchange(&request, |_, _| ()).await.map_err(|broken| broken.failure)
    };
    let response = match nginx::timeout(project.timeout, pin!(exchange)).await {
        Ok(response) => response?,
        Err(Elapsed) => return Err(Failure::new(Unavailable::Timeout, "timed out")),
    };
    let status = response.status;
    if status != 200 {
        // Authgear redirects requests that do not appear to reach its public origin.
        if matches!(status, 300..=399) {
            let detail = format!(
                "it answered with status {status}: it does not take the request for one at the \
                 endpoint (TRUST_PROXY)"
            );
            return Err(Failure::new(Unavailable::BadStatus, detail));
        }
        let why = Unavailable::BadStatus;
        return Err(Failure::of_answer(why, &server.url, status, &response.body));
    }
    Ok(response.body)
}
