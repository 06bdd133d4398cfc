use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message as _};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::json;

use super::*;
use crate::message::{Batch, BatchBuilder, Message, MessageRef, Position};
use crate::sinks::testing::batch_of_orders;
use crate::sinks::{CallError, Outcome, Outcomes};

type Cluster = MockCluster<'static, DefaultProducerContext>;

const WAIT: Duration = Duration::from_secs(30);

fn cluster(topics: &[(&str, i32)]) -> Cluster {
    let cluster = MockCluster::new(1).unwrap();
    for (topic, partitions) in topics {
        cluster.create_topic(topic, *partitions, 1).unwrap();
    }
    cluster
}

fn context() -> SinkContext {
    let Ok(codec) = crate::codecs::tests::encoder("raw", "{}") else { panic!("a codec") };
    SinkContext { codec, ..crate::sinks::testing::context(".") }
}

fn open(cluster: &Cluster, keys: serde_json::Value) -> Box<dyn Sink> {
    let mut section = json!({ "brokers": [cluster.bootstrap_servers()] });
    section.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
    let Ok(config) = (SPEC.parse)(section) else { panic!("a section that parses") };
    let mut problems = Vec::new();
    config.check(&context(), &mut problems);
    assert!(problems.is_empty(), "{problems:?}");
    config.open(context()).unwrap()
}

async fn write(sink: &mut dyn Sink, batch: &Batch) -> Result<Outcomes, CallError> {
    let messages: Vec<MessageRef<'_>> = batch.messages().collect();
    sink.write(&messages).await
}

/// Payloads of a partition, in order, until there are so many.
fn read(cluster: &Cluster, topic: &str, partition: i32, count: usize) -> Vec<String> {
    records(cluster, topic, partition, count)
        .into_iter()
        .map(|message| String::from_utf8(message.payload().unwrap_or_default().to_vec()).unwrap())
        .collect()
}

fn records(
    cluster: &Cluster,
    topic: &str,
    partition: i32,
    count: usize,
) -> Vec<rdkafka::message::OwnedMessage> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("group.id", "test")
        .create()
        .unwrap();
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
    consumer.assign(&assignment).unwrap();
    let mut records = Vec::new();
    while records.len() < count {
        let record = consumer.poll(WAIT).expect("a record in time").unwrap();
        records.push(record.detach());
    }
    records
}

fn one(message: Message) -> Batch {
    let mut builder = BatchBuilder::new();
    builder.push_message(&message, Position::default());
    builder.finish()
}

#[tokio::test]
async fn a_message_arrives_with_its_key_headers_timestamp_and_nulls() {
    let cluster = cluster(&[("out", 1)]);
    let mut sink = open(&cluster, json!({ "topic": "out", "compression": "zstd" }));
    let full = Message {
        payload: Some(b"{}".to_vec()),
        key: Some(b"k".to_vec()),
        headers: vec![
            (b"a".to_vec(), b"1".to_vec()),
            (b"a".to_vec(), b"\xff\x00".to_vec()),
            (b"b".to_vec(), Vec::new()),
        ],
        timestamp_ms: 1_700_000_000_123,
    };
    let tombstone = Message { payload: None, key: Some(Vec::new()), timestamp_ms: 1, ..Message::default() };
    let no_key = Message { payload: Some(Vec::new()), ..tombstone.clone() };
    let no_key = Message { key: None, ..no_key };
    for message in [full, tombstone, no_key] {
        assert!(matches!(write(&mut *sink, &one(message)).await, Ok(Outcomes::AllDurable)));
    }
    let records = records(&cluster, "out", 0, 3);
    let headers: Vec<(&str, Option<&[u8]>)> =
        records[0].headers().unwrap().iter().map(|header| (header.key, header.value)).collect();
    assert_eq!(headers, [("a", Some(&b"1"[..])), ("a", Some(&b"\xff\x00"[..])), ("b", Some(&b""[..]))]);
    assert_eq!(records[0].timestamp().to_millis(), Some(1_700_000_000_123));
    let pairs: Vec<_> = records.iter().map(|record| (record.key(), record.payload())).collect();
    assert_eq!(pairs, [(Some(&b"k"[..]), Some(&b"{}"[..])), (Some(&b""[..]), None), (None, Some(&b""[..]))]);
}

