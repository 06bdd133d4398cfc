use super::*;
use crate::message::{BatchBuilder, SinkSet};
use crate::plugin::{Fate, FateVerdict, Processed};
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use proptest::test_runner::TestCaseError;

fn ledger(sinks: usize) -> Arc<Ledger> {
    Ledger::new(sinks, Arc::new(Budget::new(1 << 20)))
}

/// Messages of one partition, with the offsets `from..from + count`.
fn batch(partition: u32, from: u64, count: u64) -> Batch {
    let mut builder = BatchBuilder::new();
    for offset in from..from + count {
        let position = Position { partition, offset, record: 0 };
        builder.push_message(&Message { payload: Some(b"x".to_vec()), ..Message::default() }, position);
    }
    builder.finish()
}

fn pass(batch: Batch) -> Result<Processed, std::convert::Infallible> {
    let parents = (0..batch.len() as u32).collect();
    Ok(Processed { batch, parents, ..Processed::default() })
}

#[test]
fn p2_a_dropped_message_is_never_committed_past() {
    let ledger = ledger(1);
    let (feed, _) = ledger.add_feed("orders", CommitKind::UpTo);
    let first = ledger.open(feed, batch(0, 0, 3)).unwrap();
    let second = ledger.open(feed, batch(0, 3, 3)).unwrap();
    second.delivered_for_test();
    let mut parts = first.split(3, |index, _| index).into_iter();
    parts.next().unwrap().delivered_for_test();
    drop(parts.next().unwrap());
    parts.next().unwrap().delivered_for_test();
    assert!(ledger.leaked().is_cancelled());
    assert!(ledger.leak().unwrap().contains("1 messages of a batch read from orders"));
    let committable = ledger.take_committable(feed);
    assert_eq!(committable.positions.iter().map(|p| p.offset).collect::<Vec<_>>(), [0]);
    assert!(ledger.snapshot().books.balance());
}

#[test]
fn a_queue_is_told_how_often_attempts_at_a_message_failed() {
    let ledger = ledger(2);
    let (queue, _) = ledger.add_feed("queue", CommitKind::Each);
    let (log, _) = ledger.add_feed("log", CommitKind::UpTo);
    ledger.open(log, batch(0, 0, 1)).unwrap().delivered_for_test();
    let held = ledger.open(queue, batch(0, 0, 2)).unwrap();
    held.note_failure();
    let mut parts = held.split(2, |index, _| index).into_iter();
    let first = parts.next().unwrap();
    // At both sinks, since each has a copy.
    let (copies, _) = first.fan_out(2, |_, _| SinkSet::only(0).with(1));
    for (_, copy) in copies {
        copy.note_failure();
        copy.abandon();
    }
    parts.next().unwrap().delivered_for_test();
    let mut rows = ledger.take_committable(queue).rows;
    rows.sort_by_key(|row| row.position);
    let told: Vec<_> = rows.into_iter().map(|row| (row.outcome, row.failures)).collect();
    assert_eq!(told, [(SettledAs::Returned, 3), (SettledAs::Delivered, 1)]);
}

#[test]
fn p5_a_replayed_message_goes_on_with_its_mark_and_is_kept_as_it_was_read() {
    let ledger = ledger(1);
    let (feed, _) = ledger.add_feed("orders", CommitKind::Each);
    let header = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
    let looped = Message {
        headers: vec![header(b"Millstream-Replays", b"1"), header(b"a", b"b")],
        ..Message::default()
    };
    let mut builder = BatchBuilder::new();
    builder.push_message(&Message::default(), Position::default());
    builder.push_message(&looped, Position::default());
    let replays = [(1, 5), (12, 6)].map(|(times, read_at_ms)| Replayed { times, read_at_ms });
    let held = ledger.open_replays(feed, builder.finish(), replays.to_vec()).unwrap();
    let batch = held.batch();
    let goes_on: Vec<Message> = batch.messages().map(|message| message.to_owned()).collect();
    assert_eq!(goes_on[0].headers, [header(b"millstream-replays", b"1")]);
    assert_eq!(goes_on[1].headers, [header(b"a", b"b"), header(b"millstream-replays", b"12")]);
    let kept: Vec<Original> = batch.rows().iter().map(|row| held.original(row).unwrap()).collect();
    assert_eq!((&kept[0].message, kept[0].read_at_ms, kept[0].replays), (&Message::default(), 5, 1));
    assert_eq!((&kept[1].message, kept[1].read_at_ms, kept[1].replays), (&looped, 6, 12));
    held.delivered_for_test();
}

