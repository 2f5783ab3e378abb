//! nginx module that authenticates requests against [Authgear](https://www.authgear.com).
//!
//! This file is what nginx calls, and when. [`request`] is the story of one request.

#![forbid(unsafe_code)]
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod assertions;
mod cache;
mod client;
mod conf;
mod credentials;
mod fleet;
mod jwks;
mod lookup;
mod open_responses;
mod operations;
mod recent;
mod request;
mod resolution;
mod shared;
mod single_flight;
mod worker;

use core::cell::RefCell;
use std::rc::Rc;

use conf::operations::BuiltinEndpoint;
use conf::Authgear;
use nginx::{
    Conf, ConfError, Content, ContentHandler, Failed, ModuleCell, Override, Phase, PhaseStatus,
    Renewal, Reply, Request, Value,
};
use open_responses::OpenResponses;
use operations::{assertion_keys, protected_resource, purge, status, verdict, webhook};
use request::variables;
use worker::Worker;

thread_local! {
    /// State of this worker process. Callbacks borrow it shared, for nginx nests them.
    static WORKER: RefCell<Worker> = RefCell::default();
}

nginx::nginx_modules!(
    Authgear,
    c"ngx_http_authgear_module",
    c"ngx_http_authgear_preaccess_module",
    c"ngx_http_authgear_filter_module",
    [
        conf::project_block::ProjectDirective,
        conf::location::AuthgearDirective,
        conf::location::AuthgearModeDirective,
        conf::location::OnErrorDirective,
        conf::audience::AudienceDirective,
        conf::bearer::BearerDirective,
        conf::policy::RequireDirective,
        conf::policy::ResourceMetadataDirective,
        conf::policy::ChallengeDirective,
        conf::policy::DryRunDirective,
        conf::policy::EarlyDirective,
        conf::policy::LoginRedirectDirective,
        conf::login::LoginDirective,
        conf::login::PagesDirective,
        conf::login::PublicOriginDirective,
        conf::policy::PreflightDirective,
        conf::upstream_headers::SetHeadersDirective,
        conf::upstream_headers::HeaderDirective,
        conf::upstream_headers::UserinfoDirective,
        conf::upstream_headers::ForwardCredentialsDirective,
        conf::upstream_headers::RelayCookiesDirective,
        conf::upstream_headers::RemoteUserDirective,
        conf::upgrade::UpgradeDirective,
        conf::recheck::RecheckDirective,
        conf::unknown_limit::UnknownLimitDirective,
        conf::fleet::FleetDirective,
        conf::fleet::CutOffDirective,
        conf::cache::ZoneDirective,
        conf::cache::CacheDirective,
        conf::cache::CacheValidDirective,
        conf::cache::CacheUseStaleDirective,
        conf::operations::StatusDirective,
        conf::status_zone::StatusZoneDirective,
        conf::operations::PurgeDirective,
        conf::operations::WebhookDirective,
        conf::operations::VerdictDirective,
        conf::assertion::AssertionDirective,
        conf::assertion::AssertionKeysDirective,
        conf::protected_resource::ProtectedResourceDirective,
    ]
);

impl nginx::Module for Authgear {
    type State = request::RequestState;

