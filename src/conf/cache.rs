//! Directives of the cache.

use core::ffi::CStr;
use core::time::Duration;
use std::rc::Rc;

use authgear::verdict::Verdict;

use super::location::{set_once, CacheUse, LocationConf};
use super::project::{invalid, is_name};
use super::{Id, MainConf};
use crate::nginx::{self, Arguments, Conf, ConfError, Context, Directive, SharedZone};
use crate::shared::map::{least_size, MapHeader};

/// `authgear_cache_zone`: verdicts that all workers share.
pub struct CacheZone {
    /// Unique in this process, over reloads too.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// The memory.
    pub shared: SharedZone<MapHeader>,
    /// Entries that each worker keeps before the zone.
    pub front: usize,
}

/// `authgear_cache_valid`: how long a verdict is kept.
#[derive(Clone, Copy, Debug)]
pub struct Valid {
    valid: Duration,
    invalid: Duration,
    none: Duration,
}

impl Default for Valid {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self { valid: seconds(60), invalid: seconds(5), none: seconds(2) }
    }
}

impl Valid {
    /// Time to keep `verdict`.
    pub fn of(&self, verdict: &Verdict) -> Duration {
        match verdict {
            Verdict::Valid(_) => self.valid,
            Verdict::Invalid | Verdict::BearerNotAccepted => self.invalid,
            Verdict::None(_) => self.none,
            Verdict::Unavailable(_) => Duration::ZERO,
        }
    }
}

/// `authgear_cache_use_stale`: how long past its time a `valid` verdict may still be served.
#[derive(Clone, Copy, Debug, Default)]
pub struct UseStale {
    /// While it is being refreshed.
    pub updating: Duration,
    /// While Authgear fails.
    pub error: Duration,
}

/// `authgear_cache_zone NAME:SIZE [front=1024]`
pub struct Zone;

impl Directive for Zone {
    type Scope = nginx::Main<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_cache_zone";
    const CONTEXT: Context = Context::Http;
    const ARGUMENTS: Arguments = Arguments::OneOrTwo;

    fn set(cf: &mut Conf<'_>, conf: &mut MainConf) -> Result<(), ConfError> {
        const FRONT: usize = 1024;
        const MOST: usize = 1024 * 1024;
        let arguments = cf.arguments();
        let (name, size) = (arguments.get(1))
            .and_then(|zone| zone.split_once(':'))
            .filter(|(name, _)| is_name(name) && *name != "off")
            .ok_or_else(|| {
                ConfError::new("invalid zone in \"authgear_cache_zone\", it must be NAME:SIZE")
            })?;
        let size = Conf::parse_size(size)
            .ok_or_else(|| ConfError::new(format!("invalid size \"{size}\" of zone \"{name}\"")))?;
        let least = least_size();
        if size < least {
            let least = least.div_ceil(1024);
            let message = format!("zone \"{name}\" is too small, it needs at least {least}k");
            return Err(ConfError::new(message));
        }
        let front =
            match arguments.get(2).map(|argument| (argument, argument.strip_prefix("front="))) {
                None => FRONT,
                Some((argument, number)) => number
                    .and_then(|number| number.parse().ok())
                    .filter(|number| (1..=MOST).contains(number))
                    .ok_or_else(|| {
                        let right = format!("front= with a number from 1 to {MOST}");
                        invalid("authgear_cache_zone", argument, &right)
                    })?,
            };
        if conf.zone(name, &cf.place()).is_ok() {
            return Err(ConfError::new(format!("duplicate authgear_cache_zone \"{name}\"")));
        }
        let shared = cf.shared_zone::<crate::Authgear, MapHeader>(name, size)?;
        let zone = CacheZone { id: Id::new(), name: name.to_owned(), shared, front };
        conf.add_zone(Rc::new(zone), cf.place());
        Ok(())
    }
}

/// `authgear_cache NAME | off`
pub struct Cache;

impl Directive for Cache {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_cache";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let arguments = cf.arguments();
        let name = arguments.get(1).map(String::as_str).unwrap_or_default();
        let used = match name {
            "off" => CacheUse::Off,
            name => {
                let place = cf.place();
                cf.main::<crate::Authgear>().expect_zone(name, place.clone());
                CacheUse::Zone(name.to_owned(), place)
            }
        };
        set_once(&mut conf.cache, used)
    }
}

/// `authgear_cache_valid [valid=60s] [invalid=5s] [none=2s]`
pub struct CacheValid;

impl Directive for CacheValid {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_cache_valid";
    const CONTEXT: Context = Context::HttpServerLocation;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let mut valid = Valid::default();
        for argument in cf.arguments().iter().skip(1) {
            let right = "valid=, invalid= or none= with a time, such as valid=60s";
            let wrong = || invalid("authgear_cache_valid", argument, right);
            let (what, time) = argument.split_once('=').ok_or_else(wrong)?;
            let time = time_up_to_a_day(time).ok_or_else(wrong)?;
            match what {
                "valid" => valid.valid = time,
                "invalid" => valid.invalid = time,
                "none" => valid.none = time,
                _ => return Err(wrong()),
            }
        }
        set_once(&mut conf.cache_valid, valid)
    }
}

/// `authgear_cache_use_stale off | [updating[=10s]] [error[=60s]]`
pub struct CacheUseStale;

impl Directive for CacheUseStale {
    type Scope = nginx::Location<crate::Authgear>;
    const NAME: &'static CStr = c"authgear_cache_use_stale";
    const CONTEXT: Context = Context::HttpServerLocation;
    const ARGUMENTS: Arguments = Arguments::OneOrMore;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let mut stale = UseStale::default();
        let arguments = cf.arguments();
        for argument in arguments.iter().skip(1) {
            let right = "\"off\", or updating= and error= with a time, such as error=60s";
            let wrong = || invalid("authgear_cache_use_stale", argument, right);
            let (what, time) = match argument.split_once('=') {
                Some((what, time)) => (what, Some(time_up_to_a_day(time).ok_or_else(wrong)?)),
                None => (argument.as_str(), None),
            };
            match what {
                "updating" => stale.updating = time.unwrap_or(Duration::from_secs(10)),
                "error" => stale.error = time.unwrap_or(Duration::from_secs(60)),
                "off" if arguments.len() == 2 && time.is_none() => {}
                _ => return Err(wrong()),
            }
        }
        set_once(&mut conf.cache_use_stale, stale)
    }
}

fn time_up_to_a_day(value: &str) -> Option<Duration> {
    const MOST: Duration = Duration::from_secs(86400);
    Conf::parse_time(value).filter(|time| *time <= MOST)
}
