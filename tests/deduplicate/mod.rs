//! The built-in `deduplicate`, whose keys are staged under the claim: neither a crash between state
//! and sink, nor a divided batch, nor a retry or replay swallows a message.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::kill::committed;
use crate::support::{Folder, Running, http_client, look, metric, rounds, run, seed};

const DEDUPLICATE: &str = r#"
[[plugin]]
use = "deduplicate"
config = { by = { pointer = "/id" } }
grants.state.deduplicate = { ttl = "1h" }
"#;

const FROM_FILE: &str = r#"
type = "file"
path = "in.ndjson"
"#;

fn pipeline(folder: &Folder, source: &str, sink: &str) -> std::path::PathBuf {
    let text = format!(
        r#"
name = "once"
ordering = "partition"
lanes = 2
[source]
{source}
{DEDUPLICATE}
[[sink]]
name = "out"
{sink}
[retry]
base_delay = "5ms"
max_delay = "20ms"
"#
    );
    folder.write("once.toml", &text)
}

fn append(folder: &Folder, ids: impl IntoIterator<Item = u64>) {
    let mut lines = String::new();
    for id in ids {
        writeln!(lines, "{{\"id\":{id}}}").expect("a string takes all");
    }
    let file = std::fs::File::options().create(true).append(true).open(folder.path("in.ndjson"));
    file.and_then(|mut file| file.write_all(lines.as_bytes())).expect("the input can be written");
}

fn id(line: &str) -> u64 {
    let value: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("half a line: {line:?}: {error}"));
    value["id"].as_u64().expect("an id")
}

/// Takes messages or answers with a status that is no 200.
struct Server {
    address: String,
    status: Arc<Mutex<u16>>,
    asked: Arc<Mutex<Vec<u64>>>,
    taken: Arc<Mutex<Vec<u64>>>,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    fn start(status: u16) -> Server {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let status = Arc::new(Mutex::new(status));
        let (asked, taken) = (Arc::<Mutex<Vec<u64>>>::default(), Arc::<Mutex<Vec<u64>>>::default());
        let world = (Arc::clone(&status), Arc::clone(&asked), Arc::clone(&taken));
        let router = Router::new().fallback(move |body: String| {
            let (status, asked, taken) = &world;
            let status = *status.lock().expect("no panic");
            asked.lock().expect("no panic").push(id(&body));
            if status == 200 {
                taken.lock().expect("no panic").push(id(&body));
            }
            std::future::ready(StatusCode::from_u16(status).expect("a status"))
        });
        runtime.spawn(async move { axum::serve(listener, router).await });
        Server { address, status, asked, taken, _runtime: runtime }
    }

    fn answer_with(&self, status: u16) {
        *self.status.lock().expect("no panic") = status;
    }

    fn asked(&self) -> usize {
        self.asked.lock().expect("no panic").len()
    }

    /// In order.
    fn taken(&self) -> Vec<u64> {
        let mut taken = self.taken.lock().expect("no panic").clone();
        taken.sort_unstable();
        taken
    }

    fn sink(&self) -> String {
        format!("type = \"http\"\nurl = \"http://{}/\"", self.address)
    }
}

fn account(page: &str, account: &str) -> Option<u64> {
    metric(page, "millstream_messages", &[&format!("account=\"{account}\"")])
}

#[test]
fn p8_killed_at_any_moment_one_copy_of_each_message_comes_through() {
    const IDS: u64 = 20_000;
    let mut random = StdRng::seed_from_u64(seed());
    let kills = rounds("kills of a pipeline that deduplicates", 4, 20);
    let folder = Folder::new();
    let pipeline = pipeline(&folder, FROM_FILE, "type = \"file\"\npath = \"out.ndjson\"\nbatch = 64");
    // Copies at once, a little later, and much later.
    let input: Vec<u64> = (0..IDS).flat_map(|id| [id, id, id / 2, id.saturating_sub(100)]).collect();
    append(&folder, input.iter().copied());
    let (mut killed, mut uncommitted) = (0, 0);
    loop {
        let mut running = Running::start(&folder, &pipeline);
        if killed < kills {
            std::thread::sleep(Duration::from_millis(random.random_range(50..700)));
            if !running.has_ended() {
                running.kill();
                killed += 1;
                let committed = committed(&folder, "once") as usize;
                let before: HashSet<u64> = input[..committed].iter().copied().collect();
                let whole = std::fs::read_to_string(folder.path("out.ndjson")).unwrap_or_default();
                let whole = whole.rsplit_once('\n').map_or("", |(whole, _)| whole);
                let arrived: HashSet<u64> = whole.lines().map(id).collect();
                assert!(before.is_subset(&arrived), "committed and not delivered");
                uncommitted += arrived.difference(&before).count();
                continue;
            }
        }
        assert!(running.end().success(), "{}", running.log());
        break;
    }
    let out: Vec<u64> = folder.lines("out.ndjson").iter().map(|line| id(line)).collect();
    let distinct: HashSet<u64> = out.iter().copied().collect();
    assert_eq!(distinct.len() as u64, IDS, "after {killed} kills");
    let repeated = out.len() - distinct.len();
    assert!(repeated <= uncommitted, "{repeated} repeated, {uncommitted} allowed after {killed} kills");
    // All keys are known now.
    append(&folder, 0..IDS);
    let mut running = Running::start(&folder, &pipeline);
    assert!(running.end().success(), "{}", running.log());
    assert_eq!(folder.lines("out.ndjson").len(), out.len());
    let (_, letters, _) = run(&["dlq", "list", &pipeline.display().to_string(), "--json"]);
    assert_eq!(letters, "");
}

