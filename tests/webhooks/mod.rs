//! The example over 329 real webhooks gives, message by message, what an independent JSON Schema
//! validator (Ajv, on Node) and an independent HMAC say.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Folder, millstream, npm_ci, repository};

const SECRET: &str = "It's a Secret to Everybody";

/// Installs the judge into a folder of the test, and has it judge.
fn judged(folder: &Folder, data: &Path) -> Vec<Value> {
    npm_ci(folder, "tests/webhooks", &["judge.js"]);
    let output = Command::new("node")
        .arg("judge.js")
        .args([data.join("github-webhooks.ndjson"), data.join("github-webhooks.schema.json")])
        .env("WEBHOOK_SECRET", SECRET)
        .current_dir(folder.path(""))
        .output()
        .expect("this test needs Node: apt-get install nodejs npm");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("the judge writes UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

#[test]
fn the_example_agrees_with_an_independent_validator_and_an_independent_hmac() {
    let folder = Folder::new();
    let data = repository().join("pipelines/data");
    let verdicts = judged(&folder, &data);
    assert_eq!(verdicts.len(), 329);
    let of = |verdict: &str| verdicts.iter().filter(|judged| judged["verdict"] == verdict).count();
    for verdict in ["signature-mismatch", "schema-violation", "filtered", "delivered"] {
        println!("{verdict}: {}", of(verdict));
    }
    assert!(of("signature-mismatch") > 0 && of("delivered") > 0, "the data has all kinds");

    // The example as it stands, but for the folder that it writes to.
    std::os::unix::fs::symlink(&data, folder.path("data")).expect("a link to the data");
    let text =
        std::fs::read_to_string(repository().join("pipelines/github-webhooks.toml")).expect("the example");
    let pipeline = folder.write("github-webhooks.toml", &text);
    let pipeline = pipeline.to_str().expect("a path in UTF-8");
    let ran = millstream(&["run", pipeline, "--admin", "127.0.0.1:0"]).env("WEBHOOK_SECRET", SECRET).output();
    let ran = ran.expect("the binary starts");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let listed = millstream(&["dlq", "list", pipeline, "--json"]).env("WEBHOOK_SECRET", SECRET).output();
    let listed = String::from_utf8(listed.expect("the binary starts").stdout).expect("UTF-8");
    let letters: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();

    // Each dead letter stands for the line that the judge found the same fault in.
    let input = std::fs::read_to_string(data.join("github-webhooks.ndjson")).expect("the data");
    let mut dead = 0;
    for (line, judged) in input.lines().zip(&verdicts) {
        let record: Value = serde_json::from_str(line).expect("a record");
        let same = |letter: &&Value| {
            letter["payload"] == record["payload"]
                && letter["headers"]["x-github-delivery"] == record["headers"]["x-github-delivery"]
        };
        let letters: Vec<&Value> = letters.iter().filter(same).collect();
        match judged["verdict"].as_str() {
            Some("signature-mismatch") => {
                assert_eq!(letters.len(), 1, "{record}");
                assert_eq!(letters[0]["stage"], "plugin:verify-signature");
                dead += 1;
            }
            Some("schema-violation") => {
                assert_eq!(letters.len(), 1, "{record}");
                assert_eq!(letters[0]["stage"], "plugin:validate-schema");
                dead += 1;
            }
            _ => assert!(letters.is_empty(), "a dead letter that the judge has no fault in: {letters:?}"),
        }
    }
    assert_eq!(letters.len(), dead);

    let sorted = |messages: Vec<Value>| {
        let mut texts: Vec<String> = messages.iter().map(Value::to_string).collect();
        texts.sort();
        texts
    };
    let expected = verdicts.iter().filter_map(|judged| judged.get("message").cloned()).collect();
    let delivered = folder.lines("out/opened.ndjson");
    let delivered = delivered.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(sorted(delivered), sorted(expected));
}
