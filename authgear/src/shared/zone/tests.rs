use std::cell::Cell;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::panic::{catch_unwind, AssertUnwindSafe};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use zerocopy::{transmute_ref, IntoBytes};

use super::layout::{kind, Further, CHUNK, FURTHER, INLINE, MIN_CHUNKS, NIL};
use super::*;
use crate::identity::Identity;
use crate::verdict::Verdict;

const A: Owner = Owner { slot: 1, pid: 101 };
const B: Owner = Owner { slot: 64, pid: 102 };
const C: Owner = Owner { slot: 127, pid: 103 };
const POLLING: Owner = Owner { slot: MAX_SLOTS, pid: 104 };

/// Memory of a zone, and its mark.
struct Memory {
    words: Vec<u64>,
    len: usize,
    dirty: AtomicU32,
}

impl Memory {
    fn raw(len: usize) -> Self {
        Self { words: vec![u64::MAX / 3; len.div_ceil(8)], len, dirty: AtomicU32::new(0) }
    }

    fn new(len: usize) -> Self {
        let mut memory = Self::raw(len);
        Zone::format(memory.bytes()).unwrap();
        memory
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.words.as_mut_bytes()[..self.len]
    }

    fn try_open(&mut self) -> Result<Zone<'_>, ZoneError> {
        Zone::open(&mut self.words.as_mut_bytes()[..self.len], &self.dirty)
    }

    fn open(&mut self) -> Zone<'_> {
        let zone = self.try_open().unwrap();
        let emptied = zone.emptied();
        assert!(!emptied);
        zone
    }
}

/// Keys of which every eighth is in the same bucket.
fn key(n: u32) -> Key {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&(n % 8).to_ne_bytes());
    bytes[12..].copy_from_slice(&n.to_ne_bytes());
    Key::from_bytes(bytes)
}

fn put(zone: &mut Zone<'_>, n: u32, data: &[u8]) -> Stored {
    zone.store(&key(n), None, 0, NEVER, data)
}

fn has(zone: &mut Zone<'_>, n: u32) -> bool {
    zone.get(&key(n)).is_some()
}

fn leader(flight: Flight) -> u64 {
    match flight {
        Flight::Leader { id } => id,
        _ => panic!("{flight:?}"),
    }
}

fn slots(waiters: Waiters) -> Vec<u16> {
    assert_eq!(waiters.is_empty(), waiters.slots().next().is_none());
    waiters.slots().collect()
}

/// Checks everything that must be true of a zone; the keys of its two lists, used last first.
fn check(zone: &Zone<'_>) -> [Vec<Key>; 2] {
    let region = &zone.region;
    let header = &*region.header;
    let mut seen = HashSet::new();
    let lists = [(false, header.idle), (true, header.flying)].map(|(flying, ends)| {
        let (mut newer, mut at) = (NIL, ends.head);
        let mut keys = Vec::new();
        while at != NIL {
            assert!(seen.insert(at) && at < header.touched);
            let entry = &region.chunks[at as usize];
            assert_eq!((entry.kind, entry.newer), (kind::ENTRY, newer));
            assert_eq!(entry.flight != 0, flying);
            assert!(flying || entry.waiters == [0; 2]);
            let key = Key::from_bytes(entry.key);
            assert_eq!(region.find(&key).unwrap(), Some(at));
            keys.push(key);
            let mut next = entry.next;
            for _ in 0..further_chunks(entry.data_len as usize) {
                assert!(seen.insert(next) && next < header.touched);
                let further: &Further = transmute_ref!(&region.chunks[next as usize]);
                assert_eq!(further.kind, kind::FURTHER);
                next = further.next;
            }
            assert_eq!(next, NIL);
            assert!(entry.has_verdict == 1 || entry.data_len == 0);
            (newer, at) = (at, entry.older);
        }
        assert_eq!(ends.tail, newer);
        keys
    });
    assert_eq!(lists.iter().map(Vec::len).sum::<usize>(), header.entries as usize);
    let mut free = header.free;
    for _ in 0..header.free_count {
        assert!(seen.insert(free) && free < header.touched);
        assert_eq!(region.chunks[free as usize].kind, kind::FREE);
        free = region.chunks[free as usize].next;
    }
    assert_eq!(free, NIL);
    assert_eq!(seen.len(), header.touched as usize);
    let mut reachable = 0;
    for &head in &*region.buckets {
        let mut at = head;
        while at != NIL {
            reachable += 1;
            at = region.chunks[at as usize].bucket_next;
        }
    }
    assert_eq!(reachable, header.entries);
    lists
}

