//! Memory and CPU time that a fleet takes of Redis.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use authgear::fleet::event::{project_id, Event, Publisher, Sealer, UserId, What};
use authgear::fleet::reply::{Replies, Reply};
use authgear::fleet::request::{self, Prefix, LOOK_REPLIES, MAX_STREAM, PAGE};
use authgear::fleet::secret::Secrets;
use authgear::fleet::stream_id::StreamId;
use serde_json::{json, Value};
use support::{eventually, unix_now, Redis, RedisReply, DEADLINE};

use crate::fleet::Hosts;
use crate::load::{Load, Requests};
use crate::rounds::{median, MANY};
use crate::sharing::wait_for_keys;
use crate::site::{opaque, Site, ORIGIN, USER};

/// Readers of a stream: one for each host.
const READERS: usize = 1000;

/// Time for which CPU is counted, with an event or without: in whole seconds each reader looks
/// equally often. A look after an event reads it once more.
const PERIOD: Duration = Duration::from_secs(2);

/// Measures everything.
pub fn measure(site: &Site, events: u32) -> io::Result<Value> {
    Ok(json!({
        "records": records(site)?,
        "streams": [
            stream("purges of users", What::User(user()?))?,
            stream("ends of users", end()?)?,
        ],
        "readers": readers(events)?,
    }))
}

/// Memory of a session's verdict.
fn records(site: &Site) -> io::Result<Value> {
    const TARGET: u32 = 400;
    let redis = Redis::start();
    let resolver = format!("http://{}/_resolver/resolve", site.resolver);
    let valid = Duration::from_secs(3600);
    let hosts = Hosts::start((site, &resolver), (1, 1), valid, Some(&redis))?;
    let tokens: Vec<_> = (0..MANY).map(opaque).collect();
    let before = used_memory(&redis)?;
    for addr in hosts.addrs() {
        Load::connect(addr, 16)?.run(&Requests::of_tokens(&tokens), MANY)?;
    }
    wait_for_keys(&redis, MANY)?;
    let bytes = (used_memory(&redis)? - before) / MANY as f64;
    println!("{MANY} verdicts in Redis: {bytes:.0} bytes each, at most {TARGET}");
    Ok(json!({ "count": MANY, "bytes": bytes, "target": TARGET }))
}

/// Memory of a stream that is as long as it gets. Events are of different times: how many bytes
/// Redis needs for a time depends on that.
fn stream(name: &str, what: What) -> io::Result<Value> {
    const TARGET_MB: u32 = 10;
    const AT_ONCE: usize = 500;
    const APART_MS: usize = 100;
    let redis = Redis::start();
    let mut writer = Wire::connect(redis.addr())?;
    let before = used_memory(&redis)?;
    let (sealer, stream) = (sealer()?, name_of_stream()?);
    let (mut number, mut sizes) = (0, 0);
    while number < MAX_STREAM + MAX_STREAM / 8 {
        let mut bytes = Vec::new();
        for _ in 0..AT_ONCE {
            let event = seal(&sealer, number as u64, what.clone())?;
            sizes += event.len();
            number += 1;
            let (id, most) = (format!("{}-0", number * APART_MS), MAX_STREAM.to_string());
            let [stream, id, most] = [&stream, &id, &most].map(|text| text.as_bytes());
            let words: [&[u8]; 8] =
                [b"XADD", stream, b"MAXLEN", b"~", most, id, request::FIELD, &event];
            request::command(&mut bytes, &words);
        }
        writer.ask(&bytes, AT_ONCE)?;
    }
    drop(writer);
    let length = match redis.command(&["XLEN", &stream]) {
        RedisReply::Number(length) => length,
        other => return Err(io::Error::other(format!("{other:?}"))),
    };
    let size = sizes as f64 / number as f64;
    let megabytes = (used_memory(&redis)? - before) / 1e6;
    let each = megabytes * 1e6 / length as f64;
    println!(
        "a full stream, {name} of {size:.0} bytes: {length} events, {megabytes:.2} MB, \
         {each:.0} bytes each, at most {TARGET_MB} MB"
    );
    Ok(json!({
        "name": name, "sealed_bytes": size, "length": length, "megabytes": megabytes,
        "bytes": each, "target_megabytes": TARGET_MB,
    }))
}

