use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    millstream::cli::Cli::parse().run().unwrap_or_else(|error| {
        // Its reader may be gone, which would make `eprintln!` panic.
        let _ = writeln!(std::io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}
