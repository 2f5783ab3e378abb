//! Failures of exchanges with Authgear.

use core::fmt;

use authgear::resolver::endpoint::{Scheme, Url};
use authgear::resolver::speaks_https;
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
    /// The failure of an answer with this status and body, from the server of `url`.
    pub(super) fn of_answer(why: Unavailable, url: &Url, status: u16, body: &[u8]) -> Self {
        let hint = match why {
            Unavailable::NotAResolver => {
                " and a page: the URL is that of a website and not of Authgear's resolver"
            }
            _ if url.scheme() == Scheme::Http && speaks_https(status, body) => {
                ": this port speaks https, write https:// in the URL"
            }
            _ => "",
        };
        Self::new(why, format!("it answered with status {status}{hint}"))
    }

    pub(super) fn new(why: Unavailable, detail: impl Into<String>) -> Self {
        Self { why, detail: detail.into() }
    }
}
