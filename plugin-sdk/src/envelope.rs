//! The standard envelope of an event, as a type.
//!
//! ```
//! use millstream_sdk::envelope::{Draft, Envelope};
//! use millstream_sdk::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize)]
//! struct OrderPlaced {
//!     order: String,
//! }
//!
//! #[derive(Serialize)]
//! struct PaymentRequested {
//!     order: String,
//! }
//!
//! fn answer(message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
//!     let placed: Envelope<OrderPlaced> = message.json()?;
//!     let draft = Draft::of(message)?;
//!     let order = placed.data.order.clone();
//!     let requested = Envelope::caused_by(draft, &placed, "payment.requested", "orders", PaymentRequested { order });
//!     out.emit().payload_json(&requested)?;
//!     Ok(Verdict::Emit)
//! }
//! ```

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::{Builder, Uuid};

use crate::{Failure, Message, random};

/// The version of the envelope, which is that of CloudEvents 1.0.
pub const SPECVERSION: &str = "1.0";

/// An event with what all events say of themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<T> {
    /// A UUID of version 4.
    pub id: String,
    /// What has happened: `order.placed`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When, in UTC: `2024-02-29T12:00:00.000Z`.
    pub timestamp: String,
    /// Who says so.
    pub source: String,
    /// See [`SPECVERSION`].
    pub specversion: String,
    pub data: T,
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// What all events of one process share.
    #[serde(rename = "correlationId", default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// The id of the event that caused this one.
    #[serde(rename = "causationId", default, skip_serializing_if = "Option::is_none")]
    pub causation_id: Option<String>,
    /// Trace context, which goes on from an event to those that it causes.
    #[serde(rename = "_trace", default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<Value>,
    /// Fields that the standard does not know, kept as they are.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Id and time of an envelope that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    pub id: String,
    pub timestamp: String,
}

impl Draft {
    /// A random id, which the pipeline grants with `grants.random = true`, and the time of the batch.
    ///
    /// A message that is read again, after a crash say, gets another id then. Where those who read the
    /// events tell repetitions by their ids, make the id of what does not change: the position of the
    /// message, or a key of its data.
    ///
    /// # Errors
    /// Randomness is not granted; or the time of the batch is none of the years 1970 to 9999.
    pub fn of(message: &Message<'_>) -> Result<Draft, Failure> {
        let random = random::bytes(16)?;
        let bytes =
            random.try_into().map_err(|_| Failure::retry("no-random", "there were too few random bytes"))?;
        let id: Uuid = Builder::from_random_bytes(bytes).into_uuid();
        Ok(Draft { id: id.to_string(), timestamp: timestamp(message.now_ms())? })
    }
}

impl<T> Envelope<T> {
    /// An event that nothing caused: the first of its process, whose correlation id is its own.
    pub fn new(draft: Draft, kind: impl Into<String>, source: impl Into<String>, data: T) -> Envelope<T> {
        let Draft { id, timestamp } = draft;
        Envelope {
            correlation_id: Some(id.clone()),
            id,
            kind: kind.into(),
            timestamp,
            source: source.into(),
            specversion: SPECVERSION.to_owned(),
            data,
            metadata: Map::new(),
            causation_id: None,
            trace: None,
            other: Map::new(),
        }
    }

    /// An event that another one caused. It is of the same process (the cause's correlation id, or its
    /// id if it has none) and of the same trace.
    pub fn caused_by<C>(
        draft: Draft,
        cause: &Envelope<C>,
        kind: impl Into<String>,
        source: impl Into<String>,
        data: T,
    ) -> Envelope<T> {
        Envelope {
            correlation_id: Some(cause.correlation_id.as_ref().unwrap_or(&cause.id).clone()),
            causation_id: Some(cause.id.clone()),
            trace: cause.trace.clone(),
            ..Envelope::new(draft, kind, source, data)
        }
    }
}

/// ISO 8601 in UTC, with milliseconds.
fn timestamp(ms: u64) -> Result<String, Failure> {
    let since = Duration::from_millis(ms);
    // The last year of four digits.
    let time = UNIX_EPOCH.checked_add(since).filter(|_| since.as_secs() < 253_402_300_800);
    match time {
        Some(time) => Ok(humantime::format_rfc3339_millis(time).to_string()),
        None => {
            Err(Failure::reject("envelope-invalid", format!("{ms} ms since 1970 are beyond the year 9999")))
        }
    }
}

#[cfg(test)]
mod tests;
