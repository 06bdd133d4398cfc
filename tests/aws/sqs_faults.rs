//! What SQS does seldom, done by a server of the test's own: batches that fail in part, duplicates, answers
//! that are lost, credentials that are refused.

use std::time::Duration;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::sqs_fake::{Fake, handles};
use super::sqs_members::{Member, Taker};
use crate::services::aws::SECRET_KEY;
use crate::support::{Folder, ask};

#[test]
fn of_a_delete_that_fails_whole_or_in_part_what_failed_is_deleted_again() {
    let (mut is_first, mut tries) = (true, 0);
    let fake = Fake::new(move |what, body| {
        if what != "DeleteMessageBatch" {
            return None;
        }
        if std::mem::take(&mut is_first) {
            return Some((StatusCode::INTERNAL_SERVER_ERROR, json!({ "__type": "InternalFailure" })));
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
    // In requests behind the one that failed whole.
    let count = |handle: &str| {
        let later = fake.asked("DeleteMessageBatch").into_iter().skip(1);
        later.flat_map(|body| handles(&body)).filter(|known| known == handle).count()
    };
    member.wait_for("all are deleted", || count("h2") == 3 && count("h1") > 0 && count("h3") > 0);
    member.wait_for("it is ready", || ask(&admin, "/readyz").is_some_and(|(status, _)| status == 200));
    member.stop();
    assert_eq!((count("h1"), count("h3")), (1, 1), "what is gone is not deleted again");
    assert_eq!(taker.count(), 3);
}

#[test]
fn a_message_is_kept_hidden_until_it_is_settled_and_no_longer() {
    let fake = Fake::new(|_, _| None);
    let folder = Folder::new();
    // In flight for longer than a receive hides it, but for the first one.
    let taker =
        Taker::new(|_, before| (StatusCode::OK, Duration::from_secs(if before.is_empty() { 0 } else { 5 })));
    let pipeline = fake.pipeline_with(&folder, "q", &taker, "visibility_timeout = \"2s\"");
    let mut member = Member::start(&folder, &pipeline);
    let heartbeats = |handle: &str| {
        let asked = fake.handles("ChangeMessageVisibilityBatch");
        asked.iter().filter(|known| *known == handle).count()
    };
    fake.receive(&[("m1", "h1", 1, "")]);
    member.wait_for("the first is deleted", || fake.handles("DeleteMessageBatch") == ["h1"]);
    let before = heartbeats("h1");
    fake.receive(&[("m2", "h2", 1, "")]);
    member.wait_for("the second is kept hidden", || heartbeats("h2") >= 3);
    assert_eq!(fake.handles("DeleteMessageBatch"), ["h1"], "the second is still in flight");
    assert_eq!(heartbeats("h1"), before, "the first is gone");
    member.wait_for("the second is deleted", || fake.handles("DeleteMessageBatch") == ["h1", "h2"]);
    member.stop();
    assert_eq!(taker.count(), 2);
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
    // At a stop the first may take longer than the others were hidden for.
    let pipeline = fake.pipeline_with(&folder, "q.fifo", &never, "visibility_timeout = \"3s\"");
    let mut member = Member::start(&folder, &pipeline);
    member.wait_for("the first is in flight", || never.count() == 1);
    let log = member.stop();
    let changes: Vec<(String, bool)> = fake
        .asked("ChangeMessageVisibilityBatch")
        .iter()
        .flat_map(|body| body["Entries"].as_array().cloned().unwrap_or_default())
        .map(|entry| {
            let handle = entry["ReceiptHandle"].as_str().expect("a handle").to_owned();
            (handle, entry["VisibilityTimeout"] == 0)
        })
        .collect();
    let given_back: Vec<&str> =
        changes.iter().filter(|(_, is_back)| *is_back).map(|(handle, _)| handle.as_str()).collect();
    assert_eq!(given_back, ["h5", "h4", "h3", "h2", "h1"], "{log}");
    for handle in given_back {
        let last = changes.iter().rfind(|(known, _)| known == handle);
        assert_eq!(last, Some(&(handle.to_owned(), true)), "hidden again: {changes:?}");
    }
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
