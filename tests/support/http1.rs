//! HTTP/1 framing for both sides: bytes in a growing buffer to messages.

use std::io;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::recorded::{latin1, Recorded};

const MAX_HEADERS: usize = 512;

pub(crate) fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

/// The end of a message's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(usize),
    Chunked,
    Close,
}

/// The framing headers ask for; `otherwise` when they are silent.
pub(crate) fn framing<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    otherwise: Framing,
) -> io::Result<Framing> {
    let mut framing = otherwise;
    for (name, value) in headers {
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err(invalid("a transfer coding other than chunked"));
            }
            return Ok(Framing::Chunked);
        }
        if name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            framing = Framing::Length(length.ok_or_else(|| invalid("content-length"))?);
        }
    }
    Ok(framing)
}

/// A decoded body, and how many bytes of the buffer it took.
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) used: usize,
}

/// The body at the start of `buffer`, or `None` until all of it is there.
/// For [`Framing::Close`] that is never: the caller knows when the peer has closed.
pub(crate) fn body(buffer: &[u8], framing: Framing) -> io::Result<Option<Body>> {
    match framing {
        Framing::Length(length) => {
            Ok(buffer.get(..length).map(|bytes| Body { bytes: bytes.to_vec(), used: length }))
        }
        Framing::Chunked => chunked(buffer),
        Framing::Close => Ok(None),
    }
}

fn chunked(buffer: &[u8]) -> io::Result<Option<Body>> {
    // Nothing is copied before all is there: this is asked again for each piece that arrives.
    let mut chunks = Vec::new();
    let mut at = 0;
    loop {
        let (line, size) = match httparse::parse_chunk_size(&buffer[at..]) {
            Ok(httparse::Status::Complete(chunk)) => chunk,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(invalid("chunk size")),
        };
        let size = usize::try_from(size).map_err(invalid)?;
        at += line;
        if size == 0 {
            let Some(end) = trailers_end(&buffer[at..])? else { return Ok(None) };
            return Ok(Some(Body { bytes: chunks.concat(), used: at + end }));
        }
        let Some(chunk) = buffer.get(at..at + size + 2) else { return Ok(None) };
        let (data, end) = chunk.split_at(size);
        if end != b"\r\n" {
            return Err(invalid("end of chunk"));
        }
        chunks.push(data);
        at += size + 2;
    }
}

fn trailers_end(buffer: &[u8]) -> io::Result<Option<usize>> {
    let mut headers = [httparse::EMPTY_HEADER; 32];
    match httparse::parse_headers(buffer, &mut headers) {
        Ok(httparse::Status::Complete((end, _))) => Ok(Some(end)),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(error) => Err(invalid(error)),
    }
}

/// Reads one request, body included, into `buffer` and takes it from there.
/// `None` when the client closed before the first byte of one.
/// `begun` is called as soon as there is a first byte.
pub(crate) async fn read_request(
    stream: &mut (impl AsyncRead + Unpin),
    buffer: &mut Vec<u8>,
    begun: impl Fn(),
) -> io::Result<Option<(Recorded, Vec<u8>)>> {
    loop {
        if !buffer.is_empty() {
            begun();
        }
        if let Some((request, body)) = parse_request(buffer)? {
            buffer.drain(..body.used);
            return Ok(Some((request.with_body(&body.bytes), body.bytes)));
        }
        if stream.read_buf(buffer).await? == 0 {
            return if buffer.is_empty() {
                Ok(None)
            } else {
                Err(io::ErrorKind::UnexpectedEof.into())
            };
        }
    }
}

fn parse_request(buffer: &[u8]) -> io::Result<Option<(Recorded, Body)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head) = parsed.parse(buffer).map_err(invalid)? else {
        return Ok(None);
    };
    let named = parsed.headers.iter().map(|header| (header.name, header.value));
    let framing = framing(named, Framing::Length(0))?;
    let Some(mut body) = body(&buffer[head..], framing)? else { return Ok(None) };
    body.used += head;

    let version = format!("HTTP/1.{}", parsed.version.unwrap_or(1));
    let method = parsed.method.unwrap_or_default();
    let mut request = Recorded::new(method, parsed.path.unwrap_or_default(), &version);
    request.headers = parsed.headers.iter().map(|h| (h.name.to_owned(), latin1(h.value))).collect();
    Ok(Some((request, body)))
}

/// Whether the connection outlives this request.
pub(crate) fn keeps_alive(request: &Recorded) -> bool {
    let connection = request.header("connection").unwrap_or_default().to_ascii_lowercase();
    match request.version.as_str() {
        "HTTP/1.0" => connection.contains("keep-alive"),
        _ => !connection.contains("close"),
    }
}

/// A response's head, and how many bytes of the buffer it took.
pub(crate) struct ResponseHead {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) used: usize,
}

/// The response head at the start of `buffer`, or `None` until all of it is there.
pub(crate) fn parse_response(buffer: &[u8]) -> io::Result<Option<ResponseHead>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(used) = parsed.parse(buffer).map_err(invalid)? else {
        return Ok(None);
    };
    let headers = parsed.headers.iter().map(|h| (h.name.to_owned(), h.value.to_vec())).collect();
    Ok(Some(ResponseHead { status: parsed.code.unwrap_or_default(), headers, used }))
}

/// A response's bytes. Header values are Latin-1, as in [`Recorded`].
pub(crate) fn response(status: u16, headers: &[(String, String)], body: &[u8]) -> Vec<u8> {
    let reason = StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason());
    let mut bytes = format!("HTTP/1.1 {status} {}\r\n", reason.unwrap_or("Unknown")).into_bytes();
    for (name, value) in headers {
        let line = format!("{name}: {value}\r\n");
        bytes.extend(line.chars().map(|c| u8::try_from(c).unwrap_or(b'?')));
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}
