//! Sink `kinesis`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::{Record, ShardIteratorType, StreamStatus};
use serde_json::{Value, json};

use super::sinks::{
    KEYS, assert_all, assert_all_in_order, assert_dead_letters, block_on, dead_letters, number, numbered,
    pipeline, run_to_end, through_every_fault, unique,
};
use crate::services::aws::{StandIn, python};
use crate::support::{DEADLINE, Folder};

struct Stream {
    name: String,
    client: Client,
}

impl Stream {
    fn create(stand_in: &StandIn, shards: i32) -> Stream {
        let (name, client) = (unique("stream"), Client::new(&stand_in.config()));
        let end = Instant::now() + DEADLINE;
        block_on(async {
            client.create_stream().stream_name(&name).shard_count(shards).send().await.expect("a stream");
            loop {
                let asked = client.describe_stream_summary().stream_name(&name).send().await;
                let summary = asked.expect("a summary").stream_description_summary.expect("of it");
                if summary.stream_status == StreamStatus::Active {
                    return;
                }
                assert!(Instant::now() < end, "the stream is not made");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        Stream { name, client }
    }

    fn arn(&self) -> String {
        let asked = block_on(self.client.describe_stream_summary().stream_name(&self.name).send());
        asked.expect("a summary").stream_description_summary.expect("of it").stream_arn
    }

    /// All records, those of each shard in order.
    fn records(&self) -> Vec<Record> {
        block_on(async {
            let mut records = Vec::new();
            let shards = self.client.list_shards().stream_name(&self.name).send().await.expect("shards");
            for shard in shards.shards() {
                let asked = self.client.get_shard_iterator().stream_name(&self.name);
                let asked =
                    asked.shard_id(shard.shard_id()).shard_iterator_type(ShardIteratorType::TrimHorizon);
                let mut iterator = asked.send().await.expect("an iterator").shard_iterator;
                while let Some(at) = iterator {
                    let read = self.client.get_records().shard_iterator(at).send().await.expect("records");
                    iterator = read.next_shard_iterator.filter(|_| !read.records.is_empty());
                    records.extend(read.records);
                }
            }
            records
        })
    }

    /// The numbers in the records, those of each shard in order.
    fn numbers(&self) -> Vec<u64> {
        let records = self.records();
        records.iter().map(|record| number(&String::from_utf8_lossy(record.data().as_ref()))).collect()
    }
}

const READ: &str = r#"
kinesis, stream = client("kinesis"), sys.argv[1]
for shard in kinesis.list_shards(StreamName=stream)["Shards"]:
    at = kinesis.get_shard_iterator(StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON")
    for record in kinesis.get_records(ShardIterator=at["ShardIterator"])["Records"]:
        data = base64.b64encode(record["Data"]).decode()
        print(json.dumps([shard["HashKeyRange"]["StartingHashKey"], record["PartitionKey"], data]))
"#;

#[test]
fn boto3_reads_what_we_write() {
    for stand_in in [StandIn::kinesis(), StandIn::moto()] {
        let stream = Stream::create(stand_in, 2);
        let last = (u128::MAX - 1000).to_string();
        let records = [
            json!({ "key": "a key", "payload_base64": "AP8=", "headers": { "hash": last } }),
            json!({ "key": "", "payload": "é" , "headers": { "hash": "0" } }),
            json!({ "payload": "" }),
        ];
        let folder = Folder::new();
        let sink = format!(
            "type = \"kinesis\"\nstream = {:?}\n{}\nhash_key = {{ header = \"hash\" }}",
            stream.name,
            stand_in.toml()
        );
        let records: String = records.iter().map(|record| format!("{record}\n")).collect();
        let file = pipeline(&folder, &records, &sink);
        run_to_end(&folder, &file);
        assert!(dead_letters(&file).is_empty(), "{:?}", dead_letters(&file));
        let printed = python(stand_in, READ, &[&stream.name]);
        let read: HashMap<String, Value> = printed
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"))
            .map(|record| (record[2].as_str().expect("data").to_owned(), record))
            .collect();
        assert_eq!(read.len(), 3, "{read:?}");
        assert_eq!(read["AP8="][1], "a key");
        assert_ne!(read["AP8="][0], "0", "the hash key says the last shard");
        assert_eq!(read["w6k="][0], "0");
        assert_eq!(read["w6k="][1].as_str().map(str::len), Some(64), "an empty key is no partition key");
        assert_eq!(read[""][1].as_str().map(str::len), Some(36), "any partition key does");
    }
}

#[test]
fn p3_records_of_a_key_are_in_order() {
    for (stand_in, messages) in [(StandIn::kinesis(), 1000), (StandIn::moto(), 100)] {
        let stream = Stream::create(stand_in, 4);
        let folder = Folder::new();
        let sink = format!(
            "type = \"kinesis\"\nstream = {:?}\n{}\npartition_key = {{ pointer = \"/group\" }}",
            if messages == 1000 { stream.name.clone() } else { stream.arn() },
            stand_in.toml()
        );
        run_to_end(&folder, &pipeline(&folder, &numbered(messages, 50), &sink));
        let numbers = stream.numbers();
        assert_eq!(numbers.len() as u64, messages);
        assert_all_in_order(numbers, 50, messages);
    }
}

#[test]
fn p4_what_kinesis_never_takes_is_a_dead_letter_that_says_why() {
    let stand_in = StandIn::kinesis();
    let stream = Stream::create(stand_in, 1);
    let folder = Folder::new();
    let sink = format!(
        "type = \"kinesis\"\nstream = {:?}\n{}\npartition_key = {{ header = \"pk\" }}\nhash_key = {{ header = \"hk\" }}",
        stream.name,
        stand_in.toml()
    );
    let bad = [
        ("no-partition-key", json!({ "payload": "x" })),
        ("invalid-hash-key", json!({ "payload": "x", "headers": { "pk": "a", "hk": "-1" } })),
        ("too-large", json!({ "payload": "x".repeat(10 << 20), "headers": { "pk": "a" } })),
        // More than a stream takes unless it is told otherwise.
        ("refused", json!({ "payload": "x".repeat((1 << 20) + 1), "headers": { "pk": "a" } })),
    ];
    let good =
        |number| json!({ "payload": json!({ "number": number }).to_string(), "headers": { "pk": "a" } });
    let records = bad.iter().map(|(_, record)| record.clone()).chain((0..20).map(good));
    let file = pipeline(&folder, &records.map(|record| format!("{record}\n")).collect::<String>(), &sink);
    run_to_end(&folder, &file);
    assert_all(stream.numbers(), 20);
    let letters = dead_letters(&file);
    assert_dead_letters(&letters, &bad);
}

#[test]
fn p1_p3_p11_a_stream_through_every_fault() {
    let stand_in = StandIn::kinesis();
    let home = || {
        let stream = Stream::create(stand_in, 3);
        (format!("type = \"kinesis\"\nstream = {:?}", stream.name), stream)
    };
    through_every_fault(stand_in, &["PutRecords"], true, home, |stream, messages| {
        assert_all_in_order(stream.numbers(), KEYS, messages);
    });
}
