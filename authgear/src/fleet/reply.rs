//! Replies of Redis or Valkey. Nothing of them is believed beyond its form.
//!
//! The protocol is RESP2, read by the crate `resp-rs`, which bounds the depth of arrays. Nothing
//! else of the crate is seen outside this file.

use std::fmt;
use std::mem;

use bytes::Bytes;
use resp_rs::resp2::{Frame, Parser};
use thiserror::Error;

use super::node::Node;
use super::request::{FIELD, LOOK_REPLIES};
use super::stream_id::{decimal, Incarnation, StreamId};

/// Maximum size of one reply, in bytes.
pub const MAX_REPLY: usize = 64 * 1024;

/// Longest code of an error that is kept.
const MAX_CODE: usize = 24;

/// Error that ends a connection.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BadReply {
    /// A reply is larger than [`MAX_REPLY`].
    #[error("a reply is larger than 64k")]
    TooLarge,
    /// The bytes are not RESP2.
    #[error("a reply is not of Redis' protocol")]
    Malformed,
    /// The reply is none to the command.
    #[error("a reply does not fit its command")]
    Unexpected,
    /// The server reports an error.
    #[error("the server answers {0}")]
    Server(ServerError),
}

/// Code of an error: the first word of the server's message. The rest may repeat arguments of the
/// command, with the password, and is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerError {
    code: Box<str>,
    moved: Option<Box<str>>,
}

impl ServerError {
    fn read(message: &[u8]) -> Self {
        let mut words = message.split(|&byte| byte == b' ');
        let code = words.next().unwrap_or_default();
        let is_code =
            (1..=MAX_CODE).contains(&code.len()) && code.iter().all(u8::is_ascii_uppercase);
        let code = std::str::from_utf8(code).ok().filter(|_| is_code).unwrap_or("an unknown error");
        // MOVED SLOT HOST:PORT
        let address = words.nth(1).and_then(|text| std::str::from_utf8(text).ok());
        let is_address = |text: &&str| {
            (3..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
        };
        let moved = address.filter(|text| code == "MOVED" && is_address(text)).map(Into::into);
        Self { code: code.into(), moved }
    }

    /// The code, such as `READONLY`, `LOADING` or `NOAUTH`.
    pub const fn code(&self) -> &str {
        &self.code
    }

    /// Address of the node that has the key, of a `MOVED`.
    pub fn moved(&self) -> Option<&str> {
        self.moved.as_deref()
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.code)
    }
}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({})", self.code)
    }
}

/// Splits what a connection receives into replies.
#[derive(Debug, Default)]
pub struct Replies(Parser);

impl Replies {
    /// Returns a reader that has received nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes from the connection. Read all replies between two calls.
    ///
    /// # Errors
    ///
    /// [`BadReply::TooLarge`] if much more than one reply waits to be read.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), BadReply> {
        if self.0.buffered_bytes().saturating_add(bytes.len()) > 2 * MAX_REPLY {
            return Err(BadReply::TooLarge);
        }
        self.0.feed(Bytes::copy_from_slice(bytes));
        Ok(())
    }

    /// The next reply, or `None` until more bytes arrive. After an error the connection is of no
    /// use.
    ///
    /// # Errors
    ///
    /// See [`BadReply`].
    pub fn next_reply(&mut self) -> Result<Option<Reply>, BadReply> {
        let before = self.0.buffered_bytes();
        let frame = self.0.next_frame().map_err(|_| BadReply::Malformed)?;
        let left = self.0.buffered_bytes();
        let size = if frame.is_some() { before.saturating_sub(left) } else { left };
        if size > MAX_REPLY {
            return Err(BadReply::TooLarge);
        }
        Ok(frame.map(Reply))
    }

    /// Returns true if no bytes of a reply are waiting. An idle connection has none.
    pub fn is_empty(&self) -> bool {
        self.0.buffered_bytes() == 0
    }
}

/// One reply.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply(Frame);

impl Reply {
    /// The bytes of a bulk string.
    pub fn bulk(&self) -> Option<&[u8]> {
        match &self.0 {
            Frame::BulkString(bytes) => bytes.as_deref(),
            _ => None,
        }
    }

    /// The replies in an array.
    pub fn items(&self) -> Option<Vec<Self>> {
        self.0.as_array().map(|items| items.iter().cloned().map(Self).collect())
    }

