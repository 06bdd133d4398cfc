//! What of a message is its body, for a service that takes text and attributes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;

use super::attributes::{self, Attribute, Attributes, Value};
use super::batches::{Refused, Trouble};
use crate::aws::claim_check::{Putter, SIZE_ATTRIBUTE};
use crate::aws::{Failure, dead_letter_queue, is_allowed};
use crate::config::units::ByteSize;
use crate::dead_letters::story;
use crate::message::MessageRef;

/// How the bytes of a message become the text that the service takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Encoding {
    /// As they are, which must be UTF-8; others become dead letters (`not-text`).
    #[default]
    Text,
    /// Base64.
    Base64,
}

/// How messages become bodies and attributes.
pub struct Bodies {
    /// What takes them, as `SQS`.
    pub service: &'static str,
    pub encoding: Encoding,
    pub attributes: Attributes,
    /// Dead letters are written as [`dead_letter_queue`] has them: their codec is `raw`.
    pub dead_letters: bool,
    pub claim_check: Option<Putter>,
    /// Bytes of a message, attributes included.
    pub max_bytes: ByteSize,
    /// Where the limit is said, for the reason of a refusal.
    pub limit: &'static str,
}

/// Body and attributes of a message.
pub struct Parts {
    pub body: String,
    pub attributes: Vec<Attribute>,
    /// The body goes to S3 before the message is sent, which has a pointer in its place.
    pub aside: bool,
    /// As the service counts them.
    pub bytes: usize,
}

/// What a pointer and its attribute take, at most, beside bucket and prefix of the key.
const POINTER_BYTES: usize = 1024;

impl Bodies {
    /// # Errors
    /// The service would not take it.
    pub fn of(&self, message: &MessageRef<'_>, body: Vec<u8>) -> Result<Parts, Refused> {
        let (body, mut attributes) = match self.dead_letters && story::is_told(message) {
            true => self.dead_letter(message)?,
            false => (text(self.encoding, body, self.service)?, self.attributes.of(message)?),
        };
        let mut bytes = body.len() + attributes::bytes(&attributes);
        let is_full = |attributes: &[Attribute]| attributes.len() >= attributes::MAX_ATTRIBUTES;
        let aside = |bytes| self.claim_check.as_ref().is_some_and(|putter| putter.wants(bytes));
        if bytes > self.max_bytes.as_usize() || (is_full(&attributes) && aside(bytes)) {
            attributes::drop_trace(&mut attributes);
            bytes = body.len() + attributes::bytes(&attributes);
        }
        if aside(bytes) {
            if is_full(&attributes) {
                let reason = format!(
                    "it has {} attributes, and a payload in S3 needs one more; {} are taken",
                    attributes.len(),
                    attributes::MAX_ATTRIBUTES
                );
                return Err(Refused::new("too-many-attributes", reason));
            }
            let size = Value::Text(body.len().to_string());
            attributes.push(Attribute {
                name: SIZE_ATTRIBUTE.to_owned(),
                data_type: "Number".to_owned(),
                value: size,
            });
            let bytes = POINTER_BYTES + attributes::bytes(&attributes);
            self.check_size(bytes)?;
            return Ok(Parts { body, attributes, aside: true, bytes });
        }
        self.check_size(bytes)?;
        if let Some(char) = body.chars().find(|&char| !is_allowed(char)) {
            let help = "`encoding = \"base64\"` sends any bytes";
            let reason = format!("the body holds {char:?}, which {} does not take; {help}", self.service);
            return Err(Refused::new("invalid-characters", reason));
        }
        Ok(Parts { body, attributes, aside: false, bytes })
    }

    fn check_size(&self, bytes: usize) -> Result<(), Refused> {
        if bytes <= self.max_bytes.as_usize() {
            return Ok(());
        }
        let reason =
            format!("it is {bytes} bytes with its attributes, and {} {}", self.limit, self.max_bytes);
        Err(Refused::new("too-large", reason))
    }

    /// The headers that it had are attributes too, if they can all be.
    fn dead_letter(&self, message: &MessageRef<'_>) -> Result<(String, Vec<Attribute>), Refused> {
        let (body, story) = dead_letter_queue::body_and_attribute(message)
            .map_err(|error| Refused::new("encode-error", error.to_string()))?;
        let mut attributes = self.attributes.of(message).unwrap_or_default();
        if attributes.len() >= attributes::MAX_ATTRIBUTES {
            attributes.clear();
        }
        let name = dead_letter_queue::ATTRIBUTE.to_owned();
        attributes.push(Attribute { name, data_type: "String".to_owned(), value: Value::Text(story) });
        Ok((body.as_str().to_owned(), attributes))
    }

    /// Puts a body aside; the pointer to it.
    ///
    /// # Errors
    /// S3 does not take it now.
    pub async fn put_aside(&self, body: Bytes) -> Result<String, Trouble> {
        let Some(putter) = &self.claim_check else {
            return Err(Trouble::Fatal("there is no bucket for large payloads".to_owned()));
        };
        Ok(putter.put(body).await?.map_err(Failure::not_refused)?)
    }
}

/// The body of a message as text. `service` takes it, as `SQS`.
pub fn text(encoding: Encoding, body: Vec<u8>, service: &str) -> Result<String, Refused> {
    if body.is_empty() {
        return Err(Refused::new("empty", format!("{service} takes no message without a body")));
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
