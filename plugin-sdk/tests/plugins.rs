//! Plugins of each kind, through the harness.

use millstream_sdk::prelude::*;
use millstream_sdk::testing::{Harness, Outcome, Record, RequestError, Response};
use millstream_sdk::{clock, http, metrics, random};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct MinimumConfig {
    /// Orders below this are dropped.
    minimum: f64,
}

struct Minimum(f64);

impl Plugin for Minimum {
    type Config = MinimumConfig;
    const NAME: &'static str = "minimum";
    const SUMMARY: &'static str = "Keeps orders of at least a minimum.";

    fn new(config: MinimumConfig) -> Result<Self, ConfigError> {
        if config.minimum < 0.0 {
            return Err(ConfigError::at("/minimum", "must not be negative"));
        }
        Ok(Minimum(config.minimum))
    }
}

#[derive(Deserialize)]
struct Order<'a> {
    id: &'a str,
    total: f64,
}

impl Filter for Minimum {
    fn keep(&mut self, message: &Message<'_>) -> Result<bool, Failure> {
        let order: Order<'_> = message.json()?;
        if order.id.is_empty() {
            return Err(Failure::retry("no-id", "the order has no id yet"));
        }
        Ok(order.total >= self.0)
    }
}

#[test]
fn a_filter_passes_drops_rejects_and_retries() {
    let mut plugin = Harness::new::<Minimum, _>(json!({ "minimum": 10 })).unwrap();
    let outcomes = plugin.run(&[
        Record::json(json!({ "id": "a", "total": 10 })),
        Record::json(json!({ "id": "b", "total": 9.5 })),
        Record::text("no json"),
        Record::null(),
        Record::json(json!({ "id": "", "total": 1 })),
        Record::new(*b"{\"id\": \"\xff\", \"total\": 1}"),
    ]);
    assert_eq!(outcomes[0], Outcome::Pass);
    assert_eq!(outcomes[1], Outcome::Drop);
    assert!(
        matches!(&outcomes[2], Outcome::Reject { code, .. } if code == "payload-not-json"),
        "{outcomes:?}"
    );
    assert!(matches!(&outcomes[3], Outcome::Reject { code, .. } if code == "payload-null"), "{outcomes:?}");
    assert_eq!(outcomes[5].code(), Some("payload-not-json"));
    assert_eq!(outcomes[4], Outcome::Retry { code: "no-id".into(), text: "the order has no id yet".into() });
}

#[test]
fn a_bad_configuration_names_the_field() {
    let field = |config| Harness::new::<Minimum, _>(config).err().map(|error| error.field);
    assert_eq!(field(json!({ "minimum": -1 })).as_deref(), Some("/minimum"));
    assert_eq!(field(json!({ "minimum": "1" })).as_deref(), Some("/minimum"));
    assert_eq!(field(json!({})).as_deref(), Some("/minimum"));
    assert_eq!(field(json!({ "minimum": 1, "maximum": 2 })).as_deref(), Some("/maximum"));
    let schema = Harness::new::<Minimum, _>(json!({ "minimum": 1 })).unwrap().config_schema();
    assert_eq!(schema["properties"]["minimum"]["description"], "Orders below this are dropped.");
}

struct Shorten;

impl Plugin for Shorten {
    type Config = NoConfig;
    const NAME: &'static str = "shorten";
    const SUMMARY: &'static str = "Keeps the id.";

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Shorten)
    }
}

impl Map for Shorten {
    fn map(&mut self, message: &Message<'_>) -> Result<impl Serialize, Failure> {
        let order: Order<'_> = message.json()?;
        Ok([order.id])
    }
}

#[test]
fn a_map_keeps_key_headers_and_timestamp() {
    let mut plugin = Harness::new::<Shorten, _>(json!({})).unwrap();
    let order = Record::json(json!({ "id": "a", "total": 1 })).key("k").header("h", "1").timestamp_ms(5);
    let mut shortened = order.clone();
    shortened.payload = Some(b"[\"a\"]".to_vec());
    let outcomes = plugin.run(&[order, Record::text("{}")]);
    assert_eq!(outcomes[0], Outcome::Emit(vec![shortened]));
    assert_eq!(outcomes[1].code(), Some("payload-not-json"));
}

/// Does what the first byte of the payload says, to the rest.
struct Everything;

impl Plugin for Everything {
    type Config = NoConfig;
    const NAME: &'static str = "everything";
    const SUMMARY: &'static str = "Does what it is told.";
    const READS: Reads = Reads::PAYLOAD.and(Reads::KEY).and(Reads::HEADERS).and(Reads::METADATA);

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Everything)
    }
}

