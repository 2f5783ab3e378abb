//! HTTP between client and nginx: content negotiation and redirects.

pub mod negotiation;
pub mod redirect;
