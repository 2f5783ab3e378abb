use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const MB: usize = 1024 * 1024;

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// Queues a look-up and panics if it is not queued.
fn queue(turns: &mut TurnQueue<u8, u32>, client: u8, value: u32) -> Ticket {
    match turns.arrive(client, value, 100, ms(0), ms(1000)) {
        Arrival::Queued(ticket, refused) if refused.is_empty() => ticket,
        other => panic!("{other:?}"),
    }
}

#[test]
fn look_ups_ask_at_once_while_turns_are_free() {
    let mut turns = TurnQueue::new(2, MB);
    assert_eq!(turns.arrive(1, 1, 10, ms(0), ms(0)), Arrival::Turn);
    assert_eq!(turns.arrive(1, 2, 10, ms(0), ms(0)), Arrival::Turn);
    assert!(matches!(turns.arrive(1, 3, 10, ms(0), ms(1)), Arrival::Queued(..)));
    assert_eq!(turns.done(ms(1)), Some(3));
    assert_eq!(turns.done(ms(1)), None);
    assert_eq!(turns.done(ms(1)), None);
    assert_eq!(turns.arrive(1, 4, 10, ms(2), ms(0)), Arrival::Turn);
}

#[test]
fn a_client_with_many_look_ups_delays_itself_and_not_others() {
    let mut turns = TurnQueue::new(1, MB);
    assert_eq!(turns.arrive(1, 0, 10, ms(0), ms(0)), Arrival::Turn);
    for n in 1..=100 {
        queue(&mut turns, 1, n);
    }
    queue(&mut turns, 2, 200);
    let served: Vec<_> = (0..3).filter_map(|_| turns.done(ms(1))).collect();
    assert_eq!(served, [1, 200, 2]);
}

#[test]
fn a_look_up_that_leaves_is_never_served() {
    let mut turns = TurnQueue::new(1, MB);
    assert_eq!(turns.arrive(1, 0, 10, ms(0), ms(0)), Arrival::Turn);
    let first = queue(&mut turns, 1, 1);
    queue(&mut turns, 1, 2);
    let alone = queue(&mut turns, 2, 3);
    assert!(turns.leave(1, first));
    assert!(!turns.leave(1, first));
    assert!(turns.leave(2, alone));
    assert_eq!(turns.done(ms(1)), Some(2));
    assert_eq!(turns.done(ms(1)), None);
    assert!(turns.is_empty());
}

#[test]
fn a_full_queue_refuses_the_newest_of_the_client_that_fills_it() {
    let room = 3 * (OVERHEAD + 100);
    let mut turns = TurnQueue::new(1, room);
    assert_eq!(turns.arrive(1, 0, 10, ms(0), ms(0)), Arrival::Turn);
    for n in 1..=3 {
        queue(&mut turns, 1, n);
    }
    assert_eq!(turns.arrive(1, 4, 100, ms(0), ms(1)), Arrival::Refused(vec![4]));
    assert!(matches!(turns.arrive(2, 5, 100, ms(0), ms(1)), Arrival::Queued(_, r) if r == [3]));
    assert_eq!(turns.len(), 3);
}

#[test]
fn a_look_up_larger_than_the_queue_is_refused() {
    let mut turns = TurnQueue::new(1, MB);
    assert_eq!(turns.arrive(1, 0, 10, ms(0), ms(0)), Arrival::Turn);
    assert_eq!(turns.arrive(1, 1, usize::MAX, ms(0), ms(1)), Arrival::Refused(vec![1]));
}

#[test]
fn no_turn_within_patience_is_refused_on_arrival() {
    let mut turns = TurnQueue::new(1, MB);
    assert_eq!(turns.arrive(1, 0, 10, ms(0), ms(0)), Arrival::Turn);
    queue(&mut turns, 1, 1);
    assert_eq!(turns.done(ms(100)), Some(1));
    // One turn takes 100 ms: the second in the queue would wait 200 ms.
    assert!(matches!(turns.arrive(1, 2, 10, ms(100), ms(150)), Arrival::Queued(..)));
    assert_eq!(turns.arrive(1, 3, 10, ms(100), ms(150)), Arrival::Refused(vec![3]));
    // Another client has its turn after one of theirs.
    assert_eq!(turns.expected_wait(2, ms(100)), ms(200));
}

