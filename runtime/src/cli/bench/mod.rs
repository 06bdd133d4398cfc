//! `millstream bench`: how much a pipeline takes, how long a message is on its way, and where the time
//! goes.

mod feed;
mod probe;
mod sample;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::feed::{Feed, Pace, Tally};
use self::probe::{DroppedLetters, Stage, TimedNative, TimedSinkConfig, TimedStep};
use self::sample::Sample;
use super::output::Output;
use super::plugin;
use crate::config::units::Interval;
use crate::config::{self, DeadLetterStore, Environment, Pipeline};
use crate::message::Batch;
use crate::observe::metrics::{Metrics, PluginMetrics};
use crate::pipeline::assemble::{Host, assemble};
use crate::pipeline::start;
use crate::plugin::PluginEngine;
use crate::store::DataFolder;

/// Measure a pipeline: first how many messages a second it takes, then how long they are on their way
/// at a fixed rate.
///
/// Messages are read from the pipeline's source, from its beginning and without committing anything,
/// and kept in memory; then they are given again and again. Each has a moment at which it is due,
/// which does not depend on those before it: what comes late because the pipeline stalls counts from
/// when it was due. In place of its sinks are ones that encode a message as these do and drop it; dead
/// letters are counted and dropped. Checkpoints and the data folder are not touched.
#[derive(Args)]
pub struct Bench {
    /// A pipeline file.
    file: PathBuf,
    /// Messages a second for the latencies: a number, or a share of what the pipeline takes.
    #[arg(long, value_name = "RATE", default_value = "50%")]
    rate: Rate,
    /// How long each of the two parts takes.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_time)]
    time: Duration,
    /// Write to the pipeline's own sinks, export spans, and let plugins send requests to the servers they are
    /// granted.
    #[arg(long)]
    sinks: bool,
    /// Take the messages of this file in place of the source: a line each, as the codec `record`
    /// writes them.
    #[arg(long, value_name = "FILE", conflicts_with = "generate")]
    input: Option<PathBuf>,
    /// Take messages of the source `generate` in place of the pipeline's.
    #[arg(long)]
    generate: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Messages a second.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rate {
    Fixed(f64),
    /// Of the throughput, from 0 to 1 and beyond.
    Share(f64),
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let (number, is_share) = match text.strip_suffix('%') {
            Some(number) => (number, true),
            None => (text, false),
        };
        match number.trim().parse::<f64>() {
            Ok(number) if number.is_finite() && number > 0.0 => {
                Ok(if is_share { Rate::Share(number / 100.0) } else { Rate::Fixed(number) })
            }
            _ => Err("a number of messages a second, or a share such as 50%".to_owned()),
        }
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    match Interval::parse(text)?.0 {
        time if time.is_zero() => Err("no time at all".to_owned()),
        time => Ok(time),
    }
}

/// A part of a measurement.
struct Measured {
    tally: Tally,
    /// Native steps of the source.
    natives: Vec<(&'static str, Stage)>,
    /// By step, time in the lane's hands, and what is known of the plugin itself.
    plugins: Vec<(String, Stage, PluginMetrics)>,
    sinks: Vec<(String, Stage)>,
}

/// Latencies in microseconds.
#[derive(Debug)]
struct Latencies {
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Measured {
    /// Messages a second.
    fn throughput(&self) -> f64 {
        self.tally.settled() as f64 / self.tally.time.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn latencies(&self) -> Latencies {
        let latencies = &self.tally.latencies;
        let at = |quantile| latencies.value_at_quantile(quantile);
        Latencies { p50: at(0.5), p99: at(0.99), p999: at(0.999), max: latencies.max() }
    }
}

impl Bench {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.run_all())
    }

