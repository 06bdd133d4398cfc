//! From paths to pipelines.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::document::{Document, Mark};
use super::report::{Located, Report};
use super::test_section::TestCase;
use super::{Environment, Pipeline, assemble, syntax};
use crate::plugin::{PluginEngine, PluginSpec};

/// Reads and checks a pipeline file, or every `*.toml` of a folder (not of folders in it), in the
/// order of their names. Connects to nothing.
///
/// # Errors
/// Everything that is wrong with any of them (P9).
pub fn load(path: &Path, environment: &Environment) -> Result<Vec<Pipeline>, Report> {
    let mut report = Report::default();
    let mut checked = Vec::new();
    for file in files(path)? {
        match Document::open(&file, environment) {
            Ok(mut document) => {
                let pipeline = assemble::pipeline(&mut document, environment);
                checked.push((document, pipeline));
            }
            Err(problem) => report.push(problem),
        }
    }
    tell_same_names(&mut checked);
    tell_same_folders(&mut checked);
    tell_same_files(&mut checked);
    let mut pipelines = Vec::new();
    for (document, pipeline) in checked {
        report.extend(document.into_report());
        pipelines.extend(pipeline);
    }
    if report.is_empty() { Ok(pipelines) } else { Err(report) }
}

/// Reads the `[[plugin]]` sections of a file, which need not be a whole pipeline.
///
/// # Errors
/// Everything that is wrong with them.
pub fn load_plugins(file: &Path, environment: &Environment) -> Result<Vec<PluginSpec>, Report> {
    let mut document = Document::open(file, environment).map_err(|problem| {
        let mut report = Report::default();
        report.push(problem);
        report
    })?;
    let plugins = assemble::only_plugins(&mut document);
    let report = document.into_report();
    match plugins {
        Some(plugins) if report.is_empty() => Ok(plugins),
        _ => Err(report),
    }
}

/// A pipeline file and its tests.
pub struct FileTests {
    pub file: PathBuf,
    /// Each with the pipeline as its variables make it.
    pub tests: Vec<(TestCase, Arc<Pipeline>)>,
}

/// Reads the tests of a pipeline file, or of every one of a folder. Of a file without any nothing
/// else is looked at.
///
/// # Errors
/// Everything that is wrong with any of them, or with the pipelines.
pub fn load_tests(path: &Path, engine: &Arc<PluginEngine>) -> Result<Vec<FileTests>, Report> {
    let mut report = Report::default();
    let mut all = Vec::new();
    for file in files(path)? {
        // Tests with the same variables share a pipeline.
        let mut pipelines: BTreeMap<BTreeMap<String, String>, Option<Arc<Pipeline>>> = BTreeMap::new();
        let mut tests = Vec::new();
        for (number, variables) in variables_of_tests(&file).into_iter().enumerate() {
            let pipeline = pipelines.entry(variables).or_insert_with_key(|variables| {
                let mut environment = Environment::of_tests(variables.clone());
                environment.engine = Some(Arc::clone(engine));
                match Document::open(&file, &environment) {
                    Ok(mut document) => {
                        let pipeline = assemble::pipeline(&mut document, &environment);
                        report.extend(document.into_report());
                        pipeline.map(Arc::new)
                    }
                    Err(problem) => {
                        report.push(problem);
                        None
                    }
                }
            });
            let test =
                pipeline.as_ref().and_then(|pipeline| Some((pipeline.tests.get(number)?.clone(), pipeline)));
            tests.extend(test.map(|(test, pipeline)| (test, Arc::clone(pipeline))));
        }
        all.push(FileTests { file, tests });
    }
    if report.is_empty() { Ok(all) } else { Err(report) }
}

/// The variables of each test of a file. If it has mistakes there is at least one, so that they are
/// found when it is read with them.
fn variables_of_tests(file: &Path) -> Vec<BTreeMap<String, String>> {
    let Ok(text) = std::fs::read_to_string(file) else { return vec![BTreeMap::new()] };
    let read = syntax::read(&text);
    let strings = |table: Option<&Value>| -> BTreeMap<String, String> {
        let table = table.and_then(Value::as_object).into_iter().flatten();
        table.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
    };
    let common = strings(read.value.get("test_variables"));
    let tests = match read.value.get("test") {
        None if read.errors.is_empty() => return Vec::new(),
        Some(Value::Array(tests)) => tests.as_slice(),
        _ => &[],
    };
    let of = |test: &Value| {
        let mut variables = common.clone();
        variables.extend(strings(test.get("variables")));
        variables
    };
    if tests.is_empty() { vec![common] } else { tests.iter().map(of).collect() }
}

fn files(path: &Path) -> Result<Vec<PathBuf>, Report> {
    let failed = |message: String, help: Option<&str>| {
        let mut report = Report::default();
        let help = help.map(String::from);
        report.push(Located { file: path.into(), place: None, message, help });
        report
    };
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let unreadable = |error: std::io::Error| failed(format!("cannot read the folder: {error}"), None);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(unreadable)? {
        let file = entry.map_err(unreadable)?.path();
        if file.extension().is_some_and(|ending| ending == "toml") && file.is_file() {
            files.push(file);
        }
    }
    if files.is_empty() {
        return Err(failed("the folder holds no pipeline".into(), Some("a pipeline is a file NAME.toml")));
    }
    files.sort();
    Ok(files)
}

fn tell_same_names(checked: &mut [(Document, Option<Pipeline>)]) {
    let mut first: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (document, _) in checked {
        let Some(name) = document.value.get("name").and_then(|name| name.as_str()).map(String::from) else {
            continue;
        };
        if document.variable_of("/name").is_some() {
            continue;
        }
        match first.get(&name) {
            Some(other) => {
                let message = format!("another pipeline is called `{name}` too");
                document.problem("/name", Mark::Value, message, Some(format!("see {}", other.display())));
            }
            None => {
                first.insert(name, document.file.clone());
            }
        }
    }
}

/// A data folder belongs to one pipeline.
fn tell_same_folders(checked: &mut [(Document, Option<Pipeline>)]) {
    let mut first: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    for (document, pipeline) in checked {
        let Some(pipeline) = pipeline else { continue };
        match first.get(&plain(&pipeline.data_dir)) {
            // The same name says it already.
            Some(_) if document.has_problems() => {}
            Some(other) => {
                let message = "another pipeline has this data folder".to_owned();
                document.problem("/data_dir", Mark::Value, message, Some(format!("see {}", other.display())));
            }
            None => {
                first.insert(plain(&pipeline.data_dir), document.file.clone());
            }
        }
    }
}

/// Two sinks that write to one file would write into each other's lines.
fn tell_same_files(checked: &mut [(Document, Option<Pipeline>)]) {
    let mut first: BTreeMap<PathBuf, String> = BTreeMap::new();
    for (document, pipeline) in checked {
        let Some(pipeline) = pipeline else { continue };
        for (number, sink) in pipeline.sinks.iter().enumerate() {
            let Some(file) = sink.config.file() else { continue };
            let owner = format!("sink `{}` in {}", sink.name, document.file.display());
            match first.entry(plain(&pipeline.base.join(file))) {
                Entry::Occupied(first) => {
                    let message = "another sink writes to this file".to_owned();
                    let help = format!("see {}; give each a file of its own", first.get());
                    document.problem(&format!("/sink/{number}/path"), Mark::Value, message, Some(help));
                }
                Entry::Vacant(vacant) => {
                    vacant.insert(owner);
                }
            }
        }
    }
}

/// A path without its `.` and `..`, for one that need not exist yet.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if plain.file_name().is_some() => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}
