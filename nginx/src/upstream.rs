//! Handlers of nginx's upstream modules, and whether they end a request whose client left.
//!
//! The handlers are private to their modules. Each module tells its own when its `..._pass`
//! directive is set: so the directive is set once in a location that is made for this and serves no
//! request.

use core::cell::RefCell;
use core::ffi::CStr;
use core::ptr;

use nginx_sys::{
    ngx_array_t, ngx_command_t, ngx_conf_t, ngx_http_conf_ctx_t, ngx_http_core_loc_conf_t,
    ngx_http_core_module, ngx_http_handler_pt, ngx_http_max_module, ngx_http_module_t,
    ngx_http_upstream_conf_t, ngx_module_t, ngx_pcalloc, ngx_str_t, ngx_uint_t,
};

use crate::conf::Conf;
use crate::modules::module_named;
use crate::request::Request;
use crate::string::{bytes, str_of};

/// Modules whose configuration of a location begins with an `ngx_http_upstream_conf_t`, and their
/// directives. `memcached_pass` takes no variables; its locations count as not watching.
const MODULES: [(&CStr, &str); 5] = [
    (c"ngx_http_proxy_module", "proxy_pass"),
    (c"ngx_http_fastcgi_module", "fastcgi_pass"),
    (c"ngx_http_uwsgi_module", "uwsgi_pass"),
    (c"ngx_http_scgi_module", "scgi_pass"),
    (c"ngx_http_grpc_module", "grpc_pass"),
];

thread_local! {
    /// Handlers, and the indices of their modules' configurations.
    static HANDLERS: RefCell<Vec<(ngx_http_handler_pt, usize)>> = const { RefCell::new(Vec::new()) };
}

extern "C" {
    /// See request_bits.c.
    fn ngx_rust_upstream_watches_client(conf: *const ngx_http_upstream_conf_t) -> ngx_uint_t;
}

/// Notes the handlers of the upstream modules. For postconfiguration, before nginx indexes its
/// variables.
pub(crate) fn find_handlers(cf: &mut Conf<'_>) {
    let mut handlers = Vec::new();
    for (module, directive) in MODULES {
        // SAFETY: `cf` is inside http {}, and the modules of its cycle are complete.
        let found = unsafe {
            module_named(&*(*cf.as_ptr()).cycle, module).and_then(|module| {
                Some((handler(cf.as_ptr(), module, directive)?, module.ctx_index))
            })
        };
        if let Some((handler, index)) = found {
            handlers.push((Some(handler), index));
        }
    }
    HANDLERS.set(handlers);
}

type UpstreamHandler =
    unsafe extern "C" fn(*mut nginx_sys::ngx_http_request_t) -> nginx_sys::ngx_int_t;

/// Sets `directive` of `module` in a new location, and returns the handler that the location then
/// has.
///
/// # Safety
///
/// `cf` is inside `http {}`.
unsafe fn handler(
    cf: *mut ngx_conf_t,
    module: &'static ngx_module_t,
    directive: &'static str,
) -> Option<UpstreamHandler> {
    // SAFETY: the caller's contract. The location has the two configurations that the directive
    // touches. A target with a variable makes the module compile it, and do nothing else.
    unsafe {
        let command = command(module, directive)?;
        let size = ngx_http_max_module * size_of::<*mut core::ffi::c_void>();
        let confs = ngx_pcalloc((*cf).pool, size).cast::<*mut core::ffi::c_void>();
        if confs.is_null() {
            return None;
        }
        for module in [&raw const ngx_http_core_module, ptr::from_ref(module)] {
            let module = &*module;
            let table = module.ctx.cast::<ngx_http_module_t>().as_ref()?;
            let conf = table.create_loc_conf?(cf);
            if conf.is_null() {
                return None;
            }
            *confs.add(module.ctx_index) = conf;
        }
        let http = &*(*cf).ctx.cast::<ngx_http_conf_ctx_t>();
        let mut context = ngx_http_conf_ctx_t {
            main_conf: http.main_conf,
            srv_conf: http.srv_conf,
            loc_conf: confs,
        };
        let words = [str_of(directive.as_bytes()), str_of(b"$uri")];
        let mut arguments = ngx_array_t {
            elts: words.as_ptr().cast_mut().cast(),
            nelts: words.len(),
            size: size_of::<ngx_str_t>(),
            nalloc: words.len(),
            pool: (*cf).pool,
        };
        let mut inner = ptr::read(cf);
        inner.ctx = (&raw mut context).cast();
        inner.args = &raw mut arguments;
        let set = (*command).set?;
        if !set(&raw mut inner, command, *confs.add(module.ctx_index)).is_null() {
            return None;
        }
        let core = (*confs.add(ngx_http_core_module.ctx_index)).cast::<ngx_http_core_loc_conf_t>();
        (*core).handler
    }
}

/// Returns the directive of this name.
///
/// # Safety
///
/// `module` is a module of nginx.
unsafe fn command(module: &ngx_module_t, name: &str) -> Option<*mut ngx_command_t> {
    let mut next = module.commands;
    // SAFETY: commands up to one without a name.
    unsafe {
        while let Some(command) = next.as_ref().filter(|command| command.name.len > 0) {
            if bytes(&command.name) == name.as_bytes() {
                return Some(next);
            }
            next = next.add(1);
        }
    }
    None
}

impl Request {
    /// Whether a request whose client left before the response ends. Upstream modules end it,
    /// without `proxy_ignore_client_abort` and the like. Any other handler would answer: over
    /// HTTP/1 its client may be half-closed and still read, while a stream of HTTP/2 or 3 that its
    /// client reset has no reader.
    pub(crate) fn is_ended_by_its_client(&self) -> bool {
        // SAFETY: a valid request, with a configuration of each HTTP module; that of an upstream
        // module begins with an ngx_http_upstream_conf_t.
        unsafe {
            let r = &*self.as_ptr();
            let is_stream = r.http_version >= nginx_sys::NGX_HTTP_VERSION_20 as usize;
            let Some(own) = r.content_handler else { return is_stream };
            HANDLERS.with_borrow(|handlers| {
                let is_own = |handler: &ngx_http_handler_pt| {
                    handler.is_some_and(|handler| ptr::fn_addr_eq(handler, own))
                };
                let found = handlers.iter().find(|(handler, _)| is_own(handler));
                found.map_or(is_stream, |(_, index)| {
                    ngx_rust_upstream_watches_client((*r.loc_conf.add(*index)).cast()) != 0
                })
            })
        }
    }
}
