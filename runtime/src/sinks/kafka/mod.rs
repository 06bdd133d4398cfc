//! `kafka`: writes messages to topics; a message is delivered when all in-sync replicas have it.

mod dead_letters;
mod known;
mod write;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use rdkafka::ClientConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::dead_letters::DeadLetterTopic;
use self::write::{Destination, KafkaOutput, Settings};
use super::{InTransactions, Sink, SinkConfig, SinkContext, SinkSpec, SinkTraits, TransactionSettings};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::Interval;
use crate::dead_letters::Elsewhere;
use crate::kafka::topics::is_topic_name;
use crate::kafka::transactional::Transactional;
use crate::kafka::{Cluster, Role, Security};
use crate::transactions::Transactions;

pub const SPEC: SinkSpec = SinkSpec {
    name: "kafka",
    schema: || schemars::schema_for!(KafkaSink),
    example: "[[sink]]\ntype = \"kafka\"\nbrokers = [\"kafka-1.example:9093\"]\ntopic = \"orders\"\n\
              security = { protocol = \"ssl\" }\n",
    default_codec: "raw",
    parse: |value| Ok(Box::new(parse::<KafkaSink>(value)?)),
};

/// The media type of the codec `raw`, whose payloads are those of the messages.
const RAW: &str = "application/octet-stream";

/// Messages of a call: some MiB of small ones, which the pipeline bounds by their bytes.
const CALL_MESSAGES: usize = 10_000;

/// Waits that long for more messages to a batch of a partition, unless `linger.ms` says another time.
/// All messages of a call are given to librdkafka within some milliseconds.
const LINGER_MS: &str = "5";

/// Writes messages to topics of Kafka. A message is delivered when all in-sync replicas have it
/// (`acks=all`). Its key, its headers and its timestamp go with it (one at 0 becomes the time of
/// writing); a payload that is null is written as null.
///
/// Repetitions by librdkafka are written once (idempotent producer). When nothing gets through for
/// `timeout`, what was not acknowledged is sent again by a new producer: it can then be in the topic
/// twice, in the same order.
///
/// The sink asks for the configuration of a topic when it first writes to it, and each minute while
/// it does. What the topic would refuse becomes a dead letter: `too-large` (before compression, more
/// than `max.message.bytes`), `no-key` (a compacted topic), `timestamp` (too far in the past or the
/// future). If it may not see the configuration (the operation DescribeConfigs of the topic), Kafka's
/// defaults are taken for it; a batch that the topic refuses all the same is sent again, each message
/// alone, and messages of its keys behind it may by then have been written.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KafkaSink {
    /// Brokers to begin with, as `host:port`; they know the others.
    brokers: Vec<String>,
    /// The topic. While it does not exist the sink waits, if the brokers do not make it themselves.
    topic: Option<String>,
    /// Name of a header of the message that says its topic. Without it, or with a topic that does not
    /// exist, the message becomes a dead letter (`no-topic`, `unknown-topic`).
    topic_header: Option<String>,
    /// How the key says the partition.
    #[serde(default)]
    partitioner: Partitioner,
    /// How batches are compressed.
    #[serde(default)]
    compression: Compression,
    /// When nothing gets through for that long the sink is not available.
    #[serde(default = "timeout_default")]
    timeout: Interval,
    /// How the brokers are trusted, and trust us.
    #[serde(default)]
    security: Security,
    /// Properties of librdkafka, as `"linger.ms" = 20`. Those that would break a promise are refused.
    #[serde(default)]
    librdkafka: Map<String, Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Partitioner {
    /// Murmur2, as the Java client has it; any partition without a key.
    #[default]
    Murmur2Random,
    /// Murmur2; all messages without a key in one partition.
    Murmur2,
    /// CRC32, as librdkafka has it by default; any partition with an empty key or none.
    ConsistentRandom,
    /// CRC32; all messages with an empty key or none in one partition.
    Consistent,
    /// FNV-1a, as Sarama of Go has it; any partition without a key.
    Fnv1aRandom,
    /// FNV-1a; all messages without a key in one partition.
    Fnv1a,
    /// Any partition: messages of a key are not kept in order.
    Random,
}

