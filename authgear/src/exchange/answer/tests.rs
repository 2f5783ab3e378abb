//! hyper is the oracle: what is an answer here is the same answer to hyper.

use super::*;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use std::future::Future;
use std::io;
use std::pin::{pin, Pin};
use std::task::{Context, Poll, Waker};

/// An answer, and what is to be known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answer {
    status: u16,
    fields: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

/// Reads the answer in `pieces`, and the end of the connection after them.
fn read(pieces: &[&[u8]]) -> Result<(Answer, bool), AnswerError> {
    let mut reader = AnswerReader::default();
    reader.start();
    let mut answer = None;
    let mut body = Vec::new();
    for piece in pieces {
        let mut piece = *piece;
        while !piece.is_empty() {
            let space = reader.space();
            let count = piece.len().min(space.len());
            space[..count].copy_from_slice(&piece[..count]);
            reader.received(count);
            piece = &piece[count..];
            // A complete answer is taken when it is: what follows then makes it unusable only.
            answer = answer.or(head(&mut reader)?);
            if answer.is_some() {
                reader.body(&mut body)?;
            }
        }
    }
    reader.closed()?;
    let mut answer = answer.ok_or(AnswerError::Truncated)?;
    answer.body = body;
    Ok((answer, reader.is_reusable()))
}

fn head(reader: &mut AnswerReader) -> Result<Option<Answer>, AnswerError> {
    reader.head(|status, fields| {
        let name = |name: &[u8]| String::from_utf8(name.to_ascii_lowercase()).unwrap();
        let fields = fields.iter().map(|(own, value)| (name(own), value.to_vec())).collect();
        Answer { status, fields, body: Vec::new() }
    })
}

fn read_whole(bytes: &[u8]) -> Result<(Answer, bool), AnswerError> {
    read(&[bytes])
}

/// A connection that receives these bytes and its end, once a request was written.
struct Received<'a>(&'a [u8], bool);

impl hyper::rt::Read for Received<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut space: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.1 {
            return Poll::Pending;
        }
        let count = self.0.len().min(space.remaining());
        space.put_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Received<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1 = true;
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Reads the answer with hyper.
fn read_by_hyper(bytes: &[u8]) -> Result<Answer, String> {
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(Received(bytes, false)).await?;
        let mut connection = pin!(connection);
        let mut answer = pin!(async {
            let request = http::Request::get("/").body(Empty::<Bytes>::new()).unwrap();
            let (head, body) = sender.send_request(request).await?.into_parts();
            let name = |name: &http::HeaderName| name.as_str().to_owned();
            let fields =
                head.headers.iter().map(|(own, value)| (name(own), value.as_bytes().to_vec()));
            let mut answer =
                Answer { status: head.status.as_u16(), fields: fields.collect(), body: Vec::new() };
            answer.body = body.collect().await?.to_bytes().to_vec();
            Ok::<_, hyper::Error>(answer)
        });
        std::future::poll_fn(|cx| {
            let _ = connection.as_mut().poll(cx);
            answer.as_mut().poll(cx)
        })
        .await
    };
    let mut exchange = pin!(exchange);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..1000 {
        if let Poll::Ready(answer) = exchange.as_mut().poll(&mut cx) {
            return answer.map_err(|error| error.to_string());
        }
    }
    Err("no progress".into())
}

/// As fields of one name may stand anywhere, hyper gives them together.
fn grouped(mut answer: Answer) -> Answer {
    answer.fields.sort_by(|one, other| one.0.cmp(&other.0));
    answer
}

const RESOLVER: &[u8] = b"HTTP/1.1 200 OK\r\nX-Authgear-Session-Valid: true\r\n\
    X-Authgear-User-Id:  alice \r\nContent-Length: 2\r\n\r\nok";

