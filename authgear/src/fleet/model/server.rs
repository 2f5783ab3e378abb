//! Redis as the model has it: one stream, its counts, and a clock.

use std::collections::BTreeMap;

use super::random::Random;
use crate::fleet::reply::{Entry, Look, ServerInfo, StreamInfo};
use crate::fleet::stream_id::StreamId;

/// An entry with the publisher and number of its event.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    pub publisher: u8,
    pub number: u64,
    /// Time of the model at which it was added.
    pub added_at: u64,
}

impl Value {
    fn bytes(self) -> Vec<u8> {
        [&self.number.to_be_bytes()[..], &[self.publisher]].concat()
    }

    pub fn read(bytes: &[u8]) -> (u8, u64) {
        (bytes[8], u64::from_be_bytes(bytes[..8].try_into().unwrap()))
    }
}

#[derive(Clone, Debug, Default)]
pub struct Stream {
    pub entries: BTreeMap<StreamId, Value>,
    added: u64,
    last: StreamId,
}

impl Stream {
    fn add(&mut self, clock: u64, value: Value) -> StreamId {
        let next = StreamId { ms: self.last.ms, seq: self.last.seq + 1 };
        let id = StreamId { ms: clock, seq: 0 }.max(next);
        self.entries.insert(id, value);
        self.added += 1;
        self.last = id;
        id
    }
}

#[derive(Clone, Debug)]
pub struct Server {
    run: u64,
    replid: u64,
    /// Error of the clock, in milliseconds.
    pub skew: i64,
    pub stream: Option<Stream>,
}

impl Server {
    pub fn new(run: u64) -> Self {
        Self { run, replid: run, skew: 0, stream: None }
    }

    pub fn info(&self) -> ServerInfo {
        ServerInfo::for_tests(&self.run.to_string(), &self.replid.to_string())
    }

    pub fn time(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.skew)
    }

    pub fn add(&mut self, now: u64, publisher: u8, number: u64) {
        let clock = self.time(now);
        let value = Value { publisher, number, added_at: now };
        self.stream.get_or_insert_default().add(clock, value);
    }

    pub fn read(&self, from: StreamId, page: usize) -> Vec<Entry> {
        let entries = self.stream.iter().flat_map(|stream| &stream.entries);
        let behind = entries.filter(|(id, _)| **id > from).take(page);
        behind.map(|(id, value)| Entry { id: *id, value: value.bytes().into() }).collect()
    }

    pub fn look(&self, from: StreamId, page: usize) -> Look {
        let info = |stream: &Stream| StreamInfo {
            added: stream.added,
            length: stream.entries.len() as u64,
            last: stream.last,
            first: stream.entries.keys().next().copied(),
        };
        Look {
            entries: self.read(from, page),
            stream: self.stream.as_ref().map(info),
            server: self.info(),
        }
    }

    pub fn trim(&mut self, keep: usize) {
        if let Some(stream) = &mut self.stream {
            while stream.entries.len() > keep {
                stream.entries.pop_first();
            }
        }
    }

    /// `XDEL` of one entry.
    pub fn delete(&mut self, random: &mut Random) {
        if let Some(stream) = self.stream.as_mut().filter(|stream| !stream.entries.is_empty()) {
            let at = random.below(stream.entries.len() as u64) as usize;
            let id = *stream.entries.keys().nth(at).unwrap();
            stream.entries.remove(&id);
        }
    }

    /// The server that takes over from, or restarts with, this state.
    pub fn successor(&self, run: u64, skew: i64) -> Self {
        Self { run, replid: run, skew, stream: self.stream.clone() }
    }
}
