//! Random steps, compared with a simple model.

use std::collections::{BTreeSet, HashMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::super::layout::{FURTHER, GHOST_WAYS, INLINE};
use super::*;

/// A call of a zone.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Get,
    Touch,
    Store { id: Id, worth: Worth, len: usize, fill: u8 },
    Lead { slot: u16, lease: u64 },
    Fail { id: Id, why: u8 },
    Outcome { id: Id },
    Remove,
    Clear,
}

/// The flight that a step names.
#[derive(Clone, Debug)]
pub(super) enum Id {
    None,
    /// The flight of the key, if it has one.
    Own,
    /// Any flight that there ever was.
    Any(Index),
}

#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) op: Op,
    pub(super) key: u32,
    /// Milliseconds since the step before.
    pub(super) after: u64,
}

pub(super) fn steps(keys: u32, count: usize) -> impl Strategy<Value = Vec<Step>> {
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
            INLINE + 11 * FURTHER,
            INLINE + 13 * FURTHER,
            INLINE + 13 * FURTHER + 1,
            MAX_DATA,
            MAX_DATA + 1,
        ]),
    ];
    let worth = prop_oneof![2 => Just(Worth::Lasting), 1 => Just(Worth::Passing)];
    let store = (id.clone(), worth, len, any::<u8>());
    let slot = prop_oneof![0..4_u16, prop::sample::select(vec![63, 64, 127, 128, u16::MAX])];
    let op = prop_oneof![
        60 => Just(Op::Get),
        10 => Just(Op::Touch),
        60 => store.prop_map(|(id, worth, len, fill)| Op::Store { id, worth, len, fill }),
        60 => (slot, 0..60_u64).prop_map(|(slot, lease)| Op::Lead { slot, lease }),
        20 => (id.clone(), any::<u8>()).prop_map(|(id, why)| Op::Fail { id, why }),
        20 => id.prop_map(|id| Op::Outcome { id }),
        10 => Just(Op::Remove),
        1 => Just(Op::Clear),
    ];
    let step = (op, 0..keys, 0..4_u64).prop_map(|(op, key, after)| Step { op, key, after });
    vec(step, 1..count)
}

/// A zone as its documentation describes it.
#[derive(Default)]
struct Model {
    chunks: usize,
    entries: HashMap<Key, ModelEntry>,
    /// As [`Lists`].
    lists: [VecDeque<Key>; 4],
    ghosts: [u16; GHOST_WAYS],
    evictions: u64,
    flights: u64,
}

#[derive(Default)]
struct ModelEntry {
    verdict: Option<(u64, u64, Vec<u8>)>,
    state: u8,
    flight: Option<(u64, Owner, u64)>,
    waiters: BTreeSet<u16>,
    failed: Option<(u64, u8)>,
}

impl ModelEntry {
    fn chunks(&self) -> usize {
        self.verdict.as_ref().map_or(1, |(_, _, data)| 1 + chunks_behind(data.len()))
    }

