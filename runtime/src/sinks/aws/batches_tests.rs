//! The engine alone, against a service that fails at random.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::testing::{Plain, batch_of_orders};
use super::super::{CallError, Outcome, Outcomes, Sink};
use super::batches::{Batches, Destination, Entry, Limits, Refused, Trouble};
use crate::aws::{Failure, Kind};
use crate::message::{Batch, MessageRef};

/// What happened in the service, in order.
#[derive(Default)]
struct World {
    /// Payloads it has taken.
    taken: Vec<String>,
    /// Groups of which something is in a request now.
    underway: HashSet<String>,
    /// Requests now.
    requests: usize,
    most_requests: usize,
    /// How many entries requests had.
    sizes: Vec<usize>,
    /// What should never have been.
    wrong: Vec<String>,
}

/// How likely what goes wrong, of 100.
#[derive(Clone, Copy, Default)]
struct Temper {
    entry_throttled: u32,
    entry_silent: u32,
    not_done: u32,
    done_unanswered: u32,
}

/// Payloads are `group:number`, with more behind it; `bad` in it is refused.
struct Simulated {
    world: Arc<Mutex<World>>,
    random: Mutex<StdRng>,
    temper: Temper,
}

fn group_of(payload: &str) -> Option<&str> {
    payload.split(':').next().filter(|group| !group.is_empty())
}

fn failure(kind: Kind) -> Failure {
    Failure { kind, code: "Simulated".to_owned(), reason: format!("simulated: {kind:?}") }
}

const MAX_MESSAGES: usize = 4;
const MAX_BYTES: usize = 60;
const CONCURRENCY: usize = 3;

impl Simulated {
    fn chance(&self, of_100: u32) -> bool {
        self.random.lock().unwrap().random_range(0..100) < of_100
    }

    async fn some_time(&self) {
        let time = self.random.lock().unwrap().random_range(1..50);
        tokio::time::sleep(Duration::from_millis(time)).await;
    }
}

#[async_trait]
impl Destination for Simulated {
    type Entry = String;

    fn entry(&self, _: &MessageRef<'_>, body: Vec<u8>) -> Result<Entry<String>, Refused> {
        let body = String::from_utf8(body).unwrap();
        if body.contains("unmakeable") {
            return Err(Refused::new("unmakeable", "it says so"));
        }
        let group = group_of(&body).map(str::to_owned);
        let target = group.as_ref().filter(|group| group.ends_with(['0', '2', '4'])).map(|_| "even".into());
        Ok(Entry { bytes: body.len(), group, what: body, target })
    }

    async fn send(&self, entries: &[Arc<String>]) -> Result<Vec<Option<Result<(), Failure>>>, Trouble> {
        {
            let world = &mut *self.world.lock().unwrap();
            world.requests += 1;
            world.most_requests = world.most_requests.max(world.requests);
            world.sizes.push(entries.len());
            let bytes: usize = entries.iter().map(|entry| entry.len()).sum();
            let is_even =
                |entry: &Arc<String>| group_of(entry).is_some_and(|group| group.ends_with(['0', '2', '4']));
            if entries.iter().any(|entry| is_even(entry) != is_even(&entries[0])) {
                world.wrong.push("two targets in one request".to_owned());
            }
            if entries.len() > MAX_MESSAGES || (entries.len() > 1 && bytes > MAX_BYTES) {
                world.wrong.push(format!("{} entries of {bytes} bytes", entries.len()));
            }
            for group in entries.iter().filter_map(|entry| group_of(entry)) {
                if !world.underway.insert(group.to_owned()) {
                    world.wrong.push(format!("two of {group} at the same time"));
                }
            }
        }
        self.some_time().await;
        let answer = if entries.iter().any(|entry| entry.contains("bad")) {
            Err(failure(Kind::Refused).into())
        } else if self.chance(self.temper.not_done) {
            let kinds = [Kind::Unavailable, Kind::Throttled, Kind::Credentials, Kind::Missing];
            Err(failure(kinds[self.random.lock().unwrap().random_range(0..4)]).into())
        } else {
            let result = |entry: &Arc<String>| {
                if self.chance(self.temper.entry_throttled) {
                    return Some(Err(failure(Kind::Throttled)));
                }
                if self.chance(self.temper.entry_silent) {
                    return None;
                }
                self.world.lock().unwrap().taken.push(String::clone(entry));
                Some(Ok(()))
            };
            let results = entries.iter().map(result).collect();
            match self.chance(self.temper.done_unanswered) {
                true => Err(failure(Kind::Unavailable).into()),
                false => Ok(results),
            }
        };
        self.some_time().await;
        let world = &mut *self.world.lock().unwrap();
        world.requests -= 1;
        for group in entries.iter().filter_map(|entry| group_of(entry)) {
            world.underway.remove(group);
        }
        answer
    }
}

