//! Requests (`ngx_http_request_t`).

use core::cell::Cell;
use core::fmt;
use core::ptr;

use nginx_sys::{
    ngx_http_core_loc_conf_t, ngx_http_request_t, ngx_int_t, ngx_list_push, ngx_table_elt_t,
    NGX_AGAIN, NGX_DECLINED, NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_OK,
};
use ngx::http::{HttpModuleLocationConf as _, NgxHttpCoreModule};

use crate::configuration::{Configuration, Level, LocationId};
use crate::error::Failed;
use crate::headers::{self, Elements, Headers};
use crate::log::Log;
use crate::string::{bytes, copy_to, str_of, Printable};

thread_local! {
    /// Index of the module's access handler among the handlers of all phases.
    static ACCESS_INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Sets the index by which [`Request::is_before_access`] compares.
pub(crate) fn set_access_index(index: usize) {
    ACCESS_INDEX.set(index);
}

/// Phases with a handler of the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// After the request's headers were read. Skipped for requests that nginx itself refuses.
    PostRead,
    /// Start of a pass, by the client's request or an internal redirect. Before nginx chooses the
    /// location and applies rewrites.
    ServerRewrite,
    /// Before the access phase, in the location of this pass.
    Preaccess,
    /// Access control, to which `satisfy` applies.
    Access,
    /// After access was granted, before the response is made.
    Precontent,
}

/// Result of a phase handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhaseStatus {
    /// The next handler decides.
    Declined,
    /// Access is granted. With `satisfy any`, no further handler is asked.
    Allowed,
    /// The request is suspended.
    Again,
    /// nginx responds with 500.
    InternalServerError,
    /// nginx responds with this status.
    Http(u16),
    /// The response was sent ([`Request::respond_with`]); nginx finalizes the request with this
    /// result.
    Sent(isize),
}

impl PhaseStatus {
    pub(crate) fn into_ngx(self) -> ngx_int_t {
        match self {
            Self::Declined => NGX_DECLINED as ngx_int_t,
            Self::Allowed => NGX_OK as ngx_int_t,
            Self::Again => NGX_AGAIN as ngx_int_t,
            Self::InternalServerError => NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t,
            Self::Http(status) => status as ngx_int_t,
            Self::Sent(rc) => rc,
        }
    }
}

/// A request or subrequest, borrowed for the duration of a callback.
#[repr(transparent)]
pub struct Request(ngx_http_request_t);

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("path", &format_args!("{}", Printable(self.path())))
            .finish_non_exhaustive()
    }
}

impl Request {
    /// Wraps `r`.
    ///
    /// # Safety
    ///
    /// `r` is valid for `'a` and not otherwise borrowed by Rust code.
    pub(crate) unsafe fn from_ptr<'a>(r: *mut ngx_http_request_t) -> &'a mut Self {
        // SAFETY: the caller's contract; the layouts are the same.
        unsafe { &mut *r.cast::<Self>() }
    }

    pub(crate) fn as_ptr(&self) -> *mut ngx_http_request_t {
        ptr::from_ref(&self.0).cast_mut()
    }

    /// Whether this is the client's request, and no subrequest.
    pub fn is_main(&self) -> bool {
        ptr::eq(self.0.main, &self.0)
    }

    /// Whether nginx made the request itself or redirected it internally.
    pub fn is_internal(&self) -> bool {
        // SAFETY: a valid request.
        unsafe { internal(&self.0) }
    }

    /// Returns the connection's log. nginx appends client, server and request line.
    pub fn log(&self) -> Log {
        // SAFETY: a request has a connection with a log for all its life.
        unsafe { Log::from_ptr((*self.0.connection).log) }
    }

