//! `kinesis`: writes messages to a data stream.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::types::PutRecordsRequestEntry;
use aws_smithy_types::Blob;
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::batches::{Batches, Destination, Entry, Limits, Refused, Trouble};
use super::places::{Key, Place};
use crate::aws::{Access, Connection, Failure};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::ByteSize;
use crate::message::MessageRef;
use crate::sinks::{Sink, SinkConfig, SinkContext, SinkSpec, SinkTraits};

pub const SPEC: SinkSpec = SinkSpec {
    name: "kinesis",
    schema: || schemars::schema_for!(KinesisSink),
    example: "[[sink]]\ntype = \"kinesis\"\nstream = \"orders\"\naws = { region = \"eu-central-1\" }\n\
              partition_key = { pointer = \"/customer\" }\n",
    default_codec: "raw",
    parse: |value| Ok(Box::new(parse::<KinesisSink>(value)?)),
};

/// Records of a request, bytes of a request, and bytes of a record, partition keys included
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html>). A stream takes records of
/// 1 MiB unless its maximum record size says more.
const MAX_MESSAGES: usize = 500;
const MAX_BYTES: ByteSize = ByteSize::mib(10);

/// Characters of a partition key
/// (<https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecordsRequestEntry.html>).
const MAX_KEY_CHARS: usize = 256;

/// Writes messages to a stream of Kinesis. What becomes of a message:
///
/// - its shard acknowledges it: it is delivered
/// - the stream refuses it: it becomes a dead letter (`refused`), with what Kinesis says; when a whole
///   request is refused it is divided until the guilty message stands alone
/// - its shard throttles it (1 MB and 1,000 records a second), or is in trouble: it is sent again, and no
///   attempt is counted
/// - Kinesis cannot be reached, refuses our credentials, or has no such stream: the pipeline waits
///
/// Of a request that partly failed only what failed is sent again. A request that got no answer is sent
/// again too, and its messages may then be in the stream twice, in the same order.
///
/// Messages of a partition key are in order: of a key one message at a time is sent, and the next when it
/// is acknowledged. So a stream of few keys is slow: some milliseconds a message.
///
/// A record has a key and bytes. Headers are not written unless the codec does (`codec = "record"`), nor
/// is the mark of a replayed dead letter, which is one.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KinesisSink {
    /// The stream, by name or ARN. While there is none the sink waits.
    stream: String,
    /// How AWS is reached.
    #[serde(default)]
    aws: Access,
    /// Where the partition key of a message is found: `{ key = true }` (the message's own key),
    /// `{ header = "..." }` or `{ pointer = "/..." }`. A message without one there becomes a dead letter
    /// (`no-partition-key`). If this is not said it is the message's key, and without a key a random one:
    /// such messages are spread over the shards and have no order. What Kinesis would not take (over 256
    /// characters, none at all, or no UTF-8) is replaced by its SHA-256.
    partition_key: Option<Key>,
    /// Where the hash key is found that says the shard in place of the partition key, as for
    /// `partition_key`: a whole number from 0 to 2^128 - 1. A message without one there goes by its
    /// partition key; one that is no such number makes it a dead letter (`invalid-hash-key`).
    hash_key: Option<Key>,
    /// Messages of a request, at most; Kinesis takes 500.
    #[serde(default = "max_messages_default")]
    max_messages: usize,
    /// Bytes of a request, at most, with partition keys; Kinesis takes 10 MiB.
    #[serde(default = "max_bytes_default")]
    max_bytes: ByteSize,
    /// Requests that are sent at the same time, at most.
    #[serde(default = "concurrency_default")]
    concurrency: usize,
}

fn max_messages_default() -> usize {
    MAX_MESSAGES
}

/// What a call holds, about.
fn max_bytes_default() -> ByteSize {
    ByteSize::mib(5)
}

fn concurrency_default() -> usize {
    4
}

impl KinesisSink {
    fn limits(&self) -> Limits {
        Limits {
            messages: self.max_messages,
            bytes: self.max_bytes.as_usize(),
            concurrency: self.concurrency,
        }
    }
}

impl SinkConfig for KinesisSink {
    fn check(&self, context: &SinkContext, problems: &mut Vec<Problem>) {
        let is_arn = self.stream.starts_with("arn:") && self.stream.contains(":stream/");
        // <https://docs.aws.amazon.com/kinesis/latest/APIReference/API_CreateStream.html>
        let is_char = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let is_name = (1..=128).contains(&self.stream.len()) && self.stream.bytes().all(is_char);
        if !is_arn && !is_name {
            problems.push(
                Problem::new("/stream", format!("{:?} is no stream", self.stream))
                    .help("its name: up to 128 letters and digits of ASCII, `_`, `.` and `-`; or its ARN"),
            );
        }
        self.aws.check("/aws", &context.base, problems);
        problems.extend(self.partition_key.as_ref().and_then(|key| key.place("/partition_key").err()));
        problems.extend(self.hash_key.as_ref().and_then(|key| key.place("/hash_key").err()));
        self.limits().check((MAX_MESSAGES, MAX_BYTES), problems);
    }

