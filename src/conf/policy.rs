//! Directives of the policy.

use core::ffi::CStr;
use core::time::Duration;

use authgear::policy::{Condition, ConditionError};

use super::location::{set_once, LocationConf, Mode};
use super::project::{flag, invalid};
use crate::nginx::{self, Arguments, ComplexValue, Conf, ConfError, Context, Directive};

/// One line of `authgear_require`: all of it must hold.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// What must hold of the session.
    pub conditions: Vec<Condition>,
    /// What must be neither empty nor `0`.
    pub variables: Vec<ComplexValue>,
    /// The status instead of the usual one.
    pub error: Option<u16>,
}

/// `authgear_require CONDITION ... [error=401|403] | off`
pub struct Require;

impl Directive for Require {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_require";
    const CONTEXT: Context = Context::Everywhere;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let words = arguments.get(1..).unwrap_or_default();
        if words == ["off"] {
            return set_once(&mut conf.require, Vec::new());
        }
        if conf.require.as_ref().is_some_and(Vec::is_empty) {
            return Err(ConfError::new("\"authgear_require off\" stands with other conditions"));
        }
        let mut requirement =
            Requirement { conditions: Vec::new(), variables: Vec::new(), error: None };
        for word in words {
            match word.strip_prefix("error=") {
                Some("401") => set_once(&mut requirement.error, 401)?,
                Some("403") => set_once(&mut requirement.error, 403)?,
                Some(_) => {
                    return Err(invalid("authgear_require", word, "error=401 or error=403"));
                }
                None if word.starts_with('$') => {
                    let name = variable_name(word).ok_or_else(|| {
                        invalid("authgear_require", word, "one variable, such as $is_internal")
                    })?;
                    cf.main::<crate::Authgear>().require_variable(name);
                    requirement.variables.push(cf.complex_value(word)?);
                }
                None => requirement.conditions.push(condition(word)?),
            }
        }
        if requirement.conditions.is_empty() && requirement.variables.is_empty() {
            return Err(ConfError::new("\"authgear_require\" has no condition"));
        }
        conf.require.get_or_insert_default().push(requirement);
        conf.require_place = Some(cf.place());
        Ok(())
    }
}

/// The name in `$name` or `${name}`.
fn variable_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (!name.is_empty() && name.bytes().all(is_name)).then_some(name)
}

fn condition(word: &str) -> Result<Condition, ConfError> {
    const DAYS: Duration = Duration::from_secs(366 * 86400);
    let age = |time: &str| Conf::parse_time(time).filter(|time| *time <= DAYS);
    let condition = Condition::parse(word, age).map_err(|error| match error {
        ConditionError::Value => {
            invalid("authgear_require", word, "such as role=admin,editor, amr=mfa or max_age=10m")
        }
        _ => invalid(
            "authgear_require",
            word,
            "\"session\", \"verified\", \"not_anonymous\", \"can_reauthenticate\", role=, amr=, \
             max_age=, a variable or \"off\"",
        ),
    })?;
    Ok(condition)
}

impl LocationConf {
    /// Authgear's resolver hardly ever says how a user authenticated.
    pub(super) fn warn_about_amr(&self, cf: &mut Conf<'_>) {
        let Some(place) = &self.require_place else { return };
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
pub struct ResourceMetadata;

impl Directive for ResourceMetadata {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_resource_metadata";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let value = arguments.get(1).map(String::as_str).unwrap_or_default();
        let metadata = match value {
            "off" => None,
            // It stands in a quoted string of a header.
            url if url.starts_with("https://") || url.starts_with("http://") => {
                if url.bytes().any(|b| !b.is_ascii_graphic() || matches!(b, b'"' | b'\\')) {
                    return Err(invalid("authgear_resource_metadata", url, "a URL or \"off\""));
                }
                Some(url.to_owned())
            }
            other => {
                return Err(invalid("authgear_resource_metadata", other, "a URL or \"off\""));
            }
        };
        set_once(&mut conf.resource_metadata, metadata)
    }
}

/// `authgear_dry_run on | off`
pub struct DryRun;

impl Directive for DryRun {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_dry_run";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let value = arguments.get(1).map(String::as_str).unwrap_or_default();
        set_once(&mut conf.dry_run, flag("authgear_dry_run", value)?)
    }
}

/// `authgear_login_redirect URL | off`
pub struct LoginRedirect;

impl Directive for LoginRedirect {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_login_redirect";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let url = match arguments.get(1).map(String::as_str).unwrap_or_default() {
            "off" => None,
            "" => return Err(invalid("authgear_login_redirect", "", "a URL or \"off\"")),
            url => Some((cf.complex_value(url)?, url.into())),
        };
        set_once(&mut conf.login_redirect, url)
    }
}

/// `authgear_preflight check | pass`
pub struct Preflight;

impl Directive for Preflight {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_preflight";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let value = arguments.get(1).map(String::as_str).unwrap_or_default();
        let pass = match value {
            "pass" => true,
            "check" => false,
            _ => return Err(invalid("authgear_preflight", value, "\"check\" or \"pass\"")),
        };
        set_once(&mut conf.preflight_pass, pass)
    }
}
