use super::super::reply::ServerInfo;
use super::*;
use proptest::prelude::*;

const RETENTION: u64 = 1000;

fn server(name: &str) -> ServerInfo {
    ServerInfo::for_tests(name, "r")
}

fn incarnation(name: &str) -> Incarnation {
    server(name).incarnation()
}

const fn id(ms: u64) -> StreamId {
    StreamId { ms, seq: 0 }
}

fn entry(ms: u64) -> Entry {
    Entry { id: id(ms), value: Vec::new().into() }
}

fn entries(times: &[u64]) -> Vec<Entry> {
    times.iter().map(|ms| entry(*ms)).collect()
}

fn connected(name: &str, time: u64) -> Input {
    Input::Connected { incarnation: incarnation(name), time }
}

/// A look at a stream with these entries, of which `read` are behind the cursor.
fn look_at(name: &str, there: &[u64], added: u64, last: u64, read: &[u64]) -> Input {
    let stream = StreamInfo {
        added,
        length: there.len() as u64,
        last: id(last),
        first: there.first().map(|ms| id(*ms)),
    };
    Input::Look(Look { entries: entries(read), stream: Some(stream), server: server(name) })
}

/// A look at a stream of which nothing was trimmed.
fn look(name: &str, there: &[u64], read: &[u64]) -> Input {
    look_at(name, there, there.len() as u64, there.last().copied().unwrap_or(0), read)
}

fn gone(name: &str) -> Input {
    Input::Look(Look { entries: Vec::new(), stream: None, server: server(name) })
}

/// Words for what is done.
fn words(todo: &[Do]) -> Vec<String> {
    let word = |what: &Do| match what {
        Do::Look(from) => format!("look {}", from.ms),
        Do::Block(from) => format!("block {}", from.ms),
        Do::Apply(entry) => format!("apply {}", entry.id.ms),
        Do::SayAgain => "again".into(),
        Do::Recover => "recover".into(),
        Do::Lost(loss) => loss.word().into(),
        Do::Keep(saved) => format!("keep {}", saved.sound.index),
        Do::Confirm => "confirm".into(),
        Do::Close => "close".into(),
    };
    todo.iter().map(word).collect()
}

fn step(cursor: &mut Cursor, input: Input) -> Vec<String> {
    words(&cursor.step(input))
}

/// A cursor that read these entries of server `a` and is live.
fn live(there: &[u64]) -> Cursor {
    let mut cursor = Cursor::new(None, RETENTION).with(100, PAGE);
    cursor.step(connected("a", RETENTION));
    for end in 1..=there.len() {
        cursor.step(Input::Beat);
        cursor.step(look("a", &there[..end], &there[end.saturating_sub(2)..end]));
    }
    if there.is_empty() {
        cursor.step(gone("a"));
    }
    assert_eq!(cursor.phase(), Phase::Live);
    cursor
}

#[test]
fn a_first_reading_begins_at_the_retention() {
    let mut cursor = Cursor::new(None, RETENTION);
    assert_eq!(step(&mut cursor, connected("a", 5000)), ["again", "look 4000"]);
    // Entries before it were trimmed, and are not missed.
    let first = look_at("a", &[3990, 4010, 4020], 9, 4020, &[4010, 4020]);
    let todo = step(&mut cursor, first);
    assert_eq!(todo, ["apply 4010", "apply 4020", "keep 9", "confirm", "block 4020"]);
    assert_eq!(cursor.phase(), Phase::Live);
    let position = id(4020).position().unwrap();
    assert_eq!(cursor.position(), Some((incarnation("a"), position)));
}

