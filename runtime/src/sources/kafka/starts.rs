//! Where a partition begins for a group that has not committed anything of it.

use std::collections::HashSet;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::{Offset, TopicPartitionList};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::callbacks::Callbacks;
use super::{Offsets, partition_name};
use crate::config::problem::Problem;

/// How long a broker may take to say where a partition stands.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Start {
    Word(Word),
    Timestamp(AtTimestamp),
    Offsets(AtOffsets),
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// At the first message there is.
    Earliest,
    /// Behind the last message there is.
    Latest,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AtTimestamp {
    /// At the first message of this time or later, as RFC 3339.
    timestamp: String,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AtOffsets {
    /// At these offsets, by `topic/partition`.
    offsets: Offsets,
}

impl Default for Start {
    fn default() -> Start {
        Start::Word(Word::Earliest)
    }
}

impl Start {
    pub fn check(&self, problems: &mut Vec<Problem>) {
        match self {
            Start::Word(_) => {}
            Start::Timestamp(AtTimestamp { timestamp }) => {
                if let Err(error) = timestamp.parse::<jiff::Timestamp>() {
                    problems.push(
                        Problem::new("/start/timestamp", format!("{timestamp:?} is no time: {error}"))
                            .help("as in \"2026-01-31T00:00:00Z\""),
                    );
                }
            }
            Start::Offsets(AtOffsets { offsets }) => {
                for (name, offset) in offsets {
                    let partition = name.rsplit_once('/').and_then(|(_, number)| number.parse::<u16>().ok());
                    if partition.is_none() || *offset < 0 {
                        let message = format!("{name:?} = {offset} names no place in a partition");
                        problems.push(
                            Problem::new("/start/offsets", message).help("as in { \"orders/0\" = 4711 }"),
                        );
                    }
                }
            }
        }
    }

    /// The partitions with the offsets at which reading begins or goes on. Those that were not
    /// committed before are committed now, or a rebalance would find another `latest`.
    pub fn resolve(
        &self,
        consumer: &BaseConsumer<Callbacks>,
        assigned: &TopicPartitionList,
    ) -> KafkaResult<TopicPartitionList> {
        let committed = consumer.committed_offsets(assigned.clone(), TIMEOUT)?;
        let known = self.topics_read_before(consumer, &committed)?;
        let (mut all, mut fresh) = (TopicPartitionList::new(), TopicPartitionList::new());
        for element in committed.elements() {
            element.error()?;
            let (topic, partition) = (element.topic(), element.partition());
            let offset = match element.offset() {
                Offset::Offset(offset) => offset,
                _ => {
                    let offset = self.of_partition(consumer, topic, partition, known.contains(topic))?;
                    fresh.add_partition_offset(topic, partition, Offset::Offset(offset))?;
                    offset
                }
            };
            all.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        }
        if fresh.count() > 0 {
            consumer.commit(&fresh, CommitMode::Sync)?;
        }
        Ok(all)
    }

    /// Topics of which the group has read a partition before: what is new of them came later.
    fn topics_read_before(
        &self,
        consumer: &BaseConsumer<Callbacks>,
        committed: &TopicPartitionList,
    ) -> KafkaResult<HashSet<String>> {
        let unread = committed.elements().into_iter().filter(|element| element.offset() == Offset::Invalid);
        let topics: HashSet<String> = unread.map(|element| element.topic().to_owned()).collect();
        if matches!(self, Start::Word(Word::Earliest)) {
            return Ok(HashSet::new());
        }
        let mut read_before = HashSet::new();
        for topic in topics {
            let metadata = consumer.fetch_metadata(Some(&topic), TIMEOUT)?;
            let mut partitions = TopicPartitionList::new();
            for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
                partitions.add_partition(&topic, partition.id());
            }
            let committed = consumer.committed_offsets(partitions, TIMEOUT)?;
            if committed.elements().iter().any(|element| matches!(element.offset(), Offset::Offset(_))) {
                read_before.insert(topic);
            }
        }
        Ok(read_before)
    }

    fn of_partition(
        &self,
        consumer: &BaseConsumer<Callbacks>,
        topic: &str,
        partition: i32,
        came_later: bool,
    ) -> KafkaResult<i64> {
        let (earliest, latest) = consumer.fetch_watermarks(topic, partition, TIMEOUT)?;
        if came_later {
            return Ok(earliest);
        }
        match self {
            Start::Word(Word::Earliest) => Ok(earliest),
            Start::Word(Word::Latest) => Ok(latest),
            Start::Offsets(AtOffsets { offsets }) => {
                let given = offsets.get(&partition_name(topic, partition)).copied();
                Ok(given.unwrap_or(earliest).clamp(earliest, latest))
            }
            Start::Timestamp(AtTimestamp { timestamp }) => {
                // Checked with the configuration.
                let time_ms = timestamp.parse::<jiff::Timestamp>().unwrap_or_default().as_millisecond();
                let mut asked = TopicPartitionList::new();
                asked.add_partition_offset(topic, partition, Offset::Offset(time_ms))?;
                let found = consumer.offsets_for_times(asked, TIMEOUT)?;
                Ok(match found.elements().first().map(|element| element.offset()) {
                    Some(Offset::Offset(offset)) => offset,
                    // No message is that young.
                    _ => latest,
                })
            }
        }
    }
}
