//! A host: its zone, which outlives its keeper, and the keeper with two connections.

use std::collections::{HashMap, HashSet, VecDeque};

use super::random::Random;
use super::server::{Server, Value};
use crate::fleet::cursor::{Cursor, Do, Input, Phase, SavedCursor};
use crate::fleet::event::{Event, Publisher};
use crate::fleet::repeats::NumberWindow;
use crate::fleet::reply::{Entry, Look};
use crate::fleet::ring::{EventRing, EventSlot, Ticket};
use crate::fleet::spaced::Spaced;
use crate::fleet::stream_id::{Incarnation, StreamId};

pub const PAGE: usize = 4;
pub const BACK: u64 = 50;
const RETENTION: u64 = 1_000_000;
const SLOTS: usize = 64;
/// Pause between two recoveries.
const PAUSE: u64 = BACK;

/// Servers by number: the master, and those that were.
pub type Servers = HashMap<u64, Server>;

/// The answer that a connection waits for.
enum Asked {
    Look(StreamId),
    Block(StreamId),
}

enum Answer {
    /// With all entries that were there.
    Look(Box<Look>, Vec<Value>),
    Woken(Vec<Entry>),
}

struct Reader {
    server: u64,
    asked: Option<Asked>,
    answer: Option<Answer>,
}

struct Writer {
    server: u64,
    incarnation: Incarnation,
    sent: VecDeque<Ticket>,
    answered: VecDeque<Ticket>,
}

struct Keeper {
    cursor: Cursor,
    reader: Option<Reader>,
    writer: Option<Writer>,
    windows: HashMap<u8, NumberWindow>,
    recovery: Spaced,
}

pub struct Host {
    publisher: u8,
    ring: EventRing<Box<[EventSlot]>>,
    saved: SavedCursor,
    keeper: Option<Keeper>,
    /// Events that were applied, of any host.
    pub applied: HashSet<(u8, u64)>,
    /// Time of the model of the last purge of everything.
    pub purged_at: Option<u64>,
    /// Own events, with the time of the model.
    pub put: Vec<(u64, u64)>,
    /// Looks that added up since the last loss or event.
    pub quiet: u32,
    /// A look added up without these having been applied.
    pub missed: Vec<Value>,
    /// Number of entries that it wrote.
    pub written: u64,
    /// Trace of its steps, if it is to be printed.
    pub log: Option<Vec<String>>,
}

