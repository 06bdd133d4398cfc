//! `[[test]]`: cases that `millstream test` runs a pipeline through. `check` and `run` look at how
//! they are written and do nothing else with them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::assemble::Folders;
use super::document::{Document, Mark};
use super::problem::Problem;
use super::sections;
use super::validate::{Section, allowed};
use crate::dead_letters::Stage;

/// Keys of every test.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestCase {
    /// What it shows, in a few words.
    pub name: String,
    /// Messages that are read, in order: a list, or a file of records (as the codec `record` writes
    /// them), relative to this file.
    pub input: Input,
    /// What comes to the sinks, in order: a list or a file of records, where there is one sink; with
    /// several a table of those by the name of the sink. Only what is given of a message is compared.
    /// A sink that is not named gets nothing.
    pub expect: Option<PerName<Expected>>,
    /// Messages that are given up, in the order of the input; by default none. Only what is given of
    /// one is compared.
    #[serde(default)]
    pub dead_letters: Vec<ExpectedLetter>,
    /// What a sink answers when it is called: once for each message, tried again ones included; `"ok"`
    /// from then on. A list, or with several sinks a table of lists by the name of the sink. `"ok"`; a
    /// status, which means what it means to the sink `http`; `"unavailable"`, `"timeout"`, `"reject"`
    /// (the message), `"fatal"` (stops the pipeline).
    pub sink_fails: Option<PerName<Vec<Answer>>>,
    /// Number of the message of the input, from 1, for which a plugin takes longer than its
    /// `limits.timeout`: the first plugin, or in a table the one of that name.
    pub plugin_timeout_at: Option<PerName<u64>>,
    /// The process dies when everything is delivered and nothing of it committed, and is started
    /// again: everything is read twice. A sink may then get a message twice.
    #[serde(default)]
    pub crash_before_commit: bool,
    /// A part of the error with which the pipeline must stop; by default it must not.
    pub stops_with: Option<String>,
    /// Variables of this test, besides those of `[test_variables]`.
    #[serde(default)]
    pub variables: BTreeMap<String, String>,
    /// Time that plugins see, and that of messages without one (ISO 8601); by default
    /// 2023-11-14T22:13:20Z.
    pub now: Option<String>,
}

/// One for the only sink or the first plugin, or each by its name.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum PerName<T> {
    Only(T),
    Named(BTreeMap<String, T>),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Input {
    File(PathBuf),
    List(Vec<InputMessage>),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Expected {
    File(PathBuf),
    List(Vec<ExpectedMessage>),
}

/// A message that is read.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InputMessage {
    /// A string, or a value that is written as JSON. It goes through the codec of the source unless
    /// that makes another payload of what it reads (`csv`, `record`). Without it the payload is null.
    pub payload: Option<Value>,
    /// Its key; by default none.
    pub key: Option<String>,
    /// Its headers, by name.
    pub headers: BTreeMap<String, String>,
    /// Its time (ISO 8601); by default `now`.
    pub timestamp: Option<String>,
    /// A file of records, of which `line` is this message; the other keys replace what it has there.
    pub file: Option<PathBuf>,
    /// Line of `file`, from 1.
    #[schemars(range(min = 1))]
    pub line: Option<usize>,
    /// In place of all that: what the source reads, for its codec. For CSV the head comes first.
    pub frame: Option<String>,
}

/// A message that a sink gets.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExpectedMessage {
    /// A string, or a value; as JSON where both are JSON.
    pub payload: Option<Value>,
    /// Its key.
    pub key: Option<String>,
    /// Some of its headers, by name.
    pub headers: Option<BTreeMap<String, String>>,
    /// Its time (ISO 8601).
    pub timestamp: Option<String>,
}

/// A message that is given up.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ExpectedLetter {
    /// Number of the message of the input, from 1.
    #[schemars(range(min = 1))]
    pub message: Option<u64>,
    /// Where: `source`, `source:STEP`, `plugin:STEP`, `route` or `sink:NAME`.
    pub stage: Option<String>,
    /// `timeout`, `http-status`, a plugin's own code.
    pub code: Option<String>,
    /// A part of the reason.
    pub reason: Option<String>,
    /// Failed attempts.
    pub attempts: Option<u32>,
}

/// What a sink answers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Answer {
    Status(u16),
    Word(String),
}

/// What an [`Answer`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Ok,
    Status(u16),
    Unavailable,
    Timeout,
    Reject,
    Fatal,
}

const WORDS: [(&str, Answered); 5] = [
    ("ok", Answered::Ok),
    ("unavailable", Answered::Unavailable),
    ("timeout", Answered::Timeout),
    ("reject", Answered::Reject),
    ("fatal", Answered::Fatal),
];

