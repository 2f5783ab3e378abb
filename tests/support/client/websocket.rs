//! A WebSocket client.

use std::io;

use super::http1::Connection;
use super::request::Request;
use super::response::Response;
use crate::ws::{accept, frame, Start, CLOSE, TEXT};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// An open WebSocket. Frames hold at most 125 bytes.
#[derive(Debug)]
pub struct WebSocket(Connection);

impl WebSocket {
    /// Requests the upgrade; returns the answer if it is not 101.
    #[track_caller]
    pub fn open(request: &Request) -> Result<Self, Box<Response>> {
        Self::open_on(Connection::open_for(request), request)
    }

    /// The same, if the server can be reached.
    pub fn try_open(request: &Request) -> io::Result<Result<Self, Box<Response>>> {
        let mut connection = Connection::try_open_for(request)?;
        let answer = connection.try_send(&upgrade(request))?;
        Ok(if answer.status == 101 { Ok(Self(connection)) } else { Err(Box::new(answer)) })
    }

    /// The same over this connection.
    #[track_caller]
    pub fn open_on(mut connection: Connection, request: &Request) -> Result<Self, Box<Response>> {
        let request = upgrade(request);
        let answer = connection.send(&request);
        if answer.status != 101 {
            return Err(Box::new(answer));
        }
        assert_eq!(answer.header("sec-websocket-accept"), Some(accept(KEY)));
        Ok(Self(connection))
    }

    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.0.write(&frame(TEXT, text.as_bytes(), true));
    }

    /// The next message.
    #[track_caller]
    pub fn receive(&mut self) -> String {
        let (_, payload) = self.read().unwrap_or_else(|error| panic!("no message: {error}"));
        String::from_utf8(payload).expect("text")
    }

    /// Sends a message and reads the same again, unless the server has closed.
    pub fn try_echo(&mut self, text: &str) -> io::Result<()> {
        self.0.try_write(&frame(TEXT, text.as_bytes(), true))?;
        match self.read()? {
            (TEXT, payload) if payload == text.as_bytes() => Ok(()),
            (opcode, _) => Err(io::Error::other(format!("a frame of the kind {opcode}"))),
        }
    }

    /// Sends a close frame and waits for the server's.
    #[track_caller]
    pub fn close(mut self) {
        self.0.write(&frame(CLOSE, &[], true));
        let (opcode, _) = self.read().unwrap_or_else(|error| panic!("no goodbye: {error}"));
        assert_eq!(opcode, CLOSE);
    }

    /// Reads until the server's close frame, and returns its code. Bytes of other frames are
    /// counted. The deadline is of each read.
    #[track_caller]
    pub fn read_to_close(&mut self) -> (u16, usize) {
        let mut bytes = 0;
        loop {
            let frame = self.read_long().unwrap_or_else(|error| panic!("no close frame: {error}"));
            match frame {
                (CLOSE, payload) => return (u16::from_be_bytes([payload[0], payload[1]]), bytes),
                (_, payload) => bytes += payload.len(),
            }
        }
    }

    /// Reads `n` bytes of a frame, as they are.
    #[track_caller]
    pub fn read_bytes(&mut self, n: usize) -> Vec<u8> {
        self.0.read_exact(n).unwrap_or_else(|error| panic!("no bytes: {error}"))
    }

    /// Returns true if the server closes the connection before it sends anything (more).
    pub fn is_closed(&mut self) -> bool {
        self.0.is_closed()
    }

    fn read_long(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let start = self.0.read_exact(Start::LEN)?;
        let length = match start[1] {
            126 => self.0.read_exact(2)?,
            127 => self.0.read_exact(8)?,
            short => vec![short],
        };
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        Ok((start[0] & 0x0f, self.0.read_exact(length)?))
    }

    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let start = self.0.read_exact(Start::LEN)?;
        let start = Start::new([start[0], start[1]]);
        let rest = self.0.read_exact(start.rest()?)?;
        Ok((start.opcode(), start.payload(&rest)))
    }
}

fn upgrade(request: &Request) -> Request {
    let request = request.clone().header("Connection", "Upgrade").header("Upgrade", "websocket");
    request.header("Sec-WebSocket-Version", "13").header("Sec-WebSocket-Key", KEY)
}
