//! Records of a fleet: what is not sealed opens nothing, what is sealed opens as it was, and no byte
//! of it can be changed.
#![no_main]

use authgear::credentials::{CookieNames, Credentials};
use authgear::fleet::record::{Content, Record, RecordKey, RecordKeys, RecordScope};
use authgear::fleet::request::Prefix;
use authgear::fleet::secret::Secrets;
use authgear::fleet::stream_id::{Incarnation, Position};
use authgear::verdict::Verdict;
use libfuzzer_sys::fuzz_target;

const SECRET: &[u8] = b"0123456789abcdefghijABCDEFGHIJ_Z";

fn key() -> RecordKey {
    let keys = RecordKeys::new(&Secrets::read(SECRET).unwrap(), &Prefix::new("authgear").unwrap());
    let names = CookieNames::default();
    let credentials = Credentials::read(Some(b"Bearer token"), [], &names);
    let scope = RecordScope::new("https://auth.example.com", "");
    keys.unwrap().of(&scope, &credentials).unwrap()
}

fuzz_target!(|data: &[u8]| {
    let key = key();
    assert_eq!(key.open(data), None);
    let content = match Verdict::decode(data) {
        Some(verdict) if Record::is_shared(&verdict) => Content::Verdict(verdict),
        _ => Content::Lease([data.first().copied().unwrap_or(0); 16]),
    };
    let (incarnation, position) = (Incarnation(data.len() as u64), Position(5));
    let record = Record { content, incarnation, position, asked_at: 1, expires_at: None };
    let Some(mut sealed) = key.seal(&record) else { return };
    assert_eq!(key.open(&sealed), Some(record));
    let at = data.iter().fold(0, |sum, byte| sum * 31 % 65521 + usize::from(*byte)) % sealed.len();
    sealed[at] ^= data.first().map_or(1, |byte| byte | 1);
    assert_eq!(key.open(&sealed), None);
});