#[test]
fn verdicts_are_kept_until_replaced_or_removed() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    assert!(zone.get(&key(1)).is_none());
    let stored = zone.store(&key(1), None, 5, 70, b"one");
    assert_eq!(stored, Stored { kept: true, waiters: Waiters::default() });
    let record = zone.get(&key(1)).unwrap();
    assert_eq!((record.fetched_at, record.expires_at, &*record.data), (5, 70, &b"one"[..]));
    assert_eq!(format!("{record:?}"), "Record { fetched_at: 5, expires_at: 70, .. }");
    // In the same bucket.
    assert!(zone.get(&key(9)).is_none());

    assert!(zone.store(&key(1), None, 6, NEVER, b"").kept);
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
fn what_was_used_longest_ago_makes_room() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    let chunks = MIN_CHUNKS as u32;
    for n in 0..chunks {
        assert!(put(&mut zone, n, b"").kept);
    }
    assert_eq!((zone.stats().chunks_free, zone.stats().evictions), (0, 0));
    // Used, used and replaced: 0, 1 and 2 are no longer the oldest.
    assert!(has(&mut zone, 0) && has(&mut zone, 1) && put(&mut zone, 2, b"new").kept);
    assert!(put(&mut zone, 100, b"").kept);
    assert!(!has(&mut zone, 3) && has(&mut zone, 4));
    assert_eq!(zone.stats().evictions, 1);
    // Three at once; 4 was used just now.
    assert!(put(&mut zone, 101, &[0; INLINE + 2 * FURTHER]).kept);
    assert_eq!(zone.stats().evictions, 4);
    let left: Vec<_> = (0..chunks).filter(|&n| has(&mut zone, n)).collect();
    assert_eq!(left, [0, 1, 2, 4, 8, 9, 10, 11, 12, 13, 14, 15]);
    check(&zone);
}

#[test]
fn what_is_in_flight_makes_room_last() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    let id = leader(zone.lead(&key(0), A, 0, 100));
    for n in 1..100 {
        assert!(zone.store(&key(n), None, 1, NEVER, b"").kept);
    }
    assert_eq!(zone.outcome(&key(0), id), Outcome::Pending);
    // All of the zone is wanted.
    let most = INLINE + (MIN_CHUNKS - 1) * FURTHER;
    assert!(zone.store(&key(1), None, 1, NEVER, &vec![1; most]).kept);
    assert_eq!(zone.outcome(&key(0), id), Outcome::Gone);
    assert_eq!(zone.stats().chunks_free, 0);
    // Its leader comes back, and its verdict is good all the same.
    assert!(zone.store(&key(0), Some(id), 2, NEVER, b"late").kept);
    assert_eq!(check(&zone), [vec![key(0)], vec![]]);
}

#[test]
fn a_flight_whose_lease_is_over_makes_room_first() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    let id = leader(zone.lead(&key(0), A, 0, 100));
    for n in 1..MIN_CHUNKS as u32 {
        assert!(zone.store(&key(n), None, 99, NEVER, b"").kept);
    }
    assert!(zone.store(&key(98), None, 99, NEVER, b"").kept);
    assert!(!has(&mut zone, 1));
    assert_eq!(zone.outcome(&key(0), id), Outcome::Pending);
    assert!(zone.store(&key(99), None, 100, NEVER, b"").kept);
    assert!(has(&mut zone, 2));
    assert_eq!(zone.outcome(&key(0), id), Outcome::Gone);
}

#[test]
fn flights_do_not_push_each_other_out() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    assert!(put(&mut zone, 99, &[0; 1000]).kept);
    for n in 0..MIN_CHUNKS as u32 {
        leader(zone.lead(&key(n), A, 10, 100));
    }
    assert!(!has(&mut zone, 99));
    assert_eq!(zone.lead(&key(50), B, 20, 120), Flight::Alone);
    assert!(matches!(zone.lead(&key(0), B, 20, 120), Flight::Follower { .. }));
    // Now there are some whose owner had its time.
    assert!(matches!(zone.lead(&key(50), B, 100, 200), Flight::Leader { .. }));
    assert_eq!(zone.outcome(&key(0), 1), Outcome::Gone);
    check(&zone);
}