#[test]
fn an_answer_is_read_in_any_pieces() {
    let (expected, reusable) = read_whole(RESOLVER).unwrap();
    assert_eq!((expected.status, &expected.body[..], reusable), (200, &b"ok"[..], true));
    assert_eq!(expected.fields[1], ("x-authgear-user-id".into(), b"alice".to_vec()));
    for at in 0..RESOLVER.len() {
        let (one, other) = RESOLVER.split_at(at);
        assert_eq!(read(&[one, other]), Ok((expected.clone(), true)), "{at}");
    }
    let bytes: Vec<_> = RESOLVER.chunks(1).collect();
    assert_eq!(read(&bytes), Ok((expected, true)));
}

#[test]
fn the_end_of_an_answer_is_that_of_rfc_9112() {
    let body = |text: &str| {
        read_whole(text.as_bytes())
            .map(|(answer, reusable)| (String::from_utf8(answer.body).unwrap(), reusable))
    };
    for (answer, expected, reusable) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "", true),
        ("HTTP/1.1 204 No Content\r\n\r\n", "", true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", "", true),
        ("HTTP/1.1 200 OK\r\nConnection: a, Close\r\nContent-Length: 1\r\n\r\nx", "x", false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", "x", false),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", "x", true),
        ("HTTP/1.1 200 OK\r\n\r\nto the end", "to the end", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "x", true),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\nA\r\n0123456789\r\n\
             0\r\nTrailer: a\r\n\r\n",
            "x0123456789",
            true,
        ),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103\r\nLink: a\r\n\r\nHTTP/1.1 204\r\n\r\n", "", true),
        ("HTTP/1.1 101 Switching\r\nUpgrade: a\r\n\r\n", "", false),
        // Another answer, which nobody asked for.
        ("HTTP/1.1 204\r\n\r\nHTTP/1.1 204\r\n\r\n", "", false),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxy", "x", false),
        ("HTTP/1.1 200 OK\nContent-Length: 1\n\nx", "x", true),
    ] {
        assert_eq!(body(answer), Ok((expected.to_owned(), reusable)), "{answer:?}");
    }
}

#[test]
fn what_is_ambiguous_is_no_answer() {
    let fields = |text: &str| format!("HTTP/1.1 200 OK\r\n{text}\r\n\r\n0\r\n\r\n");
    for (text, expected) in [
        (fields("Content-Length: 1\r\nContent-Length: 1"), AnswerError::Length),
        (fields("Content-Length: 1, 1"), AnswerError::Length),
        (fields("Content-Length: +1"), AnswerError::Length),
        (fields("Content-Length: 0x1"), AnswerError::Length),
        (fields("Content-Length:"), AnswerError::Length),
        (fields("Content-Length: 99999999999999999999"), AnswerError::Length),
        (fields("Content-Length: 5\r\nTransfer-Encoding: chunked"), AnswerError::Length),
        (fields("Transfer-Encoding: gzip, chunked"), AnswerError::Length),
        (fields("Transfer-Encoding: identity"), AnswerError::Length),
        (fields("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), AnswerError::Length),
        (fields("Content-Length : 1"), AnswerError::Head),
        (fields("A: b\r\n c"), AnswerError::Head),
        (fields("A\0: b"), AnswerError::Head),
        (fields(&["A: b"; MAX_FIELDS + 1].join("\r\n")), AnswerError::Head),
        (
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(),
            AnswerError::Length,
        ),
        ("\r\nHTTP/1.1 204\r\n\r\n".into(), AnswerError::Head),
        ("HTTP/2 200\r\n\r\n".into(), AnswerError::Head),
        ("HTTP/1.1 099 No\r\n\r\n".into(), AnswerError::Head),
        ("SSH-2.0-OpenSSH\r\n".into(), AnswerError::Head),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx".into(), AnswerError::Truncated),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n".into(), AnswerError::Truncated),
        ("".into(), AnswerError::Truncated),
    ] {
        assert_eq!(read_whole(text.as_bytes()).unwrap_err(), expected, "{text:?}");
    }
    let long = format!("1;{}\r\nx\r\n", "a".repeat(MAX_CHUNK_LINE));
    for (body, expected) in [
        ("x\r\n", AnswerError::Chunk),
        ("\r\n\r\n", AnswerError::Chunk),
        (";a\r\n\r\n", AnswerError::Chunk),
        ("1\r\nxy\r\n0\r\n\r\n", AnswerError::Chunk),
        ("1\r\nx\n0\r\n\r\n", AnswerError::Chunk),
        ("-1\r\n", AnswerError::Chunk),
        ("10000000000000000\r\n", AnswerError::Chunk),
        ("0\r\na\r\n\r\n", AnswerError::Chunk),
        ("0\r\na: b\n\n", AnswerError::Chunk),
        ("0\r\na: b\0\r\n\r\n", AnswerError::Chunk),
        ("0\r\n", AnswerError::Truncated),
        ("1\r\nx\r\n", AnswerError::Truncated),
        (&long[..MAX_CHUNK_LINE], AnswerError::Chunk),
    ] {
        let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        assert_eq!(read_whole(text.as_bytes()).unwrap_err(), expected, "{body:?}");
    }
}

#[test]
fn the_room_of_a_large_answer_is_freed() {
    let mut reader = AnswerReader::default();
    let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n".to_vec();
    bytes.extend_from_slice(format!("a: {}\r\n\r\n", "b".repeat(10 * ROOM)).as_bytes());
    bytes.resize(bytes.len() + 100_000, b'x');
    let mut body = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let space = reader.space();
        let count = rest.len().min(space.len());
        space[..count].copy_from_slice(&rest[..count]);
        reader.received(count);
        rest = &rest[count..];
        head(&mut reader).ok();
        reader.body(&mut body).unwrap();
    }
    assert_eq!((body.len(), reader.total()), (100_000, bytes.len() as u64));
    assert!(reader.is_reusable() && reader.buffer.len() > ROOM);
    reader.shrink();
    assert_eq!(reader.buffer.len(), ROOM);
    reader.start();
    assert_eq!(reader.total(), 0);
}

