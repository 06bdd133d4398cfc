//! `kafka`: the topics of a cluster, read as a member of a consumer group.
//!
//! - [`worker`]: the thread that polls, and holds the membership
//! - [`maker`]: how its consumer is made
//! - [`callbacks`]: what librdkafka calls back in it
//! - [`starts`]: where a partition begins for a group that has not read it
//! - [`ownership`]: which partitions are ours, how far they are read and committed
//! - [`filling`]: records made into batches
//! - [`halves`]: reader and committer

mod callbacks;
mod filling;
mod halves;
mod maker;
mod ownership;
mod starts;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use rdkafka::ClientConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::halves::{KafkaCommitter, KafkaReader};
use self::maker::Subscription;
use self::ownership::Ownership;
use self::starts::Start;
use self::worker::Worker;
use super::{OpenSource, Replay, SourceConfig, SourceContext, SourceSpec, SourceTraits};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::Interval;
use crate::kafka::topics::is_topic_name;
use crate::kafka::{Cluster, Role, Security};

pub const SPEC: SourceSpec = SourceSpec {
    name: "kafka",
    schema: || schemars::schema_for!(KafkaSource),
    example: "[source]\ntype = \"kafka\"\nbrokers = [\"127.0.0.1:9092\"]\ntopics = [\"orders\"]\n\
              group = \"billing\"\n",
    default_codec: "raw",
    parse: |value| Ok(Box::new(parse::<KafkaSource>(value)?)),
};

/// Reads topics of a Kafka cluster as a member of a consumer group. The members of a group share the
/// partitions; what is settled is committed to the group, never anything before.
///
/// A partition that goes to another member is drained first: nothing more is read of it, what is in
/// flight comes to its end and is committed, and only then it goes. Of a partition that was lost (this
/// member was away for too long) nothing is committed.
///
/// Key, headers, timestamp and null payloads are those of the record; the null value of a header becomes an
/// empty one.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KafkaSource {
    /// Brokers to begin with, as `host:port`.
    brokers: Vec<String>,
    /// Topics by name.
    #[serde(default)]
    topics: Vec<String>,
    /// Topics by a regular expression that begins with `^`; also those that come later.
    pattern: Option<String>,
    /// The consumer group.
    group: String,
    /// Name of this member for static membership: with it a restart within `session_timeout` costs
    /// no rebalance. No two members may have the same one.
    instance: Option<String>,
    /// Where a partition begins for a group that has not committed anything of it: `"earliest"`,
    /// `"latest"`, `{ timestamp = "2026-01-31T00:00:00Z" }` or
    /// `{ offsets = { "orders/0" = 4711 } }` (partitions that are not named: earliest). What is
    /// found is committed at once. A partition that a topic gets later always begins at its
    /// earliest message.
    #[serde(default)]
    start: Start,
    /// How members agree on who has what.
    #[serde(default)]
    group_protocol: GroupProtocol,
    /// After so long without a sign of life a member loses its partitions; 45s if not given. Only with
    /// the protocol `classic`, which `auto` takes where this is given: with the other one the broker
    /// decides (`group.consumer.session.timeout.ms`).
    session_timeout: Option<Interval>,
    /// How long a partition that goes to another member may take to drain. What is not settled by
    /// then is delivered by both.
    #[serde(default = "drain_timeout_default")]
    drain_timeout: Interval,
    /// Whether messages of transactions are seen that are open or were aborted.
    #[serde(default)]
    isolation: Isolation,
    /// How the cluster is trusted, and trusts us.
    #[serde(default)]
    security: Security,
    /// Any property of librdkafka, by its name. One that would break a promise is refused.
    #[serde(default)]
    librdkafka: Map<String, Value>,
}

/// How members agree on who has what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GroupProtocol {
    /// `consumer` where the broker has it, otherwise `classic`; `classic` with `instance` or
    /// `session_timeout`.
    #[default]
    Auto,
    /// The members agree, with the assignor `cooperative-sticky`.
    Classic,
    /// The broker decides (KIP-848, Kafka 4.0 and later).
    Consumer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Isolation {
    /// Only messages of committed transactions, and those without one.
    #[default]
    ReadCommitted,
    /// All messages.
    ReadUncommitted,
}

fn drain_timeout_default() -> Interval {
    Interval::secs(30)
}

/// librdkafka's `max.poll.interval.ms` where a pipeline does not set it.
const MAX_POLL_INTERVAL_MS: u128 = 300_000;

/// Share of the budget for messages fetched beforehand, as librdkafka counts them (payloads): what it
/// needs besides is about as much again for small messages.
const QUEUE_SHARE: usize = 8;

/// What librdkafka keeps for each byte of its queue, about.
const MEMORY_FACTOR: usize = 2;

impl KafkaSource {
    fn cluster(&self) -> Cluster {
        Cluster {
            brokers: self.brokers.clone(),
            security: self.security.clone(),
            properties: self.librdkafka.clone(),
        }
    }

    /// Bytes that librdkafka may fetch beforehand.
    fn queue_bytes(budget: usize) -> usize {
        (budget / QUEUE_SHARE).clamp(1 << 20, 64 << 20)
    }

