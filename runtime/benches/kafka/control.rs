//! The control: what one would write without Millstream. A loop that takes a message and sends it on, and
//! commits what was acknowledged ten times a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, ProducerContext, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

/// With it this program is the control.
pub const ARGUMENT: &str = "--control";

/// As often as the pipeline commits.
const COMMIT_INTERVAL: Duration = Duration::from_millis(100);

/// Counts what is acknowledged; an error ends the process.
struct Reports {
    acknowledged: Arc<AtomicU64>,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => drop(self.acknowledged.fetch_add(1, Ordering::Relaxed)),
            Err((error, _)) => {
                eprintln!("the control cannot write: {error}");
                std::process::exit(1);
            }
        }
    }
}

/// `brokers`, `from`, `to`, `group`. Runs until it is stopped.
pub fn run(arguments: &[String]) -> anyhow::Result<()> {
    let [brokers, from, to, group] = arguments else {
        anyhow::bail!("the control is given brokers, from, to, group");
    };
    // As the source and the sink `kafka` set them.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", group)
        .set("group.protocol", "consumer")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        .set("statistics.interval.ms", "2000")
        .set("queued.max.messages.kbytes", "32768")
        .set("fetch.max.bytes", "33554432")
        .create()?;
    let acknowledged = Arc::new(AtomicU64::new(0));
    let reports = Reports { acknowledged: Arc::clone(&acknowledged) };
    let producer = ThreadedProducer::from_config_and_context(
        ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "5")
            .set("compression.codec", "lz4")
            .set("partitioner", "murmur2_random"),
        reports,
    )?;
    consumer.subscribe(&[from])?;
    // What was sent of each partition, and those of a moment ago that wait to be acknowledged.
    let mut behind: HashMap<i32, i64> = HashMap::new();
    let (mut sent, mut committed) = (0u64, Instant::now());
    let mut waiting: Option<(u64, HashMap<i32, i64>)> = None;
    loop {
        if committed.elapsed() >= COMMIT_INTERVAL {
            match &waiting {
                None => waiting = Some((sent, behind.clone())),
                Some((until, offsets)) if acknowledged.load(Ordering::Relaxed) >= *until => {
                    commit(&consumer, from, offsets)?;
                    (waiting, committed) = (None, Instant::now());
                }
                Some(_) => {}
            }
        }
        let Some(message) = consumer.poll(Duration::from_millis(20)) else { continue };
        let message = message?;
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(to);
        record.key = message.key();
        record.payload = message.payload();
        record.timestamp = message.timestamp().to_millis();
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    std::thread::sleep(Duration::from_micros(200));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
        sent += 1;
        behind.insert(message.partition(), message.offset() + 1);
    }
}

fn commit(consumer: &BaseConsumer, topic: &str, offsets: &HashMap<i32, i64>) -> anyhow::Result<()> {
    let mut list = TopicPartitionList::new();
    for (&partition, &offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    Ok(consumer.commit(&list, CommitMode::Async)?)
}
