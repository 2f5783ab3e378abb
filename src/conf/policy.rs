//! Directives of the policy: requirements, and responses to denied requests.

use core::ffi::CStr;
use core::time::Duration;
use std::rc::Rc;

use authgear::policy::{Combination, Condition, ConditionError};

use super::arguments::{first, invalid, set_flag, set_once, variable_name};
use super::effect::LOGIN_REDIRECT;
use super::location::{LocationConf, LoginPage, Mode};
use nginx::{self, Arguments, ComplexValue, Conf, ConfError, Context, Directive, SourceLocation};

/// One line of `authgear_require`.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// Whether all conditions and variables must hold, or one of them.
    pub combination: Combination,
    /// Conditions on the session.
    pub conditions: Vec<Condition>,
    /// Variables that must be neither empty nor `0`.
    pub variables: Vec<ComplexValue>,
    /// The status instead of the usual one.
    pub error: Option<u16>,
}

impl Requirement {
    /// Returns true if the line holds for valid sessions only. Each condition needs one, a variable
    /// does not.
    pub(super) fn needs_session(&self) -> bool {
        match self.combination {
            Combination::All => !self.conditions.is_empty(),
            Combination::Any => self.variables.is_empty(),
        }
    }
}

/// `authgear_require [any] CONDITION ... [error=401|403] | off`
pub struct RequireDirective;

impl Directive for RequireDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_require";
    const CONTEXT: Context = Context::Everywhere;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let words = arguments.get(1..).unwrap_or_default();
        if words == ["off"] {
            return set_once(&mut conf.require, Rc::default());
        }
        if conf.require.as_ref().is_some_and(|lines| lines.is_empty()) {
            return Err(ConfError::new("\"authgear_require off\" stands with other conditions"));
        }
        let (combination, words) = match words {
            [first, rest @ ..] if first == "any" => (Combination::Any, rest),
            _ => (Combination::All, words),
        };
        let (mut conditions, mut variables, mut error) = (Vec::new(), Vec::new(), None);
        for word in words {
            match word.strip_prefix("error=") {
                Some("401") => set_once(&mut error, 401)?,
                Some("403") => set_once(&mut error, 403)?,
                Some(_) => {
                    return Err(invalid("authgear_require", word, "error=401 or error=403"));
                }
                None if word.starts_with('$') => {
                    let name = variable_name(word).ok_or_else(|| {
                        invalid("authgear_require", word, "one variable, such as $is_internal")
                    })?;
                    cf.main::<crate::conf::Authgear>().require_variable(name);
                    variables.push(cf.complex_value(word)?);
                }
                None => conditions.push(condition(word)?),
            }
        }
        if conditions.is_empty() && variables.is_empty() {
            return Err(ConfError::new("\"authgear_require\" has no condition"));
        }
        let Some(lines) = Rc::get_mut(conf.require.get_or_insert_default()) else {
            return Err(ConfError::Duplicate);
        };
        // There may be many such lines, and each has few conditions.
        conditions.shrink_to_fit();
        lines.reserve_exact(1);
        lines.push(Requirement { combination, conditions, variables, error });
        conf.require_from = Some(cf.place());
        Ok(())
    }
}

fn condition(word: &str) -> Result<Condition, ConfError> {
    const DAYS: Duration = Duration::from_secs(366 * 86400);
    let age = |time: &str| Conf::parse_time(time).filter(|time| *time <= DAYS);
    let condition = Condition::parse(word, age).map_err(|error| match error {
        ConditionError::Value => invalid(
            "authgear_require",
            word,
            "such as role=admin,editor, amr=mfa, max_age=10m, scope=read,write, \
                     client=dcrc_* or claim:NAME=VALUE",
        ),
        _ => invalid(
            "authgear_require",
            word,
            "\"session\", \"verified\", \"not_anonymous\", \"can_reauthenticate\", \"same_site\", role=, amr=, \
             max_age=, scope=, client=, claim:NAME=, a variable or \"off\"",
        ),
    })?;
    Ok(condition)
}