    /// Passes a reply that is no error.
    ///
    /// # Errors
    ///
    /// [`BadReply::Server`].
    pub fn no_error(&self) -> Result<&Self, BadReply> {
        no_error(&self.0)?;
        Ok(self)
    }

    /// Reads `+OK`.
    ///
    /// # Errors
    ///
    /// For anything else.
    pub fn ok(&self) -> Result<(), BadReply> {
        simple(&self.0, b"OK")
    }

    /// Reads the id that `XADD` made.
    ///
    /// # Errors
    ///
    /// For anything else.
    pub fn added(&self) -> Result<StreamId, BadReply> {
        stream_id(no_error(&self.0)?).ok_or(BadReply::Unexpected)
    }

    /// Reads the time of `TIME`, in milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// For anything else.
    pub fn time(&self) -> Result<u64, BadReply> {
        let parts = no_error(&self.0)?.as_array().unwrap_or_default();
        let [seconds, micros] = parts else { return Err(BadReply::Unexpected) };
        let number = |frame: &Frame| decimal(bulk(frame)?);
        let (seconds, micros) = number(seconds).zip(number(micros)).ok_or(BadReply::Unexpected)?;
        Ok(seconds.saturating_mul(1000).saturating_add(micros / 1000))
    }

    /// Reads the entries of `XREAD` of one stream.
    ///
    /// # Errors
    ///
    /// For anything else, and if the ids do not grow.
    pub fn entries(&self) -> Result<Vec<Entry>, BadReply> {
        entries(&self.0)
    }

    /// Reads the value that was there before a `SET` with `GET`; `None` if there was none.
    ///
    /// # Errors
    ///
    /// For anything else.
    pub fn value(&self) -> Result<Option<&[u8]>, BadReply> {
        match no_error(&self.0)? {
            Frame::BulkString(bytes) => Ok(bytes.as_deref()),
            _ => Err(BadReply::Unexpected),
        }
    }

    /// Reads the master that Sentinel names; `None` if it knows none of this name.
    ///
    /// # Errors
    ///
    /// For anything else.
    pub fn master(&self) -> Result<Option<Node>, BadReply> {
        let parts = match no_error(&self.0)? {
            Frame::Array(None) | Frame::BulkString(None) => return Ok(None),
            other => other.as_array().unwrap_or_default(),
        };
        let [host, port] = parts else { return Err(BadReply::Unexpected) };
        let text = |frame| std::str::from_utf8(bulk(frame)?).ok();
        let node = text(host).zip(text(port)).and_then(|(host, port)| Node::new(host, port));
        node.map(Some).ok_or(BadReply::Unexpected)
    }

    /// The node of a Redis Cluster that has the key of the command, if it is another one.
    pub fn moved(&self) -> Option<Node> {
        match no_error(&self.0) {
            Err(BadReply::Server(error)) => Node::read(error.moved()?),
            _ => None,
        }
    }

    /// Reads the fields of `INFO`.
    ///
    /// # Errors
    ///
    /// For anything else.
    pub fn server(&self) -> Result<ServerInfo, BadReply> {
        ServerInfo::read(&self.0)
    }
}

fn no_error(frame: &Frame) -> Result<&Frame, BadReply> {
    match frame {
        Frame::Error(message) => Err(BadReply::Server(ServerError::read(message))),
        _ => Ok(frame),
    }
}

fn simple(frame: &Frame, expected: &[u8]) -> Result<(), BadReply> {
    match no_error(frame)? {
        Frame::SimpleString(text) if text.as_ref() == expected => Ok(()),
        _ => Err(BadReply::Unexpected),
    }
}

fn bulk(frame: &Frame) -> Option<&Bytes> {
    match frame {
        Frame::BulkString(bytes) => bytes.as_ref(),
        _ => None,
    }
}

fn stream_id(frame: &Frame) -> Option<StreamId> {
    StreamId::parse(bulk(frame)?)
}

/// An entry of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id.
    pub id: StreamId,
    /// The sealed event; empty if the entry has none.
    pub value: Bytes,
}

