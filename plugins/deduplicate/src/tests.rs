use millstream_sdk::testing::{Harness, Outcome, Record, check_fixtures};
use serde_json::{Value, json};

use super::*;

fn harness(config: Value) -> Harness {
    Harness::new::<Deduplicate, _>(config).unwrap().state("deduplicate")
}

fn with_id(id: &str) -> Record {
    Record::json(json!({ "id": id }))
}

#[test]
fn the_first_of_each_key_goes_on() {
    let mut plugin = harness(json!({ "by": { "pointer": "/id" } }));
    let outcomes = plugin.run(&[with_id("a"), with_id("b"), with_id("a")]);
    assert_eq!(outcomes, [Outcome::Pass, Outcome::Pass, Outcome::Drop]);
    assert_eq!(plugin.run_one(with_id("b")), Outcome::Drop);
    assert_eq!(plugin.run_one(with_id("c")), Outcome::Pass);
}

#[test]
fn a_key_is_in_a_header_or_the_messages_own() {
    let mut by_header = harness(json!({ "by": { "header": "idempotency-key" } }));
    let message = || Record::text("x").header("Idempotency-Key", "1");
    assert_eq!(by_header.run(&[message(), message()]), [Outcome::Pass, Outcome::Drop]);
    let mut by_key = harness(json!({ "by": { "key": true }, "on_duplicate": "reject" }));
    let outcomes = by_key.run(&[Record::null().key("k"), Record::text("y").key("k")]);
    assert_eq!((&outcomes[0], outcomes[1].code()), (&Outcome::Pass, Some("duplicate")));
}

#[test]
fn a_message_without_a_key_is_refused_or_goes_on() {
    let bare = || Record::json(json!({ "id": null }));
    let mut plugin = harness(json!({ "by": { "pointer": "/id" } }));
    let outcomes = plugin.run(&[bare(), with_id("a"), Record::text("no json"), with_id("a")]);
    let codes: Vec<Option<&str>> = outcomes.iter().map(Outcome::code).collect();
    assert_eq!(codes, [Some("idempotency-key-missing"), None, Some("payload-not-json"), None]);
    assert_eq!((&outcomes[1], &outcomes[3]), (&Outcome::Pass, &Outcome::Drop));
    let mut lenient = harness(json!({ "by": { "pointer": "/id" }, "on_missing": "pass" }));
    assert_eq!(lenient.run(&[bare(), bare()]), [Outcome::Pass, Outcome::Pass]);
}

#[test]
fn long_keys_are_told_apart() {
    let mut plugin = harness(json!({ "by": { "key": true } }));
    let long = |end: &str| Record::text("x").key(format!("{}{end}", "k".repeat(2000)));
    assert_eq!(plugin.run(&[long("1"), long("2"), long("1")]), [Outcome::Pass, Outcome::Pass, Outcome::Drop]);
}

#[test]
fn a_space_that_is_not_granted_is_named() {
    let mut plugin = Harness::new::<Deduplicate, _>(json!({ "by": { "key": true } })).unwrap();
    let outcome = plugin.run_one(Record::text("x").key("k"));
    assert!(
        matches!(&outcome, Outcome::Reject { code, text } if code == "not-granted" && text.contains("deduplicate"))
    );
    let error = Harness::new::<Deduplicate, _>(json!({ "by": { "pointer": "/*/id" } })).err().unwrap();
    assert_eq!(error.field, "/by/pointer");
}

#[test]
fn the_fixtures_come_out_as_expected() {
    const FOLDER: &str = env!("CARGO_MANIFEST_DIR");
    check_fixtures(FOLDER, || Harness::of_example::<Deduplicate, _>(FOLDER, &[]).state("deduplicate"));
}
