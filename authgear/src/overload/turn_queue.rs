//! Turns at the resolver: who asks next, who waits, and who is refused.
//!
//! A fixed number of look-ups asks at a time. The others queue by client and take turns round
//! robin, so that a client with many look-ups delays itself and not others (flow queueing, as in
//! RFC 8290). A look-up that could not get its turn within its patience is refused on arrival:
//! an answer that comes too late for its client is work for nothing, and with enough of it
//! nobody is answered in time.
//!
//! The size of the queue is bounded in bytes. When it is full, the client that holds the most of
//! it loses its newest look-up (RFC 8290 drops from the fattest flow too).

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// Bytes that a queued look-up takes besides its credentials: the task, of 2,700 bytes, the rest of
/// its request head, and its place here. An estimate from above.
pub const OVERHEAD: usize = 4096;

/// Identifies a queued look-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Reply to a look-up that arrives.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival<T> {
    /// It asks now; [`TurnQueue::done`] ends its turn.
    Turn,
    /// It waits under this ticket. To make room, these were taken out of the queue: refuse them.
    Queued(Ticket, Vec<T>),
    /// It is refused: no turn is expected within its patience, or its client fills the queue. Those
    /// that were taken out before that became clear are refused with it.
    Refused(Vec<T>),
}

struct Queued<T> {
    ticket: Ticket,
    bytes: usize,
    value: T,
}

struct ClientQueue<T> {
    queued: VecDeque<Queued<T>>,
    bytes: usize,
}

impl<T> Default for ClientQueue<T> {
    fn default() -> Self {
        Self { queued: VecDeque::new(), bytes: 0 }
    }
}

/// The queue of one resolver in one worker. `K` names a client, `T` resumes a look-up.
pub struct TurnQueue<K, T> {
    turns: usize,
    capacity: usize,
    asking: usize,
    bytes: usize,
    length: usize,
    next: u64,
    clients: HashMap<K, ClientQueue<T>>,
    /// Clients with queued look-ups, the next to be served first.
    order: VecDeque<K>,
    pace: Pace,
}

/// Mean time between the ends of turns while all turns are taken.
#[derive(Default)]
struct Pace {
    /// Time and number of turns that ended within it. Both are halved now and then, so that
    /// recent turns count more.
    elapsed: Duration,
    ended: u32,
    /// The last end of a turn, or the moment when the last free turn was taken.
    since: Duration,
}

impl Pace {
    /// Turns after which older ones count half.
    const WINDOW: u32 = 64;

    fn observe(&mut self, now: Duration) {
        self.elapsed += now.saturating_sub(self.since);
        self.ended += 1;
        self.since = now;
        if self.ended >= Self::WINDOW {
            self.elapsed /= 2;
            self.ended /= 2;
        }
    }

    /// Expected time between turns. A resolver that has not answered for longer than usual is
    /// believed to have become slower.
    fn expected(&self, now: Duration, turns: usize) -> Duration {
        let mean = self.elapsed.checked_div(self.ended).unwrap_or_default();
        // Turns may all end at once: silence counts by what it means for each of them.
        let silent = now.saturating_sub(self.since);
        mean.max(silent / u32::try_from(turns.max(1)).unwrap_or(u32::MAX))
    }
}

impl<K: Copy + Eq + Hash, T> TurnQueue<K, T> {
    /// A queue for `turns` parallel look-ups that holds at most `capacity` bytes.
    pub fn new(turns: usize, capacity: usize) -> Self {
        Self {
            turns: turns.max(1),
            capacity,
            asking: 0,
            bytes: 0,
            length: 0,
            next: 0,
            clients: HashMap::new(),
            order: VecDeque::new(),
            pace: Pace::default(),
        }
    }

    /// Takes a turn, if one is free at `now`. [`Self::done`] ends it.
    pub fn take_free(&mut self, now: Duration) -> bool {
        let is_free = self.asking < self.turns;
        if is_free {
            self.asking += 1;
            self.pace.since = now;
        }
        is_free
    }

