//! `ngx_http_request_t`.

use core::any::Any;
use core::cell::{Cell, RefCell};
use core::ffi::c_void;
use core::ops::Deref;
use core::ptr;
use std::rc::Rc;

use nginx_sys::{
    ngx_http_request_t, ngx_int_t, ngx_list_part_t, ngx_list_push, ngx_pool_cleanup_add,
    ngx_table_elt_t, NGX_AGAIN, NGX_DECLINED, NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_OK,
};
use smallvec::SmallVec;

use super::headers::{self, bytes, copy_to, Elements, Headers};
use super::hidden::Hidden;
use super::log::Log;
use super::module::{Module, ModuleCell};
use super::suspend::Suspension;
use super::variable;

/// nginx had no memory, or refused what was asked; it has logged why.
#[derive(Clone, Copy, Debug)]
pub struct Failed;

/// Phases in which a module is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// After the request's headers were read. Not for requests that nginx itself refuses.
    PostRead,
    /// Start of a pass: the request, or a redirect to a URI. Before location and rewrites.
    ServerRewrite,
    /// Before access is decided, in the location of this pass.
    Preaccess,
    /// Access, with `satisfy`.
    Access,
    /// Access was granted, and the answer is about to be made.
    Precontent,
}

/// What a phase handler answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// No opinion: on to the next handler.
    Declined,
    /// Access is granted, whatever else `satisfy any` would ask.
    Allowed,
    /// Suspended.
    Again,
    /// nginx answers 500.
    InternalServerError,
    /// nginx answers this status.
    Http(u16),
}

impl Status {
    pub(super) fn into_ngx(self) -> ngx_int_t {
        match self {
            Self::Declined => NGX_DECLINED as ngx_int_t,
            Self::Allowed => NGX_OK as ngx_int_t,
            Self::Again => NGX_AGAIN as ngx_int_t,
            Self::InternalServerError => NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t,
            Self::Http(status) => status as ngx_int_t,
        }
    }
}

/// A request or subrequest, for the duration of a callback.
#[repr(transparent)]
pub struct Request(ngx_http_request_t);

/// What has fields that can become request headers.
pub trait Fields {
    /// Lower-case names, and values.
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone;
}

/// What a module keeps of a client request. It dies with the request's pool.
pub struct State<M: Module>(Rc<Slot<M>>);

impl<M: Module> Deref for State<M> {
    type Target = M::State;

    fn deref(&self) -> &M::State {
        &self.0.user
    }
}

struct Slot<M: Module> {
    user: M::State,
    /// The part of `headers_in` that holds what was injected, or null.
    injected: Cell<*mut ngx_list_part_t>,
    /// What owns the bytes of all that was ever injected: variables may still point there.
    owners: RefCell<SmallVec<[Rc<dyn Any>; 1]>>,
    hidden: RefCell<Option<Hidden>>,
    suspension: RefCell<Option<Rc<Suspension>>>,
}

impl<M: Module> State<M> {
    pub(super) fn hidden(&self) -> &RefCell<Option<Hidden>> {
        &self.0.hidden
    }
}

/// Data of the pool cleanup that owns a [`Slot`]; not generic, so that its handler has one
/// address by which it is found again.
struct Holder {
    module: *const ModuleCell,
    slot: *const c_void,
    drop: unsafe fn(*const c_void),
}

extern "C" fn drop_holder(data: *mut c_void) {
    // SAFETY: `data` is the Holder that state_or_default() wrote, and cleanups run once.
    let holder = unsafe { data.cast::<Holder>().read() };
    // SAFETY: `slot` came from Rc::into_raw of the type that `drop` takes.
    super::module::guard(Log::cycle(), (), || unsafe { (holder.drop)(holder.slot) });
}

