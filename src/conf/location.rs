//! Directives of http, server and location.

use core::ffi::CStr;
use std::rc::Rc;

use authgear::endpoint::Endpoint;

use super::cache::{CacheZone, UseStale, Valid};
use super::operating::Operation;
use super::policy::Requirement;
use super::project::{invalid, Project};
use super::{MainConf, ServerConf};
use crate::nginx::{self, ComplexValue, Conf, ConfError, Context, Directive, Place};

/// Configuration of a location, and of the levels above it.
#[derive(Default)]
pub struct LocationConf {
    authgear: Option<Use>,
    mode: Option<Mode>,
    on_error: Option<Fallback>,
    pub(super) cache: Option<CacheUse>,
    pub(super) cache_valid: Option<Valid>,
    pub(super) cache_use_stale: Option<UseStale>,
    pub(super) require: Option<Vec<Requirement>>,
    /// Where `authgear_require` stands, if it does at this level.
    pub(super) require_place: Option<Place>,
    /// Where the one in force does.
    pub(super) require_from: Option<Place>,
    pub(super) resource_metadata: Option<Option<String>>,
    pub(super) dry_run: Option<bool>,
    /// As a value, and as the configuration has it.
    pub(super) login_redirect: Option<Option<(ComplexValue, Rc<str>)>>,
    pub(super) preflight_pass: Option<bool>,
    pub(super) set_headers: Option<bool>,
    pub(super) forward_credentials: Option<bool>,
    pub(super) relay_cookies: Option<bool>,
    /// What the location is for, if not for the site. It is not inherited.
    pub operation: Option<Operation>,
    /// The project that decides here; none when `off` or never turned on.
    pub project: Option<Rc<Project>>,
    /// Where its verdicts are kept, if they are.
    pub zone: Option<Rc<CacheZone>>,
}

/// What `authgear_cache` says.
#[derive(Clone, Debug)]
pub(super) enum CacheUse {
    Off,
    Zone(String, Place),
}

/// What `authgear` says.
#[derive(Clone, Debug)]
enum Use {
    Off,
    Url(Endpoint),
    Name(String, Place),
}

/// Who decides about credentials.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Authgear's resolver.
    #[default]
    Resolver,
    /// The worker, about bearer tokens; nothing else counts.
    Jwt,
    /// The worker about bearer tokens that it can verify, and Authgear's resolver about the rest.
    Auto,
}

/// What becomes of a request when Authgear cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// It is answered with 503.
    #[default]
    Deny,
    /// It goes on as if it had no session.
    Anonymous,
}

impl LocationConf {
    /// What `authgear_mode` says.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or_default()
    }

    /// What `authgear_on_error` says.
    pub fn on_error(&self) -> Fallback {
        self.on_error.unwrap_or_default()
    }

    /// What `authgear_require` says; nothing where nobody is turned away.
    pub fn require(&self) -> &[Requirement] {
        self.require.as_deref().unwrap_or_default()
    }

    /// What `authgear_resource_metadata` says.
    pub fn resource_metadata(&self) -> Option<&str> {
        self.resource_metadata.as_ref()?.as_deref()
    }

    /// What `authgear_set_headers` says.
    pub fn set_headers(&self) -> bool {
        self.set_headers.unwrap_or(true)
    }

    /// What `authgear_forward_credentials` says.
    pub fn forward_credentials(&self) -> bool {
        self.forward_credentials.unwrap_or(true)
    }

    /// What `authgear_relay_cookies` says.
    pub fn relay_cookies(&self) -> bool {
        self.relay_cookies.unwrap_or(false)
    }

    /// What `authgear_login_redirect` says.
    pub fn login_redirect(&self) -> Option<ComplexValue> {
        self.login_redirect.as_ref()?.as_ref().map(|(url, _)| *url)
    }

    /// The same, as it stands there.
    pub(super) fn login_url(&self) -> Option<&str> {
        self.login_redirect.as_ref()?.as_ref().map(|(_, text)| &**text)
    }

    /// Whether `authgear_preflight` says `pass`.
    pub fn preflight_pass(&self) -> bool {
        self.preflight_pass.unwrap_or(false)
    }

    /// What `authgear_dry_run` says.
    pub fn dry_run(&self) -> bool {
        self.dry_run.unwrap_or(false)
    }

    /// What `authgear_cache_valid` says.
    pub fn cache_valid(&self) -> Valid {
        self.cache_valid.unwrap_or_default()
    }

    /// What `authgear_cache_use_stale` says.
    pub fn cache_use_stale(&self) -> UseStale {
        self.cache_use_stale.unwrap_or_default()
    }

    /// Fills what is open from `parent`, and finds the project.
    pub fn merge(
        &mut self,
        cf: &mut Conf<'_>,
        main: &mut MainConf,
        server: &mut ServerConf,
        parent: &Self,
    ) -> Result<(), ConfError> {
        self.mode = self.mode.or(parent.mode);
        self.on_error = self.on_error.or(parent.on_error);
        self.cache_valid = self.cache_valid.or(parent.cache_valid);
        self.cache_use_stale = self.cache_use_stale.or(parent.cache_use_stale);
        self.dry_run = self.dry_run.or(parent.dry_run);
        self.preflight_pass = self.preflight_pass.or(parent.preflight_pass);
        self.set_headers = self.set_headers.or(parent.set_headers);
        self.forward_credentials = self.forward_credentials.or(parent.forward_credentials);
        self.relay_cookies = self.relay_cookies.or(parent.relay_cookies);
        self.require_from = self.require_place.clone();
        if self.require.is_none() {
            self.require = parent.require.clone();
            self.require_from = parent.require_from.clone().or(parent.require_place.clone());
        }
        if self.login_redirect.is_none() {
            self.login_redirect = parent.login_redirect.clone();
        }
        if self.resource_metadata.is_none() {
            self.resource_metadata = parent.resource_metadata.clone();
        }
        if self.cache.is_none() {
            self.cache = parent.cache.clone();
        }
        self.zone = match &self.cache {
            None | Some(CacheUse::Off) => None,
            Some(CacheUse::Zone(name, place)) => Some(main.zone(name, place)?),
        };
        if self.authgear.is_none() {
            self.authgear = parent.authgear.clone();
        }
        self.project = match &self.authgear {
            None | Some(Use::Off) => None,
            Some(Use::Url(endpoint)) => Some(main.by_url(cf, endpoint)?),
            Some(Use::Name(name, place)) => Some(main.by_name(name, place)?),
        };
        self.merge_operation(main)?;
        if let (None, Some(place)) = (&self.project, &self.require_place) {
            let message = "\"authgear_require\" where \"authgear\" is not on";
            return Err(ConfError::At(place.clone(), message.into()));
        }
        if let Some(project) = &self.project {
            server.in_use = true;
            project.use_at(self.mode(), cf.resolver());
            self.warn_about_amr(cf);
        }
        Ok(())
    }
}

