//! P5: dead letters in a topic, and `millstream dlq` for them.

use serde_json::{Value, json};

use crate::services::kafka::{Kafka, Record};
use crate::support::{Folder, Running, run};

/// Numbers to a topic: what `jq` cannot add to becomes a dead letter in another topic.
struct Numbers {
    kafka: &'static Kafka,
    folder: Folder,
    out: String,
    dead: String,
}

impl Numbers {
    fn new(dead_config: &[(&str, &str)], payloads: &[Value]) -> Numbers {
        let kafka = Kafka::shared();
        let (out, dead) = (kafka.topic("out", 1), kafka.topic("dead", 3));
        kafka.configure_topic(&dead, dead_config);
        let numbers = Numbers { kafka, folder: Folder::new(), out, dead };
        let record = |(n, payload): (usize, &Value)| {
            let key = format!("k{n}");
            format!("{}\n", json!({ "key": key, "headers": { "h": "1" }, "payload": payload.to_string() }))
        };
        let lines: String = payloads.iter().enumerate().map(record).collect();
        numbers.folder.write("in.ndjson", &lines);
        numbers.configure(".n + 0", "once");
        numbers
    }

    fn configure(&self, program: &str, mode: &str) {
        let Numbers { kafka, out, dead, .. } = self;
        let brokers = kafka.brokers_toml();
        self.folder.write(
            "orders.toml",
            &format!(
                "name = \"orders\"\n\
                 [source]\ntype = \"file\"\npath = \"in.ndjson\"\ncodec = \"record\"\nmode = \"{mode}\"\n\
                 [[plugin]]\nuse = \"jq\"\nconfig = {{ program = \"{program}\" }}\n\
                 [[sink]]\ntype = \"kafka\"\n{brokers}\ntopic = \"{out}\"\n\
                 [dead_letters]\ntype = \"kafka\"\n{brokers}\ntopic = \"{dead}\"\n"
            ),
        );
    }

    fn file(&self) -> String {
        self.folder.path("orders.toml").display().to_string()
    }

    #[track_caller]
    fn run(&self) {
        let (status, out, err) = run(&["run", &self.file(), "--admin", "127.0.0.1:0"]);
        assert!(status.success(), "{out}{err}");
    }

    /// `millstream dlq VERB`; its end, and all it printed.
    fn dlq(&self, verb: &str, arguments: &[&str]) -> (bool, String, String) {
        let (status, out, err) = run(&[&["dlq", verb, &self.file()], arguments].concat());
        (status.success(), out, err)
    }

    #[track_caller]
    fn letters(&self) -> Vec<Value> {
        let (success, out, err) = self.dlq("list", &["--json"]);
        assert!(success, "{err}");
        out.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
    }

    fn keys(&self) -> Vec<String> {
        self.letters().iter().map(|letter| letter["key"].as_str().expect("a key").to_owned()).collect()
    }

    fn delivered(&self) -> Vec<String> {
        self.kafka.consume(&self.out).iter().map(|record| record.text().to_owned()).collect()
    }
}

fn header<'r>(record: &'r Record, name: &str) -> &'r str {
    let (_, value) = record.headers.iter().find(|(known, _)| known == name).expect("a header");
    std::str::from_utf8(value.as_deref().expect("a value")).expect("text")
}

