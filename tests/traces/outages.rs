//! A receiver that is not there: the pipeline goes on, and what is lost is counted.

use super::{post, runtime, start, stop, tracing, wait_for_spans};
use crate::services::otlp::Receiver;
use crate::support::{Folder, ask, metric};

const SINK: &str = "[[sink]]\ntype = \"drop\"\n";

#[test]
fn a_receiver_that_is_away_holds_up_nothing() {
    let (folder, runtime) = (Folder::new(), runtime());
    let mut receiver = Receiver::prepared();
    let keys = "ratio = 1\nqueue = 20";
    let (mut running, url) = start(&folder, "going-on", &format!("{}{SINK}", tracing(&receiver, keys)));
    let admin = running.address("admin server listening");
    let count = |name: &str| {
        let (_, page) = ask(&admin, "/metrics").expect("it runs");
        metric(&page, name, &["pipeline=\"going-on\""]).unwrap_or_default()
    };
    let send = |messages: usize| {
        (0..messages).for_each(|_| assert_eq!(post(&runtime, &url, &[], "x"), 200));
    };
    let (mut sent, mut dropped) = (0, 0);
    // A batch may be in the hands of the exporter, so the queue may be filled twice.
    while dropped == 0 {
        assert!(sent < 4_000, "nothing is dropped after {sent} messages");
        send(20);
        sent += 20;
        dropped = count("millstream_spans_dropped_total");
    }
    assert_eq!(count("millstream_spans_exported_total"), 0);

    receiver.run();
    running.wait_for("what waited is exported", |_| count("millstream_spans_exported_total") > 0);
    running.wait_for("it was said", |running| running.log().contains("spans are exported again"));
    wait_for_spans(&receiver, 20);

    receiver.stop();
    let before = count("millstream_spans_dropped_total");
    while count("millstream_spans_dropped_total") == before {
        send(20);
        sent += 20;
    }
    stop(&mut running);
    let log = running.log();
    assert_eq!(log.matches("spans are dropped").count(), 2, "once for each time that it was away: {log}");
    assert!(log.contains(&format!("read {sent}, delivered {sent}, filtered 0, dead letters 0")), "{log}");
}
