//! Shards that are split and merged while they are read.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::world::{Member, Pipeline, Stream, Taker, Writer, wait_for};
use crate::support::{rounds, seed};

/// Between two calls of the writer.
const PAUSE: Duration = Duration::from_millis(15);

/// Splits and merges, and returns how many records were written in all.
fn reshard(
    rounds: usize,
    stream: &Arc<Stream>,
    writer: Writer,
    taker: &Taker,
    member: &mut Member,
    mut happen: impl FnMut(usize),
) -> usize {
    let mut random = StdRng::seed_from_u64(seed());
    for round in 0..rounds {
        let enough = writer.written() + random.random_range(100..400);
        member.wait_for("some more records", || writer.written() >= enough);
        let open = stream.open_shards().len();
        let merges = open > 1 && (open > 5 || random.random());
        println!("round {round}: {open} shards, {}", if merges { "a merge" } else { "a split" });
        match merges {
            true => stream.merge(random.random_range(0..open - 1)),
            false => stream.split(random.random_range(0..open)),
        }
        happen(round);
    }
    let enough = writer.written() + 200;
    member.wait_for("some more records", || writer.written() >= enough);
    let written = writer.end();
    member.wait_for("everything that was written", || taker.distinct() >= written);
    written
}

#[test]
fn p3_a_single_member_keeps_the_order_over_splits_and_merges() {
    let (stream, taker) = (Arc::new(Stream::new(2)), Taker::start());
    let writer = Writer::start(&stream, PAUSE);
    // Some has happened when it comes: parents and children are all there at once.
    for enough in [400, 800] {
        wait_for("some records", || writer.written() >= enough);
        stream.split(0);
    }
    let mut member = Member::start(&Pipeline::new(&stream, &taker));
    let rounds = rounds("splits and merges with one member", 4, 20);
    let written = reshard(rounds, &stream, writer, &taker, &mut member, |_| {});
    assert_eq!(taker.judge(written), 0, "repetitions");
    let open = stream.open_shards().len() as u64;
    member.running.wait_for("only open shards are read", |_| {
        let page = crate::support::look(&member.admin).unwrap_or_default();
        crate::support::metric(&page, "millstream_kinesis_leases", &[]) == Some(open)
    });
    // What ended is not read again after a restart.
    let mut member = member.stop().start();
    stream.put("k0", written.to_string().as_bytes());
    member.wait_for("what came then", || taker.count() > written);
    assert_eq!(taker.count(), written + 1);
}

#[test]
fn p3_children_are_read_once_everything_of_their_parent_is_settled() {
    let (stream, taker) = (Stream::new(1), Taker::start());
    stream.put("one", b"0");
    stream.put("one", b"1");
    taker.hold(Some("1"));
    let mut member = Member::start(&Pipeline::new(&stream, &taker));
    member.wait_for("the first record", || taker.count() == 1);
    stream.split(0);
    // Another key, which nothing keeps back but that it is in a child.
    stream.put("other", b"2");
    member.wait_for_log("a shard has ended");
    std::thread::sleep(Duration::from_secs(2));
    let log = member.running.log();
    assert_eq!(log.matches("reading a shard").count(), 1, "{log}");
    // Nor is it remembered as read to its end.
    let killed = member.kill();
    taker.hold(None);
    let mut member = killed.start();
    member.wait_for("all records", || taker.distinct() == 3);
    let texts: Vec<String> = taker.taken().iter().map(|one| one.text()).collect();
    assert_eq!(texts.last().map(String::as_str), Some("2"), "{texts:?}");
    member.stop();
}

#[test]
fn p3_members_keep_the_order_over_splits_and_merges() {
    let (stream, taker) = (Arc::new(Stream::new(2)), Taker::start());
    let pipeline = Pipeline::shared(&stream, &taker, "2s");
    let mut one = Member::start(&pipeline);
    let mut others = vec![Member::start(&pipeline), Member::start(&pipeline)];
    let rounds = rounds("splits and merges with three members, one of which is killed now and then", 4, 20);
    let writer = Writer::start(&stream, PAUSE);
    let written = reshard(rounds, &stream, writer, &taker, &mut one, |round| {
        if round % 2 == 1 {
            let killed = others.remove(0).kill();
            others.push(killed.start());
        }
    });
    println!("{written} records, {} repetitions", taker.judge(written));
    one.stop();
    for member in others {
        member.stop();
    }
}