fn sink(world: &Arc<Mutex<World>>, temper: Temper, seed: u64) -> Batches<Simulated> {
    let random = Mutex::new(StdRng::seed_from_u64(seed));
    let destination = Simulated { world: Arc::clone(world), random, temper };
    let limits = Limits { messages: MAX_MESSAGES, bytes: MAX_BYTES, concurrency: CONCURRENCY };
    Batches::new(destination, Arc::new(Plain { head: None, media_type: "text/plain" }), limits)
}

async fn write(
    sink: &mut Batches<Simulated>,
    messages: &[(u64, String)],
) -> Result<Vec<Option<Outcome>>, CallError> {
    let messages: Vec<(u64, &str)> =
        messages.iter().map(|(order, payload)| (*order, payload.as_str())).collect();
    let batch: Batch = batch_of_orders(&messages);
    let outcomes = sink.write(&batch.messages().collect::<Vec<_>>()).await?;
    Ok(match outcomes {
        Outcomes::AllDurable => vec![Some(Outcome::Durable); messages.len()],
        Outcomes::Each(outcomes) => outcomes.into_iter().map(Some).collect(),
        Outcomes::Until(outcomes, _) => outcomes,
    })
}

/// Writes messages as a pipeline does, each order parked while one of it waits, until all are durable or
/// refused. Returns those that were refused.
async fn deliver(
    sink: &mut Batches<Simulated>,
    world: &Mutex<World>,
    messages: &[(u64, String)],
    random: &mut StdRng,
) -> BTreeSet<String> {
    let mut waiting: Vec<(u64, String)> = messages.to_vec();
    let mut refused = BTreeSet::new();
    // Calls for which an order is parked yet.
    let mut parked: HashMap<u64, u32> = HashMap::new();
    for _ in 0..100_000 {
        if waiting.is_empty() {
            return refused;
        }
        parked.retain(|_, calls| {
            *calls -= 1;
            *calls > 0
        });
        let size = random.random_range(1..30);
        let (mut call, mut rest) = (Vec::new(), Vec::new());
        for message in waiting {
            match call.len() < size && !parked.contains_key(&message.0) {
                true => call.push(message),
                false => rest.push(message),
            }
        }
        let outcomes = write(sink, &call).await.unwrap_or_else(|_| vec![None; call.len()]);
        assert_eq!(outcomes.len(), call.len());
        let mut again = Vec::new();
        for (message, outcome) in call.into_iter().zip(outcomes) {
            match outcome {
                Some(Outcome::Durable) => {
                    let taken = &world.lock().unwrap().taken;
                    assert!(taken.contains(&message.1), "P1: {} is said to be durable", message.1);
                }
                Some(Outcome::Reject { .. }) => assert!(refused.insert(message.1)),
                other => {
                    if matches!(other, Some(Outcome::Retry { .. } | Outcome::Later { after: None, .. })) {
                        parked.insert(message.0, random.random_range(1..4));
                    }
                    again.push(message);
                }
            }
        }
        // What was tried stands before what was not.
        again.extend(rest);
        waiting = again;
    }
    panic!("it does not end");
}

