//! The keys that Authgear publishes, as processes share them, and when they are asked for anew.

/// How often the key set is asked for. Milliseconds, as all times here, which are those of one
/// monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Time from one fetch to the next.
    pub refresh: u64,
    /// Least time between two fetches that tokens with an unknown `kid` cause.
    pub cooldown: u64,
}

/// Why the key set is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It is time.
    Due,
    /// A token names a key that is not there.
    UnknownKid,
}

/// What is known of a project's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwksState {
    /// When they were fetched, and the set as [`KeySet::to_json`](super::KeySet::to_json) has it.
    pub keys: Option<(u64, Vec<u8>)>,
    /// The last attempt to fetch them, good or bad.
    attempted_at: Option<u64>,
    /// The last attempt that an unknown `kid` caused.
    missed_at: Option<u64>,
    /// Failures since the last success.
    pub failures: u32,
}

/// Wait after the first failure. It doubles with each.
const FIRST_RETRY: u64 = 1000;

impl JwksState {
    /// When the next fetch is due.
    pub fn due_at(&self, schedule: &Schedule) -> u64 {
        let Some(attempted_at) = self.attempted_at else { return 0 };
        let wait = match self.failures {
            0 => schedule.refresh,
            n => {
                let doubled = FIRST_RETRY << n.saturating_sub(1).min(20);
                doubled.min(schedule.cooldown.max(FIRST_RETRY)).min(schedule.refresh)
            }
        };
        attempted_at.saturating_add(wait)
    }

    /// Whether they are to be fetched now, for this cause.
    pub fn wants(&self, cause: Cause, schedule: &Schedule, now: u64) -> bool {
        match cause {
            Cause::Due => self.due_at(schedule) <= now,
            Cause::UnknownKid => {
                self.missed_at.is_none_or(|at| at.saturating_add(schedule.cooldown) <= now)
            }
        }
    }

    /// They were fetched.
    pub fn succeeded(&mut self, cause: Cause, now: u64, document: Vec<u8>) {
        self.attempted(cause, now);
        self.keys = Some((now, document));
        self.failures = 0;
    }

    /// They could not be fetched. Those from before are kept.
    pub fn failed(&mut self, cause: Cause, now: u64) {
        self.attempted(cause, now);
        self.failures = self.failures.saturating_add(1);
    }

    fn attempted(&mut self, cause: Cause, now: u64) {
        self.attempted_at = Some(now);
        if cause == Cause::UnknownKid {
            self.missed_at = Some(now);
        }
    }

    /// What [`decode`](Self::decode) reads.
    pub fn encode(&self) -> Vec<u8> {
        let (fetched_at, document) = match &self.keys {
            Some((at, document)) => (Some(*at), document.as_slice()),
            None => (None, &[][..]),
        };
        let mut bytes = Vec::with_capacity(HEAD + document.len());
        for time in [fetched_at, self.attempted_at, self.missed_at] {
            bytes.extend_from_slice(&time.unwrap_or(NEVER).to_be_bytes());
        }
        bytes.extend_from_slice(&self.failures.to_be_bytes());
        bytes.extend_from_slice(document);
        bytes
    }

    /// The same without the keys, of which only is read when they were fetched.
    pub fn decode_times(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes.get(..HEAD)?)
    }

    /// Reads what [`encode`](Self::encode) wrote.
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        let mut time = || {
            let (time, rest) = bytes.split_first_chunk()?;
            bytes = rest;
            Some(Some(u64::from_be_bytes(*time)).filter(|time| *time != NEVER))
        };
        let (fetched_at, attempted_at, missed_at) = (time()?, time()?, time()?);
        let (failures, document) = bytes.split_first_chunk()?;
        Some(Self {
            keys: fetched_at.map(|at| (at, document.to_vec())),
            attempted_at,
            missed_at,
            failures: u32::from_be_bytes(*failures),
        })
    }
}

/// Bytes before the keys.
const HEAD: usize = 28;

/// A time that was not yet.
const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCHEDULE: Schedule = Schedule { refresh: 300_000, cooldown: 30_000 };

    #[test]
    fn keys_never_asked_for_are_due() {
        let mut state = JwksState::default();
        assert_eq!(state.due_at(&SCHEDULE), 0);
        assert!(state.wants(Cause::Due, &SCHEDULE, 0));
        state.succeeded(Cause::Due, 5, b"keys".to_vec());
        assert_eq!(state.due_at(&SCHEDULE), 300_005);
        assert!(!state.wants(Cause::Due, &SCHEDULE, 300_004));
        assert!(state.wants(Cause::Due, &SCHEDULE, 300_005));
    }

    #[test]
    fn failures_are_retried_ever_later_and_lose_no_keys() {
        let mut state = JwksState::default();
        let mut waits = Vec::new();
        for now in 0..8 {
            state.failed(Cause::Due, now);
            waits.push(state.due_at(&SCHEDULE) - now);
        }
        assert_eq!(waits, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
        state.succeeded(Cause::Due, 10, b"keys".to_vec());
        assert_eq!(state.failures, 0);
        state.failures = u32::MAX - 1;
        state.failed(Cause::Due, 20);
        state.failed(Cause::Due, 20);
        assert_eq!(state.keys, Some((10, b"keys".to_vec())));
        assert_eq!(state.due_at(&SCHEDULE), 30_020);
        // Neither more often than every second, nor more seldom than without failures.
        state.failures = 9;
        let schedule = |refresh, cooldown| Schedule { refresh, cooldown };
        assert_eq!(state.due_at(&schedule(300_000, 0)), 1020);
        assert_eq!(state.due_at(&schedule(500, 30_000)), 520);
    }

    #[test]
    fn unknown_kids_have_a_cooldown_of_their_own() {
        let mut state = JwksState::default();
        state.succeeded(Cause::Due, 1000, b"keys".to_vec());
        assert!(state.wants(Cause::UnknownKid, &SCHEDULE, 1001));
        state.failed(Cause::UnknownKid, 1001);
        assert!(!state.wants(Cause::UnknownKid, &SCHEDULE, 31_000));
        assert!(state.wants(Cause::UnknownKid, &SCHEDULE, 31_001));
        state.succeeded(Cause::UnknownKid, 31_001, b"keys".to_vec());
        // A fetch that was due does not make others wait.
        state.succeeded(Cause::Due, 61_000, b"keys".to_vec());
        assert!(state.wants(Cause::UnknownKid, &SCHEDULE, 61_001));
    }

    fn time() -> impl Strategy<Value = Option<u64>> {
        prop::option::of(0..NEVER)
    }

    proptest! {
        #[test]
        fn comes_back(
            keys in prop::option::of((0..NEVER, prop::collection::vec(any::<u8>(), 0..40))),
            attempted_at in time(),
            missed_at in time(),
            failures in any::<u32>(),
        ) {
            let state = JwksState { keys, attempted_at, missed_at, failures };
            let bytes = state.encode();
            let times = JwksState::decode_times(&bytes).unwrap();
            prop_assert_eq!(times.keys.map(|(at, _)| at), state.keys.as_ref().map(|(at, _)| *at));
            prop_assert_eq!(
                (times.attempted_at, times.missed_at, times.failures),
                (attempted_at, missed_at, failures)
            );
            prop_assert_eq!(JwksState::decode(&bytes), Some(state));
        }

        #[test]
        fn any_bytes_can_be_read(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = JwksState::decode(&bytes);
        }
    }
}