#[test]
fn p2_a_message_that_a_plugin_call_forgets_is_a_leak() {
    let ledger = ledger(1);
    let (feed, _) = ledger.add_feed("orders", CommitKind::UpTo);
    let held = ledger.open(feed, batch(0, 0, 3)).unwrap();
    let forgets = |mut batch: Batch| {
        let mut rows = batch.take_rows();
        rows.truncate(2);
        batch.set_rows(rows);
        Ok::<_, std::convert::Infallible>(Processed { batch, parents: vec![0, 1], ..Processed::default() })
    };
    let (held, _, _) = held.advance(forgets).unwrap();
    held.delivered_for_test();
    assert!(ledger.leaked().is_cancelled());
    assert_eq!(ledger.take_committable(feed).positions[0].offset, 1);
}

#[test]
fn p8_what_is_dropped_after_giving_up_is_returned_and_not_committed() {
    let ledger = ledger(1);
    let (feed, _) = ledger.add_feed("orders", CommitKind::UpTo);
    let held = ledger.open(feed, batch(0, 0, 3)).unwrap();
    ledger.give_up();
    drop(held);
    assert!(!ledger.leaked().is_cancelled());
    let books = ledger.snapshot().books;
    assert_eq!((books.returned, books.in_flight), (3, 0));
    assert!(ledger.take_committable(feed).is_empty());
    assert!(ledger.is_settled(feed));
}

#[test]
fn a_queue_is_told_the_worst_of_what_became_of_each_message() {
    let ledger = ledger(2);
    let (feed, _) = ledger.add_feed("requests", CommitKind::Each);
    let held = ledger.open(feed, batch(0, 0, 2)).unwrap();
    let (offered, unrouted) = held.fan_out(2, |_, row| match row.claim_row {
        0 => SinkSet::ALL.and(SinkSet::only(0).with(1)),
        _ => SinkSet::only(0),
    });
    assert!(unrouted.is_none());
    let mut offered = offered.into_iter();
    let (_, both) = offered.next().unwrap();
    let (_, one) = offered.next().unwrap();
    one.dead_lettered("no room");
    assert!(ledger.take_committable(feed).is_empty());
    both.delivered();
    let rows = ledger.take_committable(feed).rows;
    let told: Vec<_> = rows.iter().map(|row| (row.position.offset, row.outcome.clone())).collect();
    assert_eq!(told, [(0, SettledAs::DeadLettered("no room".to_owned())), (1, SettledAs::Delivered)]);
    let snapshot = ledger.snapshot();
    assert!(snapshot.books.balance());
    assert_eq!(snapshot.sinks[0], SinkBooks { offered: 2, delivered: 2, ..SinkBooks::default() });
    assert_eq!(snapshot.sinks[1], SinkBooks { offered: 1, dead_lettered: 1, ..SinkBooks::default() });
}

#[test]
fn p6_the_budget_is_given_back_when_the_last_message_is_settled() {
    let budget = Arc::new(Budget::new(1 << 20));
    let ledger = Ledger::new(1, Arc::clone(&budget));
    let (feed, _) = ledger.add_feed("orders", CommitKind::UpTo);
    let held = ledger.open(feed, batch(0, 0, 2)).unwrap();
    assert!(budget.in_flight() > 0);
    let mut parts = held.split(2, |index, _| index).into_iter();
    parts.next().unwrap().delivered_for_test();
    assert!(budget.in_flight() > 0);
    parts.next().unwrap().delivered_for_test();
    assert_eq!(budget.in_flight(), 0);
}

impl Held {
    /// Delivered without having been offered to a sink.
    fn delivered_for_test(self) {
        self.delivered();
    }
}

