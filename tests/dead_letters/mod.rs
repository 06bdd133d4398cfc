//! P5: `millstream dlq` and `millstream checkpoint`, with the real binary: while the pipeline runs,
//! through the admin socket of its data folder, and with nothing running, in the data folder itself.

mod checkpoints;
mod keeping;
mod looking;
mod many;
mod replays;
mod stops;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use serde_json::{Value, json};

use crate::support::{Folder, Running, guest, look, metric, millstream};

/// A pipeline in a folder of its own, and the process that runs it, if one does.
struct World {
    folder: Folder,
    file: PathBuf,
    running: Option<Running>,
}

/// What the binary said, and how it ended.
#[derive(Debug, PartialEq)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn of(command: &mut Command) -> Said {
        let output = command.output().expect("the binary starts");
        let text = |bytes| String::from_utf8(bytes).expect("it prints UTF-8");
        Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    fn ended_with(self, code: i32) -> Said {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }

    /// One JSON object a line.
    #[track_caller]
    fn objects(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
    }
}

impl World {
    fn new(pipeline: &str, input: &str) -> World {
        let folder = Folder::new();
        folder.write("in.ndjson", input);
        let file = folder.write("orders.toml", pipeline);
        World { folder, file, running: None }
    }

    /// Changes the pipeline, of which nothing runs.
    fn configure(&self, pipeline: &str) {
        assert!(self.running.is_none());
        self.folder.write("orders.toml", pipeline);
    }

    fn append(&self, input: &str) {
        let path = self.folder.path("in.ndjson");
        // Not written anew: a follower knows the file by its inode.
        let mut file = std::fs::File::options().append(true).open(&path).expect("the input can be written");
        std::io::Write::write_all(&mut file, input.as_bytes()).expect("the input can be written");
    }

    /// Runs the pipeline to the end of its source.
    #[track_caller]
    fn run(&self) -> Said {
        let file = self.file.to_str().expect("a path in UTF-8");
        Said::of(&mut millstream(&["run", file, "--admin", "127.0.0.1:0"])).ended_with(0)
    }

    /// Runs the pipeline in the background; when this returns it answers.
    fn start(&mut self) {
        let mut running = Running::start(&self.folder, &self.file);
        let socket = self.folder.path(".millstream/orders/admin.sock");
        running.wait_for("its admin socket", |_| socket.exists());
        self.running = Some(running);
    }

    /// Waits until this is true, while the pipeline runs.
    fn wait_for(&mut self, what: &str, mut happened: impl FnMut(&World) -> bool) {
        let mut running = self.running.take().expect("it runs");
        running.wait_for(what, |_| happened(self));
        self.running = Some(running);
    }

    /// SIGTERM, and the clean end of P8.
    fn stop(&mut self) {
        let mut running = self.running.take().expect("it runs");
        running.terminate();
        assert!(running.end().success(), "{}", running.log());
    }

    /// `millstream dlq VERB FILE ...`, to be run.
    fn dlq_command(&self, verb: &str, arguments: &[&str]) -> Command {
        let mut command = millstream(&["dlq", verb, self.file.to_str().expect("a path in UTF-8")]);
        command.args(arguments);
        command
    }

    fn dlq(&self, verb: &str, arguments: &[&str]) -> Said {
        Said::of(&mut self.dlq_command(verb, arguments))
    }

    fn checkpoint(&self, verb: &str, arguments: &[&str]) -> Said {
        let file = self.file.to_str().expect("a path in UTF-8");
        Said::of(millstream(&["checkpoint", verb, file]).args(arguments))
    }

    /// Every dead letter as it is, in the order in which they were given up.
    #[track_caller]
    fn letters(&self) -> Vec<Value> {
        self.dlq("list", &["--json", "--reveal"]).ended_with(0).objects()
    }

    /// The address of the admin server of the process that runs the pipeline.
    fn admin(&mut self) -> String {
        self.running.as_mut().expect("it runs").address("admin server listening")
    }

    /// The metrics of the process that runs the pipeline; the books balance in them (P11).
    fn metrics(&mut self) -> String {
        look(&self.admin()).expect("the admin server answers")
    }
}

/// An account of the books of a pipeline.
fn account(metrics: &str, account: &str) -> Option<u64> {
    metric(metrics, "millstream_messages", &[&format!("account=\"{account}\"")])
}

/// An account of the books of a sink.
fn sink_account(metrics: &str, sink: &str, account: &str) -> Option<u64> {
    let labels = [format!("sink=\"{sink}\""), format!("account=\"{account}\"")];
    metric(metrics, "millstream_sink_messages", &labels.each_ref().map(String::as_str))
}

/// The number of a message, from its payload.
fn number(payload: &str) -> u64 {
    let payload: Value = serde_json::from_str(payload).expect("the payload is JSON");
    payload["n"].as_u64().expect("every message has a number")
}

/// The numbers of dead letters.
fn numbers(letters: &[Value]) -> Vec<u64> {
    letters.iter().map(|letter| number(letter["payload"].as_str().expect("a payload"))).collect()
}

fn id(letter: &Value) -> &str {
    letter["id"].as_str().expect("every dead letter has an id")
}

