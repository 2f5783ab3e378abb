//! Processes that die during a change, and damaged memory.

use std::cell::Cell;
use std::panic::{catch_unwind, AssertUnwindSafe};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use zerocopy::IntoBytes;

use super::super::layout::{Header, CHUNK, MIN_CHUNKS};
use super::model::{compare_all, run, run_all, size, some_steps, steps};
use super::*;

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
    assert_eq!(check(&zone), EMPTY);
    assert!(put(&mut zone, 1, b"v").kept && has(&mut zone, 1));
    // The leader may still be alive: its flight is none of the new ones.
    assert!(leader(zone.lead(&key(3), B, 0, 100)) > id);
}

#[test]
fn contradictions_empty_the_zone() {
    let damages: [fn(&mut Region<'_>); 12] = [
        // Circles and dead ends.
        |region| region.chunks[2].bucket_next = 2,
        |region| region.chunks[2].bucket_next = NIL - 1,
        |region| region.chunks[2].kind = kind::FREE,
        |region| region.chunks[0].data_len = u32::MAX,
        |region| region.chunks[0].next = 0,
        |region| region.chunks[0].older = 1,
        |region| region.buckets.fill(1000),
        |region| region.header.entries = 0,
        |region| region.header.probation.head = NIL,
        |region| region.header.kept = 1,
        |region| region.chunks[2].state = 7,
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
        assert_eq!(check(&zone), EMPTY, "{n}");
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
        assert_eq!(check(&zone), EMPTY, "{n}");
    }
}

/// An entry that makes room is not looked up, but must be taken out of its bucket.
#[test]
fn a_bucket_that_is_a_circle_is_seen_when_making_room() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    assert!(put(&mut zone, 1, b"").kept && put(&mut zone, 9, b"").kept);
    zone.region.chunks[1].bucket_next = 1;
    for n in 1..MIN_CHUNKS as u32 {
        let _ = put(&mut zone, 8 * n, b"");
    }
    assert!(zone.emptied());
    check(&zone);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

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
            prop_assert_eq!(check(&zone), EMPTY);
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
        // Ids continue after the last one: leave the model room to count.
        let last_flight = std::mem::offset_of!(Header, last_flight) / 8;
        memory.words[last_flight] &= u64::from(u32::MAX);
        memory.dirty = AtomicU32::new(2);
        {
            let zone = memory.try_open().unwrap();
            let emptied = zone.emptied();
            prop_assert!(emptied);
            prop_assert_eq!(check(&zone), EMPTY);
        }
        compare_all(&mut memory.open(), &after);
    }

    /// The mark is not set.
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
        // Whether or not the damage was found, the zone works once it is empty.
        zone.clear();
        prop_assert_eq!(check(&zone), EMPTY);
        zone.region.header.last_flight = 0;
        zone.region.header.evictions = 0;
        zone.emptied = false;
        compare_all(&mut zone, &after);
    }
}

#[derive(Clone, Debug)]
enum Damage {
    /// Any byte.
    Byte(u8),
    /// An aligned word, which then may be a valid index.
    Index(u32),
    /// A field that holds an index or a count.
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
            let parts = [
                region.header.as_mut_bytes(),
                region.ended.as_mut_bytes(),
                region.buckets.as_mut_bytes(),
                region.ghosts.as_mut_bytes(),
                &mut region.chunks.as_mut_bytes()[..used * CHUNK],
            ];
            let mut at = at.index(parts.iter().map(|part| part.len()).sum());
            for part in parts {
                if let Some(byte_there) = part.get_mut(at) {
                    *byte_there = byte;
                    break;
                }
                at -= part.len();
            }
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
            *match field % 20 {
                0 => &mut header.touched,
                1 => &mut header.free,
                2 => &mut header.free_count,
                3 => &mut header.main.head,
                4 => &mut header.main.tail,
                5 => &mut header.flying.head,
                6 => &mut header.flying.tail,
                13 => &mut header.probation.head,
                14 => &mut header.probation.tail,
                15 => &mut header.failed.head,
                16 => &mut header.failed.tail,
                17 => &mut header.kept,
                18 => &mut header.proven,
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
