//! Directives about what the backend receives, and what Authgear tells the client.

use core::ffi::CStr;

use super::location::{set_once, LocationConf};
use super::project::flag;
use crate::nginx::{self, Conf, ConfError, Context, Directive};

/// `authgear_set_headers on | off`
pub struct SetHeaders;

impl Directive for SetHeaders {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_set_headers";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let value = arguments.get(1).map(String::as_str).unwrap_or_default();
        set_once(&mut conf.set_headers, flag("authgear_set_headers", value)?)
    }
}

/// `authgear_forward_credentials on | off`
pub struct ForwardCredentials;

impl Directive for ForwardCredentials {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_forward_credentials";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let value = arguments.get(1).map(String::as_str).unwrap_or_default();
        let forward = flag("authgear_forward_credentials", value)?;
        set_once(&mut conf.forward_credentials, forward)
    }
}

/// `authgear_relay_cookies on | off`
pub struct RelayCookies;

impl Directive for RelayCookies {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_relay_cookies";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let value = arguments.get(1).map(String::as_str).unwrap_or_default();
        set_once(&mut conf.relay_cookies, flag("authgear_relay_cookies", value)?)
    }
}
