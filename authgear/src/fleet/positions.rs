//! Positions in the stream, and the purges that came after them: whether a verdict that another host
//! asked for was purged here.
//!
//! A record has the position up to which its host had read the stream before the question. It was
//! asked for after every event up to there happened. Here, purges are numbered ([`PurgeEpoch`]). So
//! the log keeps *points*: a position and an epoch, with the promise that every purge whose event
//! has a later position, or has none yet, has a number above the epoch. A record is judged by the
//! last point that its position reaches, as if it had been asked for here at that epoch.
//!
//! An event of this host has no position until it comes back through the stream: it is *pending*.
//! The epoch of a new point stays below the purges of pending events. That is known by the numbers
//! of the events: see [`OwnEvents`].
//!
//! A point also has the time at which it was made. A record must have been asked for
//! [`APART`](super::tier::APART) later, by the clock of its host: no position that Redis makes up
//! reaches beyond what had happened by then. The first point of a zone that was made when nothing
//! had been purged has no such time, so that a host that begins uses what others asked before.
//!
//! After a [loss](super::cursor::Loss) positions mean something else. The log begins anew, and all
//! own events are pending.
//!
//! Called under the zone's lock. A process that is killed within a change leaves a log that begins
//! anew.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::stream_id::{Incarnation, Position};
use super::tier::APART;
use crate::shared::purges::PurgeEpoch;

/// Number of points. Older ones are thinned out.
const POINTS: usize = 128;

/// Stands for no candidate.
const NONE: u64 = u64::MAX;

/// Place in the stream up to which this host has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Server that has the stream.
    pub incarnation: Incarnation,
    /// Position.
    pub position: Position,
    /// Number of losses: positions before and after one have nothing in common.
    pub era: u64,
}

/// Events of this host in its ring: see [`EventRing::unreturned`](super::ring::EventRing::unreturned).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnEvents {
    /// Least number of an event that has not come back.
    pub least_pending: Option<u64>,
    /// Last number.
    pub last: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    position: u64,
    /// Milliseconds since 1970; 0 for no time.
    time: u64,
    epoch: u64,
}

/// The log, in shared memory.
pub struct PositionLog {
    /// Set while a change is under way.
    is_dirty: AtomicU64,
    has_begun: AtomicU64,
    /// Set if nothing had been purged when the zone was made, until a loss is noticed.
    is_fresh: AtomicU64,
    is_live: AtomicU64,
    era: AtomicU64,
    incarnation: AtomicU64,
    /// Epoch below the purges of all pending events.
    solid: AtomicU64,
    /// An epoch that becomes the solid one when all events up to this number have come back.
    candidate: [AtomicU64; 2],
    used: AtomicU64,
    points: [[AtomicU64; 3]; POINTS],
}

impl Default for PositionLog {
    fn default() -> Self {
        Self::new()
    }
}

impl PositionLog {
    /// Returns an empty log.
    pub const fn new() -> Self {
        Self {
            is_dirty: AtomicU64::new(0),
            has_begun: AtomicU64::new(0),
            is_fresh: AtomicU64::new(0),
            is_live: AtomicU64::new(0),
            era: AtomicU64::new(0),
            incarnation: AtomicU64::new(0),
            solid: AtomicU64::new(0),
            candidate: [AtomicU64::new(NONE), AtomicU64::new(NONE)],
            used: AtomicU64::new(0),
            points: [const { [const { AtomicU64::new(0) }; 3] }; POINTS],
        }
    }

    /// A worker begins. The first one says whether anything was purged before the zone was made.
    pub fn begin(&self, now: PurgeEpoch) {
        if set(&self.has_begun, 1) == 0 {
            set(&self.is_fresh, u64::from(now == PurgeEpoch::default()));
        }
    }

    /// All events up to a position were applied, at `time` in milliseconds since 1970. `now` is the
    /// epoch, and `own` is of the same moment: no change of this host is half made.
    pub fn has_read(
        &self,
        (incarnation, position): (Incarnation, Position),
        time: u64,
        now: PurgeEpoch,
        own: OwnEvents,
    ) {
        if get(&self.is_dirty) != 0 || get(&self.incarnation) != incarnation.0 {
            self.lost_unless_new();
        }
        set(&self.is_dirty, 1);
        set(&self.incarnation, incarnation.0);
        let epoch = self.solidify(now.number(), own);
        self.add(Point { position: position.0, time, epoch });
        set(&self.is_live, 1);
        set(&self.is_dirty, 0);
    }