    /// A look-up of `client` with `bytes` of credentials arrives at `now` and is willing to wait
    /// for `patience`.
    pub fn arrive(
        &mut self,
        client: K,
        value: T,
        bytes: usize,
        now: Duration,
        patience: Duration,
    ) -> Arrival<T> {
        if self.take_free(now) {
            return Arrival::Turn;
        }
        let bytes = bytes.saturating_add(OVERHEAD);
        if bytes > self.capacity || self.expected_wait(client, now) > patience {
            return Arrival::Refused(vec![value]);
        }
        let mut refused = Vec::new();
        while self.bytes + bytes > self.capacity {
            let own = self.clients.get(&client).map_or(0, |queue| queue.bytes);
            match self.fattest() {
                Some((fattest, most)) if fattest != client && most > own => {
                    refused.extend(self.drop_newest(fattest));
                }
                _ => {
                    refused.push(value);
                    return Arrival::Refused(refused);
                }
            }
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        let queue = self.clients.entry(client).or_default();
        if queue.queued.is_empty() {
            self.order.push_back(client);
        }
        queue.queued.push_back(Queued { ticket, bytes, value });
        queue.bytes += bytes;
        self.bytes += bytes;
        self.length += 1;
        Arrival::Queued(ticket, refused)
    }

    /// A turn ended at `now`. The look-up that is returned has it next; its turn begins.
    pub fn done(&mut self, now: Duration) -> Option<T> {
        if self.asking >= self.turns {
            self.pace.observe(now);
        }
        let Some(next) = self.take_next() else {
            self.asking = self.asking.saturating_sub(1);
            return None;
        };
        Some(next)
    }

    /// The look-up of `client` that waits under `ticket` waits no more. True if it was queued.
    pub fn leave(&mut self, client: K, ticket: Ticket) -> bool {
        let Some(queue) = self.clients.get_mut(&client) else { return false };
        // Tickets of one client are in ascending order.
        let Ok(index) = queue.queued.binary_search_by_key(&ticket, |queued| queued.ticket) else {
            return false;
        };
        let Some(left) = queue.queued.remove(index) else { return false };
        queue.bytes -= left.bytes;
        let is_empty = queue.queued.is_empty();
        self.forget(&left);
        if is_empty {
            self.clients.remove(&client);
            self.order.retain(|other| *other != client);
        }
        true
    }

    /// Number of look-ups that wait.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether no look-up waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Time until a look-up of `client` that arrives at `now` has its turn, as far as can be told.
    pub fn expected_wait(&self, client: K, now: Duration) -> Duration {
        if self.asking < self.turns {
            return Duration::ZERO;
        }
        let own = self.clients.get(&client).map_or(0, |queue| queue.queued.len());
        // Round robin: each other client is served at most once before each of this client's.
        let others = self.order.len() - usize::from(own > 0);
        let of_others = (own + 1).saturating_mul(others).min(self.length - own);
        let pace = self.pace.expected(now, self.turns);
        pace.saturating_mul(u32::try_from(own + of_others + 1).unwrap_or(u32::MAX))
    }

    fn take_next(&mut self) -> Option<T> {
        let client = self.order.pop_front()?;
        let queue = self.clients.get_mut(&client)?;
        let next = queue.queued.pop_front()?;
        queue.bytes -= next.bytes;
        if queue.queued.is_empty() {
            self.clients.remove(&client);
        } else {
            self.order.push_back(client);
        }
        self.forget(&next);
        Some(next.value)
    }

    fn fattest(&self) -> Option<(K, usize)> {
        let clients = self.clients.iter().map(|(client, queue)| (*client, queue.bytes));
        clients.max_by_key(|(_, bytes)| *bytes)
    }

    fn drop_newest(&mut self, client: K) -> Option<T> {
        let queue = self.clients.get_mut(&client)?;
        let dropped = queue.queued.pop_back()?;
        queue.bytes -= dropped.bytes;
        if queue.queued.is_empty() {
            self.clients.remove(&client);
            self.order.retain(|other| *other != client);
        }
        self.forget(&dropped);
        Some(dropped.value)
    }

    fn forget(&mut self, queued: &Queued<T>) {
        self.bytes -= queued.bytes;
        self.length -= 1;
    }
}

impl<K, T> std::fmt::Debug for TurnQueue<K, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TurnQueue")
            .field("asking", &self.asking)
            .field("queued", &self.length)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
