use super::*;
use proptest::prelude::*;

fn replies(bytes: &[u8]) -> Vec<Reply> {
    let mut replies = Replies::new();
    replies.push(bytes).unwrap();
    let mut all = Vec::new();
    while let Some(reply) = replies.next_reply().unwrap() {
        all.push(reply);
    }
    assert!(replies.is_empty());
    all
}

fn reply(text: &str) -> Reply {
    let mut replies = replies(text.as_bytes());
    assert_eq!(replies.len(), 1);
    replies.remove(0)
}

fn server_error(code: &str) -> BadReply {
    BadReply::Server(ServerError { code: code.into(), moved: None })
}

fn bulk_string(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

fn entry(id: &str, value: &str) -> String {
    format!("*2\r\n{}*2\r\n{}{}", bulk_string(id), bulk_string("e"), bulk_string(value))
}

fn read_of(entries: &[String]) -> String {
    let name = bulk_string("{authgear}:events");
    format!("*1\r\n*2\r\n{name}*{}\r\n{}", entries.len(), entries.concat())
}

/// As Redis 7.0.15 answers, with an entry that another program added.
fn stream(length: &str, added: &str, last: &str, first: &str) -> String {
    let field = |name, value: &str| bulk_string(name) + value;
    format!(
        "*20\r\n{}{}{}{}{}{}{}{}{}{}",
        field("length", length),
        field("radix-tree-keys", ":1\r\n"),
        field("radix-tree-nodes", ":2\r\n"),
        field("last-generated-id", &bulk_string(last)),
        field("max-deleted-entry-id", &bulk_string("0-0")),
        field("entries-added", added),
        field("recorded-first-entry-id", &bulk_string("0-0")),
        field("groups", ":0\r\n"),
        field("first-entry", first),
        field("last-entry", first),
    )
}

const INFO: &str = "# Server\r\nredis_version:7.0.15\r\nredis_git_sha1:00000000\r\nos:Linux \
    6.1 x86_64\r\nrun_id:1f986cd7\r\ntcp_port:0\r\nexecutable:/a:b\r\nconfig_file:\r\n\r\n# \
    Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:f8a6327d\r\n\
    master_replid2:0000\r\n\r\n# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n";

fn info(text: &str) -> ServerInfo {
    reply(&bulk_string(text)).server().unwrap()
}

fn look(read: &str, info: &str) -> Result<Look, BadReply> {
    let text =
        format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n{read}{info}{}", bulk_string(INFO));
    Look::read(&replies(text.as_bytes()))
}

fn id(ms: u64, seq: u64) -> StreamId {
    StreamId { ms, seq }
}

#[test]
fn simple_replies_are_read() {
    assert_eq!(reply("+OK\r\n").ok(), Ok(()));
    assert_eq!(reply("+PONG\r\n").ok(), Err(BadReply::Unexpected));
    assert_eq!(reply("$2\r\nOK\r\n").ok(), Err(BadReply::Unexpected));
    assert_eq!(reply("$5\r\n175-2\r\n").added(), Ok(id(175, 2)));
    assert_eq!(reply("$-1\r\n").added(), Err(BadReply::Unexpected));
    assert_eq!(reply("+175-2\r\n").added(), Err(BadReply::Unexpected));
    let time = "*2\r\n$10\r\n1795712752\r\n$6\r\n882690\r\n";
    assert_eq!(reply(time).time(), Ok(1_795_712_752_882));
    assert_eq!(reply("*2\r\n$20\r\n18446744073709551615\r\n$1\r\n0\r\n").time(), Ok(u64::MAX));
    assert_eq!(reply("*1\r\n$1\r\n1\r\n").time(), Err(BadReply::Unexpected));
}

#[test]
fn errors_keep_their_code_and_no_argument() {
    for (message, code) in [
        ("READONLY You can't write against a read only replica.", "READONLY"),
        ("LOADING Redis is loading the dataset in memory", "LOADING"),
        ("NOAUTH Authentication required.", "NOAUTH"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "WRONGPASS"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("ERR unknown command 'AUTH', with args beginning with: 'u' 'secret'", "ERR"),
        ("secret", "an unknown error"),
        ("", "an unknown error"),
        ("AAAAAAAAAAAAAAAAAAAAAAAAA", "an unknown error"),
    ] {
        let reply = reply(&format!("-{message}\r\n"));
        for error in
            [reply.ok().unwrap_err(), reply.added().unwrap_err(), reply.time().unwrap_err()]
        {
            assert_eq!(error, server_error(code), "{message}");
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
        assert_eq!(reply.entries().unwrap_err(), server_error(code));
        assert_eq!(reply.no_error().unwrap_err(), server_error(code));
    }
}

#[test]
fn a_moved_names_its_node() {
    let moved = |message: &str| match reply(&format!("-{message}\r\n")).ok() {
        Err(BadReply::Server(error)) => error.moved().map(str::to_owned),
        other => panic!("{other:?}"),
    };
    assert_eq!(moved("MOVED 3999 127.0.0.1:6381").as_deref(), Some("127.0.0.1:6381"));
    assert_eq!(moved("MOVED 3999"), None);
    assert_eq!(moved("MOVED 3999 a\x1bb:6381"), None);
    assert_eq!(moved("ASK 3999 127.0.0.1:6381"), None);
    let node = |message: &str| reply(&format!("-{message}\r\n")).moved();
    assert_eq!(node("MOVED 3999 ::1:6381"), Node::new("::1", "6381"));
    assert_eq!(node("MOVED 3999 :6381"), None);
    assert_eq!(node("ERR 3999 ::1:6381"), None);
    assert_eq!(reply("*-1\r\n").moved(), None);
}

#[test]
fn a_sentinel_names_a_master_or_none() {
    let master = |text: &str| reply(text).master();
    let named = "*2\r\n$9\r\n127.0.0.1\r\n$4\r\n6379\r\n";
    assert_eq!(master(named), Ok(Node::new("127.0.0.1", "6379")));
    assert_eq!(master("*-1\r\n"), Ok(None));
    assert_eq!(master("$-1\r\n"), Ok(None));
    for wrong in [
        "*0\r\n",
        "*1\r\n$1\r\na\r\n",
        "*2\r\n$1\r\na\r\n$1\r\n0\r\n",
        "*2\r\n$3\r\na/b\r\n$1\r\n1\r\n",
        "*2\r\n$1\r\na\r\n:1\r\n",
        "+OK\r\n",
        ":1\r\n",
    ] {
        assert_eq!(master(wrong), Err(BadReply::Unexpected), "{wrong:?}");
    }
    assert_eq!(master("-NOAUTH x\r\n"), Err(server_error("NOAUTH")));
}

#[test]
fn entries_are_read_with_their_values() {
    let text = read_of(&[entry("17-4", "one"), entry("17-5", "two")]);
    let entries = reply(&text).entries().unwrap();
    let expected = [(id(17, 4), &b"one"[..]), (id(17, 5), b"two")];
    assert_eq!(entries.iter().map(|own| (own.id, &own.value[..])).collect::<Vec<_>>(), expected);
    // Nothing arrived in time.
    assert_eq!(reply("*-1\r\n").entries(), Ok(Vec::new()));
    // Another program's entries count, and have no value.
    let other = "*2\r\n$3\r\n1-0\r\n*4\r\n$1\r\nx\r\n$1\r\ny\r\n$1\r\ne\r\n$1\r\nv\r\n";
    let foreign = "*2\r\n$3\r\n2-0\r\n*2\r\n$1\r\nx\r\n$1\r\ny\r\n";
    let read = reply(&read_of(&[other.into(), foreign.into()])).entries().unwrap();
    assert_eq!((&read[0].value[..], &read[1].value[..]), (&b"v"[..], &b""[..]));
}

#[test]
fn entries_of_another_form_are_refused() {
    let one = entry("17-4", "one");
    for text in [
        read_of(&[one.clone(), one.clone()]),
        read_of(&[entry("17-5", "two"), one.clone()]),
        read_of(&[entry("17", "one")]),
        read_of(&["*2\r\n$4\r\n17-4\r\n*-1\r\n".into()]),
        read_of(&["$1\r\nx\r\n".into()]),
        format!("*2\r\n{one}{one}"),
        "*1\r\n*1\r\n$1\r\ns\r\n".into(),
        "+OK\r\n".into(),
        ":1\r\n".into(),
    ] {
        assert_eq!(reply(&text).entries(), Err(BadReply::Unexpected), "{text:?}");
    }
}

#[test]
fn a_look_has_entries_counts_and_the_server() {
    let first = entry("17-4", "one");
    let found =
        look(&read_of(std::slice::from_ref(&first)), &stream(":1\r\n", ":9\r\n", "17-4", &first))
            .unwrap();
    let expected = StreamInfo { added: 9, length: 1, last: id(17, 4), first: Some(id(17, 4)) };
    assert_eq!((found.entries.len(), found.stream), (1, Some(expected)));
    assert_eq!(found.server.incarnation(), Incarnation::new(b"1f986cd7", b"f8a6327d"));
    let trimmed = look("*-1\r\n", &stream(":0\r\n", ":2\r\n", "17-4", "$-1\r\n")).unwrap();
    let expected = StreamInfo { added: 2, length: 0, last: id(17, 4), first: None };
    assert_eq!((trimmed.entries.len(), trimmed.stream), (0, Some(expected)));
    assert_eq!(look("*-1\r\n", "-ERR no such key\r\n").unwrap().stream, None);
}

#[test]
fn a_look_of_another_form_is_refused() {
    let first = entry("17-4", "one");
    let read = read_of(std::slice::from_ref(&first));
    let none = "*-1\r\n";
    for (read, info) in [
        (none, "*-1\r\n".to_owned()),
        (none, "$-1\r\n".into()),
        (none, stream(":-1\r\n", ":2\r\n", "17-4", "$-1\r\n")),
        (none, stream("$1\r\n1\r\n", ":2\r\n", "17-4", &first)),
        // More than were added; a first entry of none, and none of one; behind the last.
        (none, stream(":3\r\n", ":2\r\n", "17-4", &first)),
        (none, stream(":0\r\n", ":2\r\n", "17-4", &first)),
        (none, stream(":1\r\n", ":2\r\n", "17-4", "$-1\r\n")),
        (none, stream(":1\r\n", ":2\r\n", "17-3", &first)),
        (&read, "-ERR no such key\r\n".into()),
    ] {
        assert_eq!(look(read, &info), Err(BadReply::Unexpected), "{info:?}");
    }
    let wrong = look(none, "-WRONGTYPE Operation against a key\r\n");
    assert_eq!(wrong, Err(server_error("WRONGTYPE")));
}

#[test]
fn an_error_within_a_look_is_its_own() {
    let read = |text: &str| Look::read(&replies(text.as_bytes()));
    let loading = "-LOADING x\r\n".repeat(5);
    assert_eq!(read(&loading), Err(server_error("LOADING")));
    let aborted = "+OK\r\n+QUEUED\r\n-NOPERM x\r\n+QUEUED\r\n-EXECABORT x\r\n";
    assert_eq!(read(aborted), Err(server_error("NOPERM")));
    let aborted = "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n-EXECABORT x\r\n";
    assert_eq!(read(aborted), Err(server_error("EXECABORT")));
    let inside = look("-NOPERM x\r\n", "*0\r\n");
    assert_eq!(inside, Err(server_error("NOPERM")));
    for other in ["", "+OK\r\n", "+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*-1\r\n"] {
        assert_eq!(read(other), Err(BadReply::Unexpected), "{other:?}");
    }
}

#[test]
fn replies_of_a_look_are_collected() {
    let first = entry("17-4", "one");
    let info = stream(":1\r\n", ":9\r\n", "17-4", &first);
    let text =
        format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n*-1\r\n{info}{}", bulk_string(INFO));
    let mut collected = LookReplies::new();
    for _ in 0..2 {
        let mut all = replies(text.as_bytes()).into_iter();
        let last = all.next_back().unwrap();
        assert!(all.all(|reply| collected.add(reply) == Ok(None)));
        assert_eq!(collected.add(last).unwrap(), Some(look("*-1\r\n", &info).unwrap()));
    }
}

#[test]
fn servers_are_usable_from_their_first_versions_on() {
    let with = |from: &str, to: &str| info(&INFO.replace(from, to)).usable();
    let version = |to: &str| with("redis_version:7.0.15", to);
    assert_eq!(with("", ""), Ok(()));
    assert_eq!(version("redis_version:6.2.20"), Err(Unusable::TooOld));
    assert_eq!(version("redis_version:8.2.0"), Ok(()));
    // Valkey says a version of Redis too, before or behind its own.
    let valkey = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:";
    assert_eq!(version(&format!("{valkey}8.1.1")), Ok(()));
    assert_eq!(version(&format!("{valkey}7.1.0")), Err(Unusable::TooOld));
    assert_eq!(version("valkey_version:7.1.0\r\nredis_version:7.2.4"), Err(Unusable::TooOld));
    assert_eq!(version("redis_version:x"), Err(Unusable::Nameless));
    assert_eq!(version("redis_version:7"), Err(Unusable::Nameless));
    assert_eq!(with("run_id", "other"), Err(Unusable::Nameless));
    assert_eq!(with("master_replid:f8a6327d", "master_replid:"), Err(Unusable::Nameless));
    assert_eq!(with("role:master", "role:slave"), Err(Unusable::Replica));
    assert_eq!(info("").usable(), Err(Unusable::Nameless));
    assert_eq!(reply(":1\r\n").server(), Err(BadReply::Unexpected));
    assert_eq!(reply("$-1\r\n").server(), Err(BadReply::Unexpected));
}

#[test]
fn policies_that_evict_the_stream_or_refuse_events_are_named() {
    let policy = |limit: &str, policy: &str| {
        let text = INFO.replace("maxmemory:0", limit).replace("noeviction", policy);
        info(&text).unfit_policy().map(str::to_owned)
    };
    assert_eq!(policy("maxmemory:0", "noeviction"), None);
    for fit in ["volatile-lru", "volatile-lfu", "volatile-ttl"] {
        assert_eq!(policy("maxmemory:8000000", fit), None);
    }
    for unfit in ["noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-random"] {
        assert_eq!(policy("maxmemory:8000000", unfit).as_deref(), Some(unfit));
    }
    assert_eq!(policy("maxmemory:1", "a\x1bb").as_deref(), Some("an unknown one"));
}

#[test]
fn large_deep_and_broken_replies_end_the_connection() {
    let first = |bytes: &[u8]| {
        let mut replies = Replies::new();
        for part in bytes.chunks(16 * 1024) {
            replies.push(part)?;
            if let Some(reply) = replies.next_reply()? {
                return Ok(Some(reply));
            }
        }
        Ok(None)
    };
    let bulk = |length: usize| bulk_string(&"x".repeat(length)).into_bytes();
    assert!(first(&bulk(MAX_REPLY - 10)).unwrap().is_some());
    assert_eq!(first(&bulk(MAX_REPLY)), Err(BadReply::TooLarge));
    assert_eq!(first(&bulk(2 * MAX_REPLY)), Err(BadReply::TooLarge));
    assert_eq!(first(b"$500000000\r\nxx"), Ok(None));
    assert_eq!(first("x".repeat(10).as_bytes()), Err(BadReply::Malformed));
    assert_eq!(first(&[b"+", &b"x".repeat(MAX_REPLY)[..]].concat()), Err(BadReply::TooLarge));
    assert_eq!(first("*1\r\n".repeat(100_000).as_bytes()), Err(BadReply::Malformed));
    assert_eq!(first("*9999999\r\n".repeat(6_000).as_bytes()), Err(BadReply::Malformed));
    for broken in ["$3\r\nabcd\r\n", ":x\r\n", "$x\r\n", "*-2\r\n", "%1\r\n", "\r\n", "\0"] {
        assert_eq!(first(broken.as_bytes()), Err(BadReply::Malformed), "{broken:?}");
    }
    // More than is read.
    let mut replies = Replies::new();
    let (part, mut result) = (b"+OK\r\n".repeat(4000), Ok(()));
    for _ in 0..10 {
        result = result.and(replies.push(&part));
    }
    assert_eq!(result, Err(BadReply::TooLarge));
}

#[test]
fn a_page_of_longest_events_is_one_reply() {
    use super::super::event::MAX_PLAIN;
    let value = "x".repeat(45 + MAX_PLAIN);
    let page: Vec<_> = (0..super::super::request::PAGE)
        .map(|n| entry(&format!("1795712750307-{n}"), &value))
        .collect();
    let text =
        look_text(&read_of(&page), &stream(":1\r\n", ":9\r\n", "1795712750307-99", &page[0]));
    assert!(text.len() < MAX_REPLY, "{}", text.len());
    assert_eq!(Look::read(&replies(text.as_bytes())).unwrap().entries.len(), page.len());
}

fn look_text(read: &str, info: &str) -> String {
    format!("+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n{read}{info}{}", bulk_string(INFO))
}

fn any_frame() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        "[ -~]{0,20}".prop_map(|text| bulk_string(&text)),
        "[A-Z]{1,8}".prop_map(|text| format!("+{text}\r\n")),
        "[A-Z]{1,8} x".prop_map(|text| format!("-{text}\r\n")),
        any::<i64>().prop_map(|n| format!(":{n}\r\n")),
        Just("*-1\r\n".to_owned()),
        Just("$-1\r\n".to_owned()),
        (0..99_u64, 0..99_u64).prop_map(|(ms, seq)| bulk_string(&format!("{ms}-{seq}"))),
    ];
    leaf.prop_recursive(4, 60, 5, |inner| {
        prop::collection::vec(inner, 0..5)
            .prop_map(|items| format!("*{}\r\n{}", items.len(), items.concat()))
    })
}

proptest! {
    #[test]
    fn replies_are_the_same_however_they_arrive(
        frames in prop::collection::vec(any_frame(), 1..6),
        cuts in prop::collection::vec(1..9_usize, 1..400),
    ) {
        let text = frames.concat();
        let whole = replies(text.as_bytes());
        prop_assert_eq!(whole.len(), frames.len());
        let (mut parts, mut rest, mut cuts) = (Replies::new(), text.as_bytes(), cuts.iter().cycle());
        let mut all = Vec::new();
        while !rest.is_empty() {
            let (part, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            parts.push(part).unwrap();
            rest = after;
            while let Some(reply) = parts.next_reply().unwrap() {
                all.push(reply);
            }
        }
        prop_assert_eq!(all, whole);
    }

    #[test]
    fn no_reply_panics(frames in prop::collection::vec(any_frame(), 1..8)) {
        let all = replies(frames.concat().as_bytes());
        let _ = Look::read(&all);
        for reply in &all {
            let _ = (reply.ok(), reply.added(), reply.time(), reply.entries(), reply.server());
        }
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut replies = Replies::new();
        replies.push(&bytes).unwrap();
        while let Ok(Some(reply)) = replies.next_reply() {
            let _ = (reply.ok(), reply.entries(), reply.server());
        }
    }
}