#[test]
fn followers_wait_for_the_leader() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    let id = leader(zone.lead(&key(1), A, 10, 100));
    assert!(zone.get(&key(1)).is_none());
    let follower = Flight::Follower { id, owner: A, lease_until: 100 };
    for owner in [B, C, POLLING, Owner { slot: u16::MAX, pid: 1 }, B] {
        assert_eq!(zone.lead(&key(1), owner, 99, 500), follower);
    }
    assert_eq!(zone.outcome(&key(1), id), Outcome::Pending);
    for (other, id) in [(key(1), id + 1), (key(1), 0), (key(2), id)] {
        assert_eq!(zone.outcome(&other, id), Outcome::Gone);
    }
    let Stored { kept, waiters } = zone.store(&key(1), Some(id), 50, NEVER, b"v");
    assert!(kept);
    assert_eq!(slots(waiters), [64, 127]);
    assert_eq!(<[u64; 2]>::from(waiters), [0, 1 | 1 << 63]);
    assert_eq!(zone.outcome(&key(1), id), Outcome::Gone);
    assert!(has(&mut zone, 1));
    // They waited once.
    assert!(zone.store(&key(1), Some(id), 60, NEVER, b"v").waiters.is_empty());
    let next = leader(zone.lead(&key(1), B, 60, 100));
    assert!(next > id && zone.store(&key(1), Some(next), 60, NEVER, b"v").waiters.is_empty());
    check(&zone);
}

#[test]
fn a_flight_ends_without_a_verdict() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    let id = leader(zone.lead(&key(1), A, 0, 100));
    zone.lead(&key(1), B, 1, 100);
    for (other, wrong) in [(key(1), id + 1), (key(1), 0), (key(2), id)] {
        assert!(zone.fail(&other, wrong, 1).is_empty());
    }
    assert_eq!(zone.outcome(&key(1), id), Outcome::Pending);
    assert_eq!(slots(zone.fail(&key(1), id, 7)), [64]);
    assert_eq!(zone.outcome(&key(1), id), Outcome::Failed(7));
    assert_eq!(zone.outcome(&key(1), 0), Outcome::Gone);
    assert!(zone.fail(&key(1), id, 8).is_empty() && zone.get(&key(1)).is_none());

    // Late followers learn it even while there is another flight.
    let second = leader(zone.lead(&key(1), B, 2, 100));
    assert_eq!(zone.outcome(&key(1), id), Outcome::Failed(7));
    assert_eq!(zone.outcome(&key(1), second), Outcome::Pending);
    assert!(zone.fail(&key(1), second, 9).is_empty());
    assert_eq!(zone.outcome(&key(1), id), Outcome::Gone);
    assert_eq!(zone.outcome(&key(1), second), Outcome::Failed(9));

    // A verdict is better news.
    assert!(put(&mut zone, 1, b"v").kept);
    assert_eq!(zone.outcome(&key(1), second), Outcome::Gone);

    // What is old may still be good for something.
    let third = leader(zone.lead(&key(1), B, 2, 100));
    assert!(has(&mut zone, 1));
    zone.fail(&key(1), third, 1);
    assert!(has(&mut zone, 1));

    // What is left of failures goes as everything does.
    for n in 10..10 + MIN_CHUNKS as u32 {
        let id = leader(zone.lead(&key(n), A, 5, 100));
        zone.fail(&key(n), id, 1);
    }
    assert!(!has(&mut zone, 1));
    for n in 40..40 + MIN_CHUNKS as u32 {
        assert!(put(&mut zone, n, b"").kept);
    }
    assert_eq!(zone.outcome(&key(10), third + 1), Outcome::Gone);
    check(&zone);
}

#[test]
fn a_flight_whose_lease_is_over_is_taken_over() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    let first = leader(zone.lead(&key(1), A, 0, 100));
    zone.lead(&key(1), C, 99, 500);
    let second = leader(zone.lead(&key(1), B, 100, 200));
    assert_ne!(first, second);
    assert_eq!(zone.outcome(&key(1), first), Outcome::Gone);
    assert_eq!(
        zone.lead(&key(1), A, 150, 500),
        Flight::Follower { id: second, owner: B, lease_until: 200 }
    );
    // The first one is back: nobody is woken, but its verdict counts.
    assert!(zone.fail(&key(1), first, 1).is_empty());
    let stored = zone.store(&key(1), Some(first), 160, NEVER, b"first");
    assert_eq!(stored, Stored { kept: true, waiters: Waiters::default() });
    assert!(has(&mut zone, 1));
    assert_eq!(zone.outcome(&key(1), second), Outcome::Pending);
    // Who waited for the first waited for the second.
    let stored = zone.store(&key(1), Some(second), 170, NEVER, b"second");
    assert_eq!(slots(stored.waiters), [1, 127]);
    assert_eq!(*zone.get(&key(1)).unwrap().data, *b"second");

    // The owner is known to be dead: its end of lease is as good as passed. Who comes second
    // finds the new flight.
    let third = leader(zone.lead(&key(1), A, 200, 300));
    let Flight::Follower { id, lease_until, .. } = zone.lead(&key(1), B, 201, 301) else {
        panic!()
    };
    assert_eq!(id, third);
    let fourth = leader(zone.lead(&key(1), B, lease_until, 301));
    let flight = zone.lead(&key(1), C, lease_until, 302);
    assert_eq!(flight, Flight::Follower { id: fourth, owner: B, lease_until: 301 });

    // A verdict from elsewhere ends any flight.
    assert_eq!(slots(put(&mut zone, 1, b"").waiters), [64, 127]);
    assert_eq!(zone.outcome(&key(1), fourth), Outcome::Gone);
    check(&zone);
}

