//! `authgear_status_zone`: counts the requests of locations under a name.

use core::cell::OnceCell;
use core::ffi::CStr;
use std::rc::Rc;

use authgear::metrics::{LocationSlot, LOCATIONS};

use super::arguments::{first, invalid, is_name, set_once};
use super::location::LocationConf;
use nginx::{self, Conf, ConfError, Context, Directive};

/// Name of `authgear_status_zone`, and the position of its counters.
#[derive(Debug)]
pub struct StatusZone {
    /// The name.
    pub name: String,
    /// Position of its counters, once that is known: each process finds the same.
    pub slot: OnceCell<LocationSlot>,
}

impl LocationConf {
    /// Value of `authgear_status_zone`.
    pub fn status_zone(&self) -> Option<&StatusZone> {
        self.status_zone.as_ref()?.as_deref()
    }
}

/// `authgear_status_zone NAME | off`
pub struct StatusZoneDirective;

impl Directive for StatusZoneDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_status_zone";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        const NAME: &str = "authgear_status_zone";
        let name = first(cf);
        if name == "off" {
            return set_once(&mut conf.status_zone, None);
        }
        if !is_name(&name) {
            let right = "\"off\" or a name of letters, digits, \"_\", \"-\" and \".\"";
            return Err(invalid(NAME, &name, right));
        }
        let zones = &mut cf.main::<crate::conf::Authgear>().status_zones;
        let zone = match zones.iter().find(|zone| zone.name == name) {
            Some(zone) => Rc::clone(zone),
            None if zones.len() == LOCATIONS => {
                return Err(ConfError::new(format!(
                    "too many names of \"{NAME}\": there is room for {LOCATIONS}"
                )));
            }
            None => {
                let zone = Rc::new(StatusZone { name, slot: OnceCell::new() });
                zones.push(Rc::clone(&zone));
                zone
            }
        };
        set_once(&mut conf.status_zone, Some(zone))
    }
}
