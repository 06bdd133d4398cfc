//! What the tests of sinks share: numbered messages of a file go to a sink, by a proxy or not, and arrived
//! in order.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::proxy::{Fault, Faults, Proxy};
use crate::services::aws::{ENVIRONMENT, StandIn};
use crate::support::{DEADLINE, Folder, Running, look, millstream, rounds, run, seed};

/// A name that no other test takes.
pub fn unique(prefix: &str) -> String {
    format!("{prefix}-{:08x}", rand::random::<u32>())
}

/// Runs what clients of the tests do.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("a runtime").block_on(work)
}

/// So many numbered messages, with so many keys in turn.
pub fn numbered(messages: u64, keys: u64) -> String {
    let line = |number: u64| {
        let payload = json!({ "number": number, "group": format!("g{}", number % keys) }).to_string();
        let headers = json!({ "kind": if number.is_multiple_of(2) { "even" } else { "odd" }, "number": number.to_string() });
        json!({ "key": format!("k{}", number % keys), "payload": payload, "headers": headers }).to_string()
            + "\n"
    };
    (0..messages).map(line).collect()
}

/// A pipeline of records (as the codec `record` has them) to a sink.
pub fn pipeline(folder: &Folder, records: &str, sink: &str) -> PathBuf {
    folder.write("in.ndjson", records);
    folder.write(
        "sink.toml",
        &format!(
            r#"
name = "sink"
ordering = "key"
[source]
type = "file"
path = "in.ndjson"
codec = "record"
max_message_bytes = "16MiB"
batch = 50
[[sink]]
name = "out"
{sink}
[retry]
strategy = "fixed"
base_delay = "10ms"
max_delay = "50ms"
"#
        ),
    )
}

/// Starts a pipeline as whoever may everything at the stand-ins.
pub fn start(folder: &Folder, file: &Path) -> Running {
    let mut command = millstream(&["run", file.to_str().expect("UTF-8"), "--admin", "127.0.0.1:0"]);
    command.envs(ENVIRONMENT).stdout(std::process::Stdio::null());
    Running::of(folder, &mut command)
}

/// Runs a pipeline until its source has no more; its books balance whenever one looks (P11).
pub fn run_to_end(folder: &Folder, file: &Path) {
    let mut running = start(folder, file);
    let admin = running.address("admin server listening");
    let end = Instant::now() + DEADLINE;
    while !running.has_ended() {
        assert!(Instant::now() < end, "it does not end\n{}", running.log());
        look(&admin);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(running.end().success(), "{}", running.log());
}

pub fn dead_letters(pipeline: &Path) -> Vec<Value> {
    let (status, out, errors) = run(&["dlq", "list", pipeline.to_str().expect("UTF-8"), "--json"]);
    assert!(status.success(), "{errors}");
    out.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

/// The dead letters are those of the sink that were to be expected, as `code` and record.
pub fn assert_dead_letters(letters: &[Value], expected: &[(&str, Value)]) {
    let of = |letter: &Value| format!("{} {}", letter["stage"], letter["code"]);
    let mut codes: Vec<String> = letters.iter().map(of).collect();
    let mut expected: Vec<String> =
        expected.iter().map(|(code, _)| format!("\"sink:out\" {code:?}")).collect();
    codes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(codes, expected);
}

pub fn number(body: &str) -> u64 {
    let value: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{body}: {error}"));
    value["number"].as_u64().expect("every message has a number")
}

/// Those of each key arrived in order, repetitions aside, and there are so many without those.
pub fn assert_all_in_order(numbers: impl IntoIterator<Item = u64>, keys: u64, messages: u64) {
    let mut last: HashMap<u64, u64> = HashMap::new();
    let mut seen = HashSet::new();
    for number in numbers.into_iter().filter(|&number| seen.insert(number)) {
        let before = last.insert(number % keys, number);
        assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
    }
    assert_all(seen, messages);
}

/// All so many arrived, in whatever order.
pub fn assert_all(numbers: impl IntoIterator<Item = u64>, messages: u64) {
    let arrived: HashSet<u64> = numbers.into_iter().collect();
    let lost: Vec<u64> = (0..messages).filter(|number| !arrived.contains(number)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(arrived.len() as u64, messages, "nothing arrived that was not sent");
}

/// Runs a sink behind a proxy with each fault alone (if `alone`), then with all of them. `home` makes what messages go to
/// and returns the keys of the sink but `aws`, and what reads the numbers that arrived.
pub fn through_every_fault<R>(
    stand_in: &StandIn,
    actions: &[&'static str],
    alone: bool,
    mut home: impl FnMut() -> (String, R),
    check: impl Fn(R, u64),
) {
    let seed = seed();
    let alone = Fault::ALL.iter().filter(|_| alone).map(|fault| (vec![*fault], 40, 60));
    let mixed = rounds("faults mixed", 1, 20);
    let mixed = std::iter::repeat_n((Fault::ALL.to_vec(), 30, 300), mixed);
    let mut happened = 0;
    for (round, (faults, percent, messages)) in alone.chain(mixed).enumerate() {
        let seed = seed.wrapping_add(round as u64);
        println!("{faults:?}, seed {seed}");
        let proxy = Proxy::start(stand_in, Faults::new(&faults, percent).on(actions), seed);
        let (sink, arrived) = home();
        let folder = Folder::new();
        let file = pipeline(&folder, &numbered(messages, KEYS), &format!("{sink}\n{}", proxy.toml()));
        run_to_end(&folder, &file);
        assert!(dead_letters(&file).is_empty(), "{:?}", dead_letters(&file));
        check(arrived, messages);
        let done = proxy.done();
        println!("{done:?}");
        happened += done.values().sum::<usize>();
    }
    // One alone may not come about in a few requests.
    assert!(happened > 0, "nothing failed");
}

/// Keys of the messages that go through faults.
pub const KEYS: u64 = 7;