#[test]
fn a_first_reading_of_no_stream_or_an_old_one_adds_up() {
    let mut cursor = Cursor::new(None, RETENTION);
    cursor.step(connected("a", 5000));
    assert_eq!(step(&mut cursor, gone("a")), ["keep 0", "confirm", "block 0"]);
    let mut cursor = Cursor::new(None, RETENTION);
    cursor.step(connected("a", 5000));
    let todo = step(&mut cursor, look("a", &[10, 20], &[]));
    assert_eq!(todo, ["keep 2", "confirm", "block 20"]);
    // An id that is below where it began, by a clock that is behind.
    cursor.step(Input::Beat);
    let todo = step(&mut cursor, look("a", &[10, 20, 30], &[30]));
    assert_eq!(todo, ["apply 30", "keep 3", "confirm", "block 30"]);
}

#[test]
fn a_first_reading_purges_if_entries_since_its_beginning_were_trimmed() {
    let mut cursor = Cursor::new(None, RETENTION);
    cursor.step(connected("a", 5000));
    let todo = step(&mut cursor, look_at("a", &[4500], 9, 4500, &[4500]));
    let expected = ["trimmed", "recover", "apply 4500", "keep 9", "confirm", "block 4500"];
    assert_eq!(todo, expected);
}

#[test]
fn it_looks_until_a_page_is_not_full() {
    let mut cursor = Cursor::new(None, RETENTION).with(100, 2);
    cursor.step(connected("a", RETENTION));
    let all = [10, 20, 30];
    assert_eq!(step(&mut cursor, look("a", &all, &[10, 20])), ["apply 10", "apply 20", "look 19"]);
    assert_eq!(cursor.phase(), Phase::Syncing);
    assert_eq!(cursor.position(), None);
    // The anchor comes with a page.
    let todo = step(&mut cursor, look("a", &all, &[20, 30]));
    assert_eq!(todo, ["apply 30", "keep 3", "confirm", "block 30"]);
    // The same while it waits.
    assert_eq!(step(&mut cursor, Input::Woken(entries(&[40]))), ["apply 40", "block 40"]);
    let todo = step(&mut cursor, Input::Woken(entries(&[50, 60])));
    assert_eq!(todo, ["apply 50", "apply 60", "look 29"]);
}

#[test]
fn a_page_of_one_entry_gets_on_behind_its_anchor() {
    let mut cursor = live(&[10]);
    while cursor.page() > 1 {
        cursor.step(Input::TooLarge);
    }
    let there = [10, 20, 30, 40];
    let mut todo = cursor.step(connected("a", 0));
    let mut looks = 0;
    while let Some(Do::Look(from)) = todo.last() {
        let behind = there.iter().copied().filter(|ms| *ms > from.ms);
        let read: Vec<_> = behind.take(cursor.look_size()).collect();
        todo = cursor.step(look("a", &there, &read));
        looks += 1;
        assert!(looks < 10, "{:?}", words(&todo));
    }
    assert_eq!((words(&todo).last().unwrap().as_str(), looks), ("block 40", 4));
}

#[test]
fn a_beat_makes_the_next_waking_a_look() {
    let mut cursor = live(&[10]);
    assert_eq!(step(&mut cursor, Input::Woken(Vec::new())), ["block 10"]);
    assert_eq!(step(&mut cursor, Input::Beat), Vec::<String>::new());
    assert_eq!(step(&mut cursor, Input::Woken(entries(&[20]))), ["apply 20", "look 9"]);
    let todo = step(&mut cursor, look("a", &[10, 20], &[10, 20]));
    assert_eq!(todo, ["keep 2", "confirm", "block 20"]);
    assert_eq!(step(&mut cursor, Input::Woken(Vec::new())), ["block 20"]);
}

#[test]
fn a_connection_that_breaks_is_taken_up_where_it_was() {
    let mut cursor = live(&[10, 20]);
    assert_eq!(step(&mut cursor, Input::Broken), Vec::<String>::new());
    assert_eq!((cursor.phase(), cursor.position()), (Phase::Down, None));
    // Answers of the connection that is over.
    assert_eq!(step(&mut cursor, Input::Woken(entries(&[30]))), Vec::<String>::new());
    assert_eq!(step(&mut cursor, look("a", &[10, 20], &[])), Vec::<String>::new());
    assert_eq!(step(&mut cursor, connected("a", 0)), ["look 19"]);
    let todo = step(&mut cursor, look("a", &[10, 20, 30], &[20, 30]));
    assert_eq!(todo, ["apply 30", "keep 3", "confirm", "block 30"]);
}

