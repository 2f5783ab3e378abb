use super::*;
use crate::credentials::CookieNames;
use crate::identity::Identity;
use proptest::prelude::*;

const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn keys(secret: &str, prefix: &str) -> RecordKeys {
    let secrets = Secrets::read(secret.as_bytes()).unwrap();
    RecordKeys::new(&secrets, &Prefix::new(prefix).unwrap()).unwrap()
}

fn scope() -> RecordScope {
    RecordScope::new("https://auth.example.com", "")
}

fn bearer(token: &str) -> Vec<u8> {
    format!("Bearer {token}").into_bytes()
}

fn key_of(keys: &RecordKeys, scope: &RecordScope, authorization: &[u8]) -> RecordKey {
    let names = CookieNames::default();
    keys.of(scope, &Credentials::read(Some(authorization), [], &names)).unwrap()
}

fn key() -> RecordKey {
    key_of(&keys(A, "authgear"), &scope(), &bearer("token"))
}

fn valid(user: &[u8]) -> Verdict {
    let mut identity = Identity::builder();
    identity.push(b"x-authgear-user-id", user).unwrap();
    Verdict::Valid(identity.build())
}

fn record(content: Content) -> Record {
    Record {
        content,
        incarnation: Incarnation(0x0102_0304_0506_0708),
        position: Position(17 << 20 | 3),
        asked_at: 1_700_000_000_000,
        expires_at: Some(1_700_000_060_000),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Computed with the HMAC and AES-GCM of Python's `hmac` and `cryptography`.
#[test]
fn names_and_seals_are_those_of_the_format() {
    let key = key();
    assert_eq!(key.name(), NAME);
    let sealed = key.seal_under([9; NONCE_LEN], &record(Content::Lease([7; 16]))).unwrap();
    assert_eq!(hex(&sealed), SEALED);
}

const NAME: &str = "{authgear}:ZLTCOW9ACxA4uPKcnjH2Yw";
const SEALED: &str = "\
    01090909090909090909090909100880e75a4585a4449f6cbf97cb6cfd1ed815b152f95e4c7b7117278ed4babc\
    90471fb8d064c01184bc8bb617ce18520f1448dd0145750f92013671c9e7703f24f68a00145dc572fee956a8fe\
    14341f";

#[test]
fn plain_texts_have_the_documented_bytes() {
    let verdict = record(Content::Verdict(Verdict::Invalid)).encode().unwrap();
    let expected = [
        "01",
        "0102030405060708",
        "0000000001100003",
        "0000018bcfe56800",
        "0000018bcfe65260",
        "0001",
        "01",
    ];
    assert_eq!(hex(&verdict), format!("{:0<128}", expected.concat()));
    let never = Record { expires_at: None, ..record(Content::Lease([7; 16])) };
    let bytes = never.encode().unwrap();
    assert_eq!(bytes[25..33], [0xff; 8]);
    assert_eq!((bytes[0], &bytes[33..35], bytes.len()), (2, &[0, 16][..], 64));
}

#[test]
fn only_verdicts_that_last_are_sealed() {
    use crate::verdict::{NoSession, Unavailable};
    for verdict in [
        Verdict::None(NoSession::Resolver),
        Verdict::BearerNotAccepted,
        Verdict::Unavailable(Unavailable::Timeout),
    ] {
        assert_eq!(key().seal(&record(Content::Verdict(verdict))), None);
    }
    assert!(key().seal(&record(Content::Verdict(Verdict::Invalid))).is_some());
    // Roles as long as an identity may have.
    let mut identity = Identity::builder();
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        let name = format!("x-authgear-{name}");
        identity.push(name.as_bytes(), &vec![b'x'; 8000]).unwrap();
    }
    let large = Verdict::Valid(identity.build());
    assert_eq!(key().seal(&record(Content::Verdict(large))), None);
}

#[test]
fn secrets_prefixes_scopes_and_credentials_share_nothing() {
    let own = key();
    let endpoint = RecordScope::new("https://other.example.com", "");
    let cookies = RecordScope::new("https://auth.example.com", "b_");
    let moved = RecordScope::new("https://auth.example.comb_", "");
    let others = [
        key_of(&keys(B, "authgear"), &scope(), &bearer("token")),
        key_of(&keys(A, "other"), &scope(), &bearer("token")),
        key_of(&keys(A, "authgear"), &endpoint, &bearer("token")),
        key_of(&keys(A, "authgear"), &cookies, &bearer("token")),
        key_of(&keys(A, "authgear"), &moved, &bearer("token")),
        key_of(&keys(A, "authgear"), &scope(), &bearer("token2")),
    ];
    let sealed = own.seal(&record(Content::Verdict(valid(b"alice")))).unwrap();
    for (n, other) in others.iter().enumerate() {
        assert_ne!(other.name(), own.name(), "{n}");
        assert_eq!(other.open(&sealed), None, "{n}");
    }
    // The first secret seals.
    let rotated = keys(&format!("{A}\n{B}"), "authgear");
    assert!(key_of(&rotated, &scope(), &bearer("token")).open(&sealed).is_some());
}

#[test]
fn nothing_is_told_by_debug_or_by_the_sealed_form() {
    let keys = keys(A, "authgear");
    assert_eq!(format!("{keys:?} {:?}", key()), "RecordKeys RecordKey");
    let sealed = key().seal(&record(Content::Verdict(valid(b"alice")))).unwrap();
    assert!(!sealed.windows(5).any(|bytes| bytes == b"alice"));
    // Lengths tell little.
    let longer = key().seal(&record(Content::Verdict(valid(b"bob the builder")))).unwrap();
    assert_eq!((sealed.len() - 29, longer.len()), (64, sealed.len()));
}

#[test]
fn authentic_bytes_that_are_no_record_open_nothing() {
    let good = record(Content::Verdict(Verdict::Invalid)).encode().unwrap();
    assert!(Record::decode(&good).is_some());
    for (at, byte) in [(0, 0), (0, 3), (34, 2), (35, 2), (35, 9), (36, 1), (63, 1)] {
        let mut bad = good.clone();
        bad[at] = byte;
        assert_eq!(Record::decode(&bad), None, "{at} {byte}");
    }
    for length in 0..good.len() {
        assert_eq!(Record::decode(&good[..length]), None, "{length}");
    }
    assert_eq!(Record::decode(&[&good[..], &[0]].concat()), None);
}

proptest! {
    #[test]
    fn records_open_as_they_were_sealed(
        words: [u64; 3],
        expires_at in prop::option::of(0..u64::MAX),
        user in "[ -~]{0,300}",
        lease: Option<LeaseId>,
    ) {
        let [incarnation, position, asked_at] = words;
        let content = match lease {
            Some(id) => Content::Lease(id),
            None => Content::Verdict(valid(user.as_bytes())),
        };
        let (incarnation, position) = (Incarnation(incarnation), Position(position));
        let record = Record { content, incarnation, position, asked_at, expires_at };
        let sealed = key().seal(&record).unwrap();
        prop_assert_eq!((sealed.len() - 29) % 64, 0);
        prop_assert_eq!(key().open(&sealed), Some(record.clone()));
        // A seal is never made twice.
        prop_assert_ne!(key().seal(&record), Some(sealed));
    }

    #[test]
    fn any_changed_bit_opens_nothing(at: prop::sample::Index, bit in 0..8, cut: prop::sample::Index) {
        let sealed = key().seal(&record(Content::Verdict(valid(b"alice")))).unwrap();
        let mut changed = sealed.clone();
        changed[at.index(sealed.len())] ^= 1_u8 << bit;
        prop_assert_eq!(key().open(&changed), None);
        prop_assert_eq!(key().open(&sealed[..cut.index(sealed.len())]), None);
    }

    #[test]
    fn any_bytes_open_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(key().open(&bytes), None);
        prop_assert_eq!(key().open(&[&[VERSION][..], &bytes].concat()), None);
        let _ = Record::decode(&bytes);
    }
}
