//! Retry, order and dead letters over HTTP, against servers that fail in every way (P3); the books
//! balance at every look (P11).

mod credentials;
mod every_way;
mod half_a_batch;
mod not_there;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Folder, run, runtime, serve};

/// A pipeline of so many messages to a server, numbered, with so many keys in turn.
fn pipeline(folder: &Folder, messages: u64, keys: u64, sink: &str, retry: &str) -> PathBuf {
    let line = |number| {
        let key = number % keys;
        format!("{{\"key\":\"k{key}\",\"payload\":\"{{\\\"number\\\":{number}}}\"}}\n")
    };
    folder.write("in.ndjson", &(0..messages).map(line).collect::<String>());
    folder.write(
        "worker.toml",
        &format!(
            r#"
name = "worker"
ordering = "key"
[source]
type = "file"
path = "in.ndjson"
codec = "record"
batch = 20
[[sink]]
name = "out"
type = "http"
{sink}
[retry]
strategy = "fixed"
{retry}
"#
        ),
    )
}

fn number(body: &str) -> u64 {
    let value: Value = serde_json::from_str(body).expect("every message is JSON");
    value["number"].as_u64().expect("every message has a number")
}

fn dead_letters(pipeline: &Path) -> Vec<Value> {
    let (status, out, errors) = run(&["dlq", "list", pipeline.to_str().expect("UTF-8"), "--json"]);
    assert!(status.success(), "{errors}");
    out.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

/// Those of each key arrived in order, repetitions aside; returns how many there are without those.
fn assert_in_order(numbers: impl Iterator<Item = u64>, keys: u64) -> u64 {
    let mut last: HashMap<u64, u64> = HashMap::new();
    let mut seen = HashSet::new();
    for number in numbers.filter(|&number| seen.insert(number)) {
        let before = last.insert(number % keys, number);
        assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
    }
    seen.len() as u64
}
