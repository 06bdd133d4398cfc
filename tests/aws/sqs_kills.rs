//! P1, P3: members that are SIGKILLed at random lose nothing, keep the order of each group, and no message
//! is processed twice while its heartbeat is alive.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::queues::Queue;
use super::sqs_members::{Came, Member, Taker};
use crate::services::aws::StandIn;
use crate::support::{DEADLINE, Folder, look, rounds, seed};

const MEMBERS: usize = 3;

/// Messages sent in each round.
const EACH_ROUND: usize = 120;

const GROUPS: usize = 24;

/// A member, or since when and until when there is none.
enum Slot {
    Running { member: Member, name: String },
    Down { until: Instant },
}

struct Fleet {
    queue: Queue,
    taker: Taker,
    slots: Vec<(Folder, Slot)>,
    started: usize,
    /// When the process of this name was killed.
    killed: HashMap<String, Instant>,
}

impl Fleet {
    fn new(queue: Queue) -> Fleet {
        // Slow enough that a kill finds messages in flight, for longer than the visibility timeout at times.
        let taker = Taker::new(|came, _| {
            let slow = came.payload().parse().is_ok_and(|number: usize| number % 40 == 7);
            (StatusCode::OK, Duration::from_millis(if slow { 2500 } else { 20 }))
        });
        let slots = (0..MEMBERS).map(|_| (Folder::new(), Slot::Down { until: Instant::now() })).collect();
        Fleet { queue, taker, slots, started: 0, killed: HashMap::new() }
    }

    /// Starts those whose time it is, and looks at the books of the others.
    fn see_to(&mut self) {
        for (folder, slot) in &mut self.slots {
            match slot {
                Slot::Down { until } if *until <= Instant::now() => {
                    self.started += 1;
                    let name = format!("p{}", self.started);
                    let source = "visibility_timeout = \"2s\"\nreceivers = 2";
                    let pipeline = self.queue.pipeline(folder, source, &self.taker.sink(&name), "");
                    *slot = Slot::Running { member: Member::start(folder, &pipeline), name };
                }
                Slot::Down { .. } => {}
                Slot::Running { member, .. } => {
                    assert!(!member.running.has_ended(), "it ended by itself\n{}", member.running.log());
                    look(&member.admin);
                }
            }
        }
    }

    fn wait_for(&mut self, what: &str, mut happened: impl FnMut(&Fleet) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !happened(self) {
            self.see_to();
            assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}; {:?}", self.queue.counts());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill_one(&mut self, random: &mut StdRng) {
        let (_, slot) = &mut self.slots[random.random_range(0..MEMBERS)];
        let until = Instant::now() + Duration::from_millis(random.random_range(0..1500));
        if let Slot::Running { member, name } = std::mem::replace(slot, Slot::Down { until }) {
            member.running.kill();
            self.killed.insert(name, Instant::now());
        }
    }
}

fn judge(queue: Queue, rounds: usize) {
    let mut random = StdRng::seed_from_u64(seed());
    let is_fifo = queue.is_fifo();
    let mut fleet = Fleet::new(queue);
    for round in 0..rounds {
        let numbers = round * EACH_ROUND..(round + 1) * EACH_ROUND;
        let groups: Vec<String> = numbers.clone().map(|number| format!("g{}", number % GROUPS)).collect();
        fleet.queue.send(groups.iter().map(String::as_str).zip(numbers.map(|number| number.to_string())));
        let enough = fleet.taker.count() + random.random_range(1..EACH_ROUND / 2);
        fleet.wait_for("some are processed", |fleet| fleet.taker.count() >= enough);
        fleet.kill_one(&mut random);
    }
    fleet.wait_for("all are deleted", |fleet| fleet.queue.is_empty());
    let mut logs = String::new();
    for (_, slot) in fleet.slots.drain(..) {
        if let Slot::Running { member, .. } = slot {
            logs += &member.stop();
        }
    }
    let came = fleet.taker.came();
    let mut by_number: HashMap<usize, Vec<&Came>> = HashMap::new();
    let mut last: HashMap<usize, usize> = HashMap::new();
    for came in &came {
        let number: usize = came.payload().parse().expect("a number");
        let before = by_number.entry(number).or_default();
        before.push(came);
        if is_fifo && before.len() == 1 {
            let before = last.insert(number % GROUPS, number);
            assert!(before.is_none_or(|before| before < number), "{number} after {before:?}");
        }
    }
    assert_eq!(by_number.len(), rounds * EACH_ROUND, "nothing is lost");
    println!("{} messages, processed {} times", by_number.len(), came.len());
    for (number, times) in &by_number {
        for two in times.windows(2) {
            let killed = fleet.killed.get(&two[0].by);
            assert!(
                killed.is_some_and(|&killed| killed < two[1].at + Duration::from_millis(100)),
                "{number} was processed by {} while {} had it: {:?}\n{logs}",
                two[1].by,
                two[0].by,
                two[1].at - two[0].at,
            );
        }
    }
}

#[test]
fn p1_members_that_are_killed_lose_nothing_of_a_fifo_queue_and_keep_the_order_of_each_group() {
    judge(Queue::fifo(StandIn::fauxqs()), rounds("members killed, FIFO", 4, 20));
}

#[test]
fn p1_members_that_are_killed_lose_nothing_of_a_standard_queue() {
    judge(Queue::standard(StandIn::fauxqs()), rounds("members killed, standard", 4, 20));
}
