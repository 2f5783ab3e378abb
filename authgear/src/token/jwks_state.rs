//! State of a project's key set in shared memory, and the schedule of its fetches.

/// Intervals between fetches of the key set. All times here are milliseconds of one monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Interval between regular fetches.
    pub refresh: u64,
    /// Minimum interval between fetches caused by an unknown `kid`.
    pub cooldown: u64,
}

/// Cause of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The regular interval has passed.
    Due,
    /// A token names a key that is not in the set.
    UnknownKid,
}

/// Key set of a project and the times of its fetches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JwksState {
    /// Time of the last successful fetch, and the set in the form of
    /// [`KeySet::to_json`](super::KeySet::to_json).
    pub keys: Option<(u64, Vec<u8>)>,
    /// Time of the last fetch, successful or not.
    attempted_at: Option<u64>,
    /// Time of the last fetch caused by an unknown `kid`.
    missed_at: Option<u64>,
    /// Failures since the last success.
    pub failures: u32,
}

/// Wait after the first failure, doubled with each further one.
const FIRST_RETRY: u64 = 1000;

impl JwksState {
    /// Returns the time of the next regular fetch.
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

    /// Whether this cause justifies a fetch now.
    pub fn wants(&self, cause: Cause, schedule: &Schedule, now: u64) -> bool {
        match cause {
            Cause::Due => self.due_at(schedule) <= now,
            Cause::UnknownKid => {
                self.missed_at.is_none_or(|at| at.saturating_add(schedule.cooldown) <= now)
            }
        }
    }

    /// Records a successful fetch.
    pub fn succeeded(&mut self, cause: Cause, now: u64, document: Vec<u8>) {
        self.attempted(cause, now);
        self.keys = Some((now, document));
        self.failures = 0;
    }

    /// Records a failed fetch. The previous keys remain.
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

    /// Encodes the state for shared memory.
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

    /// Decodes the times only: the key set in the result is empty.
    pub fn decode_times(bytes: &[u8]) -> Option<Self> {
        Self::decode(bytes.get(..HEAD)?)
    }

    /// Inverse of [`encode`](Self::encode).
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

/// Size of the header before the keys, in bytes.
const HEAD: usize = 28;

/// Encoding of an absent time.
const NEVER: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SCHEDULE: Schedule = Schedule { refresh: 300_000, cooldown: 30_000 };

    #[test]
    fn a_fetch_is_due_at_first_and_after_each_interval() {
        let mut state = JwksState::default();
        assert_eq!(state.due_at(&SCHEDULE), 0);
        assert!(state.wants(Cause::Due, &SCHEDULE, 0));
        state.succeeded(Cause::Due, 5, b"keys".to_vec());
        assert_eq!(state.due_at(&SCHEDULE), 300_005);
        assert!(!state.wants(Cause::Due, &SCHEDULE, 300_004));
        assert!(state.wants(Cause::Due, &SCHEDULE, 300_005));
    }

    #[test]
    fn failed_fetches_back_off_and_keep_the_keys() {
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
        // At least every regular interval, and at most once a second.
        state.failures = 9;
        let schedule = |refresh, cooldown| Schedule { refresh, cooldown };
        assert_eq!(state.due_at(&schedule(300_000, 0)), 1020);
        assert_eq!(state.due_at(&schedule(500, 30_000)), 520);
    }

    #[test]
    fn unknown_kids_have_their_own_cooldown() {
        let mut state = JwksState::default();
        state.succeeded(Cause::Due, 1000, b"keys".to_vec());
        assert!(state.wants(Cause::UnknownKid, &SCHEDULE, 1001));
        state.failed(Cause::UnknownKid, 1001);
        assert!(!state.wants(Cause::UnknownKid, &SCHEDULE, 31_000));
        assert!(state.wants(Cause::UnknownKid, &SCHEDULE, 31_001));
        state.succeeded(Cause::UnknownKid, 31_001, b"keys".to_vec());
        // A regular fetch does not start the cooldown.
        state.succeeded(Cause::Due, 61_000, b"keys".to_vec());
        assert!(state.wants(Cause::UnknownKid, &SCHEDULE, 61_001));
    }

    fn time() -> impl Strategy<Value = Option<u64>> {
        prop::option::of(0..NEVER)
    }

    proptest! {
        #[test]
        fn states_round_trip(
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
        fn decoding_any_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = JwksState::decode(&bytes);
        }
    }
}
