//! Shared memory zones.
//!
//! A zone holds a header of the module, whose fields are atomic, and an arena of bytes, which is
//! accessed only under the slab mutex. nginx unlocks the slab mutex when a worker dies while
//! holding it (`ngx_unlock_mutexes()`). It would not unlock a lock of the module.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::ops::Deref;
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

    /// Initializes the memory of a new zone, and returns its header, or a reason for the error log.
    fn init(memory: &mut ZoneMemory) -> Result<Self, String>;
}

/// Memory of a zone that is being made.
#[derive(Debug)]
pub struct ZoneMemory {
    pool: *mut ngx_slab_pool_t,
    arena: Option<(*mut u8, usize)>,
}

/// Values in a zone beside its header, at the same address in all processes.
#[derive(Debug)]
pub struct SharedSlice<T> {
    first: NonNull<T>,
    len: usize,
}

// SAFETY: it gives out shared references only, to memory that lives as long as the header that it
// is a part of.
unsafe impl<T: Sync> Sync for SharedSlice<T> {}

impl<T> Deref for SharedSlice<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: ZoneMemory::slice() has written that many values; nginx frees a zone as a whole.
        unsafe { core::slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }
}

impl ZoneMemory {
    /// Makes values one by one in their places, since many of them are too large for the stack. Call
    /// before [`Self::arena`], which takes what is left.
    pub fn slice<T: Sync + 'static>(
        &mut self,
        len: usize,
        make: impl Fn() -> T,
    ) -> Result<SharedSlice<T>, String> {
        const { assert!(align_of::<T>() <= 16) };
        // SAFETY: the pool of a new zone, which this process alone uses. From a page on, slab memory
        // is aligned to pages.
        unsafe {
            let size = (len * size_of::<T>()).max(ngx_pagesize);
            let first = NonNull::new(ngx_slab_alloc(self.pool, size).cast::<T>());
            let first = first.ok_or("no memory")?;
            for place in 0..len {
                first.add(place).write(make());
            }
            Ok(SharedSlice { first, len })
        }
    }

    /// Returns the arena: all memory that is left.
    pub fn arena(&mut self) -> Result<&mut [u8], String> {
        // SAFETY: as above; the arena is given out once at a time.
        unsafe {
            let (arena, len) = match self.arena {
                Some(arena) => arena,
                None => {
                    let len = (*self.pool).pfree * ngx_pagesize;
                    let arena = ngx_slab_alloc(self.pool, len).cast::<u8>();
                    if arena.is_null() {
                        return Err("no memory".into());
                    }
                    *self.arena.insert((arena, len))
                }
            };
            Ok(core::slice::from_raw_parts_mut(arena, len))
        }
    }
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
        if root.is_null() {
            return failed("no memory");
        }
        let mut memory = ZoneMemory { pool, arena: None };
        let made = guard(log, Err(String::from("panic")), || {
            let header = H::init(&mut memory)?;
            let arena = memory.arena()?;
            Ok(Root { arena: arena.as_mut_ptr(), len: arena.len(), header })
        });
        match made {
            Ok(made) => root.write(made),
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
