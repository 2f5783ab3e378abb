//! The look-ups that probes repeat while the resolver is suspended.
//!
//! A look-up may fail for what it carries, whatever state the resolver is in. So a probe that failed
//! gives way to another look-up, if there is one: a client cannot keep the resolver suspended with
//! look-ups that always fail. A look-up of a session that was valid before is preferred, since
//! clients without an account cannot make one. Then one of another client than the last probe's is.

/// A look-up of `client`. It `was_valid` if the cache remembers its session as valid.
#[derive(Debug)]
struct Candidate<K, T> {
    client: K,
    was_valid: bool,
    look_up: T,
}

/// The look-up to repeat next, and the one after it. `K` names a client.
#[derive(Debug)]
pub struct ProbeCandidates<K, T> {
    held: Option<Candidate<K, T>>,
    next: Option<Candidate<K, T>>,
}

impl<K, T> Default for ProbeCandidates<K, T> {
    fn default() -> Self {
        Self { held: None, next: None }
    }
}

impl<K: Copy + PartialEq, T> ProbeCandidates<K, T> {
    /// Offers a look-up of `client`. `make` is called only if it is taken.
    pub fn offer(&mut self, client: K, was_valid: bool, make: impl FnOnce() -> T) {
        let place = match (&self.held, &self.next) {
            (None, _) => &mut self.held,
            (Some(_), None) => &mut self.next,
            (Some(held), Some(next)) => {
                let rank = (was_valid, client != held.client);
                if rank <= (next.was_valid, next.client != held.client) {
                    return;
                }
                &mut self.next
            }
        };
        *place = Some(Candidate { client, was_valid, look_up: make() });
    }

    /// The look-up to repeat.
    pub fn held(&self) -> Option<&T> {
        self.held.as_ref().map(|held| &held.look_up)
    }

    /// Called when a probe failed: the next look-up takes its place, if there is one.
    pub fn failed(&mut self) {
        if let Some(next) = self.next.take() {
            self.held = Some(next);
        }
    }

    /// Forgets both.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_failed_gives_way_to_the_next_look_up() {
        let mut candidates = ProbeCandidates::default();
        candidates.offer(1, false, || "poison");
        candidates.failed();
        assert_eq!(candidates.held(), Some(&"poison"), "there is no other");
        candidates.offer(2, false, || "good");
        candidates.failed();
        assert_eq!(candidates.held(), Some(&"good"));
    }

    #[test]
    fn a_look_up_of_another_client_is_preferred() {
        let mut candidates = ProbeCandidates::default();
        for n in 0..100 {
            candidates.offer(1, false, || n);
        }
        candidates.offer(2, false, || 200);
        for n in 0..100 {
            candidates.offer(1, false, || n);
        }
        candidates.failed();
        assert_eq!(candidates.held(), Some(&200));
    }

    #[test]
    fn a_session_that_was_valid_is_preferred_to_any_number_of_clients() {
        let mut candidates = ProbeCandidates::default();
        for n in 0..100 {
            candidates.offer(n, false, || n);
        }
        candidates.offer(0, true, || 200);
        for n in 0..100 {
            candidates.offer(n, false, || n);
        }
        candidates.failed();
        assert_eq!(candidates.held(), Some(&200));
    }

    #[test]
    fn a_look_up_that_is_not_taken_is_not_copied() {
        let mut candidates = ProbeCandidates::default();
        candidates.offer(1, false, || 1);
        candidates.offer(2, false, || 2);
        candidates.offer(3, false, || panic!("not taken"));
        candidates.clear();
        assert_eq!(candidates.held(), None);
    }
}