    async fn run_all(self) -> anyhow::Result<ExitCode> {
        let engine = plugin::engine()?;
        let Some(pipeline) = self.pipeline(&engine)? else { return Ok(ExitCode::FAILURE) };
        let calls_servers = pipeline.plugins.iter().find(|plugin| !plugin.grants.http.is_empty());
        if let Some(plugin) = calls_servers.filter(|_| !self.sinks) {
            bail!(
                "the plugin {} would send requests to its servers; `--sinks` says that it may",
                plugin.step
            );
        }
        let (name, rows) = (pipeline.name.clone(), pipeline.source.common.batch);
        let sample = match &self.input {
            Some(file) => Sample::of_file(file, rows)
                .context("`--input` names a file of messages, as `millstream dlq export` writes them")?,
            None => {
                let folder = tempfile::tempdir().context("no folder for the measurement")?;
                Sample::of_source(pipeline, self.generate, &DataFolder::open(folder.path(), &name)?).await?
            }
        };
        let Some(pipeline) = self.pipeline(&engine)? else { return Ok(ExitCode::FAILURE) };
        let flat = measure(pipeline, &engine, &sample.messages, Pace::Flat(self.time), self.sinks).await?;
        if flat.tally.settled() == 0 {
            bail!("no message came to its end within {:?}; `--time` gives it more", self.time);
        }
        let rate = match self.rate {
            Rate::Fixed(rate) => rate,
            Rate::Share(share) => flat.throughput() * share,
        };
        let Some(pipeline) = self.pipeline(&engine)? else { return Ok(ExitCode::FAILURE) };
        let paced =
            measure(pipeline, &engine, &sample.messages, Pace::Rate(rate, self.time), self.sinks).await?;
        let results = Results { name, sample, flat, paced, rate, real_sinks: self.sinks };
        let mut output = Output::new();
        output
            .write(if self.json { format!("{:#}\n", results.json()) } else { results.text() }.as_bytes())?;
        output.flush()?;
        Ok(ExitCode::SUCCESS)
    }

