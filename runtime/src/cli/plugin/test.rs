//! `millstream plugin test`: the fixtures of a plugin, in the engine of production.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

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
use crate::message::Batch;
use crate::observe::metrics::Metrics;
use crate::plugin::{Plugin, PluginScope, PluginSpec};

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
const NOW_MS: u64 = 1_700_000_000_000;

impl Test {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let built = match !self.no_build && self.folder.join("Cargo.toml").is_file() {
            true => Some(build(&self.folder, None, self.toolchain)?),
            false => None,
        };
        let spec = section::of_folder(&self.folder, built)?;
        let plugin = load(&spec)?;
        let fixtures = self.folder.join("fixtures");
        let input = fixtures::messages(&fixtures.join("input.ndjson"))?;
        let outcomes = run_whole(&plugin, &input)?;

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

/// Loads a plugin and tries its configuration.
pub fn load(spec: &PluginSpec) -> anyhow::Result<Plugin> {
    Ok(section::engine()?.check(spec)?)
}

/// What becomes of all messages, given at once.
pub fn run_whole(plugin: &Plugin, input: &Batch) -> anyhow::Result<Vec<Outcome>> {
    run(plugin, input, input.len().max(1), &mut |_| false)
}

/// What becomes of the messages in batches of that size, if the instance is lost before those batches
/// for which `lose` says so.
fn run(
    plugin: &Plugin,
    input: &Batch,
    size: usize,
    lose: &mut dyn FnMut(usize) -> bool,
) -> anyhow::Result<Vec<Outcome>> {
    run_in(plugin, input, &mut |_| size, lose)
}

fn run_in(
    plugin: &Plugin,
    input: &Batch,
    size: &mut dyn FnMut(usize) -> usize,
    lose: &mut dyn FnMut(usize) -> bool,
) -> anyhow::Result<Vec<Outcome>> {
    let scope = || PluginScope {
        pipeline: "test".into(),
        source: "test".into(),
        metrics: Metrics::new().plugin("test", &plugin.identity().step),
    };
    let mut instance = plugin.instantiate(scope())?;
    let (mut outcomes, mut next) = (Vec::new(), 0);
    while next < input.len() {
        if next > 0 && lose(next) {
            instance = plugin.instantiate(scope())?;
        }
        let end = input.len().min(next + size(next).max(1));
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
            let (expected, got) = (pretty(&expected[row].shown()), pretty(&got[row].shown()));
            format!(
                "the outcome of message {} depends on its batch: all at once (-) and {how} (+)\n{}",
                row + 1,
                diff(&expected, &got)
            )
        }));
    };
    for size in SIZES {
        compare(format!("in batches of {size}"), run(plugin, input, size, &mut |_| false)?);
    }
    compare("in batches of 1, a new instance for each".to_owned(), run(plugin, input, 1, &mut |_| true)?);
    for round in 0..RANDOM {
        let mut random = StdRng::seed_from_u64(seed.wrapping_add(round as u64));
        let mut fate = StdRng::seed_from_u64(random.random());
        let mut size = |_| random.random_range(1..=LARGEST_RANDOM);
        let got = run_in(plugin, input, &mut size, &mut |_| fate.random_bool(0.3))?;
        compare(format!("in random batches, instances lost in between (--seed {seed})"), got);
    }
    Ok(failures)
}

fn difference(file: &Path, got: &[Value]) -> anyhow::Result<Option<String>> {
    let expected = fixtures::expected(file)?;
    if expected == got {
        return Ok(None);
    }
    let text = |lines: &[Value]| lines.iter().map(|line| pretty(line) + "\n").collect::<String>();
    Ok(Some(format!(
        "{} (-) is not what comes out (+); `--update` takes that\n{}",
        file.display(),
        diff(&text(&expected), &text(got))
    )))
}

fn diff(expected: &str, got: &str) -> String {
    TextDiff::from_lines(expected, got).unified_diff().context_radius(3).to_string()
}

/// JSON over several lines, a payload that is JSON itself taken apart too.
fn pretty(line: &Value) -> String {
    let mut line = line.clone();
    take_apart(&mut line);
    format!("{line:#}")
}

fn take_apart(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field.as_str().filter(|_| name == "payload").map(serde_json::from_str::<Value>) {
                    Some(Ok(inner @ (Value::Object(_) | Value::Array(_)))) => *field = inner,
                    _ => take_apart(field),
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(take_apart),
        _ => {}
    }
}

fn update(file: &Path, got: &[Value]) -> anyhow::Result<()> {
    let text: String = got.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}
