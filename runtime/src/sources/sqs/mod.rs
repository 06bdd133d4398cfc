//! `sqs`: a queue of Amazon SQS, standard or FIFO.
//!
//! - [`queue`]: the queue, and what is asked of it
//! - [`body`]: what a message of it is to a pipeline
//! - [`opener`]: what bodies stand for
//! - [`custody`]: messages that were received and SQS still has
//! - [`work`]: the tasks that receive, keep hidden, delete and give back
//! - [`failures`]: how often messages have failed, over their redeliveries
//! - [`halves`]: reader and committer

mod body;
mod custody;
mod failures;
mod halves;
mod opener;
mod queue;
mod work;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use aws_sdk_sqs::Client;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use self::custody::{BATCH, Custody, Limits, MESSAGE_BYTES};
use self::failures::Failed;
use self::halves::{SqsCommitter, SqsReader};
use self::opener::Opener;
use self::queue::Queue;
use self::work::{Gauges, Settings, Work};
use super::{Asked, OpenSource, Replay, SourceConfig, SourceContext, SourceSpec, SourceTraits};
use crate::aws::claim_check::FetchSection;
use crate::aws::notification::NotificationSection;
use crate::aws::queue::{is_fifo, is_queue, name as queue_name};
use crate::aws::{Access, Connection};
use crate::codecs::Framing;
use crate::config::parse;
use crate::config::problem::Problem;
use crate::config::units::Interval;
use crate::message::Position;

pub const SPEC: SourceSpec = SourceSpec {
    name: "sqs",
    schema: || schemars::schema_for!(SqsSource),
    example: "[source]\ntype = \"sqs\"\nqueue = \"orders.fifo\"\naws = { region = \"eu-central-1\" }\n",
    default_codec: "raw",
    parse: |value| Ok(Box::new(parse::<SqsSource>(value)?)),
};

/// Reads a queue of Amazon SQS. A message is hidden from all others for as long as it is in flight here,
/// and deleted once it is settled. What was received and not settled when the pipeline stops is given
/// back at once.
///
/// Of a FIFO queue (its name ends with `.fifo`) the next message of a group is handed out only after the
/// one before it is settled; different groups go on side by side. A standard queue has no order: say
/// `ordering = "none"`, or the others wait for one that has to be tried again.
///
/// The payload is the body, the key is the `MessageGroupId`, the timestamp is when the message was sent.
/// Each attribute of the message is a header of its name: the text of a `String` or `Number`, the bytes of
/// a `Binary`. For one that is not a `String` the header `millstream-sqs-type-NAME` says its type. Of SQS
/// come `sqs-message-id`, `sqs-receive-count` (how often it was received, by whom ever), `sqs-sent-at`
/// (milliseconds since 1970), `sqs-group-id`, `sqs-deduplication-id`, `sqs-sequence-number` and
/// `AWSTraceHeader`.
///
/// A message that arrives again while it is in flight here is not read twice.
///
/// Allowed must be `sqs:ReceiveMessage`, `sqs:DeleteMessage`, `sqs:ChangeMessageVisibility`,
/// `sqs:GetQueueUrl` if the queue is given by its name, and `sqs:GetQueueAttributes` for the metrics
/// `millstream_sqs_messages` (its depth) and for the warning that its redrive policy is tighter than
/// `max_failures`. SQS itself tells nobody but CloudWatch how old its oldest message is:
/// `millstream_sqs_age_seconds` is the age of the oldest that was received within the last 30 to 60
/// seconds.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SqsSource {
    /// The queue, by its name or its url; one of another account by its url.
    queue: String,
    /// How AWS is reached, and who we are to it.
    #[serde(default)]
    aws: Access,
    /// Notifications of SNS are taken out of their envelope; with this section, which may be empty.
    sns: Option<NotificationSection>,
    /// Payloads that are kept aside in S3 are fetched.
    claim_check: Option<FetchSection>,
    /// Requests that wait for messages at the same time, at most. While the queue is empty only one does.
    #[serde(default = "receivers_default")]
    receivers: usize,
    /// How long such a request waits for a first message: whole seconds, at most 20. A stop waits for it
    /// for two seconds.
    #[serde(default = "wait_time_default")]
    wait_time: Interval,
    /// For so long a message is hidden, and then for so long again, at a third of it, as long as it is in
    /// flight, up to the twelve hours that SQS allows. After a crash it comes back when this is over. Whole
    /// seconds, at least 2.
    #[serde(default = "visibility_timeout_default")]
    visibility_timeout: Interval,
    /// Messages that are here at once, at most: read, being deleted, or waiting to be read. SQS allows
    /// 120,000 to all readers of a queue together.
    #[serde(default = "max_in_flight_default")]
    max_in_flight: usize,
    /// A message that has failed in so many deliveries becomes a dead letter when it is received again. A
    /// delivery has failed if a plugin or a sink failed on the message and it was given back before it was
    /// settled, as at a stop. Receives alone do not count; they do for the queue's own redrive policy. Each
    /// member counts for itself, in its data folder.
    #[serde(default = "max_failures_default")]
    max_failures: u32,
}

