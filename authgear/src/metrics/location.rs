//! Counters of locations, by the names of `authgear_status_zone`.

use super::location_slots::{LocationSlot, NamedCounters};
use super::report::{LabelTable, LocationReport, OTHER};
use super::{fingerprint, Access, Metrics, ACCESSES};

impl LocationReport {
    fn of(name: &str, counters: &NamedCounters<ACCESSES>) -> Self {
        let all = Access::ALL.iter();
        let requests =
            all.map(|access| (access.as_str(), counters.requests.get(*access as usize))).collect();
        Self { name: name.to_owned(), requests: LabelTable(requests) }
    }
}

impl<S> Metrics<S> {
    /// Returns the slot of this name; takes a free one on first use.
    pub fn location(&self, name: &str) -> LocationSlot {
        self.locations.find(fingerprint(name))
    }

    /// Counts a request by what its location decided.
    pub fn located(&self, slot: LocationSlot, access: Access) {
        self.locations.at(slot).requests.add(access as usize);
    }

    /// Returns the metrics of these names, and of all names without a slot.
    pub fn locations<'a>(&self, names: impl Iterator<Item = &'a str>) -> Vec<LocationReport> {
        let slots = names.map(|name| (name, self.location(name)));
        let own = slots.filter(|(_, slot)| !slot.is_shared());
        let mut reports: Vec<_> =
            own.map(|(name, slot)| LocationReport::of(name, self.locations.at(slot))).collect();
        let other = LocationReport::of(OTHER, &self.locations.other);
        if other.requests.0.iter().any(|(_, n)| *n != 0) {
            reports.push(other);
        }
        reports
    }
}
