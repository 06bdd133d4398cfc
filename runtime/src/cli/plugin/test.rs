//! `millstream plugin test`: the fixtures of a plugin, in the engine of production.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use anyhow::Context;
use clap::Args;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use similar::TextDiff;

use super::build::build;
use super::fixtures::{self, Outcome};
use super::section;
use super::toolchain::Way;
use crate::codecs::take_apart;
use crate::message::Batch;
use crate::observe::metrics::{Metrics, PluginMetrics};
use crate::plugin::{Determined, Instance, Plugin, PluginScope};
use crate::state::States;

/// Run a plugin over its fixtures, in the engine and with the limits of production.
///
/// `fixtures/input.ndjson` holds messages as the codec `record` writes them; what goes on is
/// compared with `expected.ndjson`, and what is refused with `expected-dead-letters.ndjson`, whose
/// lines have the `code` of the refusal too. Then the input is given in batches of 1, 2, 7, 256 and
/// in random ones, to an instance that is lost in between: that must change nothing.
#[derive(Args)]
pub struct Test {
    /// Folder of the plugin; its pipeline.toml or example.toml says how it is configured.
    #[arg(default_value = ".")]
    folder: PathBuf,
    /// Test the file that the example names, or a built-in, and build nothing.
    #[arg(long)]
    no_build: bool,
    /// Write what comes out as what is expected.
    #[arg(long)]
    update: bool,
    /// Number that the random divisions are made of; by default another each time.
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// The way to build, in place of the first that works.
    #[arg(long, value_name = "WAY")]
    toolchain: Option<Way>,
}

/// Messages of a batch, whatever is in them.
const SIZES: [usize; 4] = [1, 2, 7, 256];
/// Random divisions.
const RANDOM: usize = 8;
const LARGEST_RANDOM: usize = 40;
/// Time that plugins see, that of the SDK's harness.
pub const NOW_MS: u64 = 1_700_000_000_000;

impl Test {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let built = match !self.no_build && self.folder.join("Cargo.toml").is_file() {
            true => Some(build(&self.folder, None, self.toolchain)?),
            false => None,
        };
        let spec = section::of_folder(&self.folder, built)?;
        let plugin = section::engine()?.check(&spec)?;
        let fixtures = self.folder.join("fixtures");
        let input = fixtures::messages(&fixtures.join("input.ndjson"))?;
        let (outcomes, _) = pass(&plugin, input.clone())?;

        let (mut passed, mut refused) = (Vec::new(), Vec::new());
        for outcome in &outcomes {
            refused.extend(outcome.dead_letter());
            if let Outcome::Passed(messages) = outcome {
                passed.extend(messages.iter().cloned());
            }
        }
        let mut failures = Vec::new();
        for (name, got) in [("expected.ndjson", &passed), ("expected-dead-letters.ndjson", &refused)] {
            let file = fixtures.join(name);
            match self.update {
                true => update(&file, got)?,
                false => failures.extend(difference(&file, got)?),
            }
        }
        let seed = self.seed.unwrap_or_else(rand::random);
        failures.extend(divided(&plugin, &input, &outcomes, seed)?);
        for failure in &failures {
            println!("{failure}");
        }
        let shown = self.folder.display();
        let (messages, passed, refused) = (outcomes.len(), passed.len(), refused.len());
        println!(
            "{shown}: {messages} messages, {passed} go on, {refused} dead letters; {} (seed {seed})",
            if failures.is_empty() { "ok".to_owned() } else { format!("{} failures", failures.len()) }
        );
        Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// What outlives an instance: its state, and the chance that it meets.
pub struct World {
    states: Arc<States>,
    random: Determined,
}

impl World {
    /// The same each time.
    pub fn new() -> World {
        World { states: States::in_memory(), random: Arc::new(Mutex::new(StdRng::seed_from_u64(0))) }
    }

