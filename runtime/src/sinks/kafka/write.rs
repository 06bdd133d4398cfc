//! A call: its messages as records, what became of each, and which producer is the next.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use rdkafka::producer::Producer as _;

use super::known::KnownTopics;
use crate::codecs::{Body, Encoder, Protocol};
use crate::config::secrets::Redactor;
use crate::kafka::Cluster;
use crate::kafka::producer::{Broken, Call, Care, Producer, Record, Reports};
use crate::kafka::topics::{Refusal, TopicLimits, is_topic_name, record_bytes};
use crate::kafka::transactional::{self, Transactional};
use crate::message::MessageRef;
use crate::sinks::{CallError, ENCODE_ERROR, Outcome, Outcomes, Sink};
use crate::transactions::Transactions;

/// Where messages go.
#[derive(Clone)]
pub enum Destination {
    Topic(Arc<str>),
    /// The header with this name says it.
    Header(String),
}

/// How producers are made.
pub struct Settings {
    pub cluster: Cluster,
    pub config: ClientConfig,
    /// Whose they are, for the log.
    pub of: String,
}

pub struct KafkaOutput {
    settings: Settings,
    codec: Arc<dyn Encoder>,
    destination: Destination,
    timeout: Duration,
    /// Whose producer it is, if what is written belongs to transactions.
    transactions: Option<Arc<dyn Transactions>>,
    known: KnownTopics,
    /// The last call had a record that was refused after it was sent: now each goes alone.
    alone: bool,
    producer: Option<(Care, Producer)>,
    buffer: Vec<u8>,
}

impl KafkaOutput {
    pub fn new(
        settings: Settings,
        codec: Arc<dyn Encoder>,
        destination: Destination,
        timeout: Duration,
        transactions: Option<Arc<dyn Transactions>>,
    ) -> KafkaOutput {
        KafkaOutput {
            settings,
            codec,
            destination,
            timeout,
            transactions,
            known: KnownTopics::default(),
            alone: false,
            producer: None,
            buffer: Vec::new(),
        }
    }

    fn transactional(&self) -> Option<&Transactional> {
        self.transactions.as_deref().and_then(transactional::of)
    }

    /// A producer as careful as the known topics need it.
    fn producer(&mut self) -> Result<(Care, Producer), CallError> {
        let care = Care { batch_bytes: self.known.batch_bytes(), alone: self.alone };
        if let Some(transactional) = self.transactional() {
            return match transactional.present() {
                Some((present, producer))
                    if present.batch_bytes <= care.batch_bytes && (present.alone || !care.alone) =>
                {
                    Ok((present, producer))
                }
                present => {
                    transactional.want(care);
                    let reason = match present {
                        Some(_) => "it is run again with batches that the topics take",
                        None => "there is no producer",
                    };
                    Err(unavailable(RDKafkaErrorCode::State, reason.to_owned()))
                }
            };
        }
        if let Some((present, producer)) = &self.producer
            && present.alone == care.alone
            && present.batch_bytes <= care.batch_bytes
        {
            return Ok((*present, producer.clone()));
        }
        // The old one first: two at once would hold twice the connections.
        self.producer = None;
        let Settings { cluster, config, of } = &self.settings;
        let context = cluster.context(of);
        let started = context.and_then(|context| Producer::start(config.clone(), care, context));
        let producer = started.map_err(|error| CallError::Fatal(format!("{error:#}")))?;
        self.producer = Some((care, producer.clone()));
        Ok((care, producer))
    }

    /// The open transaction has failed; says what the next one needs.
    fn end_transaction(&self, care: Care, is_broken: bool) {
        let Some(transactional) = self.transactional() else { return };
        if is_broken {
            transactional.discard();
        }
        if self.alone {
            transactional.want(Care { alone: true, ..care });
        }
    }

    /// Asks what a topic takes, if it is not known.
    async fn learn(&mut self, topic: &str) -> Result<(), CallError> {
        if !self.known.is_due(topic) {
            return Ok(());
        }
        let of_transaction = self.transactional().and_then(Transactional::present);
        let (_, producer) = match of_transaction {
            Some(present) => present,
            None => self.producer()?,
        };
        let answer = tokio::select! {
            answer = producer.ask(topic, self.timeout) => answer,
            broken = producer.broken() => {
                self.producer = None;
                self.end_transaction(Care::default(), true);
                return Err(why_unavailable(&producer, Some(broken), None));
            }
        };
        match answer {
            Ok(limits) => self.known.set(topic, limits),
            Err(error) => return Err(cannot_ask(&producer, topic, &error)),
        }
        Ok(())
    }

