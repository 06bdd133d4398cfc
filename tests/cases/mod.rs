//! `millstream test`: the tests in pipeline files, the faults they ask for, and what is printed when
//! they fail.

use crate::support::{Folder, guest, millstream, repository};

/// Runs `millstream test` in a folder, with nothing set in its environment: its exit code and what it
/// prints.
fn run(folder: &Folder, arguments: &[&str]) -> (i32, String) {
    let mut command = millstream(&[&["test"], arguments].concat());
    // What plugins compile to is kept for all of these tests.
    let cache = concat!(env!("CARGO_TARGET_TMPDIR"), "/cases");
    command.current_dir(folder.path("")).env_clear().env("XDG_CACHE_HOME", cache);
    let output = command.output().expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it ends by itself"), text(&output.stdout) + &text(&output.stderr))
}

/// A pipeline whose sink is a server that nobody may call.
const PIPELINE: &str = r#"
name = "orders"
ordering = "key"

[source]
type = "file"
path = "not-there/*.ndjson"
codec = "json"

[[plugin]]
use = "jq"
config = { program = "select(.total > 10) | {id, gross: (.total * 2)}" }

[[sink]]
type = "http"
url = "${ORDERS_URL}"

[retry]
base_delay = "1h"
max_delay = "2h"
max_attempts = "${ATTEMPTS:-3}"

[test_variables]
ORDERS_URL = "https://orders.example/"
"#;

fn pipeline(folder: &Folder, tests: &str) {
    folder.write("orders.toml", &format!("{PIPELINE}{tests}"));
}

#[track_caller]
fn passes(tests: &str) {
    let folder = Folder::new();
    pipeline(&folder, tests);
    let (code, printed) = run(&folder, &["orders.toml"]);
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains(" 0 failed"), "{printed}");
    assert!(!folder.path(".millstream").exists() && !folder.path("out").exists(), "it wrote something");
}

#[track_caller]
fn fails(tests: &str) -> String {
    let folder = Folder::new();
    pipeline(&folder, tests);
    let (code, printed) = run(&folder, &["orders.toml"]);
    assert_eq!(code, 1, "{printed}");
    printed
}

#[test]
fn what_is_expected_passes() {
    passes(
        r#"
[[test]]
name = "one is written, one is too small, one is no JSON"
input = [
    { key = "a", payload = { id = 1, total = 20 } },
    { payload = '{"id": 2, "total": 5}' },
    { payload = "no JSON" },
    { frame = "{\"id\": 3, \"total\": 30}\n{\"id\": 4, \"total\": 40}" },
]
expect = [
    { key = "a", payload = { id = 1, gross = 40 } },
    { payload = '{ "gross": 60.0, "id": 3 }' },
    { payload = { id = 4, gross = 80 } },
]
dead_letters = [{ message = 3, stage = "source", code = "decode-error", reason = "not JSON" }]
"#,
    );
}

#[test]
fn a_difference_is_a_readable_diff() {
    let printed = fails(
        r#"
[[test]]
name = "wrong"
input = [{ payload = { id = 1, total = 20 } }, { payload = { id = 2, total = 30 } }, { payload = "x" }]
expect = [{ payload = { id = 1, gross = 41 } }]

[[test]]
name = "right"
input = [{ payload = { id = 1, total = 2 } }]

[[test]]
name = "nothing came"
input = [{ payload = { id = 1, total = 2 } }]
expect = [{ key = "k" }]
dead_letters = [{ code = "timeout" }]
"#,
    );
    for line in [
        "FAILED orders.toml: wrong",
        "       sink http: what is expected (-) is not what came (+)",
        "       -    \"gross\": 41,",
        "       +    \"gross\": 40,",
        "       +    \"id\": 2",
        "       dead letters: what is expected (-) is not what came (+)",
        "       +  \"code\": \"decode-error\",",
        "       +  \"message\": 3,",
        "ok     orders.toml: right",
        "FAILED orders.toml: nothing came",
        "       -  \"key\": \"k\"",
        "       -  \"code\": \"timeout\"",
        "1 passed, 2 failed",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line:?} is not in\n{printed}");
    }
}

