//! The callbacks of a module.

use core::cell::UnsafeCell;

use nginx_sys::ngx_module_t;

use crate::conf::{Conf, ConfError};
use crate::configuration::Configuration;
use crate::content::ContentHandler;
use crate::dns::Resolver;
use crate::error::Failed;
use crate::request::{Phase, PhaseStatus, Request};
use crate::variable::{Override, Renewal, Value};

/// The callbacks of an nginx HTTP module, in the order in which nginx calls them.
pub trait Module: Configuration {
    /// State of a client request. It survives internal redirects and dies with the request's pool.
    type State: Default;

    /// Returns the `ngx_module_t` of this module, which [`crate::nginx_modules`] defines.
    fn cell() -> &'static ModuleCell;

    /// Defines variables. Called before `http {}` is read.
    fn preconfiguration(cf: &mut Conf<'_>) -> Result<(), ConfError>;
    /// Fills what `location` leaves unset from `parent`. Called for servers, locations and
    /// blocks below with directives of their own, parents first.
    fn merge_location(
        cf: &mut Conf<'_>,
        main: &mut Self::Main,
        server: &mut Self::Server,
        parent: &Self::Location,
        location: &mut Self::Location,
    ) -> Result<(), ConfError>;
    /// Returns true if a location without directives of its own may share `parent`, which was
    /// merged at the same server, in place of a merge. `resolver` is in force in the location.
    fn share_location(resolver: Option<Resolver>, parent: &Self::Location) -> bool;
    /// Completes and checks the configuration. Called after all locations were merged.
    fn postconfiguration(cf: &mut Conf<'_>, main: &mut Self::Main) -> Result<(), ConfError>;

    /// Starts the work of a worker process. Not called if there is no `http {}`.
    fn init_process(main: &'static Self::Main);
    /// Handles a wake-up by another worker ([`crate::wake()`]).
    fn woken();
    /// Drops all connections and timers. Called when a worker process ends.
    fn exit_process();

    /// Handles a phase of `request`, which may be a subrequest.
    fn phase(phase: Phase, request: &mut Request) -> PhaseStatus;
    /// Returns the handler of a location for which a directive called [`Conf::set_content`].
    fn content(request: &Request) -> Option<ContentHandler>;
    /// Returns the value of the variable `name`, which nginx has made lower case. For a variable of
    /// a prefix it is the full name.
    fn variable(request: &Request, name: &[u8]) -> Value;
    /// Returns the value of nginx's own variable `name`.
    fn override_variable(request: &Request, name: &[u8]) -> Override;
    /// Whether [`Request::forget_variables`] concerns the variable `name`. `of_prefix` is true if
    /// nginx found it by a prefix such as `http_`, and false if a module defined this very name.
    fn renewal(main: &Self::Main, name: &[u8], of_prefix: bool) -> Renewal;
    /// Edits the response before any other module's filter sees its header. A returned body
    /// replaces that of the response.
    fn header_filter(request: &mut Request) -> Result<Option<Vec<u8>>, Failed>;
    /// Edits the header of the response after the filters of other modules.
    fn last_header_filter(request: &mut Request) -> Result<(), Failed>;
}

/// The `ngx_module_t` of a module, in which nginx writes the indices it assigns.
#[repr(transparent)]
#[derive(Debug)]
pub struct ModuleCell(UnsafeCell<ngx_module_t>);

// SAFETY: nginx writes to it before it starts threads or workers; Rust code only reads.
unsafe impl Sync for ModuleCell {}

impl ModuleCell {
    pub(crate) const fn new(module: ngx_module_t) -> Self {
        Self(UnsafeCell::new(module))
    }

    /// Index that nginx assigned for configurations and request contexts.
    pub(crate) fn ctx_index(&self) -> usize {
        // SAFETY: written only while the configuration is read, on this thread.
        unsafe { (*self.0.get()).ctx_index }
    }
}
