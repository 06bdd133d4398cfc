//! `millstream dlq move`: SQS itself moves messages of a dead-letter queue.

use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use super::Target;
use crate::aws::move_task::{MAX_PER_SECOND, Mover, Progress};
use crate::cli::output::tell;
use crate::config::secrets::Redactor;
use crate::dead_letters::elsewhere;

/// Has SQS move the messages of the dead-letter queue back to the queues they came from.
///
/// For `[dead_letters] type = "sqs"` whose queue is the dead-letter queue of another one: SQS moves
/// nothing else. It moves all messages, also those of others, and chooses none; `replay` gives dead
/// letters to the pipeline.
#[derive(Args)]
pub struct Move {
    #[command(flatten)]
    target: Target,
    /// ARN of another queue for them.
    #[arg(long, value_name = "ARN")]
    to: Option<String>,
    /// Messages in a second, at most; by default as fast as SQS does it.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..=i64::from(MAX_PER_SECOND)))]
    per_second: Option<i32>,
    /// Do not wait for its end.
    #[arg(long)]
    detach: bool,
    /// Follow the task that runs already.
    #[arg(long, conflicts_with_all = ["to", "per_second", "detach", "cancel"])]
    follow: bool,
    /// Cancel the task that runs; what was moved stays moved.
    #[arg(long, conflicts_with_all = ["to", "per_second", "detach"])]
    cancel: bool,
}

impl Move {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Some(pipeline) = self.target.load()? else { return Ok(ExitCode::FAILURE) };
        let queue = elsewhere(&pipeline).and_then(|elsewhere| elsewhere.queue()).with_context(|| {
            format!(
                "the dead letters of {} are in no queue of SQS; `millstream dlq replay` gives them to the pipeline",
                pipeline.name
            )
        })?;
        let mover = Mover::open(&queue).await?;
        if self.cancel {
            mover.cancel().await?;
            tell("the task is cancelled");
            return Ok(ExitCode::SUCCESS);
        }
        if !self.follow {
            mover.start(self.to.as_deref(), self.per_second).await?;
            if self.detach {
                tell(format_args!(
                    "SQS moves the messages; how far it is: millstream dlq move {} --follow",
                    self.target.file.display()
                ));
                return Ok(ExitCode::SUCCESS);
            }
        }
        let mut told = None;
        let end = mover
            .follow(|progress| {
                if told.as_ref() != Some(progress) {
                    tell(Redactor::global().redact(&words(progress)));
                    told = Some(progress.clone());
                }
            })
            .await?;
        tell(format_args!("{} messages were moved", end.moved));
        Ok(ExitCode::SUCCESS)
    }
}

fn words(progress: &Progress) -> String {
    let of = progress.of.map(|of| format!(" of about {of}")).unwrap_or_default();
    format!("{}: {}{of} moved", progress.status.to_ascii_lowercase(), progress.moved)
}
