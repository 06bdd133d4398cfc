//! Dead letters for tests.

use super::{DeadLetter, Stage};
use crate::message::{Message, Position};
use crate::plugin::PluginIdentity;

/// One with something in every field, failed in plugin `jq`; `n` makes its position and id.
pub(crate) fn letter(n: u64) -> DeadLetter {
    DeadLetter {
        id: format!("{n:016x}"),
        pipeline: "orders".to_owned(),
        source: "file:orders".to_owned(),
        position: Position { partition: 3, offset: n, record: n },
        position_text: format!("orders.ndjson line {n}"),
        stage: Stage::Plugin("jq-2".to_owned()),
        plugin: Some(PluginIdentity {
            step: "jq-2".to_owned(),
            name: "jq".to_owned(),
            version: "0.1.0".to_owned(),
            sha256: "ab".repeat(32),
        }),
        code: "trap".to_owned(),
        reason: format!("Cannot index number with \"a\"\nin message {n}"),
        trap: Some("unreachable".to_owned()),
        attempts: 2,
        read_at_ms: 1_000 + n as i64,
        failed_at_ms: 2_000 + n as i64,
        trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
        replays: 0,
        sinks: vec!["a".to_owned()],
        message: Message {
            payload: Some(format!("{{\"n\":{n}}}").into_bytes()),
            key: Some(b"k".to_vec()),
            headers: vec![(b"h".to_vec(), b"1".to_vec()), (b"h".to_vec(), b"\xff\x00".to_vec())],
            timestamp_ms: 17,
        },
    }
}
