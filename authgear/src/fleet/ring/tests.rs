use std::collections::HashSet;

use super::super::event::{UserId, What};
use super::*;
use proptest::prelude::*;

const RETENTION: u64 = 100_000;

type Ring = EventRing<Box<[EventSlot]>>;

fn ring(slots: usize) -> Ring {
    let slots = (0..slots).map(|_| EventSlot::new()).collect();
    EventRing::new(slots, Publisher::from_bytes([1; 16]))
}

fn user(name: &str) -> UserId {
    UserId::new(name.as_bytes()).unwrap()
}

fn purge(at: u64, name: &str) -> Event {
    Event::user(at, None, name.as_bytes())
}

fn end(at: u64, name: &str, issued: u64, until: u64) -> Event {
    Event { at, project: None, what: What::End { user: user(name), issued, until } }
}

fn period(at: u64, name: &str, order: u64, period: Option<(u64, u64)>) -> Event {
    Event { at, project: None, what: What::Period { user: user(name), order, period } }
}

fn put(ring: &Ring, event: &Event, now: u64) -> u64 {
    let put = ring.put(event, now, RETENTION);
    assert_eq!(put.room, Room::Enough);
    put.number
}

fn standing(ring: &Ring, number: u64) -> Standing {
    let slot = ring.slots.iter().position(|slot| slot.number() == number);
    slot.map_or(Standing::Gone, |slot| ring.standing(slot, number))
}

fn numbers(sendings: &[Sending]) -> Vec<u64> {
    sendings.iter().map(|sending| sending.ticket.number).collect()
}

/// Sends all that is due, and lets Redis answer.
fn store(ring: &Ring, now: u64) -> Vec<Sending> {
    let sendings = ring.take(now);
    sendings.iter().for_each(|sending| ring.acknowledged(&sending.ticket));
    sendings
}

fn events(sendings: Vec<Sending>) -> Vec<Event> {
    sendings.into_iter().map(|sending| sending.event).collect()
}

