//! Requests to Authgear's userinfo endpoint.
//!
//! The main server is another one than the resolver: its failures suspend userinfo only, in this
//! worker. A request takes a turn at the project's connections, and uses one of its own.

use core::pin::pin;
use core::time::Duration;

use authgear::exchange::request::RequestHead;
use authgear::overload::client_network::ClientNetwork;
use authgear::shared::cache_key::Key;
use authgear::userinfo::{self, MAX_DOCUMENT};
use authgear::verdict::{Unavailable, Verdict};

use super::breaker::Breaker;
use super::connection::connect;
use super::failure::Failure;
use super::outage::Outage;
use crate::conf::project::Project;
use nginx::{self, Elapsed};

/// Largest header of a response, in bytes.
const MAX_HEADER: usize = 16 * 1024;

/// State of the endpoint, as this worker sees it.
pub(super) struct Health {
    breaker: Breaker,
    outage: Outage,
}

impl Health {
    pub(super) fn new(project: &Project) -> Self {
        Self { breaker: Breaker::of_worker(project), outage: Outage::of_userinfo() }
    }

    /// Whether the request is not to be made now. The one that finds a probe due is the probe.
    pub(super) fn is_suspended(&self, project: &Project) -> bool {
        let lease = project.timeout + Duration::from_millis(500);
        let is_suspended = self.breaker.is_open() && !self.breaker.take_probe(lease);
        if is_suspended {
            self.outage.suspended();
        }
        is_suspended
    }

    /// The answer to `request`, as a verdict of [`userinfo::read`]. Failures count as those of the
    /// resolver do: a client cannot suspend userinfo for others.
    pub(super) async fn ask(
        &self,
        project: &Project,
        request: &RequestHead,
        key: &Key,
        client: ClientNetwork,
        time: Duration,
    ) -> Verdict {
        let is_probe = self.breaker.is_open();
        let answer = match nginx::timeout(time, pin!(exchange(project, request))).await {
            Ok(answer) => answer,
            Err(Elapsed) => Err(Failure::new(Unavailable::Timeout, "timed out")),
        };
        let verdict = match answer {
            Ok((status, verdict)) => {
                self.breaker.answered(status, key, client);
                match &verdict {
                    Verdict::Unavailable(why) => {
                        self.outage.report(project, &refused(*why, status))
                    }
                    _ => self.outage.over(project),
                }
                verdict
            }
            Err(failure) => {
                self.breaker.unanswered(failure.why, time);
                self.outage.report(project, &failure);
                Verdict::Unavailable(failure.why)
            }
        };
        if is_probe && self.breaker.is_open() {
            self.breaker.probe_failed();
        }
        verdict
    }
}

/// Sends the request. Returns the status and the verdict.
async fn exchange(project: &Project, request: &RequestHead) -> Result<(u16, Verdict), Failure> {
    let server = &project.userinfo.server;
    let mut connection = connect(project, server, MAX_DOCUMENT + MAX_HEADER).await?;
    let response =
        connection.exchange(request, |_, _| ()).await.map_err(|broken| broken.failure)?;
    Ok((response.status, userinfo::read(response.status, &response.body)))
}

/// The failure of an answer with this status, for the log.
fn refused(why: Unavailable, status: u16) -> Failure {
    // Authgear redirects requests that do not appear to reach its public origin.
    let hint = match status {
        300..=399 => ": it does not take the request for one at the endpoint (TRUST_PROXY)",
        200 => ", without a document of a user",
        _ => "",
    };
    Failure::new(why, format!("it answered with status {status}{hint}"))
}
