//! What a topic takes, asked of the broker.
//!
//! A broker refuses a batch for one record in it, and may by then have taken a later batch of the same
//! partition. So what a topic would refuse must be known before it is sent (P3).

use std::ffi::{CStr, CString, c_char};
use std::time::{Duration, Instant};

use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafkaAdminOp, RDKafkaResourceType};

use super::owned::Owned;

/// Bytes of a record batch before its records (KIP-98, format 2).
const BATCH_BYTES: u64 = 61;

/// `max.message.bytes` of Kafka where nobody sets it.
const DEFAULT_MAX_BYTES: u64 = 1_048_588;

/// A topic that a broker makes on demand is there some moments after it was asked for first.
const PROPAGATION: Duration = Duration::from_secs(2);

/// What a topic takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLimits {
    /// Bytes of a batch; `None` if we may not know.
    pub max_bytes: Option<u64>,
    /// Every record needs a key.
    pub compacted: bool,
    /// How far in the past and in the future a timestamp may be, in milliseconds; `None` if it does
    /// not matter.
    pub before_ms: Option<i64>,
    pub after_ms: Option<i64>,
}

/// A topic takes it not.
#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: &'static str,
    pub reason: String,
}

impl TopicLimits {
    /// Of a topic whose configuration we may not see.
    pub const UNKNOWN: TopicLimits =
        TopicLimits { max_bytes: None, compacted: false, before_ms: None, after_ms: None };

    /// Bytes of a batch that it surely takes, as far as can be known.
    pub fn batch_bytes(&self) -> u64 {
        self.max_bytes.unwrap_or(DEFAULT_MAX_BYTES)
    }

    /// Why the topic would refuse a record of so many bytes, as [`record_bytes`] counts them.
    pub fn refuses(&self, bytes: u64, has_key: bool, timestamp_ms: i64, now_ms: i64) -> Option<Refusal> {
        if let Some(max) = self.max_bytes.filter(|max| BATCH_BYTES + bytes > *max) {
            let reason = format!(
                "the record has {} bytes before compression, the topic takes {max} (`max.message.bytes`)",
                BATCH_BYTES + bytes
            );
            return Some(Refusal { code: "too-large", reason });
        }
        if self.compacted && !has_key {
            let reason = "the topic is compacted and takes no record without a key".to_owned();
            return Some(Refusal { code: "no-key", reason });
        }
        self.refuses_time(timestamp_ms, now_ms)
    }

    fn refuses_time(&self, timestamp_ms: i64, now_ms: i64) -> Option<Refusal> {
        let age_ms = now_ms.saturating_sub(timestamp_ms);
        let reason = if timestamp_ms < 0 {
            "Kafka has no timestamps before 1970".to_owned()
        } else if timestamp_ms == 0 {
            // Sent with the time of sending.
            return None;
        } else if let Some(max) = self.before_ms.filter(|max| age_ms > *max) {
            format!(
                "its timestamp is {age_ms} ms old, the topic takes {max} (`message.timestamp.before.max.ms`)"
            )
        } else if let Some(max) = self.after_ms.filter(|max| age_ms.saturating_neg() > *max) {
            let ahead_ms = age_ms.saturating_neg();
            format!(
                "its timestamp is {ahead_ms} ms ahead, the topic takes {max} (`message.timestamp.after.max.ms`)"
            )
        } else {
            return None;
        };
        Some(Refusal { code: "timestamp", reason })
    }

    fn of_configuration(mut value: impl FnMut(&str) -> Option<String>) -> TopicLimits {
        let mut number = |name: &str| value(name).and_then(|text| text.parse::<i64>().ok());
        let max_bytes = number("max.message.bytes").and_then(|bytes| u64::try_from(bytes).ok());
        let (before_ms, after_ms) =
            (number("message.timestamp.before.max.ms"), number("message.timestamp.after.max.ms"));
        let by_creator = value("message.timestamp.type").is_some_and(|kind| kind == "CreateTime");
        let policies = value("cleanup.policy").unwrap_or_default();
        TopicLimits {
            max_bytes,
            compacted: policies.split(',').any(|policy| policy.trim() == "compact"),
            before_ms: before_ms.filter(|_| by_creator),
            after_ms: after_ms.filter(|_| by_creator),
        }
    }
}

/// Bytes of a record alone in a batch, without those of the batch (KIP-98, format 2).
pub fn record_bytes<'a>(
    key: Option<&[u8]>,
    payload: Option<&[u8]>,
    headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
) -> u64 {
    let text = |bytes: Option<&[u8]>| match bytes {
        None => 1,
        Some(bytes) => varint_bytes(bytes.len() as u64) + bytes.len() as u64,
    };
    // Attributes, and the distances of timestamp and offset from those of the batch.
    let mut bytes = 3 + text(key) + text(payload);
    let mut count = 0;
    for (name, value) in headers {
        bytes += text(Some(name)) + text(Some(value));
        count += 1;
    }
    bytes += varint_bytes(count);
    varint_bytes(bytes) + bytes
}

