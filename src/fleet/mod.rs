//! The fleet of this host (`authgear_fleet`): what happens to users on one host is told to all
//! others, through a stream in Redis.
//!
//! Each worker puts its events into a ring in shared memory. One worker of the host, the *keeper*,
//! tells them, hears those of other hosts, and makes them take effect in all workers.

mod keeper;
mod knowledge;
mod link;
mod listener;
mod master;
mod member;
mod publisher;
mod reader;

use std::rc::Rc;

use crate::conf::MainConf;
use crate::shared::handle::SharedHandle;
pub use member::{Fleet, Told};

/// Starts the part of a worker in the fleet, if there is one.
pub fn start(main: &MainConf, shared: SharedHandle) -> Option<Rc<Fleet>> {
    let fleet = Rc::new(Fleet::new(main, shared)?);
    nginx::spawn(keeper::run(Rc::clone(&fleet)));
    Some(fleet)
}
