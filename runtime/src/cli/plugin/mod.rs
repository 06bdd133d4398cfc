//! `millstream plugin`: the day of someone who writes a plugin.

mod bench;
mod build;
pub mod fixtures;
mod inspect;
mod new;
mod run;
mod section;
mod test;
mod toolchain;

pub use section::engine;
pub use test::{NOW_MS, diff};

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Make, build, test and look at plugins.
#[derive(Args)]
pub struct Plugin {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    New(new::New),
    Build(build::Build),
    Test(test::Test),
    Run(run::Run),
    Inspect(inspect::Inspect),
    Bench(bench::Bench),
}

impl Plugin {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.verb {
            Verb::New(new) => new.run(),
            Verb::Build(build) => build.run(),
            Verb::Test(test) => test.run(),
            Verb::Run(run) => run.run(),
            Verb::Inspect(inspect) => inspect.run(),
            Verb::Bench(bench) => bench.run(),
        }
    }
}
