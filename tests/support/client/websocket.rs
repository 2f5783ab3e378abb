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
        let request = request
            .clone()
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", KEY);
        let mut connection = Connection::open_for(&request);
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

    /// Sends a close frame and waits for the server's.
    #[track_caller]
    pub fn close(mut self) {
        self.0.write(&frame(CLOSE, &[], true));
        let (opcode, _) = self.read().unwrap_or_else(|error| panic!("no goodbye: {error}"));
        assert_eq!(opcode, CLOSE);
    }

    fn read(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let start = self.0.read_exact(Start::LEN)?;
        let start = Start::new([start[0], start[1]]);
        let rest = self.0.read_exact(start.rest()?)?;
        Ok((start.opcode(), start.payload(&rest)))
    }
}
