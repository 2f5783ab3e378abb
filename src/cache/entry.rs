//! Entries of the cache.

use core::time::Duration;
use std::rc::Rc;

use authgear::shared::cache_key::Key;
use authgear::shared::purges::PurgeEpoch;
use authgear::shared::record;
use authgear::shared::zone::{Record, Worth, NEVER};
use authgear::token::Fingerprint;
use authgear::verdict::freshness::{Freshness, Times, UseStale, Valid};
use authgear::verdict::Verdict;

use crate::shared::handle::SharedHandle;

/// Identity of a cache entry.
#[derive(Clone, Copy)]
pub struct EntryId {
    /// Key of the credentials.
    pub key: Key,
    /// Scope of the project: purges of the project cover the entry.
    pub scope: [u8; 32],
}

/// Begin of a look-up.
#[derive(Clone, Copy)]
pub struct AskedAt {
    /// Time, by nginx's clock.
    pub time: Duration,
    /// Number of the last purge before the look-up began. A later purge cancels its verdict.
    pub since: PurgeEpoch,
}

impl AskedAt {
    /// A look-up that begins now.
    pub fn now(shared: SharedHandle) -> Self {
        Self { time: nginx::now(), since: shared.purge_epoch() }
    }
}

/// A verdict, and when its look-up began.
#[derive(Clone, Debug)]
pub struct CacheEntry {
    /// The verdict.
    pub verdict: Rc<Verdict>,
    /// By nginx's clock, which all workers share.
    times: Times,
    /// Position in the purge log when the look-up began. A purge after it cancels the entry.
    since: PurgeEpoch,
    /// Key that the token was verified with, if this module made the verdict.
    pub key: Option<Fingerprint>,
}

impl CacheEntry {
    /// `verdict` of a look-up that began at `asked_at`, on credentials that expire at
    /// `expires_at`.
    pub fn new(verdict: Rc<Verdict>, asked_at: AskedAt, expires_at: Option<Duration>) -> Self {
        let AskedAt { time, since } = asked_at;
        Self { verdict, times: Times { fetched_at: time, expires_at }, since, key: None }
    }

    /// `verdict` on a token that was verified with `key`; that began at `asked_at`.
    pub fn of_token(
        verdict: Rc<Verdict>,
        asked_at: AskedAt,
        expires_at: Duration,
        key: Fingerprint,
    ) -> Self {
        Self { key: Some(key), ..Self::new(verdict, asked_at, Some(expires_at)) }
    }

    /// Reads an entry from the zone.
    pub(super) fn decode(entry: &Record<'_>) -> Option<Self> {
        let (since, key, verdict) = record::decode(&entry.data)?;
        let times = Times {
            fetched_at: Duration::from_millis(entry.fetched_at),
            expires_at: match entry.expires_at {
                NEVER => None,
                at => Some(Duration::from_millis(at)),
            },
        };
        Some(Self { verdict: Rc::new(verdict), times, since, key })
    }

    /// The entry's data in the zone. `None` for a verdict that holds for one request only.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        record::encode(self.since, self.key, &self.verdict)
    }

    /// Time for which the zone may need the entry: a session lasts, any other verdict passes.
    pub(super) fn worth(&self) -> Worth {
        match *self.verdict {
            Verdict::Valid(_) => Worth::Lasting,
            _ => Worth::Passing,
        }
    }

    /// When the credentials expire, by nginx's clock.
    pub fn expires_at(&self) -> Option<Duration> {
        self.times.expires_at
    }

    /// When the look-up began.
    pub(super) fn fetched_at(&self) -> Duration {
        self.times.fetched_at
    }

    /// The entry's times in the zone, in milliseconds.
    pub(super) fn zone_times(&self) -> (u64, u64) {
        let expires_at = self.times.expires_at.map_or(NEVER, |at| at.as_millis() as u64);
        (self.times.fetched_at.as_millis() as u64, expires_at)
    }

    /// Use that a location with these settings may make of it now.
    pub(super) fn freshness(&self, valid: &Valid, stale: &UseStale) -> Option<Freshness> {
        self.times.freshness(&self.verdict, nginx::now(), valid, stale)
    }

    /// Whether it was purged.
    pub fn is_purged(&self, id: &EntryId, shared: SharedHandle) -> bool {
        shared.is_purged(self.since, Some(&id.key), &id.scope, &self.verdict)
    }

    /// Whether it is about a user who is disabled now, for a period that began after the look-up.
    pub fn is_disabled(&self, id: &EntryId, shared: SharedHandle) -> bool {
        if !shared.has_disabled_periods() {
            return false;
        }
        let Verdict::Valid(identity) = &*self.verdict else { return false };
        let Some(user) = identity.user_id() else { return false };
        let age = nginx::now().saturating_sub(self.times.fetched_at);
        let since = nginx::unix_time().saturating_sub(age).as_secs();
        shared.is_disabled(&id.scope, user, since)
    }

    /// Whether it may be served now that a look-up failed.
    pub fn usable_on_error(&self, valid: &Valid, stale: &UseStale) -> bool {
        self.times.usable_on_error(&self.verdict, nginx::now(), valid, stale)
    }
}
