//! `millstream plugin bench`: what a plugin takes, beside one that does nothing.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::Value;

use super::test::{self, NOW_MS};
use super::{fixtures, section};
use crate::cli::output::Output;
use crate::config::units::{ByteSize, Interval};
use crate::message::{Batch, BatchBuilder};
use crate::observe::metrics::PluginMetrics;
use crate::plugin::{FateVerdict, Instance, Limits, Plugin, PluginCode};

/// Measure a plugin in the engine and with the limits of production, beside the plugin `identity`,
/// which passes every message.
///
/// Both are measured in turns, round by round, on one thread; what is printed is the median of the
/// rounds. The ratio of the two is what to compare between machines.
#[derive(Args)]
pub struct Bench {
    /// A plugin's .wasm, or a pipeline file that configures it.
    file: PathBuf,
    /// Messages, a line each, as the codec `record` writes them; by default fixtures/input.ndjson
    /// beside the file.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Of a pipeline file: which plugin, by the name of its step; without it the first.
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Of a .wasm: its configuration, as JSON.
    #[arg(long, value_name = "JSON", conflicts_with = "step")]
    config: Option<String>,
    /// Messages of a batch.
    #[arg(long, value_name = "NUMBER", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
}

/// The default `budget` of a pipeline: no larger batch is in flight there.
const MAX_BATCH_BYTES: usize = 256 << 20;
const ROUNDS: usize = 21;
/// Batches are given for as long as this in a round, at least one.
const ROUND: Duration = Duration::from_millis(50);

impl Bench {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let spec = section::of_file(&self.file, self.step.as_deref(), self.config.as_deref())?;
        let input = self.input.clone().unwrap_or_else(|| beside(&self.file));
        let messages = fixtures::messages(&input)
            .context("`--input` names a file of messages, as `millstream dlq export` writes them")?;
        ensure!(!messages.is_empty(), "{} has no messages", input.display());
        let engine = section::engine()?;
        let plugin = engine.check(&spec)?;
        let name = "identity".to_owned();
        let identity = section::spec(name.clone(), PluginCode::BuiltIn(name), Value::Null);
        let mut measured = Subject::of(&plugin)?;
        let mut identity = Subject::of(&engine.check(&identity)?)?;
        // On an instance of its own: so the memory at the peak is that of the rounds.
        let singly = Singly::of(&mut Subject::of(&plugin)?, &messages)?;

        let batch = repeated(&messages, usize::from(self.batch))?;
        // Nanoseconds a message, of each round.
        let (mut times, mut control) = (Vec::new(), Vec::new());
        // The first round fills caches and finds the size of calls.
        measured.round(&batch)?;
        identity.round(&batch)?;
        for _ in 0..ROUNDS {
            times.push(measured.round(&batch)?);
            control.push(identity.round(&batch)?);
        }

        let bytes =
            messages.messages().map(|message| message.payload().unwrap_or_default().len()).sum::<usize>();
        let bytes = bytes as f64 / messages.len() as f64;
        let count = measured.messages as f64;
        let ratio = spread(times.iter().zip(&control).map(|(time, control)| time / control).collect());
        let line = |name: &str, times: Vec<f64>| {
            let nanos = spread(times)[1];
            let (rate, volume) = (1e9 / nanos, bytes * 1e3 / nanos);
            format!("{name:<18} {nanos:>12.0} {rate:>12.0} {volume:>10.1}\n")
        };
        let Limits { memory, timeout, output, .. } = &spec.limits;
        let metrics = &measured.metrics;
        let per_message = |bytes: u64| bytes as f64 / count;
        let text = format!(
            "{name} {version}: {kinds} messages of {bytes:.0} bytes on average, batches of {batch}, {ROUNDS} rounds\n\n\
             {head:<18} {ns:>12} {rate:>12} {volume:>10}\n{own}{other}\
             ratio              {low:.2} to {high:.2}, median {median:.2}\n\
             copied             {sent:.1} bytes a message into the sandbox, {back:.1} out of it\n\
             memory             {peak} at the peak, of {memory}\n\
             slowest message    {slowest}, of {timeout}\n\
             largest output     {largest}, of {output}\n\
             refused            {refused} of {kinds} messages\n",
            name = plugin.identity().name,
            version = plugin.identity().version,
            kinds = messages.len(),
            batch = self.batch,
            head = "",
            ns = "ns/message",
            rate = "messages/s",
            volume = "MB/s",
            own = line(&spec.step, times),
            other = line("identity", control),
            low = ratio[0],
            median = ratio[1],
            high = ratio[2],
            sent = per_message(metrics.bytes_in.get()),
            back = per_message(metrics.bytes_out.get()),
            peak = ByteSize(metrics.peak_memory.get() as u64),
            slowest = Interval(Duration::from_micros(singly.slowest.as_micros() as u64)),
            largest = ByteSize(singly.largest_output),
            refused = singly.refused,
        );
        let mut out = Output::new();
        out.write(text.as_bytes())?;
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The fixtures that `millstream plugin new` makes lie beside the plugin and its pipeline.
fn beside(file: &Path) -> PathBuf {
    file.with_file_name("fixtures").join("input.ndjson")
}

/// The messages again and again, to so many, each with bytes of its own: those that rows share would
/// go into the sandbox once.
fn repeated(messages: &Batch, count: usize) -> anyhow::Result<Batch> {
    let mut out = BatchBuilder::new();
    for number in 0..count {
        let message = messages.message(number % messages.len());
        out.push_message(&message.to_owned(), message.position());
        ensure!(
            out.bytes() <= MAX_BATCH_BYTES,
            "the messages of a batch are over 256MiB; `--batch` makes it smaller"
        );
    }
    Ok(out.finish())
}

/// The lowest, the median and the highest.
fn spread(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

/// A plugin that is measured.
struct Subject {
    instance: Instance,
    metrics: PluginMetrics,
    messages: u64,
}

impl Subject {
    fn of(plugin: &Plugin) -> anyhow::Result<Subject> {
        let (instance, metrics) = test::World::new().start(plugin)?;
        Ok(Subject { instance, metrics, messages: 0 })
    }

    /// Gives it batches for the time of a round; nanoseconds a message.
    fn round(&mut self, batch: &Batch) -> anyhow::Result<f64> {
        let (start, mut given) = (Instant::now(), 0);
        while given == 0 || start.elapsed() < ROUND {
            self.instance.process(batch.clone(), NOW_MS)?;
            given += batch.len();
        }
        self.messages += given as u64;
        Ok(start.elapsed().as_nanos() as f64 / given as f64)
    }
}

/// What the limits of a message are compared with: each message alone.
struct Singly {
    slowest: Duration,
    /// All that came out of the sandbox for it.
    largest_output: u64,
    refused: usize,
}

impl Singly {
    fn of(subject: &mut Subject, messages: &Batch) -> anyhow::Result<Singly> {
        let mut singly = Singly { slowest: Duration::ZERO, largest_output: 0, refused: 0 };
        for row in messages.rows() {
            let (seconds, out) = (subject.metrics.seconds.get(), subject.metrics.bytes_out.get());
            let processed = subject.instance.process(messages.with_rows(vec![*row]), NOW_MS)?;
            let inside = Duration::from_secs_f64((subject.metrics.seconds.get() - seconds).max(0.0));
            singly.slowest = singly.slowest.max(inside);
            singly.largest_output = singly.largest_output.max(subject.metrics.bytes_out.get() - out);
            singly.refused +=
                processed.fates.iter().filter(|fate| !matches!(fate.verdict, FateVerdict::Dropped)).count();
        }
        Ok(singly)
    }
}
