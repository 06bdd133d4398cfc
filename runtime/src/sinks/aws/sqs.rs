//! `sqs`: sends messages to a queue.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use glob::Pattern;
use schemars::JsonSchema;
use serde::Deserialize;

use super::attributes::{Attributes, values};
use super::batches::{Batches, Destination, Entry, Limits, Refused, Trouble, UNKNOWN_QUEUE};
use super::body::{Bodies, Encoding, Parts};
use super::fifo::{Deduplication, Ids, Keys};
use super::places::Key;
use super::{is_raw, results};
use crate::aws::claim_check::{PutSection, Putter};
use crate::aws::{Access, Connection, DeadLetterQueue, Failure, Kind, queue};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::{ByteSize, Interval};
use crate::dead_letters::Elsewhere;
use crate::message::MessageRef;
use crate::sinks::{Sink, SinkConfig, SinkContext, SinkSpec, SinkTraits};

pub const SPEC: SinkSpec = SinkSpec {
    name: "sqs",
    schema: || schemars::schema_for!(SqsSink),
    example: "[[sink]]\ntype = \"sqs\"\nqueue = \"orders.fifo\"\naws = { region = \"eu-central-1\" }\n\
              group = { pointer = \"/customer\" }\n",
    default_codec: "raw",
    parse: |value| Ok(Box::new(parse::<SqsSink>(value)?)),
};

/// Messages of a request, and bytes of a message and of a request
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>).
const MAX_MESSAGES: usize = 10;
const MAX_BYTES: ByteSize = ByteSize::mib(1);

/// `DelaySeconds`, as that page has it.
const MAX_DELAY: Duration = Duration::from_secs(15 * 60);

/// Sends messages to a queue of SQS. What becomes of a message:
///
/// - the queue acknowledges it: it is delivered
/// - the queue refuses it: it becomes a dead letter (`refused`), with what SQS says; when a whole request
///   is refused it is divided until the guilty message stands alone
/// - SQS throttles it, or is in trouble: it is sent again, and no attempt is counted
/// - SQS cannot be reached, refuses our credentials, or has no such queue: the pipeline waits
///
/// Of a request that partly failed only what failed is sent again. A request that got no answer is sent
/// again too, and its messages may then be in the queue twice; a FIFO queue leaves out what it already has
/// (for 5 minutes).
///
/// A queue whose name ends in `.fifo` keeps the order of each group: of a group one message at a time is
/// sent, and the next when it is acknowledged. A standard queue has no order.
///
/// Headers become attributes, and a message has at most 10 of them: one with more becomes a dead letter
/// (`too-many-attributes`). A header that can be no attribute makes it one too (`invalid-attribute`): its
/// name has other characters than letters and digits of ASCII, `_`, `-` and `.`, or its value is empty.
/// So do a body that is empty (`empty`), one that is no text (`not-text`) or has characters that SQS does
/// not take (`invalid-characters`: control characters), and more than 1 MiB with attributes (`too-large`).
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqsSink {
    /// The queue, by name or by url. While there is none the sink waits.
    queue: Option<String>,
    /// Name of a header of the message that says its queue by name or url, as for a reply. Without it, with
    /// one that does not match `queues`, or one that does not exist, the message becomes a dead letter
    /// (`no-queue`, `queue-not-allowed`, `unknown-queue`). These are standard queues.
    queue_header: Option<String>,
    /// Names that queues named by `queue_header` may have, as `"replies-*"`: whoever sends messages could
    /// otherwise have us write to any queue that we may.
    #[serde(default)]
    queues: Vec<String>,
    /// How AWS is reached.
    #[serde(default)]
    aws: Access,
    /// Where the group of a message is found: `{ key = true }` (the message's own key),
    /// `{ header = "..." }` or `{ pointer = "/..." }`. A message without one there becomes a dead letter
    /// (`no-group`). If this is not said a FIFO queue gets the message's key, and without a key the
    /// partition of the source, as `partition-0`. What SQS would not take as a group (over 128
    /// characters, or others than those of ASCII that are seen) is replaced by its SHA-256. A standard
    /// queue has groups for fair queues alone, and gets none if this is not said.
    group: Option<Key>,
    /// Where the deduplication id of a message is found, as for `group`; or `"content"`, for a queue with
    /// `ContentBasedDeduplication`. If this is not said, or nothing is there, it is a hash of the source
    /// position and of all that is sent: the same whenever the same message is sent again. Two messages
    /// that a plugin made of one and that are the same in all, attributes too, are one to the queue.
    deduplication: Option<Deduplication>,
    /// How long the queue keeps a message back, in seconds up to 15 minutes. By default as long as the
    /// queue itself says. FIFO queues know only their own.
    delay: Option<Interval>,
    /// Name of a header whose value is the delay of its message, in whole seconds. Any other value makes
    /// it a dead letter (`invalid-delay`).
    delay_header: Option<String>,
    /// Names of the headers that become attributes; by default all but those that begin with `sqs-`,
    /// `sns-` or `kinesis-`. Of a header that repeats it is the first. `millstream-replays`, the mark of a
    /// replayed dead letter, always does, and so do `traceparent` and `tracestate` where there is room.
    attributes: Option<Vec<String>>,
    /// Types of attributes, as `{ price = "Number" }`. By default an attribute is what the source `sqs`
    /// says it was, else a `String`, or `Binary` if its bytes are no text that SQS takes.
    #[serde(default)]
    attribute_types: BTreeMap<String, String>,
    /// How bytes become the text that a message of SQS is.
    #[serde(default)]
    encoding: Encoding,
    /// Payloads that are too large for SQS, or larger than one wants there, go to S3.
    claim_check: Option<PutSection>,
    /// Messages of a request, at most; SQS takes 10.
    #[serde(default = "max_messages_default")]
    max_messages: usize,
    /// Bytes of a request, at most, with attributes; SQS takes 1 MiB.
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
    MAX_BYTES
}

