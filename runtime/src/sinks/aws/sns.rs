//! `sns`: publishes messages to a topic.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use aws_sdk_sns::Client;
use aws_sdk_sns::operation::publish_batch::PublishBatchError;
use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use schemars::JsonSchema;
use serde::Deserialize;

use super::attributes::{Attributes, values};
use super::batches::{Batches, Destination, Entry, Limits, Refused, Trouble};
use super::body::{Bodies, Encoding, Parts};
use super::fifo::{Deduplication, Ids, Keys};
use super::places::Key;
use super::{is_raw, results};
use crate::aws::claim_check::{PutSection, Putter};
use crate::aws::fanout::{Fanout, Subscription};
use crate::aws::{Access, Connection, Failure, Kind, queue};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::ByteSize;
use crate::message::MessageRef;
use crate::sinks::{Sink, SinkConfig, SinkContext, SinkSpec, SinkTraits};

pub const SPEC: SinkSpec = SinkSpec {
    name: "sns",
    schema: || schemars::schema_for!(SnsSink),
    example: "[[sink]]\ntype = \"sns\"\ntopic = \"arn:aws:sns:eu-central-1:123456789012:orders\"\n\
              aws = { region = \"eu-central-1\" }\nattributes = [\"type\", \"price\"]\n\
              attribute_types = { price = \"Number\" }\n",
    default_codec: "raw",
    parse: |value| Ok(Box::new(parse::<SnsSink>(value)?)),
};

/// Messages of a request, and bytes of a message and of a request: by default 256 KiB, and 1 MiB where the
/// topic's `MaximumMessageSize` says so
/// (<https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html>).
const MAX_MESSAGES: usize = 10;
const MAX_BYTES_DEFAULT: ByteSize = ByteSize::kib(256);
const MAX_BYTES: ByteSize = ByteSize::mib(1);

/// Characters of a subject are less than this (<https://docs.aws.amazon.com/sns/latest/api/API_Publish.html>).
const SUBJECT_CHARS: usize = 100;

/// Publishes messages to a topic of SNS. What becomes of a message:
///
/// - the topic acknowledges it: it is delivered
/// - the topic refuses it: it becomes a dead letter (`refused`), with what SNS says; when a whole request
///   is refused it is divided until the guilty message stands alone
/// - SNS throttles it, or is in trouble: it is sent again, and no attempt is counted
/// - SNS cannot be reached, refuses our credentials, or has no such topic: the pipeline waits
///
/// Of a request that partly failed only what failed is sent again. A request that got no answer is sent
/// again too, and its messages may then be published twice; a FIFO topic leaves out what it already has
/// (for 5 minutes).
///
/// A topic whose name ends in `.fifo` keeps the order of each group: of a group one message at a time is
/// sent, and the next when it is acknowledged. A standard topic has no order.
///
/// Headers become attributes, by which filter policies of subscriptions choose messages. There are at most
/// 10: SNS takes more, but does not deliver such a message to queues with raw delivery. One with more
/// becomes a dead letter (`too-many-attributes`). A header that can be no attribute makes it one too
/// (`invalid-attribute`): its name has other characters than letters and digits of ASCII, `_`, `-` and
/// `.`, or its value is empty. So do a body that is empty (`empty`), one that is no text (`not-text`), and
/// more than `max_bytes` with attributes (`too-large`).
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SnsSink {
    /// ARN of the topic. While there is none the sink waits.
    topic: String,
    /// How AWS is reached.
    #[serde(default)]
    aws: Access,
    /// The subject of messages, which those who get them by email see: one line, up to 99 characters.
    subject: Option<String>,
    /// Name of a header whose value is the subject of its message. One that cannot be a subject makes it a
    /// dead letter (`invalid-subject`).
    subject_header: Option<String>,
    /// Where the group of a message is found: `{ key = true }` (the message's own key),
    /// `{ header = "..." }` or `{ pointer = "/..." }`. A message without one there becomes a dead letter
    /// (`no-group`). If this is not said a FIFO topic gets the message's key, and without a key the
    /// partition of the source, as `partition-0`. What SNS would not take as a group (over 128
    /// characters, or others than those of ASCII that are seen) is replaced by its SHA-256. A standard
    /// topic passes groups on to fair queues, and gets none if this is not said.
    group: Option<Key>,
    /// Where the deduplication id of a message is found, as for `group`; or `"content"`, for a topic with
    /// `ContentBasedDeduplication`. If this is not said, or nothing is there, it is a hash of the source
    /// position and of all that is sent but the subject: the same whenever the same message is sent
    /// again. Two messages that a plugin made of one and that are the same in all, attributes too, are one
    /// to the topic.
    deduplication: Option<Deduplication>,
    /// Names of the headers that become attributes; by default all but those that begin with `sqs-`,
    /// `sns-` or `kinesis-`. Of a header that repeats it is the first. `millstream-replays`, the mark of a
    /// replayed dead letter, always does, and so do `traceparent` and `tracestate` where there is room.
    attributes: Option<Vec<String>>,
    /// Types of attributes, as `{ price = "Number", colours = "String.Array" }`. By default an attribute
    /// is what the source `sqs` says it was, else a `String`, or `Binary` if its bytes are no text. Filter
    /// policies compare numbers only with a `Number`.
    #[serde(default)]
    attribute_types: BTreeMap<String, String>,
    /// How bytes become the text that a message of SNS is.
    #[serde(default)]
    encoding: Encoding,
    /// Payloads that are too large for the topic, or larger than one wants there, go to S3.
    claim_check: Option<PutSection>,
    /// Queues that get messages of the topic, for `millstream aws fanout`.
    #[serde(default)]
    subscriptions: Vec<Subscription>,
    /// Messages of a request, at most; SNS takes 10.
    #[serde(default = "max_messages_default")]
    max_messages: usize,
    /// Bytes of a message and of a request, at most, with attributes: the topic's `MaximumMessageSize`,
    /// which can be up to 1 MiB.
    #[serde(default = "max_bytes_default")]
    max_bytes: ByteSize,
    /// Requests that are sent at the same time, at most.
    #[serde(default = "concurrency_default")]
    concurrency: usize,
}

