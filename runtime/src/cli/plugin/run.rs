//! `millstream plugin run`: a plugin over messages from a file, offline.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::fixtures::{self, Outcome};
use super::{section, test};
use crate::cli::output::Output;

/// Give messages from a file to a plugin and print what becomes of each, as JSON.
///
/// A fault is told with source lines, if the plugin was built with `plugin build --debug`.
#[derive(Args)]
pub struct Run {
    /// A plugin's .wasm, or a pipeline file that configures it.
    file: PathBuf,
    /// Messages, a line each, as the codec `record` and `millstream dlq export` write them.
    #[arg(long, value_name = "FILE")]
    record: PathBuf,
    /// Of a pipeline file: which plugin, by the name of its step; without it the first.
    #[arg(long, value_name = "NAME")]
    step: Option<String>,
    /// Of a pipeline file: the plugins before that one have the messages first, as in the pipeline.
    /// What they do not let pass is printed with their step.
    #[arg(long, requires = "step")]
    through: bool,
    /// Of a .wasm: its configuration, as JSON.
    #[arg(long, value_name = "JSON", conflicts_with = "step")]
    config: Option<String>,
}

impl Run {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let specs = match self.through && section::is_pipeline(&self.file) {
            true => section::up_to(&self.file, self.step.as_deref())?,
            false => vec![section::of_file(&self.file, self.step.as_deref(), self.config.as_deref())?],
        };
        let mut messages = fixtures::messages(&self.record)?;
        let engine = section::engine_with_lines()?;
        let mut out = Output::new();
        for (number, spec) in specs.iter().enumerate() {
            let (outcomes, passed) = test::pass(&engine.check(spec)?, messages)?;
            let is_last = number + 1 == specs.len();
            for outcome in outcomes.iter().filter(|outcome| is_last || !matches!(outcome, Outcome::Passed(_)))
            {
                let mut line = outcome.shown();
                if !is_last {
                    line["step"] = spec.step.clone().into();
                }
                out.write(format!("{line}\n").as_bytes())?;
            }
            messages = passed;
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}