    /// Returns the configuration of the location that handles this pass.
    pub fn location<C: Configuration>(&self) -> &'static C::Location {
        // SAFETY: nginx made one Level for each location (entry); configurations outlive
        // requests, and are not written after they were read.
        unsafe { &*(*self.0.loc_conf.add(C::index().get())).cast::<Level<C::Location>>() }.get()
    }

    /// Returns the identity of the location that handles this pass.
    pub fn location_id<C: Configuration>(&self) -> LocationId {
        // SAFETY: as above; the address alone is read.
        LocationId::of(unsafe { *self.0.loc_conf.add(C::index().get()) })
    }

    /// Returns the configuration of the server.
    pub fn server<C: Configuration>(&self) -> &'static C::Server {
        // SAFETY: as above.
        unsafe { &*(*self.0.srv_conf.add(C::index().get())).cast() }
    }

    /// Returns the configuration of `http {}`.
    pub fn main_conf<C: Configuration>(&self) -> &'static C::Main {
        // SAFETY: as above.
        unsafe { &*(*self.0.main_conf.add(C::index().get())).cast() }
    }

    /// Returns the client's address as text, after realip, or `unix:` for a local socket.
    pub fn client_address(&self) -> &[u8] {
        // SAFETY: `addr_text` belongs to the connection, or to realip's context in the pool.
        unsafe { bytes(&(*self.0.connection).addr_text) }
    }

    /// Iterates over the request headers, in the order of appearance.
    pub fn headers_in(&self) -> Headers<'_> {
        // SAFETY: zeroed with the request, then a list of headers.
        unsafe { Headers::of(&self.0.headers_in.headers) }
    }

    /// Value of the first header `name`.
    pub fn header(&self, name: &[u8]) -> Option<&[u8]> {
        let mut headers = self.headers_in();
        headers.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Returns the status of the response.
    pub fn status_out(&self) -> u16 {
        self.0.headers_out.status as u16
    }

    /// Whether the response has this header with this value.
    pub fn has_header_out(&self, name: &str, value: &[u8]) -> bool {
        // SAFETY: the list of the response headers.
        let mut headers = unsafe { Elements::of(&self.0.headers_out.headers) };
        // SAFETY: as above.
        headers.any(|header| unsafe {
            (*header).hash != 0
                && bytes(&(*header).key).eq_ignore_ascii_case(name.as_bytes())
                && bytes(&(*header).value) == value
        })
    }

    /// Whether `wanted` holds for the value of a response header of this name.
    pub fn any_header_out(&self, name: &str, mut wanted: impl FnMut(&[u8]) -> bool) -> bool {
        let mut headers = self.headers_out_named(name);
        // SAFETY: elements of the list, which live as long as the request.
        headers.any(|header| wanted(unsafe { bytes(&(*header).value) }))
    }

    /// Sets a response header, in place of all headers of that name.
    pub fn replace_header_out(&mut self, name: &'static str, value: &str) -> Result<(), Failed> {
        // SAFETY: the list of the response headers, which no other code touches meanwhile; nginx
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

    /// Adds a response header.
    pub fn add_header_out(
        &mut self,
        name: &'static str,
        value: impl AsRef<[u8]>,
    ) -> Result<(), Failed> {
        // SAFETY: the pool is the request's own.
        let value = unsafe { copy_to(self.0.pool, value.as_ref()) }?;
        self.push_header_out(str_of(name.as_bytes()), value)
    }

    /// Adds a response header whose name is copied, too.
    pub fn copy_header_out(&mut self, name: &[u8], value: &[u8]) -> Result<(), Failed> {
        // SAFETY: the pool is the request's own.
        let (name, value) = unsafe { (copy_to(self.0.pool, name)?, copy_to(self.0.pool, value)?) };
        self.push_header_out(name, value)
    }

    /// Adds a response header whose texts live as long as the request.
    fn push_header_out(
        &mut self,
        name: nginx_sys::ngx_str_t,
        value: nginx_sys::ngx_str_t,
    ) -> Result<(), Failed> {
        // SAFETY: the list of headers is the request's own.
        unsafe {
            let header = ngx_list_push(&mut self.0.headers_out.headers).cast::<ngx_table_elt_t>();
            if header.is_null() {
                return Err(Failed);
            }
            ptr::write_bytes(header, 0, 1);
            (*header).hash = 1;
            (*header).key = name;
            (*header).value = value;
        }
        Ok(())
    }

    /// Makes the response one that `Range`, `If-Match` and the like do not change. Call it in the
    /// first header filter.
    pub fn ignore_conditions(&mut self) {
        // SAFETY: a valid request.
        unsafe { bits::ngx_rust_request_set_unconditional(&mut self.0) };
    }

    /// Media type of the response, with its parameters.
    pub fn content_type_out(&self) -> &[u8] {
        // SAFETY: static, of the configuration, or in the request's memory.
        unsafe { bytes(&self.0.headers_out.content_type) }
    }

    /// Whether the response has a header of this name.
    pub fn names_header_out(&self, name: &str) -> bool {
        self.headers_out_named(name).next().is_some()
    }

    /// Leaves out all headers of this name but the last one.
    pub fn keep_last_header_out(&mut self, name: &str) {
        let mut headers = self.headers_out_named(name);
        let Some(mut earlier) = headers.next() else { return };
        for header in headers {
            // SAFETY: an element of the list, which no other code touches meanwhile; nginx sends
            // no header whose hash is 0.
            unsafe { (*earlier).hash = 0 };
            earlier = header;
        }
    }

    fn headers_out_named<'a>(
        &self,
        name: &'a str,
    ) -> impl Iterator<Item = *mut ngx_table_elt_t> + use<'a> {
        // SAFETY: the list of the response headers; it lives as long as the request.
        let headers = unsafe { Elements::of(&self.0.headers_out.headers) };
        // SAFETY: as above.
        headers.filter(move |&header| unsafe {
            (*header).hash != 0 && bytes(&(*header).key).eq_ignore_ascii_case(name.as_bytes())
        })
    }

    /// Replaces the response whose header is about to be sent, in the first header filter. The
    /// body of the replaced response is not sent.
    pub fn answer(&mut self, status: u16, content_type: &'static str, length: usize) {
        // $status and logs show this one.
        self.0.err_status = status as usize;
        let out = &mut self.0.headers_out;
        out.status = status as usize;
        out.status_line = nginx_sys::ngx_str_t::empty();
        out.content_type = str_of(content_type.as_bytes());
        out.content_type_len = content_type.len();
        out.content_type_lowcase = ptr::null_mut();
        out.charset = nginx_sys::ngx_str_t::empty();
        out.content_length_n = length as _;
        out.last_modified_time = -1;
        for header in [
            &mut out.content_length,
            &mut out.content_encoding,
            &mut out.etag,
            &mut out.last_modified,
            &mut out.accept_ranges,
        ] {
            // SAFETY: null, or a header of this response.
            if let Some(header) = unsafe { header.as_mut() } {
                header.hash = 0;
            }
            *header = ptr::null_mut();
        }
        self.ignore_conditions();
    }

    /// Ends the response with its header, in the last header filter. gRPC takes headers for
    /// trailers only if nothing follows them.
    pub fn end_with_header(&mut self) {
        self.0.headers_out.content_length_n = 0;
        // nginx makes the field from the number.
        self.0.headers_out.content_length = ptr::null_mut();
        // SAFETY: a valid request.
        unsafe { bits::ngx_rust_request_end_with_header(&mut self.0) };
    }

    /// Sends the body of [`Self::answer`] through the body filters, after its header: `rc` is the
    /// result of the header filters.
    pub(crate) fn send_body(&mut self, rc: ngx_int_t, body: &[u8]) -> Result<ngx_int_t, Failed> {
        // SAFETY: a valid request; the buffer and its chain live in its pool.
        unsafe {
            let r = &raw mut self.0;
            // For HEAD, and on streams that the header ended.
            if bits::ngx_rust_request_header_only(r) != 0 {
                return Ok(rc);
            }
            let rc = if body.is_empty() {
                nginx_sys::ngx_http_send_special(r, nginx_sys::NGX_HTTP_LAST as usize)
            } else {
                let buf = nginx_sys::ngx_create_temp_buf((*r).pool, body.len());
                let chain = nginx_sys::ngx_alloc_chain_link((*r).pool);
                if buf.is_null() || chain.is_null() {
                    return Err(Failed);
                }
                ptr::copy_nonoverlapping(body.as_ptr(), (*buf).pos, body.len());
                (*buf).last = (*buf).pos.add(body.len());
                (*buf).set_last_buf(1);
                (*buf).set_last_in_chain(1);
                (*chain).buf = buf;
                (*chain).next = ptr::null_mut();
                nginx_sys::ngx_http_output_filter(r, chain)
            };
            // The handler whose response was replaced sends no body then.
            set_header_only(r, true);
            Ok(rc)
        }
    }

    /// Whether the module's access phase is still to come for this pass.
    pub fn is_before_access(&self) -> bool {
        let index = usize::try_from(self.0.phase_handler).unwrap_or(usize::MAX);
        // A response that was made before that phase ends the pass.
        self.0.headers_out.status == 0 && index < ACCESS_INDEX.get()
    }

    /// Whether the location says `satisfy any`.
    pub fn is_satisfied_by_any(&self) -> bool {
        // SAFETY: a valid request.
        let core = unsafe { NgxHttpCoreModule::location_conf(&*self.as_ptr()) };
        let core: Option<&ngx_http_core_loc_conf_t> = core;
        core.is_some_and(|core| core.satisfy == nginx_sys::NGX_HTTP_SATISFY_ANY as usize)
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

    /// Whether the client speaks HTTP/2 or a later version.
    pub fn is_http2_or_later(&self) -> bool {
        self.0.http_version >= nginx_sys::NGX_HTTP_VERSION_20 as usize
    }

    /// Returns the normalized path of this pass.
    pub fn path(&self) -> &[u8] {
        // SAFETY: in the request's memory.
        unsafe { bytes(&self.0.uri) }
    }

    /// Returns the URI as the client sent it.
    pub fn uri_as_sent(&self) -> &[u8] {
        // SAFETY: in the request's memory.
        unsafe { bytes(&self.0.unparsed_uri) }
    }

    /// Returns the query, without the `?`.
    pub fn query(&self) -> &[u8] {
        // SAFETY: in the request's memory.
        unsafe { bytes(&self.0.args) }
    }

    /// Removes every request header with an `unwanted` name.
    pub fn remove_headers_in(&mut self, unwanted: impl Fn(&[u8]) -> bool) -> Result<(), Failed> {
        // SAFETY: the list and the pool are the request's own.
        unsafe { headers::remove(&mut self.0.headers_in.headers, self.0.pool, unwanted) }
    }

    /// Whether the request has an `Upgrade` header.
    pub fn has_upgrade(&self) -> bool {
        !self.0.headers_in.upgrade.is_null()
    }

    /// Forgets the pointer to the `Upgrade` header, which was removed: upstream modules read it.
    pub fn forget_upgrade(&mut self) {
        self.0.headers_in.upgrade = ptr::null_mut();
    }

    /// Removes headers with an `unwanted` name from this subrequest, and from no other request.
    pub fn leave_out_headers(&mut self, unwanted: fn(&[u8]) -> bool) -> Result<(), Failed> {
        // SAFETY: the list and the pool are the request's own; elements are valid.
        unsafe {
            let list = &mut self.0.headers_in.headers;
            headers::leave_out(list, self.0.pool, |header| unwanted(bytes(&(*header).key)))
        }
    }
}