#[test]
fn a_first_reading_that_breaks_begins_again() {
    let mut cursor = Cursor::new(None, RETENTION).with(100, 1);
    cursor.step(connected("a", 5000));
    let there = [3000, 4500, 4600];
    assert_eq!(step(&mut cursor, look("a", &there, &[4500])), ["apply 4500", "look 4499"]);
    cursor.step(Input::Broken);
    assert_eq!(step(&mut cursor, connected("a", 5001)), ["again", "look 4001"]);
}

#[test]
fn the_writer_waits_for_an_incarnation() {
    let mut cursor = Cursor::new(None, RETENTION);
    assert!(!cursor.may_write(incarnation("a")));
    cursor.step(connected("a", 5000));
    assert!(cursor.may_write(incarnation("a")) && !cursor.may_write(incarnation("b")));
    // Its loss will be noticed, also when it is not connected.
    cursor.step(Input::Broken);
    assert!(cursor.may_write(incarnation("a")));
    cursor.step(connected("b", 5000));
    assert!(cursor.may_write(incarnation("b")) && !cursor.may_write(incarnation("a")));
}

#[test]
fn another_server_is_read_from_a_cursor_that_added_up_and_is_old_enough() {
    let mut cursor = live(&[10, 50, 120, 160]);
    cursor.step(Input::Broken);
    // 50 is the last one that is 100 ms before 160. Its entry comes first.
    let todo = step(&mut cursor, connected("b", 0));
    assert_eq!(todo, ["incarnation", "again", "keep 4", "look 49"]);
    let todo = step(&mut cursor, look("b", &[10, 50, 120, 130], &[50, 120, 130]));
    let expected = ["apply 120", "apply 130", "keep 4", "confirm", "block 130"];
    assert_eq!(todo, expected);
}

#[test]
fn another_server_that_lacks_the_earlier_entry_is_read_from_the_first() {
    for there in [&[10, 60, 70, 80][..], &[10], &[10, 40, 120, 130]] {
        let mut cursor = live(&[10, 50, 120, 160]);
        cursor.step(Input::Broken);
        cursor.step(connected("b", 0));
        let read: Vec<_> = there.iter().copied().filter(|ms| *ms > 49).collect();
        let todo = step(&mut cursor, look("b", there, &read));
        assert_eq!(todo, ["count", "again", "keep 4", "look 0"], "{there:?}");
        let todo = step(&mut cursor, look("b", there, there));
        assert_eq!(todo.last(), Some(&format!("block {}", there.last().unwrap())));
        assert!(!todo.contains(&"recover".into()));
    }
}

#[test]
fn a_server_behind_a_proxy_is_noticed_in_a_look() {
    let mut cursor = live(&[10, 50]);
    cursor.step(Input::Beat);
    // None of its entries is applied before it is known what is missing.
    let todo = step(&mut cursor, look("b", &[10, 50, 60], &[60]));
    assert_eq!(todo, ["incarnation", "again", "keep 2", "look 0"]);
}

#[test]
fn a_server_without_a_use_is_left() {
    let mut cursor = live(&[10]);
    let look = Look { entries: Vec::new(), stream: None, server: ServerInfo::default() };
    assert_eq!(step(&mut cursor, Input::Look(look)), ["close"]);
    assert_eq!(cursor.phase(), Phase::Down);
}