    fn destination(&self) -> Option<String> {
        Some(self.stream.clone())
    }

    fn traits(&self) -> SinkTraits {
        SinkTraits::with_batch(self.limits().call())
    }

    fn has_limits(&self) -> bool {
        true
    }

    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        let place = |key: &Option<Key>, at: &str| {
            let place = key.as_ref().map(|key| key.place(at)).transpose();
            place.map_err(|problem| anyhow::anyhow!("{}: {}", problem.at, problem.message))
        };
        let stream = Stream {
            connection: Connection::new(self.aws.clone(), &context.base, Client::new),
            partition_key: place(&self.partition_key, "/partition_key")?,
            hash_key: place(&self.hash_key, "/hash_key")?,
            stream: self.stream.clone(),
        };
        Ok(Box::new(Batches::new(stream, context.codec, self.limits())))
    }
}

/// A stream that messages are written to.
struct Stream {
    connection: Connection<Client>,
    /// Name or ARN.
    stream: String,
    partition_key: Option<Place>,
    hash_key: Option<Place>,
}

impl Stream {
    /// The partition key of a message; `None` if any does.
    fn partition_key(&self, message: &MessageRef<'_>) -> Result<Option<String>, Refused> {
        let Some(place) = &self.partition_key else { return Ok(message.key().map(partition_key)) };
        match place.find(message)? {
            Some(found) => Ok(Some(partition_key(&found))),
            None => {
                let reason = "it has no partition key where `partition_key` says it is";
                Err(Refused::new("no-partition-key", reason))
            }
        }
    }

    fn hash_key(&self, message: &MessageRef<'_>) -> Result<Option<String>, Refused> {
        let found = self.hash_key.as_ref().map(|place| place.find(message)).transpose()?.flatten();
        let Some(found) = found else { return Ok(None) };
        let number = std::str::from_utf8(&found).ok().and_then(|text| text.parse::<u128>().ok());
        match number {
            Some(number) => Ok(Some(number.to_string())),
            None => {
                let reason = "its hash key is no whole number from 0 to 2^128 - 1";
                Err(Refused::new("invalid-hash-key", reason))
            }
        }
    }
}

/// Bytes as a partition key: as they are, or their SHA-256 if Kinesis would not take them.
fn partition_key(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if (1..=MAX_KEY_CHARS).contains(&text.chars().count()) => text.to_owned(),
        _ => hex::encode(Sha256::digest(bytes)),
    }
}

#[async_trait]
impl Destination for Stream {
    type Entry = PutRecordsRequestEntry;

    fn entry(&self, message: &MessageRef<'_>, body: Vec<u8>) -> Result<Entry<Self::Entry>, Refused> {
        let group = self.partition_key(message)?;
        let partition_key = group.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let bytes = body.len() + partition_key.len();
        if bytes > MAX_BYTES.as_usize() {
            let reason = format!("it is {bytes} bytes with its partition key, and Kinesis takes {MAX_BYTES}");
            return Err(Refused::new("too-large", reason));
        }
        let entry = PutRecordsRequestEntry::builder()
            .data(Blob::new(body))
            .partition_key(partition_key)
            .set_explicit_hash_key(self.hash_key(message)?)
            .build()
            .map_err(|error| Refused::new("invalid-message", error.to_string()))?;
        Ok(Entry { what: entry, bytes, group, target: None })
    }

    async fn send(&self, entries: &[Arc<Self::Entry>]) -> Result<Vec<Option<Result<(), Failure>>>, Trouble> {
        let client = self.connection.client().await?;
        let records = entries.iter().map(|entry| Self::Entry::clone(entry)).collect();
        let request = client.put_records().set_records(Some(records));
        let request = match self.stream.starts_with("arn:") {
            true => request.stream_arn(&self.stream),
            false => request.stream_name(&self.stream),
        };
        let what = || format!("PutRecords to {}", self.stream);
        let answer = request.send().await.map_err(|error| Failure::of(&what(), &error))?;
        let result = |record: &aws_sdk_kinesis::types::PutRecordsResultEntry| match (
            record.error_code(),
            record.sequence_number(),
        ) {
            // Throttled and in trouble are known by their codes; it says no others.
            (Some(code), _) => Some(Err(Failure::of_entry(code, record.error_message(), true))),
            (None, Some(_)) => Some(Ok(())),
            (None, None) => None,
        };
        Ok(answer.records().iter().map(result).collect())
    }
}
