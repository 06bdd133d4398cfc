//! A topic read from its beginning to its end as it is now.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::{Cluster, ClusterContext};
use crate::message::Message;

const POLL: Duration = Duration::from_millis(100);

/// Gives every committed record of a topic to `each`, those of a partition in order. Blocks; to be
/// called within a runtime.
///
/// # Errors
/// There is no such topic, nothing came for `patience`, or `each` failed.
pub fn read(
    cluster: &Cluster,
    base: &Path,
    of: &str,
    topic: &str,
    patience: Duration,
    mut each: impl FnMut(Message) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut config = cluster.config(base);
    // The client wants a name of a group, joins none and commits nothing.
    config.set("group.id", "millstream-dlq").set("enable.auto.commit", "false");
    config.set("enable.partition.eof", "true").set("isolation.level", "read_committed");
    let context = cluster.context(of)?;
    let consumer = BaseConsumer::<ClusterContext>::from_config_and_context(&config, context.clone())?;
    // Where a token is needed it is asked for by polling.
    if let Some(Err(error)) = consumer.poll(POLL) {
        tracing::debug!(%error, "before the topic is known");
    }
    let known = || context.last_error().unwrap_or_default();
    let metadata = consumer.fetch_metadata(Some(topic), patience).with_context(known)?;
    let partitions = metadata.topics().first().filter(|topic| topic.error().is_none());
    let Some(partitions) = partitions.map(|topic| topic.partitions()) else {
        bail!("there is no topic {topic}")
    };
    let mut assignment = TopicPartitionList::new();
    let mut open = Vec::new();
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), patience).with_context(known)?;
        if low < high {
            assignment.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
            open.push((partition.id(), high));
        }
    }
    consumer.assign(&assignment)?;
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(record)) => {
                heard = Instant::now();
                let (partition, next) = (record.partition(), record.offset() + 1);
                if open.iter().any(|(known, end)| *known == partition && record.offset() < *end) {
                    each(message(&record))?;
                }
                open.retain(|(known, end)| *known != partition || next < *end);
            }
            // Behind the last record there may be markers of transactions, and those still open.
            Some(Err(KafkaError::PartitionEOF(partition))) => open.retain(|(known, _)| *known != partition),
            Some(Err(error)) if is_final(&error) => return Err(error).with_context(known),
            Some(Err(_)) | None if heard.elapsed() > patience => {
                bail!("nothing came of topic {topic} for {patience:?}: {}", known());
            }
            Some(Err(_)) | None => {}
        }
    }
    Ok(())
}

fn is_final(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::Fatal
        )
    )
}

fn message(record: &BorrowedMessage<'_>) -> Message {
    let headers = record.headers().into_iter().flat_map(|headers| headers.iter());
    let bytes = |header: rdkafka::message::Header<'_, &[u8]>| {
        (header.key.as_bytes().to_vec(), header.value.unwrap_or_default().to_vec())
    };
    Message {
        payload: record.payload().map(<[u8]>::to_vec),
        key: record.key().map(<[u8]>::to_vec),
        headers: headers.map(bytes).collect(),
        timestamp_ms: record.timestamp().to_millis().unwrap_or_default(),
    }
}
