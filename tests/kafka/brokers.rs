//! Three brokers of which one is killed in turn, under load.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::Copy;
use super::fleet::{Fleet, Scale, judge};
use crate::services::kafka::{Guarantee, Kafka};
use crate::support::{rounds, seed};

#[test]
fn p1_brokers_that_are_killed_in_turn_lose_nothing_and_keep_the_order() {
    judge_killed_brokers(Guarantee::AtLeastOnce, |_| {});
}

#[test]
fn p2_exactly_once_brokers_that_are_killed_in_turn_repeat_nothing() {
    judge_killed_brokers(Guarantee::ExactlyOnce, Copy::be_exactly_once);
}

fn judge_killed_brokers(guarantee: Guarantee, change: impl FnOnce(&mut Copy)) {
    let mut random = StdRng::seed_from_u64(seed());
    let kills = rounds("brokers killed in turn", 3, 12);
    let soak = kills == 12;
    let scale = Scale {
        messages: if soak { 1_000_000 } else { 60_000 },
        keys: if soak { 10_000 } else { 1_000 },
        partitions: 12,
        members: 2,
        // One in which it is killed, one in which it comes back.
        parts: 2 * kills,
    };
    let kafka = Kafka::cluster(3);
    let happen = |fleet: &mut Fleet<'_>, part: usize, _: &mut StdRng| {
        let node = part / 2 % 3;
        if part.is_multiple_of(2) {
            kafka.kill_broker(node);
            return;
        }
        kafka.start_broker(node);
        // Only then another one may go: of three replicas two are needed.
        fleet.wait_for("all replicas are in sync", |_| kafka.is_in_sync());
    };
    judge(&kafka, &scale, guarantee, &mut random, change, happen);
}
