//! The answer to a GET in the bytes that a connection receives.

use std::mem::MaybeUninit;

use thiserror::Error;

/// Most fields of an answer.
pub const MAX_FIELDS: usize = 100;

/// Room for received bytes at first, and for as long as a connection is idle.
const ROOM: usize = 4096;

/// Longest line with the size of a chunk, in bytes.
const MAX_CHUNK_LINE: usize = 256;

/// Why bytes are not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// Not the head of an answer in HTTP/1, or more than [`MAX_FIELDS`] fields.
    #[error("invalid header")]
    Head,
    /// The fields do not say where the answer ends: several `Content-Length`, one that is no number,
    /// one beside `Transfer-Encoding`, or another coding than `chunked`.
    #[error("invalid Content-Length or Transfer-Encoding")]
    Length,
    /// The body is not what `chunked` means.
    #[error("invalid chunked body")]
    Chunk,
    /// The connection ended before the answer did.
    #[error("connection closed before the end of the answer")]
    Truncated,
}

/// The fields of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(&'a [httparse::Header<'a>]);

impl<'a> Fields<'a> {
    /// Names, in any case, and values, without spaces around them.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        self.0.iter().map(|field| (field.name.as_bytes(), field.value))
    }
}

/// Where an answer is in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Head,
    /// This many bytes of the body are to come.
    Length(u64),
    /// The line with the size of a chunk.
    ChunkSize,
    /// This many bytes of the chunk are to come.
    Chunk(u64),
    /// The end of the line after a chunk.
    ChunkEnd,
    /// Lines after the last chunk.
    Trailer,
    /// The body ends with the connection.
    UntilClose,
    End,
}

/// Reads the answers that a connection receives, one after the other.
///
/// For each answer: [`start`](Self::start); then [`space`](Self::space) and
/// [`received`](Self::received) until [`head`](Self::head) returns it, and until
/// [`body`](Self::body) returns true. The work for each byte does not depend on the pieces in which
/// bytes arrive.
#[derive(Debug)]
pub struct AnswerReader {
    /// All of it is initialised; `start..end` is received and not read yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Where the search for the end of the head goes on.
    scanned: usize,
    total: u64,
    part: Part,
    keeps_connection: bool,
}

impl Default for AnswerReader {
    fn default() -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            end: 0,
            scanned: 0,
            total: 0,
            part: Part::Head,
            keeps_connection: false,
        }
    }
}

impl AnswerReader {
    /// Prepares for the next answer. Bytes of the last one are forgotten.
    pub fn start(&mut self) {
        (self.start, self.end, self.scanned, self.total) = (0, 0, 0, 0);
        (self.part, self.keeps_connection) = (Part::Head, false);
    }

