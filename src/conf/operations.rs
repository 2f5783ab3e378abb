//! Directives of built-in endpoints.

use core::ffi::CStr;
use core::time::Duration;
use std::rc::Rc;

use authgear::operations::webhook::{Secret, MAX_SECRET_FILE};
use authgear::policy::Condition;

use super::arguments::{first, invalid, read_secret_file};
use super::assertion::KeysEndpoint;
use super::location::LocationConf;
use super::policy::Requirement;
use super::project::Project;
use super::protected_resource::ResourceEndpoint;
use super::MainConf;
use nginx::{self, Arguments, Conf, ConfError, ContentMark, Context, Directive, SourceLocation};

/// A built-in endpoint that answers in place of `proxy_pass` and the like.
pub enum BuiltinEndpoint {
    /// `authgear_status`
    Status,
    /// `authgear_purge`
    Purge(PurgeDirective),
    /// `authgear_webhook`
    Webhook(Box<WebhookDirective>),
    /// `authgear_protected_resource`
    ProtectedResource(Box<ResourceEndpoint>),
    /// `authgear_assertion_keys`
    AssertionKeys(Box<KeysEndpoint>),
    /// `authgear_verdict`, and where it stands.
    Verdict(SourceLocation),
}

/// `authgear_purge self | admin [project=NAME]`
pub struct PurgeDirective {
    /// Purges the caller's user, and no other (`self`).
    pub is_self: bool,
    filter: ProjectFilter,
    pub(super) place: SourceLocation,
}

/// `authgear_webhook SECRET_FILE [project=NAME]`
pub struct WebhookDirective {
    /// Secret that events are signed with.
    pub secret: Secret,
    filter: ProjectFilter,
}

/// `project=NAME`, and the project once all projects are known.
#[derive(Default)]
struct ProjectFilter {
    name: Option<(String, SourceLocation)>,
    project: Option<Rc<Project>>,
}

impl ProjectFilter {
    fn read(cf: &mut Conf<'_>, directive: &str) -> Result<Self, ConfError> {
        let arguments = cf.arguments();
        let Some(argument) = arguments.get(2) else { return Ok(Self::default()) };
        let name = argument.strip_prefix("project=").ok_or_else(|| {
            invalid(directive, argument, "project= with the name of an \"authgear_project\"")
        })?;
        let place = cf.place();
        cf.main::<crate::conf::Authgear>().expect_project(name, place.clone());
        Ok(Self { name: Some((name.to_owned(), place)), project: None })
    }

    fn find(&mut self, main: &MainConf) -> Result<(), ConfError> {
        if let Some((name, place)) = &self.name {
            self.project = Some(main.by_name(name, place)?);
        }
        Ok(())
    }
}

impl PurgeDirective {
    /// The project whose verdicts are purged; none for all projects.
    pub fn project(&self) -> Option<&Project> {
        self.filter.project.as_deref()
    }
}

impl WebhookDirective {
    /// The project that its events are about; none for any project.
    pub fn project(&self) -> Option<&Project> {
        self.filter.project.as_deref()
    }

    /// Time for which tokens are refused after an event.
    pub fn revocation_ttl(&self, main: &MainConf) -> Duration {
        match &self.filter.project {
            Some(project) => project.revocation_ttl,
            None => main.longest_refusal(),
        }
    }
}

/// Directive whose endpoint answers the requests of a location.
pub(super) struct ContentOwner {
    /// Its name.
    pub(super) directive: String,
    /// The function that nginx calls for it.
    pub(super) mark: ContentMark,
    /// Its position.
    pub(super) place: SourceLocation,
}

/// Message about an endpoint in a location that another directive answers.
pub(super) fn answered_elsewhere(directive: &str) -> String {
    format!(
        "\"{directive}\" in a location that another directive answers, such as \"proxy_pass\": \
         give it a location of its own"
    )
}

