//! Headers of the resolver's answer: a session needs `true` and a user, and no field splits into two
//! headers.
#![no_main]

use authgear::resolver;
use authgear::shared::{purges::PurgeEpoch, record};
use authgear::verdict::Verdict;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut headers = HeaderMap::new();
    let mut valid = Vec::new();
    for line in data.split(|&byte| byte == b'\n').take(100) {
        let mut parts = line.splitn(2, |&byte| byte == b':');
        let name = HeaderName::from_bytes(parts.next().unwrap_or_default());
        let value = HeaderValue::from_bytes(parts.next().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            if name == "x-authgear-session-valid" {
                valid.push(value.clone());
            }
            headers.append(name, value);
        }
    }
    let verdict = resolver::verdict(StatusCode::OK, &headers);
    if let Verdict::Valid(identity) = &verdict {
        assert_eq!(valid, ["true"]);
        assert!(identity.user_id().is_some_and(|id| !id.is_empty()));
    }
    for (name, value) in verdict.fields() {
        assert!(name.starts_with("x-authgear-") && name != "x-authgear-body-signature");
        assert!(!value.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t'));
    }
    if let Some(bytes) = record::encode(PurgeEpoch::default(), None, &verdict) {
        assert_eq!(record::decode(&bytes).map(|(.., again)| again), Some(verdict));
    }
});
