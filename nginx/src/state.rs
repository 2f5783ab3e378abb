//! State that a module keeps of a client request, and the edits of a request that it can undo.

use core::any::Any;
use core::cell::{Cell, RefCell};
use core::ffi::c_void;
use core::fmt;
use core::ops::Deref;
use core::ptr;
use core::time::Duration;
use std::rc::Rc;

use nginx_sys::{
    ngx_connection_t, ngx_http_request_t, ngx_list_part_t, ngx_pool_cleanup_add, ngx_table_elt_t,
    u_char, NGX_ERROR,
};
use smallvec::SmallVec;

use crate::configuration::ModuleIndex;
use crate::error::Failed;
use crate::headers::{self, HeaderName};
use crate::hidden::{HiddenCell, Shown};
use crate::log::Log;
use crate::module::Module;
use crate::open::{Frames, Open, OpenCell};
use crate::panic::guard;
use crate::request::{filter_finalize, internal, Request};
use crate::suspend::{Resume, SuspensionCell};

/// Conversion of an `S` to request headers, for [`Request::inject`].
///
/// The module implements it, and not `S`, because `S` may come from another crate.
pub trait FieldsOf<S> {
    /// Most fields that there may be.
    fn most(source: &S) -> usize;

    /// Returns names and values, at most as many as [`Self::most`] says.
    fn fields(source: &S) -> impl Iterator<Item = (HeaderName<'_>, &[u8])>;
}

/// The fields of a source, ready for [`Request::inject_ready`] to add them to many requests.
pub struct ReadyFields {
    /// Names and values, which point into the source.
    elements: Vec<ngx_table_elt_t>,
    source: Rc<dyn Any>,
}

impl ReadyFields {
    /// Makes the fields of `source` ready.
    pub fn of<M: FieldsOf<S>, S: 'static>(source: &Rc<S>) -> Self {
        // SAFETY: zeros are a valid element: null pointers and numbers.
        let blank: ngx_table_elt_t = unsafe { core::mem::zeroed() };
        let mut elements = vec![blank; M::most(source)];
        let count = headers::fill(&mut elements, M::fields(source));
        elements.truncate(count);
        Self { elements, source: Rc::clone(source) as Rc<dyn Any> }
    }

    /// Returns true if these are the fields of `source`.
    pub fn is_of<S>(&self, source: &Rc<S>) -> bool {
        ptr::addr_eq(Rc::as_ptr(&self.source), Rc::as_ptr(source))
    }
}

impl fmt::Debug for ReadyFields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyFields").finish_non_exhaustive()
    }
}

/// State of a client request, shared by its subrequests. It dies with the request's pool.
pub struct State<M: Module>(Rc<Slot<M>>);

impl<M: Module> Deref for State<M> {
    type Target = M::State;

    fn deref(&self) -> &M::State {
        &self.0.user
    }
}

impl<M: Module> fmt::Debug for State<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

struct Slot<M: Module> {
    user: M::State,
    /// Part of `headers_in` with the injected headers, or null.
    injected: Cell<*mut ngx_list_part_t>,
    /// Owners of the bytes of all headers ever injected: variables may still point there.
    owners: RefCell<SmallVec<[Rc<dyn Any>; 1]>>,
    hidden: HiddenCell,
    suspension: SuspensionCell,
    open: OpenCell,
}

/// Makes a slot where it stays: `Rc::new` would copy its hundreds of bytes twice.
fn new_slot<M: Module>() -> Rc<Slot<M>> {
    let mut slot = Rc::<Slot<M>>::new_uninit();
    if let Some(place) = Rc::get_mut(&mut slot) {
        place.write(Slot {
            user: M::State::default(),
            injected: Cell::new(ptr::null_mut()),
            owners: RefCell::default(),
            hidden: HiddenCell::default(),
            suspension: SuspensionCell::default(),
            open: OpenCell::default(),
        });
    }
    // SAFETY: nothing else has the slot yet, so that get_mut() gave the place, which was written.
    unsafe { slot.assume_init() }
}

/// Data of the pool cleanup that owns a [`Slot`]. It is not generic, so that its handler has one
/// address, by which [`find_slot`] recognizes it.
struct Holder {
    module: *const ModuleIndex,
    slot: *const c_void,
    drop: unsafe fn(*const c_void),
}

type CleanupHandler = unsafe extern "C" fn(*mut c_void);

