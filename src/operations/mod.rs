//! Built-in endpoints, which answer in place of `proxy_pass` and the like.
//!
//! nginx calls them in the content phase, after access was granted.

pub mod assertion_keys;
pub mod protected_resource;
pub mod purge;
pub mod status;
pub mod verdict;
pub mod webhook;
