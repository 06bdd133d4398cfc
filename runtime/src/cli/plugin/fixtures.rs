//! Messages in files of records, and what a plugin makes of them as lines that can be compared.

use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use serde_json::{Map, Value};

use crate::codecs::{FrameMeta, record_decoder, record_of};
use crate::message::{Batch, BatchBuilder, MAX_ARENA_BYTES, MessageRef, Position, Span};
use crate::plugin::{FateVerdict, Processed};

/// What an encoded message has that a line of a fixture leaves out.
const NO_TIME: &str = "1970-01-01T00:00:00.000Z";

/// The messages of a file: a record a line. Those without a time have none (1970).
pub fn messages(file: &Path) -> anyhow::Result<Batch> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    anyhow::ensure!(text.len() <= MAX_ARENA_BYTES, "{} is larger than 1GiB", file.display());
    let text = Bytes::from(text);
    let lines = text.split(|&byte| byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.trim_ascii().is_empty());
    let mut decoder = record_decoder();
    let mut out = BatchBuilder::new();
    let arena = out.arena(text.clone());
    for (number, (line, frame)) in lines.enumerate() {
        let meta = FrameMeta {
            key: Span::ABSENT,
            headers: &[],
            timestamp_ms: 0,
            position: Position { partition: 0, offset: number as u64, record: line as u64 + 1 },
        };
        let start = frame.as_ptr() as usize - text.as_ptr() as usize;
        let span = Span::new(arena, start as u32, frame.len() as u32);
        decoder
            .decode(frame, span, &meta, &mut out)
            .with_context(|| format!("{} line {}", file.display(), line + 1))?;
    }
    Ok(out.finish())
}

/// The lines of a file of expected messages, as [`line()`] writes them. They may have `routes` and
/// `code` beside what a record has.
pub fn expected(file: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| normal(line).with_context(|| format!("{} line {}", file.display(), number + 1)))
        .collect()
}

fn normal(text: &str) -> anyhow::Result<Value> {
    let mut fields: Map<String, Value> = serde_json::from_str(text)?;
    let besides: Vec<(&str, Value)> =
        ["routes", "code"].into_iter().filter_map(|name| Some((name, fields.remove(name)?))).collect();
    let text = Value::Object(fields).to_string();
    let mut out = BatchBuilder::new();
    let arena = out.arena(Bytes::copy_from_slice(text.as_bytes()));
    let meta = FrameMeta { key: Span::ABSENT, headers: &[], timestamp_ms: 0, position: Position::default() };
    let frame = Span::new(arena, 0, text.len() as u32);
    record_decoder().decode(text.as_bytes(), frame, &meta, &mut out)?;
    let mut line = line(&out.finish().message(0))?;
    line.extend(besides.into_iter().map(|(name, value)| (name.to_owned(), value)));
    Ok(Value::Object(line))
}

/// A message as a line of a fixture.
pub fn line(message: &MessageRef<'_>) -> anyhow::Result<Map<String, Value>> {
    let mut line = record_of(message)?;
    if line.get("timestamp").is_some_and(|time| time == NO_TIME) {
        line.remove("timestamp");
    }
    if let Some(routes) = message.batch().routes_of(message.row()) {
        line.insert("routes".to_owned(), Value::from(routes.to_vec()));
    }
    Ok(line)
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// What goes on in place of it: itself, or what the plugin made of it.
    Passed(Vec<Value>),
    Dropped,
    /// It was given up, or is to be tried again: why, and the message as it was.
    Refused {
        verdict: &'static str,
        code: String,
        reason: String,
        message: Value,
    },
}

/// What became of the messages of `input` in a call; one for each.
pub fn outcomes(input: &Batch, processed: &Processed) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; input.len()];
    for (message, &parent) in processed.batch.messages().zip(&processed.parents) {
        let line = Value::Object(line(&message)?);
        match &mut outcomes[parent as usize] {
            Some(Outcome::Passed(lines)) => lines.push(line),
            slot => *slot = Some(Outcome::Passed(vec![line])),
        }
    }
    for fate in &processed.fates {
        let refused = |verdict: &'static str, code: &str, reason: &str| -> anyhow::Result<Outcome> {
            let message = Value::Object(line(&input.message(fate.parent as usize))?);
            Ok(Outcome::Refused { verdict, code: code.to_owned(), reason: reason.to_owned(), message })
        };
        outcomes[fate.parent as usize] = Some(match &fate.verdict {
            FateVerdict::Dropped | FateVerdict::Duplicate(_) => Outcome::Dropped,
            FateVerdict::Rejected { code, reason } => refused("reject", code, reason)?,
            FateVerdict::Retry { code, reason } => refused("retry", code, reason)?,
            FateVerdict::Faulted(fault) => refused("fault", fault.kind.as_str(), &fault.message)?,
        });
    }
    let complete = outcomes.into_iter().enumerate().map(|(row, outcome)| {
        outcome.with_context(|| format!("nothing became of message {}, a mistake of millstream", row + 1))
    });
    complete.collect()
}

impl Outcome {
    /// The line of a dead letter, if it is one.
    pub fn dead_letter(&self) -> Option<Value> {
        let Outcome::Refused { code, message, .. } = self else { return None };
        let mut line = message.clone();
        line["code"] = Value::from(code.clone());
        Some(line)
    }

    /// In one line, for people and programs.
    pub fn shown(&self) -> Value {
        match self {
            Outcome::Passed(messages) => serde_json::json!({ "verdict": "pass", "messages": messages }),
            Outcome::Dropped => serde_json::json!({ "verdict": "drop" }),
            Outcome::Refused { verdict, code, reason, .. } => {
                serde_json::json!({ "verdict": verdict, "code": code, "reason": reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_the_same_however_they_are_written() {
        let one = normal(r#"{"payload":"{}","headers":{"a":"1"},"timestamp":0,"routes":["x"],"code":"c"}"#);
        let other = normal(r#"{"code":"c","routes":["x"],"headers":[["a","1"]],"payload":"\u007b}"}"#);
        assert_eq!(one.unwrap(), other.unwrap());
        assert!(normal(r#"{"payload":null,"other":1}"#).is_err());
    }

    #[test]
    fn messages_are_read_with_their_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("input.ndjson");
        std::fs::write(&file, "{\"payload\":\"a\"}\n\n{\"payload\":null,\"key\":\"k\"}\n").unwrap();
        let batch = messages(&file).unwrap();
        assert_eq!((batch.len(), batch.message(1).key()), (2, Some(&b"k"[..])));
        assert_eq!(batch.message(1).position(), Position { partition: 0, offset: 1, record: 3 });
        std::fs::write(&file, "{\"payload\":\"a\"}\n[1]\n").unwrap();
        assert!(format!("{:#}", messages(&file).unwrap_err()).contains("input.ndjson line 2: not a record"));
    }
}
