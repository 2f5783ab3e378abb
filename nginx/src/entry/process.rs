//! Callbacks for the start and end of processes.

use nginx_sys::{ngx_core_conf_t, ngx_core_module, ngx_cycle_t, ngx_int_t, NGX_OK};

use super::{filter, request};
use crate::configuration::main_conf;
use crate::log::Log;
use crate::module::Module;
use crate::panic::guard;
use crate::process::is_worker;
use crate::{held, stream, task, variable, wake};

/// Prepares for the workers of a new configuration, before they are forked.
pub(super) extern "C" fn init_module<M: Module>(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    // SAFETY: nginx passes the new cycle, whose core module was configured.
    unsafe {
        let core = *(*cycle).conf_ctx.add(ngx_core_module.index);
        let workers = (*core.cast::<ngx_core_conf_t>()).worker_processes;
        wake::prepare(usize::try_from(workers).unwrap_or(1), Log::from_ptr((*cycle).log));
    }
    filter::put_on_top::<M>();
    NGX_OK as ngx_int_t
}

pub(super) extern "C" fn init_process<M: Module>(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    // SAFETY: nginx passes the running cycle, which outlives everything the process does.
    let cycle: &'static ngx_cycle_t = unsafe { &*cycle };
    if is_worker() {
        // SAFETY: as above.
        let main = unsafe { main_conf::<M>(cycle) };
        // SAFETY: as above.
        unsafe {
            if let Some(main) = main {
                let renewal = |name: &[u8], of_prefix| M::renewal(main, name, of_prefix);
                variable::index_variables(cycle, renewal);
                filter::put_on_top::<M>();
                held::find(cycle);
                request::find_access::<M>(cycle);
            }
            wake::listen(cycle, M::woken);
        }
        if let Some(main) = main {
            guard(Log::cycle(), (), || M::init_process(main));
            task::begin();
        }
    }
    NGX_OK as ngx_int_t
}

pub(super) extern "C" fn exit_process<M: Module>(_cycle: *mut ngx_cycle_t) {
    guard(Log::cycle(), (), || {
        M::exit_process();
        stream::shut_down();
        task::shut_down();
    });
}
