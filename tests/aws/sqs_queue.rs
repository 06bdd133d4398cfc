//! A queue of a test's own, a pipeline that reads it, and a server that takes what comes out.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{Message, QueueAttributeName, SendMessageBatchRequestEntry};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::services::aws::{ENVIRONMENT, StandIn};
use crate::support::{Folder, Running, look, metric, millstream};

pub struct Queue {
    pub stand_in: &'static StandIn,
    pub name: String,
    pub url: String,
    client: Client,
    runtime: Runtime,
}

impl Queue {
    pub fn standard(stand_in: &'static StandIn) -> Queue {
        Queue::create(stand_in, "", &[])
    }

    pub fn fifo(stand_in: &'static StandIn) -> Queue {
        let attributes = [
            (QueueAttributeName::FifoQueue, "true"),
            (QueueAttributeName::ContentBasedDeduplication, "false"),
        ];
        Queue::create(stand_in, ".fifo", &attributes)
    }

    pub fn create(
        stand_in: &'static StandIn,
        suffix: &str,
        attributes: &[(QueueAttributeName, &str)],
    ) -> Queue {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let client = Client::new(&stand_in.config());
        let name = format!("q-{:016x}{suffix}", rand::random::<u64>());
        let mut create = client.create_queue().queue_name(&name);
        for (attribute, value) in attributes {
            create = create.attributes(attribute.clone(), *value);
        }
        let created = runtime.block_on(create.send()).expect("a queue");
        let url = created.queue_url.expect("its url");
        Queue { stand_in, name, url, client, runtime }
    }

    pub fn is_fifo(&self) -> bool {
        self.name.ends_with(".fifo")
    }

    /// Sends bodies, each with its group if the queue has such.
    pub fn send<'a>(&self, messages: impl IntoIterator<Item = (&'a str, String)>) {
        let messages: Vec<(&str, String)> = messages.into_iter().collect();
        self.runtime.block_on(async {
            for ten in messages.chunks(10) {
                let mut request = self.client.send_message_batch().queue_url(&self.url);
                for (index, (group, body)) in ten.iter().enumerate() {
                    let mut entry =
                        SendMessageBatchRequestEntry::builder().id(index.to_string()).message_body(body);
                    if self.is_fifo() {
                        let once = format!("{:032x}", rand::random::<u128>());
                        entry = entry.message_group_id(*group).message_deduplication_id(once);
                    }
                    request = request.entries(entry.build().expect("an entry"));
                }
                let answer = request.send().await.expect("it takes messages");
                assert!(answer.failed.is_empty(), "{:?}", answer.failed);
            }
        });
    }

    /// What can be received now; it stays hidden for the queue's visibility timeout.
    pub fn receive(&self) -> Vec<Message> {
        let request = self.client.receive_message().queue_url(&self.url).max_number_of_messages(10);
        let request = request.message_system_attribute_names("All".into());
        self.runtime.block_on(request.send()).expect("it answers").messages.unwrap_or_default()
    }

    /// Messages that can be received, and those in flight.
    pub fn counts(&self) -> (u64, u64) {
        let request = self.client.get_queue_attributes().queue_url(&self.url);
        let answer = self.runtime.block_on(request.attribute_names(QueueAttributeName::All).send());
        let attributes = answer.expect("it answers").attributes.expect("attributes");
        let count = |name| attributes[&name].parse().expect("a number");
        (
            count(QueueAttributeName::ApproximateNumberOfMessages),
            count(QueueAttributeName::ApproximateNumberOfMessagesNotVisible),
        )
    }

    pub fn is_empty(&self) -> bool {
        self.counts() == (0, 0)
    }

    pub fn delete(&self) {
        let request = self.client.delete_queue().queue_url(&self.url);
        self.runtime.block_on(request.send()).expect("it is deleted");
    }

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
