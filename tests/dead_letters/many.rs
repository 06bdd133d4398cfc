//! P6: a store of many dead letters never grows the process that shows them.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use millstream::dead_letters::store::DeadLetterStore;
use millstream::dead_letters::{DeadLetter, Stage};
use millstream::message::{Message, Position};
use millstream::store::DataFolder;

use super::{Orders, Server, World};
use crate::support::DEADLINE;

/// Bytes that may be resident of a process that shows dead letters, however many there are.
const MOST: u64 = 40 << 20;

/// Fills the store of a pipeline that does not run with dead letters of sink `b`.
pub fn fill(world: &World, count: u64, payload_bytes: usize) {
    let folder = world.folder.path(".millstream/orders");
    let data = DataFolder::open(&folder, "orders").expect("nobody has it");
    let store = DeadLetterStore::new(&data, Duration::from_secs(3600));
    let now = jiff::Timestamp::now().as_millisecond();
    let letter = |n: u64| {
        let note = "x".repeat(payload_bytes);
        let mut letter = DeadLetter {
            id: String::new(),
            pipeline: "orders".to_owned(),
            source: "file:in.ndjson".to_owned(),
            position: Position { partition: 1, offset: n, record: n },
            position_text: format!("in.ndjson record {n}"),
            stage: Stage::Sink("b".to_owned()),
            plugin: None,
            code: "http-400".to_owned(),
            reason: "the server refuses it".to_owned(),
            trap: None,
            attempts: 1,
            read_at_ms: now,
            failed_at_ms: now,
            trace_id: None,
            replays: 0,
            sinks: vec!["b".to_owned()],
            message: Message {
                payload: Some(format!(r#"{{"n":{n},"to":"b","note":"{note}"}}"#).into_bytes()),
                key: Some(format!("k{n}").into_bytes()),
                ..Message::default()
            },
        };
        letter.id = letter.derive_id();
        letter
    };
    for first in (1..=count).step_by(10_000) {
        let letters: Vec<DeadLetter> = (first..=count.min(first + 9_999)).map(letter).collect();
        store.insert(&letters).expect("they can be written");
    }
}

/// Runs to its end, which must be good, and returns the most that was resident, in bytes.
fn peak_bytes(command: &mut Command) -> u64 {
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary starts");
    let end = Instant::now() + DEADLINE;
    let mut peak = 0;
    loop {
        // It is the most so far, so that only what it takes in its last moment is not seen.
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).expect("it is there");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
        let kib: u64 = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number");
        peak = peak.max(kib * 1024);
        if child.try_wait().expect("the process can be asked").is_some() {
            let output = child.wait_with_output().expect("it has ended");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            return peak;
        }
        assert!(Instant::now() < end, "it does not end within {DEADLINE:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn p6_100_000_dead_letters_are_listed_and_exported_in_bounded_memory() {
    const COUNT: usize = 100_000;
    let server = Server::start(|_, _| 400);
    let mut world = World::new(&Orders { follow: true, ..Orders::of(&server) }.toml(), "");
    fill(&world, COUNT as u64, 500);

    let check = |to: &Path, command: &mut Command| {
        let peak = peak_bytes(command);
        let file = std::fs::read(to).expect("it is there");
        println!("{peak} bytes resident, {} bytes written", file.len());
        assert!((1..=MOST).contains(&peak), "{peak} bytes resident, {MOST} allowed");
        assert_eq!(file.iter().filter(|&&byte| byte == b'\n').count(), COUNT);
        assert!(file.len() as u64 > MOST, "{} bytes would fit", file.len());
        std::fs::remove_file(to).expect("it was there");
    };
    let list = |world: &World| {
        let to = world.folder.path("listed.ndjson");
        let file = File::create(&to).expect("a file for the list");
        check(&to, world.dlq_command("list", &["--json"]).stdout(file));
    };
    list(&world);
    let to = world.folder.path("exported.ndjson");
    check(&to, &mut world.dlq_command("export", &["--to", to.to_str().expect("UTF-8")]));

    world.start();
    let resident = |world: &World| world.running.as_ref().expect("it runs").peak_bytes();
    let before = resident(&world);
    list(&world);
    let after = resident(&world);
    assert!(after < before.max(MOST) + MOST / 2, "{before} bytes before, {after} after");
    world.stop();
}
