//! What is known of credentials, or being asked about them.
//!
//! A verdict is looked for in the worker's own front, then in the zone that all workers share.
//! The front needs no lock; it is right as long as neither the zone's generation changes nor that
//! of purges.

pub mod flights;

use core::cell::{Cell, RefCell};
use core::future::Future;
use core::num::NonZeroUsize;
use core::time::Duration;
use std::rc::Rc;

use authgear::front::Proof;
use authgear::kept;
use authgear::key::{Key, KeyHasher, KeySecret};
use authgear::purges::Number;
use authgear::token::Fingerprint;
use authgear::verdict::Verdict;
use authgear::zone::{Record, Stats, Worth, NEVER};
use lru::LruCache;

use crate::conf::cache::{CacheZone, UseStale, Valid};
use crate::shared::map::{Ended, Map, MapHeader, Turn};
use crate::{nginx, worker};

/// Where a verdict is kept, and what it can be purged by.
#[derive(Clone, Copy)]
pub struct Place {
    /// Of the credentials.
    pub key: Key,
    /// Of the project.
    pub scope: [u8; 32],
}

/// When something was asked: before anybody knew.
#[derive(Clone, Copy)]
pub struct Asked {
    /// By nginx's clock.
    pub time: Duration,
    /// By the count of purges.
    pub since: Number,
}

impl Asked {
    /// Now.
    pub fn now() -> Self {
        Self { time: nginx::now(), since: worker::purge_number() }
    }
}

/// A verdict, and when it was made.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The verdict.
    pub verdict: Rc<Verdict>,
    /// By nginx's clock, which all workers share.
    fetched_at: Duration,
    /// When the token that it is of expires.
    expires_at: Option<Duration>,
    /// Of the last purge before it was asked about: if it was purged since, it does not count.
    since: Number,
    /// The key it was verified with, of a verdict that the worker itself found.
    pub key: Option<Fingerprint>,
}

/// What a look into the cache found.
pub struct Found {
    /// What may be done with it.
    pub usable: Option<Use>,
    /// For [`Cache::fly`].
    pub seen: Seen,
}

/// Which verdict a look into the zone found there, whatever may be done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen(Option<Duration>);

impl Seen {
    /// Of who did not look.
    pub const NOTHING: Self = Self(None);
}

/// What may be done with a kept verdict.
#[derive(Debug)]
pub enum Use {
    /// It counts.
    Fresh(Kept),
    /// It counts while it is being refreshed.
    Updating(Kept),
    /// It may count if Authgear fails.
    Expired(Kept),
}

impl Kept {
    /// `verdict` on what was asked at `asked_at`, of a token that expires at `expires_at`.
    pub fn new(verdict: Rc<Verdict>, asked_at: Asked, expires_at: Option<Duration>) -> Self {
        let Asked { time, since } = asked_at;
        Self { verdict, fetched_at: time, expires_at, since, key: None }
    }

    /// `verdict` on a token that was verified now with `key`; looking into it began at `asked_at`.
    pub fn of_token(
        verdict: Rc<Verdict>,
        asked_at: Asked,
        expires_at: Duration,
        key: Fingerprint,
    ) -> Self {
        Self { key: Some(key), ..Self::new(verdict, asked_at, Some(expires_at)) }
    }

    fn decode(record: &Record<'_>) -> Option<Self> {
        let (since, key, verdict) = kept::decode(&record.data)?;
        Some(Self {
            verdict: Rc::new(verdict),
            since,
            key,
            fetched_at: Duration::from_millis(record.fetched_at),
            expires_at: match record.expires_at {
                NEVER => None,
                at => Some(Duration::from_millis(at)),
            },
        })
    }

    /// As the zone has it, unless it holds for one request only.
    fn encode(&self) -> Option<Vec<u8>> {
        kept::encode(self.since, self.key, &self.verdict)
    }

    fn worth(&self) -> Worth {
        match *self.verdict {
            Verdict::Valid(_) => Worth::Lasting,
            _ => Worth::Passing,
        }
    }

