//! `millstream aws`: what a pipeline declares of AWS, made there.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::{Args, Subcommand};

use super::output::{Output, tell};
use crate::aws::fanout::{self, Fanout, Line};
use crate::config::secrets::Redactor;

/// Makes on AWS what pipelines declare of it.
#[derive(Args)]
pub struct Aws {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Fanout(FanoutVerb),
}

impl Aws {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        match self.verb {
            Verb::Fanout(verb) => runtime.block_on(verb.run()),
        }
    }
}

/// Subscribes queues to topics as the `subscriptions` of a pipeline's sinks `sns` say.
///
/// Compares what there is with what is declared: the subscription, its filter policy and its raw
/// delivery, and whether the queue lets the topic send. Makes and changes only what is not as declared,
/// and can be run again at any time. Subscriptions that are not declared stay, and are told.
#[derive(Args)]
struct FanoutVerb {
    /// A pipeline file, or a folder of them.
    path: PathBuf,
    /// Only say what would be done; the exit code is 1 if that is anything.
    #[arg(long)]
    dry_run: bool,
}

impl FanoutVerb {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let Some(pipelines) = super::load(&self.path, None, None) else { return Ok(ExitCode::FAILURE) };
        let declared: Vec<Fanout> = pipelines
            .iter()
            .flat_map(|pipeline| pipeline.sinks.iter().filter_map(|sink| sink.config.fanout(&pipeline.base)))
            .collect();
        if declared.is_empty() {
            bail!(
                "no sink of {} declares subscriptions; add to a sink of type \"sns\": [[sink.subscriptions]]",
                self.path.display()
            );
        }
        let mut changes = 0;
        let mut output = Output::new();
        for fanout in declared {
            let lines = fanout::apply(&fanout, self.dry_run).await?;
            changes += lines.iter().filter(|line| line.what.is_change()).count();
            let words = lines.iter().map(Line::to_string).collect::<Vec<_>>().join("\n");
            let text = format!("{}\n{words}\n", fanout.topic);
            output.write(Redactor::global().redact(&text).as_bytes())?;
        }
        output.flush()?;
        match (self.dry_run, changes) {
            (_, 0) => tell("everything is as declared"),
            (true, changes) => tell(format_args!("{changes} changes would be made; nothing was")),
            (false, changes) => tell(format_args!("{changes} changes were made")),
        }
        Ok(if self.dry_run && changes > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}
