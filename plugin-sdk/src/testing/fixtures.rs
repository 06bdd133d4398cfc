//! What lies beside a plugin: `example.toml`, and messages with what becomes of them.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Harness, Outcome, Record};
use crate::guest::Behaviour;

impl Harness {
    /// Configures a plugin as the first `[[plugin]]` of `example.toml` in `folder` does, with these
    /// values for `${NAME}`. As in a pipeline, `{ file = "..." }` stands for the file's content.
    ///
    /// # Panics
    /// If the example is of another plugin or not right.
    pub fn of_example<P: Behaviour<How>, How: 'static>(folder: &str, variables: &[(&str, &str)]) -> Harness {
        #[derive(Deserialize)]
        struct Example {
            plugin: Vec<Step>,
        }
        #[derive(Deserialize)]
        struct Step {
            r#use: String,
            #[serde(default)]
            config: Value,
        }
        let file = Path::new(folder).join("example.toml");
        let example: Example =
            toml::from_str(&read(&file)).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let step = example.plugin.into_iter().next().expect("a [[plugin]] in the example");
        assert_eq!(step.r#use, P::NAME, "{} is of this plugin", file.display());
        let config = with_values(step.config, Path::new(folder), variables);
        match Harness::new::<P, How>(config) {
            Ok(harness) => harness,
            Err(error) => panic!("{}: {error}", file.display()),
        }
    }
}

fn with_values(config: Value, folder: &Path, variables: &[(&str, &str)]) -> Value {
    match config {
        Value::String(mut text) => {
            for (name, value) in variables {
                text = text.replace(&format!("${{{name}}}"), value);
            }
            assert!(!text.contains("${"), "a value is given for each variable in {text:?}");
            Value::String(text)
        }
        Value::Array(items) => items.into_iter().map(|item| with_values(item, folder, variables)).collect(),
        Value::Object(fields) => match fields.get("file") {
            Some(Value::String(file)) if fields.len() == 1 => Value::String(read(&folder.join(file))),
            _ => {
                let with_values = |(name, value)| (name, with_values(value, folder, variables));
                Value::Object(fields.into_iter().map(with_values).collect())
            }
        },
        other => other,
    }
}

/// Runs a plugin over `fixtures/input.ndjson` in `folder` and compares what goes on with
/// `expected.ndjson`, and what is refused with `expected-dead-letters.ndjson`, line by line. Then
/// once more with the input divided, as the host does after a fault: that must change nothing.
///
/// The lines are those of the codec `record`: `payload`, a string or null, and `key`, `headers` (an
/// object, or a list of pairs) and `timestamp` (milliseconds) where there are any; expected ones
/// have `routes` if a plugin named some, dead letters also the `code` of the refusal.
///
/// # Panics
/// If anything is not as expected.
pub fn check_fixtures(folder: &str, harness: impl Fn() -> Harness) {
    let folder = PathBuf::from(folder).join("fixtures");
    let input: Vec<Record> =
        lines(&read(&folder.join("input.ndjson"))).iter().map(Record::from_line).collect();
    let outcomes = harness().run(&input);

    let mut passed = Vec::new();
    let mut refused = Vec::new();
    for (record, outcome) in input.iter().zip(&outcomes) {
        match outcome {
            Outcome::Reject { code, .. } | Outcome::Retry { code, .. } => {
                let mut line = record.to_line();
                line.insert("code".to_owned(), json!(code));
                refused.push(Value::Object(line));
            }
            _ => passed.extend(outcome.messages(record).iter().map(|record| Value::Object(record.to_line()))),
        }
    }
    compare(&folder.join("expected.ndjson"), &passed);
    compare(&folder.join("expected-dead-letters.ndjson"), &refused);

    let (front, back) = input.split_at(input.len() / 2);
    let mut first = harness();
    let mut divided = first.run(front);
    // Another instance; what the host keeps stays.
    let mut second = Harness { host: first.host, ..harness() }.at(0, front.len() as u64);
    divided.extend(second.run(back));
    assert_eq!(divided, outcomes, "the outcome of a message depends on which others are in its batch");
}

fn compare(file: &Path, got: &[Value]) {
    let expected: Vec<Value> = lines(&read(file)).iter().map(|line| Value::Object(normal(line))).collect();
    if expected != got {
        let got: Vec<String> = got.iter().map(Value::to_string).collect();
        let at = expected.iter().map(Value::to_string).zip(&got).position(|(expected, got)| expected != *got);
        let line = at.unwrap_or(expected.len().min(got.len())) + 1;
        panic!("{} is not what comes out, from line {line} on; that is:\n{}", file.display(), got.join("\n"));
    }
}

/// As [`Record::to_line`] writes it.
fn normal(line: &Map<String, Value>) -> Map<String, Value> {
    let mut normal = Record::from_line(line).to_line();
    if let Some(code) = line.get("code") {
        normal.insert("code".to_owned(), code.clone());
    }
    normal
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn lines(text: &str) -> Vec<Map<String, Value>> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty());
    lines
        .map(|(number, line)| match serde_json::from_str(line) {
            Ok(line) => line,
            Err(error) => panic!("line {}: {error}", number + 1),
        })
        .collect()
}

impl Record {
    fn from_line(line: &Map<String, Value>) -> Record {
        let known = ["payload", "key", "headers", "timestamp", "routes", "code"];
        if let Some(name) = line.keys().find(|name| !known.contains(&name.as_str())) {
            panic!("a line of a fixture has `{name}`, which is none of {known:?}");
        }
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let header = |name: &str, value: &Value| (name.to_owned(), text(value).into_bytes());
        Record {
            payload: match line.get("payload") {
                Some(Value::Null) => None,
                Some(payload) => Some(text(payload).into_bytes()),
                None => panic!("a line of a fixture has no `payload`"),
            },
            key: line.get("key").map(|key| text(key).into_bytes()),
            headers: match line.get("headers") {
                None => Vec::new(),
                Some(Value::Object(headers)) => {
                    headers.iter().map(|(name, value)| header(name, value)).collect()
                }
                Some(Value::Array(pairs)) => {
                    pairs.iter().map(|pair| header(&text(&pair[0]), &pair[1])).collect()
                }
                Some(_) => panic!("`headers` are an object or a list of pairs"),
            },
            timestamp_ms: line.get("timestamp").map_or(0, |time| time.as_i64().expect("milliseconds")),
            routes: line
                .get("routes")
                .map_or(Vec::new(), |routes| routes.as_array().expect("a list").iter().map(text).collect()),
        }
    }

    fn to_line(&self) -> Map<String, Value> {
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).expect("a fixture is text");
        let mut line = Map::new();
        line.insert("payload".to_owned(), json!(self.payload.as_ref().map(text)));
        if let Some(key) = &self.key {
            line.insert("key".to_owned(), json!(text(key)));
        }
        if !self.headers.is_empty() {
            let pairs: Vec<_> = self.headers.iter().map(|(name, value)| (name, text(value))).collect();
            line.insert("headers".to_owned(), json!(pairs));
        }
        if self.timestamp_ms != 0 {
            line.insert("timestamp".to_owned(), json!(self.timestamp_ms));
        }
        if !self.routes.is_empty() {
            line.insert("routes".to_owned(), json!(self.routes));
        }
        line
    }
}
