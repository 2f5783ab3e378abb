//! nginx module that authenticates requests against [Authgear](https://www.authgear.com).
//!
//! This file is what nginx calls, and when; [`access`] is the story of one request.

#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

// Makes `crate::nginx` a path of this crate.
extern crate nginx;

mod access;
mod address;
mod cache;
mod client;
mod conf;
mod count;
mod credentials;
mod denial;
mod keys;
mod lookup;
mod purge;
mod shared;
mod status;
mod variables;
mod webhook;
mod worker;

use nginx::{
    Conf, ConfError, ContentHandler, Failed, ModuleCell, Phase, PhaseStatus, Renewal, Request,
    Value,
};

use conf::marker::Authgear;
use conf::operating::Operation;

nginx::nginx_modules!(
    Authgear,
    c"ngx_http_authgear_module",
    c"ngx_http_authgear_filter_module",
    [
        conf::project::Project,
        conf::location::Authgear,
        conf::location::AuthgearMode,
        conf::location::OnError,
        conf::policy::Require,
        conf::policy::ResourceMetadata,
        conf::policy::DryRun,
        conf::policy::LoginRedirect,
        conf::policy::Preflight,
        conf::backend::SetHeaders,
        conf::backend::ForwardCredentials,
        conf::backend::RelayCookies,
        conf::cache::Zone,
        conf::cache::Cache,
        conf::cache::CacheValid,
        conf::cache::CacheUseStale,
        conf::operating::Status,
        conf::operating::Purge,
        conf::operating::Webhook,
    ]
);

impl nginx::Module for Authgear {
    type State = access::RequestState;

    fn cell() -> &'static ModuleCell {
        &MODULE
    }

    fn preconfiguration(cf: &mut Conf<'_>) -> Result<(), ConfError> {
        variables::define(cf)
    }

    fn merge_location(
        cf: &mut Conf<'_>,
        main: &mut conf::MainConf,
        server: &mut conf::ServerConf,
        parent: &conf::LocationConf,
        location: &mut conf::LocationConf,
    ) -> Result<(), ConfError> {
        location.merge(cf, main, server, parent)
    }

    fn postconfiguration(cf: &mut Conf<'_>, main: &mut conf::MainConf) -> Result<(), ConfError> {
        main.check_names()?;
        main.compile(cf)?;
        main.declare_own_zone(cf)?;
        main.find_servers(cf)?;
        conf::lint::check(cf, main);
        Ok(())
    }

    fn init_process(main: &'static conf::MainConf) {
        worker::init(main);
    }

    fn woken() {
        worker::woken();
    }

    fn exit_process() {
        worker::exit();
    }

    fn phase(phase: Phase, request: &mut Request) -> PhaseStatus {
        match phase {
            Phase::PostRead => access::post_read(request),
            Phase::ServerRewrite => access::server_rewrite(request),
            Phase::Preaccess => access::preaccess(request),
            Phase::Access => access::access(request),
            Phase::Precontent => access::precontent(request),
        }
    }

    fn content(request: &Request) -> Option<ContentHandler> {
        Some(match request.location::<Self>().operation.as_ref()? {
            Operation::Status => ContentHandler::of::<status::Status>(),
            Operation::Purge(_) => ContentHandler::of::<purge::Purge>(),
            Operation::Webhook(_) => ContentHandler::of::<webhook::Webhook>(),
        })
    }

    fn variable(request: &Request, name: &[u8]) -> Value {
        variables::get(request, name)
    }

    fn override_variable(request: &Request, _name: &[u8]) -> Value {
        variables::remote_user(request)
    }

    fn renewal(main: &conf::MainConf, name: &[u8], of_prefix: bool) -> Renewal {
        if variables::is_own(name, of_prefix) {
            Renewal::Always
        } else if main.requires_variable(name) {
            Renewal::IfPossible
        } else {
            Renewal::Never
        }
    }

    fn header_filter(request: &mut Request) -> Result<Option<Vec<u8>>, Failed> {
        access::header_filter(request)
    }
}
