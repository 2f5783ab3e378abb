//! Joins identical look-ups of this worker's requests.
//!
//! Authgear serialises the look-ups of one session behind a mutex, and answers 500 when it cannot
//! get it: joining is what makes a page with thirty images work.

use core::cell::Cell;
use core::future::{poll_fn, Future};
use core::pin::{pin, Pin};
use core::task::{Poll, Waker};

use authgear::single_flight::{self, Wake};

use crate::resolution::LookupOutcome;
use nginx::Resume;

/// Wakes who waits for a look-up.
pub enum Resumption {
    /// A suspended request.
    Request(Resume),
    /// The task that looks at open responses.
    Task(Waker),
}

impl Wake for Resumption {
    fn wake(&self) {
        match self {
            Self::Request(resume) => resume.resume(),
            Self::Task(waker) => waker.wake_by_ref(),
        }
    }
}

/// Look-ups of this worker in flight.
pub type SingleFlight = single_flight::SingleFlight<LookupOutcome, Resumption>;
/// A request's place in a look-up.
pub type Waiter = single_flight::Waiter<LookupOutcome, Resumption>;
/// Obligation to end a look-up.
pub type Leader = single_flight::Leader<LookupOutcome, Resumption>;

/// Output of `work`, or `None` if nobody waits for it any more. Once `must_go_on` is set, the work
/// is completed in any case.
pub async fn unless_abandoned<T>(
    leader: &Leader,
    must_go_on: &Cell<bool>,
    mut work: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    let mut abandoned = pin!(leader.abandoned());
    poll_fn(|cx| {
        // First: the clients may have left before the work began.
        if !must_go_on.get() && abandoned.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}