impl Answer {
    pub fn meaning(&self) -> Option<Answered> {
        let status = match self {
            Answer::Status(status) => *status,
            Answer::Word(word) => match WORDS.iter().find(|(known, _)| known == word) {
                Some((_, answered)) => return Some(*answered),
                None => word.parse().ok()?,
            },
        };
        // What ends an exchange (RFC 9110, section 15).
        (200..=599).contains(&status).then_some(Answered::Status(status))
    }
}

impl<T> PerName<T> {
    /// What is said of the one with this name, the first of all of them or not.
    pub fn of(&self, name: &str, is_first: bool) -> Option<&T> {
        match self {
            PerName::Only(only) => is_first.then_some(only),
            PerName::Named(named) => named.get(name),
        }
    }

    /// What is said of each, with the JSON pointer of it.
    fn each(&self) -> Vec<(String, &T)> {
        match self {
            PerName::Only(only) => vec![(String::new(), only)],
            PerName::Named(named) => {
                named.iter().map(|(name, one)| (format!("/{}", super::parse::escape(name)), one)).collect()
            }
        }
    }
}

/// Names that a test may use.
pub struct Known<'a> {
    pub sinks: Vec<&'a str>,
    pub plugins: Vec<&'a str>,
}

/// The tests of a document, `None` if they have problems. Without `known` the sinks or plugins have
/// problems, and names are not checked.
pub fn tests(
    document: &mut Document,
    folders: &Folders,
    known: Option<&Known<'_>>,
    value: Option<Value>,
) -> Option<Vec<TestCase>> {
    let Value::Array(values) = value.unwrap_or_else(|| Value::Array(Vec::new())) else { return None };
    let count = values.len();
    let mut names = BTreeSet::new();
    let mut tests = Vec::new();
    for (number, value) in values.into_iter().enumerate() {
        let at = format!("/test/{number}");
        let section = Section { at: &at, label: "[[test]]", example: EXAMPLE };
        let Some(test) = sections::read::<TestCase>(document, section, value) else { continue };
        let mut problems = check(&test);
        if folders.is_for_tests {
            problems.extend(missing_files(&test, folders));
        }
        if let Some(known) = known {
            problems.extend(unknown_names(&test, known));
        }
        if !names.insert(test.name.clone()) {
            problems.push(Problem::new("/name", format!("another test is called {:?}", test.name)));
        }
        for problem in problems {
            document.problem(&format!("{at}{}", problem.at), Mark::Value, problem.message, problem.help);
        }
        tests.push(test);
    }
    (tests.len() == count).then_some(tests)
}

/// Lines to take for keys that are missing.
const EXAMPLE: &str = "name = \"what it shows\"\ninput = [{ payload = { id = 1 } }]\n";

fn check(test: &TestCase) -> Vec<Problem> {
    let mut problems = Vec::new();
    if test.name.trim().is_empty() {
        problems.push(Problem::new("/name", "a test has a name").help(EXAMPLE.lines().next().unwrap_or("")));
    }
    if let Input::List(messages) = &test.input {
        if messages.is_empty() {
            problems.push(Problem::new("/input", "a test without messages shows nothing"));
        }
        for (number, message) in messages.iter().enumerate() {
            problems.extend(check_input(message, &format!("/input/{number}")));
        }
    }
    if let Some(expected) = &test.expect {
        for (at, expected) in expected.each() {
            let Expected::List(messages) = expected else { continue };
            for (number, message) in messages.iter().enumerate() {
                let at = format!("/expect{at}/{number}/timestamp");
                problems.extend(message.timestamp.as_deref().and_then(|time| bad_time(time, &at)));
            }
        }
    }
    for (number, letter) in test.dead_letters.iter().enumerate() {
        if let Some(Err(unknown)) = letter.stage.as_ref().map(|stage| stage.parse::<Stage>()) {
            problems.push(Problem::new(format!("/dead_letters/{number}/stage"), unknown.to_string()));
        }
    }
    if let Some(fails) = &test.sink_fails {
        for (at, answers) in fails.each() {
            for (number, answer) in
                answers.iter().enumerate().filter(|(_, answer)| answer.meaning().is_none())
            {
                let (shown, word) = match answer {
                    Answer::Status(status) => (status.to_string(), None),
                    Answer::Word(word) => (format!("{word:?}"), Some(word.as_str())),
                };
                let help = allowed(word, WORDS.iter().map(|(word, _)| *word)) + ", a status from 200 to 599";
                let message = format!("a sink cannot answer {shown}");
                problems.push(Problem::new(format!("/sink_fails{at}/{number}"), message).help(help));
            }
        }
    }
    if let Some(numbers) = &test.plugin_timeout_at {
        for (at, _) in numbers.each().into_iter().filter(|(_, number)| **number == 0) {
            let problem = Problem::new(format!("/plugin_timeout_at{at}"), "messages are numbered from 1");
            problems.push(problem);
        }
    }
    problems.extend(test.now.as_deref().and_then(|time| bad_time(time, "/now")));
    problems
}