#[test]
fn events_are_sent_in_order_and_answered() {
    let ring = ring(8);
    let all = [
        purge(5, "alice"),
        Event { project: Some([7; 32]), ..purge(5, "alice") },
        end(6, "alice", 100, 200),
        period(7, "bob", 3, Some((10, u64::MAX))),
        period(8, "carol", 3, None),
        Event::everything(9, Some([8; 32])),
        purge(10, &"x".repeat(256)),
    ];
    for (event, number) in all.iter().zip(1..) {
        assert_eq!(standing(&ring, number), Standing::Gone);
        assert_eq!(put(&ring, event, 10), number);
        assert_eq!(standing(&ring, number), Standing::Waiting);
    }
    assert_eq!((ring.waiting(), ring.next_due(10)), (7, Some(0)));
    let sendings = ring.take(10);
    assert_eq!(numbers(&sendings), [1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((ring.waiting(), ring.next_due(10)), (7, None));
    assert!(ring.take(10).is_empty());
    assert_eq!(standing(&ring, 7), Standing::Waiting);
    sendings.iter().for_each(|sending| ring.acknowledged(&sending.ticket));
    assert_eq!(events(sendings), all);
    assert_eq!((standing(&ring, 7), ring.waiting()), (Standing::Stored, 0));
    ring.returned(7);
    assert_eq!(standing(&ring, 7), Standing::Stored);
}

#[test]
fn at_most_64_are_under_way() {
    let ring = ring(200);
    (0..150).for_each(|n| assert_eq!(put(&ring, &purge(5, &n.to_string()), 5), n + 1));
    let first = ring.take(5);
    assert_eq!(numbers(&first), (1..=64).collect::<Vec<_>>());
    assert!(ring.take(5).is_empty());
    ring.acknowledged(&first[0].ticket);
    ring.acknowledged(&first[7].ticket);
    assert_eq!(numbers(&ring.take(5)), [65, 66]);
}

#[test]
fn a_subject_that_waits_takes_up_later_events() {
    let ring = ring(8);
    let number = put(&ring, &purge(5, "alice"), 5);
    assert_eq!(put(&ring, &purge(9, "alice"), 9), number);
    assert_eq!(put(&ring, &purge(7, "alice"), 9), number);
    let of_end = put(&ring, &end(5, "alice", 100, 300), 9);
    assert_ne!(of_end, number);
    assert_eq!(put(&ring, &end(6, "alice", 90, 400), 9), of_end);
    assert_ne!(put(&ring, &purge(5, "bob"), 9), number);
    let other = Event { project: Some([7; 32]), ..purge(5, "alice") };
    assert_ne!(put(&ring, &other, 9), number);
    let expected = [purge(9, "alice"), end(6, "alice", 100, 400), purge(5, "bob"), other];
    assert_eq!(events(ring.take(9)), expected);
}

#[test]
fn the_next_of_a_subject_goes_half_a_second_later() {
    let ring = ring(8);
    put(&ring, &purge(5, "alice"), 1000);
    assert_eq!(store(&ring, 1000).len(), 1);
    let second = put(&ring, &purge(6, "alice"), 1100);
    assert_eq!(put(&ring, &purge(7, "alice"), 1200), second);
    put(&ring, &purge(6, "bob"), 1200);
    assert_eq!(numbers(&store(&ring, 1200)), [3]);
    assert_eq!((ring.take(1499), ring.next_due(1499)), (Vec::new(), Some(1)));
    let sendings = store(&ring, 1500);
    assert_eq!((numbers(&sendings), events(sendings)), (vec![2], vec![purge(7, "alice")]));
    // Without another one in the last half second, at once.
    put(&ring, &purge(8, "alice"), 2000);
    assert_eq!(ring.take(2000).len(), 1);
}

#[test]
fn a_time_of_another_clock_delays_nothing() {
    let ring = ring(8);
    put(&ring, &purge(5, "alice"), 1_000_000);
    store(&ring, 1_000_000);
    put(&ring, &purge(6, "alice"), 1_000_000);
    assert_eq!(ring.next_due(50), Some(0));
    assert_eq!(ring.take(50).len(), 1);
}

#[test]
fn the_later_period_of_a_user_counts() {
    let ring = ring(8);
    let first = put(&ring, &period(5, "alice", 3, Some((10, 20))), 5);
    let second = put(&ring, &period(6, "alice", 4, None), 5);
    assert_eq!(
        (standing(&ring, first), standing(&ring, second)),
        (Standing::Gone, Standing::Waiting)
    );
    // One that is earlier is not put.
    assert_eq!(put(&ring, &period(7, "alice", 2, Some((1, 2))), 5), second);
    assert_eq!(events(ring.take(5)), [period(6, "alice", 4, None)]);
}

#[test]
fn a_number_has_one_plain_text() {
    let ring = ring(8);
    let number = put(&ring, &purge(5, "alice"), 5);
    assert_eq!(events(ring.take(5)), [purge(5, "alice")]);
    // It may be sealed: what waits again is not changed.
    ring.broken();
    assert_ne!(put(&ring, &purge(9, "alice"), 5), number);
    assert_eq!(events(store(&ring, 5)), [purge(5, "alice")]);
    ring.say_again();
    assert_eq!(ring.waiting(), 2);
    assert_eq!(events(ring.take(5000)), [purge(5, "alice"), purge(9, "alice")]);
}

#[test]
fn what_is_unanswered_is_sent_again_under_its_number() {
    let ring = ring(8);
    put(&ring, &purge(5, "alice"), 5);
    put(&ring, &purge(5, "bob"), 5);
    let sendings = ring.take(5);
    ring.acknowledged(&sendings[0].ticket);
    ring.broken();
    // An answer that comes late is not one to what is sent now.
    let again = ring.take(5);
    assert_eq!(numbers(&again), [2]);
    ring.acknowledged(&sendings[1].ticket);
    assert_eq!(standing(&ring, 2), Standing::Waiting);
    ring.acknowledged(&again[0].ticket);
    assert_eq!(standing(&ring, 2), Standing::Stored);
}

#[test]
fn what_redis_took_and_does_not_come_back_is_said_again() {
    let ring = ring(8);
    ["alice", "bob", "carol"].iter().for_each(|name| _ = put(&ring, &purge(5, name), 5));
    let sendings = ring.take(5);
    ring.acknowledged(&sendings[0].ticket);
    ring.acknowledged(&sendings[1].ticket);
    ring.returned(1);
    // The first look may have begun before the answer.
    assert_eq!(ring.looked(), 0);
    assert_eq!(ring.looked(), 1);
    assert_eq!(numbers(&ring.take(5)), [2]);
    // What is unanswered is not said again by that.
    assert_eq!((ring.looked(), ring.looked()), (0, 0));
    ring.returned(2);
    assert_eq!((ring.looked(), ring.looked(), ring.looked()), (0, 0, 0));
    assert_eq!(standing(&ring, 2), Standing::Stored);
}

#[test]
fn what_came_back_counts_for_good_when_a_look_adds_up() {
    let ring = ring(8);
    ["alice", "bob", "carol"].iter().for_each(|name| _ = put(&ring, &purge(5, name), 5));
    let sendings = ring.take(5);
    ring.acknowledged(&sendings[0].ticket);
    ring.returned(1);
    assert_eq!(ring.looked(), 0);
    ring.acknowledged(&sendings[1].ticket);
    ring.returned(2);
    // The keeper dies before the next look: the next one reads from the last look.
    ring.taken_over();
    assert_eq!((ring.looked(), ring.looked()), (0, 1));
    assert_eq!(numbers(&ring.take(5)), [2, 3]);
}

#[test]
fn after_a_loss_all_is_said_again_except_what_is_found() {
    let ring = ring(8);
    ["alice", "bob", "carol"].iter().for_each(|name| _ = put(&ring, &purge(5, name), 5));
    let sendings = store(&ring, 5);
    ring.returned(1);
    ring.say_again();
    ring.returned(3);
    ring.acknowledged(&sendings[1].ticket);
    assert_eq!(numbers(&ring.take(600)), [1, 2]);
    assert_eq!(standing(&ring, 3), Standing::Stored);
}

#[test]
fn events_are_kept_for_the_retention() {
    let ring = ring(8);
    put(&ring, &purge(5, "alice"), 5);
    put(&ring, &purge(5, "bob"), 50);
    store(&ring, 50);
    ring.expire(105, 100, 0);
    assert_eq!((standing(&ring, 1), standing(&ring, 2)), (Standing::Stored, Standing::Stored));
    ring.expire(106, 100, 0);
    assert_eq!((standing(&ring, 1), standing(&ring, 2)), (Standing::Gone, Standing::Stored));
    ring.say_again();
    assert_eq!(numbers(&ring.take(1000)), [2]);
    ring.expire(u64::MAX, 100, 0);
    assert_eq!(ring.used.load(Ordering::SeqCst), 0);
}

#[test]
fn a_period_is_kept_until_it_ends_and_said_again_in_each_retention() {
    let ring = ring(8);
    let all = [
        period(5, "alice", 3, Some((10, 2000))),
        period(5, "bob", 3, Some((10, u64::MAX))),
        period(5, "carol", 3, None),
        end(5, "dave", 1, 2000),
    ];
    all.iter().for_each(|event| _ = put(&ring, event, 5));
    store(&ring, 5).iter().for_each(|sending| ring.returned(sending.ticket.number));
    assert_eq!(ring.renew(55, 100, 1000), 0);
    assert_eq!(ring.renew(56, 100, 1000), 2);
    assert_eq!(events(store(&ring, 56)), all[..2]);
    ring.expire(106, 100, 1999);
    assert_eq!((standing(&ring, 1), standing(&ring, 3)), (Standing::Stored, Standing::Gone));
    assert_eq!(standing(&ring, 4), Standing::Gone);
    ring.say_again();
    assert_eq!(events(ring.take(600)), all[..2]);
    ring.expire(106, 100, 2000);
    assert_eq!((standing(&ring, 1), standing(&ring, 2)), (Standing::Gone, Standing::Waiting));
}

#[test]
fn a_period_that_another_host_replaced_is_not_said_again() {
    let ring = ring(8);
    put(&ring, &period(5, "alice", 3, Some((10, u64::MAX))), 5);
    put(&ring, &period(5, "bob", 3, Some((10, u64::MAX))), 5);
    store(&ring, 5).iter().for_each(|sending| ring.returned(sending.ticket.number));
    ring.replaced_by(&period(6, "alice", 2, None));
    ring.replaced_by(&end(6, "alice", 9, 9));
    ring.replaced_by(&Event { project: Some([7; 32]), ..period(6, "alice", 9, None) });
    assert_eq!(standing(&ring, 1), Standing::Stored);
    ring.replaced_by(&period(6, "alice", 4, None));
    assert_eq!((standing(&ring, 1), standing(&ring, 2)), (Standing::Gone, Standing::Stored));
}

#[test]
fn a_period_that_this_host_replaced_or_lifted_is_not_said_again() {
    for later in [None, Some((20, 30_000))] {
        let ring = ring(8);
        put(&ring, &period(5, "alice", 3, Some((10, u64::MAX))), 5);
        put(&ring, &period(5, "bob", 3, Some((10, u64::MAX))), 5);
        store(&ring, 5).iter().for_each(|sending| ring.returned(sending.ticket.number));
        let third = put(&ring, &period(6, "alice", 4, later), 6);
        assert_eq!(standing(&ring, 1), Standing::Gone, "{later:?}");
        store(&ring, 600);
        ring.returned(third);
        ring.expire(700 + RETENTION, RETENTION, 40_000);
        ring.renew(700 + RETENTION, RETENTION, 40_000);
        let said = events(ring.take(700 + RETENTION));
        assert_eq!(said, [period(5, "bob", 3, Some((10, u64::MAX)))], "{later:?}");
    }
}

#[test]
fn a_full_ring_keeps_the_wish_to_hear_ends_again() {
    let ring = ring(4);
    assert!(ring.put_wish(5, 5) && ring.put_wish(6, 6));
    (0..3_u64).for_each(|n| _ = put(&ring, &purge(10 + n, &n.to_string()), 5));
    let _ = ring.put(&purge(20, "x"), 6, RETENTION);
    assert!(events(store(&ring, 6)).contains(&Event::again(5)));
    // Hosts hear of it once: another one waits until this one came back.
    assert!(!ring.put_wish(7, 7));
    ring.say_again();
    assert!(!ring.put_wish(7, 7));
    ring.returned(1);
    assert!(ring.put_wish(7, 7));
}

#[test]
fn a_wish_lets_no_refusal_give_way() {
    let ring = ring(3);
    put(&ring, &end(5, "a", 1, 2), 5);
    put(&ring, &end(5, "b", 1, 2), 5);
    assert!(!ring.put_wish(5, 5));
    ring.expire(6 + RETENTION, RETENTION, 0);
    assert!(ring.put_wish(5, 5));
}

#[test]
fn ends_and_periods_are_said_again_for_a_host_that_missed_some() {
    let ring = ring(8);
    let all = [end(5, "a", 1, 2), period(5, "b", 1, None), purge(5, "c")];
    all.iter().for_each(|event| _ = put(&ring, event, 5));
    assert!(ring.put_wish(5, 5));
    let sent = store(&ring, 5);
    ring.returned(sent[0].ticket.number);
    assert_eq!(ring.say_ends_again(), 2);
    assert_eq!(events(ring.take(600)), all[..2]);
    assert_eq!(ring.say_ends_again(), 0);
}

#[test]
fn in_a_full_ring_what_came_back_becomes_one_unsaid_everything() {
    let ring = ring(4);
    (0..4_u64).for_each(|n| _ = put(&ring, &purge(10 + n, &n.to_string()), 5));
    store(&ring, 5).iter().for_each(|sending| ring.returned(sending.ticket.number));
    let fifth = put(&ring, &purge(20, "x"), 6);
    assert_eq!(events(store(&ring, 6)), [purge(20, "x")]);
    ring.returned(fifth);
    // It is said when all is said again.
    ring.say_again();
    let mut again = events(ring.take(1000));
    again.sort_by_key(|event| event.at);
    assert_eq!(again, [Event::everything(13, None), purge(20, "x")]);
}

#[test]
fn in_a_full_ring_purges_become_one_everything() {
    let ring = ring(4);
    (0..4_u64).for_each(|n| _ = put(&ring, &purge(10 + n, &n.to_string()), 5));
    let under_way = ring.take(5);
    let fifth = ring.put(&purge(20, "x"), 6, RETENTION);
    assert_eq!(fifth.room, Room::Widened);
    assert_eq!((ring.waiting(), standing(&ring, fifth.number)), (1, Standing::Waiting));
    // Answers to what it stands for change nothing.
    under_way.iter().for_each(|sending| ring.acknowledged(&sending.ticket));
    let sendings = ring.take(6);
    assert_eq!(numbers(&sendings), [fifth.number]);
    assert!(under_way.iter().all(|sending| sending.ticket.number != fifth.number));
    assert_eq!(events(sendings), [Event::everything(20, None)]);
}

#[test]
fn ends_are_dropped_last_and_leave_a_slot_for_purges() {
    let ring = ring(4);
    put(&ring, &end(5, "a", 1, 2), 5);
    store(&ring, 5);
    ring.returned(1);
    put(&ring, &end(5, "b", 1, 2), 5);
    put(&ring, &purge(5, "x"), 5);
    put(&ring, &purge(5, "y"), 5);
    // Purges give way, then ends that came back, then the oldest.
    let third = ring.put(&end(5, "c", 1, 2), 5, RETENTION);
    assert_eq!(third.room, Room::Widened);
    let fourth = ring.put(&period(5, "d", 1, None), 5, RETENTION);
    assert_eq!((fourth.room, standing(&ring, 1)), (Room::Forgotten, Standing::Gone));
    let fifth = ring.put(&end(5, "e", 1, 2), 5, RETENTION);
    assert_eq!((fifth.room, standing(&ring, 2)), (Room::Dropped, Standing::Gone));
    let expected: HashSet<_> = [third.number, fourth.number, fifth.number].into();
    let sent = events(ring.take(600));
    assert_eq!(sent.iter().filter(|event| !event.is_purge()).count(), expected.len());
    assert!(sent.contains(&Event::everything(5, None)));
    // A purge drops no end.
    assert_eq!(ring.put(&purge(9, "z"), 600, RETENTION).room, Room::Widened);
    assert!(expected.iter().all(|number| standing(&ring, *number) != Standing::Gone));
    // Ends alone leave a slot.
    let ring = self::ring(3);
    put(&ring, &end(5, "a", 1, 2), 5);
    put(&ring, &end(5, "b", 1, 2), 5);
    assert_eq!(ring.put(&end(5, "c", 1, 2), 5, RETENTION).room, Room::Dropped);
    assert_eq!(ring.put(&purge(5, "x"), 5, RETENTION).room, Room::Enough);
}

#[test]
fn a_full_ring_makes_room_of_what_is_too_old() {
    let ring = ring(3);
    put(&ring, &end(5, "a", 1, 2), 5);
    put(&ring, &end(5, "b", 1, 2), 5 + RETENTION);
    let third = put(&ring, &end(5, "c", 1, 2), 6 + RETENTION);
    assert_eq!((standing(&ring, 1), standing(&ring, third)), (Standing::Gone, Standing::Waiting));
}

#[test]
fn an_event_of_a_number_that_was_never_sent_is_not_believed() {
    let ring = ring(3);
    let number = put(&ring, &purge(5, "alice"), 5);
    ring.returned(number);
    ring.returned(number + 1);
    assert_eq!(standing(&ring, number), Standing::Waiting);
}

#[test]
fn a_ring_in_the_zone_has_this_size() {
    assert!(SLOTS * size_of::<EventSlot>() < 1536 * 1024);
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Take,
    Answer(prop::sample::Index),
    Return(prop::sample::Index),
    Looked,
    Broken,
    SayAgain,
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..4_u8, 0..12_u8).prop_map(|(kind, user)| Step::Put(kind, user)),
        4 => Just(Step::Take),
        4 => any::<prop::sample::Index>().prop_map(Step::Answer),
        4 => any::<prop::sample::Index>().prop_map(Step::Return),
        2 => Just(Step::Looked),
        1 => Just(Step::Broken),
        1 => Just(Step::SayAgain),
        2 => (0..700_u64).prop_map(Step::Wait),
    ]
}

