//! Input of the built-in endpoints: Authgear's events, and the form that purges cached verdicts.

pub mod purge_request;
pub mod webhook;
