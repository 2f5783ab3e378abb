//! A fleet of hosts on one Redis or Valkey: the logic without connections.
//!
//! Each host writes its purges and the ends of its users as sealed [events](event) to one stream,
//! and reads those of the other hosts from it. Redis is not believed: [`cursor`] reads the stream
//! by id, checks by count that nothing is missing, and says what to do if something is. [`ring`]
//! keeps a host's own events, so that they can be said again.
//!
//! Hosts share what the resolver said of a session as a sealed [record](record), one key each.
//! [`tier`] decides what counts of it, and [`positions`] what was purged since it was asked for.
//!
//! A process may be killed at any instruction. What is in shared memory ([`EventRing`] and
//! [`SavedCursor`]) then holds either the state before or the state after a change.
//!
//! [`EventRing`]: ring::EventRing
//! [`SavedCursor`]: cursor::SavedCursor

pub mod cursor;
pub mod event;
pub mod hearing;
pub mod node;
pub mod positions;
pub mod record;
pub mod repeats;
pub mod reply;
pub mod request;
pub mod ring;
pub mod secret;
pub mod spaced;
pub mod stream_id;
pub mod tier;

#[cfg(test)]
mod model;
