//! Callbacks while nginx reads a configuration.

use core::ffi::{c_char, c_void, CStr};
use core::ptr;

use nginx_sys::{
    ngx_command_t, ngx_conf_t, ngx_http_conf_ctx_t, ngx_http_core_loc_conf_t, ngx_int_t, ngx_str_t,
    ngx_uint_t, NGX_CONF_1MORE, NGX_CONF_BLOCK, NGX_CONF_NOARGS, NGX_CONF_TAKE1, NGX_CONF_TAKE2,
    NGX_ERROR, NGX_HTTP_LMT_CONF, NGX_HTTP_LOC_CONF, NGX_HTTP_MAIN_CONF, NGX_HTTP_SRV_CONF, NGX_OK,
};
use ngx::core::{Pool, NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::{HttpModuleLocationConf as _, HttpModuleMainConf as _, NgxHttpCoreModule};

use super::{filter, request};
use crate::conf::{Arguments, Conf, ConfError, Context, Directive};
use crate::configuration::{Level, Scope};
use crate::log::Log;
use crate::module::Module;
use crate::panic::guard;
use crate::servers::ContentMark;
use crate::upstream;

const OK: ngx_int_t = NGX_OK as ngx_int_t;
const ERROR: ngx_int_t = NGX_ERROR as ngx_int_t;

/// Makes the configuration of `http {}`: the first callback of each cycle.
pub(super) extern "C" fn create_main<M: Module>(cf: *mut ngx_conf_t) -> *mut c_void {
    M::index().set(M::cell().ctx_index());
    keep(cf, M::Main::default)
}

/// Makes the configuration of a `server {}`.
pub(super) extern "C" fn create_server<M: Module>(cf: *mut ngx_conf_t) -> *mut c_void {
    keep(cf, M::Server::default)
}

/// Makes the configuration of a location, or of a level above.
pub(super) extern "C" fn create_location<M: Module>(cf: *mut ngx_conf_t) -> *mut c_void {
    keep(cf, || Level::blank(M::blank()))
}

/// Makes a configuration in the pool of the cycle.
fn keep<T>(cf: *mut ngx_conf_t, make: impl FnOnce() -> T) -> *mut c_void {
    // SAFETY: nginx passes a valid `cf` with a pool.
    let (log, pool) = unsafe { (Log::from_ptr((*cf).log), Pool::from_ngx_pool((*cf).pool)) };
    guard(log, ptr::null_mut(), || pool.allocate(make()).cast())
}

pub(super) extern "C" fn preconfiguration<M: Module>(cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid `cf`.
    let mut cf = unsafe { Conf::from_ptr(cf) };
    guard(cf.log(), ERROR, || {
        let result = M::preconfiguration(&mut cf);
        if cf.report(result) {
            OK
        } else {
            ERROR
        }
    })
}

pub(super) extern "C" fn merge_location<M: Module>(
    cf: *mut ngx_conf_t,
    parent: *mut c_void,
    location: *mut c_void,
) -> *mut c_char {
    let index = M::index().get();
    // SAFETY: nginx passes a valid `cf` whose `ctx` holds the configurations of this http {} and
    // of the server being merged (ngx_http_merge_servers()), and for parent and location what
    // `create_location` returned; the four are distinct objects.
    let (mut cf, main, server, parent, location) = unsafe {
        let ctx = &*(*cf).ctx.cast::<ngx_http_conf_ctx_t>();
        (
            Conf::from_ptr(cf),
            &mut *(*ctx.main_conf.add(index)).cast::<M::Main>(),
            &mut *(*ctx.srv_conf.add(index)).cast::<M::Server>(),
            &*parent.cast::<Level<M::Location>>(),
            &mut *location.cast::<Level<M::Location>>(),
        )
    };
    guard(cf.log(), NGX_CONF_ERROR, || {
        let resolver = cf.resolver();
        let own = location.inherit(parent, |parent| M::share_location(resolver, parent));
        let result = match own {
            Some(own) => M::merge_location(&mut cf, main, server, parent.get(), own),
            None => Ok(()),
        };
        if cf.report(result) {
            NGX_CONF_OK
        } else {
            NGX_CONF_ERROR
        }
    })
}

pub(super) extern "C" fn postconfiguration<M: Module>(cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid `cf` inside http {}, whose entry of this module
    // create_main_conf made.
    let (mut conf, main) = unsafe {
        let ctx = &*(*cf).ctx.cast::<ngx_http_conf_ctx_t>();
        (Conf::from_ptr(cf), &mut *(*ctx.main_conf.add(M::index().get())).cast::<M::Main>())
    };
    let done = guard(conf.log(), false, || {
        let result = M::postconfiguration(&mut conf, main);
        conf.report(result)
    });
    if !done {
        return ERROR;
    }
    upstream::find_handlers(&mut conf);
    // SAFETY: as above.
    let core = unsafe { NgxHttpCoreModule::main_conf_mut(&*cf) };
    match core.map(request::install_phases::<M>) {
        Some(Ok(())) => {
            filter::begin();
            OK
        }
        _ => ERROR,
    }
}

pub(super) extern "C" fn install_preaccess<M: Module>(cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid `cf` inside http {}.
    let core = unsafe { NgxHttpCoreModule::main_conf_mut(&*cf) };
    match core.map(request::install_preaccess::<M>) {
        Some(Ok(())) => OK,
        _ => ERROR,
    }
}

/// The `ngx_command_t` of a [`Directive`].
pub trait Command {
    /// The entry of nginx's table.
    const COMMAND: ngx_command_t;
}

impl<D: Directive> Command for D {
    const COMMAND: ngx_command_t = ngx_command_t {
        name: ngx_str_t { len: D::NAME.count_bytes(), data: D::NAME.as_ptr().cast_mut().cast() },
        type_: (match D::CONTEXT {
            Context::Http => NGX_HTTP_MAIN_CONF,
            Context::HttpServerLocation => {
                NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF
            }
            Context::HttpServer => NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF,
            Context::Location => NGX_HTTP_LOC_CONF,
            Context::Everywhere => {
                NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | NGX_HTTP_LMT_CONF
            }
        } | match D::ARGUMENTS {
            Arguments::None => NGX_CONF_NOARGS,
            Arguments::One => NGX_CONF_TAKE1,
            Arguments::OneOrTwo => NGX_CONF_TAKE1 | NGX_CONF_TAKE2,
            Arguments::Two => NGX_CONF_TAKE2,
            Arguments::OneOrMore => NGX_CONF_1MORE,
        } | if D::BLOCK { NGX_CONF_BLOCK } else { 0 }) as ngx_uint_t,
        set: Some(set::<D>),
        conf: D::Scope::OFFSET,
        offset: 0,
        post: ptr::null_mut(),
    };
}

extern "C" fn set<D: Directive>(
    cf: *mut ngx_conf_t,
    _command: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: nginx passes a valid `cf`, and for `conf` what the module created for the level
    // that the command's offset names.
    let (mut cf, kept) =
        unsafe { (Conf::from_ptr(cf), &mut *conf.cast::<<D::Scope as Scope>::Kept>()) };
    let mut set = |cf: &mut Conf<'_>| {
        let conf =
            D::Scope::own(kept).ok_or_else(|| ConfError::new("directive after its block"))?;
        D::set(cf, conf)
    };
    guard(cf.log(), NGX_CONF_ERROR, || match set(&mut cf) {
        Err(ConfError::Duplicate) => c"is duplicate".as_ptr().cast_mut(),
        result => {
            if cf.report(result) {
                NGX_CONF_OK
            } else {
                NGX_CONF_ERROR
            }
        }
    })
}

