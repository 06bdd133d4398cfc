//! How members agree on who has what.

use super::{Copy, Member};
use crate::services::kafka::{Kafka, Record};

fn goes_through(kafka: &Kafka) -> String {
    let (from, to) = (kafka.topic("groups", 2), kafka.topic("groups-out", 2));
    let copy = Copy::new(kafka, &from, &to);
    let mut member = Member::start(&copy);
    kafka.produce(&from, (0..100).map(|number| Record::new(&format!("k{number}"), &number.to_string())));
    member.wait_for_messages(kafka, &to, 100);
    member.wait_until_committed(kafka, &copy);
    let log = member.running.log();
    member.stop();
    log
}

const FALLS_BACK: &str = "the broker does not know the group protocol `consumer`; taking `classic`";

#[test]
fn where_the_broker_does_not_assign_the_members_do() {
    let log = goes_through(&Kafka::with_classic_groups());
    assert!(log.contains(FALLS_BACK), "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    let log = goes_through(Kafka::shared());
    assert!(!log.contains(FALLS_BACK), "{log}");
}

#[test]
fn p1_a_start_at_the_latest_message_is_found_once() {
    let kafka = Kafka::shared();
    let (from, to) = (kafka.topic("latest", 1), kafka.topic("latest-out", 1));
    let record = |number: u64| Record::new("k", &number.to_string());
    kafka.produce(&from, (0..50).map(record));
    let mut copy = Copy::new(kafka, &from, &to);
    copy.source = "start = \"latest\"".to_owned();
    let mut member = Member::start(&copy);
    member.wait_until_ready(true, "");
    // Before it has read anything: what comes now is behind the start, whoever reads it.
    let stopped = member.kill();
    kafka.produce(&from, (50..100).map(record));
    let mut member = stopped.start();
    member.wait_for_messages(kafka, &to, 50);
    member.stop();
    let texts: Vec<String> = kafka.consume(&to).iter().map(|record| record.text().to_owned()).collect();
    assert_eq!(texts, (50..100).map(|number| number.to_string()).collect::<Vec<_>>());
}

#[test]
fn a_member_for_which_there_is_no_partition_is_ready() {
    let kafka = Kafka::shared();
    for protocol in ["classic", "consumer"] {
        let (from, to) = (kafka.topic("spare", 1), kafka.topic("spare-out", 1));
        let mut copy = Copy::new(kafka, &from, &to);
        copy.source = format!("group_protocol = \"{protocol}\"");
        let mut members = [Member::start(&copy), Member::start(&copy)];
        members.iter_mut().for_each(|member| member.wait_until_ready(true, ""));
        for member in members {
            member.stop();
        }
    }
}
