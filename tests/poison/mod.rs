//! P4 and P7: plugins that misbehave on one message, in a whole pipeline. Only that message becomes
//! a dead letter, the others arrive in order, the next batches run, and memory stays in bounds.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::support::{DEADLINE, Folder, Running, guest, look, metric, run};

/// How often the memory of a running process is looked at: its peak, so that none is missed but
/// that of its last moments.
const LOOK: Duration = Duration::from_millis(5);
const BATCH: usize = 256;
/// Three batches, of which the second has the guilty message.
const MESSAGES: usize = 700;
const GUILTY: usize = 300;

struct Case {
    mode: &'static str,
    /// The code of the dead letter.
    code: &'static str,
    timeout: &'static str,
    memory_mib: u64,
    budget_mib: u64,
}

fn case(mode: &'static str, code: &'static str) -> Case {
    Case { mode, code, timeout: "200ms", memory_mib: 64, budget_mib: 128 }
}

#[test]
fn p4_only_the_guilty_message_becomes_a_dead_letter() {
    for case in [
        case("loop", "timeout"),
        case("grow", "out-of-memory"),
        case("recurse", "stack-overflow"),
        case("trap", "trap"),
        case("index-out-of-range", "malformed-result"),
        case("index-wrap", "malformed-result"),
        case("too-few-verdicts", "malformed-result"),
        case("bad-utf8", "malformed-result"),
        case("log-forever", "log-limit"),
        // It takes its time to write 100 MiB.
        Case { timeout: "20s", ..case("huge-output", "out-of-memory") },
        Case { timeout: "20s", memory_mib: 256, budget_mib: 384, ..case("huge-output", "output-limit") },
    ] {
        check(&case);
    }
}

/// A message, as its line in the input and in the output.
fn line(number: usize) -> String {
    if number == GUILTY { format!("message {number}!") } else { format!("message {number}") }
}

/// A pipeline over [`MESSAGES`] messages, of which the guilty one makes the plugin misbehave.
fn pipeline(folder: &Folder, case: &Case, source: &str) -> PathBuf {
    let Case { mode, timeout, memory_mib, budget_mib, .. } = case;
    folder.write("in.txt", &(0..MESSAGES).map(|n| line(n) + "\n").collect::<String>());
    let pipeline = format!(
        r#"
name = "poison"
lanes = 1
budget = "{budget_mib}MiB"

[source]
type = "file"
path = "in.txt"
codec = "lines"
batch = {BATCH}
{source}

[[plugin]]
wasm = {wasm:?}
config = {{ mode = "{mode}", trigger = "!" }}
limits = {{ timeout = "{timeout}", memory = "{memory_mib}MiB" }}

[[sink]]
type = "file"
path = "out.txt"
codec = "lines"

[dead_letters]
type = "file"
path = "dead.ndjson"
codec = "record"
"#,
        wasm = guest("hostile"),
    );
    folder.write("pipeline.toml", &pipeline)
}

/// The guilty message alone is a dead letter, the others arrived in order.
fn assert_only_the_guilty(folder: &Folder, case: &Case, running: &Running) {
    let Case { mode, code, .. } = case;
    let expected: Vec<String> = (0..MESSAGES).filter(|&n| n != GUILTY).map(line).collect();
    assert!(folder.lines("out.txt") == expected, "{mode}: others were harmed: {}", running.log());
    let dead = folder.lines("dead.ndjson");
    let [letter] = &dead[..] else { panic!("{mode}: {dead:?}") };
    let letter: serde_json::Value = serde_json::from_str(letter).expect("JSON");
    assert_eq!(letter["payload"], line(GUILTY), "{mode}: {letter}");
    assert_eq!(letter["headers"]["millstream-dlq-code"], *code, "{mode}: {letter}");
}

fn check(case: &Case) {
    let Case { mode, budget_mib, .. } = case;
    let folder = Folder::new();
    let mut running = Running::start(&folder, &pipeline(&folder, case, ""));
    let (end, mut peak) = (Instant::now() + DEADLINE, 0);
    while !running.has_ended() {
        peak = peak.max(running.peak_bytes());
        assert!(Instant::now() < end, "{mode}: it does not end\n{}", running.log());
        std::thread::sleep(LOOK);
    }
    assert!(running.end().success(), "{mode}: {}", running.log());
    assert_only_the_guilty(&folder, case, &running);
    // What the binary itself needs may come on top of the budget.
    let most = (budget_mib + 60) << 20;
    assert!((1..=most).contains(&peak), "{mode}: {peak} bytes resident, of {most} allowed");
}

#[test]
fn p4_a_batch_with_a_loop_in_it_is_through_within_10_timeouts() {
    let folder = Folder::new();
    let case = case("loop", "timeout");
    // It follows its file, so that it can still be asked when all is through.
    let mut running = Running::start(&folder, &pipeline(&folder, &case, "mode = \"follow\""));
    let admin = running.address("admin server listening");
    running.wait_for("the others and the dead letter", |_| {
        look(&admin);
        folder.lines("out.txt").len() >= MESSAGES - 1 && !folder.lines("dead.ndjson").is_empty()
    });
    let page = look(&admin).expect("it still follows its file");
    let timeouts = metric(&page, "millstream_plugin_faults_total", &["kind=\"timeout\""]);
    // Once of many messages, and once of the guilty one alone, at least.
    assert!(timeouts.is_some_and(|timeouts| (2..=10).contains(&timeouts)), "{page}");
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    assert_only_the_guilty(&folder, &case, &running);
}

#[test]
fn p7_a_plugin_that_loops_in_describe_does_not_start() {
    let folder = Folder::new();
    let said = refused(&folder, &guest("loop-in-describe"));
    assert!(said.contains("the plugin does not start: it ran longer than 10s"), "{said}");
}

#[test]
fn p7_what_no_compiler_takes_is_refused_by_its_process() {
    let folder = Folder::new();
    let file = folder.path("broken.wasm");
    std::fs::write(&file, [&b"\0asm\x01\0\0\0"[..], &[0xff; 64]].concat()).expect("a file for the test");
    let said = refused(&folder, &file);
    assert!(said.contains("broken.wasm cannot be loaded"), "{said}");
}

/// What `check` says of a pipeline with this plugin.
fn refused(folder: &Folder, wasm: &Path) -> String {
    let pipeline = format!(
        "name = \"refused\"\n[source]\ntype = \"stdin\"\n[[plugin]]\nwasm = {wasm:?}\n[[sink]]\ntype = \"drop\"\n"
    );
    let pipeline = folder.write("pipeline.toml", &pipeline);
    let (status, said, complained) = run(&["check", pipeline.to_str().expect("a path in UTF-8")]);
    assert!(!status.success(), "{said}{complained}");
    said + &complained
}
