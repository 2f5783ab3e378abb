//! Modules that nginx was built with or has loaded.

use core::ffi::CStr;

use nginx_sys::{ngx_cycle_t, ngx_module_t};

/// Returns the module of this name.
///
/// # Safety
///
/// `cycle` is a cycle whose modules are complete: the running one, or one whose configuration is
/// being read.
pub(crate) unsafe fn module_named(
    cycle: &ngx_cycle_t,
    name: &CStr,
) -> Option<&'static ngx_module_t> {
    // SAFETY: pointers to modules up to a null, whose names end with a zero. Modules live as long
    // as the process uses them.
    unsafe {
        let mut next = cycle.modules;
        while let Some(module) = next.as_ref().and_then(|module| module.as_ref()) {
            if !module.name.is_null() && CStr::from_ptr(module.name.cast()) == name {
                return Some(module);
            }
            next = next.add(1);
        }
        None
    }
}
