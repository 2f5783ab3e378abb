//! TLS by the libssl that nginx itself uses, so that security updates come from the system.

use core::cell::{RefCell, UnsafeCell};
use core::ffi::{c_int, CStr};
use core::fmt;
use core::ptr::{self, NonNull};
use core::time::Duration;
use std::collections::VecDeque;
use std::ffi::CString;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use nginx_sys::{
    ngx_array_create, ngx_array_push, ngx_connection_t, ngx_event_flags, ngx_int_t,
    ngx_ssl_certificate, ngx_ssl_cleanup_ctx, ngx_ssl_client_session_cache, ngx_ssl_create,
    ngx_ssl_create_connection, ngx_ssl_error, ngx_ssl_get_session, ngx_ssl_set_session, ngx_ssl_t,
    ngx_str_t, ngx_uint_t, BIO_ctrl, BIO_number_read, ERR_clear_error, ERR_peek_error,
    NGX_SSL_TLSv1_2, SSL_CTX_load_verify_locations, SSL_CTX_set_default_verify_paths,
    SSL_CTX_set_verify, SSL_SESSION_free, SSL_SESSION_get_protocol_version,
    SSL_SESSION_is_resumable, SSL_ctrl, SSL_get0_param, SSL_get_error, SSL_get_rbio,
    SSL_get_read_ahead, SSL_get_verify_result, SSL_has_pending, SSL_read, SSL_session_reused,
    SSL_set1_host, X509_VERIFY_PARAM_set1_ip_asc, X509_verify_cert_error_string, NGX_AGAIN,
    NGX_DONE, NGX_ERROR, NGX_LOG_ALERT, NGX_LOG_ERR, NGX_OK, NGX_SSL_BUFFER, NGX_SSL_CLIENT,
    NGX_USE_GREEDY_EVENT, SSL_CTRL_SET_TLSEXT_HOSTNAME, SSL_ERROR_WANT_READ, SSL_ERROR_WANT_WRITE,
    SSL_ERROR_ZERO_RETURN, SSL_SESSION, SSL_VERIFY_NONE, SSL_VERIFY_PEER, X509_STORE_CTX,
    X509_V_OK,
};

use crate::conf::{Conf, ConfError};
use crate::timer::now;

/// nginx's flag of TLS 1.3. Headers of builds without TLS 1.3 do not define it.
const NGX_SSL_TLSV1_3: u32 = 0x0040;

/// Reason why a TLS context could not be made. nginx has logged the error of libssl.
#[derive(Debug)]
pub enum SslError {
    /// The context could not be created.
    Create,
    /// The system's trusted certificates could not be loaded.
    SystemRoots,
    /// The given file of trusted certificates could not be loaded, for this reason.
    TrustedCertificate(String),
}

/// Settings of TLS client connections.
#[derive(Debug)]
pub struct SslContext {
    /// Boxed, because connections keep its address.
    ssl: Box<UnsafeCell<ngx_ssl_t>>,
    verify: bool,
    sessions: Rc<Sessions>,
}

/// Age of the last full handshake from which a session is not resumed: a server's certificate is
/// verified at least this often.
const LONGEST_SESSION: Duration = Duration::from_secs(3600);

/// Most sessions that are kept of one server: as many handshakes at once can resume one each.
const MOST_SESSIONS: usize = 32;

/// TLS 1.3 as libssl numbers it.
const TLS1_3: c_int = 0x0304;

/// Sessions that handshakes of one [`SslContext`] may resume, by server name, the newest at the
/// back.
#[derive(Debug, Default)]
struct Sessions(RefCell<Vec<(Box<str>, VecDeque<Session>)>>);

/// A session of a server whose certificate was verified as the context says.
#[derive(Clone)]
struct Session {
    handle: Rc<Handle>,
    /// Time of the full handshake.
    verified: Duration,
}

