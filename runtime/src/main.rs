use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    millstream::cli::Cli::parse().run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