fn check_input(message: &InputMessage, at: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let InputMessage { payload, key, headers, timestamp, file, line, frame } = message;
    problems.extend(timestamp.as_deref().and_then(|time| bad_time(time, &format!("{at}/timestamp"))));
    let others = payload.is_some() || key.is_some() || !headers.is_empty() || timestamp.is_some();
    if frame.is_some() && (others || file.is_some() || line.is_some()) {
        let problem =
            Problem::new(format!("{at}/frame"), "a frame is all that the source reads of a message");
        problems.push(problem.help("remove `frame`, or the other keys"));
    }
    match (file, line) {
        (Some(_), None) => {
            let problem = Problem::new(format!("{at}/file"), "it is not said which line of the file it is");
            problems.push(problem.help("add: line = 1\nor, for all its messages: input = \"FILE\""));
        }
        (None, Some(_)) => {
            let problem = Problem::new(format!("{at}/line"), "it is not said of which file this is a line");
            problems.push(problem.help("add: file = \"...\""));
        }
        _ => {}
    }
    problems
}

/// Milliseconds since 1970 of a time in ISO 8601.
pub fn milliseconds(time: &str) -> Option<i64> {
    time.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_millisecond)
}

fn bad_time(time: &str, at: &str) -> Option<Problem> {
    let problem = || {
        let message = format!("{time:?} is not a time with its zone");
        Problem::new(at, message).help("as in \"2026-01-31T12:00:00Z\"")
    };
    milliseconds(time).is_none().then(problem)
}

fn missing_files(test: &TestCase, folders: &Folders) -> Vec<Problem> {
    let mut files: Vec<(String, &PathBuf)> = Vec::new();
    match &test.input {
        Input::File(file) => files.push(("/input".into(), file)),
        Input::List(messages) => {
            let named = messages.iter().enumerate().filter_map(|(number, message)| {
                message.file.as_ref().map(|file| (format!("/input/{number}/file"), file))
            });
            files.extend(named);
        }
    }
    for (at, expected) in test.expect.iter().flat_map(PerName::each) {
        if let Expected::File(file) = expected {
            files.push((format!("/expect{at}"), file));
        }
    }
    let missing = files.into_iter().filter(|(_, file)| !folders.base.join(file).is_file());
    missing.map(|(at, file)| Problem::new(at, format!("there is no file {}", file.display()))).collect()
}

fn unknown_names(test: &TestCase, known: &Known<'_>) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, what, names, named) in [
        ("expect", "sink", &known.sinks, test.expect.as_ref().map(names_of)),
        ("sink_fails", "sink", &known.sinks, test.sink_fails.as_ref().map(names_of)),
        ("plugin_timeout_at", "plugin", &known.plugins, test.plugin_timeout_at.as_ref().map(names_of)),
    ] {
        let unknown = |name: &str| {
            let at = format!("/{key}/{}", super::parse::escape(name));
            let problem = Problem::new(at, format!("there is no {what} called {name:?}"));
            problem.help(allowed(Some(name), names.iter().copied()))
        };
        match named {
            None => {}
            Some(Some(named)) => {
                problems.extend(named.iter().filter(|name| !names.contains(name)).map(|name| unknown(name)));
            }
            Some(None) if what == "sink" && names.len() > 1 => {
                let problem = Problem::new(format!("/{key}"), "the pipeline has several sinks");
                let first = names[0];
                problems.push(problem.help(format!("say which: {key} = {{ {first} = ... }}")));
            }
            Some(None) if names.is_empty() => {
                problems.push(Problem::new(format!("/{key}"), format!("the pipeline has no {what}")));
            }
            Some(None) => {}
        }
    }
    for (number, letter) in test.dead_letters.iter().enumerate() {
        let (what, name, names) = match letter.stage.as_ref().and_then(|stage| stage.parse().ok()) {
            Some(Stage::Plugin(name)) => ("plugin", name, &known.plugins),
            Some(Stage::Sink(name)) => ("sink", name, &known.sinks),
            _ => continue,
        };
        if !names.contains(&name.as_str()) {
            let problem = Problem::new(
                format!("/dead_letters/{number}/stage"),
                format!("there is no {what} called {name:?}"),
            );
            problems.push(problem.help(allowed(Some(&name), names.iter().copied())));
        }
    }
    problems
}

/// The names in it, `None` if it is for the only one.
fn names_of<T>(one: &PerName<T>) -> Option<Vec<&str>> {
    match one {
        PerName::Only(_) => None,
        PerName::Named(named) => Some(named.keys().map(String::as_str).collect()),
    }
}
