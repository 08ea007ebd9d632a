//! The checker behind `make torture`, on histories made up: what it must find, and what it must not
//! take for a mistake.

// The other binary uses all of it.
#[allow(dead_code)]
#[path = "../torture/history.rs"]
mod checker;

use checker::{Change, Cursor, Event, Excuses, Expect, Key, Op, Record, State, Violation, check};

fn token(time: u32, index: u32) -> String {
    format!("82{time:08X}000000012B022C0100{index:02X}6E")
}

fn before(time: u32) -> String {
    format!("82{time:08X}00000001")
}

fn change(time: u32, op: Op) -> Change {
    Change {
        token: token(time, 0),
        op,
        database: "d".to_string(),
        collection: "c".to_string(),
        to: None,
        key: Key { writer: "w".to_string(), number: i64::from(time), owner: 0 },
        seq: (op != Op::Delete).then_some(0),
    }
}

/// Inserts at these times.
fn inserts(times: std::ops::Range<u32>) -> Vec<Change> {
    times.map(|time| change(time, Op::Insert)).collect()
}

fn told(change: &Change) -> Record {
    let name = format!("{:?}", change.op).to_lowercase();
    Record::Event(Event {
        id: change.token.clone(),
        op: name,
        collection: change.collection.clone(),
        key: change.key.clone(),
        seq: change.seq,
        view: None,
        shown: change.seq,
    })
}

fn opened(last_id: Option<&str>) -> Record {
    Record::Opened { sidecar: 0, last_id: last_id.map(str::to_string) }
}

fn reset(reason: &str, id: Option<String>) -> Record {
    Record::Reset { id, reason: reason.to_string() }
}

/// One client that has to see everything; nothing is excused but `history-lost`.
fn found(truth: &[Change], records: &[Record]) -> Vec<Violation> {
    found_by(truth, records, &|_| Expect::Must)
}

fn found_by(
    truth: &[Change],
    records: &[Record],
    expect: &dyn Fn(&Change) -> Expect,
) -> Vec<Violation> {
    let excuses = Excuses {
        reset: &|reason| reason == "history-lost",
        status: &|status| status == 503,
        end: false,
    };
    let there = |place: &str| Some(State::default().at(truth, place).documents("d", "c", None));
    check(truth, (expect, &there), records, &mut Cursor::default(), &excuses).violations
}

/// A client that came "from now" and then got these events.
fn stream(events: &[&Change]) -> Vec<Record> {
    let begin = [opened(None), Record::Position(before(1))];
    begin.into_iter().chain(events.iter().map(|event| told(event))).collect()
}

#[test]
fn what_is_all_there_is_fine() {
    let truth = inserts(2..6);
    let all: Vec<&Change> = truth.iter().collect();
    assert_eq!(found(&truth, &stream(&all)), []);
    let mut records = stream(&all[..2]);
    records.push(Record::Closed("cut".to_string()));
    records.push(Record::Refused(503));
    records.push(opened(Some(&truth[1].token)));
    records.extend(all[2..].iter().map(|event| told(event)));
    records.push(Record::Position(before(9)));
    assert_eq!(found(&truth, &records), []);
}

#[test]
fn a_loss_is_found_by_the_next_event_and_by_the_next_position() {
    let truth = inserts(2..6);
    let lost = |by: String| Violation::Lost { change: truth[1].clone(), by };
    let records = stream(&[&truth[0], &truth[2]]);
    assert_eq!(found(&truth, &records), [lost(truth[2].token.clone())]);
    let mut records = stream(&[&truth[0]]);
    records.push(Record::Position(before(4)));
    assert_eq!(found(&truth, &records), [lost(before(4))]);
    // Whom it does not concern, has lost nothing.
    let not_that = |change: &Change| match change.token == truth[1].token {
        true => Expect::Never,
        false => Expect::Must,
    };
    assert_eq!(found_by(&truth, &records, &not_that), []);
}

#[test]
fn a_loss_across_a_reconnect_is_found_though_the_id_skipped_it() {
    let truth = inserts(2..6);
    let mut records = stream(&[&truth[0]]);
    records.push(opened(Some(&truth[1].token)));
    records.push(told(&truth[2]));
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Lost { .. }]));
}

#[test]
fn what_comes_twice_or_late_is_found() {
    let truth = inserts(2..6);
    let records = stream(&[&truth[0], &truth[1], &truth[1]]);
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Twice(_)]));
    let mut records = stream(&[&truth[0], &truth[1]]);
    records.push(opened(Some(&truth[1].token)));
    records.push(told(&truth[0]));
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Twice(_)]));
    let records = stream(&[&truth[1], &truth[0], &truth[2]]);
    let late = found(&truth, &records);
    assert!(matches!(late.as_slice(), [Violation::Late(_)]), "late is not lost: {late:?}");
    let mut records = stream(&[&truth[1]]);
    records.remove(1);
    records.push(Record::Position(before(2)));
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::WentBack { .. }]));
}