    /// Milliseconds, as the zone has them.
    fn times(&self) -> (u64, u64) {
        let expires_at = self.expires_at.map_or(NEVER, |at| at.as_millis() as u64);
        (self.fetched_at.as_millis() as u64, expires_at)
    }

    /// What a location with these settings may do with it now.
    fn sort(self, valid: &Valid, stale: &UseStale) -> Option<Use> {
        let now = nginx::now();
        if self.expires_at.is_some_and(|at| at <= now) {
            return None;
        }
        let age = now.saturating_sub(self.fetched_at);
        let lifetime = valid.of(&self.verdict);
        if age < lifetime {
            return Some(Use::Fresh(self));
        }
        // Only who had a session is served from the past.
        if !matches!(*self.verdict, Verdict::Valid(_)) {
            return None;
        }
        if age < lifetime + stale.updating {
            Some(Use::Updating(self))
        } else if age < lifetime + stale.error {
            Some(Use::Expired(self))
        } else {
            None
        }
    }

    /// Whether it was purged since.
    pub fn is_purged(&self, place: &Place) -> bool {
        worker::is_purged(self.since, place, &self.verdict)
    }

    /// Whether it may count now that Authgear fails.
    pub fn usable_on_error(&self, valid: &Valid, stale: &UseStale) -> bool {
        let now = nginx::now();
        let age = now.saturating_sub(self.fetched_at);
        self.expires_at.is_none_or(|at| at > now) && age < valid.of(&self.verdict) + stale.error
    }
}

struct Front {
    kept: Kept,
    generation: Generation,
    proof: Proof,
}

/// Of the zone, and of purges.
type Generation = (u64, u64);

/// A worker's view of a zone.
pub struct Cache {
    map: Map<MapHeader>,
    front: RefCell<LruCache<Key, Front, KeyHasher>>,
    /// See [`Self::draw`].
    lots: Cell<u32>,
}

/// How a look-up ended.
pub enum Answer {
    /// By an answer of Authgear's, to be kept as this says.
    Keep(Kept),
    /// By one that is not kept. `code` tells other workers.
    Pass {
        /// The verdict.
        verdict: Rc<Verdict>,
        /// For [`Cache::fly`]'s `decode`.
        code: u8,
    },
}

impl Cache {
    /// A view with an empty front.
    pub fn new(zone: &CacheZone) -> Self {
        let front = NonZeroUsize::new(zone.front).unwrap_or(NonZeroUsize::MIN);
        let front = LruCache::with_hasher(front, KeyHasher::default());
        Self { map: Map::new(zone.shared), front: RefCell::new(front), lots: Cell::new(0) }
    }

    /// The secret of the zone's keys.
    pub fn secret(&self) -> &KeySecret {
        self.map.secret()
    }

    /// Of before whatever is looked at next.
    fn generation(&self) -> Generation {
        (self.map.generation(), worker::purge_generation())
    }

    /// What is kept there, for a location with these settings.
    pub fn get(&self, place: &Place, valid: &Valid, stale: &UseStale) -> Found {
        let generation = self.generation();
        let front = self
            .front
            .borrow_mut()
            .get_mut(&place.key)
            .filter(|front| front.generation == generation)
            .map(|front| (front.kept.clone(), front.proof.note_hit()));
        // What is old here may have been refreshed by another worker.
        if let Some((kept, is_news)) = front {
            if let Some(found @ Use::Fresh(_)) = kept.sort(valid, stale) {
                if is_news {
                    self.map.with(|zone| zone.touch(&place.key));
                }
                return Found { usable: Some(found), seen: Seen::NOTHING };
            }
        }
        let Some((kept, proof)) = self.read(place) else {
            return Found { usable: None, seen: Seen::NOTHING };
        };
        self.keep_in_front(&place.key, &kept, generation, proof);
        let seen = Seen(Some(kept.fetched_at));
        Found { usable: kept.sort(valid, stale), seen }
    }

