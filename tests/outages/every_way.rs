//! A server that fails in every way a server of single messages can.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;

use super::{assert_in_order, dead_letters, number, pipeline, runtime, serve};
use crate::support::{Folder, Running, look};

const KEYS: u64 = 5;
const MESSAGES: u64 = 200;

#[derive(Default)]
struct World {
    /// Payloads it said 200 to, in order.
    taken: Mutex<Vec<String>>,
    /// Payloads it took and then died on, before it answered.
    taken_unanswered: Mutex<Vec<String>>,
    requests: AtomicUsize,
}

async fn take(State(world): State<Arc<World>>, body: Bytes) -> Response {
    let body = String::from_utf8(body.to_vec()).expect("every message is text");
    let request = world.requests.fetch_add(1, Ordering::Relaxed);
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
            world.taken.lock().expect("no panic").push(body);
            StatusCode::OK.into_response()
        }
    }
}

#[test]
fn p3_p11_a_sink_that_fails_in_every_way_gets_each_message_in_order_or_it_is_a_dead_letter() {
    let runtime = runtime();
    let world = Arc::new(World::default());
    let url = serve(&runtime, post(take), Arc::clone(&world));
    let folder = Folder::new();
    let sink = format!("url = \"{url}\"\nconcurrency = 8\ntimeout = \"1s\"");
    let retry = "base_delay = \"20ms\"\nmax_delay = \"1s\"\nmax_attempts = 20";
    let file = pipeline(&folder, MESSAGES, KEYS, &sink, retry);
    let mut running = Running::start(&folder, &file);
    let admin = running.address("admin server listening");
    let expected = MESSAGES - MESSAGES / 50;
    let mut looks = 0;
    running.wait_for("everything is delivered", |_| {
        looks += usize::from(look(&admin).is_some());
        world.taken.lock().expect("no panic").len() as u64 >= expected
    });
    assert!(running.end().success(), "{}", running.log());
    assert!(looks > 0, "nobody looked at the books");

    let letters = dead_letters(&file);
    let mut unlucky: Vec<u64> =
        letters.iter().map(|letter| number(letter["payload"].as_str().expect("text"))).collect();
    unlucky.sort_unstable();
    assert_eq!(unlucky, (0..MESSAGES).filter(|number| number % 50 == 13).collect::<Vec<_>>());
    for letter in &letters {
        assert_eq!(letter["stage"], "sink:out");
        let reason = letter["reason"].as_str().expect("a reason");
        assert!(reason.contains("400") && reason.contains("unlucky"), "{reason}");
    }
    let taken = world.taken.lock().expect("no panic");
    let distinct = assert_in_order(taken.iter().map(|body| number(body)), KEYS);
    assert_eq!(distinct, expected);
    // What it took twice is what it took without an answer: after a hang it took nothing.
    assert_eq!(taken.len() as u64, distinct);
    assert!(!world.taken_unanswered.lock().expect("no panic").is_empty(), "it never died");
}