/// Of each group and order, repetitions aside, what was taken is in order.
fn assert_in_order(taken: &[String]) {
    let mut seen = HashSet::new();
    let mut last: HashMap<(String, u64), u64> = HashMap::new();
    for payload in taken.iter().filter(|payload| seen.insert(payload.as_str())) {
        let mut parts = payload.split(':');
        let group = parts.next().unwrap().to_owned();
        let number: u64 = parts.next().unwrap().parse().unwrap();
        let order: u64 = parts.next().unwrap().parse().unwrap();
        if group.is_empty() {
            continue;
        }
        let before = last.insert((group, order), number);
        assert!(before.is_none_or(|before| before < number), "{payload} after {before:?}: {taken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn p1_p3_p4_order_holds_and_nothing_is_lost_whatever_fails() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut of = |most: u32| if random.random_bool(0.5) { random.random_range(0..most) } else { 0 };
        let temper = Temper {
            entry_throttled: of(60),
            entry_silent: of(30),
            not_done: of(60),
            done_unanswered: of(50),
        };
        let groups = random.random_range(1..12);
        let orders = random.random_range(1..6);
        let messages: Vec<(u64, String)> = (0..150)
            .map(|number| {
                let group = random.random_range(0..groups + 1);
                // Orders are as groups, or run across them.
                let order = if seed % 2 == 0 { group } else { random.random_range(0..orders) };
                let group = if group == 0 { String::new() } else { format!("g{group}") };
                let kind = match random.random_range(0..40) {
                    0 => "bad",
                    1 => "unmakeable",
                    2 => "long, more than a request may have as soon as there are two of this kind",
                    _ => "good",
                };
                (order, format!("{group}:{number}:{order}:{kind}"))
            })
            .collect();
        let world = Arc::new(Mutex::new(World::default()));
        let mut sink = sink(&world, temper, seed);
        let refused = deliver(&mut sink, &world, &messages, &mut random).await;
        let world = world.lock().unwrap();
        assert_eq!(world.wrong, [""; 0], "seed {seed}");
        assert!(world.most_requests <= CONCURRENCY, "seed {seed}");
        assert_in_order(&world.taken);
        let is_bad = |payload: &str| payload.ends_with("bad") || payload.ends_with("unmakeable");
        let (bad, good): (BTreeSet<String>, BTreeSet<String>) =
            messages.into_iter().map(|(_, payload)| payload).partition(|payload| is_bad(payload));
        assert_eq!(refused, bad, "seed {seed}");
        assert_eq!(world.taken.iter().cloned().collect::<BTreeSet<_>>(), good, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_without_groups_are_full_and_at_the_same_time() {
    let world = Arc::new(Mutex::new(World::default()));
    let mut sink = sink(&world, Temper::default(), 1);
    let messages: Vec<_> = (0..24).map(|number| (0, format!(":{number}:0"))).collect();
    assert!(
        write(&mut sink, &messages).await.unwrap().iter().all(|outcome| *outcome == Some(Outcome::Durable))
    );
    let world = world.lock().unwrap();
    assert_eq!(world.sizes, [4; 6]);
    assert_eq!(world.most_requests, CONCURRENCY);
}

#[tokio::test(start_paused = true)]
async fn what_stands_behind_one_that_failed_waits_and_another_group_does_not() {
    let world = Arc::new(Mutex::new(World::default()));
    let temper = Temper { entry_throttled: 100, ..Temper::default() };
    let mut sink = sink(&world, temper, 1);
    let messages: Vec<_> = ["a:1:0", "b:2:0:bad", "a:3:0", "b:4:0"].map(|text| (0, text.to_owned())).into();
    let outcomes = write(&mut sink, &messages).await.unwrap();
    let named: BTreeMap<&str, String> = messages
        .iter()
        .map(|(_, text)| text.as_str())
        .zip(outcomes.iter().map(|one| format!("{one:?}")))
        .collect();
    assert!(named["a:1:0"].contains("Later") && named["a:1:0"].contains("after: None"), "{named:?}");
    assert!(named["a:3:0"].contains("Later") && named["a:3:0"].contains("0ns"), "{named:?}");
    assert!(named["b:2:0:bad"].contains("Reject"), "{named:?}");
    assert!(
        named["b:4:0"].contains("after: None"),
        "one that is refused releases those behind it: {named:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn p4_a_request_that_is_refused_is_divided() {
    let world = Arc::new(Mutex::new(World::default()));
    let mut sink = sink(&world, Temper::default(), 1);
    let messages: Vec<_> = (0..8)
        .map(|number| (0, format!("g{number}:{number}:0{}", if number == 2 { ":bad" } else { "" })))
        .collect();
    let outcomes = write(&mut sink, &messages).await.unwrap();
    let refused: Vec<usize> = (0..8)
        .filter(|&index| matches!(outcomes[index], Some(Outcome::Reject { code: "refused", .. })))
        .collect();
    assert_eq!(refused, [2]);
    assert_eq!(world.lock().unwrap().taken.len(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_away_ends_the_call() {
    let world = Arc::new(Mutex::new(World::default()));
    let mut sink = sink(&world, Temper { not_done: 100, ..Temper::default() }, 1);
    let messages: Vec<_> = (0..40).map(|number| (0, format!(":{number}:0"))).collect();
    let error = write(&mut sink, &messages).await.unwrap_err();
    assert!(matches!(error, CallError::Unavailable { .. }), "{error:?}");
    assert_eq!(world.lock().unwrap().sizes.len(), CONCURRENCY, "those in flight, and no more");
}
