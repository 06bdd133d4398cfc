//! P1, P2, P3, P8: a worker that is SIGKILLed at random moments loses nothing, keeps the order of
//! each key, and repeats only what was not yet committed.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use millstream::store::DataFolder;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::support::{Folder, Running, http_client, rounds, run, seed};

const MESSAGES: u64 = 200_000;
const KEYS: u64 = 100;

const ROUTE: &str = r#"
[[plugin]]
use = "route"
config.default = ["out"]
config.rules = []
"#;

/// How many records of its one file a pipeline has committed: none before the first commit.
pub fn committed(folder: &Folder, pipeline: &str) -> u64 {
    let data = DataFolder::open(&folder.path(&format!(".millstream/{pipeline}")), pipeline);
    let data = data.expect("nobody has it any more");
    let saved = data.saved_checkpoints().expect("the checkpoints can be read");
    saved.first().map_or(0, |saved| {
        let record = &saved.checkpoint["files"][0]["record"];
        record.as_u64().unwrap_or_else(|| panic!("a checkpoint without record: {saved:?}"))
    })
}

fn number(line: &str) -> u64 {
    let value: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("half a line: {line:?}: {error}"));
    value["number"].as_u64().expect("every message has a number")
}

/// First arrivals are in order for each key.
fn assert_in_order(numbers: impl Iterator<Item = u64>, key_of: impl Fn(u64) -> u64) {
    let mut seen = HashSet::new();
    let mut last: HashMap<u64, u64> = HashMap::new();
    for number in numbers.filter(|&number| seen.insert(number)) {
        let before = last.insert(key_of(number), number);
        assert!(before.is_none_or(|before| before < number), "{number} came after {before:?}");
    }
}