    /// An instance without a pipeline, and what is counted of it.
    pub fn start(&self, plugin: &Plugin) -> anyhow::Result<(Instance, PluginMetrics)> {
        let metrics = Metrics::new().plugin("test", &plugin.identity().step);
        let scope = PluginScope {
            pipeline: "test".into(),
            source: "test".into(),
            metrics: metrics.clone(),
            states: Arc::clone(&self.states),
            determined: Some(Arc::clone(&self.random)),
        };
        Ok((plugin.instantiate(scope)?, metrics))
    }
}

/// Gives all messages to a plugin at once: what becomes of each, and what goes on.
pub fn pass(plugin: &Plugin, input: Batch) -> anyhow::Result<(Vec<Outcome>, Batch)> {
    let (mut instance, _) = World::new().start(plugin)?;
    let processed = instance.process(input.clone(), NOW_MS)?;
    Ok((fixtures::outcomes(&input, &processed)?, processed.batch))
}

/// What becomes of the messages in batches of these sizes, if before each of them but the first it is
/// asked whether the instance is lost.
fn run(
    plugin: &Plugin,
    input: &Batch,
    mut size: impl FnMut() -> usize,
    mut lose: impl FnMut() -> bool,
) -> anyhow::Result<Vec<Outcome>> {
    let world = World::new();
    let (mut instance, _) = world.start(plugin)?;
    let (mut outcomes, mut next) = (Vec::new(), 0);
    while next < input.len() {
        if next > 0 && lose() {
            (instance, _) = world.start(plugin)?;
        }
        let end = input.len().min(next + size().max(1));
        let batch = input.with_rows(input.rows()[next..end].to_vec());
        outcomes.extend(fixtures::outcomes(&batch, &instance.process(batch.clone(), NOW_MS)?)?);
        next = end;
    }
    Ok(outcomes)
}

/// What is different when the messages come in other batches.
fn divided(plugin: &Plugin, input: &Batch, expected: &[Outcome], seed: u64) -> anyhow::Result<Vec<String>> {
    let mut failures = Vec::new();
    let mut compare = |how: String, got: Vec<Outcome>| {
        let differs = expected.iter().zip(&got).position(|(expected, got)| expected != got);
        failures.extend(differs.map(|row| {
            format!(
                "the outcome of message {} depends on its batch: all at once (-) and {how} (+)\n{}",
                row + 1,
                diff(&[expected[row].shown()], &[got[row].shown()])
            )
        }));
    };
    for size in SIZES {
        compare(format!("in batches of {size}"), run(plugin, input, || size, || false)?);
    }
    compare("in batches of 1, a new instance for each".to_owned(), run(plugin, input, || 1, || true)?);
    for round in 0..RANDOM {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(round as u64));
        let mut fate = StdRng::seed_from_u64(random.random());
        let size = || random.random_range(1..=LARGEST_RANDOM);
        let got = run(plugin, input, size, || fate.random_bool(0.3))?;
        compare(format!("in random batches, instances lost in between (--seed {seed})"), got);
    }
    Ok(failures)
}

fn difference(file: &Path, got: &[Value]) -> anyhow::Result<Option<String>> {
    let expected = fixtures::expected(file)?;
    if expected == got {
        return Ok(None);
    }
    Ok(Some(format!(
        "{} (-) is not what comes out (+); `--update` takes that\n{}",
        file.display(),
        diff(&expected, got)
    )))
}

/// JSON over several lines, payloads that are JSON themselves taken apart too, unless they differ in
/// nothing but how that is written.
pub fn diff(expected: &[Value], got: &[Value]) -> String {
    let lines = |values: &[Value]| values.iter().map(|value| format!("{value:#}\n")).collect::<String>();
    let apart = |values: &[Value]| {
        let mut values = values.to_vec();
        values.iter_mut().for_each(payloads_apart);
        lines(&values)
    };
    let (mut old, mut new) = (apart(expected), apart(got));
    if old == new {
        (old, new) = (lines(expected), lines(got));
    }
    TextDiff::from_lines(&old, &new).unified_diff().context_radius(3).to_string()
}

fn payloads_apart(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if name != "payload" || !take_apart(field) {
                    payloads_apart(field);
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(payloads_apart),
        _ => {}
    }
}

fn update(file: &Path, got: &[Value]) -> anyhow::Result<()> {
    let text: String = got.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
