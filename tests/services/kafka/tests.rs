//! That brokers and programs do what tests rely on; the checker above all.

use super::{Guarantee, Kafka, Record};

/// Messages as `Check` expects them.
fn numbered(numbers: &[u64], keys: u64) -> Vec<Record> {
    let record = |number: &u64| Record::new(&format!("k{}", number % keys), &number.to_string());
    numbers.iter().map(record).collect()
}

#[test]
fn the_checker_finds_what_is_wrong() {
    use Guarantee::{AtLeastOnce, ExactlyOnce};
    let kafka = Kafka::shared();
    let cases: &[(&[u64], Guarantee, bool, &str)] = &[
        (&[1, 0, 3, 2, 5, 4], ExactlyOnce, true, "6 read, 6 of 6 messages, 0 repeated, 0 faults"),
        (&[0, 1, 2, 3, 2, 3, 4, 5], AtLeastOnce, true, "8 read, 6 of 6 messages, 2 repeated, 0 faults"),
        (&[0, 1, 2, 3, 2, 3, 4, 5], ExactlyOnce, false, "number 2 again"),
        (&[0, 1, 2, 3, 5], AtLeastOnce, false, "number 4 of key k0 is missing"),
        (&[0, 1, 4, 3, 2, 4, 5], AtLeastOnce, false, "number 2 after 4 of key k0"),
        (&[0, 1, 2, 3, 4, 5, 6], AtLeastOnce, false, "not a message of the test"),
    ];
    for (numbers, guarantee, is_good, expected) in cases {
        let topic = kafka.topic("checked", 2);
        kafka.produce(&topic, numbered(numbers, 2));
        let (good, text) = kafka.judge(&topic, 6, 2, *guarantee);
        assert_eq!(good, *is_good, "{numbers:?}: {text}");
        assert!(text.contains(expected), "{numbers:?}: {text}");
    }
}

#[test]
fn clients_of_both_kinds_read_what_the_other_wrote() {
    let kafka = Kafka::shared();
    let record = |partition, offset| Record { partition: Some(partition), offset, ..Record::default() };
    let records = [
        Record {
            timestamp_ms: Some(1_700_000_000_123),
            key: Some(vec![0, 255]),
            value: Some(vec![254, 10, 13]),
            headers: vec![
                ("twice".to_owned(), Some(vec![0])),
                ("none".to_owned(), None),
                ("twice".to_owned(), Some(vec![255])),
            ],
            ..record(0, 0)
        },
        Record { timestamp_ms: Some(1), value: Some(Vec::new()), ..record(0, 1) },
        Record { timestamp_ms: Some(2), key: Some(Vec::new()), ..record(1, 0) },
    ];
    let topic = kafka.topic("by-java", 2);
    kafka.write_by_java(&topic, &[], &records);
    assert_eq!(kafka.consume(&topic), records);
    let topic = kafka.topic("by-librdkafka", 2);
    kafka.produce(&topic, records.clone());
    assert_eq!(kafka.read_by_java(&topic), records);
    assert_eq!(kafka.ends(&topic), [2, 1]);
}
