//! P5: dead letters in a queue of SQS, and `millstream dlq` for them.

use serde_json::{Value, json};

use super::around::run;
use super::queues::Queue;
use super::sinks::unique;
use crate::services::aws::{StandIn, python};
use crate::support::Folder;

/// Numbers to a file: what `jq` cannot add to becomes a dead letter in a queue.
struct Numbers {
    stand_in: &'static StandIn,
    folder: Folder,
    dead: Queue,
}

impl Numbers {
    fn new(stand_in: &'static StandIn, records: &[Value], keys: &str) -> Numbers {
        let numbers = Numbers { stand_in, folder: Folder::new(), dead: Queue::standard(stand_in) };
        let lines: String = records.iter().map(|record| format!("{record}\n")).collect();
        numbers.folder.write("in.ndjson", &lines);
        numbers.configure(".n + 0", keys);
        numbers
    }

    fn configure(&self, program: &str, keys: &str) {
        let Numbers { stand_in, dead, .. } = self;
        self.folder.write(
            "orders.toml",
            &format!(
                "name = \"orders\"\n\
                 [source]\ntype = \"file\"\npath = \"in.ndjson\"\ncodec = \"record\"\nmax_message_bytes = \"4MiB\"\n\
                 [[plugin]]\nuse = \"jq\"\nconfig = {{ program = \"{program}\" }}\n\
                 [[sink]]\ntype = \"file\"\npath = \"out.ndjson\"\n\
                 [dead_letters]\ntype = \"sqs\"\nqueue = \"{}\"\n{}\n{keys}\n",
                dead.name,
                stand_in.toml()
            ),
        );
    }

    fn file(&self) -> String {
        self.folder.path("orders.toml").display().to_string()
    }

    #[track_caller]
    fn run(&self) {
        let (done, out, err) = run(&["run", &self.file(), "--admin", "127.0.0.1:0"]);
        assert!(done, "{out}{err}");
    }

    #[track_caller]
    fn dlq(&self, verb: &str, arguments: &[&str]) -> (String, String) {
        let (done, out, err) = run(&[&["dlq", verb, &self.file()], arguments].concat());
        assert!(done, "{out}{err}");
        (out, err)
    }

    #[track_caller]
    fn letters(&self) -> Vec<Value> {
        let (out, _) = self.dlq("list", &["--json"]);
        out.lines().map(|line| serde_json::from_str(line).expect("one object a line")).collect()
    }
}

fn record(n: Value, headers: Value) -> Value {
    json!({ "key": "k", "headers": headers, "payload": json!({ "n": n }).to_string() })
}

