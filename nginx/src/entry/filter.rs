//! Header filters: one above those of all other modules, and one below them.
//!
//! The first filter of the chain decides what the response is, and the others treat it as the
//! response it is. nginx builds the chain anew for each configuration, in postconfiguration. Other
//! modules put their filters on top there, in the order in which they are loaded. The filter of
//! this module is put on top later: in `init_module`, when the chain is complete. It is put there
//! again in `init_process`: a reload that fails after postconfiguration leaves the master a chain
//! without it, which the next worker inherits.

use core::cell::UnsafeCell;

use nginx_sys::{
    ngx_conf_t, ngx_http_output_header_filter_pt, ngx_http_request_t, ngx_http_top_header_filter,
    ngx_int_t, NGX_AGAIN, NGX_ERROR, NGX_OK,
};

use crate::error::Failed;
use crate::module::Module;
use crate::panic::guard;
use crate::request::Request;

const OK: ngx_int_t = NGX_OK as ngx_int_t;
const AGAIN: ngx_int_t = NGX_AGAIN as ngx_int_t;
const ERROR: ngx_int_t = NGX_ERROR as ngx_int_t;

/// The filters that follow, and whether [`put_on_top`] has changed the present chain.
struct Chain {
    after_first: UnsafeCell<ngx_http_output_header_filter_pt>,
    after_last: UnsafeCell<ngx_http_output_header_filter_pt>,
    has_first: UnsafeCell<bool>,
}
// SAFETY: nginx builds the chain on its only thread.
unsafe impl Sync for Chain {}
static CHAIN: Chain = Chain {
    after_first: UnsafeCell::new(None),
    after_last: UnsafeCell::new(None),
    has_first: UnsafeCell::new(false),
};

/// Notes that nginx begins to build a new chain.
pub(super) fn begin() {
    // SAFETY: see Chain.
    unsafe { *CHAIN.has_first.get() = false };
}

/// Puts [`first`] on top of the chain, unless it is there. Without `http {}` there is no chain.
pub(super) fn put_on_top<M: Module>() {
    // SAFETY: see Chain.
    unsafe {
        let Some(top) = ngx_http_top_header_filter else { return };
        let own: unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t = first::<M>;
        // If nginx refused the configuration before it began, the old chain still stands.
        if *CHAIN.has_first.get() || core::ptr::fn_addr_eq(top, own) {
            return;
        }
        *CHAIN.after_first.get() = Some(top);
        ngx_http_top_header_filter = Some(own);
        *CHAIN.has_first.get() = true;
    }
}

/// Adds [`last`] in postconfiguration, at the place in the order of modules that its companion has.
pub(super) extern "C" fn install_last<M: Module>(_cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: see Chain.
    unsafe {
        *CHAIN.after_last.get() = ngx_http_top_header_filter;
        ngx_http_top_header_filter = Some(last::<M>);
    }
    OK
}

extern "C" fn first<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ptr(r) };
    let log = request.log();
    let Ok(body) = guard(log, Err(Failed), || M::header_filter(request)) else { return ERROR };
    // SAFETY: set before the first request, and the next filter takes the same request.
    let rc = unsafe { (*CHAIN.after_first.get()).map_or(0, |next| next(r)) };
    match body {
        // NGX_AGAIN is no error: nginx keeps what it could not write yet.
        Some(body) if rc == OK || rc == AGAIN => request.send_body(rc, &body).unwrap_or(ERROR),
        _ => rc,
    }
}

extern "C" fn last<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ptr(r) };
    let log = request.log();
    if guard(log, Err(Failed), || M::last_header_filter(request)).is_err() {
        return ERROR;
    }
    // SAFETY: as in first().
    unsafe { (*CHAIN.after_last.get()).map_or(0, |next| next(r)) }
}
