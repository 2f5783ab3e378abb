//! What nginx calls: module tables, the life of configurations and of worker processes.

use core::cell::UnsafeCell;
use core::ffi::{c_char, c_void};
use core::marker::PhantomData;
use core::ptr;
use std::panic::{catch_unwind, AssertUnwindSafe};

use nginx_sys::{
    ngx_array_push, ngx_command_t, ngx_conf_t, ngx_core_conf_t, ngx_core_module, ngx_cycle_t,
    ngx_http_conf_ctx_t, ngx_http_handler_pt, ngx_http_module_t, ngx_http_output_header_filter_pt,
    ngx_http_phases_NGX_HTTP_ACCESS_PHASE, ngx_http_phases_NGX_HTTP_POST_READ_PHASE,
    ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE,
    ngx_http_phases_NGX_HTTP_SERVER_REWRITE_PHASE, ngx_http_request_t, ngx_http_top_header_filter,
    ngx_int_t, ngx_module_t, ngx_uint_t, NGX_HTTP_MODULE,
};
use ngx::core::{Pool, NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::{HttpModuleMainConf as _, NgxHttpCoreModule};

use crate::conf::{Conf, ConfError};
use crate::log::{Level, Log};
use crate::request::{Failed, Phase, Request, Status};
use crate::variable::{Renewal, Value};
use crate::{stream, task, wake};

/// An nginx HTTP module: its configuration, and its part in each phase of a request.
///
/// `merge_location` runs for every server, location and block below, parents first.
pub trait Module: Sized + 'static {
    /// Configuration of `http {}`.
    type Main: Default;
    /// Configuration of a `server {}`.
    type Server: Default;
    /// Configuration of a location, and of the http and server levels above it.
    type Location: Default;
    /// What the module keeps of a request, over internal redirects, until its pool dies.
    type State: Default;

    /// The `ngx_module_t` of this module.
    fn cell() -> &'static ModuleCell;

    /// Before `http {}` is read: variables.
    fn preconfiguration(cf: &mut Conf<'_>) -> Result<(), ConfError>;
    /// Fills what `location` leaves open from `parent`.
    fn merge_location(
        cf: &mut Conf<'_>,
        main: &mut Self::Main,
        server: &mut Self::Server,
        parent: &Self::Location,
        location: &mut Self::Location,
    ) -> Result<(), ConfError>;

    /// After all locations were merged.
    fn postconfiguration(cf: &mut Conf<'_>, main: &mut Self::Main) -> Result<(), ConfError>;

    /// A worker process begins, if `http {}` is configured at all.
    fn init_process(main: &'static Self::Main);
    /// Another worker woke this one ([`crate::wake`]).
    fn woken();
    /// A worker process ends: what holds connections and timers must go.
    fn exit_process();

    /// A phase of `request`, which may be a subrequest.
    fn phase(phase: Phase, request: &mut Request) -> Status;
    /// Value of the variable `name`, as it stands in the configuration.
    fn variable(request: &Request, name: &[u8]) -> Value;
    /// Value for nginx's own variable `name`, if the module has one.
    fn override_variable(request: &Request, name: &[u8]) -> Value;
    /// Whether a verdict changes the variable `name`. `of_prefix` if it is one that nginx made of
    /// a prefix: of the same name, it may be another module's.
    fn renewal(main: &Self::Main, name: &[u8], of_prefix: bool) -> Renewal;
    /// The answer to a request is about to be sent; what is returned takes the place of its body.
    fn header_filter(request: &mut Request) -> Result<Option<Vec<u8>>, Failed>;
}

/// Marker of the `http` level for [`crate::Directive`]s of module `M`.
pub struct Main<M>(PhantomData<M>);
/// Marker of the location level (http, server and location) for directives of module `M`.
pub struct Location<M>(PhantomData<M>);

/// A module's `ngx_module_t`, in which nginx writes the indices it assigns.
#[repr(transparent)]
#[derive(Debug)]
pub struct ModuleCell(UnsafeCell<ngx_module_t>);

// SAFETY: nginx writes to it before it starts threads or workers; we only read.
unsafe impl Sync for ModuleCell {}

impl ModuleCell {
    /// A table of `ctx` and `commands`, both with static lifetime as nginx demands.
    pub const fn http<const N: usize>(
        ctx: &'static Table,
        commands: &'static Commands<N>,
    ) -> Self {
        Self(UnsafeCell::new(http_module(ctx, commands)))
    }

    /// The same, with the hooks of the worker's life.
    pub const fn http_with_process<M: Module, const N: usize>(
        ctx: &'static Table,
        commands: &'static Commands<N>,
    ) -> Self {
        Self(UnsafeCell::new(ngx_module_t {
            init_module: Some(init_module),
            init_process: Some(init_process::<M>),
            exit_process: Some(exit_process::<M>),
            ..http_module(ctx, commands)
        }))
    }

    /// Index of the module's entry in the arrays of configurations and contexts.
    #[inline]
    pub(crate) fn ctx_index(&self) -> usize {
        // SAFETY: written only while the configuration is read, on this thread.
        unsafe { (*self.0.get()).ctx_index }
    }
}

const fn http_module<const N: usize>(
    ctx: &'static Table,
    commands: &'static Commands<N>,
) -> ngx_module_t {
    ngx_module_t {
        ctx: ptr::from_ref(ctx).cast_mut().cast(),
        commands: ptr::from_ref(commands).cast_mut().cast(),
        type_: NGX_HTTP_MODULE as ngx_uint_t,
        ..ngx_module_t::default()
    }
}

/// `ngx_http_module_t` that may stand in a static.
#[repr(transparent)]
pub struct Table(ngx_http_module_t);

// SAFETY: never written after it was built.
unsafe impl Sync for Table {}

impl Table {
    /// The callbacks of module `M`.
    pub const fn of<M: Module>() -> Self {
        Self(ngx_http_module_t {
            preconfiguration: Some(preconfiguration::<M>),
            postconfiguration: Some(postconfiguration::<M>),
            create_main_conf: Some(create::<M::Main>),
            init_main_conf: None,
            create_srv_conf: Some(create::<M::Server>),
            merge_srv_conf: None,
            create_loc_conf: Some(create::<M::Location>),
            merge_loc_conf: Some(merge_location::<M>),
        })
    }

    /// The callbacks of the companion of `M` that is no more than its header filter.
    pub const fn filter_of<M: Module>() -> Self {
        Self(ngx_http_module_t {
            preconfiguration: None,
            postconfiguration: Some(install_filter::<M>),
            create_main_conf: None,
            init_main_conf: None,
            create_srv_conf: None,
            merge_srv_conf: None,
            create_loc_conf: None,
            merge_loc_conf: None,
        })
    }
}

/// Directives of a module, with nginx's terminator, that may stand in a static.
#[repr(transparent)]
pub struct Commands<const N: usize>(pub [ngx_command_t; N]);

// SAFETY: never written after it was built.
unsafe impl<const N: usize> Sync for Commands<N> {}

/// Exports two modules: `$module`, and its header filter, which nginx must place elsewhere in
/// its order of modules. The three symbols are what nginx's `load_module` looks up
/// (`ngx_load_module()`).
#[macro_export]
macro_rules! nginx_modules {
    ($module:ty, $name:literal, $filter_name:literal, [$($directive:ty),* $(,)?]) => {
        static MODULE: $crate::ModuleCell = {
            use $crate::module_table::{Commands, Table};
            const N: usize = [$(stringify!($directive)),*].len() + 1;
            static TABLE: Table = Table::of::<$module>();
            static COMMANDS: Commands<N> = Commands([
                $(<$directive as $crate::module_table::Command>::COMMAND,)*
                $crate::module_table::END,
            ]);
            $crate::ModuleCell::http_with_process::<$module, N>(&TABLE, &COMMANDS)
        };
        static FILTER: $crate::ModuleCell = {
            use $crate::module_table::{Commands, Table, END};
            static TABLE: Table = Table::filter_of::<$module>();
            static COMMANDS: Commands<1> = Commands([END]);
            $crate::ModuleCell::http(&TABLE, &COMMANDS)
        };
        const _: () = {
            use $crate::module_table::{cstr, Names, Pointers};

            #[no_mangle]
            static ngx_modules: Pointers = Pointers([&raw const MODULE, &raw const FILTER, core::ptr::null()]);
            #[no_mangle]
            static ngx_module_names: Names<3> = Names([cstr($name), cstr($filter_name), core::ptr::null()]);
            // nginx runs access handlers in reverse order of modules, so ours stands before its
            // own ones: who is denied by address or password costs Authgear nothing. The filter
            // stands with nginx's other header filters.
            #[no_mangle]
            static ngx_module_order: Names<7> = Names([
                cstr($name),
                cstr(c"ngx_http_auth_request_module"),
                cstr(c"ngx_http_auth_basic_module"),
                cstr(c"ngx_http_access_module"),
                cstr($filter_name),
                cstr(c"ngx_http_copy_filter_module"),
                core::ptr::null(),
            ]);
        };
    };
}
#[doc(hidden)]
pub mod module_table {
    use core::ffi::{c_char, CStr};

    use nginx_sys::ngx_command_t;

    pub use crate::conf::Command;
    pub use super::{Commands, ModuleCell, Table};

    pub const END: ngx_command_t = ngx_command_t::empty();

    #[repr(transparent)]
    pub struct Pointers(pub [*const ModuleCell; 3]);
    // SAFETY: never written; what it points to is Sync.
    unsafe impl Sync for Pointers {}

    #[repr(transparent)]
    pub struct Names<const N: usize>(pub [*const c_char; N]);
    // SAFETY: never written; what it points to is static and read-only.
    unsafe impl<const N: usize> Sync for Names<N> {}

    pub const fn cstr(name: &'static CStr) -> *const c_char {
        name.as_ptr()
    }
}

/// Whether the worker was told to finish what it has and exit.
pub fn worker_is_exiting() -> bool {
    // SAFETY: plain variables of a single-threaded process; ngx_terminate is set by a signal
    // handler, as sig_atomic_t.
    unsafe { nginx_sys::ngx_exiting != 0 || nginx_sys::ngx_terminate != 0 }
}

/// nginx's version: the module fits no other.
pub fn version() -> &'static str {
    nginx_sys::NGINX_VERSION.to_str().unwrap_or_default()
}

/// Whether process `pid` is there.
pub fn process_exists(pid: u32) -> bool {
    let Ok(pid) = nginx_sys::pid_t::try_from(pid) else { return false };
    // SAFETY: signal 0 only asks.
    let sent = unsafe { nginx_sys::kill(pid, 0) };
    sent == 0 || std::io::Error::last_os_error().raw_os_error() == Some(nginx_sys::EPERM as i32)
}

/// Runs `body`; a panic becomes `fallback` and a line in the log. None may cross into nginx.
pub(crate) fn guard<T>(log: Log, fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<&str>().copied();
        let message = message.or(panic.downcast_ref::<String>().map(String::as_str));
        let message = message.unwrap_or("no message");
        log.write(Level::Alert, format_args!("a module callback panicked: {message}"));
        fallback
    })
}

