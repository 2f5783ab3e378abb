//! Subrequests with headers of their own.

use core::cell::Cell;
use core::ffi::c_void;
use core::ptr;

use nginx_sys::{
    ngx_http_core_run_phases, ngx_http_post_subrequest_t, ngx_http_request_body_t,
    ngx_http_request_t, ngx_http_subrequest, ngx_http_variable_value_t, ngx_int_t, ngx_list_part_t,
    ngx_list_t, ngx_pcalloc, ngx_table_elt_t, NGX_ERROR, NGX_HTTP_SUBREQUEST_WAITED, NGX_OK,
};
use ngx::core::Pool;
use ngx::http::{HttpModuleMainConf as _, NgxHttpCoreModule};

use crate::error::Failed;
use crate::headers::{append, HeaderName, Headers};
use crate::log::Log;
use crate::panic::guard;
use crate::request::{set_header_only, Request};
use crate::string::{bytes, copy_to};

/// Outcome of a subrequest.
#[derive(Debug)]
pub enum SubrequestOutcome {
    /// The location made the response itself.
    Answer {
        /// Status of the response.
        status: u16,
        /// Headers of the response.
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        /// True if it has a body: by its length, or by its type if the length is not known.
        has_body: bool,
    },
    /// nginx made the response, or `error_page` redirected the subrequest.
    Failed,
}

type Done = Box<dyn FnOnce(SubrequestOutcome)>;

struct Waiting(Cell<Option<Done>>);

impl Request {
    /// Starts a subrequest to `uri` with these headers in place of the client's. Names are
    /// lower-case. nginx calls `done`, and then the access phase of this request again. Until then
    /// the phase returns [`crate::PhaseStatus::Again`].
    pub fn subrequest(
        &mut self,
        uri: &str,
        headers: &[(&[u8], &[u8])],
        done: Done,
    ) -> Result<(), Failed> {
        let r = self.as_ptr();
        // SAFETY: `r` is the request nginx called us with; all memory is from its pool, which
        // outlives the subrequest. The subrequest runs after this function returns.
        unsafe {
            let pool = (*r).pool;
            let waiting = Pool::from_ngx_pool(pool).allocate(Waiting(Cell::new(Some(done))));
            let post = ngx_pcalloc(pool, size_of::<ngx_http_post_subrequest_t>())
                .cast::<ngx_http_post_subrequest_t>();
            let body = ngx_pcalloc(pool, size_of::<ngx_http_request_body_t>())
                .cast::<ngx_http_request_body_t>();
            if waiting.is_null() || post.is_null() || body.is_null() {
                return Err(Failed);
            }
            (*post).handler = Some(finished);
            (*post).data = waiting.cast();

            let mut uri = copy_to(pool, uri.as_bytes())?;
            let mut sr: *mut ngx_http_request_t = ptr::null_mut();
            let flags = NGX_HTTP_SUBREQUEST_WAITED as usize;
            let rc = ngx_http_subrequest(r, &mut uri, ptr::null_mut(), &mut sr, post, flags);
            if rc != NGX_OK as ngx_int_t || sr.is_null() {
                return Err(Failed);
            }
            // nginx resumes the request by this handler. A module that read the request's body may
            // have left another one.
            (*r).write_event_handler = Some(ngx_http_core_run_phases);
            // The client's body stays with the client's request.
            (*sr).request_body = body;
            set_header_only(sr, true);
            own_variables(sr)?;
            replace_headers(r, sr, headers)
        }
    }
}

/// Gives `sr` its own copy of the variables that it shares with its parent. Values that it
/// evaluates from its own headers must not become the parent's.
///
/// # Safety
///
/// `sr` is a subrequest that does not run yet.
unsafe fn own_variables(sr: *mut ngx_http_request_t) -> Result<(), Failed> {
    // SAFETY: nginx allocates one value per variable of the configuration
    // (ngx_http_alloc_request()).
    unsafe {
        let Some(core) = NgxHttpCoreModule::main_conf(&*sr) else { return Err(Failed) };
        let count = core.variables.nelts;
        let size = (count * size_of::<ngx_http_variable_value_t>()).max(1);
        let own = ngx_pcalloc((*sr).pool, size).cast::<ngx_http_variable_value_t>();
        if own.is_null() {
            return Err(Failed);
        }
        ptr::copy_nonoverlapping((*sr).variables, own, count);
        (*sr).variables = own;
    }
    Ok(())
}

