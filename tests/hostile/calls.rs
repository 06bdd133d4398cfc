//! Plugins that do harm when they are given a certain message. Only that message becomes a dead
//! letter, the others arrive in order, the next batches run, and the pipeline beside does not notice.

use std::cell::Cell;
use std::fs::File;
use std::io::Write;

use super::text::Text;
use super::watch::Watch;
use crate::support::{Folder, guest, metric, rounds};

const BATCH: usize = 256;
/// Three batches, of which the second has the guilty message.
const MESSAGES: usize = 700;
const GUILTY: usize = 300;

struct Case {
    name: &'static str,
    /// A mode of the crate beside this file, or a plugin in text.
    guest: Guest,
    /// The code of the dead letter.
    code: &'static str,
    timeout: &'static str,
    memory_mib: u64,
}

enum Guest {
    Mode,
    Text(Vec<u8>),
}

/// A mode of the hostile plugin.
fn mode(name: &'static str, code: &'static str) -> Case {
    Case { name, guest: Guest::Mode, code, timeout: "200ms", memory_mib: 64 }
}

fn text(name: &'static str, code: &'static str, text: Text<'_>) -> Case {
    Case { name, guest: Guest::Text(text.plugin()), code, timeout: "200ms", memory_mib: 64 }
}

/// What `process` does if the guilty message is in the batch, else it passes all.
fn process(name: &'static str, code: &'static str, misdeed: &str, items: &str) -> Case {
    let process = format!(
        "(if (call $some (local.get $batch) (i32.const 33)) (then {misdeed}))
         (call $pass (local.get $batch))"
    );
    text(name, code, Text { process: &process, items, ..Text::default() })
}

/// What `cabi_realloc` does when it is to make room for the guilty message, which is the only large one.
fn realloc(name: &'static str, code: &'static str, misdeed: &str) -> Case {
    let realloc = format!("(if (i32.gt_u (local.get $size) (i32.const 32000)) (then {misdeed}))");
    text(name, code, Text { realloc: &realloc, ..Text::default() })
}

fn cases() -> Vec<Case> {
    let guilt = "(global $guilty (mut i32) (i32.const 0))";
    // An outcome at 4096, in place of that in which all pass.
    let list_of_4_gib = "(data (i32.const 4096) \"\\00\\00\\00\\7f\\ff\\ff\\ff\\ff\")";
    // A thousand names of routes of 0.9 MiB each, all in the same bytes.
    let names: String = (0..1000).map(|_| "\\00\\00\\01\\00\\00\\00\\0e\\00").collect();
    let shared_bytes = format!(
        "(data (i32.const 4096) \"{none}{none}{none}{none}{none}\\40\\10\\00\\00\\01\\00\\00\\00{none}\")
         (data (i32.const 4160) \"\\48\\10\\00\\00\\e8\\03\\00\\00{names}\")",
        none = "\\00".repeat(8)
    );
    let table = "(table $table 100 funcref)";
    vec![
        mode("loop", "timeout"),
        process(
            "loop-in-memory-fill",
            "timeout",
            "(call $grow (i32.const 0x3000000))
             (loop $ever
               (memory.fill (i32.const 0x100000) (i32.const 1) (i32.const 0x2f00000)) (br $ever))",
            "",
        ),
        process(
            "loop-in-memory-copy",
            "timeout",
            "(call $grow (i32.const 0x3000000))
             (loop $ever
               (memory.copy (i32.const 0x100000) (i32.const 0x100008) (i32.const 0x2eff000)) (br $ever))",
            "",
        ),
        process(
            "loop-in-table-fill",
            "timeout",
            "(drop (table.grow $table (ref.null func) (i32.const 90000)))
             (loop $ever
               (table.fill $table (i32.const 0) (ref.null func) (i32.const 90000)) (br $ever))",
            table,
        ),
        realloc("loop-in-realloc", "timeout", "(loop $ever (br $ever))"),
        text(
            "loop-in-post-return",
            "timeout",
            Text {
                items: guilt,
                process: "(global.set $guilty (call $some (local.get $batch) (i32.const 33)))
                          (call $pass (local.get $batch))",
                post_return: "(if (global.get $guilty) (then (loop $ever (br $ever))))",
                ..Text::default()
            },
        ),
        process(
            "lookup-forever",
            "timeout",
            "(loop $ever
               (call $lookup (i32.const 16) (i32.const 4) (i32.const 16) (i32.const 0) (i32.const 16)
                 (i32.const 0) (i32.const 4096))
               (global.set $heap (i32.const 0x400000))
               (br $ever))",
            "",
        ),
        mode("grow", "out-of-memory"),
        process(
            "table-bomb",
            "out-of-memory",
            "(loop $more
               (br_if $more (i32.ne (table.grow $table (ref.null func) (i32.const 1000)) (i32.const -1))))
             (unreachable)",
            table,
        ),
        mode("recurse", "stack-overflow"),
        mode("trap", "trap"),
        realloc("trap-in-realloc", "trap", "(unreachable)"),
        realloc("realloc-outside-of-memory", "malformed-result", "(return (i32.const -65536))"),
        mode("index-out-of-range", "malformed-result"),
        mode("index-wrap", "malformed-result"),
        mode("too-few-verdicts", "malformed-result"),
        process("list-of-4-gib", "malformed-result", "(return (i32.const 4096))", list_of_4_gib),
        process("lists-share-bytes", "output-limit", "(return (i32.const 4096))", &shared_bytes),
        mode("bad-utf8", "malformed-result"),
        mode("log-forever", "log-limit"),
        // It takes its time to write 100 MiB.
        Case { timeout: "20s", ..mode("huge-output", "out-of-memory") },
        Case { timeout: "20s", memory_mib: 256, ..mode("huge-output", "output-limit") },
    ]
}

