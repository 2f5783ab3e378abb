//! A real nginx for one test, on free ports and in a directory of its own.
//!
//! The harness binds the listening sockets and hands them over as nginx hands them to its own
//! successor, in the environment variable `NGINX`: so there is no race for ports. Who is given
//! sockets does not go to the background: a daemon opens its own.

mod config;
mod log;
mod process;

pub use config::{module_path, Builder, ConfigTest};
pub use process::Nginx;
