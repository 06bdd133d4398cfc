//! Plugins replaced, or with a candidate beside them, in a pipeline that runs: nothing lost, nothing out of order, and what cannot be
//! used changes nothing.

mod shadows;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::support::{DEADLINE, Folder, Running, ask, guest, look, metric};

const KEYS: usize = 5;
/// Every so many messages the plugin refuses one: its dead letter tells which version it met.
const REFUSED: usize = 7;

fn line(n: usize) -> String {
    let payload = format!("{{\"n\":{n},\"card\":\"4711-{n}\"}}");
    format!("{}\n", serde_json::json!({ "key": format!("k{}", n % KEYS), "payload": payload }))
}

/// A pipeline that runs, and a source that grows.
struct World {
    folder: Folder,
    running: Running,
    admin: String,
    input: File,
    sent: usize,
}

impl World {
    fn start(plugin: &str) -> World {
        let folder = Folder::new();
        for file in ["plugin.wasm", "shadow.wasm"] {
            std::fs::copy(guest("jq"), folder.path(file)).expect("a plugin");
        }
        let input = File::create(folder.path("in.ndjson")).expect("a source");
        let pipeline = folder.write("pipeline.toml", &pipeline(plugin, ""));
        let mut running = Running::start(&folder, &pipeline);
        let admin = running.address("admin server listening");
        let mut world = World { folder, running, admin, input, sent: 0 };
        world.send(50);
        world
    }

    fn send(&mut self, count: usize) {
        for n in self.sent..self.sent + count {
            let line = line(n);
            self.input.write_all(line.as_bytes()).expect("the source grows");
        }
        self.sent += count;
    }

    /// Sends messages until something has happened, then some more.
    fn send_until(&mut self, what: &str, mut happened: impl FnMut(&str) -> bool) {
        let World { folder: _, running, admin, input, sent } = self;
        running.wait_for(what, |_| {
            let line = line(*sent);
            input.write_all(line.as_bytes()).expect("the source grows");
            *sent += 1;
            look(admin).is_some_and(|page| happened(&page))
        });
    }

    /// Waits until everything that was sent is there.
    fn settle(&mut self) {
        let refused = self.sent.div_ceil(REFUSED);
        let World { folder, running, sent, .. } = self;
        running.wait_for("all messages", |_| {
            folder.lines("out.ndjson").len() + folder.lines("dead.ndjson").len() >= *sent
        });
        assert_eq!(self.folder.lines("dead.ndjson").len(), refused);
    }

    /// Everything arrived once, those of a key in order. Returns what came out, by number.
    fn delivered(&self) -> Vec<serde_json::Value> {
        let lines = self.folder.lines("out.ndjson");
        let lines: Vec<serde_json::Value> =
            lines.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let number = |line: &serde_json::Value| line["n"].as_u64().expect("a number") as usize;
        let mut last: HashMap<usize, usize> = HashMap::new();
        for line in &lines {
            let before = last.insert(number(line) % KEYS, number(line));
            assert!(before.is_none_or(|before| before < number(line)), "{before:?} before {line}");
        }
        let mut numbers: Vec<usize> = lines.iter().map(number).collect();
        numbers.sort_unstable();
        let expected: Vec<usize> = (0..self.sent).filter(|n| n % REFUSED != 0).collect();
        assert!(numbers == expected, "of {} were delivered: {numbers:?}", self.sent);
        lines
    }

    /// The plugin's SHA-256 in the dead letter of each message that was refused.
    fn refused_by(&self) -> Vec<(usize, String)> {
        let letter = |line: &String| {
            let letter: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let payload: serde_json::Value =
                serde_json::from_str(letter["payload"].as_str().expect("a payload")).expect("JSON");
            let sha256 = letter["headers"]["millstream-dlq-plugin-sha256"].as_str().expect("a digest");
            (payload["n"].as_u64().expect("a number") as usize, sha256.to_owned())
        };
        let mut letters: Vec<(usize, String)> = self.folder.lines("dead.ndjson").iter().map(letter).collect();
        letters.sort_unstable();
        letters
    }

    /// Puts a file in the place of the plugin's; returns its SHA-256.
    fn replace(&self, bytes: &[u8]) -> String {
        let new = self.folder.path("new.wasm");
        std::fs::write(&new, bytes).expect("a file for the test");
        std::fs::rename(new, self.folder.path("plugin.wasm")).expect("it takes the place");
        hex::encode(Sha256::digest(bytes))
    }

