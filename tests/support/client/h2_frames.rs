//! HTTP/2 frame by frame, for requests that no client library would send.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::net::ToAddr;
use crate::wait::DEADLINE;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
const CANCEL: u32 = 8;
const HEAD: usize = 9;
/// The first entry of the dynamic table comes after those of the static table.
const FIRST_DYNAMIC: u8 = 62;

/// A header block, written with the HPACK instructions that the test chooses.
#[derive(Clone, Debug)]
pub struct HeaderBlock(Vec<u8>);

impl HeaderBlock {
    /// The block of a `GET` of this path.
    pub fn get(path: &str) -> Self {
        let block = Self(vec![0x82, 0x86]);
        block.literal(":path", path.as_bytes()).literal(":authority", b"localhost")
    }

    /// Adds a field that the server does not put into its table.
    pub fn literal(mut self, name: &str, value: &[u8]) -> Self {
        self.0.push(0x00);
        self.string(name.as_bytes());
        self.string(value);
        self
    }

    /// Adds a field that becomes the newest entry of the server's table.
    pub fn indexing(mut self, name: &str, value: &[u8]) -> Self {
        self.0.push(0x40);
        self.string(name.as_bytes());
        self.string(value);
        self
    }

    /// Adds the newest entry of the server's table `n` times, at one byte each.
    pub fn newest(mut self, n: usize) -> Self {
        self.0.extend(vec![0x80 | FIRST_DYNAMIC; n]);
        self
    }

    fn string(&mut self, bytes: &[u8]) {
        // A length of 127 and more continues in groups of seven bits.
        match u8::try_from(bytes.len()) {
            Ok(len @ 0..=126) => self.0.push(len),
            _ => {
                self.0.push(127);
                let mut rest = bytes.len() - 127;
                while rest >= 128 {
                    self.0.push(0x80 | (rest & 0x7f) as u8);
                    rest >>= 7;
                }
                self.0.push(rest as u8);
            }
        }
        self.0.extend_from_slice(bytes);
    }
}

/// An HTTP/2 connection whose frames the test writes itself. What servers answer is not decoded:
/// only the ends of streams are counted.
pub struct H2Frames {
    stream: TcpStream,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    next_stream: u32,
    ended: usize,
    answered_pings: usize,
}

impl fmt::Debug for H2Frames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("H2Frames").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl H2Frames {
    #[track_caller]
    pub fn open(to: &impl ToAddr) -> Self {
        let stream = TcpStream::connect(to.to_addr()).expect("a connection");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self::over(stream, 1)
    }

    /// Begins HTTP/2 on a connection on which streams below `next_stream` are taken.
    #[track_caller]
    pub fn over(stream: TcpStream, next_stream: u32) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        stream.set_write_timeout(Some(DEADLINE)).expect("a timeout");
        let mut connection = Self {
            stream,
            outgoing: PREFACE.to_vec(),
            incoming: Vec::new(),
            next_stream,
            ended: 0,
            answered_pings: 0,
        };
        connection.frame(SETTINGS, 0, 0, &[]);
        connection.frame(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes());
        connection
    }

    /// Writes a request, to be sent with the next [`flush`](Self::flush). Returns its stream.
    pub fn request(&mut self, block: &HeaderBlock) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        // Frames of more than 16 KiB are not needed here.
        self.frame(HEADERS, END_STREAM | END_HEADERS, stream, &block.0);
        stream
    }

    /// Writes a reset of a stream, to be sent with the next [`flush`](Self::flush).
    pub fn reset(&mut self, stream: u32) {
        self.frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
    }

    #[track_caller]
    pub fn flush(&mut self) {
        self.try_flush().unwrap_or_else(|error| panic!("write: {error}"));
    }

    /// Sends all that was written, and returns once the server has read it.
    #[track_caller]
    pub fn flush_and_ping(&mut self) {
        let answered = self.answered_pings;
        self.frame(PING, 0, 0, &[0; 8]);
        self.flush();
        self.read_until(|connection| connection.answered_pings > answered);
    }

    /// Sends one request `n` times, at most `at_once` at a time, and reads all answers.
    #[track_caller]
    pub fn repeat(&mut self, block: &HeaderBlock, n: usize, at_once: usize) {
        let mut left = n;
        while left > 0 {
            let round = left.min(at_once);
            let expected = self.ended + round;
            (0..round).for_each(|_| _ = self.request(block));
            self.flush();
            self.read_until(|connection| connection.ended >= expected);
            left -= round;
        }
    }

    fn try_flush(&mut self) -> io::Result<()> {
        let bytes = std::mem::take(&mut self.outgoing);
        self.stream.write_all(&bytes)
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = u32::try_from(payload.len()).expect("a short frame");
        self.outgoing.extend_from_slice(&len.to_be_bytes()[1..]);
        self.outgoing.extend_from_slice(&[kind, flags]);
        self.outgoing.extend_from_slice(&stream.to_be_bytes());
        self.outgoing.extend_from_slice(payload);
    }

    #[track_caller]
    fn read_until(&mut self, enough: impl Fn(&Self) -> bool) {
        while !enough(self) {
            let mut chunk = [0; 16 * 1024];
            let n = self.stream.read(&mut chunk).unwrap_or_else(|error| panic!("read: {error}"));
            assert!(n > 0, "the server has closed the connection");
            self.incoming.extend_from_slice(&chunk[..n]);
            self.take_frames();
        }
    }

    #[track_caller]
    fn take_frames(&mut self) {
        let mut at = 0;
        while let Some(head) = self.incoming.get(at..at + HEAD) {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let (kind, flags) = (head[3], head[4]);
            let end = at + HEAD + usize::try_from(len).expect("a length");
            if self.incoming.len() < end {
                break;
            }
            match kind {
                HEADERS | DATA if flags & END_STREAM != 0 => self.ended += 1,
                RST_STREAM => self.ended += 1,
                PING if flags & ACK != 0 => self.answered_pings += 1,
                SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
                GOAWAY => panic!("GOAWAY: {:?}", &self.incoming[at + HEAD..end]),
                _ => {}
            }
            at = end;
        }
        self.incoming.drain(..at);
    }
}