/// Parts of answers, valid and not.
const LINES: [&str; 28] = [
    "HTTP/1.1 200 OK\r\n",
    "HTTP/1.0 200 OK\r\n",
    "HTTP/1.1 403 \r\n",
    "HTTP/1.1 204 No Content\r\n",
    "HTTP/1.1 103 Early Hints\r\n",
    "HTTP/1.1 101 Switching\r\n",
    "Content-Length: 3\r\n",
    "content-length: 0\r\n",
    "Content-Length: 3, 3\r\n",
    "CONTENT-LENGTH:\t4 \r\n",
    "Transfer-Encoding: chunked\r\n",
    "transfer-encoding:CHUNKED\r\n",
    "Transfer-Encoding: identity, chunked\r\n",
    "Connection: close\r\n",
    "Connection: keep-alive, close\r\n",
    "x-authgear-session-valid: true\r\n",
    "X-Authgear-User-Id: \u{e9}\t \r\n",
    "set-cookie: a=b; path=/\n",
    "A:\r\n",
    " folded\r\n",
    "\r\n",
    "\n",
    "abc",
    "3\r\nabc\r\n",
    "03;x\r\nabc\r\n",
    "0\r\n\r\n",
    "0\r\nTrailer: a\r\n\r\n",
    "0\r\nTrailer: a\n\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn hyper_reads_the_same(
        lines in vec(select(&LINES[..]), 1..9),
        first in select(&LINES[..6]),
        noise in vec((any::<prop::sample::Index>(), any::<u8>()), 0..2),
        cuts in vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let mut bytes = first.as_bytes().to_vec();
        bytes.extend(lines.concat().bytes());
        for (at, byte) in noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let whole = read_whole(&bytes);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces: Vec<_> = cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect();
        prop_assert_eq!(&read(&pieces), &whole);
        if let Ok((answer, _)) = whole {
            let hyper = read_by_hyper(&bytes);
            prop_assert_eq!(hyper.map(grouped), Ok(grouped(answer)));
        }
    }
}
