//! Values of the configuration that contain variables.

use core::ptr::NonNull;

use nginx_sys::{
    ngx_http_compile_complex_value, ngx_http_compile_complex_value_t, ngx_http_complex_value,
    ngx_http_complex_value_t, ngx_int_t, ngx_pcalloc, ngx_str_t, NGX_OK,
};

use crate::conf::{Conf, ConfError};
use crate::error::Failed;
use crate::request::Request;
use crate::string::{bytes, copy_to};

/// A compiled value, which is evaluated for each request.
#[derive(Clone, Copy, Debug)]
pub struct ComplexValue(NonNull<ngx_http_complex_value_t>);

impl Conf<'_> {
    /// Compiles `value`, which may contain variables.
    pub fn complex_value(&mut self, value: &str) -> Result<ComplexValue, ConfError> {
        let cf = self.as_ptr();
        // SAFETY: `cf` is inside http {}; what is compiled lives in the configuration's pool.
        unsafe {
            let mut text = copy_to((*cf).pool, value.as_bytes()).map_err(|_| ConfError::Logged)?;
            let compiled = ngx_pcalloc((*cf).pool, size_of::<ngx_http_complex_value_t>());
            let Some(compiled) = NonNull::new(compiled.cast()) else {
                return Err(ConfError::Logged);
            };
            let mut ccv: ngx_http_compile_complex_value_t = core::mem::zeroed();
            ccv.cf = cf;
            ccv.value = &mut text;
            ccv.complex_value = compiled.as_ptr();
            if ngx_http_compile_complex_value(&mut ccv) != NGX_OK as ngx_int_t {
                return Err(ConfError::Logged);
            }
            Ok(ComplexValue(compiled))
        }
    }
}

impl Request {
    /// Evaluates `value` for this request.
    pub fn evaluate(&self, value: ComplexValue) -> Result<&[u8], Failed> {
        let mut result = ngx_str_t::empty();
        // SAFETY: the value lives as long as the configuration; its text is made in the
        // request's pool.
        unsafe {
            let rc = ngx_http_complex_value(self.as_ptr(), value.0.as_ptr(), &mut result);
            if rc != NGX_OK as ngx_int_t {
                return Err(Failed);
            }
            Ok(bytes(&result))
        }
    }
}
