//! One event in shared memory.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};

use super::super::event::{Event, UserId, What, MAX_USER_ID};

/// Words of a user id.
const ID_WORDS: usize = MAX_USER_ID / 8;

/// Progress of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// No event.
    Free,
    /// To be sent.
    Waiting,
    /// Sent, and not answered.
    Sent,
    /// Redis answered.
    Stored,
    /// The event came back through the stream.
    Returned,
}

/// The word that makes a slot what it is: a change of it takes effect as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub stage: Stage,
    /// Its plain text may have been sealed under its number, and does not change any more.
    pub is_frozen: bool,
    /// Looks that added up since Redis answered, 3 at most.
    pub looks: u8,
    /// Counts how often it was sent.
    pub round: u32,
}

impl State {
    const FREE: u64 = 0;

    /// An event that was never sent.
    pub const NEW: Self = Self { stage: Stage::Waiting, is_frozen: false, looks: 0, round: 0 };

    fn word(self) -> u64 {
        let stage = match self.stage {
            Stage::Free => return Self::FREE,
            Stage::Waiting => 1,
            Stage::Sent => 2,
            Stage::Stored => 3,
            Stage::Returned => 4,
        };
        stage
            | u64::from(self.is_frozen) << 3
            | u64::from(self.looks & 3) << 4
            | u64::from(self.round) << 32
    }

    fn of_word(word: u64) -> Self {
        let stage = match word & 7 {
            1 => Stage::Waiting,
            2 => Stage::Sent,
            3 => Stage::Stored,
            4 => Stage::Returned,
            _ => Stage::Free,
        };
        let looks = (word >> 4 & 3) as u8;
        Self { stage, is_frozen: word >> 3 & 1 == 1, looks, round: (word >> 32) as u32 }
    }
}

/// Subject and content of an event in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    /// Kind, whether there is a project, and the length of the user id.
    pub head: u64,
    pub at: u64,
    pub times: [u64; 3],
    project: [u64; 4],
    id: [u64; ID_WORDS],
}

const USER: u64 = 1;
const END: u64 = 2;
const EVERYTHING: u64 = 3;
const PERIOD: u64 = 4;
const AGAIN: u64 = 5;
const HAS_PROJECT: u64 = 1 << 8;
/// [`What::Period`] without a period.
const IS_LIFTED: u64 = 1 << 9;
const ID_LENGTH: u32 = 16;

impl Content {
    pub fn of(event: &Event) -> Self {
        let (kind, user, times) = match &event.what {
            What::User(user) => (USER, Some(user), [0; 3]),
            What::End { user, issued, until } => (END, Some(user), [*issued, *until, 0]),
            What::Everything => (EVERYTHING, None, [0; 3]),
            What::Again => (AGAIN, None, [0; 3]),
            What::Period { user, order, period: Some((from, until)) } => {
                (PERIOD, Some(user), [*order, *from, *until])
            }
            What::Period { user, order, period: None } => {
                (PERIOD | IS_LIFTED, Some(user), [*order, 0, 0])
            }
        };
        let id = user.map_or(&b""[..], UserId::as_bytes);
        let has_project = if event.project.is_some() { HAS_PROJECT } else { 0 };
        Self {
            head: kind | has_project | (id.len() as u64) << ID_LENGTH,
            at: event.at,
            times,
            project: words(&event.project.unwrap_or_default()),
            id: words(id),
        }
    }

    /// Order of a period.
    pub const fn order(&self) -> u64 {
        let [order, ..] = self.times;
        order
    }

    /// *Everything* of all projects.
    pub const fn everything(at: u64) -> Self {
        Self { head: EVERYTHING, at, times: [0; 3], project: [0; 4], id: [0; ID_WORDS] }
    }

    /// The event; *everything* for words that are none.
    pub fn event(&self) -> Event {
        let known = || {
            let length = usize::try_from(self.head >> ID_LENGTH).ok()?;
            let id = bytes::<MAX_USER_ID>(&self.id);
            let user = UserId::new(id.get(..length)?);
            let [first, second, third] = self.times;
            let period = (self.head & IS_LIFTED == 0).then_some((second, third));
            let what = match self.head & 7 {
                USER => What::User(user?),
                END => What::End { user: user?, issued: first, until: second },
                EVERYTHING => What::Everything,
                AGAIN => What::Again,
                PERIOD => What::Period { user: user?, order: first, period },
                _ => return None,
            };
            let project = (self.head & HAS_PROJECT > 0).then(|| bytes(&self.project));
            Some(Event { at: self.at, project, what })
        };
        known().unwrap_or(Event::everything(self.at, None))
    }
}

fn words<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    for (word, part) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded.iter_mut().zip(part).for_each(|(out, byte)| *out = *byte);
        *word = u64::from_be_bytes(padded);
    }
    words
}

fn bytes<const N: usize>(words: &[u64]) -> [u8; N] {
    let mut out = [0; N];
    let all = words.iter().flat_map(|word| word.to_be_bytes());
    out.iter_mut().zip(all).for_each(|(out, byte)| *out = byte);
    out
}

/// A place of the ring. Changed under the zone's lock only; each change is ordered so that an event
/// stays whole if the process is killed within it.
pub struct EventSlot {
    state: AtomicU64,
    number: AtomicU64,
    /// Time of the last put, of the last sending, and from which it may be sent. Milliseconds of
    /// the monotonic clock.
    put_at: AtomicU64,
    sent_at: AtomicU64,
    due: AtomicU64,
    head: AtomicU64,
    at: AtomicU64,
    times: [AtomicU64; 3],
    project: [AtomicU64; 4],
    id: [AtomicU64; ID_WORDS],
}

