//! `authgear_upgrade`: protocols that clients may change to.

use core::ffi::CStr;
use std::rc::Rc;

use authgear::http::upgrade::check_protocol;

use super::arguments::{set_once, truncated};
use super::location::LocationConf;
use nginx::{self, Arguments, Conf, ConfError, Context, Directive};

/// `authgear_upgrade PROTOCOL ...`
pub struct UpgradeDirective;

impl Directive for UpgradeDirective {
    // Requests read it in POST_READ, when nginx's location is that of the server.
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_upgrade";
    const CONTEXT: Context = Context::HttpServer;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let protocols: Rc<[String]> = cf.arguments().into_iter().skip(1).collect();
        for protocol in protocols.iter() {
            check_protocol(protocol).map_err(|error| {
                let protocol = truncated(protocol);
                ConfError::new(format!(
                    "invalid value \"{protocol}\" in \"authgear_upgrade\" directive, it {error}"
                ))
            })?;
        }
        set_once(&mut conf.upgrade, protocols)
    }
}
