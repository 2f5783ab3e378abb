//! Reading of the stream: what was read is checked like a bank account, and not believed.
//!
//! The cursor is the id of the last entry that was read, and its *index*: the number of entries
//! that were added to the stream up to it. Redis counts the entries that were ever added. When a
//! look brings all entries behind the cursor and the counts agree, *it adds up*: nothing is missing.
//!
//! A count alone could agree by chance, in a stream that was deleted and filled again. So each look
//! begins with the last entry that a look brought, its *anchor*, which must still be there. What
//! comes while the cursor waits is applied at once, and the next look must bring it again: only then
//! it counts.
//!
//! | phase | does | goes to |
//! |---|---|---|
//! | `Down` | nothing, until a connection is there | `Syncing` |
//! | `Syncing` | looks, and nothing but looks, until one adds up | `Live` |
//! | `Live` | waits for entries, and looks each second | `Syncing` if it does not add up |
//!
//! A look that cannot add up is a [`Loss`], after which the cursor goes back and all own events are
//! said again. How far it goes back, and whether everything is purged:
//!
//! | loss | back to | purges |
//! |---|---|---|
//! | [`Incarnation`](Loss::Incarnation) | the last cursor that added up and is 60 s before the last one that did. It is the anchor: a server that took over without this entry may have others before it | no |
//! | [`Count`](Loss::Count), [`Gone`](Loss::Gone) | the first entry. The index begins at the number of entries that were trimmed | only if there are such |
//! | [`Trimmed`](Loss::Trimmed) | nowhere | everything: see [`Do::Recover`] |
//!
//! The machine is pure: [`Cursor::step`] takes what happened and says what to do, in this order.

mod saved;

use std::collections::{BTreeSet, VecDeque};

use super::reply::{Entry, Look, StreamInfo};
use super::request::PAGE;
use super::stream_id::{Incarnation, Position, StreamId};
pub use saved::SavedCursor;

/// Time in milliseconds between the last cursor that added up and the one to which the cursor goes
/// back: a server that took over may lack the last entries and have others in their place.
pub const BACK: u64 = 60_000;

/// Maximum number of cursors that are remembered to go back to.
const POINTS: usize = 16;

/// Maximum number of entries that are applied before a look brings them.
const EARLY: usize = 1000;

/// A place in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Point {
    /// Id of the last entry that was read.
    pub id: StreamId,
    /// Number of entries that were added to the stream up to this one.
    pub index: u64,
    /// The last bytes of its value: another entry may have the same id on another server.
    pub tag: u64,
}

/// State that another process needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The server that had the stream.
    pub incarnation: Incarnation,
    /// The last cursor that added up.
    pub sound: Point,
    /// Its entry was there.
    pub is_there: bool,
    /// An earlier one that did, to go back to.
    pub earlier: Point,
    /// A loss was noticed, and nothing added up since.
    pub is_lost: bool,
}

/// An occurrence at the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A connection is ready. The server was found usable.
    Connected {
        /// The server.
        incarnation: Incarnation,
        /// Its time, in milliseconds since 1970.
        time: u64,
    },
    /// Answer to [`Do::Look`].
    Look(Look),
    /// Answer to [`Do::Block`].
    Woken(Vec<Entry>),
    /// A look is due: each second.
    Beat,
    /// The connection ended because an answer was larger than a reply may be: the next pages have
    /// half as many entries.
    TooLarge,
    /// The connection ended.
    Broken,
}

/// A duty of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    /// Look behind this id.
    Look(StreamId),
    /// Wait for entries behind this id.
    Block(StreamId),
    /// Apply an entry.
    Apply(Entry),
    /// Say all own events again.
    SayAgain,
    /// Entries were trimmed. Purge everything here, say all own events again, and ask the other
    /// hosts for their ends and periods: purging does not bring those back. The caller may do it
    /// later, and does not keep the cursor until then.
    Recover,
    /// A loss, to be counted and logged.
    Lost(Loss),
    /// Store this for a process that takes over.
    Keep(Saved),
    /// The look added up: the host is in sync now. Own events that Redis took and that did not come
    /// back are due to be said again.
    Confirm,
    /// Close the connection, and connect again later. No answer to an earlier command counts.
    Close,
}

/// Reason for which reading does not add up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Another server has the stream, or the same one began another history.
    Incarnation,
    /// The counts do not agree, or ids went back.
    Count,
    /// The stream is gone.
    Gone,
    /// Entries were trimmed before they were read.
    Trimmed,
}

impl Loss {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::Incarnation, Self::Count, Self::Gone, Self::Trimmed];

    /// The word for metrics and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Incarnation => "incarnation",
            Self::Count => "count",
            Self::Gone => "gone",
            Self::Trimmed => "trimmed",
        }
    }
}

