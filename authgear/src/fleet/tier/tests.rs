use super::super::stream_id::Position;
use super::*;
use crate::identity::Identity;
use proptest::prelude::*;

const HERE: Incarnation = Incarnation(1);
const NOW: u64 = 1_000_000;

fn session() -> Verdict {
    Verdict::Valid(Identity::default())
}

fn record(content: Content) -> Record {
    let (asked_at, position) = (NOW - 1000, Position(5));
    Record { content, incarnation: HERE, position, asked_at, expires_at: Some(NOW + 1) }
}

fn verdict() -> Record {
    record(Content::Verdict(session()))
}

fn means(record: Record) -> Meaning {
    meaning(record, HERE, NOW, &Valid::default())
}

#[test]
fn a_record_counts_under_each_of_these_conditions_only() {
    let stale = Meaning::Refused(Refusal::Stale);
    let counts = |age| Meaning::Counts { verdict: session(), age };
    assert_eq!(means(verdict()), counts(5000));
    assert_eq!(means(Record { expires_at: None, ..verdict() }), counts(5000));
    let foreign = Record { incarnation: Incarnation(2), ..verdict() };
    assert_eq!(means(foreign), Meaning::Refused(Refusal::Foreign));
    assert_eq!(means(Record { expires_at: Some(NOW), ..verdict() }), stale);
    for (asked_at, expected) in [
        (NOW - 56_000, stale.clone()),
        (NOW - 55_999, counts(59_999)),
        (NOW + APART, counts(APART)),
        (NOW + APART + 1, stale.clone()),
        (0, stale.clone()),
        (u64::MAX, stale.clone()),
    ] {
        assert_eq!(means(Record { asked_at, ..verdict() }), expected, "{asked_at}");
    }
    // Each kind has a lifetime of its own.
    let invalid = Record { asked_at: NOW - 3000, ..record(Content::Verdict(Verdict::Invalid)) };
    assert_eq!(means(invalid), stale);
}

#[test]
fn a_lease_is_followed_while_it_lasts_on_any_server() {
    let lease = |asked_at| {
        let incarnation = Incarnation(2);
        means(Record { asked_at, incarnation, ..record(Content::Lease([0; 16])) })
    };
    assert_eq!(lease(NOW), Meaning::Follow);
    assert_eq!(lease(NOW - 1499), Meaning::Follow);
    assert_eq!(lease(NOW + APART), Meaning::Follow);
    for asked_at in [NOW - 1500, NOW + APART + 1, 0] {
        assert_eq!(lease(asked_at), Meaning::Refused(Refusal::Stale), "{asked_at}");
    }
}

#[test]
fn a_record_lives_as_long_as_the_verdict_and_the_credentials() {
    let life =
        |asked_at, expires_at| life(&session(), asked_at, expires_at, NOW, &Valid::default());
    assert_eq!(life(NOW, None), 56_000);
    assert_eq!(life(NOW - 20_000, None), 36_000);
    assert_eq!(life(NOW - 20_000, Some(NOW + 7)), 7);
    assert_eq!(life(NOW - 20_000, Some(NOW - 7)), 0);
    assert_eq!(life(NOW - 70_000, None), 0);
}

#[test]
fn a_record_that_counts_at_no_other_host_is_not_worth_sharing() {
    let worth = |valid, invalid| {
        let [valid, invalid] = [valid, invalid].map(Duration::from_millis);
        is_worth_sharing(&Valid { valid, invalid, none: Duration::from_secs(60) })
    };
    assert!(!worth(APART, APART) && !worth(0, 0));
    assert!(worth(APART + 1, 0) && worth(0, APART + 1));
}

#[test]
fn a_lease_is_followed_for_a_second_or_half_of_the_timeout() {
    assert_eq!(follow_time(Duration::from_secs(5)), Duration::from_secs(1));
    assert_eq!(follow_time(Duration::from_millis(500)), Duration::from_millis(250));
    let pauses: Vec<u128> = (0..6).map(|n| pause(n).as_millis()).collect();
    assert_eq!(pauses, [5, 10, 10, 10, 10, 10]);
    assert_eq!(pause(u32::MAX), Duration::from_millis(10));
}

#[test]
fn three_failures_in_a_row_are_followed_by_a_rest_and_one_probe() {
    let seconds = Duration::from_secs;
    let mut patience = Patience::default();
    for _ in 0..2 {
        patience.failed(seconds(1), seconds(1));
        patience.failed(seconds(1), seconds(1));
        assert!(patience.allows(seconds(1)));
        patience.answered();
    }
    (0..3).for_each(|_| patience.failed(seconds(1), seconds(1)));
    assert!(!patience.allows(seconds(1)) && !patience.allows(Duration::from_millis(10_999)));
    assert!(patience.allows(seconds(11)) && !patience.allows(seconds(11)));
    patience.failed(seconds(12), seconds(12));
    assert!(!patience.allows(seconds(21)));
    assert!(patience.allows(seconds(22)));
    patience.answered();
    assert!(patience.allows(seconds(22)) && patience.allows(seconds(22)));
    // One pause of Redis.
    (0..9).for_each(|_| patience.failed(seconds(22), seconds(23)));
    assert!(patience.allows(seconds(23)));
}

proptest! {
    #[test]
    fn no_record_counts_beyond_its_time(asked_at: u64, expires_at: Option<u64>, now: u64, other: bool) {
        let incarnation = if other { Incarnation(2) } else { HERE };
        let record = Record { asked_at, expires_at, incarnation, ..verdict() };
        if let Meaning::Counts { age, .. } = meaning(record, HERE, now, &Valid::default()) {
            prop_assert!(!other && age < 60_000 && now.saturating_sub(asked_at) + APART == age);
            prop_assert!(asked_at <= now.saturating_add(APART));
            prop_assert!(expires_at.is_none_or(|at| at > now));
        }
    }
}
