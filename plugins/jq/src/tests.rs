use millstream_sdk::log::Level;
use millstream_sdk::testing::{Harness, Outcome, Record, check_fixtures};
use serde_json::{Value, json};

use super::*;

const FOLDER: &str = env!("CARGO_MANIFEST_DIR");

fn jq(program: &str) -> Harness {
    Harness::new::<Jq, _>(json!({ "program": program })).unwrap()
}

fn error(config: Value) -> ConfigError {
    match Harness::new::<Jq, _>(config) {
        Ok(_) => panic!("the configuration was taken"),
        Err(error) => error,
    }
}

#[test]
fn no_output_drops_one_replaces_many_split() {
    let order = json!({ "id": 7, "items": [{ "sku": "a" }, { "sku": "b" }] });
    let order = Record::json(order).key("7").header("h", "v");
    assert_eq!(jq("select(.id == 8)").run_one(order.clone()), Outcome::Drop);
    assert_eq!(jq("select(.id == 7)").run_one(order.clone()), Outcome::Pass);
    let line = |payload: Value| Record::json(payload).key("7").header("h", "v");
    assert_eq!(jq("{id}").run_one(order.clone()), Outcome::Emit(vec![line(json!({ "id": 7 }))]));
    assert_eq!(
        jq(".items[]").run_one(order.clone()),
        Outcome::Emit(vec![line(json!({ "sku": "a" })), line(json!({ "sku": "b" }))])
    );
    assert_eq!(jq("., .id").run_one(order.clone()), Outcome::Emit(vec![order, line(json!(7))]));
}

#[test]
fn a_program_sees_the_whole_message() {
    let program = "[$key, $headers, $timestamp, $source, now, $ENV, env]";
    let mut plugin = jq(program).source("orders").now_ms(1_700_000_000_500);
    let message = Record::json(1).key("k").header("h", "1").header("h", "2").timestamp_ms(1_699_999_999_999);
    let Outcome::Emit(records) = plugin.run_one(message) else { panic!("a message comes out") };
    assert_eq!(
        records[0].payload_json(),
        json!(["k", { "h": "1" }, 1_699_999_999_999_i64, "orders", 1_700_000_000.5, {}, {}])
    );
    let Outcome::Emit(records) = jq("[$key, $headers]").run_one(Record::json(1)) else { panic!() };
    assert_eq!(records[0].payload_json(), json!([null, {}]));
}

#[test]
fn a_null_payload_is_null_and_stays_so() {
    assert_eq!(jq(".").run_one(Record::null()), Outcome::Pass);
    assert_eq!(jq("select(.)").run_one(Record::null()), Outcome::Drop);
    assert_eq!(
        jq("{gone: (. == null)}").run_one(Record::null()).messages(&Record::null())[0].payload_json(),
        json!({ "gone": true })
    );
}

#[test]
fn an_error_rejects_unless_told_otherwise() {
    let broken = Record::json(json!({ "a": "text" }));
    let with = |on_error: &str| {
        Harness::new::<Jq, _>(json!({ "program": "1, .a.b", "on_error": on_error })).unwrap()
    };
    let text = r#"cannot index "text" with "b""#.to_owned();
    let rejected = Outcome::Reject { code: "jq-error".into(), text: text.clone() };
    assert_eq!(with("reject").run_one(broken.clone()), rejected);
    for (on_error, outcome) in [("drop", Outcome::Drop), ("pass", Outcome::Pass)] {
        let mut plugin = with(on_error);
        assert_eq!(plugin.run_one(broken.clone()), outcome);
        let logs = plugin.logs();
        assert!(logs[0].message.contains(&text), "{logs:?}");
    }
    // What is not JSON is no error of the program.
    assert_eq!(with("pass").run_one(Record::text("{a:1}")).code(), Some("payload-not-json"));
}

#[test]
fn outputs_have_a_limit() {
    let config = json!({ "program": "range(.)", "max_outputs": 3 });
    let mut plugin = Harness::new::<Jq, _>(config).unwrap();
    assert_eq!(plugin.run_one(Record::json(3)).messages(&Record::json(3)).len(), 3);
    assert_eq!(plugin.run_one(Record::json(4)).code(), Some("jq-error"));
    assert_eq!(jq("repeat(1)").run_one(Record::json(1)).code(), Some("jq-error"));
}

#[test]
fn debug_writes_to_the_log() {
    let mut plugin = jq("debug | stderr");
    assert_eq!(plugin.run_one(Record::text(r#"{"a": 1}"#)), Outcome::Pass);
    let logs: Vec<_> = plugin.logs().into_iter().map(|line| (line.level, line.row, line.message)).collect();
    let line = |level| (level, Some(0), r#"{"a":1}"#.to_owned());
    assert_eq!(logs, [line(Level::Debug), line(Level::Warn)]);
}

#[test]
fn a_bad_program_is_an_error_of_its_field() {
    let error = error(json!({ "program": ".a |\n foo" }));
    assert_eq!(error, ConfigError::at("/program", "line 2, column 2: undefined filter foo"));
}

#[test]
fn the_fixtures_hold() {
    check_fixtures(FOLDER, || Harness::of_example::<Jq, _>(FOLDER, &[]));
}
