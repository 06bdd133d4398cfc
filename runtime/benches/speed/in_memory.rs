//! What the engine costs beside plugins: messages from memory, no plugin, a sink that drops.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;

use millstream::message::{Batch, Position};
use millstream::plugin::PluginEngine;
use millstream::sources::{CommitKind, Committer, OpenSource, Read, ReadBatch, ReadLimit, Reader};
use millstream_bench::{keeps, order};

use crate::rounds::{Bench, Clock};
use crate::whole::run_pipeline;
use crate::{BATCH, batch_of};

const BATCHES: usize = 2000;

const PIPELINE: &str = r#"
name = "in-memory"
lanes = 1

[source]
type = "generate"

[[sink]]
type = "drop"
"#;

/// In CPU time of all threads: the parts of a pipeline work beside each other, so the time on the
/// clock would hide what they cost.
pub fn engine_beside_plugins(bench: &Bench, engine: &Arc<PluginEngine>, folder: &Path) -> anyhow::Result<()> {
    let name = "engine: no plugin, CPU of all threads / native filter";
    if !bench.wants(name) {
        return Ok(());
    }
    let orders: Vec<Vec<u8>> = (0..BATCH as u64).map(order).collect();
    let batches: Arc<Vec<Batch>> =
        Arc::new((0..BATCHES).map(|number| batch_of(&orders, (number * BATCH) as u64)).collect());
    let file = folder.join("in-memory.toml");
    std::fs::write(&file, PIPELINE)?;
    let measured = || {
        let source = OpenSource {
            name: "memory".into(),
            reader: Box::new(Memory { batches: Arc::clone(&batches), next: 0 }),
            committer: Box::new(Forgetful),
            describe: Arc::new(|position| position.offset.to_string()),
        };
        Clock::Process.time(|| {
            let books = run_pipeline(&file, engine, Some(source)).expect("the pipeline runs");
            assert_eq!(books.delivered, (BATCH * BATCHES) as u64);
        })
    };
    let control = || {
        Clock::Process.time(|| {
            for order in std::iter::repeat_n(&orders, BATCHES).flatten() {
                black_box(keeps(black_box(order)).expect("an order"));
            }
        })
    };
    bench.pair(name, 11, (BATCH * BATCHES, "message"), measured, control);
    Ok(())
}

struct Memory {
    batches: Arc<Vec<Batch>>,
    next: usize,
}

#[async_trait]
impl Reader for Memory {
    async fn read(&mut self, _: ReadLimit) -> anyhow::Result<Read> {
        let Some(batch) = self.batches.get(self.next) else { return Ok(Read::End) };
        self.next += 1;
        Ok(Read::Batch(ReadBatch { batch: batch.clone(), ..ReadBatch::default() }))
    }
}

struct Forgetful;

#[async_trait]
impl Committer for Forgetful {
    fn kind(&self) -> CommitKind {
        CommitKind::UpTo
    }

    async fn up_to(&mut self, _: &[Position]) -> anyhow::Result<()> {
        Ok(())
    }
}