fn max_messages_default() -> usize {
    MAX_MESSAGES
}

fn max_bytes_default() -> ByteSize {
    MAX_BYTES_DEFAULT
}

fn concurrency_default() -> usize {
    8
}

impl SnsSink {
    fn is_fifo(&self) -> bool {
        self.topic.ends_with(queue::FIFO)
    }

    fn keys(&self) -> Keys<'_> {
        Keys {
            is_fifo: self.is_fifo(),
            group: self.group.as_ref(),
            deduplication: self.deduplication.as_ref(),
        }
    }

    fn attributes(&self) -> Attributes {
        Attributes { names: self.attributes.clone(), types: self.attribute_types.clone() }
    }

    fn limits(&self) -> Limits {
        Limits {
            messages: self.max_messages,
            bytes: self.max_bytes.as_usize(),
            concurrency: self.concurrency,
        }
    }
}

impl SinkConfig for SnsSink {
    fn check(&self, context: &SinkContext, problems: &mut Vec<Problem>) {
        let parts: Vec<&str> = self.topic.split(':').collect();
        if !matches!(&parts[..], ["arn", _, "sns", region, _, name] if !region.is_empty() && !name.is_empty())
        {
            problems.push(
                Problem::new("/topic", format!("{:?} is no ARN of a topic", self.topic))
                    .help("as in \"arn:aws:sns:eu-central-1:123456789012:orders\""),
            );
        }
        self.aws.check("/aws", &context.base, problems);
        if self.subject.as_deref().is_some_and(|subject| !is_subject(subject)) {
            problems
                .push(Problem::new("/subject", "it is no subject").help("one line of 1 to 99 characters"));
        }
        if self.subject_header.as_ref().is_some_and(String::is_empty) {
            problems.push(Problem::new("/subject_header", "a header has a name"));
        }
        self.keys().check("topic", problems);
        self.attributes().check(problems);
        if let Some(claim_check) = &self.claim_check {
            claim_check.check(&context.base, self.max_bytes, problems);
            self.keys().check_aside(problems);
        }
        for (index, subscription) in self.subscriptions.iter().enumerate() {
            subscription.check(&format!("/subscriptions/{index}"), problems);
        }
        self.limits().check((MAX_MESSAGES, MAX_BYTES), problems);
    }

    fn destination(&self) -> Option<String> {
        Some(self.topic.clone())
    }

    fn traits(&self) -> SinkTraits {
        SinkTraits {
            unordered: (!self.is_fifo()).then_some("a standard topic"),
            ..SinkTraits::with_batch(self.limits().call())
        }
    }

    fn has_limits(&self) -> bool {
        true
    }

