//! What SQS does seldom, done by a server of the test's own: batches that fail in part, duplicates, answers
//! that are lost, credentials that are refused.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::sqs_members::{Member, Taker};
use crate::services::aws::{REGION, SECRET_KEY};
use crate::support::{Folder, ask};

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
struct Fake {
    world: Arc<Mutex<World>>,
    url: String,
    _runtime: Runtime,
}

impl Fake {
    fn new(script: impl FnMut(&str, &Value) -> Option<Answer> + Send + 'static) -> Fake {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let world = World { script: Box::new(script), asked: Vec::new(), receives: VecDeque::new() };
        let world = Arc::new(Mutex::new(world));
        let server = Router::new().route("/", post(answer)).with_state(Arc::clone(&world));
        runtime.spawn(async move { axum::serve(listener, server).await });
        Fake { world, url, _runtime: runtime }
    }

    /// Another receive brings these: id, handle, how often received, group.
    fn receive(&self, messages: &[(&str, &str, u32, &str)]) {
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
    fn asked(&self, what: &str) -> Vec<Value> {
        let world = self.world.lock().expect("no panic");
        world.asked.iter().filter(|(kind, _)| kind == what).map(|(_, body)| body.clone()).collect()
    }

    /// Receipt handles in requests of this kind, in order.
    fn handles(&self, what: &str) -> Vec<String> {
        let entries = |body: &Value| body["Entries"].as_array().cloned().unwrap_or_default();
        let entries = self.asked(what).iter().flat_map(entries).collect::<Vec<_>>();
        entries.iter().map(|entry| entry["ReceiptHandle"].as_str().expect("a handle").to_owned()).collect()
    }

    fn pipeline(&self, folder: &Folder, queue: &str, taker: &Taker) -> PathBuf {
        let (url, sink) = (&self.url, taker.sink("out"));
        folder.write(
            "worker.toml",
            &format!(
                "name = \"worker\"\nshutdown_timeout = \"2s\"\n[source]\ntype = \"sqs\"\nqueue = \"{queue}\"\n\
                 wait_time = \"1s\"\naws = {{ region = \"{REGION}\", endpoint = \"{url}\" }}\n\
                 [[sink]]\nname = \"out\"\n{sink}\n"
            ),
        )
    }
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

#[test]
fn of_a_delete_that_fails_in_part_what_failed_is_deleted_again() {
    let mut tries = 0;
    let fake = Fake::new(move |what, body| {
        if what != "DeleteMessageBatch" {
            return None;
        }
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for entry in body["Entries"].as_array().expect("entries") {
            let failure =
                |code: &str, fault: bool| json!({ "Id": entry["Id"], "Code": code, "SenderFault": fault });
            match entry["ReceiptHandle"].as_str() {
                Some("h2") if tries < 2 => {
                    tries += 1;
                    failed.push(failure("InternalError", false));
                }
                Some("h3") => failed.push(failure("ReceiptHandleIsInvalid", true)),
                _ => done.push(json!({ "Id": entry["Id"] })),
            }
        }
        Some((StatusCode::OK, json!({ "Successful": done, "Failed": failed })))
    });
    let (folder, taker) = (Folder::new(), Taker::of_all());
    fake.receive(&[("m1", "h1", 1, ""), ("m2", "h2", 1, ""), ("m3", "h3", 1, "")]);
    let mut member = Member::start(&folder, &fake.pipeline(&folder, "q", &taker));
    let admin = member.admin.clone();
    member.wait_for("it says that it cannot delete", || {
        ask(&admin, "/readyz").is_some_and(|(status, said)| status == 503 && said.contains("deleting"))
    });
    let count =
        |handle: &str| fake.handles("DeleteMessageBatch").iter().filter(|known| *known == handle).count();
    member.wait_for("all are deleted", || count("h2") == 3);
    member.wait_for("it is ready", || ask(&admin, "/readyz").is_some_and(|(status, _)| status == 200));
    member.stop();
    assert_eq!((count("h1"), count("h3")), (1, 1), "what is gone is not deleted again");
    assert_eq!(taker.count(), 3);
}

#[test]
fn what_arrives_again_while_it_is_in_flight_is_not_read_twice() {
    let fake = Fake::new(|_, _| None);
    let folder = Folder::new();
    let taker = Taker::new(|_, _| (StatusCode::OK, Duration::from_secs(3)));
    fake.receive(&[("m1", "old", 1, "")]);
    let mut member = Member::start(&folder, &fake.pipeline(&folder, "q", &taker));
    member.wait_for("it is in flight", || taker.count() == 1);
    let before = fake.asked("ReceiveMessage").len();
    fake.receive(&[("m1", "new", 2, ""), ("m2", "other", 1, "")]);
    member.wait_for("it came again", || fake.asked("ReceiveMessage").len() > before + 1);
    member.wait_for("both are deleted", || fake.handles("DeleteMessageBatch").len() == 2);
    // And once more, after it was deleted.
    fake.receive(&[("m1", "late", 3, "")]);
    member.wait_for("it is deleted again", || fake.handles("DeleteMessageBatch").len() == 3);
    member.stop();
    let mut deleted = fake.handles("DeleteMessageBatch");
    deleted.sort();
    assert_eq!(deleted, ["late", "new", "other"]);
    let mut came: Vec<String> = taker.came().iter().map(|came| came.payload().to_owned()).collect();
    came.sort();
    assert_eq!(came, ["m1", "m2"]);
}

#[test]
fn a_receive_of_a_fifo_queue_whose_answer_was_lost_is_asked_for_again() {
    let mut failures = 0;
    let fake = Fake::new(move |what, _| {
        let fails = what == "ReceiveMessage" && failures < 2;
        failures += usize::from(fails);
        fails.then(|| (StatusCode::INTERNAL_SERVER_ERROR, json!({ "__type": "InternalFailure" })))
    });
    let (folder, taker) = (Folder::new(), Taker::of_all());
    fake.receive(&[("m1", "h1", 1, "g"), ("m2", "h2", 1, "g")]);
    let mut member = Member::start(&folder, &fake.pipeline(&folder, "q.fifo", &taker));
    member.wait_for("both are deleted", || fake.handles("DeleteMessageBatch").len() == 2);
    member.wait_for("it asks on", || fake.asked("ReceiveMessage").len() >= 5);
    member.stop();
    let attempt = |body: &Value| body["ReceiveRequestAttemptId"].as_str().expect("an id").to_owned();
    let attempts: Vec<String> = fake.asked("ReceiveMessage").iter().map(attempt).collect();
    assert_eq!(attempts[0], attempts[1]);
    assert_eq!(attempts[1], attempts[2]);
    assert!(attempts[3..].iter().all(|later| *later != attempts[0]), "{attempts:?}");
    assert_eq!(taker.came().iter().map(|came| came.payload().to_owned()).collect::<Vec<_>>(), ["m1", "m2"]);
}

#[test]
fn a_group_is_given_back_from_its_end() {
    let fake = Fake::new(|_, _| None);
    let folder = Folder::new();
    let never = Taker::new(|_, _| (StatusCode::OK, Duration::from_secs(600)));
    let messages: Vec<(String, String)> = (1..=5).map(|n| (format!("m{n}"), format!("h{n}"))).collect();
    let messages: Vec<(&str, &str, u32, &str)> =
        messages.iter().map(|(id, handle)| (id.as_str(), handle.as_str(), 1, "g")).collect();
    fake.receive(&messages);
    let mut member = Member::start(&folder, &fake.pipeline(&folder, "q.fifo", &never));
    member.wait_for("the first is in flight", || never.count() == 1);
    let log = member.stop();
    let given_back: Vec<String> = fake
        .asked("ChangeMessageVisibilityBatch")
        .iter()
        .flat_map(|body| body["Entries"].as_array().cloned().unwrap_or_default())
        .filter(|entry| entry["VisibilityTimeout"] == 0)
        .map(|entry| entry["ReceiptHandle"].as_str().expect("a handle").to_owned())
        .collect();
    assert_eq!(given_back, ["h5", "h4", "h3", "h2", "h1"], "{log}");
    assert_eq!(never.count(), 1);
}

#[test]
fn refused_credentials_are_not_asked_for_quickly_and_no_secret_is_told() {
    let fake = Fake::new(|_, _| {
        let message = format!(
            "The request signature we calculated does not match the signature you provided. \
             The secret was {SECRET_KEY}"
        );
        let kind = "com.amazonaws.sqs#SignatureDoesNotMatch";
        Some((StatusCode::FORBIDDEN, json!({ "__type": kind, "message": message })))
    });
    let (folder, taker) = (Folder::new(), Taker::of_all());
    let mut member = Member::start(&folder, &fake.pipeline(&folder, "q", &taker));
    let admin = member.admin.clone();
    let mut said = String::new();
    member.wait_for("it says so", || {
        said = ask(&admin, "/readyz").filter(|(status, _)| *status == 503).unwrap_or_default().1;
        said.contains("SignatureDoesNotMatch")
    });
    for page in ["/metrics", "/status", "/healthz"] {
        said += &ask(&admin, page).unwrap_or_default().1;
    }
    said += &member.stop();
    assert!(said.contains("the source waits for its queue"), "{said}");
    let words = SECRET_KEY.escape_default().to_string();
    for secret in [SECRET_KEY, &words] {
        assert!(!said.contains(secret), "{secret} in {said}");
    }
    // The receiver and the look at the queue's depth, each once.
    assert!(fake.asked("GetQueueUrl").len() <= 2);
}
