//! Commands to Redis, in its protocol.

use std::fmt;

use thiserror::Error;

use super::stream_id::StreamId;

/// Entries that are read at a time, unless they are too large.
pub const PAGE: usize = 100;

/// Length to which Redis trims the stream, about.
pub const MAX_STREAM: usize = 65536;

/// Number of replies to [`look`].
pub const LOOK_REPLIES: usize = 5;

/// Field of an entry that has the event.
pub const FIELD: &[u8] = b"e";

/// Sections of `INFO` that name the server and its history.
const IDENTITY: [&[u8]; 2] = [b"server", b"replication"];

/// Prefix of the keys of a fleet.
#[derive(Clone, PartialEq, Eq)]
pub struct Prefix(Box<str>);

/// Error of [`Prefix::new`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("it must have 1 to 64 letters, digits, \"_\", \".\" or \"-\"")]
pub struct BadPrefix;

impl Prefix {
    /// Accepts 1 to 64 letters, digits, `_`, `.` and `-`.
    ///
    /// # Errors
    ///
    /// For anything else.
    pub fn new(name: &str) -> Result<Self, BadPrefix> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let is_valid = (1..=64).contains(&name.len()) && name.bytes().all(is_allowed);
        is_valid.then(|| Self(name.into())).ok_or(BadPrefix)
    }

    /// The prefix without braces.
    pub const fn as_str(&self) -> &str {
        &self.0
    }

    /// The prefix in its braces.
    pub fn in_braces(&self) -> String {
        format!("{{{}}}", self.0)
    }

    /// Key of the stream. The braces keep all keys of a fleet in one slot of a Redis Cluster.
    pub fn stream(&self) -> String {
        format!("{{{}}}:events", self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Appends a command with its arguments.
pub fn command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    // Formatting takes ten times as many instructions.
    let line = |out: &mut Vec<u8>, kind: u8, length: usize| {
        out.push(kind);
        let digits = length.checked_ilog10().unwrap_or(0);
        for place in (0..=digits).rev() {
            out.push(b'0' + (length / 10_usize.pow(place) % 10) as u8);
        }
        out.extend_from_slice(b"\r\n");
    };
    line(out, b'*', arguments.len());
    for argument in arguments {
        line(out, b'$', argument.len());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// `AUTH`, with the name of a user unless it is the default user's.
pub fn auth(out: &mut Vec<u8>, user: Option<&[u8]>, password: &[u8]) {
    match user {
        Some(user) => command(out, &[b"AUTH", user, password]),
        None => command(out, &[b"AUTH", password]),
    }
}

/// `SELECT` of a database.
pub fn select(out: &mut Vec<u8>, database: u32) {
    command(out, &[b"SELECT", database.to_string().as_bytes()]);
}

/// `CLIENT SETNAME`. The name must not have blanks.
pub fn set_name(out: &mut Vec<u8>, name: &str) {
    command(out, &[b"CLIENT", b"SETNAME", name.as_bytes()]);
}

/// `INFO` that names the server, its role and its memory: see
/// [`ServerInfo`](super::reply::ServerInfo).
pub fn info(out: &mut Vec<u8>) {
    let [server, replication] = IDENTITY;
    command(out, &[b"INFO", server, replication, b"memory"]);
}

/// Asks Sentinel for the address of the master `name`.
pub fn master(out: &mut Vec<u8>, name: &str) {
    command(out, &[b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", name.as_bytes()]);
}

/// Reads nothing of the stream: a node of a Redis Cluster that does not have it answers `MOVED`.
pub fn find(out: &mut Vec<u8>, stream: &str) {
    command(out, &[b"XREAD", b"COUNT", b"1", b"STREAMS", stream.as_bytes(), b"$"]);
}

/// `TIME`.
pub fn time(out: &mut Vec<u8>) {
    command(out, &[b"TIME"]);
}

/// `XADD` of a sealed event.
pub fn add(out: &mut Vec<u8>, stream: &str, value: &[u8]) {
    let length = MAX_STREAM.to_string();
    let arguments: [&[u8]; 8] =
        [b"XADD", stream.as_bytes(), b"MAXLEN", b"~", length.as_bytes(), b"*", FIELD, value];
    command(out, &arguments);
}

/// A look: `page` entries behind `from` at most, the state of the stream, and the server that has
/// both, all at one time. It has [`LOOK_REPLIES`] replies, which
/// [`Look::read`](super::reply::Look::read) reads.
pub fn look(out: &mut Vec<u8>, stream: &str, from: StreamId, page: usize) {
    let (count, from) = (page.to_string(), from.to_string());
    let stream = stream.as_bytes();
    let [server, replication] = IDENTITY;
    command(out, &[b"MULTI"]);
    command(out, &[b"XREAD", b"COUNT", count.as_bytes(), b"STREAMS", stream, from.as_bytes()]);
    command(out, &[b"XINFO", b"STREAM", stream]);
    command(out, &[b"INFO", server, replication]);
    command(out, &[b"EXEC"]);
}

/// `XREAD` that waits so many milliseconds for entries behind `from`, `page` at most.
pub fn block(out: &mut Vec<u8>, stream: &str, from: StreamId, page: usize, wait: u32) {
    let (count, wait, from) = (page.to_string(), wait.max(1).to_string(), from.to_string());
    let arguments: [&[u8]; 8] = [
        b"XREAD",
        b"COUNT",
        count.as_bytes(),
        b"BLOCK",
        wait.as_bytes(),
        b"STREAMS",
        stream.as_bytes(),
        from.as_bytes(),
    ];
    command(out, &arguments);
}

/// Sets a lease where nothing is, for so many milliseconds; answers with what is there. Redis 7.0
/// takes `NX` with `GET`.
pub fn claim(out: &mut Vec<u8>, key: &str, lease: &[u8], life: u64) {
    let (key, life) = (key.as_bytes(), life.to_string());
    command(out, &[b"SET", key, lease, b"NX", b"GET", b"PX", life.as_bytes()]);
}

/// `SET` of a record for so many milliseconds.
pub fn store(out: &mut Vec<u8>, key: &str, record: &[u8], life: u64) {
    command(out, &[b"SET", key.as_bytes(), record, b"PX", life.to_string().as_bytes()]);
}

/// `DEL` of a record.
pub fn delete(out: &mut Vec<u8>, key: &str) {
    command(out, &[b"DEL", key.as_bytes()]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::reply::Replies;
    use proptest::prelude::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    /// Arguments of each command in `bytes`.
    fn read(bytes: &[u8]) -> Vec<Vec<Vec<u8>>> {
        let mut replies = Replies::new();
        replies.push(bytes).unwrap();
        let mut commands = Vec::new();
        while let Some(command) = replies.next_reply().unwrap() {
            let words = command.items().unwrap();
            commands.push(words.iter().map(|word| word.bulk().unwrap().to_vec()).collect());
        }
        commands
    }

    fn words(write: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
        let text = |words: Vec<Vec<u8>>| String::from_utf8(words.join(&b' ')).unwrap();
        read(self::text(write).as_bytes()).into_iter().map(text).collect()
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        assert_eq!(text(|out| select(out, 3)), "*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n");
    }

    #[test]
    fn each_command_has_its_words() {
        let stream = Prefix::new("authgear").unwrap().stream();
        let from = StreamId { ms: 17, seq: 4 };
        assert_eq!(words(|out| auth(out, None, b"p w")), ["AUTH p w"]);
        assert_eq!(words(|out| auth(out, Some(b"nginx"), b"pw")), ["AUTH nginx pw"]);
        assert_eq!(words(|out| set_name(out, "authgear")), ["CLIENT SETNAME authgear"]);
        assert_eq!(words(info), ["INFO server replication memory"]);
        assert_eq!(words(time), ["TIME"]);
        assert_eq!(words(|out| master(out, "one")), ["SENTINEL GET-MASTER-ADDR-BY-NAME one"]);
        let find = words(|out| find(out, &stream));
        assert_eq!(find, ["XREAD COUNT 1 STREAMS {authgear}:events $"]);
        assert_eq!(
            words(|out| add(out, &stream, b"VALUE")),
            ["XADD {authgear}:events MAXLEN ~ 65536 * e VALUE"]
        );
        assert_eq!(
            words(|out| block(out, &stream, from, PAGE, 1000)),
            ["XREAD COUNT 100 BLOCK 1000 STREAMS {authgear}:events 17-4"]
        );
        assert_eq!(words(|out| claim(out, "k", b"v", 1500)), ["SET k v NX GET PX 1500"]);
        assert_eq!(words(|out| store(out, "k", b"v", 60)), ["SET k v PX 60"]);
        assert_eq!(words(|out| delete(out, "k")), ["DEL k"]);
        // Redis takes 0 as "for ever".
        assert!(words(|out| block(out, &stream, from, PAGE, 0))[0].contains("BLOCK 1 "));
        let look = words(|out| look(out, &stream, from, PAGE));
        assert_eq!(
            look,
            [
                "MULTI",
                "XREAD COUNT 100 STREAMS {authgear}:events 17-4",
                "XINFO STREAM {authgear}:events",
                "INFO server replication",
                "EXEC",
            ]
        );
        assert_eq!(look.len(), LOOK_REPLIES);
    }

    #[test]
    fn prefixes_have_harmless_letters() {
        for good in ["a", "authgear", "a_b.c-D9", &"x".repeat(64)] {
            assert_eq!(Prefix::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "a b", "a}b", "a\r\n", "ä", &"x".repeat(65)] {
            assert_eq!(Prefix::new(bad), Err(BadPrefix), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn arguments_with_any_bytes_stay_apart(
            arguments in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1200), 1..12),
        ) {
            let mut out = Vec::new();
            let slices: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
            command(&mut out, &slices);
            command(&mut out, &slices);
            prop_assert_eq!(read(&out), [arguments.clone(), arguments]);
        }
    }
}
