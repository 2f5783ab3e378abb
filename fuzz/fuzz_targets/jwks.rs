//! Key sets: a parsed set round-trips through the form that processes share.
#![no_main]

use authgear::token::{Algorithm, KeySet, MAX_KEYS};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok((set, _)) = KeySet::parse(data, Algorithm::ALL) else { return };
    assert!((1..=MAX_KEYS).contains(&set.len()));
    let json = set.to_json();
    let (again, skipped) = KeySet::parse(json.as_bytes(), Algorithm::ALL).unwrap();
    assert_eq!((again.to_json(), skipped), (json, 0));
});