/// What may happen to messages in flight.
#[derive(Clone, Debug)]
enum Event {
    Open {
        partition: u32,
        count: u64,
    },
    Split {
        held: usize,
        at: usize,
    },
    /// A plugin drops, multiplies or sets aside by `(row + salt) % 4`.
    Advance {
        held: usize,
        salt: usize,
    },
    FanOut {
        held: usize,
    },
    Deliver {
        held: usize,
    },
    DeadLetter {
        held: usize,
    },
    Commit,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let one = prop_oneof![
        2 => (0u32..3, 1u64..6).prop_map(|(partition, count)| Event::Open { partition, count }),
        2 => (any::<usize>(), 0usize..6).prop_map(|(held, at)| Event::Split { held, at }),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(held, salt)| Event::Advance { held, salt: salt % 4 }),
        2 => any::<usize>().prop_map(|held| Event::FanOut { held }),
        3 => any::<usize>().prop_map(|held| Event::Deliver { held }),
        1 => any::<usize>().prop_map(|held| Event::DeadLetter { held }),
        2 => Just(Event::Commit),
    ];
    proptest::collection::vec(one, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// P1: whatever is settled in whatever order, nothing is committed past a row in flight; when
    /// everything is settled everything is committed; the books balance at every step (P11).
    #[test]
    fn p1_nothing_is_committed_past_a_row_in_flight(events in events()) {
        let ledger = ledger(2);
        let (feed, _) = ledger.add_feed("orders", CommitKind::UpTo);
        let mut next = [0u64; 3];
        let mut committed = [None::<u64>; 3];
        let mut all: Vec<Held> = Vec::new();
        let take = |all: &mut Vec<Held>, index: usize| (!all.is_empty()).then(|| { let at = index % all.len(); all.swap_remove(at) });
        let mut commit = |all: &[Held]| {
            for position in ledger.take_committable(feed).positions {
                let partition = position.partition as usize;
                prop_assert!(committed[partition].is_none_or(|before| before < position.offset));
                committed[partition] = Some(position.offset);
            }
            for row in all.iter().flat_map(|held| held.batch().rows()) {
                let at = committed[row.position.partition as usize];
                prop_assert!(at.is_none_or(|at| at < row.position.offset), "committed {at:?} past {row:?}");
            }
            Ok::<(), TestCaseError>(())
        };
        for event in events {
            match event {
                Event::Open { partition, count } => {
                    let from = &mut next[partition as usize];
                    all.push(ledger.open(feed, batch(partition, *from, count)).unwrap());
                    *from += count;
                }
                Event::Split { held, at } => if let Some(held) = take(&mut all, held) {
                    all.extend(held.split(2, |index, _| usize::from(index >= at)).into_iter().filter(|held| !held.is_empty()));
                },
                Event::Advance { held, salt } => if let Some(held) = take(&mut all, held) {
                    if held.sink.is_some() { all.push(held); continue }
                    let (held, _, asides) = held.advance(|mut batch| {
                        let mut processed = Processed::default();
                        let mut rows = Vec::new();
                        for (parent, row) in batch.take_rows().into_iter().enumerate() {
                            let parent_number = parent as u32;
                            match (parent + salt) % 4 {
                                0 => processed.fates.push(Fate { parent: parent_number, row, verdict: FateVerdict::Dropped }),
                                1 => { rows.push(row); processed.parents.push(parent_number) }
                                2 => for _ in 0..3 { rows.push(row); processed.parents.push(parent_number) },
                                _ => processed.fates.push(Fate { parent: parent_number, row, verdict: FateVerdict::Retry { code: String::new(), reason: String::new() } }),
                            }
                        }
                        batch.set_rows(rows);
                        processed.batch = batch;
                        Ok::<_, std::convert::Infallible>(processed)
                    }).unwrap();
                    all.extend(asides.into_iter().map(|aside| aside.held));
                    if !held.is_empty() { all.push(held) }
                },
                Event::FanOut { held } => if let Some(held) = take(&mut all, held) {
                    if held.sink.is_some() { all.push(held); continue }
                    let (offered, unrouted) = held.fan_out(2, |_, row| match row.claim_row % 3 {
                        0 => SinkSet::NONE, 1 => SinkSet::only(1), _ => SinkSet::only(0).with(1),
                    });
                    all.extend(offered.into_iter().map(|(_, held)| held).chain(unrouted));
                },
                Event::Deliver { held } => if let Some(held) = take(&mut all, held) { held.delivered() },
                Event::DeadLetter { held } => if let Some(held) = take(&mut all, held) { held.dead_lettered("") },
                Event::Commit => commit(&all)?,
            }
            let snapshot = ledger.snapshot();
            prop_assert!(snapshot.books.balance(), "{snapshot:?}");
            prop_assert!(snapshot.sinks.iter().all(SinkBooks::balance), "{snapshot:?}");
            prop_assert_eq!(snapshot.books.in_flight, all.iter().map(|held| held.len() as u64).sum::<u64>());
        }
        for held in all.drain(..) { held.delivered() }
        commit(&[])?;
        for (partition, next) in next.iter().enumerate() {
            prop_assert_eq!(committed[partition], next.checked_sub(1));
        }
        prop_assert!(!ledger.leaked().is_cancelled());
    }
}

#[test]
fn passing_costs_no_entry_in_the_books() {
    let ledger = ledger(1);
    let (feed, _) = ledger.add_feed("orders", CommitKind::UpTo);
    let (held, parents, asides) = ledger.open(feed, batch(0, 0, 4)).unwrap().advance(pass).unwrap();
    assert_eq!((parents.len(), asides.len()), (4, 0));
    held.delivered_for_test();
    assert_eq!(ledger.snapshot().books, Books { received: 4, delivered: 4, ..Books::default() });
}
