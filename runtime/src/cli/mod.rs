//! The command line: one file a verb.

mod check;
mod components;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A stream processor whose logic is WebAssembly plugins.
#[derive(Parser)]
#[command(name = "millstream", version, about, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Check(check::Check),
    Components(components::Components),
}

impl Cli {
    /// Runs the verb; the exit code is 0 if it did what it says, 1 if not, 2 for a wrong call.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Check(check) => check.run(),
            Command::Components(components) => components.run(),
        }
    }
}
