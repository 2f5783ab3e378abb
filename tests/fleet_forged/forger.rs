//! The adversary: whatever Redis lets it do, at random.

use std::thread;
use std::time::{Duration, Instant};

use support::{Redis, RedisReply};

use crate::fleet_adversary::Chance;

const STREAM: &[u8] = b"{authgear}:events";

/// Most copies of records, of events and of streams that are kept.
const COPIES: usize = 400;
const STREAMS: usize = 6;

/// Length of a sealed lease, and of the record of an invalid session. Records of valid sessions are
/// longer: see `Person::new`.
const LEASE: usize = 93;

/// Removes the last entry as if it had never been added.
const ERASE: &str = "
    local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 2)
    if #last < 2 then return 0 end
    local info = redis.call('XINFO', 'STREAM', KEYS[1])
    local added
    for n = 1, #info, 2 do if info[n] == 'entries-added' then added = info[n + 1] end end
    redis.call('XDEL', KEYS[1], last[1][1])
    redis.call('XSETID', KEYS[1], last[2][1], 'ENTRIESADDED', added - 1, 'MAXDELETEDID', '0-1')
    return 1";

/// An adversary that reads and writes all of Redis, and has no secret.
pub(super) struct Forger<'a> {
    redis: &'a Redis,
    chance: Chance,
    /// Names and values of records, from any time.
    records: Vec<(Vec<u8>, Vec<u8>)>,
    events: Vec<Vec<u8>>,
    /// The stream as `DUMP` has it.
    streams: Vec<Vec<u8>>,
    /// Time of the next attack that hosts notice as a loss.
    loud_at: Instant,
}

impl<'a> Forger<'a> {
    pub(super) fn new(redis: &'a Redis, chance: Chance) -> Self {
        let mut forger = Self {
            redis,
            chance,
            records: Vec::new(),
            events: Vec::new(),
            streams: Vec::new(),
            loud_at: Instant::now(),
        };
        // A short run has an attack too, and time after it.
        forger.loud_at += forger.chance.millis(2000, 4000);
        forger
    }

    /// After a loss a record counts if it was asked for 4 seconds later or more: without pauses
    /// none would be tried.
    fn be_quiet(&mut self) {
        self.loud_at = Instant::now() + self.chance.millis(5000, 20_000);
    }

    /// Does one thing, and says what if it is one that hosts may notice as a loss.
    pub(super) fn attack(&mut self) -> Option<String> {
        if Instant::now() >= self.loud_at {
            self.be_quiet();
            return Some(self.attack_the_stream());
        }
        match self.chance.below(16) {
            0..=2 => self.copy(),
            3..=5 => self.put_back(),
            // Seldom: it undoes whatever was put there before.
            6 if self.chance.below(16) == 0 => self.put_all_back(),
            6..=8 => self.moves(),
            9 => self.changes(),
            10 => self.puts_a_lease(),
            11 => self.removes(),
            12 => self.repeats_an_event(),
            13 => self.invents_an_event(),
            14 => self.raises_positions(),
            _ if self.chance.below(8) == 0 => self.changes_a_type(),
            _ => self.copy(),
        }
        thread::sleep(self.chance.millis(1, 20));
        None
    }

    /// Sends a command. Errors are ignored: the key may be gone or of another type.
    fn try_command(&self, words: &[&[u8]]) -> RedisReply {
        self.redis.command(words)
    }

    fn names(&self) -> Vec<Vec<u8>> {
        let RedisReply::List(names) = self.redis.command(&["KEYS", "{authgear}:*"]) else {
            return Vec::new();
        };
        let names = names.into_iter().filter_map(|name| match name {
            RedisReply::Bytes(name) => Some(name),
            _ => None,
        });
        names.filter(|name| name != STREAM).collect()
    }

    fn any_name(&mut self) -> Option<Vec<u8>> {
        let names = self.names();
        (!names.is_empty()).then(|| names[self.chance.index(names.len())].clone())
    }

    fn any_record(&mut self) -> Option<(Vec<u8>, Vec<u8>)> {
        any(&mut self.chance, &self.records)
    }

