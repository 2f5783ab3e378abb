//! Data that worker processes share: cached verdicts, purges and revocations.
//!
//! The functions read and write plain byte slices. The caller maps the memory and holds its lock.

pub mod cache_key;
pub mod disabled_periods;
pub mod front;
pub mod purges;
pub mod record;
pub mod revocations;
pub mod subject;
pub mod zone;