    fn end(mut self) {
        self.running.terminate();
        assert!(self.running.end().success(), "{}", self.running.log());
    }
}

/// Marks what it passes as of this version, and refuses every seventh.
fn program(version: u32) -> String {
    format!("if .n % {REFUSED} == 0 then error(\\\"no\\\") else .v = {version} end")
}

fn pipeline(plugin: &str, more: &str) -> String {
    format!(
        r#"
name = "reload"
ordering = "key"
lanes = 2
{more}

[source]
type = "file"
path = "in.ndjson"
codec = "record"
mode = "follow"

[[plugin]]
{plugin}

[[sink]]
type = "file"
path = "out.ndjson"

[dead_letters]
type = "file"
path = "dead.ndjson"
codec = "record"
"#
    )
}

fn configured(version: u32) -> String {
    format!("wasm = \"plugin.wasm\"\nname = \"step\"\nconfig = {{ program = \"{}\" }}", program(version))
}

fn reloads(page: &str, result: &str) -> u64 {
    let labels = ["plugin=\"step\"", &format!("result=\"{result}\"")];
    metric(page, "millstream_plugin_reloads_total", &labels).unwrap_or(0)
}

/// Another file with the same code in it: a custom section more (binary format, 5.5.3).
fn another_version(number: u8) -> Vec<u8> {
    let mut bytes = std::fs::read(guest("jq")).expect("the plugin");
    bytes.extend([0, 3, 1, b'v', number]);
    bytes
}

#[test]
fn p3_a_changed_file_is_taken_between_two_batches_and_one_that_is_no_plugin_is_not() {
    let mut world = World::start(&configured(1));
    let first = hex::encode(Sha256::digest(std::fs::read(guest("jq")).expect("the plugin")));
    world.settle();
    let second = world.replace(&another_version(2));
    let before = world.sent;
    world.send_until("the second version", |page| reloads(page, "ok") == 1);
    let page = look(&world.admin).expect("it runs");
    let running = |sha256: &str| format!("sha256=\"{sha256}\"");
    assert_eq!(metric(&page, "millstream_plugin_info", &[&running(&second)]), Some(1), "{page}");
    assert_eq!(metric(&page, "millstream_plugin_info", &[&running(&first)]), None, "{page}");
    let after = world.sent;
    world.send(100);
    world.settle();

    // Written over in place, as `cp` does: first a part of it, then garbage.
    let half = &another_version(3)[..5000];
    for (failures, bad) in [(1, half), (2, &b"oh no"[..])] {
        std::fs::write(world.folder.path("plugin.wasm"), bad).expect("a bad file");
        world.send_until("the failure", |page| reloads(page, "failed") == failures);
    }
    std::fs::remove_file(world.folder.path("plugin.wasm")).expect("it was there");
    world.send(100);
    world.settle();
    world.delivered();
    let mut by_second = false;
    for (number, sha256) in world.refused_by() {
        assert!(sha256 == first || sha256 == second, "{number}: {sha256}");
        assert!(number >= before || sha256 == first, "{number} was there before the second version");
        assert!(number < after || sha256 == second, "{number} came after the second version");
        by_second |= number >= after;
    }
    assert!(by_second);
    let log = world.running.log();
    assert!(log.contains("plugin reloaded") && log.contains(&second), "{log}");
    let words =
        ["ERROR", "the old version goes on", "pipeline.toml:14", "is not WebAssembly", "give the .wasm"];
    assert!(words.iter().all(|word| log.contains(word)), "{log}");
    world.end();
}

