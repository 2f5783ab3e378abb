//! Safe wrappers of the parts of nginx that an HTTP module needs.
//!
//! All unsafe code of the project is in this crate. It knows nothing of Authgear.
//!
//! nginx runs one thread per worker process and calls a module only from its event loop. All code
//! here relies on that: nothing is `Send`, and callbacks do not run concurrently.
//!
//! A file imports only files to the left of it in its row of this table, and of the rows above:
//!
//! | Files | Subject |
//! |---|---|
//! | error, string, log, panic, address | small values, and the error log |
//! | process, modules, configuration, conf | the process, configurations, directives |
//! | headers, task, wake, timer | header lists, and the event loop |
//! | request | a request, without the module's state |
//! | dns, ssl, shm, servers | for `http {}`: names, TLS, shared memory, its servers |
//! | upstream, held, hidden, suspend, open, subrequest, deferred, content, variable, value | for a request |
//! | stream | connections to other servers |
//! | module, state | a module, and its state of a request |
//! | entry | callbacks that nginx calls |

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]
#![warn(missing_docs)]

mod address;
mod conf;
mod configuration;
mod content;
mod deferred;
mod dns;
#[doc(hidden)]
pub mod entry;
mod error;
mod foreign;
mod headers;
mod held;
mod hidden;
mod log;
mod module;
mod modules;
mod open;
mod panic;
mod process;
mod request;
mod servers;
mod shm;
mod ssl;
mod state;
mod stream;
mod string;
mod subrequest;
mod suspend;
mod task;
mod timer;
mod upstream;
mod value;
mod variable;
mod wake;

pub use conf::{AddressError, Arguments, Conf, ConfError, Context, Directive, SourceLocation};
pub use configuration::{Configuration, Location, LocationId, Main, ModuleIndex, Scope};
pub use content::{Content, ContentHandler, Reply};
pub use deferred::LaterStatus;
pub use dns::{DnsError, Resolver};
pub use error::Failed;
pub use headers::HeaderName;
pub use headers::Headers;
pub use hidden::Shown;
pub use log::{Level, Log};
pub use module::{Module, ModuleCell};
pub use open::{Ending, Frames, Open};
pub use process::{
    hostname, process_exists, replaced_module_file, version, worker_count, worker_is_exiting,
    REPEATED_HEADERS_ARE_JOINED,
};
pub use request::{Phase, PhaseStatus, Request};
pub use servers::{ContentMark, Server, ServerLevel};
pub use shm::{SharedSlice, SharedZone, ZoneHeader, ZoneKind, ZoneMemory};
pub use ssl::{SslContext, SslError};
pub use state::{FieldsOf, ReadyFields, State};
pub use stream::{PeerAddress, Stream, StreamError};
pub use subrequest::SubrequestOutcome;
pub use suspend::Resume;
pub use task::spawn;
pub use timer::{now, sleep, system_time, timeout, unix_time, Elapsed, Sleep};
pub use value::ComplexValue;
pub use variable::{Override, Renewal, Value};
pub use wake::{wake, wake_all, wake_slot, want_wake_all, Slots};
