//! The source `sqs`.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use axum::http::StatusCode;
use base64::Engine;
use serde_json::{Value, json};

use super::queues::Queue;
use super::sinks::unique;
use super::sqs_members::{Member, Taker};
use crate::services::aws::{StandIn, python};
use crate::support::{Folder, ask, look, metric, run};

const FILE: &str = "type = \"file\"\npath = \"out.ndjson\"\ncodec = \"record\"";

fn records(folder: &Folder) -> Vec<Value> {
    folder.lines("out.ndjson").iter().map(|line| serde_json::from_str(line).expect("a record")).collect()
}

fn dead_letters(folder: &Folder) -> Vec<Value> {
    let file = folder.path("worker.toml");
    let (status, out, errors) = run(&["dlq", "list", file.to_str().expect("UTF-8"), "--json"]);
    assert!(status.success(), "{errors}");
    out.lines().map(|line| serde_json::from_str(line).expect("one JSON object a line")).collect()
}

#[test]
fn what_boto3_sends_arrives_with_attributes_and_bytes_as_sent() {
    for stand_in in [StandIn::fauxqs(), StandIn::moto()] {
        let queue = Queue::standard(stand_in);
        let folder = Folder::new();
        // fauxqs takes no characters beyond U+FFFF, which SQS does.
        let is_moto = std::ptr::eq(stand_in, StandIn::moto());
        let small_body =
            if is_moto { "{\"größe\": \"\u{2192}\t\u{1F600}\"}" } else { "{\"größe\": \"\u{2192}\t\"}" };
        let large = "ä".repeat(512 << 10);
        python(
            stand_in,
            "queue = sys.argv[1]\n\
             sqs = client('sqs')\n\
             sqs.send_message(QueueUrl=queue, MessageBody=sys.argv[2], MessageAttributes={\n\
             \x20   'tenant': {'DataType': 'String', 'StringValue': 'Zoë'},\n\
             \x20   'count': {'DataType': 'Number', 'StringValue': '-12.50'},\n\
             \x20   'cents': {'DataType': 'Number.cents', 'StringValue': '7'},\n\
             \x20   'raw': {'DataType': 'Binary', 'BinaryValue': bytes([0, 255, 10])}})\n\
             sqs.send_message(QueueUrl=queue, MessageBody='ä' * (512 << 10))\n",
            &[&queue.url, small_body],
        );
        let pipeline = queue.pipeline(&folder, "max_message_bytes = \"2MiB\"", FILE, "");
        let mut member = Member::start(&folder, &pipeline);
        member.wait_for("both arrive", || folder.lines("out.ndjson").len() == 2);
        member.wait_for("they are deleted", || queue.is_empty());
        member.stop();
        let records = records(&folder);
        let payload = |record: &Value| record["payload"].as_str().expect("text").to_owned();
        let (small, big): (Vec<&Value>, Vec<&Value>) =
            records.iter().partition(|record| payload(record).len() < 1000);
        assert_eq!(payload(big[0]), large, "{:?}: a body of 1 MiB", stand_in.url());
        let [small] = small[..] else { panic!("{records:?}") };
        assert_eq!(payload(small), small_body);
        let headers = small["headers"].as_object().expect("names that do not repeat").clone();
        let expected = [
            ("tenant", json!("Zoë")),
            ("count", json!("-12.50")),
            ("millstream-sqs-type-count", json!("Number")),
            ("cents", json!("7")),
            ("millstream-sqs-type-cents", json!("Number.cents")),
            ("raw", json!({ "base64": base64::engine::general_purpose::STANDARD.encode([0, 255, 10]) })),
            ("millstream-sqs-type-raw", json!("Binary")),
            ("sqs-receive-count", json!("1")),
        ];
        for (name, value) in expected {
            assert_eq!(headers[name], value, "{name} of {headers:?}");
        }
        assert_eq!(headers["sqs-message-id"].as_str().map(str::len), Some(36), "{headers:?}");
        let sent_at: i64 =
            headers["sqs-sent-at"].as_str().and_then(|text| text.parse().ok()).expect("a time");
        let age = jiff::Timestamp::now().as_millisecond() - sent_at;
        assert!((0..120_000).contains(&age), "{age}");
        let timestamp: jiff::Timestamp =
            small["timestamp"].as_str().and_then(|text| text.parse().ok()).expect("a time");
        assert_eq!(timestamp.as_millisecond(), sent_at);
    }
}

