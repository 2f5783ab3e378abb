//! Directives of built-in endpoints.

use core::ffi::CStr;
use core::time::Duration;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::rc::Rc;

use authgear::operations::webhook::{Secret, MAX_SECRET_FILE};

use super::arguments::{first, invalid};
use super::location::LocationConf;
use super::project::Project;
use super::protected_resource::ResourceEndpoint;
use super::MainConf;
use nginx::{self, Arguments, Conf, ConfError, Context, Directive, SourceLocation};

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

    fn scope(&self) -> Option<&[u8]> {
        self.project.as_ref().map(|project| project.scope.as_slice())
    }

    fn find(&mut self, main: &MainConf) -> Result<(), ConfError> {
        if let Some((name, place)) = &self.name {
            self.project = Some(main.by_name(name, place)?);
        }
        Ok(())
    }
}

impl PurgeDirective {
    /// Scope of the project whose verdicts are purged; none for all projects.
    pub fn scope(&self) -> Option<&[u8]> {
        self.filter.scope()
    }
}

impl WebhookDirective {
    /// Scope of the project that its events are about; none for any project.
    pub fn scope(&self) -> Option<&[u8]> {
        self.filter.scope()
    }

    /// Time for which tokens are refused after an event.
    pub fn revocation_ttl(&self, main: &MainConf) -> Duration {
        match &self.filter.project {
            Some(project) => project.revocation_ttl,
            None => {
                let all = main.projects().map(|project| project.revocation_ttl);
                all.max().unwrap_or_default()
            }
        }
    }
}

impl LocationConf {
    /// Completes the location's endpoint, once its project is known.
    pub(super) fn merge_endpoint(&mut self, main: &MainConf) -> Result<(), ConfError> {
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
        }
        Ok(())
    }

    pub(super) fn set_endpoint(&mut self, endpoint: BuiltinEndpoint) -> Result<(), ConfError> {
        match self.endpoint.replace(endpoint) {
            None => Ok(()),
            Some(_) => Err(ConfError::new(
                "a location has one of \"authgear_status\", \"authgear_purge\", \
                 \"authgear_webhook\" and \"authgear_protected_resource\", once",
            )),
        }
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
        conf.set_endpoint(BuiltinEndpoint::Status)?;
        cf.set_content::<super::Authgear>()
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
        conf.set_endpoint(BuiltinEndpoint::Purge(Self { is_self, filter, place: cf.place() }))?;
        cf.set_content::<super::Authgear>()
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
        conf.set_endpoint(BuiltinEndpoint::Webhook(Box::new(Self { secret, filter })))?;
        cf.set_content::<super::Authgear>()
    }
}

/// Reads the secret of a webhook, and warns if the file is readable by everybody.
fn read_secret(cf: &mut Conf<'_>, path: &str) -> Result<Secret, ConfError> {
    const READABLE_BY_OTHERS: u32 = 0o004;
    let path = cf.full_path(path)?;
    let name = path.display();
    let unreadable =
        |error| ConfError::new(format!("cannot read the secret file \"{name}\": {error}"));
    let file = File::open(&path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    let mut text = Vec::new();
    let most = MAX_SECRET_FILE as u64 + 1;
    file.take(most).read_to_end(&mut text).map_err(unreadable)?;
    if mode & READABLE_BY_OTHERS != 0 {
        cf.warn(format_args!(
            "the secret file \"{name}\" can be read by everybody (mode {:04o})",
            mode & 0o7777
        ));
    }
    Secret::read(&text)
        .map_err(|error| ConfError::new(format!("invalid secret file \"{name}\": it {error}")))
}
