use serde_json::json;

use super::super::testing::context;
use super::*;
use crate::sources::SOURCES;

fn problems(section: serde_json::Value, codec: &str) -> Vec<String> {
    let spec = SOURCES.iter().find(|spec| spec.name == "sqs").unwrap();
    let source = (spec.parse)(section).ok().unwrap();
    let mut problems = Vec::new();
    source.check(&context(codec, "{}", &Arc::default()), &mut problems);
    problems.into_iter().map(|problem| problem.at).collect()
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    assert_eq!(problems(json!({ "queue": "orders" }), "raw"), [""; 0]);
    assert_eq!(
        problems(json!({ "queue": "https://sqs.eu-central-1.amazonaws.com/1/orders.fifo" }), "json"),
        [""; 0]
    );
    let wrong = json!({
        "queue": "orders.first", "receivers": 0, "wait_time": "21s", "visibility_timeout": "1500ms",
        "max_in_flight": 120_001, "max_failures": 0,
    });
    let expected = [
        "/queue",
        "/receivers",
        "/max_in_flight",
        "/max_failures",
        "/wait_time",
        "/visibility_timeout",
        "/codec",
    ];
    assert_eq!(problems(wrong, "csv"), expected);
}

#[test]
fn a_fifo_queue_has_an_order_and_a_standard_one_has_none() {
    let unordered = |queue: &str| {
        let source = parse::<SqsSource>(json!({ "queue": queue })).ok().unwrap();
        source.traits().unordered.is_some()
    };
    assert!(unordered("orders"));
    assert!(!unordered("orders.fifo"));
    assert!(!unordered("https://sqs.eu-central-1.amazonaws.com/1/orders.fifo"));
}
