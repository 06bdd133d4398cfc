//! `millstream test`: the tests in pipeline files.

mod case;
mod compare;
mod input;
mod junit;
mod world;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;

use super::output::{Output, tell};
use super::plugin;
use crate::config;
use crate::plugin::PluginEngine;

/// Run the tests in pipeline files.
///
/// A `[[test]]` says what is read, what must come to each sink and what must become a dead letter, and
/// what goes wrong on the way. The pipeline runs with its plugins, in the engine and with the limits of
/// production; its source, its sinks and its dead letters are in memory, and delays take no time.
#[derive(Args)]
pub struct Test {
    /// A pipeline file, or a folder of them.
    path: PathBuf,
    /// Run the tests only whose name has this text in it.
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Write the results to this file too, as JUnit XML.
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

/// How the tests of a file went.
pub struct FileResult {
    pub file: PathBuf,
    pub cases: Vec<CaseResult>,
}

pub struct CaseResult {
    pub name: String,
    /// What is wrong; nothing if it passed.
    pub failures: Vec<String>,
    pub time: Duration,
}

impl Test {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let engine = plugin::engine()?;
        let Some(results) = run_all(&self.path, self.filter.as_deref(), &engine)? else {
            return Ok(ExitCode::FAILURE);
        };
        if let Some(file) = &self.junit {
            junit::write(file, &results)?;
        }
        let cases = || results.iter().flat_map(|file| &file.cases);
        let failed = cases().filter(|case| !case.failures.is_empty()).count();
        if let Some(filter) = self.filter.as_ref().filter(|_| cases().next().is_none()) {
            anyhow::bail!("no test has {filter:?} in its name");
        }
        let passed = cases().count() - failed;
        print(&format!("{passed} passed, {failed} failed\n"))?;
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Runs the tests of a file or a folder and prints how each goes; `None` if they have mistakes, which
/// are printed.
///
/// # Errors
/// Standard output cannot be written.
pub fn run_all(
    path: &Path,
    filter: Option<&str>,
    engine: &Arc<PluginEngine>,
) -> anyhow::Result<Option<Vec<FileResult>>> {
    let files = match config::load_tests(path, engine) {
        Ok(files) => files,
        Err(report) => {
            tell(report);
            return Ok(None);
        }
    };
    let mut results = Vec::new();
    for file in files {
        let mut cases = Vec::new();
        if file.tests.is_empty() {
            print(&format!("{}: no tests; a test is a [[test]] in it\n", file.file.display()))?;
        }
        for (test, pipeline) in &file.tests {
            if filter.is_some_and(|filter| !test.name.contains(filter)) {
                continue;
            }
            let started = Instant::now();
            let failures = case::run(test, pipeline, engine)
                .unwrap_or_else(|error| vec![format!("it could not be run: {error:#}")]);
            let case = CaseResult { name: test.name.clone(), failures, time: started.elapsed() };
            print(&shown(&file.file, &case))?;
            cases.push(case);
        }
        results.push(FileResult { file: file.file, cases });
    }
    Ok(Some(results))
}

fn shown(file: &Path, case: &CaseResult) -> String {
    let result = if case.failures.is_empty() { "ok    " } else { "FAILED" };
    let mut text = format!("{result} {}: {}\n", file.display(), case.name);
    for failure in &case.failures {
        for line in failure.lines() {
            let _ = writeln!(text, "       {line}");
        }
    }
    text
}

/// Each as soon as it is known.
fn print(text: &str) -> anyhow::Result<()> {
    let mut output = Output::new();
    output.write(text.as_bytes())?;
    output.flush()
}