    fn cell() -> &'static ModuleCell {
        &MODULE
    }

    fn preconfiguration(cf: &mut Conf<'_>) -> Result<(), ConfError> {
        variables::define_prefixes(cf)
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

    fn share_location(resolver: Option<nginx::Resolver>, parent: &conf::LocationConf) -> bool {
        parent.share(resolver)
    }

    fn postconfiguration(cf: &mut Conf<'_>, main: &mut conf::MainConf) -> Result<(), ConfError> {
        main.uses_userinfo = variables::uses_userinfo(cf);
        variables::define(cf)?;
        main.check_names()?;
        main.compile(cf)?;
        main.declare_module_zone(cf)?;
        main.find_servers(cf)?;
        main.check_effects(cf)?;
        conf::lint::check(cf, main, variables::is_of_verdict);
        if let Some(file) = nginx::replaced_module_file() {
            let version = env!("CARGO_PKG_VERSION");
            cf.warn(format_args!(
                "authgear runs as version {version} although its file {file} was replaced: \
                 a reload loads no new module, a restart or an upgrade of the binary does"
            ));
        }
        main.forget_places();
        Ok(())
    }

    fn init_process(main: &'static conf::MainConf) {
        WORKER.set(Worker::new(main, start_rechecks));
    }

    fn woken() {
        WORKER.with_borrow(Worker::woken);
    }

    fn exit_process() {
        WORKER.take().close();
    }

    fn phase(phase: Phase, request: &mut Request) -> PhaseStatus {
        WORKER.with_borrow(|worker| request::phase(worker, phase, request))
    }

    fn content(request: &Request) -> Option<ContentHandler> {
        Some(match request.location::<Self>().endpoint.as_ref()? {
            BuiltinEndpoint::Status => ContentHandler::of::<StatusEndpoint>(),
            BuiltinEndpoint::Purge(_) => ContentHandler::of::<PurgeEndpoint>(),
            BuiltinEndpoint::Webhook(_) => ContentHandler::of::<WebhookEndpoint>(),
            BuiltinEndpoint::ProtectedResource(_) => {
                ContentHandler::of::<ProtectedResourceEndpoint>()
            }
            BuiltinEndpoint::AssertionKeys(_) => ContentHandler::of::<AssertionKeysEndpoint>(),
            BuiltinEndpoint::Verdict(_) => ContentHandler::of::<VerdictEndpoint>(),
        })
    }

    fn variable(request: &Request, name: &[u8]) -> Value {
        variables::get(request, name)
    }

    fn override_variable(request: &Request, _name: &[u8]) -> Override {
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
        WORKER.with_borrow(|worker| request::header_filter(worker, request))
    }

    fn last_header_filter(request: &mut Request) -> Result<(), Failed> {
        request::last_header_filter(request)
    }
}

/// Starts the task that looks at open responses.
fn start_rechecks(list: Rc<OpenResponses>) {
    nginx::spawn(async move {
        loop {
            let generation = WORKER.with_borrow(|worker| worker.shared().purge_generation());
            list.turn(generation, request::recheck::PAUSE).await;
            WORKER.with_borrow(request::recheck::tick);
        }
    });
}

/// `authgear_status` in the content phase.
struct StatusEndpoint;

impl Content for StatusEndpoint {
    const MAX_BODY: usize = status::MAX_BODY;

    fn begin(request: &mut Request) -> Result<(), u16> {
        status::begin(request)
    }

    fn answer(request: &mut Request, _body: &[u8]) -> Reply {
        WORKER.with_borrow(|worker| status::answer(worker, request))
    }
}

/// `authgear_purge` in the content phase.
struct PurgeEndpoint;

impl Content for PurgeEndpoint {
    const MAX_BODY: usize = purge::MAX_BODY;

    fn begin(request: &mut Request) -> Result<(), u16> {
        purge::begin(request)
    }

    fn answer(request: &mut Request, body: &[u8]) -> Reply {
        WORKER.with_borrow(|worker| purge::answer(worker, request, body))
    }
}

/// `authgear_webhook` in the content phase.
struct WebhookEndpoint;

impl Content for WebhookEndpoint {
    const MAX_BODY: usize = webhook::MAX_BODY;

    fn begin(request: &mut Request) -> Result<(), u16> {
        webhook::begin(request)
    }

    fn answer(request: &mut Request, body: &[u8]) -> Reply {
        WORKER.with_borrow(|worker| webhook::answer(worker, request, body))
    }
}

/// `authgear_protected_resource` in the content phase.
struct ProtectedResourceEndpoint;

impl Content for ProtectedResourceEndpoint {
    const MAX_BODY: usize = protected_resource::MAX_BODY;

    fn begin(request: &mut Request) -> Result<(), u16> {
        protected_resource::begin(request)
    }

    fn answer(request: &mut Request, _body: &[u8]) -> Reply {
        protected_resource::answer(request)
    }
}

/// `authgear_verdict` in the content phase.
struct VerdictEndpoint;

impl Content for VerdictEndpoint {
    const MAX_BODY: usize = verdict::MAX_BODY;

    fn begin(_request: &mut Request) -> Result<(), u16> {
        Ok(())
    }

    fn answer(request: &mut Request, _body: &[u8]) -> Reply {
        verdict::answer(request)
    }
}

/// `authgear_assertion_keys` in the content phase.
struct AssertionKeysEndpoint;

impl Content for AssertionKeysEndpoint {
    const MAX_BODY: usize = assertion_keys::MAX_BODY;

    fn begin(request: &mut Request) -> Result<(), u16> {
        assertion_keys::begin(request)
    }

    fn answer(request: &mut Request, _body: &[u8]) -> Reply {
        assertion_keys::answer(request)
    }
}