extern "C" fn drop_holder(data: *mut c_void) {
    // SAFETY: `data` is the Holder that state_or_default() wrote, and cleanups run once.
    let holder = unsafe { data.cast::<Holder>().read() };
    // SAFETY: `slot` came from Rc::into_raw of the type that `drop` takes.
    guard(Log::cycle(), (), || unsafe { (holder.drop)(holder.slot) });
}

unsafe fn drop_slot<M: Module>(slot: *const c_void) {
    // SAFETY: see state_or_default().
    let slot = unsafe { Rc::from_raw(slot.cast::<Slot<M>>()) };
    // Events that still name the request must not outlive it.
    slot.suspension.cancel();
    slot.open.close();
}

/// `c->send` of a connection whose frames are counted.
unsafe extern "C" fn send<M: Module>(
    c: *mut ngx_connection_t,
    bytes: *mut u_char,
    size: usize,
) -> isize {
    // SAFETY: in HTTP/1, `data` of the connection is a request, from its header until its pool is
    // destroyed, when the cell takes this function away. nginx passes `size` bytes.
    unsafe {
        let request = Request::from_ptr((*c).data.cast());
        let state = request.state::<M>();
        let sent = || state.map(|state| state.0.open.send(bytes, size));
        guard(Log::from_ptr((*c).log), None, sent).unwrap_or(NGX_ERROR as isize)
    }
}

/// Finds the slot of `M` after an internal redirect, or a filter that replaced the response,
/// cleared the contexts of the request.
///
/// # Safety
///
/// `main` is a valid request.
unsafe fn find_slot<M: Module>(main: *mut ngx_http_request_t) -> Option<*const Slot<M>> {
    // SAFETY: the request and its pool are valid; a cleanup with drop_holder() has a Holder.
    unsafe {
        if !internal(main) && !filter_finalize(main) {
            return None;
        }
        let mut cleanup = (*(*main).pool).cleanup;
        while let Some(c) = cleanup.as_ref() {
            let is_holder = |handler| ptr::fn_addr_eq(handler, drop_holder as CleanupHandler);
            if c.handler.is_some_and(is_holder) {
                let holder = &*c.data.cast::<Holder>();
                if ptr::eq(holder.module, M::index()) {
                    return Some(holder.slot.cast());
                }
            }
            cleanup = c.next;
        }
        None
    }
}

impl Request {
    /// Returns the state of this client request, if [`Self::state_or_default`] made it.
    pub fn state<M: Module>(&self) -> Option<State<M>> {
        let slot = self.slot::<M>()?;
        // SAFETY: the pool owns a count of the slot.
        unsafe {
            Rc::increment_strong_count(slot);
            Some(State(Rc::from_raw(slot)))
        }
    }

    /// The slot of this client request, by an address of `Rc::into_raw`. It lives as long as the
    /// request.
    fn slot<M: Module>(&self) -> Option<*const Slot<M>> {
        // SAFETY: `main` is valid while any of its subrequests is; its ctx array has an entry
        // per module; a non-null entry of this module is a slot that state_or_default() made and
        // the pool owns.
        unsafe {
            let main = (*self.as_ptr()).main;
            let ctx = (*main).ctx.add(M::index().get());
            if (*ctx).is_null() {
                *ctx = find_slot::<M>(main)?.cast_mut().cast();
            }
            Some((*ctx).cast_const().cast())
        }
    }

    /// Returns the state of this client request, and makes it if there is none.
    pub fn state_or_default<M: Module>(&mut self) -> Result<State<M>, Failed> {
        if let Some(state) = self.state::<M>() {
            return Ok(state);
        }
        let slot = new_slot::<M>();
        // SAFETY: the pool of a request outlives the request's callbacks; the cleanup owns one
        // count of the slot.
        unsafe {
            let main = (*self.as_ptr()).main;
            let cleanup = ngx_pool_cleanup_add((*main).pool, size_of::<Holder>());
            if cleanup.is_null() {
                return Err(Failed);
            }
            let raw = Rc::into_raw(Rc::clone(&slot));
            let holder = Holder { module: M::index(), slot: raw.cast(), drop: drop_slot::<M> };
            (*cleanup).data.cast::<Holder>().write(holder);
            (*cleanup).handler = Some(drop_holder);
            *(*main).ctx.add(M::index().get()) = raw.cast_mut().cast();
        }
        Ok(State(slot))
    }

