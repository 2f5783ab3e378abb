//! Replies of Redis: `redis-protocol` reads the same, nothing panics, and it does not matter how the
//! bytes arrive.
#![no_main]

use authgear::fleet::cursor::{Cursor, Input};
use authgear::fleet::reply::{Look, Replies, Reply};
use libfuzzer_sys::fuzz_target;
use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;

/// All replies, and whether the bytes behind them are the beginning of one.
fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> (Vec<Reply>, bool) {
    let (mut replies, mut all) = (Replies::new(), Vec::new());
    for part in parts {
        if replies.push(part).is_err() {
            return (all, false);
        }
        loop {
            match replies.next_reply() {
                Ok(Some(reply)) => all.push(reply),
                Ok(None) => break,
                Err(_) => return (all, false),
            }
        }
    }
    (all, true)
}

/// Returns true if arrays may be nested so deep that the oracle overflows the stack.
fn may_be_deep(data: &[u8]) -> bool {
    data.iter().filter(|byte| **byte == b'*').count() > 32
}

/// Returns true if the oracle reads this reply as the same frame. It takes lines in UTF-8 only, and
/// passes over what stands in the place of the CRLF behind a bulk string.
fn agrees(data: &[u8], reply: &Reply) -> bool {
    let frame = match decode(data) {
        Ok(Some((frame, _))) => frame,
        Ok(None) => return false,
        Err(_) => return std::str::from_utf8(data).is_err(),
    };
    match frame {
        OwnedFrame::BulkString(bytes) => reply.bulk() == Some(&bytes[..]),
        OwnedFrame::Array(frames) => reply.items().is_some_and(|items| items.len() == frames.len()),
        OwnedFrame::Error(_) => reply.no_error().is_err(),
        OwnedFrame::SimpleString(text) => reply.ok().is_ok() == (text == b"OK"),
        OwnedFrame::Integer(_) | OwnedFrame::Null => {
            reply.bulk().is_none() && reply.no_error().is_ok()
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let (all, is_open) = read(std::iter::once(data));
    let (by_byte, is_still_open) = read(data.chunks(1));
    assert_eq!(all, by_byte);
    assert_eq!(is_open, is_still_open);
    if let Some(first) = all.first().filter(|_| !may_be_deep(data)) {
        assert!(agrees(data, first), "{first:?}");
    }
    for reply in &all {
        let _ = (reply.ok(), reply.added(), reply.time(), reply.server());
        let _ = (reply.master(), reply.moved());
        if let Ok(entries) = reply.entries() {
            assert!(entries.windows(2).all(|pair| pair[0].id < pair[1].id));
        }
    }
    if let Ok(look) = Look::read(&all) {
        let mut cursor = Cursor::new(None, 1000);
        cursor.step(Input::Connected { incarnation: look.server.incarnation(), time: 5 });
        cursor.step(Input::Look(look.clone()));
        cursor.step(Input::Beat);
        cursor.step(Input::Look(look));
    }
});