/// The one dead letter of a message; those of what is no JSON are passed over.
#[track_caller]
fn letter_of(letters: &[Value], wanted: u64) -> &Value {
    let is_wanted = |letter: &&Value| {
        let payload: Option<Value> =
            letter["payload"].as_str().and_then(|text| serde_json::from_str(text).ok());
        payload.is_some_and(|payload| payload["n"] == wanted)
    };
    let found: Vec<&Value> = letters.iter().filter(is_wanted).collect();
    assert_eq!(found.len(), 1, "{letters:?}");
    found[0]
}

/// A line of the codec `record`, with a key and headers.
fn record(payload: &Value) -> String {
    let n = &payload["n"];
    let record = json!({
        "key": format!("k{n}"),
        "headers": [["h", "1"], ["h", "2"], ["authorization", "Bearer t0k3n"]],
        "payload": payload.to_string(),
        "timestamp": "2026-01-31T12:00:00.000Z",
    });
    format!("{record}\n")
}

/// A server that the sinks of a test write to.
struct Server {
    address: String,
    world: Arc<ServerWorld>,
    _runtime: tokio::runtime::Runtime,
}

/// What it answers to a body that is sent to a path.
type Answer = dyn Fn(&str, &str) -> u16 + Send;

struct ServerWorld {
    answer: Mutex<Box<Answer>>,
    /// With so many taken it gives no more answers.
    most: AtomicUsize,
    taken: Mutex<Vec<Taken>>,
}

/// What it said 200 to.
#[derive(Clone, Debug)]
struct Taken {
    path: String,
    body: String,
    /// The mark of a replay.
    replays: Option<String>,
}

impl Server {
    fn start(answer: impl Fn(&str, &str) -> u16 + Send + 'static) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let (answer, most) = (Mutex::new(Box::new(answer) as Box<Answer>), AtomicUsize::new(usize::MAX));
        let world = Arc::new(ServerWorld { answer, most, taken: Mutex::default() });
        let router = Router::new().fallback(take).with_state(Arc::clone(&world));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Server { address, world, _runtime: runtime }
    }

    /// From now on.
    fn answer_with(&self, answer: impl Fn(&str, &str) -> u16 + Send + 'static) {
        *self.world.answer.lock().expect("no panic") = Box::new(answer);
    }

    /// Gives no more answers once it has taken so many.
    fn take_at_most(&self, most: usize) {
        self.world.most.store(most, Ordering::Relaxed);
    }

    fn taken(&self) -> Vec<Taken> {
        self.world.taken.lock().expect("no panic").clone()
    }

    /// Numbers of the messages that it took.
    fn numbers(&self) -> Vec<u64> {
        self.taken().iter().map(|taken| number(&taken.body)).collect()
    }
}

async fn take(
    State(world): State<Arc<ServerWorld>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    while world.taken.lock().expect("no panic").len() >= world.most.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let body = String::from_utf8(body.to_vec()).expect("every message is text");
    let answer = (world.answer.lock().expect("no panic"))(uri.path(), &body);
    if answer == 200 {
        let replays = headers.get("millstream-replays").map(|value| value.to_str().expect("text").to_owned());
        world.taken.lock().expect("no panic").push(Taken { path: uri.path().to_owned(), body, replays });
    }
    (StatusCode::from_u16(answer).expect("a status"), "as the test wants it")
}

/// A pipeline whose messages can fail everywhere: `check` traps on those with `trigger` in their
/// payload, `mask` refuses what is no JSON, `route` sends each where its field `to` says, and the
/// server behind sink `b` refuses what it likes. Sink `a` is a file.
struct Orders<'a> {
    follow: bool,
    trigger: &'a str,
    /// Where those go whose field `to` is neither `a` nor `b`.
    otherwise: &'a [&'a str],
    server: &'a Server,
    /// The end of the file.
    more: &'a str,
}

impl<'a> Orders<'a> {
    /// Reads its file once; `!` is a trap.
    fn of(server: &'a Server) -> Orders<'a> {
        Orders { follow: false, trigger: "!", otherwise: &[], server, more: "" }
    }

    fn toml(&self) -> String {
        let Orders { follow, trigger, otherwise, server, more } = self;
        format!(
            r#"
name = "orders"
lanes = 1

[source]
type = "file"
path = "in.ndjson"
codec = "record"
mode = "{mode}"
poll_interval = "20ms"

[[plugin]]
name = "check"
wasm = {wasm:?}
config = {{ mode = "trap", trigger = "{trigger}" }}

[[plugin]]
use = "mask"
[[plugin.config.rules]]
pointers = ["/card"]
headers = ["authorization"]
action = "keep-last"
keep = 2

[[plugin]]
use = "route"
config.default = {otherwise:?}
[[plugin.config.rules]]
when = [{{ pointer = "/to", equals = "a" }}]
routes = ["a"]
[[plugin.config.rules]]
when = [{{ pointer = "/to", equals = "b" }}]
routes = ["b"]

[[sink]]
name = "a"
type = "file"
path = "a.ndjson"
codec = "record"
route = "a"

[[sink]]
name = "b"
type = "http"
url = "http://{address}/b"
route = "b"

[retry]
strategy = "fixed"
base_delay = "10ms"
max_attempts = 2

{more}
"#,
            mode = if *follow { "follow" } else { "once" },
            wasm = guest("hostile"),
            address = server.address,
        )
    }
}
