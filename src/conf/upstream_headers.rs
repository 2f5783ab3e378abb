//! Directives about headers for the backend, cookies for the client, and `$remote_user`.

use core::ffi::CStr;

use super::arguments::set_flag;
use super::location::LocationConf;
use nginx::{self, Conf, ConfError, Context, Directive};

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
