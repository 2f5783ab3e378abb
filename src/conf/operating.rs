//! Locations that tell what is going on, and that take orders.

use core::ffi::CStr;
use core::time::Duration;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::rc::Rc;

use authgear::webhook::{Secret, MAX_SECRET_FILE};

use super::location::LocationConf;
use super::project::{invalid, Project};
use super::MainConf;
use crate::nginx::{self, Arguments, Conf, ConfError, Context, Directive, Place};

/// What a location does instead of what locations do.
pub enum Operation {
    /// `authgear_status`
    Status,
    /// `authgear_purge`
    Purge(Purge),
    /// `authgear_webhook`
    Webhook(Box<Webhook>),
}

/// `authgear_purge self | admin [project=NAME]`
pub struct Purge {
    /// Whether it is the caller who is purged, and nobody else.
    pub is_self: bool,
    limit: Limit,
    place: Place,
}

/// `authgear_webhook SECRET_FILE [project=NAME]`
pub struct Webhook {
    /// What events are signed with.
    pub secret: Secret,
    limit: Limit,
}

/// `project=NAME`, and what it stands for once all projects are known.
#[derive(Default)]
struct Limit {
    name: Option<(String, Place)>,
    project: Option<Rc<Project>>,
}

impl Limit {
    fn read(cf: &mut Conf<'_>, directive: &str) -> Result<Self, ConfError> {
        let arguments = cf.arguments();
        let Some(argument) = arguments.get(2) else { return Ok(Self::default()) };
        let name = argument.strip_prefix("project=").ok_or_else(|| {
            invalid(directive, argument, "project= with the name of an \"authgear_project\"")
        })?;
        let place = cf.place();
        cf.main::<crate::Authgear>().expect_project(name, place.clone());
        Ok(Self { name: Some((name.to_owned(), place)), project: None })
    }

    fn find(&mut self, main: &MainConf) -> Result<(), ConfError> {
        if let Some((name, place)) = &self.name {
            self.project = Some(main.by_name(name, place)?);
        }
        Ok(())
    }
}

impl Purge {
    /// The project whose verdicts are purged, if not those of all.
    pub fn project(&self) -> Option<&Rc<Project>> {
        self.limit.project.as_ref()
    }
}

impl Webhook {
    /// The project that its events are about, if not any.
    pub fn project(&self) -> Option<&Rc<Project>> {
        self.limit.project.as_ref()
    }

    /// How long tokens are refused after an event.
    pub fn revocation_ttl(&self, main: &MainConf) -> Duration {
        match self.project() {
            Some(project) => project.revocation_ttl,
            None => {
                let all = main.projects().map(|project| project.revocation_ttl);
                all.max().unwrap_or_default()
            }
        }
    }
}

impl LocationConf {
    /// Completes what [`Operation`] there is, when the location's project is known.
    pub(super) fn merge_operation(&mut self, main: &MainConf) -> Result<(), ConfError> {
        match &mut self.operation {
            None | Some(Operation::Status) => {}
            Some(Operation::Purge(purge)) => {
                purge.limit.find(main)?;
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
            Some(Operation::Webhook(webhook)) => {
                webhook.limit.find(main)?;
                // The signature tells who calls, and nothing else does.
                self.project = None;
            }
        }
        Ok(())
    }

    fn operate(&mut self, operation: Operation) -> Result<(), ConfError> {
        match self.operation.replace(operation) {
            None => Ok(()),
            Some(_) => Err(ConfError::new(
                "a location has one of \"authgear_status\", \"authgear_purge\" and \
                 \"authgear_webhook\", once",
            )),
        }
    }
}

/// `authgear_status`
pub struct Status;

impl Directive for Status {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_status";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::None;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        conf.operate(Operation::Status)?;
        cf.set_content::<crate::Authgear>()
    }
}

impl Directive for Purge {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_purge";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::OneOrTwo;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let is_self = match arguments.get(1).map(String::as_str).unwrap_or_default() {
            "self" => true,
            "admin" => false,
            other => return Err(invalid("authgear_purge", other, "\"self\" or \"admin\"")),
        };
        let limit = Limit::read(cf, "authgear_purge")?;
        conf.operate(Operation::Purge(Self { is_self, limit, place: cf.place() }))?;
        cf.set_content::<crate::Authgear>()
    }
}

impl Directive for Webhook {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_webhook";
    const CONTEXT: Context = Context::Location;
    const ARGUMENTS: Arguments = Arguments::OneOrTwo;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let path = arguments.get(1).map(String::as_str).unwrap_or_default();
        let secret = read_secret(cf, path)?;
        let limit = Limit::read(cf, "authgear_webhook")?;
        conf.operate(Operation::Webhook(Box::new(Self { secret, limit })))?;
        cf.set_content::<crate::Authgear>()
    }
}

/// Reads the secret of a webhook, and warns if everybody else can.
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