/// A message, as its line in the input and in the output.
fn line(number: usize) -> String {
    if number == GUILTY { format!("!{number} {}", "x".repeat(40_000)) } else { format!("message {number}") }
}

/// Gives a pipeline more to read.
fn append(folder: &Folder, file: &str, text: &str) {
    let file = File::options().append(true).open(folder.path(file));
    let mut file = file.expect("the input of the pipeline");
    file.write_all(text.as_bytes()).expect("the input can be written");
}

impl Case {
    /// Name of its pipeline and its files.
    fn pipeline(&self) -> String {
        format!("{}-{}", self.name, self.code)
    }

    /// A pipeline that waits for its file to grow.
    fn write(&self, folder: &Folder) {
        let Case { name, timeout, memory_mib, .. } = self;
        let pipeline = self.pipeline();
        folder.write(&format!("{pipeline}.in"), "");
        let (wasm, config) = match &self.guest {
            Guest::Mode => (guest("hostile"), format!("{{ mode = \"{name}\", trigger = \"!\" }}")),
            Guest::Text(wasm) => {
                let path = folder.path(&format!("{pipeline}.wasm"));
                std::fs::write(&path, wasm).expect("a file for the test");
                (path, "{}".to_owned())
            }
        };
        let text = format!(
            r#"
name = "{pipeline}"
lanes = 1
budget = "{budget}MiB"

[source]
type = "file"
path = "{pipeline}.in"
mode = "follow"
poll_interval = "5ms"
codec = "lines"
batch = {BATCH}

[[plugin]]
wasm = {wasm:?}
config = {config}
limits = {{ timeout = "{timeout}", memory = "{memory_mib}MiB" }}

[[sink]]
type = "file"
path = "{pipeline}.out"
codec = "lines"

[dead_letters]
type = "file"
path = "{pipeline}.dead"
codec = "record"
"#,
            budget = memory_mib * 2,
        );
        folder.write(&format!("{pipeline}.toml"), &text);
    }