/// CPU time of Redis for an event that many hosts wait for.
fn readers(events: u32) -> io::Result<Value> {
    const TARGET_MS: f64 = 20.0;
    let redis = Redis::start();
    let (sealer, stream) = (sealer()?, name_of_stream()?);
    let mut writer = Wire::connect(redis.addr())?;
    let mut add = |number: u32| {
        let mut bytes = Vec::new();
        let event = seal(&sealer, number.into(), What::User(user()?))?;
        request::add(&mut bytes, &stream, &event);
        writer.ask(&bytes, 1)
    };
    let (ends, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut threads = Vec::new();
    for n in 0..READERS {
        let mut reader = Reader::connect(redis.addr())?;
        let (ends, read) = (Arc::clone(&ends), Arc::clone(&read));
        // Hosts do not look at the same time.
        let delay = Duration::from_secs(1) * n as u32 / READERS as u32;
        let thread = thread::Builder::new().stack_size(128 << 10).spawn(move || {
            thread::sleep(delay);
            reader.run(&ends, &read)
        });
        threads.push(thread?);
    }
    let known = |events: u32| {
        let all = u64::from(events) * READERS as u64;
        eventually(DEADLINE, || read.load(Ordering::Relaxed) >= all)
    };
    // The first event is read when all have begun.
    add(0)?;
    if !known(1) {
        return Err(io::Error::other("not all readers know an event"));
    }
    thread::sleep(PERIOD);
    // Time with an event and time without it take turns, so that a disturbance affects both.
    let spent = |redis: &Redis| {
        let before = used_cpu(redis)?;
        thread::sleep(PERIOD);
        Ok::<_, io::Error>(used_cpu(redis)? - before)
    };
    let (mut each, mut idle) = (Vec::new(), Vec::new());
    for n in 1..=events {
        add(n)?;
        let with = spent(&redis)?;
        let without = spent(&redis)?;
        each.push((with - without) * 1e3);
        idle.push(without * 100.0 / PERIOD.as_secs_f64());
    }
    let missed = !known(events + 1);
    ends.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().unwrap_or_else(|_| Err(io::Error::other("a reader panicked")))?;
    }
    if missed {
        return Err(io::Error::other("not all readers know all events"));
    }
    let (each, idle) = (median(&each), median(&idle));
    println!(
        "{READERS} readers: {each:.1} ms of Redis' CPU for an event, at most {TARGET_MS}; idle \
         {idle:.1} % of a core"
    );
    Ok(json!({
        "readers": READERS, "events": events, "ms_per_event": each, "target_ms": TARGET_MS,
        "idle_percent": idle,
    }))
}

/// Reads as the keeper of a host does: it waits for events, no sooner than a while after the last
/// ones, and looks each second.
struct Reader {
    wire: Wire,
    stream: String,
    /// The last entry of a look, and the last one read.
    at: Option<StreamId>,
    head: StreamId,
    looked: Instant,
    woken: Option<Instant>,
}

impl Reader {
    fn connect(addr: SocketAddr) -> io::Result<Self> {
        Ok(Self {
            wire: Wire::connect(addr)?,
            stream: name_of_stream()?,
            at: None,
            head: StreamId::ZERO,
            looked: Instant::now(),
            woken: None,
        })
    }

    /// Reads until `ends`, and counts entries.
    fn run(&mut self, ends: &AtomicBool, read: &AtomicU64) -> io::Result<()> {
        self.looked = Instant::now();
        while !ends.load(Ordering::Relaxed) {
            let new = match self.looked.elapsed() >= Duration::from_secs(1) {
                true => self.look()?,
                false => self.block()?,
            };
            read.fetch_add(new, Ordering::Relaxed);
        }
        Ok(())
    }

