//! `millstream dlq replay`: dead letters go through their pipeline again.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{ArgGroup, Args};

use super::access::{Access, Place};
use super::{Selection, Target, print};
use crate::cli::output::{Output, tell, visible};
use crate::cli::run::stop_on_signals;
use crate::config::Pipeline;
use crate::config::secrets::Redactor;
use crate::dead_letters::filter::Filter;
use crate::dead_letters::masks::Masks;
use crate::dead_letters::replay::{ReplayContext, Summary, replay};
use crate::dead_letters::store::DeadLetterStore;
use crate::observe::logs::{self, LogFormat};
use crate::observe::metrics::Metrics;
use crate::pipeline::assemble::{Host, assemble};
use crate::pipeline::start;
use crate::sources::OpenSource;
use crate::store::DataFolder;

/// Sends dead letters through the pipeline again, as it is now, each to the sinks that did not have
/// it. What is delivered or dropped by a plugin is a dead letter no more.
///
/// Ends with 1 if any is left a dead letter.
#[derive(Args)]
// What clap writes has the ids, as part of the group, before the file.
#[command(
    override_usage = "millstream dlq replay [OPTIONS] <FILE> <ID...|--all|--stage|--plugin|--reason|--since|--until>"
)]
#[command(group = ArgGroup::new("which").required(true).multiple(true)
    .args(["ids", "stage", "plugin", "reason", "since", "until", "all"]))]
pub struct Replay {
    #[command(flatten)]
    target: Target,
    /// Those with these ids.
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    selection: Selection,
    /// Every one.
    #[arg(long, conflicts_with_all = ["ids", "stage", "plugin", "reason", "since", "until"])]
    all: bool,
    /// Only tell what would be replayed.
    #[arg(long)]
    dry_run: bool,
    /// Also those that were replayed in vain too often.
    #[arg(long)]
    force: bool,
}

impl Replay {
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Some(pipeline) = self.target.load()? else { return Ok(ExitCode::FAILURE) };
        let access = Access::open(&pipeline).await?;
        access.know(&self.ids).await?;
        let context = ReplayContext::of(&pipeline);
        let filter = self.selection.clone().filter(self.ids.clone());
        if self.dry_run {
            return dry_run(&pipeline, &access, &context, &filter, self.force).await;
        }
        let Access { folder, local, copy } = access;
        if let Place::Running(client) = &local {
            tell("the running process replays; its log tells if it waits for something");
            return Ok(tell_end(&client.replay(&filter, self.force).await?));
        }
        let store = |place| if let Place::Store(store) = place { Some(store) } else { None };
        let stores: Vec<DeadLetterStore> =
            [Some(local), copy].into_iter().flatten().filter_map(store).collect();
        if stores.is_empty() {
            return Ok(tell_end(&Summary::default()));
        }
        let folder = match folder {
            Some(folder) => folder,
            None => DataFolder::open(&pipeline.data_dir, &pipeline.name)?,
        };
        let summary = self.replay_here(pipeline, &folder, &stores, &context, &filter).await?;
        Ok(tell_end(&summary))
    }

    /// Runs the pipeline here, with the dead letters in place of its source.
    async fn replay_here(
        &self,
        pipeline: Pipeline,
        folder: &DataFolder,
        stores: &[DeadLetterStore],
        context: &ReplayContext,
        filter: &Filter,
    ) -> anyhow::Result<Summary> {
        // It tells what the replay waits for, as `run` does.
        logs::init(LogFormat::Text)?;
        let stop = stop_on_signals()?;
        let engine = crate::cli::engine(&self.target.file, self.target.data_dir.as_deref())?;
        let host = Host { engine, metrics: Arc::new(Metrics::new()) };
        // Each run takes the pipeline apart: for a second one it is read again.
        let mut loaded = Some(pipeline);
        let mut run = |source: OpenSource| {
            let pipeline = loaded.take().map_or_else(|| self.target.load(), |pipeline| Ok(Some(pipeline)));
            let started = pipeline.and_then(|pipeline| {
                let pipeline = pipeline.context("the pipeline file was changed meanwhile")?;
                Ok(start(assemble(pipeline, folder, &host, Some(source))?, stop.clone()))
            });
            async move { started?.wait().await.map(drop) }
        };
        let mut summary = Summary::default();
        for store in stores.iter() {
            if !summary.stopped {
                summary.add(replay(store, context, filter, self.force, &mut run).await?);
            }
        }
        Ok(summary)
    }
}

async fn dry_run(
    pipeline: &Pipeline,
    access: &Access,
    context: &ReplayContext,
    filter: &Filter,
    force: bool,
) -> anyhow::Result<ExitCode> {
    let masks = Masks::of(pipeline)?;
    let mut output = Output::new();
    let mut table = print::Table::default();
    let mut summary = Summary::default();
    access
        .each_page(filter, |mut letters| {
            letters.retain_mut(|letter| {
                let obstacle = context.obstacle(letter, force);
                masks.hide(letter);
                obstacle.map(|reason| summary.skip(reason, &letter.id)).is_none()
            });
            output.write(&table.rows(&letters))
        })
        .await?;
    output.flush()?;
    tell(format_args!("{} would be replayed", table.count()));
    tell_skipped(&summary);
    Ok(ExitCode::SUCCESS)
}

fn tell_end(summary: &Summary) -> ExitCode {
    let Summary { delivered, filtered, dead_lettered, returned, stopped, .. } = summary;
    let mut line =
        format!("{delivered} delivered, {filtered} dropped by a plugin, {dead_lettered} failed again");
    if *returned > 0 {
        line.push_str(&format!(", {returned} not settled"));
    }
    if *stopped {
        line.push_str("; stopped before all were read");
    }
    tell(line);
    tell_skipped(summary);
    let all_gone = dead_lettered + returned == 0 && !stopped && summary.skipped.is_empty();
    if all_gone { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tell_skipped(summary: &Summary) {
    for (reason, skipped) in &summary.skipped {
        let more = if skipped.count as usize > skipped.ids.len() { ", ..." } else { "" };
        let reason = visible(&Redactor::global().redact(reason));
        tell(format_args!("{} left out ({}{more}): {reason}", skipped.count, skipped.ids.join(", ")));
    }
}
