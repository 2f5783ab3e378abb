//! Directives of the cache.

use core::ffi::CStr;
use core::time::Duration;
use std::rc::Rc;

use authgear::shared::zone::CHUNK;
use authgear::verdict::freshness::{UseStale, Valid};

use super::arguments::{first, invalid, is_name, set_once};
use super::effect::CACHE;
use super::location::{CacheUse, LocationConf};
use super::{Id, MainConf};
use crate::shared::map::{least_size, MapHeader};
use nginx::{self, Arguments, Conf, ConfError, Context, Directive, SharedZone};

/// A zone with verdicts, which all workers share (`authgear_cache_zone`).
pub struct CacheZone {
    /// Unique in this process, over reloads too.
    pub id: Id,
    /// Name of the zone.
    pub name: String,
    /// The shared memory.
    pub shared: SharedZone<MapHeader>,
    /// Entries of each worker's LRU before the zone.
    pub front: usize,
}

/// The longest times that any location sets.
#[derive(Clone, Copy, Debug)]
pub struct LongestLife {
    valid: Duration,
    stale: Duration,
}

impl Default for LongestLife {
    fn default() -> Self {
        Self { valid: Valid::default().longest(), stale: UseStale::default().longest() }
    }
}

impl LongestLife {
    /// Age from which no location uses a verdict.
    pub fn total(&self) -> Duration {
        self.valid + self.stale
    }
}

/// `authgear_cache_zone NAME:SIZE [front=NUMBER]`
pub struct ZoneDirective;

impl Directive for ZoneDirective {
    type Scope = nginx::Main<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_cache_zone";
    const CONTEXT: Context = Context::Http;
    const ARGUMENTS: Arguments = Arguments::OneOrTwo;

    fn set(cf: &mut Conf<'_>, conf: &mut MainConf) -> Result<(), ConfError> {
        /// Most verdicts in a worker by default.
        const FRONT: usize = 16 * 1024;
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
                // As many as the zone can hold.
                None => (size / CHUNK).clamp(1, FRONT),
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
        let shared = cf.shared_zone::<crate::conf::Authgear, MapHeader>(name, size)?;
        let zone = CacheZone { id: Id::new(), name: name.to_owned(), shared, front };
        conf.add_zone(Rc::new(zone), cf.place());
        Ok(())
    }
}

/// `authgear_cache NAME | off`
pub struct CacheDirective;

impl Directive for CacheDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
    const NAME: &'static CStr = c"authgear_cache";
    const CONTEXT: Context = Context::HttpServerLocation;

    fn set(cf: &mut Conf<'_>, conf: &mut LocationConf) -> Result<(), ConfError> {
        let used = match first(cf).as_str() {
            "off" => CacheUse::Off,
            name => {
                let place = cf.place();
                let main = cf.main::<crate::conf::Authgear>();
                main.expect_zone(name, place.clone());
                main.effects.note(CACHE, place.clone());
                CacheUse::Zone(name.to_owned(), place)
            }
        };
        set_once(&mut conf.cache, Rc::new(used))
    }
}

/// `authgear_cache_valid [valid=60s] [invalid=5s] [none=2s]`
pub struct CacheValidDirective;

impl Directive for CacheValidDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
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
        let longest = &mut cf.main::<crate::conf::Authgear>().longest_life;
        longest.valid = longest.valid.max(valid.longest());
        set_once(&mut conf.cache_valid, Rc::new(valid))
    }
}

/// `authgear_cache_use_stale off | [updating[=10s]] [error[=60s]]`
pub struct CacheUseStaleDirective;

impl Directive for CacheUseStaleDirective {
    type Scope = nginx::Location<crate::conf::Authgear>;
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
        let longest = &mut cf.main::<crate::conf::Authgear>().longest_life;
        longest.stale = longest.stale.max(stale.longest());
        set_once(&mut conf.cache_use_stale, Rc::new(stale))
    }
}

fn time_up_to_a_day(value: &str) -> Option<Duration> {
    const MOST: Duration = Duration::from_secs(86400);
    Conf::parse_time(value).filter(|time| *time <= MOST)
}
