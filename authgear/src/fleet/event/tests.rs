use super::*;
use proptest::prelude::*;

const PREFIX: &str = "authgear";
const PUBLISHER: Publisher = Publisher::from_bytes([7; 16]);

fn secrets() -> Secrets {
    Secrets::read(b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n").unwrap()
}

fn sealer() -> Sealer {
    Sealer::new(&secrets(), PREFIX, PUBLISHER).unwrap()
}

fn open_as(prefix: &str, value: &[u8]) -> Option<(u64, Event)> {
    let (header, sealed) = Header::split(value)?;
    let key = EventKey::new(secrets().first(), &header.publisher).unwrap();
    Some((header.number, key.open(prefix, &header, sealed)?))
}

fn open(value: &[u8]) -> Option<(u64, Event)> {
    open_as(PREFIX, value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn id(id: &str) -> UserId {
    UserId::new(id.as_bytes()).unwrap()
}

fn events() -> [Event; 6] {
    let at = 0x0102_0304_0506_0708;
    let end = What::End { user: id("alice"), issued: 0x11, until: 0x22 };
    let period = |period| What::Period { user: id("alice"), order: 9, period };
    [
        Event::user(at, None, b"alice"),
        Event { at, project: Some([0xee; 32]), what: end },
        Event::everything(at, Some([0xee; 32])),
        Event { at, project: None, what: period(Some((0x33, u64::MAX))) },
        Event { at, project: None, what: period(None) },
        Event::again(at),
    ]
}

#[test]
fn plain_texts_are_these_bytes() {
    let at = "0102030405060708";
    let project = "01".to_owned() + &"ee".repeat(32);
    let alice = "0005616c696365";
    let n = |n: u64| format!("{n:016x}");
    let expected = [
        format!("01{at}00{alice}"),
        format!("02{at}{project}{alice}{}{}", n(0x11), n(0x22)),
        format!("03{at}{project}"),
        format!("04{at}00{alice}{}{}{}", n(9), n(0x33), n(u64::MAX)),
        format!("04{at}00{alice}{}{}{}", n(9), n(0), n(0)),
        format!("05{at}00"),
    ];
    for (event, expected) in events().iter().zip(expected) {
        assert_eq!(hex(&event.encode()), expected);
        assert_eq!(Event::decode(&event.encode()), *event);
    }
}

/// Sealed text computed by AES-256-GCM of Python's `cryptography`, with the key in the tests of
/// `secret`.
#[test]
fn a_sealed_event_is_these_bytes() {
    let value = sealer().seal(0x0a0b, &events()[0]).unwrap();
    let secret = secrets().first().id();
    let header = format!("01{secret}{}{:016x}", "07".repeat(16), 0x0a0b);
    let sealed = "10b7646041f12e7f9bc7589dc6d2c4a58617036e8542a8e236d053b017d47a9fc8";
    assert_eq!(hex(&value), header + sealed);
    assert_eq!(open(&value), Some((0x0a0b, events()[0].clone())));
}

#[test]
fn a_longest_event_fits_its_caps() {
    let user = UserId::new(&[b'u'; MAX_USER_ID]).unwrap();
    let what = What::Period { user, order: u64::MAX, period: Some((1, u64::MAX)) };
    let event = Event { at: u64::MAX, project: Some([0xff; 32]), what };
    assert_eq!(event.encode().len(), MAX_PLAIN);
    let value = sealer().seal(u64::MAX, &event).unwrap();
    assert_eq!(value.len(), HEADER + MAX_PLAIN + TAG);
    assert_eq!(open(&value), Some((u64::MAX, event)));
}

#[test]
fn an_id_that_is_no_user_id_purges_the_project() {
    for wrong in [&b""[..], &[b'u'; MAX_USER_ID + 1]] {
        assert_eq!(UserId::new(wrong), None);
        assert_eq!(Event::user(5, Some([1; 32]), wrong), Event::everything(5, Some([1; 32])));
    }
}

#[test]
fn an_authentic_event_that_is_not_known_is_everything() {
    let everything = Event::everything(u64::MAX, None);
    let known = events()[1].encode();
    for kind in [0, 5, 255] {
        let mut plain = known.clone();
        plain[0] = kind;
        assert_eq!(Event::decode(&plain), everything);
    }
    for length in 0..known.len() {
        assert_eq!(Event::decode(&known[..length]), everything, "{length}");
    }
    assert_eq!(Event::decode(&[&known[..], &[0]].concat()), everything);
    let mut project = known;
    project[9] = 2;
    assert_eq!(Event::decode(&project), everything);
    // The same, through the seal.
    let header = Header { secret: secrets().first().id(), publisher: PUBLISHER, number: 3 };
    let mut text = vec![77];
    let key = EventKey::new(secrets().first(), &PUBLISHER).unwrap();
    key.0.seal_in_place_append_tag(header.nonce(), header.aad(PREFIX), &mut text).unwrap();
    assert_eq!(open(&[&header.encode()[..], &text].concat()), Some((3, everything)));
}

#[test]
fn other_prefixes_secrets_and_publishers_open_nothing() {
    let value = sealer().seal(1, &events()[0]).unwrap();
    assert!(open(&value).is_some());
    assert_eq!(open_as("other", &value), None);
    let (header, sealed) = Header::split(&value).unwrap();
    let other = Secrets::read(b"bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb").unwrap();
    let key = EventKey::new(other.first(), &PUBLISHER).unwrap();
    assert_eq!(key.open(PREFIX, &header, sealed), None);
    let key = EventKey::new(secrets().first(), &Publisher::from_bytes([8; 16])).unwrap();
    assert_eq!(key.open(PREFIX, &header, sealed), None);
}

#[test]
fn debug_shows_no_user() {
    let shown = format!("{:?} {:?}", events(), sealer());
    assert!(!shown.contains("alice") && !shown.contains("97, 108"), "{shown}");
}

fn any_event() -> impl Strategy<Value = Event> {
    let user = || {
        prop::collection::vec(any::<u8>(), 1..=MAX_USER_ID).prop_map(|id| UserId::new(&id).unwrap())
    };
    let period = prop::option::of((any::<u64>(), 1..=u64::MAX));
    let what = prop_oneof![
        user().prop_map(What::User),
        (user(), any::<u64>(), any::<u64>()).prop_map(|(user, issued, until)| What::End {
            user,
            issued,
            until
        }),
        (user(), any::<u64>(), period).prop_map(|(user, order, period)| What::Period {
            user,
            order,
            period
        }),
        Just(What::Everything),
        Just(What::Again),
    ];
    (any::<u64>(), any::<Option<ProjectId>>(), what).prop_map(|(at, project, what)| Event {
        at,
        project,
        what,
    })
}

proptest! {
    #[test]
    fn what_is_sealed_is_opened(event in any_event(), number: u64) {
        let value = sealer().seal(number, &event).unwrap();
        prop_assert_eq!(open(&value), Some((number, event)));
    }

    #[test]
    fn any_flipped_bit_opens_nothing(event in any_event(), number: u64, at: prop::sample::Index) {
        let mut value = sealer().seal(number, &event).unwrap();
        let bit = at.index(value.len() * 8);
        value[bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(open(&value), None);
    }

    #[test]
    fn a_value_cut_short_or_longer_opens_nothing(
        event in any_event(),
        at: prop::sample::Index,
        more in prop::collection::vec(any::<u8>(), 1..20),
    ) {
        let value = sealer().seal(7, &event).unwrap();
        prop_assert_eq!(open(&value[..at.index(value.len())]), None);
        prop_assert_eq!(open(&[value, more].concat()), None);
    }

    #[test]
    fn no_bytes_panic(value in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = (open(&value), Event::decode(&value));
    }
}
