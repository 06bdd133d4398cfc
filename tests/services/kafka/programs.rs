//! Clients of Kafka that are not built on librdkafka: the tools of Kafka, and our programs in `java/`
//! on Kafka's own client.

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::install::java;
use super::{Kafka, Record};

/// What a topic is judged by.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Guarantee {
    AtLeastOnce,
    ExactlyOnce,
}

impl Kafka {
    /// Runs a main class of Kafka's, with `--bootstrap-server`, and returns what it printed.
    pub fn tool(&self, class: &str, arguments: &[&str], input: &str) -> String {
        let mut command = tool();
        command.args([class, "--bootstrap-server", &self.bootstrap]).args(arguments);
        finish(command, input)
    }

    /// Writes with Kafka's own client.
    pub fn write_by_java(&self, topic: &str, properties: &[&str], records: &[Record]) {
        let lines: Vec<String> = records.iter().map(|record| to_json(record).to_string()).collect();
        let mut command = tool();
        command.args(["Client", "write", &self.bootstrap, topic]).args(properties);
        finish(command, &lines.join("\n"));
    }

    /// Everything that is in a topic, by partition and offset, read with Kafka's own client.
    pub fn read_by_java(&self, topic: &str) -> Vec<Record> {
        let mut command = tool();
        command.args(["Client", "read", &self.bootstrap, topic]);
        let text = finish(command, "");
        let mut records: Vec<Record> =
            text.lines().map(|line| from_json(&serde_json::from_str(line).expect("JSON"))).collect();
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }

    /// Fails the test if a topic does not hold what the program `Check` expects; see there.
    pub fn check(&self, topic: &str, messages: u64, keys: u64, guarantee: Guarantee) {
        let (good, text) = self.judge(topic, messages, keys, guarantee);
        assert!(good, "{text}");
        print!("{topic}: {text}");
    }

    /// Whether a topic holds what the program `Check` expects, and what that printed.
    pub fn judge(&self, topic: &str, messages: u64, keys: u64, guarantee: Guarantee) -> (bool, String) {
        let guarantee = match guarantee {
            Guarantee::AtLeastOnce => "at-least-once",
            Guarantee::ExactlyOnce => "exactly-once",
        };
        let mut command = java(&["-Xmx1g"]);
        command.args(["Check", &self.bootstrap, topic, &messages.to_string(), &keys.to_string(), guarantee]);
        let output = command.output().expect("java runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    }
}

fn tool() -> Command {
    java(&["-XX:TieredStopAtLevel=1", "-Xmx256m"])
}

/// Runs a program to its end, which must be a good one, and returns what it printed.
fn finish(mut command: Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("java runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    let output = std::thread::scope(|scope| {
        // Both at once, so that neither waits for the other. Who ends early says why in its output.
        scope.spawn(move || stdin.write_all(input.as_bytes()));
        child.wait_with_output().expect("it can be waited for")
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?} ended with {}\n{out}\n{err}", output.status);
    out
}

fn to_json(record: &Record) -> Value {
    let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map(|bytes| STANDARD.encode(bytes));
    let headers: Vec<Value> =
        record.headers.iter().map(|(name, value)| json!([name, bytes(value)])).collect();
    json!({
        "partition": record.partition,
        "timestamp": record.timestamp_ms,
        "key": bytes(&record.key),
        "value": bytes(&record.value),
        "headers": headers,
    })
}

fn from_json(value: &Value) -> Record {
    let bytes = |value: &Value| value.as_str().map(|text| STANDARD.decode(text).expect("Base64"));
    let headers = value["headers"].as_array().expect("headers").iter();
    Record {
        partition: value["partition"].as_i64().map(|partition| partition as i32),
        offset: value["offset"].as_i64().expect("an offset"),
        timestamp_ms: value["timestamp"].as_i64(),
        key: bytes(&value["key"]),
        value: bytes(&value["value"]),
        headers: headers
            .map(|header| (header[0].as_str().expect("a name").to_owned(), bytes(&header[1])))
            .collect(),
    }
}
