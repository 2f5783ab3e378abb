//! `authgear_unknown_limit`: a limit of look-ups per client.

use core::ffi::CStr;
use std::rc::Rc;

use authgear::overload::lookup_limit::{parse_rate, Limit, MAX_RATE};

use super::arguments::{invalid, is_name, number, set_once};
use super::location::LocationConf;
use super::MainConf;
use crate::shared::limit_zone::LimitZone;
use nginx::{self, Arguments, ComplexValue, Conf, ConfError, Context, Directive, SharedZone};

const NAME: &str = "authgear_unknown_limit";

/// Least size of a zone, as for `limit_req_zone`: eight pages.
const LEAST_SIZE: usize = 32 * 1024;

/// The limit of a location.
#[derive(Clone)]
pub struct UnknownLimit {
    /// Accounts of the clients.
    pub zone: SharedZone<LimitZone>,
    /// Rate and burst.
    pub limit: Limit,
    /// Identity of a client; the network of its address if there is none.
    pub key: Option<ComplexValue>,
}

/// The use of a zone that the first directive with its name determines.
#[derive(PartialEq, Eq)]
pub(super) struct LimitZoneUse {
    pub(super) name: String,
    size: usize,
    rate: u32,
    /// Text of `key=`; empty for the address.
    key: String,
}

/// `authgear_unknown_limit zone=NAME:SIZE rate=N burst=N [key=$variable] | off`
pub struct UnknownLimitDirective;

impl Directive for UnknownLimitDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_unknown_limit";
    const CONTEXT: Context = Context::HttpServerLocation;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let words = arguments.get(1..).unwrap_or_default();
        if words == ["off"] {
            return set_once(&mut conf.unknown_limit, None);
        }
        let (mut zone, mut rate, mut burst, mut key) = (None, None, None, None);
        for word in words {
            match word.split_once('=') {
                Some(("zone", zone_and_size)) => set_once(&mut zone, parse_zone(zone_and_size)?)?,
                Some(("rate", value)) => {
                    let right =
                        format!("a rate from 1r/m to {MAX_RATE}r/s, such as 10r/s or 30r/m");
                    let parsed = parse_rate(value).ok_or_else(|| invalid(NAME, word, &right))?;
                    set_once(&mut rate, parsed)?;
                }
                Some(("burst", value)) => set_once(&mut burst, number(NAME, value, 0, 1_000_000)?)?,
                Some(("key", value)) if value.contains('$') => {
                    set_once(&mut key, (value.to_owned(), cf.complex_value(value)?))?;
                }
                _ => {
                    let right =
                        "\"off\", or zone=NAME:SIZE, rate=, burst= and key= with a variable";
                    return Err(invalid(NAME, word, right));
                }
            }
        }
        let (Some((name, size)), Some(rate), Some(burst)) = (zone, rate, burst) else {
            return Err(ConfError::new(format!(
                "\"{NAME}\" must have \"zone\", \"rate\" and \"burst\" parameters"
            )));
        };
        let (text, key) = key.unzip();
        let used = LimitZoneUse { name, size, rate, key: text.unwrap_or_default() };
        let zone = declare(cf, used)?;
        let limit = UnknownLimit { zone, limit: Limit { rate, burst }, key };
        set_once(&mut conf.unknown_limit, Some(Rc::new(limit)))
    }
}

fn parse_zone(zone: &str) -> Result<(String, usize), ConfError> {
    let (name, size) = zone
        .split_once(':')
        .filter(|(name, _)| is_name(name))
        .ok_or_else(|| invalid(NAME, &format!("zone={zone}"), "zone=NAME:SIZE"))?;
    let size = Conf::parse_size(size)
        .ok_or_else(|| ConfError::new(format!("invalid size \"{size}\" of zone \"{name}\"")))?;
    if size < LEAST_SIZE {
        let least = LEAST_SIZE / 1024;
        return Err(ConfError::new(format!(
            "zone \"{name}\" is too small, it needs at least {least}k"
        )));
    }
    Ok((name.to_owned(), size))
}

/// Declares the zone, which several directives may use if they agree on it.
fn declare(cf: &mut Conf<'_>, used: LimitZoneUse) -> Result<SharedZone<LimitZone>, ConfError> {
    let main: &mut MainConf = cf.main::<crate::conf::Authgear>();
    match main.limit_zones.iter().find(|other| other.name == used.name) {
        Some(first) if *first == used => {}
        Some(first) if (first.size, &first.key) == (used.size, &used.key) => {
            return Err(ConfError::new(format!(
                "zone \"{}\" of \"{NAME}\" already has another rate",
                used.name
            )));
        }
        Some(first) if first.size == used.size => {
            let key = if first.key.is_empty() { "the client's address" } else { &first.key };
            return Err(ConfError::new(format!(
                "zone \"{}\" of \"{NAME}\" is already bound to key \"{key}\"",
                used.name
            )));
        }
        // nginx refuses another size.
        Some(_) => {}
        None => {}
    }
    let zone = cf.shared_zone::<crate::conf::Authgear, LimitZone>(&used.name, used.size)?;
    cf.main::<crate::conf::Authgear>().limit_zones.push(used);
    Ok(zone)
}
