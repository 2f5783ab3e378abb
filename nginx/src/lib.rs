//! nginx, wrapped: the only module of the crate with unsafe code, and one that knows nothing of
//! Authgear.
//!
//! nginx is single-threaded per worker and calls a module only from its event loop. Everything
//! here relies on that: nothing is `Send`, and callbacks do not run concurrently.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod conf;
mod content;
mod dns;
mod event;
mod headers;
mod hidden;
mod log;
mod module;
mod request;
mod servers;
mod shm;
mod ssl;
mod stream;
mod subrequest;
mod suspend;
mod task;
mod value;
mod variable;
mod wake;

pub use conf::{Arguments, Conf, ConfError, Context, Directive, Place};
pub use content::{Content, Reply};
pub use dns::Resolver;
pub use event::{now, sleep, timeout, unix_time, Elapsed};
pub use hidden::Shown;
pub use log::{Level, Log};
pub use module::{process_exists, version, worker_is_exiting, Location, Main, Module, ModuleCell};
pub use request::{Failed, FieldsOf, Phase, Request, State, Status};
pub use servers::Server;
pub use shm::{Header, SharedZone};
pub use ssl::{SslContext, SslError};
pub use stream::{Stream, StreamControl, StreamError};
pub use subrequest::SubrequestOutcome;
pub use suspend::Resume;
pub use task::spawn;
pub use value::ComplexValue;
pub use variable::{Renewal, Value};
pub use wake::{own_slot, wake};

/// Whether `$http_NAME` joins the values of headers of one name with `, `, as since nginx 1.23.0.
pub const REPEATED_HEADERS_ARE_JOINED: bool = cfg!(nginx1_23_0);

#[doc(hidden)]
pub use module::module_table;
