//! What a plugin gives back: verdicts, new messages, headers, routes, reasons, and lies about them.

use super::guests::{Answer, answering};
use super::*;
use crate::config::units::ByteSize;
use crate::plugin::bindings::{AS_PARENT, NONE, Reads, TIMESTAMP_AS_PARENT};
use crate::plugin::convert::Columns;
use crate::plugin::outcome::{Assembly, Tally};

/// Length of the arena that goes in for [`given`]: it is sent as it is.
const SENT: u32 = 2 * (2 + 1 + 14);
/// Where the payloads lie in it.
const PAYLOADS: [u32; 2] = [0, 17];

/// Two messages, "aa" and "bb".
fn given() -> Batch {
    batch(&["aa", "bb"])
}

fn processed(answer: &Answer) -> Processed {
    let processed = instance(&spec(&answering(answer))).process(given(), 1).unwrap();
    assert_complete(&processed, 2);
    processed
}

/// What is said of an answer about both messages, which leaves nothing behind.
fn lie(answer: &Answer, limit: ByteSize) -> Result<Tally, Fault> {
    let mut batch = given();
    let input = batch.take_rows();
    let mut columns = Columns::default();
    columns.fill(&batch, &input, Reads::PAYLOAD | Reads::KEY | Reads::HEADERS, 1 << 20);
    assert_eq!(columns.arena(&batch).len(), SENT as usize);
    let mut assembly = Assembly::new(&batch);
    let taken = assembly.take(answer.outcome(), &mut batch, &columns, &input, 0, limit)?;
    Ok(taken)
}

/// An emitted row that is as its parent in everything.
fn same(parent: u32) -> [u32; 8] {
    [parent, AS_PARENT, 0, AS_PARENT, 0, 0, 0, AS_PARENT]
}

fn emits(rows: &[[u32; 8]]) -> Answer {
    Answer { verdicts: vec![2, 2], emitted: rows.concat(), ..Answer::default() }
}

#[test]
fn a_batch_in_which_all_pass_is_not_touched() {
    let given = given();
    let arena = given.arenas()[0].as_ptr();
    let mut instance = instance(&spec(&answering(&Answer { verdicts: vec![0, 0], ..Answer::default() })));
    let processed = instance.process(given, 1).unwrap();
    assert_complete(&processed, 2);
    assert_eq!(processed.batch.arenas().len(), 1);
    assert_eq!(processed.batch.arenas()[0].as_ptr(), arena);
    assert_eq!(going_on(&processed), [(0, message(0, "aa")), (1, message(1, "bb"))]);
}

#[test]
fn an_empty_batch_comes_back_empty() {
    let mut instance = instance(&spec(&answering(&Answer::default())));
    assert_complete(&instance.process(batch(&[]), 1).unwrap(), 0);
}

#[test]
fn each_verdict_does_what_it_says() {
    let answer = Answer {
        verdicts: vec![3, 4],
        reasons: vec![(0, b"bad signature", b"why"), (1, b"", b"later")],
        ..Answer::default()
    };
    let result = processed(&answer);
    assert!(result.batch.is_empty());
    let [first, second] = &result.fates[..] else { panic!("{:?}", result.fates) };
    let FateVerdict::Rejected { code, reason } = &first.verdict else { panic!("{first:?}") };
    assert_eq!((&**code, &**reason), ("bad-signature", "why"));
    let FateVerdict::Retry { code, reason } = &second.verdict else { panic!("{second:?}") };
    assert_eq!((&**code, &**reason), ("unspecified", "later"));
    assert_eq!(result.batch.bytes(second.row.payload), Some(&b"bb"[..]));

    let result = processed(&Answer { verdicts: vec![1, 0], ..Answer::default() });
    assert_eq!(going_on(&result), [(1, message(1, "bb"))]);
    assert!(matches!(result.fates[0].verdict, FateVerdict::Dropped));

    // To emit nothing is to drop; a rejection without a reason has a code.
    let result = processed(&Answer { verdicts: vec![2, 3], ..Answer::default() });
    assert!(matches!(result.fates[0].verdict, FateVerdict::Dropped));
    assert!(matches!(&result.fates[1].verdict, FateVerdict::Rejected { code, .. } if code == "unspecified"));
}

