//! Responses that the module makes itself, in the content phase.

use core::fmt;
use core::ptr;
use core::time::Duration;

use nginx_sys::{
    ngx_alloc_chain_link, ngx_create_temp_buf, ngx_http_discard_request_body,
    ngx_http_finalize_request, ngx_http_output_filter, ngx_http_read_client_request_body,
    ngx_http_request_t, ngx_http_send_header, ngx_int_t, ngx_read_file, off_t, NGX_DONE,
    NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_HTTP_REQUEST_ENTITY_TOO_LARGE, NGX_HTTP_SPECIAL_RESPONSE,
    NGX_OK,
};

use crate::deferred::{Deferred, LaterStatus};
use crate::error::Failed;
use crate::panic::guard;
use crate::request::{PhaseStatus, Request};
use crate::string::str_of;

/// Handler for the requests of a location, in the content phase.
pub trait Content: 'static {
    /// Largest request body that is accepted. The response to a larger one is 413. With 0, the
    /// body is discarded.
    const MAX_BODY: usize;

    /// Decides, before the body is read, whether to continue. The error is the status to respond
    /// with.
    fn begin(request: &mut Request) -> Result<(), u16>;

    /// Makes the response.
    fn answer(request: &mut Request, body: &[u8]) -> Reply;
}

/// A response.
pub enum Reply {
    /// A status, with nginx's error page for it, if any.
    Status(u16),
    /// A status that is known later.
    Later {
        /// The status. The future is dropped when the request has its response or is gone.
        status: LaterStatus,
        /// Time after which the response is `otherwise`.
        deadline: Duration,
        /// See `deadline`.
        otherwise: u16,
    },
    /// 200, with a body.
    Body {
        /// Media type, and its parameters.
        content_type: &'static str,
        /// More headers.
        headers: Vec<(&'static str, String)>,
        /// The body.
        body: Vec<u8>,
    },
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Status(status) => return write!(f, "Status({status})"),
            Self::Later { .. } => "Later",
            Self::Body { .. } => "Body",
        };
        f.debug_struct(name).finish_non_exhaustive()
    }
}

/// The functions of a [`Content`].
#[derive(Clone, Copy, Debug)]
pub struct ContentHandler {
    max_body: usize,
    begin: fn(&mut Request) -> Result<(), u16>,
    answer: fn(&mut Request, &[u8]) -> Reply,
}

impl ContentHandler {
    /// Returns the functions of `C`.
    pub const fn of<C: Content>() -> Self {
        Self { max_body: C::MAX_BODY, begin: C::begin, answer: C::answer }
    }
}

const ERROR: ngx_int_t = NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t;
const TOO_LARGE: ngx_int_t = NGX_HTTP_REQUEST_ENTITY_TOO_LARGE as ngx_int_t;

impl Request {
    /// Handles the request in its content phase. If `handler` reads a body, nginx calls
    /// `body_read` later, which calls [`Self::finish_content`].
    pub(crate) fn handle_content(
        &mut self,
        handler: &ContentHandler,
        body_read: unsafe extern "C" fn(*mut ngx_http_request_t),
    ) -> ngx_int_t {
        match guard(self.log(), Err(ERROR as u16), || (handler.begin)(self)) {
            Ok(()) => {}
            Err(status) => return status as ngx_int_t,
        }
        let r = self.as_ptr();
        // SAFETY: a valid request in its content phase; finish_content() takes over the reference
        // to it that nginx counts when it reads a body.
        unsafe {
            if handler.max_body == 0 {
                let rc = ngx_http_discard_request_body(r);
                if rc != NGX_OK as ngx_int_t {
                    return rc;
                }
                return match self.respond(handler, &[]) {
                    Some(rc) => rc,
                    None => {
                        // As nginx does for a body that it reads: the response comes later.
                        let main = (*r).main;
                        (*main).set_count((*main).count() + 1);
                        NGX_DONE as ngx_int_t
                    }
                };
            }
            let length = (*r).headers_in.content_length_n;
            if usize::try_from(length).is_ok_and(|length| length > handler.max_body) {
                return TOO_LARGE;
            }
            let rc = ngx_http_read_client_request_body(r, Some(body_read));
            if rc >= NGX_HTTP_SPECIAL_RESPONSE as ngx_int_t {
                return rc;
            }
            NGX_DONE as ngx_int_t
        }
    }

    /// Answers the request, whose body nginx has read, and finalizes it. The status is 500 if
    /// `handler` is `None`.
    ///
    /// # Safety
    ///
    /// nginx passed the request to the handler of a body that it has read, and the request is not
    /// used after.
    pub(crate) unsafe fn finish_content(&mut self, handler: Option<&ContentHandler>) {
        let rc = match handler.map(|handler| (handler, self.body(handler.max_body))) {
            Some((handler, Ok(Some(body)))) => match self.respond(handler, &body) {
                Some(rc) => rc,
                None => return,
            },
            Some((_, Ok(None))) => TOO_LARGE,
            Some((_, Err(Failed))) | None => ERROR,
        };
        // SAFETY: the caller's contract.
        unsafe { ngx_http_finalize_request(self.as_ptr(), rc) };
    }