unsafe fn drop_slot<M: Module>(slot: *const c_void) {
    // SAFETY: see keep().
    let slot = unsafe { Rc::from_raw(slot.cast::<Slot<M>>()) };
    // Events that still name the request must not outlive it.
    if let Some(suspension) = slot.suspension.take() {
        suspension.cancel();
    }
}

impl Request {
    /// # Safety
    ///
    /// `r` is valid for `'a` and not otherwise borrowed by Rust code.
    pub(super) unsafe fn from_ptr<'a>(r: *mut ngx_http_request_t) -> &'a mut Self {
        // SAFETY: the caller's contract; the layouts are the same.
        unsafe { &mut *r.cast::<Self>() }
    }

    pub(super) fn as_ptr(&self) -> *mut ngx_http_request_t {
        ptr::from_ref(&self.0).cast_mut()
    }

    /// Whether this is the client's request and no subrequest.
    pub fn is_main(&self) -> bool {
        ptr::eq(self.0.main, &self.0)
    }

    /// Whether nginx redirected the request internally, or made it.
    pub fn is_internal(&self) -> bool {
        // SAFETY: a valid request.
        unsafe { internal(&self.0) }
    }

    /// The connection's log: nginx appends client, server and request line.
    pub fn log(&self) -> Log {
        // SAFETY: a request has a connection with a log for all its life.
        unsafe { Log::from_ptr((*self.0.connection).log) }
    }