/// Phase of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There is no connection.
    Down,
    /// Looks, until one adds up.
    Syncing,
    /// The last look added up.
    Live,
}

/// The cursor.
#[derive(Clone, Debug)]
pub struct Cursor {
    phase: Phase,
    /// The server whose losses are noticed: that of the last connection.
    incarnation: Option<Incarnation>,
    /// The last entry that a look brought.
    at: StreamId,
    /// Index of `at`; `None` while the first reading has not reached the end.
    index: Option<u64>,
    /// The entry of `at` was there: it is the anchor of the next look.
    is_there: bool,
    /// The [tag](Point::tag) of `at`.
    tag: u64,
    /// The last entry that was applied, by a look or while waiting.
    head: StreamId,
    /// Entries behind `at` that were applied while waiting.
    early: BTreeSet<StreamId>,
    /// Where the first reading begins.
    start: StreamId,
    /// Greatest number of added entries that was seen: it never falls.
    added: u64,
    /// Entries were given up since the last look that added up: the last one may be among them.
    has_waived: bool,
    /// The first entry was gone back to since the last look that added up.
    is_whole: bool,
    wants_look: bool,
    saved: Option<Saved>,
    /// Cursors that added up, apart from each other, with growing ids.
    points: VecDeque<Point>,
    retention: u64,
    back: u64,
    /// Entries that are asked for at a time, and most of them.
    page: usize,
    full_page: usize,
}

impl Cursor {
    /// Begins, or goes on from what another process stored. The first reading begins `retention`
    /// milliseconds before the server's time.
    pub fn new(saved: Option<Saved>, retention: u64) -> Self {
        let sound = saved.map_or(Point::default(), |saved| saved.sound);
        Self {
            phase: Phase::Down,
            incarnation: saved.map(|saved| saved.incarnation),
            at: sound.id,
            index: saved.map(|_| sound.index),
            is_there: saved.is_some_and(|saved| saved.is_there),
            tag: sound.tag,
            head: sound.id,
            early: BTreeSet::new(),
            start: StreamId::ZERO,
            added: sound.index,
            has_waived: false,
            is_whole: false,
            wants_look: false,
            saved,
            points: saved.map(|saved| saved.earlier).into_iter().collect(),
            retention,
            back: BACK,
            page: PAGE,
            full_page: PAGE,
        }
    }

    /// Goes back by another time than [`BACK`], in milliseconds, and reads other pages.
    #[cfg(test)]
    pub(crate) fn with(mut self, back: u64, page: usize) -> Self {
        (self.back, self.page, self.full_page) = (back, page, page);
        self
    }

    /// Phase of reading.
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// Entries to ask for by the next wait.
    pub const fn page(&self) -> usize {
        self.page
    }

    /// Entries to ask for by the next look: its anchor comes with a page.
    pub const fn look_size(&self) -> usize {
        self.page + self.is_there as usize
    }

    /// Returns true if own events may be written on a connection to this server. To another one they
    /// may not: its loss would not be noticed.
    pub fn may_write(&self, server: Incarnation) -> bool {
        self.incarnation == Some(server)
    }

    /// The server and the position up to which everything was read; `None` while not live.
    pub fn position(&self) -> Option<(Incarnation, Position)> {
        let incarnation = self.incarnation.filter(|_| self.phase == Phase::Live)?;
        Some((incarnation, self.head.position()?))
    }

    /// Takes what happened, and returns what to do in this order.
    pub fn step(&mut self, input: Input) -> Vec<Do> {
        let mut todo = Vec::new();
        match (input, self.phase) {
            (Input::Broken, _) => self.phase = Phase::Down,
            (Input::TooLarge, _) => {
                self.phase = Phase::Down;
                self.page = (self.page / 2).max(1);
            }
            (Input::Connected { incarnation, time }, Phase::Down) => {
                self.connected(incarnation, time, &mut todo);
            }
            (Input::Look(look), Phase::Syncing | Phase::Live) => self.look(look, &mut todo),
            (Input::Woken(entries), Phase::Live) => self.woken(entries, &mut todo),
            (Input::Beat, Phase::Live) => self.wants_look = true,
            // Of a connection that is over, or for which nothing was asked.
            _ => {}
        }
        todo
    }

