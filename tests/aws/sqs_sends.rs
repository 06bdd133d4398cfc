//! The sink `sqs` where requests fail in part, or are refused for one of their messages.

use std::collections::HashSet;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::sinks::{assert_all_in_order, dead_letters, number, numbered, pipeline, run_to_end};
use super::sqs_fake::Fake;
use crate::services::aws::SECRET_KEY;
use crate::support::Folder;

/// The numbers of the messages in each request that sends.
fn sent(fake: &Fake) -> Vec<Vec<u64>> {
    let numbers = |body: &Value| body["Entries"].as_array().into_iter().flatten().map(number_of).collect();
    fake.asked("SendMessageBatch").iter().map(numbers).collect()
}

fn number_of(entry: &Value) -> u64 {
    number(entry["MessageBody"].as_str().expect("a body"))
}

/// The answer to a request that sends, in which some entries have failed.
fn sent_but(body: &Value, mut fails: impl FnMut(u64) -> bool) -> Value {
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for entry in body["Entries"].as_array().expect("entries") {
        let id = &entry["Id"];
        match fails(number_of(entry)) {
            true => failed.push(json!({ "Id": id, "Code": "InternalError", "SenderFault": false })),
            false => done.push(json!({ "Id": id, "MessageId": "m", "MD5OfMessageBody": "" })),
        }
    }
    json!({ "Successful": done, "Failed": failed })
}

#[test]
fn p3_of_a_send_that_fails_in_part_what_failed_alone_is_sent_again() {
    const MESSAGES: u64 = 40;
    for (queue, keys) in [("q", MESSAGES), ("q.fifo", 5)] {
        let mut failed = HashSet::new();
        let fake = Fake::new(move |what, body| {
            // Each third one fails the first time.
            let fails = |number: u64| number.is_multiple_of(3) && failed.insert(number);
            (what == "SendMessageBatch").then(|| (StatusCode::OK, sent_but(body, fails)))
        });
        let folder = Folder::new();
        run_to_end(&folder, &pipeline(&folder, &numbered(MESSAGES, keys), &fake.sink(queue)));
        let requests = sent(&fake);
        let sent: Vec<u64> = requests.iter().flatten().copied().collect();
        for number in 0..MESSAGES {
            let times = sent.iter().filter(|&&known| known == number).count();
            assert_eq!(times, if number.is_multiple_of(3) { 2 } else { 1 }, "{number} of {requests:?}");
        }
        for request in &requests {
            let groups: HashSet<u64> = request.iter().map(|number| number % keys).collect();
            assert_eq!(groups.len(), request.len(), "two of a group in {request:?}");
        }
        let mut failed = HashSet::new();
        let taken = sent.into_iter().filter(|&number| !number.is_multiple_of(3) || !failed.insert(number));
        assert_all_in_order(taken, keys, MESSAGES);
    }
}

#[test]
fn p4_of_a_send_that_is_refused_the_one_that_is_to_blame_is_a_dead_letter() {
    const MESSAGES: u64 = 40;
    let told = format!("the secret was {SECRET_KEY}");
    let fake = Fake::new(move |what, body| {
        let entries = body["Entries"].as_array().filter(|_| what == "SendMessageBatch")?;
        Some(match entries.iter().any(|entry| number_of(entry) == 13) {
            true => (StatusCode::BAD_REQUEST, json!({ "__type": "InvalidMessageContents", "message": told })),
            false => (StatusCode::OK, sent_but(body, |_| false)),
        })
    });
    // Of these a request holds three.
    let padding = "x".repeat(300_000);
    let record = |number| {
        let payload = json!({ "number": number, "padding": padding }).to_string();
        json!({ "key": format!("k{number}"), "payload": payload }).to_string() + "\n"
    };
    let folder = Folder::new();
    let file = pipeline(&folder, &(0..MESSAGES).map(record).collect::<String>(), &fake.sink("q"));
    run_to_end(&folder, &file);
    let requests = sent(&fake);
    let most = requests.iter().map(Vec::len).max();
    assert_eq!(most, Some(3), "bytes of a request: {requests:?}");
    let (refused, taken): (Vec<&Vec<u64>>, Vec<&Vec<u64>>) =
        requests.iter().partition(|request| request.contains(&13));
    assert_eq!(refused.last().map(|request| request.len()), Some(1), "{refused:?}");
    let mut taken: Vec<u64> = taken.into_iter().flatten().copied().collect();
    taken.sort_unstable();
    assert_eq!(taken, (0..MESSAGES).filter(|&number| number != 13).collect::<Vec<_>>());
    let letters = dead_letters(&file);
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!((&letter["code"], &letter["key"]), (&json!("refused"), &json!("k13")));
    let reason = letter["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("InvalidMessageContents: the secret was "), "{reason}");
    assert!(!reason.contains(SECRET_KEY), "{reason}");
}
