//! The configuration types of a module, and where nginx keeps them.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicUsize, Ordering};

use nginx_sys::{ngx_cycle_t, ngx_http_conf_ctx_t};

/// The configuration of an nginx HTTP module at each level. A marker type implements it.
pub trait Configuration: Sized + 'static {
    /// Configuration of `http {}`.
    type Main: Default;
    /// Configuration of a `server {}`.
    type Server: Default;
    /// Configuration of a location, and of the http and server levels above it.
    type Location: Default;

    /// Returns the index of the module, a `static` next to the implementation.
    fn index() -> &'static ModuleIndex;
}

/// Index of a module in nginx's arrays of configurations and request contexts
/// (`ngx_module_t.ctx_index`).
///
/// nginx assigns the index before it creates the first configuration. This copy is written then,
/// so that code that reads a configuration needs no access to the table of callbacks.
#[derive(Debug)]
pub struct ModuleIndex(AtomicUsize);

impl ModuleIndex {
    /// An index that is not assigned yet.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }

    pub(crate) fn set(&self, index: usize) {
        self.0.store(index, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Level of configuration that a directive fills.
pub trait Scope {
    /// Type of the configuration at this level.
    type Conf;
    #[doc(hidden)]
    const OFFSET: usize;
}

/// The `http` level of module `C`, for [`crate::Directive::Scope`].
#[derive(Debug)]
pub struct Main<C>(PhantomData<C>);

impl<C: Configuration> Scope for Main<C> {
    type Conf = C::Main;
    const OFFSET: usize = nginx_sys::NGX_HTTP_MAIN_CONF_OFFSET;
}

/// The location level (http, server and location) of module `C`, for [`crate::Directive::Scope`].
#[derive(Debug)]
pub struct Location<C>(PhantomData<C>);

impl<C: Configuration> Scope for Location<C> {
    type Conf = C::Location;
    const OFFSET: usize = nginx_sys::NGX_HTTP_LOC_CONF_OFFSET;
}

/// Returns the module's configuration of `http {}`, if `cycle` has such a block.
///
/// # Safety
///
/// `cycle` is the running cycle.
pub(crate) unsafe fn main_conf<C: Configuration>(cycle: &ngx_cycle_t) -> Option<&C::Main> {
    // SAFETY: the cycle's entry of the http module is null or its contexts, which have an entry
    // of this module that `create_main_conf` made.
    unsafe {
        let http = *cycle.conf_ctx.add(nginx_sys::ngx_http_module.index);
        let ctx = http.cast::<ngx_http_conf_ctx_t>().as_ref()?;
        (*ctx.main_conf.add(C::index().get())).cast::<C::Main>().as_ref()
    }
}
