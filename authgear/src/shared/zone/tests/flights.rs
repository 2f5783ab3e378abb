//! Look-ups under way: leaders, followers, failures, take-overs.

use super::*;

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
    let Stored { kept, waiters } = zone.store(&key(1), Some(id), Worth::Lasting, (50, NEVER), b"v");
    assert!(kept);
    assert_eq!(slots(waiters), [64, 127]);
    assert_eq!(<[u64; 2]>::from(waiters), [0, 1 | 1 << 63]);
    assert_eq!(zone.outcome(&key(1), id), Outcome::Gone);
    assert!(has(&mut zone, 1));
    // They waited once.
    assert!(zone.store(&key(1), Some(id), Worth::Lasting, (60, NEVER), b"v").waiters.is_empty());
    let next = leader(zone.lead(&key(1), B, 60, 100));
    assert!(
        next > id
            && zone
                .store(&key(1), Some(next), Worth::Lasting, (60, NEVER), b"v")
                .waiters
                .is_empty()
    );
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

    // Failures make room for flights and for other failures, and for nothing else.
    for n in 10..13 {
        let id = leader(zone.lead(&key(n), A, 5, 100));
        zone.fail(&key(n), id, 1);
    }
    assert_eq!(zone.outcome(&key(10), third + 1), Outcome::Gone);
    assert_eq!(zone.outcome(&key(12), third + 3), Outcome::Failed(1));
    for n in 40..60 {
        assert!(put(&mut zone, n, b"").kept);
    }
    assert_eq!(zone.outcome(&key(12), third + 3), Outcome::Failed(1));
    assert!(has(&mut zone, 1));
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
    let stored = zone.store(&key(1), Some(first), Worth::Lasting, (160, NEVER), b"first");
    assert_eq!(stored, Stored { kept: true, waiters: Waiters::default() });
    assert!(has(&mut zone, 1));
    assert_eq!(zone.outcome(&key(1), second), Outcome::Pending);
    // Who waited for the first waited for the second.
    let stored = zone.store(&key(1), Some(second), Worth::Lasting, (170, NEVER), b"second");
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
fn a_process_learns_which_flights_ended() {
    let mut memory = Memory::new(MIN_SIZE);
    let mut zone = memory.open();
    let ended =
        |zone: &Zone<'_>, since| zone.flights_ended_since(since).map(|ids| ids.collect::<Vec<_>>());
    let start = zone.flights_ended();
    assert_eq!(ended(&zone, start), Some(vec![]));
    let alone = leader(zone.lead(&key(1), A, 0, 100));
    assert!(zone.fail(&key(1), alone, 1).is_empty());
    assert_eq!(ended(&zone, start), Some(vec![]), "nobody waited");
    let begin = |zone: &mut Zone<'_>, n| {
        let id = leader(zone.lead(&key(n), A, 0, 100));
        zone.lead(&key(n), B, 1, 100);
        id
    };
    let failed = begin(&mut zone, 1);
    zone.fail(&key(1), failed, 1);
    let stored = begin(&mut zone, 2);
    let _ = zone.store(&key(2), Some(stored), Worth::Lasting, (1, NEVER), b"v");
    let removed = begin(&mut zone, 3);
    zone.remove(&key(3));
    // Its waiters may as well look: another flight took it over.
    let taken_over = begin(&mut zone, 4);
    let ids = [failed, stored, removed, taken_over];
    leader(zone.lead(&key(4), B, 100, 200));
    assert_eq!(ended(&zone, start + 2), Some(ids[2..].to_vec()));
    assert_eq!(ended(&zone, start + 3), Some(ids[3..].to_vec()));
    let fifth = begin(&mut zone, 5);
    zone.fail(&key(5), fifth, 1);
    assert_eq!(ended(&zone, start + 2), None, "too many to know");
    assert_eq!(ended(&zone, start + 3), Some([&ids[3..], &[fifth]].concat()));
    assert_eq!(ended(&zone, zone.flights_ended() + 1), None, "not of this zone");
    zone.clear();
    assert_eq!(zone.flights_ended(), start + 5);
}
