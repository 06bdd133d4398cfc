//! A stream, who writes to it, who reads it, and a server that takes what was read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_kinesis::Client;
use aws_sdk_kinesis::primitives::Blob;
use aws_sdk_kinesis::types::{PutRecordsRequestEntry, Shard};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::services::aws::{ENVIRONMENT, StandIn};
use crate::support::{DEADLINE, Folder, Running, look, metric, millstream};

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

pub fn unique(name: &str) -> String {
    format!("{name}-{:08x}", rand::random::<u32>())
}

/// Waits for something that no process of ours does.
pub fn wait_for(what: &str, mut happened: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !happened() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A stream of the test's own.
pub struct Stream {
    pub name: String,
    client: Client,
    runtime: Runtime,
}

impl Stream {
    pub fn new(shards: i32) -> Stream {
        let stream = Stream::later();
        stream.create(shards);
        stream
    }

    /// One that is not there yet.
    pub fn later() -> Stream {
        let client = Client::new(&StandIn::kinesis().config());
        Stream { name: unique("stream"), client, runtime: runtime() }
    }

    pub fn create(&self, shards: i32) {
        let request = self.client.create_stream().stream_name(&self.name).shard_count(shards).send();
        self.runtime.block_on(request).expect("a stream");
        self.wait_until_active();
    }

    fn wait_until_active(&self) {
        wait_for("an active stream", || {
            let request = self.client.describe_stream_summary().stream_name(&self.name).send();
            let summary = self.runtime.block_on(request).expect("a stream").stream_description_summary;
            summary.is_some_and(|summary| summary.stream_status.as_str() == "ACTIVE")
        });
    }

    pub fn put(&self, key: &str, data: &[u8]) {
        self.put_all(&[(key.to_owned(), data.to_vec())]);
    }

    /// Puts records in one call, those that were not taken again.
    pub fn put_all(&self, records: &[(String, Vec<u8>)]) {
        let mut left = records.to_vec();
        let end = Instant::now() + DEADLINE;
        while !left.is_empty() {
            assert!(Instant::now() < end, "the stream takes no records");
            let entries = left.iter().map(|(key, data)| {
                let entry =
                    PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(data.clone()));
                entry.build().expect("an entry")
            });
            let entries = Some(entries.collect());
            let request = self.client.put_records().stream_name(&self.name).set_records(entries).send();
            let Ok(answer) = self.runtime.block_on(request) else {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            };
            let failed = answer.records.iter().map(|record| record.error_code.is_some());
            left = left
                .into_iter()
                .zip(failed)
                .filter(|(_, failed)| *failed)
                .map(|(record, _)| record)
                .collect();
        }
    }

    fn shards(&self) -> Vec<Shard> {
        let request = self.client.list_shards().stream_name(&self.name).send();
        self.runtime.block_on(request).expect("shards").shards.unwrap_or_default()
    }

    /// Id and range of the shards that take records, by range.
    pub fn open_shards(&self) -> Vec<(String, u128, u128)> {
        let is_open = |shard: &Shard| {
            let range = shard.sequence_number_range.as_ref();
            range.is_none_or(|range| range.ending_sequence_number.is_none())
        };
        let mut open: Vec<(String, u128, u128)> = (self.shards().into_iter().filter(is_open))
            .map(|shard| {
                let range = shard.hash_key_range.expect("a range");
                let number = |text: &str| text.parse().expect("a number");
                (shard.shard_id, number(&range.starting_hash_key), number(&range.ending_hash_key))
            })
            .collect();
        open.sort_by_key(|(_, first, _)| *first);
        open
    }

    /// Splits one of the open shards in the middle.
    pub fn split(&self, index: usize) {
        let (id, first, last) = self.open_shards().swap_remove(index);
        let middle = first + (last - first) / 2;
        let request = self.client.split_shard().stream_name(&self.name).shard_to_split(&id);
        let request = request.new_starting_hash_key(middle.to_string()).send();
        self.runtime.block_on(request).expect("it can be split");
        self.wait_until_active();
    }

    /// Merges an open shard with the one behind it.
    pub fn merge(&self, index: usize) {
        let open = self.open_shards();
        let (one, other) = (&open[index].0, &open[index + 1].0);
        let request = self.client.merge_shards().stream_name(&self.name);
        let request = request.shard_to_merge(one).adjacent_shard_to_merge(other).send();
        self.runtime.block_on(request).expect("they can be merged");
        self.wait_until_active();
    }
}

/// Puts numbered records with some keys, each key's in order, until it is told to end.
pub struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    thread: std::thread::JoinHandle<()>,
}

pub const KEYS: usize = 20;

