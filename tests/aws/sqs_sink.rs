//! Sink `sqs`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::queues::Queue;
use super::sinks::{
    KEYS, assert_all, assert_all_in_order, assert_dead_letters, dead_letters, numbered, pipeline, run_to_end,
    start, through_every_fault, unique,
};
use crate::services::aws::{StandIn, python};
use crate::support::{Folder, ask, look, run};

/// All messages of a queue as boto3 has them, one JSON object a line.
const RECEIVE: &str = r#"
import time
sqs = client("sqs")
url = sqs.get_queue_url(QueueName=sys.argv[1])["QueueUrl"]
left, until = int(sys.argv[2]), time.monotonic() + 60
while left > 0 and time.monotonic() < until:
    answer = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=5,
                                 AttributeNames=["All"], MessageAttributeNames=["All"])
    for message in answer.get("Messages", []):
        sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        print(json.dumps(message, default=lambda value: base64.b64encode(value).decode()))
        left -= 1
"#;

fn received_by_boto3(stand_in: &StandIn, queue: &str, messages: usize) -> Vec<Value> {
    let printed = python(stand_in, RECEIVE, &[queue, &messages.to_string()]);
    let received: Vec<Value> =
        printed.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(received.len(), messages, "{received:?}");
    received
}

#[test]
fn boto3_reads_what_we_send() {
    for stand_in in [StandIn::fauxqs(), StandIn::moto()] {
        let queue = Queue::fifo(stand_in);
        let records = [
            json!({
                "key": "a key", "payload": "<é>\n\"\u{2603}\"",
                "headers": { "type": "created", "price": "12.50", "bytes": { "base64": "/wA=" }, "sqs-x": "no" },
            }),
            json!({ "key": "k", "payload": "{\"id\":7}", "headers": { "id": "seven" } }),
            json!({ "payload": "keyless" }),
        ];
        let records: String = records.iter().map(|record| format!("{record}\n")).collect();
        let folder = Folder::new();
        let sink = format!(
            "type = \"sqs\"\nqueue = {:?}\n{}\ndeduplication = {{ header = \"id\" }}\n\
             attribute_types = {{ price = \"Number.money\" }}",
            queue.name,
            stand_in.toml()
        );
        let file = pipeline(&folder, &records, &sink);
        run_to_end(&folder, &file);
        assert!(dead_letters(&file).is_empty(), "{:?}", dead_letters(&file));
        let messages = received_by_boto3(stand_in, &queue.name, 3);
        let by_body: BTreeMap<&str, &Value> =
            messages.iter().map(|message| (message["Body"].as_str().expect("a body"), message)).collect();

        let first = by_body["<é>\n\"\u{2603}\""];
        let attributes = &first["MessageAttributes"];
        assert_eq!(attributes["type"], json!({ "StringValue": "created", "DataType": "String" }), "{first}");
        assert_eq!(attributes["price"], json!({ "StringValue": "12.50", "DataType": "Number.money" }));
        assert_eq!(attributes["bytes"], json!({ "BinaryValue": "/wA=", "DataType": "Binary" }));
        assert_eq!(attributes.as_object().map(serde_json::Map::len), Some(3));
        // A space is no character of a group.
        let group = first["Attributes"]["MessageGroupId"].as_str().expect("a group");
        assert_eq!(group.len(), 64, "{group}");

        let second = &by_body["{\"id\":7}"]["Attributes"];
        assert_eq!(
            (&second["MessageGroupId"], &second["MessageDeduplicationId"]),
            (&json!("k"), &json!("seven"))
        );
        let third = &by_body["keyless"]["Attributes"];
        assert!(
            third["MessageGroupId"].as_str().is_some_and(|group| group.starts_with("partition-")),
            "{third}"
        );
        assert_eq!(third["MessageDeduplicationId"].as_str().map(str::len), Some(64));
    }
}