    /// The topic of each message; the outcome of those that have none is set.
    fn topics_of<'m>(
        destination: &'m Destination,
        messages: &[MessageRef<'m>],
        outcomes: &mut [Option<Outcome>],
    ) -> Vec<&'m str> {
        let header = match destination {
            Destination::Topic(topic) => return vec![topic; messages.len()],
            Destination::Header(header) => header,
        };
        let mut topics = Vec::with_capacity(messages.len());
        for (message, outcome) in messages.iter().zip(outcomes) {
            let named = message.header(header);
            let topic = named.and_then(|name| str::from_utf8(name).ok()).filter(|name| is_topic_name(name));
            if topic.is_none() {
                let (code, reason) = match named {
                    None => ("no-topic", format!("it has no header {header} that says its topic")),
                    Some(name) => (
                        "unknown-topic",
                        format!("{:?} is not the name of a topic", String::from_utf8_lossy(name)),
                    ),
                };
                *outcome = Some(Outcome::Reject { code, reason });
            }
            topics.push(topic.unwrap_or_default());
        }
        topics
    }

    /// Asks for the topics that are not known; the outcome of messages whose topic is none is set.
    async fn learn_all(
        &mut self,
        topics: &[&str],
        outcomes: &mut [Option<Outcome>],
    ) -> Result<(), CallError> {
        let mut last = "";
        for (topic, outcome) in topics.iter().zip(outcomes).filter(|(_, outcome)| outcome.is_none()) {
            if *topic != last {
                self.learn(topic).await?;
            }
            if self.known.get(topic).is_some() {
                last = topic;
                continue;
            }
            let reason = format!("there is no topic {topic}");
            if let Destination::Topic(_) = self.destination {
                return Err(CallError::Unavailable { reason, retry_after: None, credentials: false });
            }
            *outcome = Some(Outcome::Reject { code: "unknown-topic", reason });
        }
        Ok(())
    }

    /// Sends the messages that have no outcome yet. Stops at the first that librdkafka does not take
    /// for another reason than the message itself, and returns that.
    fn send(
        &mut self,
        call: &Call<'_>,
        messages: &[MessageRef<'_>],
        topics: &[&str],
        outcomes: &mut [Option<Outcome>],
    ) -> Option<(usize, RDKafkaErrorCode)> {
        let now_ms = jiff::Timestamp::now().as_millisecond();
        for (number, (message, topic)) in messages.iter().zip(topics).enumerate() {
            if outcomes[number].is_some() {
                continue;
            }
            let limits = self.known.get(topic).unwrap_or(&TopicLimits::UNKNOWN);
            let sent = record(&*self.codec, message, topic, &mut self.buffer)
                .and_then(|record| refuse_early(limits, record, now_ms))
                .map(|record| call.send(number, record));
            match sent {
                Ok(Ok(())) => {}
                Ok(Err(RDKafkaErrorCode::MessageSizeTooLarge)) => {
                    let reason = "the record is larger than `message.max.bytes` of [librdkafka]".to_owned();
                    outcomes[number] = Some(Outcome::Reject { code: "too-large", reason });
                }
                Ok(Err(code)) => return Some((number, code)),
                Err(outcome) => outcomes[number] = Some(outcome),
            }
        }
        None
    }

    /// What the reports say, and which producer is the next.
    fn judge(
        &mut self,
        producer: &Producer,
        care: Care,
        topics: &[&str],
        reports: Reports,
        mut outcomes: Vec<Option<Outcome>>,
    ) -> Result<Outcomes, CallError> {
        let mut refused = None;
        let mut failure = None;
        for (number, report) in reports.each.into_iter().enumerate() {
            match report {
                None => {}
                Some(Ok(())) => outcomes[number] = Some(Outcome::Durable),
                Some(Err(code)) if is_refusal(code) => {
                    refused = refused.or(Some((number, code)));
                    self.known.forget(topics[number]);
                    if care.alone {
                        let (code, reason) = refusal(code, topics[number]);
                        outcomes[number] = Some(Outcome::Reject { code, reason });
                    }
                }
                Some(Err(code)) => {
                    if is_unknown_topic(code) {
                        self.known.forget(topics[number]);
                    }
                    // What was purged failed because of another one.
                    if failure.is_none_or(|(_, code)| is_purge(code)) {
                        failure = Some((number, code));
                    }
                }
            }
        }
        if refused.is_none() && failure.is_none() && reports.broken.is_none() {
            self.alone = false;
            return Ok(all_known(outcomes));
        }
        let whose = |(number, code): (usize, RDKafkaErrorCode)| (topics[number], code);
        if self.transactions.is_some() {
            return Err(match refused {
                Some((message, code)) if care.alone => {
                    let (code, reason) = refusal(code, topics[message]);
                    CallError::Refused { message, code, reason }
                }
                _ => {
                    self.alone = refused.is_some();
                    self.end_transaction(care, reports.broken.is_some());
                    why_unavailable(producer, reports.broken, refused.or(failure).map(whose))
                }
            });
        }
        self.producer = None;
        if refused.is_some() {
            self.alone = true;
            let later = Outcome::Later {
                reason: "the brokers refused a batch; its messages are sent one by one".to_owned(),
                after: Some(Duration::ZERO),
            };
            return Ok(Outcomes::Each(
                outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(|| later.clone())).collect(),
            ));
        }
        let why = why_unavailable(producer, reports.broken, failure.map(whose));
        if outcomes.iter().all(Option::is_none) { Err(why) } else { Ok(Outcomes::Until(outcomes, why)) }
    }
}