#[test]
fn a_sighup_takes_the_configuration_anew_and_a_broken_one_changes_nothing() {
    let mut world = World::start(&configured(1));
    world.settle();
    let file = world.folder.path("pipeline.toml");
    let hang_up = |world: &World, plugin: &str, more: &str| {
        std::fs::write(&file, pipeline(plugin, more)).expect("another configuration");
        world.running.hang_up();
    };
    hang_up(&world, &configured(2), "budget = \"64MiB\"");
    world.send_until("the second configuration", |page| reloads(page, "ok") == 1);
    let log = world.running.log();
    assert!(log.contains("taken only by a restart") && log.contains("keys=\"budget\""), "{log}");
    let after = world.sent;
    world.send(100);
    world.settle();

    let broken = [
        configured(3).replace("program", "pro gram"),
        configured(3).replace("error(", "error(("),
        configured(3).replace("config", "confg"),
        format!("{}\nsha256 = \"{}\"", configured(3), "0".repeat(64)),
        format!("{}\n[[plugin]]\nuse = \"identity\"", configured(3)),
    ];
    for (number, broken) in broken.iter().enumerate() {
        hang_up(&world, broken, "");
        world.send_until("the failure", |page| reloads(page, "failed") == number as u64 + 1);
    }
    let log = world.running.log();
    let words = ["expected", "unknown key `confg`", "not 0000", "the file has 2 [[plugin]], 1 run"];
    assert!(words.iter().all(|word| log.contains(word)), "{log}");
    world.send(50);
    world.settle();
    for line in world.delivered() {
        let (number, version) = (line["n"].as_u64().expect("a number") as usize, &line["v"]);
        assert!(*version == 1 || *version == 2, "{line}");
        assert!(number < after || *version == 2, "{line}");
        assert!(number >= 50 || *version == 1, "{line}");
    }
    world.end();
}

#[test]
fn a_file_is_left_alone_where_the_pipeline_says_so_until_a_sighup() {
    let plugin = format!("{}\nreload = \"signal\"\n[[plugin]]\nwasm = \"watched.wasm\"", configured(1));
    let folder = Folder::new();
    std::fs::copy(guest("jq"), folder.path("plugin.wasm")).expect("a plugin");
    std::fs::copy(guest("identity"), folder.path("watched.wasm")).expect("a plugin");
    File::create(folder.path("in.ndjson")).expect("a source");
    let pipeline = folder.write("pipeline.toml", &pipeline(&plugin, ""));
    let mut running = Running::start(&folder, &pipeline);
    let admin = running.address("admin server listening");
    running.wait_for("its start", |_| look(&admin).is_some());
    let reloads = |step: &str| {
        let page = look(&admin)?;
        metric(&page, "millstream_plugin_reloads_total", &[&format!("plugin=\"{step}\""), "result=\"ok\""])
    };
    std::fs::write(folder.path("plugin.wasm"), another_version(2)).expect("another version");
    let mut other = std::fs::read(guest("identity")).expect("the plugin");
    other.extend([0, 3, 1, b'v', 2]);
    // It changes later and is looked at in the same turn.
    std::fs::write(folder.path("watched.wasm"), other).expect("another version");
    running.wait_for("the other plugin", |_| reloads("watched") == Some(1));
    assert_eq!(reloads("step"), None);
    running.hang_up();
    running.wait_for("the one that waits for a signal", |_| reloads("step") == Some(1));
    assert_eq!(reloads("watched"), Some(1), "it had not changed again");
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
}

#[test]
fn p8_a_pipeline_ends_with_the_terminal_it_was_started_from() {
    let folder = Folder::new();
    File::create(folder.path("in.ndjson")).expect("a source");
    std::fs::copy(guest("jq"), folder.path("plugin.wasm")).expect("a plugin");
    let pipeline = folder.write("pipeline.toml", &pipeline(&configured(1), ""));
    let binary = env!("CARGO_BIN_EXE_millstream");
    let command = format!("exec {binary} run {} --admin 127.0.0.1:0 2>log", pipeline.display());
    // It is a terminal as long as it lives.
    let mut terminal = Command::new("script");
    terminal.args(["--quiet", "--command", &command, "/dev/null"]).current_dir(folder.path(""));
    let terminal = terminal.stdin(Stdio::null()).stdout(Stdio::null());
    let mut terminal = terminal.spawn().expect("this test needs script: apt-get install bsdutils");
    let log = || folder.lines("log").join("\n");
    let wait = |text: &str| {
        let end = Instant::now() + DEADLINE;
        while !log().contains(text) {
            assert!(Instant::now() < end, "no {text:?} in {}", log());
            std::thread::sleep(Duration::from_millis(5));
        }
    };
    wait("admin server listening");
    let address =
        log().split("addr=").nth(1).and_then(|rest| rest.split_whitespace().next().map(str::to_owned));
    let address = address.expect("its address");
    terminal.kill().expect("it can be killed");
    terminal.wait().expect("it ends");
    wait("the terminal is gone");
    let end = Instant::now() + DEADLINE;
    while ask(&address, "/healthz").is_some() {
        assert!(Instant::now() < end, "it goes on: {}", log());
    }
}