    /// Configuration of the location that handles this pass.
    pub fn location<M: Module>(&self) -> &'static M::Location {
        // SAFETY: nginx made one M::Location for each location (module.rs); configurations
        // outlive requests, and are not written after they were read.
        unsafe { &*(*self.0.loc_conf.add(M::cell().ctx_index())).cast() }
    }

    /// Configuration of the server.
    pub fn server<M: Module>(&self) -> &'static M::Server {
        // SAFETY: as above.
        unsafe { &*(*self.0.srv_conf.add(M::cell().ctx_index())).cast() }
    }

    /// Configuration of `http {}`.
    pub fn main_conf<M: Module>(&self) -> &'static M::Main {
        // SAFETY: as above.
        unsafe { &*(*self.0.main_conf.add(M::cell().ctx_index())).cast() }
    }

    /// The client's address as text, after realip; `unix:` for a local socket.
    pub fn client_address(&self) -> &[u8] {
        // SAFETY: `addr_text` belongs to the connection, or to realip's context in the pool.
        unsafe { bytes(&(*self.0.connection).addr_text) }
    }

    /// Request headers, in the order of appearance.
    pub fn headers_in(&self) -> Headers<'_> {
        // SAFETY: zeroed with the request, then a list of headers.
        unsafe { Headers::of(&self.0.headers_in.headers) }
    }

    /// Value of the first header `name`.
    pub fn header(&self, name: &[u8]) -> Option<&[u8]> {
        let mut headers = self.headers_in();
        headers.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Status of the answer.
    pub fn status_out(&self) -> u16 {
        self.0.headers_out.status as u16
    }

    /// Whether the answer has this header with this value.
    pub fn has_header_out(&self, name: &str, value: &[u8]) -> bool {
        // SAFETY: the list of the request's answer.
        let mut headers = unsafe { Elements::of(&self.0.headers_out.headers) };
        // SAFETY: as above.
        headers.any(|header| unsafe {
            (*header).hash != 0
                && bytes(&(*header).key).eq_ignore_ascii_case(name.as_bytes())
                && bytes(&(*header).value) == value
        })
    }

    /// Gives the answer this header in place of all of that name.
    pub fn replace_header_out(&mut self, name: &'static str, value: &str) -> Result<(), Failed> {
        // SAFETY: the list of the request's answer, which nobody else touches meanwhile; nginx
        // sends no header whose hash is 0.
        unsafe {
            for header in Elements::of(&self.0.headers_out.headers) {
                if bytes(&(*header).key).eq_ignore_ascii_case(name.as_bytes()) {
                    (*header).hash = 0;
                }
            }
        }
        self.add_header_out(name, value)
    }

    /// Adds a header to the answer.
    pub fn add_header_out(
        &mut self,
        name: &'static str,
        value: impl AsRef<[u8]>,
    ) -> Result<(), Failed> {
        // SAFETY: the list of headers and the pool are the request's own.
        unsafe {
            let value = copy_to(self.0.pool, value.as_ref())?;
            let header = ngx_list_push(&mut self.0.headers_out.headers).cast::<ngx_table_elt_t>();
            if header.is_null() {
                return Err(Failed);
            }
            ptr::write_bytes(header, 0, 1);
            (*header).hash = 1;
            (*header).key = super::conf::str_of(name.as_bytes());
            (*header).value = value;
        }
        Ok(())
    }

    /// Makes an answer of one's own of the one that is about to be sent, in the header filter:
    /// what nginx would have sent as its body is not sent.
    pub fn answer(&mut self, status: u16, content_type: &'static str, length: usize) {
        let out = &mut self.0.headers_out;
        out.status = status as usize;
        // What $status and logs show.
        self.0.err_status = status as usize;
        let out = &mut self.0.headers_out;
        out.status_line = nginx_sys::ngx_str_t::empty();
        out.content_type = super::conf::str_of(content_type.as_bytes());
        out.content_type_len = content_type.len();
        out.charset = nginx_sys::ngx_str_t::empty();
        out.content_length_n = length as _;
        out.last_modified_time = -1;
        for header in [&mut out.content_length, &mut out.content_encoding, &mut out.etag] {
            // SAFETY: null, or a header of this answer.
            if let Some(header) = unsafe { header.as_mut() } {
                header.hash = 0;
            }
            *header = ptr::null_mut();
        }
        if length == 0 {
            // SAFETY: a valid request.
            unsafe { set_header_only(&mut self.0, true) };
        }
    }

    /// Sends the body of [`Self::answer`], after its header.
    pub(super) fn send_body(&mut self, body: &[u8]) -> Result<ngx_int_t, Failed> {
        let mut rc = NGX_OK as ngx_int_t;
        // SAFETY: a valid request; the buffer and its chain live in its pool.
        unsafe {
            if self.0.method == nginx_sys::NGX_HTTP_HEAD as usize {
                return Ok(rc);
            }
            if !body.is_empty() {
                let buf = nginx_sys::ngx_create_temp_buf(self.0.pool, body.len());
                let chain = nginx_sys::ngx_alloc_chain_link(self.0.pool);
                if buf.is_null() || chain.is_null() {
                    return Err(Failed);
                }
                ptr::copy_nonoverlapping(body.as_ptr(), (*buf).pos, body.len());
                (*buf).last = (*buf).pos.add(body.len());
                (*buf).set_last_buf(1);
                (*buf).set_last_in_chain(1);
                (*chain).buf = buf;
                (*chain).next = ptr::null_mut();
                rc = nginx_sys::ngx_http_output_filter(&mut self.0, chain);
            } else if bits::ngx_rust_request_chunked(&self.0) != 0 {
                // Trailers made nginx choose chunks: the last one must come.
                set_header_only(&mut self.0, false);
                rc = nginx_sys::ngx_http_send_special(
                    &mut self.0,
                    nginx_sys::NGX_HTTP_LAST as usize,
                );
            }
            // Whoever was about to send a body sees that there is none to send.
            set_header_only(&mut self.0, true);
        }
        Ok(rc)
    }

    /// Whether the method is GET.
    pub fn is_get(&self) -> bool {
        self.0.method == nginx_sys::NGX_HTTP_GET as usize
    }

    /// Whether the method is HEAD.
    pub fn is_head(&self) -> bool {
        self.0.method == nginx_sys::NGX_HTTP_HEAD as usize
    }

    /// Whether the method is POST.
    pub fn is_post(&self) -> bool {
        self.0.method == nginx_sys::NGX_HTTP_POST as usize
    }

    /// Whether the method is OPTIONS.
    pub fn is_options(&self) -> bool {
        self.0.method == nginx_sys::NGX_HTTP_OPTIONS as usize
    }

    /// The normalised path of this pass.
    pub fn path(&self) -> &[u8] {
        // SAFETY: in the request's memory.
        unsafe { bytes(&self.0.uri) }
    }

    /// The URI as the client sent it.
    pub fn uri_as_sent(&self) -> &[u8] {
        // SAFETY: in the request's memory.
        unsafe { bytes(&self.0.unparsed_uri) }
    }

    /// What follows the `?`.
    pub fn query(&self) -> &[u8] {
        // SAFETY: in the request's memory.
        unsafe { bytes(&self.0.args) }
    }

    /// Takes away every request header whose name is `unwanted`.
    pub fn remove_headers_in(&mut self, unwanted: fn(&[u8]) -> bool) -> Result<(), Failed> {
        // SAFETY: the list and the pool are the request's own.
        unsafe { headers::remove(&mut self.0.headers_in.headers, self.0.pool, unwanted) }
    }

    /// Adds the fields of `source` to the request's headers, until [`Self::withdraw`]. They are
    /// not copied: the request keeps their source.
    pub fn inject<M: Module, S: Fields + 'static>(
        &mut self,
        state: &State<M>,
        source: &Rc<S>,
    ) -> Result<(), Failed> {
        self.withdraw(state)?;
        // SAFETY: the list and the pool are the request's own. The slot dies with the pool, and
        // what it holds is shared: nobody can change it.
        let part = unsafe {
            headers::append(&mut self.0.headers_in.headers, self.0.pool, source.fields())?
        };
        if !part.is_null() {
            state.0.owners.borrow_mut().push(Rc::clone(source) as Rc<dyn Any>);
            state.0.injected.set(part);
        }
        Ok(())
    }

    /// Takes back what [`Self::inject`] added.
    pub fn withdraw<M: Module>(&mut self, state: &State<M>) -> Result<(), Failed> {
        let part = state.0.injected.replace(ptr::null_mut());
        if part.is_null() {
            return Ok(());
        }
        // SAFETY: the list and the pool are the request's own, and `part` came from it.
        unsafe { headers::unlink(&mut self.0.headers_in.headers, self.0.pool, part) }
    }

    /// Leaves headers whose name is `unwanted` out of a subrequest, and of no other request.
    pub fn leave_out_headers(&mut self, unwanted: fn(&[u8]) -> bool) -> Result<(), Failed> {
        // SAFETY: the list and the pool are the request's own; elements are valid.
        unsafe {
            let list = &mut self.0.headers_in.headers;
            headers::leave_out(list, self.0.pool, |header| unwanted(bytes(&(*header).key)))
        }
    }

    /// What `M` keeps of this client request, if anything.
    pub fn state<M: Module>(&self) -> Option<State<M>> {
        // SAFETY: `main` is valid while any of its subrequests is; its ctx array has an entry
        // per module; a non-null entry of ours is a slot that keep() made and the pool owns.
        unsafe {
            let main = self.0.main;
            let ctx = (*main).ctx.add(M::cell().ctx_index());
            if (*ctx).is_null() {
                *ctx = find_slot::<M>(main)?.cast_mut().cast();
            }
            let slot = (*ctx).cast_const().cast::<Slot<M>>();
            Rc::increment_strong_count(slot);
            Some(State(Rc::from_raw(slot)))
        }
    }

    /// The same, made when there is none.
    pub fn state_or_default<M: Module>(&mut self) -> Result<State<M>, Failed> {
        if let Some(state) = self.state::<M>() {
            return Ok(state);
        }
        let slot = Rc::new(Slot::<M> {
            user: M::State::default(),
            injected: Cell::new(ptr::null_mut()),
            owners: RefCell::default(),
            hidden: RefCell::new(None),
            suspension: RefCell::new(None),
        });
        // SAFETY: the pool of a request outlives the request's callbacks; the cleanup owns one
        // count of the slot.
        unsafe {
            let main = self.0.main;
            let cleanup = ngx_pool_cleanup_add((*main).pool, size_of::<Holder>());
            if cleanup.is_null() {
                return Err(Failed);
            }
            let raw = Rc::into_raw(Rc::clone(&slot));
            let holder = Holder { module: M::cell(), slot: raw.cast(), drop: drop_slot::<M> };
            (*cleanup).data.cast::<Holder>().write(holder);
            (*cleanup).handler = Some(drop_holder);
            *(*main).ctx.add(M::cell().ctx_index()) = raw.cast_mut().cast();
        }
        Ok(State(slot))
    }

    /// Forgets that the request waits: a new pass begins.
    pub fn cancel_suspension<M: Module>(&mut self, state: &State<M>) {
        Self::set_suspension(state, None);
    }

    pub(super) fn set_suspension<M: Module>(state: &State<M>, suspension: Option<Rc<Suspension>>) {
        if let Some(previous) = state.0.suspension.replace(suspension) {
            previous.cancel();
        }
    }

    /// Makes nginx evaluate the module's variables anew: what it kept of them is from before the
    /// verdict.
    pub fn forget_variables(&mut self) {
        variable::forget(&mut self.0);
    }
}

