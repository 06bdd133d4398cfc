//! `millstream bench`: what it prints, and what it leaves alone. How latencies are counted is tested
//! beside the code. No time is compared with one.

use crate::support::{Folder, millstream};

fn run(folder: &Folder, arguments: &[&str]) -> (i32, String) {
    let mut command = millstream(&[&["bench", "--time", "300ms"], arguments].concat());
    let cache = concat!(env!("CARGO_TARGET_TMPDIR"), "/cases");
    let output = command.current_dir(folder.path("")).env("XDG_CACHE_HOME", cache).output();
    let output = output.expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it ends by itself"), text(&output.stdout) + &text(&output.stderr))
}

fn pipeline(folder: &Folder) {
    folder.write(
        "orders.toml",
        r#"
name = "orders"
source = { type = "file", path = "orders.ndjson", codec = "json" }

[[plugin]]
use = "jq"
config = { program = "if .id == 2 then error(\"no\") else select(.id > 0) end" }

[[sink]]
type = "file"
path = "out/orders.ndjson"
"#,
    );
    folder.write("orders.ndjson", "{\"id\":0}\n{\"id\":1}\n{\"id\":2}\nno JSON\n{\"id\":3}\n");
}

#[test]
fn a_pipeline_is_measured_and_nothing_of_it_touched() {
    let folder = Folder::new();
    pipeline(&folder);
    let (code, printed) = run(&folder, &["orders.toml"]);
    assert_eq!(code, 0, "{printed}");
    for part in [
        "orders: 4 messages of 8 bytes on average, sinks that encode and drop",
        "throughput ",
        "latency      p50 ",
        " (50%)\n",
        "1 of the source are no messages",
        "source and codec ",
        "plugin jq ",
        "sink file ",
    ] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    for name in [".millstream", "out"] {
        assert!(!folder.path(name).exists(), "it made {name}");
    }
}

#[test]
fn its_own_sinks_are_written_to_where_that_is_asked_for() {
    let folder = Folder::new();
    pipeline(&folder);
    let (code, printed) = run(&folder, &["orders.toml", "--sinks", "--json", "--rate", "50"]);
    assert_eq!(code, 0, "{printed}");
    let result: serde_json::Value = serde_json::from_str(&printed).expect("it is JSON");
    let number = |pointer: &str| {
        result
            .pointer(pointer)
            .and_then(serde_json::Value::as_f64)
            .unwrap_or_else(|| panic!("{pointer} in {result:#}"))
    };
    let (delivered, filtered) = (number("/throughput/delivered"), number("/throughput/filtered"));
    let dead = number("/throughput/dead_lettered");
    // Two of four go on, one is dropped, one given up; the last round may not be whole.
    assert!((delivered - 2.0 * filtered).abs() <= 2.0 && (dead - filtered).abs() <= 1.0, "{result:#}");
    assert!(
        number("/latency/messages_per_second") == 50.0 && number("/latency/messages") == 15.0,
        "{result:#}"
    );
    // Of the fifteen at the rate every second one goes on.
    let written = folder.lines("out/orders.ndjson").len() as f64;
    assert!(written - delivered == 7.0, "{written} lines, {result:#}");
    assert!(!folder.path(".millstream").exists(), "it made a data folder");
    let stages: Vec<_> =
        result["stages"].as_array().expect("stages").iter().map(|stage| &stage["stage"]).collect();
    assert_eq!(stages, ["source and codec", "plugin jq", "sink file"]);
    assert!(number("/stages/1/copied_bytes_per_message/in") > 8.0, "{result:#}");
    assert!(number("/stages/2/messages") == delivered, "{result:#}");
}

#[test]
fn messages_come_from_a_file_or_the_generator_where_the_source_has_none() {
    let folder = Folder::new();
    folder.write(
        "served.toml",
        "name = \"served\"\nsource = { type = \"http\", listen = \"127.0.0.1:0\", path = \"/in\" }\nsink = [{ type = \"drop\" }]\n",
    );
    let (code, printed) = run(&folder, &["served.toml"]);
    assert!(
        code == 1 && printed.contains("the source http waits for clients; give `--input FILE`"),
        "{printed}"
    );
    folder.write("messages.ndjson", "{\"payload\":\"abc\"}\n");
    let (code, printed) = run(&folder, &["served.toml", "--input", "messages.ndjson"]);
    assert!(code == 0 && printed.contains("served: 1 messages of 3 bytes"), "{printed}");
    assert!(!printed.contains("source and codec"), "no source was read: {printed}");
    let (code, printed) = run(&folder, &["served.toml", "--generate"]);
    assert!(code == 0 && printed.contains("source and codec"), "{printed}");
    let (code, printed) = run(&folder, &["served.toml", "--rate", "fast"]);
    assert!(code == 2 && printed.contains("a share such as 50%"), "{printed}");
}