#[test]
fn what_is_too_large_is_not_kept() {
    for (size, len) in [(1 << 18, MAX_DATA + 1), (MIN_SIZE, INLINE + 15 * FURTHER + 1)] {
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
        let stored = zone.store(&key(1), Some(id - 1), 0, NEVER, &data);
        assert_eq!(stored, Stored::default());
        assert_eq!(zone.outcome(&key(1), id), Outcome::Pending);
        let stored = zone.store(&key(1), Some(id), 0, NEVER, &data);
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
    assert_eq!((before.evictions, zone.stats()), (4, after));
    assert!(!has(&mut zone, 19) && !zone.emptied());
    assert_eq!(zone.outcome(&key(19), id), Outcome::Gone);
    // A flight from before is never taken for one from after.
    assert!(leader(zone.lead(&key(19), A, 0, 100)) > id);
    assert_eq!(check(&zone), [vec![], vec![key(19)]]);
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
        assert!(chunks * 256 + buckets * 4 + 72 + CHUNK > len);
        assert!(chunks <= buckets + 1 && buckets <= 2 * chunks + 2, "{len}: {chunks}, {buckets}");
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
        assert!(bytes <= 272.0);
    }
}

#[test]
fn the_mark_is_there_during_a_change_and_after_a_crash() {
    let mut memory = Memory::new(MIN_SIZE);
    assert!(put(&mut memory.open(), 1, b"v").kept);
    let id = leader(memory.open().lead(&key(3), A, 0, 100));
    let dirty = AtomicU32::new(0);
    let seen = Cell::new(0);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut zone = Zone::open(memory.bytes(), &dirty).unwrap();
        zone.change(|region| {
            region.insert(&key(2)).unwrap();
            seen.set(dirty.load(Ordering::SeqCst));
            if true {
                panic!("a crash");
            }
            Ok(())
        });
    }));
    assert!(result.is_err() && seen.get() == 1);
    let mut zone = Zone::open(memory.bytes(), &dirty).unwrap();
    let emptied = zone.emptied();
    assert!(emptied && zone.emptied() && !has(&mut zone, 1));
    assert_eq!(dirty.load(Ordering::SeqCst), 0);
    assert_eq!(check(&zone), [vec![], vec![]]);
    assert!(put(&mut zone, 1, b"v").kept && has(&mut zone, 1));
    // The leader may still be alive: its flight is none of the new ones.
    assert!(leader(zone.lead(&key(3), B, 0, 100)) > id);
}

