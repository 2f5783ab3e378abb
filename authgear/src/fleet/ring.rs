//! A host's own events, in memory that its workers share.
//!
//! An event waits here until it is sent, and stays for the retention, so that it can be said again
//! under its number: when a connection breaks, when the stream was lost or trimmed, and when Redis
//! had taken it but it did not come back through the stream.
//!
//! All functions are called under the zone's lock. `now` is in milliseconds of a monotonic clock
//! that the workers share. A process may be killed within a change: no event that was put is lost,
//! and no number seals two plain texts.
//!
//! A period in which a user is disabled stays until it ends, and is said again in each retention.
//!
//! The number of events is bounded. In a full ring, purges become one *everything*. Ends and periods
//! give way to nothing else. The wish to hear those of others is dropped after all of them.

mod slot;

use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use super::event::{Event, Publisher};
pub use slot::EventSlot;
use slot::{Content, Stage, State};

/// Number of slots.
pub const SLOTS: usize = 4096;

/// Maximum number of events that are sent and not answered: readers remember as many numbers.
pub const UNDER_WAY: usize = super::repeats::WINDOW as usize;

/// Pause in milliseconds between two events of one subject.
pub const PAUSE: u64 = 500;

/// Looks that add up after Redis answered. The second one began after the first ended, and so after
/// the answer: an event that is in the stream has come back by then.
const LOOKS: u8 = 2;

/// Result of [`EventRing::put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Put {
    /// Number under which it will be sent.
    pub number: u64,
    /// Slot that has it, for [`EventRing::standing`].
    pub slot: usize,
    /// The event that a full ring made of others.
    pub room: Room,
}

/// Means by which room was made for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// There was room.
    Enough,
    /// Purges that were not said yet became one *everything*.
    Widened,
    /// An end, or a period that is over, was dropped that came back through the stream: it can be
    /// said again no more.
    Forgotten,
    /// An end or a period was dropped that did not come back, or a period that lasts: hosts that have
    /// not heard of it never will.
    Dropped,
}

/// An event under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Number of the event.
    pub number: u64,
    slot: usize,
    round: u32,
}

/// An event to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sending {
    /// To be kept until Redis answers.
    pub ticket: Ticket,
    /// The event, to be sealed under the number of the ticket.
    pub event: Event,
}

/// Progress of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Redis does not have it.
    Waiting,
    /// Redis has it.
    Stored,
    /// The ring does not know: it is too old, or another event stands for it.
    Gone,
}

/// The ring, with [`SLOTS`] slots in another part of the zone.
pub struct EventRing<S> {
    publisher: Publisher,
    /// The last number.
    last: AtomicU64,
    /// Number of slots that were ever used: the first ones.
    used: AtomicU64,
    slots: S,
}

impl<S: Deref<Target = [EventSlot]>> EventRing<S> {
    /// An empty ring of new slots. Two at least: ends leave one for purges.
    pub const fn new(slots: S, publisher: Publisher) -> Self {
        Self { publisher, last: AtomicU64::new(0), used: AtomicU64::new(0), slots }
    }

    /// The publisher of these events.
    pub const fn publisher(&self) -> Publisher {
        self.publisher
    }

    fn used(&self) -> &[EventSlot] {
        let used = usize::try_from(self.used.load(Ordering::SeqCst)).unwrap_or(usize::MAX);
        self.slots.get(..used).unwrap_or(&self.slots)
    }

    fn events(&self) -> impl Iterator<Item = &EventSlot> {
        self.used().iter().filter(|slot| !slot.is_free())
    }

    fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::SeqCst).wrapping_add(1)
    }

    /// Puts an event. `retention` is the age in milliseconds from which an event concerns nothing,
    /// unless it is a period that has not ended.
    ///
    /// A period replaces earlier ones of the user. If a later one is there, nothing is put.
    pub fn put(&self, event: &Event, now: u64, retention: u64) -> Put {
        let content = Content::of(event);
        let mut due = 0;
        for slot in self.events().filter(|slot| slot.is_about(&content)) {
            let state = slot.state();
            if slot.is_period() && slot.order() > content.order() {
                return self.put_in(slot, Room::Enough);
            }
            if state.stage == Stage::Waiting && !state.is_frozen && !slot.is_period() {
                slot.take_up(&content, now);
                return self.put_in(slot, Room::Enough);
            }
            if now.saturating_sub(slot.sent_at()) < PAUSE && slot.sent_at() > 0 {
                due = due.max(slot.sent_at().saturating_add(PAUSE));
            }
        }
        let (room, slot) = match self.free_slot(event.is_purge()) {
            Some(slot) => (Room::Enough, slot),
            None => match self.make_room(event, now, retention) {
                Ok(made) => made,
                Err(put) => return put,
            },
        };
        let number = self.number();
        slot.fill(number, &content, now, due);
        // After the new one is there.
        self.free_periods(&content, |old| old.number() != number);
        self.put_in(slot, room)
    }

    /// Puts the wish to hear ends and periods of other hosts, if no event has to give way for it.
    /// Returns whether it will be sent. `at` is in milliseconds since 1970.
    pub fn put_wish(&self, at: u64, now: u64) -> bool {
        let content = Content::of(&Event::again(at));
        if let Some(slot) = self.events().find(|slot| slot.is_wish()) {
            // Hosts that have heard of one that was sent do not hear of it again.
            let state = slot.state();
            return state.stage == Stage::Waiting && !state.is_frozen;
        }
        let Some(slot) = self.free_slot(false) else { return false };
        slot.fill(self.number(), &content, now, 0);
        true
    }

    fn put_in(&self, slot: &EventSlot, room: Room) -> Put {
        let index = self.slots.iter().position(|own| std::ptr::eq(own, slot));
        Put { number: slot.number(), slot: index.unwrap_or(usize::MAX), room }
    }

    /// A slot without an event. The last one is for purges.
    fn free_slot(&self, for_purge: bool) -> Option<&EventSlot> {
        let used = self.used();
        if let Some(next) = self.slots.get(used.len()) {
            if for_purge || used.len() + 1 < self.slots.len() {
                self.used.fetch_add(1, Ordering::SeqCst);
                return Some(next);
            }
        }
        let mut free = used.iter().filter(|slot| slot.is_free());
        let first = free.next()?;
        let is_spare = for_purge
            || used.len() < self.slots.len()
            || free.next().is_some()
            || self.events().any(EventSlot::is_purge);
        is_spare.then_some(first)
    }

    /// Makes room in a full ring, or lets an *everything* stand for a purge.
    fn make_room(
        &self,
        event: &Event,
        now: u64,
        retention: u64,
    ) -> Result<(Room, &EventSlot), Put> {
        let for_purge = event.is_purge();
        self.expire(now, retention, event.at / 1000);
        if let Some(slot) = self.free_slot(for_purge) {
            return Ok((Room::Enough, slot));
        }
        // What came back is only kept to be said again: one event can stand for it, unsaid.
        self.widen(Stage::Returned, |slot| slot.state().stage == Stage::Returned, now);
        if let Some(slot) = self.free_slot(for_purge) {
            return Ok((Room::Enough, slot));
        }
        let everything = self.widen(Stage::Waiting, |_| true, now);
        if let Some(everything) = everything.filter(|_| for_purge) {
            everything.take_up(&Content::everything(event.at), now);
            return Err(self.put_in(everything, Room::Widened));
        }
        if let Some(slot) = self.free_slot(for_purge) {
            return Ok((Room::Widened, slot));
        }
        let holds = |slot: &EventSlot| slot.holds(event.at / 1000);
        let progress = |slot: &EventSlot| match slot.state().stage {
            Stage::Free | Stage::Returned => 0,
            Stage::Stored => 1,
            Stage::Sent | Stage::Waiting => 2,
        };
        // Hosts that listen have heard of a period that came back. A host that begins has not.
        let loss = |slot: &&EventSlot| (slot.is_wish(), progress(slot), holds(slot), slot.number());
        let others = self.events().filter(|slot| !slot.is_purge());
        match others.min_by_key(loss) {
            Some(slot) => {
                let is_known = slot.state().stage == Stage::Returned && !holds(slot);
                slot.free();
                Ok((if is_known { Room::Forgotten } else { Room::Dropped }, slot))
            }
            // A ring without slots.
            None => Err(Put { number: self.number(), slot: usize::MAX, room: Room::Dropped }),
        }
    }

    /// Lets one *everything* stand for all purges that `is_meant` names, and returns it.
    fn widen(
        &self,
        stage: Stage,
        is_meant: impl Fn(&EventSlot) -> bool,
        now: u64,
    ) -> Option<&EventSlot> {
        let purges = || self.events().filter(|slot| slot.is_purge() && is_meant(slot));
        let at = purges().map(|slot| slot.event().at).max()?;
        let put_at = purges().map(EventSlot::put_at).max().unwrap_or(now);
        let one = purges().next()?;
        one.widen(self.number(), at, put_at, stage);
        // After it stands for them.
        purges().filter(|slot| slot.number() != one.number()).for_each(EventSlot::free);
        Some(one)
    }

    /// Takes events that are due in the order of their numbers, until [`UNDER_WAY`] are sent and not
    /// answered. Send all of them: they count as sent.
    pub fn take(&self, now: u64) -> Vec<Sending> {
        let under_way = self.events().filter(|slot| slot.state().stage == Stage::Sent).count();
        let room = UNDER_WAY.saturating_sub(under_way);
        if room == 0 {
            return Vec::new();
        }
        let is_due =
            |slot: &EventSlot| slot.state().stage == Stage::Waiting && wait(slot.due(), now) == 0;
        let slots = self.used().iter().enumerate().filter(|(_, slot)| is_due(slot));
        let mut due: Vec<_> = slots.map(|(index, slot)| (slot.number(), index, slot)).collect();
        due.sort_unstable_by_key(|(number, ..)| *number);
        let send = |(number, slot, own): (u64, usize, &EventSlot)| {
            let State { round, .. } = own.send(now);
            Sending { ticket: Ticket { number, slot, round }, event: own.event() }
        };
        due.into_iter().take(room).map(send).collect()
    }

    /// Redis answered with an id.
    pub fn acknowledged(&self, ticket: &Ticket) {
        let Ticket { number, slot, round } = *ticket;
        let slot = self.slots.get(slot).filter(|slot| slot.number() == number);
        let is_it = |state: State| state.stage == Stage::Sent && state.round == round;
        if let Some(slot) = slot.filter(|slot| is_it(slot.state())) {
            slot.set_stage(Stage::Stored);
        }
    }

    /// An event of this publisher came back through the stream. That counts for good when a look
    /// adds up.
    pub fn returned(&self, number: u64) {
        if let Some(slot) = self.events().find(|slot| slot.number() == number) {
            // An event that was never sent cannot come back: somebody else has this publisher.
            if !slot.state().is_frozen {
                return;
            }
            if slot.is_wish() {
                // The other hosts read it too. If it is lost with a server, the ends that they say
                // again then are no less.
                slot.free();
            } else {
                slot.set_stage(Stage::Returned);
            }
        }
    }

    /// A look added up. What Redis took before the last one that did, and did not come back, is
    /// said again. Returns the number of these events.
    pub fn looked(&self) -> usize {
        let mut again = 0;
        for slot in self.events() {
            let state = slot.state();
            match state.stage {
                Stage::Returned => slot.set_state(State { looks: LOOKS, ..state }),
                Stage::Stored if state.looks + 1 < LOOKS => {
                    slot.set_state(State { looks: state.looks + 1, ..state });
                }
                Stage::Stored => {
                    slot.set_stage(Stage::Waiting);
                    again += 1;
                }
                Stage::Free | Stage::Waiting | Stage::Sent => {}
            }
        }
        again
    }

    /// A keeper begins. The one before may have died: what is unanswered is sent again, and what
    /// came back must come back again unless a look added up since.
    pub fn taken_over(&self) {
        self.broken();
        let is_open = |state: State| state.stage == Stage::Returned && state.looks < LOOKS;
        // An *everything* that was never sent need not come back.
        let open = self.events().filter(|slot| is_open(slot.state()) && slot.state().is_frozen);
        open.for_each(|slot| slot.set_stage(Stage::Stored));
    }

    /// Says all events again, under their numbers.
    pub fn say_again(&self) {
        self.events().for_each(|slot| slot.set_stage(Stage::Waiting));
    }

    /// The connection broke: what is unanswered is sent again.
    pub fn broken(&self) {
        let sent = self.events().filter(|slot| slot.state().stage == Stage::Sent);
        sent.for_each(|slot| slot.set_stage(Stage::Waiting));
    }

    /// Says ends and periods again, which a host may have missed, and returns their number.
    pub fn say_ends_again(&self) -> usize {
        let ends = self.events().filter(|slot| {
            let is_purge = slot.is_purge() || slot.is_wish();
            !is_purge && matches!(slot.state().stage, Stage::Stored | Stage::Returned)
        });
        ends.map(|slot| slot.set_stage(Stage::Waiting)).count()
    }

    /// Says periods again that have not ended, twice in each retention: a host that begins reads no
    /// earlier events. `unix` is in seconds since 1970. Returns the number of these periods.
    pub fn renew(&self, now: u64, retention: u64, unix: u64) -> usize {
        let is_due = |slot: &&EventSlot| {
            slot.state().stage == Stage::Returned
                && slot.holds(unix)
                && now.saturating_sub(slot.sent_at()) > retention / 2
        };
        self.events().filter(is_due).map(|slot| slot.set_stage(Stage::Waiting)).count()
    }

    /// Frees periods that another host's event replaces: saying them again would bring them back.
    pub fn replaced_by(&self, event: &Event) {
        let content = Content::of(event);
        self.free_periods(&content, |old| old.order() < content.order());
    }

    /// Frees periods of the user that are not later than `content`, if that is a period.
    fn free_periods(&self, content: &Content, is_meant: impl Fn(&EventSlot) -> bool) {
        let old = |slot: &&EventSlot| {
            slot.is_period()
                && slot.is_about(content)
                && slot.order() <= content.order()
                && is_meant(slot)
        };
        self.events().filter(old).for_each(EventSlot::free);
    }

    /// Frees events that are older than the retention, except periods that have not ended. `unix` is
    /// in seconds since 1970.
    pub fn expire(&self, now: u64, retention: u64, unix: u64) {
        for slot in self.events() {
            if now.saturating_sub(slot.put_at()) > retention && !slot.holds(unix) {
                slot.free();
            }
        }
        let used = self.used().iter().rposition(|slot| !slot.is_free()).map_or(0, |last| last + 1);
        self.used.store(used as u64, Ordering::SeqCst);
    }

    /// Progress of the event with this number in this slot.
    pub fn standing(&self, slot: usize, number: u64) -> Standing {
        let slot = self.slots.get(slot).filter(|slot| slot.number() == number);
        match slot.map_or(Stage::Free, |slot| slot.state().stage) {
            Stage::Free => Standing::Gone,
            Stage::Waiting | Stage::Sent => Standing::Waiting,
            Stage::Stored | Stage::Returned => Standing::Stored,
        }
    }

    /// The least number of an event that has not come back, and the last number that was given.
    pub fn unreturned(&self) -> (Option<u64>, u64) {
        let open = self.events().filter(|slot| slot.state().stage != Stage::Returned);
        (open.map(EventSlot::number).min(), self.last.load(Ordering::SeqCst))
    }

    /// Number of events that Redis does not have.
    pub fn waiting(&self) -> usize {
        let is_waiting =
            |slot: &&EventSlot| matches!(slot.state().stage, Stage::Waiting | Stage::Sent);
        self.events().filter(is_waiting).count()
    }

    /// Milliseconds until the next event is due; `None` if none waits.
    pub fn next_due(&self, now: u64) -> Option<u64> {
        let waiting = self.events().filter(|slot| slot.state().stage == Stage::Waiting);
        waiting.map(|slot| wait(slot.due(), now)).min()
    }
}

/// Milliseconds until `due`. A time that is too far away is of another clock.
fn wait(due: u64, now: u64) -> u64 {
    let wait = due.saturating_sub(now);
    if wait > PAUSE {
        0
    } else {
        wait
    }
}

impl<S> fmt::Debug for EventRing<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventRing").field("last", &self.last).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