    /// The pipeline anew: what is measured is used up by it.
    fn pipeline(&self, engine: &Arc<PluginEngine>) -> anyhow::Result<Option<Pipeline>> {
        if self.file.is_dir() {
            bail!("{} is a folder; name one pipeline file", self.file.display());
        }
        let mut environment = Environment::process();
        environment.engine = Some(Arc::clone(engine));
        match config::load(&self.file, &environment) {
            Ok(mut pipelines) => Ok(pipelines.pop()),
            Err(report) => {
                super::output::tell(report);
                Ok(None)
            }
        }
    }
}

/// Runs a pipeline over messages in memory.
async fn measure(
    mut pipeline: Pipeline,
    engine: &Arc<PluginEngine>,
    messages: &Batch,
    pace: Pace,
    real_sinks: bool,
) -> anyhow::Result<Measured> {
    let feed = Feed::new(messages.clone(), pace)?;
    let folder = tempfile::tempdir().context("no folder for what plugins remember")?;
    let name = pipeline.name.clone();
    pipeline.source.config = Box::new(feed.clone());
    pipeline.dead_letters.to = DeadLetterStore::Embedded;
    // What fails in a measurement is no reason to stop it.
    pipeline.dead_letters.common.stop_above = None;
    if !real_sinks {
        pipeline.tracing = None;
    }
    let sinks: Vec<(String, Stage)> =
        pipeline.sinks.iter().map(|sink| (sink.name.clone(), Stage::default())).collect();
    pipeline.sinks = (pipeline.sinks.into_iter().zip(&sinks))
        .map(|(mut sink, (_, stage))| {
            let (config, stage) = (sink.config, stage.clone());
            sink.config = Box::new(TimedSinkConfig { config, stage, is_real: real_sinks });
            sink
        })
        .collect();
    let metrics = Arc::new(Metrics::new());
    let plugins: Vec<(String, Stage, PluginMetrics)> = (pipeline.plugins.iter())
        .map(|plugin| (plugin.step.clone(), Stage::default(), metrics.plugin(&name, &plugin.step)))
        .collect();
    let host = Host { engine: Arc::clone(engine), metrics };
    let folder = DataFolder::open(folder.path(), &name)?;
    let mut parts = assemble(pipeline, &folder, &host, None)?;
    let natives: Vec<(&'static str, Stage)> =
        parts.natives.iter().map(|native| (native.name(), Stage::default())).collect();
    for (native, (_, stage)) in parts.natives.iter_mut().zip(&natives) {
        *native = Arc::new(TimedNative { native: Arc::clone(native), stage: stage.clone() });
    }
    parts.writer = Box::new(DroppedLetters);
    for lane in &mut parts.lanes {
        let steps = std::mem::take(lane).into_iter().zip(&plugins);
        let timed = steps.map(|(step, (_, stage, _))| TimedStep { step, stage: stage.clone() });
        *lane = timed.map(|step| Box::new(step) as _).collect();
    }
    start(parts, CancellationToken::new()).wait().await?;
    Ok(Measured { tally: feed.tally(), natives, plugins, sinks })
}

struct Results {
    name: String,
    sample: Sample,
    flat: Measured,
    paced: Measured,
    /// Messages a second of `paced`.
    rate: f64,
    real_sinks: bool,
}

impl Results {
    fn text(&self) -> String {
        let Results { name, sample, flat, paced, rate, real_sinks } = self;
        let sinks =
            if *real_sinks { "its own sinks" } else { "sinks that encode and drop (--sinks for its own)" };
        let bytes = sample.mean_bytes();
        let throughput = flat.throughput();
        let Latencies { p50, p99, p999, max } = paced.latencies();
        let time = |micros: u64| Interval(Duration::from_micros(micros));
        let Tally { delivered, filtered, dead_lettered, .. } = flat.tally;
        let mut text = format!(
            "{name}: {} messages of {bytes:.0} bytes on average, {sinks}\n\n\
             throughput   {throughput:.0} messages/s, {:.1} MB/s\n\
             latency      p50 {}, p99 {}, p99.9 {}, at most {}, at {rate:.0} messages/s ({:.0}%)\n\
             outcome      {delivered} delivered, {filtered} filtered, {dead_lettered} dead letters\n",
            sample.kinds,
            throughput * bytes / 1e6,
            time(p50),
            time(p99),
            time(p999),
            time(max),
            rate / throughput * 100.0,
        );
        if paced.tally.not_taken > 0 {
            text.push_str(&format!(
                "             it does not keep up with that rate: {} messages were not taken\n",
                paced.tally.not_taken
            ));
        }
        if sample.rejected > 0 {
            text.push_str(&format!(
                "             {} of the source are no messages and left out\n",
                sample.rejected
            ));
        }
        text.push_str(&format!(
            "\n{:<24} {:>10} {:>12} {:>10} {:>10}\n",
            "stage", "ns/message", "messages", "bytes in", "bytes out"
        ));
        for stage in self.stages() {
            let Row { name, nanos, messages, copied } = stage;
            let [sent, back] = match copied {
                Some(copied) => copied.map(|bytes| format!("{bytes:.0}")),
                None => [String::new(), String::new()],
            };
            let line = format!("{name:<24} {nanos:>10.0} {messages:>12} {sent:>10} {back:>10}");
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    fn json(&self) -> Value {
        let Latencies { p50, p99, p999, max } = self.paced.latencies();
        let stages = self.stages().into_iter().map(|stage| {
            let Row { name, nanos, messages, copied } = stage;
            let copied = copied.map(|[sent, back]| json!({ "in": sent, "out": back }));
            json!({ "stage": name, "ns_per_message": nanos, "messages": messages, "copied_bytes_per_message": copied })
        });
        let Tally { delivered, filtered, dead_lettered, .. } = self.flat.tally;
        json!({
            "pipeline": self.name,
            "real_sinks": self.real_sinks,
            "messages": self.sample.kinds,
            "bytes_per_message": self.sample.mean_bytes(),
            "throughput": {
                "messages_per_second": self.flat.throughput(),
                "delivered": delivered,
                "filtered": filtered,
                "dead_lettered": dead_lettered,
            },
            "latency": {
                "messages_per_second": self.rate,
                "messages": self.paced.tally.latencies.len(),
                "not_taken": self.paced.tally.not_taken,
                "p50_us": p50,
                "p99_us": p99,
                "p99_9_us": p999,
                "max_us": max,
            },
            "stages": stages.collect::<Vec<_>>(),
        })
    }

    /// Of the part that goes as fast as it can.
    fn stages(&self) -> Vec<Row> {
        let source = self.sample.read.map(|time| Row {
            name: "source and codec".to_owned(),
            nanos: time.as_nanos() as f64,
            messages: self.sample.kinds as u64,
            copied: None,
        });
        let natives = self.flat.natives.iter().map(|(name, stage)| Row {
            name: format!("source {name}"),
            nanos: stage.nanos(),
            messages: stage.messages(),
            copied: None,
        });
        let plugins = self.flat.plugins.iter().map(|(step, stage, metrics)| {
            let per_message = |bytes: u64| bytes as f64 / stage.messages().max(1) as f64;
            Row {
                name: format!("plugin {step}"),
                nanos: stage.nanos(),
                messages: stage.messages(),
                copied: Some([per_message(metrics.bytes_in.get()), per_message(metrics.bytes_out.get())]),
            }
        });
        let sinks = self.flat.sinks.iter().map(|(sink, stage)| Row {
            name: format!("sink {sink}"),
            nanos: stage.nanos(),
            messages: stage.messages(),
            copied: None,
        });
        source.into_iter().chain(natives).chain(plugins).chain(sinks).collect()
    }
}

/// What a stage took.
struct Row {
    name: String,
    nanos: f64,
    messages: u64,
    /// Bytes a message into the sandbox and out of it.
    copied: Option<[f64; 2]>,
}
