//! Directives about headers for the backend, cookies for the client, and `$remote_user`.

use core::ffi::CStr;
use std::rc::Rc;

use authgear::identity::SiteHeader;

use super::arguments::{invalid, set_flag, truncated, variable_name};
use super::location::LocationConf;
use nginx::{self, Arguments, ComplexValue, Conf, ConfError, Context, Directive};

/// `authgear_set_headers on | off`
pub struct SetHeadersDirective;

impl Directive for SetHeadersDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_set_headers";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        set_flag(cf, &mut conf.set_headers)
    }
}

/// `authgear_forward_credentials on | off`
pub struct ForwardCredentialsDirective;

impl Directive for ForwardCredentialsDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_forward_credentials";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        set_flag(cf, &mut conf.forward_credentials)
    }
}

/// `authgear_relay_cookies on | off`
pub struct RelayCookiesDirective;

impl Directive for RelayCookiesDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_relay_cookies";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        set_flag(cf, &mut conf.relay_cookies)
    }
}

/// `authgear_remote_user on | off`
pub struct RemoteUserDirective;

impl Directive for RemoteUserDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_remote_user";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        set_flag(cf, &mut conf.remote_user)
    }
}

/// `authgear_userinfo on | off`
pub struct UserinfoDirective;

impl Directive for UserinfoDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_userinfo";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        set_flag(cf, &mut conf.userinfo)
    }
}

/// One line of `authgear_header`.
#[derive(Clone, Debug)]
pub struct HeaderLine {
    /// The header.
    pub header: SiteHeader,
    /// Its value.
    pub value: ComplexValue,
}

/// `authgear_header NAME $variable`
pub struct HeaderDirective;

impl Directive for HeaderDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_header";
    const CONTEXT: Context = Context::HttpServerLocation;
    const ARGUMENTS: Arguments = Arguments::Two;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let [_, name, value] = arguments.as_slice() else { return Err(ConfError::Duplicate) };
        let header = SiteHeader::parse(name).map_err(|error| {
            let name = truncated(name);
            ConfError::new(format!("invalid header \"{name}\" in \"authgear_header\": {error}"))
        })?;
        let variable = variable_name(value).ok_or_else(|| {
            invalid("authgear_header", value, "one variable, such as $x_authgear_user_id")
        })?;
        let Some(lines) = Rc::get_mut(conf.headers.get_or_insert_default()) else {
            return Err(ConfError::Duplicate);
        };
        if lines.iter().any(|line| line.header.is_alias(header.as_str().as_bytes())) {
            let name = truncated(name);
            return Err(ConfError::new(format!(
                "\"authgear_header\" names \"{name}\" twice on one level"
            )));
        }
        // A map that was evaluated before the verdict is evaluated again.
        cf.main::<crate::conf::Authgear>().require_variable(variable);
        lines.push(HeaderLine { header, value: cf.complex_value(value)? });
        Ok(())
    }
}