#[test]
fn p2_a_crash_between_state_and_sink_and_retries_there_swallow_nothing() {
    for status in [503, 500] {
        let server = Server::start(status);
        let folder = Folder::new();
        let pipeline = pipeline(&folder, FROM_FILE, &server.sink());
        append(&folder, [1, 2, 1, 3, 3]);
        let mut running = Running::start(&folder, &pipeline);
        running.wait_for("the sink refuses", |_| server.asked() > 0);
        running.kill();
        let mut running = Running::start(&folder, &pipeline);
        let asked = server.asked();
        running.wait_for("the sink refuses again", |_| server.asked() > asked + 1);
        server.answer_with(200);
        assert!(running.end().success(), "{}", running.log());
        assert_eq!(server.taken(), [1, 2, 3], "{status}: {}", running.log());
    }
}

#[test]
fn p2_a_dead_letter_leaves_no_key_and_is_replayed() {
    let server = Server::start(422);
    let folder = Folder::new();
    let pipeline = pipeline(&folder, FROM_FILE, &server.sink());
    let file = pipeline.display().to_string();
    // The second is a duplicate of one in flight, which fails: so it is a dead letter, too.
    append(&folder, [1, 1, 2]);
    assert!(Running::start(&folder, &pipeline).end().success());
    let (_, letters, _) = run(&["dlq", "list", &file, "--json"]);
    let dead = |letters: &str| letters.lines().count();
    assert_eq!(dead(&letters), 3, "{letters}");
    assert_eq!(letters.matches("duplicate-of-dead-letter").count(), 1, "{letters}");
    // Sent again, it is tried again.
    append(&folder, [1]);
    assert!(Running::start(&folder, &pipeline).end().success());
    assert_eq!(dead(&run(&["dlq", "list", &file, "--json"]).1), 4);
    server.answer_with(200);
    let (status, _, err) = run(&["dlq", "replay", &file, "--all"]);
    assert!(status.success() && err.contains("2 delivered, 2 dropped by a plugin, 0 failed again"), "{err}");
    assert_eq!(server.taken(), [1, 2]);
    append(&folder, [1, 2, 3]);
    assert!(Running::start(&folder, &pipeline).end().success());
    assert_eq!(server.taken(), [1, 2, 3]);
}

#[test]
fn a_duplicate_is_known_after_a_restart_of_a_source_that_counts_anew() {
    let server = Server::start(200);
    let folder = Folder::new();
    let source = "type = \"http\"\nlisten = \"127.0.0.1:0\"\npath = \"/in\"";
    let pipeline = pipeline(&folder, source, &server.sink());
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for round in 0..2 {
        let mut running = Running::start(&folder, &pipeline);
        let (admin, listen) = (running.address("admin server listening"), running.address("sources::http"));
        let post = http_client().post(format!("http://{listen}/in")).body("{\"id\":7}");
        let status = runtime.block_on(post.send()).expect("it answers").status();
        assert!(status.is_success(), "{status}");
        running.wait_for("it is settled", |_| {
            let page = look(&admin).unwrap_or_default();
            account(&page, if round == 0 { "delivered" } else { "filtered" }) == Some(1)
        });
        running.terminate();
        assert!(running.end().success(), "{}", running.log());
        assert_eq!(server.taken(), [7], "round {round}");
        // Or the next would find the addresses of this one there.
        std::fs::remove_file(folder.path("log")).expect("there is a log");
    }
}
