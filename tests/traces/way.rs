//! Parents and children, over two pipelines.

use serde_json::json;

use super::{PARENT, TRACE, all, one, post, runtime, start, stop, traceparent, tracing};
use crate::services::otlp::Receiver;
use crate::support::{Folder, run};

/// Each message of a split has a span of its own, whatever a plugin does to payloads.
const SPLIT: &str = "[[plugin]]\nuse = \"jq\"\nconfig = { program = \"if .parts then .parts[] else . end\" }\n\
                     [[plugin]]\nuse = \"identity\"\n";

#[test]
fn a_message_is_followed_through_two_pipelines() {
    let (folder, runtime, receiver) = (Folder::new(), runtime(), Receiver::start());
    let to_file = "[[plugin]]\nuse = \"identity\"\n[[sink]]\ntype = \"file\"\npath = \"out.ndjson\"\ncodec = \"record\"\n";
    let second = Folder::new();
    let (mut behind, url) =
        start(&second, "behind", &format!("{}{to_file}", tracing(&receiver, "ratio = 0")));
    let forward = "forward_headers = [\"correlation-id\"]";
    let to_behind = format!("{SPLIT}[[sink]]\ntype = \"http\"\nurl = {url:?}\n{forward}\n");
    let keys = "ratio = 0\nservice_name = \"shop\"";
    let (mut before, url) = start(&folder, "before", &format!("{}{to_behind}", tracing(&receiver, keys)));

    let sampled = traceparent("01");
    let headers = [("traceparent", &*sampled), ("tracestate", "a=1"), ("correlation-id", "process-1")];
    assert_eq!(post(&runtime, &url, &headers, r#"{"parts":[{"n":1},{"n":2}]}"#), 200);
    let unsampled = traceparent("00").replace(TRACE, &"1".repeat(32));
    assert_eq!(post(&runtime, &url, &[("traceparent", &unsampled)], r#"{"n":3}"#), 200);
    let other = "2".repeat(32);
    let envelope = json!({
        "id": "id-4", "correlationId": "process-4",
        "_trace": { "traceId": other, "spanId": PARENT, "sampled": true },
    });
    assert_eq!(post(&runtime, &url, &[], &envelope.to_string()), 200);
    assert_eq!(post(&runtime, &url, &[], r#"{"n":5}"#), 200);
    stop(&mut before);
    stop(&mut behind);

    let spans = receiver.spans();
    let of_trace =
        |trace: &str| -> Vec<_> { spans.iter().filter(|span| span.trace == trace).cloned().collect() };
    let first = of_trace(TRACE);
    let received = one(&first, "before", "receive /before");
    assert_eq!((received.parent.as_str(), received.kind, received.state.as_str()), (PARENT, 5, "a=1"));
    let split = one(&first, "before", "plugin jq");
    assert_eq!((&split.parent, split.kind), (&received.id, 1));
    assert_eq!(split.attribute("millstream.plugin.verdict"), "emit");
    let passed = one(&first, "before", "plugin identity");
    assert_eq!(passed.parent, split.id);
    let sent = all(&first, "before", &format!("send {}", url_behind(&second, &behind.log())));
    assert_eq!(sent.len(), 2, "{first:#?}");
    let received_behind = all(&first, "behind", "receive /behind");
    assert_eq!(received_behind.len(), 2, "{first:#?}");
    for sent in &sent {
        assert_eq!((&sent.parent, sent.kind), (&passed.id, 4));
        let received: Vec<_> = received_behind.iter().filter(|span| span.parent == sent.id).collect();
        assert_eq!(received.len(), 1, "each message that was sent is received once: {first:#?}");
        assert_eq!(received[0].state, "a=1");
    }
    assert_eq!(first.len(), 5 + 2 * 3, "{first:#?}");
    for span in &first {
        assert_eq!(span.attribute("messaging.message.conversation_id"), "process-1", "{span:#?}");
        assert_eq!(span.attribute("service.version"), env!("CARGO_PKG_VERSION"));
        assert!(span.nanos >= 0 && span.error.is_none(), "{span:#?}");
    }
    assert_eq!(received.attribute("service.name"), "shop");
    assert_eq!(received_behind[0].attribute("service.name"), "millstream");
    assert_eq!(received.attribute("messaging.operation.type"), "receive");
    assert_eq!(received.attribute("messaging.system"), "http");
    assert_eq!(received.attribute("messaging.destination.name"), "/before");

    let fourth = of_trace(&other);
    let received = one(&fourth, "before", "receive /before");
    assert_eq!(received.parent, PARENT, "its parent stands in the envelope");
    assert_eq!(received.attribute("messaging.message.id"), "id-4");
    assert_eq!(received.attribute("messaging.message.conversation_id"), "process-4");
    assert_eq!(fourth.len(), 4 + 3, "{fourth:#?}");
    assert_eq!(spans.len(), first.len() + fourth.len(), "nothing else is sampled: {spans:#?}");

    // What the last sink wrote names the span of writing it.
    let written = second.lines("out.ndjson");
    assert_eq!(written.len(), 5);
    let of = |part: &str| written.iter().find(|line| line.contains(part)).expect("it was written").as_str();
    for (part, trace) in [(r#"{\"n\":1}"#, TRACE), (r#"{\"n\":2}"#, TRACE), ("id-4", &other)] {
        let last = spans
            .iter()
            .find(|span| span.kind == 4 && of(part).contains(&format!("00-{trace}-{}-01", span.id)));
        assert!(last.is_some_and(|span| span.name == "send out.ndjson"), "{}", of(part));
        assert_eq!(of(part).matches("traceparent").count(), 1, "{}", of(part));
    }
    assert!(of(r#"{\"n\":3}"#).contains(&unsampled), "an unsampled context is passed on");
    assert!(!of(r#"{\"n\":5}"#).contains("traceparent"));
}

fn url_behind(_: &Folder, log: &str) -> String {
    let line = log.lines().find(|line| line.contains("sources::http: listening")).expect("it listens");
    let address = line.split_once("addr=").expect("an address").1.split_whitespace().next().expect("one");
    format!("http://{address}/behind")
}

#[test]
fn without_a_section_contexts_go_through_untouched() {
    let (folder, runtime) = (Folder::new(), runtime());
    let second = Folder::new();
    let to_file = "[[sink]]\ntype = \"file\"\npath = \"out.ndjson\"\ncodec = \"record\"\n";
    let (mut behind, url) = start(&second, "behind", to_file);
    let (mut before, url) = start(&folder, "before", &format!("[[sink]]\ntype = \"http\"\nurl = {url:?}\n"));
    let payload = format!(r#"{{"_trace":"{}"}}"#, traceparent("01"));
    let sampled = traceparent("01");
    assert_eq!(post(&runtime, &url, &[("traceparent", &sampled), ("tracestate", "a=1,b=2")], &payload), 200);
    stop(&mut before);
    stop(&mut behind);
    let written = second.lines("out.ndjson");
    let record: serde_json::Value = serde_json::from_str(&written[0]).expect("a record");
    assert_eq!(record["headers"]["traceparent"], sampled);
    assert_eq!(record["headers"]["tracestate"], "a=1,b=2");
    assert_eq!(record["payload"], payload);
}

/// P8: the last spans are exported before the process ends.
#[test]
fn p8_every_message_is_traced_with_the_ratio_1_and_none_with_0() {
    for (ratio, traced) in [("1", 300), ("0", 0), ("0.2", 60)] {
        let (folder, receiver) = (Folder::new(), Receiver::start());
        folder.write("in.ndjson", &(0..300).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
        let tracing = tracing(&receiver, &format!("ratio = {ratio}"));
        let rest = "[source]\ntype = \"file\"\npath = \"in.ndjson\"\n[[plugin]]\nuse = \"identity\"\n\
                    [[sink]]\ntype = \"file\"\npath = \"out.ndjson\"\n[[sink]]\ntype = \"drop\"\n";
        let pipeline = folder.write("all.toml", &format!("name = \"all\"\n{tracing}{rest}"));
        let (status, _, errors) = run(&["run", pipeline.to_str().expect("UTF-8")]);
        assert!(status.success(), "{errors}");
        let spans = receiver.spans();
        let traces: std::collections::HashSet<_> = spans.iter().map(|span| &span.trace).collect();
        let deviation = if ratio == "0.2" { 30 } else { 0 };
        assert!(traces.len().abs_diff(traced) <= deviation, "{} traces with the ratio {ratio}", traces.len());
        // One for each sink.
        assert_eq!(spans.len(), traces.len() * 4);
        for (name, kind) in [("send out.ndjson", 4), ("send drop", 4), ("plugin identity", 1)] {
            let of_name: Vec<_> =
                spans.iter().filter(|span| span.name == name && span.kind == kind).collect();
            assert_eq!(of_name.len(), traces.len(), "{name}");
        }
        // The same ones whenever they are read again.
        let position = |span: &crate::services::otlp::Span| span.attribute("millstream.position").to_owned();
        let first: std::collections::BTreeSet<_> = spans.iter().map(position).collect();
        std::fs::remove_dir_all(folder.path(".millstream")).expect("its data folder");
        let (status, _, errors) = run(&["run", pipeline.to_str().expect("UTF-8")]);
        assert!(status.success(), "{errors}");
        let again: std::collections::BTreeSet<_> =
            receiver.spans()[spans.len()..].iter().map(position).collect();
        assert_eq!(first, again);
    }
}
