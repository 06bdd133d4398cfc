//! P2: with `delivery = "exactly-once"` each message is there once for those who read what is committed,
//! whatever happens to a transaction. Members and brokers are killed in `kills.rs` and `brokers.rs`.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Copy, Member, dead_letters};
use crate::services::kafka::{Kafka, Record, unique};
use crate::support::{DEADLINE, run};

fn numbered(numbers: std::ops::Range<u64>) -> impl Iterator<Item = Record> {
    numbers.map(|number| Record::new(&format!("k{}", number % 5), &number.to_string()))
}

/// The numbers in a topic, in the order of their values.
fn numbers(kafka: &Kafka, topic: &str) -> Vec<u64> {
    let mut numbers: Vec<u64> =
        kafka.consume(topic).iter().map(|record| record.text().parse().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn p2_a_transaction_that_times_out_is_run_again() {
    let kafka = Kafka::shared();
    let (from, to) = (kafka.topic("slow", 2), kafka.topic("slow-out", 2));
    let mut copy = Copy::new(kafka, &from, &to);
    copy.be_exactly_once();
    copy.top = copy.top.replace("\"5s\"", "\"3s\"") + "\ntransaction_interval = \"1s\"";
    let mut member = Member::start(&copy);
    member.wait_until_ready(true, "");
    kafka.produce(&from, numbered(0..1000));
    // Uncommitted ones count here, too: it is in the middle of a transaction.
    member.wait_for("a message in the output", || kafka.count(&to) > 0);
    member.running.pause();
    // Nothing else tells that the brokers have aborted it.
    std::thread::sleep(Duration::from_secs(6));
    member.running.resume();
    member.wait_until_committed(kafka, &copy);
    assert!(member.running.log().contains("the transaction was aborted"), "{}", member.running.log());
    assert_eq!((member.account("delivered"), member.account("dead_lettered")), (1000, 0));
    member.stop();
    assert_eq!(numbers(kafka, &to), (0..1000).collect::<Vec<u64>>());
}

#[test]
fn of_two_members_with_one_transactional_id_one_ends_and_says_why() {
    let kafka = Kafka::shared();
    let id = unique("twins");
    let mut twins: Vec<(Copy, Member)> = (0..2)
        .map(|_| {
            let mut copy = Copy::new(kafka, &kafka.topic("twin", 2), &kafka.topic("twin-out", 2));
            copy.be_exactly_once();
            copy.top.push_str(&format!("\ntransactional_id = \"{id}\""));
            let member = Member::start(&copy);
            (copy, member)
        })
        .collect();
    let (end, mut sent) = (Instant::now() + DEADLINE, 0);
    let ended = loop {
        // Only who has something to commit finds out.
        twins.iter().for_each(|(copy, _)| kafka.produce(&copy.from, numbered(sent..sent + 10)));
        sent += 10;
        if let Some(ended) = twins.iter_mut().position(|(_, member)| member.running.has_ended()) {
            break ended;
        }
        assert!(Instant::now() < end, "both go on");
    };
    let (_, mut member) = twins.swap_remove(ended);
    assert!(!member.running.end().success());
    let log = member.running.log();
    assert!(log.contains(&id) && log.contains("`transactional_id`"), "{log}");
    // The other one delivers.
    let (copy, mut member) = twins.remove(0);
    member.wait_for("all output", || kafka.consume(&copy.to).len() as u64 == sent);
    assert_eq!(numbers(kafka, &copy.to), (0..sent).collect::<Vec<u64>>());
    member.stop();
}

#[test]
fn p4_a_message_that_the_brokers_refuse_in_a_transaction_is_a_dead_letter_and_the_others_arrive_once() {
    let kafka = Kafka::shared();
    let (from, to) = (kafka.topic("large", 1), kafka.topic("large-out", 1));
    let mut copy = Copy::new(kafka, &from, &to);
    copy.sink = "compression = \"none\"".to_owned();
    copy.be_exactly_once();
    kafka.create_topic(&format!("{to}-dead"), 1, &[]);
    copy.more.push_str("compression = \"none\"\n");
    let mut member = Member::start(&copy);
    kafka.produce(&from, numbered(0..100));
    member.wait_for("the first messages", || kafka.consume(&to).len() == 100);
    // What the sink knows of the topic is not true any more.
    kafka.configure_topic(&to, &[("max.message.bytes", "2000")]);
    let large = Record::new("k1", &format!("{:04000}", 100));
    kafka.produce(&from, numbered(101..150).chain([large]).chain(numbered(150..200)));
    member.wait_until_committed(kafka, &copy);
    assert_eq!(member.account("dead_lettered"), 1);
    member.stop();
    let expected: Vec<u64> = (0..200).filter(|&number| number != 100).collect();
    assert_eq!(numbers(kafka, &to), expected);
}

#[test]
fn p2_replayed_dead_letters_are_written_once_by_a_member_that_runs_and_without_one() {
    let kafka = Kafka::shared();
    let (from, to) = (kafka.topic("replayed", 1), kafka.topic("replayed-out", 1));
    let mut copy = Copy::new(kafka, &from, &to);
    copy.be_exactly_once();
    kafka.create_topic(&format!("{to}-dead"), 1, &[]);
    let jq = |program: &str| format!("\n[[plugin]]\nuse = \"jq\"\nconfig.program = '{program}'\n");
    let before = copy.more.clone();
    copy.more.push_str(&jq("if . == 10 or . == 20 then error(\"not yet\") else . end"));
    let mut member = Member::start(&copy);
    kafka.produce(&from, numbered(0..30));
    member.wait_until_committed(kafka, &copy);
    assert_eq!(member.account("dead_lettered"), 2);

    copy.more = before + &jq(".");
    copy.write(&member.folder);
    member.running.hang_up();
    member.wait_for_log("plugin reloaded");
    let file = member.pipeline.display().to_string();
    let replay = |id: &str| {
        let (status, out, err) = run(&["dlq", "replay", &file, id]);
        assert!(status.success() && err.contains("1 delivered"), "{out}{err}");
    };
    let ids = |letters: &[Value]| -> Vec<String> {
        letters.iter().map(|letter| letter["id"].as_str().expect("an id").to_owned()).collect()
    };
    let both = ids(&dead_letters(&file));
    replay(&both[0]);
    assert_eq!(ids(&dead_letters(&file)), both[1..]);
    let stopped = member.stop();
    replay(&both[1]);
    assert!(stopped.dead_letters().is_empty());
    assert_eq!(numbers(kafka, &to), (0..30).collect::<Vec<u64>>());
}
