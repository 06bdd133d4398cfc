//! The sandbox with plugins written for each test.

mod capabilities;
mod guests;
mod load;
mod outcomes;
mod poison;

use std::sync::{Arc, LazyLock};

use super::*;
use crate::message::{BatchBuilder, Message, Position};
use crate::observe::metrics::Metrics;

/// One engine for all tests: each reserves address space.
static ENGINE: LazyLock<(Arc<PluginEngine>, tempfile::TempDir)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let settings =
        EngineSettings { cache_dir: folder.path().join("compiled"), compiler: None, source_lines: false };
    (PluginEngine::new(settings).unwrap(), folder)
});

pub fn engine() -> &'static Arc<PluginEngine> {
    &ENGINE.0
}

/// The spec of a plugin whose file has these bytes.
fn spec(wasm: &[u8]) -> PluginSpec {
    use sha2::Digest;
    let name = hex::encode(sha2::Sha256::digest(wasm));
    let path = ENGINE.1.path().join(format!("{name}.wasm"));
    std::fs::write(&path, wasm).unwrap();
    PluginSpec {
        step: "test".into(),
        code: PluginCode::File(path),
        config: serde_json::json!({}),
        limits: Limits { timeout: crate::config::units::Interval::millis(50), ..Limits::default() },
        grants: Grants::default(),
        sha256: None,
        reload: Reload::default(),
        shadow: None,
    }
}

fn instance(spec: &PluginSpec) -> Instance {
    let plugin = engine().check(spec).unwrap_or_else(|error| panic!("{error}"));
    plugin.instantiate(scope()).unwrap()
}

fn scope() -> PluginScope {
    PluginScope {
        pipeline: "pipeline".into(),
        source: "source".into(),
        metrics: Metrics::new().plugin("pipeline", "test"),
        states: crate::state::States::in_memory(),
        determined: None,
    }
}

/// A message whose key is its number and whose headers are two of one name.
fn message(number: usize, payload: &str) -> Message {
    Message {
        payload: Some(payload.as_bytes().to_vec()),
        key: Some(number.to_string().into_bytes()),
        headers: vec![(b"Name".to_vec(), b"one".to_vec()), (b"name".to_vec(), b"two".to_vec())],
        timestamp_ms: 1000 + number as i64,
    }
}

fn batch(payloads: &[&str]) -> Batch {
    let mut builder = BatchBuilder::new();
    for (number, payload) in payloads.iter().enumerate() {
        let position = Position { partition: 3, offset: number as u64, record: number as u64 + 1 };
        builder.push_message(&message(number, payload), position);
    }
    builder.finish()
}

/// The messages that go on, with their parents.
fn going_on(processed: &Processed) -> Vec<(u32, Message)> {
    let messages = processed.batch.messages().map(|message| message.to_owned());
    processed.parents.iter().copied().zip(messages).collect()
}

/// Every row that was given is told once.
fn assert_complete(processed: &Processed, given: usize) {
    let mut rows: Vec<u32> = processed.parents.clone();
    rows.dedup();
    rows.extend(processed.fates.iter().map(|fate| fate.parent));
    rows.sort_unstable();
    assert_eq!(rows, (0..given as u32).collect::<Vec<u32>>());
    assert!(processed.parents.is_sorted() && processed.fates.is_sorted_by_key(|fate| fate.parent));
    assert_eq!(processed.parents.len(), processed.batch.len());
}