#[test]
fn groups_and_ids_come_from_where_the_pipeline_says() {
    let stand_in = StandIn::fauxqs();
    let queue = Queue::fifo(stand_in);
    let folder = Folder::new();
    let sink = format!(
        "type = \"sqs\"\nqueue = {:?}\n{}\ngroup = {{ pointer = \"/group\" }}\n\
         deduplication = {{ pointer = \"/number\" }}\nattributes = [\"kind\"]",
        queue.url,
        stand_in.toml()
    );
    let mut records = numbered(6, 2);
    records += "{\"key\":\"k\",\"payload\":\"{}\"}\n{\"key\":\"k\",\"payload\":\"no json\"}\n";
    let file = pipeline(&folder, &records, &sink);
    run_to_end(&folder, &file);
    for message in received_by_boto3(stand_in, &queue.name, 6) {
        let body: Value = serde_json::from_str(message["Body"].as_str().expect("a body")).expect("JSON");
        let attributes = &message["Attributes"];
        assert_eq!(attributes["MessageGroupId"], body["group"]);
        assert_eq!(attributes["MessageDeduplicationId"], body["number"].to_string());
        assert_eq!(message["MessageAttributes"].as_object().map(serde_json::Map::len), Some(1));
    }
    let mut codes: Vec<String> = dead_letters(&file)
        .iter()
        .map(|letter| letter["code"].as_str().unwrap_or_default().to_owned())
        .collect();
    codes.sort();
    assert_eq!(codes, ["no-group", "not-json"]);
}

#[test]
fn a_standard_queue_takes_delays_and_any_bytes() {
    let stand_in = StandIn::fauxqs();
    let queue = Queue::standard(stand_in);
    let folder = Folder::new();
    let sink = format!(
        "type = \"sqs\"\nqueue = {:?}\n{}\ndelay_header = \"later\"\nencoding = \"base64\"",
        queue.name,
        stand_in.toml()
    );
    let records = "{\"payload_base64\":\"AP8=\"}\n{\"payload\":\"x\",\"headers\":{\"later\":\"2\"}}\n\
                   {\"payload\":\"y\",\"headers\":{\"later\":\"soon\"}}\n";
    let file = pipeline(&folder, records, &sink);
    run_to_end(&folder, &file);
    let begun = std::time::Instant::now();
    let bodies: Vec<String> =
        queue.drain(2).into_iter().map(|message| message.body.unwrap_or_default()).collect();
    assert_eq!(bodies, ["AP8=", "eA=="]);
    assert!(begun.elapsed() > std::time::Duration::from_millis(500), "the second is kept back");
    let letters = dead_letters(&file);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0]["code"], "invalid-delay");
}

#[test]
fn p3_fifo_messages_arrive_in_order_and_once() {
    for (stand_in, messages) in [(StandIn::fauxqs(), 500), (StandIn::moto(), 40)] {
        let queue = Queue::fifo(stand_in);
        let folder = Folder::new();
        let sink = format!("type = \"sqs\"\nqueue = {:?}\n{}", queue.name, stand_in.toml());
        run_to_end(&folder, &pipeline(&folder, &numbered(messages, 10), &sink));
        let numbers = queue.numbers(messages);
        assert_eq!(numbers.len() as u64, messages);
        assert_all_in_order(numbers, 10, messages);
    }
}

