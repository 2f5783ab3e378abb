//! Failures of the resolver that are not the fault of one client.

use std::time::Duration;

use smallvec::SmallVec;

use super::client_network::ClientNetwork;

/// Failures that are remembered apart. `max_fails` above it counts as this.
pub const MAX_DISTINCT: usize = 32;

/// Failure of one look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolverFailure {
    /// The resolver did not answer, or a gateway answered for it (502 to 504).
    Resolver,
    /// The resolver answered 500. One client can cause that: many parallel requests of one session
    /// collide at its mutex in Authgear. So it counts once per credentials and once per client.
    Request {
        /// Identifies the credentials.
        credentials: [u8; 16],
        /// The client.
        client: ClientNetwork,
    },
}

/// Failures since the last success, in one worker.
#[derive(Clone, Debug, Default)]
pub struct FailureStreak {
    resolver: usize,
    credentials: SmallVec<[[u8; 16]; 4]>,
    clients: SmallVec<[ClientNetwork; 4]>,
}

impl FailureStreak {
    /// A look-up succeeded.
    pub fn reset(&mut self) {
        self.resolver = 0;
        self.credentials.clear();
        self.clients.clear();
    }

    /// A look-up failed. True if the streak has reached `max_fails`, which is not 0.
    pub fn add(&mut self, failure: ResolverFailure, max_fails: u32) -> bool {
        match failure {
            ResolverFailure::Resolver => self.resolver = self.resolver.saturating_add(1),
            ResolverFailure::Request { credentials, client } => {
                add_distinct(&mut self.credentials, credentials);
                add_distinct(&mut self.clients, client);
            }
        }
        let max_fails = usize::try_from(max_fails).unwrap_or(MAX_DISTINCT).min(MAX_DISTINCT);
        max_fails != 0 && self.count() >= max_fails
    }

    /// Length of the streak: failures of the resolver, plus the smaller of the numbers of distinct
    /// credentials and of distinct clients that got a 500.
    fn count(&self) -> usize {
        self.resolver.saturating_add(self.credentials.len().min(self.clients.len()))
    }
}

fn add_distinct<T: PartialEq>(seen: &mut SmallVec<[T; 4]>, value: T) {
    if seen.len() < MAX_DISTINCT && !seen.contains(&value) {
        seen.push(value);
    }
}

/// Time for which a refresh that failed is not tried again: the stale verdict is served at once.
pub const REFRESH_PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn request(credentials: u8, client: u32) -> ResolverFailure {
        ResolverFailure::Request {
            credentials: [credentials; 16],
            client: ClientNetwork::V4(client),
        }
    }

    #[test]
    fn failures_of_the_resolver_count_each() {
        let mut streak = FailureStreak::default();
        assert!(!streak.add(ResolverFailure::Resolver, 2));
        assert!(streak.add(ResolverFailure::Resolver, 2));
    }

    #[test]
    fn many_500s_of_one_session_or_one_client_count_once() {
        let mut streak = FailureStreak::default();
        assert!((0..100).all(|n| !streak.add(request(1, n), 2)));
        streak.reset();
        assert!((0..100).all(|n| !streak.add(request(n, 1), 2)));
    }

    #[test]
    fn the_500s_of_several_sessions_and_clients_count() {
        let mut streak = FailureStreak::default();
        assert!(!streak.add(request(1, 1), 3));
        assert!(!streak.add(request(2, 2), 3));
        assert!(streak.add(request(3, 3), 3));
    }

    #[test]
    fn a_success_ends_the_streak() {
        let mut streak = FailureStreak::default();
        assert!(!streak.add(request(1, 1), 2));
        streak.reset();
        assert!(!streak.add(request(2, 2), 2));
    }

    #[test]
    fn max_fails_0_never_reaches_the_limit() {
        let mut streak = FailureStreak::default();
        assert!((0..100).all(|_| !streak.add(ResolverFailure::Resolver, 0)));
    }
}