#[test]
fn what_never_happened_or_otherwise_or_is_not_ones_own_is_found() {
    let truth = inserts(2..6);
    let records = stream(&[&truth[0], &truth[1], &change(3, Op::Insert)]);
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Twice(_)]));
    let phantom = change(7, Op::Insert);
    let records = stream(&[&truth[0], &truth[1], &truth[2], &truth[3], &phantom]);
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Phantom(_)]));
    let mut other = truth[0].clone();
    other.seq = Some(9);
    assert!(matches!(found(&truth, &stream(&[&other])).as_slice(), [Violation::Differs { .. }]));
    let records = stream(&[&truth[0]]);
    let unwanted = found_by(&truth, &records, &|_| Expect::Never);
    assert!(matches!(unwanted.as_slice(), [Violation::Unwanted(_)]));
}

#[test]
fn a_reset_needs_a_cause_and_begins_anew() {
    let truth = inserts(2..8);
    let mut records = stream(&[&truth[0]]);
    records.push(reset("history-lost", Some(before(5))));
    records.push(told(&truth[4]));
    assert_eq!(found(&truth, &records), [], "of the time of the reset's id, or before");
    records.push(Record::Position(before(9)));
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Lost { .. }]));

    let mut records = stream(&[&truth[0]]);
    records.push(reset("invalid-token", Some(before(5))));
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Reset { .. }]));

    // A reset without an id excuses nothing to a client that comes back with its old one.
    let mut records = stream(&[&truth[0]]);
    records.push(reset("history-lost", None));
    records.push(opened(Some(&truth[0].token)));
    records.push(told(&truth[2]));
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Lost { .. }]));
}

#[test]
fn a_dropped_collection_resets_once_in_its_place_and_excuses_nothing() {
    let mut truth = inserts(2..6);
    truth[1] = change(3, Op::Drop);
    let drop = reset("invalidated", Some(truth[1].token.clone()));
    let mut records = stream(&[&truth[0]]);
    records.push(drop.clone());
    records.push(told(&truth[2]));
    assert_eq!(found(&truth, &records), []);
    records.push(drop.clone());
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Reset { .. }]));

    let records = stream(&[&truth[0], &truth[2]]);
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Lost { .. }]));

    let mut records = stream(&[]);
    records.push(drop);
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Lost { .. }]));

    let records = [opened(None), reset("invalidated", Some(truth[0].token.clone()))];
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Reset { .. }]));
}

#[test]
fn refusals_and_ends_need_a_cause() {
    let records = [Record::Refused(404), Record::End("unauthorized".to_string())];
    let refused = found(&[], &records);
    assert!(matches!(refused.as_slice(), [Violation::Refused(_), Violation::Refused(_)]));
}

#[test]
fn a_position_that_the_server_chose_is_vague_within_its_time_only() {
    let mut truth = inserts(2..4);
    truth[1].token = token(2, 2);
    truth.extend(inserts(4..6));
    let begin = [opened(None), Record::Position(before(2))];
    for first in [0, 1, 2] {
        let events = truth[first..].iter().map(told);
        let records: Vec<Record> = begin.clone().into_iter().chain(events).collect();
        assert_eq!(found(&truth, &records), [], "from {first}");
    }
    let events = truth[3..].iter().map(told);
    let records: Vec<Record> = begin.into_iter().chain(events).collect();
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Lost { .. }]));
    // What was seen within it is no longer vague.
    let begin = [opened(None), Record::Position(before(2)), told(&truth[0])];
    let events = truth[2..].iter().map(told);
    let records: Vec<Record> = begin.into_iter().chain(events).collect();
    assert!(matches!(found(&truth, &records).as_slice(), [Violation::Lost { .. }]));
}

/// What a client of several streams holds: the event's place, without the document.
fn place(change: &Change) -> String {
    format!("{}FF", change.token)
}

#[test]
fn places_of_several_streams_stand_for_their_events() {
    let mut truth = inserts(2..5);
    truth.push(change(6, Op::Drop));
    // As in a real history, what names the document comes behind the place.
    for change in &mut truth {
        change.token += "5A1004";
    }
    let at = |index: usize| truth[index].clone();
    let event = |index: usize| {
        let Record::Event(mut event) = told(&at(index)) else { unreachable!("it is one") };
        event.id = place(&Change { token: token(2 + index as u32, 0), ..at(index) });
        Record::Event(event)
    };
    let records = |events: Vec<Record>| {
        let begin = vec![opened(None), Record::Position(before(1))];
        let mut records: Vec<Record> = begin.into_iter().chain(events).collect();
        checker::name_places(&mut records, &truth);
        records
    };
    let moved = Record::Position(format!("{}FF", token(3, 0)));
    let dropped = reset("invalidated", Some(before(6)));
    // The place before the drop's own time, behind the reset, is no way back.
    let whole = vec![event(0), event(1), moved, event(2), dropped, Record::Position(before(6))];
    assert_eq!(found(&truth, &records(whole)), []);
    let lost = found(&truth, &records(vec![event(0), event(2)]));
    assert!(matches!(&lost[..], [Violation::Lost { change, .. }] if change.token == at(1).token));
    let twice = found(&truth, &records(vec![event(0), event(1), event(1)]));
    assert!(matches!(&twice[..], [Violation::Twice(_)]), "{twice:?}");
    let late = found(&truth, &records(vec![event(1), event(0)]));
    assert!(late.iter().any(|violation| matches!(violation, Violation::Late(_))), "{late:?}");
}

