//! `millstream checkpoint`.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::json;

use super::{Said, World, record};
use crate::support::millstream;

fn delivered(world: &World) -> usize {
    world.folder.lines("a.ndjson").len()
}

fn pipeline(mode: &str) -> String {
    format!(
        r#"
name = "orders"

[source]
type = "file"
path = "in.ndjson"
codec = "record"
mode = "{mode}"

[[sink]]
type = "file"
path = "a.ndjson"
codec = "record"
"#
    )
}

/// Three messages were read and delivered.
fn world() -> World {
    let input = [1, 2, 3].map(|n| record(&json!({ "n": n, "to": "a" }))).concat();
    let world = World::new(&pipeline("once"), &input);
    world.run();
    world.run();
    assert_eq!(delivered(&world), 3, "what is committed is not read again");
    world
}

#[test]
fn after_a_reset_the_source_is_read_from_its_start() {
    let world = world();
    let saved = world.checkpoint("show", &["--json"]).ended_with(0).objects();
    assert_eq!(
        (saved[0]["pipeline"].as_str(), saved[0]["partition"].as_str()),
        (Some("orders"), Some("in.ndjson"))
    );
    let said = world.checkpoint("reset", &["--yes"]).ended_with(0);
    assert_eq!(said.err, "orders: 1 checkpoints were reset\n");
    let said = world.checkpoint("show", &["--json"]).ended_with(0);
    assert_eq!(
        (said.out.as_str(), said.err.as_str()),
        ("", "orders: no checkpoint; its source is read from its start\n")
    );
    world.run();
    assert_eq!(delivered(&world), 6);
}

#[test]
fn a_reset_without_a_terminal_wants_yes() {
    let world = world();
    let before = world.checkpoint("show", &["--json"]);
    let said = world.checkpoint("reset", &[]).ended_with(1);
    assert!(said.err.contains("nobody is there to answer; add --yes"), "{}", said.err);
    assert_eq!(world.checkpoint("show", &["--json"]), before);
}

/// `checkpoint reset` at a terminal where somebody answers.
fn reset_at_a_terminal(world: &World, answer: &str) -> Said {
    let reset = millstream(&["checkpoint", "reset", world.file.to_str().expect("a path in UTF-8")]);
    let words = std::iter::once(reset.get_program()).chain(reset.get_args());
    let words: Vec<String> = words.map(|word| format!("'{}'", word.to_str().expect("UTF-8"))).collect();
    let mut child = Command::new("script")
        .args(["--quiet", "--return", "--command", &words.join(" "), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test needs `script` of util-linux for a terminal");
    let mut terminal = child.stdin.take().expect("its input");
    terminal.write_all(answer.as_bytes()).expect("it can be answered");
    drop(terminal);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn a_reset_asks_at_a_terminal() {
    let world = world();
    let before = world.checkpoint("show", &["--json"]);
    let question = "orders: forget 1 checkpoints, so that its source is read from its start? [y/N]";
    for no in ["n\n", "\n", "yess\n"] {
        let said = reset_at_a_terminal(&world, no).ended_with(1);
        assert!(said.out.contains(question) && said.out.contains("nothing was reset"), "{said:?}");
        assert_eq!(world.checkpoint("show", &["--json"]), before);
    }
    let said = reset_at_a_terminal(&world, "y\n").ended_with(0);
    assert!(said.out.contains(question) && said.out.contains("1 checkpoints were reset"), "{said:?}");
    world.run();
    assert_eq!(delivered(&world), 6);
}

#[test]
fn a_reset_is_refused_while_the_pipeline_runs() {
    let mut world = world();
    world.configure(&pipeline("follow"));
    world.start();
    let before = world.checkpoint("show", &["--json"]).ended_with(0);
    let said = world.checkpoint("reset", &["--yes"]).ended_with(1);
    assert!(said.err.contains("a checkpoint cannot be reset under a running pipeline"), "{}", said.err);
    assert!(said.err.contains("stop that process"), "{}", said.err);
    assert_eq!(world.checkpoint("show", &["--json"]), before);
    world.stop();
    assert_eq!(delivered(&world), 3);
}
