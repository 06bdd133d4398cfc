//! What tests of sources share.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Read, ReadBatch, ReadLimit, Reader, SourceContext};
use crate::codecs::tests::decoder;
use crate::message::Position;
use crate::store::{Checkpoints, FailureCounts};

/// Checkpoints that are lost with the process.
#[derive(Default)]
pub struct MemoryCheckpoints(pub Mutex<BTreeMap<String, serde_json::Value>>);

impl Checkpoints for MemoryCheckpoints {
    fn load(&self) -> anyhow::Result<Vec<(String, serde_json::Value)>> {
        Ok(self.0.lock().unwrap().clone().into_iter().collect())
    }

    fn save(&self, checkpoints: &[(String, serde_json::Value)]) -> anyhow::Result<()> {
        self.0.lock().unwrap().extend(checkpoints.iter().cloned());
        Ok(())
    }
}

/// Counts of failures that are lost with the process.
#[derive(Default)]
pub struct MemoryFailures(pub Mutex<BTreeMap<String, u32>>);

impl FailureCounts for MemoryFailures {
    fn load_failures(&self, _retention: Duration) -> anyhow::Result<Vec<(String, u32)>> {
        Ok(self.0.lock().unwrap().clone().into_iter().collect())
    }

    fn add_failures(&self, messages: &[String]) -> anyhow::Result<()> {
        let mut known = self.0.lock().unwrap();
        messages.iter().for_each(|message| *known.entry(message.clone()).or_default() += 1);
        Ok(())
    }

    fn forget_failures(&self, messages: &[String]) -> anyhow::Result<()> {
        self.0.lock().unwrap().retain(|message, _| !messages.contains(message));
        Ok(())
    }
}

/// What a pipeline with this codec would give a source, with a limit of 1 MiB for a message.
pub fn context(codec: &str, config: &str, checkpoints: &Arc<MemoryCheckpoints>) -> SourceContext {
    SourceContext {
        pipeline: "test".into(),
        base: std::env::temp_dir(),
        codec: decoder(codec, config).unwrap(),
        max_message_bytes: 1 << 20,
        checkpoints: Arc::clone(checkpoints) as Arc<dyn Checkpoints>,
        failures: Arc::<MemoryFailures>::default(),
        budget: 256 << 20,
        budget_is_used_up: Arc::new(AtomicBool::new(false)),
        waits: Arc::default(),
        metrics: Arc::default(),
    }
}

pub fn limit(rows: usize, bytes: usize) -> ReadLimit {
    ReadLimit { rows, bytes }
}

/// A message that was read, and the code and reason if it is none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    pub payload: Vec<u8>,
    pub key: Option<Vec<u8>>,
    pub position: Position,
    pub rejected: Option<(&'static str, String)>,
}

impl Row {
    pub fn of(read: ReadBatch) -> Vec<Row> {
        let mut rows: Vec<Row> = (read.batch.messages())
            .map(|message| Row {
                payload: message.payload().unwrap().to_vec(),
                key: message.key().map(<[u8]>::to_vec),
                position: message.position(),
                rejected: None,
            })
            .collect();
        for rejected in read.rejected {
            rows[rejected.row as usize].rejected = Some((rejected.code, rejected.reason));
        }
        rows
    }

    pub fn text(&self) -> &str {
        str::from_utf8(&self.payload).unwrap()
    }

    /// Why it is no message, empty if it is one.
    pub fn code(&self) -> &'static str {
        self.rejected.as_ref().map_or("", |(code, _)| code)
    }
}

/// What is to be waited for comes within this time, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Reads once; `None` at the end.
pub async fn next(reader: &mut dyn Reader, limit: ReadLimit) -> Option<Vec<Row>> {
    let read = tokio::time::timeout(DEADLINE, reader.read(limit)).await.expect("nothing came");
    match read.unwrap() {
        Read::Batch(read) => Some(Row::of(read)),
        Read::Lost(_) | Read::Rewound => panic!("this source has no group and no transactions"),
        Read::End => None,
    }
}

/// Reads to the end.
pub async fn rows(reader: &mut dyn Reader) -> Vec<Row> {
    let mut all = Vec::new();
    while let Some(rows) = next(reader, limit(100, 1 << 20)).await {
        all.extend(rows);
    }
    all
}