extern "C" fn create<T: Default>(cf: *mut ngx_conf_t) -> *mut c_void {
    // SAFETY: nginx passes a valid `cf` with a pool.
    let (log, pool) = unsafe { (Log::from_ptr((*cf).log), Pool::from_ngx_pool((*cf).pool)) };
    guard(log, ptr::null_mut(), || pool.allocate(T::default()).cast())
}

extern "C" fn preconfiguration<M: Module>(cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid `cf`.
    let mut cf = unsafe { Conf::from_ptr(cf) };
    let failed = nginx_sys::NGX_ERROR as ngx_int_t;
    guard(cf.log(), failed, || {
        let result = M::preconfiguration(&mut cf);
        if cf.report(result) {
            nginx_sys::NGX_OK as ngx_int_t
        } else {
            failed
        }
    })
}

extern "C" fn merge_location<M: Module>(
    cf: *mut ngx_conf_t,
    parent: *mut c_void,
    location: *mut c_void,
) -> *mut c_char {
    let index = M::cell().ctx_index();
    // SAFETY: nginx passes a valid `cf` whose `ctx` holds the configurations of this http {} and
    // of the server being merged (ngx_http_merge_servers()), and for parent and location what
    // `create::<M::Location>` returned; the four are distinct objects.
    let (mut cf, main, server, parent, location) = unsafe {
        let ctx = &*(*cf).ctx.cast::<ngx_http_conf_ctx_t>();
        (
            Conf::from_ptr(cf),
            &mut *(*ctx.main_conf.add(index)).cast::<M::Main>(),
            &mut *(*ctx.srv_conf.add(index)).cast::<M::Server>(),
            &*parent.cast::<M::Location>(),
            &mut *location.cast::<M::Location>(),
        )
    };
    guard(cf.log(), NGX_CONF_ERROR, || {
        let result = M::merge_location(&mut cf, main, server, parent, location);
        if cf.report(result) {
            NGX_CONF_OK
        } else {
            NGX_CONF_ERROR
        }
    })
}

