//! `authgear_unknown_limit`: look-ups per client that the cache does not answer.
//!
//! A leaky bucket for each key, as in nginx's `limit_req`, in memory that all workers share. The
//! table is set-associative: a key has a few places where it may stand, and takes the one that
//! was used longest ago if all are taken. So a full table forgets the oldest, each operation
//! costs the same, and memory that a dying worker left half written only misjudges one key. All
//! calls are made under a lock that the caller has.

use std::hash::Hasher as _;
use std::time::Duration;

use siphasher::sip128::{Hasher128 as _, SipHasher24};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Places where a key may stand.
const WAYS: usize = 8;

/// Least bytes of a table.
pub const MIN_SIZE: usize = WAYS * size_of::<Account>();

/// Thousandths of a look-up, the unit of accounts.
const ONE: u64 = 1000;

/// Milliseconds of a minute.
const MINUTE: u64 = 60_000;

/// Rate and burst of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Thousandths of a look-up per minute, not 0.
    pub rate: u32,
    /// Look-ups that may come at once above the rate.
    pub burst: u32,
}

/// Most look-ups per second that a rate may allow.
pub const MAX_RATE: u32 = 10_000;

/// Parses a rate such as `10r/s` or `30r/m`, as in nginx's `limit_req_zone`. `None` for anything
/// else, 0, and more than [`MAX_RATE`].
pub fn parse_rate(text: &str) -> Option<u32> {
    let (number, per_minute) = match text.strip_suffix("r/s") {
        Some(number) => (number, 60),
        None => (text.strip_suffix("r/m")?, 1),
    };
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u32 = is_number.then(|| number.parse().ok())??;
    let rate = number.checked_mul(per_minute)?;
    (1..=MAX_RATE * 60).contains(&rate).then(|| rate * 1000)
}

/// Returns the key of a client's `identity`: a keyed hash.
pub fn key_of(secret: &[u8; 16], identity: &[u8]) -> u128 {
    let mut hasher = SipHasher24::new_with_key(secret);
    hasher.write(identity);
    hasher.finish128().as_u128()
}

#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Account {
    /// 0 marks a free place.
    key: [u64; 2],
    /// When it was used last, in milliseconds of nginx's monotonic clock.
    used_at: u64,
    /// Look-ups above the rate, in thousandths.
    excess: u64,
}

/// Answer to a look-up that asks for leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Within the limit.
    Granted,
    /// Beyond the limit. After this time another look-up is within it.
    Refused(Duration),
}

/// Counts a look-up under `key` at `now`, unless it is beyond `limit`.
///
/// `memory` is zeroed before its first use. `key` is a keyed hash: keys that a client chooses must
/// not choose their place.
pub fn take(memory: &mut [u8], key: u128, now: u64, limit: Limit) -> Leave {
    let usable = memory.len() / MIN_SIZE * MIN_SIZE;
    let Ok(table) = <[Account]>::mut_from_bytes(memory.get_mut(..usable).unwrap_or_default())
    else {
        return Leave::Granted;
    };
    let sets = table.len() / WAYS;
    // An all-zero key would look like a free place.
    let key = if key == 0 { 1 } else { key };
    let words = [(key >> 64) as u64, key as u64];
    let Some(set) = usize::try_from(words[0]).unwrap_or(usize::MAX).checked_rem(sets) else {
        return Leave::Granted;
    };
    let Some(places) = table.get_mut(set * WAYS..(set + 1) * WAYS) else { return Leave::Granted };
    let known = places.iter().position(|bucket| bucket.key == words);
    let oldest = || places.iter().enumerate().min_by_key(|(_, bucket)| bucket.used_at);
    let index = known.or_else(|| oldest().map(|(index, _)| index)).unwrap_or_default();
    let Some(bucket) = places.get_mut(index) else { return Leave::Granted };
    if known.is_none() {
        *bucket = Account { key: words, used_at: now, excess: 0 };
    }
    bucket.take(now, limit)
}