impl Conf<'_> {
    /// Gives every variable whose name begins with `name` the value of [`Module::variable`]. For
    /// preconfiguration.
    pub fn add_prefix<M: Module>(&mut self, name: &'static str) -> Result<(), ConfError> {
        self.define_prefix(name, request::variable::<M>)
    }

    /// Gives `$name` the value of [`Module::variable`], unless the configuration defines it. For
    /// postconfiguration.
    pub fn add_variable<M: Module>(&mut self, name: &'static str) -> Result<(), ConfError> {
        self.define_variable(name, request::variable::<M>)
    }

    /// Gives nginx's own variable `name` the value of [`Module::override_variable`].
    pub fn override_variable<M: Module>(&mut self, name: &'static CStr) -> Result<(), ConfError> {
        self.replace_variable(name, request::overridden_variable::<M>)
    }

    /// Has [`Module::content`] answer the requests of the `location {}` being read. Returns `None`
    /// if another directive answers them.
    pub fn set_content<M: Module>(&mut self) -> Result<Option<ContentMark>, ConfError> {
        // SAFETY: in location {}; its configuration of nginx's core is written while it is read.
        let core = unsafe { NgxHttpCoreModule::location_conf_mut(&*self.as_ptr()) };
        let core: &mut ngx_http_core_loc_conf_t = core.ok_or(ConfError::Logged)?;
        if core.handler.is_some() {
            return Ok(None);
        }
        core.handler = Some(request::content::<M>);
        Ok(ContentMark::of(core))
    }

    /// Takes all `error_page` lines out of the `location {}` being merged, inherited ones too.
    pub fn leave_out_error_pages(&mut self) -> Result<(), ConfError> {
        // SAFETY: nginx merges a location with `cf` of this location, and its core, the first
        // module, has merged it by then. Nobody else reads it meanwhile.
        let core = unsafe { NgxHttpCoreModule::location_conf_mut(&*self.as_ptr()) };
        let core: &mut ngx_http_core_loc_conf_t = core.ok_or(ConfError::Logged)?;
        core.error_pages = ptr::null_mut();
        Ok(())
    }
}
