//! Members of a group that are killed, paused and started at random moments while messages come in, and
//! what must be true afterwards.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use super::{Copy, Member, Stopped};
use crate::services::kafka::{Guarantee, Kafka, Record};
use crate::support::{DEADLINE, look};

/// After which a group thinks a member dead.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a paused member is away: until the others have its partitions, and a while longer.
const AWAY: Duration = Duration::from_millis(4500);

/// How often the books are looked at.
const LOOK: Duration = Duration::from_millis(500);

pub struct Scale {
    pub messages: u64,
    pub keys: u64,
    pub partitions: i32,
    pub members: usize,
    /// The input comes in so many parts.
    pub parts: usize,
}

enum State {
    Running(Member),
    /// By SIGSTOP.
    Paused(Member, Instant),
    Down(Stopped, Instant),
    /// Between two of the others.
    Changing,
}

/// The members of a group that copies a topic.
pub struct Fleet<'k> {
    kafka: &'k Kafka,
    copy: Copy,
    members: Vec<State>,
    looked: Instant,
}

/// Starts members, has `happen` called while each part of the input is on its way, and judges what came
/// out. `change` adds to the pipeline.
pub fn judge(
    kafka: &Kafka,
    scale: &Scale,
    guarantee: Guarantee,
    random: &mut StdRng,
    change: impl FnOnce(&mut Copy),
    mut happen: impl FnMut(&mut Fleet<'_>, usize, &mut StdRng),
) {
    let Scale { messages, keys, partitions, members, parts } = *scale;
    println!(
        "{messages} messages with {keys} keys over {partitions} partitions, {members} members, {parts} faults"
    );
    let (from, to) = (kafka.topic("fleet", partitions), kafka.topic("fleet-out", partitions));
    let mut copy = Copy::new(kafka, &from, &to);
    copy.source = format!("session_timeout = \"{}s\"", SESSION_TIMEOUT.as_secs());
    change(&mut copy);
    let members = (0..members).map(|_| State::Running(Member::start(&copy))).collect();
    let mut fleet = Fleet { kafka, copy, members, looked: Instant::now() };
    let part = messages / parts as u64;
    let (next, wait_for_next) = mpsc::channel();
    let from = from.as_str();
    std::thread::scope(|scope| {
        // In here, so that the writer ends if this fails.
        let next = next;
        let records = (0..messages).map(move |number| {
            if number % part == 0 {
                let _ = wait_for_next.recv();
            }
            Record::new(&format!("k{}", number % keys), &number.to_string())
        });
        let writer = scope.spawn(move || kafka.produce(from, records));
        for number in 0..parts {
            let enough = kafka.count(&to) + random.random_range(0..part) as i64;
            next.send(()).expect("the writer waits for it");
            fleet.wait_for("a share of a part", |fleet| fleet.kafka.count(&fleet.copy.to) >= enough);
            happen(&mut fleet, number, random);
        }
        // What is left over of the division.
        drop(next);
        writer.join().expect("the writer does not panic");
    });
    fleet.finish(from);
    kafka.check(&to, messages, keys, guarantee);
}

impl Fleet<'_> {
    /// SIGKILL, SIGSTOP for longer than the session timeout, or SIGTERM for one of the members, and
    /// another time its start or SIGCONT.
    pub fn disturb(&mut self, random: &mut StdRng) {
        let is_running = |state: &State| matches!(state, State::Running(_));
        self.wait_for("two members that run", |fleet| {
            fleet.members.iter().filter(|state| is_running(state)).count() >= 2
        });
        let running: Vec<usize> =
            (0..self.members.len()).filter(|&number| is_running(&self.members[number])).collect();
        let number = running[random.random_range(0..running.len())];
        let State::Running(member) = std::mem::replace(&mut self.members[number], State::Changing) else {
            unreachable!("it was chosen of those that run");
        };
        let back = Instant::now() + SESSION_TIMEOUT.mul_f64(random.random_range(0.0..2.0));
        let (what, state) = match random.random_range(0..10) {
            0..5 => ("SIGKILL", State::Down(member.kill(), back)),
            5..8 => {
                member.running.pause();
                ("SIGSTOP", State::Paused(member, Instant::now() + AWAY))
            }
            _ => ("SIGTERM", State::Down(member.stop(), back)),
        };
        println!("member {number}: {what}");
        self.members[number] = state;
    }

    /// Waits for something to happen while those members come back whose time it is.
    pub fn wait_for(&mut self, what: &str, mut happened: impl FnMut(&Fleet<'_>) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !happened(self) {
            self.bring_back();
            assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn bring_back(&mut self) {
        let now = Instant::now();
        let looks = self.looked.elapsed() > LOOK;
        if looks {
            self.looked = now;
        }
        for state in &mut self.members {
            *state = match std::mem::replace(state, State::Changing) {
                State::Paused(member, until) if until < now => {
                    member.running.resume();
                    State::Running(member)
                }
                State::Down(stopped, until) if until < now => State::Running(stopped.start()),
                State::Running(mut member) => {
                    assert!(!member.running.has_ended(), "it ended by itself\n{}", member.running.log());
                    if looks {
                        look(&member.admin);
                    }
                    State::Running(member)
                }
                other => other,
            };
        }
    }

    /// Waits until all are back and everything is committed, and stops them.
    fn finish(mut self, from: &str) {
        let group = self.copy.group.clone();
        self.wait_for("the group has committed everything", |fleet| {
            fleet.members.iter().all(|state| matches!(state, State::Running(_)))
                && fleet.kafka.committed(&group, from) == fleet.kafka.ends(from)
        });
        for state in self.members {
            let State::Running(member) = state else { unreachable!("all run") };
            member.stop();
        }
    }

    /// How far the group is, and what its members said.
    fn logs(&self) -> String {
        let Copy { group, from, .. } = &self.copy;
        let (committed, ends) = (self.kafka.committed(group, from), self.kafka.ends(from));
        let log = |state: &State| match state {
            State::Running(member) => {
                let page = look(&member.admin).unwrap_or_default();
                let told = ["millstream_messages", "millstream_sink_messages", "millstream_kafka"];
                let books = page.lines().filter(|line| told.iter().any(|name| line.starts_with(name)));
                format!("{}\n{}", member.running.log(), books.collect::<Vec<_>>().join("\n"))
            }
            State::Paused(..) => "paused".to_owned(),
            State::Down(..) | State::Changing => "down".to_owned(),
        };
        let logs: String = self.members.iter().map(|state| format!("---\n{}\n", log(state))).collect();
        format!("committed {committed:?}\nof        {ends:?}\n{logs}")
    }
}