    fn client_config(&self, context: &SourceContext) -> ClientConfig {
        let queue = KafkaSource::queue_bytes(context.budget);
        let mut config = self.cluster().config(&context.base);
        let isolation = match self.isolation {
            Isolation::ReadCommitted => "read_committed",
            Isolation::ReadUncommitted => "read_uncommitted",
        };
        config
            .set("group.id", &self.group)
            // P1: only what is settled is committed, by us.
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Where a partition begins is decided at its assignment; this is for messages that were
            // deleted before they were read.
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", isolation)
            .set("statistics.interval.ms", worker::STATISTICS_INTERVAL_MS.to_string())
            // P6.
            .set("queued.max.messages.kbytes", (queue >> 10).to_string())
            .set("fetch.max.bytes", queue.min(50 << 20).to_string());
        if let Some(instance) = &self.instance {
            config.set("group.instance.id", instance);
        }
        config
    }
}

impl SourceConfig for KafkaSource {
    fn check(&self, context: &SourceContext, problems: &mut Vec<Problem>) {
        self.cluster().check(&context.base, Role::Consumer, problems);
        match (&self.topics[..], &self.pattern) {
            ([], None) => {
                problems.push(Problem::new("", "no topic at all").help("add: topics = [\"orders\"]"))
            }
            ([_, ..], Some(_)) => {
                problems.push(Problem::new("/pattern", "`topics` and `pattern` exclude each other"));
            }
            (_, Some(pattern)) if !pattern.starts_with('^') => {
                let message = format!("{pattern:?} would be taken for the name of a topic");
                problems.push(Problem::new("/pattern", message).help(format!("\"^{pattern}\"")));
            }
            _ => {}
        }
        for (index, topic) in self.topics.iter().enumerate().filter(|(_, topic)| !is_topic_name(topic)) {
            let help =
                "letters, digits, `.`, `_` and `-`, at most 249 of them; `pattern` takes an expression";
            problems.push(
                Problem::new(format!("/topics/{index}"), format!("{topic:?} is no name of a topic"))
                    .help(help),
            );
        }
        for (at, name) in [("/group", Some(&self.group)), ("/instance", self.instance.as_ref())] {
            if name.is_some_and(String::is_empty) {
                problems.push(Problem::new(at, "an empty name"));
            }
        }
        let max_poll = self.librdkafka.get("max.poll.interval.ms").and_then(Value::as_u64);
        let max_poll = max_poll.map_or(MAX_POLL_INTERVAL_MS, u128::from);
        if self.drain_timeout.0.as_millis() * 2 > max_poll {
            let message = format!("{} leave the group no time: it waits {max_poll} ms", self.drain_timeout);
            problems.push(
                Problem::new("/drain_timeout", message)
                    .help("at most half of `max.poll.interval.ms` of librdkafka"),
            );
        }
        match self.session_timeout {
            Some(timeout) if timeout.0.is_zero() => {
                problems.push(Problem::new("/session_timeout", "no time at all").help("\"45s\""));
            }
            Some(_) if self.group_protocol == GroupProtocol::Consumer => {
                let message = "with the group protocol `consumer` the broker decides it";
                problems.push(Problem::new("/session_timeout", message).help("remove it"));
            }
            _ => {}
        }
        let decoder = context.codec.decoder();
        if decoder.has_head() {
            let message = "this codec reads a head before the messages, and a record of Kafka has none";
            problems.push(Problem::new("/codec", message).help("one that reads a message alone"));
        }
        self.start.check(problems);
    }

    fn traits(&self) -> SourceTraits {
        SourceTraits { replay: Replay::Yes, unordered: None, partitions: None }
    }

    fn kept_elsewhere(&self) -> Option<String> {
        let group = &self.group;
        Some(format!(
            "the consumer group {group:?} keeps how far its topics are read; `kafka-consumer-groups.sh --describe \
             --group {group}` shows it, and with `--reset-offsets` it is set while no member runs"
        ))
    }

    fn transactional(&self) -> Option<String> {
        Some(self.cluster().name())
    }

    fn open(self: Box<Self>, context: SourceContext) -> anyhow::Result<OpenSource> {
        let what = self.pattern.clone().unwrap_or_else(|| self.topics.join(","));
        let ownership = Arc::new(Ownership::load(Arc::clone(&context.checkpoints))?);
        let of = format!("source kafka of {}", context.pipeline);
        let subscription = Subscription {
            topics: self.pattern.clone().map_or_else(|| self.topics.clone(), |pattern| vec![pattern]),
            protocol: self.group_protocol,
            session_timeout: self.session_timeout.map(|timeout| timeout.0),
            drain_timeout: self.drain_timeout.0,
            start: self.start.clone(),
        };
        let cluster_context = self.cluster().context(&of)?;
        let config = self.client_config(&context);
        let reserved = KafkaSource::queue_bytes(context.budget) * MEMORY_FACTOR;
        let link = Worker::spawn(config, cluster_context, subscription, &context, Arc::clone(&ownership))
            .context("cannot make a consumer")?;
        let described = Arc::clone(&ownership);
        Ok(OpenSource {
            name: format!("kafka:{what}"),
            reader: Box::new(KafkaReader::new(link.batches, link.limit, reserved)),
            committer: Box::new(KafkaCommitter::new(link.handle, ownership, &context)),
            describe: Arc::new(move |position| described.describe(position)),
        })
    }
}

/// Offsets by partition, written `topic/partition`.
type Offsets = BTreeMap<String, i64>;

/// `topic/partition`.
fn partition_name(topic: &str, partition: i32) -> String {
    format!("{topic}/{partition}")
}