impl Partitioner {
    fn as_str(self) -> &'static str {
        match self {
            Partitioner::Murmur2Random => "murmur2_random",
            Partitioner::Murmur2 => "murmur2",
            Partitioner::ConsistentRandom => "consistent_random",
            Partitioner::Consistent => "consistent",
            Partitioner::Fnv1aRandom => "fnv1a_random",
            Partitioner::Fnv1a => "fnv1a",
            Partitioner::Random => "random",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Compression {
    None,
    Gzip,
    Snappy,
    #[default]
    Lz4,
    Zstd,
}

impl Compression {
    fn as_str(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }
}

fn timeout_default() -> Interval {
    Interval::secs(30)
}

impl KafkaSink {
    fn cluster(&self) -> Cluster {
        Cluster {
            brokers: self.brokers.clone(),
            security: self.security.clone(),
            properties: self.librdkafka.clone(),
        }
    }

    fn client_config(&self, base: &Path) -> ClientConfig {
        let mut config = self.cluster().config(base);
        if config.get("linger.ms").is_none() && config.get("queue.buffering.max.ms").is_none() {
            config.set("linger.ms", LINGER_MS);
        }
        config.set("partitioner", self.partitioner.as_str());
        config.set("compression.codec", self.compression.as_str());
        config
    }

    fn destination(&self) -> anyhow::Result<Destination> {
        match (&self.topic, &self.topic_header) {
            (Some(topic), None) => Ok(Destination::Topic(topic.as_str().into())),
            (None, Some(header)) => Ok(Destination::Header(header.clone())),
            _ => anyhow::bail!("either `topic` or `topic_header` says where messages go"),
        }
    }
}

impl SinkConfig for KafkaSink {
    fn check(&self, context: &SinkContext, problems: &mut Vec<Problem>) {
        match (&self.topic, &self.topic_header) {
            (None, None) => {
                let message = "neither `topic` nor `topic_header` says where messages go";
                problems.push(Problem::new("", message).help("add: topic = \"...\""));
            }
            (Some(_), Some(_)) => {
                let message = "`topic` and `topic_header` cannot both say where messages go";
                problems.push(Problem::new("/topic_header", message).help("remove one of them"));
            }
            (Some(topic), None) if !is_topic_name(topic) => {
                let message = format!("{topic:?} cannot be the name of a topic");
                let help = "1 to 249 letters and digits of ASCII, `.`, `_` and `-`";
                problems.push(Problem::new("/topic", message).help(help));
            }
            (None, Some(header)) if header.is_empty() => {
                problems.push(Problem::new("/topic_header", "a header has a name"));
            }
            _ => {}
        }
        if self.timeout.0.is_zero() {
            problems.push(Problem::new("/timeout", "no time at all").help("a time like \"30s\""));
        }
        self.cluster().check(&context.base, Role::Producer, problems);
    }

    fn destination(&self) -> Option<String> {
        self.topic.clone()
    }

    fn traits(&self) -> SinkTraits {
        SinkTraits::with_batch(CALL_MESSAGES)
    }

    fn sends_headers(&self) -> bool {
        true
    }

    fn has_limits(&self) -> bool {
        true
    }

    fn dead_letters(&self, context: &SinkContext) -> Option<Arc<dyn Elsewhere>> {
        let topic = self.topic.clone()?;
        // Else the payload is not the one that was read.
        (context.codec.media_type() == RAW).then(|| {
            Arc::new(DeadLetterTopic {
                cluster: self.cluster(),
                base: context.base.clone(),
                config: self.client_config(&context.base),
                topic,
                pipeline: context.pipeline.clone(),
                timeout: self.timeout.0,
            }) as Arc<dyn Elsewhere>
        })
    }

    fn transactional(&self) -> Option<InTransactions> {
        let settings =
            (self.partitioner.as_str(), self.compression.as_str(), &self.librdkafka, &self.security);
        Some(InTransactions { cluster: self.cluster().name(), settings: format!("{settings:?}") })
    }

    fn transactions(
        &self,
        base: &Path,
        settings: &TransactionSettings,
    ) -> anyhow::Result<Arc<dyn Transactions>> {
        let TransactionSettings { pipeline, id, timeout } = settings;
        let (config, of) = (self.client_config(base), format!("transactions of {pipeline}"));
        Ok(Arc::new(Transactional::new(self.cluster(), config, of, id.clone(), *timeout)))
    }

    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        let config = self.client_config(&context.base);
        let destination = self.destination()?;
        let of = format!("sink {} of {}", context.name, context.pipeline);
        let settings = Settings { cluster: self.cluster(), config, of };
        let transactions = context.transactions;
        Ok(Box::new(KafkaOutput::new(settings, context.codec, destination, self.timeout.0, transactions)))
    }
}
