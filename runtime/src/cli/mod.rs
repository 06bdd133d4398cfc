//! The command line: one file a verb.

#[cfg(feature = "aws")]
mod aws;
mod bench;
mod check;
mod checkpoint;
mod components;
mod dev;
mod dlq;
mod output;
mod plugin;
mod run;
mod schema;
mod test;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use self::output::tell;
use crate::config::{self, Environment, Pipeline};
use crate::plugin::{EngineSettings, PluginEngine, compile};

/// A stream processor whose logic is WebAssembly plugins.
#[derive(Parser)]
#[command(name = "millstream", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Run),
    Check(check::Check),
    Test(test::Test),
    Bench(bench::Bench),
    Dev(dev::Dev),
    Dlq(dlq::Dlq),
    Checkpoint(checkpoint::Checkpoint),
    Components(components::Components),
    Plugin(plugin::Plugin),
    Schema(schema::Schema),
    #[cfg(feature = "aws")]
    Aws(aws::Aws),
    /// Compiles a plugin from standard input to standard output; the host calls it.
    #[command(name = compile::SUBCOMMAND, hide = true)]
    CompilePlugin {
        /// Processor time that it may take, in seconds.
        cpu_seconds: u64,
        /// Keep what tells source lines.
        #[arg(long)]
        source_lines: bool,
    },
}

impl Cli {
    /// Runs the verb; the exit code is 0 if it did what it says, 1 if not, 2 for a wrong call.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(run) => run.run(),
            Command::Check(check) => check.run(),
            Command::Test(test) => test.run(),
            Command::Bench(bench) => bench.run(),
            Command::Dev(dev) => dev.run(),
            Command::Dlq(dlq) => dlq.run(),
            Command::Checkpoint(checkpoint) => checkpoint.run(),
            Command::Components(components) => components.run(),
            Command::Plugin(plugin) => plugin.run(),
            Command::Schema(schema) => schema.run(),
            #[cfg(feature = "aws")]
            Command::Aws(aws) => aws.run(),
            Command::CompilePlugin { cpu_seconds, source_lines } => compile::run(cpu_seconds, source_lines),
        }
    }
}

/// Folder, beside the data folders, for compiled plugins.
const CACHE: &str = "cache";

/// The engine for the pipelines of a file or a folder, whose data folders may be elsewhere.
fn engine(path: &Path, data_dir: Option<&Path>) -> anyhow::Result<Arc<PluginEngine>> {
    let folder = match data_dir {
        Some(folder) => folder.to_owned(),
        None if path.is_dir() => path.join(config::DATA_FOLDER),
        None => path.with_file_name(config::DATA_FOLDER),
    };
    PluginEngine::new(EngineSettings::own_binary(folder.join(CACHE))?)
}

/// Reads and checks pipelines; prints everything that is wrong with them, and is `None` then.
/// With an engine their plugins are tried, too.
fn load(path: &Path, data_dir: Option<&Path>, engine: Option<&Arc<PluginEngine>>) -> Option<Vec<Pipeline>> {
    let mut environment = Environment::process();
    environment.data_dir = data_dir.map(Path::to_owned);
    environment.engine = engine.cloned();
    config::load(path, &environment).inspect_err(|report| tell(report)).ok()
}

/// The one pipeline of a file; `None` as for [`load`].
fn load_one(file: &Path, data_dir: Option<&Path>) -> anyhow::Result<Option<Pipeline>> {
    let Some(mut pipelines) = load(file, data_dir, None) else { return Ok(None) };
    match (pipelines.pop(), pipelines.is_empty()) {
        (Some(pipeline), true) => Ok(Some(pipeline)),
        _ => anyhow::bail!("{} is not the file of one pipeline; name one", file.display()),
    }
}