    /// What the zone has, unless it was purged.
    fn read(&self, place: &Place) -> Option<(Kept, Proof)> {
        let decode =
            |record: &Record<'_>| Some((Kept::decode(record)?, Proof::of_read(record.proven)));
        self.map.get(&place.key, decode).filter(|(kept, _)| !kept.is_purged(place))
    }

    /// What is kept now, if it is not what was seen there.
    fn newer(&self, place: &Place, seen: Seen) -> Option<Kept> {
        let generation = self.generation();
        let found = self.read(place);
        let (kept, proof) = found.filter(|(kept, _)| Seen(Some(kept.fetched_at)) != seen)?;
        self.keep_in_front(&place.key, &kept, generation, proof);
        Some(kept)
    }

    fn keep_in_front(&self, key: &Key, kept: &Kept, generation: Generation, proof: Proof) {
        let mut front = self.front.borrow_mut();
        let is_full = front.len() == front.cap().get();
        if !front.contains(key) && !proof.may_enter(is_full, || self.draw()) {
            return;
        }
        let replaced = front.push(*key, Front { kept: kept.clone(), generation, proof });
        drop(front);
        drop(replaced);
    }

    /// True one time in eight.
    fn draw(&self) -> bool {
        // A linear congruential generator, of which the high bits are good.
        let next = self.lots.get().wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.lots.set(next);
        next >> 29 == 0
    }

    /// Brings the look-up at `place` to its end: by `ask`, or, while another worker is at it, by
    /// waiting for that one. True if another one did it.
    pub async fn fly<F: Future<Output = Answer>>(
        &self,
        place: &Place,
        seen: Seen,
        lease: Duration,
        ask: impl FnOnce() -> F,
        decode: impl Fn(u8) -> Rc<Verdict>,
    ) -> (Answer, bool) {
        let key = &place.key;
        let lead = loop {
            match self.map.turn(key, lease) {
                Turn::Lead(lead) => break lead,
                Turn::Follow(leader) => match self.map.follow(key, leader).await {
                    Ended::Failed(code) => {
                        return (Answer::Pass { verdict: decode(code), code }, true);
                    }
                    Ended::Stored => {
                        if let Some(kept) = self.newer(place, seen) {
                            return (Answer::Keep(kept), true);
                        }
                    }
                    // Somebody else must lead.
                    Ended::Abandoned => {}
                },
            }
        };
        // Another worker's look-up may have ended since this one looked.
        if let Some(kept) = self.newer(place, seen) {
            return (Answer::Keep(kept), true);
        }
        let generation = self.generation();
        let answer = ask().await;
        match &answer {
            Answer::Keep(kept) => {
                if let Some(data) = kept.encode() {
                    lead.store(kept.worth(), kept.times(), &data);
                    let proof = Proof::of_stored(kept.worth());
                    self.keep_in_front(key, kept, generation, proof);
                }
            }
            Answer::Pass { code, .. } => lead.fail(*code),
        }
        (answer, false)
    }

    /// Keeps an answer that was not asked for by [`Self::fly`].
    pub fn put(&self, place: &Place, kept: &Kept) {
        let generation = self.generation();
        // After that: a purge that comes later changes the generation.
        if kept.is_purged(place) {
            return;
        }
        if let Some(data) = kept.encode() {
            self.map.store(&place.key, kept.worth(), kept.times(), &data);
            let proof = Proof::of_stored(kept.worth());
            self.keep_in_front(&place.key, kept, generation, proof);
        }
    }

    /// Drops what is kept under `key`. True if somebody is finding out just now, and goes on.
    pub fn forget(&self, key: &Key) -> bool {
        self.map.with(|zone| zone.forget(key)).unwrap_or_default()
    }

    /// How full the zone is.
    pub fn stats(&self) -> Option<Stats> {
        self.map.with(|zone| zone.stats())
    }

    /// This worker was woken: some look-up that it waits for may have ended.
    pub fn woken(&self) {
        self.map.woken();
    }
}