fn covers(sent: &Event, put: &Event) -> bool {
    let later = sent.at >= put.at;
    match (&sent.what, &put.what) {
        (What::Everything, _) if put.is_purge() => later && sent.project.is_none(),
        (What::End { user, issued, until }, What::End { user: u, issued: i, until: t }) => {
            user == u && issued >= i && until >= t
        }
        (What::Period { user, order, .. }, What::Period { user: u, order: o, .. }) => {
            user == u && order >= o
        }
        _ => later && sent.what == put.what,
    }
}

proptest! {
    #[test]
    fn every_event_is_sent_or_covered(all in prop::collection::vec(steps(), 1..150)) {
        let ring = ring(6);
        let (mut now, mut tickets, mut sent) = (1000, Vec::new(), Vec::new());
        let (mut texts, mut puts) = (std::collections::HashMap::new(), Vec::new());
        let mut dropped = false;
        let mut take = |now, tickets: &mut Vec<Ticket>, sent: &mut Vec<Event>| {
            let sendings = ring.take(now);
            for Sending { ticket, event } in sendings {
                // A number seals one plain text.
                let text = texts.entry(ticket.number).or_insert_with(|| event.clone());
                assert_eq!(*text, event);
                tickets.push(ticket);
                sent.push(event);
            }
        };
        for step in all {
            now += 1;
            match step {
                Step::Put(kind, name) => {
                    let name = name.to_string();
                    let event = match kind {
                        0 => end(now, &name, now, now + 5),
                        1 => period(now, &name, now, Some((1, 2))),
                        _ => purge(now, &name),
                    };
                    let put = ring.put(&event, now, RETENTION);
                    dropped |= matches!(put.room, Room::Dropped | Room::Forgotten);
                    prop_assert!(ring.standing(put.slot, put.number) == Standing::Waiting);
                    puts.push(event);
                }
                Step::Take => take(now, &mut tickets, &mut sent),
                Step::Answer(at) => {
                    if !tickets.is_empty() {
                        ring.acknowledged(at.get(&tickets));
                    }
                }
                Step::Return(at) => {
                    if !tickets.is_empty() {
                        ring.returned(at.get(&tickets).number);
                    }
                }
                Step::Looked => _ = ring.looked(),
                Step::Broken => ring.broken(),
                Step::SayAgain => ring.say_again(),
                Step::Wait(time) => now += time,
            }
        }
        ring.broken();
        take(now + 1000, &mut tickets, &mut sent);
        for put in puts.iter().filter(|put| put.is_purge() || !dropped) {
            prop_assert!(sent.iter().any(|sent| covers(sent, put)), "{put:?} in {sent:?}");
        }
    }

    #[test]
    fn hostile_words_panic_nowhere(words in prop::collection::vec(any::<u64>(), 8), id: u64) {
        let ring = ring(3);
        for (slot, words) in ring.slots.iter().zip(words.chunks(2)) {
            let mut content = Content::everything(5);
            (content.head, content.times) = (words[0], [words[1]; 3]);
            slot.fill(id, &content, id, id);
        }
        ring.used.store(id, Ordering::SeqCst);
        let taken = ring.take(5);
        prop_assert!(taken.len() <= 3);
        let _ = ring.put(&purge(5, "alice"), 5, RETENTION);
        ring.expire(id, 5, 0);
    }
}
