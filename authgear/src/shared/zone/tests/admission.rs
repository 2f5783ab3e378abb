//! Which entries make room for which.

use super::super::layout::{FURTHER, INLINE, MIN_CHUNKS};
use super::*;

/// Size of the arena in a zone of 1 MB: nginx takes some pages for itself.
const MEGABYTE: usize = (1 << 20) - 5 * 4096;

/// A key whose bytes are as those of a hash.
pub(super) fn hashed(n: u64) -> Key {
    let mix = |n: u64| {
        let n = (n ^ n >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ n >> 31
    };
    let first = mix(n.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_ne_bytes());
    bytes[8..].copy_from_slice(&mix(first).to_ne_bytes());
    Key::from_bytes(bytes)
}

/// Stores verdicts about 3,000 sessions, proves them in the given way, lets others do what they
/// can, and returns how many sessions are left.
fn sessions_left(
    prove: impl Fn(&mut Zone<'_>, &Key),
    others: impl Fn(&mut Zone<'_>, u64),
) -> usize {
    let mut memory = Memory::new(MEGABYTE);
    let mut zone = memory.open();
    for n in 0..3000 {
        let stored = zone.store(&hashed(n), None, Worth::Lasting, (0, NEVER), &[0; INLINE]);
        assert!(stored.kept);
    }
    for n in 0..3000 {
        prove(&mut zone, &hashed(n));
    }
    for n in 1_000_000..1_020_000 {
        others(&mut zone, n);
    }
    check(&zone);
    (0..3000).filter(|&n| zone.get(&hashed(n)).is_some()).count()
}

fn by_use(zone: &mut Zone<'_>, key: &Key) {
    assert!(zone.get(key).is_some_and(|record| record.proven));
}

/// Looks a key up as a worker does.
fn look_up(zone: &mut Zone<'_>, key: &Key, worth: Worth) {
    if zone.get(key).is_none() {
        let id = match zone.lead(key, A, 0, 100) {
            Flight::Leader { id } => Some(id),
            _ => None,
        };
        assert!(zone.store(key, id, worth, (1, NEVER), &[0; INLINE]).kept);
    }
}

#[test]
fn used_sessions_survive_a_flood_of_invented_tokens() {
    let flood = |zone: &mut Zone<'_>, n| look_up(zone, &hashed(n), Worth::Passing);
    assert_eq!(sessions_left(by_use, flood), 3000);
    assert_eq!(sessions_left(|zone, key| zone.touch(key), flood), 3000);
}

#[test]
fn used_sessions_survive_invented_tokens_that_are_used_often() {
    let flood = |zone: &mut Zone<'_>, n| {
        for _ in 0..4 {
            look_up(zone, &hashed(n), Worth::Passing);
        }
    };
    assert_eq!(sessions_left(by_use, flood), 3000);
}

#[test]
fn used_sessions_survive_one_session_with_ever_new_bearers() {
    let flood = |zone: &mut Zone<'_>, n| look_up(zone, &hashed(n), Worth::Lasting);
    assert_eq!(sessions_left(by_use, flood), 3000);
}

#[test]
fn used_sessions_survive_look_ups_that_are_never_answered() {
    let flood = |zone: &mut Zone<'_>, n| {
        zone.lead(&hashed(n), A, 0, 100);
    };
    assert_eq!(sessions_left(by_use, flood), 3000);
    // Nor do these displace what was never used.
    assert_eq!(sessions_left(|_, _| {}, flood), 3000);
}

#[test]
fn an_unused_verdict_makes_room_first() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    for n in 0..VERDICTS {
        assert!(put(&mut zone, n, b"").kept);
    }
    assert_eq!(zone.stats().evictions, 0);
    // The oldest one is used, in whatever way.
    assert!(has(&mut zone, 0));
    zone.touch(&key(1));
    for n in 20..40 {
        assert!(put(&mut zone, n, b"").kept);
    }
    let [main, probation, ..] = check(&zone);
    assert_eq!(main, [key(1), key(0)]);
    assert_eq!(probation.len() as u32, VERDICTS - 2);
    assert!(probation.contains(&key(39)) && !probation.contains(&key(27)));
    assert_eq!(zone.stats().evictions, 20);
}

#[test]
fn the_verdict_used_longest_ago_leaves_main_first() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    for n in 0..MAIN {
        assert!(put(&mut zone, n, b"").kept && has(&mut zone, n));
    }
    assert!(has(&mut zone, 0));
    assert!(put(&mut zone, 20, b"").kept && has(&mut zone, 20));
    // It stays as long as nobody wants its room.
    let [main, probation, ..] = check(&zone);
    assert!(main.contains(&key(0)) && main.contains(&key(20)));
    assert_eq!(probation, [key(1)]);
    assert!(has(&mut zone, 1));
    let [main, probation, ..] = check(&zone);
    assert!(main.contains(&key(1)));
    assert_eq!(probation, [key(2)]);
    for n in 30..33 {
        assert!(put(&mut zone, n, b"").kept);
    }
    assert!(!has(&mut zone, 2));
}