extern "C" fn postconfiguration<M: Module>(cf: *mut ngx_conf_t) -> ngx_int_t {
    let index = M::cell().ctx_index();
    // SAFETY: nginx passes a valid `cf` inside http {}, whose entry of ours create() made.
    let (mut conf, main) = unsafe {
        let ctx = &*(*cf).ctx.cast::<ngx_http_conf_ctx_t>();
        (Conf::from_ptr(cf), &mut *(*ctx.main_conf.add(index)).cast::<M::Main>())
    };
    let done = guard(conf.log(), false, || {
        let result = M::postconfiguration(&mut conf, main);
        conf.report(result)
    });
    if !done {
        return nginx_sys::NGX_ERROR as ngx_int_t;
    }
    let handlers: [(_, ngx_http_handler_pt); 5] = [
        (ngx_http_phases_NGX_HTTP_POST_READ_PHASE, Some(post_read::<M>)),
        (ngx_http_phases_NGX_HTTP_SERVER_REWRITE_PHASE, Some(server_rewrite::<M>)),
        (ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, Some(preaccess::<M>)),
        (ngx_http_phases_NGX_HTTP_ACCESS_PHASE, Some(access::<M>)),
        (ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, Some(precontent::<M>)),
    ];
    // SAFETY: nginx passes a valid `cf` inside http {}.
    let Some(core) = NgxHttpCoreModule::main_conf_mut(unsafe { &*cf }) else {
        return nginx_sys::NGX_ERROR as ngx_int_t;
    };
    for (phase, handler) in handlers {
        let Some(phase) = core.phases.get_mut(phase as usize) else {
            return nginx_sys::NGX_ERROR as ngx_int_t;
        };
        // SAFETY: the array holds ngx_http_handler_pt (ngx_http_init_phases()).
        unsafe {
            let slot = ngx_array_push(&mut phase.handlers).cast::<ngx_http_handler_pt>();
            if slot.is_null() {
                return nginx_sys::NGX_ERROR as ngx_int_t;
            }
            slot.write(handler);
        }
    }
    nginx_sys::NGX_OK as ngx_int_t
}