#[test]
fn a_sink_answers_as_it_is_told() {
    passes(
        r#"
[[test]]
name = "an outage is waited for"
input = [{ payload = { id = 1, total = 20 } }]
expect = [{ payload = { id = 1, gross = 40 } }]
sink_fails = ["503", "unavailable", "503", 429, "401", "503", "ok"]

[[test]]
name = "attempts are counted"
input = [{ payload = { id = 1, total = 20 } }, { payload = { id = 2, total = 20 } }]
expect = [{ payload = { id = 2, gross = 40 } }]
sink_fails = ["500", "timeout", "500"]
dead_letters = [{ message = 1, stage = "sink:http", code = "retries-exhausted", reason = "answered 500", attempts = 3 }]

[[test]]
name = "what is refused is not tried again"
input = [{ payload = { id = 1, total = 20 } }, { payload = { id = 2, total = 20 } }]
sink_fails = { http = ["422", "reject"] }
dead_letters = [
    { message = 1, code = "http-status", reason = "422 Unprocessable Entity", attempts = 1 },
    { message = 2, code = "rejected" },
]

[[test]]
name = "a sink that cannot go on stops the pipeline"
input = [{ payload = { id = 1, total = 20 } }]
sink_fails = ["fatal"]
stops_with = "the sink http cannot go on"
"#,
    );
    let printed = fails(
        r#"
[[test]]
name = "an answer that was not needed"
input = [{ payload = { id = 1, total = 20 } }]
expect = [{}]
sink_fails = ["ok", "503", "ok", "500"]

[[test]]
name = "stopped"
input = [{ payload = { id = 1, total = 20 } }]
sink_fails = ["fatal"]

[[test]]
name = "not stopped"
input = [{ payload = { id = 1, total = 2 } }]
stops_with = "on fire"
"#,
    );
    for part in [
        "sink http: 2 answers of `sink_fails` were not needed",
        "the pipeline stopped: sink http: the sink http cannot go on",
        "the pipeline did not stop with \"on fire\"",
        "0 passed, 3 failed",
    ] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
}

#[test]
fn p4_a_plugin_overruns_at_the_message_it_is_told() {
    passes(
        r#"
[[test]]
name = "the third"
input = [
    { payload = { id = 1, total = 20 } }, { payload = { id = 2, total = 5 } },
    { payload = { id = 3, total = 20 } }, { payload = { id = 4, total = 20 } },
]
expect = [{ payload = { id = 1, gross = 40 } }, { payload = { id = 4, gross = 40 } }]
plugin_timeout_at = 3
dead_letters = [{ message = 3, stage = "plugin:jq", code = "timeout", reason = "ran longer than 500ms" }]
"#,
    );
    let printed = fails(
        r#"
[[test]]
name = "there is none"
input = [{ payload = { id = 1, total = 5 } }]
plugin_timeout_at = { jq = 2 }
"#,
    );
    assert!(printed.contains("plugin jq: message 2 of `plugin_timeout_at` never came to it"), "{printed}");
}

#[test]
fn p2_after_a_crash_before_the_commit_everything_is_read_again() {
    passes(
        r#"
[[test]]
name = "twice"
input = [
    { key = "a", payload = { id = 1, total = 20 } }, { key = "b", payload = { id = 2, total = 30 } },
    { payload = "no JSON" }, { key = "a", payload = { id = 1, total = 20 } },
]
expect = [
    { key = "a", payload = { id = 1, gross = 40 } }, { key = "b", payload = { id = 2, gross = 60 } },
    { key = "a", payload = { id = 1, gross = 40 } },
]
dead_letters = [{ message = 3, stage = "source" }]
crash_before_commit = true

[[test]]
name = "the second answer is for the second start"
input = [{ payload = { id = 1, total = 20 } }]
expect = [{ payload = { id = 1, gross = 40 } }]
sink_fails = ["ok", "422"]
dead_letters = [{ message = 1, stage = "sink:http", code = "http-status" }]
crash_before_commit = true
"#,
    );
    // Where it stops before, there is nothing to crash.
    let printed = fails(
        r#"
[[test]]
name = "no crash"
input = [{ payload = { id = 1, total = 20 } }]
sink_fails = ["fatal"]
stops_with = "cannot go on"
crash_before_commit = true
"#,
    );
    assert!(printed.contains("so without the crash"), "{printed}");
}

