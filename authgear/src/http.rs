//! HTTP of the client's side: the kind of answer that a client expects, and redirects.

pub mod negotiation;
pub mod redirect;