#[test]
fn a_loss_by_count_reads_the_whole_stream() {
    // One less than was read; one more; ids that went back.
    let rows: [(&[u64], u64, u64); 3] =
        [(&[150, 160], 2, 160), (&[10, 120, 130, 160], 4, 160), (&[10, 20, 30], 3, 30)];
    for (there, added, last) in rows {
        let mut cursor = live(&[10, 50, 160]);
        cursor.step(Input::Beat);
        let read: Vec<_> = there.iter().copied().filter(|ms| *ms >= 160).collect();
        let todo = step(&mut cursor, look_at("a", there, added, last, &read));
        assert_eq!(todo, ["count", "again", "keep 3", "look 0"], "{there:?}");
        let todo = step(&mut cursor, look_at("a", there, added, last, there));
        assert_eq!(todo.last(), Some(&format!("block {last}")), "{there:?}");
        assert_eq!(cursor.phase(), Phase::Live);
    }
}

#[test]
fn the_number_of_added_entries_never_falls_within_an_incarnation() {
    // A look in the middle of reading tells of more than was read.
    let mut cursor = live(&[10]).with(100, 2);
    cursor.step(Input::Beat);
    let there = [10, 20, 30, 40];
    let todo = step(&mut cursor, look("a", &there, &[10, 20, 30]));
    assert_eq!(todo, ["apply 20", "apply 30", "look 29"]);
    // DEL, and two new entries: what was read and the counts agree by chance.
    let todo = step(&mut cursor, look("a", &[30, 50], &[30, 50]));
    assert_eq!(todo, ["count", "again", "keep 1", "look 0"]);
}

#[test]
fn a_stream_that_is_gone_costs_one_reading_and_no_purge() {
    let mut cursor = live(&[10, 50, 160]);
    cursor.step(Input::Beat);
    assert_eq!(step(&mut cursor, gone("a")), ["gone", "again", "keep 3", "look 0"]);
    // Own events are there again, some of which others said.
    let todo = step(&mut cursor, look("a", &[170, 180], &[170, 180]));
    let expected = ["apply 170", "apply 180", "keep 2", "confirm", "block 180"];
    assert_eq!(todo, expected);
    // While nothing was ever added, no stream is no loss.
    let mut cursor = live(&[]);
    cursor.step(Input::Beat);
    assert_eq!(step(&mut cursor, gone("a")), ["keep 0", "confirm", "block 0"]);
}

#[test]
fn entries_trimmed_before_they_were_read_purge_everything() {
    let mut cursor = live(&[10, 50]);
    cursor.step(Input::Beat);
    let todo = step(&mut cursor, look_at("a", &[80, 90], 5, 90, &[80, 90]));
    let expected = ["trimmed", "recover", "apply 80", "apply 90", "keep 5", "confirm"];
    assert_eq!(todo[..6], expected);
    // What was read may be trimmed, except the last one: this may be another stream then.
    cursor.step(Input::Beat);
    let todo = step(&mut cursor, look_at("a", &[90], 5, 90, &[90]));
    assert_eq!(todo, ["keep 5", "confirm", "block 90"]);
    let none = || look_at("a", &[], 5, 90, &[]);
    let todo = step(&mut cursor, none());
    assert_eq!(todo, ["trimmed", "recover", "keep 5", "confirm", "block 90"]);
    assert_eq!(step(&mut cursor, none()), ["keep 5", "confirm", "block 90"]);
    // Also if nothing is left.
    cursor.step(Input::Beat);
    let todo = step(&mut cursor, look_at("a", &[], 7, 110, &[]));
    assert_eq!(todo, ["trimmed", "recover", "keep 7", "confirm", "block 110"]);
}

#[test]
fn a_stream_that_was_deleted_and_filled_again_is_noticed_though_the_counts_agree() {
    let mut cursor = live(&[10, 50]);
    // DEL; 60, 70 and 80 are added, and 60 is trimmed before it is read.
    assert_eq!(step(&mut cursor, Input::Woken(entries(&[70])))[0], "apply 70");
    cursor.step(Input::Beat);
    let todo = step(&mut cursor, look_at("a", &[70, 80], 3, 80, &[70, 80]));
    assert_eq!(todo, ["count", "again", "keep 2", "look 0"]);
}

