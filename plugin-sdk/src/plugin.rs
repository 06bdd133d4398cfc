//! What a plugin is, and what becomes of a message in it.

use std::borrow::Cow;
use std::fmt;

use millstream_json_pointer::NotJson;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::ConfigError;
use crate::message::{Batch, Message};
use crate::output::Output;

/// A plugin: its name, its configuration, what it reads. Beside this, implement exactly one of
/// [`Filter`], [`Map`] and [`Process`].
pub trait Plugin: Sized + 'static {
    /// Its configuration; [`NoConfig`](crate::NoConfig) if it has none. Doc comments of its fields
    /// become their reference. Give structs `#[serde(deny_unknown_fields)]`, so that an error for
    /// an unknown field lists the known ones.
    type Config: DeserializeOwned + JsonSchema;

    /// As users name it in a pipeline, such as `verify-signature`.
    const NAME: &'static str;

    /// One sentence.
    const SUMMARY: &'static str;

    /// Only this is sent into the sandbox. Reading anything else is a panic.
    const READS: Reads = Reads::PAYLOAD;

    /// Called once for every instance, before the first message. An instance lives until it fails
    /// or its memory has grown too large, so what a plugin remembers may be gone at any time.
    fn new(config: Self::Config) -> Result<Self, ConfigError>;
}

/// Keeps or drops messages.
pub trait Filter: Plugin {
    /// `true` passes the message on unchanged, `false` drops it.
    fn keep(&mut self, message: &Message<'_>) -> Result<bool, Failure>;
}

/// Makes a new JSON payload of each message; key and headers stay.
pub trait Map: Plugin {
    /// Returns the new payload. It may borrow from the message.
    fn map(&mut self, message: &Message<'_>) -> Result<impl Serialize, Failure>;
}

/// The general form: pass, drop, or emit any number of messages in place of one.
pub trait Process: Plugin {
    /// What is emitted to `out` takes the place of the message if the verdict is
    /// [`Verdict::Emit`]; after an error it is discarded.
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure>;

    /// Called with each batch. Override it to do something once for many messages, such as one
    /// look-up for all their keys; then [`Output::settle`] each message, in order.
    ///
    /// The host divides batches as it likes: the result of a message must not depend on which
    /// others are in its batch.
    fn process_batch(&mut self, batch: &Batch<'_>, out: &mut Output) {
        for message in batch.messages() {
            let verdict = self.process(&message, out);
            out.settle(verdict);
        }
    }
}

/// What becomes of a message.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It goes on unchanged.
    Pass,
    /// It ends here, on purpose: it counts as settled.
    Drop,
    /// The messages emitted take its place.
    Emit,
}

impl Verdict {
    /// [`Verdict::Pass`] or [`Verdict::Drop`].
    pub fn pass_if(keep: bool) -> Verdict {
        if keep { Verdict::Pass } else { Verdict::Drop }
    }
}

/// Why a message is not processed: it is rejected (to the dead letters) or to be tried again later.
#[must_use]
#[derive(PartialEq, Eq)]
pub struct Failure(Box<FailureParts>);

#[derive(PartialEq, Eq)]
pub(crate) struct FailureParts {
    pub(crate) retry: bool,
    pub(crate) code: Cow<'static, str>,
    pub(crate) text: String,
}

impl From<NotJson> for Failure {
    fn from(not_json: NotJson) -> Failure {
        Failure::reject("payload-not-json", not_json.to_string())
    }
}

impl Failure {
    /// The message goes to the dead letters.
    ///
    /// `code` is short and one of few, such as `signature-mismatch`: it becomes a label of metrics.
    /// `text` is for people.
    pub fn reject(code: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Failure {
        Failure(Box::new(FailureParts { retry: false, code: code.into(), text: text.into() }))
    }

    /// The message is given to the plugin again after the pipeline's backoff, and to the dead
    /// letters once the attempts are used up. `code` and `text` as in [`Failure::reject`].
    pub fn retry(code: impl Into<Cow<'static, str>>, text: impl Into<String>) -> Failure {
        Failure(Box::new(FailureParts { retry: true, code: code.into(), text: text.into() }))
    }

    pub fn is_retry(&self) -> bool {
        self.0.retry
    }

    pub fn code(&self) -> &str {
        &self.0.code
    }

    pub fn text(&self) -> &str {
        &self.0.text
    }

    pub(crate) fn into_parts(self) -> FailureParts {
        *self.0
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.0.retry { "retry" } else { "reject" };
        write!(f, "{verdict} {}: {}", self.0.code, self.0.text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl std::error::Error for Failure {}

/// What a plugin reads of a message, such as `Reads::PAYLOAD.and(Reads::HEADERS)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reads {
    pub(crate) payload: bool,
    pub(crate) key: bool,
    pub(crate) headers: bool,
    pub(crate) metadata: bool,
}

impl Reads {
    pub const NOTHING: Reads = Reads { payload: false, key: false, headers: false, metadata: false };
    pub const PAYLOAD: Reads = Reads { payload: true, ..Reads::NOTHING };
    pub const KEY: Reads = Reads { key: true, ..Reads::NOTHING };
    pub const HEADERS: Reads = Reads { headers: true, ..Reads::NOTHING };
    /// Timestamp, partition and offset.
    pub const METADATA: Reads = Reads { metadata: true, ..Reads::NOTHING };

    /// This and `other`.
    pub const fn and(self, other: Reads) -> Reads {
        Reads {
            payload: self.payload | other.payload,
            key: self.key | other.key,
            headers: self.headers | other.headers,
            metadata: self.metadata | other.metadata,
        }
    }
}
