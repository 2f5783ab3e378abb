//! A request whose content handler answers later.
//!
//! nginx does nothing with such a request until it is finalized. It reads nothing of the client
//! meanwhile. Its timer is not cancelable, so that a worker that was told to quit stays alive until
//! then.

use core::cell::{Cell, RefCell, UnsafeCell};
use core::ffi::c_void;
use core::future::{poll_fn, Future};
use core::pin::Pin;
use core::ptr;
use core::task::{Poll, Waker};
use core::time::Duration;
use std::rc::{Rc, Weak};

use nginx_sys::{
    ngx_add_timer, ngx_del_timer, ngx_delete_posted_event, ngx_event_t, ngx_http_block_reading,
    ngx_http_finalize_request, ngx_http_request_empty_handler, ngx_http_request_t,
    ngx_http_run_posted_requests, ngx_pool_cleanup_add, ngx_post_event, ngx_posted_events,
};

use crate::error::Failed;
use crate::request::Request;
use crate::task::spawn;
use crate::timer::msec;

/// Future of a status.
pub type LaterStatus = Pin<Box<dyn Future<Output = u16>>>;

/// A request that waits for its status. The pool of the request owns it.
pub(crate) struct Deferred {
    event: UnsafeCell<ngx_event_t>,
    /// Null once the request was finalized or is gone.
    request: Cell<*mut ngx_http_request_t>,
    status: Cell<u16>,
    /// Waker of the task that waits for the status.
    task: RefCell<Option<Waker>>,
}

impl Deferred {
    /// Finalizes the request with the output of `status`, or with `otherwise` after `deadline`. The
    /// caller counts one more reference to the request.
    pub(crate) fn start(
        request: &mut Request,
        mut status: LaterStatus,
        deadline: Duration,
        otherwise: u16,
    ) -> Result<(), Failed> {
        let r = request.as_ptr();
        let deferred = Rc::new(Self {
            // SAFETY: all zeroes is the initial state of an ngx_event_t.
            event: UnsafeCell::new(unsafe { core::mem::zeroed() }),
            request: Cell::new(r),
            status: Cell::new(otherwise),
            task: RefCell::default(),
        });
        let weak = Rc::downgrade(&deferred);
        let event = deferred.event.get();
        // SAFETY: a valid request in its content phase, whose pool outlives it; the cleanup owns
        // the Rc, and takes the event away from nginx.
        unsafe {
            let cleanup = ngx_pool_cleanup_add((*r).pool, 0);
            if cleanup.is_null() {
                return Err(Failed);
            }
            (*r).read_event_handler = Some(ngx_http_block_reading);
            (*r).write_event_handler = Some(ngx_http_request_empty_handler);
            (*event).handler = Some(finish);
            (*event).data = Rc::as_ptr(&deferred).cast_mut().cast();
            (*event).log = (*(*r).connection).log;
            ngx_add_timer(event, msec(deadline));
            (*cleanup).data = Rc::into_raw(deferred).cast_mut().cast();
            (*cleanup).handler = Some(forget);
        }
        spawn(async move {
            let known = poll_fn(|cx| {
                let Some(deferred) = waiting(&weak) else { return Poll::Ready(None) };
                *deferred.task.borrow_mut() = Some(cx.waker().clone());
                status.as_mut().poll(cx).map(Some)
            });
            let (Some(known), Some(deferred)) = (known.await, waiting(&weak)) else { return };
            deferred.status.set(known);
            // SAFETY: the event is alive, and the pool's cleanup takes it out of nginx's queue.
            unsafe {
                ngx_post_event(deferred.event.get(), ptr::addr_of_mut!(ngx_posted_events));
            }
        });
        Ok(())
    }

    fn disarm(&self) {
        let event = self.event.get();
        // SAFETY: the flags of the event say where nginx linked it.
        unsafe {
            if (*event).timer_set() != 0 {
                ngx_del_timer(event);
            }
            if (*event).posted() != 0 {
                ngx_delete_posted_event(event);
            }
        }
    }

    /// Takes the request, which then no longer waits. Null if it did not.
    fn take(&self) -> *mut ngx_http_request_t {
        self.disarm();
        let task = self.task.borrow_mut().take();
        let request = self.request.replace(ptr::null_mut());
        if let Some(task) = task {
            task.wake();
        }
        request
    }
}

/// Returns the request if it still waits.
fn waiting(deferred: &Weak<Deferred>) -> Option<Rc<Deferred>> {
    deferred.upgrade().filter(|deferred| !deferred.request.get().is_null())
}

extern "C" fn forget(data: *mut c_void) {
    // SAFETY: `data` came from Rc::into_raw() in start(), and cleanups run once.
    let deferred = unsafe { Rc::from_raw(data.cast_const().cast::<Deferred>()) };
    deferred.take();
}

extern "C" fn finish(event: *mut ngx_event_t) {
    // SAFETY: `data` is the Deferred that holds this event; the pool's cleanup would have taken the
    // event away.
    let (r, status) = unsafe {
        let deferred = &*(*event).data.cast::<Deferred>();
        (deferred.take(), deferred.status.get())
    };
    if r.is_null() {
        return;
    }
    // SAFETY: the request is alive, for its pool's cleanup would have set null. It may be gone
    // after ngx_http_finalize_request(); its connection is not, as in ngx_http_request_handler().
    unsafe {
        let c = (*r).connection;
        let rc = Request::from_ptr(r).end_with(status);
        ngx_http_finalize_request(r, rc);
        ngx_http_run_posted_requests(c);
    }
}
