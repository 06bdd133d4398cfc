//! The day of a plugin's author: new, build, test, run, inspect, with nothing but Rust and the binary.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::support::{Folder, Running, millstream};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository is there")
}

/// Runs the binary in a folder. All crates of these tests share what is built of the SDK.
fn run(folder: &Folder, arguments: &[&str]) -> Output {
    let target = repository().join("target/authors");
    let mut command = millstream(arguments);
    command.current_dir(folder.path("")).env("CARGO_TARGET_DIR", target);
    command.env("XDG_CACHE_HOME", folder.path("cache")).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn succeeds(folder: &Folder, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

#[track_caller]
fn fails(folder: &Folder, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}\n{}", text(&output.stdout));
    text(&output.stdout) + &text(&output.stderr)
}

fn new(folder: &Folder, name: &str, kind: &str) {
    let sdk = repository().join("plugin-sdk");
    let sdk = sdk.to_str().expect("a path in UTF-8");
    succeeds(folder, &["plugin", "new", name, "--kind", kind, "--sdk-path", sdk]);
}

#[test]
fn a_new_plugin_of_each_kind_passes_its_test_and_runs_in_its_pipeline() {
    let folder = Folder::new();
    for (kind, delivered) in [("filter", 1), ("map", 2), ("process", 2)] {
        let name = format!("my-{kind}");
        new(&folder, &name, kind);
        let said = succeeds(&folder, &["plugin", "test", &name]);
        assert!(said.contains(" sha256 ") && said.contains("; ok (seed "), "{said}");
        let pipeline = format!("{name}/pipeline.toml");
        let tested = succeeds(&folder, &["test", &pipeline]);
        assert!(tested.contains("2 passed, 0 failed"), "{tested}");
        let messages = succeeds(&folder, &["run", &pipeline, "--admin", "127.0.0.1:0"]);
        assert_eq!(messages.lines().count(), delivered, "{kind}: {messages}");
    }
    let again = fails(&folder, &["plugin", "new", "my-map"]);
    assert!(again.contains("my-map is there already"), "{again}");

    let inspected = succeeds(&folder, &["plugin", "inspect", "my-map/my-map.wasm"]);
    for part in ["my-map 0.1.0: Adds the tax", "loads     yes", "plugin/log@", "The tax as a share"] {
        assert!(inspected.contains(part), "{inspected}");
    }
    folder.write("orders", "{\"payload\":\"{\\\"id\\\":7,\\\"total\\\":10}\"}\n{\"payload\":null}\n");
    let ran = ["plugin", "run", "my-map/my-map.wasm", "--record", "orders", "--config", "{\"tax\": 0.5}"];
    let outcomes = succeeds(&folder, &ran);
    let outcomes: Vec<&str> = outcomes.lines().collect();
    assert!(
        outcomes[0].contains(r#"\"gross\":15.0"#) && outcomes[1].contains("payload-null"),
        "{outcomes:?}"
    );

    let benched = succeeds(&folder, &["plugin", "bench", "my-map/pipeline.toml"]);
    for part in ["ns/message", "\nmy-map ", "\nidentity ", "at the peak, of 64MiB", ", of 500ms"] {
        assert!(benched.contains(part), "{benched}");
    }
    let median = benched.split("median ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let median: f64 = median.and_then(|ratio| ratio.parse().ok()).expect("a ratio");
    assert!(median > 1.5, "a plugin that reads JSON takes more than one that does nothing: {benched}");
    let number_after = |words: &str| -> f64 {
        let rest = benched.split(words).nth(1).expect("it is printed");
        rest.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    };
    // The payloads, and where each of them is.
    assert!(number_after("copied") > number_after("messages of"), "{benched}");
    let elsewhere = fails(&folder, &["plugin", "bench", "my-map/src/x.wasm"]);
    assert!(elsewhere.contains("--input") && elsewhere.contains("fixtures/input.ndjson"), "{elsewhere}");

    let expected = folder.path("my-map/fixtures/expected.ndjson");
    let right = std::fs::read_to_string(&expected).expect("the fixture");
    std::fs::write(&expected, right.replace("119.0", "118.0")).expect("a wrong fixture");
    let different = fails(&folder, &["plugin", "test", "my-map"]);
    assert!(
        different.contains("-    \"gross\": 118.0") && different.contains("+    \"gross\": 119.0"),
        "{different}"
    );
}

#[test]
fn a_plugin_whose_result_depends_on_the_batch_fails_its_test() {
    let folder = Folder::new();
    folder.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = []\n");
    new(&folder, "counts", "process");
    let manifest = std::fs::read_to_string(folder.path("Cargo.toml")).expect("the workspace");
    assert!(manifest.contains("\"counts\""), "it is a member of the workspace: {manifest}");
    folder.write(
        "counts/src/lib.rs",
        r#"
use millstream_sdk::prelude::*;

pub struct Counts;

impl Plugin for Counts {
    type Config = NoConfig;
    const NAME: &'static str = "counts";
    const SUMMARY: &'static str = "Tells how many came together.";

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Counts)
    }
}

impl Process for Counts {
    fn process(&mut self, _: &Message<'_>, _: &mut Output) -> Result<Verdict, Failure> {
        Ok(Verdict::Pass)
    }

    fn process_batch(&mut self, batch: &Batch<'_>, out: &mut Output) {
        for _ in batch.messages() {
            out.emit().payload(batch.len().to_string().as_bytes());
            out.settle(Ok(Verdict::Emit));
        }
    }
}

millstream_sdk::export!(Counts);
"#,
    );
    let pipeline = std::fs::read_to_string(folder.path("counts/pipeline.toml")).expect("the pipeline");
    folder.write("counts/pipeline.toml", &pipeline.replace("config = { route = \"items\" }\n", ""));
    let said = fails(&folder, &["plugin", "test", "counts", "--update"]);
    assert!(
        said.contains(
            "the outcome of message 1 depends on its batch: all at once (-) and in batches of 1 (+)"
        ),
        "{said}"
    );
}

#[test]
fn what_is_no_plugin_is_told() {
    let folder = Folder::new();
    folder.write("text.wasm", "no module");
    let said = fails(&folder, &["plugin", "inspect", "text.wasm"]);
    assert!(said.contains("this host does not load it: text.wasm is not WebAssembly"), "{said}");
    let said = fails(&folder, &["plugin", "build", "."]);
    assert!(said.contains("has no Cargo.toml"), "{said}");
    std::fs::create_dir(folder.path("src")).expect("a folder");
    folder.write(
        "Cargo.toml",
        "[package]\nname = \"broken\"\nedition = \"2024\"\n[lib]\ncrate-type = [\"cdylib\"]\n",
    );
    folder.write("src/lib.rs", "fn f() -> u8 { \"\" }");
    let said = fails(&folder, &["plugin", "build"]);
    assert!(said.contains("error[E0308]") && said.contains("cargo could not build"), "{said}");
    folder.write("src/lib.rs", "");
    let said = fails(&folder, &["plugin", "build"]);
    assert!(said.contains("broken is no plugin") && said.contains("millstream-plugin-sdk"), "{said}");
}

#[test]
fn a_failure_is_told_with_its_functions_and_offline_with_its_lines() {
    let folder = Folder::new();
    new(&folder, "deep", "filter");
    folder.write(
        "deep/src/lib.rs",
        r#"
use millstream_sdk::prelude::*;

pub struct Deep;

impl Plugin for Deep {
    type Config = NoConfig;
    const NAME: &'static str = "deep";
    const SUMMARY: &'static str = "Fails far down.";

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Deep)
    }
}

impl Filter for Deep {
    fn keep(&mut self, message: &Message<'_>) -> Result<bool, Failure> {
        Ok(outer(message.payload().unwrap_or_default()) > 0)
    }
}

#[inline(never)]
fn outer(payload: &[u8]) -> usize {
    inner(payload) + payload.len()
}

#[inline(never)]
fn inner(payload: &[u8]) -> usize {
    assert!(!payload.starts_with(b"!"), "this one is bad");
    payload.len()
}

millstream_sdk::export!(Deep);
"#,
    );
    succeeds(&folder, &["plugin", "build", "deep", "--debug"]);
    let messages = (0..100).map(|n| format!("{}{n}\n", if n < 20 { "!" } else { "" }));
    folder.write("in.txt", &messages.collect::<String>());
    folder.write(
        "pipeline.toml",
        "name = \"deep\"\nlanes = 1\n[source]\ntype = \"file\"\npath = \"in.txt\"\ncodec = \"lines\"\n\
         [[plugin]]\nwasm = \"deep/deep.wasm\"\n[[sink]]\ntype = \"drop\"\n",
    );
    let ran = run(&folder, &["run", "pipeline.toml", "--admin", "127.0.0.1:0"]);
    let log = text(&ran.stderr);
    assert!(ran.status.success(), "{log}");
    let told: Vec<&str> = log.lines().filter(|line| line.contains("plugin failed: it ")).collect();
    assert_eq!(told.len(), 5, "{log}");
    for part in
        ["this one is bad", "in deep::inner < deep::outer", "plugin=\"deep\"", "in.txt line 1", "sha256="]
    {
        assert!(told[0].contains(part), "no {part:?} in {}", told[0]);
    }
    assert!(log.contains("failed on more messages") && log.contains("left_out=15"), "{log}");

    // The commands of the log, as they stand there.
    let commands =
        told[0].split("replay=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("commands");
    let mut outcome = String::new();
    for command in commands.split(" && ") {
        let arguments: Vec<&str> = command.split_whitespace().skip(1).collect();
        outcome = succeeds(&folder, &arguments);
    }
    for part in ["this one is bad", "in deep::inner (", "src/lib.rs:29) < deep::outer", "src/lib.rs:18)"] {
        assert!(outcome.contains(part), "no {part:?} in {outcome}");
    }
    let shown = succeeds(&folder, &["dlq", "list", "pipeline.toml", "--json"]);
    assert!(shown.contains("in deep::inner < deep::outer"), "{shown}");
}