#[test]
fn each_sink_has_what_its_route_takes_in_its_own_format() {
    let folder = Folder::new();
    folder.write(
        "routed.toml",
        r#"
name = "routed"
source = { type = "stdin", codec = { type = "csv", numbers = true } }

[[plugin]]
use = "route"
config = { default = ["small"], rules = [{ routes = ["large"], when = [{ pointer = "/total", in = [100, 500] }] }] }

[[sink]]
name = "large"
route = "large"
type = "stdout"
codec = "json"

[[sink]]
name = "small"
route = "small"
type = "file"
path = "out/small.csv"
codec = { type = "csv", columns = ["id"] }

[[test]]
name = "by their total"
input = [{ frame = "id,total\n1,500\n2,5" }, { payload = { id = 3, total = 100 } }, { payload = [3] }]
expect.large = [{ payload = { id = 1, total = 500 } }, { payload = { id = 3, total = 100 } }]
expect.small = [{ payload = { id = 2, total = 5 } }]
dead_letters = [{ stage = "sink:small", code = "encode-error" }]
sink_fails = { small = ["500", "500", "ok"] }
"#,
    );
    let (code, printed) = run(&folder, &["routed.toml"]);
    assert_eq!(code, 0, "{printed}");
    assert!(!folder.path("out").exists(), "a sink was opened");
}

#[test]
fn a_folder_a_filter_and_junit() {
    let folder = Folder::new();
    let test = "[[test]]\nname = \"a <small> one\"\ninput = [{ payload = { total = 1 } }]\n";
    let wrong = "[[test]]\nname = \"a large one\"\ninput = [{ payload = { total = 100 } }]\n";
    pipeline(&folder, &format!("{test}{wrong}"));
    folder.write(
        "untested.toml",
        "name = \"untested\"\nsource = { type = \"stdin\" }\nsink = [{ type = \"stdout\" }]\n",
    );
    let (code, printed) = run(&folder, &[".", "--junit", "report.xml"]);
    assert_eq!(code, 1, "{printed}");
    for part in ["untested.toml: no tests", "ok     ./orders.toml: a <small> one", "1 passed, 1 failed"] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    let report = std::fs::read_to_string(folder.path("report.xml")).expect("the report");
    for part in [
        "tests=\"2\" skipped=\"0\" failures=\"1\"",
        "<testsuite name=\"./orders.toml\"",
        "<testcase name=\"a &lt;small&gt; one\"",
        "<failure message=\"sink http: what is expected (-) is not what came (+)\"",
        "+    &quot;gross&quot;: 200",
    ] {
        assert!(report.contains(part), "{part:?} is not in\n{report}");
    }

    let (code, printed) = run(&folder, &[".", "--filter", "<small>"]);
    assert!(code == 0 && printed.contains("1 passed, 0 failed"), "{printed}");
    let (code, printed) = run(&folder, &[".", "--filter", "huge"]);
    assert!(code == 1 && printed.contains("no test has \"huge\" in its name"), "{printed}");
}

#[test]
fn p9_all_mistakes_of_tests_are_told_at_once() {
    let printed = fails(
        r#"
[[test]]
name = ""
input = [{ payload = 1, kee = "a" }, { file = "x.ndjson" }, { line = 3 }, { frame = "x", key = "k" }]
expect = { htp = [{ paylod = 1 }], http = [{ timestamp = "noon" }] }
sink_fails = ["503", "slow", 99]
plugin_timeout_at = { jqq = 1, jq = 0 }

[[test]]
name = "two"
now = "today"
input = []
dead_letters = [{ stage = "plugin:route" }, { stage = "nowhere" }, { mesage = 1 }]
crash = true

[[test]]
name = "two"
input = "not-there.ndjson"
"#,
    );
    for part in [
        "a test has a name",
        "unknown key `kee`",
        "it is not said which line of the file it is",
        "there is no file x.ndjson",
        "it is not said of which file this is a line",
        "a frame is all that the source reads of a message",
        "there is no sink called \"htp\"",
        "unknown key `paylod`",
        "\"noon\" is not a time with its zone",
        "a sink cannot answer \"slow\"",
        "a sink cannot answer 99",
        "there is no plugin called \"jqq\"",
        "messages are numbered from 1",
        "\"today\" is not a time with its zone",
        "a test without messages shows nothing",
        "there is no plugin called \"route\"",
        "\"nowhere\" is not a stage",
        "unknown key `mesage`",
        "unknown key `crash` in [[test]]",
        "another test is called \"two\"",
        "there is no file not-there.ndjson",
    ] {
        assert!(printed.contains(part), "{part:?} is not in\n{printed}");
    }
    assert!(printed.contains("21 problems"), "{printed}");
}