impl Writer {
    pub fn start(stream: &Arc<Stream>, pause: Duration) -> Writer {
        let (stop, written): (Arc<AtomicBool>, Arc<AtomicUsize>) = Default::default();
        let (stream, told, count) = (Arc::clone(stream), Arc::clone(&stop), Arc::clone(&written));
        let thread = std::thread::spawn(move || {
            for round in 0.. {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                let record = |key: usize| (format!("k{key}"), (round * KEYS + key).to_string().into_bytes());
                stream.put_all(&(0..KEYS).map(record).collect::<Vec<_>>());
                count.fetch_add(KEYS, Ordering::Relaxed);
                std::thread::sleep(pause);
            }
        });
        Writer { stop, written, thread }
    }

    pub fn written(&self) -> usize {
        self.written.load(Ordering::Relaxed)
    }

    /// How many were written.
    pub fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("the writer does not panic");
        self.written.load(Ordering::Relaxed)
    }
}

/// A message that the server took.
#[derive(Clone, Debug)]
pub struct Taken {
    pub key: String,
    pub payload: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

impl Taken {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }

    pub fn number(&self) -> usize {
        self.text().parse().expect("a number")
    }
}

/// The server that members deliver to: it sees in what order all of them do.
pub struct Taker {
    url: String,
    taken: Arc<Mutex<Vec<Taken>>>,
    /// Whether it answers.
    open: watch::Sender<bool>,
    /// The payload that it does not answer.
    held: watch::Sender<Option<&'static str>>,
    _runtime: Runtime,
}

#[derive(Clone)]
struct Door {
    taken: Arc<Mutex<Vec<Taken>>>,
    open: watch::Receiver<bool>,
    held: watch::Receiver<Option<&'static str>>,
}

async fn take(State(mut door): State<Door>, body: Bytes) {
    // An error is the end of the test.
    let _ = door.open.wait_for(|open| *open).await;
    let record: Value = serde_json::from_slice(&body).expect("a record");
    let payload = match (&record["payload"], &record["payload_base64"]) {
        (Value::String(text), _) => text.clone().into_bytes(),
        (_, Value::String(base64)) => STANDARD.decode(base64).expect("base 64"),
        _ => panic!("no payload: {record}"),
    };
    let _ = door.held.wait_for(|held| held.is_none_or(|held| held.as_bytes() != payload)).await;
    let headers = record["headers"].as_object().into_iter().flatten();
    let headers = headers.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
    let key = record["key"].as_str().unwrap_or_default().to_owned();
    door.taken.lock().expect("no panic").push(Taken { key, payload, headers: headers.collect() });
}

impl Taker {
    pub fn start() -> Taker {
        let runtime = runtime();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("an address"));
        let taken: Arc<Mutex<Vec<Taken>>> = Arc::default();
        let (open, is_open) = watch::channel(true);
        let (held, is_held) = watch::channel(None);
        let door = Door { taken: Arc::clone(&taken), open: is_open, held: is_held };
        let server = Router::new().route("/", post(take)).with_state(door).layer(DefaultBodyLimit::disable());
        runtime.spawn(async move { axum::serve(listener, server).await });
        Taker { url, taken, open, held, _runtime: runtime }
    }

    /// Has it answer, or keep those who deliver waiting.
    pub fn open(&self, open: bool) {
        self.open.send(open).expect("the server runs");
    }

    /// Keeps those who deliver this payload waiting, or nobody.
    pub fn hold(&self, payload: Option<&'static str>) {
        self.held.send(payload).expect("the server runs");
    }

    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().expect("no panic").clone()
    }

    pub fn count(&self) -> usize {
        self.taken.lock().expect("no panic").len()
    }

    /// Payloads as text, sorted: shards come in any order.
    pub fn texts(&self) -> Vec<String> {
        let mut texts: Vec<String> = self.taken().iter().map(Taken::text).collect();
        texts.sort();
        texts
    }

    /// How many different messages came.
    pub fn distinct(&self) -> usize {
        let taken = self.taken.lock().expect("no panic");
        taken.iter().map(|taken| &taken.payload).collect::<HashSet<_>>().len()
    }

    /// Everything that a writer wrote is there, each key's in order when repetitions are left out. Returns how
    /// many repetitions there were.
    pub fn judge(&self, written: usize) -> usize {
        let taken = self.taken();
        let mut seen = HashSet::new();
        let mut last: HashMap<&str, usize> = HashMap::new();
        for one in &taken {
            let number = one.number();
            assert_eq!(one.key, format!("k{}", number % KEYS));
            if seen.insert(number) {
                let before = last.insert(&one.key, number);
                assert!(before.is_none_or(|before| before < number), "{number} came after {before:?}");
            }
        }
        let lost: Vec<usize> = (0..written).filter(|number| !seen.contains(number)).collect();
        assert!(lost.is_empty(), "{} of {written} are lost: {lost:?}", lost.len());
        taken.len() - seen.len()
    }
}