    fn connected(&mut self, server: Incarnation, time: u64, todo: &mut Vec<Do>) {
        self.phase = Phase::Syncing;
        self.wants_look = false;
        let is_lost = self.saved.is_some_and(|saved| saved.is_lost) && !self.is_whole;
        if self.saved.is_none() && (self.incarnation != Some(server) || self.index.is_none()) {
            // A process that was killed may have written events to another server.
            todo.push(Do::SayAgain);
            self.incarnation = Some(server);
            self.start = StreamId { ms: time.saturating_sub(self.retention), seq: 0 };
            self.begin();
        } else if self.incarnation != Some(server) {
            self.lose(Loss::Incarnation, server, todo);
            return;
        } else if is_lost {
            self.lose(Loss::Count, server, todo);
            return;
        }
        todo.push(self.next_look());
    }

    /// The look that goes on, from its anchor.
    fn next_look(&self) -> Do {
        Do::Look(if self.is_there { self.at.before() } else { self.at })
    }

    /// Goes to a place that no look brought.
    fn go_to(&mut self, at: StreamId, index: Option<u64>) {
        (self.at, self.index, self.is_there, self.head) = (at, index, false, at);
        self.early.clear();
        self.added = 0;
        (self.has_waived, self.is_whole) = (false, false);
    }

    /// Begins the first reading.
    fn begin(&mut self) {
        self.go_to(self.start, None);
    }

    fn look(&mut self, look: Look, todo: &mut Vec<Do>) {
        self.phase = Phase::Syncing;
        self.wants_look = false;
        let Look { mut entries, stream, server } = look;
        if server.usable().is_err() {
            self.close(todo);
            return;
        }
        let server = server.incarnation();
        if self.incarnation != Some(server) {
            self.lose(Loss::Incarnation, server, todo);
            return;
        }
        let Some(stream) = stream else {
            self.no_stream(server, todo);
            return;
        };
        let is_end = entries.len() < self.look_size();
        let anchor = entries.first().filter(|first| self.is_there && first.id == self.at);
        let has_anchor = anchor.is_some();
        if anchor.is_some_and(|anchor| tag(anchor) != self.tag) {
            self.lose(Loss::Count, server, todo);
            return;
        }
        if has_anchor {
            entries.remove(0);
        }
        if !follows(self.at, &entries) || entries.last().is_some_and(|last| last.id > stream.last) {
            self.close(todo);
            return;
        }
        if self.is_other(has_anchor, &stream) {
            self.lose(Loss::Count, server, todo);
            return;
        }
        self.added = stream.added;
        self.trimmed(has_anchor, &stream, todo);
        let is_first = self.index.is_none();
        self.is_there = has_anchor || !entries.is_empty();
        self.apply(entries, todo);
        if !is_end {
            todo.push(self.next_look());
            return;
        }
        let index = *self.index.get_or_insert(stream.added);
        let may_jump = is_first || self.has_waived || self.is_whole;
        let is_bad_end = self.at != stream.last && !may_jump;
        if index != stream.added || is_bad_end || !self.early.is_empty() {
            self.lose(Loss::Count, server, todo);
            return;
        }
        self.is_there = self.is_there && self.at == stream.last;
        self.at = stream.last;
        self.adds_up(server, index, todo);
    }

    /// Returns true if the stream is another one than was read before.
    fn is_other(&self, has_anchor: bool, stream: &StreamInfo) -> bool {
        let has_read = self.index.is_some();
        let went_back = has_read && stream.last < self.at.max(self.head);
        // An anchor may have been trimmed: see `trimmed`.
        let trimmed = stream.added.saturating_sub(stream.length);
        let may_be_trimmed = trimmed >= self.index.unwrap_or(1);
        let lacks_anchor = self.is_there && !has_anchor && !may_be_trimmed;
        stream.added < self.added || went_back || lacks_anchor
    }

    fn no_stream(&mut self, server: Incarnation, todo: &mut Vec<Do>) {
        if self.index.is_some_and(|index| index > 0) || self.added > 0 || !self.early.is_empty() {
            self.lose(Loss::Gone, server, todo);
            return;
        }
        self.go_to(StreamId::ZERO, Some(0));
        self.adds_up(server, 0, todo);
    }

    /// Purges everything if entries were trimmed that may not have been read.
    fn trimmed(&mut self, has_anchor: bool, stream: &StreamInfo, todo: &mut Vec<Do>) {
        let trimmed = stream.added.saturating_sub(stream.length);
        let is_beyond = stream.first.is_none_or(|first| first > self.at);
        let lacks_anchor = self.is_there && !has_anchor;
        let is_missed = match self.index {
            Some(index) => index < trimmed,
            // The first reading: entries since its start may be among those.
            None => is_beyond && trimmed > 0,
        };
        // Without its anchor this may be another stream, of which as many were trimmed.
        let is_missed = is_missed || lacks_anchor;
        if is_missed {
            todo.extend([Do::Lost(Loss::Trimmed), Do::Recover]);
            self.has_waived = true;
            self.early.clear();
        }
        if is_missed || (self.index.is_none() && is_beyond) {
            self.index = Some(trimmed);
        }
    }