#[test]
fn p3_of_a_group_the_next_comes_after_the_one_before_is_settled() {
    for (stand_in, groups, each) in [(StandIn::fauxqs(), 5, 20), (StandIn::moto(), 2, 4)] {
        let queue = Queue::fifo(stand_in);
        let folder = Folder::new();
        // The second of each group fails at first.
        let taker = Taker::new(|came, before| {
            let tries = before.iter().filter(|other| other.payload() == came.payload()).count();
            let fails = came.payload().ends_with("-1") && tries < 3;
            let status = if fails { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
            (status, Duration::from_millis(2))
        });
        let names: Vec<String> = (0..groups).map(|group| format!("g{group}")).collect();
        queue.send(
            (0..each).flat_map(|number| {
                names.iter().map(move |group| (group.as_str(), format!("{group}-{number}")))
            }),
        );
        let pipeline = queue.pipeline(&folder, "", &taker.sink("out"), "");
        let mut member = Member::start(&folder, &pipeline);
        let all = groups * each + 3 * groups;
        member.wait_for("all arrive", || taker.count() >= all);
        member.wait_for("all are deleted", || queue.is_empty());
        assert_eq!(member.account("delivered"), (groups * each) as u64);
        member.stop();
        let came = taker.came();
        assert_eq!(came.len(), all);
        for group in &names {
            let of_group: Vec<&str> =
                came.iter().map(|came| came.payload()).filter(|payload| payload.starts_with(group)).collect();
            let mut expected: Vec<String> = (0..each).map(|number| format!("{group}-{number}")).collect();
            expected.splice(1..1, vec![format!("{group}-1"); 3]);
            assert_eq!(of_group, expected);
        }
        let keys: HashSet<&str> = came.iter().filter_map(|came| came.record["key"].as_str()).collect();
        assert_eq!(keys.len(), groups, "the key is the group: {keys:?}");
        let first = &came[0];
        for header in ["sqs-group-id", "sqs-deduplication-id", "sqs-sequence-number"] {
            assert!(!first.header(header).is_empty(), "{header}: {first:?}");
        }
    }
}

#[test]
fn a_message_stays_hidden_for_as_long_as_it_is_in_flight() {
    for (stand_in, fifo) in [(StandIn::fauxqs(), false), (StandIn::fauxqs(), true), (StandIn::moto(), false)]
    {
        let queue = if fifo { Queue::fifo(stand_in) } else { Queue::standard(stand_in) };
        let folder = Folder::new();
        let taker = Taker::new(|_, _| (StatusCode::OK, Duration::from_secs(6)));
        queue.send([("g", "slow".to_owned())]);
        let pipeline = queue.pipeline(&folder, "visibility_timeout = \"2s\"", &taker.sink("out"), "");
        let mut member = Member::start(&folder, &pipeline);
        member.wait_for("it is deleted", || {
            if taker.count() == 0 {
                return false;
            }
            assert!(queue.receive().is_empty(), "it can be received while it is in flight");
            queue.is_empty()
        });
        assert_eq!(taker.count(), 1, "it was processed twice");
        assert_eq!(taker.came()[0].header("sqs-receive-count"), "1");
        let log = member.stop();
        assert!(!log.contains("not hidden any more"), "{log}");
    }
}

#[test]
fn p8_a_stop_gives_back_at_once_what_is_not_settled() {
    for fifo in [false, true] {
        let queue = if fifo { Queue::fifo(StandIn::fauxqs()) } else { Queue::standard(StandIn::fauxqs()) };
        let folder = Folder::new();
        let never = Taker::new(|_, _| (StatusCode::OK, Duration::from_secs(600)));
        queue.send((0..30).map(|number| (["a", "b", "c"][number % 3], number.to_string())));
        let pipeline = queue.pipeline(&folder, "visibility_timeout = \"10m\"", &never.sink("out"), "");
        let mut member = Member::start(&folder, &pipeline);
        member.wait_for("one is with the sink", || never.count() >= 1);
        let admin = member.admin.clone();
        member.wait_for("more are in flight", || {
            let page = look(&admin).expect("it answers");
            metric(&page, "millstream_messages", &["account=\"in_flight\""]).is_some_and(|count| count >= 3)
        });
        let log = member.stop();
        assert_eq!(queue.counts(), (30, 0), "{log}");
        // And in order: the second process reads each group from its start.
        let taker = Taker::of_all();
        let pipeline = queue.pipeline(&folder, "", &taker.sink("out"), "");
        let mut member = Member::start(&folder, &pipeline);
        member.wait_for("all are deleted", || queue.is_empty());
        member.stop();
        let mut last: HashMap<String, u64> = HashMap::new();
        for came in taker.came().iter().filter(|_| fifo) {
            let number = came.payload().parse().expect("a number");
            let before = last.insert(came.header("sqs-group-id").to_owned(), number);
            assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
        }
        assert_eq!(taker.count(), 30);
    }
}

#[test]
fn a_message_that_fails_in_max_failures_deliveries_becomes_a_dead_letter() {
    let queue = Queue::fifo(StandIn::fauxqs());
    let folder = Folder::new();
    let taker = Taker::new(|came, _| match came.payload() {
        "bad" => (StatusCode::INTERNAL_SERVER_ERROR, Duration::ZERO),
        _ => (StatusCode::OK, Duration::ZERO),
    });
    queue.send([("g", "bad".to_owned()), ("g", "good".to_owned())]);
    let pipeline = queue.pipeline(&folder, "max_failures = 2", &taker.sink("out"), "");
    for delivery in 1..=2 {
        let before = taker.count();
        let mut member = Member::start(&folder, &pipeline);
        member.wait_for("it fails", || taker.count() >= before + 2);
        let log = member.stop();
        assert_eq!(queue.counts(), (2, 0), "after delivery {delivery}: {log}");
    }
    let before = taker.count();
    let mut member = Member::start(&folder, &pipeline);
    member.wait_for("all is settled", || queue.is_empty());
    assert_eq!(member.account("dead_lettered"), 1);
    assert_eq!(member.account("delivered"), 1);
    member.stop();
    assert_eq!(taker.count(), before + 1, "what is behind it goes on, and it is not tried again");
    let letters = dead_letters(&folder);
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!(letter["code"], "max-failures", "{letter}");
    assert_eq!(letter["reason"], "it failed in 2 deliveries, and `max_failures` is 2", "{letter}");
}

#[test]
fn restarts_are_no_failures_of_a_message() {
    let queue = Queue::standard(StandIn::fauxqs());
    let folder = Folder::new();
    let never = Taker::new(|_, _| (StatusCode::OK, Duration::from_secs(600)));
    queue.send([("", "slow".to_owned())]);
    let pipeline = queue.pipeline(&folder, "max_failures = 1", &never.sink("out"), "");
    for delivery in 1..=2 {
        let mut member = Member::start(&folder, &pipeline);
        member.wait_for("it is in flight", || never.count() >= delivery);
        member.stop();
    }
    let taker = Taker::of_all();
    let pipeline = queue.pipeline(&folder, "max_failures = 1", &taker.sink("out"), "");
    let mut member = Member::start(&folder, &pipeline);
    member.wait_for("it is delivered", || queue.is_empty());
    member.stop();
    assert_eq!(taker.count(), 1);
    let received: u64 = taker.came()[0].header("sqs-receive-count").parse().expect("a number");
    assert!(received >= 3, "{received}");
}

#[test]
fn what_a_sink_refuses_is_a_dead_letter_and_deleted() {
    let queue = Queue::standard(StandIn::fauxqs());
    let folder = Folder::new();
    let taker = Taker::new(|came, _| match came.payload() {
        "bad" => (StatusCode::UNPROCESSABLE_ENTITY, Duration::ZERO),
        _ => (StatusCode::OK, Duration::ZERO),
    });
    queue.send([("", "bad".to_owned()), ("", "good".to_owned())]);
    let mut member = Member::start(&folder, &queue.pipeline(&folder, "", &taker.sink("out"), ""));
    member.wait_for("all is settled", || queue.is_empty());
    member.stop();
    let letters = dead_letters(&folder);
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    let came = taker.came();
    let bad = came.iter().find(|came| came.payload() == "bad").expect("it came");
    let place = format!("sqs:{} message {}", queue.name, bad.header("sqs-message-id"));
    assert_eq!(letter["code"], "http-status", "{letter}");
    assert!(letter.to_string().contains(&place), "{place} in {letter}");
}

#[test]
fn a_queue_that_is_not_there_is_waited_for() {
    let queue = Queue::standard(StandIn::fauxqs());
    queue.delete();
    let folder = Folder::new();
    let mut member = Member::start(&folder, &queue.pipeline(&folder, "", FILE, ""));
    let mut said = String::new();
    let admin = member.admin.clone();
    member.wait_for("it says so", || {
        said = ask(&admin, "/readyz").filter(|(status, _)| *status == 503).unwrap_or_default().1;
        said.contains("QueueDoesNotExist") || said.contains("NonExistentQueue")
    });
    let program = "client('sqs').create_queue(QueueName=sys.argv[1])\n\
                   client('sqs').send_message(QueueUrl=sys.argv[2], MessageBody='late')";
    python(queue.stand_in, program, &[&queue.name, &queue.url]);
    member.wait_for("it is read once it is there", || folder.lines("out.ndjson").len() == 1);
    member.wait_for("it is ready", || ask(&admin, "/readyz").is_some_and(|(status, _)| status == 200));
    member.stop();
}

#[test]
fn depth_and_age_are_metrics_and_a_tighter_redrive_policy_is_a_warning() {
    use aws_sdk_sqs::types::QueueAttributeName;
    let stand_in = StandIn::fauxqs();
    let dead = Queue::standard(stand_in);
    let policy = format!(
        r#"{{"deadLetterTargetArn":"arn:aws:sqs:eu-central-1:000000000000:{}","maxReceiveCount":2}}"#,
        dead.name
    );
    let queue = Queue::with(stand_in, &unique("queue"), &[(QueueAttributeName::RedrivePolicy, &policy)]);
    let folder = Folder::new();
    let never = Taker::new(|_, _| (StatusCode::OK, Duration::from_secs(600)));
    queue.send((0..5).map(|number| ("", number.to_string())));
    std::thread::sleep(Duration::from_secs(2));
    let pipeline = queue.pipeline(&folder, "max_in_flight = 2", &never.sink("out"), "");
    let mut member = Member::start(&folder, &pipeline);
    member.wait_for_log(&format!("the queue's redrive policy moves a message to {}", dead.name));
    let admin = member.admin.clone();
    let of = |state: &str| {
        let page = ask(&admin, "/metrics").unwrap_or_default().1;
        let labels = [format!("queue=\"{}\"", queue.name), format!("state=\"{state}\"")];
        metric(&page, "millstream_sqs_messages", &[&labels[0], &labels[1]])
    };
    member.wait_for("the depth is known", || {
        of("visible").zip(of("in_flight")).is_some_and(|(visible, hidden)| visible + hidden == 5)
    });
    member.wait_for("the age of the oldest is known", || {
        let page = ask(&admin, "/metrics").unwrap_or_default().1;
        let age = metric(&page, "millstream_sqs_age_seconds", &[&format!("queue=\"{}\"", queue.name)]);
        age.is_some_and(|age| (2..100).contains(&age))
    });
    member.wait_for("two are in flight", || never.count() == 2);
    assert!(member.account("in_flight") <= 2);
    member.stop();
}
