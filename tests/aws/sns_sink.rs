//! Sink `sns`.

use std::collections::BTreeSet;

use aws_sdk_sns::Client;
use serde_json::{Value, json};

use super::queues::Queue;
use super::sinks::{
    KEYS, assert_all, assert_all_in_order, assert_dead_letters, block_on, dead_letters, numbered, pipeline,
    run_to_end, through_every_fault, unique,
};
use crate::services::aws::{ENVIRONMENT, StandIn};
use crate::support::{Folder, Running, data_folder, http_client, millstream, repository};

struct Topic {
    arn: String,
    client: Client,
}

impl Topic {
    fn create(stand_in: &StandIn, is_fifo: bool) -> Topic {
        let client = Client::new(&stand_in.config());
        let name = format!("{}{}", unique("topic"), if is_fifo { ".fifo" } else { "" });
        let mut request = client.create_topic().name(name);
        if is_fifo {
            request = request.attributes("FifoTopic", "true");
        }
        let created = block_on(request.send()).expect("a topic");
        Topic { arn: created.topic_arn().expect("an ARN").to_owned(), client }
    }

    /// Has the topic send to a queue as it is, with this filter policy.
    fn subscribe(&self, queue: &Queue, policy: Option<Value>) {
        let request = self.client.subscribe().topic_arn(&self.arn).protocol("sqs").endpoint(queue.arn());
        let mut request = request.attributes("RawMessageDelivery", "true");
        if let Some(policy) = policy {
            request = request.attributes("FilterPolicy", policy.to_string());
        }
        block_on(request.send()).expect("a subscription");
    }
}

#[test]
fn filter_policies_choose_by_attributes() {
    for (stand_in, messages) in [(StandIn::fauxqs(), 60), (StandIn::moto(), 20)] {
        let topic = Topic::create(stand_in, false);
        let [all, even, large] = [(); 3].map(|()| Queue::standard(stand_in));
        topic.subscribe(&all, None);
        topic.subscribe(&even, Some(json!({ "kind": ["even"] })));
        topic.subscribe(&large, Some(json!({ "number": [{ "numeric": [">=", 10] }] })));
        let folder = Folder::new();
        let sink = format!(
            "type = \"sns\"\ntopic = {:?}\n{}\nattribute_types = {{ number = \"Number\" }}",
            topic.arn,
            stand_in.toml()
        );
        run_to_end(&folder, &pipeline(&folder, &numbered(messages, 5), &sink));
        let expected = |is_in: fn(&u64) -> bool| (0..messages).filter(is_in).collect::<BTreeSet<_>>();
        let arrived = |queue: &Queue, expected: BTreeSet<u64>| {
            let numbers = queue.numbers(expected.len() as u64);
            assert_eq!(numbers.into_iter().collect::<BTreeSet<_>>(), expected);
        };
        arrived(&all, expected(|_| true));
        arrived(&even, expected(|number| number % 2 == 0));
        arrived(&large, expected(|number| *number >= 10));
    }
}

#[test]
fn the_pipeline_sns_fanout_publishes_what_subscriptions_choose_by_type() {
    let stand_in = StandIn::fauxqs();
    let topic = Topic::create(stand_in, false);
    let queue = Queue::standard(stand_in);
    topic.subscribe(&queue, Some(json!({ "envelope-type": ["order.placed"] })));
    let folder = Folder::new();
    let (file, data) = (repository().join("pipelines/sns-fanout.toml"), data_folder(&folder));
    let (file, data) = (file.to_str().expect("UTF-8"), data.to_str().expect("UTF-8"));
    let mut command = millstream(&["run", file, "--admin", "127.0.0.1:0", "--data-dir", data]);
    command
        .envs(ENVIRONMENT)
        .env("AWS_ENDPOINT_URL", stand_in.url())
        .env("SNS_TOPIC", &topic.arn)
        .env("PORT", "0");
    let mut running = Running::of(&folder, command.stdout(std::process::Stdio::null()));
    let url = format!("http://{}/events", running.address("sources::http: listening"));
    block_on(async {
        for (number, kind) in ["order.placed", "order.cancelled", "order.placed"].iter().enumerate() {
            let event = json!({
                "id": format!("c2f199fb-b099-4111-a1cb-d2d1477ed00{number}"), "type": kind, "source": "shop",
                "timestamp": "2026-01-31T12:00:00Z", "specversion": "1.0", "metadata": {},
                "correlationId": "r-1", "data": { "number": number },
            });
            let sent = http_client().post(&url).body(event.to_string()).send().await.expect("an answer");
            assert_eq!(sent.status(), 200, "{}", running.log());
        }
    });
    assert_eq!(queue.numbers(2).into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([0, 2]));
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
}