fn concurrency_default() -> usize {
    8
}

impl SqsSink {
    fn is_fifo(&self) -> bool {
        self.queue.as_deref().is_some_and(queue::is_fifo)
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

    fn check_queue(&self, problems: &mut Vec<Problem>) {
        match (&self.queue, &self.queue_header) {
            (None, None) => {
                let message = "neither `queue` nor `queue_header` says where messages go";
                problems.push(Problem::new("", message).help("add: queue = \"...\""));
            }
            (Some(_), Some(_)) => {
                let message = "`queue` and `queue_header` cannot both say where messages go";
                problems.push(Problem::new("/queue_header", message).help("remove one of them"));
            }
            (Some(queue), None) if !queue::is_queue(queue) => {
                problems.push(
                    Problem::new("/queue", format!("{queue:?} is no queue"))
                        .help("its name, as \"orders\" or \"orders.fifo\", or its url"),
                );
            }
            (None, Some(header)) if header.is_empty() => {
                problems.push(Problem::new("/queue_header", "a header has a name"));
            }
            _ => {}
        }
        if self.queue_header.is_some() && self.queues.is_empty() {
            problems.push(
                Problem::new("/queue_header", "it must be said which queues a message may name")
                    .help("queues = [\"replies-*\"]"),
            );
        }
        if self.queue_header.is_none() && !self.queues.is_empty() {
            problems.push(Problem::new("/queues", "no `queue_header` names any").help("remove it"));
        }
        for (index, pattern) in self.queues.iter().enumerate() {
            if let Err(error) = Pattern::new(pattern) {
                problems.push(
                    Problem::new(format!("/queues/{index}"), format!("{pattern:?} is no pattern: {error}"))
                        .help("a name, in which `*` stands for anything"),
                );
            }
        }
    }

    fn check_delay(&self, problems: &mut Vec<Problem>) {
        if let Some(delay) = self.delay
            && (delay.0 > MAX_DELAY || delay.0.subsec_nanos() != 0)
        {
            let message = format!("a message cannot be kept back for {delay}");
            problems.push(Problem::new("/delay", message).help("whole seconds, up to \"15m\""));
        }
        let said = [("/delay", self.delay.is_some()), ("/delay_header", self.delay_header.is_some())];
        for (at, _) in said.into_iter().filter(|(_, is_said)| *is_said && self.is_fifo()) {
            problems.push(
                Problem::new(at, "a FIFO queue takes no delay of a single message")
                    .help("the queue's own `DelaySeconds`"),
            );
        }
        if self.delay_header.as_ref().is_some_and(String::is_empty) {
            problems.push(Problem::new("/delay_header", "a header has a name"));
        }
    }
}

impl SinkConfig for SqsSink {
    fn check(&self, context: &SinkContext, problems: &mut Vec<Problem>) {
        self.check_queue(problems);
        self.aws.check("/aws", &context.base, problems);
        self.keys().check("queue", problems);
        self.check_delay(problems);
        self.attributes().check(problems);
        if let Some(claim_check) = &self.claim_check {
            claim_check.check(&context.base, MAX_BYTES, problems);
            self.keys().check_aside(problems);
        }
        self.limits().check((MAX_MESSAGES, MAX_BYTES), problems);
    }

