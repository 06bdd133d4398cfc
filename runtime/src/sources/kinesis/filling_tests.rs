use std::sync::Mutex;

use aws_sdk_kinesis::primitives::Blob;
use tokio::sync::Semaphore;

use super::super::super::testing::{Row, context, limit};
use super::super::kpl::tests::aggregated;
use super::super::leases::Checkpoint;
use super::super::ownership::Standing;
use super::*;
use crate::message::Position;

const SHARD: u32 = 7;

fn record(sequence_number: &str, data: &[u8]) -> Record {
    let record = Record::builder().sequence_number(sequence_number).partition_key("k").data(Blob::new(data));
    record.build().unwrap()
}

/// What was fetched of a shard that is ours.
fn fetched(ownership: &Ownership, checkpoint: &Checkpoint, records: Vec<Record>) -> Unread {
    let term = ownership.acquire(SHARD, "shard", checkpoint).unwrap();
    let shard = Shard {
        id: "shard".to_owned(),
        number: SHARD,
        term,
        hash_keys: Some((0, 100)),
        missing_since: Mutex::default(),
    };
    let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
    Unread::new(Fetched::new(Arc::new(shard), records, true, permit))
}

/// Takes what fits into a batch with this codec.
fn take(ownership: &Ownership, unread: Unread, codec: &str, rows: usize) -> (Vec<Row>, Option<Unread>) {
    let context = context(codec, "{}", &Arc::default());
    let mut decoder = context.codec.decoder();
    let mut filling = Filling::new(&mut *decoder, 10, ownership, limit(rows, 1 << 20));
    let unread = filling.take(unread);
    (Row::of(filling.finish()), unread)
}

fn commit(ownership: &Ownership, offset: u64) {
    let position = Position { partition: SHARD, offset, record: offset };
    ownership.to_commit(&[position]).iter().for_each(|settled| ownership.committed(settled));
}

#[test]
fn p4_what_is_no_message_is_a_row_of_its_own() {
    let ownership = Ownership::new();
    let records =
        vec![record("s0", b"{}"), record("s1", b"{"), record("s2", b"\"far too long\""), record("s3", b"1")];
    let unread = fetched(&ownership, &Checkpoint::TrimHorizon, records);
    let (rows, unread) = take(&ownership, unread, "json", 100);
    assert!(unread.is_none());
    assert_eq!(rows.iter().map(Row::code).collect::<Vec<_>>(), ["", "decode-error", "too-large", ""]);
    assert_eq!(rows[2].text(), "\"far too l");
    assert_eq!(rows.iter().map(|row| row.position.offset).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert!(rows.iter().all(|row| row.key.as_deref() == Some(b"k")));
    assert_eq!(ownership.standing(SHARD), Standing::Busy);
    commit(&ownership, 4);
    assert_eq!(ownership.standing(SHARD), Standing::Finished);
}

#[test]
fn p2_an_aggregated_record_goes_on_where_it_was_settled() {
    let users = [("a", "0", "u0"), ("b", "1", "u1"), ("c", "999", "theirs"), ("d", "2", "u3")];
    let users = users.map(|(key, hash_key, data)| (key, Some(hash_key), data));
    let records = || vec![record("s0", b"plain"), record("s1", &aggregated(&users)), record("s2", b"last")];
    let ownership = Ownership::new();
    let unread = fetched(&ownership, &Checkpoint::TrimHorizon, records());
    let (rows, unread) = take(&ownership, unread, "raw", 3);
    assert_eq!(rows.iter().map(Row::text).collect::<Vec<_>>(), ["plain", "u0", "u1"]);
    let (rest, none) = take(&ownership, unread.unwrap(), "raw", 100);
    assert_eq!(rest.iter().map(Row::text).collect::<Vec<_>>(), ["u3", "last"]);
    assert!(none.is_none());
    // Another member, from what was committed in the middle of it.
    let position = rows[1].position;
    let checkpoint = ownership.to_commit(&[position]).remove(0).checkpoint;
    let other = Ownership::new();
    let unread = fetched(&other, &checkpoint, records().split_off(1));
    let (again, _) = take(&other, unread, "raw", 100);
    assert_eq!(again.iter().map(Row::text).collect::<Vec<_>>(), ["u1", "u3", "last"]);
    let positions = |rows: &[Row]| rows.iter().map(|row| row.position).collect::<Vec<_>>();
    assert_eq!(positions(&again), [&positions(&rows[2..])[..], &positions(&rest)[..]].concat());
}

#[test]
fn p3_of_a_shard_that_goes_nothing_more_is_handed_over() {
    let ownership = Ownership::new();
    let users = aggregated(&[("a", Some("0"), "u0"), ("b", Some("1"), "u1")]);
    let unread =
        fetched(&ownership, &Checkpoint::TrimHorizon, vec![record("s0", &users), record("s1", b"last")]);
    let (rows, unread) = take(&ownership, unread, "raw", 1);
    assert_eq!(rows.len(), 1);
    ownership.leave(SHARD);
    let (rows, unread) = take(&ownership, unread.unwrap(), "raw", 100);
    assert!(rows.is_empty() && unread.is_none());
    commit(&ownership, 1);
    assert_eq!(ownership.standing(SHARD), Standing::Drained, "it has not ended: there is more");
}
