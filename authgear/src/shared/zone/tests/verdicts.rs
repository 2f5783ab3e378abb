//! Verdicts: kept, replaced, removed; room and sizes.

use super::super::layout::{Header, CHUNK, FURTHER, INLINE, MIN_CHUNKS};
use super::*;
use crate::identity::Identity;
use crate::verdict::Verdict;

#[test]
fn verdicts_are_kept_until_replaced_or_removed() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    assert!(zone.get(&key(1)).is_none());
    let stored = zone.store(&key(1), None, Worth::Lasting, (5, 70), b"one");
    assert_eq!(stored, Stored { kept: true, waiters: Waiters::default() });
    let record = zone.get(&key(1)).unwrap();
    assert_eq!((record.fetched_at, record.expires_at, &*record.data), (5, 70, &b"one"[..]));
    assert_eq!(format!("{record:?}"), "Record { fetched_at: 5, expires_at: 70, proven: true, .. }");
    // In the same bucket.
    assert!(zone.get(&key(9)).is_none());

    assert!(zone.store(&key(1), None, Worth::Lasting, (6, NEVER), b"").kept);
    let record = zone.get(&key(1)).unwrap();
    assert_eq!((record.fetched_at, record.expires_at, &*record.data), (6, NEVER, &b""[..]));
    assert_eq!(zone.stats().entries, 1);

    assert!(zone.remove(&key(1)).is_empty() && zone.remove(&key(2)).is_empty());
    assert!(zone.get(&key(1)).is_none());
    assert_eq!(zone.stats().entries, 0);
    check(&zone);
    assert!(!zone.emptied());
}

#[test]
fn data_of_any_size_comes_back() {
    let mut memory = Memory::new(1 << 18);
    let mut zone = memory.open();
    let all = zone.stats().chunks;
    for len in
        [0, 1, INLINE - 1, INLINE, INLINE + 1, INLINE + FURTHER, INLINE + FURTHER + 1, MAX_DATA]
    {
        let data: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
        assert!(put(&mut zone, 1, &data).kept, "{len}");
        assert_eq!(*zone.get(&key(1)).unwrap().data, data, "{len}");
        assert_eq!(zone.stats().chunks_free, all - 1 - further_chunks(len));
        check(&zone);
    }
    assert_eq!(further_chunks(INLINE), 0);
    assert_eq!(further_chunks(INLINE + FURTHER), 1);
    assert_eq!(further_chunks(INLINE + FURTHER + 1), 2);
}

#[test]
fn what_is_too_large_is_not_kept() {
    for (size, len) in [(1 << 18, MAX_DATA + 1), (MIN_SIZE, INLINE + 13 * FURTHER + 1)] {
        let mut memory = Memory::new(size);
        let mut zone = memory.open();
        let data = vec![1; len];
        assert!(put(&mut zone, 1, &data[1..]).kept);
        assert_eq!(put(&mut zone, 1, &data), Stored::default());
        assert!(!has(&mut zone, 1));
        assert_eq!(zone.stats().entries, 0);
        assert_eq!(put(&mut zone, 1, &data), Stored::default());

        assert!(put(&mut zone, 2, b"other").kept);
        let id = leader(zone.lead(&key(1), A, 0, 100));
        zone.lead(&key(1), B, 0, 100);
        assert!(put(&mut zone, 1, b"v").kept);
        let id = leader(zone.lead(&key(1), A, 0, 100)).max(id);
        zone.lead(&key(1), B, 0, 100);
        // The wrong flight goes on, the right one ends.
        let stored = zone.store(&key(1), Some(id - 1), Worth::Lasting, (0, NEVER), &data);
        assert_eq!(stored, Stored::default());
        assert_eq!(zone.outcome(&key(1), id), Outcome::Pending);
        let stored = zone.store(&key(1), Some(id), Worth::Lasting, (0, NEVER), &data);
        assert_eq!((stored.kept, slots(stored.waiters)), (false, vec![64]));
        assert_eq!(zone.outcome(&key(1), id), Outcome::Gone);

        // What failed before is not forgotten for it.
        let id = leader(zone.lead(&key(1), A, 0, 100));
        zone.fail(&key(1), id, 3);
        assert!(!put(&mut zone, 1, &data).kept);
        assert_eq!(zone.outcome(&key(1), id), Outcome::Failed(3));
        assert!(has(&mut zone, 2));
        check(&zone);
    }
}

#[test]
fn removing_wakes() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    let id = leader(zone.lead(&key(1), A, 0, 100));
    zone.lead(&key(1), B, 0, 100);
    assert!(zone.forget(&key(1)), "it is in flight");
    assert_eq!(slots(zone.remove(&key(1))), [64]);
    assert!(!zone.forget(&key(1)));
    assert_eq!(zone.outcome(&key(1), id), Outcome::Gone);
    assert!(put(&mut zone, 1, &[0; 1000]).kept && zone.remove(&key(1)).is_empty());
    assert!(put(&mut zone, 1, &[0; 1000]).kept && !zone.forget(&key(1)));
    assert!(zone.get(&key(1)).is_none());
    let stats = zone.stats();
    assert_eq!((stats.entries, stats.chunks_free), (0, stats.chunks));
}

