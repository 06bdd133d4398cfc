//! A pipeline that reads a queue, who runs it, and a server that takes what comes out.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::runtime::Runtime;

use super::queues::Queue;
use crate::services::aws::ENVIRONMENT;
use crate::support::{Folder, Running, look, metric, millstream};

impl Queue {
    /// A pipeline from this queue: keys of its source, its sink, keys and sections at its end.
    pub fn pipeline(&self, folder: &Folder, source: &str, sink: &str, more: &str) -> PathBuf {
        let (name, aws) = (&self.name, self.stand_in.toml());
        let ordering = if self.is_fifo() { "partition" } else { "none" };
        folder.write(
            "worker.toml",
            &format!(
                "name = \"worker\"\nordering = \"{ordering}\"\nshutdown_timeout = \"2s\"\n\
                 [retry]\nstrategy = \"fixed\"\nbase_delay = \"100ms\"\nmax_attempts = 1000\n\
                 [source]\ntype = \"sqs\"\nqueue = \"{name}\"\n{aws}\nwait_time = \"1s\"\n{source}\n\
                 [[sink]]\nname = \"out\"\n{sink}\n{more}"
            ),
        )
    }
}

/// A process that runs a pipeline.
pub struct Member {
    pub running: Running,
    pub admin: String,
}

impl Member {
    pub fn start(folder: &Folder, pipeline: &std::path::Path) -> Member {
        let pipeline = pipeline.to_str().expect("UTF-8");
        let mut command = millstream(&["run", pipeline, "--admin", "127.0.0.1:0"]);
        command.envs(ENVIRONMENT).env("MILLSTREAM_LOG", "info,millstream=debug");
        command.stdout(std::process::Stdio::null());
        let mut running = Running::of(folder, &mut command);
        let admin = running.address("admin server listening");
        Member { running, admin }
    }

    /// Waits for something to happen; at each look the books balance (P11).
    pub fn wait_for(&mut self, what: &str, mut happened: impl FnMut() -> bool) {
        let Member { running, admin } = self;
        let mut looked = Instant::now();
        running.wait_for(what, |_| {
            if looked.elapsed() > Duration::from_millis(100) {
                looked = Instant::now();
                look(admin);
            }
            happened()
        });
    }

    pub fn wait_for_log(&mut self, text: &str) {
        self.running.wait_for(&format!("{text:?} in the log"), |running| running.log().contains(text));
    }

    pub fn account(&self, account: &str) -> u64 {
        let page = look(&self.admin).expect("it answers");
        metric(&page, "millstream_messages", &[&format!("account=\"{account}\"")])
            .expect("it has this account")
    }

    /// SIGTERM; it must end well. Returns its log.
    pub fn stop(mut self) -> String {
        self.running.terminate();
        let status = self.running.end();
        assert!(status.success(), "it ended with {status}\n{}", self.running.log());
        self.running.log()
    }
}

/// A message that came to a [`Taker`].
#[derive(Clone, Debug)]
pub struct Came {
    /// The path of the request.
    pub by: String,
    pub at: Instant,
    pub record: Value,
}

impl Came {
    pub fn payload(&self) -> &str {
        self.record["payload"].as_str().expect("text")
    }

    pub fn header(&self, name: &str) -> &str {
        self.record["headers"][name].as_str().unwrap_or_default()
    }
}

type Answer = dyn Fn(&Came, &[Came]) -> (StatusCode, Duration) + Send + Sync;

struct World {
    came: Mutex<Vec<Came>>,
    answer: Box<Answer>,
}

/// A server that takes messages, one a request, as records.
pub struct Taker {
    world: Arc<World>,
    url: String,
    _runtime: Runtime,
}

impl Taker {
    /// Answers each by what came before it: with this status, after so long.
    pub fn new(answer: impl Fn(&Came, &[Came]) -> (StatusCode, Duration) + Send + Sync + 'static) -> Taker {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let world = Arc::new(World { came: Mutex::default(), answer: Box::new(answer) });
        let server = Router::new().route("/{by}", post(take)).with_state(Arc::clone(&world));
        runtime.spawn(async move { axum::serve(listener, server).await });
        Taker { world, url, _runtime: runtime }
    }

    pub fn of_all() -> Taker {
        Taker::new(|_, _| (StatusCode::OK, Duration::ZERO))
    }

    /// The keys of a sink that writes here.
    pub fn sink(&self, by: &str) -> String {
        format!("type = \"http\"\nurl = \"{}/{by}\"\ncodec = \"record\"\ntimeout = \"60s\"", self.url)
    }

    pub fn came(&self) -> Vec<Came> {
        self.world.came.lock().expect("no panic").clone()
    }

    pub fn count(&self) -> usize {
        self.world.came.lock().expect("no panic").len()
    }
}

async fn take(State(world): State<Arc<World>>, Path(by): Path<String>, body: Bytes) -> StatusCode {
    let record = serde_json::from_slice(&body).expect("a record");
    let came = Came { by, at: Instant::now(), record };
    let (status, after) = {
        let mut before = world.came.lock().expect("no panic");
        let answer = (world.answer)(&came, &before);
        before.push(came);
        answer
    };
    tokio::time::sleep(after).await;
    status
}