fn snapshot(reason: &str) -> Record {
    Record::Snapshot(reason.to_string())
}

#[test]
fn a_snapshot_needs_a_cause() {
    let mut truth = inserts(2..4);
    truth.push(change(4, Op::Drop));
    truth.extend(inserts(5..6));
    let document = Record::Document(truth[0].key.clone(), 0);
    let begin = [opened(None), snapshot("new"), document.clone(), Record::Position(before(3))];
    let told: Vec<Record> = truth.iter().map(told).collect();
    let with = |more: &[Record]| begin.iter().chain(more).cloned().collect::<Vec<_>>();
    // The drop and what came before it are in the second one, or gone with it.
    let again = [snapshot("invalidated"), Record::Position(before(5)), told[3].clone()];
    assert_eq!(found(&truth, &with(&again)), []);
    let lost = [snapshot("history-lost"), Record::Position(before(5)), told[3].clone()];
    assert_eq!(found(&truth, &with(&lost)), []);
    for reason in ["new", "started", "invalid-token"] {
        let records = with(&[told[1].clone(), snapshot(reason)]);
        assert!(matches!(&found(&truth, &records)[..], [Violation::Snapshot(_)]), "{reason}");
    }
    // Nothing is dropped after that.
    let records = with(&[snapshot("invalidated"), Record::Position(before(5)), again[0].clone()]);
    assert!(matches!(&found(&truth, &records)[..], [Violation::Snapshot(_)]));
    // Documents and events each have their place.
    let records = with(&[document]);
    assert!(matches!(&found(&truth, &records)[..], [Violation::Snapshot(_)]));
    let records = [opened(None), snapshot("new"), told[0].clone()];
    assert!(matches!(&found(&truth, &records)[..], [Violation::Snapshot(_)]));
}

#[test]
fn changes_go_on_exactly_where_a_snapshot_ends() {
    let truth = inserts(2..5);
    // Within the same time, what the server chose by itself would excuse.
    let ready = Record::Position(before(2));
    let records = [opened(None), snapshot("new"), ready.clone(), told(&truth[1])];
    assert!(matches!(&found(&truth, &records)[..], [Violation::Lost { .. }]));
    assert_eq!(found(&truth, &[opened(None), ready, told(&truth[1])]), []);
}

#[test]
fn the_documents_of_a_snapshot_are_those_of_its_moment() {
    let mut truth = inserts(2..4);
    let of_first = |time, op, seq| Change { key: truth[0].key.clone(), seq, ..change(time, op) };
    let more = [of_first(5, Op::Update, Some(7)), of_first(6, Op::Delete, None)];
    truth.extend(more);
    let mut renamed = change(7, Op::Rename);
    renamed.to = Some("other".to_string());
    truth.push(renamed);
    let document = |number: usize, seq| Record::Document(truth[number].key.clone(), seq);
    let given = |documents: &[Record], place: String| {
        let begin = [opened(None), snapshot("new")];
        let records = begin.iter().chain(documents).cloned().chain([Record::Position(place)]);
        found(&truth, &records.collect::<Vec<_>>())
    };
    let (first, second) = (document(0, 0), document(1, 0));
    assert_eq!(given(&[], before(2)), []);
    assert_eq!(given(std::slice::from_ref(&first), before(3)), []);
    assert_eq!(given(&[second.clone(), first.clone()], before(5)), []);
    assert_eq!(given(&[document(0, 7), second.clone()], before(6)), []);
    assert_eq!(given(std::slice::from_ref(&second), before(7)), []);
    assert_eq!(given(&[], before(8)), []);
    for (documents, place) in [
        // One too few, one too many, an older and a newer state, and one twice.
        (vec![first.clone()], before(4)),
        (vec![first.clone(), second.clone()], before(3)),
        (vec![first.clone(), second.clone()], before(6)),
        (vec![document(0, 7), second.clone()], before(5)),
        (vec![document(0, 7), second.clone()], before(7)),
        (vec![first.clone(), first.clone()], before(3)),
    ] {
        let violations = given(&documents, place.clone());
        assert!(matches!(&violations[..], [Violation::Snapshot(_)]), "{documents:?} at {place}");
    }
}