    /// Copies all records, an event, and now and then the stream.
    fn copy(&mut self) {
        for name in self.names() {
            if let RedisReply::Bytes(value) = self.try_command(&[b"GET", &name]) {
                let copy = (name, value);
                if !self.records.contains(&copy) {
                    keep(&mut self.chance, &mut self.records, copy, COPIES);
                }
            }
        }
        let last = self.try_command(&[b"XREVRANGE", STREAM, b"+", b"-", b"COUNT", b"1"]);
        if let Some(event) = value_of(last) {
            if !self.events.contains(&event) {
                keep(&mut self.chance, &mut self.events, event, COPIES);
            }
        }
        if self.chance.below(8) == 0 {
            if let RedisReply::Bytes(stream) = self.try_command(&[b"DUMP", STREAM]) {
                keep(&mut self.chance, &mut self.streams, stream, STREAMS);
            }
        }
    }

    fn set(&mut self, name: &[u8], value: &[u8]) {
        let life = self.chance.millis(500, 60_000).as_millis().to_string();
        self.try_command(&[b"SET", name, value, b"PX", life.as_bytes()]);
    }

    fn put_back(&mut self) {
        if let Some((name, value)) = self.any_record() {
            self.set(&name, &value);
        }
    }

    /// Puts an old copy of each record back.
    fn put_all_back(&mut self) {
        let mut records = self.records.clone();
        for n in (1..records.len()).rev() {
            records.swap(n, self.chance.index(n + 1));
        }
        for (name, value) in records {
            self.set(&name, &value);
        }
    }

    /// Puts the record of one token where that of another is: an old one, or one of now.
    fn moves(&mut self) {
        let (Some((_, old)), Some(from)) = (self.any_record(), self.any_name()) else { return };
        let value = match self.try_command(&[b"GET", &from]) {
            RedisReply::Bytes(value) if self.chance.below(4) > 0 => value,
            _ => old,
        };
        if let Some(name) = self.any_name() {
            self.set(&name, &value);
        }
    }

    fn changes(&mut self) {
        let Some((name, mut value)) = self.any_record() else { return };
        self.spoil(&mut value);
        self.set(&name, &value);
    }

