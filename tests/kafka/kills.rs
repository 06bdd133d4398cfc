//! P1, P2, P3: members of a group that are SIGKILLed, paused for longer than the session timeout and
//! started again, at random moments, lose nothing and keep the order of each key.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Copy;
use super::fleet::{Scale, judge};
use crate::services::kafka::{Guarantee, Kafka};
use crate::support::{rounds, seed};

fn scale() -> Scale {
    let parts = rounds("members killed, paused or stopped", 6, 30);
    let soak = parts == 30;
    Scale {
        messages: if soak { 1_000_000 } else { 60_000 },
        keys: if soak { 10_000 } else { 1_000 },
        partitions: 12,
        members: 4,
        parts,
    }
}

#[test]
fn p1_members_that_are_killed_and_paused_lose_nothing_and_keep_the_order() {
    let mut random = StdRng::seed_from_u64(seed());
    let scale = scale();
    judge(
        Kafka::shared(),
        &scale,
        Guarantee::AtLeastOnce,
        &mut random,
        |_| {},
        |fleet, _, random| {
            fleet.disturb(random);
        },
    );
}

#[test]
fn p1_so_it_is_with_the_protocol_in_which_the_broker_assigns() {
    let mut random = StdRng::seed_from_u64(seed());
    let scale = Scale { parts: rounds("the same, with KIP-848", 3, 30), ..scale() };
    let consumer = |copy: &mut Copy| copy.source = "group_protocol = \"consumer\"".to_owned();
    judge(Kafka::shared(), &scale, Guarantee::AtLeastOnce, &mut random, consumer, |fleet, _, random| {
        fleet.disturb(random);
    });
}

#[test]
fn p1_exactly_once_members_that_are_killed_and_paused_write_every_message_once_and_in_order() {
    let mut random = StdRng::seed_from_u64(seed());
    let scale = scale();
    let kafka = Kafka::shared();
    judge(kafka, &scale, Guarantee::ExactlyOnce, &mut random, Copy::be_exactly_once, |fleet, _, random| {
        fleet.disturb(random);
    });
}