impl Host {
    pub fn new(publisher: u8) -> Self {
        let slots: Box<[_]> = (0..SLOTS).map(|_| EventSlot::new()).collect();
        Self {
            publisher,
            ring: EventRing::new(slots, Publisher::from_bytes([publisher; 16])),
            saved: SavedCursor::new(),
            keeper: None,
            applied: HashSet::new(),
            purged_at: None,
            put: Vec::new(),
            quiet: 0,
            missed: Vec::new(),
            written: 0,
            log: None,
        }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            log.push(what());
        }
    }

    pub fn put(&mut self, now: u64) {
        let user = format!("{now}");
        let put = self.ring.put(&Event::user(now, None, user.as_bytes()), now, RETENTION);
        self.put.push((put.number, now));
        self.note(|| format!("put {}", put.number));
        self.quiet = 0;
    }

    pub fn has_room(&self) -> bool {
        self.put.len() < SLOTS - 2
    }

    /// Returns true if the host knows of an event that was put at `time`.
    pub fn knows(&self, publisher: u8, number: u64, time: u64) -> bool {
        publisher == self.publisher
            || self.applied.contains(&(publisher, number))
            || self.purged_at.is_some_and(|at| at > time)
    }

    pub fn is_settled(&self) -> bool {
        let is_live = self.keeper.as_ref().is_some_and(|own| own.cursor.phase() == Phase::Live);
        is_live && self.ring.waiting() == 0 && self.quiet > 3
    }

    pub fn kill(&mut self) {
        self.keeper = None;
    }

    pub fn cut_reader(&mut self) {
        if let Some(keeper) = self.keeper.as_mut().filter(|keeper| keeper.reader.is_some()) {
            keeper.reader = None;
            keeper.cursor.step(Input::Broken);
        }
    }

    pub fn cut_writer(&mut self) {
        if let Some(keeper) = self.keeper.as_mut().filter(|keeper| keeper.writer.is_some()) {
            keeper.writer = None;
            self.ring.broken();
        }
    }

    /// Ends the connections to this server.
    pub fn cut_from(&mut self, server: u64) {
        let Some(keeper) = &self.keeper else { return };
        let reads = keeper.reader.as_ref().is_some_and(|reader| reader.server == server);
        let writes = keeper.writer.as_ref().is_some_and(|writer| writer.server == server);
        if reads {
            self.cut_reader();
        }
        if writes {
            self.cut_writer();
        }
    }

    fn keeper(&mut self) -> &mut Keeper {
        let (ring, saved) = (&self.ring, &self.saved);
        self.keeper.get_or_insert_with(|| {
            ring.taken_over();
            Keeper {
                cursor: Cursor::new(saved.load(), RETENTION).with(BACK, PAGE),
                reader: None,
                writer: None,
                windows: HashMap::new(),
                recovery: Spaced::new(PAUSE),
            }
        })
    }

    /// One step of the connection that reads. `killed` ends the keeper within it.
    pub fn reads(&mut self, servers: &Servers, to: u64, now: u64, killed: Option<&mut Random>) {
        let keeper = self.keeper();
        let Some(reader) = &mut keeper.reader else {
            let server = &servers[&to];
            keeper.reader = Some(Reader { server: to, asked: None, answer: None });
            let incarnation = server.info().incarnation();
            self.take(Input::Connected { incarnation, time: server.time(now) }, now, killed);
            return;
        };
        let server = &servers[&reader.server];
        match (reader.answer.take(), reader.asked.take()) {
            (Some(Answer::Look(look, there)), _) => {
                let quiet = self.quiet;
                self.take(Input::Look(*look), now, killed);
                if self.quiet > quiet {
                    let knows = |own: &Value| self.knows(own.publisher, own.number, own.added_at);
                    let missed: Vec<_> = there.into_iter().filter(|own| !knows(own)).collect();
                    self.missed.extend(missed);
                }
            }
            (Some(Answer::Woken(entries)), _) => self.take(Input::Woken(entries), now, killed),
            (None, Some(Asked::Look(from))) => {
                let there = server.stream.iter().flat_map(|stream| stream.entries.values());
                let there = there.copied().collect();
                let look = server.look(from, keeper.cursor.look_size());
                reader.answer = Some(Answer::Look(Box::new(look), there));
            }
            (None, Some(Asked::Block(from))) => {
                reader.answer = Some(Answer::Woken(server.read(from, PAGE)));
            }
            (None, None) => self.cut_reader(),
        }
    }

    pub fn beat(&mut self) {
        self.keeper().cursor.step(Input::Beat);
    }

    fn take(&mut self, input: Input, now: u64, mut killed: Option<&mut Random>) {
        let todo = self.keeper().cursor.step(input);
        for what in todo {
            if killed.as_mut().is_some_and(|random| random.one_in(3)) {
                self.kill();
                return;
            }
            self.carry_out(what, now);
        }
    }

    fn carry_out(&mut self, what: Do, now: u64) {
        self.note(|| format!("{what:?}"));
        match what {
            Do::Look(from) => self.ask(Asked::Look(from)),
            Do::Block(from) => self.ask(Asked::Block(from)),
            Do::Apply(entry) => self.apply(&entry),
            Do::SayAgain => self.ring.say_again(),
            Do::Recover => {
                self.keeper().recovery.want();
                self.recover(now);
            }
            Do::Lost(_) => self.quiet = 0,
            Do::Keep(_) if self.keeper().recovery.is_owed() => {}
            Do::Keep(saved) => self.saved.store(&saved),
            Do::Confirm => {
                self.recover(now);
                let again = self.ring.looked();
                if self.keeper().recovery.is_owed() {
                    self.quiet = 0;
                    return;
                }
                self.quiet += 1;
                if again > 0 {
                    self.quiet = 0;
                }
            }
            Do::Close => {
                if let Some(keeper) = &mut self.keeper {
                    (keeper.reader, keeper.writer) = (None, None);
                }
                self.ring.broken();
            }
        }
    }

    /// Does what is due of [`Do::Recover`]. All events of the model are purges: nobody is asked.
    fn recover(&mut self, now: u64) {
        if self.keeper().recovery.take(now) {
            self.purged_at = Some(now);
            self.ring.say_again();
        }
    }

    fn ask(&mut self, asked: Asked) {
        if let Some(reader) = self.keeper().reader.as_mut() {
            reader.asked = Some(asked);
        }
    }

    fn apply(&mut self, entry: &Entry) {
        let (publisher, number) = Value::read(&entry.value);
        if publisher == self.publisher {
            self.ring.returned(number);
            return;
        }
        let windows = &mut self.keeper().windows;
        let is_new = match windows.get_mut(&publisher) {
            Some(window) => window.is_new(number),
            None => windows.insert(publisher, NumberWindow::new(number)).is_none(),
        };
        if is_new {
            self.applied.insert((publisher, number));
        }
    }

    /// One step of the connection that writes.
    pub fn writes(&mut self, servers: &mut Servers, to: u64, now: u64) {
        let publisher = self.publisher;
        self.keeper();
        let Some(keeper) = &mut self.keeper else { return };
        let Some(writer) = &mut keeper.writer else {
            let incarnation = servers[&to].info().incarnation();
            let (sent, answered) = (VecDeque::new(), VecDeque::new());
            keeper.writer = Some(Writer { server: to, incarnation, sent, answered });
            return;
        };
        if let Some(ticket) = writer.answered.pop_front() {
            self.ring.acknowledged(&ticket);
            return;
        }
        if let Some(ticket) = writer.sent.pop_front() {
            let server = servers.get_mut(&writer.server).unwrap();
            server.add(now, publisher, ticket.number);
            writer.answered.push_back(ticket);
            self.written += 1;
            let at = writer.server;
            self.note(|| format!("adds {} at server {at}", ticket.number));
            return;
        }
        if keeper.cursor.may_write(writer.incarnation) {
            let taken = self.ring.take(now);
            writer.sent.extend(taken.into_iter().map(|sending| sending.ticket));
        } else {
            self.cut_writer();
        }
    }
}