struct NextFilter(UnsafeCell<ngx_http_output_header_filter_pt>);
// SAFETY: written while the configuration is read, on nginx's only thread.
unsafe impl Sync for NextFilter {}
static NEXT_HEADER_FILTER: NextFilter = NextFilter(UnsafeCell::new(None));

extern "C" fn install_filter<M: Module>(_cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: the chain of filters is built on nginx's only thread, and each cycle anew.
    unsafe {
        *NEXT_HEADER_FILTER.0.get() = ngx_http_top_header_filter;
        ngx_http_top_header_filter = Some(header_filter::<M>);
    }
    nginx_sys::NGX_OK as ngx_int_t
}

extern "C" fn header_filter<M: Module>(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ptr(r) };
    let log = request.log();
    let failed = nginx_sys::NGX_ERROR as ngx_int_t;
    let Ok(body) = guard(log, Err(Failed), || M::header_filter(request)) else { return failed };
    // SAFETY: set before the first request, and the next filter takes the same request.
    let rc = unsafe { (*NEXT_HEADER_FILTER.0.get()).map_or(0, |next| next(r)) };
    match body {
        // NGX_AGAIN is no error: what could not be written yet is kept by nginx.
        Some(body)
            if rc == nginx_sys::NGX_OK as ngx_int_t || rc == nginx_sys::NGX_AGAIN as ngx_int_t =>
        {
            request.send_body(&body).unwrap_or(failed)
        }
        _ => rc,
    }
}