#[async_trait]
impl Sink for KafkaOutput {
    async fn write(&mut self, messages: &[MessageRef<'_>]) -> Result<Outcomes, CallError> {
        let transactions = self.transactions.clone();
        let transactional = transactions.as_deref().and_then(transactional::of);
        let _turn = match transactional {
            Some(transactional) => Some(transactional.turn().await),
            None => None,
        };
        let mut outcomes: Vec<Option<Outcome>> = vec![None; messages.len()];
        let destination = self.destination.clone();
        let topics = Self::topics_of(&destination, messages, &mut outcomes);
        self.learn_all(&topics, &mut outcomes).await?;
        let (care, mut producer) = self.producer()?;
        if producer.is_busy() {
            // A call before was given up in the middle.
            if let Some(transactional) = transactional {
                transactional.discard();
            }
            self.producer = None;
            producer = self.producer()?.1;
        }
        let call = producer.begin(messages.len());
        let stopped = self.send(&call, messages, &topics, &mut outcomes);
        let mut reports = call.reports(self.timeout).await;
        if let Some((number, code)) = stopped
            && let Some(report) = reports.each.get_mut(number)
        {
            *report = Some(Err(code));
        }
        self.judge(&producer, care, &topics, reports, outcomes)
    }
}

/// The message as a record; if its codec cannot write it, what becomes of it instead.
fn record<'a>(
    codec: &dyn Encoder,
    message: &MessageRef<'a>,
    topic: &'a str,
    buffer: &'a mut Vec<u8>,
) -> Result<Record<'a>, Outcome> {
    let reject = |reason: String| Outcome::Reject { code: ENCODE_ERROR, reason };
    buffer.clear();
    let mut given = Vec::new();
    let payload = match codec.encode_with_headers(message, Protocol::Kafka, buffer, &mut given) {
        Ok(Body::Written) => Some(buffer.as_slice()),
        Ok(Body::Nothing) => None,
        // A tombstone, which only few codecs can write and Kafka can.
        Err(_) if message.payload().is_none() => None,
        Err(error) => return Err(reject(error.to_string())),
    };
    let is_own = codec.own_headers();
    let kept = message.headers().filter(|(name, _)| is_own.is_none_or(|is_own| !is_own(name)));
    let count = message.headers().len() + given.len();
    let mut headers = (count > 0).then(|| OwnedHeaders::new_with_capacity(count));
    let mut add = |key: &str, value: &[u8]| {
        headers = headers.take().map(|headers| headers.insert(Header { key, value: Some(value) }));
    };
    for (name, value) in kept {
        let key = str::from_utf8(name).map_err(|_| reject("the name of a header is not UTF-8".to_owned()))?;
        add(key, value);
    }
    given.iter().for_each(|header| add(&header.name, header.value.as_bytes()));
    let timestamp_ms = message.timestamp_ms();
    Ok(Record { topic, key: message.key(), payload, headers, timestamp_ms })
}

