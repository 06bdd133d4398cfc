//! What a client of another kind wrote comes through as it was, for another one to read.

use super::{Copy, Member};
use crate::services::kafka::{Kafka, Record, unique};

/// Their names, and their numbers in the format of Kafka.
const COMPRESSIONS: [(&str, u8); 5] = [("none", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)];

/// Messages that have everything that a message of Kafka can have. `number` makes them different.
fn all_kinds(number: i64) -> Vec<Record> {
    let at = |offset: i64| Some(1_700_000_000_000 + 1000 * number + offset);
    let header = |name: &str, value: &[u8]| (name.to_owned(), Some(value.to_vec()));
    vec![
        Record {
            timestamp_ms: at(0),
            key: Some(vec![0, 255, number as u8]),
            value: Some((0..=255).collect()),
            headers: vec![header("a", b"1"), header("b", &[0, 255, 10]), header("a", b"2"), header("a", b"")],
            ..Record::default()
        },
        // A tombstone.
        Record { timestamp_ms: at(1), ..Record { value: None, ..Record::new("gone", "") } },
        Record { timestamp_ms: at(2), key: None, ..Record::new("", "no key") },
        Record { timestamp_ms: at(3), ..Record::new("empty", "") },
        Record { timestamp_ms: at(4), ..Record::new("", "the key is empty") },
        // Long enough to be compressed.
        Record { timestamp_ms: at(5), ..Record::new("long", &"all work and no play ".repeat(500)) },
    ]
}

/// Without what is of the topic and not of the message.
fn bare(records: Vec<Record>) -> Vec<Record> {
    let mut records: Vec<Record> =
        records.into_iter().map(|record| Record { partition: None, offset: 0, ..record }).collect();
    records.sort_by_key(|record| record.timestamp_ms);
    records
}

#[test]
fn messages_of_every_kind_and_compression_come_through() {
    let kafka = Kafka::shared();
    let from = kafka.topic("kinds", 1);
    let mut written = Vec::new();
    for (number, (compression, _)) in COMPRESSIONS.iter().enumerate() {
        let records = all_kinds(number as i64);
        kafka.write_by_java(&from, &[&format!("compression.type={compression}")], &records);
        written.extend(records);
    }
    let out = unique("kinds-out");
    let topic = |compression: &str| format!("{out}-{compression}");
    let mut copy = Copy::new(kafka, &from, &topic("none"));
    for (compression, _) in COMPRESSIONS {
        // The broker stores what it gets.
        kafka.create_topic(&topic(compression), 1, &[("compression.type", "producer")]);
        if compression != "none" {
            let section = copy.sink_section(compression, &topic(compression));
            copy.more += &format!("{section}\ncompression = \"{compression}\"\n");
        }
    }
    copy.sink = "compression = \"none\"".to_owned();
    let mut member = Member::start(&copy);
    for (compression, _) in COMPRESSIONS {
        member.wait_for_messages(kafka, &topic(compression), written.len() as i64);
    }
    member.stop();
    for (compression, number) in COMPRESSIONS {
        let read = kafka.read_by_java(&topic(compression));
        assert_eq!(bare(read), bare(written.clone()), "{compression}");
        assert!(kafka.codec(&topic(compression)).is_none_or(|codec| codec == number), "{compression}");
    }
}

#[test]
fn a_key_goes_where_the_java_client_would_send_it() {
    let kafka = Kafka::shared();
    let (from, to) = (kafka.topic("keys", 7), kafka.topic("keys-out", 7));
    let records: Vec<Record> = (0..500).map(|n| Record::new(&format!("key {n}"), &n.to_string())).collect();
    kafka.write_by_java(&from, &[], &records);
    let mut member = Member::start(&Copy::new(kafka, &from, &to));
    member.wait_for_messages(kafka, &to, 500);
    member.stop();
    let places = |topic: &str| {
        let mut places: Vec<(Option<Vec<u8>>, Option<i32>)> =
            kafka.read_by_java(topic).into_iter().map(|record| (record.key, record.partition)).collect();
        places.sort();
        places
    };
    assert_eq!(places(&from), places(&to));
}

#[test]
fn the_console_tools_of_kafka_write_and_read() {
    let kafka = Kafka::shared();
    let (from, to) = (kafka.topic("console", 1), kafka.topic("console-out", 1));
    let lines = "h:1,h:2\tk\tfirst\nh:\tk\tsecond\nNULL\tk\tNULL\n";
    let properties = ["parse.headers=true", "parse.key=true", "null.marker=NULL"];
    let mut arguments = vec!["--topic", &from];
    arguments.extend(properties.iter().flat_map(|property| ["--reader-property", property]));
    kafka.tool("org.apache.kafka.tools.ConsoleProducer", &arguments, lines);
    let mut member = Member::start(&Copy::new(kafka, &from, &to));
    member.wait_for_messages(kafka, &to, 3);
    member.stop();
    let properties = ["print.headers=true", "print.key=true", "null.literal=NULL"];
    let read = |topic: &str| {
        let mut arguments = vec!["--topic", topic, "--from-beginning", "--max-messages", "3"];
        arguments.extend(properties.iter().flat_map(|property| ["--formatter-property", property]));
        kafka.tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &arguments, "")
    };
    let printed = read(&to);
    assert_eq!(printed, read(&from));
    assert_eq!(printed, "h:1,h:2\tk\tfirst\nh:\tk\tsecond\nNO_HEADERS\tk\tNULL\n");
}