impl Entry {
    fn read(frame: &Frame) -> Option<Self> {
        let [id, fields] = frame.as_array()? else { return None };
        let mut fields = fields.as_array()?.chunks_exact(2).filter_map(|pair| match pair {
            [name, value] => Some((bulk(name)?, bulk(value)?)),
            _ => None,
        });
        let value = fields.find(|(name, _)| name.as_ref() == FIELD).map(|(_, value)| value.clone());
        Some(Self { id: stream_id(id)?, value: value.unwrap_or_default() })
    }
}

fn entries(frame: &Frame) -> Result<Vec<Entry>, BadReply> {
    let streams = match no_error(frame)? {
        Frame::Array(None) | Frame::BulkString(None) => return Ok(Vec::new()),
        other => other.as_array().ok_or(BadReply::Unexpected)?,
    };
    let read = || {
        let [stream] = streams else { return None };
        let [_, entries] = stream.as_array()? else { return None };
        entries.as_array()?.iter().map(Entry::read).collect::<Option<Vec<_>>>()
    };
    let entries = read().ok_or(BadReply::Unexpected)?;
    let grows = entries.iter().zip(entries.iter().skip(1)).all(|(a, b)| a.id < b.id);
    if grows {
        Ok(entries)
    } else {
        Err(BadReply::Unexpected)
    }
}

/// State of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// Number of entries that were ever added.
    pub added: u64,
    /// Number of entries that are there.
    pub length: u64,
    /// Id of the entry that was added last, also if it is gone.
    pub last: StreamId,
    /// Id of the first entry that is there.
    pub first: Option<StreamId>,
}

impl StreamInfo {
    fn read(frame: &Frame) -> Option<Self> {
        let pairs = frame.as_array()?.chunks_exact(2);
        let mut fields = pairs.filter_map(|pair| match pair {
            [name, value] => Some((bulk(name)?, value)),
            _ => None,
        });
        let (mut added, mut length, mut last, mut first) = (None, None, None, None);
        let number = |frame: &Frame| u64::try_from(frame.as_integer()?).ok();
        for (name, value) in &mut fields {
            match name.as_ref() {
                b"entries-added" => added = number(value),
                b"length" => length = number(value),
                b"last-generated-id" => last = stream_id(value),
                b"first-entry" => {
                    first = value.as_array().and_then(<[_]>::first).and_then(stream_id)
                }
                _ => {}
            }
        }
        let info = Self { added: added?, length: length?, last: last?, first };
        let is_whole = info.first.is_some() == (info.length > 0);
        (is_whole && info.length <= info.added && first <= Some(info.last)).then_some(info)
    }
}

/// Facts about a server from `INFO`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerInfo {
    run_id: Bytes,
    replid: Bytes,
    is_master: bool,
    is_valkey: bool,
    version: Option<(u32, u32)>,
    policy: Option<Bytes>,
    max_memory: u64,
    time: Option<u64>,
}

/// Reason for which a server has no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Unusable {
    /// The server replicates another one.
    #[error("is a replica")]
    Replica,
    /// Redis before 7.0, which does not count entries, or Valkey before 7.2.
    #[error("is older than Redis 7.0 or Valkey 7.2")]
    TooOld,
    /// The server does not say its version, or its `run_id` and `master_replid`.
    #[error("does not say its version and run_id")]
    Nameless,
}

impl ServerInfo {
    fn read(frame: &Frame) -> Result<Self, BadReply> {
        let text = bulk(no_error(frame)?).ok_or(BadReply::Unexpected)?;
        let mut info = Self::default();
        for line in text.split(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let mut parts = line.splitn(2, |&byte| byte == b':');
            let (Some(name), Some(value)) = (parts.next(), parts.next()) else { continue };
            let value = text.slice_ref(value);
            match name {
                b"run_id" => info.run_id = value,
                b"master_replid" => info.replid = value,
                b"role" => info.is_master = value.as_ref() == b"master",
                b"redis_version" if !info.is_valkey => info.version = version(&value),
                b"valkey_version" => {
                    info.is_valkey = true;
                    info.version = version(&value);
                }
                b"maxmemory_policy" => info.policy = Some(value),
                b"server_time_usec" => info.time = decimal(&value).map(|micros| micros / 1000),
                b"maxmemory" => info.max_memory = decimal(&value).unwrap_or(0),
                _ => {}
            }
        }
        Ok(info)
    }