    fn look(&mut self) -> io::Result<u64> {
        self.looked = Instant::now();
        let mut bytes = Vec::new();
        let (from, page) = match self.at {
            Some(at) => (at.before(), PAGE + 1),
            None => (StreamId::ZERO, PAGE),
        };
        request::look(&mut bytes, &self.stream, from, page);
        let replies = self.wire.ask(&bytes, LOOK_REPLIES)?;
        let answers = replies.last().and_then(Reply::items).unwrap_or_default();
        let read = answers.first().map(Reply::entries).transpose().map_err(io::Error::other)?;
        let ids: Vec<_> = read.unwrap_or_default().iter().map(|entry| entry.id).collect();
        self.at = ids.last().copied().or(self.at);
        Ok(self.have_read(&ids))
    }

    fn block(&mut self) -> io::Result<u64> {
        const PAUSE: Duration = Duration::from_millis(100);
        if let Some(woken) = self.woken {
            thread::sleep(PAUSE.saturating_sub(woken.elapsed()));
        }
        let wait = Duration::from_secs(1).saturating_sub(self.looked.elapsed()).as_millis();
        let mut bytes = Vec::new();
        request::block(&mut bytes, &self.stream, self.head, PAGE, wait as u32);
        let replies = self.wire.ask(&bytes, 1)?;
        let read = replies.first().map(Reply::entries).transpose().map_err(io::Error::other)?;
        let ids: Vec<_> = read.unwrap_or_default().iter().map(|entry| entry.id).collect();
        if !ids.is_empty() {
            self.woken = Some(Instant::now());
        }
        Ok(self.have_read(&ids))
    }

    /// Returns how many of these entries were not read before.
    fn have_read(&mut self, ids: &[StreamId]) -> u64 {
        let new = ids.iter().filter(|id| **id > self.head).count();
        self.head = ids.iter().copied().fold(self.head, Ord::max);
        new as u64
    }
}

/// A connection to Redis.
struct Wire {
    stream: TcpStream,
    replies: Replies,
}

impl Wire {
    fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { stream, replies: Replies::new() })
    }

    /// Sends commands, and waits for `count` replies, of which none may be an error.
    fn ask(&mut self, bytes: &[u8], count: usize) -> io::Result<Vec<Reply>> {
        self.stream.write_all(bytes)?;
        let (mut all, mut buffer) = (Vec::new(), [0; 8192]);
        while all.len() < count {
            if let Some(reply) = self.replies.next_reply().map_err(io::Error::other)? {
                reply.no_error().map_err(io::Error::other)?;
                all.push(reply);
                continue;
            }
            let length = self.stream.read(&mut buffer)?;
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let read = buffer.get(..length).unwrap_or_default();
            self.replies.push(read).map_err(io::Error::other)?;
        }
        Ok(all)
    }
}

fn name_of_stream() -> io::Result<String> {
    Ok(Prefix::new("authgear").map_err(io::Error::other)?.stream())
}

fn sealer() -> io::Result<Sealer> {
    let secrets = Secrets::read(b"the secret of a fleet, of 32 bytes at least");
    let secrets = secrets.map_err(io::Error::other)?;
    Sealer::new(&secrets, "authgear", Publisher::from_bytes([7; 16])).map_err(io::Error::other)
}

/// An event as a host writes it.
fn seal(sealer: &Sealer, number: u64, what: What) -> io::Result<Vec<u8>> {
    let at = unix_now().unsigned_abs() * 1000;
    let event = Event { at, project: Some(project_id(ORIGIN)), what };
    sealer.seal(number, &event).map_err(io::Error::other)
}

fn user() -> io::Result<UserId> {
    UserId::new(USER.as_bytes()).ok_or_else(|| io::Error::other("not a user id"))
}

fn end() -> io::Result<What> {
    let issued = unix_now().unsigned_abs();
    Ok(What::End { user: user()?, issued, until: issued + 3600 })
}

fn used_memory(redis: &Redis) -> io::Result<f64> {
    number(&redis.info("memory"), "used_memory:")
}

/// Seconds of all its threads.
fn used_cpu(redis: &Redis) -> io::Result<f64> {
    let info = redis.info("cpu");
    Ok(number(&info, "used_cpu_sys:")? + number(&info, "used_cpu_user:")?)
}

fn number(info: &str, name: &str) -> io::Result<f64> {
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.ok_or_else(|| io::Error::other(format!("no {name} in {info}")))
}
