//! The sink `kafka`.

use serde_json::{Value, json};

use crate::services::kafka::{Guarantee, Kafka, Record, Secured, Way};
use crate::support::{Folder, Running, ask, run};

/// A timestamp that topics take by default.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// A pipeline from `in.ndjson`, in records of JSON, to this sink.
fn pipeline(folder: &Folder, input: &[Value], sink: &str) -> String {
    let lines: String = input.iter().map(|record| format!("{record}\n")).collect();
    folder.write("in.ndjson", &lines);
    let text = format!(
        "name = \"orders\"\n[source]\ntype = \"file\"\npath = \"in.ndjson\"\ncodec = \"record\"\n\
         [retry]\nbase_delay = \"50ms\"\nmax_delay = \"200ms\"\n\
         [[sink]]\ntype = \"kafka\"\n{sink}"
    );
    folder.write("orders.toml", &text).display().to_string()
}

/// Has the pipeline wait for more at the end of its input.
fn follow(file: &str) {
    let text = std::fs::read_to_string(file).expect("a pipeline");
    std::fs::write(file, text.replace("codec =", "mode = \"follow\"\ncodec =")).expect("it can be written");
}

fn append(folder: &Folder, records: impl IntoIterator<Item = Value>) {
    let lines: String = records.into_iter().map(|record| format!("{record}\n")).collect();
    let file = std::fs::File::options().append(true).open(folder.path("in.ndjson"));
    std::io::Write::write_all(&mut file.expect("the input is there"), lines.as_bytes())
        .expect("it can be written");
}

#[track_caller]
fn run_to_the_end(file: &str) {
    let (status, out, err) = run(&["run", file, "--admin", "127.0.0.1:0"]);
    assert!(status.success(), "{out}{err}");
}

/// Numbers and codes of the dead letters.
#[track_caller]
fn dead_letters(file: &str) -> Vec<(String, String)> {
    let (status, out, err) = run(&["dlq", "list", file, "--json"]);
    assert!(status.success(), "{err}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let letters = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("one object a line"));
    letters.map(|letter| (text(&letter["code"]), text(&letter["key"]))).collect()
}

#[test]
fn what_another_client_reads_is_what_was_written() {
    let kafka = Kafka::shared();
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        let topic = kafka.topic("sink", 3);
        let folder = Folder::new();
        let first = now_ms();
        let input = [
            json!({ "key": "k1", "headers": [["a", "1"], ["a", { "base64": "/wA=" }], ["b", ""]],
                    "payload": "x".repeat(1000), "timestamp": first }),
            json!({ "key": "k1", "payload": null, "timestamp": first + 1 }),
            json!({ "payload_base64": "/v8A", "timestamp": first + 2 }),
            json!({ "key": "", "payload": "", "timestamp": first + 3 }),
        ];
        let sink =
            format!("{}\ntopic = \"{topic}\"\ncompression = \"{compression}\"\n", kafka.brokers_toml());
        run_to_the_end(&pipeline(&folder, &input, &sink));
        let mut read = kafka.read_by_java(&topic);
        read.sort_by_key(|record| record.timestamp_ms);
        let expected = [
            Record {
                key: Some(b"k1".to_vec()),
                value: Some(vec![b'x'; 1000]),
                headers: vec![
                    ("a".to_owned(), Some(b"1".to_vec())),
                    ("a".to_owned(), Some(vec![255, 0])),
                    ("b".to_owned(), Some(Vec::new())),
                ],
                ..Record::default()
            },
            Record { key: Some(b"k1".to_vec()), ..Record::default() },
            Record { value: Some(vec![254, 255, 0]), ..Record::default() },
            Record { key: Some(Vec::new()), value: Some(Vec::new()), ..Record::default() },
        ];
        assert_eq!(read.len(), expected.len(), "{read:?}");
        for (number, (read, expected)) in read.iter().zip(expected).enumerate() {
            let placed = Record {
                partition: read.partition,
                offset: read.offset,
                timestamp_ms: Some(first + number as i64),
                ..expected
            };
            assert_eq!(*read, placed, "{compression}");
        }
        assert_eq!(read[0].partition, read[1].partition, "both have the same key");
    }
}

