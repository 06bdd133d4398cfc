//! Groups and deduplication ids of FIFO queues and topics.

use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::attributes::Attribute;
use super::batches::Refused;
use super::places::{Key, Place};
use crate::config::problem::Problem;
use crate::message::MessageRef;
use crate::sinks::SinkContext;
use crate::traces::context::without_traceparent;

/// Of a group and of a deduplication id:
/// <https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatchRequestEntry.html>,
/// and of SNS the same.
const MAX_ID_CHARS: usize = 128;

/// Where a deduplication id comes from.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Deduplication {
    By(Service),
    At(Key),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// None is sent: the service makes it of the body (`ContentBasedDeduplication`).
    Content,
}

/// What a section says of groups and deduplication.
#[derive(Clone, Copy)]
pub struct Keys<'a> {
    pub is_fifo: bool,
    pub group: Option<&'a Key>,
    pub deduplication: Option<&'a Deduplication>,
}

impl Keys<'_> {
    /// Adds what is wrong with the keys `group` and `deduplication` of what is called `of`, as `queue`.
    pub fn check(self, of: &str, problems: &mut Vec<Problem>) {
        if self.deduplication.is_some() && !self.is_fifo {
            problems.push(
                Problem::new("/deduplication", format!("a standard {of} takes no deduplication ids"))
                    .help(format!("a {of} whose name ends in .fifo")),
            );
        }
        problems.extend(self.group.and_then(|key| key.place("/group").err()));
        problems.extend(self.deduplicated().err());
    }

    /// Adds what is wrong with `deduplication` where payloads are put into S3.
    pub fn check_aside(self, problems: &mut Vec<Problem>) {
        if self.deduplication == Some(&Deduplication::By(Service::Content)) {
            let message = "the body of a payload in S3 is another one each time it is sent";
            problems.push(
                Problem::new("/deduplication", message).help("no `deduplication`, or a place in the message"),
            );
        }
    }

    fn deduplicated(self) -> Result<How, Problem> {
        match self.deduplication {
            None => Ok(How::Made),
            Some(Deduplication::By(Service::Content)) => Ok(How::ByContent),
            Some(Deduplication::At(key)) => Ok(How::At(key.place("/deduplication")?)),
        }
    }

    /// # Errors
    /// What [`Keys::check`] finds.
    pub fn ids(self, context: &SinkContext) -> anyhow::Result<Ids> {
        let wrong = |problem: Problem| anyhow::anyhow!("{}: {}", problem.at, problem.message);
        Ok(Ids {
            is_fifo: self.is_fifo,
            group: self.group.map(|key| key.place("/group")).transpose().map_err(wrong)?,
            how: self.deduplicated().map_err(wrong)?,
            scope: format!("{}/{}", context.pipeline, context.name),
        })
    }
}

enum How {
    Made,
    ByContent,
    At(Place),
}

/// How a message gets its group and its deduplication id.
pub struct Ids {
    pub is_fifo: bool,
    group: Option<Place>,
    how: How,
    /// What tells this sink from others that write to the same place.
    scope: String,
}

impl Ids {
    /// Group and deduplication id of a message, if it is given such.
    ///
    /// # Errors
    /// There is no group where the section says it is, or one of them is in the payload, which is not JSON.
    pub fn of(
        &self,
        message: &MessageRef<'_>,
        body: &str,
        attributes: &[Attribute],
    ) -> Result<(Option<String>, Option<String>), Refused> {
        let group = self.group(message)?;
        let of_group = group.as_deref().unwrap_or_default();
        let deduplication = self.deduplication(message, of_group, body, attributes)?;
        Ok((group, deduplication))
    }

    /// The group of a message. Where nothing says it a FIFO queue or topic gets the message's key, and
    /// without one the source's partition, in which they are in order too.
    fn group(&self, message: &MessageRef<'_>) -> Result<Option<String>, Refused> {
        match &self.group {
            Some(place) => match place.find(message)? {
                Some(group) => Ok(Some(id(&group))),
                None if self.is_fifo => {
                    Err(Refused::new("no-group", "it has no group where `group` says it is"))
                }
                None => Ok(None),
            },
            None if !self.is_fifo => Ok(None),
            None => Ok(Some(match message.key() {
                Some(key) => id(key),
                None => format!("partition-{}", message.position().partition),
            })),
        }
    }

    /// The deduplication id of a message, if it is given one.
    fn deduplication(
        &self,
        message: &MessageRef<'_>,
        group: &str,
        body: &str,
        attributes: &[Attribute],
    ) -> Result<Option<String>, Refused> {
        match &self.how {
            _ if !self.is_fifo => Ok(None),
            How::ByContent => Ok(None),
            How::Made => Ok(Some(self.made(message, group, body, attributes))),
            How::At(place) => Ok(Some(match place.find(message)? {
                Some(found) => id(&found),
                None => self.made(message, group, body, attributes),
            })),
        }
    }

    /// The same whenever the source message is read and made into this one again. All that is sent is in
    /// it because several messages may descend from one, and none of them must take another's place.
    fn made(&self, message: &MessageRef<'_>, group: &str, body: &str, attributes: &[Attribute]) -> String {
        let position = message.position();
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        };
        add(self.scope.as_bytes());
        add(&position.partition.to_le_bytes());
        add(&position.offset.to_le_bytes());
        add(group.as_bytes());
        // The trace is another one whenever it is read again.
        for attribute in attributes.iter().filter(|attribute| !attribute.is_trace()) {
            add(attribute.name.as_bytes());
            add(attribute.value.bytes());
        }
        let [first, rest] = without_traceparent(message, body.as_bytes());
        add(first);
        if !rest.is_empty() {
            add(rest);
        }
        hex::encode(hash.finalize())
    }
}

/// Bytes as an id: as they are, or their SHA-256 if the services would not take them.
fn id(bytes: &[u8]) -> String {
    // Letters, digits and punctuation of ASCII; no space.
    let fits = !bytes.is_empty() && bytes.len() <= MAX_ID_CHARS && bytes.iter().all(u8::is_ascii_graphic);
    match std::str::from_utf8(bytes) {
        Ok(text) if fits => text.to_owned(),
        _ => hex::encode(Sha256::digest(bytes)),
    }
}
