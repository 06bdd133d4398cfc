//! A server that takes half of the messages of a request, and says of each what became of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post;
use serde_json::{Value, json};

use super::{assert_in_order, dead_letters, number, pipeline, runtime, serve};
use crate::support::{Folder, Running, look};

const KEYS: u64 = 40;
const MESSAGES: u64 = 400;
const ATTEMPTS: u64 = 6;

#[derive(Default)]
struct World {
    /// Numbers that it took and said so, in order.
    taken: Vec<u64>,
    /// How often each message was not taken.
    failed: HashMap<u64, u64>,
    /// Requests by how it answered them.
    answers: BTreeMap<&'static str, usize>,
    requests: usize,
    /// What it should never have been sent.
    wrong: Vec<String>,
}

/// It never takes this one, and says why.
fn is_refused(number: u64) -> bool {
    number % 50 == 13
}

/// It never says a word of this one.
fn is_passed_over(number: u64) -> bool {
    number % 50 == 37
}

async fn take(State(world): State<Arc<Mutex<World>>>, body: String) -> String {
    let mut world = world.lock().expect("no panic");
    let numbers: Vec<u64> = body.lines().map(number).collect();
    let keys: HashSet<u64> = numbers.iter().map(|number| number % KEYS).collect();
    if keys.len() < numbers.len() {
        world.wrong.push(format!("two of a key: {numbers:?}"));
    }
    for number in &numbers {
        if world.taken.contains(number) {
            world.wrong.push(format!("{number} is durable and came again"));
        }
    }
    let way = ["unmentioned", "status 500", "status 503", "returned", "all"][world.requests % 5];
    world.requests += 1;
    *world.answers.entry(way).or_default() += usize::from(numbers.len() > 1);
    let half = numbers.len().div_ceil(2);
    let mut results = Vec::new();
    for (index, &number) in numbers.iter().enumerate() {
        let mut say = |mut result: Value| {
            result["line"] = json!(index + 1);
            results.push(result);
        };
        // No message has more bad luck than it has attempts.
        let failed = world.failed.get(&number).copied().unwrap_or(0);
        if is_refused(number) {
            say(json!({ "status": 422, "reason": "unlucky" }));
        } else if is_passed_over(number) {
            *world.failed.entry(number).or_default() += 1;
        } else if index < half || way == "all" || failed + 1 >= ATTEMPTS {
            world.taken.push(number);
            say(if number % 2 == 0 { json!({ "status": 200 }) } else { json!({ "outcome": "delivered" }) });
        } else {
            *world.failed.entry(number).or_default() += 1;
            match way {
                "status 500" => say(json!({ "status": 500, "reason": "not now" })),
                "status 503" => say(json!({ "status": 503 })),
                "returned" => say(json!({ "outcome": "returned" })),
                _ => {}
            }
        }
    }
    json!({ "results": results }).to_string()
}

#[test]
fn p3_p11_the_half_that_was_not_taken_is_tried_again_and_the_other_is_not() {
    let runtime = runtime();
    let world = Arc::new(Mutex::new(World::default()));
    let url = serve(&runtime, post(take), Arc::clone(&world));
    let folder = Folder::new();
    let sink = format!(
        "url = \"{url}\"\nmode = \"ndjson\"\ncodec = \"json\"\nread_results = true\nconcurrency = 2\nlinger = \"20ms\""
    );
    let retry = format!("base_delay = \"5ms\"\nmax_delay = \"20ms\"\nmax_attempts = {ATTEMPTS}");
    let file = pipeline(&folder, MESSAGES, KEYS, &sink, &retry);
    let mut running = Running::start(&folder, &file);
    let admin = running.address("admin server listening");
    let taken_at_last =
        (0..MESSAGES).filter(|&number| !is_refused(number) && !is_passed_over(number)).count();
    let mut looks = 0;
    running.wait_for("everything is taken or has no attempts left", |_| {
        looks += usize::from(look(&admin).is_some());
        let world = world.lock().expect("no panic");
        let is_given_up = |number| world.failed.get(&number).is_some_and(|&failed| failed >= ATTEMPTS);
        world.taken.len() >= taken_at_last
            && (0..MESSAGES).filter(|&number| is_passed_over(number)).all(is_given_up)
    });
    assert!(running.end().success(), "{}", running.log());
    assert!(looks > 0, "nobody looked at the books");

    let world = world.lock().expect("no panic");
    assert!(world.wrong.is_empty(), "{:?}", world.wrong);
    assert!(
        world.answers.len() == 5 && world.answers.values().all(|&count| count > 0),
        "{:?}",
        world.answers
    );
    assert_eq!(assert_in_order(world.taken.iter().copied(), KEYS), taken_at_last as u64);
    assert_eq!(world.taken.len(), taken_at_last);

    let letters: BTreeMap<u64, Value> = dead_letters(&file)
        .into_iter()
        .map(|letter| (number(letter["payload"].as_str().expect("text")), letter))
        .collect();
    let expected: Vec<u64> =
        (0..MESSAGES).filter(|&number| is_refused(number) || is_passed_over(number)).collect();
    assert_eq!(letters.keys().copied().collect::<Vec<_>>(), expected);
    for (&number, letter) in &letters {
        let (code, attempts, words) = match is_refused(number) {
            true => ("http-status", 1, "422 Unprocessable Entity: unlucky"),
            false => ("retries-exhausted", ATTEMPTS, "none of them for this message"),
        };
        assert_eq!((&letter["code"], &letter["attempts"]), (&json!(code), &json!(attempts)), "{letter}");
        assert!(letter["reason"].as_str().is_some_and(|reason| reason.contains(words)), "{letter}");
        assert_eq!(letter["stage"], "sink:out", "{letter}");
        assert_eq!(letter["key"], format!("k{}", number % KEYS), "{letter}");
    }
}