    fn list(&self) -> usize {
        match (self.state, self.flight) {
            (state::PROVEN, _) => 0,
            (state::NONE, Some(_)) => 2,
            (state::NONE, None) => 3,
            _ => 1,
        }
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

fn ghost(key: &Key) -> u16 {
    u16::from_ne_bytes(key.as_bytes()[12..14].try_into().unwrap()).max(1)
}

impl Model {
    fn flight_share(&self) -> usize {
        (self.chunks / 32).max(2)
    }

    fn verdict_share(&self) -> usize {
        self.chunks - self.flight_share()
    }

    fn main_share(&self) -> usize {
        self.verdict_share() - (self.verdict_share() / 10).max(2)
    }

    /// Chunks of entries in these lists.
    fn used(&self, lists: &[usize]) -> usize {
        let counted = self.entries.values().filter(|entry| lists.contains(&entry.list()));
        counted.map(ModelEntry::chunks).sum()
    }

    fn free(&self) -> usize {
        self.chunks - self.used(&[0, 1, 2, 3])
    }

    fn unlink(&mut self, key: &Key) {
        for list in &mut self.lists {
            list.retain(|other| other != key);
        }
    }

    fn link(&mut self, key: Key) {
        self.unlink(&key);
        let list = self.entries[&key].list();
        self.lists[list].push_front(key);
    }

    fn forget_ghost(&mut self, key: &Key) -> bool {
        let found = self.ghosts.iter_mut().find(|place| **place == ghost(key));
        found.map(|place| *place = 0).is_some()
    }

    /// The entry that is stored or used is in no list meanwhile.
    fn make_room_in_main(&mut self, chunks: usize) {
        while self.used(&[0]) + chunks > self.main_share() {
            let last = *self.lists[0].back().unwrap();
            self.entries.get_mut(&last).unwrap().state = state::DEMOTED;
            self.link(last);
        }
    }

    fn make_room(&mut self, chunks: usize) {
        while self.used(&[0, 1]) + chunks > self.verdict_share() {
            let last = self.lists[1].pop_back().unwrap();
            if self.entries.remove(&last).unwrap().state == state::UNPROVEN {
                self.ghosts.rotate_right(1);
                self.ghosts[0] = ghost(&last);
            }
            self.evictions += 1;
        }
    }

    fn make_room_for_flight(&mut self, now: u64) -> bool {
        if self.lists[2].len() + self.lists[3].len() < self.flight_share() {
            return true;
        }
        let flying = self.lists[2].back().copied();
        let over = flying.filter(|key| self.entries[key].flight.unwrap().2 <= now);
        let Some(victim) = over.or(self.lists[3].back().copied()) else { return false };
        self.unlink(&victim);
        self.entries.remove(&victim);
        true
    }

    fn id(&self, key: &Key, id: &Id) -> Option<u64> {
        match id {
            Id::None => None,
            Id::Own => Some(self.entries.get(key)?.flight?.0),
            Id::Any(index) => Some(index.index(self.flights as usize + 1) as u64),
        }
    }

    fn get(&mut self, key: &Key) -> Option<(u64, u64, bool, Vec<u8>)> {
        let main_share = self.main_share();
        let entry = self.entries.get_mut(key)?;
        let (fetched_at, expires_at, data) = entry.verdict.clone()?;
        let chunks = entry.chunks();
        let is_promoted =
            [state::UNPROVEN, state::DEMOTED].contains(&entry.state) && chunks <= main_share;
        if is_promoted {
            self.unlink(key);
            self.make_room_in_main(chunks);
            self.entries.get_mut(key)?.state = state::PROVEN;
        }
        let proven = self.entries[key].state == state::PROVEN;
        if proven {
            self.link(*key);
        }
        Some((fetched_at, expires_at, proven, data))
    }

    fn store(
        &mut self,
        key: Key,
        id: Option<u64>,
        worth: Worth,
        now: u64,
        data: Vec<u8>,
    ) -> (bool, Vec<u16>) {
        let mut waiters = Vec::new();
        let chunks = 1 + chunks_behind(data.len());
        // Out of all lists while room is made.
        let mut entry = self.entries.remove(&key).unwrap_or_default();
        self.unlink(&key);
        let was_proven = entry.state == state::PROVEN;
        (entry.verdict, entry.state) = (None, state::NONE);
        let own = entry.flight.map(|(id, ..)| id);
        if id.is_none() || id == own {
            entry.flight = None;
            waiters = std::mem::take(&mut entry.waiters).into_iter().collect();
        }
        let fits = data.len() <= MAX_DATA;
        let mut state = match worth {
            Worth::Passing => state::PASSING,
            Worth::Lasting if fits && self.forget_ghost(&key) => state::PROVEN,
            Worth::Lasting if was_proven => state::PROVEN,
            Worth::Lasting => state::UNPROVEN,
        };
        if chunks > self.main_share() {
            state = state.min(state::UNPROVEN);
        }
        let left = self.verdict_share() - self.used(&[0]);
        if !fits || (state != state::PROVEN && chunks > left) {
            let others = self.lists[2].len() + self.lists[3].len();
            let is_empty = entry.flight.is_none() && entry.failed.is_none();
            if !is_empty && others < self.flight_share() {
                self.entries.insert(key, entry);
                self.link(key);
            }
            return (false, waiters);
        }
        if state == state::PROVEN {
            self.make_room_in_main(chunks);
        }
        self.make_room(chunks);
        let (verdict, failed) = (Some((now, now + 7, data)), None);
        self.entries.insert(key, ModelEntry { verdict, state, failed, ..entry });
        self.link(key);
        (true, waiters)
    }

    fn lead(&mut self, key: Key, owner: Owner, now: u64, lease_until: u64) -> Flight {
        if let Some(entry) = self.entries.get_mut(&key) {
            if let Some((id, first, lease_until)) = entry.flight.filter(|(_, _, end)| now < *end) {
                if owner.slot < MAX_SLOTS {
                    entry.waiters.insert(owner.slot);
                }
                return Flight::Follower { id, owner: first, lease_until };
            }
        } else if !self.make_room_for_flight(now) {
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

/// Takes a step with a zone and its model, and compares the results.
fn compare(zone: &mut Zone<'_>, model: &mut Model, step: &Step, now: u64) {
    let key = key(step.key);
    match &step.op {
        Op::Get => {
            let found = zone.get(&key);
            let found = found.map(|found| {
                (found.fetched_at, found.expires_at, found.proven, found.data.into_owned())
            });
            assert_eq!(found, model.get(&key));
        }
        Op::Touch => {
            zone.touch(&key);
            model.get(&key);
        }
        Op::Store { id, worth, len, fill } => {
            let id = model.id(&key, id);
            let data: Vec<u8> = (0..*len).map(|n| (n as u8).wrapping_mul(*fill)).collect();
            let stored = zone.store(&key, id, *worth, (now, now + 7), &data);
            let expected = model.store(key, id, *worth, now, data);
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
pub(super) fn run(zone: &mut Zone<'_>, step: &Step, now: u64) {
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
        Op::Touch => zone.touch(&key),
        Op::Store { id: which, worth, len, fill } => {
            let times = (now, now + 7);
            let _ = zone.store(&key, id(which), *worth, times, &vec![*fill; *len]);
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

pub(super) fn run_all(memory: &mut Memory, steps: &[Step]) {
    let mut now = 0;
    let mut zone = memory.open();
    for step in steps {
        now += step.after;
        run(&mut zone, step, now);
    }
}

/// Takes the steps with a zone, which must be empty, and with a model.
pub(super) fn compare_all(zone: &mut Zone<'_>, steps: &[Step]) {
    let mut model = Model {
        chunks: zone.stats().chunks,
        flights: zone.region.header.last_flight,
        ..Model::default()
    };
    let mut now = 0;
    for step in steps {
        now += step.after;
        compare(zone, &mut model, step, now);
        let lists = model.lists.each_mut().map(|list| list.make_contiguous().to_vec());
        assert_eq!(check(zone), lists);
    }
    assert!(!zone.emptied());
}

/// Sizes from the least to 64 KiB, small ones more often.
pub(super) fn size() -> impl Strategy<Value = usize> {
    prop_oneof![Just(MIN_SIZE), MIN_SIZE..2 * MIN_SIZE, MIN_SIZE..(1 << 16) + 1, Just(1 << 16),]
}

/// With few keys most are there, with many the zone is full.
pub(super) fn some_steps() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![steps(6, 60), steps(30, 250), steps(400, 300)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_zone_does_what_its_model_does(size in size(), steps in some_steps()) {
        let mut memory = Memory::new(size);
        compare_all(&mut memory.open(), &steps);
    }

}