#[test]
fn dev_builds_tests_and_reloads_what_is_saved() {
    let folder = Folder::new();
    new(&folder, "levy", "map");
    // What it depends on is built before anything has a deadline.
    succeeds(&folder, &["plugin", "build", "levy"]);
    std::fs::remove_file(folder.path("levy/levy.wasm")).expect("it was built");
    let append = |id: u64| {
        let input = std::fs::File::options().create(true).append(true).open(folder.path("in.ndjson"));
        let line = format!("{{\"payload\":\"{{\\\"id\\\":{id},\\\"total\\\":9.99}}\"}}\n");
        std::io::Write::write_all(&mut input.expect("the input"), line.as_bytes())
            .expect("it can be written");
    };
    let pipeline = |tax: f64| {
        let text = format!(
            "name = \"levy\"\n[source]\ntype = \"file\"\npath = \"../in.ndjson\"\ncodec = \"record\"\n\
             mode = \"follow\"\n[[plugin]]\nwasm = \"levy.wasm\"\nconfig = {{ tax = {tax} }}\n\
             [[sink]]\ntype = \"file\"\npath = \"../out.ndjson\"\n\
             [[test]]\nname = \"one\"\ninput = [{{ payload = '{{\"id\":1,\"total\":1}}' }}]\nexpect = [{{}}]\n"
        );
        folder.write("levy/pipeline.toml", &text)
    };
    let file = pipeline(0.19).display().to_string();
    append(1);
    let out = std::fs::File::create(folder.path("out")).expect("a file for the test");
    let mut command = millstream(&["dev", &file, "--admin", "127.0.0.1:0"]);
    command.env("CARGO_TARGET_DIR", repository().join("target/authors"));
    command.env("XDG_CACHE_HOME", folder.path("cache")).stdout(out);
    let mut dev = Running::of(&folder, &mut command);
    let comes = |dev: &mut Running, id: u64, gross: f64| {
        let line = format!("{{\"id\":{id},\"net\":9.99,\"gross\":{gross:?}}}");
        dev.wait_for(&line, |_| folder.lines("out.ndjson").contains(&line));
    };
    let says = |dev: &mut Running, what: &str| dev.wait_for(what, |dev| dev.log().contains(what));
    comes(&mut dev, 1, 11.89);
    assert!(dev.log().contains("dev: the pipeline runs"), "{}", dev.log());
    let tests = || std::fs::read_to_string(folder.path("out")).expect("what the tests print");
    assert!(tests().contains("; ok (seed") && tests().contains("1 passed, 0 failed"), "{}", tests());

    // Another outcome: the fixtures tell it, and the pipeline has it.
    let source = folder.path("levy/src/lib.rs");
    let before = std::fs::read_to_string(&source).expect("the source");
    std::fs::write(&source, before.replace("* 100.0).round() / 100.0", ").round()")).expect("it is saved");
    says(&mut dev, "plugin reloaded");
    append(2);
    comes(&mut dev, 2, 12.0);
    dev.wait_for("the difference", |_| tests().contains("-    \"gross\": 11.89"));

    // What does not build changes nothing.
    std::fs::write(&source, format!("{before} broken")).expect("it is saved");
    says(&mut dev, "does not build; the last that did is used");
    append(3);
    comes(&mut dev, 3, 12.0);

    pipeline(0.5);
    says(&mut dev, "dev: the pipeline reads its file again");
    dev.wait_for("the new configuration", |dev| dev.log().matches("plugin reloaded").count() == 2);
    append(4);
    comes(&mut dev, 4, 15.0);
    dev.terminate();
    assert!(dev.end().success(), "{}", dev.log());
}
