//! The error of calls into nginx.

/// A call into nginx failed, mostly for want of memory. nginx has logged the reason.
#[derive(Clone, Copy, Debug)]
pub struct Failed;