fn receivers_default() -> usize {
    4
}

fn wait_time_default() -> Interval {
    Interval::secs(20)
}

fn visibility_timeout_default() -> Interval {
    Interval::secs(30)
}

fn max_in_flight_default() -> usize {
    1000
}

fn max_failures_default() -> u32 {
    3
}

/// The longest wait of a receive
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-short-and-long-polling.html>).
const MAX_WAIT: Duration = Duration::from_secs(20);

/// The longest visibility timeout
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
const MAX_VISIBILITY: Duration = Duration::from_secs(12 * 3600);

/// It is extended at a third, by whole seconds.
const MIN_VISIBILITY: Duration = Duration::from_secs(2);

/// Messages of a queue in flight, with all its readers; of FIFO queues too
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html>).
const MAX_IN_FLIGHT: usize = 120_000;

/// More requests at the same time than a queue needs.
const MAX_RECEIVERS: usize = 100;

/// Share of the budget for messages that are being received and those that wait to be read.
const WAITING_SHARE: usize = 4;

impl SqsSource {
    fn limits(&self, budget: usize) -> Limits {
        let receive = BATCH * MESSAGE_BYTES;
        Limits {
            messages: self.max_in_flight,
            prefetch: self.receivers * BATCH,
            bytes: (budget / WAITING_SHARE).clamp(MESSAGE_BYTES, self.receivers * receive * 2),
            visibility: self.visibility_timeout.0,
        }
    }

    fn check_queue(&self, problems: &mut Vec<Problem>) {
        if !is_queue(&self.queue) {
            let help = "at most 80 letters, digits, `-` and `_`, and `.fifo` at the end of a FIFO queue's; or \
                        the queue's url, as \"https://sqs.eu-central-1.amazonaws.com/123456789012/orders\"";
            problems.push(Problem::new("/queue", format!("{:?} is no queue", self.queue)).help(help));
        }
    }
}

