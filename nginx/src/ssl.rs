//! TLS by the libssl that nginx itself uses, so that security updates come from the system.

use core::cell::UnsafeCell;
use core::ffi::{c_int, CStr};
use core::ptr;
use std::ffi::CString;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nginx_sys::{
    ngx_connection_t, ngx_int_t, ngx_ssl_cleanup_ctx, ngx_ssl_create, ngx_ssl_create_connection,
    ngx_ssl_t, NGX_SSL_TLSv1_2, SSL_CTX_load_verify_locations, SSL_CTX_set_default_verify_paths,
    SSL_CTX_set_verify, SSL_ctrl, SSL_get0_param, SSL_get_verify_result, SSL_set1_host,
    X509_VERIFY_PARAM_set1_ip_asc, X509_verify_cert_error_string, NGX_OK, NGX_SSL_BUFFER,
    NGX_SSL_CLIENT, SSL_CTRL_SET_TLSEXT_HOSTNAME, SSL_VERIFY_NONE, SSL_VERIFY_PEER, X509_STORE_CTX,
    X509_V_OK,
};

use crate::conf::Conf;

/// nginx's flag of TLS 1.3. Headers of builds without TLS 1.3 do not define it.
const NGX_SSL_TLSV1_3: u32 = 0x0040;

/// Reason why a TLS context could not be made. nginx has logged the error of libssl.
#[derive(Debug)]
pub enum SslError {
    /// The context could not be created.
    Create,
    /// The system's trusted certificates could not be loaded.
    SystemRoots,
    /// The given file of trusted certificates could not be loaded.
    TrustedCertificate,
}

/// Settings of TLS client connections.
#[derive(Debug)]
pub struct SslContext {
    /// Boxed, because connections keep its address.
    ssl: Box<UnsafeCell<ngx_ssl_t>>,
    verify: bool,
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
            let this = Self { ssl, verify };
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
                let file = CString::new(file.as_os_str().as_bytes());
                let file = file.map_err(|_| SslError::TrustedCertificate)?;
                if SSL_CTX_load_verify_locations(ctx, file.as_ptr(), ptr::null()) != 1 {
                    return Err(SslError::TrustedCertificate);
                }
            }
            nginx_sys::ERR_clear_error();
            Ok(this)
        }
    }

    /// Prepares `c` for a handshake with the server `name`, a DNS name or an address.
    ///
    /// # Safety
    ///
    /// `c` is connected, has a pool, and no TLS yet.
    pub(crate) unsafe fn prepare(
        &self,
        c: *mut ngx_connection_t,
        name: &str,
    ) -> Result<(), &'static str> {
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
            Ok(())
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