/// Refuses what the topic would refuse.
fn refuse_early<'a>(limits: &TopicLimits, record: Record<'a>, now_ms: i64) -> Result<Record<'a>, Outcome> {
    let headers = record.headers.iter().flat_map(OwnedHeaders::iter);
    let headers = headers.map(|header| (header.key.as_bytes(), header.value.unwrap_or_default()));
    let bytes = record_bytes(record.key, record.payload, headers);
    match limits.refuses(bytes, record.key.is_some(), record.timestamp_ms, now_ms) {
        None => Ok(record),
        Some(Refusal { code, reason }) => {
            Err(Outcome::Reject { code, reason: format!("topic {}: {reason}", record.topic) })
        }
    }
}

/// Outcomes of a call that went through. Messages without one were not sent, which ends a call.
fn all_known(outcomes: Vec<Option<Outcome>>) -> Outcomes {
    if outcomes.iter().all(|outcome| *outcome == Some(Outcome::Durable)) {
        return Outcomes::AllDurable;
    }
    let not_sent = || Outcome::Later { reason: "it was not sent".to_owned(), after: None };
    Outcomes::Each(outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(not_sent)).collect())
}

/// The brokers refused the batch because of a record in it.
fn is_refusal(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessage
            | Code::InvalidMessageSize
            | Code::InvalidRecord
            | Code::InvalidDifferentRecord
            | Code::InvalidTimestamp
            | Code::PolicyViolation
            | Code::UnsupportedForMessageFormat
    )
}

/// Code and reason of a message that the topic does not take.
fn refusal(code: RDKafkaErrorCode, topic: &str) -> (&'static str, String) {
    let short = match code {
        RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge => "too-large",
        RDKafkaErrorCode::InvalidTimestamp => "timestamp",
        _ => "refused",
    };
    (short, format!("topic {topic}: {code}"))
}

fn is_unknown_topic(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition
    )
}

fn is_purge(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight | RDKafkaErrorCode::Fatal)
}

fn unavailable(code: RDKafkaErrorCode, reason: String) -> CallError {
    use RDKafkaErrorCode as Code;
    let credentials = matches!(
        code,
        Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::UnsupportedSASLMechanism
            | Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    );
    let reason = Redactor::global().redact(&reason).into_owned();
    CallError::Unavailable { reason, retry_after: None, credentials }
}

fn cannot_ask(producer: &Producer, topic: &str, error: &KafkaError) -> CallError {
    let (mut code, mut why) =
        (error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail), error.to_string());
    if let Some((last, text)) = producer.take_error() {
        (code, why) = (last, text);
    }
    unavailable(code, format!("the cluster does not say whether there is a topic {topic}: {why}"))
}

/// Why a call ended early.
fn why_unavailable(
    producer: &Producer,
    broken: Option<Broken>,
    failure: Option<(&str, RDKafkaErrorCode)>,
) -> CallError {
    let silence = match (broken, failure) {
        (Some(Broken::Error(code, reason)), _) => return unavailable(code, reason),
        (_, Some((topic, code))) if !is_purge(code) => {
            return unavailable(code, format!("topic {topic}: {code}"));
        }
        (Some(Broken::Silence(time)), _) => Some(time),
        (None, _) => None,
    };
    if let Some((code, reason)) = producer.client().client().fatal_error() {
        return unavailable(code, format!("the producer had to stop: {reason}"));
    }
    match silence {
        Some(time) => {
            let (code, last) = producer.take_error().unzip();
            let last = last.map(|last| format!("; the last error: {last}")).unwrap_or_default();
            let code = code.unwrap_or(RDKafkaErrorCode::OperationTimedOut);
            unavailable(code, format!("nothing got through for {time:?}{last}"))
        }
        None => unavailable(RDKafkaErrorCode::Fail, "the producer had to stop".to_owned()),
    }
}