impl Account {
    /// As `ngx_http_limit_req_lookup()`: the excess drains at the rate, and each look-up adds one.
    fn take(&mut self, now: u64, limit: Limit) -> Leave {
        let rate = u64::from(limit.rate.max(1));
        let elapsed = now.saturating_sub(self.used_at);
        let drained = self.excess.saturating_sub(rate.saturating_mul(elapsed) / MINUTE);
        let allowed = u64::from(limit.burst) * ONE;
        if drained > allowed {
            let wait = (drained - allowed).saturating_mul(MINUTE).div_ceil(rate);
            return Leave::Refused(Duration::from_millis(wait));
        }
        self.excess = drained.saturating_add(ONE);
        self.used_at = now;
        Leave::Granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Limit = Limit { rate: 120_000, burst: 3 };

    /// Aligned as nginx's shared memory is.
    #[repr(align(8))]
    struct Table([u8; MIN_SIZE * 4]);

    fn table() -> Table {
        Table([0; MIN_SIZE * 4])
    }

    #[test]
    fn a_burst_and_then_the_rate_are_granted() {
        let mut table = table();
        let mut granted = |now| take(&mut table.0, 7, now, LIMIT) == Leave::Granted;
        assert_eq!((0..10).filter(|_| granted(1000)).count(), 4);
        assert!(!granted(1499));
        assert!(granted(1500));
        assert!(!granted(1501));
        assert_eq!((0..10).filter(|_| granted(10_000)).count(), 4);
    }

    #[test]
    fn refused_look_ups_do_not_lengthen_the_wait() {
        let mut table = table();
        while take(&mut table.0, 7, 0, LIMIT) == Leave::Granted {}
        assert_eq!(take(&mut table.0, 7, 0, LIMIT), Leave::Refused(Duration::from_millis(500)));
        assert_eq!(take(&mut table.0, 7, 100, LIMIT), Leave::Refused(Duration::from_millis(400)));
        assert_eq!(take(&mut table.0, 7, 500, LIMIT), Leave::Granted);
    }

    #[test]
    fn keys_have_accounts_of_their_own() {
        let mut table = table();
        while take(&mut table.0, 1, 0, LIMIT) == Leave::Granted {}
        assert_eq!(take(&mut table.0, 2, 0, LIMIT), Leave::Granted);
    }

    #[test]
    fn a_full_table_forgets_the_key_that_was_used_longest_ago() {
        let mut table = Table([0; MIN_SIZE * 4]);
        let memory = &mut table.0[..MIN_SIZE];
        for key in 1..=WAYS as u128 {
            while take(memory, key, key as u64, LIMIT) == Leave::Granted {}
        }
        assert_eq!(take(memory, 99, 100, LIMIT), Leave::Granted);
        assert!(matches!(take(memory, 2, 100, LIMIT), Leave::Refused(_)));
        assert_eq!(take(memory, 1, 100, LIMIT), Leave::Granted);
    }

    #[test]
    fn memory_that_is_too_small_limits_nothing() {
        assert_eq!(take(&mut [], 1, 0, LIMIT), Leave::Granted);
    }

    #[test]
    fn rates_are_those_of_limit_req() {
        for (text, rate) in [
            ("10r/s", Some(600_000)),
            ("30r/m", Some(30_000)),
            ("1r/m", Some(1000)),
            ("10000r/s", Some(600_000_000)),
            ("10001r/s", None),
            ("0r/s", None),
            ("+1r/s", None),
            ("r/s", None),
            ("1", None),
            ("1r/h", None),
            ("4294967296r/s", None),
            ("99999999r/s", None),
        ] {
            assert_eq!(parse_rate(text), rate, "{text}");
        }
    }

    #[test]
    fn one_look_up_a_minute_waits_a_minute() {
        let (mut table, limit) = (table(), Limit { rate: 1000, burst: 0 });
        assert_eq!(take(&mut table.0, 7, 0, limit), Leave::Granted);
        assert_eq!(take(&mut table.0, 7, 0, limit), Leave::Refused(Duration::from_secs(60)));
    }

    #[test]
    fn keys_depend_on_secret_and_identity() {
        let key = key_of(&[1; 16], b"a");
        assert_eq!(key, key_of(&[1; 16], b"a"));
        assert_ne!(key, key_of(&[2; 16], b"a"));
        assert_ne!(key, key_of(&[1; 16], b"b"));
    }

    proptest! {
        /// Within any span of time, no more is granted than the burst and the rate allow.
        #[test]
        fn never_more_is_granted_than_rate_and_burst_allow(
            steps in proptest::collection::vec(0_u64..400, 1..200),
            rate in 1_u32..300_000,
            burst in 0_u32..5,
        ) {
            let mut table = table();
            let limit = Limit { rate, burst };
            let (mut now, mut granted) = (0, 0_u64);
            for step in steps {
                now += step;
                granted += u64::from(take(&mut table.0, 5, now, limit) == Leave::Granted);
                let most = u64::from(burst) + 2 + now * u64::from(rate) / (1000 * MINUTE);
                prop_assert!(granted <= most, "{granted} of {most}");
            }
        }

        #[test]
        fn any_memory_is_safe(mut bytes in proptest::collection::vec(any::<u8>(), 0..2000), key: u128, now: u64) {
            let _ = take(&mut bytes, key, now, LIMIT);
        }
    }
}