#[test]
fn attributes_and_bytes_arrive_as_they_were_sent() {
    let stand_in = StandIn::fauxqs();
    let topic = Topic::create(stand_in, false);
    let queue = Queue::standard(stand_in);
    topic.subscribe(&queue, None);
    let record = json!({
        "payload": "<é>&\"\u{1f980}\"\n",
        "headers": { "type": "created", "price": "12.50", "bytes": { "base64": "/wA=" } },
    });
    let folder = Folder::new();
    let sink = format!(
        "type = \"sns\"\ntopic = {:?}\n{}\nattribute_types = {{ price = \"Number\" }}\nsubject = \"orders\"",
        topic.arn,
        stand_in.toml()
    );
    run_to_end(&folder, &pipeline(&folder, &format!("{record}\n"), &sink));
    let messages = queue.drain(1);
    assert_eq!(messages[0].body(), record["payload"].as_str());
    let attributes = messages[0].message_attributes().expect("attributes");
    assert_eq!(attributes["type"].string_value(), Some("created"));
    assert_eq!(
        (attributes["price"].data_type(), attributes["price"].string_value()),
        ("Number", Some("12.50"))
    );
    assert_eq!(attributes["bytes"].binary_value().map(|blob| blob.as_ref().to_vec()), Some(vec![255, 0]));
}

#[test]
fn p4_what_sns_never_takes_is_a_dead_letter_that_says_why() {
    let stand_in = StandIn::fauxqs();
    let topic = Topic::create(stand_in, false);
    let queue = Queue::standard(stand_in);
    topic.subscribe(&queue, None);
    let bad = [
        ("too-large", json!({ "payload": "x".repeat(256 << 10), "headers": { "one": "more" } })),
        ("empty", json!({ "payload": "" })),
        ("not-text", json!({ "payload_base64": "/w==" })),
        ("invalid-subject", json!({ "payload": "x", "headers": { "title": "two\nlines" } })),
    ];
    let records: String = bad.iter().map(|(_, record)| format!("{record}\n")).collect();
    let folder = Folder::new();
    let sink =
        format!("type = \"sns\"\ntopic = {:?}\n{}\nsubject_header = \"title\"", topic.arn, stand_in.toml());
    let file = pipeline(&folder, &(records + &numbered(20, 5)), &sink);
    run_to_end(&folder, &file);
    assert_all(queue.numbers(20), 20);
    let letters = dead_letters(&file);
    assert_dead_letters(&letters, &bad);
}

#[test]
fn p1_p3_p11_a_fifo_topic_through_every_fault() {
    let stand_in = StandIn::fauxqs();
    let home = || {
        let topic = Topic::create(stand_in, true);
        let queue = Queue::fifo(stand_in);
        topic.subscribe(&queue, None);
        (format!("type = \"sns\"\ntopic = {:?}\ngroup = {{ pointer = \"/group\" }}", topic.arn), queue)
    };
    through_every_fault(stand_in, &["PublishBatch"], true, home, |queue, messages| {
        assert_all_in_order(queue.numbers(messages), KEYS, messages);
    });
}
