//! Directives of http, server and location.

use core::ffi::CStr;
use core::time::Duration;
use std::rc::Rc;

pub use authgear::credentials::LookupMode as Mode;
use authgear::resolver::endpoint::Endpoint;
use authgear::verdict::freshness::{UseStale, Valid};

use super::arguments::{first, invalid, is_name, set_once, truncated};
use super::assertion::{AssertionSettings, AssertionUse};
use super::audience::LocationAudience;
use super::cache::CacheZone;
use super::fleet::CutOff;
use super::login::LoginPaths;
use super::operations::{BuiltinEndpoint, ContentOwner};
use super::policy::Requirement;
use super::project::Project;
use super::protected_resource::ServedResource;
use super::status_zone::StatusZone;
use super::unknown_limit::UnknownLimit;
use super::upstream_headers::HeaderLine;
use super::{MainConf, ServerConf};
use nginx::{self, ComplexValue, Conf, ConfError, Context, Directive, Resolver, SourceLocation};

/// Configuration of a location, and of the levels above it.
#[derive(Default)]
pub struct LocationConf {
    authgear: Option<Rc<ProjectRef>>,
    mode: Option<Mode>,
    on_error: Option<Fallback>,
    pub(super) cache: Option<Rc<CacheUse>>,
    pub(super) cache_valid: Option<Rc<Valid>>,
    pub(super) cache_use_stale: Option<Rc<UseStale>>,
    pub(super) require: Option<Rc<Vec<Requirement>>>,
    /// Position of the `authgear_require` in force.
    pub(super) require_from: Option<SourceLocation>,
    pub(super) resource_metadata: Option<Option<Rc<str>>>,
    /// The resource that the location is, if a document of it is served.
    pub(super) resource: Option<Rc<ServedResource>>,
    pub(super) challenge: Option<bool>,
    pub(super) dry_run: Option<bool>,
    pub(super) early: Option<bool>,
    pub(super) login_redirect: Option<Option<Rc<LoginPage>>>,
    pub(super) login: Option<Option<Rc<LoginPaths>>>,
    pub(super) pages: Option<bool>,
    pub(super) public_origin: Option<Rc<str>>,
    pub(super) preflight_pass: Option<bool>,
    pub(super) set_headers: Option<bool>,
    pub(super) forward_credentials: Option<bool>,
    pub(super) relay_cookies: Option<bool>,
    pub(super) remote_user: Option<bool>,
    pub(super) upgrade: Option<Rc<[String]>>,
    pub(super) recheck: Option<Option<Duration>>,
    pub(super) headers: Option<Rc<Vec<HeaderLine>>>,
    /// Value of `authgear_assertion`; the inner `None` is `off`.
    pub(super) assertion_line: Option<Option<Rc<AssertionSettings>>>,
    /// Assertions in force.
    pub(super) assertion: Option<Box<AssertionUse>>,
    pub(super) userinfo: Option<bool>,
    pub(super) cut_off: Option<CutOff>,
    pub(super) bearer: Option<Option<Rc<[ComplexValue]>>>,
    pub(super) unknown_limit: Option<Option<Rc<UnknownLimit>>>,
    pub(super) status_zone: Option<Option<Rc<StatusZone>>>,
    /// Value of `authgear_audience`; the inner `None` is `project`.
    pub(super) audiences: Option<Option<Rc<[String]>>>,
    /// Audiences in force, if they are not those of the project.
    pub audience: Option<Rc<LocationAudience>>,
    /// Built-in endpoint of the location. It is not inherited.
    pub endpoint: Option<BuiltinEndpoint>,
    pub(super) content: Option<Box<ContentOwner>>,
    /// The project that decides; none if `authgear` is off.
    pub project: Option<Rc<Project>>,
    /// The zone of its verdicts, if they are cached.
    pub zone: Option<Rc<CacheZone>>,
}

/// Value of `authgear_cache`.
#[derive(Clone, Debug)]
pub(super) enum CacheUse {
    Off,
    Zone(String, SourceLocation),
}

/// Value of `authgear_login_redirect`.
#[derive(Clone, Debug)]
pub(super) struct LoginPage {
    /// The URL.
    pub(super) url: ComplexValue,
    /// Its text in the configuration.
    pub(super) text: Rc<str>,
    pub(super) place: SourceLocation,
}

/// Value of `authgear`.
#[derive(Clone, Debug)]
enum ProjectRef {
    Off,
    Url(Endpoint),
    Name(String, SourceLocation),
}

/// Treatment of a request whose look-up failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// Status 503.
    #[default]
    Deny,
    /// The request goes on as if it had no session.
    Anonymous,
}

impl LocationConf {
    /// Value of `authgear_mode`.
    pub fn mode(&self) -> Mode {
        self.mode.unwrap_or_default()
    }