impl Process for Everything {
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        use std::io::Write;
        let payload = message.payload().unwrap_or_default();
        let (what, rest) = payload.split_at(payload.len().min(1));
        match what {
            b"p" => return Ok(Verdict::Pass),
            b"0" => {}
            b"2" => {
                out.emit().payload(rest).timestamp_ms(7);
                out.emit().payload(b"new").key(b"other").routes(&["a", "b"]);
            }
            b"h" => {
                out.emit().remove_header("A").set_header("b", "3").set_header("B", rest);
                out.emit().clear_headers().set_header("c", message.key().unwrap_or_default());
            }
            b"n" => {
                out.emit().null_payload().no_key();
            }
            b"w" => {
                let mut writer = out.emit().payload_writer();
                write!(writer, "{}-{}", message.partition(), message.offset()).unwrap();
                writer.done().routes(&["a", "b"]);
            }
            b"f" => {
                log::warn(format_args!("about {}", message.row()));
                out.emit().payload_json("written before the failure")?.set_header("x", "y").timestamp_ms(1);
                out.emit();
                return Err(Failure::reject("failed", "as told"));
            }
            b"j" => {
                out.emit().payload_json(&std::collections::BTreeMap::from([(vec![1], 2)]))?;
            }
            b"v" => {
                out.emit();
                return Ok(Verdict::Pass);
            }
            _ => panic!("unknown order"),
        }
        Ok(Verdict::Emit)
    }
}

fn everything() -> Harness {
    Harness::new::<Everything, _>(json!({})).unwrap()
}

#[test]
fn process_emits_any_number_of_messages() {
    let mut plugin = everything().at(3, 40);
    let outcomes = plugin.run(&[
        Record::text("0"),
        Record::text("p"),
        Record::text("2rest").key("k").timestamp_ms(5),
        Record::text("n").key("k"),
        Record::text("w").timestamp_ms(6),
    ]);
    assert_eq!(outcomes[0], Outcome::Emit(vec![]));
    assert_eq!(outcomes[1], Outcome::Pass);
    assert_eq!(
        outcomes[2],
        Outcome::Emit(vec![
            Record::text("rest").key("k").timestamp_ms(7),
            Record::text("new").key("other").timestamp_ms(5).route("a").route("b"),
        ])
    );
    assert_eq!(outcomes[3], Outcome::Emit(vec![Record::null()]));
    assert_eq!(outcomes[4], Outcome::Emit(vec![Record::text("3-44").timestamp_ms(6).route("a").route("b")]));
}

#[test]
fn headers_are_set_removed_and_replaced() {
    let message = Record::text("hrest").key("k").header("a", "1").header("B", "2").header("z", "26");
    let outcome = everything().run_one(message.clone());
    let mut edited = message.clone();
    edited.headers.clear();
    let edited = edited.header("z", "26").header("b", "3").header("B", "rest");
    let mut replaced = message;
    replaced.headers.clear();
    let replaced = replaced.header("c", "k");
    assert_eq!(outcome, Outcome::Emit(vec![edited, replaced]));
}

#[test]
fn what_a_failed_message_emitted_is_discarded() {
    let mut plugin = everything();
    let outcomes = plugin.run(&[
        Record::text("2a"),
        Record::text("f"),
        Record::text("2b"),
        Record::text("j"),
        Record::text("ha"),
    ]);
    let payloads: Vec<Vec<Vec<u8>>> = outcomes
        .iter()
        .map(|outcome| {
            let records = outcome.messages(&Record::null());
            records.into_iter().map(|record| record.payload.unwrap_or_default()).collect()
        })
        .collect();
    assert_eq!(payloads[0], [b"a".to_vec(), b"new".to_vec()]);
    assert_eq!(outcomes[1], Outcome::Reject { code: "failed".into(), text: "as told".into() });
    assert_eq!(payloads[2], [b"b".to_vec(), b"new".to_vec()]);
    assert_eq!(outcomes[3].code(), Some("output-not-json"));
    assert_eq!(payloads[4].len(), 2);
    let logs = plugin.logs();
    assert_eq!(logs.len(), 1);
    assert_eq!((logs[0].row, logs[0].message.as_str()), (Some(1), "about 1"));
}

#[test]
#[should_panic(expected = "return Verdict::Emit to send them")]
fn emitting_without_saying_so_is_a_panic() {
    everything().run_one(Record::text("v"));
}

/// Looks all keys of a batch up at once.
struct Join;

impl Plugin for Join {
    type Config = NoConfig;
    const NAME: &'static str = "join";
    const SUMMARY: &'static str = "Looks up keys.";
    const READS: Reads = Reads::KEY;

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Join)
    }
}

impl Process for Join {
    fn process(&mut self, message: &Message<'_>, _: &mut Output) -> Result<Verdict, Failure> {
        message.payload();
        Ok(Verdict::Pass)
    }

    fn process_batch(&mut self, batch: &Batch<'_>, out: &mut Output) {
        let keys: Vec<&[u8]> = batch.messages().filter_map(|message| message.key()).collect();
        let found = lookup::get_many("people", &keys);
        let mut next = 0;
        for message in batch.messages() {
            if message.key() == Some(b"skip") {
                continue;
            }
            let verdict = match (&found, message.key()) {
                (Err(error), _) => Err(error.clone().into()),
                (Ok(_), None) => Ok(Verdict::Drop),
                (Ok(found), Some(_)) => {
                    next += 1;
                    found.get::<Person<'_>>(next - 1).map(|person| match person {
                        Some(person) => {
                            out.emit().set_header("name", person.name);
                            Verdict::Emit
                        }
                        None => Verdict::Pass,
                    })
                }
            };
            out.settle(verdict);
        }
    }
}

