//! `kinesis`: the shards of a stream, read alone or as one of several members.
//!
//! - [`leases`]: who reads a shard and how far it is read, and what a member does about it
//! - [`table`], [`local`]: where that is kept: for several members in DynamoDB, for one in the data folder
//! - [`starts`]: where a shard begins that nothing is known of
//! - [`coordinator`]: takes shards, hands them over, ends them
//! - [`stream`], [`fetch`]: what is asked of a stream, and how often
//! - [`ownership`]: which shards are ours, how far they are handed over and settled
//! - [`kpl`], [`filling`]: records taken apart and made into batches
//! - [`halves`]: reader and committer
//! - [`troubles`]: what is waited for
//!
//! `SubscribeToShard` (enhanced fan-out) is not used.

mod coordinator;
mod fetch;
mod filling;
mod halves;
mod kpl;
mod leases;
mod local;
mod ownership;
mod starts;
mod stream;
mod table;
mod troubles;

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use self::coordinator::Coordinator;
use self::fetch::Fetching;
use self::halves::{KinesisCommitter, KinesisReader};
use self::leases::Table;
use self::local::Local;
use self::ownership::Ownership;
use self::starts::Start;
use self::stream::Stream;
use self::table::DynamoTable;
use self::troubles::Troubles;
use super::{OpenSource, Replay, SourceConfig, SourceContext, SourceSpec, SourceTraits};
use crate::aws::{Access, Connection};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::Interval;

pub const SPEC: SourceSpec = SourceSpec {
    name: "kinesis",
    schema: || schemars::schema_for!(KinesisSource),
    example: "[source]\ntype = \"kinesis\"\nstream = \"orders\"\naws = { region = \"eu-central-1\" }\n",
    default_codec: "raw",
    parse: |value| Ok(Box::new(parse::<KinesisSource>(value)?)),
};

/// Reads all shards of a stream of Amazon Kinesis. A shard that came by a split or a merge begins when those
/// that it came from are read to their end and settled, so the order of a partition key holds over that.
///
/// The partition key is the key of a message, the time of arrival its timestamp. Headers say
/// `kinesis-sequence-number` and `kinesis-shard-id`. Aggregated records of the Kinesis Producer Library (KPL)
/// are taken apart: each user record is a message, with the header `kinesis-subsequence-number` too. One that
/// does not belong to the shard, going by its hash key, is passed over: after a split its producer sends it
/// again to the right one. (The client library passes over the whole aggregated record then.)
///
/// How far each shard is read is kept in the data folder, for one process alone, or with `leases` in a table
/// of DynamoDB, by which several members share the stream. `GetRecords` is called as often as the service
/// allows and no more: those who read a shard share its five calls and 2 MiB a second. Enhanced fan-out is
/// not supported.
///
/// It needs the rights `kinesis:ListShards`, `kinesis:GetShardIterator` and `kinesis:GetRecords`; with
/// `leases` also `dynamodb:Scan`, `dynamodb:PutItem`, `dynamodb:UpdateItem`, `dynamodb:DeleteItem`, and
/// `dynamodb:CreateTable` if the table is not there.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct KinesisSource {
    /// Name or ARN of the stream.
    stream: String,
    /// How AWS is reached.
    #[serde(default)]
    aws: Access,
    /// Where a shard begins that was not read before: `"trim-horizon"` (the first record there is),
    /// `"latest"` (when the pipeline runs for the first time, by its own clock), or
    /// `{ timestamp = "2026-01-31T00:00:00Z" }` (the first record that arrived then or later). A shard that
    /// comes later always begins at its first record.
    #[serde(default)]
    start: Start,
    /// How long to wait after a shard had nothing more, at least `"200ms"`. While a shard is behind, it is
    /// asked as often as the service allows.
    #[serde(default = "poll_interval_default")]
    poll_interval: Interval,
    /// Records of a call of `GetRecords`, at most.
    #[serde(default = "records_default")]
    #[schemars(range(min = 1, max = 10_000))]
    records: u32,
    /// By which several members share the stream.
    leases: Option<Leases>,
}

