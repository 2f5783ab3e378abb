//! The configuration types of a module, and where nginx keeps them.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::rc::Rc;

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
    /// Returns the configuration of a location with no directive of the module, the same one each
    /// time. All such locations share it.
    fn blank() -> Rc<Self::Location>;
}

/// The module's configuration of a level, as nginx's arrays have it.
///
/// A level without directives of its own shares that of the level above: most locations of a large
/// configuration have none.
#[derive(Debug)]
#[doc(hidden)]
pub struct Level<T> {
    conf: Rc<T>,
    origin: Origin,
}

/// Origin of the configuration of a [`Level`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// Neither this level nor one above has a directive.
    Blank,
    /// Directives of this level, before those above were merged into them.
    Own,
    /// This level and those above.
    Merged,
}

impl<T> Level<T> {
    pub(crate) fn blank(conf: Rc<T>) -> Self {
        Self { conf, origin: Origin::Blank }
    }

    pub(crate) fn get(&self) -> &T {
        &self.conf
    }
}

impl<T: Default> Level<T> {
    /// Returns the level's own configuration, which is not shared. `None` once it is.
    pub(crate) fn own(&mut self) -> Option<&mut T> {
        if self.origin == Origin::Blank {
            *self = Self { conf: Rc::default(), origin: Origin::Own };
        }
        Rc::get_mut(&mut self.conf)
    }

    /// Takes over the configuration of `parent` if this level has no directive and `shares` agrees.
    /// Otherwise returns the level's own, for what it leaves unset to be filled in.
    pub(crate) fn inherit(
        &mut self,
        parent: &Self,
        shares: impl FnOnce(&T) -> bool,
    ) -> Option<&mut T> {
        match (self.origin, parent.origin) {
            (Origin::Blank, Origin::Blank) => None,
            // Only what was merged is complete: the level of `http {}` never is.
            (Origin::Blank, Origin::Merged) if shares(&parent.conf) => {
                *self = Self { conf: Rc::clone(&parent.conf), origin: Origin::Merged };
                None
            }
            _ => {
                self.own()?;
                self.origin = Origin::Merged;
                Rc::get_mut(&mut self.conf)
            }
        }
    }
}

/// Identity of a location. Its configuration is none, because locations share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocationId(usize);

impl LocationId {
    /// Identity of the location whose entry of a module is `conf`.
    pub(crate) fn of(conf: *const core::ffi::c_void) -> Self {
        Self(conf as usize)
    }
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
    /// Object that nginx keeps for the level.
    #[doc(hidden)]
    type Kept;
    #[doc(hidden)]
    const OFFSET: usize;
    /// Returns what a directive fills. `None` if the level is complete already.
    #[doc(hidden)]
    fn own(kept: &mut Self::Kept) -> Option<&mut Self::Conf>;
}

/// The `http` level of module `C`, for [`crate::Directive::Scope`].
#[derive(Debug)]
pub struct Main<C>(PhantomData<C>);

impl<C: Configuration> Scope for Main<C> {
    type Conf = C::Main;
    type Kept = C::Main;
    const OFFSET: usize = nginx_sys::NGX_HTTP_MAIN_CONF_OFFSET;

    fn own(kept: &mut C::Main) -> Option<&mut C::Main> {
        Some(kept)
    }
}

/// The location level (http, server and location) of module `C`, for [`crate::Directive::Scope`].
#[derive(Debug)]
pub struct Location<C>(PhantomData<C>);

impl<C: Configuration> Scope for Location<C> {
    type Conf = C::Location;
    type Kept = Level<C::Location>;
    const OFFSET: usize = nginx_sys::NGX_HTTP_LOC_CONF_OFFSET;

    fn own(kept: &mut Level<C::Location>) -> Option<&mut C::Location> {
        kept.own()
    }
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