#[derive(Deserialize)]
struct Person<'a> {
    name: &'a str,
}

#[test]
fn a_batch_is_looked_up_at_once() {
    let people = [("1", json!({ "name": "ada" })), ("2", json!({ "nam": "bob" }))];
    let mut plugin = Harness::new::<Join, _>(json!(null)).unwrap().table("people", people);
    let records = [Record::null().key("3"), Record::null(), Record::null().key("1"), Record::null().key("2")];
    let outcomes = plugin.run(&records);
    assert_eq!(outcomes[0], Outcome::Pass);
    assert_eq!(outcomes[1], Outcome::Drop);
    assert_eq!(outcomes[2], Outcome::Emit(vec![Record::null().key("1").header("name", "ada")]));
    assert_eq!(outcomes[3].code(), Some("lookup-row"));
}

#[test]
fn a_table_that_is_not_granted_is_named() {
    let outcome = Harness::new::<Join, _>(json!({})).unwrap().run_one(Record::null().key("1"));
    assert!(
        matches!(&outcome, Outcome::Reject { code, text } if code == "not-granted" && text.contains("`people`")),
        "{outcome:?}"
    );
}

#[test]
#[should_panic(expected = "settled 1 messages of a batch of 2")]
fn a_message_that_is_not_settled_is_a_panic() {
    let mut plugin = Harness::new::<Join, _>(json!({})).unwrap().table("people", [("1", json!({}))]);
    plugin.run(&[Record::null().key("skip"), Record::null()]);
}

/// Reads a column that it does not declare.
struct Curious;

impl Plugin for Curious {
    type Config = NoConfig;
    const NAME: &'static str = "curious";
    const SUMMARY: &'static str = "Reads what it may not.";

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Curious)
    }
}

impl Filter for Curious {
    fn keep(&mut self, message: &Message<'_>) -> Result<bool, Failure> {
        Ok(message.header("a").is_some())
    }
}

#[test]
#[should_panic(expected = "add Reads::HEADERS to READS")]
fn reading_what_is_not_declared_is_a_panic_that_tells_the_remedy() {
    Harness::new::<Curious, _>(json!({})).unwrap().run_one(Record::null());
}

/// Stamps what it could get a price for.
struct Priced;

impl Plugin for Priced {
    type Config = NoConfig;
    const NAME: &'static str = "priced";
    const SUMMARY: &'static str = "Asks the host for all it has.";

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Priced)
    }
}

impl Process for Priced {
    fn process(&mut self, message: &Message<'_>, out: &mut Output) -> Result<Verdict, Failure> {
        let now = clock::now()?;
        let id = random::bytes(2)?;
        let answer =
            http::send_many("prices", &[http::Request::get(format!("/{}", message.text()?))])?.remove(0)?;
        let entry =
            state::Entry { row: message.row(), key: message.payload().unwrap_or_default(), value: Some(b"") };
        if !state::insert_if_absent("seen", &[entry], 1000)?[0] {
            return Ok(Verdict::Drop);
        }
        metrics::count("priced", 1)?;
        metrics::observe("status", f64::from(answer.status))?;
        out.emit().payload_json(&json!([now, id.len(), String::from_utf8_lossy(&answer.body)]))?;
        Ok(Verdict::Emit)
    }
}

#[test]
fn what_the_harness_grants_is_there_and_the_rest_is_told() {
    let granted = |harness: Harness| {
        harness.random().state("seen").metrics().server("prices", |request| match request.path.as_str() {
            "/down" => Err(RequestError::Timeout("no answer within 5s".into())),
            path => Ok(Response { status: 200, headers: Vec::new(), body: path.into() }),
        })
    };
    let mut plugin = granted(Harness::new::<Priced, _>(json!({})).unwrap()).clock().now_ms(5);
    let outcomes = plugin.run(&[Record::text("a"), Record::text("down"), Record::text("a")]);
    assert_eq!(outcomes[0], Outcome::Emit(vec![Record::json(json!([5_000_000, 2, "/a"]))]));
    assert!(matches!(&outcomes[1], Outcome::Retry { code, .. } if code == "http-timeout"), "{outcomes:?}");
    assert_eq!(outcomes[2], Outcome::Drop);
    let names: Vec<String> = plugin.points().into_iter().map(|point| point.name).collect();
    assert_eq!(names, ["priced", "status"]);
    assert!(matches!(plugin.now_ms(1005).run_one(Record::text("a")), Outcome::Emit(_)), "its time is over");

    let mut without = granted(Harness::new::<Priced, _>(json!({})).unwrap());
    let Outcome::Reject { code, text } = without.run_one(Record::text("a")) else { panic!("it has a clock") };
    assert_eq!((code.as_str(), text.contains(".clock()")), ("not-granted", true), "{text}");
}
