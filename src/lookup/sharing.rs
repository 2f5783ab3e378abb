//! Verdicts that hosts of a fleet share (`cache=on` of `authgear_fleet`): before this host asks
//! Authgear, it looks for what another host was told.

use core::time::Duration;
use std::rc::Rc;

use authgear::credentials::Credentials;
use authgear::fleet::positions::Place;
use authgear::fleet::record::{Content, LeaseId, Record, RecordKey};
use authgear::fleet::tier::{
    follow_time, is_worth_sharing, life, meaning, pause, Meaning, Refusal,
};
use authgear::metrics::FleetCache;
use authgear::shared::cache_key::Key;
use authgear::verdict::freshness::Valid;

use crate::cache::{AskedAt, CacheEntry, EntryId, FetchResult};
use crate::conf::project::{Project, Upstream};
use crate::conf::LocationConf;
use crate::fleet::{unix_ms, Claimed, Fleet, Tier};
use crate::shared::handle::SharedHandle;
use crate::worker::Worker;

/// One look-up's part in the second tier.
pub(super) struct Sharing {
    fleet: Rc<Fleet>,
    tier: Rc<Tier>,
    key: RecordKey,
    valid: Valid,
    /// Longest time for which another host is waited for.
    patience: Duration,
}

/// The state before a question to Authgear, whose answer is to be shared.
#[derive(Clone, Copy)]
pub(super) struct AskedFrom {
    place: Place,
    /// Milliseconds since 1970.
    at: u64,
}

/// Result of [`Sharing::look`].
pub(super) enum Look<'a> {
    /// Another host was told, and that counts.
    Found(CacheEntry),
    /// Authgear is to be asked. Other hosts may wait for the lease.
    Ask(Option<Lease<'a>>),
}

/// A lease of this host's, which may be in Redis. Dropping it removes it.
pub(super) struct Lease<'a>(Option<&'a Sharing>);

impl Lease<'_> {
    /// Gives the lease up: Redis does not have it, or a verdict takes its place.
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        if let Some(Sharing { tier, key, .. }) = self.0 {
            tier.delete(key);
        }
    }
}

/// Worth of a record here.
enum Judged {
    Counts(CacheEntry),
    Follow,
    Refused(FleetCache),
}

impl Sharing {
    /// The part of a look-up of these credentials. `None` where nothing is shared.
    pub(super) fn of(
        worker: &Worker,
        location: &LocationConf,
        project: &Project,
        key: &Key,
        credentials: &Credentials<'_>,
    ) -> Option<Self> {
        let fleet = worker.fleet()?;
        let tier = fleet.tier()?;
        // Without a cache each request is to be asked about.
        location.zone.as_ref()?;
        let Upstream::Url(_) = &project.resolver else { return None };
        let valid = worker.lifetimes(location).0;
        if !is_worth_sharing(&valid) {
            return None;
        }
        // A request that joins a look-up needs none.
        if worker.flights().has_flight(key) {
            return None;
        }
        // Keys cost as much as a fifth of a look-up.
        if fleet.place().is_none() || !tier.has_room() {
            tier.count(FleetCache::Skipped);
            return None;
        }
        Some(Self {
            key: tier.key(project.record_scope()?, credentials)?,
            fleet: Rc::clone(fleet),
            tier: Rc::clone(tier),
            valid,
            patience: follow_time(project.timeout),
        })
    }

    /// Removes the record of these credentials, if there is one. Nobody waits for it: commands of a
    /// worker are carried out in their order.
    pub(super) fn forget(worker: &Worker, project: &Project, credentials: &Credentials<'_>) {
        let tier = worker.fleet().and_then(|fleet| fleet.tier());
        if let Some((tier, scope)) = tier.zip(project.record_scope()) {
            if let Some(key) = tier.key(scope, credentials) {
                tier.delete(&key);
            }
        }
    }

    /// The state before a question that is asked now. `None` while nothing can be shared.
    pub(super) fn asks(&self) -> Option<AskedFrom> {
        Some(AskedFrom { place: self.fleet.place()?, at: unix_ms() })
    }

