//! The error log.

use core::fmt;
use core::mem::MaybeUninit;

use nginx_sys::{ngx_log_t, ngx_uint_t, NGX_LOG_DEBUG_HTTP};
use ngx::ngx_log_error;

/// Severity of a log line, as in the `error_log` directive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    /// The process cannot go on.
    Emerg = nginx_sys::NGX_LOG_EMERG,
    /// A bug, or damage to the process.
    Alert = nginx_sys::NGX_LOG_ALERT,
    /// A request or an operation failed.
    Error = nginx_sys::NGX_LOG_ERR,
    /// A likely mistake that stops nothing.
    Warn = nginx_sys::NGX_LOG_WARN,
    /// A significant normal event.
    Notice = nginx_sys::NGX_LOG_NOTICE,
    /// A normal event.
    Info = nginx_sys::NGX_LOG_INFO,
}

/// A log. It lives at least as long as the callback or cycle it was taken from.
#[derive(Clone, Copy, Debug)]
pub struct Log(*mut ngx_log_t);

impl Log {
    /// Returns the log of the running cycle.
    pub fn cycle() -> Self {
        // SAFETY: `ngx_cycle` is set before any module code runs, and always points to a cycle.
        Self(unsafe { (*nginx_sys::ngx_cycle).log })
    }

    /// Wraps `log`.
    ///
    /// # Safety
    ///
    /// `log` is null or outlives every use of the result.
    pub(crate) unsafe fn from_ptr(log: *mut ngx_log_t) -> Self {
        Self(log)
    }

    pub(crate) fn as_ptr(self) -> *mut ngx_log_t {
        self.0
    }

    /// Writes one line. nginx appends the context of the log ("client: ..., server: ...").
    pub fn write(self, level: Level, message: fmt::Arguments<'_>) {
        if self.0.is_null() {
            return;
        }
        ngx_log_error!(level as ngx_uint_t, self.0, "{message}");
    }

    /// Returns true if lines of this level are written.
    pub fn takes(self, level: Level) -> bool {
        // SAFETY: null, or a log that outlives this value.
        unsafe { self.0.as_ref() }.is_some_and(|log| log.log_level >= level as ngx_uint_t)
    }

    /// Writes one line if this log takes debug messages of HTTP (`error_log ... debug`).
    ///
    /// `format_args!` formats nothing by itself, so that a message costs one comparison when debug
    /// logging is off. The line is written by a nginx without `--with-debug` too.
    #[inline]
    pub fn debug(self, message: fmt::Arguments<'_>) {
        if self.takes_debug() {
            self.write_debug(message);
        }
    }

    #[inline]
    fn takes_debug(self) -> bool {
        // SAFETY: null, or a log that outlives this value.
        let level = unsafe { self.0.as_ref() }.map_or(0, |log| log.log_level);
        level & NGX_LOG_DEBUG_HTTP as ngx_uint_t != 0
    }

    #[cold]
    fn write_debug(self, message: fmt::Arguments<'_>) {
        let mut buffer = [const { MaybeUninit::uninit() }; ngx::log::LOG_BUFFER_SIZE];
        let line = ngx::log::write_fmt(&mut buffer, message);
        // SAFETY: takes_debug() has read the log through this pointer.
        unsafe { ngx::log::log_debug(self.0, 0, line) };
    }
}