    fn check(&self, folder: &Folder, watch: &mut Watch) {
        let Case { code, memory_mib, .. } = self;
        let pipeline = self.pipeline();
        let (out, dead) = (format!("{pipeline}.out"), format!("{pipeline}.dead"));
        let batch: String = (0..MESSAGES).map(|n| line(n) + "\n").collect();
        let attacks = Cell::new(0);
        watch.attack(
            &pipeline,
            memory_mib << 20,
            || {
                append(folder, &format!("{pipeline}.in"), &batch);
                attacks.set(attacks.get() + 1);
            },
            |_| {
                folder.lines(&dead).len() >= attacks.get()
                    && folder.lines(&out).len() >= attacks.get() * (MESSAGES - 1)
            },
        );
        let attacks = attacks.get();
        let innocent = (0..MESSAGES).filter(|&n| n != GUILTY).map(line);
        let expected: Vec<String> = (0..attacks).flat_map(|_| innocent.clone()).collect();
        assert!(folder.lines(&out) == expected, "{pipeline}: others were harmed: {}", watch.running.log());
        let letters = folder.lines(&dead);
        assert_eq!(letters.len(), attacks, "{pipeline}");
        for letter in letters {
            let letter: serde_json::Value = serde_json::from_str(&letter).expect("JSON");
            assert_eq!(letter["headers"]["millstream-dlq-code"], *code, "{pipeline}: {letter}");
            assert_eq!(letter["payload"], line(GUILTY), "{pipeline}");
        }
        let labels = [format!("pipeline=\"{pipeline}\""), format!("kind=\"{code}\"")];
        let faults = metric(&watch.look(), "millstream_plugin_faults_total", &[&labels[0], &labels[1]]);
        // Of many messages, then of fewer, until the guilty one stands alone.
        let range = attacks as u64..=10 * attacks as u64;
        assert!(faults.is_some_and(|faults| range.contains(&faults)), "{pipeline}: {faults:?} in {attacks}");
    }
}

#[test]
fn p4_p6_p11_only_the_guilty_message_becomes_a_dead_letter_and_the_neighbour_goes_on() {
    let folder = Folder::new();
    let cases = cases();
    cases.iter().for_each(|case| case.write(&folder));
    let mut watch = Watch::start(&folder);
    for case in &cases {
        case.check(&folder, &mut watch);
    }
    watch.end();
}

#[test]
fn p6_a_plugin_that_leaks_after_a_million_messages_harms_none_of_them() {
    let works = rounds("messages until it leaks", 20_000, 1_000_000);
    // Enough to leak all of its memory several times, 4 KiB a message, each time after `works`.
    let count = works * 3;
    let folder = Folder::new();
    folder.write("leak.in", "");
    folder.write(
        "leak.toml",
        &format!(
            r#"
name = "leak"
lanes = 1
budget = "128MiB"
[source]
type = "file"
path = "leak.in"
mode = "follow"
poll_interval = "5ms"
codec = "lines"
[[plugin]]
wasm = {wasm:?}
config = {{ mode = "leak", amount = {works} }}
[[sink]]
type = "drop"
"#,
            wasm = guest("hostile"),
        ),
    );
    let mut watch = Watch::start(&folder);
    let given = Cell::new(0);
    let of = |page: &str, name: &str, label: &str| metric(page, name, &["pipeline=\"leak\"", label]);
    watch.attack(
        "leak",
        64 << 20,
        || {
            append(&folder, "leak.in", &"m\n".repeat(count));
            given.set(given.get() + count as u64);
        },
        |page| of(page, "millstream_messages", "account=\"delivered\"") == Some(given.get()),
    );
    let page = watch.look();
    assert_eq!(of(&page, "millstream_messages", "account=\"dead_lettered\""), Some(0), "{page}");
    // It did leak.
    let peak = of(&page, "millstream_plugin_peak_memory_bytes", "");
    assert!(peak.is_some_and(|peak| peak > 48 << 20), "{peak:?}");
    watch.end();
}