/// The slot of `M` after an internal redirect, or a filter that replaced the answer, cleared the
/// request's contexts.
///
/// # Safety
///
/// `main` is a valid request.
unsafe fn find_slot<M: Module>(main: *mut ngx_http_request_t) -> Option<*const Slot<M>> {
    // SAFETY: the request and its pool are valid; a cleanup with our handler has a Holder.
    unsafe {
        if !internal(main) && !filter_finalize(main) {
            return None;
        }
        let mut cleanup = (*(*main).pool).cleanup;
        while let Some(c) = cleanup.as_ref() {
            if c.handler.is_some_and(|handler| ptr::fn_addr_eq(handler, drop_holder as HandlerFn)) {
                let holder = &*c.data.cast::<Holder>();
                if ptr::eq(holder.module, M::cell()) {
                    return Some(holder.slot.cast());
                }
            }
            cleanup = c.next;
        }
        None
    }
}

type HandlerFn = unsafe extern "C" fn(*mut c_void);

/// See request_bits.c: what bindgen generates for these is wrong with some versions of nginx.
mod bits {
    use nginx_sys::{ngx_http_request_t, ngx_uint_t};

    extern "C" {
        pub(super) fn ngx_rust_request_internal(r: *const ngx_http_request_t) -> ngx_uint_t;
        pub(super) fn ngx_rust_request_filter_finalize(r: *const ngx_http_request_t) -> ngx_uint_t;
        pub(super) fn ngx_rust_request_chunked(r: *const ngx_http_request_t) -> ngx_uint_t;
        pub(super) fn ngx_rust_request_set_header_only(
            r: *mut ngx_http_request_t,
            value: ngx_uint_t,
        );
    }
}

/// `r->internal`.
///
/// # Safety
///
/// `r` is a valid request; so for those below.
unsafe fn internal(r: *const ngx_http_request_t) -> bool {
    // SAFETY: the caller's contract.
    unsafe { bits::ngx_rust_request_internal(r) != 0 }
}

unsafe fn filter_finalize(r: *const ngx_http_request_t) -> bool {
    // SAFETY: the caller's contract.
    unsafe { bits::ngx_rust_request_filter_finalize(r) != 0 }
}

pub(super) unsafe fn set_header_only(r: *mut ngx_http_request_t, value: bool) {
    // SAFETY: the caller's contract.
    unsafe { bits::ngx_rust_request_set_header_only(r, usize::from(value)) };
}
