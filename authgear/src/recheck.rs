//! When the verdict on an open response is looked at again (`authgear_recheck`).

use core::time::Duration;

/// Shortest TIME. Each look-up renews the session at Authgear.
pub const SHORTEST: Duration = Duration::from_secs(10);

/// Time for which responses stay open while look-ups fail, from the first failure on.
pub const GRACE: Duration = Duration::from_secs(600);

/// Longest time until a look-up that failed is repeated.
const RETRY: Duration = Duration::from_secs(30);

/// Least time between two looks at one verdict.
const LEAST: Duration = Duration::from_secs(1);

/// Returns the time until the next look: `time`, and up to a tenth more. Consecutive values of
/// `number` spread evenly over that tenth, so that connections that were opened together are not
/// looked at together. `expires_in` is the time until a token expires.
pub fn wait(time: Duration, number: u64, expires_in: Option<Duration>) -> Duration {
    let wait = time + time_part(time, number);
    expires_in.map_or(wait, |expires_in| wait.min(expires_in)).max(LEAST)
}

/// A part of a tenth of `time`.
fn time_part(time: Duration, number: u64) -> Duration {
    // Multiples of the golden ratio, modulo 1, fill the interval evenly (Knuth, section 6.4).
    let part = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let tenth = u64::try_from(time.as_millis() / 10).unwrap_or(u64::MAX).min(u64::from(u32::MAX));
    Duration::from_millis((tenth * part) >> 32)
}

/// Returns the time until a failed look-up is repeated, for a response whose look-ups have failed for
/// `failing`. `None` when the time of grace is over.
pub fn retry(time: Duration, number: u64, failing: Duration) -> Option<Duration> {
    (failing < GRACE).then(|| wait(time.min(RETRY), number, None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_look_comes_between_time_and_a_tenth_later(
            seconds in 10_u64..86_400, number: u64,
        ) {
            let time = Duration::from_secs(seconds);
            let wait = wait(time, number, None);
            prop_assert!(time <= wait && wait <= time + time / 10);
        }

        #[test]
        fn a_token_ends_the_wait(seconds in 10_u64..86_400, number: u64, exp in 0_u64..100_000) {
            let exp = Duration::from_secs(exp);
            let wait = wait(Duration::from_secs(seconds), number, Some(exp));
            prop_assert!(wait <= exp.max(LEAST) && wait >= LEAST);
        }

        #[test]
        fn ten_thousand_connections_of_one_moment_are_spread(start: u64) {
            let time = Duration::from_secs(300);
            let mut seconds = [0; 31];
            for number in 0..10_000 {
                let late = wait(time, start.wrapping_add(number), None) - time;
                seconds[late.as_secs() as usize] += 1;
            }
            prop_assert!(seconds[..30].iter().all(|&n| (250..=420).contains(&n)), "{seconds:?}");
        }
    }

    #[test]
    fn an_outage_closes_nobody_for_the_time_of_grace() {
        let time = Duration::from_secs(300);
        let (mut failing, mut looks) = (Duration::ZERO, 0);
        while let Some(wait) = retry(time, looks, failing) {
            assert!(wait >= RETRY && wait <= RETRY + RETRY / 10);
            failing += wait;
            looks += 1;
        }
        assert!(failing >= GRACE && failing < GRACE + 2 * RETRY);
        assert!((18..=21).contains(&looks));
    }
}
