//! One test: the pipeline as it runs in production, with another world around it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio_util::sync::CancellationToken;

use super::compare::{self, Parts, difference};
use super::input;
use super::world::{Delivered, World};
use crate::cli::plugin::{NOW_MS, fixtures};
use crate::config::test_section::{Answer, Expected, TestCase, milliseconds};
use crate::config::units::Interval;
use crate::config::{
    DeadLetterStore, DeadLetters, Delivery, Pipeline, Retry, Settings, SinkCommon, SinkSection, SourceSection,
};
use crate::observe::metrics::Metrics;
use crate::pipeline::assemble::{Host, assemble};
use crate::pipeline::{Parts as PipelineParts, start};
use crate::plugin::PluginEngine;
use crate::store::DataFolder;

/// No test takes longer: it is never waited for anything but plugins, and their time is limited.
const DEADLINE: Duration = Duration::from_secs(120);

/// Runs a test; returns what is wrong, if anything.
///
/// # Errors
/// It could not be run at all.
pub fn run(test: &TestCase, pipeline: &Pipeline, engine: &Arc<PluginEngine>) -> anyhow::Result<Vec<String>> {
    let now_ms = test.now.as_deref().and_then(milliseconds).unwrap_or(NOW_MS as i64);
    let input = input::pieces(&test.input, &pipeline.base, &*pipeline.source.codec, now_ms)?;
    let answers = pipeline.sinks.iter().enumerate().map(|(number, sink)| {
        let answers = test.sink_fails.as_ref().and_then(|fails| fails.of(&sink.name, number == 0));
        answers.into_iter().flatten().filter_map(Answer::meaning).collect()
    });
    let world = World::new(input, answers.collect(), pipeline.plugins.len(), test.crash_before_commit);
    let case = Case { test, pipeline, engine, world, now_ms };
    // For what plugins remember; it is there as long as the test.
    let folder = tempfile::tempdir().context("no folder for what the pipeline remembers")?;
    let mut failures = Vec::new();
    let mut ended = case.run_once(folder.path(), 1, test.crash_before_commit)?;
    if let Ended::Crashed = ended {
        ended = case.run_once(folder.path(), 2, false)?;
    } else if test.crash_before_commit {
        failures.push("it ended before everything was delivered, and so without the crash".to_owned());
    }
    match (ended, &test.stops_with) {
        (Ended::Stopped(error), Some(part)) if error.contains(part.as_str()) => {}
        (Ended::Stopped(error), _) => failures.push(format!("the pipeline stopped: {error}")),
        (_, Some(part)) => failures.push(format!("the pipeline did not stop with {part:?}")),
        _ => {}
    }
    failures.extend(case.differences()?);
    failures.extend(case.faults_without_effect());
    Ok(failures)
}

struct Case<'a> {
    test: &'a TestCase,
    pipeline: &'a Pipeline,
    engine: &'a Arc<PluginEngine>,
    world: World,
    now_ms: i64,
}

/// How a run of a pipeline ended.
enum Ended {
    Done,
    Crashed,
    /// With this error.
    Stopped(String),
}