/// By which several members share the stream. Each pipeline and stream takes a table of its own.
///
/// As with the Kinesis Client Library: the layout of the table (`leaseKey`, `leaseOwner`, `leaseCounter`,
/// `checkpoint`, `checkpointSubSequenceNumber`, `ownerSwitchesSinceCheckpoint`, `parentShardId`), so that a
/// table of it can be taken over once its own workers have stopped, and goes on where they were; a member
/// whose counters stand still for `duration`, by the clock of who watches, is dead, and its leases are taken;
/// each member wants its share.
///
/// Otherwise than there: a member with too few asks one with more to hand a lease over (attribute
/// `millstreamHandOverTo`), which stops reading, settles what it has in flight, and then gives the lease away,
/// so that nothing is delivered twice; at a stop all leases are given up at once; a member that cannot reach
/// the table goes on reading what it has, and commits later, if the lease is still its own; `latest` is a
/// time, the same after a restart. Members of the library and of this must not share a table at the same
/// time.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Leases {
    /// The table; made if it is not there, with on-demand billing.
    table: String,
    /// How DynamoDB is reached; what is not said here is as for the stream, but for its endpoint.
    #[serde(default)]
    aws: Access,
    /// After so long without a sign of life a member loses its leases. Each lease is renewed three times in
    /// that time.
    #[serde(default = "duration_default")]
    duration: Interval,
    /// How often it is written to the table how far shards are settled, at most.
    #[serde(default = "commit_interval_default")]
    commit_interval: Interval,
    /// How long a shard that goes to another member may take to drain. What is not settled by then is
    /// delivered by both.
    #[serde(default = "drain_timeout_default")]
    drain_timeout: Interval,
}

/// As the client library waits.
fn poll_interval_default() -> Interval {
    Interval::secs(1)
}

fn records_default() -> u32 {
    stream::MAX_RECORDS
}

/// As the client library's `failoverTimeMillis`.
fn duration_default() -> Interval {
    Interval::secs(10)
}

fn commit_interval_default() -> Interval {
    Interval::secs(1)
}

fn drain_timeout_default() -> Interval {
    Interval::secs(30)
}

/// Less than that is lost by a member whose machine is busy for a moment.
const MIN_DURATION: Duration = Duration::from_secs(1);

/// Share of the budget for records fetched beforehand.
const QUEUE_SHARE: usize = 8;

/// What an answer takes while it is read: as it came, in base 64, and taken apart.
const MEMORY_FACTOR: usize = 2;

impl KinesisSource {
    fn name(&self) -> &str {
        stream::name_of(&self.stream)
    }

    /// Bytes that may be fetched beforehand.
    fn queue_bytes(budget: usize) -> usize {
        (budget / QUEUE_SHARE).clamp(stream::MAX_ANSWER_BYTES, 64 << 20)
    }
}

impl Leases {
    fn check(&self, context: &SourceContext, problems: &mut Vec<Problem>) {
        self.aws.check("/leases/aws", &context.base, problems);
        if !is_table_name(&self.table) {
            problems.push(
                Problem::new("/leases/table", format!("{:?} is no name of a table", self.table))
                    .help("letters, digits, `_`, `.` and `-`, between 3 and 255 of them"),
            );
        }
        if self.duration.0 < MIN_DURATION {
            let message = format!("{} leave a member no time to renew its leases", self.duration);
            problems.push(Problem::new("/leases/duration", message).help("at least \"1s\""));
        }
    }
}

/// See <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_CreateTable.html>.
fn is_table_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (3..=255).contains(&name.len()) && name.chars().all(allowed)
}

impl SourceConfig for KinesisSource {
    fn check(&self, context: &SourceContext, problems: &mut Vec<Problem>) {
        self.aws.check("/aws", &context.base, problems);
        let is_arn = self.stream.starts_with("arn:") && self.stream.contains(":kinesis:");
        if !stream::is_name(self.name()) || (self.stream != self.name() && !is_arn) {
            problems.push(
                Problem::new("/stream", format!("{:?} is neither name nor ARN of a stream", self.stream))
                    .help("as in \"orders\", or \"arn:aws:kinesis:eu-central-1:123456789012:stream/orders\""),
            );
        }
        if self.poll_interval.0 < stream::MIN_INTERVAL {
            let message =
                format!("a shard takes {} calls a second, of all that read it", stream::CALLS_PER_SECOND);
            problems.push(Problem::new("/poll_interval", message).help("at least \"200ms\""));
        }
        if let Some(leases) = &self.leases {
            leases.check(context, problems);
        }
        if context.codec.decoder().has_head() {
            let message = "this codec reads a head before the messages, and a record of Kinesis has none";
            problems.push(Problem::new("/codec", message).help("one that reads a message alone"));
        }
        self.start.check(problems);
    }

    fn traits(&self) -> SourceTraits {
        SourceTraits { replay: Replay::Yes, unordered: None, partitions: None }
    }

    fn kept_elsewhere(&self) -> Option<String> {
        let (table, stream) = (&self.leases.as_ref()?.table, self.name());
        Some(format!(
            "the table {table} of DynamoDB keeps how far the shards of {stream} are read; `aws dynamodb scan \
             --table-name {table}` shows it, and deleting the table while no member runs forgets it"
        ))
    }