#[test]
fn new_messages_point_into_old_and_new_bytes() {
    let mut answer =
        emits(&[same(0), [0, SENT + 1, 3, PAYLOADS[1], 1, 0, 0, AS_PARENT], [1, NONE, 0, NONE, 0, 0, 1, 1]]);
    answer.arena = b"-new-".to_vec();
    answer.timestamps = vec![TIMESTAMP_AS_PARENT, 5, -5];
    answer.routes = vec![vec!["unused"], vec!["eu", "us"]];
    let result = processed(&answer);
    let changed = Message {
        payload: Some(b"new".to_vec()),
        key: Some(b"b".to_vec()),
        timestamp_ms: 5,
        ..message(0, "aa")
    };
    let bare = Message { timestamp_ms: -5, ..Message::default() };
    assert_eq!(going_on(&result), [(0, message(0, "aa")), (0, changed), (1, bare)]);
    let rows = result.batch.rows();
    assert_eq!(
        result.batch.routes_of(&rows[2]).map(|routes| routes.to_vec()),
        Some(vec!["eu".into(), "us".into()])
    );
    assert!(result.batch.routes_of(&rows[0]).is_none());
    assert_eq!(rows[1].position, given().rows()[0].position);
    // What was there already was not copied.
    assert_eq!(rows[0].payload.arena(), 0);
    assert_eq!(rows[1].key.arena(), 0);
}

#[test]
fn headers_are_set_replaced_and_removed() {
    // The names lie in the new bytes: NAME, other; the values too.
    let name = |at, len| [SENT + at, len];
    let [named, other] = [name(0, 4), name(4, 5)];
    let value = [SENT + 9, 1];
    let set = [named, value].concat();
    let added = [other, value].concat();
    let removed = [named, [NONE, 0]].concat();
    let mut rows = [same(0), same(0), same(0), same(1), same(1)];
    rows[0][5] = 1; // sets NAME
    rows[1][5] = 2; // sets it twice
    rows[2][5] = 2; // removes NAME, adds another
    rows[3][5] = 1; // replaces all by another
    rows[3][6] = 1;
    rows[4][6] = 1; // has none
    let mut answer = emits(&rows);
    answer.arena = b"NAMEotherv".to_vec();
    answer.headers = [&set, &set, &set, &removed, &added, &added].into_iter().flatten().copied().collect();
    let result = processed(&answer);
    let headers: Vec<Vec<(String, String)>> = going_on(&result)
        .into_iter()
        .map(|(_, message)| {
            let text = |bytes| String::from_utf8(bytes).unwrap();
            message.headers.into_iter().map(|(name, value)| (text(name), text(value))).collect()
        })
        .collect();
    let header = |name: &str| (name.to_owned(), "v".to_owned());
    assert_eq!(
        headers,
        [
            vec![header("NAME")],
            vec![header("NAME"), header("NAME")],
            vec![header("other")],
            vec![header("other")],
            vec![],
        ]
    );
    // Headers that were not named stay before those that were.
    rows = [same(0), same(0), same(0), same(1), same(1)];
    rows[0][5] = 1;
    let mut answer = emits(&rows);
    answer.arena = b"NAMEotherv".to_vec();
    answer.headers = added;
    let headers = going_on(&processed(&answer)).remove(0).1.headers;
    let names: Vec<&[u8]> = headers.iter().map(|(name, _)| &name[..]).collect();
    assert_eq!(names, [&b"Name"[..], b"name", b"other"]);
}

#[test]
fn bytes_that_lie_apart_are_copied_when_a_message_spans_them() {
    // Only keys are read: "0" and "1" are gathered side by side.
    let emitted = [[0, 0, 2, AS_PARENT, 0, 0, 0, AS_PARENT], [1, 1, 1, 0, 1, 0, 0, AS_PARENT]].concat();
    let data: String =
        emitted.iter().flat_map(|n: &u32| n.to_le_bytes()).map(|b| format!("\\{b:02x}")).collect();
    let process = "(local.set $n (call $pass (local.get $batch)))
        (memory.fill (i32.load (local.get $n)) (i32.const 2) (i32.const 2))
        (i32.store offset=16 (local.get $n) (i32.const 4096))
        (i32.store offset=20 (local.get $n) (i32.const 16))
        (local.get $n)";
    let wasm = guests::guest_that_reads(2, process, &format!("(data (i32.const 4096) \"{data}\")"));
    let result = instance(&spec(&wasm)).process(given(), 1).unwrap();
    let payloads: Vec<Option<Vec<u8>>> = going_on(&result).into_iter().map(|(_, m)| m.payload).collect();
    assert_eq!(payloads, [Some(b"01".to_vec()), Some(b"1".to_vec())]);
    assert_eq!(result.batch.message(1).key(), Some(&b"0"[..]));
}

