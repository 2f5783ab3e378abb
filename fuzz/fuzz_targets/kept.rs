//! What is in shared memory: whatever it is, it is read as a verdict or not at all.
#![no_main]

use authgear::{kept, token::Published};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((since, key, verdict)) = kept::decode(data) {
        let bytes = kept::encode(since, key, &verdict).unwrap();
        assert_eq!(kept::decode(&bytes), Some((since, key, verdict)));
    }
    if let Some(published) = Published::decode(data) {
        assert_eq!(Published::decode(&published.encode()), Some(published));
    }
});
