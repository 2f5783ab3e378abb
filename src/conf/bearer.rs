//! `authgear_bearer`: variables that hold the bearer token of clients that cannot send
//! `Authorization`.

use core::ffi::CStr;
use std::rc::Rc;

use super::arguments::{invalid, set_once, variable_name};
use super::location::LocationConf;
use nginx::{self, Arguments, ComplexValue, Conf, ConfError, Context, Directive};

impl LocationConf {
    /// Value of `authgear_bearer`.
    pub fn bearer(&self) -> Option<&Rc<[ComplexValue]>> {
        self.bearer.as_ref()?.as_ref()
    }
}

/// `authgear_bearer $variable ... | off`
pub struct BearerDirective;

impl Directive for BearerDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_bearer";
    const CONTEXT: Context = Context::HttpServerLocation;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let variables = match arguments.get(1..).unwrap_or_default() {
            [only] if only == "off" => None,
            words => {
                let mut variables = Vec::new();
                for word in words {
                    if variable_name(word).is_none() {
                        let right = "variables such as $arg_access_token, or \"off\"";
                        return Err(invalid("authgear_bearer", word, right));
                    }
                    variables.push(cf.complex_value(word)?);
                }
                Some(variables.into())
            }
        };
        set_once(&mut conf.bearer, variables)
    }
}