struct Handle(NonNull<SSL_SESSION>);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: ngx_ssl_get_session() counted this use.
        unsafe { SSL_SESSION_free(self.0.as_ptr()) };
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Its secrets are nobody's business.
        f.debug_struct("Session").field("verified", &self.verified).finish_non_exhaustive()
    }
}

impl Session {
    /// Returns false after a handshake has used it up, or a fatal alert has ended its connection.
    fn is_resumable(&self) -> bool {
        // SAFETY: the handle has a valid session.
        unsafe { SSL_SESSION_is_resumable(self.handle.0.as_ptr()) == 1 }
    }

    /// Returns true if only one connection may resume it. libssl makes a session of TLS 1.3 unusable
    /// once a handshake has resumed it (RFC 8446, appendix C.4), and the server sends another one.
    fn is_for_one_connection(&self) -> bool {
        // SAFETY: the handle has a valid session.
        unsafe { SSL_SESSION_get_protocol_version(self.handle.0.as_ptr()) == TLS1_3 }
    }
}

impl Sessions {
    /// Returns the newest session of the server `name`. A session of TLS 1.3 is taken out.
    fn find(&self, name: &str) -> Option<Session> {
        let mut sessions = self.0.borrow_mut();
        let is_young = |session: &Session| now().saturating_sub(session.verified) < LONGEST_SESSION;
        for (_, own) in sessions.iter_mut() {
            own.retain(|session| is_young(session) && session.is_resumable());
        }
        let (_, own) = sessions.iter_mut().find(|(own, _)| **own == *name)?;
        match own.back()?.is_for_one_connection() {
            true => own.pop_back(),
            false => own.back().cloned(),
        }
    }

    fn keep(&self, name: &str, session: Session) {
        let mut sessions = self.0.borrow_mut();
        let Some((_, own)) = sessions.iter_mut().find(|(own, _)| **own == *name) else {
            sessions.push((name.into(), VecDeque::from([session])));
            return;
        };
        if !session.is_for_one_connection() {
            own.clear();
        } else if own.len() == MOST_SESSIONS {
            own.pop_front();
        }
        own.push_back(session);
    }

    fn forget(&self, name: &str) {
        self.0.borrow_mut().retain(|(own, _)| **own != *name);
    }
}

/// Data by which a connection keeps its session, and whether it resumes one.
#[derive(Debug)]
pub(crate) struct Resumption {
    sessions: Rc<Sessions>,
    name: Box<str>,
    verify: bool,
    /// Times of the full handshakes: that of the session offered, and the beginning of this one.
    offered: Option<Duration>,
    begun: Duration,
}

impl Resumption {
    /// Keeps the session that libssl has just made for `c`.
    ///
    /// # Safety
    ///
    /// nginx calls `save_session` of `c`.
    pub(crate) unsafe fn save(&self, c: *mut ngx_connection_t) {
        // SAFETY: the caller's contract.
        let (session, is_resumed, is_verified) = unsafe {
            let ssl = (*(*c).ssl).connection;
            (
                ngx_ssl_get_session(c),
                SSL_session_reused(ssl) == 1,
                SSL_get_verify_result(ssl) == X509_V_OK as i64,
            )
        };
        let Some(handle) = NonNull::new(session).map(Handle) else { return };
        if self.verify && !is_verified {
            return;
        }
        let verified = match is_resumed {
            true => self.offered,
            false => Some(self.begun),
        };
        if let Some(verified) = verified {
            self.sessions.keep(&self.name, Session { handle: Rc::new(handle), verified });
        }
    }

    /// Forgets the server's sessions after a failed handshake that was to resume one: the next
    /// handshake is a full one.
    pub(crate) fn forget(&self) {
        if self.offered.is_some() {
            self.sessions.forget(&self.name);
        }
    }
}

