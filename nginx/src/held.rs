//! Responses that must pass the image filter as they are.
//!
//! `image_filter` holds back the header of each response until the body shows an image, and answers
//! 415 if it does not. A response that is no image passes the filter if it has a context of the
//! request already: the filter then takes the response for its own answer.

use core::cell::Cell;

use nginx_sys::{ngx_cycle_t, ngx_pcalloc};

use crate::error::Failed;
use crate::modules::module_named;
use crate::request::Request;

thread_local! {
    /// Index of the contexts of the image filter, if it is there.
    static IMAGE_FILTER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Size of the context. That of nginx's image filter has about 100 bytes.
const CONTEXT: usize = 1024;

/// Finds the image filter among the modules.
///
/// # Safety
///
/// `cycle` is the running cycle.
pub(crate) unsafe fn find(cycle: &ngx_cycle_t) {
    // SAFETY: the caller's contract.
    let module = unsafe { module_named(cycle, c"ngx_http_image_filter_module") };
    IMAGE_FILTER.set(module.map(|module| module.ctx_index));
}

impl Request {
    /// Makes the response whose header is about to be sent pass `image_filter`, unless it is an
    /// image.
    pub fn pass_image_filter(&mut self) -> Result<(), Failed> {
        let Some(index) = IMAGE_FILTER.get() else { return Ok(()) };
        if self.content_type_out().starts_with(b"image/") {
            return Ok(());
        }
        let r = self.as_ptr();
        // SAFETY: a valid request, with one context for each HTTP module. The filter sets the
        // context to null when the header passes, and reads none of it.
        unsafe {
            let context = (*r).ctx.add(index);
            if (*context).is_null() {
                *context = ngx_pcalloc((*r).pool, CONTEXT);
                if (*context).is_null() {
                    return Err(Failed);
                }
            }
        }
        Ok(())
    }
}
