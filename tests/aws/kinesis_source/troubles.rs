//! A service that is not there, not yet, or has too much to do.

use std::time::{Duration, Instant};

use super::between::Between;
use super::world::{self, Member, Pipeline, Stream, Taker};
use crate::services::aws::{SECRET_KEY, StandIn};
use crate::support::ask;

#[test]
fn what_the_service_refuses_for_a_while_is_waited_for() {
    let (stream, taker) = (Stream::new(1), Taker::start());
    let throttled = "ProvisionedThroughputExceededException";
    let (between, aws, _runtime) = Between::start(StandIn::kinesis());
    let of_records = vec!["ExpiredIteratorException", throttled, throttled, throttled, "InternalFailure"];
    let faults = [
        ("ListShards", vec!["LimitExceededException", "InternalFailure"]),
        ("GetShardIterator", vec![throttled]),
        ("GetRecords", of_records),
    ];
    between.tell(|told| told.faults.extend(faults));
    for number in 0..20 {
        stream.put("k", format!("{number:02}").as_bytes());
    }
    let mut pipeline = Pipeline::new(&stream, &taker);
    pipeline.aws = aws;
    // Two records a call: it is behind for a while, and asks as often as it may.
    pipeline.source = "records = 2".to_owned();
    let mut member = Member::start(&pipeline);
    let (mut reasons, mut has_expired) = (String::new(), false);
    let admin = member.admin.clone();
    member.running.wait_for("all records", |_| {
        if let Some((503, text)) = ask(&admin, "/readyz") {
            reasons.push_str(&text);
        }
        // Also when there is something that was read by it before.
        if !has_expired && taker.count() >= 4 {
            between.tell(|told| told.faults.insert("GetRecords", vec!["ExpiredIteratorException"]));
            has_expired = true;
        }
        taker.count() >= 20
    });
    assert!(reasons.contains("ListShards of"), "it shows in /readyz: {reasons}");
    assert!(reasons.contains(throttled), "it shows in /readyz: {reasons}");
    member.running.wait_for("it is ready", |_| matches!(ask(&admin, "/readyz"), Some((200, _))));
    let texts: Vec<String> = taker.taken().iter().map(|one| one.text()).collect();
    assert_eq!(texts, (0..20).map(|number| format!("{number:02}")).collect::<Vec<_>>());
    assert!(between.tell(|told| told.faults.values().all(Vec::is_empty)));
    let log = member.running.log();
    assert!(log.contains("the source waits") && log.contains("the source reads"), "{log}");
    assert!(!log.contains(SECRET_KEY));
    // Five calls a second, whatever comes; the network may shift one a little.
    let asked = between.tell(|told| told.asked.clone());
    for two in asked.windows(6) {
        let took = two[5] - two[0];
        assert!(took >= Duration::from_millis(900), "six calls within {took:?}");
    }
    member.stop();
}

#[test]
fn how_far_it_is_behind_is_a_metric_of_each_shard_it_reads() {
    let (stream, taker) = (Stream::new(1), Taker::start());
    let (between, aws, _runtime) = Between::start(StandIn::kinesis());
    let mut pipeline = Pipeline::new(&stream, &taker);
    pipeline.aws = aws;
    let mut member = Member::start(&pipeline);
    let (shard, ..) = stream.open_shards().swap_remove(0);
    for behind in [4711, 0, 86_400_000] {
        between.tell(|told| told.behind = Some(behind));
        let admin = member.admin.clone();
        member.wait_for(&format!("{behind} ms behind"), || world::behind(&admin, &shard) == Some(behind));
    }
    // Of one that has ended nothing is told any more, of those in its place as soon as they are read.
    stream.split(0);
    let children = stream.open_shards();
    assert_eq!(children.len(), 2);
    let admin = member.admin.clone();
    member.wait_for("its children are read", || {
        children.iter().all(|(child, ..)| world::behind(&admin, child) == Some(86_400_000))
    });
    assert_eq!(world::behind(&admin, &shard), None);
    member.stop();
}

#[test]
fn a_stream_that_is_not_there_yet_is_waited_for() {
    let (stream, taker) = (Stream::later(), Taker::start());
    let mut member = Member::start(&Pipeline::new(&stream, &taker));
    let admin = member.admin.clone();
    member.running.wait_for(
        "it says that there is no stream",
        |_| matches!(ask(&admin, "/readyz"), Some((503, text)) if text.contains("ResourceNotFoundException")),
    );
    stream.create(1);
    stream.put("k", b"first");
    member.wait_for("its first record", || taker.count() == 1);
    member.running.wait_for("it is ready", |_| matches!(ask(&admin, "/readyz"), Some((200, _))));
    member.stop();
}

#[test]
fn p6_while_nothing_is_delivered_no_more_is_fetched_than_fits() {
    const RECORDS: usize = 100;
    const BYTES: usize = 250_000;
    let (stream, taker) = (Stream::new(1), Taker::start());
    let (between, aws, _runtime) = Between::start(StandIn::kinesis());
    let body = |number: usize| [format!("{number:03}").as_bytes(), &[b'.'; BYTES]].concat();
    for numbers in (0..RECORDS).collect::<Vec<_>>().chunks(16) {
        stream.put_all(&numbers.iter().map(|&number| ("k".to_owned(), body(number))).collect::<Vec<_>>());
    }
    taker.open(false);
    let mut pipeline = Pipeline::new(&stream, &taker);
    pipeline.aws = aws;
    // A call brings 2 MB, and there is room for five of them beside what is in flight.
    pipeline.source = "records = 8".to_owned();
    pipeline.top = "budget = \"28MiB\"".to_owned();
    let mut member = Member::start(&pipeline);
    let mut asked = (0, Instant::now());
    member.running.wait_for("no more is asked for", |_| {
        let count = between.tell(|told| told.asked.len());
        if count != asked.0 {
            asked = (count, Instant::now());
        }
        count > 0 && asked.1.elapsed() > Duration::from_secs(4)
    });
    println!("{} calls, {} MiB resident", asked.0, member.running.resident_bytes() >> 20);
    assert!(asked.0 < RECORDS / 8, "everything was fetched");
    taker.open(true);
    member.wait_for("all records", || taker.count() >= RECORDS);
    let numbers: Vec<String> = taker.taken().iter().map(|one| one.text()[..3].to_owned()).collect();
    assert_eq!(numbers, (0..RECORDS).map(|number| format!("{number:03}")).collect::<Vec<_>>());
    member.stop();
}
