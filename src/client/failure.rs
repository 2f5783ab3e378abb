//! Failures of exchanges with Authgear.

use core::fmt;

use authgear::verdict::Unavailable;

/// Failure of an exchange: the word for `$authgear_reason`, and the sentence for the log.
#[derive(Debug)]
pub struct Failure {
    pub(super) why: Unavailable,
    pub(super) detail: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.why.reason().as_str(), self.detail)
    }
}

impl Failure {
    pub(super) fn new(why: Unavailable, detail: impl Into<String>) -> Self {
        Self { why, detail: detail.into() }
    }
}
