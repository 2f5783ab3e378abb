//! A document of userinfo: a profile needs a user, an address is verified or it is none, no value
//! has a control byte, and what is kept is read back.
#![no_main]

use authgear::shared::{purges::PurgeEpoch, record};
use authgear::userinfo::{self, MAX_CLAIM};
use authgear::verdict::Verdict;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let verdict = userinfo::read(200, data);
    let Verdict::Valid(identity) = &verdict else { return };
    assert!(identity.user_id().is_some_and(|id| !id.is_empty()));
    let document: serde_json::Value = serde_json::from_slice(data).unwrap();
    for name in ["email", "phone_number"] {
        let is_verified = document[format!("{name}_verified")] == true;
        assert!(is_verified || userinfo::claim(&verdict, name.as_bytes()).is_none());
    }
    for (name, value) in verdict.fields() {
        let is_claim = name != "x-authgear-user-id";
        assert!(!is_claim || (value.is_ascii() && value.len() <= MAX_CLAIM));
        assert!(!value.iter().any(u8::is_ascii_control));
    }
    if let Some(bytes) = record::encode(PurgeEpoch::default(), None, &verdict) {
        assert_eq!(record::decode(&bytes).map(|(.., again)| again), Some(verdict));
    }
});