    /// Value of `authgear_on_error`.
    pub fn on_error(&self) -> Fallback {
        self.on_error.unwrap_or_default()
    }

    /// Value of `authgear_require`: empty where all requests are let through.
    pub fn require(&self) -> &[Requirement] {
        self.require.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Value of `authgear_set_headers`.
    pub fn set_headers(&self) -> bool {
        self.set_headers.unwrap_or(true)
    }

    /// Value of `authgear_forward_credentials`.
    pub fn forward_credentials(&self) -> bool {
        self.forward_credentials.unwrap_or(true)
    }

    /// Value of `authgear_relay_cookies`.
    pub fn relay_cookies(&self) -> bool {
        self.relay_cookies.unwrap_or(false)
    }

    /// Value of `authgear_remote_user`.
    pub fn remote_user(&self) -> bool {
        self.remote_user.unwrap_or(true)
    }

    /// Value of `authgear_unknown_limit`.
    pub fn unknown_limit(&self) -> Option<&UnknownLimit> {
        self.unknown_limit.as_ref()?.as_deref()
    }

    /// Value of `authgear_upgrade`.
    pub fn upgrade(&self) -> &[String] {
        self.upgrade.as_deref().unwrap_or_default()
    }

    /// Lines of `authgear_header`.
    pub fn headers(&self) -> &[HeaderLine] {
        self.headers.as_deref().map_or(&[], Vec::as_slice)
    }

    /// Value of `authgear_userinfo`.
    pub fn userinfo(&self) -> bool {
        self.userinfo.unwrap_or(false)
    }

    /// Value of `authgear_login_redirect`.
    pub fn login_redirect(&self) -> Option<ComplexValue> {
        self.login_redirect.as_ref()?.as_ref().map(|page| page.url)
    }

    /// Text of `authgear_login_redirect` in the configuration.
    pub(super) fn login_url(&self) -> Option<&str> {
        self.login_redirect.as_ref()?.as_ref().map(|page| &*page.text)
    }

    /// Paths of `authgear_login`, where it is on.
    pub fn login(&self) -> Option<&LoginPaths> {
        self.login.as_ref()?.as_deref()
    }

    /// Whether `authgear_pages` is on.
    pub fn pages(&self) -> bool {
        self.pages.unwrap_or(false)
    }

    /// Value of `authgear_public_origin`.
    pub fn public_origin(&self) -> Option<&str> {
        self.public_origin.as_deref()
    }

    /// The settings for look-ups alone.
    pub(super) fn for_lookups(&self) -> Self {
        Self {
            mode: self.mode,
            on_error: self.on_error,
            cache_valid: self.cache_valid.clone(),
            cache_use_stale: self.cache_use_stale.clone(),
            cut_off: self.cut_off,
            unknown_limit: self.unknown_limit.clone(),
            project: self.project.clone(),
            zone: self.zone.clone(),
            ..Self::default()
        }
    }

    /// Whether `authgear_preflight` says `pass`.
    pub fn preflight_pass(&self) -> bool {
        self.preflight_pass.unwrap_or(false)
    }

    /// Value of `authgear_challenge`.
    pub fn challenge(&self) -> bool {
        self.challenge.unwrap_or(true)
    }

    /// Value of `authgear_early`.
    pub fn early(&self) -> bool {
        self.early.unwrap_or(false)
    }

    /// Value of `authgear_dry_run`.
    pub fn dry_run(&self) -> bool {
        self.dry_run.unwrap_or(false)
    }

    /// Value of `authgear_cache_valid`.
    pub fn cache_valid(&self) -> Valid {
        self.cache_valid.as_deref().copied().unwrap_or_default()
    }

    /// Value of `authgear_cache_use_stale`.
    pub fn cache_use_stale(&self) -> UseStale {
        self.cache_use_stale.as_deref().copied().unwrap_or_default()
    }

    /// Inherits unset values from `parent`, and finds the project.
    pub fn merge(
        &mut self,
        cf: &mut Conf<'_>,
        main: &mut MainConf,
        server: &mut ServerConf,
        parent: &Self,
    ) -> Result<(), ConfError> {
        self.mode = self.mode.or(parent.mode);
        self.on_error = self.on_error.or(parent.on_error);
        if self.cache_valid.is_none() {
            self.cache_valid = parent.cache_valid.clone();
        }
        if self.cache_use_stale.is_none() {
            self.cache_use_stale = parent.cache_use_stale.clone();
        }
        self.challenge = self.challenge.or(parent.challenge);
        self.dry_run = self.dry_run.or(parent.dry_run);
        self.early = self.early.or(parent.early);
        self.preflight_pass = self.preflight_pass.or(parent.preflight_pass);
        self.set_headers = self.set_headers.or(parent.set_headers);
        self.forward_credentials = self.forward_credentials.or(parent.forward_credentials);
        self.relay_cookies = self.relay_cookies.or(parent.relay_cookies);
        self.remote_user = self.remote_user.or(parent.remote_user);
        self.userinfo = self.userinfo.or(parent.userinfo);
        self.recheck = self.recheck.or(parent.recheck);
        self.cut_off = self.cut_off.or(parent.cut_off);
        if self.unknown_limit.is_none() {
            self.unknown_limit = parent.unknown_limit.clone();
        }
        if self.status_zone.is_none() {
            self.status_zone = parent.status_zone.clone();
        }
        if self.bearer.is_none() {
            self.bearer = parent.bearer.clone();
        }
        if self.upgrade.is_none() {
            self.upgrade = parent.upgrade.clone();
        }
        if self.headers.is_none() {
            self.headers = parent.headers.clone();
        }
        server.own_headers(self.headers().iter().map(|line| &line.header));
        let required_here = self.require_from.clone();
        if self.require.is_none() {
            self.require = parent.require.clone();
            self.require_from = parent.require_from.clone();
        }
        self.merge_login(parent);
        self.pages = self.pages.or(parent.pages);
        if self.public_origin.is_none() {
            self.public_origin = parent.public_origin.clone();
        }
        if self.resource_metadata.is_none() {
            self.resource_metadata = parent.resource_metadata.clone();
        }
        if self.cache.is_none() {
            self.cache = parent.cache.clone();
        }
        self.zone = match self.cache.as_deref() {
            None | Some(CacheUse::Off) => None,
            Some(CacheUse::Zone(name, place)) => Some(main.zone(name, place)?),
        };
        if self.authgear.is_none() {
            self.authgear = parent.authgear.clone();
        }
        self.project = match self.authgear.as_deref() {
            None | Some(ProjectRef::Off) => None,
            Some(ProjectRef::Url(endpoint)) => Some(main.by_url(cf, endpoint)?),
            Some(ProjectRef::Name(name, place)) => Some(main.by_name(name, place)?),
        };
        self.merge_audience(parent);
        self.merge_resource(main);
        self.merge_assertion(main, server, parent)?;
        self.merge_endpoint(cf, main)?;
        if let (None, Some(place)) = (&self.project, &required_here) {
            let message = "\"authgear_require\" where \"authgear\" is not on";
            return Err(ConfError::At(place.clone(), message.into()));
        }
        self.note_use(cf.resolver());
        if let Some(project) = &self.project {
            server.in_use = true;
            self.check_recheck(project)?;
            self.add_login(server)?;
            self.note_effects(main);
            if let Some(place) = &required_here {
                self.warn_about_amr(cf, place);
                self.warn_about_tokens(cf, place);
            }
        }
        Ok(())
    }

    /// Returns true if a location below without directives of its own may share this configuration,
    /// which was merged. If so, notes that it uses the project, with this `resolver` in force.
    pub fn share(&self, resolver: Option<Resolver>) -> bool {
        let is_inherited = self.endpoint.is_none();
        if is_inherited {
            self.note_use(resolver);
        }
        is_inherited
    }

    fn note_use(&self, resolver: Option<Resolver>) {
        if let Some(project) = &self.project {
            project.use_at(self.mode(), self.has_audience(project), resolver);
            if self.userinfo() {
                project.use_userinfo_at(resolver);
            }
        }
    }
}

/// `authgear_mode resolver | jwt | auto`
pub struct AuthgearModeDirective;

impl Directive for AuthgearModeDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_mode";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let mode = match first(cf).as_str() {
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
pub struct AuthgearDirective;

impl Directive for AuthgearDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear";
    const CONTEXT: Context = Context::Everywhere;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let used = match first(cf).as_str() {
            "off" => ProjectRef::Off,
            url if url.contains("://") => {
                let endpoint = Endpoint::parse(url).map_err(|error| {
                    let url = truncated(url);
                    ConfError::new(format!("invalid Authgear endpoint \"{url}\": it {error}"))
                })?;
                let main = cf.main::<crate::conf::Authgear>();
                if main.exposed.insert(endpoint.origin().to_owned()) {
                    let place = cf.place();
                    super::project_block::warn_if_exposed(cf, endpoint.url(), &place);
                }
                ProjectRef::Url(endpoint)
            }
            name if is_name(name) => {
                let place = cf.place();
                cf.main::<crate::conf::Authgear>().expect_project(name, place.clone());
                ProjectRef::Name(name.to_owned(), place)
            }
            other => {
                return Err(ConfError::new(format!(
                    "invalid value \"{other}\" in \"authgear\" directive, it must be the URL of \
                     an Authgear endpoint (https://...), the name of an \"authgear_project\" or \
                     \"off\""
                )));
            }
        };
        set_once(&mut conf.authgear, Rc::new(used))
    }
}

/// `authgear_on_error deny | anonymous`
pub struct OnErrorDirective;

impl Directive for OnErrorDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_on_error";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let fallback = match first(cf).as_str() {
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
