//! Clocks, and ways to wait.

use core::future::{poll_fn, Future};
use core::pin::Pin;
use core::task::Poll;
use core::time::Duration;

/// Milliseconds of nginx's clock, which all workers share.
pub(super) fn now_ms() -> u64 {
    u64::try_from(nginx::now().as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970, by nginx's clock.
pub fn unix_ms() -> u64 {
    u64::try_from(nginx::unix_time().as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970, by the system's clock.
pub(super) fn system_ms() -> u64 {
    u64::try_from(nginx::system_time().as_millis()).unwrap_or(u64::MAX)
}

/// Output of the first of two futures.
pub(super) enum First<A, B> {
    Left(A),
    Right(B),
}

/// Waits for the first of two futures.
pub(super) async fn first_of<A, B>(
    mut left: Pin<&mut impl Future<Output = A>>,
    mut right: Pin<&mut impl Future<Output = B>>,
) -> First<A, B> {
    poll_fn(|cx| match left.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(First::Left(output)),
        Poll::Pending => right.as_mut().poll(cx).map(First::Right),
    })
    .await
}

/// Shortest and longest pause between two attempts to connect, on average.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The pause between two attempts to connect.
pub(super) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(PAUSES.0)
    }
}

impl Pause {
    /// Waits after a connection. The pause is the shortest one if the connection was of use.
    pub(super) async fn after(&mut self, was_of_use: bool) {
        let (least, most) = PAUSES;
        self.0 = if was_of_use { least } else { (self.0 * 2).min(most) };
        nginx::sleep(around(self.0)).await;
    }
}

/// A random time from half of `pause` to one and a half: hosts do not come back all at once.
fn around(pause: Duration) -> Duration {
    let mut random = [128];
    // Without random numbers the pause is as it is.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let [random] = random;
    pause / 2 + pause * u32::from(random) / 256
}