/// Accessors of bit-fields in C: for some versions of nginx bindgen generates wrong ones (see
/// request_bits.c).
mod bits {
    use nginx_sys::{ngx_http_request_t, ngx_uint_t};

    extern "C" {
        pub(crate) fn ngx_rust_request_internal(r: *const ngx_http_request_t) -> ngx_uint_t;
        pub(crate) fn ngx_rust_request_filter_finalize(r: *const ngx_http_request_t) -> ngx_uint_t;
        pub(crate) fn ngx_rust_request_header_only(r: *const ngx_http_request_t) -> ngx_uint_t;
        pub(crate) fn ngx_rust_request_end_with_header(r: *mut ngx_http_request_t);
        pub(crate) fn ngx_rust_request_set_unconditional(r: *mut ngx_http_request_t);
        pub(crate) fn ngx_rust_request_set_header_only(
            r: *mut ngx_http_request_t,
            value: ngx_uint_t,
        );
    }
}

/// Returns `r->internal`.
///
/// # Safety
///
/// `r` is a valid request. The same holds for the functions below.
pub(crate) unsafe fn internal(r: *const ngx_http_request_t) -> bool {
    // SAFETY: the caller's contract.
    unsafe { bits::ngx_rust_request_internal(r) != 0 }
}

pub(crate) unsafe fn filter_finalize(r: *const ngx_http_request_t) -> bool {
    // SAFETY: the caller's contract.
    unsafe { bits::ngx_rust_request_filter_finalize(r) != 0 }
}

pub(crate) unsafe fn set_header_only(r: *mut ngx_http_request_t, value: bool) {
    // SAFETY: the caller's contract.
    unsafe { bits::ngx_rust_request_set_header_only(r, usize::from(value)) };
}
