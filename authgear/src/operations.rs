//! Built-in endpoints: webhook events, the form that purges cached verdicts, and protected resource
//! metadata.

pub mod protected_resource;
pub mod purge_request;
pub mod webhook;