fn load<const N: usize>(words: &[AtomicU64; N]) -> [u64; N] {
    array::from_fn(|n| words.get(n).map_or(0, get))
}

fn get(word: &AtomicU64) -> u64 {
    word.load(Ordering::SeqCst)
}

fn set(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::SeqCst);
}

impl EventSlot {
    /// A slot without an event.
    pub const fn new() -> Self {
        Self {
            state: AtomicU64::new(State::FREE),
            number: AtomicU64::new(0),
            put_at: AtomicU64::new(0),
            sent_at: AtomicU64::new(0),
            due: AtomicU64::new(0),
            head: AtomicU64::new(0),
            at: AtomicU64::new(0),
            times: [const { AtomicU64::new(0) }; 3],
            project: [const { AtomicU64::new(0) }; 4],
            id: [const { AtomicU64::new(0) }; ID_WORDS],
        }
    }

    pub(super) fn state(&self) -> State {
        State::of_word(get(&self.state))
    }

    pub(super) fn set_state(&self, state: State) {
        set(&self.state, state.word());
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.set_state(State { stage, looks: 0, ..self.state() });
    }

    pub(super) fn free(&self) {
        set(&self.state, State::FREE);
    }

    pub(super) fn number(&self) -> u64 {
        get(&self.number)
    }

    pub(super) fn put_at(&self) -> u64 {
        get(&self.put_at)
    }

    pub(super) fn sent_at(&self) -> u64 {
        get(&self.sent_at)
    }

    pub(super) fn due(&self) -> u64 {
        get(&self.due)
    }

    pub(super) fn is_free(&self) -> bool {
        self.state().stage == Stage::Free
    }

    pub(super) fn is_purge(&self) -> bool {
        matches!(get(&self.head) & 7, USER | EVERYTHING)
    }

    pub(super) fn is_wish(&self) -> bool {
        get(&self.head) & 7 == AGAIN
    }

    pub(super) fn is_period(&self) -> bool {
        get(&self.head) & 7 == PERIOD
    }

    /// Returns true for a period that ends after `unix`, in seconds since 1970.
    pub(super) fn holds(&self, unix: u64) -> bool {
        let [_, _, until] = &self.times;
        self.is_period() && get(&self.head) & IS_LIFTED == 0 && get(until) > unix
    }

    /// Order of a period.
    pub(super) fn order(&self) -> u64 {
        let [order, ..] = &self.times;
        get(order)
    }

    /// Returns true if it has the subject of `content`: what happens, the project, and the user.
    pub(super) fn is_about(&self, content: &Content) -> bool {
        let same = |own: u64| (own ^ content.head) & !IS_LIFTED == 0;
        let equal = |own: &[AtomicU64], new: &[u64]| own.iter().map(get).eq(new.iter().copied());
        same(get(&self.head))
            && equal(&self.id, &content.id)
            && equal(&self.project, &content.project)
    }

    pub(super) fn event(&self) -> Event {
        let content = Content {
            head: get(&self.head),
            at: get(&self.at),
            times: load(&self.times),
            project: load(&self.project),
            id: load(&self.id),
        };
        content.event()
    }

    /// Puts an event into this slot, which is free.
    pub(super) fn fill(&self, number: u64, content: &Content, now: u64, due: u64) {
        set(&self.number, number);
        set(&self.put_at, now);
        set(&self.sent_at, 0);
        set(&self.due, due);
        set(&self.head, content.head);
        set(&self.at, content.at);
        let parts = [(&self.times[..], &content.times[..]), (&self.project, &content.project)];
        for (own, new) in parts.into_iter().chain([(&self.id[..], &content.id[..])]) {
            own.iter().zip(new).for_each(|(own, new)| set(own, *new));
        }
        // Last: from here on the event is there.
        self.set_state(State::NEW);
    }

    /// Takes up a later event of the same subject. The plain text is not frozen.
    pub(super) fn take_up(&self, content: &Content, now: u64) {
        self.at.fetch_max(content.at, Ordering::SeqCst);
        // Times of an end only grow: with some of them, it is still an end that was put.
        for (own, new) in self.times.iter().zip(content.times) {
            own.fetch_max(new, Ordering::SeqCst);
        }
        set(&self.put_at, now);
    }

    /// Turns a purge into *everything* under a new number.
    pub(super) fn widen(&self, number: u64, at: u64, now: u64, stage: Stage) {
        // The number comes first: under the old one another plain text may have been sealed.
        set(&self.number, number);
        set(&self.due, 0);
        self.set_state(State { stage, is_frozen: false, looks: 0, round: self.state().round });
        self.at.fetch_max(at, Ordering::SeqCst);
        self.put_at.fetch_max(now, Ordering::SeqCst);
        set(&self.head, Content::everything(at).head);
        // Subjects are compared with these.
        self.project.iter().chain(&self.id).for_each(|word| set(word, 0));
    }

    /// Marks it as sent, which freezes its plain text, and returns the new state.
    pub(super) fn send(&self, now: u64) -> State {
        set(&self.sent_at, now);
        let round = self.state().round.wrapping_add(1);
        let state = State { stage: Stage::Sent, is_frozen: true, looks: 0, round };
        self.set_state(state);
        state
    }
}

impl Default for EventSlot {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for EventSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventSlot").field("state", &self.state()).finish_non_exhaustive()
    }
}
