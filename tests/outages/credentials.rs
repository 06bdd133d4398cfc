//! A server that refuses our credentials for a while: no message's fault, and asking more often would
//! only lock us out.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;

use super::{assert_in_order, dead_letters, number, pipeline, runtime, serve};
use crate::support::{Folder, Running, ask, look};

const KEYS: u64 = 5;
const MESSAGES: u64 = 100;
const MAX_DELAY: Duration = Duration::from_millis(500);

#[derive(Default)]
struct World {
    taken: Vec<u64>,
    /// When it refused.
    refused: Vec<Instant>,
}

/// It refuses from the start, and once more in the middle of things.
async fn take(State(world): State<Arc<Mutex<World>>>, body: Bytes) -> StatusCode {
    let mut world = world.lock().expect("no panic");
    let wanted = if world.taken.len() < 30 { 3 } else { 6 };
    if world.refused.len() < wanted {
        world.refused.push(Instant::now());
        return StatusCode::UNAUTHORIZED;
    }
    world.taken.push(number(&String::from_utf8_lossy(&body)));
    StatusCode::OK
}

#[test]
fn refused_credentials_are_tried_again_at_max_delay_and_dead_letter_nothing() {
    let runtime = runtime();
    let world = Arc::new(Mutex::new(World::default()));
    let url = serve(&runtime, post(take), Arc::clone(&world));
    let folder = Folder::new();
    // One request at a time, so that each refusal is a try of its own.
    let sink = format!("url = \"{url}\"\nconcurrency = 1");
    let retry =
        format!("base_delay = \"1ms\"\nmax_delay = \"{}ms\"\nmax_attempts = 2", MAX_DELAY.as_millis());
    let file = pipeline(&folder, MESSAGES, KEYS, &sink, &retry);
    let mut running = Running::start(&folder, &file);
    let admin = running.address("admin server listening");
    let mut reasons = String::new();
    running.wait_for("everything is delivered", |_| {
        look(&admin);
        if let Some((503, text)) = ask(&admin, "/readyz") {
            reasons = text;
        }
        world.lock().expect("no panic").taken.len() as u64 >= MESSAGES
    });
    assert!(running.end().success(), "{}", running.log());
    assert!(reasons.contains("401"), "it shows in /readyz: {reasons}");
    assert!(dead_letters(&file).is_empty());
    let world = world.lock().expect("no panic");
    assert_eq!(world.refused.len(), 6);
    for (number, two) in world.refused.windows(2).enumerate() {
        let waited = two[1] - two[0];
        assert!(waited >= MAX_DELAY, "tried again {waited:?} after refusal {number}\n{}", running.log());
    }
    assert_eq!(assert_in_order(world.taken.iter().copied(), KEYS), MESSAGES);
    assert_eq!(world.taken.len() as u64, MESSAGES, "a refusal repeats nothing");
}
