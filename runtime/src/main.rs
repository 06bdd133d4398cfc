use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use millstream::config::secrets::Redactor;

fn main() -> ExitCode {
    millstream::cli::Cli::parse().run().unwrap_or_else(|error| {
        // Its reader may be gone, which would make `eprintln!` panic.
        let error = format!("error: {error:#}");
        let _ = writeln!(std::io::stderr(), "{}", Redactor::global().redact(&error));
        ExitCode::FAILURE
    })
}