/// Bytes of a number that is not negative, as ZigZag and LEB128.
fn varint_bytes(number: u64) -> u64 {
    let bits = u64::from(u64::BITS - number.leading_zeros()) + 1;
    bits.div_ceil(7)
}

/// Whether Kafka takes this for the name of a topic.
pub fn is_topic_name(name: &str) -> bool {
    let of_names = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(of_names)
}

/// Asks on the connection of a client, whose main queue another thread serves. `None` if there is no
/// such topic, and the broker makes none. Takes up to `timeout` for each of its questions.
///
/// # Errors
/// The cluster does not answer.
pub fn ask<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<TopicLimits>, KafkaError> {
    let Some(broker) = broker_that_knows(client, topic, timeout)? else { return Ok(None) };
    match configuration(client, broker, topic, timeout) {
        Ok(limits) => Ok(Some(limits)),
        Err(error) => match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::UnsupportedFeature
                | RDKafkaErrorCode::UnsupportedVersion,
            ) => Ok(Some(TopicLimits::UNKNOWN)),
            _ => Err(error),
        },
    }
}

/// A broker that can be asked about the topic; `None` if there is no such topic.
fn broker_that_knows<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Option<i32>, KafkaError> {
    let asked = Instant::now();
    let mut pause = PROPAGATION / 32;
    loop {
        let metadata = client.fetch_metadata(Some(topic), timeout)?;
        let error = metadata.topics().first().and_then(|topic| topic.error());
        match error.map(RDKafkaErrorCode::from) {
            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => {}
            Some(RDKafkaErrorCode::InvalidTopic) => return Ok(None),
            // No leader yet, not allowed: whoever writes to it is told.
            _ => {
                let answered = Some(metadata.orig_broker_id()).filter(|id| *id >= 0);
                let broker = answered.or_else(|| metadata.brokers().first().map(|broker| broker.id()));
                let nobody = KafkaError::MetadataFetch(RDKafkaErrorCode::AllBrokersDown);
                return broker.ok_or(nobody).map(Some);
            }
        }
        if asked.elapsed() >= PROPAGATION {
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause *= 2;
    }
}

/// The `AdminClient` of the crate `rdkafka` has a connection of its own, on which nobody answers when
/// librdkafka asks for a token.
fn configuration<C: ClientContext>(
    client: &Client<C>,
    broker: i32,
    topic: &str,
    timeout: Duration,
) -> Result<TopicLimits, KafkaError> {
    let handle = client.native_ptr();
    let name = CString::new(topic)?;
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `handle` lives as long as `client`, which is borrowed until this returns; what is made of
    // it is freed before. The name is copied. The string for an error may be null with the length 0.
    let (queue, options, resource) = unsafe {
        let queue = Owned::new(rd::rd_kafka_queue_new(handle), rd::rd_kafka_queue_destroy)?;
        let operation = RDKafkaAdminOp::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
        let options =
            Owned::new(rd::rd_kafka_AdminOptions_new(handle, operation), rd::rd_kafka_AdminOptions_destroy)?;
        let mut error: [c_char; 256] = [0; 256];
        rd::rd_kafka_AdminOptions_set_request_timeout(
            options.as_ptr(),
            timeout_ms,
            error.as_mut_ptr(),
            error.len(),
        );
        // Any broker knows; without this it would be the controller.
        rd::rd_kafka_AdminOptions_set_broker(options.as_ptr(), broker, error.as_mut_ptr(), error.len());
        let kind = RDKafkaResourceType::RD_KAFKA_RESOURCE_TOPIC;
        let resource = Owned::new(
            rd::rd_kafka_ConfigResource_new(kind, name.as_ptr()),
            rd::rd_kafka_ConfigResource_destroy,
        )?;
        (queue, options, resource)
    };
    let mut resources = [resource.as_ptr()];
    // SAFETY: the one resource is copied; the answer comes to `queue`, which lives. An answer always
    // comes, at the timeout of the options with an error.
    let event = unsafe {
        rd::rd_kafka_DescribeConfigs(
            handle,
            resources.as_mut_ptr(),
            resources.len(),
            options.as_ptr(),
            queue.as_ptr(),
        );
        rd::rd_kafka_queue_poll(queue.as_ptr(), timeout_ms.saturating_add(1000))
    };
    let timed_out = KafkaError::Global(RDKafkaErrorCode::OperationTimedOut);
    let event = Owned::new(event, rd::rd_kafka_event_destroy).map_err(|_| timed_out)?;
    read_configuration(&event)
}

fn read_configuration(event: &Owned<rd::rd_kafka_event_t>) -> Result<TopicLimits, KafkaError> {
    // SAFETY: the event lives. The result, its resource and its entries are parts of it; the arrays have
    // as many elements as is told; names end with 0, values do too or are null.
    unsafe {
        let error = RDKafkaErrorCode::from(rd::rd_kafka_event_error(event.as_ptr()));
        if error != RDKafkaErrorCode::NoError {
            return Err(KafkaError::Global(error));
        }
        let nothing = || KafkaError::Global(RDKafkaErrorCode::BadMessage);
        let result = rd::rd_kafka_event_DescribeConfigs_result(event.as_ptr());
        if result.is_null() {
            return Err(nothing());
        }
        let mut count = 0;
        let resources = rd::rd_kafka_DescribeConfigs_result_resources(result, &mut count);
        if resources.is_null() || count == 0 {
            return Err(nothing());
        }
        let resource = *resources;
        let error = RDKafkaErrorCode::from(rd::rd_kafka_ConfigResource_error(resource));
        if error != RDKafkaErrorCode::NoError {
            return Err(KafkaError::Global(error));
        }
        let entries = rd::rd_kafka_ConfigResource_configs(resource, &mut count);
        let entries = if entries.is_null() { &[] } else { std::slice::from_raw_parts(entries, count) };
        Ok(TopicLimits::of_configuration(|name| {
            let entry = entries.iter().find(|entry| {
                CStr::from_ptr(rd::rd_kafka_ConfigEntry_name(**entry)).to_bytes() == name.as_bytes()
            })?;
            let value = rd::rd_kafka_ConfigEntry_value(*entry);
            (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(values: &[(&str, &str)]) -> TopicLimits {
        TopicLimits::of_configuration(|name| {
            values.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    fn code(limits: &TopicLimits, bytes: u64, has_key: bool, timestamp_ms: i64) -> Option<&'static str> {
        limits.refuses(bytes, has_key, timestamp_ms, 10_000).map(|refusal| refusal.code)
    }

    #[test]
    fn p3_what_a_topic_would_refuse_is_known_before() {
        let set = limits(&[
            ("max.message.bytes", "161"),
            ("cleanup.policy", "compact,delete"),
            ("message.timestamp.type", "CreateTime"),
            ("message.timestamp.before.max.ms", "500"),
            ("message.timestamp.after.max.ms", "100"),
        ]);
        assert_eq!(code(&set, 100, true, 10_000), None);
        assert_eq!(code(&set, 101, true, 10_000), Some("too-large"));
        assert_eq!(code(&set, 100, false, 10_000), Some("no-key"));
        for (timestamp_ms, expected) in [
            (9_500, None),
            (9_499, Some("timestamp")),
            (10_100, None),
            (10_101, Some("timestamp")),
            (0, None),
            (-1, Some("timestamp")),
        ] {
            assert_eq!(code(&set, 1, true, timestamp_ms), expected, "{timestamp_ms}");
        }
        let by_broker = limits(&[
            ("message.timestamp.type", "LogAppendTime"),
            ("message.timestamp.before.max.ms", "500"),
            ("cleanup.policy", "delete"),
        ]);
        assert_eq!(code(&by_broker, u64::MAX / 2, false, 1), None);
        assert_eq!(TopicLimits::UNKNOWN.batch_bytes(), 1_048_588);
        assert_eq!(set.batch_bytes(), 161);
    }

    #[test]
    fn a_record_has_the_bytes_of_the_format() {
        let none: [(&[u8], &[u8]); 0] = [];
        // Length, attributes, two distances, null key, null payload, no headers.
        assert_eq!(record_bytes(None, None, none.into_iter()), 7);
        assert_eq!(record_bytes(Some(b"k"), Some(&[0; 64]), none.into_iter()), 2 + 3 + 2 + 66 + 1);
        assert_eq!(
            record_bytes(None, Some(b""), [(&b"h"[..], &b"v"[..])].into_iter()),
            1 + 3 + 1 + 1 + 1 + 4
        );
        assert_eq!([0, 63, 64, 8191, 8192].map(varint_bytes), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn names_of_topics_are_those_of_kafka() {
        for name in ["a", "orders.v1_x-y", &"a".repeat(249)] {
            assert!(is_topic_name(name), "{name}");
        }
        for name in ["", ".", "..", "a/b", "ä", "a b", &"a".repeat(250)] {
            assert!(!is_topic_name(name), "{name}");
        }
    }
}
