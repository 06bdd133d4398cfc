//! P2 and P8: a replay that is killed or told to stop loses no dead letter.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Said, Server, World, numbers};
use crate::support::DEADLINE;

/// More than are on their way between the source and the sink.
const LETTERS: u64 = 400;

/// How many the server takes until the test goes on.
const FIRST: usize = 40;

/// What a process logs that is told to stop.
const STOPPING: &str = "stopping: what is in flight is brought to its end";

/// A store of dead letters, and a server that takes the first of them.
fn slow_world(mode: &str) -> (Server, World) {
    let server = Server::start(|_, _| 200);
    server.take_at_most(FIRST);
    // One at a time, so that some are settled while others are not yet read.
    let pipeline = format!(
        r#"
name = "orders"
lanes = 1
ordering = "none"

[source]
type = "file"
path = "in.ndjson"
mode = "{mode}"
batch = 1

[[sink]]
name = "b"
type = "http"
url = "http://{address}/b"
concurrency = 1
batch = 10
"#,
        address = server.address
    );
    let world = World::new(&pipeline, "");
    super::many::fill(&world, LETTERS, 10);
    (server, world)
}

/// `dlq replay --all`, which has delivered some and not all when this returns.
fn begun(world: &World, server: &Server) -> Child {
    let mut command = world.dlq_command("replay", &["--all"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let end = Instant::now() + DEADLINE;
    while server.taken().len() < FIRST {
        let ended = child.try_wait().expect("the process can be asked");
        assert!(ended.is_none(), "{:?}", said(child, String::new()));
        assert!(Instant::now() < end, "no replay within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

/// The end of a process, which has said something before.
fn said(child: Child, before: String) -> Said {
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
    Said { code: output.status.code(), out: text(output.stdout), err: before + &text(output.stderr) }
}

/// Every one was delivered or is still a dead letter, and the next replay brings the rest.
fn assert_nothing_is_lost(world: &World, server: &Server) {
    let left: BTreeSet<u64> = numbers(&world.letters()).into_iter().collect();
    let delivered: BTreeSet<u64> = server.numbers().into_iter().collect();
    let all: BTreeSet<u64> = (1..=LETTERS).collect();
    assert!(
        !left.is_empty() && delivered.len() >= FIRST,
        "{} left, {} delivered",
        left.len(),
        delivered.len()
    );
    assert_eq!(left.union(&delivered).copied().collect::<BTreeSet<u64>>(), all);
    server.take_at_most(usize::MAX);
    world.dlq("replay", &["--all"]).ended_with(0);
    assert_eq!(world.letters().len(), 0);
    assert_eq!(server.numbers().into_iter().collect::<BTreeSet<u64>>(), all);
}

/// What was delivered is no dead letter, and the other way round.
fn assert_all_is_settled(world: &World, server: &Server) {
    assert_eq!(server.numbers().len() + world.letters().len(), LETTERS as usize);
}

#[test]
fn p2_a_replay_that_is_killed_loses_nothing() {
    let (server, world) = slow_world("once");
    let mut child = begun(&world, &server);
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    assert_nothing_is_lost(&world, &server);
}

#[test]
fn p8_a_replay_that_is_told_to_stop_ends_what_it_has_begun() {
    let (server, world) = slow_world("once");
    let mut child = begun(&world, &server);
    kill_process(Pid::from_child(&child), Signal::TERM).expect("it can be told to end");
    let mut err = BufReader::new(child.stderr.take().expect("its log"));
    let mut before = String::new();
    while !before.contains(STOPPING) {
        assert!(err.read_line(&mut before).expect("a line") > 0, "{before}");
    }
    server.take_at_most(usize::MAX);
    err.read_to_string(&mut before).expect("the rest of its log");
    let said = said(child, before).ended_with(1);
    assert!(said.err.ends_with("0 failed again; stopped before all were read\n"), "{}", said.err);
    assert_all_is_settled(&world, &server);
    assert_nothing_is_lost(&world, &server);
}

#[test]
fn p8_a_replay_in_a_pipeline_that_is_told_to_stop_says_so() {
    let (server, mut world) = slow_world("follow");
    world.start();
    let child = begun(&world, &server);
    let mut running = world.running.take().expect("it runs");
    running.terminate();
    running.wait_for("the begin of its stop", |running| running.log().contains(STOPPING));
    server.take_at_most(usize::MAX);
    assert!(running.end().success(), "{}", running.log());
    let said = said(child, String::new()).ended_with(1);
    assert!(said.err.ends_with("0 failed again; stopped before all were read\n"), "{}", said.err);
    assert_all_is_settled(&world, &server);
    assert_nothing_is_lost(&world, &server);
}
