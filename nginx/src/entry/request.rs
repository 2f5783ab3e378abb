//! Callbacks for phases and variables of requests.

use nginx_sys::{
    ngx_array_push, ngx_cycle_t, ngx_http_core_main_conf_t, ngx_http_handler_pt, ngx_http_phases,
    ngx_http_phases_NGX_HTTP_ACCESS_PHASE, ngx_http_phases_NGX_HTTP_POST_READ_PHASE,
    ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE,
    ngx_http_phases_NGX_HTTP_SERVER_REWRITE_PHASE, ngx_http_request_t, ngx_http_variable_value_t,
    ngx_int_t, NGX_AGAIN, NGX_DONE,
};
use ngx::http::{HttpModuleMainConf as _, NgxHttpCoreModule};

use crate::error::Failed;
use crate::module::Module;
use crate::panic::guard;
use crate::request::{set_access_index, Phase, PhaseStatus, Request};
use crate::variable::{self, Override, Value};

/// Adds the handlers of the module itself.
pub(super) fn install_phases<M: Module>(
    core: &mut ngx_http_core_main_conf_t,
) -> Result<(), Failed> {
    install(
        core,
        [
            (ngx_http_phases_NGX_HTTP_POST_READ_PHASE, Some(post_read::<M>)),
            (ngx_http_phases_NGX_HTTP_SERVER_REWRITE_PHASE, Some(server_rewrite::<M>)),
            (ngx_http_phases_NGX_HTTP_ACCESS_PHASE, Some(access::<M>)),
            (ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, Some(precontent::<M>)),
        ],
    )
}

/// Adds the handler of the phase in which a companion has another place than its module.
pub(super) fn install_preaccess<M: Module>(
    core: &mut ngx_http_core_main_conf_t,
) -> Result<(), Failed> {
    install(core, [(ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, Some(preaccess::<M>))])
}

fn install<const N: usize>(
    core: &mut ngx_http_core_main_conf_t,
    handlers: [(ngx_http_phases, ngx_http_handler_pt); N],
) -> Result<(), Failed> {
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

/// Notes where the access handler of `M` stands among the handlers of all phases.
///
/// # Safety
///
/// `cycle` is the running cycle.
pub(super) unsafe fn find_access<M: Module>(cycle: &ngx_cycle_t) {
    let core: Option<&ngx_http_core_main_conf_t> = NgxHttpCoreModule::main_conf(cycle);
    let Some(core) = core else { return };
    let own: unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t = access::<M>;
    // SAFETY: handlers up to one without a checker (ngx_http_init_phase_handlers()).
    unsafe {
        let mut index = 0;
        while let Some(entry) = core.phase_engine.handlers.add(index).as_ref() {
            if entry.checker.is_none() {
                return;
            }
            if entry.handler.is_some_and(|handler| core::ptr::fn_addr_eq(handler, own)) {
                return set_access_index(index);
            }
            index += 1;
        }
    }
}

/// Each handler has a copy, which the compiler can fit to its phase.
#[inline(always)]
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
    match phase::<M>(Phase::ServerRewrite, r) {
        // ngx_http_core_rewrite_phase() finalizes a request that waits.
        rc if rc == NGX_AGAIN as ngx_int_t => NGX_DONE as ngx_int_t,
        rc => rc,
    }
}

extern "C" fn preaccess<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    phase::<M>(Phase::Preaccess, r)
}

pub(super) extern "C" fn access<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
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