impl SslContext {
    /// Makes a context for TLS 1.2 and 1.3. With `verify`, the server's certificate must match its
    /// name and be issued by one of the system's roots or of those in the file `trusted`.
    pub fn new(cf: &mut Conf<'_>, verify: bool, trusted: Option<&Path>) -> Result<Self, SslError> {
        // SAFETY: all zeroes is how nginx itself starts an ngx_ssl_t.
        let ssl = Box::new(UnsafeCell::new(unsafe { core::mem::zeroed::<ngx_ssl_t>() }));
        let raw = ssl.get();
        // SAFETY: `raw` is initialised by ngx_ssl_create(), and `this` frees it from there on.
        unsafe {
            (*raw).log = cf.log().as_ptr();
            let protocols = (NGX_SSL_TLSv1_2 | NGX_SSL_TLSV1_3) as usize;
            if ngx_ssl_create(raw, protocols, ptr::null_mut()) != NGX_OK as ngx_int_t {
                return Err(SslError::Create);
            }
            let this = Self { ssl, verify, sessions: Rc::default() };
            if ngx_ssl_client_session_cache(cf.as_ptr(), raw, 1) != NGX_OK as ngx_int_t {
                return Err(SslError::Create);
            }
            if !verify {
                return Ok(this);
            }
            let ctx = (*raw).ctx;
            // The handshake completes with any certificate. Stream::handshake() checks the result
            // after it and reports a failure once, where libssl would log each at level crit.
            SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER as c_int, Some(note_only));
            if SSL_CTX_set_default_verify_paths(ctx) != 1 {
                return Err(SslError::SystemRoots);
            }
            if let Some(file) = trusted {
                // libssl does not tell which file could not be opened.
                let readable = File::open(file).map_err(|error| error.to_string());
                readable.map_err(SslError::TrustedCertificate)?;
                let wrong = |reason: &str| SslError::TrustedCertificate(reason.to_owned());
                let file = CString::new(file.as_os_str().as_bytes());
                let file = file.map_err(|_| wrong("invalid name"))?;
                ERR_clear_error();
                if SSL_CTX_load_verify_locations(ctx, file.as_ptr(), ptr::null()) != 1 {
                    let reason = nginx_sys::ERR_reason_error_string(ERR_peek_error());
                    ERR_clear_error();
                    return Err(match reason.is_null() {
                        true => wrong("no certificate in PEM format"),
                        false => wrong(&CStr::from_ptr(reason).to_string_lossy()),
                    });
                }
            }
            ERR_clear_error();
            Ok(this)
        }
    }

    /// Sets the certificate and the key that the client shows to a server that asks for one. Both
    /// are files in PEM, relative to the directory of the configuration. A key with a password is
    /// refused: nginx would ask for it at the terminal.
    ///
    /// # Errors
    ///
    /// [`ConfError::Logged`]: nginx has logged which file is wrong, and why.
    pub fn set_certificate(
        &mut self,
        cf: &mut Conf<'_>,
        certificate: &str,
        key: &str,
    ) -> Result<(), ConfError> {
        let (mut certificate, mut key) = (cf.keep(certificate)?, cf.keep(key)?);
        // SAFETY: `ssl` is initialised. The names and the list of passwords are in the pool of the
        // configuration, and end with a zero. The one password is empty, all zeroes.
        let rc = unsafe {
            let passwords = ngx_array_create((*cf.as_ptr()).pool, 1, size_of::<ngx_str_t>());
            let password = match passwords.is_null() {
                true => ptr::null_mut(),
                false => ngx_array_push(passwords).cast::<ngx_str_t>(),
            };
            if password.is_null() {
                return Err(ConfError::new("no memory"));
            }
            password.write(ngx_str_t { len: 0, data: ptr::null_mut() });
            ngx_ssl_certificate(cf.as_ptr(), self.ssl.get(), &mut certificate, &mut key, passwords)
        };
        match rc == NGX_OK as ngx_int_t {
            true => Ok(()),
            false => Err(ConfError::Logged),
        }
    }

    /// Prepares `c` for a handshake with the server `name`, a DNS name or an address. A session of
    /// that server is offered; a server that does not know it makes a full handshake.
    ///
    /// # Safety
    ///
    /// `c` is connected, has a pool, and no TLS yet.
    pub(crate) unsafe fn prepare(
        &self,
        c: *mut ngx_connection_t,
        name: &str,
    ) -> Result<Resumption, &'static str> {
        let (sessions, begun) = (Rc::clone(&self.sessions), now());
        let session = sessions.find(name);
        let offered = session.as_ref().map(|session| session.verified);
        let resumption =
            Resumption { sessions, name: name.into(), verify: self.verify, offered, begun };
        // SAFETY: the caller's contract; libssl copies the names.
        unsafe {
            let flags = (NGX_SSL_CLIENT | NGX_SSL_BUFFER) as usize;
            if ngx_ssl_create_connection(self.ssl.get(), c, flags) != NGX_OK as ngx_int_t {
                return Err("no memory for TLS");
            }
            let ssl = (*(*c).ssl).connection;
            let is_address = name.parse::<IpAddr>().is_ok();
            let name = CString::new(name).map_err(|_| "invalid server name")?;
            // RFC 6066, section 3: SNI carries no addresses.
            if !is_address {
                let kind = SSL_CTRL_SET_TLSEXT_HOSTNAME as c_int;
                let name = name.as_ptr().cast_mut().cast();
                if SSL_ctrl(ssl, kind, i64::from(TLSEXT_NAMETYPE_HOST_NAME), name) != 1 {
                    return Err("invalid server name");
                }
            }
            if self.verify {
                let set = if is_address {
                    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name.as_ptr())
                } else {
                    SSL_set1_host(ssl, name.as_ptr())
                };
                if set != 1 {
                    return Err("invalid server name");
                }
            }
            if let Some(session) = session {
                let handle = session.handle.0.as_ptr();
                if ngx_ssl_set_session(c, handle) != NGX_OK as ngx_int_t {
                    resumption.forget();
                }
            }
            Ok(resumption)
        }
    }

    /// Returns the result of the verification of the server's certificate.
    ///
    /// # Safety
    ///
    /// The handshake of `c` is complete.
    pub(crate) unsafe fn verify_result(&self, c: *mut ngx_connection_t) -> Result<(), String> {
        if !self.verify {
            return Ok(());
        }
        // SAFETY: the caller's contract; libssl's texts are static.
        unsafe {
            let code = SSL_get_verify_result((*(*c).ssl).connection);
            if code == X509_V_OK as i64 {
                return Ok(());
            }
            let reason = CStr::from_ptr(X509_verify_cert_error_string(code)).to_string_lossy();
            Err(format!("certificate verify error: ({code}:{reason})"))
        }
    }
}