impl SourceConfig for SqsSource {
    fn check(&self, context: &SourceContext, problems: &mut Vec<Problem>) {
        self.check_queue(problems);
        self.aws.check("/aws", &context.base, problems);
        if let Some(sns) = &self.sns {
            sns.check(&context.base, problems);
        }
        if let Some(claim_check) = &self.claim_check {
            claim_check.check(&context.base, problems);
        }
        let counts = [
            ("/receivers", self.receivers, MAX_RECEIVERS),
            ("/max_in_flight", self.max_in_flight, MAX_IN_FLIGHT),
            ("/max_failures", self.max_failures as usize, usize::MAX),
        ];
        for (at, count, most) in counts {
            match count {
                0 => problems.push(Problem::new(at, "0 is too few").help("at least 1")),
                count if count > most => problems
                    .push(Problem::new(at, format!("{count} are too many")).help(format!("at most {most}"))),
                _ => {}
            }
        }
        let times = [
            ("/wait_time", self.wait_time, Duration::ZERO, MAX_WAIT),
            ("/visibility_timeout", self.visibility_timeout, MIN_VISIBILITY, MAX_VISIBILITY),
        ];
        for (at, time, least, most) in times {
            if time.0.subsec_nanos() != 0 || !(least..=most).contains(&time.0) {
                let (least, most) = (least.as_secs(), Interval(most));
                problems.push(
                    Problem::new(at, format!("{time} is no time that SQS takes here"))
                        .help(format!("whole seconds, from \"{least}s\" to \"{most}\"")),
                );
            }
        }
        let decoder = context.codec.decoder();
        if decoder.has_head() || matches!(context.codec.framing(), Framing::Csv { .. }) {
            problems.push(
                Problem::new("/codec", "a message of SQS is one message, and has no head")
                    .help("codec = \"raw\", \"lines\", \"json\" or \"record\""),
            );
        }
    }

    fn traits(&self) -> SourceTraits {
        let is_fifo = is_fifo(&self.queue);
        SourceTraits {
            replay: Replay::Yes,
            unordered: (!is_fifo).then_some("a standard queue of SQS has no order; one of FIFO has"),
            partitions: None,
        }
    }

    fn ask<'a>(&'a self, base: &'a Path) -> Asked<'a> {
        Box::pin(async move {
            let connection = Connection::new(self.aws.clone(), base, Client::new);
            let queue = Queue::new(&self.queue, connection);
            match queue.attributes().await {
                Ok(attributes) => Ok(attributes.warnings(&queue, self.max_failures)),
                Err(trouble) => anyhow::bail!(trouble.reason()),
            }
        })
    }

    fn kept_elsewhere(&self) -> Option<String> {
        let name = queue_name(&self.queue);
        Some(format!(
            "the queue {name} keeps what is not settled, and forgets what is; there is no position to set"
        ))
    }

    fn open(self: Box<Self>, context: SourceContext) -> anyhow::Result<OpenSource> {
        let limits = self.limits(context.budget);
        let opener = Opener::new(
            self.sns.as_ref(),
            self.claim_check.as_ref(),
            &self.aws,
            &context.base,
            context.max_message_bytes,
            context.budget,
        );
        let reserved = limits.bytes + opener.reserved();
        let wait = self.wait_time.0;
        let connection = Connection::new(self.aws, &context.base, Client::new).that_waits(wait);
        let queue = Queue::new(&self.queue, connection);
        let name = format!("sqs:{}", queue.name());
        let gauges = Gauges::new(&context.metrics, &context.pipeline, queue.name());
        let work = Arc::new(Work {
            pipeline: context.pipeline,
            queue,
            custody: Custody::new(limits),
            settings: Settings {
                receivers: self.receivers,
                wait_secs: i32::try_from(wait.as_secs()).context("the wait_time")?,
                visibility: self.visibility_timeout.0,
                max_failures: self.max_failures,
            },
            failed: Failed::load(context.failures).context("cannot read how often messages have failed")?,
            opener,
            waits: context.waits,
            gauges,
            broken: Mutex::default(),
            breaks: CancellationToken::new(),
            is_waiting: AtomicBool::new(false),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
            closing: CancellationToken::new(),
        });
        let reader = SqsReader::new(
            Arc::clone(&work),
            context.codec.framing(),
            context.codec.decoder(),
            context.max_message_bytes,
            reserved,
        );
        let committer = SqsCommitter::new(Arc::clone(&work));
        let described = name.clone();
        Ok(OpenSource {
            name,
            reader: Box::new(reader),
            committer: Box::new(committer),
            describe: Arc::new(move |position: Position| match work.custody.id(position.offset) {
                Some(id) => format!("{described} message {id}"),
                None => format!("{described} message with the hash {:016x}", position.offset),
            }),
        })
    }
}

#[cfg(test)]
mod tests;
