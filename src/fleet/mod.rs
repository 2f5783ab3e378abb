//! The fleet of this host (`authgear_fleet`): what happens to users on one host is told to all
//! others, through a stream in Redis.
//!
//! Each worker puts its events into a ring in shared memory. One worker of the host, the *keeper*,
//! tells them, hears those of other hosts, and makes them take effect in all workers.
//!
//! With `cache=on` each worker has a connection of its own, over which hosts share what the
//! resolver said (`tier`).

mod keeper;
mod knowledge;
mod link;
mod listener;
mod master;
mod member;
mod publisher;
mod reader;
mod tier;
mod wait;

use std::rc::Rc;

use crate::conf::MainConf;
use crate::shared::handle::SharedHandle;
pub use member::{Fleet, Told};
pub use tier::{Claimed, Tier};
pub use wait::unix_ms;

/// Starts the part of a worker in the fleet, if there is one.
pub fn start(main: &MainConf, shared: SharedHandle) -> Option<Rc<Fleet>> {
    let fleet = Rc::new(Fleet::new(main, shared)?);
    nginx::spawn(keeper::run(Rc::clone(&fleet)));
    if let Some(tier) = fleet.tier() {
        nginx::spawn(tier::run(Rc::clone(tier)));
    }
    Some(fleet)
}
