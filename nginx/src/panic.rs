//! Panics: none may cross into nginx.

use std::panic::{catch_unwind, AssertUnwindSafe};

use crate::log::{Level, Log};

/// Runs `body`. A panic is logged, and `fallback` returned.
pub(crate) fn guard<T>(log: Log, fallback: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let message = panic.downcast_ref::<&str>().copied();
        let message = message.or(panic.downcast_ref::<String>().map(String::as_str));
        let message = message.unwrap_or("no message");
        log.write(Level::Alert, format_args!("a module callback panicked: {message}"));
        fallback
    })
}