    /// A master of version 7.0.
    #[cfg(test)]
    pub(crate) fn for_tests(run_id: &str, replid: &str) -> Self {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let (run_id, replid) = (bytes(run_id), bytes(replid));
        Self { run_id, replid, is_master: true, version: Some((7, 0)), ..Self::default() }
    }

    /// Time of the server, in milliseconds since 1970.
    pub const fn time(&self) -> Option<u64> {
        self.time
    }

    /// The server and its history of writes.
    pub fn incarnation(&self) -> Incarnation {
        Incarnation::new(&self.run_id, &self.replid)
    }

    /// Checks that the server can have the stream.
    ///
    /// # Errors
    ///
    /// See [`Unusable`].
    pub fn usable(&self) -> Result<(), Unusable> {
        let is_named = !self.run_id.is_empty() && !self.replid.is_empty();
        let Some(version) = self.version.filter(|_| is_named) else {
            return Err(Unusable::Nameless);
        };
        if version < if self.is_valkey { (7, 2) } else { (7, 0) } {
            return Err(Unusable::TooOld);
        }
        if self.is_master {
            Ok(())
        } else {
            Err(Unusable::Replica)
        }
    }

    /// The `maxmemory-policy`, if it can evict the stream or refuse events: neither `volatile-lru`,
    /// `volatile-lfu` nor `volatile-ttl`, of a server that has a limit.
    pub fn unfit_policy(&self) -> Option<&str> {
        const FIT: [&str; 3] = ["volatile-lru", "volatile-lfu", "volatile-ttl"];
        const UNFIT: [&str; 5] =
            ["noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-random"];
        let policy = self.policy.as_deref().filter(|_| self.max_memory > 0)?;
        let is = |name: &&str| name.as_bytes() == policy;
        if FIT.iter().any(is) {
            return None;
        }
        Some(UNFIT.iter().find(|name| is(name)).copied().unwrap_or("an unknown one"))
    }
}

fn version(text: &[u8]) -> Option<(u32, u32)> {
    let mut parts = text.split(|&byte| byte == b'.');
    let mut part = || u32::try_from(decimal(parts.next()?)?).ok();
    Some((part()?, part()?))
}

/// Answer to a [look](super::request::look).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Entries behind the id that was asked for, as many as were asked for at most.
    pub entries: Vec<Entry>,
    /// State of the stream; `None` if there is none.
    pub stream: Option<StreamInfo>,
    /// The server.
    pub server: ServerInfo,
}

impl Look {
    /// Reads the [`LOOK_REPLIES`] replies.
    ///
    /// # Errors
    ///
    /// For replies to anything else.
    pub fn read(replies: &[Reply]) -> Result<Self, BadReply> {
        let [Reply(multi), queued @ .., Reply(exec)] = replies else {
            return Err(BadReply::Unexpected);
        };
        if replies.len() != LOOK_REPLIES {
            return Err(BadReply::Unexpected);
        }
        simple(multi, b"OK")?;
        queued.iter().try_for_each(|Reply(frame)| simple(frame, b"QUEUED"))?;
        let answers = no_error(exec)?.as_array().unwrap_or_default();
        let [read, info, server] = answers else { return Err(BadReply::Unexpected) };
        let entries = entries(read)?;
        let stream = match info {
            // No such key.
            Frame::Error(message) if message.starts_with(b"ERR no such key") => None,
            other => Some(StreamInfo::read(no_error(other)?).ok_or(BadReply::Unexpected)?),
        };
        if stream.is_none() && !entries.is_empty() {
            return Err(BadReply::Unexpected);
        }
        Ok(Self { entries, stream, server: ServerInfo::read(server)? })
    }
}

/// Replies of one look, which come one by one.
#[derive(Debug, Default)]
pub struct LookReplies(Vec<Reply>);

impl LookReplies {
    /// No reply yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a reply, and reads the look when it was the last one.
    ///
    /// # Errors
    ///
    /// See [`Look::read`].
    pub fn add(&mut self, reply: Reply) -> Result<Option<Look>, BadReply> {
        self.0.push(reply);
        if self.0.len() < LOOK_REPLIES {
            return Ok(None);
        }
        Look::read(&mem::take(&mut self.0)).map(Some)
    }
}

#[cfg(test)]
mod tests;
