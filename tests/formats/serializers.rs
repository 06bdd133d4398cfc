//! Confluent's serializers, in Python.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::services::python::venv;
use crate::services::registry::SchemaRegistry;
use crate::support::repository;

pub fn python() -> PathBuf {
    venv("serializers-python", &repository().join("tests/formats/requirements.txt"))
}

fn ask(registry: &SchemaRegistry, question: &Value) -> Value {
    let script = repository().join("tests/formats/serializers.py");
    answer(Command::new(python()).arg(script).arg(registry.url()), question)
}

/// What a program answers to a question, both of them JSON.
pub fn answer(program: &mut Command, question: &Value) -> Value {
    program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = program.spawn().expect("it was installed");
    let mut input = child.stdin.take().expect("it is piped");
    writeln!(input, "{question}").expect("it reads the question");
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Messages of these values, whose schema their serializer registers.
pub fn write(
    registry: &SchemaRegistry,
    format: &str,
    topic: &str,
    schema: &Value,
    values: &[Value],
) -> Vec<Vec<u8>> {
    let question = json!({
        "do": "write", "format": format, "topic": topic, "schema": schema.to_string(), "values": values,
    });
    let answer = ask(registry, &question);
    let messages = answer.as_array().expect("a list").iter();
    messages.map(|message| STANDARD.decode(message.as_str().expect("a text")).expect("base64")).collect()
}

/// What their deserializer makes of messages.
pub fn read(registry: &SchemaRegistry, format: &str, topic: &str, messages: &[Vec<u8>]) -> Vec<Value> {
    let messages: Vec<String> = messages.iter().map(|message| STANDARD.encode(message)).collect();
    let answer =
        ask(registry, &json!({ "do": "read", "format": format, "topic": topic, "messages": messages }));
    answer.as_array().expect("a list").clone()
}
