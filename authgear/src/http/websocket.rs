//! Frames of a WebSocket (RFC 6455 section 5.2), counted and not read.

/// A frame that closes the connection, with the code 1008: the endpoint's policy is violated (RFC
/// 6455 section 7.4.1). A server does not mask its frames.
pub const POLICY_VIOLATION: &[u8] = &[0x88, 2, 0x03, 0xf0];

/// Position in a stream of frames. A new one is before the first frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FramePosition {
    /// Bytes of the frame's header so far.
    header: u8,
    /// The header's second byte: whether the payload is masked, and its length or the size of that.
    second: u8,
    /// Length of the payload, as far as the header is known.
    length: u64,
    /// Bytes of the payload that are to come.
    payload: u64,
}

impl FramePosition {
    /// Returns true if the next byte begins a frame.
    pub fn is_between(&self) -> bool {
        self.header == 0 && self.payload == 0
    }

    /// Moves over `bytes`.
    pub fn pass(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let passed = self.pass_in_frame(rest);
            rest = rest.get(passed..).unwrap_or_default();
        }
    }

    /// Number of the first `bytes` that belong to the frame under way; none between frames.
    pub fn rest_of_frame(mut self, bytes: &[u8]) -> usize {
        if self.is_between() {
            return 0;
        }
        self.pass_in_frame(bytes)
    }

    /// Moves over `bytes`, up to the end of a frame. Returns how many it passed: at least one.
    fn pass_in_frame(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while let Some(&byte) = bytes.get(passed) {
            if self.payload > 0 {
                let left = (bytes.len() - passed) as u64;
                let step = self.payload.min(left);
                self.payload -= step;
                passed += step as usize;
            } else {
                self.pass_header(byte);
                passed += 1;
            }
            if self.is_between() {
                break;
            }
        }
        passed
    }

    fn pass_header(&mut self, byte: u8) {
        let length_bytes = match self.second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        match self.header {
            0 => {}
            1 => {
                self.second = byte;
                self.length = match byte & 0x7f {
                    126 | 127 => 0,
                    length => length.into(),
                };
            }
            n if n < 2 + length_bytes => self.length = self.length << 8 | u64::from(byte),
            // The masking key.
            _ => {}
        }
        self.header += 1;
        if self.header >= 2 && self.header == self.header_size() {
            *self = Self { payload: self.length, ..Self::default() };
        }
    }

    fn header_size(&self) -> u8 {
        let length = match self.second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.second & 0x80 == 0 { 0 } else { 4 };
        2 + length + mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(payload: usize, mask: bool, longest: bool) -> Vec<u8> {
        let bit = if mask { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match payload {
            0..=125 if !longest => frame.push(bit | payload as u8),
            126..=0xffff if !longest => {
                frame.push(bit | 126);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(bit | 127);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        if mask {
            frame.extend([1, 2, 3, 4]);
        }
        frame.extend((0..payload).map(|n| n as u8));
        frame
    }

    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let size = prop_oneof![Just(0_usize), 1..130_usize, 120..300_usize, Just(65_536)];
        let one = (size, any::<bool>(), any::<bool>());
        prop::collection::vec(
            one.prop_map(|(size, mask, longest)| frame(size, mask, longest)),
            1..6,
        )
    }

    proptest! {
        #[test]
        fn ends_of_frames_are_found_however_the_stream_is_split(
            frames in frames(),
            cuts in prop::collection::vec(1_usize..400, 1..40),
        ) {
            let stream = frames.concat();
            let ends: Vec<usize> = frames
                .iter()
                .scan(0, |at, frame| { *at += frame.len(); Some(*at) })
                .collect();
            let mut position = FramePosition::default();
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < stream.len() {
                let next = ends.iter().find(|end| **end > at).unwrap();
                prop_assert_eq!(position.is_between(), at == 0 || ends.contains(&at));
                let rest = position.rest_of_frame(&stream[at..]);
                prop_assert_eq!(rest, if position.is_between() { 0 } else { next - at });
                let end = stream.len().min(at + cuts.next().unwrap());
                position.pass(&stream[at..end]);
                at = end;
            }
            prop_assert!(position.is_between());
        }

        #[test]
        fn any_bytes_are_passed(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut position = FramePosition::default();
            position.pass(&bytes);
            prop_assert!(position.rest_of_frame(&bytes) <= bytes.len());
        }
    }

    #[test]
    fn the_last_frame_is_one_frame() {
        let mut position = FramePosition::default();
        position.pass(POLICY_VIOLATION);
        assert!(position.is_between());
        assert_eq!(u16::from_be_bytes([POLICY_VIOLATION[2], POLICY_VIOLATION[3]]), 1008);
    }
}