#[test]
fn p4_what_sqs_never_takes_is_a_dead_letter_that_says_why() {
    let stand_in = StandIn::fauxqs();
    let queue = Queue::standard(stand_in);
    let many: serde_json::Map<String, Value> = (0..11).map(|n| (format!("h{n}"), json!("x"))).collect();
    let bad = [
        ("too-large", json!({ "payload": "x".repeat(1 << 20), "headers": { "one": "more" } })),
        ("too-many-attributes", json!({ "payload": "x", "headers": many })),
        ("invalid-attribute", json!({ "payload": "x", "headers": { "a b": "x" } })),
        ("empty", json!({ "payload": "" })),
        ("encode-error", json!({ "payload": null })),
        ("not-text", json!({ "payload_base64": "/w==" })),
        ("invalid-characters", json!({ "payload": "bell \u{7}" })),
    ];
    let mut records = numbered(20, 5);
    for (_, record) in &bad {
        records += &format!("{record}\n");
    }
    records += &format!(
        "{}\n",
        json!({ "payload": json!({ "number": 20, "x": "y".repeat(900 << 10) }).to_string() })
    );
    let folder = Folder::new();
    let sink = format!("type = \"sqs\"\nqueue = {:?}\n{}", queue.name, stand_in.toml());
    let file = pipeline(&folder, &records, &sink);
    run_to_end(&folder, &file);
    assert_all(queue.numbers(21), 21);
    let letters = dead_letters(&file);
    assert_dead_letters(&letters, &bad);
    let of = |code: &str| letters.iter().find(|letter| letter["code"] == code).expect("it is there");
    let reason = |code| of(code)["reason"].as_str().expect("a reason");
    assert!(reason("too-large").contains("1MiB"), "{}", reason("too-large"));
    assert!(reason("not-text").contains("base64"), "{}", reason("not-text"));
    assert!(reason("too-many-attributes").contains("`attributes`"), "{}", reason("too-many-attributes"));
}

#[test]
fn a_queue_that_does_not_exist_yet_is_waited_for() {
    let stand_in = StandIn::fauxqs();
    let name = unique("late");
    let folder = Folder::new();
    let sink = format!("type = \"sqs\"\nqueue = {name:?}\n{}", stand_in.toml());
    let file = pipeline(&folder, &numbered(30, 5), &sink);
    let mut running = start(&folder, &file);
    let admin = running.address("admin server listening");
    running.wait_for("it says what it waits for", |_| {
        look(&admin);
        ask(&admin, "/readyz")
            .is_some_and(|(status, text)| status == 503 && text.contains("NonExistentQueue"))
    });
    let queue = Queue::create(stand_in, &name);
    assert!(running.end().success(), "{}", running.log());
    assert!(dead_letters(&file).is_empty());
    assert_all(queue.numbers(30), 30);
}

#[test]
fn p10_check_says_that_a_standard_queue_has_no_order() {
    let check = |queue: &str| {
        let folder = Folder::new();
        let file = pipeline(&folder, "", &format!("type = \"sqs\"\nqueue = {queue:?}"));
        let (status, out, errors) = run(&["check", file.to_str().expect("UTF-8")]);
        assert!(status.success(), "{errors}");
        out + &errors
    };
    let told = check("orders");
    assert!(told.contains("none in sink `out`: a standard queue"), "{told}");
    assert!(told.contains("`ordering` cannot be kept"), "{told}");
    let told = check("orders.fifo");
    assert!(told.contains("per key, in each sink"), "{told}");
}

#[test]
fn p1_p3_p11_a_fifo_queue_through_every_fault() {
    let stand_in = StandIn::fauxqs();
    let home = || {
        let queue = Queue::fifo(stand_in);
        (format!("type = \"sqs\"\nqueue = {:?}", queue.name), queue)
    };
    through_every_fault(stand_in, &["SendMessageBatch", "GetQueueUrl"], true, home, |queue, messages| {
        let numbers = queue.numbers(messages);
        assert_eq!(numbers.len() as u64, messages, "the queue leaves out what came twice");
        assert_all_in_order(numbers, KEYS, messages);
    });
}

#[test]
fn p1_p11_a_standard_queue_through_every_fault() {
    let stand_in = StandIn::fauxqs();
    let home = || {
        let queue = Queue::standard(stand_in);
        (format!("type = \"sqs\"\nqueue = {:?}", queue.name), queue)
    };
    through_every_fault(stand_in, &["SendMessageBatch"], false, home, |queue, messages| {
        assert_all(queue.numbers(messages), messages);
    });
}
