//! `authgear_unknown_limit`: how many look-ups that the cache does not answer a client may make.

use core::cell::Cell;
use std::rc::Rc;

use authgear::metrics::CacheStatus;
use authgear::overload::client_network::ClientNetwork;
use authgear::overload::lookup_limit::Leave;
use authgear::verdict::{Reason, Verdict};

use crate::conf::project::Project;
use crate::conf::LocationConf;
use crate::resolution::Resolution;
use crate::shared::limit_zone;
use crate::worker::Worker;
use nginx::{Level, Request};

/// The limit for one request, which counts once: a token that is verified here may be looked up
/// with the resolver next.
#[derive(Default)]
pub(super) struct LimitOnce {
    counted: Cell<bool>,
}

impl LimitOnce {
    /// Counts a look-up that the cache did not answer. Returns the end of a look-up that is beyond
    /// the limit.
    pub(super) fn check(
        &self,
        worker: &Worker,
        request: &Request,
        location: &LocationConf,
        project: &Project,
        status: CacheStatus,
    ) -> Option<Resolution> {
        let limit = location.unknown_limit()?;
        if self.counted.replace(true) {
            return None;
        }
        let leave = match limit.key {
            None => {
                let network = ClientNetwork::parse(request.client_address()).to_bytes();
                limit_zone::take(limit.zone, &network, limit.limit)
            }
            // As for limit_req, requests with an empty key are not counted.
            Some(key) => match request.evaluate(key) {
                Ok(b"") => return None,
                Ok(identity) => limit_zone::take(limit.zone, identity, limit.limit),
                Err(nginx::Failed) => return None,
            },
        };
        let Leave::Refused(wait) = leave else { return None };
        if location.dry_run() {
            let reason = Reason::TooManyLookups;
            worker.metrics(project).denied(reason, true);
            let reason = reason.as_str();
            request.log().write(Level::Info, format_args!("authgear would deny access: {reason}"));
            return None;
        }
        Some(Resolution::of_resolver(Rc::new(Verdict::Limited(wait)), status))
    }
}
