//! Shared memory zones.
//!
//! A zone holds a header of the module, whose fields are atomic, and an arena of bytes, which is
//! accessed only under the slab mutex. nginx unlocks the slab mutex when a worker dies while
//! holding it (`ngx_unlock_mutexes()`). It would not unlock a lock of the module.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ptr::{self, NonNull};

use nginx_sys::{
    ngx_int_t, ngx_pagesize, ngx_pcalloc, ngx_shared_memory_add, ngx_shm_zone_t, ngx_shmtx_lock,
    ngx_shmtx_unlock, ngx_slab_alloc, ngx_slab_pool_t, NGX_ERROR, NGX_OK,
};

use crate::conf::{Conf, ConfError};
use crate::configuration::Configuration;
use crate::log::{Level, Log};
use crate::panic::guard;
use crate::string::{copy_to, Printable};
use crate::wake;

/// Contents of a zone besides its arena.
pub trait ZoneHeader: Sync + Sized + 'static {
    /// Number of this kind of zone. nginx never takes a zone for one of another kind.
    const KIND: ZoneKind = ZoneKind::First;

    /// Initializes the arena of a new zone, and returns its header, or a reason for the error log.
    fn init(arena: &mut [u8]) -> Result<Self, String>;
}

/// Kinds of zones of a module.
#[derive(Clone, Copy, Debug)]
pub enum ZoneKind {
    /// The first kind.
    First,
    /// The second kind.
    Second,
}

/// Stored in the zone, where `ngx_slab_pool_t.data` points to it.
struct Root<H> {
    arena: *mut u8,
    len: usize,
    header: H,
}

/// A zone that the configuration declares.
#[derive(Debug)]
pub struct SharedZone<H>(NonNull<ngx_shm_zone_t>, PhantomData<H>);

impl<H> Clone for SharedZone<H> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<H> Copy for SharedZone<H> {}

impl Conf<'_> {
    /// Declares the zone `name` of `size` bytes. Its contents survive a reload if name and size
    /// stay the same.
    pub fn shared_zone<C: Configuration, H: ZoneHeader>(
        &mut self,
        name: &str,
        size: usize,
    ) -> Result<SharedZone<H>, ConfError> {
        let cf = self.as_ptr();
        // SAFETY: nginx keeps the name: it is copied into the configuration's pool.
        unsafe {
            let mut name = copy_to((*cf).pool, name.as_bytes()).map_err(|_| ConfError::Logged)?;
            // nginx compares tags and reads nothing there: an address inside the index.
            let tag = ptr::from_ref(C::index()).cast::<u8>().wrapping_add(H::KIND as usize);
            let tag = tag.cast_mut().cast::<c_void>();
            let zone = ngx_shared_memory_add(cf, &mut name, size, tag);
            let Some(mut zone) = NonNull::new(zone) else { return Err(ConfError::Logged) };
            zone.as_mut().init = Some(init::<H>);
            // Not null, so that init() of the next cycle sees that the zone existed.
            zone.as_mut().data = ngx_pcalloc((*cf).pool, 1);
            wake::want();
            Ok(SharedZone(zone, PhantomData))
        }
    }
}

extern "C" fn init<H: ZoneHeader>(zone: *mut ngx_shm_zone_t, old: *mut c_void) -> ngx_int_t {
    // SAFETY: nginx passes a zone whose memory it has mapped and whose slab pool it has set up;
    // no other process uses a new zone yet.
    unsafe {
        let pool = (*zone).shm.addr.cast::<ngx_slab_pool_t>();
        let log = Log::from_ptr((*zone).shm.log);
        if !old.is_null() && !(*pool).data.is_null() {
            return NGX_OK as ngx_int_t;
        }
        let failed = |why: &str| {
            let name = Printable((*zone).shm.name.as_bytes());
            log.write(Level::Emerg, format_args!("{why} in shared memory zone \"{name}\""));
            NGX_ERROR as ngx_int_t
        };
        let root = ngx_slab_alloc(pool, size_of::<Root<H>>()).cast::<Root<H>>();
        let len = (*pool).pfree * ngx_pagesize;
        let arena = ngx_slab_alloc(pool, len).cast::<u8>();
        if root.is_null() || arena.is_null() {
            return failed("no memory");
        }
        let bytes = core::slice::from_raw_parts_mut(arena, len);
        match guard(log, Err("panic".into()), || H::init(bytes)) {
            Ok(header) => root.write(Root { arena, len, header }),
            Err(why) => return failed(&why),
        }
        (*pool).data = root.cast();
        (*pool).set_log_nomem(0);
    }
    NGX_OK as ngx_int_t
}

impl<H: ZoneHeader> SharedZone<H> {
    fn root(&self) -> (*mut ngx_slab_pool_t, *const Root<H>) {
        // SAFETY: the zone lives as long as the configuration, and init() set it up before the
        // first worker or request.
        unsafe {
            let pool = self.0.as_ref().shm.addr.cast::<ngx_slab_pool_t>();
            (pool, (*pool).data.cast_const().cast())
        }
    }

    /// Returns the header. No lock is needed, as its fields are atomic.
    pub fn header(&self) -> &H {
        // SAFETY: as in root(); headers are never written as a whole again.
        unsafe { &(*self.root().1).header }
    }

    /// Runs `body` with the arena, under the lock.
    pub fn lock<R>(&self, body: impl FnOnce(&mut [u8], &H) -> R) -> R {
        struct Unlock(*mut ngx_slab_pool_t);
        impl Drop for Unlock {
            fn drop(&mut self) {
                // SAFETY: locked below, by this process.
                unsafe { ngx_shmtx_unlock(&mut (*self.0).mutex) };
            }
        }
        let (pool, root) = self.root();
        // SAFETY: the mutex is in the zone; the arena is this process' alone until it is
        // unlocked, a panic included.
        unsafe {
            ngx_shmtx_lock(&mut (*pool).mutex);
            let _unlock = Unlock(pool);
            let arena = core::slice::from_raw_parts_mut((*root).arena, (*root).len);
            body(arena, &(*root).header)
        }
    }
}