impl LocationConf {
    /// Completes the location's endpoint, once its project is known.
    pub(super) fn merge_endpoint(
        &mut self,
        cf: &mut Conf<'_>,
        main: &MainConf,
    ) -> Result<(), ConfError> {
        match &mut self.endpoint {
            None | Some(BuiltinEndpoint::Status) => {}
            Some(BuiltinEndpoint::Purge(purge)) => {
                purge.filter.find(main)?;
                if purge.is_self && self.project.is_none() {
                    let message = "\"authgear_purge self\" where \"authgear\" is not on";
                    return Err(ConfError::At(purge.place.clone(), message.into()));
                }
                if main.zones().is_empty() {
                    let message = "\"authgear_purge\" without an \"authgear_cache_zone\": nothing \
                                   is kept that could be purged";
                    return Err(ConfError::At(purge.place.clone(), message.into()));
                }
            }
            Some(BuiltinEndpoint::Webhook(webhook)) => {
                webhook.filter.find(main)?;
                // The signature alone authenticates the caller.
                self.project = None;
            }
            Some(BuiltinEndpoint::ProtectedResource(endpoint)) => {
                let Some(project) = &self.project else {
                    let message = "\"authgear_protected_resource\" where \"authgear\" is not on";
                    let place = endpoint.served.place.clone();
                    return Err(ConfError::At(place, message.into()));
                };
                endpoint.document = endpoint.served.document(&project.tokens.profile.issuer);
                // Clients read the document before they have a token.
                self.project = None;
            }
            Some(BuiltinEndpoint::AssertionKeys(endpoint)) => {
                endpoint.complete(self.assertion.as_deref())?;
                // Public keys are for everybody.
                self.project = None;
            }
            Some(BuiltinEndpoint::Verdict(place)) => {
                let place = place.clone();
                if let Err(message) = self.check_verdict() {
                    let message = format!("\"authgear_verdict\" {message}");
                    return Err(ConfError::At(place, message));
                }
                // A proxy would take a page with the status 200 for leave.
                cf.leave_out_error_pages()?;
            }
        }
        Ok(())
    }

    /// Checks that `authgear_verdict` answers 200 for sessions alone. The error follows its name.
    fn check_verdict(&self) -> Result<(), &'static str> {
        if self.project.is_none() {
            return Err("where \"authgear\" is not on");
        }
        if !self.require().iter().any(Requirement::needs_session) {
            return Err("would give leave to everybody: add \"authgear_require session\", in a \
                        line without a variable in a list of \"any\"");
        }
        if self.dry_run() {
            return Err("with \"authgear_dry_run on\" would give leave to everybody");
        }
        if self.preflight_pass() {
            return Err("with \"authgear_preflight pass\": nobody would check a preflight; let \
                        the proxy answer it, and add \"authgear_preflight check\"");
        }
        let mut conditions = self.require().iter().flat_map(|line| &line.conditions);
        if conditions.any(|condition| *condition == Condition::SameSite) {
            return Err("with \"same_site\": a proxy asks by a request of its own, whose method \
                        tells nothing of the client's; check this where the proxy forwards to");
        }
        Ok(())
    }

    /// Returns true if the location has `authgear_verdict`.
    pub fn answers_verdict(&self) -> bool {
        matches!(self.endpoint, Some(BuiltinEndpoint::Verdict(_)))
    }

    /// Makes `endpoint` answer the requests of the location being read.
    pub(super) fn set_endpoint(
        &mut self,
        cf: &mut Conf<'_>,
        endpoint: BuiltinEndpoint,
    ) -> Result<(), ConfError> {
        if self.endpoint.replace(endpoint).is_some() {
            return Err(ConfError::new(
                "a location has one of \"authgear_status\", \"authgear_purge\", \
                 \"authgear_webhook\", \"authgear_protected_resource\", \
                 \"authgear_assertion_keys\" and \"authgear_verdict\", once",
            ));
        }
        let name = cf.arguments().into_iter().next().unwrap_or_default();
        let mark = cf.set_content::<super::Authgear>()?;
        let mark = mark.ok_or_else(|| ConfError::new(answered_elsewhere(&name)))?;
        self.content = Some(Box::new(ContentOwner { directive: name, mark, place: cf.place() }));
        Ok(())
    }
}

/// `authgear_status`
pub struct StatusDirective;

impl Directive for StatusDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_status";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::None;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        cf.main::<super::Authgear>().has_status = true;
        conf.set_endpoint(cf, BuiltinEndpoint::Status)
    }
}

/// `authgear_verdict`
pub struct VerdictDirective;

impl Directive for VerdictDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_verdict";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::None;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let place = cf.place();
        conf.set_endpoint(cf, BuiltinEndpoint::Verdict(place))
    }
}

impl Directive for PurgeDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_purge";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::OneOrTwo;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let is_self = match first(cf).as_str() {
            "self" => true,
            "admin" => false,
            other => return Err(invalid("authgear_purge", other, "\"self\" or \"admin\"")),
        };
        let filter = ProjectFilter::read(cf, "authgear_purge")?;
        let place = cf.place();
        conf.set_endpoint(cf, BuiltinEndpoint::Purge(Self { is_self, filter, place }))
    }
}

impl Directive for WebhookDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_webhook";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::OneOrTwo;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let path = &first(cf);
        let secret = read_secret(cf, path)?;
        let filter = ProjectFilter::read(cf, "authgear_webhook")?;
        conf.set_endpoint(cf, BuiltinEndpoint::Webhook(Box::new(Self { secret, filter })))
    }
}

/// Reads the secret of a webhook.
fn read_secret(cf: &mut Conf<'_>, path: &str) -> Result<Secret, ConfError> {
    let (name, text) = read_secret_file(cf, "secret", path, MAX_SECRET_FILE)?;
    Secret::read(&text)
        .map_err(|error| ConfError::new(format!("invalid secret file \"{name}\": it {error}")))
}