#[tokio::test]
async fn messages_go_to_the_partitions_of_the_java_client() {
    let cluster = cluster(&[("out", 5)]);
    let mut sink = open(&cluster, json!({ "topic": "out" }));
    let mut builder = BatchBuilder::new();
    // `Utils.toPositive(Utils.murmur2(key)) % 5`, by the hashes in the tests of Kafka itself.
    let of_java = [
        ("21", 0),
        ("foobar", 1),
        ("a-little-bit-long-string", 2),
        ("a-little-bit-longer-string", 4),
        ("abc", 2),
    ];
    for (key, _) in of_java {
        let bytes = Some(key.as_bytes().to_vec());
        builder.push_message(
            &Message { payload: bytes.clone(), key: bytes, ..Message::default() },
            Position::default(),
        );
    }
    assert!(matches!(write(&mut *sink, &builder.finish()).await, Ok(Outcomes::AllDurable)));
    let mut expected: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
    for (key, partition) in of_java {
        expected.entry(partition).or_default().push(key);
    }
    for (partition, keys) in expected {
        assert_eq!(read(&cluster, "out", partition, keys.len()), keys);
    }
}

#[tokio::test]
async fn p3_after_a_refused_batch_each_record_goes_alone_and_the_guilty_one_is_rejected() {
    let cluster = cluster(&[("out", 1)]);
    let mut sink = open(&cluster, json!({ "topic": "out" }));
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    let batch = batch_of_orders(&[(1, "a"), (1, "b"), (2, "c")]);

    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large]);
    let Ok(Outcomes::Each(outcomes)) = write(&mut *sink, &batch).await else { panic!("an outcome each") };
    let later = |outcome: &Outcome| matches!(outcome, Outcome::Later { after: Some(Duration::ZERO), .. });
    assert!(outcomes.iter().all(later), "{outcomes:?}");

    // Now the first record is refused alone.
    cluster.request_errors(RDKafkaApiKey::Produce, &[too_large]);
    let Ok(Outcomes::Each(outcomes)) = write(&mut *sink, &batch).await else { panic!("an outcome each") };
    assert!(matches!(outcomes[0], Outcome::Reject { code: "too-large", .. }), "{outcomes:?}");
    let mut rest = Vec::new();
    for (outcome, message) in outcomes.iter().zip([(1, "a"), (1, "b"), (2, "c")]).skip(1) {
        assert!(later(outcome) || *outcome == Outcome::Durable, "{outcomes:?}");
        rest.extend(later(outcome).then_some(message));
    }
    rest.push((1, "d"));
    assert!(matches!(write(&mut *sink, &batch_of_orders(&rest)).await, Ok(Outcomes::AllDurable)));
    assert!(matches!(write(&mut *sink, &batch_of_orders(&[(1, "e")])).await, Ok(Outcomes::AllDurable)));
    assert_eq!(read(&cluster, "out", 0, 4), ["b", "c", "d", "e"]);
}

#[tokio::test]
async fn a_cluster_that_does_not_answer_is_unavailable_until_it_does() {
    let cluster = cluster(&[("out", 1)]);
    let mut sink = open(&cluster, json!({ "topic": "out", "timeout": "3s" }));
    let batch = batch_of_orders(&[(1, "a"), (1, "b")]);
    assert!(matches!(write(&mut *sink, &batch).await, Ok(Outcomes::AllDurable)));
    cluster.broker_down(1).unwrap();
    let Err(CallError::Unavailable { reason, credentials: false, .. }) = write(&mut *sink, &batch).await
    else {
        panic!("unavailable")
    };
    assert!(reason.starts_with("nothing got through for 3s"), "{reason}");
    cluster.broker_up(1).unwrap();
    let written = async { while !matches!(write(&mut *sink, &batch).await, Ok(Outcomes::AllDurable)) {} };
    tokio::time::timeout(WAIT, written).await.unwrap();
    assert_eq!(read(&cluster, "out", 0, 4), ["a", "b", "a", "b"]);
}

