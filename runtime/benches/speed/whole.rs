//! A whole pipeline, file to file, beside the same job as one native loop.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use millstream::config::{self, Environment};
use millstream::observe::metrics::Metrics;
use millstream::pipeline::assemble::{Host, assemble};
use millstream::pipeline::ledger::Books;
use millstream::pipeline::start;
use millstream::plugin::PluginEngine;
use millstream::sources::OpenSource;
use millstream::store::DataFolder;
use millstream_bench::{append_transformed, keeps, order};

use crate::guest;
use crate::rounds::{Bench, Clock};

/// 300 MB: starting and stopping a pipeline is lost in the noise.
const MESSAGES: usize = 1_000_000;

pub fn file_to_file(bench: &Bench, engine: &Arc<PluginEngine>, folder: &Path) -> anyhow::Result<()> {
    let input = folder.join("orders.ndjson");
    for (name, lanes) in [
        ("whole: file to file, filter and transform, 1 lane / native loop", 1),
        ("whole: the same with 2 lanes / native loop", 2),
    ] {
        if !bench.wants(name) {
            continue;
        }
        if !input.exists() {
            write_orders(&input)?;
        }
        let file = folder.join("whole.toml");
        std::fs::write(&file, pipeline(lanes))?;
        let (sandboxed, native) = (folder.join("sandboxed.ndjson"), folder.join("native.ndjson"));
        let measured = || {
            remove(&sandboxed);
            Clock::Wall.time(|| {
                let books = run_pipeline(&file, engine, None).expect("the pipeline runs");
                assert_eq!((books.received, books.dead_lettered), (MESSAGES as u64, 0));
            })
        };
        let control = || {
            remove(&native);
            Clock::Wall.time(|| native_loop(&input, &native).expect("the loop runs"))
        };
        bench.pair(name, 7, (MESSAGES, "message"), measured, control);
        let same = std::fs::read(&sandboxed)? == std::fs::read(&native)?;
        anyhow::ensure!(same || lanes > 1, "the pipeline and the native loop wrote different files");
    }
    Ok(())
}

fn pipeline(lanes: usize) -> String {
    format!(
        r#"
name = "whole"
lanes = {lanes}
ordering = "none"

[source]
type = "file"
path = "orders.ndjson"

[[plugin]]
name = "filter"
wasm = {guest:?}
config = {{ mode = "filter-json" }}

[[plugin]]
name = "transform"
wasm = {guest:?}
config = {{ mode = "transform-json" }}

[[sink]]
type = "file"
path = "sandboxed.ndjson"
"#,
        guest = guest(),
    )
}

/// Runs a pipeline from its start to its end, with a data folder of its own.
pub fn run_pipeline(
    file: &Path,
    engine: &Arc<PluginEngine>,
    source: Option<OpenSource>,
) -> anyhow::Result<Books> {
    let mut environment = Environment::process();
    environment.engine = Some(Arc::clone(engine));
    let loaded = config::load(file, &environment).map_err(|report| anyhow::anyhow!("{report}"))?;
    let pipeline = loaded.into_iter().next().expect("the file holds one pipeline");
    let data = tempfile::tempdir()?;
    let folder = DataFolder::open(data.path(), &pipeline.name)?;
    let host = Host { engine: Arc::clone(engine), metrics: Arc::new(Metrics::new()) };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let parts = assemble(pipeline, &folder, &host, source)?;
        Ok(start(parts, CancellationToken::new()).wait().await?.books)
    })
}

/// What one would write without Millstream: no order, retry or dead letters, and an fsync at the end.
fn native_loop(input: &Path, output: &Path) -> anyhow::Result<()> {
    let mut lines = BufReader::with_capacity(1 << 20, File::open(input)?);
    let mut out = File::create(output)?;
    let (mut line, mut written) = (Vec::new(), Vec::with_capacity(2 << 20));
    while lines.read_until(b'\n', &mut line)? > 0 {
        let order = line.strip_suffix(b"\n").unwrap_or(&line);
        if keeps(order)? {
            append_transformed(order, &mut written)?;
            written.push(b'\n');
            if written.len() >= 1 << 20 {
                out.write_all(&written)?;
                written.clear();
            }
        }
        line.clear();
    }
    out.write_all(&written)?;
    Ok(out.sync_all()?)
}

fn write_orders(path: &Path) -> anyhow::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    for number in 0..MESSAGES as u64 {
        out.write_all(&order(number))?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => panic!("{} cannot be removed: {error}", path.display()),
    }
}
