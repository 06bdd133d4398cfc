//! An SQS of the test's own: it answers as it is told to, and remembers what it was asked.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::sqs_members::Taker;
use crate::services::aws::REGION;
use crate::support::Folder;

type Answer = (StatusCode, Value);

/// What is asked, and what is answered to it: `None` is nothing special.
type Script = dyn FnMut(&str, &Value) -> Option<Answer> + Send;

struct World {
    script: Box<Script>,
    asked: Vec<(String, Value)>,
    /// What receives bring, each once.
    receives: VecDeque<Value>,
}

/// An SQS with one queue.
pub struct Fake {
    world: Arc<Mutex<World>>,
    url: String,
    _runtime: Runtime,
}

impl Fake {
    pub fn new(script: impl FnMut(&str, &Value) -> Option<Answer> + Send + 'static) -> Fake {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let world = World { script: Box::new(script), asked: Vec::new(), receives: VecDeque::new() };
        let world = Arc::new(Mutex::new(world));
        let server = Router::new().route("/", post(answer)).with_state(Arc::clone(&world));
        let server = server.layer(DefaultBodyLimit::disable());
        runtime.spawn(async move { axum::serve(listener, server).await });
        Fake { world, url, _runtime: runtime }
    }

    /// Another receive brings these: id, handle, how often received, group.
    pub fn receive(&self, messages: &[(&str, &str, u32, &str)]) {
        let message = |&(id, handle, receives, group): &(&str, &str, u32, &str)| {
            json!({
                "MessageId": id, "ReceiptHandle": handle, "Body": id,
                "Attributes": { "ApproximateReceiveCount": receives.to_string(), "MessageGroupId": group },
            })
        };
        let messages: Vec<Value> = messages.iter().map(message).collect();
        self.world.lock().expect("no panic").receives.push_back(json!({ "Messages": messages }));
    }

    /// Requests of this kind so far.
    pub fn asked(&self, what: &str) -> Vec<Value> {
        let world = self.world.lock().expect("no panic");
        world.asked.iter().filter(|(kind, _)| kind == what).map(|(_, body)| body.clone()).collect()
    }

    /// Receipt handles in requests of this kind, in order.
    pub fn handles(&self, what: &str) -> Vec<String> {
        self.asked(what).iter().flat_map(handles).collect()
    }

    /// The keys of a sink that sends to a queue here.
    pub fn sink(&self, queue: &str) -> String {
        let url = &self.url;
        format!(
            "type = \"sqs\"\nqueue = \"{queue}\"\naws = {{ region = \"{REGION}\", endpoint = \"{url}\" }}"
        )
    }

    pub fn pipeline(&self, folder: &Folder, queue: &str, taker: &Taker) -> PathBuf {
        self.pipeline_with(folder, queue, taker, "")
    }

    /// `keys` are more keys of the source.
    pub fn pipeline_with(&self, folder: &Folder, queue: &str, taker: &Taker, keys: &str) -> PathBuf {
        let (url, sink) = (&self.url, taker.sink("out"));
        folder.write(
            "worker.toml",
            &format!(
                "name = \"worker\"\nshutdown_timeout = \"2s\"\n[source]\ntype = \"sqs\"\nqueue = \"{queue}\"\n\
                 wait_time = \"1s\"\naws = {{ region = \"{REGION}\", endpoint = \"{url}\" }}\n{keys}\n\
                 [[sink]]\nname = \"out\"\n{sink}\n"
            ),
        )
    }
}

/// Receipt handles in a request.
pub fn handles(body: &Value) -> Vec<String> {
    let entries = body["Entries"].as_array().into_iter().flatten();
    entries.map(|entry| entry["ReceiptHandle"].as_str().expect("a handle").to_owned()).collect()
}

async fn answer(
    State(world): State<Arc<Mutex<World>>>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, String) {
    let target = headers["x-amz-target"].to_str().expect("text").to_owned();
    let what = target.strip_prefix("AmazonSQS.").expect("it is asked of SQS").to_owned();
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    let (status, answer, waits) = {
        let mut world = world.lock().expect("no panic");
        world.asked.push((what.clone(), body.clone()));
        let is_receive = what == "ReceiveMessage";
        match (world.script)(&what, &body) {
            Some((status, answer)) => (status, answer, false),
            None if is_receive => match world.receives.pop_front() {
                Some(messages) => (StatusCode::OK, messages, false),
                None => (StatusCode::OK, json!({}), true),
            },
            None if what == "GetQueueUrl" => (StatusCode::OK, json!({ "QueueUrl": "http://sqs/1/q" }), false),
            None if body["Entries"].is_array() => (StatusCode::OK, each_is_done(&body), false),
            None => (StatusCode::OK, json!({}), false),
        }
    };
    if waits {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (status, answer.to_string())
}

fn each_is_done(body: &Value) -> Value {
    let entries = body["Entries"].as_array().expect("entries");
    let done: Vec<Value> = entries.iter().map(|entry| json!({ "Id": entry["Id"] })).collect();
    json!({ "Successful": done, "Failed": [] })
}
