//! `millstream check`: everything that is wrong with pipeline files (P9), or what they guarantee
//! (P10).

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::output::{Output, tell};
use crate::config::secrets::Redactor;
use crate::config::{self, DeadLetterStore, Environment, Pipeline, guarantee};

/// Check pipelines without running them.
#[derive(Args)]
pub struct Check {
    /// A pipeline file, or a folder of them.
    path: PathBuf,
    /// Keep what pipelines must remember in this folder, instead of beside their files.
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Also ask what the pipelines read from for settings that do not go together with them, and schema
    /// registries whether they would take the schemas of sinks. Reads no message, registers nothing.
    #[arg(long)]
    connect: bool,
}

impl Check {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut environment = Environment::process();
        environment.engine = Some(super::engine(&self.path, self.data_dir.as_deref())?);
        environment.data_dir = self.data_dir;
        match config::load(&self.path, &environment) {
            Ok(pipelines) => {
                let mut summaries: Vec<String> = pipelines.iter().map(summary).collect();
                // Also what would not be taken.
                let mut unanswered = 0;
                if self.connect {
                    for (pipeline, summary) in pipelines.iter().zip(&mut summaries) {
                        for (sink, asked) in ask_sinks(pipeline)? {
                            match asked {
                                Ok(incompatible) => {
                                    unanswered += incompatible.len();
                                    for text in incompatible {
                                        warn(summary, &format!("sink {sink}: {text}"));
                                    }
                                }
                                Err(error) => {
                                    unanswered += 1;
                                    warn(
                                        summary,
                                        &format!("the registry of sink {sink} cannot be asked: {error:#}"),
                                    );
                                }
                            }
                        }
                        match ask(pipeline)? {
                            Ok(warnings) => warnings.iter().for_each(|text| warn(summary, text)),
                            Err(error) => {
                                unanswered += 1;
                                warn(
                                    summary,
                                    &format!("source `{}` cannot be asked: {error:#}", pipeline.source.kind),
                                );
                            }
                        }
                    }
                }
                let mut output = Output::new();
                output.write(Redactor::global().redact(&summaries.join("\n")).as_bytes())?;
                output.flush()?;
                Ok(if unanswered == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
            }
            Err(report) => {
                tell(report);
                Ok(ExitCode::FAILURE)
            }
        }
    }
}

/// What a pipeline does and promises, for people.
fn summary(pipeline: &Pipeline) -> String {
    let given = guarantee::of(pipeline);
    let sinks: Vec<String> = pipeline
        .sinks
        .iter()
        .map(|sink| match &sink.common.route {
            Some(route) => format!("{} (route {route})", sink.name),
            None => sink.name.clone(),
        })
        .collect();
    let path: Vec<&str> = std::iter::once(pipeline.source.kind)
        .chain(pipeline.plugins.iter().map(|plugin| plugin.step.as_str()))
        .collect();
    let dead_letters = match &pipeline.dead_letters.to {
        DeadLetterStore::Embedded => {
            format!("in the data folder, kept for {}", pipeline.dead_letters.common.retention)
        }
        DeadLetterStore::Sink(sink) => format!("sink {}", sink.kind),
    };
    let weakest_link = given.weakest_link.unwrap_or_else(|| "none".into());
    let mut text = format!("{} ({})\n", pipeline.name, pipeline.file.display());
    for (label, value) in [
        ("path", format!("{} -> {}", path.join(" -> "), sinks.join(", "))),
        ("delivery", given.delivery.to_string()),
        ("order", given.order),
        ("duplicates", given.duplicates),
        ("weakest link", weakest_link),
        ("dead letters", dead_letters),
        ("data folder", pipeline.data_dir.display().to_string()),
    ] {
        let _ = writeln!(text, "  {label:13} {value}");
    }
    for warning in given.warnings {
        warn(&mut text, &warning);
    }
    text
}

fn warn(summary: &mut String, warning: &str) {
    let _ = writeln!(summary, "  warning: {warning}");
}

/// What the codec of each sink says when it is asked, of those that ask somebody.
fn ask_sinks(pipeline: &Pipeline) -> anyhow::Result<Vec<(&str, anyhow::Result<Vec<String>>)>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = pipeline.sinks.iter().filter_map(|sink| Some((sink.name.as_str(), sink.codec.ask()?)));
    Ok(asked.map(|(name, asking)| (name, runtime.block_on(asking))).collect())
}

/// What the source of a pipeline says when it is asked; the inner error if it cannot be.
fn ask(pipeline: &Pipeline) -> anyhow::Result<anyhow::Result<Vec<String>>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(pipeline.source.config.ask(&pipeline.base)))
}