/// Returns true if [`receive`] may be used: a short `read()` of libssl tells that the socket of `c`
/// was empty, and the event tells when more arrives.
///
/// # Safety
///
/// The handshake of `c` is complete.
pub(crate) unsafe fn reads_ahead(c: *mut ngx_connection_t) -> bool {
    /// `BIO_CTRL_GET_KTLS_RECV`, which OpenSSL 1.1.1 does not know and answers with zero.
    const GET_KTLS_RECV: c_int = 76;
    // SAFETY: the caller's contract; nginx sets its variables before it runs a worker.
    unsafe {
        let ssl = (*(*c).ssl).connection;
        // The kernel gives one record at a time.
        let by_kernel = BIO_ctrl(SSL_get_rbio(ssl), GET_KTLS_RECV, 0, ptr::null_mut()) > 0;
        // As in ngx_unix_recv(): without EPOLLRDHUP, epoll does not tell of an end that comes with
        // data.
        let is_greedy = ngx_event_flags & NGX_USE_GREEDY_EVENT as ngx_uint_t != 0;
        #[cfg(ngx_feature = "have_epollrdhup")]
        let is_greedy = is_greedy && nginx_sys::ngx_use_epoll_rdhup == 0;
        SSL_get_read_ahead(ssl) != 0 && !by_kernel && !is_greedy
    }
}

