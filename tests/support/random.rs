//! Random identifiers as Authgear makes them.

use aws_lc_rs::rand;

fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("random bytes");
    bytes
}

/// 32 letters and digits, like an opaque token.
pub(crate) fn token() -> String {
    const ALPHABET: &[u8; 62] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    bytes::<32>().iter().map(|byte| char::from(ALPHABET[usize::from(*byte) % 62])).collect()
}

/// A version 4 UUID.
pub(crate) fn uuid() -> String {
    let n = u128::from_be_bytes(bytes());
    let n = n & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{n:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// `<uuid>.<32 letters and digits>`, like a session or a refresh token.
pub(crate) fn session() -> String {
    format!("{}.{}", uuid(), token())
}
