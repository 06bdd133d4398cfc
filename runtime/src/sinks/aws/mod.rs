//! Sinks on AWS. They share how messages of a call become requests ([`batches`]), where in a message a key
//! is ([`places`]), how headers become attributes ([`attributes`]), and ids of FIFO queues and topics
//! ([`fifo`]).

mod attributes;
mod batches;
#[cfg(test)]
mod batches_tests;
mod fifo;
pub mod kinesis;
mod places;
pub mod sns;
pub mod sqs;
#[cfg(test)]
mod tests;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use schemars::JsonSchema;
use serde::Deserialize;

use self::batches::Refused;

/// How the bytes of a message become the text that the service takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Encoding {
    /// As they are, which must be UTF-8; others become dead letters (`not-text`).
    #[default]
    Text,
    /// Base64.
    Base64,
}

/// The body of a message as text, for a service that has no other. `of` is a message's home, as `a queue`.
fn text(encoding: Encoding, body: Vec<u8>, of: &str) -> Result<String, Refused> {
    if body.is_empty() {
        return Err(Refused::new("empty", format!("{of} takes no message without a body")));
    }
    match encoding {
        Encoding::Base64 => Ok(BASE64.encode(&body)),
        Encoding::Text => String::from_utf8(body).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let help = "`encoding = \"base64\"` sends any bytes";
            Refused::new("not-text", format!("the body is no UTF-8 from byte {at} on; {help}"))
        }),
    }
}

/// Whether SQS takes this character:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html>
fn is_allowed(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}
