//! Traces through topics: with and without transactions.

use super::{Copy, Member};
use crate::services::kafka::{Kafka, Record};
use crate::services::otlp::{Receiver, Span};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

fn tracing(receiver: &Receiver, ratio: &str) -> String {
    format!("[tracing]\nendpoint = {:?}\nratio = {ratio}\n", receiver.url())
}

fn traced(value: &str) -> Record {
    let header = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
    let headers = vec![
        header("traceparent", &format!("00-{TRACE}-{PARENT}-01")),
        header("tracestate", "a=1"),
        header("correlation-id", "process-1"),
    ];
    Record { headers, ..Record::new(value, value) }
}

fn header(record: &Record, name: &str) -> Vec<String> {
    let of_name = record.headers.iter().filter(|(known, _)| known == name);
    of_name.map(|(_, value)| String::from_utf8_lossy(value.as_deref().unwrap_or_default()).into()).collect()
}

/// Three messages of a trace and one without, copied; what is said of it.
fn copied(exactly_once: bool) {
    let (kafka, receiver) = (Kafka::shared(), Receiver::start());
    let mut copy = Copy::new(kafka, &kafka.topic("traced", 1), &kafka.topic("traced-out", 1));
    if exactly_once {
        copy.be_exactly_once();
    }
    copy.more.push_str(&tracing(&receiver, "0"));
    kafka.produce(&copy.from, [traced("1"), traced("2"), Record::new("3", "3"), traced("4")]);
    let mut member = Member::start(&copy);
    member.wait_until_committed(kafka, &copy);
    member.stop();
    let spans = receiver.spans();
    assert!(spans.iter().all(|span| span.trace == TRACE && span.error.is_none()), "{spans:#?}");
    let of_name = |name: &str| -> Vec<&Span> { spans.iter().filter(|span| span.name == name).collect() };
    let received = of_name(&format!("receive {}", copy.from));
    let sent = of_name(&format!("send {}", copy.to));
    assert_eq!((received.len(), of_name("plugin route").len(), sent.len(), spans.len()), (3, 3, 3, 9));
    let mut offsets: Vec<&str> = Vec::new();
    for span in received {
        assert_eq!((span.parent.as_str(), span.kind, span.state.as_str()), (PARENT, 5, "a=1"));
        assert_eq!(span.attribute("messaging.system"), "kafka");
        assert_eq!(span.attribute("messaging.destination.name"), copy.from);
        assert_eq!(span.attribute("messaging.destination.partition.id"), "0");
        assert_eq!(span.attribute("messaging.message.conversation_id"), "process-1");
        offsets.push(span.attribute("messaging.kafka.offset"));
    }
    offsets.sort_unstable();
    assert_eq!(offsets, ["0", "1", "3"]);
    let records = kafka.consume(&copy.to);
    assert_eq!(records.len(), 4);
    for record in &records {
        let (parents, states) = (header(record, "traceparent"), header(record, "tracestate"));
        if record.text() == "3" {
            assert!(parents.is_empty() && states.is_empty(), "{record:?}");
            continue;
        }
        // It names the span of sending it.
        let [parent] = &parents[..] else { panic!("{record:?}") };
        assert!(sent.iter().any(|span| *parent == format!("00-{TRACE}-{}-01", span.id)), "{record:?}");
        assert_eq!(states, ["a=1"]);
    }
    assert!(sent.iter().all(|span| span.kind == 4 && span.attribute("messaging.system") == "kafka"));
}

#[test]
fn a_trace_goes_through_topics() {
    copied(false);
}

#[test]
fn a_trace_goes_through_topics_exactly_once() {
    copied(true);
}

#[test]
fn a_message_whose_transaction_was_aborted_says_so_and_is_sent_again() {
    let (kafka, receiver) = (Kafka::shared(), Receiver::start());
    let mut copy = Copy::new(kafka, &kafka.topic("aborted", 1), &kafka.topic("aborted-out", 1));
    copy.be_exactly_once();
    copy.top.push_str("\ntransaction_interval = \"4s\"");
    copy.more.push_str(&tracing(&receiver, "0"));
    let mut member = Member::start(&copy);
    member.wait_until_ready(true, "");
    kafka.produce(&copy.from, [traced("1")]);
    // An uncommitted one counts, too: it is in the middle of a transaction.
    member.wait_for("a message in the output", || kafka.count(&copy.to) > 0);
    member.running.pause();
    // Nothing else tells that the brokers have aborted it.
    std::thread::sleep(std::time::Duration::from_secs(8));
    member.running.resume();
    member.wait_until_committed(kafka, &copy);
    member.stop();
    let spans = receiver.spans();
    let sent: Vec<&Span> = spans.iter().filter(|span| span.name == format!("send {}", copy.to)).collect();
    let [failed, last] = &sent[..] else { panic!("{spans:#?}") };
    assert!(failed.error.is_some() && failed.attribute("error.type") == "aborted", "{failed:#?}");
    assert_eq!((&last.error, last.trace.as_str()), (&None, TRACE));
    let [record] = &kafka.consume(&copy.to)[..] else { panic!("once, for those who read what is committed") };
    assert_eq!(header(record, "traceparent"), [format!("00-{TRACE}-{}-01", last.id)]);
}
