//! Sinks on AWS. They share how messages of a call become requests ([`batches`]), where in a message a key
//! is ([`places`]), how a message becomes body and attributes ([`body`], [`attributes`]), and ids of FIFO
//! queues and topics ([`fifo`]).

mod attributes;
mod batches;
#[cfg(test)]
mod batches_tests;
mod body;
mod fifo;
pub mod kinesis;
mod places;
pub mod sns;
pub mod sqs;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::aws::Failure;
use crate::codecs::Encoder;

/// Whether payloads are written as they are (the codec `raw`).
fn is_raw(codec: &Arc<dyn Encoder>) -> bool {
    codec.media_type() == "application/octet-stream"
}

/// What became of entries that are numbered by their ids; `None` of those that the answer does not name.
fn results<'a>(
    entries: usize,
    done: impl Iterator<Item = &'a str>,
    failed: impl Iterator<Item = (&'a str, Failure)>,
) -> Vec<Option<Result<(), Failure>>> {
    let mut results: Vec<Option<Result<(), Failure>>> = vec![None; entries];
    let done = done.map(|id| (id, Ok(())));
    for (id, result) in done.chain(failed.map(|(id, failure)| (id, Err(failure)))) {
        if let Some(place) = id.parse().ok().and_then(|number: usize| results.get_mut(number)) {
            *place = Some(result);
        }
    }
    results
}
