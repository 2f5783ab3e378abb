//! The tables that nginx reads when it loads the module. Its submodules are the callbacks in them.

mod configuration;
mod filter;
mod process;
mod request;

use core::ffi::{c_char, CStr};
use core::ptr;

use nginx_sys::{
    ngx_command_t, ngx_conf_t, ngx_http_module_t, ngx_int_t, ngx_module_t, ngx_uint_t,
    NGX_HTTP_MODULE,
};

use crate::module::{Module, ModuleCell};

pub use configuration::Command;

/// `ngx_http_module_t` for a static.
#[repr(transparent)]
#[derive(Debug)]
pub struct Table(ngx_http_module_t);

// SAFETY: never written after it was built.
unsafe impl Sync for Table {}

impl Table {
    /// The callbacks of module `M`.
    pub const fn of<M: Module>() -> Self {
        Self(ngx_http_module_t {
            preconfiguration: Some(configuration::preconfiguration::<M>),
            postconfiguration: Some(configuration::postconfiguration::<M>),
            create_main_conf: Some(configuration::create_main::<M>),
            init_main_conf: None,
            create_srv_conf: Some(configuration::create_server::<M>),
            merge_srv_conf: None,
            create_loc_conf: Some(configuration::create_location::<M>),
            merge_loc_conf: Some(configuration::merge_location::<M>),
        })
    }

    /// The callback of the companion of `M` that adds its handler of the preaccess phase.
    pub const fn preaccess_of<M: Module>() -> Self {
        Self::companion(configuration::install_preaccess::<M>)
    }

    /// The callback of the companion of `M` that adds its last header filter.
    pub const fn filter_of<M: Module>() -> Self {
        Self::companion(filter::install_last::<M>)
    }

    const fn companion(install: extern "C" fn(*mut ngx_conf_t) -> ngx_int_t) -> Self {
        Self(ngx_http_module_t {
            preconfiguration: None,
            postconfiguration: Some(install),
            create_main_conf: None,
            init_main_conf: None,
            create_srv_conf: None,
            merge_srv_conf: None,
            create_loc_conf: None,
            merge_loc_conf: None,
        })
    }
}

/// The directives of a module, with nginx's terminator, for a static.
#[repr(transparent)]
#[derive(Debug)]
pub struct Commands<const N: usize>(pub [ngx_command_t; N]);

// SAFETY: never written after it was built.
unsafe impl<const N: usize> Sync for Commands<N> {}

/// Terminator of [`Commands`].
pub const END: ngx_command_t = ngx_command_t::empty();

/// Returns a module of `ctx` and `commands`, both static as nginx demands.
pub const fn http<const N: usize>(
    ctx: &'static Table,
    commands: &'static Commands<N>,
) -> ModuleCell {
    ModuleCell::new(http_module(ctx, commands))
}

/// Like [`http()`], with the callbacks for the start and end of a process.
pub const fn http_with_process<M: Module, const N: usize>(
    ctx: &'static Table,
    commands: &'static Commands<N>,
) -> ModuleCell {
    ModuleCell::new(ngx_module_t {
        init_module: Some(process::init_module::<M>),
        init_process: Some(process::init_process::<M>),
        exit_process: Some(process::exit_process::<M>),
        ..http_module(ctx, commands)
    })
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

/// Value of the exported `ngx_modules`: the modules, and null.
#[repr(transparent)]
#[derive(Debug)]
pub struct Pointers(pub [*const ModuleCell; 4]);

// SAFETY: never written; the modules are Sync.
unsafe impl Sync for Pointers {}

/// Value of the exported lists of module names, which end with null.
#[repr(transparent)]
#[derive(Debug)]
pub struct Names<const N: usize>(pub [*const c_char; N]);

// SAFETY: never written; the names are static and read-only.
unsafe impl<const N: usize> Sync for Names<N> {}

/// Returns the C string of `name`.
pub const fn cstr(name: &'static CStr) -> *const c_char {
    name.as_ptr()
}

/// Defines the static `MODULE` and exports three modules: `$module`, and two companions, which have
/// other places in nginx's order of modules: one for the preaccess phase, one for the last header
/// filter.
///
/// nginx's `load_module` looks up the three exported symbols (`ngx_load_module()`). `no_mangle` in
/// this macro is no unsafe code of the caller's: rustc reports no lint in the expansion of another
/// crate's macro, so the caller may forbid unsafe code.
#[macro_export]
macro_rules! nginx_modules {
    (
        $module:ty, $name:literal, $preaccess_name:literal, $filter_name:literal,
        [$($directive:ty),* $(,)?]
    ) => {
        static MODULE: $crate::ModuleCell = {
            use $crate::entry::{http_with_process, Command, Commands, Table, END};
            const N: usize = [$(stringify!($directive)),*].len() + 1;
            static TABLE: Table = Table::of::<$module>();
            static COMMANDS: Commands<N> = Commands([
                $(<$directive as Command>::COMMAND,)*
                END,
            ]);
            http_with_process::<$module, N>(&TABLE, &COMMANDS)
        };
        static PREACCESS: $crate::ModuleCell = {
            use $crate::entry::{http, Commands, Table, END};
            static TABLE: Table = Table::preaccess_of::<$module>();
            static COMMANDS: Commands<1> = Commands([END]);
            http(&TABLE, &COMMANDS)
        };
        static FILTER: $crate::ModuleCell = {
            use $crate::entry::{http, Commands, Table, END};
            static TABLE: Table = Table::filter_of::<$module>();
            static COMMANDS: Commands<1> = Commands([END]);
            http(&TABLE, &COMMANDS)
        };
        const _: () = {
            use $crate::entry::{cstr, Names, Pointers};

            #[no_mangle]
            static ngx_modules: Pointers = Pointers([
                &raw const MODULE,
                &raw const PREACCESS,
                &raw const FILTER,
                core::ptr::null(),
            ]);
            #[no_mangle]
            static ngx_module_names: Names<4> =
                Names([cstr($name), cstr($preaccess_name), cstr($filter_name), core::ptr::null()]);
            // nginx runs the handlers of a phase in reverse order of modules, and puts a module
            // before the first one present of those that stand after it here.
            //
            // Access: the module stands before nginx's own, so that it runs after them and makes
            // no look-up for a request that they deny. Preaccess: between realip, which sets the
            // client's address, and the limits, which may be keyed by the user. The last filter
            // stands before all filters that may add to a response.
            #[no_mangle]
            static ngx_module_order: Names<14> = Names([
                cstr($name),
                cstr(c"ngx_http_auth_request_module"),
                cstr(c"ngx_http_auth_basic_module"),
                cstr(c"ngx_http_access_module"),
                cstr($preaccess_name),
                cstr(c"ngx_http_realip_module"),
                cstr(c"ngx_http_geo_module"),
                cstr(c"ngx_http_map_module"),
                cstr(c"ngx_http_split_clients_module"),
                cstr(c"ngx_http_referer_module"),
                cstr(c"ngx_http_rewrite_module"),
                cstr($filter_name),
                cstr(c"ngx_http_range_header_filter_module"),
                core::ptr::null(),
            ]);
        };
    };
}
