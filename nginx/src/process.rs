//! The nginx process, and its version.

use nginx_sys::ngx_core_conf_t;

use crate::string::{bytes, Printable};

/// Whether `$http_NAME` joins the values of repeated headers with `, `, as since nginx 1.23.0.
/// Before, only the first value counts.
pub const REPEATED_HEADERS_ARE_JOINED: bool = cfg!(nginx1_23_0);

/// Returns the version of the nginx this was built for. nginx loads a module of no other version.
pub fn version() -> &'static str {
    nginx_sys::NGINX_VERSION.to_str().unwrap_or_default()
}

/// Returns the name of this host.
pub fn hostname() -> String {
    // SAFETY: `ngx_cycle` is set before any module code runs; its strings live as long.
    let name = unsafe { bytes(&(*nginx_sys::ngx_cycle).hostname) };
    Printable(name).to_string()
}

/// Returns the file that this module was loaded from if another has taken its place, or none has.
pub fn replaced_module_file() -> Option<String> {
    // The kernel marks mappings of a file whose name is gone. Device and inode would tell the
    // same, but not on overlayfs, which shows those of a layer.
    const MARK: &str = " (deleted)";
    let here = replaced_module_file as fn() -> Option<String> as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mapping = maps.lines().find(|line| {
        let (from, rest) = line.split_once('-').unwrap_or_default();
        let to = rest.split(' ').next().unwrap_or_default();
        let address = |text| usize::from_str_radix(text, 16).unwrap_or(0);
        (address(from)..address(to)).contains(&here)
    })?;
    let file = mapping.get(mapping.find('/')?..)?.strip_suffix(MARK)?;
    Some(Printable(file.as_bytes()).to_string())
}

/// Returns the number of worker processes of the running configuration.
pub fn worker_count() -> u64 {
    // SAFETY: the core module's configuration, which every cycle has.
    unsafe {
        let index = nginx_sys::ngx_core_module.index;
        let core = (*(*nginx_sys::ngx_cycle).conf_ctx.add(index)).cast::<ngx_core_conf_t>();
        core.as_ref().map_or(0, |core| u64::try_from(core.worker_processes).unwrap_or(0))
    }
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
