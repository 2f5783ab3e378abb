//! `ngx_http_request_t`.

use core::fmt;
use core::ptr;

use nginx_sys::{
    ngx_http_request_t, ngx_int_t, ngx_list_push, ngx_table_elt_t, NGX_AGAIN, NGX_DECLINED,
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_OK,
};

use crate::configuration::Configuration;
use crate::error::Failed;
use crate::headers::{self, Elements, Headers};
use crate::log::Log;
use crate::string::{bytes, copy_to, str_of, Printable};

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
pub enum PhaseStatus {
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

impl PhaseStatus {
    pub(crate) fn into_ngx(self) -> ngx_int_t {
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

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("path", &format_args!("{}", Printable(self.path())))
            .finish_non_exhaustive()
    }
}

impl Request {
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
    pub fn location<C: Configuration>(&self) -> &'static C::Location {
        // SAFETY: nginx made one C::Location for each location (entry); configurations
        // outlive requests, and are not written after they were read.
        unsafe { &*(*self.0.loc_conf.add(C::index().get())).cast() }
    }

    /// Configuration of the server.
    pub fn server<C: Configuration>(&self) -> &'static C::Server {
        // SAFETY: as above.
        unsafe { &*(*self.0.srv_conf.add(C::index().get())).cast() }
    }

    /// Configuration of `http {}`.
    pub fn main_conf<C: Configuration>(&self) -> &'static C::Main {
        // SAFETY: as above.
        unsafe { &*(*self.0.main_conf.add(C::index().get())).cast() }
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

    /// PhaseStatus of the answer.
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
            (*header).key = str_of(name.as_bytes());
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
        out.content_type = str_of(content_type.as_bytes());
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
    pub(crate) fn send_body(&mut self, body: &[u8]) -> Result<ngx_int_t, Failed> {
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

    /// Leaves headers whose name is `unwanted` out of a subrequest, and of no other request.
    pub fn leave_out_headers(&mut self, unwanted: fn(&[u8]) -> bool) -> Result<(), Failed> {
        // SAFETY: the list and the pool are the request's own; elements are valid.
        unsafe {
            let list = &mut self.0.headers_in.headers;
            headers::leave_out(list, self.0.pool, |header| unwanted(bytes(&(*header).key)))
        }
    }
}

/// See request_bits.c: what bindgen generates for these is wrong with some versions of nginx.
mod bits {
    use nginx_sys::{ngx_http_request_t, ngx_uint_t};

    extern "C" {
        pub(crate) fn ngx_rust_request_internal(r: *const ngx_http_request_t) -> ngx_uint_t;
        pub(crate) fn ngx_rust_request_filter_finalize(r: *const ngx_http_request_t) -> ngx_uint_t;
        pub(crate) fn ngx_rust_request_chunked(r: *const ngx_http_request_t) -> ngx_uint_t;
        pub(crate) fn ngx_rust_request_set_header_only(
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