#[test]
fn p5_a_dead_letter_in_a_topic_is_the_original_with_its_story_and_dlq_shows_it() {
    let numbers = Numbers::new(&[], &[json!({ "n": 2 }), json!({ "n": "x" }), json!({ "n": 4 })]);
    numbers.run();
    assert_eq!(numbers.delivered(), ["2", "4"]);
    let records = numbers.kafka.read_by_java(&numbers.dead);
    assert_eq!(records.len(), 1, "{records:?}");
    let record = &records[0];
    assert_eq!((record.key.as_deref(), record.text()), (Some(&b"k1"[..]), r#"{"n":"x"}"#));
    assert_eq!(header(record, "h"), "1");
    assert_eq!(header(record, "millstream-dlq-stage"), "plugin:jq");
    assert_eq!(header(record, "millstream-dlq-plugin"), "jq");
    assert!(header(record, "millstream-dlq-position").contains("line 2"));

    let letters = numbers.letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let letter = &letters[0];
    assert_eq!(letter["id"], header(record, "millstream-dlq-id"));
    assert_eq!(letter["stage"], "plugin:jq");
    assert_eq!(letter["payload"], r#"{"n":"x"}"#);
    assert_eq!(letter["headers"], json!({ "h": "1" }));
    assert_eq!(letter["plugin_sha256"], header(record, "millstream-dlq-plugin-sha256"));
    let (success, shown, _) = numbers.dlq("show", &[letter["id"].as_str().expect("an id")]);
    assert!(success && shown.contains("position     ") && shown.contains("header       h: 1"), "{shown}");
}

#[test]
fn what_was_replayed_or_purged_is_listed_no_more() {
    let payloads: Vec<Value> = (0..6).map(|n| json!({ "n": format!("{n}") })).collect();
    let numbers = Numbers::new(&[], &payloads);
    numbers.run();
    assert_eq!(numbers.keys(), ["k0", "k1", "k2", "k3", "k4", "k5"]);

    // In vain: each is a dead letter as before.
    let id = numbers.letters()[0]["id"].as_str().expect("an id").to_owned();
    let (success, _, err) = numbers.dlq("replay", &[&id]);
    assert!(!success && err.contains("1 failed again"), "{err}");
    let letters = numbers.letters();
    assert_eq!(letters.len(), 6);
    let replayed = letters.iter().find(|letter| letter["id"] == id.as_str()).expect("it is still there");
    assert_eq!(replayed["replays"], 1);

    // By a plugin that was mended.
    numbers.configure(".n | tonumber", "once");
    let (success, _, err) = numbers.dlq("replay", &[&id]);
    assert!(success && err.contains("1 delivered"), "{err}");
    assert_eq!(numbers.delivered(), ["0"]);
    assert_eq!(numbers.keys(), ["k1", "k2", "k3", "k4", "k5"]);

    // By the process that runs.
    numbers.configure(".n | tonumber", "follow");
    let mut running = Running::start(&numbers.folder, numbers.file().as_ref());
    running.address("admin server listening");
    let second = numbers.letters()[0]["id"].as_str().expect("an id").to_owned();
    let (success, _, err) = numbers.dlq("replay", &[&second]);
    assert!(success && err.contains("1 delivered"), "{err}");
    assert_eq!(numbers.delivered(), ["0", "1"]);
    assert_eq!(numbers.keys(), ["k2", "k3", "k4", "k5"]);
    let (success, _, err) = numbers.dlq("replay", &[&second]);
    assert!(!success && err.contains("is no dead letter"), "{err}");

    let third = numbers.letters()[0]["id"].as_str().expect("an id").to_owned();
    let (success, _, err) = numbers.dlq("purge", &[&third, "--yes"]);
    assert!(success && err.contains("1 dead letters were deleted"), "{err}");
    let exported = numbers.folder.path("out.ndjson").display().to_string();
    let (success, _, err) = numbers.dlq("export", &["--to", &exported]);
    assert!(success && err.contains("3 messages"), "{err}");
    let (success, _, err) = numbers.dlq("replay", &["--all"]);
    assert!(success && err.contains("3 delivered"), "{err}");
    assert_eq!(numbers.letters(), Vec::<Value>::new());
    assert_eq!(numbers.delivered(), ["0", "1", "3", "4", "5"]);
    running.terminate();
    assert!(running.end().success(), "{}", running.log());
}

#[test]
fn a_dead_letter_too_large_for_the_topic_goes_to_the_embedded_store() {
    let large = json!({ "n": "x".repeat(5000) });
    let numbers =
        Numbers::new(&[("max.message.bytes", "4000")], &[json!({ "n": "x" }), large, json!({ "n": 2 })]);
    numbers.run();
    assert_eq!(numbers.delivered(), ["2"]);
    assert_eq!(numbers.kafka.consume(&numbers.dead).len(), 1);
    // Those of the embedded store come first.
    assert_eq!(numbers.keys(), ["k1", "k0"]);
    numbers.configure(".n | length", "once");
    let (success, _, err) = numbers.dlq("replay", &["--all"]);
    assert!(success && err.contains("2 delivered"), "{err}");
    assert_eq!(numbers.delivered(), ["2", "5000", "1"]);
    assert!(numbers.letters().is_empty());
}