#[test]
fn p3_what_a_topic_refuses_becomes_a_dead_letter_and_its_neighbours_arrive_in_order() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("limits", 1);
    kafka.configure_topic(
        &topic,
        &[
            ("max.message.bytes", "2000"),
            ("cleanup.policy", "compact"),
            ("message.timestamp.before.max.ms", "3600000"),
            ("message.timestamp.after.max.ms", "3600000"),
        ],
    );
    let now = now_ms();
    let time = |ms: i64| jiff::Timestamp::from_millisecond(ms).unwrap().to_string();
    let mut input = Vec::new();
    let mut expected = Vec::new();
    for number in 0..300 {
        let mut record = json!({ "key": "k", "payload": number.to_string(), "timestamp": time(now) });
        match number % 100 {
            50 => record["payload"] = "x".repeat(3000).into(),
            60 => record["key"] = Value::Null,
            70 => record["timestamp"] = time(now - 7_200_000).into(),
            80 => record["timestamp"] = time(now + 7_200_000).into(),
            // Those together are more than the topic takes in one batch.
            _ => {
                record["payload"] = format!("{number:0500}").into();
                expected.push(format!("{number:0500}"));
            }
        }
        if record["key"].is_null() {
            record.as_object_mut().unwrap().remove("key");
        }
        input.push(record);
    }
    let folder = Folder::new();
    let sink = format!("{}\ntopic = \"{topic}\"\ncompression = \"none\"\n", kafka.brokers_toml());
    let file = pipeline(&folder, &input, &sink);
    run_to_the_end(&file);
    let read: Vec<String> = kafka.consume(&topic).iter().map(|record| record.text().to_owned()).collect();
    assert!(read == expected, "{} of {} arrived, or not in order", read.len(), expected.len());
    let codes: Vec<String> = dead_letters(&file).into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, ["too-large", "no-key", "timestamp", "timestamp"].repeat(3));
}

#[test]
fn p3_limits_that_come_while_it_runs_cost_no_message_and_no_order() {
    let kafka = Kafka::shared();
    let topic = kafka.topic("lowered", 1);
    let folder = Folder::new();
    let sink = format!("{}\ntopic = \"{topic}\"\ncompression = \"none\"\n", kafka.brokers_toml());
    let record = |number: usize| json!({ "key": "k", "payload": format!("{number:0500}") });
    let file = pipeline(&folder, &[record(0)], &sink);
    follow(&file);
    let mut running = Running::start(&folder, file.as_ref());
    running.wait_for("the first message", |_| kafka.count(&topic) == 1);
    kafka.configure_topic(&topic, &[("max.message.bytes", "1000")]);
    append(&folder, (1..50).map(record));
    append(&folder, [json!({ "key": "k", "payload": "x".repeat(1000) })]);
    append(&folder, (50..60).map(record));
    running.wait_for("all messages but one", |_| kafka.count(&topic) == 60);
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    let read: Vec<String> = kafka.consume(&topic).iter().map(|record| record.text().to_owned()).collect();
    assert_eq!(read, (0..60).map(|number| format!("{number:0500}")).collect::<Vec<_>>());
    assert_eq!(dead_letters(&file), [("too-large".to_owned(), "k".to_owned())]);
}

