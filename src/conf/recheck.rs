//! `authgear_recheck`: a new look at the verdict on a response that stays open.

use core::ffi::CStr;
use core::time::Duration;

use authgear::recheck::SHORTEST;

use super::arguments::{first, set_once, time};
use super::location::{LocationConf, Mode};
use super::project::{Project, Upstream};
use nginx::{self, Conf, ConfError, Context, Directive};

/// `authgear_recheck TIME | off`
pub struct RecheckDirective;

impl Directive for RecheckDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_recheck";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let interval = match first(cf).as_str() {
            "off" => None,
            value => {
                nginx::want_wake_all();
                Some(time("authgear_recheck", value, SHORTEST)?)
            }
        };
        set_once(&mut conf.recheck, interval)
    }
}

impl LocationConf {
    /// Value of `authgear_recheck`.
    pub fn recheck(&self) -> Option<Duration> {
        self.recheck?
    }

    /// Refuses a resolver that only a request can ask: an open response makes no subrequest.
    pub(super) fn check_recheck(&self, project: &Project) -> Result<(), ConfError> {
        let asks = self.mode() != Mode::Jwt && matches!(project.resolver, Upstream::Location(_));
        if self.recheck().is_none() || !asks {
            return Ok(());
        }
        let message = format!(
            "\"authgear_recheck\" needs a URL as \"resolver_url\" of the project \"{}\", not a \
             location",
            project.name
        );
        Err(ConfError::new(message))
    }
}
