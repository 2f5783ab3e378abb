//! The parts of WebSocket that the tests need: the handshake's key and whole frames.

use std::io;

use aws_lc_rs::digest::{digest, SHA1_FOR_LEGACY_USE_ONLY};
use data_encoding::BASE64;

pub(crate) const TEXT: u8 = 1;
pub(crate) const CLOSE: u8 = 8;

/// The `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key`.
pub(crate) fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref())
}

/// The first two bytes of a frame, which determine its length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start([u8; 2]);

impl Start {
    pub(crate) const LEN: usize = 2;

    pub(crate) fn new(bytes: [u8; 2]) -> Self {
        Self(bytes)
    }

    pub(crate) fn opcode(self) -> u8 {
        self.0[0] & 0x0f
    }

    fn masked(self) -> bool {
        self.0[1] & 0x80 != 0
    }

    /// The number of bytes that follow.
    pub(crate) fn rest(self) -> io::Result<usize> {
        match self.0[1] & 0x7f {
            len @ 0..=125 => Ok(usize::from(len) + if self.masked() { 4 } else { 0 }),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "a frame beyond 125 bytes")),
        }
    }

    /// The payload in the bytes that followed.
    pub(crate) fn payload(self, rest: &[u8]) -> Vec<u8> {
        if !self.masked() {
            return rest.to_vec();
        }
        let (mask, payload) = rest.split_at(4);
        payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }
}

/// A final frame of binary data, which a server sends.
pub(crate) fn long_frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_be_bytes();
    [&[0x82, 127], &length[..], payload].concat()
}

/// A final frame. Clients have to mask: with zeros, which change nothing.
pub(crate) fn frame(opcode: u8, payload: &[u8], masked: bool) -> Vec<u8> {
    let len = u8::try_from(payload.len()).ok().filter(|len| *len <= 125);
    let len = len.expect("a payload of at most 125 bytes");
    let mut frame = vec![0x80 | opcode, len];
    if masked {
        frame[1] |= 0x80;
        frame.extend_from_slice(&[0; 4]);
    }
    frame.extend_from_slice(payload);
    frame
}
