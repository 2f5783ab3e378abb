//! nginx's clocks, and its timers as futures.

use core::cell::{Cell, RefCell, UnsafeCell};
use core::fmt;
use core::future::Future;
use core::marker::PhantomPinned;
use core::pin::{pin, Pin};
use core::ptr;
use core::task::{Context, Poll, Waker};
use core::time::Duration;

use nginx_sys::{ngx_add_timer, ngx_current_msec, ngx_del_timer, ngx_event_t, ngx_msec_t};

use crate::log::Log;

/// Returns the time of nginx's monotonic clock, which it reads once per turn of the event loop.
pub fn now() -> Duration {
    // SAFETY: a plain variable of a single-threaded process.
    Duration::from_millis(unsafe { ngx_current_msec } as u64)
}

/// Returns the time since 1970 by nginx's clock, which it reads once per turn of the event loop.
pub fn unix_time() -> Duration {
    let time = nginx_sys::ngx_timeofday();
    let seconds = Duration::from_secs(u64::try_from(time.sec).unwrap_or(0));
    seconds + Duration::from_millis(time.msec as u64)
}

/// Returns the time since 1970 by the system's clock, which may be ahead of [`unix_time`] by as much
/// as nginx's `timer_resolution`. Costs a call of `clock_gettime()`.
pub fn system_time() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// Converts `duration` for nginx's timers. The result is at most a day.
pub(crate) fn msec(duration: Duration) -> ngx_msec_t {
    const DAY: Duration = Duration::from_secs(86400);
    duration.min(DAY).as_millis() as ngx_msec_t
}

/// Future that [`sleep`] returns.
pub struct Sleep {
    duration: Duration,
    /// nginx links it into its tree of timers at the first poll.
    event: UnsafeCell<ngx_event_t>,
    is_started: Cell<bool>,
    has_fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Forbids moves: nginx keeps the address of `event`.
    _pinned: PhantomPinned,
}

impl fmt::Debug for Sleep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleep").field("duration", &self.duration).finish_non_exhaustive()
    }
}

/// Completes after `duration`. The timer does not delay the exit of a worker.
pub fn sleep(duration: Duration) -> Sleep {
    Sleep {
        duration,
        // SAFETY: all zeroes is the initial state of an ngx_event_t.
        event: UnsafeCell::new(unsafe { core::mem::zeroed() }),
        is_started: Cell::new(false),
        has_fired: Cell::new(false),
        waker: RefCell::new(None),
        _pinned: PhantomPinned,
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.as_ref().get_ref();
        if !this.is_started.replace(true) {
            let event = this.event.get();
            // SAFETY: the future is pinned: the event stays where it is until Drop takes it out of
            // nginx's tree. `data` points to the future.
            unsafe {
                (*event).handler = Some(fire);
                (*event).data = ptr::from_ref(this).cast_mut().cast();
                (*event).log = Log::cycle().as_ptr();
                (*event).set_cancelable(1);
                ngx_add_timer(event, msec(this.duration));
            }
        }
        if this.has_fired.get() {
            return Poll::Ready(());
        }
        *this.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let event = self.event.get();
        // SAFETY: the future owns the event; timer_set tells whether it is in nginx's tree.
        unsafe {
            if (*event).timer_set() != 0 {
                ngx_del_timer(event);
            }
        }
    }
}

extern "C" fn fire(event: *mut ngx_event_t) {
    // SAFETY: `data` was set to the Sleep that holds this event and that outlives its membership in
    // nginx's tree.
    let sleep = unsafe { &*(*event).data.cast::<Sleep>() };
    sleep.has_fired.set(true);
    let waker = sleep.waker.borrow_mut().take();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Error of [`timeout`]: the time ran out.
#[derive(Clone, Copy, Debug)]
pub struct Elapsed;

/// Returns the output of `future`, or an error once it has taken longer than `duration`.
///
/// `future` is pinned by the caller: a future that is an argument of an `async fn` has room in the
/// caller's and in this one, and large ones are copied from one to the other.
pub async fn timeout<T>(
    duration: Duration,
    mut future: Pin<&mut impl Future<Output = T>>,
) -> Result<T, Elapsed> {
    let mut sleep = pin!(sleep(duration));
    core::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        sleep.as_mut().poll(cx).map(|()| Err(Elapsed))
    })
    .await
}