#[test]
fn a_broker_and_a_topic_that_come_later_are_waited_for() {
    let kafka = Kafka::prepared(1);
    let folder = Folder::new();
    let input: Vec<Value> = (0..100).map(|n| json!({ "key": "k", "payload": n.to_string() })).collect();
    let sink = format!("{}\ntopic = \"late\"\ntimeout = \"1s\"\n", kafka.brokers_toml());
    let file = pipeline(&folder, &input, &sink);
    let mut running = Running::start(&folder, file.as_ref());
    let admin = running.address("admin server listening");
    let says = |text: &'static str| {
        let admin = admin.clone();
        move |_: &Running| {
            ask(&admin, "/readyz").is_some_and(|(status, page)| status == 503 && page.contains(text))
        }
    };
    running.wait_for("that it says what it waits for", says("does not say whether there is a topic late"));
    kafka.start_broker(0);
    kafka.wait_until_ready(1);
    running.wait_for("that it says which topic it waits for", says("there is no topic late"));
    kafka.create_topic("late", 1, &[]);
    assert!(running.end().success(), "{}", running.log());
    let read: Vec<String> = kafka.consume("late").iter().map(|record| record.text().to_owned()).collect();
    assert_eq!(read, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn p3_a_broker_that_is_silent_for_longer_than_the_timeout_costs_no_order() {
    let kafka = Kafka::start();
    let topic = kafka.topic("paused", 4);
    let folder = Folder::new();
    let sink = format!("{}\ntopic = \"{topic}\"\ntimeout = \"500ms\"\nbatch = 100\n", kafka.brokers_toml());
    let file = pipeline(&folder, &[], &sink);
    follow(&file);
    let mut running = Running::start(&folder, file.as_ref());
    let silences = |running: &Running| running.log().matches("nothing got through for 500ms").count();
    let messages = 5_000;
    for round in 0..4 {
        let numbers = round * messages..(round + 1) * messages;
        append(&folder, numbers.map(|n| json!({ "key": format!("k{}", n % 100), "payload": n.to_string() })));
        running.wait_for("some of the messages", |_| kafka.count(&topic) > round * messages);
        let before = silences(&running);
        kafka.pause_broker(0);
        running.wait_for("that it waits", |running| silences(running) > before);
        kafka.resume_broker(0);
        running.wait_for("all of the messages", |_| kafka.count(&topic) >= (round + 1) * messages);
    }
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
    kafka.check(&topic, 4 * messages as u64, 100, Guarantee::AtLeastOnce);
}

#[test]
fn a_header_says_the_topic_and_a_message_without_one_is_a_dead_letter() {
    let kafka = Kafka::shared();
    let (one, two) = (kafka.topic("one", 1), kafka.topic("two", 1));
    let folder = Folder::new();
    let to = |topic: &str| json!({ "key": topic, "headers": [["to", topic]], "payload": topic });
    let input = [to(&one), to(&two), to("there-is-no-such-topic"), json!({ "key": "none", "payload": "" })];
    let file = pipeline(&folder, &input, &format!("{}\ntopic_header = \"to\"\n", kafka.brokers_toml()));
    run_to_the_end(&file);
    for topic in [&one, &two] {
        let read: Vec<String> = kafka.consume(topic).iter().map(|record| record.text().to_owned()).collect();
        assert_eq!(read, std::slice::from_ref(topic));
    }
    let expected = [("unknown-topic", "there-is-no-such-topic"), ("no-topic", "none")];
    let expected = expected.map(|(code, key)| (code.to_owned(), key.to_owned()));
    assert_eq!(dead_letters(&file), expected);
}

#[test]
fn refused_credentials_and_a_refused_topic_are_waited_for() {
    let secured = Secured::start();
    let kafka = &secured.kafka;
    let topic = kafka.topic("secured", 1);
    let sink = |password: &str| {
        format!(
            "brokers = [{:?}]\ntopic = \"{topic}\"\ntimeout = \"5s\"\n[sink.security.tls]\nca_file = {:?}\n\
             [sink.security.sasl]\nmechanism = \"SCRAM-SHA-512\"\nusername = {:?}\npassword = {password:?}\n",
            secured.address(Way::SaslTls),
            secured.file("ca.pem").display().to_string(),
            Secured::USER
        )
    };
    let input = [json!({ "key": "k", "payload": "1" })];
    let waits_for = |running: &mut Running, text: &str| {
        let admin = running.address("admin server listening");
        running.wait_for(text, |_| ask(&admin, "/readyz").is_some_and(|(_, page)| page.contains(text)));
    };
    let folder = Folder::new();
    let file = pipeline(&folder, &input, &sink("wrong"));
    let mut running = Running::start(&folder, file.as_ref());
    waits_for(&mut running, "uthentication");
    running.kill();

    secured.acl(&["--add", "--allow-principal", "User:other", "--operation", "All", "--topic", &topic]);
    let folder = Folder::new();
    let file = pipeline(&folder, &input, &sink(Secured::PASSWORD));
    let mut running = Running::start(&folder, file.as_ref());
    waits_for(&mut running, "TopicAuthorizationFailed");
    let user = format!("User:{}", Secured::USER);
    // To write, but not to see the configuration.
    secured.acl(&["--add", "--allow-principal", &user, "--operation", "Write", "--topic", &topic]);
    assert!(running.end().success(), "{}", running.log());
    assert_eq!(kafka.consume(&topic).len(), 1);
    assert!(dead_letters(&file).is_empty());
}

#[test]
fn p8_a_stop_does_not_wait_for_a_broker() {
    let kafka = Kafka::prepared(1);
    let folder = Folder::new();
    let input = [json!({ "key": "k", "payload": "1" })];
    let sink = format!("{}\ntopic = \"never\"\ntimeout = \"1h\"\n", kafka.brokers_toml());
    let file = pipeline(&folder, &input, &sink);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("shutdown_timeout = \"1s\"\n{text}")).unwrap();
    let mut running = Running::start(&folder, file.as_ref());
    running.address("admin server listening");
    running.terminate();
    running.end();
}