#[test]
fn variables_are_those_of_the_file_and_of_no_machine() {
    let folder = Folder::new();
    let test = "[[test]]\nname = \"small ${HOME}\"\ninput = [{ payload = { total = 1 } }]\n";
    folder.write("orders.toml", &format!("{PIPELINE}{test}").replace("[test_variables]\nORDERS_URL", "#"));
    let (code, printed) = run(&folder, &["orders.toml"]);
    assert_eq!(code, 1, "{printed}");
    assert!(printed.contains("variable `ORDERS_URL` is not set for tests"), "{printed}");
    assert!(printed.contains("[test_variables]\n") && printed.contains("ORDERS_URL = \"...\""), "{printed}");

    let with = format!("{PIPELINE}{test}variables = {{ ATTEMPTS = \"many\" }}\n");
    folder.write("orders.toml", &with);
    let (code, printed) = run(&folder, &["orders.toml"]);
    assert!(code == 1 && printed.contains("`max_attempts` must be a whole number"), "{printed}");

    let failing =
        "[[test]]\ninput = [{ payload = { total = 20 } }]\nsink_fails = [\"500\", \"500\", \"500\"]\n";
    let three = "name = \"three\"\ndead_letters = [{ attempts = 3 }]\n";
    let one = "name = \"one\"\ndead_letters = [{ attempts = 1 }]\nvariables = { ATTEMPTS = \"1\" }\n";
    let shorter = failing.replace(", \"500\", \"500\"", "");
    folder.write("orders.toml", &format!("{PIPELINE}{failing}{three}{shorter}{one}"));
    let (code, printed) = run(&folder, &["orders.toml"]);
    assert!(code == 0 && printed.contains("2 passed"), "{printed}");
}

#[test]
fn what_plugins_are_granted_is_the_same_each_time_and_reaches_nobody() {
    let folder = Folder::new();
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a server");
    server.set_nonblocking(true).expect("it does not wait");
    let wasm = guest("capable");
    let text = format!(
        r#"
name = "capable"
source = {{ type = "stdin" }}
sink = [{{ type = "stdout" }}]

[[plugin]]
wasm = "{}"
grants.clock = true
grants.random = true
grants.state.space = {{ ttl = "24h" }}
grants.http.server = {{ url = "http://{}", methods = ["GET"] }}

[[test]]
name = "after a crash, too"
now = "2026-01-01T00:00:00Z"
input = [
    {{ payload = {{ do = "clock" }} }},
    {{ payload = {{ do = "random", count = 8 }} }},
    {{ payload = {{ do = "insert", key = "a" }} }},
    {{ payload = {{ do = "insert", key = "a" }} }},
    {{ payload = {{ do = "http", paths = ["/"] }} }},
]
expect = [
    {{ payload = 1767225600000000000 }}, {{}}, {{ payload = [true] }}, {{ payload = [false] }}, {{}},
]
crash_before_commit = true
"#,
        wasm.display(),
        server.local_addr().expect("it listens"),
    );
    folder.write("capable.toml", &text);
    let (code, printed) = run(&folder, &["capable.toml"]);
    assert_eq!(code, 0, "{printed}");
    assert!(server.accept().is_err(), "the server was called");
}

#[test]
fn every_pipeline_of_the_repository_is_tested() {
    let folder = Folder::new();
    let pipelines = repository().join("pipelines");
    let (code, printed) = run(&folder, &[pipelines.to_str().expect("a path in UTF-8")]);
    assert!(code == 0 && !printed.contains("no tests"), "{printed}");
}