    /// Flips a bit, or makes bytes shorter or longer.
    fn spoil(&mut self, bytes: &mut Vec<u8>) {
        match self.chance.below(4) {
            0 => bytes.truncate(self.chance.index(bytes.len() + 1)),
            1 => bytes.extend((0..=self.chance.index(64)).map(|n| n as u8)),
            _ => {
                let at = self.chance.index(bytes.len().max(1));
                let bit = 1 << self.chance.below(8);
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bit);
            }
        }
    }

    fn puts_a_lease(&mut self) {
        let leases: Vec<_> =
            self.records.iter().filter(|(_, value)| value.len() == LEASE).cloned().collect();
        if let Some((name, value)) = any(&mut self.chance, &leases) {
            self.set(&name, &value);
        }
    }

    fn removes(&mut self) {
        for _ in 0..self.chance.below(4) {
            if let Some(name) = self.any_name() {
                self.try_command(&[b"DEL", &name]);
            }
        }
    }

    fn repeats_an_event(&mut self) {
        if let Some(event) = any(&mut self.chance, &self.events) {
            self.try_command(&[b"XADD", STREAM, b"*", b"e", &event]);
        }
    }

    fn invents_an_event(&mut self) {
        let mut event = any(&mut self.chance, &self.events).unwrap_or_default();
        self.spoil(&mut event);
        let field: &[u8] = if self.chance.below(4) == 0 { b"f" } else { b"e" };
        self.try_command(&[b"XADD", STREAM, b"*", field, &event]);
    }

    /// Adds an entry of a time to come: later ones have greater ids still.
    fn raises_positions(&mut self) {
        let last = self.try_command(&[b"XREVRANGE", STREAM, b"+", b"-", b"COUNT", b"1"]);
        let Some(ms) = first_id(last) else { return };
        let id = format!("{}-0", ms + 1 + self.chance.below(600_000));
        self.try_command(&[b"XADD", STREAM, id.as_bytes(), b"e", b"x"]);
    }

    fn changes_a_type(&mut self) {
        let Some(name) = self.any_name() else { return };
        self.try_command(&[b"DEL", &name]);
        match self.chance.below(3) {
            0 => self.try_command(&[b"LPUSH", &name, b"x"]),
            1 => self.try_command(&[b"HSET", &name, b"x", b"y"]),
            _ => self.try_command(&[b"XADD", &name, b"*", b"e", b"x"]),
        };
        self.try_command(&[b"PEXPIRE", &name, b"2000"]);
    }

    fn attack_the_stream(&mut self) -> String {
        match self.chance.below(12) {
            0 => {
                self.try_command(&[b"FLUSHALL"]);
                "FLUSHALL".into()
            }
            1 => {
                self.try_command(&[b"DEL", STREAM]);
                "DEL of the stream".into()
            }
            2 => {
                let keep = self.chance.below(8).to_string();
                self.try_command(&[b"XTRIM", STREAM, b"MAXLEN", keep.as_bytes()]);
                format!("XTRIM to {keep}")
            }
            3 => {
                let Some(stream) = any(&mut self.chance, &self.streams) else {
                    return "no copy of the stream".into();
                };
                self.try_command(&[b"RESTORE", STREAM, b"0", &stream, b"REPLACE"]);
                "an old copy of the stream".into()
            }
            4 | 5 => self.withholds(),
            6 => self.erases(),
            7 => {
                let last = self.try_command(&[b"XREVRANGE", STREAM, b"+", b"-", b"COUNT", b"1"]);
                let id = first_id(last).map(|ms| format!("{ms}-0")).unwrap_or_default();
                self.try_command(&[b"XDEL", STREAM, id.as_bytes()]);
                format!("XDEL {id}")
            }
            8 => {
                self.try_command(&[b"SET", STREAM, b"x"]);
                thread::sleep(self.chance.millis(10, 1500));
                self.try_command(&[b"DEL", STREAM]);
                "the stream of another type".into()
            }
            9 => {
                self.try_command(&[b"CLIENT", b"KILL", b"TYPE", b"normal"]);
                "CLIENT KILL".into()
            }
            10 => {
                self.try_command(&[b"REPLICAOF", b"127.0.0.1", b"1"]);
                thread::sleep(self.chance.millis(1, 500));
                self.try_command(&[b"REPLICAOF", b"NO", b"ONE"]);
                "another history".into()
            }
            _ => {
                let time = self.chance.millis(50, 2500).as_millis().to_string();
                self.try_command(&[b"CLIENT", b"PAUSE", time.as_bytes()]);
                format!("CLIENT PAUSE {time}")
            }
        }
    }

    /// Restores a dump of a moment ago, repeatedly: entries added meanwhile vanish, unless a host
    /// has read them. A host that has read an entry of a time to come asks at its position.
    fn withholds(&mut self) -> String {
        let until = Instant::now() + self.chance.millis(300, 3000);
        let mut times = 0;
        while Instant::now() < until {
            let RedisReply::Bytes(stream) = self.try_command(&[b"DUMP", STREAM]) else { break };
            if self.chance.below(2) == 0 {
                self.raises_positions();
            }
            thread::sleep(self.chance.millis(1, 60));
            self.try_command(&[b"RESTORE", STREAM, b"0", &stream, b"REPLACE"]);
            times += 1;
        }
        format!("the stream of a moment ago, {times} times")
    }

    /// Removes what was added last as if it never was, while hosts wait for a moment after what
    /// they read before.
    fn erases(&mut self) -> String {
        let until = Instant::now() + Duration::from_secs(2);
        let mut times = 0;
        while Instant::now() < until {
            self.try_command(&[b"XADD", STREAM, b"*", b"e", b"x"]);
            thread::sleep(self.chance.millis(1, 60));
            let erased = self.try_command(&[b"EVAL", ERASE.as_bytes(), b"1", STREAM]);
            times += u32::from(erased == RedisReply::Number(1));
        }
        format!("{times} entries erased")
    }
}

fn any<T: Clone>(chance: &mut Chance, all: &[T]) -> Option<T> {
    (!all.is_empty()).then(|| all[chance.index(all.len())].clone())
}

/// Adds one, in place of any other if there are enough.
fn keep<T>(chance: &mut Chance, all: &mut Vec<T>, one: T, most: usize) {
    if all.len() < most {
        all.push(one);
    } else {
        all[chance.index(most)] = one;
    }
}

/// Value of the first entry of a range.
fn value_of(range: RedisReply) -> Option<Vec<u8>> {
    let RedisReply::List(entries) = range else { return None };
    let RedisReply::List(entry) = entries.into_iter().next()? else { return None };
    let RedisReply::List(fields) = entry.into_iter().nth(1)? else { return None };
    match fields.into_iter().nth(1)? {
        RedisReply::Bytes(value) => Some(value),
        _ => None,
    }
}

/// Milliseconds of the id of the first entry of a range.
fn first_id(range: RedisReply) -> Option<u64> {
    let RedisReply::List(entries) = range else { return None };
    let RedisReply::List(entry) = entries.into_iter().next()? else { return None };
    let RedisReply::Bytes(id) = entry.into_iter().next()? else { return None };
    String::from_utf8(id).ok()?.split('-').next()?.parse().ok()
}