    fn destination(&self) -> Option<String> {
        self.queue.as_deref().map(|queue| queue::name(queue).to_owned())
    }

    fn traits(&self) -> SinkTraits {
        SinkTraits {
            unordered: (!self.is_fifo()).then_some("a standard queue"),
            ..SinkTraits::with_batch(self.limits().call())
        }
    }

    fn has_limits(&self) -> bool {
        true
    }

    fn dead_letters(&self, context: &SinkContext) -> Option<Arc<dyn Elsewhere>> {
        // Of a group only ten can be looked at.
        let queue = self.queue.clone().filter(|queue| !queue::is_fifo(queue) && is_raw(&context.codec))?;
        Some(Arc::new(DeadLetterQueue {
            queue,
            access: self.aws.clone(),
            claim_check: self.claim_check.clone(),
            base: context.base.clone(),
            pipeline: context.pipeline.clone(),
        }))
    }

    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        let putter = self.claim_check.as_ref().map(|section| Putter::new(section, &self.aws, &context.base));
        let target = match (&self.queue, &self.queue_header) {
            (Some(queue), None) => Target::Queue(queue.as_str().into()),
            (None, Some(header)) => Target::Header {
                name: header.clone(),
                allowed: self.queues.iter().map(|pattern| Pattern::new(pattern)).collect::<Result<_, _>>()?,
            },
            _ => anyhow::bail!("either `queue` or `queue_header` says where messages go"),
        };
        let queues = Queues {
            connection: Connection::new(self.aws.clone(), &context.base, Client::new),
            urls: Mutex::default(),
            target,
            ids: self.keys().ids(&context).context("the keys of the queue")?,
            bodies: Bodies {
                service: "SQS",
                encoding: self.encoding,
                attributes: self.attributes(),
                dead_letters: is_raw(&context.codec),
                claim_check: putter,
                max_bytes: MAX_BYTES,
                limit: "SQS takes",
            },
            delay: self.delay.map(|delay| delay.0.as_secs() as i32),
            delay_header: self.delay_header.clone(),
        };
        Ok(Box::new(Batches::new(queues, context.codec, self.limits())))
    }
}

/// Where messages go.
enum Target {
    Queue(Arc<str>),
    Header { name: String, allowed: Vec<Pattern> },
}

/// Queues that messages are sent to.
struct Queues {
    connection: Connection<Client>,
    target: Target,
    /// Of queues, by what messages or the section call them.
    urls: Mutex<HashMap<Arc<str>, String>>,
    ids: Ids,
    bodies: Bodies,
    delay: Option<i32>,
    delay_header: Option<String>,
}

/// Names come from messages, so their number has an end: beyond it all are asked for anew.
const KNOWN_QUEUES: usize = 1000;

/// A message for a queue.
pub struct Sending {
    queue: Arc<str>,
    entry: SendMessageBatchRequestEntry,
    /// Its body goes to S3 before.
    aside: bool,
}

impl Queues {
    async fn url(&self, client: &Client, queue: &Arc<str>) -> Result<String, Failure> {
        let urls = || self.urls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = urls().get(queue) {
            return Ok(known.clone());
        }
        // No message has to do with it if that is refused.
        let url = queue::url(client, queue).await.map_err(Failure::not_refused)?;
        let mut urls = urls();
        if urls.len() >= KNOWN_QUEUES {
            urls.clear();
        }
        urls.insert(Arc::clone(queue), url.clone());
        Ok(url)
    }

    fn queue(&self, message: &MessageRef<'_>) -> Result<Arc<str>, Refused> {
        let (header, allowed) = match &self.target {
            Target::Queue(queue) => return Ok(Arc::clone(queue)),
            Target::Header { name, allowed } => (name, allowed),
        };
        let named = message.header(header).ok_or_else(|| {
            Refused::new("no-queue", format!("it has no header {header} that says its queue"))
        })?;
        let queue = String::from_utf8_lossy(named);
        let name = queue::name(&queue);
        if !queue::is_queue(&queue)
            || !allowed.iter().any(|pattern| pattern.matches(name))
            || queue::is_fifo(name)
        {
            let reason =
                format!("its header {header} names the queue {queue:?}, which `queues` does not allow");
            return Err(Refused::new("queue-not-allowed", reason));
        }
        Ok(queue.as_ref().into())
    }