#[test]
fn clearing_leaves_nothing_but_counts() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    for n in 0..20 {
        assert!(put(&mut zone, n, b"v").kept);
    }
    let id = leader(zone.lead(&key(19), A, 0, 100));
    let before = zone.stats();
    zone.clear();
    let after = Stats { entries: 0, chunks_free: before.chunks, ..before };
    assert_eq!((before.evictions, zone.stats()), (6, after));
    assert!(!has(&mut zone, 19) && !zone.emptied());
    assert_eq!(zone.outcome(&key(19), id), Outcome::Gone);
    // A flight from before is never taken for one from after.
    assert!(leader(zone.lead(&key(19), A, 0, 100)) > id);
    assert_eq!(check(&zone), [vec![], vec![], vec![key(19)], vec![]]);
}

#[test]
fn a_zone_survives_being_closed() {
    let mut memory = Memory::new(MIN_SIZE);
    assert!(put(&mut memory.open(), 1, &[3; 2000]).kept);
    let id = leader(memory.open().lead(&key(2), A, 0, 100));
    assert_eq!(*memory.open().get(&key(1)).unwrap().data, [3; 2000]);
    assert_eq!(memory.open().outcome(&key(2), id), Outcome::Pending);
    let text = format!("{:?}", memory.open());
    assert!(text.starts_with("Zone { stats: Stats { entries: 2, "), "{text}");
}

#[test]
fn memory_that_is_no_zone_is_refused() {
    for len in [0, 1, 8, MIN_SIZE - 1] {
        assert_eq!(Zone::format(Memory::raw(len).bytes()), Err(ZoneError::Size), "{len}");
    }
    let mut memory = Memory::raw(MIN_SIZE + 16);
    for at in 1..8 {
        let odd = &mut memory.bytes()[at..];
        assert_eq!(Zone::format(odd), Err(ZoneError::Alignment), "{at}");
        assert!(matches!(Zone::open(odd, &AtomicU32::new(1)), Err(ZoneError::Alignment)));
    }
    assert!(matches!(memory.try_open(), Err(ZoneError::Magic)));
    Zone::format(memory.bytes()).unwrap();
    let shorter = &mut memory.bytes()[..MIN_SIZE];
    assert!(matches!(Zone::open(shorter, &AtomicU32::new(0)), Err(ZoneError::Size)));
    // Of another version: behind magic and size.
    memory.words[2] ^= 0xff;
    memory.words[2] ^= 0xff << 32;
    assert!(matches!(memory.try_open(), Err(ZoneError::Version)));
    // Its contents do not matter when a process died in it.
    memory.dirty = AtomicU32::new(1);
    assert!(memory.try_open().unwrap().emptied());
    assert!(!memory.try_open().unwrap().emptied());
}

#[test]
fn any_size_from_the_least_on_has_room() {
    for len in (MIN_SIZE..MIN_SIZE + 20_000).chain([1 << 20, (1 << 24) - 4096, 1 << 24]) {
        let mut memory = Memory::raw(len);
        Zone::format(memory.bytes()).unwrap();
        let zone = memory.try_open().unwrap();
        let (chunks, buckets) = (zone.stats().chunks, zone.region.buckets.len());
        assert!(chunks >= MIN_CHUNKS && buckets.is_power_of_two());
        // Little is wasted.
        let header = size_of::<Header>();
        assert!(chunks * 256 + buckets * 7 + header + CHUNK > len);
        assert!(chunks <= buckets + 1 && buckets <= 2 * chunks + 4, "{len}: {chunks}, {buckets}");
    }
}

#[test]
fn a_session_takes_few_bytes() {
    let mut builder = Identity::builder();
    for (name, value) in [
        ("session-valid", "true"),
        ("user-id", "5e0f2b7c-0a2c-4a38-9d0a-2f1b3c4d5e6f"),
        ("user-anonymous", "false"),
        ("user-verified", "true"),
        ("user-can-reauthenticate", "true"),
        ("session-amr", "pwd,otp,mfa"),
        ("session-authenticated-at", "1700000000"),
    ] {
        builder.push(format!("x-authgear-{name}").as_bytes(), value.as_bytes()).unwrap();
    }
    let mut data = Vec::new();
    assert!(Verdict::Valid(builder.build()).encode(&mut data));
    for size in [64 << 10, 1 << 20, 10 << 20] {
        let mut memory = Memory::new(size);
        let mut zone = memory.open();
        let mut sessions = 0;
        loop {
            assert!(put(&mut zone, sessions, &data).kept);
            if zone.stats().evictions > 0 {
                break;
            }
            sessions += 1;
        }
        let bytes = size as f64 / f64::from(sessions);
        println!(
            "{size} bytes: {sessions} sessions, {bytes:.1} bytes each, {} of them data",
            data.len()
        );
        assert!(bytes <= 295.0);
    }
}
