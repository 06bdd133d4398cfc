//! Native steps: what a source has done to each of its messages in front of the plugins, in the host.
//!
//! They run in the lanes, as plugins do: in parallel, in the order of arrival (P3), once more for each
//! replay, and a message that one of them refuses is a dead letter as it was read (P5), of the stage
//! `source:NAME`. They are no plugins: they have no sandbox, no identity and no state, are not replaced
//! while the pipeline runs, and must therefore bound what they do by themselves.

mod convert;
pub mod schema;
pub mod signature;

use std::sync::Arc;

use bytes::Bytes;

pub use self::convert::Convert;

use crate::codecs::Needs;

use crate::message::{Batch, MAX_ARENA_BYTES, MessageRef, Span};
use crate::plugin::{Fate, FateVerdict, Processed};

/// A native step of a configuration that was checked.
pub trait NativeSpec: Send + Sync {
    /// What it is called in metrics and dead letters, behind `source:`.
    fn name(&self) -> &'static str;

    /// One for a lane. What is costly to make is shared by all of them.
    fn start(&self) -> Box<dyn NativeStep>;
}

/// The native steps of a source, in their order.
pub type Natives = Vec<Arc<dyn NativeSpec>>;

/// A native step of one lane.
pub trait NativeStep: Send {
    /// What has to be waited for before this batch is processed, if anything; asked again afterwards. The
    /// lane waits without end, and says so.
    fn needs<'a>(&'a self, _batch: &'a Batch) -> Option<Needs<'a>> {
        None
    }

    /// What becomes of a batch; see [`each`]. An error means that it cannot run any more at all: the
    /// pipeline stops. [`FateVerdict::Retry`] is tried again as `[retry]` says, in its order.
    fn process(&mut self, batch: Batch) -> anyhow::Result<Processed>;
}

/// What becomes of one message.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on as it is.
    Pass,
    /// It goes on with the payload that was written.
    Payload,
    /// It does not go on, for this reason.
    Refuse(FateVerdict),
}

impl Verdict {
    /// It cannot become better by being tried again.
    pub fn reject(code: &str, reason: impl Into<String>) -> Verdict {
        Verdict::Refuse(FateVerdict::Rejected { code: code.to_owned(), reason: reason.into() })
    }
}

/// Takes the messages of a batch one by one. `judge` may append a new payload to the buffer and say
/// [`Verdict::Payload`]; what it appends and says otherwise is forgotten.
pub fn each(mut batch: Batch, mut judge: impl FnMut(&MessageRef<'_>, &mut Vec<u8>) -> Verdict) -> Processed {
    let mut written = Vec::new();
    // Where the new payload of a row lies, if it has one.
    let mut payloads: Vec<(u32, u32, u32)> = Vec::new();
    let mut refused = Vec::new();
    for (row, message) in (0..).zip(batch.messages()) {
        let start = written.len();
        let mut verdict = judge(&message, &mut written);
        if written.len() > MAX_ARENA_BYTES {
            let reason = format!("a batch becomes more than {MAX_ARENA_BYTES} bytes with it");
            verdict = Verdict::reject("too-large", reason);
        }
        match verdict {
            Verdict::Payload => {
                payloads.push((row, start as u32, (written.len() - start) as u32));
                continue;
            }
            Verdict::Pass => {}
            Verdict::Refuse(verdict) => refused.push((row, verdict)),
        }
        written.truncate(start);
    }
    if !payloads.is_empty() {
        // A batch comes here with the few arenas of its source.
        let arena = batch.add_arena(Bytes::from(written)).expect("there is room for an arena a native step");
        for (row, start, len) in payloads {
            batch.rows_mut()[row as usize].payload = Span::new(arena, start, len);
        }
    }
    let mut refused = refused.into_iter().peekable();
    let mut processed = Processed::default();
    let mut rows = Vec::with_capacity(batch.len());
    for (parent, row) in (0..).zip(batch.take_rows()) {
        match refused.next_if(|(refused, _)| *refused == parent) {
            Some((_, verdict)) => processed.fates.push(Fate { parent, row, verdict }),
            None => {
                rows.push(row);
                processed.parents.push(parent);
            }
        }
    }
    batch.set_rows(rows);
    processed.batch = batch;
    processed
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::message::{BatchBuilder, Message, Position};

    /// A batch of these payloads.
    pub fn batch(payloads: &[&str]) -> Batch {
        let mut out = BatchBuilder::new();
        for (record, payload) in (1..).zip(payloads) {
            let message = Message { payload: Some(payload.as_bytes().to_vec()), ..Message::default() };
            out.push_message(&message, Position { record, ..Position::default() });
        }
        out.finish()
    }

    fn payloads(batch: &Batch) -> Vec<&str> {
        batch.messages().map(|message| std::str::from_utf8(message.payload().unwrap()).unwrap()).collect()
    }

    #[test]
    fn each_message_passes_becomes_another_or_is_refused() {
        let judge = |message: &MessageRef<'_>, out: &mut Vec<u8>| match message.payload().unwrap() {
            b"pass" => {
                out.extend_from_slice(b"forgotten");
                Verdict::Pass
            }
            b"refuse" => {
                out.extend_from_slice(b"forgotten");
                Verdict::reject("bad", "it says so")
            }
            other => {
                out.extend(other.iter().rev());
                Verdict::Payload
            }
        };
        let processed = each(batch(&["abc", "pass", "refuse", "xyz", ""]), judge);
        assert_eq!(payloads(&processed.batch), ["cba", "pass", "zyx", ""]);
        assert_eq!(processed.parents, [0, 1, 3, 4]);
        let [fate] = &processed.fates[..] else { panic!("{:?}", processed.fates) };
        assert_eq!((fate.parent, fate.row.position.record), (2, 3));
        assert!(matches!(&fate.verdict, FateVerdict::Rejected { code, .. } if code == "bad"));
        assert_eq!(processed.batch.bytes(fate.row.payload), Some(&b"refuse"[..]));
    }
}