    /// Applies what a look brought, except what was applied before.
    fn apply(&mut self, entries: Vec<Entry>, todo: &mut Vec<Do>) {
        if let Some(last) = entries.last() {
            (self.at, self.tag) = (last.id, tag(last));
            self.head = self.head.max(last.id);
        }
        self.index = self.index.map(|index| index.saturating_add(entries.len() as u64));
        let new = entries.into_iter().filter(|entry| !self.early.remove(&entry.id));
        todo.extend(new.map(Do::Apply));
    }

    fn adds_up(&mut self, server: Incarnation, index: u64, todo: &mut Vec<Do>) {
        self.phase = Phase::Live;
        self.page = self.page.saturating_mul(2).min(self.full_page);
        (self.has_waived, self.is_whole) = (false, false);
        self.added = self.added.max(index);
        let sound = Point { id: self.at, index, tag: self.tag };
        let (earlier, is_there) = (self.remember(sound), self.is_there);
        let saved = Saved { incarnation: server, sound, is_there, earlier, is_lost: false };
        self.saved = Some(saved);
        self.head = self.at;
        todo.extend([Do::Keep(saved), Do::Confirm, Do::Block(self.head)]);
    }

    /// Remembers a cursor that added up, and returns the one to go back to.
    fn remember(&mut self, sound: Point) -> Point {
        // Of a stream that was lost.
        self.points.retain(|point| point.id <= sound.id && point.index <= sound.index);
        let limit = sound.id.ms.saturating_sub(self.back);
        while self.points.get(1).is_some_and(|second| second.id.ms <= limit) {
            self.points.pop_front();
        }
        let apart = self.back / (POINTS as u64 / 2);
        let is_apart = |last: &Point| sound.id.ms.saturating_sub(last.id.ms) >= apart.max(1);
        let is_anchor = self.is_there && self.points.len() < POINTS;
        if is_anchor && self.points.back().is_none_or(is_apart) {
            self.points.push_back(sound);
        }
        let is_early = |first: &&Point| first.id.ms <= limit;
        self.points.front().filter(is_early).copied().unwrap_or_default()
    }

    fn woken(&mut self, entries: Vec<Entry>, todo: &mut Vec<Do>) {
        if !follows(self.head, &entries) {
            self.close(todo);
            return;
        }
        let is_end = entries.len() < self.page;
        self.early.extend(entries.iter().map(|entry| entry.id));
        self.head = entries.last().map_or(self.head, |last| last.id);
        todo.extend(entries.into_iter().map(Do::Apply));
        if is_end && !self.wants_look && self.early.len() < EARLY {
            todo.push(Do::Block(self.head));
        } else {
            todo.push(self.next_look());
        }
    }

    fn lose(&mut self, loss: Loss, server: Incarnation, todo: &mut Vec<Do>) {
        // It does not even add up from the first entry on.
        let is_hopeless = self.is_whole && self.incarnation == Some(server);
        self.incarnation = Some(server);
        todo.extend([Do::Lost(loss), Do::SayAgain]);
        if let Some(saved) = &mut self.saved {
            saved.is_lost = true;
            todo.push(Do::Keep(*saved));
        }
        let earlier = self.saved.map_or(Point::default(), |saved| saved.earlier);
        match (loss, self.saved) {
            (Loss::Incarnation, None) => self.begin(),
            (Loss::Incarnation, Some(_)) if earlier.index > 0 => {
                self.go_to(earlier.id, Some(earlier.index));
                (self.is_there, self.tag) = (true, earlier.tag);
            }
            _ => {
                self.go_to(StreamId::ZERO, Some(0));
                self.is_whole = true;
            }
        }
        if is_hopeless {
            self.close(todo);
        } else {
            todo.push(self.next_look());
        }
    }

    fn close(&mut self, todo: &mut Vec<Do>) {
        self.phase = Phase::Down;
        self.wants_look = false;
        todo.push(Do::Close);
    }
}

/// The [tag](Point::tag) of an entry: a part of its seal, as a rule.
fn tag(entry: &Entry) -> u64 {
    let last = entry.value.last_chunk();
    last.map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Returns true if all entries have greater ids than `at`. Ids of entries grow.
fn follows(at: StreamId, entries: &[Entry]) -> bool {
    entries.first().is_none_or(|first| first.id > at)
}

#[cfg(test)]
mod tests;
