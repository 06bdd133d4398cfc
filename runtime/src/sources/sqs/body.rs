//! What a message of SQS is to a pipeline: its payload, key and headers.

use std::time::SystemTime;

use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName as System};

use crate::aws::TYPE_HEADER;
use crate::dead_letters::RECEIVE_COUNT_HEADER;

/// A message as the pipeline gets it.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    pub payload: Vec<u8>,
    /// Why it is none, as a code and in words: then `payload` is what there is of it.
    pub refused: Option<(&'static str, String)>,
    /// The id of its group.
    pub key: Option<String>,
    pub headers: Vec<(String, Vec<u8>)>,
    /// When it was sent, milliseconds since 1970-01-01T00:00:00Z.
    pub sent_at_ms: i64,
}

impl Content {
    /// Bytes that it holds, about.
    pub fn bytes(&self) -> usize {
        let headers = self.headers.iter().map(|(name, value)| name.len() + value.len());
        self.payload.len() + headers.sum::<usize>()
    }
}

/// What a message holds, as it came.
pub fn read(mut message: Message) -> Content {
    let attributes = message.message_attributes.take();
    let system = |name: System| message.attributes.as_ref()?.get(&name).cloned();
    let sent_at_ms = system(System::SentTimestamp).and_then(|text| text.parse().ok()).unwrap_or_else(now_ms);
    let key = system(System::MessageGroupId);
    let mut headers = Vec::new();
    let mut attributes: Vec<(String, MessageAttributeValue)> = attributes.into_iter().flatten().collect();
    attributes.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    for (name, MessageAttributeValue { string_value, binary_value, data_type, .. }) in attributes {
        let value = string_value.map(String::into_bytes);
        let value = value.or_else(|| binary_value.map(|blob| blob.into_inner())).unwrap_or_default();
        if data_type != "String" {
            headers.push((format!("{TYPE_HEADER}{name}"), data_type.into_bytes()));
        }
        headers.push((name, value));
    }
    let of_sqs = [
        ("sqs-message-id", message.message_id.clone()),
        (RECEIVE_COUNT_HEADER, system(System::ApproximateReceiveCount)),
        ("sqs-sent-at", system(System::SentTimestamp)),
        ("sqs-group-id", key.clone()),
        ("sqs-deduplication-id", system(System::MessageDeduplicationId)),
        ("sqs-sequence-number", system(System::SequenceNumber)),
        ("AWSTraceHeader", system(System::AwsTraceHeader)),
    ];
    let of_sqs = of_sqs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into_bytes())));
    headers.extend(of_sqs);
    let payload = message.body.unwrap_or_default().into_bytes();
    Content { payload, refused: None, key, headers, sent_at_ms }
}

fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_sqs::primitives::Blob;

    #[test]
    fn attributes_become_headers_with_their_types() {
        let attribute = |kind: &str, text: Option<&str>, bytes: Option<&[u8]>| {
            MessageAttributeValue::builder()
                .data_type(kind)
                .set_string_value(text.map(str::to_owned))
                .set_binary_value(bytes.map(Blob::new))
                .build()
                .unwrap()
        };
        let message = Message::builder()
            .message_id("m-1")
            .body("bytes as sent: ä")
            .message_attributes("tenant", attribute("String", Some("Zoë"), None))
            .message_attributes("cents", attribute("Number.cents", Some("12"), None))
            .message_attributes("raw", attribute("Binary", None, Some(&[0, 255])))
            .attributes(System::ApproximateReceiveCount, "2")
            .attributes(System::SentTimestamp, "1700000000000")
            .attributes(System::MessageGroupId, "g")
            .build();
        let content = read(message);
        let headers: Vec<(&str, &[u8])> =
            content.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let expected: [(&str, &[u8]); 9] = [
            ("millstream-sqs-type-cents", b"Number.cents"),
            ("cents", b"12"),
            ("millstream-sqs-type-raw", b"Binary"),
            ("raw", &[0, 255]),
            ("tenant", "Zoë".as_bytes()),
            ("sqs-message-id", b"m-1"),
            ("sqs-receive-count", b"2"),
            ("sqs-sent-at", b"1700000000000"),
            ("sqs-group-id", b"g"),
        ];
        assert_eq!(headers, expected);
        assert_eq!(content.payload, "bytes as sent: ä".as_bytes());
        assert_eq!((content.key.as_deref(), content.sent_at_ms), (Some("g"), 1_700_000_000_000));
        assert_eq!(content.refused, None);
    }
}
