//! The servers of Authgear: one for people and applications, the resolver, and the admin API.

use super::resolver::{is_resolver_path, Answer, Authgear};
use crate::recorded::Recorded;

pub(crate) const HEALTH_PATH: &str = "/healthz";
pub(crate) const ADMIN_PATH: &str = "/_api/admin/graphql";

/// What a listener of the fake serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Main server and resolver at one address, for tests that need no more.
    MainAndResolver,
    /// Port 3000.
    Main,
    /// Port 3001. It is plain HTTP always.
    Resolver,
    /// Port 3002.
    Admin,
}

impl Service {
    /// Returns true if this server has the path. Others are 404.
    pub(crate) fn has(self, path: &str) -> bool {
        let (is_resolver, is_admin) = (is_resolver_path(path), path == ADMIN_PATH);
        path == HEALTH_PATH
            || match self {
                Self::MainAndResolver => !is_admin,
                Self::Main => !is_resolver && !is_admin,
                Self::Resolver => is_resolver,
                Self::Admin => is_admin,
            }
    }
}

impl Authgear<'_> {
    /// The admin API: for whoever has a token of its key, which this fake does not look at.
    pub(crate) fn admin(&self, request: &Recorded) -> Answer {
        if !self.deployment.knows_host(request) {
            return Answer::text(404, "app not found");
        }
        if request.method != "POST" || request.header("authorization").is_none() {
            return Answer::text(403, "Forbidden");
        }
        let headers = vec![("Content-Type".to_owned(), "application/json".to_owned())];
        Answer::bytes(200, b"{\"data\":null}\n".to_vec()).with(headers)
    }
}