#[test]
fn empty_bytes_behind_all_others_are_empty() {
    let answer = emits(&[[0, SENT, 0, SENT, 0, 0, 0, AS_PARENT], same(1)]);
    let result = processed(&answer);
    let first = result.batch.message(0);
    assert_eq!((first.payload(), first.key()), (Some(&b""[..]), Some(&b""[..])));
    // The next plugin is given them too.
    let mut next = instance(&spec(&answering(&Answer { verdicts: vec![0, 0], ..Answer::default() })));
    let again = next.process(result.batch, 1).unwrap();
    assert_eq!(again.batch.message(0).payload(), Some(&b""[..]));
}

#[test]
fn p4_every_lie_is_a_fault() {
    let lies: Vec<(Answer, &str)> = vec![
        (Answer { verdicts: vec![0], ..Answer::default() }, "gave 1 verdicts for 2"),
        (Answer { verdicts: vec![0, 5], ..Answer::default() }, "the verdict 5"),
        (Answer { emitted: vec![0; 7], ..emits(&[]) }, "not a multiple of 8"),
        (Answer { headers: vec![0; 3], ..emits(&[]) }, "not a multiple of 8 and of 4"),
        (emits(&[same(1), same(0)]), "row 0, which is out of order"),
        (emits(&[same(2)]), "row 2, which is out of order"),
        (emits(&[same(u32::MAX)]), "row 4294967295"),
        (
            Answer { verdicts: vec![0, 2], ..emits(&[same(0)]) },
            "row 0, which is out of order, or not of a verdict",
        ),
        (Answer { verdicts: vec![0, 0], ..emits(&[same(0)]) }, "row 0"),
        (emits(&[[0, SENT - 1, 2, AS_PARENT, 0, 0, 0, AS_PARENT]]), "an address 33..35"),
        (emits(&[[0, SENT, 1, AS_PARENT, 0, 0, 0, AS_PARENT]]), "an address 34..35"),
        (emits(&[[0, SENT - 1, u32::MAX, AS_PARENT, 0, 0, 0, AS_PARENT]]), "an address 33..4294967328"),
        (emits(&[[0, u32::MAX - 2, 3, AS_PARENT, 0, 0, 0, AS_PARENT]]), "an address 4294967293..4294967296"),
        (emits(&[[0, AS_PARENT, 0, 999, 0, 0, 0, AS_PARENT]]), "an address 999..999"),
        (
            emits(&[[0, AS_PARENT, 0, AS_PARENT, 0, 1, 0, AS_PARENT]]),
            "gave 0 headers, of which its messages have 1",
        ),
        (
            emits(&[[0, AS_PARENT, 0, AS_PARENT, 0, u32::MAX, 1, AS_PARENT]]),
            "of which its messages have 4294967295",
        ),
        (emits(&[[0, AS_PARENT, 0, AS_PARENT, 0, 0, 2, AS_PARENT]]), "the header mode 2"),
        (emits(&[[0, AS_PARENT, 0, AS_PARENT, 0, 0, 0, 0]]), "the set of routes 0 of 0"),
        (Answer { headers: vec![0; 4], ..emits(&[same(0)]) }, "gave 1 headers, of which its messages have 0"),
        (Answer { timestamps: vec![1], ..emits(&[]) }, "gave 1 timestamps for 0"),
        (
            Answer { verdicts: vec![0, 0], timestamps: vec![1], ..Answer::default() },
            "gave 1 timestamps for 0",
        ),
        (
            Answer { verdicts: vec![0, 3], reasons: vec![(0, b"a", b"b")], ..Answer::default() },
            "a reason for row 0",
        ),
        (
            Answer { verdicts: vec![3, 3], reasons: vec![(1, b"", b""), (0, b"", b"")], ..Answer::default() },
            "a reason for row 0",
        ),
        (
            Answer { verdicts: vec![3, 3], reasons: vec![(0, b"", b""), (0, b"", b"")], ..Answer::default() },
            "a reason for row 0",
        ),
        (
            Answer { verdicts: vec![3, 3], reasons: vec![(9, b"", b"")], ..Answer::default() },
            "a reason for row 9",
        ),
    ];
    let headers = |header: [u32; 4], arena: &[u8]| {
        let mut answer = emits(&[[0, AS_PARENT, 0, AS_PARENT, 0, 1, 0, AS_PARENT]]);
        (answer.headers, answer.arena) = (header.to_vec(), arena.to_vec());
        answer
    };
    let header_lies = [
        (headers([AS_PARENT, 0, 0, 0], b""), "a header no name"),
        (headers([NONE, 0, 0, 0], b""), "a header no name"),
        (headers([0, 1, AS_PARENT, 0], b""), "a header no value"),
        (headers([0, 1, SENT, 1], b""), "an address 34..35"),
        (headers([SENT, 1, 0, 0], b"\xff"), "not UTF-8"),
    ];
    for (answer, words) in lies.into_iter().chain(header_lies) {
        let fault = lie(&answer, ByteSize::mib(1)).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Malformed, "{words}");
        assert!(fault.message.contains(words), "{:?} does not say {words:?}", fault.message);
    }
}

