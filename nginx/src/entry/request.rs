//! Callbacks for requests.

use core::cell::UnsafeCell;

use nginx_sys::{
    ngx_array_push, ngx_conf_t, ngx_http_core_main_conf_t, ngx_http_handler_pt,
    ngx_http_output_header_filter_pt, ngx_http_phases_NGX_HTTP_ACCESS_PHASE,
    ngx_http_phases_NGX_HTTP_POST_READ_PHASE, ngx_http_phases_NGX_HTTP_PREACCESS_PHASE,
    ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, ngx_http_phases_NGX_HTTP_SERVER_REWRITE_PHASE,
    ngx_http_request_t, ngx_http_top_header_filter, ngx_http_variable_value_t, ngx_int_t,
    NGX_AGAIN, NGX_ERROR, NGX_OK,
};

use crate::error::Failed;
use crate::module::Module;
use crate::panic::guard;
use crate::request::{Phase, PhaseStatus, Request};
use crate::variable::{self, Override, Value};

const OK: ngx_int_t = NGX_OK as ngx_int_t;
const ERROR: ngx_int_t = NGX_ERROR as ngx_int_t;

/// Adds the module's handler to each phase.
pub(super) fn install_phases<M: Module>(
    core: &mut ngx_http_core_main_conf_t,
) -> Result<(), Failed> {
    let handlers: [(_, ngx_http_handler_pt); 5] = [
        (ngx_http_phases_NGX_HTTP_POST_READ_PHASE, Some(post_read::<M>)),
        (ngx_http_phases_NGX_HTTP_SERVER_REWRITE_PHASE, Some(server_rewrite::<M>)),
        (ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, Some(preaccess::<M>)),
        (ngx_http_phases_NGX_HTTP_ACCESS_PHASE, Some(access::<M>)),
        (ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, Some(precontent::<M>)),
    ];
    for (phase, handler) in handlers {
        let phase = core.phases.get_mut(phase as usize).ok_or(Failed)?;
        // SAFETY: the array holds ngx_http_handler_pt (ngx_http_init_phases()).
        unsafe {
            let slot = ngx_array_push(&mut phase.handlers).cast::<ngx_http_handler_pt>();
            if slot.is_null() {
                return Err(Failed);
            }
            slot.write(handler);
        }
    }
    Ok(())
}

fn phase<M: Module>(phase: Phase, r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request to phase handlers.
    let request = unsafe { Request::from_ptr(r) };
    let log = request.log();
    guard(log, PhaseStatus::InternalServerError, || M::phase(phase, request)).into_ngx()
}

extern "C" fn post_read<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    phase::<M>(Phase::PostRead, r)
}

extern "C" fn server_rewrite<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    phase::<M>(Phase::ServerRewrite, r)
}

extern "C" fn preaccess<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    phase::<M>(Phase::Preaccess, r)
}

extern "C" fn access<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    phase::<M>(Phase::Access, r)
}

extern "C" fn precontent<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    phase::<M>(Phase::Precontent, r)
}

/// Handles the content phase of a location for which [`crate::Conf::set_content`] was called.
pub(super) extern "C" fn content<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request, in its content phase.
    let request = unsafe { Request::from_ptr(r) };
    match guard(request.log(), None, || M::content(request)) {
        Some(handler) => request.handle_content(&handler, content_body::<M>),
        None => PhaseStatus::InternalServerError.into_ngx(),
    }
}

/// Continues [`content`] when nginx has read the body.
extern "C" fn content_body<M: Module>(r: *mut ngx_http_request_t) {
    // SAFETY: nginx passes the request whose body it has read; finish_content() is the last use.
    unsafe {
        let request = Request::from_ptr(r);
        let handler = guard(request.log(), None, || M::content(request));
        request.finish_content(handler.as_ref());
    }
}

/// Handler of the module's variables: `data` points to the name.
pub(super) extern "C" fn variable<M: Module>(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    data: usize,
) -> ngx_int_t {
    // SAFETY: nginx passes a valid request and value, and the `data` of the definition.
    unsafe {
        let request = Request::from_ptr(r);
        let name = variable::name(data);
        let found = guard(request.log(), Value::NotFound, || M::variable(request, name));
        (*value).set_no_cacheable(1);
        variable::write(r, value, found)
    }
}

/// Handler of the overridden variable of nginx: `data` points to the name.
pub(super) extern "C" fn overridden_variable<M: Module>(
    r: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    data: usize,
) -> ngx_int_t {
    // SAFETY: as in variable().
    unsafe {
        let request = Request::from_ptr(r);
        let name = variable::name(data);
        let refused = Override::Value(Value::NotFound);
        match guard(request.log(), refused, || M::override_variable(request, name)) {
            Override::Original => variable::write_original(r, value),
            Override::Value(found) => variable::write(r, value, found),
        }
    }
}

struct NextFilter(UnsafeCell<ngx_http_output_header_filter_pt>);
// SAFETY: written while the configuration is read, on nginx's only thread.
unsafe impl Sync for NextFilter {}
static NEXT_HEADER_FILTER: NextFilter = NextFilter(UnsafeCell::new(None));

/// Puts the header filter of `M` at the head of nginx's chain.
pub(super) extern "C" fn install_filter<M: Module>(_cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: the chain of filters is built on nginx's only thread, and each cycle anew.
    unsafe {
        *NEXT_HEADER_FILTER.0.get() = ngx_http_top_header_filter;
        ngx_http_top_header_filter = Some(header_filter::<M>);
    }
    OK
}

extern "C" fn header_filter<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ptr(r) };
    let log = request.log();
    let Ok(body) = guard(log, Err(Failed), || M::header_filter(request)) else { return ERROR };
    // SAFETY: set before the first request, and the next filter takes the same request.
    let rc = unsafe { (*NEXT_HEADER_FILTER.0.get()).map_or(0, |next| next(r)) };
    match body {
        // NGX_AGAIN is no error: nginx keeps what it could not write yet.
        Some(body) if rc == OK || rc == NGX_AGAIN as ngx_int_t => {
            request.send_body(&body).unwrap_or(ERROR)
        }
        _ => rc,
    }
}
