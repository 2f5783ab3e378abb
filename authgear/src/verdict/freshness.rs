//! Freshness of a stored verdict: how long it may be served, and on which terms.

use core::time::Duration;

use crate::verdict::Verdict;

/// `authgear_cache_valid`: lifetime of each kind of verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Valid {
    /// Of a valid session.
    pub valid: Duration,
    /// Of an invalid session.
    pub invalid: Duration,
    /// Of no session.
    pub none: Duration,
}

impl Default for Valid {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { valid: seconds(60), invalid: seconds(5), none: seconds(2) }
    }
}

impl Valid {
    /// The longest of the lifetimes.
    pub fn longest(&self) -> Duration {
        self.valid.max(self.invalid).max(self.none)
    }

    /// The same lifetimes, none longer than `most`.
    #[must_use]
    pub fn at_most(&self, most: Duration) -> Self {
        Self {
            valid: self.valid.min(most),
            invalid: self.invalid.min(most),
            none: self.none.min(most),
        }
    }

    /// Lifetime of `verdict`.
    pub fn lifetime(&self, verdict: &Verdict) -> Duration {
        match verdict {
            Verdict::Valid(_) => self.valid,
            Verdict::Invalid | Verdict::BearerNotAccepted => self.invalid,
            Verdict::None(_) => self.none,
            Verdict::Unavailable(_) | Verdict::Limited(_) => Duration::ZERO,
        }
    }
}

/// `authgear_cache_use_stale`: time past its lifetime for which a verdict on a valid session may
/// still be served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UseStale {
    /// While the verdict is being refreshed.
    pub updating: Duration,
    /// While look-ups fail.
    pub error: Duration,
}

impl UseStale {
    /// The longer of the times.
    pub fn longest(&self) -> Duration {
        self.updating.max(self.error)
    }
}

/// Use that a location may make of a stored verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Serve it.
    Fresh,
    /// Serve it, and refresh it in the background.
    Updating,
    /// Make a new look-up, and serve this verdict only if that fails.
    Expired,
}

/// Times of a stored verdict, by one monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    /// When its look-up began.
    pub fetched_at: Duration,
    /// When the first of its tokens expires. A verdict is never served after that.
    pub expires_at: Option<Duration>,
}

impl Times {
    /// Use that may be made of `verdict` at `now`. `None` if it must not be used at all.
    pub fn freshness(
        &self,
        verdict: &Verdict,
        now: Duration,
        valid: &Valid,
        stale: &UseStale,
    ) -> Option<Freshness> {
        if self.is_expired(now) {
            return None;
        }
        let age = now.saturating_sub(self.fetched_at);
        let lifetime = valid.lifetime(verdict);
        if age < lifetime {
            return Some(Freshness::Fresh);
        }
        // Only a valid session is served past its lifetime.
        if !matches!(verdict, Verdict::Valid(_)) {
            return None;
        }
        if age < lifetime + stale.updating {
            Some(Freshness::Updating)
        } else if age < lifetime + stale.error {
            Some(Freshness::Expired)
        } else {
            None
        }
    }

    /// Whether `verdict` may be served at `now` after its refresh failed.
    pub fn usable_on_error(
        &self,
        verdict: &Verdict,
        now: Duration,
        valid: &Valid,
        stale: &UseStale,
    ) -> bool {
        let age = now.saturating_sub(self.fetched_at);
        !self.is_expired(now) && age < valid.lifetime(verdict) + stale.error
    }

    fn is_expired(&self, now: Duration) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;
    use crate::verdict::{NoSession, Unavailable};
    use proptest::prelude::*;

    fn session() -> Verdict {
        Verdict::Valid(Identity::default())
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const TIMES: Times = Times { fetched_at: Duration::from_secs(100), expires_at: None };
    const STALE: UseStale =
        UseStale { updating: Duration::from_secs(10), error: Duration::from_secs(30) };

    fn freshness(verdict: &Verdict, at: u64) -> Option<Freshness> {
        TIMES.freshness(verdict, seconds(at), &Valid::default(), &STALE)
    }

    #[test]
    fn a_valid_session_is_fresh_then_updating_then_expired_then_gone() {
        let verdict = session();
        assert_eq!(freshness(&verdict, 100), Some(Freshness::Fresh));
        assert_eq!(freshness(&verdict, 159), Some(Freshness::Fresh));
        assert_eq!(freshness(&verdict, 160), Some(Freshness::Updating));
        assert_eq!(freshness(&verdict, 169), Some(Freshness::Updating));
        assert_eq!(freshness(&verdict, 170), Some(Freshness::Expired));
        assert_eq!(freshness(&verdict, 189), Some(Freshness::Expired));
        assert_eq!(freshness(&verdict, 190), None);
    }

    #[test]
    fn only_a_valid_session_is_served_past_its_lifetime() {
        for (verdict, last) in [(Verdict::Invalid, 104), (Verdict::None(NoSession::Resolver), 101)]
        {
            assert_eq!(freshness(&verdict, last), Some(Freshness::Fresh));
            assert_eq!(freshness(&verdict, last + 1), None);
        }
        assert_eq!(freshness(&Verdict::Unavailable(Unavailable::Timeout), 100), None);
    }

    #[test]
    fn nothing_is_served_once_a_token_expired() {
        let times = Times { expires_at: Some(seconds(130)), ..TIMES };
        let (verdict, valid) = (session(), Valid::default());
        assert!(times.freshness(&verdict, seconds(129), &valid, &STALE).is_some());
        assert_eq!(times.freshness(&verdict, seconds(130), &valid, &STALE), None);
        assert!(times.usable_on_error(&verdict, seconds(129), &valid, &STALE));
        assert!(!times.usable_on_error(&verdict, seconds(130), &valid, &STALE));
    }

    fn up_to_a_day() -> impl Strategy<Value = Duration> {
        (0..=86_400_u64).prop_map(Duration::from_secs)
    }

    proptest! {
        #[test]
        fn a_fresh_or_expired_session_is_usable_on_error(
            fetched in up_to_a_day(), age in up_to_a_day(), expires in up_to_a_day(),
            valid in up_to_a_day(), updating in up_to_a_day(), error in up_to_a_day(),
        ) {
            let times = Times { fetched_at: fetched, expires_at: Some(fetched + expires) };
            let valid = Valid { valid, ..Valid::default() };
            let stale = UseStale { updating, error };
            let (verdict, now) = (session(), fetched + age);
            let freshness = times.freshness(&verdict, now, &valid, &stale);
            let usable = times.usable_on_error(&verdict, now, &valid, &stale);
            match freshness {
                Some(Freshness::Fresh | Freshness::Expired) => prop_assert!(usable),
                Some(Freshness::Updating) => prop_assert!(age >= valid.valid),
                None => prop_assert!(!usable),
            }
            if age >= expires {
                prop_assert_eq!(freshness, None);
            }
        }
    }
}