#[test]
fn p7_output_counts_what_a_message_gives_however_often() {
    // 100 messages of the same two bytes count as 100.
    let row = |parent| [parent, PAYLOADS[0], 2, NONE, 0, 0, 1, AS_PARENT];
    let answer = |rows| {
        let mut answer = emits(&vec![row(0); rows]);
        answer.verdicts = vec![2, 0];
        answer
    };
    let each = 2 + size_of::<Row>() as u64;
    assert_eq!(lie(&answer(100), ByteSize(100 * each)).unwrap().emitted, 1);
    let fault = lie(&answer(100), ByteSize(100 * each - 1)).unwrap_err();
    assert_eq!(fault.kind, FaultKind::OutputLimit, "{fault}");
}

#[test]
fn p4_an_outcome_that_lies_at_its_end_leaves_nothing_behind() {
    let mut answer = emits(&[same(0), [0, SENT, 3, AS_PARENT, 0, 1, 0, AS_PARENT], same(1), same(0)]);
    answer.arena = b"new".to_vec();
    answer.headers = vec![SENT, 3, SENT, 3];
    let mut batch = given();
    let input = batch.take_rows();
    let mut columns = Columns::default();
    columns.fill(&batch, &input, Reads::PAYLOAD, 1 << 20);
    let mut assembly = Assembly::new(&batch);
    let limit = ByteSize::mib(1);
    assert!(assembly.take(answer.outcome(), &mut batch, &columns, &input, 0, limit).is_err());
    let pass = Answer { verdicts: vec![0, 0], ..Answer::default() };
    assembly.take(pass.outcome(), &mut batch, &columns, &input, 0, limit).unwrap();
    let processed = assembly.finish(batch, input).unwrap();
    assert_eq!(going_on(&processed), [(0, message(0, "aa")), (1, message(1, "bb"))]);
    assert_eq!(processed.batch.arenas().len(), 1);
    assert_eq!(processed.batch.headers().len(), 4);
}

#[test]
fn p4_text_that_is_not_utf_8() {
    let answer = Answer { verdicts: vec![3], reasons: vec![(0, b"code", b"\xff")], ..Answer::default() };
    let processed = instance(&spec(&answering(&answer))).process(batch(&["a"]), 1).unwrap();
    let FateVerdict::Faulted(fault) = &processed.fates[0].verdict else { panic!("{:?}", processed.fates) };
    assert_eq!(fault.kind, FaultKind::Malformed);
    assert!(fault.message.contains("utf-8"), "{fault}");
}

#[test]
fn the_outcomes_of_several_calls_become_one_batch() {
    // Every call emits "x" for its first row and drops the others, of which there are many.
    let data = format!(
        "(data (i32.const 4096) \"{}\")",
        [0u32, u32::MAX - 2, 1, AS_PARENT, 0, 0, 0, AS_PARENT]
            .iter()
            .flat_map(|n| n.to_le_bytes())
            .map(|b| format!("\\{b:02x}"))
            .collect::<String>()
    );
    let process = "(local.set $n (call $pass (local.get $batch)))
        (memory.fill (i32.load (local.get $n)) (i32.const 1) (i32.load offset=4 (local.get $n)))
        (i32.store8 (i32.load (local.get $n)) (i32.const 2))
        (i32.store offset=16 (local.get $n) (i32.const 4096))
        (i32.store offset=20 (local.get $n) (i32.const 8))
        (i32.store offset=4 (i32.const 4096) (i32.load offset=20 (local.get $batch)))
        (i32.store offset=8 (local.get $n) (i32.const 8192))
        (i32.store8 (i32.const 8192) (i32.const 120))
        (i32.store offset=12 (local.get $n) (i32.const 1))
        (local.get $n)";
    let mut instance = instance(&spec(&guests::guest(process, &data)));
    let processed = instance.process(batch(&["a"; 100]), 1).unwrap();
    assert_complete(&processed, 100);
    // 8 rows, 32, then the other 60.
    assert_eq!(processed.parents[..2], [0, 8]);
    assert!(processed.parents.len() >= 3);
    assert!(processed.batch.messages().all(|message| message.payload() == Some(b"x")));
    assert_eq!(processed.batch.arenas().len(), 2);
}