fn phase<M: Module>(phase: Phase, r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request to phase handlers.
    let request = unsafe { Request::from_ptr(r) };
    let log = request.log();
    guard(log, Status::InternalServerError, || M::phase(phase, request)).into_ngx()
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

extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    // SAFETY: nginx passes the new cycle, whose core module was configured.
    unsafe {
        let core = *(*cycle).conf_ctx.add(ngx_core_module.index);
        let workers = (*core.cast::<ngx_core_conf_t>()).worker_processes;
        wake::prepare(usize::try_from(workers).unwrap_or(1), Log::from_ptr((*cycle).log));
    }
    nginx_sys::NGX_OK as ngx_int_t
}

extern "C" fn init_process<M: Module>(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    // SAFETY: nginx passes the running cycle, which outlives all that the process does.
    let cycle: &'static ngx_cycle_t = unsafe { &*cycle };
    if is_worker() {
        // SAFETY: as above.
        unsafe {
            crate::variable::index_variables::<M>(cycle);
            wake::listen::<M>(cycle);
        }
        // SAFETY: as above.
        if let Some(main) = unsafe { main_conf::<M>(cycle) } {
            guard(Log::cycle(), (), || M::init_process(main));
            task::begin();
        }
    }
    nginx_sys::NGX_OK as ngx_int_t
}

/// Whether this process serves requests. Helpers of nginx's cache are initialised as workers too,
/// under the number of the first one.
fn is_worker() -> bool {
    // SAFETY: a plain variable of a single-threaded process.
    let process = unsafe { nginx_sys::ngx_process };
    process == nginx_sys::NGX_PROCESS_WORKER as usize
        || process == nginx_sys::NGX_PROCESS_SINGLE as usize
}

/// The module's configuration of `http {}`, if there is one.
///
/// # Safety
///
/// `cycle` is the running cycle.
pub(crate) unsafe fn main_conf<M: Module>(cycle: &ngx_cycle_t) -> Option<&M::Main> {
    // SAFETY: the cycle's entry of the http module is null or its contexts, which have an entry
    // of ours that create() made.
    unsafe {
        let http = *cycle.conf_ctx.add(nginx_sys::ngx_http_module.index);
        let ctx = http.cast::<ngx_http_conf_ctx_t>().as_ref()?;
        (*ctx.main_conf.add(M::cell().ctx_index())).cast::<M::Main>().as_ref()
    }
}

extern "C" fn exit_process<M: Module>(_cycle: *mut ngx_cycle_t) {
    guard(Log::cycle(), (), || {
        M::exit_process();
        stream::shut_down();
        task::shut_down();
    });
}