#[test]
fn another_entry_with_the_id_of_the_last_one_is_noticed() {
    let mut cursor = live(&[10, 50]);
    cursor.step(Input::Beat);
    let Input::Look(mut other) = look("a", &[10, 50], &[50]) else { panic!() };
    other.entries[0].value = vec![7; 8].into();
    let todo = step(&mut cursor, Input::Look(other));
    assert_eq!(todo, ["count", "again", "keep 2", "look 0"]);
}

#[test]
fn what_came_while_it_waited_must_come_again() {
    let mut cursor = live(&[]);
    cursor.step(Input::Woken(entries(&[70])));
    cursor.step(Input::Beat);
    // DEL, and another entry.
    let todo = step(&mut cursor, look("a", &[80], &[80]));
    assert_eq!(todo, ["apply 80", "count", "again", "keep 0", "look 0"]);
}

#[test]
fn entries_skipped_while_it_waited_are_noticed_at_the_next_look() {
    let mut cursor = live(&[10, 50]);
    // 60 was trimmed before.
    assert_eq!(
        step(&mut cursor, Input::Woken(entries(&[70, 80]))),
        ["apply 70", "apply 80", "block 80"]
    );
    cursor.step(Input::Beat);
    cursor.step(Input::Woken(Vec::new()));
    let todo = step(&mut cursor, look_at("a", &[70, 80], 5, 80, &[70, 80]));
    let expected = ["trimmed", "recover", "apply 70", "apply 80", "keep 5", "confirm"];
    assert_eq!(todo[..6], expected);
    assert_eq!(cursor.phase(), Phase::Live);
}

#[test]
fn what_does_not_add_up_from_the_first_entry_on_ends_the_connection() {
    let mut cursor = live(&[10, 50]);
    let wrong = || look_at("a", &[10, 50, 60], 9, 60, &[50, 60]);
    cursor.step(Input::Beat);
    assert_eq!(words(&cursor.step(wrong()))[0], "trimmed");
    let mut cursor = live(&[10, 50]);
    // Three entries are said to be there, and one comes.
    let wrong = || look("a", &[10, 50, 60, 70], &[50, 70]);
    cursor.step(Input::Beat);
    let todo = step(&mut cursor, wrong());
    assert_eq!(todo, ["apply 70", "count", "again", "keep 2", "look 0"]);
    let todo = step(&mut cursor, wrong());
    assert_eq!(todo, ["apply 50", "apply 70", "count", "again", "keep 2", "close"]);
    assert_eq!(cursor.phase(), Phase::Down);
    // The next connection begins at the first entry, without another loss.
    assert_eq!(step(&mut cursor, connected("a", 0)), ["look 0"]);
}

#[test]
fn entries_that_were_not_asked_for_end_the_connection() {
    let mut cursor = live(&[10, 50]);
    assert_eq!(step(&mut cursor, Input::Woken(entries(&[50]))), ["close"]);
    let mut cursor = live(&[10, 50]);
    assert_eq!(step(&mut cursor, look("a", &[10, 50], &[10, 50])), ["close"]);
    let mut cursor = live(&[10, 50]);
    assert_eq!(step(&mut cursor, look("a", &[10, 50], &[50, 60])), ["close"]);
}

