//! Dead letters as people and programs read them: what `dlq --json` and `dlq export` print.

use serde::Serialize;

use super::{DeadLetter, time_text};
use crate::codecs::{Encoder, record_encoder};
use crate::message::{BatchBuilder, Message, Position};

/// Everything of a dead letter but its message.
#[derive(Debug, Serialize)]
struct Story<'a> {
    id: &'a str,
    pipeline: &'a str,
    source: &'a str,
    stage: String,
    /// What it calls itself.
    plugin: Option<&'a str>,
    plugin_version: Option<&'a str>,
    plugin_sha256: Option<&'a str>,
    code: &'a str,
    reason: &'a str,
    trap: Option<&'a str>,
    attempts: u32,
    position: &'a str,
    read_at: String,
    failed_at: String,
    trace_id: Option<&'a str>,
    replays: u32,
    /// Empty for all.
    sinks: &'a [String],
}

/// One line without its end: the story, then `key`, `headers`, `payload` and `timestamp` in the
/// form of the codec `record`.
pub fn line(letter: &DeadLetter) -> anyhow::Result<Vec<u8>> {
    let plugin = letter.plugin.as_ref();
    let story = Story {
        id: &letter.id,
        pipeline: &letter.pipeline,
        source: &letter.source,
        stage: letter.stage.to_string(),
        plugin: plugin.map(|plugin| plugin.name.as_str()),
        plugin_version: plugin.map(|plugin| plugin.version.as_str()),
        plugin_sha256: plugin.map(|plugin| plugin.sha256.as_str()),
        code: &letter.code,
        reason: &letter.reason,
        trap: letter.trap.as_deref(),
        attempts: letter.attempts,
        position: &letter.position_text,
        read_at: time_text(letter.read_at_ms),
        failed_at: time_text(letter.failed_at_ms),
        trace_id: letter.trace_id.as_deref(),
        replays: letter.replays,
        sinks: &letter.sinks,
    };
    let mut line = serde_json::to_vec(&story)?;
    line.pop();
    // A record leaves out what is not there.
    if letter.message.key.is_none() {
        line.extend_from_slice(b",\"key\":null");
    }
    if letter.message.headers.is_empty() {
        line.extend_from_slice(b",\"headers\":{}");
    }
    line.push(b',');
    let record = record(&letter.message)?;
    line.extend_from_slice(&record[1..]);
    Ok(line)
}

/// The message as one line of the codec `record`, without its end.
pub fn record(message: &Message) -> anyhow::Result<Vec<u8>> {
    let mut builder = BatchBuilder::new();
    builder.push_message(message, Position::default());
    let batch = builder.finish();
    let mut record = Vec::new();
    record_encoder().encode(&batch.message(0), &mut record)?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::letter;
    use super::*;
    use crate::dead_letters::Stage;

    fn read(letter: &DeadLetter) -> Value {
        serde_json::from_slice(&line(letter).unwrap()).unwrap()
    }

    #[test]
    fn p5_a_line_tells_all() {
        let expected = json!({
            "id": "0000000000000001",
            "pipeline": "orders",
            "source": "file:orders",
            "stage": "plugin:jq-2",
            "plugin": "jq",
            "plugin_version": "0.1.0",
            "plugin_sha256": "ab".repeat(32),
            "code": "trap",
            "reason": "Cannot index number with \"a\"\nin message 1",
            "trap": "unreachable",
            "attempts": 2,
            "position": "orders.ndjson line 1",
            "read_at": "1970-01-01T00:00:01.001Z",
            "failed_at": "1970-01-01T00:00:02.001Z",
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
            "replays": 0,
            "sinks": ["a"],
            "key": "k",
            "headers": [["h", "1"], ["h", { "base64": "/wA=" }]],
            "payload": "{\"n\":1}",
            "timestamp": "1970-01-01T00:00:00.017Z",
        });
        assert_eq!(read(&letter(1)), expected);
        assert!(!line(&letter(1)).unwrap().contains(&b'\n'));
    }

    #[test]
    fn what_is_not_there_is_null_and_bytes_are_base64() {
        let message = Message { payload: Some(b"\xff".to_vec()), ..Message::default() };
        let read = read(&DeadLetter { stage: Stage::Route, plugin: None, message, ..letter(1) });
        assert_eq!(read["payload_base64"], "/w==");
        assert_eq!(read.get("payload"), None);
        for name in ["plugin", "plugin_sha256", "key"] {
            assert_eq!(read.get(name), Some(&Value::Null), "{name}");
        }
        assert_eq!(read["headers"], json!({}));
    }

    #[test]
    fn nothing_is_lost_on_the_way_between_two_processes() {
        let bare = DeadLetter {
            stage: Stage::Sink("x".to_owned()),
            plugin: None,
            message: Message::default(),
            ..letter(2)
        };
        for letter in [letter(u64::MAX), bare] {
            let there = serde_json::to_vec(&letter).unwrap();
            assert_eq!(serde_json::from_slice::<DeadLetter>(&there).unwrap(), letter);
        }
    }
}
