//! The nginx process, and its version.

/// Whether `$http_NAME` joins the values of repeated headers with `, `, as since nginx 1.23.0.
/// Before, only the first value counts.
pub const REPEATED_HEADERS_ARE_JOINED: bool = cfg!(nginx1_23_0);

/// Returns the version of the nginx this was built for. nginx loads a module of no other version.
pub fn version() -> &'static str {
    nginx_sys::NGINX_VERSION.to_str().unwrap_or_default()
}

/// Whether the worker was told to finish its requests and exit.
pub fn worker_is_exiting() -> bool {
    // SAFETY: plain variables of a single-threaded process; ngx_terminate is set by a signal
    // handler, as sig_atomic_t.
    unsafe { nginx_sys::ngx_exiting != 0 || nginx_sys::ngx_terminate != 0 }
}

/// Whether this process serves requests. nginx initializes the helpers of its cache as workers
/// too, under the number of the first worker.
pub(crate) fn is_worker() -> bool {
    // SAFETY: a plain variable of a single-threaded process.
    let process = unsafe { nginx_sys::ngx_process };
    process == nginx_sys::NGX_PROCESS_WORKER as usize
        || process == nginx_sys::NGX_PROCESS_SINGLE as usize
}

/// Whether a process `pid` exists.
pub fn process_exists(pid: u32) -> bool {
    let Ok(pid) = nginx_sys::pid_t::try_from(pid) else { return false };
    // SAFETY: signal 0 delivers nothing.
    let sent = unsafe { nginx_sys::kill(pid, 0) };
    sent == 0 || std::io::Error::last_os_error().raw_os_error() == Some(nginx_sys::EPERM as i32)
}