#[test]
fn a_verdict_that_comes_back_soon_is_proven() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    for n in 1..VERDICTS + 3 {
        assert!(put(&mut zone, n, b"").kept);
    }
    assert!(put(&mut zone, 1, b"").kept && put(&mut zone, 99, b"").kept);
    assert_eq!(check(&zone)[0], [key(1)]);
    // That was remembered once.
    zone.remove(&key(1));
    assert!(put(&mut zone, 1, b"").kept);
    assert_eq!(check(&zone)[0], []);
    // Too many others were evicted since 2 was.
    for n in 20..60 {
        assert!(put(&mut zone, n, b"").kept);
    }
    assert!(put(&mut zone, 2, b"").kept);
    assert_eq!(check(&zone)[0], []);
}

#[test]
fn a_proven_verdict_stays_so_when_it_is_refreshed() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    assert!(put(&mut zone, 1, b"").kept && has(&mut zone, 1));
    let id = leader(zone.lead(&key(1), A, 0, 100));
    assert!(zone.store(&key(1), Some(id), Worth::Lasting, (5, NEVER), b"").kept);
    assert_eq!(check(&zone)[0], [key(1)]);
    // A session that ended is nothing to keep.
    assert!(zone.store(&key(1), None, Worth::Passing, (5, NEVER), b"").kept);
    assert!(!zone.get(&key(1)).unwrap().proven);
    assert_eq!(check(&zone)[1], [key(1)]);
}

#[test]
fn a_passing_verdict_is_never_proven() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    let store = |zone: &mut Zone<'_>, n| {
        assert!(zone.store(&key(n), None, Worth::Passing, (0, NEVER), b"").kept);
    };
    store(&mut zone, 1);
    assert!(!zone.get(&key(1)).unwrap().proven && !zone.get(&key(1)).unwrap().proven);
    (2..40).for_each(|n| store(&mut zone, n));
    assert!(!has(&mut zone, 1));
    // Nor does it leave a ghost.
    assert!(put(&mut zone, 1, b"").kept);
    assert_eq!(check(&zone)[0], []);
}

#[test]
fn a_large_unproven_verdict_does_not_displace_proven_ones() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    for n in 0..MAIN - 1 {
        assert!(put(&mut zone, n, b"").kept && has(&mut zone, n));
    }
    let large = [0; INLINE + 2 * FURTHER + 1];
    assert!(!put(&mut zone, 20, &large).kept);
    assert!(put(&mut zone, 20, &large[1..]).kept);
    // Used, it has its room like any other.
    assert!(has(&mut zone, 20));
    let [main, probation, ..] = check(&zone);
    assert_eq!(main.len() as u32, MAIN - 2);
    assert_eq!(probation, [key(1), key(0)]);
}

#[test]
fn look_ups_and_verdicts_do_not_displace_each_other() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    for n in 0..VERDICTS {
        assert!(put(&mut zone, n, b"").kept);
    }
    let [first, _] = [50, 51].map(|n| leader(zone.lead(&key(n), A, 10, 100)));
    assert_eq!(zone.stats().chunks_free, MIN_CHUNKS - (VERDICTS + FLIGHTS) as usize);
    assert_eq!(zone.lead(&key(52), B, 20, 120), Flight::Alone);
    assert!(matches!(zone.lead(&key(50), B, 20, 120), Flight::Follower { .. }));
    for n in 60..90 {
        assert!(put(&mut zone, n, b"").kept);
    }
    assert_eq!(zone.outcome(&key(50), first), Outcome::Pending);
    // All the room for verdicts is wanted.
    let most = INLINE + (VERDICTS as usize - 1) * FURTHER;
    assert!(put(&mut zone, 1, &vec![1; most]).kept);
    assert_eq!(zone.outcome(&key(50), first), Outcome::Pending);
    assert_eq!(zone.stats().chunks_free, 0);
    // One that is not noted stores its verdict all the same.
    assert!(put(&mut zone, 52, b"").kept);
    check(&zone);
}

#[test]
fn a_look_up_whose_lease_is_over_makes_room_for_another() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    let first = leader(zone.lead(&key(50), A, 10, 100));
    let second = leader(zone.lead(&key(51), A, 10, 200));
    assert_eq!(zone.lead(&key(52), B, 99, 120), Flight::Alone);
    let third = leader(zone.lead(&key(52), B, 100, 200));
    assert_eq!(zone.outcome(&key(50), first), Outcome::Gone);
    assert_eq!(zone.outcome(&key(51), second), Outcome::Pending);
    // Its leader comes back, and its verdict is good all the same.
    assert!(zone.store(&key(50), Some(first), Worth::Lasting, (2, NEVER), b"late").kept);
    assert_eq!(zone.outcome(&key(52), third), Outcome::Pending);
    check(&zone);
}

#[test]
fn a_refresh_needs_no_room() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    for n in 0..VERDICTS {
        assert!(put(&mut zone, n, b"").kept);
    }
    for n in 0..VERDICTS {
        leader(zone.lead(&key(n), A, 10, 100));
    }
    assert_eq!(zone.stats().entries as u32, VERDICTS);
    check(&zone);
}