impl LocationConf {
    /// Warns of conditions on a token where Authgear's resolver decides, which tells nothing of it.
    pub(super) fn warn_about_tokens(&self, cf: &Conf<'_>, place: &SourceLocation) {
        let lines = self.require().iter();
        let denies = |line: &&Requirement| {
            let mut conditions = line.conditions.iter();
            match line.combination {
                Combination::All => conditions.any(Condition::needs_token),
                Combination::Any => {
                    line.variables.is_empty() && conditions.all(Condition::needs_token)
                }
            }
        };
        if self.mode() == Mode::Resolver && lines.filter(denies).count() > 0 {
            cf.warn_at(
                place,
                format_args!(
                    "\"authgear_require\" denies all requests: scope=, client= and claim: hold for \
                     tokens that nginx verifies, in \"authgear_mode jwt\" or \"auto\""
                ),
            );
        }
    }

    /// Warns of `amr=` where Authgear's resolver decides, which leaves it empty.
    pub(super) fn warn_about_amr(&self, cf: &Conf<'_>, place: &SourceLocation) {
        let mut conditions = self.require().iter().flat_map(|line| &line.conditions);
        let method = conditions.find_map(|condition| match condition {
            Condition::Amr(method) => Some(method),
            _ => None,
        });
        if let (Some(method), Mode::Resolver) = (method, self.mode()) {
            cf.warn_at(
                place,
                format_args!(
                    "\"amr={method}\" hardly ever holds: Authgear's resolver leaves \
                     x-authgear-session-amr empty"
                ),
            );
        }
    }
}

/// `authgear_resource_metadata URL | off`
pub struct ResourceMetadataDirective;

impl Directive for ResourceMetadataDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_resource_metadata";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let metadata = match first(cf).as_str() {
            "off" => None,
            // The URL becomes a quoted string in a header.
            url if url.starts_with("https://") || url.starts_with("http://") => {
                if url.bytes().any(|b| !b.is_ascii_graphic() || matches!(b, b'"' | b'\\')) {
                    return Err(invalid("authgear_resource_metadata", url, "a URL or \"off\""));
                }
                Some(url.into())
            }
            other => {
                return Err(invalid("authgear_resource_metadata", other, "a URL or \"off\""));
            }
        };
        set_once(&mut conf.resource_metadata, metadata)
    }
}

/// `authgear_challenge on | off`
pub struct ChallengeDirective;

impl Directive for ChallengeDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_challenge";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        set_flag(cf, &mut conf.challenge)
    }
}

/// `authgear_early on | off`
pub struct EarlyDirective;

impl Directive for EarlyDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_early";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        set_flag(cf, &mut conf.early)
    }
}

/// `authgear_dry_run on | off`
pub struct DryRunDirective;

impl Directive for DryRunDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_dry_run";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        set_flag(cf, &mut conf.dry_run)
    }
}

/// `authgear_login_redirect URL | off`
pub struct LoginRedirectDirective;

impl Directive for LoginRedirectDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_login_redirect";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let url = match first(cf).as_str() {
            "off" => None,
            "" => return Err(invalid("authgear_login_redirect", "", "a URL or \"off\"")),
            url if !url.bytes().all(|byte| byte.is_ascii_graphic()) => {
                let right = "a URL of printable ASCII characters, with others as %XX";
                return Err(invalid("authgear_login_redirect", url, right));
            }
            // Relative to each page, it would lead to another URL from each.
            url if !url.starts_with(['/', '$']) && !url.contains("://") => {
                let right = "an absolute URL or a path: begin it with \"/\", \"https://\" or a \
                             variable";
                return Err(invalid("authgear_login_redirect", url, right));
            }
            url => {
                let place = cf.place();
                let effects = &mut cf.main::<crate::conf::Authgear>().effects;
                effects.note(LOGIN_REDIRECT, place.clone());
                Some(Rc::new(LoginPage { url: cf.complex_value(url)?, text: url.into(), place }))
            }
        };
        set_once(&mut conf.login_redirect, url)?;
        conf.check_login_redirect()
    }
}

/// `authgear_preflight check | pass`
pub struct PreflightDirective;

impl Directive for PreflightDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_preflight";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let pass = match first(cf).as_str() {
            "pass" => true,
            "check" => false,
            other => return Err(invalid("authgear_preflight", other, "\"check\" or \"pass\"")),
        };
        set_once(&mut conf.preflight_pass, pass)
    }
}
