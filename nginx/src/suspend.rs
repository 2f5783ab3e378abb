//! Suspension of a request in the preaccess or access phase.
//!
//! The code follows ngx_http_limit_req_module. nginx does not write meanwhile. It watches the
//! client's connection if the handler that follows would do that too: then a client that leaves
//! ends the request. Otherwise the request goes on, as it does after an `auth_request`. The timer is not cancelable, so that a worker that was told to quit stays alive until
//! the request is finished.

use core::cell::{Cell, RefCell, UnsafeCell};
use core::ptr;
use core::time::Duration;
use std::rc::{Rc, Weak};

use nginx_sys::{
    ngx_add_timer, ngx_del_timer, ngx_delete_posted_event, ngx_event_t, ngx_handle_read_event,
    ngx_http_block_reading, ngx_http_core_run_phases, ngx_http_finalize_request,
    ngx_http_request_empty_handler, ngx_http_request_t, ngx_http_run_posted_requests,
    ngx_http_test_reading, ngx_int_t, ngx_post_event, ngx_posted_events,
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_OK,
};

use crate::error::Failed;
use crate::request::Request;
use crate::timer::msec;

/// The suspension of a request, if it waits.
#[derive(Default)]
pub(crate) struct SuspensionCell(RefCell<Option<Rc<Suspension>>>);

impl SuspensionCell {
    /// Ends the suspension: no event of it fires any more.
    pub(crate) fn cancel(&self) {
        self.set(None);
    }

    fn set(&self, suspension: Option<Rc<Suspension>>) {
        if let Some(previous) = self.0.replace(suspension) {
            previous.cancel();
        }
    }
}

struct Suspension {
    event: UnsafeCell<ngx_event_t>,
    /// Null once the request runs again or is gone.
    request: Cell<*mut ngx_http_request_t>,
}

impl Suspension {
    /// Forgets the request. No event fires any more.
    fn cancel(&self) {
        self.request.set(ptr::null_mut());
        self.disarm();
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
}

impl Drop for Suspension {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// Handle to resume a suspended request. It does nothing if the request runs again or is gone.
#[derive(Clone, Debug)]
pub struct Resume(Weak<Suspension>);

impl Resume {
    /// Makes nginx call the handler of the phase again, from its event loop.
    pub fn resume(&self) {
        let Some(suspension) = self.0.upgrade() else { return };
        if suspension.request.get().is_null() {
            return;
        }
        // SAFETY: the event lives in the Rc that the request's state holds, and is taken out of
        // nginx's queue before that goes.
        unsafe { ngx_post_event(suspension.event.get(), ptr::addr_of_mut!(ngx_posted_events)) };
    }
}

impl Request {
    /// Implements [`Self::suspend`], with the cell of the request.
    pub(crate) fn suspend_in(
        &mut self,
        cell: &SuspensionCell,
        deadline: Duration,
    ) -> Result<Resume, Failed> {
        let r = self.as_ptr();
        let suspension = Rc::new(Suspension {
            // SAFETY: all zeroes is the initial state of an ngx_event_t.
            event: UnsafeCell::new(unsafe { core::mem::zeroed() }),
            request: Cell::new(r),
        });
        let event = suspension.event.get();
        // SAFETY: `r` is the request nginx called us with, in one of the two phases.
        unsafe {
            let c = (*r).connection;
            if !self.is_ended_by_its_client() {
                (*r).read_event_handler = Some(ngx_http_block_reading);
            } else {
                if (*(*c).read).ready() != 0 {
                    ngx_post_event((*c).read, ptr::addr_of_mut!(ngx_posted_events));
                } else if ngx_handle_read_event((*c).read, 0) != NGX_OK as ngx_int_t {
                    return Err(Failed);
                }
                (*r).read_event_handler = Some(ngx_http_test_reading);
            }
            (*r).write_event_handler = Some(ngx_http_request_empty_handler);

            (*event).handler = Some(wake_up);
            (*event).data = Rc::as_ptr(&suspension).cast_mut().cast();
            (*event).log = (*c).log;
            ngx_add_timer(event, msec(deadline));
        }
        let resume = Resume(Rc::downgrade(&suspension));
        cell.set(Some(suspension));
        Ok(resume)
    }
}

extern "C" fn wake_up(event: *mut ngx_event_t) {
    // SAFETY: `data` is the Suspension that holds this event; the request's state keeps it alive
    // until cancel() took the event away from nginx.
    let r = unsafe {
        let suspension = &*(*event).data.cast::<Suspension>();
        suspension.disarm();
        suspension.request.replace(ptr::null_mut())
    };
    if r.is_null() {
        return;
    }
    // SAFETY: the request is alive, for its pool would have cancelled the suspension. It may be
    // gone after ngx_http_core_run_phases(); its connection is not (as in nginx's own
    // ngx_http_request_handler()).
    unsafe {
        let c = (*r).connection;
        if ngx_handle_read_event((*c).read, 0) != NGX_OK as ngx_int_t {
            ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t);
        } else {
            (*r).read_event_handler = Some(ngx_http_block_reading);
            (*r).write_event_handler = Some(ngx_http_core_run_phases);
            ngx_http_core_run_phases(r);
        }
        ngx_http_run_posted_requests(c);
    }
}
