//! `ngx_str_t`, and bytes for log lines.

use core::{fmt, ptr};

use nginx_sys::{ngx_pnalloc, ngx_pool_t, ngx_str_t};

use crate::error::Failed;

/// Borrows `bytes` for the duration of one call into nginx.
pub(crate) fn str_of(bytes: &[u8]) -> ngx_str_t {
    ngx_str_t { len: bytes.len(), data: bytes.as_ptr().cast_mut() }
}

/// Returns the bytes of `s`.
///
/// # Safety
///
/// `s` points to `len` bytes that live during `'a`, or is null.
pub(crate) unsafe fn bytes<'a>(s: &ngx_str_t) -> &'a [u8] {
    // An empty one may have no bytes.
    if s.data.is_null() {
        return &[];
    }
    // SAFETY: the caller's contract.
    unsafe { core::slice::from_raw_parts(s.data, s.len) }
}

/// Compares with a word of lower-case letters, in any case. The loop has no early exit, so that the
/// compiler can vectorize it: two letters differ in case by the bit 0x20 alone.
#[inline]
pub(crate) fn is_word(text: &[u8], word: &[u8]) -> bool {
    let difference = |(byte, letter): (&u8, &u8)| (byte | 0x20) ^ letter;
    text.len() == word.len() && text.iter().zip(word).map(difference).fold(0, |a, b| a | b) == 0
}

/// Copies `value` to `pool`.
///
/// # Safety
///
/// `pool` is valid.
pub(crate) unsafe fn copy_to(pool: *mut ngx_pool_t, value: &[u8]) -> Result<ngx_str_t, Failed> {
    // SAFETY: the pool is valid, and gives at least `value.len()` bytes or null.
    unsafe {
        let data = ngx_pnalloc(pool, value.len().max(1)).cast::<u8>();
        if data.is_null() {
            return Err(Failed);
        }
        ptr::copy_nonoverlapping(value.as_ptr(), data, value.len());
        Ok(ngx_str_t { len: value.len(), data })
    }
}

/// Displays bytes on one line: control characters and invalid UTF-8 are escaped.
pub(crate) struct Printable<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if c.is_control() {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    write!(f, "{c}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}
