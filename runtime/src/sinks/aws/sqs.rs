//! `sqs`: sends messages to a queue.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use aws_smithy_types::Blob;
use reqwest::Url;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::attributes::{self, Attribute, Attributes, Value};
use super::batches::{Batches, Destination, Entry, Limits, Refused, Trouble, Unmade};
use super::fifo::{Deduplication, Ids, Keys};
use super::places::Key;
use super::{Encoding, is_allowed, text};
use crate::aws::{Access, Connection, Failure, Kind};
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::{ByteSize, Interval};
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
/// So do a body that is empty (`empty`), one that is no text (`not-text`) or
/// has characters that SQS does not take (`invalid-characters`: control characters), and more than 1 MiB
/// with attributes (`too-large`).
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SqsSink {
    /// The queue, by name or by url. While there is none the sink waits.
    queue: String,
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
    /// replayed dead letter, always does.
    attributes: Option<Vec<String>>,
    /// Types of attributes, as `{ price = "Number" }`. By default an attribute is a `String`, or `Binary`
    /// if its bytes are no text that SQS takes.
    #[serde(default)]
    attribute_types: BTreeMap<String, String>,
    /// How bytes become the text that a message of SQS is.
    #[serde(default)]
    encoding: Encoding,
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
        self.queue.ends_with(".fifo")
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
        let help = "its name, as \"orders\" or \"orders.fifo\", or its url";
        let name = match self.queue.contains("://") {
            false => self.queue.as_str(),
            true => match Url::parse(&self.queue) {
                Ok(url) if matches!(url.scheme(), "http" | "https") => {
                    self.queue.rsplit('/').next().unwrap_or_default()
                }
                _ => "",
            },
        };
        // <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html>
        let is_char = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let plain = name.strip_suffix(".fifo").unwrap_or(name);
        if plain.is_empty() || name.len() > 80 || !plain.bytes().all(is_char) {
            problems.push(Problem::new("/queue", format!("{:?} is no queue", self.queue)).help(help));
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
        self.limits().check((MAX_MESSAGES, MAX_BYTES), problems);
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

    fn open(self: Box<Self>, context: SinkContext) -> anyhow::Result<Box<dyn Sink>> {
        let queue = Queue {
            connection: Connection::new(self.aws.clone(), &context.base, Duration::ZERO),
            client: OnceCell::new(),
            url: OnceCell::new(),
            ids: self.keys().ids(&context).context("the keys of the queue")?,
            attributes: self.attributes(),
            encoding: self.encoding,
            delay: self.delay.map(|delay| delay.0.as_secs() as i32),
            delay_header: self.delay_header.clone(),
            queue: self.queue.clone(),
        };
        Ok(Box::new(Batches::new(queue, context.codec, self.limits())))
    }
}

/// A queue that messages are sent to.
struct Queue {
    connection: Connection,
    client: OnceCell<Client>,
    /// Name or url.
    queue: String,
    url: OnceCell<String>,
    ids: Ids,
    attributes: Attributes,
    encoding: Encoding,
    delay: Option<i32>,
    delay_header: Option<String>,
}

impl Queue {
    async fn client(&self) -> Result<&Client, Trouble> {
        let client =
            self.client.get_or_try_init(|| async { self.connection.config().await.map(Client::new) });
        client.await.map_err(|error| Trouble::Fatal(format!("{error:#}")))
    }

    async fn url(&self, client: &Client) -> Result<&str, Failure> {
        if self.queue.contains("://") {
            return Ok(&self.queue);
        }
        let found = self.url.get_or_try_init(|| async {
            let found = client.get_queue_url().queue_name(&self.queue).send().await;
            let found = found.map_err(|error| {
                let failure = Failure::of(&format!("GetQueueUrl of {}", self.queue), &error);
                // No message has to do with it.
                let kind = if failure.kind == Kind::Refused { Kind::Missing } else { failure.kind };
                Failure { kind, ..failure }
            })?;
            Ok(found.queue_url().unwrap_or_default().to_owned())
        });
        Ok(found.await?.as_str())
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
}

#[async_trait]
impl Destination for Queue {
    type Entry = SendMessageBatchRequestEntry;

    async fn entry(&self, message: &MessageRef<'_>, body: Vec<u8>) -> Result<Entry<Self::Entry>, Unmade> {
        let body = text(self.encoding, body, "SQS")?;
        if let Some(char) = body.chars().find(|&char| !is_allowed(char)) {
            let help = "`encoding = \"base64\"` sends any bytes";
            let reason = format!("the body holds {char:?}, which SQS does not take; {help}");
            return Err(Refused::new("invalid-characters", reason).into());
        }
        let attributes = self.attributes.of(message)?;
        let bytes = body.len() + attributes::bytes(&attributes);
        if bytes > MAX_BYTES.as_usize() {
            let reason = format!("it is {bytes} bytes with its attributes, and SQS takes {MAX_BYTES}");
            return Err(Refused::new("too-large", reason).into());
        }
        let group = self.ids.group(message)?;
        let of_group = group.as_deref().unwrap_or_default();
        let deduplication = self.ids.deduplication(message, of_group, &body, &attributes)?;
        let entry = SendMessageBatchRequestEntry::builder()
            // Its number in a request, when it is in one.
            .id("0")
            .message_body(body)
            .set_delay_seconds(self.delay(message)?)
            .set_message_attributes(values(attributes)?)
            .set_message_group_id(group.clone())
            .set_message_deduplication_id(deduplication)
            .build()
            .map_err(|error| Refused::new("invalid-message", error.to_string()))?;
        Ok(Entry { what: entry, bytes, group: group.filter(|_| self.ids.is_fifo) })
    }

    async fn send(&self, entries: &[Arc<Self::Entry>]) -> Result<Vec<Option<Result<(), Failure>>>, Trouble> {
        let client = self.client().await?;
        let url = self.url(client).await?;
        let numbered = entries.iter().enumerate().map(|(number, entry)| {
            let mut entry = Self::Entry::clone(entry);
            entry.id = number.to_string();
            entry
        });
        let request = client.send_message_batch().queue_url(url).set_entries(Some(numbered.collect()));
        let answer = request.send().await;
        let what = || format!("SendMessageBatch to {}", self.queue);
        let answer = answer.map_err(|error| Failure::of(&what(), &error))?;
        let mut results: Vec<Option<Result<(), Failure>>> = vec![None; entries.len()];
        let done = answer.successful().iter().map(|done| (done.id(), Ok(())));
        let failed = answer.failed().iter().map(|failed| {
            let failure = Failure::of_entry(failed.code(), failed.message(), failed.sender_fault());
            (failed.id(), Err(failure))
        });
        for (id, result) in done.chain(failed) {
            if let Some(place) = id.parse().ok().and_then(|number: usize| results.get_mut(number)) {
                *place = Some(result);
            }
        }
        Ok(results)
    }
}

/// `None` if there are none.
fn values(attributes: Vec<Attribute>) -> Result<Option<HashMap<String, MessageAttributeValue>>, Refused> {
    let value = |attribute: Attribute| {
        let value = MessageAttributeValue::builder().data_type(attribute.data_type);
        let value = match attribute.value {
            Value::Text(text) => value.string_value(text),
            Value::Bytes(bytes) => value.binary_value(Blob::new(bytes)),
        };
        let value = value.build().map_err(|error| Refused::new("invalid-attribute", error.to_string()))?;
        Ok((attribute.name, value))
    };
    let values: HashMap<_, _> = attributes.into_iter().map(value).collect::<Result<_, _>>()?;
    Ok((!values.is_empty()).then_some(values))
}
