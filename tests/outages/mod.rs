//! Retry, order and dead letters over HTTP, against a server that fails in every way; the books
//! balance at every step (P11).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use crate::support::{Folder, Running, account, balanced, http_client, rounds, run};

/// What the server does with its next requests.
#[derive(Default)]
struct World {
    /// Payloads it said 200 to, in order.
    taken: Mutex<Vec<String>>,
    /// Payloads it took and then died on, before it answered.
    taken_unanswered: Mutex<Vec<String>>,
    requests: AtomicUsize,
    /// Until then it is down: 503.
    down_until_ms: AtomicU64,
}

fn number(body: &str) -> u64 {
    let value: serde_json::Value = serde_json::from_str(body).expect("every message is JSON");
    value["number"].as_u64().expect("every message has a number")
}

async fn take(State(world): State<Arc<World>>, body: Bytes) -> Response {
    let body = String::from_utf8(body.to_vec()).expect("every message is text");
    let request = world.requests.fetch_add(1, Ordering::Relaxed);
    let take = || world.taken.lock().expect("no panic").push(body.clone());
    if number(&body) % 50 == 13 {
        // This message is never taken.
        return (StatusCode::BAD_REQUEST, "unlucky").into_response();
    }
    match request % 23 {
        5 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        9 => {
            let wait = HeaderMap::from_iter([(
                "retry-after".parse().expect("a name"),
                "1".parse().expect("a value"),
            )]);
            (StatusCode::TOO_MANY_REQUESTS, wait).into_response()
        }
        14 => {
            // It hangs: longer than the client waits.
            tokio::time::sleep(Duration::from_secs(3)).await;
            StatusCode::OK.into_response()
        }
        18 => {
            // It dies after writing, before answering.
            world.taken_unanswered.lock().expect("no panic").push(body);
            panic!("the server dies, as the test wants it to");
        }
        _ => {
            take();
            StatusCode::OK.into_response()
        }
    }
}

async fn metrics(address: &str) -> String {
    let client = http_client();
    let response =
        client.get(format!("http://{address}/metrics")).send().await.expect("the admin server answers");
    response.text().await.expect("metrics")
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

const KEYS: u64 = 5;
const MESSAGES: u64 = 200;

fn pipeline(folder: &Folder, url: &str) -> std::path::PathBuf {
    let input: String = (0..MESSAGES)
        .map(|number| {
            format!("{{\"key\":\"k{}\",\"payload\":\"{{\\\"number\\\":{number}}}\"}}\n", number % KEYS)
        })
        .collect();
    folder.write("in.ndjson", &input);
    folder.write(
        "worker.toml",
        &format!(
            r#"
name = "worker"
ordering = "key"
[source]
type = "file"
path = "in.ndjson"
codec = "record"
batch = 20
[[sink]]
name = "out"
type = "http"
url = "{url}"
concurrency = 8
timeout = "1s"
[retry]
strategy = "fixed"
base_delay = "20ms"
max_delay = "1s"
max_attempts = 20
"#
        ),
    )
}

fn dead_letters(pipeline: &std::path::Path) -> Vec<serde_json::Value> {
    let (status, out, errors) = run(&["dlq", "list", pipeline.to_str().expect("UTF-8"), "--json"]);
    assert!(status.success(), "{errors}");
    out.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

#[test]
fn p3_p11_a_sink_that_fails_in_every_way_gets_each_message_in_order_or_it_is_a_dead_letter() {
    let runtime = runtime();
    let world = Arc::new(World::default());
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let server = Router::new().route("/", post(take)).with_state(Arc::clone(&world));
    runtime.spawn(async move { axum::serve(listener, server).await });

    let folder = Folder::new();
    let file = pipeline(&folder, &url);
    let mut running = Running::start(&folder, &file);
    let admin = running.address("admin server listening");
    let expected = MESSAGES - MESSAGES / 50;
    running.wait_for("everything is delivered", |_| {
        world.taken.lock().expect("no panic").len() as u64 >= expected || {
            if let Ok(page) = runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(5), metrics(&admin)).await })
            {
                // It may not have been opened yet.
                if account(&page, "received").is_some() {
                    balanced(&page);
                }
            }
            false
        }
    });
    assert!(running.end().success(), "{}", running.log());

    let letters = dead_letters(&file);
    let unlucky: Vec<u64> =
        letters.iter().map(|letter| number(letter["payload"].as_str().expect("text"))).collect();
    let mut sorted = unlucky.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..MESSAGES).filter(|number| number % 50 == 13).collect::<Vec<_>>());
    for letter in &letters {
        assert_eq!(letter["stage"], "sink:out");
        let reason = letter["reason"].as_str().expect("a reason");
        assert!(reason.contains("400") && reason.contains("unlucky"), "{reason}");
    }
    let taken = world.taken.lock().expect("no panic");
    let mut last: HashMap<u64, u64> = HashMap::new();
    let mut distinct = std::collections::HashSet::new();
    for number in taken.iter().map(|body| number(body)).filter(|&number| distinct.insert(number)) {
        let before = last.insert(number % KEYS, number);
        assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
    }
    assert_eq!(distinct.len() as u64, expected);
    // What it took twice is what it took without an answer: after a hang it took nothing.
    assert_eq!(taken.len(), distinct.len());
    assert!(!world.taken_unanswered.lock().expect("no panic").is_empty(), "it never died");
}

async fn down_for_a_while(State(world): State<Arc<World>>, body: Bytes) -> StatusCode {
    let now = jiff::Timestamp::now().as_millisecond() as u64;
    if now < world.down_until_ms.load(Ordering::Relaxed) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    world.taken.lock().expect("no panic").push(String::from_utf8_lossy(&body).into_owned());
    StatusCode::OK
}

#[test]
fn an_outage_dead_letters_nothing() {
    let seconds = rounds("seconds of outage", 8, 60) as u64;
    let runtime = runtime();
    let world = Arc::new(World::default());
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let until = jiff::Timestamp::now().as_millisecond() as u64 + seconds * 1000;
    world.down_until_ms.store(until, Ordering::Relaxed);
    let server = Router::new().route("/", post(down_for_a_while)).with_state(Arc::clone(&world));
    runtime.spawn(async move { axum::serve(listener, server).await });

    let folder = Folder::new();
    let file = pipeline(&folder, &url);
    let mut running = Running::start(&folder, &file);
    let admin = running.address("admin server listening");
    let client = http_client();
    let mut was_unready = false;
    let begun = Instant::now();
    running.wait_for("everything is delivered", |_| {
        if begun.elapsed() < Duration::from_secs(seconds) {
            let ready = runtime.block_on(client.get(format!("http://{admin}/readyz")).send());
            was_unready |= ready.is_ok_and(|ready| ready.status() == 503);
        }
        world.taken.lock().expect("no panic").len() as u64 >= MESSAGES
    });
    assert!(running.end().success(), "{}", running.log());
    assert!(was_unready, "an outage shows in /readyz");
    assert!(dead_letters(&file).is_empty());
    let taken = world.taken.lock().expect("no panic");
    assert_eq!(taken.len() as u64, MESSAGES, "an outage repeats nothing");
}