/// `authgear_mode resolver | jwt | auto`
pub struct AuthgearMode;

impl Directive for AuthgearMode {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_mode";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let mode = match arguments.get(1).map(String::as_str).unwrap_or_default() {
            "resolver" => Mode::Resolver,
            "jwt" => Mode::Jwt,
            "auto" => Mode::Auto,
            other => {
                let right = "\"resolver\", \"jwt\" or \"auto\"";
                return Err(invalid("authgear_mode", other, right));
            }
        };
        set_once(&mut conf.mode, mode)
    }
}

/// `authgear URL | NAME | off`
pub struct Authgear;

impl Directive for Authgear {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear";
    const CONTEXT: Context = Context::Everywhere;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let value = arguments.get(1).map(String::as_str).unwrap_or_default();
        let used = match value {
            "off" => Use::Off,
            url if url.contains("://") => {
                let endpoint = Endpoint::parse(url).map_err(|error| {
                    let url = super::project::shown(url);
                    ConfError::new(format!("invalid Authgear endpoint \"{url}\": it {error}"))
                })?;
                let main = cf.main::<crate::Authgear>();
                if main.exposed.insert(endpoint.origin().to_owned()) {
                    let place = cf.place();
                    super::project::warn_if_exposed(cf, endpoint.url(), &place);
                }
                Use::Url(endpoint)
            }
            name if super::project::is_name(name) => {
                let place = cf.place();
                cf.main::<crate::Authgear>().expect_project(name, place.clone());
                Use::Name(name.to_owned(), place)
            }
            other => {
                return Err(ConfError::new(format!(
                    "invalid value \"{other}\" in \"authgear\" directive, it must be the URL of \
                     an Authgear endpoint (https://...), the name of an \"authgear_project\" or \
                     \"off\""
                )));
            }
        };
        set_once(&mut conf.authgear, used)
    }
}

/// `authgear_on_error deny | anonymous`
pub struct OnError;

impl Directive for OnError {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_on_error";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let fallback = match arguments.get(1).map(String::as_str).unwrap_or_default() {
            "deny" => Fallback::Deny,
            "anonymous" => Fallback::Anonymous,
            other => {
                return Err(ConfError::new(format!(
                    "invalid value \"{other}\" in \"authgear_on_error\" directive, it must be \
                     \"deny\" or \"anonymous\""
                )));
            }
        };
        set_once(&mut conf.on_error, fallback)
    }
}

/// Fills what a directive may fill once.
pub(super) fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), ConfError> {
    match slot {
        Some(_) => Err(ConfError::Duplicate),
        None => {
            *slot = Some(value);
            Ok(())
        }
    }
}