impl Case<'_> {
    fn run_once(&self, folder: &Path, start_number: u32, crashes: bool) -> anyhow::Result<Ended> {
        // A runtime of its own: a crash takes with it what is in flight.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(async {
            let parts = self.assemble(folder, start_number, crashes)?;
            let running = start(parts, CancellationToken::new());
            let shared = Arc::clone(&running.shared);
            let ended = async {
                tokio::select! {
                    () = self.world.crash() => Ok(Ended::Crashed),
                    result = running.wait() => match result {
                        Err(error) => Ok(Ended::Stopped(format!("{error:#}"))),
                        Ok(snapshot) => {
                            let books = snapshot.books;
                            ensure!(books.balance() && books.in_flight == 0, "the books do not balance: {books:?}");
                            Ok(Ended::Done)
                        }
                    },
                }
            };
            tokio::time::timeout(DEADLINE, ended).await.unwrap_or_else(|_| {
                let reasons = shared.waits.reasons();
                let waits = reasons.iter().map(|(what, why)| format!("{what}: {why}")).collect::<Vec<_>>();
                anyhow::bail!("it did not end within {DEADLINE:?}; {}", waits.join(", "))
            })
        })
    }

    /// The pipeline with the world of the test around it.
    fn assemble(&self, folder: &Path, start_number: u32, crashes: bool) -> anyhow::Result<PipelineParts> {
        let Pipeline { name, file, base, ordering, source, plugins, loaded_plugins, sinks, .. } =
            self.pipeline;
        let Pipeline { read, retry, dead_letters, settings, .. } = self.pipeline;
        let no_time = Interval::millis(0);
        let sink = |(number, sink): (usize, &SinkSection)| SinkSection {
            kind: sink.kind,
            name: sink.name.clone(),
            config: self.world.sink(number, start_number),
            codec: Arc::clone(&sink.codec),
            // One message in a call, so that it is plain which of them an answer is for.
            common: SinkCommon { batch: Some(1), linger: no_time, ..sink.common.clone() },
        };
        let pipeline = Pipeline {
            name: name.clone(),
            file: file.clone(),
            base: base.clone(),
            data_dir: folder.to_owned(),
            ordering: *ordering,
            // Its source and sinks, in memory, have no part in transactions.
            delivery: Delivery::AtLeastOnce,
            require: None,
            source: SourceSection {
                kind: source.kind,
                config: self.world.source(crashes),
                codec: Arc::clone(&source.codec),
                common: source.common.clone(),
                natives: source.natives.clone(),
            },
            plugins: plugins.clone(),
            loaded_plugins: loaded_plugins.clone(),
            read: read.clone(),
            sinks: sinks.iter().enumerate().map(sink).collect(),
            // As often as in production, but at once.
            retry: Retry { base_delay: no_time, max_delay: no_time, ..retry.clone() },
            dead_letters: DeadLetters { to: DeadLetterStore::Embedded, common: dead_letters.common.clone() },
            tracing: None,
            // One lane, so that what happens is the same each time.
            settings: Settings { lanes: Some(1), ..settings.clone() },
            tests: Vec::new(),
        };
        let host = Host { engine: Arc::clone(self.engine), metrics: Arc::new(Metrics::new()) };
        let folder = DataFolder::open(folder, name)?;
        let mut parts = assemble(pipeline, &folder, &host, None)?;
        // Those of the test's source do, whatever the pipeline's own is.
        parts.positions_last = true;
        parts.writer = self.world.letter_writer();
        for lane in &mut parts.lanes {
            let steps = std::mem::take(lane).into_iter().enumerate();
            let now_ms = u64::try_from(self.now_ms).unwrap_or(0);
            *lane = steps
                .map(|(number, step)| self.world.step(step, number, now_ms, self.overrun(number)))
                .collect();
        }
        Ok(parts)
    }

    /// The message for which a plugin overruns.
    fn overrun(&self, plugin: usize) -> Option<u64> {
        let step = &self.pipeline.plugins[plugin].step;
        self.test.plugin_timeout_at.as_ref().and_then(|at| at.of(step, plugin == 0)).copied()
    }

    fn differences(&self) -> anyhow::Result<Vec<String>> {
        let mut differences = Vec::new();
        for (number, sink) in self.pipeline.sinks.iter().enumerate() {
            let expected = self.test.expect.as_ref().and_then(|expect| expect.of(&sink.name, number == 0));
            let expected = expected.map_or_else(|| Ok(Vec::new()), |expected| self.expected(expected))?;
            let got: Vec<Parts> = without_repetitions(self.world.delivered(number))
                .into_iter()
                .map(|one| one.message)
                .collect();
            differences.extend(difference(&expected, &got).map(|diff| {
                format!("sink {}: what is expected (-) is not what came (+)\n{diff}", sink.name)
            }));
        }
        let mut letters = self.world.letters();
        letters.sort_by_key(|letter| (letter.position.record, letter.stage.to_string()));
        let expected: Vec<Parts> = self.test.dead_letters.iter().map(compare::of_expected_letter).collect();
        let got: Vec<Parts> = letters.iter().map(compare::of_letter).collect();
        differences.extend(
            difference(&expected, &got)
                .map(|diff| format!("dead letters: what is expected (-) is not what came (+)\n{diff}")),
        );
        Ok(differences)
    }

    fn expected(&self, expected: &Expected) -> anyhow::Result<Vec<Parts>> {
        let file = match expected {
            Expected::List(messages) => return Ok(messages.iter().map(compare::of_message).collect()),
            Expected::File(file) => self.pipeline.base.join(file),
        };
        let lines = fixtures::expected(&file)?.into_iter();
        let parts = lines.filter_map(|line| match line {
            // Of a message in a sink nobody knows the routes any more.
            serde_json::Value::Object(mut parts) => {
                parts.remove("routes");
                Some(parts)
            }
            _ => None,
        });
        Ok(parts.collect())
    }

    /// What the test was to go wrong, and did not.
    fn faults_without_effect(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for (number, sink) in self.pipeline.sinks.iter().enumerate() {
            match self.world.unused_answers(number) {
                0 => {}
                unused => failures.push(format!(
                    "sink {}: {unused} answers of `sink_fails` were not needed, for it was called less often",
                    sink.name
                )),
            }
        }
        for (number, plugin) in self.pipeline.plugins.iter().enumerate() {
            if let Some(message) = self.overrun(number).filter(|_| !self.world.overran(number)) {
                let step = &plugin.step;
                failures.push(format!(
                    "plugin {step}: message {message} of `plugin_timeout_at` never came to it"
                ));
            }
        }
        failures
    }
}

/// Without what was delivered once more after a crash.
fn without_repetitions(all: Vec<Delivered>) -> Vec<Delivered> {
    let (mut first, again): (Vec<_>, Vec<_>) = all.into_iter().partition(|one| one.start == 1);
    let mut known = first.clone();
    for one in again {
        let same = |other: &Delivered| other.position == one.position && other.message == one.message;
        match known.iter().position(same) {
            Some(repeated) => drop(known.swap_remove(repeated)),
            None => first.push(one),
        }
    }
    first
}