    fn delay(&self, message: &MessageRef<'_>) -> Result<Option<i32>, Refused> {
        let given = self.delay_header.as_deref().and_then(|name| Some((name, message.header(name)?)));
        let Some((name, value)) = given else { return Ok(self.delay) };
        let seconds = std::str::from_utf8(value).ok().and_then(|text| text.trim().parse::<u16>().ok());
        let seconds = seconds.filter(|&seconds| Duration::from_secs(seconds.into()) <= MAX_DELAY);
        seconds.map(|seconds| Some(seconds.into())).ok_or_else(|| {
            let reason = format!("the value of header {name:?} is no delay: whole seconds from 0 to 900");
            Refused::new("invalid-delay", reason)
        })
    }

    /// The entries of a request, numbered; bodies that are to be in S3 are put there.
    async fn numbered(&self, entries: &[Arc<Sending>]) -> Result<Vec<SendMessageBatchRequestEntry>, Trouble> {
        let mut numbered = Vec::with_capacity(entries.len());
        for (number, sending) in entries.iter().enumerate() {
            let mut entry = sending.entry.clone();
            entry.id = number.to_string();
            if sending.aside {
                entry.message_body = self.bodies.put_aside(entry.message_body.into()).await?;
            }
            numbered.push(entry);
        }
        Ok(numbered)
    }

    /// The outcome of entries for a queue that is not there: one that messages name may never be.
    fn missing(&self, failure: Failure, entries: usize) -> Result<Vec<Option<Result<(), Failure>>>, Trouble> {
        match (&self.target, failure.kind) {
            (Target::Header { .. }, Kind::Missing) => {
                let refused = Failure { kind: Kind::Refused, code: UNKNOWN_QUEUE.to_owned(), ..failure };
                Ok(vec![Some(Err(refused)); entries])
            }
            _ => Err(failure.into()),
        }
    }
}

#[async_trait]
impl Destination for Queues {
    type Entry = Sending;

    fn entry(&self, message: &MessageRef<'_>, body: Vec<u8>) -> Result<Entry<Sending>, Refused> {
        let queue = self.queue(message)?;
        let Parts { body, attributes, aside, bytes } = self.bodies.of(message, body)?;
        let (group, deduplication) = self.ids.of(message, &body, &attributes)?;
        let attributes = values(attributes, |data_type, text, bytes| {
            let value = MessageAttributeValue::builder().data_type(data_type);
            value.set_string_value(text).set_binary_value(bytes).build()
        })?;
        let entry = SendMessageBatchRequestEntry::builder()
            // Its number in a request, when it is in one.
            .id("0")
            .message_body(body)
            .set_delay_seconds(self.delay(message)?)
            .set_message_attributes(attributes)
            .set_message_group_id(group.clone())
            .set_message_deduplication_id(deduplication)
            .build()
            .map_err(|error| Refused::new("invalid-message", error.to_string()))?;
        Ok(Entry {
            what: Sending { queue: Arc::clone(&queue), entry, aside },
            bytes,
            group: group.filter(|_| self.ids.is_fifo),
            target: Some(queue),
        })
    }

    async fn send(&self, entries: &[Arc<Sending>]) -> Result<Vec<Option<Result<(), Failure>>>, Trouble> {
        let Some(queue) = entries.first().map(|sending| &sending.queue) else { return Ok(Vec::new()) };
        let client = self.connection.client().await?;
        let url = match self.url(client, queue).await {
            Ok(url) => url,
            Err(failure) => return self.missing(failure, entries.len()),
        };
        let numbered = self.numbered(entries).await?;
        let request = client.send_message_batch().queue_url(url).set_entries(Some(numbered));
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) => {
                let failure = Failure::of(&format!("SendMessageBatch to {queue}"), &error);
                return self.missing(failure, entries.len());
            }
        };
        let done = answer.successful().iter().map(|done| done.id());
        let failed = answer.failed().iter().map(|failed| {
            (failed.id(), Failure::of_entry(failed.code(), failed.message(), failed.sender_fault()))
        });
        Ok(results(entries.len(), done, failed))
    }
}
