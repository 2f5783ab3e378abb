//! Limits under load: turns at the resolver, its failures, and look-ups per client.
//!
//! Everything here decides and nothing waits: times are passed in, and the caller owns timers
//! and connections. So each rule is tested in virtual time.

pub mod client_network;
pub mod failures;
pub mod lookup_limit;
pub mod probe_candidates;
pub mod probe_schedule;
pub mod turn_queue;