    fn open(self: Box<Self>, context: SourceContext) -> anyhow::Result<OpenSource> {
        let name = self.name().to_owned();
        let connection = Connection::new(self.aws.clone(), &context.base, aws_sdk_kinesis::Client::new);
        let stream = Arc::new(Stream::new(connection, &self.stream));
        let table: Arc<dyn Table> = match &self.leases {
            None => Arc::new(Local::load(&name, Arc::clone(&context.checkpoints))?),
            Some(leases) => {
                let access = leases.aws.or(&self.aws.without_endpoint());
                let connection = Connection::new(access, &context.base, aws_sdk_dynamodb::Client::new);
                Arc::new(DynamoTable::new(connection, &leases.table, &name))
            }
        };
        let ownership = Arc::new(Ownership::new());
        let (queue, fetched) = mpsc::unbounded_channel();
        let (stopping, closing) = (CancellationToken::new(), CancellationToken::new());
        let queue_bytes = KinesisSource::queue_bytes(context.budget);
        let metrics = &context.metrics;
        let fetching = Fetching {
            pipeline: context.pipeline.clone(),
            stream,
            poll_interval: self.poll_interval.0,
            limit: self.records,
            queue,
            room: Arc::new(fetch::room(queue_bytes)),
            budget_is_used_up: Arc::clone(&context.budget_is_used_up),
            troubles: Arc::new(Troubles::new(&context.pipeline, &context.waits)),
            behind: metrics.kinesis_behind.clone(),
            resharded: Arc::new(Notify::new()),
        };
        // Of this process alone: a lease of it can only have been taken by it.
        let member: Arc<str> = format!("millstream-{}", uuid::Uuid::new_v4()).into();
        let leases = self.leases.as_ref();
        let coordinator = Coordinator {
            fetching: Arc::new(fetching),
            table: Arc::clone(&table),
            ownership: Arc::clone(&ownership),
            member: Arc::clone(&member),
            start: self.start.clone(),
            duration: leases.map_or(Duration::MAX, |leases| leases.duration.0),
            drain_timeout: leases.map_or_else(drain_timeout_default, |leases| leases.drain_timeout).0,
            stopping: stopping.clone(),
            closing: closing.clone(),
            leases: metrics.kinesis_leases.clone(),
            losses: metrics.kinesis_losses.clone(),
        };
        if leases.is_some() {
            tracing::info!(pipeline = context.pipeline, stream = name, %member, "the name of this member");
        }
        let reader = KinesisReader {
            queue: fetched,
            unread: None,
            decoder: context.codec.decoder(),
            max_message_bytes: context.max_message_bytes,
            ownership: Arc::clone(&ownership),
            reserved: queue_bytes * MEMORY_FACTOR,
            _reads: stopping.clone().drop_guard(),
        };
        let described = Arc::clone(&ownership);
        let committer = KinesisCommitter {
            table,
            member,
            ownership,
            interval: leases.map_or(Duration::ZERO, |leases| leases.commit_interval.0),
            last: None,
            stopping,
            closing,
            coordinator: Some(tokio::spawn(coordinator.run())),
        };
        Ok(OpenSource {
            name: format!("kinesis:{name}"),
            reader: Box::new(reader),
            committer: Box::new(committer),
            describe: Arc::new(move |position| described.describe(&name, position)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::testing::context;
    use super::*;

    fn problems(config: serde_json::Value) -> Vec<String> {
        let source = parse::<KinesisSource>(config).unwrap();
        let mut problems = Vec::new();
        source.check(&context("raw", "{}", &Arc::default()), &mut problems);
        problems.into_iter().map(|problem| format!("{} {}", problem.at, problem.message)).collect()
    }

    #[test]
    fn p9_all_mistakes_at_once() {
        let told = problems(serde_json::json!({
            "stream": "a/b", "poll_interval": "50ms", "start": { "timestamp": "yesterday" },
            "aws": { "endpoint": "nowhere" },
            "leases": { "table": "x", "duration": "0s", "aws": { "role": "me" } },
        }));
        let places = [
            "/stream",
            "/poll_interval",
            "/start/timestamp",
            "/aws/endpoint",
            "/leases/table",
            "/leases/duration",
        ];
        for place in places.iter().chain(&["/leases/aws/role"]) {
            assert!(
                told.iter().any(|problem| problem.starts_with(&format!("{place} "))),
                "{place}: {told:?}"
            );
        }
        assert_eq!(told.len(), 7, "{told:?}");
        assert!(problems(serde_json::json!({ "stream": "orders", "start": "latest" })).is_empty());
        let arn = "arn:aws:kinesis:eu-central-1:123456789012:stream/orders";
        assert!(
            problems(serde_json::json!({ "stream": arn, "leases": { "table": "orders-leases" } })).is_empty()
        );
        assert_eq!(problems(serde_json::json!({ "stream": "urn:stream/orders" })).len(), 1);
    }
}