/// The cluster refuses one request for want of rights; the next call goes through.
async fn refused_once(request: RDKafkaApiKey, error: RDKafkaRespErr) {
    let cluster = cluster(&[("out", 1)]);
    let mut sink = open(&cluster, json!({ "topic": "out" }));
    cluster.request_errors(request, &[error]);
    let result = write(&mut *sink, &batch_of_orders(&[(1, "a")])).await;
    assert!(matches!(result, Err(CallError::Unavailable { credentials: true, .. })), "{result:?}");
    assert!(matches!(write(&mut *sink, &batch_of_orders(&[(1, "a")])).await, Ok(Outcomes::AllDurable)));
}

#[tokio::test]
async fn refused_credentials_are_told_apart() {
    refused_once(RDKafkaApiKey::Produce, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).await;
}

#[tokio::test]
async fn a_fatal_error_of_the_producer_is_the_end_of_that_producer_only() {
    let error = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    refused_once(RDKafkaApiKey::InitProducerId, error).await;
}

#[tokio::test]
async fn a_header_says_the_topic() {
    let cluster = cluster(&[("a", 1), ("b", 1)]);
    cluster.topic_error("gone", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let mut sink = open(&cluster, json!({ "topic_header": "to" }));
    let mut builder = BatchBuilder::new();
    for to in [Some("a"), None, Some("b"), Some("gone"), Some("no/topic"), Some("a")] {
        let headers = to.iter().map(|to| (b"to".to_vec(), to.as_bytes().to_vec())).collect();
        let message = Message { payload: Some(b"x".to_vec()), headers, ..Message::default() };
        builder.push_message(&message, Position::default());
    }
    let Ok(Outcomes::Each(outcomes)) = write(&mut *sink, &builder.finish()).await else {
        panic!("an outcome each")
    };
    let codes: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            Outcome::Durable => "",
            Outcome::Reject { code, .. } => code,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(codes, ["", "no-topic", "", "unknown-topic", "unknown-topic", ""]);
    assert_eq!(read(&cluster, "a", 0, 2).len() + read(&cluster, "b", 0, 1).len(), 3);
}

#[tokio::test]
async fn while_its_topic_does_not_exist_the_sink_waits() {
    let cluster = cluster(&[]);
    cluster.topic_error("out", RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let mut sink = open(&cluster, json!({ "topic": "out" }));
    let Err(CallError::Unavailable { reason, .. }) = write(&mut *sink, &batch_of_orders(&[(1, "a")])).await
    else {
        panic!("unavailable")
    };
    assert_eq!(reason, "there is no topic out");
}

#[test]
fn p9_what_is_wrong_is_told_before_anything_connects() {
    let problems = |keys: serde_json::Value| {
        let Ok(config) = (SPEC.parse)(keys) else { panic!("a section that parses") };
        let mut problems = Vec::new();
        config.check(&context(), &mut problems);
        problems.into_iter().map(|problem| problem.at).collect::<Vec<_>>()
    };
    let brokers = ["127.0.0.1:9092"];
    assert_eq!(problems(json!({ "brokers": brokers, "topic": "a" })), Vec::<String>::new());
    assert_eq!(problems(json!({ "brokers": brokers })), [""]);
    assert_eq!(
        problems(json!({ "brokers": [], "topic": "a b", "timeout": "0s" })),
        ["/topic", "/timeout", "/brokers"]
    );
    assert_eq!(problems(json!({ "brokers": brokers, "topic": "a", "topic_header": "b" })), ["/topic_header"]);
    let properties = json!({ "acks": "1", "linger.ms": 20 });
    assert_eq!(
        problems(json!({ "brokers": brokers, "topic": "a", "librdkafka": properties })),
        ["/librdkafka/acks"]
    );
}
