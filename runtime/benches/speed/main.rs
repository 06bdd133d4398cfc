//! Speed and memory beside native controls: `cargo bench`.
//!
//! Each figure is measured in turns with its control, round by round in one run, so that what else
//! the machine does meets both. What is printed is the median of the rounds' ratios, with the
//! lowest and the highest, and then the two times. The functions in the sandbox and in the controls are the same ones, of
//! `tests/guests/bench`.
//!
//!     cargo bench                          all
//!     cargo bench -- boundary whole        those whose name holds one of these words

mod in_memory;
mod process;
mod rounds;
mod whole;

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millstream::message::{Batch, BatchBuilder, HeaderSpan, Position, Span};
use millstream::observe::metrics::Metrics;
use millstream::plugin::{
    EngineSettings, Grants, Instance, Limits, PluginCode, PluginEngine, PluginScope, PluginSpec, Reload,
};
use millstream_bench::{append_transformed, keeps, order};

use rounds::{Bench, Clock};

/// Messages of a batch: what sources read at once by default.
const BATCH: usize = 256;
/// Batches of a round: 50,000 messages take some 20 ms.
const BATCHES: usize = 200;
const ROUNDS: usize = 21;

fn main() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let bench = Bench::from_arguments();
    let engine = engine(folder.path())?;
    println!("messages of {} bytes, batches of {BATCH}, all limits on", order(12).len());
    plugins(&bench, &engine)?;
    in_memory::engine_beside_plugins(&bench, &engine, folder.path())?;
    whole::file_to_file(&bench, &engine, folder.path())?;
    process::idle_and_start(&bench, folder.path())
}

/// A plugin's own time and the boundary, without a pipeline.
fn plugins(bench: &Bench, engine: &Arc<PluginEngine>) -> anyhow::Result<()> {
    let orders: Vec<Vec<u8>> = (0..BATCH as u64).map(order).collect();
    let batch = batch_of(&orders, 0);
    let native_filter = || {
        Clock::Thread.time(|| {
            for order in std::iter::repeat_n(&orders, BATCHES).flatten() {
                black_box(keeps(black_box(order)).expect("an order"));
            }
        })
    };
    let mut out = Vec::new();
    let native_transform = || {
        Clock::Thread.time(|| {
            for _ in 0..BATCHES {
                out.clear();
                for order in &orders {
                    append_transformed(black_box(order), &mut out).expect("an order");
                }
                black_box(&out);
            }
        })
    };
    let sandboxed = |mode: &str| -> anyhow::Result<_> {
        let mut instance = instance(engine, mode)?;
        let batch = batch.clone();
        Ok(move || {
            Clock::Thread.time(|| {
                for _ in 0..BATCHES {
                    black_box(instance.process(batch.clone(), 0).expect("the plugin runs"));
                }
            })
        })
    };
    let messages = (BATCH * BATCHES, "message");
    let (identity, filter, transform) =
        (sandboxed("identity")?, sandboxed("filter-json")?, sandboxed("transform-json")?);
    bench.pair("boundary: identity plugin / native filter", ROUNDS, messages, identity, native_filter);
    bench.pair("plugin: JSON filter / native filter", ROUNDS, messages, filter, native_filter);
    bench.pair("plugin: JSON transform / native transform", ROUNDS, messages, transform, native_transform);
    Ok(())
}

fn engine(folder: &Path) -> anyhow::Result<Arc<PluginEngine>> {
    // Our own code, compiled here: the compiling process is for strangers'.
    PluginEngine::new(EngineSettings { cache_dir: folder.join("cache"), compiler: None, source_lines: false })
}

fn guest() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/plugins/bench.wasm")
}

fn instance(engine: &Arc<PluginEngine>, mode: &str) -> anyhow::Result<Instance> {
    let spec = PluginSpec {
        step: mode.to_owned(),
        code: PluginCode::File(guest()),
        config: serde_json::json!({ "mode": mode }),
        limits: Limits::default(),
        grants: Grants::default(),
        sha256: None,
        reload: Reload::default(),
        shadow: None,
    };
    let metrics = Metrics::new().plugin("bench", mode);
    engine.check(&spec)?.instantiate(PluginScope {
        pipeline: "bench".into(),
        source: "bench".into(),
        metrics,
        states: millstream::state::States::in_memory(),
        determined: None,
    })
}

/// Messages as a file source makes them: one arena, payloads that lie in it.
fn batch_of(payloads: &[Vec<u8>], first_offset: u64) -> Batch {
    let mut builder = BatchBuilder::new();
    let arena = builder.arena(payloads.concat().into());
    let mut start = 0;
    for (offset, payload) in (first_offset..).zip(payloads) {
        let span = Span::new(arena, start, payload.len() as u32);
        start += payload.len() as u32;
        let position = Position { partition: 0, offset: offset + 1, record: offset + 1 };
        builder.push(span, Span::ABSENT, &[] as &[HeaderSpan], 0, position);
    }
    builder.finish()
}
