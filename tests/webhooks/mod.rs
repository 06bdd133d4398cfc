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

/// The dead letters of a pipeline in `folder`, without what only says which step it was, in order.
fn letters(folder: &Folder, pipeline: &str) -> Vec<Value> {
    let listed = millstream(&["dlq", "list", pipeline, "--json"])
        .env("WEBHOOK_SECRET", SECRET)
        .current_dir(folder.path(""))
        .output()
        .expect("the binary starts");
    let text = String::from_utf8(listed.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn the_source_checks_natively_what_the_plugins_check() {
    let folder = Folder::new();
    let data = repository().join("pipelines/data");
    std::os::unix::fs::symlink(&data, folder.path("data")).expect("a link to the data");
    // Beside the deliveries, some without a payload or a signature that is one.
    let deliveries = std::fs::read_to_string(data.join("github-webhooks.ndjson")).expect("the data");
    let strange = [
        r#"{"payload":null,"headers":{"x-hub-signature-256":"sha256=00"}}"#.to_owned(),
        r#"{"payload":"{}","headers":{}}"#.to_owned(),
        format!(r#"{{"payload":"{{}}","headers":{{"X-Hub-Signature-256":"sha256={}"}}}}"#, "ab".repeat(32)),
    ];
    folder.write("in.ndjson", &format!("{deliveries}{}\n", strange.join("\n")));
    let signature = r#"{ header = "x-hub-signature-256", prefix = "sha256=", secret = "${WEBHOOK_SECRET}" }"#;
    let schema = r#"schema = { file = "data/github-webhooks.schema.json" }, formats = false"#;
    let pipeline = |name: &str, source: &str, plugins: &str| {
        let text = format!(
            "name = \"{name}\"\n[source]\ntype = \"file\"\npath = \"in.ndjson\"\ncodec = \"record\"\n{source}\n{plugins}\n\
             [[sink]]\ntype = \"file\"\npath = \"out/{name}.ndjson\"\ncodec = \"record\"\n"
        );
        folder.write(&format!("{name}.toml"), &text);
        let file = format!("{name}.toml");
        let ran = millstream(&["run", &file, "--admin", "127.0.0.1:0"])
            .env("WEBHOOK_SECRET", SECRET)
            .current_dir(folder.path(""))
            .output()
            .expect("the binary starts");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        (folder.lines(&format!("out/{name}.ndjson")), letters(&folder, &file))
    };
    let (by_plugins, letters_of_plugins) = pipeline(
        "plugins",
        "",
        &format!(
            "[[plugin]]\nuse = \"verify-signature\"\nconfig = {signature}\n\
             [[plugin]]\nuse = \"validate-schema\"\nconfig = {{ {schema} }}\n"
        ),
    );
    let (natively, letters_of_the_source) =
        pipeline("natively", &format!("validate = {{ signature = {signature}, {schema} }}"), "");

    let sorted = |mut lines: Vec<String>| {
        lines.sort();
        lines
    };
    assert!(!natively.is_empty());
    // Without when they were read.
    let messages = |lines: Vec<String>| {
        let message = |line: String| {
            let mut message: Value = serde_json::from_str(&line).expect("JSON");
            message.as_object_mut().expect("an object").remove("timestamp");
            message.to_string()
        };
        sorted(lines.into_iter().map(message).collect())
    };
    assert_eq!(messages(natively), messages(by_plugins));
    let said = |letters: &[Value]| {
        let parts = ["position", "code", "reason", "payload", "headers", "key", "attempts", "trap"];
        let said = |letter: &Value| parts.map(|part| letter[part].to_string()).join(" ");
        sorted(letters.iter().map(said).collect())
    };
    assert_eq!(said(&letters_of_the_source), said(&letters_of_plugins));
    let count = |code: &str| letters_of_the_source.iter().filter(|letter| letter["code"] == code).count();
    for code in ["signature-missing", "signature-malformed", "signature-mismatch", "schema-violation"] {
        assert!(count(code) > 0, "no {code}");
    }
    for letter in &letters_of_the_source {
        let stage = letter["stage"].as_str().expect("a stage");
        assert!(
            matches!(stage, "source:signature" | "source:schema") && letter["plugin"].is_null(),
            "{letter}"
        );
    }

    // A replay goes through the checks again, and what fails again is the same dead letter.
    let ids = |letters: &[Value]| sorted(letters.iter().map(|letter| letter["id"].to_string()).collect());
    let replayed = millstream(&["dlq", "replay", "natively.toml", "--all"])
        .env("WEBHOOK_SECRET", SECRET)
        .current_dir(folder.path(""))
        .output()
        .expect("the binary starts");
    assert_eq!(replayed.status.code(), Some(1), "{}", String::from_utf8_lossy(&replayed.stderr));
    let again = letters(&folder, "natively.toml");
    assert_eq!(ids(&again), ids(&letters_of_the_source));
    assert!(again.iter().all(|letter| letter["replays"] == 1), "{again:?}");
}
