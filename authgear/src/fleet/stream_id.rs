//! Ids of the entries of a stream, and what a server is known by.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

/// Id of an entry. Ids of one stream only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    /// Milliseconds since 1970, by the clock of the server.
    pub ms: u64,
    /// Number within the millisecond.
    pub seq: u64,
}

impl StreamId {
    /// Id before all entries.
    pub const ZERO: Self = Self { ms: 0, seq: 0 };

    /// Reads `ms-seq` in decimal digits.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let mut parts = text.splitn(2, |&byte| byte == b'-');
        let mut part = || decimal(parts.next()?);
        Some(Self { ms: part()?, seq: part()? })
    }

    /// The greatest id below this one.
    pub const fn before(self) -> Self {
        match (self.seq.checked_sub(1), self.ms.checked_sub(1)) {
            (Some(seq), _) => Self { ms: self.ms, seq },
            (None, Some(ms)) => Self { ms, seq: u64::MAX },
            (None, None) => Self::ZERO,
        }
    }

    /// The id as one number. `None` if the id is beyond what is one: no honest server makes it.
    pub fn position(self) -> Option<Position> {
        let fits = self.ms >> (64 - Position::SEQ_BITS) == 0 && self.seq >> Position::SEQ_BITS == 0;
        fits.then_some(Position(self.ms << Position::SEQ_BITS | self.seq))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// Reads a number of decimal digits and nothing else.
pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Place in a stream as one number: ms · 2²⁰ + seq.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    const SEQ_BITS: u32 = 20;
}

/// A server, and the history of writes that it continues. Both end with a failover, and the server
/// with a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// First 8 bytes of SHA-256 of `run_id` and `master_replid`.
    pub fn new(run_id: &[u8], replid: &[u8]) -> Self {
        let mut hash = Context::new(&SHA256);
        hash.update(run_id);
        hash.update(replid);
        let digest = hash.finish();
        let first = digest.as_ref().first_chunk().copied().unwrap_or_default();
        Self(u64::from_be_bytes(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn id(ms: u64, seq: u64) -> StreamId {
        StreamId { ms, seq }
    }

    #[test]
    fn ids_are_read_strictly() {
        for (text, expected) in [
            ("0-0", Some(id(0, 0))),
            ("1700000000000-7", Some(id(1_700_000_000_000, 7))),
            ("18446744073709551615-18446744073709551615", Some(id(u64::MAX, u64::MAX))),
            ("18446744073709551616-0", None),
            ("1", None),
            ("1-", None),
            ("-1", None),
            ("1-2-3", None),
            ("+1-2", None),
            ("1-2 ", None),
            ("", None),
        ] {
            assert_eq!(StreamId::parse(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_position_is_one_number_of_a_plausible_id() {
        assert_eq!(id(3, 5).position(), Some(Position(3 << 20 | 5)));
        assert_eq!(id(0, (1 << 20) - 1).position(), Some(Position((1 << 20) - 1)));
        assert_eq!(id((1 << 44) - 1, 0).position(), Some(Position(u64::MAX - (1 << 20) + 1)));
        for hostile in [id(0, 1 << 20), id(1 << 44, 0), id(u64::MAX, u64::MAX)] {
            assert_eq!(hostile.position(), None);
        }
    }

    #[test]
    fn the_id_before_is_the_greatest_below() {
        assert_eq!(id(3, 5).before(), id(3, 4));
        assert_eq!(id(3, 0).before(), id(2, u64::MAX));
        assert_eq!(StreamId::ZERO.before(), StreamId::ZERO);
    }

    /// The first 16 digits of `printf run1repl2 | sha256sum`.
    #[test]
    fn an_incarnation_is_a_hash() {
        assert_eq!(Incarnation::new(b"run1", b"repl2"), Incarnation(HASH));
        assert_ne!(Incarnation::new(b"run1", b"repl3"), Incarnation::new(b"run1", b"repl2"));
    }

    const HASH: u64 = 0x35a889090177466b;

    proptest! {
        #[test]
        fn ids_are_written_as_they_are_read(ms: u64, seq: u64) {
            let id = id(ms, seq);
            prop_assert_eq!(StreamId::parse(id.to_string().as_bytes()), Some(id));
            prop_assert!(id.before() < id || id == StreamId::ZERO);
        }

        #[test]
        fn positions_order_as_ids(a in (0..1_u64 << 44, 0..1_u64 << 20), b in (0..1_u64 << 44, 0..1_u64 << 20)) {
            let (a, b) = (id(a.0, a.1), id(b.0, b.1));
            prop_assert_eq!(a.cmp(&b), a.position().cmp(&b.position()));
        }
    }
}