    /// Adds the fields of `source` to the request's headers, until [`Self::withdraw`]. They are
    /// not copied: the request keeps their source.
    pub fn inject<M: Module + FieldsOf<S>, S: 'static>(
        &mut self,
        state: &State<M>,
        source: &Rc<S>,
    ) -> Result<(), Failed> {
        self.withdraw(state)?;
        // SAFETY: the list and the pool are the request's own. The slot dies with the pool, and
        // its sources are shared: no code can change them.
        let part = unsafe {
            let r = self.as_ptr();
            headers::append(
                &mut (*r).headers_in.headers,
                (*r).pool,
                M::most(source),
                M::fields(source),
            )?
        };
        if !part.is_null() {
            state.0.owners.borrow_mut().push(Rc::clone(source) as Rc<dyn Any>);
            state.0.injected.set(part);
        }
        Ok(())
    }

    /// Adds fields like [`Self::inject`], with fewer instructions.
    pub fn inject_ready<M: Module>(
        &mut self,
        state: &State<M>,
        ready: &Rc<ReadyFields>,
    ) -> Result<(), Failed> {
        self.withdraw(state)?;
        // SAFETY: as in inject(); the fields keep their source.
        let part = unsafe {
            let r = self.as_ptr();
            headers::append_copies(&mut (*r).headers_in.headers, (*r).pool, &ready.elements)?
        };
        if !part.is_null() {
            state.0.owners.borrow_mut().push(Rc::clone(ready) as Rc<dyn Any>);
            state.0.injected.set(part);
        }
        Ok(())
    }

    /// Removes the headers that [`Self::inject`] added.
    pub fn withdraw<M: Module>(&mut self, state: &State<M>) -> Result<(), Failed> {
        let part = state.0.injected.replace(ptr::null_mut());
        if part.is_null() {
            return Ok(());
        }
        // SAFETY: the list and the pool are the request's own, and `part` came from it.
        unsafe {
            let r = self.as_ptr();
            headers::unlink(&mut (*r).headers_in.headers, (*r).pool, part)
        }
    }

    /// Hides the `Authorization` and `Cookie` fields from upstream modules, as `show` says for
    /// each lower-case name and value, until [`Self::restore`].
    pub fn hide<M: Module>(
        &mut self,
        state: &State<M>,
        show: impl Fn(&'static [u8], &[u8]) -> Shown,
    ) -> Result<(), Failed> {
        self.hide_in(&state.0.hidden, show)
    }

    /// Shows the fields again that [`Self::hide`] hid.
    pub fn restore<M: Module>(&mut self, state: &State<M>) {
        self.restore_from(&state.0.hidden);
    }

    /// Returns the values of the fields `name`, of lower-case letters only, as the client sent them:
    /// hidden or not.
    pub fn sent<M: Module, const N: usize>(
        &self,
        name: &'static [u8; N],
    ) -> impl Iterator<Item = &[u8]> {
        // SAFETY: the slot lives as long as the request.
        self.sent_with(self.slot::<M>().map(|slot| unsafe { &(*slot).hidden }), name)
    }

    /// Suspends the request for at most `deadline`. The caller then returns
    /// [`crate::PhaseStatus::Again`] from the preaccess or access phase. nginx calls the phase
    /// again when the request is resumed or the time has passed. A client that leaves ends the
    /// request only if the handler that follows would end it.
    pub fn suspend<M: Module>(
        &mut self,
        state: &State<M>,
        deadline: Duration,
    ) -> Result<Resume, Failed> {
        self.suspend_in(&state.0.suspension, deadline)
    }

    /// Returns a handle of the client's request.
    pub fn open<M: Module>(&self, state: &State<M>) -> Open {
        // SAFETY: a request has a valid main request.
        state.0.open.open(unsafe { (*self.as_ptr()).main })
    }

    /// Counts the frames of the response from now on, for [`Open::end`]: the header of an upgrade
    /// of HTTP/1 is about to be sent. Does nothing if the request has no [handle](Self::open).
    pub fn count_frames<M: Module>(&mut self, state: &State<M>, frames: Box<dyn Frames>) {
        if self.is_http2_or_later() {
            return;
        }
        // SAFETY: the state is that of the main request, to which HTTP/1 gives its connection.
        unsafe { state.0.open.count_frames((*self.as_ptr()).main, send::<M>, frames) };
    }

    /// Ends a suspension. For the start of a new pass over the phases.
    pub fn cancel_suspension<M: Module>(&mut self, state: &State<M>) {
        state.0.suspension.cancel();
    }
}
