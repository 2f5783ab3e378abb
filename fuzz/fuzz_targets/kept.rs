//! Records and key set states in shared memory: any bytes decode to a value that round-trips, or not
//! at all.
#![no_main]

use authgear::{shared::record, token::JwksState};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some((since, key, verdict)) = record::decode(data) {
        let bytes = record::encode(since, key, &verdict).unwrap();
        assert_eq!(record::decode(&bytes), Some((since, key, verdict)));
    }
    if let Some(state) = JwksState::decode(data) {
        assert_eq!(JwksState::decode(&state.encode()), Some(state));
    }
});
