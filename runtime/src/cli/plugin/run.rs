//! `millstream plugin run`: a plugin over messages from a file, offline.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::{fixtures, section, test};
use crate::cli::output::Output;
use crate::plugin::{Grants, Limits, PluginCode, PluginSpec};

/// Give messages from a file to a plugin and print what becomes of each, as JSON.
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
    /// Of a .wasm: its configuration, as JSON.
    #[arg(long, value_name = "JSON", conflicts_with = "step")]
    config: Option<String>,
}

impl Run {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let spec = if self.file.extension().is_some_and(|ending| ending == "toml") {
            section::of_pipeline(&self.file, self.step.as_deref())?
        } else {
            let config = self.config.as_deref().unwrap_or("{}");
            PluginSpec {
                step: self.file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
                code: PluginCode::File(self.file),
                config: serde_json::from_str(config)
                    .with_context(|| format!("--config {config:?} is not JSON"))?,
                limits: Limits::default(),
                grants: Grants::default(),
                sha256: None,
            }
        };
        let input = fixtures::messages(&self.record)?;
        let outcomes = test::run_whole(&test::load(&spec)?, &input)?;
        let mut out = Output::new();
        for outcome in outcomes {
            if !out.write(format!("{}\n", outcome.shown()).as_bytes())? {
                break;
            }
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}