#[test]
fn a_resolver_that_fell_silent_lets_fewer_wait() {
    let mut turns = TurnQueue::new(1, MB);
    assert_eq!(turns.arrive(1, 0, 10, ms(0), ms(0)), Arrival::Turn);
    assert_eq!(turns.expected_wait(1, ms(10)), ms(10));
    assert_eq!(turns.arrive(1, 1, 10, ms(3000), ms(1000)), Arrival::Refused(vec![1]));
}

/// Share of the resolver's capacity that answers somebody in time, with a load that is `load`
/// times the capacity, in virtual time.
fn goodput(load: u64, clients: u8) -> f64 {
    const TURNS: u64 = 8;
    const SERVICE: u64 = 40_000;
    const SECONDS: u64 = 20;
    let (timeout, patience) = (ms(1000), ms(250));
    let us = Duration::from_micros;
    let mut turns: TurnQueue<u8, Duration> = TurnQueue::new(TURNS as usize, 8 * MB);
    let mut ends = BinaryHeap::new();
    let interval = SERVICE / TURNS * 10 / load;
    let (mut next_arrival, mut n, mut good) = (0, 0_u64, 0_u64);
    loop {
        let next_end = ends.peek().map_or(u64::MAX, |Reverse((at, _))| *at);
        let now = next_arrival.min(next_end);
        if now > SECONDS * 1_000_000 {
            break;
        }
        if next_end <= next_arrival {
            if let Some(Reverse((_, arrived))) = ends.pop() {
                good += u64::from(us(now) - arrived <= timeout);
            }
            // The caller's timer takes out who waited for longer than patience.
            while let Some(arrived) = turns.done(us(now)) {
                if us(now) - arrived <= patience {
                    ends.push(Reverse((now + SERVICE, arrived)));
                    break;
                }
            }
        } else {
            n += 1;
            next_arrival += interval;
            // Uneven arrivals, from clients of uneven weight.
            let client = (n * n % 7 % u64::from(clients)) as u8;
            if let Arrival::Turn = turns.arrive(client, us(now), 200, us(now), patience) {
                ends.push(Reverse((now + SERVICE, us(now))));
            }
        }
    }
    let capacity = SECONDS * 1_000_000 / SERVICE * TURNS;
    good as f64 / capacity as f64
}

#[test]
fn goodput_stays_above_nine_tenths_at_any_overload() {
    for load in [12, 15, 30, 100] {
        for clients in [1, 5] {
            let share = goodput(load, clients);
            assert!(share > 0.9, "load {load} tenths, {clients} clients: {share}");
        }
    }
}

proptest! {
    /// Whatever arrives, leaves and ends: turns and bytes stay within their bounds, and each
    /// look-up is served, refused or gone exactly once.
    #[test]
    fn each_look_up_ends_exactly_once(steps in proptest::collection::vec((0_u8..4, 0_u8..3, 0_usize..9000), 1..300)) {
        let mut turns = TurnQueue::new(2, 64 * 1024);
        let (mut asking, mut waiting, mut next) = (0_usize, Vec::new(), 0_u32);
        for (now, (step, client, bytes)) in steps.into_iter().enumerate() {
            let now = ms(now as u64);
            match step {
                0 | 1 => {
                    let value = next;
                    next += 1;
                    match turns.arrive(client, value, bytes, now, ms(100_000)) {
                        Arrival::Turn => asking += 1,
                        Arrival::Queued(ticket, refused) => {
                            waiting.retain(|(_, _, v)| !refused.contains(v));
                            waiting.push((client, ticket, value));
                        }
                        Arrival::Refused(refused) => {
                            prop_assert_eq!(refused.last(), Some(&value));
                            waiting.retain(|(_, _, v)| !refused.contains(v));
                        }
                    }
                }
                2 if asking > 0 => match turns.done(now) {
                    Some(value) => {
                        let before = waiting.len();
                        waiting.retain(|(_, _, v)| *v != value);
                        prop_assert_eq!(waiting.len() + 1, before);
                    }
                    None => {
                        asking -= 1;
                        prop_assert!(waiting.is_empty());
                    }
                },
                3 if !waiting.is_empty() => {
                    let (client, ticket, _) = waiting.remove(bytes % waiting.len());
                    prop_assert!(turns.leave(client, ticket));
                }
                _ => {}
            }
            prop_assert!(asking <= 2);
            prop_assert_eq!(turns.len(), waiting.len());
            prop_assert!(turns.bytes <= turns.capacity);
            prop_assert_eq!(turns.order.len(), turns.clients.len());
        }
    }
}