    /// Returns the result of the response; none if the request is finalized later.
    fn respond(&mut self, handler: &ContentHandler, body: &[u8]) -> Option<ngx_int_t> {
        let log = self.log();
        Some(match guard(log, Reply::Status(ERROR as u16), || (handler.answer)(self, body)) {
            Reply::Status(status) => self.end_with(status),
            Reply::Later { status, deadline, otherwise } => {
                return match Deferred::start(self, status, deadline, otherwise) {
                    Ok(()) => None,
                    Err(Failed) => Some(ERROR),
                };
            }
            Reply::Body { content_type, headers, body } => {
                let ok = nginx_sys::NGX_HTTP_OK as u16;
                self.reply(ok, content_type, &headers, &body).unwrap_or(ERROR)
            }
        })
    }

    /// Returns what a content handler returns to respond with this status.
    pub(crate) fn end_with(&mut self, status: u16) -> ngx_int_t {
        match status {
            // nginx makes no response of these itself.
            200 | 202 | 203 => self.reply(status, "", &[], &[]).unwrap_or(ERROR),
            _ => status as ngx_int_t,
        }
    }

    /// Returns the body, which nginx has read into memory, a file, or both. `None` if it is larger
    /// than `most`.
    fn body(&self, most: usize) -> Result<Option<Vec<u8>>, Failed> {
        let mut body = Vec::new();
        // SAFETY: what nginx has read of the body stays until the request ends; buffers in memory
        // hold what is between `pos` and `last`, those in files what is between the two offsets.
        unsafe {
            let read = (*self.as_ptr()).request_body;
            let mut chain = if read.is_null() { ptr::null_mut() } else { (*read).bufs };
            while let Some(link) = chain.as_ref() {
                let buf = &mut *link.buf;
                if buf.in_file() != 0 {
                    let size = usize::try_from(buf.file_last - buf.file_pos).map_err(|_| Failed)?;
                    if size > most - body.len() {
                        return Ok(None);
                    }
                    let begin = body.len();
                    body.resize(begin + size, 0);
                    let part = body.get_mut(begin..).ok_or(Failed)?;
                    let offset: off_t = buf.file_pos;
                    let n = ngx_read_file(buf.file, part.as_mut_ptr(), size, offset);
                    if usize::try_from(n) != Ok(size) {
                        return Err(Failed);
                    }
                } else if !buf.pos.is_null() {
                    let size =
                        usize::try_from(buf.last.offset_from(buf.pos)).map_err(|_| Failed)?;
                    if size > most - body.len() {
                        return Ok(None);
                    }
                    body.extend_from_slice(core::slice::from_raw_parts(buf.pos, size));
                }
                chain = link.next;
            }
        }
        Ok(Some(body))
    }

    /// Sends a response from a phase before the location's own. The body of the request is discarded.
    pub fn respond_with(
        &mut self,
        status: u16,
        content_type: &'static str,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Result<PhaseStatus, Failed> {
        // SAFETY: a valid request that a phase handler was called with.
        let rc = unsafe { ngx_http_discard_request_body(self.as_ptr()) };
        if rc != NGX_OK as ngx_int_t {
            return Ok(PhaseStatus::Sent(rc));
        }
        self.reply(status, content_type, headers, body).map(PhaseStatus::Sent)
    }

    /// Sends this response.
    fn reply(
        &mut self,
        status: u16,
        content_type: &'static str,
        headers: &[(&'static str, String)],
        body: &[u8],
    ) -> Result<ngx_int_t, Failed> {
        for (name, value) in headers {
            self.add_header_out(name, value)?;
        }
        let r = self.as_ptr();
        let media_type = content_type.split(';').next().unwrap_or(content_type);
        // SAFETY: a valid request whose response has not begun; the buffer and its chain live in
        // its pool, and the media type is static.
        unsafe {
            // Allocated first: once the header is sent, no error response is possible.
            let buf = ngx_create_temp_buf((*r).pool, body.len().max(1));
            let chain = ngx_alloc_chain_link((*r).pool);
            if buf.is_null() || chain.is_null() {
                return Err(Failed);
            }
            let out = &mut (*r).headers_out;
            out.status = status.into();
            out.content_length_n = body.len() as off_t;
            out.content_type = str_of(content_type.as_bytes());
            // A length other than that of `content_type` keeps nginx from adding a charset.
            out.content_type_len = media_type.len();
            let rc = ngx_http_send_header(r);
            if rc != NGX_OK as ngx_int_t || self.is_head() {
                return Ok(rc);
            }
            if body.is_empty() {
                let last = nginx_sys::NGX_HTTP_LAST as usize;
                return Ok(nginx_sys::ngx_http_send_special(r, last));
            }
            ptr::copy_nonoverlapping(body.as_ptr(), (*buf).pos, body.len());
            (*buf).last = (*buf).pos.add(body.len());
            (*buf).set_last_buf(u32::from(self.is_main()));
            (*buf).set_last_in_chain(1);
            (*chain).buf = buf;
            (*chain).next = ptr::null_mut();
            Ok(ngx_http_output_filter(r, chain))
        }
    }
}
