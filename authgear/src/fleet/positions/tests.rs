mod walks;

use super::*;

const SERVER: Incarnation = Incarnation(1);

fn epoch(number: u64) -> PurgeEpoch {
    PurgeEpoch::of_number(number)
}

fn read(log: &PositionLog, position: u64, time: u64, number: u64, own: (Option<u64>, u64)) {
    let own = OwnEvents { least_pending: own.0, last: own.1 };
    log.has_read((SERVER, Position(position)), time, epoch(number), own);
}

fn quiet(log: &PositionLog, position: u64, time: u64, number: u64) {
    read(log, position, time, number, (None, 0));
}

fn judged(log: &PositionLog, position: u64, asked_at: u64) -> Option<u64> {
    log.epoch_of(Position(position), asked_at).map(PurgeEpoch::number)
}

/// A log of a host that begins with nothing purged.
fn fresh() -> PositionLog {
    let log = PositionLog::new();
    log.begin(epoch(0));
    log
}

#[test]
fn a_record_is_judged_by_the_last_point_that_it_reaches() {
    let log = fresh();
    assert_eq!((log.place(), judged(&log, 9, 9)), (None, None));
    quiet(&log, 10, 100_000, 0);
    quiet(&log, 20, 110_000, 3);
    quiet(&log, 30, 120_000, 5);
    let late = 200_000;
    let all = [9, 10, 19, 20, 29, 30, 99].map(|position| judged(&log, position, late));
    assert_eq!(all, [None, Some(0), Some(0), Some(3), Some(3), Some(5), Some(5)]);
    // By the time of the question, too. The first point of a fresh zone has none.
    let times = [0, 113_999, 114_000, 123_999, 124_000].map(|time| judged(&log, 99, time));
    assert_eq!(times, [Some(0), Some(0), Some(3), Some(3), Some(5)]);
    let place = log.place().unwrap();
    assert_eq!((place.position, place.incarnation, place.era), (Position(30), SERVER, 0));
}

#[test]
fn a_zone_that_was_made_after_purges_knows_of_no_earlier_question() {
    let log = PositionLog::new();
    log.begin(epoch(7));
    // Workers that begin later change nothing.
    log.begin(epoch(0));
    quiet(&log, 10, 100_000, 7);
    assert_eq!(judged(&log, 10, 103_999), None);
    assert_eq!(judged(&log, 10, 104_000), Some(7));
    // Nor does one that read of purges before its first point.
    let log = fresh();
    quiet(&log, 10, 100_000, 1);
    assert_eq!((judged(&log, 10, 103_999), judged(&log, 10, 104_000)), (None, Some(1)));
}

#[test]
fn purges_of_pending_events_stay_above_the_epoch() {
    let log = fresh();
    quiet(&log, 10, 1, 4);
    // Event 1 is pending; its purge has number 5.
    read(&log, 10, 2, 5, (Some(1), 1));
    read(&log, 20, 3, 8, (Some(1), 2));
    assert_eq!(judged(&log, 20, 50_000), Some(4));
    // Event 1 came back: purges up to 5 have positions now. Event 2 is pending.
    read(&log, 30, 4, 9, (Some(2), 2));
    assert_eq!([20, 30].map(|at| judged(&log, at, 50_000)), [Some(4), Some(5)]);
    read(&log, 40, 5, 9, (Some(3), 3));
    assert_eq!(judged(&log, 40, 50_000), Some(9));
    read(&log, 50, 6, 12, (None, 3));
    assert_eq!(judged(&log, 50, 50_000), Some(12));
}

#[test]
fn an_event_that_stands_for_others_keeps_their_purges_pending() {
    let log = fresh();
    read(&log, 10, 1, 4, (Some(1), 1));
    // *Everything* under number 2 took the place of event 1.
    log.widened();
    read(&log, 20, 2, 4, (Some(2), 2));
    assert_eq!(judged(&log, 20, 50_000), Some(0));
}

#[test]
fn a_loss_begins_anew_with_all_own_events_pending() {
    let log = fresh();
    quiet(&log, 10, 100_000, 4);
    log.lost();
    assert_eq!((log.place(), judged(&log, 10, 200_000)), (None, None));
    read(&log, 5, 110_000, 4, (Some(1), 1));
    // What was asked before the loss was noticed, on whatever server, is not known.
    assert_eq!(judged(&log, 10, 113_999), None);
    assert_eq!(judged(&log, 10, 114_000), Some(0));
    assert_eq!(log.place().unwrap().era, 1);
    // Another server without a notice is a loss, too.
    log.has_read((Incarnation(2), Position(99)), 120_000, epoch(4), OwnEvents::default());
    assert_eq!((judged(&log, 98, 200_000), judged(&log, 99, 123_999)), (None, None));
    assert_eq!(log.place().unwrap().era, 2);
}

#[test]
fn a_host_that_is_down_judges_nothing_and_forgets_nothing() {
    let log = fresh();
    quiet(&log, 10, 100_000, 4);
    log.is_down();
    assert_eq!((log.place(), judged(&log, 10, 200_000)), (None, None));
    // A keeper that took over begins further back.
    quiet(&log, 8, 110_000, 5);
    assert_eq!(log.place().unwrap().position, Position(10));
    assert_eq!((judged(&log, 9, 200_000), judged(&log, 10, 200_000)), (None, Some(4)));
}

#[test]
fn a_process_that_was_killed_within_a_change_costs_the_log() {
    let log = fresh();
    quiet(&log, 10, 100_000, 4);
    set(&log.is_dirty, 1);
    assert_eq!((log.place(), judged(&log, 10, 200_000)), (None, None));
    quiet(&log, 20, 110_000, 5);
    assert_eq!(judged(&log, 20, 111_999), None);
    assert_eq!((judged(&log, 10, 200_000), judged(&log, 20, 200_000)), (None, Some(5)));
}

#[test]
fn old_points_are_thinned_out_and_never_promise_more() {
    let log = fresh();
    for n in 1..=5000 {
        quiet(&log, n * 10, n, n);
    }
    assert!(log.used() <= POINTS);
    for n in 1..=5000 {
        let judged = judged(&log, n * 10 + 5, 1_000_000).unwrap();
        assert!(judged <= n, "{n}: {judged}");
    }
    assert_eq!(judged(&log, 50_000, 1_000_000), Some(5000));
}