    /// Room for bytes of the connection. It doubles when it is full: the caller limits
    /// [`total`](Self::total).
    pub fn space(&mut self) -> &mut [u8] {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.scanned = self.scanned.saturating_sub(self.start);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.end == self.buffer.len() {
            self.buffer.resize((2 * self.end).max(ROOM), 0);
        }
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// Notes that the first `count` bytes of [`space`](Self::space) were received.
    pub fn received(&mut self, count: usize) {
        self.end = (self.end + count).min(self.buffer.len());
        self.total += count as u64;
    }

    /// Bytes received since [`start`](Self::start).
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Frees the room of a large answer.
    pub fn shrink(&mut self) {
        if self.buffer.len() > ROOM {
            *self = Self { buffer: vec![0; ROOM], ..Self::default() };
        }
    }

    /// Passes status and fields to `read`, once the head is there, and `None` afterwards. Interim
    /// answers (1xx) are skipped.
    ///
    /// # Errors
    ///
    /// See [`AnswerError`].
    pub fn head<T>(
        &mut self,
        read: impl FnOnce(u16, Fields<'_>) -> T,
    ) -> Result<Option<T>, AnswerError> {
        while self.part == Part::Head {
            let Some(end) = self.end_of_head()? else { return Ok(None) };
            let bytes = self.buffer.get(self.start..end).unwrap_or_default();
            let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
            let mut head = httparse::Response::new(&mut []);
            let parsed = httparse::ParserConfig::default().parse_response_with_uninit_headers(
                &mut head,
                bytes,
                &mut fields,
            );
            if parsed != Ok(httparse::Status::Complete(bytes.len())) {
                return Err(AnswerError::Head);
            }
            let (Some(status), Some(minor)) = (head.code, head.version) else {
                return Err(AnswerError::Head);
            };
            match status {
                100 | 102..=199 => {
                    (self.start, self.scanned) = (end, end);
                    continue;
                }
                101 | 200..=999 => {}
                _ => return Err(AnswerError::Head),
            }
            let fields = Fields(head.headers);
            let part = first_part(status, minor, fields)?;
            // After status 101 the connection speaks another protocol.
            let keeps_connection =
                status != 101 && part != Part::UntilClose && keeps_connection(minor, fields);
            let output = read(status, fields);
            (self.part, self.keeps_connection) = (part, keeps_connection);
            (self.start, self.scanned) = (end, end);
            return Ok(Some(output));
        }
        Ok(None)
    }

    /// End of the head: of its empty line.
    fn end_of_head(&mut self) -> Result<Option<usize>, AnswerError> {
        const VERSION: &[u8] = b"HTTP/1.";
        let received = self.buffer.get(self.start..self.end).unwrap_or_default();
        // Nothing else can become a head, and an empty line before it is not skipped.
        if !received.iter().zip(VERSION).all(|(byte, expected)| byte == expected) {
            return Err(AnswerError::Head);
        }
        Ok(self.empty_line())
    }

    /// End of the next empty line after another one. The search goes on where it ended before.
    fn empty_line(&mut self) -> Option<usize> {
        loop {
            let rest = self.buffer.get(self.scanned..self.end)?;
            let Some(at) = memchr::memchr(b'\n', rest) else {
                self.scanned = self.end;
                return None;
            };
            let length = match rest.get(at + 1..) {
                Some([b'\n', ..]) => 2,
                Some([b'\r', b'\n', ..]) => 3,
                Some([] | [b'\r']) => {
                    self.scanned += at;
                    return None;
                }
                _ => {
                    self.scanned += at + 1;
                    continue;
                }
            };
            return Some(self.scanned + at + length);
        }
    }

    /// Appends what was received of the body to `body`. True once the answer is complete.
    ///
    /// # Errors
    ///
    /// See [`AnswerError`].
    pub fn body(&mut self, body: &mut Vec<u8>) -> Result<bool, AnswerError> {
        loop {
            let rest = self.buffer.get(self.start..self.end).unwrap_or_default();
            match self.part {
                Part::Head => return Ok(false),
                Part::End => return Ok(true),
                Part::Length(0) => self.part = Part::End,
                Part::Chunk(0) => self.part = Part::ChunkEnd,
                _ if rest.is_empty() => return Ok(false),
                Part::Length(left) | Part::Chunk(left) => {
                    let count = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    body.extend_from_slice(rest.get(..count).unwrap_or_default());
                    let left = left - count as u64;
                    self.part = match self.part {
                        Part::Length(_) => Part::Length(left),
                        _ => Part::Chunk(left),
                    };
                    self.start += count;
                }
                Part::UntilClose => {
                    body.extend_from_slice(rest);
                    self.start = self.end;
                }
                // httparse takes a line without a digit for 0.
                Part::ChunkSize if !rest.first().is_some_and(u8::is_ascii_hexdigit) => {
                    return Err(AnswerError::Chunk);
                }
                Part::ChunkSize => match httparse::parse_chunk_size(rest) {
                    Ok(httparse::Status::Complete((length, size))) => {
                        self.start += length;
                        self.part = if size == 0 { Part::Trailer } else { Part::Chunk(size) };
                    }
                    Ok(httparse::Status::Partial) if rest.len() < MAX_CHUNK_LINE => {
                        return Ok(false);
                    }
                    _ => return Err(AnswerError::Chunk),
                },
                Part::ChunkEnd => match rest {
                    [b'\r', b'\n', ..] => {
                        self.start += 2;
                        self.part = Part::ChunkSize;
                    }
                    [b'\r'] => return Ok(false),
                    _ => return Err(AnswerError::Chunk),
                },
                // The empty line alone, or after fields, which are ignored.
                Part::Trailer => match rest {
                    [b'\r', b'\n', ..] => {
                        self.start += 2;
                        self.part = Part::End;
                    }
                    [b'\r'] => return Ok(false),
                    _ => {
                        self.scanned = self.scanned.max(self.start);
                        let Some(end) = self.empty_line() else { return Ok(false) };
                        let bytes = self.buffer.get(self.start..end).unwrap_or_default();
                        // Here, too, a line ends with both bytes.
                        let mut lines = bytes.split(|&byte| byte == b'\n');
                        if !lines.all(|line| line.is_empty() || line.ends_with(b"\r")) {
                            return Err(AnswerError::Chunk);
                        }
                        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
                        match httparse::parse_headers(bytes, &mut fields) {
                            Ok(httparse::Status::Complete((length, _)))
                                if length == bytes.len() => {}
                            _ => return Err(AnswerError::Chunk),
                        }
                        self.start = end;
                        self.part = Part::End;
                    }
                },
            }
        }
    }

    /// The connection has ended.
    ///
    /// # Errors
    ///
    /// When the answer has not.
    pub fn closed(&mut self) -> Result<(), AnswerError> {
        match self.part {
            Part::UntilClose | Part::End => {
                self.part = Part::End;
                Ok(())
            }
            _ => Err(AnswerError::Truncated),
        }
    }

    /// Tells whether the connection may carry another exchange: the answer is complete, nothing
    /// follows it, and the server keeps the connection.
    pub fn is_reusable(&self) -> bool {
        self.part == Part::End && self.start == self.end && self.keeps_connection
    }
}

/// Selects the framing of the body (RFC 9112 section 6.3).
fn first_part(status: u16, minor: u8, fields: Fields<'_>) -> Result<Part, AnswerError> {
    let values = |wanted: &'static [u8]| {
        let named = fields.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
        let mut values = named.map(|(_, value)| value);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(AnswerError::Length),
            (value, None) => Ok(value),
        }
    };
    let (length, coding) = (values(b"content-length")?, values(b"transfer-encoding")?);
    let part = match (length, coding) {
        (None, None) => Part::UntilClose,
        (Some(length), None) => Part::Length(decimal(length).ok_or(AnswerError::Length)?),
        (None, Some(coding)) if minor == 1 && coding.eq_ignore_ascii_case(b"chunked") => {
            Part::ChunkSize
        }
        (_, Some(_)) => return Err(AnswerError::Length),
    };
    Ok(match status {
        101 | 204 | 304 => Part::End,
        _ => part,
    })
}

/// Reads from the version and `Connection` that the server keeps the connection (RFC 9112 section
/// 9.3).
fn keeps_connection(minor: u8, fields: Fields<'_>) -> bool {
    let named = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case(b"connection"));
    let options = named.flat_map(|(_, value)| value.split(|&byte| byte == b','));
    let has = |wanted: &[u8]| {
        options.clone().any(|option| option.trim_ascii().eq_ignore_ascii_case(wanted))
    };
    !has(b"close") && (minor == 1 || has(b"keep-alive"))
}

fn decimal(text: &[u8]) -> Option<u64> {
    // 19 digits cannot exceed the range.
    let is_number = (1..=19).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    is_number.then(|| text.iter().fold(0, |number, &digit| 10 * number + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests;
