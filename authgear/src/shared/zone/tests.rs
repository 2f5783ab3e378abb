//! Memory, keys and checks for the tests of zones.

use std::collections::HashSet;

use zerocopy::{transmute_ref, IntoBytes};

use super::arena::chunks_of;
use super::layout::{kind, state, Further, NIL};
use super::*;

mod admission;
mod faults;
mod flights;
mod hit_ratio;
mod model;
mod verdicts;

const A: Owner = Owner { slot: 1, pid: 101 };
const B: Owner = Owner { slot: 64, pid: 102 };
const C: Owner = Owner { slot: 127, pid: 103 };
const POLLING: Owner = Owner { slot: MAX_SLOTS, pid: 104 };

/// Memory of a zone, and its mark of a change under way.
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

/// Returns a key. Every eighth is in the same bucket, and all are in one set of ghosts.
fn key(n: u32) -> Key {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&(n % 8).to_ne_bytes());
    bytes[12..].copy_from_slice(&n.to_ne_bytes());
    Key::from_bytes(bytes)
}

fn put(zone: &mut Zone<'_>, n: u32, data: &[u8]) -> Stored {
    zone.store(&key(n), None, Worth::Lasting, (0, NEVER), data)
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

/// Most chunks of a zone of [`MIN_SIZE`] for verdicts, and for proven ones.
const VERDICTS: u32 = 14;
const MAIN: u32 = 12;

/// Most look-ups under way in it.
const FLIGHTS: u32 = 2;

/// Keys of main, probation, flying and failed, the newest first.
type Lists = [Vec<Key>; 4];

const EMPTY: Lists = [vec![], vec![], vec![], vec![]];

/// Checks all invariants of a zone.
fn check(zone: &Zone<'_>) -> Lists {
    let region = &zone.region;
    let header = &*region.header;
    let mut seen = HashSet::new();
    let (mut kept, mut proven) = (0, 0);
    let lists = [header.main, header.probation, header.flying, header.failed];
    let mut list = 0..;
    let lists = lists.map(|ends| {
        let list = list.next().unwrap();
        let (mut newer, mut at) = (NIL, ends.head);
        let mut keys = Vec::new();
        while at != NIL {
            assert!(seen.insert(at) && at < header.touched);
            let entry = &region.chunks[at as usize];
            assert_eq!((entry.kind, entry.newer), (kind::ENTRY, newer));
            let belongs = match entry.state {
                state::PROVEN => 0,
                state::UNPROVEN | state::PASSING | state::DEMOTED => 1,
                state::NONE if entry.flight != 0 => 2,
                state::NONE => 3,
                other => panic!("{other}"),
            };
            assert_eq!(belongs, list);
            assert!(entry.flight != 0 || entry.waiters == [0; 2]);
            let key = Key::from_bytes(entry.key);
            assert_eq!(region.find(&key).unwrap(), Some(at));
            keys.push(key);
            let mut next = entry.next;
            for _ in 1..chunks_of(entry.data_len) {
                assert!(seen.insert(next) && next < header.touched);
                let further: &Further = transmute_ref!(&region.chunks[next as usize]);
                assert_eq!(further.kind, kind::FURTHER);
                next = further.next;
            }
            assert_eq!(next, NIL);
            assert!(entry.state != state::NONE || entry.data_len == 0);
            kept += if list < 2 { chunks_of(entry.data_len) } else { 0 };
            proven += if list == 0 { chunks_of(entry.data_len) } else { 0 };
            (newer, at) = (at, entry.older);
        }
        assert_eq!(ends.tail, newer);
        keys
    });
    assert_eq!(lists.iter().map(Vec::len).sum::<usize>(), header.entries as usize);
    assert_eq!((kept, proven), (header.kept, header.proven));
    assert!(kept as usize <= region.verdict_share() && proven as usize <= region.main_share());
    assert_eq!(lists[2].len() + lists[3].len(), region.without_verdict());
    assert!(region.without_verdict() <= region.flight_share());
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