#[test]
fn they_are_listed_without_being_lost_replayed_and_purged() {
    for stand_in in [StandIn::fauxqs(), StandIn::moto()] {
        let many: Value =
            (0..12).map(|n| (format!("h{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
        let records = [
            record(json!("a"), json!({ "h": "1" })),
            record(json!(2), json!({})),
            record(json!("c"), many.clone()),
        ];
        let numbers = Numbers::new(stand_in, &records, "");
        numbers.run();
        // Looking again and again loses nothing, and does not hide them from others.
        for _ in 0..3 {
            let letters = numbers.letters();
            assert_eq!(letters.len(), 2, "{letters:?}");
            assert_eq!(letters[0]["headers"], json!({ "h": "1" }));
            assert_eq!(letters[1]["headers"], many);
            assert_eq!((&letters[0]["key"], &letters[0]["stage"]), (&json!("k"), &json!("plugin:jq")));
            assert_eq!(letters[0]["payload"], json!({ "n": "a" }).to_string());
        }
        let (_, err) = numbers.dlq("list", &[]);
        assert!(err.contains("each look counts as a receive of these messages"), "{err}");
        let id = numbers.letters()[0]["id"].as_str().expect("an id").to_owned();
        let (out, _) = numbers.dlq("show", &[&id]);
        assert!(out.contains(&id), "{out}");

        // Whoever reads the queue finds the messages as they were, with one attribute more.
        let look = "got = client('sqs').receive_message(QueueUrl=sys.argv[1], MaxNumberOfMessages=10, VisibilityTimeout=0, MessageAttributeNames=['All'])\n\
                    print(json.dumps(sorted([m['Body'], sorted(m['MessageAttributes'])] for m in got['Messages'])))";
        let seen: Value = serde_json::from_str(&python(stand_in, look, &[&numbers.dead.url])).expect("JSON");
        let expected = json!([
            ["{\"n\":\"a\"}", ["h", "millstream-dead-letter"]],
            ["{\"n\":\"c\"}", ["millstream-dead-letter"]]
        ]);
        assert_eq!(seen, expected);

        numbers.configure(".n", "");
        numbers.dlq("replay", &[&id]);
        assert_eq!(numbers.folder.lines("out.ndjson"), ["2", "\"a\""]);
        assert_eq!(numbers.letters().len(), 1);
        numbers.dlq("purge", &["--all", "--yes"]);
        assert_eq!(numbers.letters().len(), 0);
        assert_eq!(numbers.dead.drain(0).len(), 0);
    }
}

#[test]
fn what_is_too_large_for_the_queue_goes_to_s3_or_to_the_embedded_store() {
    let stand_in = StandIn::fauxqs();
    let large = record(json!("x".repeat(1_100_000)), json!({}));
    let without = Numbers::new(stand_in, std::slice::from_ref(&large), "");
    without.run();
    assert_eq!(without.letters().len(), 1);
    assert_eq!(without.dead.drain(0).len(), 0);

    let bucket = unique("letters");
    let create = "client('s3').create_bucket(Bucket=sys.argv[1], CreateBucketConfiguration={'LocationConstraint': 'eu-central-1'})";
    python(stand_in, create, &[&bucket]);
    let with = Numbers::new(
        stand_in,
        std::slice::from_ref(&large),
        &format!("claim_check = {{ bucket = \"{bucket}\" }}"),
    );
    with.run();
    assert_eq!(with.letters()[0]["payload"], large["payload"]);
    with.configure(".n | length", &format!("claim_check = {{ bucket = \"{bucket}\" }}"));
    with.dlq("replay", &["--all"]);
    assert_eq!(with.folder.lines("out.ndjson"), ["1100000"]);
    let objects = python(
        stand_in,
        "print(client('s3').list_objects_v2(Bucket=sys.argv[1]).get('KeyCount', 0))",
        &[&bucket],
    );
    assert_eq!(objects.trim(), "0");
}

#[test]
fn what_a_redrive_policy_put_there_is_shown_and_sqs_moves_it_back() {
    let stand_in = StandIn::elasticmq();
    let numbers = Numbers::new(stand_in, &[], "");
    let source = unique("source");
    // Received twice without being deleted, they go to the other queue.
    let redrive = "sqs = client('sqs')\n\
                   policy = json.dumps({'deadLetterTargetArn': sys.argv[2], 'maxReceiveCount': '1'})\n\
                   url = sqs.create_queue(QueueName=sys.argv[1], Attributes={'RedrivePolicy': policy})['QueueUrl']\n\
                   for n in range(3): sqs.send_message(QueueUrl=url, MessageBody=json.dumps({'number': n}))\n\
                   for _ in range(6): sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)";
    python(stand_in, redrive, &[&source, &numbers.dead.arn()]);
    let letters = numbers.letters();
    assert_eq!(letters.len(), 3, "{letters:?}");
    assert_eq!((&letters[0]["code"], &letters[0]["stage"]), (&json!("redrive"), &json!("source")));
    let (_, err) = numbers.dlq("move", &["--per-second", "100"]);
    assert!(err.contains("completed: 3") && err.contains("3 messages were moved"), "{err}");
    assert_eq!(numbers.letters().len(), 0);
    let mut moved = Queue::create(stand_in, &source).numbers(3);
    moved.sort_unstable();
    assert_eq!(moved, [0, 1, 2]);
}

#[test]
fn a_queue_that_sqs_does_not_move_messages_of_is_told() {
    let stand_in = StandIn::elasticmq();
    let numbers = Numbers::new(stand_in, &[], "");
    let (done, _, err) = run(&["dlq", "move", &numbers.file()]);
    assert!(!done && err.contains("StartMessageMoveTask of"), "{err}");
    let (done, _, err) = run(&["dlq", "move", &numbers.file(), "--cancel"]);
    assert!(!done && err.contains("no task moves messages"), "{err}");
}