/// Gives `sr` these `headers` in place of those that it copied from `r`.
///
/// # Safety
///
/// `sr` is a subrequest of `r` that does not run yet.
unsafe fn replace_headers(
    r: *mut ngx_http_request_t,
    sr: *mut ngx_http_request_t,
    headers: &[(&[u8], &[u8])],
) -> Result<(), Failed> {
    // SAFETY: both requests are valid, and nothing has read the subrequest's headers yet; header
    // structs of nginx may be zeroed, as they are when nginx makes a request.
    unsafe {
        let server = (*r).headers_in.server;
        let pool = (*sr).pool;
        let headers_in = &mut (*sr).headers_in;
        ptr::write_bytes(ptr::from_mut(headers_in), 0, 1);
        headers_in.server = server;
        headers_in.content_length_n = -1;
        headers_in.keep_alive_n = -1;
        let list: &mut ngx_list_t = &mut headers_in.headers;
        // The subrequest outlives this call, and may outlive the owner of the headers.
        let copies = headers.iter().map(|(name, value)| {
            let name = HeaderName::new(bytes(&copy_to(pool, name)?));
            Ok((name, bytes(&copy_to(pool, value)?)))
        });
        let copies = copies.collect::<Result<Vec<_>, Failed>>()?;
        let part: *mut ngx_list_part_t = append(list, pool, copies.len(), copies.into_iter())?;
        for (i, (name, _)) in headers.iter().enumerate() {
            let header = (*part).elts.cast::<ngx_table_elt_t>().add(i);
            match *name {
                b"host" => headers_in.host = header,
                b"user-agent" => headers_in.user_agent = header,
                b"authorization" => headers_in.authorization = header,
                b"cookie" => set_cookie(headers_in, pool, header)?,
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(nginx1_23_0)]
unsafe fn set_cookie(
    headers_in: &mut nginx_sys::ngx_http_headers_in_t,
    _pool: *mut nginx_sys::ngx_pool_t,
    header: *mut ngx_table_elt_t,
) -> Result<(), Failed> {
    headers_in.cookie = header;
    Ok(())
}

#[cfg(not(nginx1_23_0))]
unsafe fn set_cookie(
    headers_in: &mut nginx_sys::ngx_http_headers_in_t,
    pool: *mut nginx_sys::ngx_pool_t,
    header: *mut ngx_table_elt_t,
) -> Result<(), Failed> {
    // SAFETY: an array of one pointer, in memory of the request's pool.
    unsafe {
        let cookies = &mut headers_in.cookies;
        let size = size_of::<*mut ngx_table_elt_t>();
        cookies.elts = nginx_sys::ngx_palloc(pool, size);
        if cookies.elts.is_null() {
            return Err(Failed);
        }
        cookies.elts.cast::<*mut ngx_table_elt_t>().write(header);
        cookies.nelts = 1;
        cookies.nalloc = 1;
        cookies.size = size;
        cookies.pool = pool;
    }
    Ok(())
}

extern "C" fn finished(sr: *mut ngx_http_request_t, data: *mut c_void, rc: ngx_int_t) -> ngx_int_t {
    // SAFETY: `data` is the Waiting in the pool of the request, which `sr` shares.
    let (waiting, request) = unsafe { (&*data.cast::<Waiting>(), &*sr) };
    // nginx may finalize a request twice and call this again: the first call counts.
    let Some(done) = waiting.0.take() else { return rc };
    let status = request.headers_out.status as u16;
    let outcome = if rc == NGX_ERROR as ngx_int_t || request.err_status != 0 || status == 0 {
        SubrequestOutcome::Failed
    } else {
        // SAFETY: the list of the subrequest's response headers.
        let headers = unsafe { Headers::of(&request.headers_out.headers) };
        SubrequestOutcome::Answer {
            status,
            headers: headers.map(|(name, value)| (name.to_vec(), value.to_vec())).collect(),
            has_body: match request.headers_out.content_length_n {
                ..0 => request.headers_out.content_type.len > 0,
                length => length > 0,
            },
        }
    };
    // SAFETY: the connection outlives its requests.
    let log = unsafe { Log::from_ptr((*request.connection).log) };
    guard(log, (), || done(outcome));
    rc
}
