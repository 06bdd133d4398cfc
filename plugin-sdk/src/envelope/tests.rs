use serde_json::json;

use super::*;
use crate::testing::{Harness, Record};
use crate::{ConfigError, NoConfig, Plugin};

fn draft(id: &str) -> Draft {
    Draft { id: id.to_owned(), timestamp: "2024-02-29T12:00:00.000Z".to_owned() }
}

fn cause(fields: Value) -> Envelope<Value> {
    let mut all = json!({
        "id": "a", "type": "order.placed", "timestamp": "2024-02-29T11:00:00.000Z", "source": "shop",
        "specversion": "1.0", "data": { "order": 7 }, "metadata": {},
    });
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

#[test]
fn the_first_event_of_a_process_is_correlated_to_itself() {
    let envelope = Envelope::new(draft("x"), "order.placed", "shop", json!({ "order": 7 }));
    assert_eq!(
        serde_json::to_value(&envelope).unwrap(),
        json!({
            "id": "x", "type": "order.placed", "timestamp": "2024-02-29T12:00:00.000Z", "source": "shop",
            "specversion": "1.0", "data": { "order": 7 }, "metadata": {}, "correlationId": "x",
        })
    );
}

#[test]
fn what_is_caused_goes_on_with_process_and_trace() {
    let trace = json!({ "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" });
    let first = cause(json!({ "correlationId": "process", "causationId": "0", "_trace": trace, "extra": 1 }));
    let second = Envelope::caused_by(draft("b"), &first, "payment.requested", "orders", 1);
    assert_eq!(second.correlation_id.as_deref(), Some("process"));
    assert_eq!(second.causation_id.as_deref(), Some("a"));
    assert_eq!(second.trace, Some(trace));
    assert!(second.other.is_empty(), "fields of the cause's own are not those of what it causes");

    let alone = Envelope::caused_by(draft("b"), &cause(json!({})), "payment.requested", "orders", 1);
    assert_eq!((alone.correlation_id.as_deref(), alone.trace), (Some("a"), None));
}

#[test]
fn fields_that_nobody_knows_are_kept() {
    let fields = json!({ "correlationId": "process", "_trace": { "a": [1] }, "tenant": { "id": 9 } });
    let envelope = cause(fields);
    let again: Value = serde_json::to_value(&envelope).unwrap();
    assert_eq!((&again["tenant"], &again["_trace"]), (&json!({ "id": 9 }), &json!({ "a": [1] })));
    assert_eq!(serde_json::from_value::<Envelope<Value>>(again).unwrap(), envelope);
}

#[test]
fn a_missing_field_is_told_by_its_name() {
    let error = serde_json::from_value::<Envelope<Value>>(json!({ "id": "a" })).unwrap_err();
    assert!(error.to_string().contains("`type`"), "{error}");
}

#[test]
fn times_have_milliseconds_and_four_digits_of_a_year() {
    assert_eq!(timestamp(0).unwrap(), "1970-01-01T00:00:00.000Z");
    assert_eq!(timestamp(253_402_300_799_999).unwrap(), "9999-12-31T23:59:59.999Z");
    assert!(timestamp(253_402_300_800_000).is_err());
}

struct Answer;

impl Plugin for Answer {
    type Config = NoConfig;
    const NAME: &'static str = "answer";
    const SUMMARY: &'static str = "Makes an event that another one causes.";

    fn new(_: NoConfig) -> Result<Self, ConfigError> {
        Ok(Answer)
    }
}

impl crate::Map for Answer {
    fn map(&mut self, message: &Message<'_>) -> Result<impl Serialize, Failure> {
        let cause: Envelope<Value> = message.json()?;
        Ok(Envelope::caused_by(Draft::of(message)?, &cause, "payment.requested", "orders", 1))
    }
}

#[test]
fn an_id_is_drawn_from_what_is_granted_and_the_time_is_that_of_the_batch() {
    let record = Record::json(serde_json::to_value(cause(json!({}))).unwrap());
    let harness = || Harness::new::<Answer, _>(json!({})).unwrap().now_ms(1_709_208_000_123);
    assert_eq!(harness().run_one(record.clone()).code(), Some("not-granted"));

    let mut granted = harness().random();
    let mut event = || {
        let made = granted.run_one(record.clone()).messages(&record);
        serde_json::from_slice::<Envelope<Value>>(made[0].payload.as_deref().unwrap()).unwrap()
    };
    let (first, second) = (event(), event());
    assert_eq!(first.timestamp, "2024-02-29T12:00:00.123Z");
    assert_eq!(Uuid::try_parse(&first.id).unwrap().get_version_num(), 4);
    assert_ne!(first.id, second.id);
    assert_eq!(first.causation_id.as_deref(), Some("a"));
}
