//! What goes wrong with a cluster or a topic ends as documented: it is waited for what may get better,
//! and only a message that can never be written becomes a dead letter.

use std::collections::HashMap;

use super::{Copy, Member};
use crate::services::kafka::{Kafka, Record, Secured, Way, unique};

fn numbered(numbers: std::ops::Range<u64>) -> impl Iterator<Item = Record> {
    numbers.map(|number| Record::new(&format!("k{}", number % 5), &number.to_string()))
}

fn values(kafka: &Kafka, topic: &str) -> Vec<String> {
    let mut values: Vec<String> =
        kafka.consume(topic).iter().map(|record| record.text().to_owned()).collect();
    values.sort_by_key(|value| value.parse::<u64>().ok());
    values
}

fn texts(numbers: std::ops::Range<u64>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[test]
fn a_broker_that_is_not_there_at_the_start_is_waited_for() {
    let kafka = Kafka::prepared(1);
    let (from, to) = (unique("late"), unique("late-out"));
    let mut member = Member::start(&Copy::new(&kafka, &from, &to));
    member.wait_until_ready(false, "copy");
    member.wait_for_log("the source waits");
    kafka.start_broker(0);
    kafka.wait_until_ready(1);
    // The topics come even later.
    member.wait_until_ready(false, "copy");
    kafka.create_topic(&from, 2, &[]);
    kafka.create_topic(&to, 2, &[]);
    kafka.produce(&from, numbered(0..100));
    member.wait_for_messages(&kafka, &to, 100);
    member.wait_until_ready(true, "");

    // And away again.
    kafka.stop_broker(0);
    member.wait_until_ready(false, "copy");
    kafka.start_broker(0);
    kafka.wait_until_ready(1);
    kafka.produce(&from, numbered(100..200));
    member.wait_for_messages(&kafka, &to, 200);
    assert_eq!(member.account("dead_lettered"), 0);
    assert!(member.stop().dead_letters().is_empty());
    assert_eq!(values(&kafka, &to), texts(0..200));
}

#[test]
fn a_broker_that_does_not_answer_is_waited_for() {
    let kafka = Kafka::start();
    let (from, to) = (kafka.topic("hangs", 2), kafka.topic("hangs-out", 2));
    let mut copy = Copy::new(&kafka, &from, &to);
    copy.sink = "timeout = \"2s\"".to_owned();
    let mut member = Member::start(&copy);
    kafka.produce(&from, numbered(0..100_000));
    member.wait_for("some output", || kafka.count(&to) > 0);
    kafka.pause_broker(0);
    member.wait_until_ready(false, "copy");
    kafka.resume_broker(0);
    // Not all output: some of it may be there twice.
    member.wait_until_committed(&kafka, &copy);
    member.wait_until_ready(true, "");
    assert!(member.stop().dead_letters().is_empty());
    let mut written = values(&kafka, &to);
    written.dedup();
    assert!(written == texts(0..100_000), "every message arrived");
}

#[test]
fn an_output_that_is_deleted_is_waited_for() {
    let kafka = Kafka::shared();
    let (from, to) = (kafka.topic("keeps", 2), kafka.topic("deleted-out", 2));
    let mut copy = Copy::new(kafka, &from, &to);
    copy.sink = "timeout = \"2s\"".to_owned();
    let mut member = Member::start(&copy);
    kafka.produce(&from, numbered(0..50));
    member.wait_for_messages(kafka, &to, 50);
    kafka.delete_topic(&to);
    kafka.produce(&from, numbered(50..100));
    member.wait_until_ready(false, &to);
    kafka.create_topic(&to, 2, &[]);
    member.wait_for_messages(kafka, &to, 50);
    member.wait_until_ready(true, "");
    assert!(member.stop().dead_letters().is_empty());
    assert_eq!(values(kafka, &to), texts(50..100));
}

#[test]
fn an_input_that_is_deleted_is_waited_for_and_read_from_its_new_beginning() {
    let kafka = Kafka::shared();
    let (from, to) = (kafka.topic("deleted", 2), kafka.topic("keeps-out", 2));
    let mut member = Member::start(&Copy::new(kafka, &from, &to));
    kafka.produce(&from, numbered(0..50));
    member.wait_for_messages(kafka, &to, 50);
    kafka.delete_topic(&from);
    member.wait_for("it is gone", || kafka.partitions(&from).is_none());
    kafka.create_topic(&from, 2, &[]);
    kafka.produce(&from, numbered(50..70));
    member.wait_for_messages(kafka, &to, 70);
    assert!(member.stop().dead_letters().is_empty());
    assert_eq!(values(kafka, &to), texts(0..70));
}

#[test]
fn p4_a_message_that_the_topic_does_not_take_becomes_a_dead_letter_alone() {
    let kafka = Kafka::shared();
    let from = kafka.topic("large", 1);
    let to = unique("large-out");
    kafka.create_topic(&to, 1, &[("max.message.bytes", "10000")]);
    let large = || Record::new("k1", &"9".repeat(20_000));
    // The broker counts what is compressed.
    let mut copy = Copy::new(kafka, &from, &to);
    copy.sink = "compression = \"none\"".to_owned();
    let mut member = Member::start(&copy);
    kafka.produce(&from, numbered(0..20).chain([large()]).chain(numbered(20..40)));
    member.wait_for_messages(kafka, &to, 40);
    // The topic takes less from now on; who asked before does not know.
    kafka.configure_topic(&to, &[("max.message.bytes", "5000")]);
    let medium = Record::new("k2", &"8".repeat(8_000));
    kafka.produce(&from, numbered(40..60).chain([medium]).chain(numbered(60..80)));
    member.wait_for_messages(kafka, &to, 80);
    let letters = member.stop().dead_letters();
    assert_eq!(letters.len(), 2, "{letters:?}");
    for (letter, (key, size)) in letters.iter().zip([("k1", 20_000), ("k2", 8_000)]) {
        assert_eq!(letter["code"], "too-large", "{letter}");
        assert_eq!(letter["key"], key, "{letter}");
        assert_eq!(letter["payload"].as_str().map(str::len), Some(size), "the original, whole");
    }
    assert_eq!(values(kafka, &to), texts(0..80));
    let mut last = HashMap::new();
    for record in kafka.consume(&to) {
        let number: u64 = record.text().parse().expect("a number");
        let before = last.insert(record.key, number);
        assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
    }
}

#[test]
fn a_topic_that_may_not_be_written_any_more_is_waited_for() {
    let secured = Secured::shared();
    let kafka = &secured.kafka;
    let (from, to) = (kafka.topic("allowed", 2), kafka.topic("forbidden", 2));
    let mut copy = Copy::new(kafka, &from, &to);
    copy.brokers = format!("brokers = [\"{}\"]", secured.address(Way::SaslPlaintext));
    let security = format!(
        "security.protocol = \"sasl-plaintext\"\nsecurity.sasl = {{ mechanism = \"SCRAM-SHA-256\", username = \"{}\", password = \"{}\" }}",
        Secured::USER,
        Secured::PASSWORD
    );
    (copy.source, copy.sink) = (security.clone(), security);
    let mut member = Member::start(&copy);
    kafka.produce(&from, numbered(0..50));
    member.wait_for_messages(kafka, &to, 50);
    let rule =
        ["--deny-principal", &format!("User:{}", Secured::USER), "--operation", "Write", "--topic", &to];
    secured.acl(&[&["--add"], &rule[..]].concat());
    kafka.produce(&from, numbered(50..100));
    member.wait_until_ready(false, "copy");
    assert_eq!(member.account("dead_lettered"), 0);
    secured.acl(&[&["--remove"], &rule[..]].concat());
    member.wait_for_messages(kafka, &to, 100);
    member.wait_until_ready(true, "");

    // The same with what is read.
    let rule =
        ["--deny-principal", &format!("User:{}", Secured::USER), "--operation", "Read", "--topic", &from];
    secured.acl(&[&["--add"], &rule[..]].concat());
    kafka.produce(&from, numbered(100..150));
    member.wait_until_ready(false, "copy");
    secured.acl(&[&["--remove"], &rule[..]].concat());
    member.wait_for_messages(kafka, &to, 150);
    assert!(member.stop().dead_letters().is_empty());
    assert_eq!(values(kafka, &to), texts(0..150));
}
