//! `millstream checkpoint`: where the source of a pipeline stands.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::output::{Output, confirm, tell, visible};
use crate::config::Pipeline;
use crate::config::secrets::Redactor;
use crate::dead_letters::time_text;
use crate::observe::socket::Client;
use crate::store::folder::SavedCheckpoint;
use crate::store::{DataFolder, OpenError};

/// Shows or forgets where the source of a pipeline stands.
#[derive(Args)]
pub struct Checkpoint {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Show(Show),
    Reset(Reset),
}

impl Checkpoint {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::Show(show) => show.run(),
            Verb::Reset(reset) => reset.run(),
        }
    }
}

/// Shows how far each partition of the source is read and settled.
#[derive(Args)]
struct Show {
    /// A pipeline file, or a folder of them.
    path: PathBuf,
    /// Where the pipeline remembers, if `run` was told another folder too.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    pipeline: &'a str,
    partition: &'a str,
    checkpoint: &'a serde_json::Value,
    saved_at: String,
}

impl Show {
    fn run(self) -> anyhow::Result<ExitCode> {
        let Some(pipelines) = super::load(&self.path, self.data_dir.as_deref(), None) else {
            return Ok(ExitCode::FAILURE);
        };
        let mut output = Output::new();
        for pipeline in &pipelines {
            if let Some(elsewhere) = pipeline.source.config.kept_elsewhere() {
                tell(format_args!("{}: {}", pipeline.name, Redactor::global().redact(&elsewhere)));
                continue;
            }
            let checkpoints = checkpoints(pipeline)?;
            if checkpoints.is_empty() {
                tell(format_args!("{}: no checkpoint; its source is read from its start", pipeline.name));
            }
            for SavedCheckpoint { partition, checkpoint, saved_at_ms } in &checkpoints {
                let saved_at = time_text(*saved_at_ms);
                let line = if self.json {
                    serde_json::to_string(&Line {
                        pipeline: &pipeline.name,
                        partition,
                        checkpoint,
                        saved_at,
                    })?
                } else {
                    visible(&format!("{}  {partition}  {checkpoint}  {saved_at}", pipeline.name))
                };
                // The path of a file may have come from a variable.
                output.write(format!("{}\n", Redactor::global().redact(&line)).as_bytes())?;
            }
        }
        output.flush()?;
        Ok(ExitCode::SUCCESS)
    }
}

/// From the data folder, or from the process that has it.
fn checkpoints(pipeline: &Pipeline) -> anyhow::Result<Vec<SavedCheckpoint>> {
    let folder = &pipeline.data_dir;
    if !DataFolder::exists(folder) {
        return Ok(Vec::new());
    }
    match DataFolder::open(folder, &pipeline.name) {
        Ok(folder) => folder.saved_checkpoints(),
        Err(OpenError::InUse { .. }) if DataFolder::socket(folder).exists() => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let client = Client::new(folder)?;
            runtime.block_on(client.checkpoints())
        }
        Err(error) => Err(error.into()),
    }
}

/// Forgets where the source stands: the next run reads it from its start, and what was delivered
/// before is delivered again.
#[derive(Args)]
struct Reset {
    /// The pipeline file.
    file: PathBuf,
    /// Where the pipeline remembers, if `run` was told another folder too.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

impl Reset {
    fn run(self) -> anyhow::Result<ExitCode> {
        let Some(pipeline) = super::load_one(&self.file, self.data_dir.as_deref())? else {
            return Ok(ExitCode::FAILURE);
        };
        if let Some(elsewhere) = pipeline.source.config.kept_elsewhere() {
            bail!("{}", Redactor::global().redact(&elsewhere));
        }
        if !DataFolder::exists(&pipeline.data_dir) {
            tell(format_args!("{}: no checkpoint; its source is read from its start", pipeline.name));
            return Ok(ExitCode::SUCCESS);
        }
        let folder = DataFolder::open(&pipeline.data_dir, &pipeline.name)
            .context("a checkpoint cannot be reset under a running pipeline")?;
        let count = folder.saved_checkpoints()?.len();
        let question = format!(
            "{}: forget {count} checkpoints, so that its source is read from its start?",
            pipeline.name
        );
        if count > 0 && !confirm(&question, self.yes)? {
            bail!("nothing was reset");
        }
        let count = folder.reset_checkpoints()?;
        tell(format_args!("{}: {count} checkpoints were reset", pipeline.name));
        Ok(ExitCode::SUCCESS)
    }
}