    fn fanout(&self, base: &Path) -> Option<Fanout> {
        (!self.subscriptions.is_empty()).then(|| Fanout {
            topic: self.topic.clone(),
            subscriptions: self.subscriptions.clone(),
            access: self.aws.clone(),
            base: base.to_owned(),
        })
    }

    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        let topic = Topic {
            connection: Connection::new(self.aws.clone(), &context.base, Client::new),
            ids: self.keys().ids(&context).context("the keys of the topic")?,
            bodies: Bodies {
                service: "SNS",
                encoding: self.encoding,
                attributes: self.attributes(),
                dead_letters: is_raw(&context.codec),
                claim_check: self
                    .claim_check
                    .as_ref()
                    .map(|section| Putter::new(section, &self.aws, &context.base)),
                max_bytes: self.max_bytes,
                limit: "`max_bytes` is",
            },
            subject: self.subject.clone(),
            subject_header: self.subject_header.clone(),
            topic: self.topic.clone(),
        };
        Ok(Box::new(Batches::new(topic, context.codec, self.limits())))
    }
}

fn is_subject(text: &str) -> bool {
    let chars = text.chars().count();
    (1..SUBJECT_CHARS).contains(&chars) && !text.chars().any(char::is_control)
}

/// A message for the topic.
pub struct Publishing {
    entry: PublishBatchRequestEntry,
    /// Its body goes to S3 before.
    aside: bool,
}

/// A topic that messages are published to.
struct Topic {
    connection: Connection<Client>,
    topic: String,
    ids: Ids,
    bodies: Bodies,
    subject: Option<String>,
    subject_header: Option<String>,
}

impl Topic {
    fn failure(&self, error: &SdkError<PublishBatchError, HttpResponse>) -> Failure {
        let failure = Failure::of(&format!("PublishBatch to {}", self.topic), error);
        // The topic of another region is an invalid parameter, and no message has to do with it.
        let is_topic = failure.kind == Kind::Refused
            && failure.code.starts_with("InvalidParameter")
            && failure.reason.contains("TopicArn");
        Failure { kind: if is_topic { Kind::Missing } else { failure.kind }, ..failure }
    }

    fn subject(&self, message: &MessageRef<'_>) -> Result<Option<String>, Refused> {
        let given = self.subject_header.as_deref().and_then(|name| Some((name, message.header(name)?)));
        let Some((name, value)) = given else { return Ok(self.subject.clone()) };
        match std::str::from_utf8(value) {
            Ok(text) if is_subject(text) => Ok(Some(text.to_owned())),
            _ => {
                let reason =
                    format!("the value of header {name:?} is no subject: one line of 1 to 99 characters");
                Err(Refused::new("invalid-subject", reason))
            }
        }
    }
}

#[async_trait]
impl Destination for Topic {
    type Entry = Publishing;

    fn entry(&self, message: &MessageRef<'_>, body: Vec<u8>) -> Result<Entry<Publishing>, Refused> {
        let Parts { body, attributes, aside, bytes } = self.bodies.of(message, body)?;
        let (group, deduplication) = self.ids.of(message, &body, &attributes)?;
        let attributes = values(attributes, |data_type, text, bytes| {
            let value = MessageAttributeValue::builder().data_type(data_type);
            value.set_string_value(text).set_binary_value(bytes).build()
        })?;
        let entry = PublishBatchRequestEntry::builder()
            // Its number in a request, when it is in one.
            .id("0")
            .message(body)
            .set_subject(self.subject(message)?)
            .set_message_attributes(attributes)
            .set_message_group_id(group.clone())
            .set_message_deduplication_id(deduplication)
            .build()
            .map_err(|error| Refused::new("invalid-message", error.to_string()))?;
        let group = group.filter(|_| self.ids.is_fifo);
        Ok(Entry { what: Publishing { entry, aside }, bytes, group, target: None })
    }

    async fn send(&self, entries: &[Arc<Publishing>]) -> Result<Vec<Option<Result<(), Failure>>>, Trouble> {
        let client = self.connection.client().await?;
        let mut numbered = Vec::with_capacity(entries.len());
        for (number, publishing) in entries.iter().enumerate() {
            let mut entry = publishing.entry.clone();
            entry.id = number.to_string();
            if publishing.aside {
                entry.message = self.bodies.put_aside(entry.message.into()).await?;
            }
            numbered.push(entry);
        }
        let request = client.publish_batch().topic_arn(&self.topic);
        let answer = request.set_publish_batch_request_entries(Some(numbered)).send().await;
        let answer = answer.map_err(|error| self.failure(&error))?;
        let done = answer.successful().iter().filter_map(|done| done.id());
        let failed = answer.failed().iter().map(|failed| {
            (failed.id(), Failure::of_entry(failed.code(), failed.message(), failed.sender_fault()))
        });
        Ok(results(entries.len(), done, failed))
    }
}