    /// Returns the epoch of a new point.
    fn solidify(&self, now: u64, own: OwnEvents) -> u64 {
        let [candidate, number] = &self.candidate;
        match own.least_pending {
            None => {
                set(&self.solid, now);
                set(candidate, NONE);
            }
            Some(_) if get(candidate) == NONE => {
                set(number, own.last);
                set(candidate, now);
            }
            Some(least) if least > get(number) => {
                set(&self.solid, get(candidate));
                set(number, own.last);
                set(candidate, now);
            }
            Some(_) => {}
        }
        get(&self.solid)
    }

    fn add(&self, mut new: Point) {
        let used = self.used();
        match used.checked_sub(1).and_then(|last| self.point(last)) {
            // A keeper that took over reads again what another one had read.
            Some(last) if last.position > new.position => return,
            Some(last) if last.position == new.position && last.epoch == new.epoch => return,
            // Nothing was ever purged here: each question is as good as one that was asked now.
            // After a first event Redis could have made up the position of a question.
            None if get(&self.is_fresh) != 0 && new.epoch == 0 => new.time = 0,
            Some(_) | None => {}
        }
        if used == POINTS {
            self.thin();
        }
        let used = self.used();
        self.put(used, new);
        set(&self.used, used as u64 + 1);
    }

    /// Drops every second one of the older points.
    fn thin(&self) {
        let kept = (0..POINTS).filter(|index| index % 2 == 0 || *index >= POINTS / 2);
        let points: Vec<Point> = kept.filter_map(|index| self.point(index)).collect();
        for (index, point) in points.iter().enumerate() {
            self.put(index, *point);
        }
        set(&self.used, points.len() as u64);
    }

    fn used(&self) -> usize {
        usize::try_from(get(&self.used)).unwrap_or(0).min(POINTS)
    }

    fn point(&self, index: usize) -> Option<Point> {
        let [position, time, epoch] = self.points.get(index)?.each_ref().map(get);
        Some(Point { position, time, epoch })
    }

    fn put(&self, index: usize, Point { position, time, epoch }: Point) {
        let Some(words) = self.points.get(index) else { return };
        words.iter().zip([position, time, epoch]).for_each(|(word, new)| {
            set(word, new);
        });
    }

    /// The connection is gone: what others purge is not known.
    pub fn is_down(&self) {
        set(&self.is_live, 0);
    }

    /// Events may have been lost: positions begin anew, and all own events are said again.
    pub fn lost(&self) {
        set(&self.is_dirty, 1);
        set(&self.is_live, 0);
        set(&self.is_fresh, 0);
        set(&self.era, get(&self.era).wrapping_add(1));
        set(&self.used, 0);
        set(&self.solid, 0);
        self.widened();
        set(&self.is_dirty, 0);
    }

    /// A log that was never used keeps what it knows.
    fn lost_unless_new(&self) {
        if get(&self.is_dirty) != 0 || self.used() > 0 {
            self.lost();
        }
    }

    /// Events took the places of others, under new numbers.
    pub fn widened(&self) {
        let [candidate, _] = &self.candidate;
        set(candidate, NONE);
    }

    /// The place up to which this host has read; `None` while it does not know what others purge.
    pub fn place(&self) -> Option<Place> {
        let is_live = get(&self.is_live) != 0 && get(&self.is_dirty) == 0;
        let last = self.point(self.used().checked_sub(1)?).filter(|_| is_live)?;
        Some(Place {
            incarnation: Incarnation(get(&self.incarnation)),
            position: Position(last.position),
            era: get(&self.era),
        })
    }

    /// The epoch by which to judge a record of a position in the present incarnation, which was
    /// asked for at this time. A verdict that was not purged since counts. `None` if the log does
    /// not reach back.
    pub fn epoch_of(&self, position: Position, asked_at: u64) -> Option<PurgeEpoch> {
        self.place()?;
        let reaches = |point: &Point| {
            let is_later = point.time.saturating_add(APART) <= asked_at;
            point.position <= position.0 && (point.time == 0 || is_later)
        };
        let points = (0..self.used()).rev().filter_map(|index| self.point(index));
        let last = points.into_iter().find(reaches)?;
        Some(PurgeEpoch::of_number(last.epoch))
    }
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::SeqCst)
}

/// Returns what was there before.
fn set(word: &AtomicU64, value: u64) -> u64 {
    word.swap(value, Ordering::SeqCst)
}

impl fmt::Debug for PositionLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PositionLog").field("place", &self.place()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