#[test]
fn contradictions_empty_the_zone() {
    let damages: [fn(&mut Region<'_>); 10] = [
        // Circles and dead ends.
        |region| region.chunks[2].bucket_next = 2,
        |region| region.chunks[2].bucket_next = NIL - 1,
        |region| region.chunks[2].kind = kind::FREE,
        |region| region.chunks[0].data_len = u32::MAX,
        |region| region.chunks[0].next = 0,
        |region| region.chunks[0].older = 1,
        |region| region.buckets.fill(1000),
        |region| region.header.entries = 0,
        |region| region.header.idle.head = NIL,
        |region| region.header.touched = 1,
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        let mut memory = Memory::new(MIN_SIZE);
        let mut zone = memory.open();
        assert!(put(&mut zone, 1, &[1; 300]).kept && put(&mut zone, 9, &[1; 10]).kept);
        damage(&mut zone.region);
        // Looks through the whole bucket, and takes all of it apart.
        zone.get(&key(17));
        zone.get(&key(1));
        zone.remove(&key(1));
        zone.remove(&key(9));
        assert!(zone.emptied(), "{n}");
        assert_eq!(check(&zone), [vec![], vec![]], "{n}");
        assert!(put(&mut zone, 1, b"v").kept && has(&mut zone, 1), "{n}");
    }
}

#[test]
fn contradictions_are_seen_without_a_change() {
    let damages: [fn(&mut Region<'_>); 6] = [
        |region| region.chunks[2].bucket_next = 2,
        |region| region.chunks[0].kind = kind::FREE,
        |region| region.chunks[1].kind = kind::ENTRY,
        |region| region.chunks[0].next = NIL,
        |region| region.chunks[1].as_mut_bytes()[..4].fill(0),
        |region| region.header.touched = 1,
    ];
    for (n, damage) in damages.into_iter().enumerate() {
        let mut memory = Memory::new(MIN_SIZE);
        let mut zone = memory.open();
        assert!(put(&mut zone, 1, &[1; 300]).kept && put(&mut zone, 9, b"").kept);
        assert_eq!(zone.region.chunks[0].next, 1);
        damage(&mut zone.region);
        assert!(!has(&mut zone, if n == 0 { 17 } else { 1 }), "{n}");
        assert!(zone.emptied(), "{n}");
        assert_eq!(check(&zone), [vec![], vec![]], "{n}");
    }
}

/// Who makes room is not looked for in its bucket, but must be taken out of it.
#[test]
fn a_bucket_that_is_a_circle_is_seen_when_making_room() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    assert!(put(&mut zone, 1, b"").kept && put(&mut zone, 9, b"").kept);
    zone.region.chunks[1].bucket_next = 1;
    for n in 0..MIN_CHUNKS as u32 {
        zone.lead(&key(8 * n), A, 0, 100);
    }
    assert!(zone.emptied());
    check(&zone);
}

/// A change of a zone, or a question.
#[derive(Clone, Debug)]
enum Op {
    Get,
    Store { id: Id, len: usize, fill: u8 },
    Lead { slot: u16, lease: u64 },
    Fail { id: Id, why: u8 },
    Outcome { id: Id },
    Remove,
    Clear,
}

/// Which flight.
#[derive(Clone, Debug)]
enum Id {
    None,
    /// That of the key, if it has one.
    Own,
    /// Any that there ever was.
    Any(Index),
}

#[derive(Clone, Debug)]
struct Step {
    op: Op,
    key: u32,
    /// Milliseconds since the step before.
    after: u64,
}

fn steps(keys: u32, count: usize) -> impl Strategy<Value = Vec<Step>> {
    let id = prop_oneof![
        1 => Just(Id::None),
        3 => Just(Id::Own),
        1 => any::<Index>().prop_map(Id::Any),
    ]
    .boxed();
    let len = prop_oneof![
        8 => 0..INLINE + 1,
        3 => INLINE..INLINE + 4 * FURTHER,
        1 => prop::sample::select(vec![
            INLINE + FURTHER,
            INLINE + 14 * FURTHER,
            INLINE + 15 * FURTHER,
            INLINE + 15 * FURTHER + 1,
            MAX_DATA,
            MAX_DATA + 1,
        ]),
    ];
    let store = (id.clone(), len, any::<u8>());
    let slot = prop_oneof![0..4_u16, prop::sample::select(vec![63, 64, 127, 128, u16::MAX])];
    let op = prop_oneof![
        60 => Just(Op::Get),
        60 => store.prop_map(|(id, len, fill)| Op::Store { id, len, fill }),
        60 => (slot, 0..60_u64).prop_map(|(slot, lease)| Op::Lead { slot, lease }),
        20 => (id.clone(), any::<u8>()).prop_map(|(id, why)| Op::Fail { id, why }),
        20 => id.prop_map(|id| Op::Outcome { id }),
        10 => Just(Op::Remove),
        1 => Just(Op::Clear),
    ];
    let step = (op, 0..keys, 0..4_u64).prop_map(|(op, key, after)| Step { op, key, after });
    vec(step, 1..count)
}

/// A zone as its documentation says it.
#[derive(Default)]
struct Model {
    chunks: usize,
    entries: HashMap<Key, ModelEntry>,
    /// Used last first.
    idle: VecDeque<Key>,
    flying: VecDeque<Key>,
    evictions: u64,
    flights: u64,
}

#[derive(Default)]
struct ModelEntry {
    verdict: Option<(u64, u64, Vec<u8>)>,
    flight: Option<(u64, Owner, u64)>,
    waiters: BTreeSet<u16>,
    failed: Option<(u64, u8)>,
}

impl ModelEntry {
    fn chunks(&self) -> usize {
        self.verdict.as_ref().map_or(1, |(_, _, data)| 1 + chunks_behind(data.len()))
    }
}

/// Chunks of data besides the first.
fn chunks_behind(len: usize) -> usize {
    let mut chunks = 0;
    while INLINE + chunks * FURTHER < len {
        chunks += 1;
    }
    chunks
}

impl Model {
    fn free(&self) -> usize {
        self.chunks - self.entries.values().map(ModelEntry::chunks).sum::<usize>()
    }

    fn unlink(&mut self, key: &Key) {
        self.idle.retain(|other| other != key);
        self.flying.retain(|other| other != key);
    }

    fn link(&mut self, key: Key) {
        self.unlink(&key);
        match self.entries[&key].flight {
            Some(_) => self.flying.push_front(key),
            None => self.idle.push_front(key),
        }
    }

    fn make_room(&mut self, chunks: usize, now: u64, all: bool) -> bool {
        while self.free() < chunks {
            let flying = self.flying.back().copied();
            let over = flying.filter(|key| self.entries[key].flight.unwrap().2 <= now);
            let idle = self.idle.back().copied();
            let Some(victim) = over.or(idle).or(flying.filter(|_| all)) else { return false };
            self.unlink(&victim);
            self.entries.remove(&victim);
            self.evictions += 1;
        }
        true
    }

    fn id(&self, key: &Key, id: &Id) -> Option<u64> {
        match id {
            Id::None => None,
            Id::Own => Some(self.entries.get(key)?.flight?.0),
            Id::Any(index) => Some(index.index(self.flights as usize + 1) as u64),
        }
    }

    fn get(&mut self, key: &Key) -> Option<(u64, u64, Vec<u8>)> {
        let entry = self.entries.get(key)?;
        let verdict = entry.verdict.clone()?;
        if entry.flight.is_none() {
            self.link(*key);
        }
        Some(verdict)
    }

    fn store(&mut self, key: Key, id: Option<u64>, now: u64, data: Vec<u8>) -> (bool, Vec<u16>) {
        let mut waiters = Vec::new();
        let further = chunks_behind(data.len());
        let kept = data.len() <= MAX_DATA && further < self.chunks;
        let is_new = !self.entries.contains_key(&key);
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.verdict = None;
            let own = entry.flight.map(|(id, ..)| id);
            if id.is_none() || id == own {
                entry.flight = None;
                waiters = std::mem::take(&mut entry.waiters).into_iter().collect();
            }
            if !kept && entry.flight.is_none() && entry.failed.is_none() {
                self.entries.remove(&key);
                self.unlink(&key);
            } else if !kept {
                self.link(key);
            }
        }
        if kept {
            self.unlink(&key);
            assert!(self.make_room(further + usize::from(is_new), now, true));
            let entry = self.entries.entry(key).or_default();
            entry.verdict = Some((now, now + 7, data));
            entry.failed = None;
            self.link(key);
        }
        (kept, waiters)
    }

    fn lead(&mut self, key: Key, owner: Owner, now: u64, lease_until: u64) -> Flight {
        if let Some(entry) = self.entries.get_mut(&key) {
            if let Some((id, first, lease_until)) = entry.flight.filter(|(_, _, end)| now < *end) {
                if owner.slot < MAX_SLOTS {
                    entry.waiters.insert(owner.slot);
                }
                return Flight::Follower { id, owner: first, lease_until };
            }
        } else if !self.make_room(1, now, false) {
            return Flight::Alone;
        }
        self.flights += 1;
        let id = self.flights;
        self.entries.entry(key).or_default().flight = Some((id, owner, lease_until));
        self.link(key);
        Flight::Leader { id }
    }

    fn fail(&mut self, key: Key, id: u64, why: u8) -> Vec<u16> {
        match self.entries.get_mut(&key) {
            Some(entry) if entry.flight.is_some_and(|(own, ..)| own == id) => {
                entry.flight = None;
                entry.failed = Some((id, why));
                let waiters = std::mem::take(&mut entry.waiters);
                self.link(key);
                waiters.into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    fn outcome(&self, key: &Key, id: u64) -> Outcome {
        let Some(entry) = self.entries.get(key) else { return Outcome::Gone };
        if entry.flight.is_some_and(|(own, ..)| own == id) {
            return Outcome::Pending;
        }
        match entry.failed {
            Some((failed, why)) if failed == id => Outcome::Failed(why),
            _ => Outcome::Gone,
        }
    }
}

/// Takes a step with a zone and its model, and compares.
fn compare(zone: &mut Zone<'_>, model: &mut Model, step: &Step, now: u64) {
    let key = key(step.key);
    match &step.op {
        Op::Get => {
            let found = zone.get(&key);
            let found =
                found.map(|found| (found.fetched_at, found.expires_at, found.data.into_owned()));
            assert_eq!(found, model.get(&key));
        }
        Op::Store { id, len, fill } => {
            let id = model.id(&key, id);
            let data: Vec<u8> = (0..*len).map(|n| (n as u8).wrapping_mul(*fill)).collect();
            let stored = zone.store(&key, id, now, now + 7, &data);
            let expected = model.store(key, id, now, data);
            assert_eq!((stored.kept, slots(stored.waiters)), expected);
        }
        Op::Lead { slot, lease } => {
            let owner = Owner { slot: *slot, pid: u32::from(*slot) + 1000 };
            let flight = zone.lead(&key, owner, now, now + lease);
            assert_eq!(flight, model.lead(key, owner, now, now + lease));
        }
        Op::Fail { id, why } => {
            let id = model.id(&key, id).unwrap_or_default();
            assert_eq!(slots(zone.fail(&key, id, *why)), model.fail(key, id, *why));
        }
        Op::Outcome { id } => {
            let id = model.id(&key, id).unwrap_or_default();
            assert_eq!(zone.outcome(&key, id), model.outcome(&key, id));
        }
        Op::Remove => {
            let waiters = model.entries.remove(&key).unwrap_or_default().waiters;
            model.unlink(&key);
            assert_eq!(slots(zone.remove(&key)), waiters.into_iter().collect::<Vec<_>>());
        }
        Op::Clear => {
            zone.clear();
            let Model { chunks, evictions, flights, .. } = *model;
            *model = Model { chunks, evictions, flights, ..Model::default() };
        }
    }
    let stats = Stats {
        entries: model.entries.len(),
        chunks: model.chunks,
        chunks_free: model.free(),
        evictions: model.evictions,
    };
    assert_eq!(zone.stats(), stats);
}

/// Takes a step without a model.
fn run(zone: &mut Zone<'_>, step: &Step, now: u64) {
    let mut model = Model { flights: zone.region.header.last_flight.min(100), ..Model::default() };
    // For the flight that is not known here, any number will do.
    model.entries.insert(
        key(step.key),
        ModelEntry { flight: Some((model.flights, A, 0)), ..ModelEntry::default() },
    );
    let key = key(step.key);
    let id = |id| model.id(&key, id);
    match &step.op {
        Op::Get => drop(zone.get(&key)),
        Op::Store { id: which, len, fill } => {
            let _ = zone.store(&key, id(which), now, now + 7, &vec![*fill; *len]);
        }
        Op::Lead { slot, lease } => {
            zone.lead(&key, Owner { slot: *slot, pid: 1 }, now, now + lease);
        }
        Op::Fail { id: which, why } => {
            zone.fail(&key, id(which).unwrap_or_default(), *why);
        }
        Op::Outcome { id: which } => {
            zone.outcome(&key, id(which).unwrap_or_default());
        }
        Op::Remove => {
            zone.remove(&key);
        }
        Op::Clear => zone.clear(),
    }
}

fn run_all(memory: &mut Memory, steps: &[Step]) {
    let mut now = 0;
    let mut zone = memory.open();
    for step in steps {
        now += step.after;
        run(&mut zone, step, now);
    }
}

/// Takes the steps, comparing with a model from the start; the zone must be empty.
fn compare_all(zone: &mut Zone<'_>, steps: &[Step]) {
    let mut model = Model {
        chunks: zone.stats().chunks,
        flights: zone.region.header.last_flight,
        ..Model::default()
    };
    let mut now = 0;
    for step in steps {
        now += step.after;
        compare(zone, &mut model, step, now);
        assert_eq!(check(zone), [model.idle.make_contiguous(), model.flying.make_contiguous()]);
    }
    assert!(!zone.emptied());
}

/// From the least size to 64 KiB, small ones more often.
fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(MIN_SIZE), MIN_SIZE..2 * MIN_SIZE, MIN_SIZE..(1 << 16) + 1, Just(1 << 16),]
}

/// With few keys most are there, with many the zone is full.
fn some_steps() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![steps(6, 60), steps(30, 250), steps(400, 300)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_zone_does_what_its_model_does(size in size(), steps in some_steps()) {
        let mut memory = Memory::new(size);
        compare_all(&mut memory.open(), &steps);
    }

    /// Some of the words that a step changes are written, and others are not.
    #[test]
    fn a_process_that_dies_leaves_an_empty_zone(
        size in size(),
        before in some_steps(),
        step in steps(30, 2),
        written in vec(any::<bool>(), 64),
        after in steps(30, 60),
    ) {
        let mut memory = Memory::new(size);
        run_all(&mut memory, &before);
        let image = memory.words.clone();
        run_all(&mut memory, &step);
        let changed = memory.words.iter_mut().zip(&image).filter(|(now, before)| now != before);
        for ((now, before), written) in changed.zip(written.iter().cycle()) {
            if !written {
                *now = *before;
            }
        }
        memory.dirty = AtomicU32::new(1);
        {
            let zone = memory.try_open().unwrap();
            let emptied = zone.emptied();
            prop_assert!(emptied && zone.emptied());
            prop_assert_eq!(check(&zone), [vec![], vec![]]);
        }
        compare_all(&mut memory.open(), &after);
    }

    #[test]
    fn a_process_that_scribbles_leaves_an_empty_zone(
        before in some_steps(),
        at in any::<Index>(),
        bytes in vec(any::<u8>(), 1..3000),
        after in steps(30, 60),
    ) {
        let mut memory = Memory::new(MIN_SIZE);
        run_all(&mut memory, &before);
        let at = at.index(memory.len);
        for (byte, scribble) in memory.bytes()[at..].iter_mut().zip(bytes) {
            *byte = scribble;
        }
        // Ids go on, and here the model must be able to count on.
        memory.words[7] &= u64::from(u32::MAX);
        memory.dirty = AtomicU32::new(2);
        {
            let zone = memory.try_open().unwrap();
            let emptied = zone.emptied();
            prop_assert!(emptied);
            prop_assert_eq!(check(&zone), [vec![], vec![]]);
        }
        compare_all(&mut memory.open(), &after);
    }

    /// Nobody says that anything is wrong.
    #[test]
    fn damage_neither_panics_nor_hangs(
        size in size(),
        before in some_steps(),
        damage in vec((any::<Index>(), damage(), any::<Index>()), 1..8),
        after in some_steps(),
    ) {
        let mut memory = Memory::new(size);
        run_all(&mut memory, &before);
        let mut zone = memory.open();
        let mut now = 0;
        let mut damage = damage.into_iter().peekable();
        for (n, step) in after.iter().enumerate() {
            if let Some((at, damage, _)) = damage.next_if(|(.., when)| when.index(after.len()) >= n) {
                spoil(&mut zone.region, &at, damage);
            }
            now += step.after;
            run(&mut zone, step, now);
        }
        // Whatever was found or not found, it can be used again.
        zone.clear();
        prop_assert_eq!(check(&zone), [vec![], vec![]]);
        zone.region.header.last_flight = 0;
        zone.region.header.evictions = 0;
        zone.emptied = false;
        compare_all(&mut zone, &after);
    }
}

#[derive(Clone, Debug)]
enum Damage {
    /// Of any byte.
    Byte(u8),
    /// Of an aligned word, so that it is an index that could be right.
    Index(u32),
    /// Of a field that was one.
    Link(u8, u32),
}

fn damage() -> impl Strategy<Value = Damage> {
    let index = || prop_oneof![0..20_u32, 0..260_u32, Just(NIL), any::<u32>()];
    prop_oneof![
        any::<u8>().prop_map(Damage::Byte),
        index().prop_map(Damage::Index),
        (any::<u8>(), index()).prop_map(|(field, index)| Damage::Link(field, index)),
    ]
}

fn spoil(region: &mut Region<'_>, at: &Index, damage: Damage) {
    let used = (region.header.touched as usize).clamp(1, region.chunks.len());
    match damage {
        Damage::Byte(byte) => {
            let (header, buckets) = (region.header.as_bytes().len(), region.buckets.len() * 4);
            let at = at.index(header + buckets + used * CHUNK);
            let byte_there = match at {
                _ if at < header => &mut region.header.as_mut_bytes()[at],
                _ if at < header + buckets => &mut region.buckets.as_mut_bytes()[at - header],
                _ => &mut region.chunks.as_mut_bytes()[at - header - buckets],
            };
            *byte_there = byte;
        }
        Damage::Index(value) => {
            let words = used * CHUNK / 4;
            let at = at.index(words + region.buckets.len());
            match region.buckets.get_mut(at) {
                Some(bucket) => *bucket = value,
                None => {
                    let at = (at - region.buckets.len()) * 4;
                    let word = &mut region.chunks.as_mut_bytes()[at..at + 4];
                    word.copy_from_slice(&value.to_ne_bytes());
                }
            }
        }
        Damage::Link(field, value) => {
            let header = &mut *region.header;
            let entry = at.get_mut(&mut region.chunks[..used]);
            *match field % 14 {
                0 => &mut header.touched,
                1 => &mut header.free,
                2 => &mut header.free_count,
                3 => &mut header.idle.head,
                4 => &mut header.idle.tail,
                5 => &mut header.flying.head,
                6 => &mut header.flying.tail,
                7 => &mut header.entries,
                8 => &mut entry.next,
                9 => &mut entry.bucket_next,
                10 => &mut entry.newer,
                11 => &mut entry.older,
                12 => &mut entry.data_len,
                _ => &mut entry.kind,
            } = value;
        }
    }
}