#[test]
fn a_process_that_takes_over_goes_on_from_what_was_kept() {
    let kept = |todo: Vec<Do>| {
        let kept = todo.iter().rev().find_map(|what| match what {
            Do::Keep(saved) => Some(*saved),
            _ => None,
        });
        kept.unwrap()
    };
    let mut cursor = live(&[10, 50, 120, 160]);
    cursor.step(Input::Beat);
    let saved = kept(cursor.step(look("a", &[10, 50, 120, 160], &[160])));
    let mut next = Cursor::new(Some(saved), RETENTION).with(100, PAGE);
    assert!(next.may_write(incarnation("a")));
    assert_eq!(step(&mut next, connected("a", 0)), ["look 159"]);
    // Another server: as the first process would.
    let mut next = Cursor::new(Some(saved), RETENTION).with(100, PAGE);
    let todo = step(&mut next, connected("b", 0));
    assert_eq!(todo, ["incarnation", "again", "keep 4", "look 49"]);
    // It is killed before that adds up: what it wrote there may be lost with another failover.
    let saved = saved_after(&mut Cursor::new(Some(saved), RETENTION), "b");
    for server in ["a", "b", "c"] {
        let mut next = Cursor::new(Some(saved), RETENTION);
        let todo = step(&mut next, connected(server, 0));
        assert!(todo.contains(&"again".into()), "{server} {todo:?}");
    }
}

fn saved_after(cursor: &mut Cursor, server: &str) -> Saved {
    let todo = cursor.step(connected(server, 0));
    let kept = todo.iter().find_map(|what| match what {
        Do::Keep(saved) => Some(*saved),
        _ => None,
    });
    kept.unwrap()
}

#[test]
fn entries_beyond_what_is_a_position_are_read() {
    let mut cursor = live(&[10]);
    let far = Entry { id: StreamId { ms: 20, seq: 1 << 30 }, value: Vec::new().into() };
    cursor.step(Input::Woken(vec![far]));
    assert_eq!((cursor.phase(), cursor.position()), (Phase::Live, None));
}

fn any_id() -> impl Strategy<Value = StreamId> {
    let number = prop_oneof![0..20_u64, Just(u64::MAX), Just(1 << 20), any::<u64>()];
    (number.clone(), number).prop_map(|(ms, seq)| StreamId { ms, seq })
}

fn any_input() -> impl Strategy<Value = Input> {
    let entries = || {
        prop::collection::btree_set(any_id(), 0..4).prop_map(|ids| {
            ids.into_iter().map(|id| Entry { id, value: Vec::new().into() }).collect::<Vec<_>>()
        })
    };
    let count = || prop_oneof![0..6_u64, Just(u64::MAX), any::<u64>()];
    let stream = (count(), count(), any_id(), prop::option::of(any_id()))
        .prop_map(|(added, length, last, first)| StreamInfo { added, length, last, first });
    let name = || prop_oneof![4 => Just("a"), 1 => Just("b")];
    prop_oneof![
        3 => (name(), any::<u64>()).prop_map(|(name, time)| connected(name, time)),
        8 => (entries(), prop::option::of(stream), name()).prop_map(|(entries, stream, name)| {
            Input::Look(Look { entries, stream, server: server(name) })
        }),
        3 => entries().prop_map(Input::Woken),
        1 => Just(Input::Beat),
        1 => Just(Input::Broken),
    ]
}

proptest! {
    #[test]
    fn hostile_answers_panic_nowhere(
        inputs in prop::collection::vec(any_input(), 1..60),
        page in 1..5_usize,
        retention: u64,
    ) {
        let mut cursor = Cursor::new(None, retention).with(5, page);
        for input in inputs {
            let was_answer = matches!(input, Input::Look(_) | Input::Woken(_) | Input::Connected { .. });
            let before = cursor.phase();
            let todo = cursor.step(input);
            let last = todo.last();
            let goes_on = matches!(last, Some(Do::Look(_) | Do::Block(_) | Do::Close));
            // Each answer that is taken is followed by one command, or the end.
            prop_assert!(goes_on || todo.is_empty());
            prop_assert!(!todo.is_empty() || !was_answer || before == cursor.phase());
            let confirms = todo.contains(&Do::Confirm);
            prop_assert!(!confirms || cursor.phase() == Phase::Live);
            // A saved state goes on too.
            if let Some(Do::Keep(saved)) = todo.iter().find(|what| matches!(what, Do::Keep(_))) {
                Cursor::new(Some(*saved), retention).step(connected("b", 0));
            }
        }
    }
}
