//! Avro container files, written and read by fastavro, through pipelines that are killed.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::serializers::python;
use crate::support::{Folder, Running, rounds, run, seed};

const RECORDS: usize = 3000;

/// Blocks of about fifty records.
const WRITE: &str = r#"
import sys, fastavro
path, codec, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
schema = {"type": "record", "name": "Event", "namespace": "n", "fields": [
    {"name": "n", "type": "long"},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "note", "type": ["null", "string"]}]}
records = ({"n": n, "at": 1700000000000 + n, "note": None if n % 3 else "x" * (n % 7)} for n in range(count))
with open(path, "wb") as out:
    fastavro.writer(out, schema, records, codec=codec, sync_interval=500)
"#;

const READ: &str = r#"
import sys, json, fastavro
with open(sys.argv[1], "rb") as file:
    print(json.dumps(list(fastavro.reader(file)), default=lambda at: at.isoformat(timespec="milliseconds")))
"#;

fn by_python(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(python()).args(["-c", program]).args(arguments).output().expect("Python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn read(path: &Path) -> Vec<Value> {
    serde_json::from_str(&by_python(READ, &[path.to_str().expect("UTF-8")])).expect("JSON")
}

/// A pipeline from a container file to another, by schemas with other fields.
fn pipeline(folder: &Folder, codec: &str) {
    let input = folder.path("in.avro");
    by_python(WRITE, &[input.to_str().expect("UTF-8"), codec, &RECORDS.to_string()]);
    let schema = |more: Value| {
        json!({ "type": "record", "name": "Event", "namespace": "n", "fields": [
            { "name": "n", "type": "long" },
            { "name": "at", "type": { "type": "long", "logicalType": "timestamp-millis" } },
            { "name": "note", "type": ["null", "string"] },
            more,
        ] })
        .to_string()
    };
    folder.write("reader.avsc", &schema(json!({ "name": "kind", "type": "string", "default": "event" })));
    folder.write(
        "events.toml",
        "name = \"events\"\nlanes = 1\n\
         [source]\ntype = \"file\"\npath = \"in.avro\"\nbatch = 64\n\
         codec = { type = \"avro\", framing = \"container\", reader_schema = \"reader.avsc\" }\n\
         [[plugin]]\nuse = \"identity\"\n\
         [[sink]]\ntype = \"file\"\npath = \"out.avro\"\nbatch = 64\n\
         codec = { type = \"avro\", framing = \"container\", schema = \"reader.avsc\" }\n",
    );
}

fn expected(n: u64) -> Value {
    let note = if n.is_multiple_of(3) { json!("x".repeat((n % 7) as usize)) } else { Value::Null };
    let at = jiff::Timestamp::from_millisecond(1_700_000_000_000 + n as i64).expect("a time");
    let at = at.strftime("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string();
    json!({ "n": n, "at": at, "note": note, "kind": "event" })
}

#[test]
fn a_container_file_of_another_program_becomes_one_that_it_reads() {
    for codec in ["null", "deflate"] {
        let folder = Folder::new();
        pipeline(&folder, codec);
        let file = folder.path("events.toml");
        let (status, _, err) = run(&["run", file.to_str().expect("UTF-8")]);
        assert!(status.success(), "{err}");
        assert_eq!(read(&folder.path("out.avro")), (0..RECORDS as u64).map(expected).collect::<Vec<_>>());
    }
}

#[test]
fn p8_a_kill_in_the_middle_of_a_block_loses_nothing_and_keeps_the_order() {
    let mut random = StdRng::seed_from_u64(seed());
    for _ in 0..rounds("kills over container files", 2, 20) {
        let folder = Folder::new();
        pipeline(&folder, "deflate");
        let file = folder.path("events.toml");
        for _ in 0..4 {
            let running = Running::start(&folder, &file);
            std::thread::sleep(Duration::from_millis(random.random_range(5..400)));
            running.kill();
        }
        let (status, _, err) = run(&["run", file.to_str().expect("UTF-8")]);
        assert!(status.success(), "{err}");
        let numbers: Vec<u64> =
            read(&folder.path("out.avro")).iter().map(|event| event["n"].as_u64().expect("n")).collect();
        // Duplicates may only go back; what is new comes in order.
        let mut next = 0;
        for number in numbers {
            assert!(number <= next, "{number} came before {next}");
            next = next.max(number + 1);
        }
        assert_eq!(next, RECORDS as u64);
    }
}

#[test]
fn a_file_that_was_begun_with_another_schema_is_left_alone() {
    let folder = Folder::new();
    pipeline(&folder, "null");
    by_python(WRITE, &[folder.path("out.avro").to_str().expect("UTF-8"), "null", "3"]);
    let before = std::fs::read(folder.path("out.avro")).expect("the file");
    let file = folder.path("events.toml");
    let (status, _, err) = run(&["run", file.to_str().expect("UTF-8")]);
    assert!(!status.success() && err.contains("was begun with another schema"), "{err}");
    assert_eq!(std::fs::read(folder.path("out.avro")).expect("the file"), before);
}
