//! Bytes of the resolver's connection: a session needs `true` and a user, no field splits into two
//! headers, and it does not matter how the bytes arrive.
#![no_main]

use authgear::exchange::answer::AnswerReader;
use authgear::resolver;
use authgear::shared::{purges::PurgeEpoch, record};
use authgear::verdict::Verdict;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let whole = read(data, usize::MAX);
    assert_eq!(whole, read(data, 1));
    let Some((verdict, valid, _, _)) = whole else { return };
    if let Verdict::Valid(identity) = &verdict {
        assert_eq!(valid, [b"true"]);
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

/// The verdict, the fields that tell whether there is a session, the body, and whether the connection
/// may be used again. Bytes arrive in pieces of `most` bytes.
fn read(data: &[u8], most: usize) -> Option<(Verdict, Vec<Vec<u8>>, Vec<u8>, bool)> {
    let mut reader = AnswerReader::default();
    reader.start();
    let (mut head, mut body, mut rest) = (None, Vec::new(), data);
    while !rest.is_empty() {
        let space = reader.space();
        let count = rest.len().min(space.len()).min(most);
        space[..count].copy_from_slice(&rest[..count]);
        reader.received(count);
        rest = &rest[count..];
        let found = reader.head(|status, fields| {
            let valid = |name: &[u8]| name.eq_ignore_ascii_case(b"x-authgear-session-valid");
            let valid = fields.iter().filter(|(name, _)| valid(name)).map(|(_, v)| v.to_vec());
            (resolver::verdict(status, fields.iter()), valid.collect())
        });
        head = head.or(found.ok()?);
        reader.body(&mut body).ok()?;
    }
    reader.closed().ok()?;
    let (verdict, valid) = head?;
    Some((verdict, valid, body, reader.is_reusable()))
}