/// A pipeline that reads a stream and delivers to the server. Keys can be added.
pub struct Pipeline {
    /// Of the source.
    pub source: String,
    pub stream: String,
    /// `aws = ...` of the stream.
    pub aws: String,
    /// Of the file itself.
    pub top: String,
    /// The sections behind the source.
    pub sections: String,
    /// Of the sink.
    pub sink: String,
    url: String,
}

impl Pipeline {
    pub fn new(stream: &Stream, taker: &Taker) -> Pipeline {
        Pipeline {
            source: String::new(),
            stream: stream.name.clone(),
            aws: StandIn::kinesis().toml(),
            top: String::new(),
            sections: String::new(),
            sink: String::new(),
            url: taker.url.clone(),
        }
    }

    /// With leases in a table of its own.
    pub fn shared(stream: &Stream, taker: &Taker, duration: &str) -> Pipeline {
        let mut pipeline = Pipeline::new(stream, taker);
        let (table, aws) = (unique("leases"), StandIn::dynalite().toml());
        pipeline.sections =
            format!("[source.leases]\ntable = \"{table}\"\n{aws}\nduration = \"{duration}\"\n");
        pipeline
    }

    fn write(&self, folder: &Folder) -> PathBuf {
        let Pipeline { source, stream, aws, top, sections, sink, url } = self;
        folder.write(
            "reader.toml",
            &format!(
                r#"
name = "reader"
ordering = "key"
{top}

[source]
type = "kinesis"
stream = "{stream}"
{aws}
poll_interval = "200ms"
{source}
{sections}

[[sink]]
type = "http"
url = "{url}"
codec = "record"
{sink}

[retry]
base_delay = "20ms"
max_delay = "500ms"
"#
            ),
        )
    }
}

/// A process that runs the pipeline, in a folder of its own.
pub struct Member {
    pub folder: Folder,
    pub pipeline: PathBuf,
    pub running: Running,
    pub admin: String,
}

impl Member {
    pub fn start(pipeline: &Pipeline) -> Member {
        let folder = Folder::new();
        let path = pipeline.write(&folder);
        Member::start_in(folder, path)
    }

    fn start_in(folder: Folder, pipeline: PathBuf) -> Member {
        let path = pipeline.to_str().expect("UTF-8");
        let mut command = millstream(&["run", path, "--admin", "127.0.0.1:0"]);
        let mut running = Running::of(&folder, command.envs(ENVIRONMENT));
        let admin = running.address("admin server listening");
        Member { folder, pipeline, running, admin }
    }

    /// Waits for something while it runs; at each look the books balance (P11).
    pub fn wait_for(&mut self, what: &str, mut happened: impl FnMut() -> bool) {
        let Member { running, admin, .. } = self;
        running.wait_for(what, |_| {
            look(admin);
            happened()
        });
    }

    pub fn wait_for_log(&mut self, text: &str) {
        self.running.wait_for(&format!("{text:?} in the log"), |running| running.log().contains(text));
    }

    /// How many shards it reads.
    pub fn leases(&self) -> u64 {
        leases(&self.admin)
    }

    /// SIGKILL.
    pub fn kill(self) -> Stopped {
        self.running.kill();
        Stopped { folder: self.folder, pipeline: self.pipeline }
    }

    /// SIGTERM; it must end well.
    pub fn stop(mut self) -> Stopped {
        self.running.terminate();
        let status = self.running.end();
        assert!(status.success(), "it ended with {status}\n{}", self.running.log());
        Stopped { folder: self.folder, pipeline: self.pipeline }
    }
}

/// How many shards a member reads.
pub fn leases(admin: &str) -> u64 {
    let page = look(admin).unwrap_or_default();
    metric(&page, "millstream_kinesis_leases", &[]).unwrap_or_default()
}

/// How far behind a member is in a shard, in milliseconds; `None` if it does not say.
pub fn behind(admin: &str, shard: &str) -> Option<u64> {
    let page = look(admin)?;
    metric(&page, "millstream_kinesis_millis_behind_latest", &[&format!("shard=\"{shard}\"")])
}

/// What a process left behind.
pub struct Stopped {
    pub folder: Folder,
    pub pipeline: PathBuf,
}

impl Stopped {
    pub fn start(self) -> Member {
        Member::start_in(self.folder, self.pipeline)
    }
}