    /// Looks for a verdict of another host, and waits for one that is asking. `expires_at` is the
    /// time at which the credentials expire, by nginx's clock.
    pub(super) async fn look(
        &self,
        id: &EntryId,
        expires_at: Option<Duration>,
        shared: SharedHandle,
    ) -> Look<'_> {
        let (outcome, look) = self.try_look(id, expires_at, shared).await;
        self.tier.count(outcome);
        look
    }

    async fn try_look(
        &self,
        id: &EntryId,
        expires_at: Option<Duration>,
        shared: SharedHandle,
    ) -> (FleetCache, Look<'_>) {
        let until = nginx::now() + self.patience;
        let mut attempt = 0;
        loop {
            let Some(sealed) = self.asks().and_then(|from| self.seal_lease(from)) else {
                return (FleetCache::Skipped, Look::Ask(None));
            };
            // From here on, also if nobody waits for the look-up any more.
            let lease = Lease(Some(self));
            let found = match self.tier.claim(&self.key, &sealed, until).await {
                Claimed::Skipped => {
                    lease.leave();
                    return (FleetCache::Skipped, Look::Ask(None));
                }
                // The time for following ended first.
                Claimed::Late if attempt > 0 && nginx::now() >= until => {
                    return (FleetCache::Overtaken, Look::Ask(Some(lease)));
                }
                Claimed::Late => return (FleetCache::Timeout, Look::Ask(Some(lease))),
                Claimed::Led => return (FleetCache::Lead, Look::Ask(Some(lease))),
                Claimed::Found(found) => found,
            };
            lease.leave();
            match self.judge(&found, id, expires_at, shared) {
                Judged::Counts(entry) if attempt == 0 => {
                    return (FleetCache::Hit, Look::Found(entry));
                }
                Judged::Counts(entry) => return (FleetCache::Follow, Look::Found(entry)),
                Judged::Refused(why) => return (why, Look::Ask(None)),
                Judged::Follow => {}
            }
            let pause = pause(attempt);
            if nginx::now() + pause > until {
                return (FleetCache::Overtaken, Look::Ask(None));
            }
            nginx::sleep(pause).await;
            attempt += 1;
        }
    }

    fn seal_lease(&self, from: AskedFrom) -> Option<Vec<u8>> {
        let mut id = LeaseId::default();
        aws_lc_rs::rand::fill(&mut id).ok()?;
        self.key.seal(&Record {
            content: Content::Lease(id),
            incarnation: from.place.incarnation,
            position: from.place.position,
            asked_at: from.at,
            expires_at: None,
        })
    }

    /// Decides what a sealed record is worth: Redis is not believed, and whatever is not certain
    /// does not count.
    fn judge(
        &self,
        sealed: &[u8],
        id: &EntryId,
        expires_at: Option<Duration>,
        shared: SharedHandle,
    ) -> Judged {
        let Some(record) = self.key.open(sealed) else {
            return Judged::Refused(FleetCache::Unreadable);
        };
        let (position, asked_at) = (record.position, record.asked_at);
        let Some((place, epoch)) = self.fleet.place_and_epoch(position, asked_at) else {
            return Judged::Refused(FleetCache::Skipped);
        };
        let (verdict, age) = match meaning(record, place.incarnation, unix_ms(), &self.valid) {
            Meaning::Counts { verdict, age } => (verdict, age),
            Meaning::Follow => return Judged::Follow,
            Meaning::Refused(Refusal::Foreign) => return Judged::Refused(FleetCache::Foreign),
            Meaning::Refused(Refusal::Stale) => return Judged::Refused(FleetCache::Stale),
        };
        let Some(since) = epoch else { return Judged::Refused(FleetCache::Purged) };
        // This clock may have begun later.
        let Some(time) = nginx::now().checked_sub(Duration::from_millis(age)) else {
            return Judged::Refused(FleetCache::Stale);
        };
        let entry = CacheEntry::new(Rc::new(verdict), AskedAt { time, since }, expires_at);
        let is_over = entry.is_purged(id, shared)
            || entry.is_disabled(id, shared)
            || shared.is_logged_out(&id.key);
        match is_over {
            true => Judged::Refused(FleetCache::Purged),
            false => Judged::Counts(entry),
        }
    }

    /// Tells other hosts the end of a look-up that began in this state: its verdict, or that they
    /// need not wait. Nobody waits for it.
    pub(super) fn tell(
        &self,
        lease: Option<Lease<'_>>,
        from: Option<AskedFrom>,
        result: &FetchResult,
    ) {
        let Some((sealed, life)) = from.and_then(|from| self.seal_verdict(from, result)) else {
            return;
        };
        if let Some(lease) = lease {
            lease.leave();
        }
        self.tier.store(&self.key, &sealed, life);
    }

    fn seal_verdict(&self, from: AskedFrom, result: &FetchResult) -> Option<(Vec<u8>, u64)> {
        let FetchResult::Keep(entry) = result else { return None };
        if !Record::is_shared(&entry.verdict) {
            return None;
        }
        // Positions from before a loss mean nothing.
        self.fleet.place().filter(|place| place.era == from.place.era)?;
        let now = unix_ms();
        let expires_at = entry.expires_at().map(|at| {
            let left = at.saturating_sub(nginx::now());
            now.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
        });
        let life = life(&entry.verdict, from.at, expires_at, now, &self.valid);
        let record = Record {
            content: Content::Verdict((*entry.verdict).clone()),
            incarnation: from.place.incarnation,
            position: from.place.position,
            asked_at: from.at,
            expires_at,
        };
        (life > 0).then_some(())?;
        Some((self.key.seal(&record)?, life))
    }
}