#[test]
fn p8_a_killed_reader_of_a_file_loses_nothing_and_repeats_only_what_was_not_committed() {
    let mut random = StdRng::seed_from_u64(seed());
    let kills_wanted = rounds("kills of a reader of a file", 5, 20);
    let mut kills = 0;
    while kills < kills_wanted {
        let folder = Folder::new();
        let mut input = String::new();
        for number in 0..MESSAGES {
            let key = number % KEYS;
            writeln!(input, r#"{{"key":"k{key}","payload":"{{\"number\":{number}}}"}}"#)
                .expect("a string takes all");
        }
        folder.write("in.ndjson", &input);
        let pipeline = folder.write(
            "worker.toml",
            &format!(
                r#"
name = "worker"
ordering = "key"
lanes = 2
[source]
type = "file"
path = "in.ndjson"
codec = "record"
{ROUTE}
[[sink]]
type = "file"
path = "out.ndjson"
batch = 512
"#
            ),
        );
        let mut uncommitted = 0;
        loop {
            let mut running = Running::start(&folder, &pipeline);
            let wait = Duration::from_millis(random.random_range(20..1200));
            let killed = if kills < kills_wanted {
                std::thread::sleep(wait);
                !running.has_ended()
            } else {
                false
            };
            if !killed {
                assert!(running.end().success(), "{}", running.log());
                break;
            }
            running.kill();
            kills += 1;
            let committed = committed(&folder, "worker");
            let whole = std::fs::read_to_string(folder.path("out.ndjson")).unwrap_or_default();
            let whole = whole.rsplit_once('\n').map_or("", |(whole, _)| whole);
            let arrived: HashSet<u64> = whole.lines().map(number).collect();
            uncommitted += arrived.iter().filter(|&&number| number >= committed).count();
            assert!((0..committed).all(|number| arrived.contains(&number)), "committed and not delivered");
        }
        let numbers: Vec<u64> = folder.lines("out.ndjson").iter().map(|line| number(line)).collect();
        let distinct: HashSet<u64> = numbers.iter().copied().collect();
        assert_eq!(distinct.len() as u64, MESSAGES);
        assert!(
            numbers.len() - distinct.len() <= uncommitted,
            "{} repeated, {uncommitted} allowed",
            numbers.len()
        );
        assert_in_order(numbers.into_iter(), |number| number % KEYS);
    }
}

#[test]
fn p1_a_killed_server_of_posts_has_kept_every_message_that_it_answered_with_200() {
    const CLIENTS: u64 = 8;
    let mut random = StdRng::seed_from_u64(seed());
    let kills = rounds("kills of a server of posts", 5, 20);
    let folder = Folder::new();
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let pipeline = folder.write(
        "worker.toml",
        &format!(
            r#"
name = "worker"
ordering = "key"
[source]
type = "http"
listen = "127.0.0.1:{port}"
path = "/in"
key_header = "x-key"
{ROUTE}
[[sink]]
type = "file"
path = "out.ndjson"
"#
        ),
    );
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let unanswered = Arc::new(AtomicU64::new(0));
    // Each client sends the messages of one key, one after the other, again and again until 200.
    let clients: Vec<std::thread::JoinHandle<u64>> = (0..CLIENTS)
        .map(|client| {
            let (stop, answered, unanswered) =
                (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&unanswered));
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                let http = http_client();
                let mut next = 0;
                while !stop.load(Ordering::Relaxed) {
                    let body = format!(r#"{{"client":{client},"number":{next}}}"#);
                    let request = http
                        .post(format!("http://127.0.0.1:{port}/in"))
                        .header("x-key", format!("k{client}"))
                        .timeout(Duration::from_secs(5))
                        .body(body);
                    match runtime.block_on(async { request.send().await }) {
                        Ok(response) if response.status() == 200 => {
                            next += 1;
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Ok(_) => {
                            unanswered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            if !error.is_connect() {
                                unanswered.fetch_add(1, Ordering::Relaxed);
                            }
                            std::thread::sleep(Duration::from_millis(5));
                        }
                    }
                }
                next
            })
        })
        .collect();
    for _ in 0..kills {
        let mut running = Running::start(&folder, &pipeline);
        let before = answered.load(Ordering::Relaxed);
        running.wait_for("answers after a start", |_| answered.load(Ordering::Relaxed) > before + 20);
        std::thread::sleep(Duration::from_millis(random.random_range(0..300)));
        running.kill();
    }
    let mut running = Running::start(&folder, &pipeline);
    let before = answered.load(Ordering::Relaxed);
    running.wait_for("answers after the last start", |_| answered.load(Ordering::Relaxed) > before + 20);
    stop.store(true, Ordering::Relaxed);
    let sent: Vec<u64> =
        clients.into_iter().map(|client| client.join().expect("a client does not panic")).collect();
    running.terminate();
    assert!(running.end().success(), "{}", running.log());

    let mut arrived: HashMap<u64, Vec<u64>> = HashMap::new();
    for line in folder.lines("out.ndjson") {
        let value: serde_json::Value = serde_json::from_str(&line).expect("no half lines");
        arrived.entry(value["client"].as_u64().expect("a client")).or_default().push(number(&line));
    }
    let mut repeated = 0;
    for (client, &next) in sent.iter().enumerate() {
        let numbers = arrived.remove(&(client as u64)).unwrap_or_default();
        let distinct: HashSet<u64> = numbers.iter().copied().collect();
        assert!((0..next).all(|number| distinct.contains(&number)), "answered with 200 and lost");
        repeated += numbers.len() - distinct.len();
        assert_in_order(numbers.into_iter(), |_| 0);
    }
    let unanswered = unanswered.load(Ordering::Relaxed) as usize;
    assert!(repeated <= unanswered, "{repeated} repeated, {unanswered} were sent again");
}

#[test]
fn p8_sigterm_drains_and_ends_with_0() {
    let folder = Folder::new();
    let pipeline = folder.write(
        "worker.toml",
        &format!(
            r#"
name = "worker"
[source]
type = "generate"
rate = 2000
{ROUTE}
[[sink]]
type = "file"
path = "out.ndjson"
"#
        ),
    );
    let mut running = Running::start(&folder, &pipeline);
    running.wait_for("some output", |_| folder.lines("out.ndjson").len() > 100);
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    let lines = folder.lines("out.ndjson");
    let ids: HashSet<&String> = lines.iter().collect();
    assert_eq!(ids.len(), lines.len(), "a clean stop repeats nothing");
    let data = DataFolder::open(&folder.path(".millstream/worker"), "worker").expect("it is free again");
    let saved = data.saved_checkpoints().expect("the checkpoints can be read");
    let next = saved[0].checkpoint.to_string();
    assert!(next.contains(&lines.len().to_string()), "{} lines, checkpoint {next}", lines.len());
}

#[test]
fn p9_a_wrong_file_ends_with_1_before_anything_is_opened() {
    let folder = Folder::new();
    let pipeline = folder.write("worker.toml", "name = \"worker\"\n[source]\ntype = \"fil\"\n");
    let (status, _, errors) = run(&["run", pipeline.to_str().expect("a path in UTF-8")]);
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("file"), "{errors}");
    assert!(!folder.path(".millstream/worker").exists());
}
