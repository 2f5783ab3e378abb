//! Input of the built-in endpoints: webhook events, and the form that purges cached verdicts.

pub mod purge_request;
pub mod webhook;