/// Receives what one record has, or what fits into `space`, which is not empty. The result is that
/// of `ngx_ssl_recv()`, which sets `eof` or `error`, and handles a blocked write.
///
/// `ngx_ssl_recv()` reads until the socket is empty: one `read()` more for each answer. nginx lets
/// libssl read ahead as much as a record may have. If that was less, and the record had all of it,
/// the socket was empty. Bytes that arrive later raise an event.
///
/// # Safety
///
/// `c` is open, its handshake is complete, and [`reads_ahead`] returned true.
pub(crate) unsafe fn receive(c: *mut ngx_connection_t, space: &mut [u8]) -> isize {
    /// Largest content of a record (RFC 8446, section 5.1). libssl's buffer is larger.
    const RECORD: u64 = 1 << 14;
    let (start, size) = (space.as_mut_ptr(), space.len());
    // SAFETY: the caller's contract; neither function writes more than `size` bytes.
    unsafe {
        let (event, tls) = ((*c).read, (*c).ssl);
        let Some(recv) = (*c).recv else { return NGX_ERROR as isize };
        let has_ended = [NGX_ERROR, NGX_DONE].iter().any(|&end| (*tls).last == end as ngx_int_t);
        if has_ended || (*tls).saved_write_handler.is_some() {
            return recv(c, start, size);
        }
        let (ssl, log) = ((*tls).connection, (*c).log);
        // SSL_get_error(3): the queue of errors must be empty before the call.
        if ERR_peek_error() != 0 {
            let text = c"ignoring stale global SSL error".as_ptr().cast_mut();
            ngx_ssl_error(NGX_LOG_ALERT as ngx_uint_t, log, 0, text);
        }
        let socket = SSL_get_rbio(ssl);
        let (was_empty, before) = (SSL_has_pending(ssl) == 0, BIO_number_read(socket));
        let count = SSL_read(ssl, start.cast(), c_int::try_from(size).unwrap_or(c_int::MAX));
        if count > 0 {
            let is_short = BIO_number_read(socket).wrapping_sub(before) < RECORD;
            let is_all = was_empty && is_short && SSL_has_pending(ssl) == 0;
            if is_all && (*event).pending_eof() == 0 {
                (*event).set_ready(0);
            }
            return count as isize;
        }
        match SSL_get_error(ssl, count) as u32 {
            SSL_ERROR_WANT_READ => {
                (*event).set_ready(0);
                return NGX_AGAIN as isize;
            }
            SSL_ERROR_WANT_WRITE => {}
            error => {
                (*tls).set_no_wait_shutdown(1);
                (*tls).set_no_send_shutdown(1);
                let is_end = error == SSL_ERROR_ZERO_RETURN || ERR_peek_error() == 0;
                (*tls).last = if is_end { NGX_DONE } else { NGX_ERROR } as ngx_int_t;
                if !is_end {
                    let text = c"SSL_read() failed".as_ptr().cast_mut();
                    ngx_ssl_error(NGX_LOG_ERR as ngx_uint_t, log, 0, text);
                }
            }
        }
        recv(c, start, size)
    }
}

const TLSEXT_NAMETYPE_HOST_NAME: i32 = 0;
const _: () = assert!(SSL_VERIFY_NONE == 0);

extern "C" fn note_only(_ok: c_int, _store: *mut X509_STORE_CTX) -> c_int {
    1
}

impl Drop for SslContext {
    fn drop(&mut self) {
        // SAFETY: made by ngx_ssl_create(); connections hold their own count of the SSL_CTX.
        unsafe { ngx_ssl_cleanup_ctx(self.ssl.get().cast()) };
    }
}
