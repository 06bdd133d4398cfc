//! The desk where messages are given up: makes dead letters of them, and settles them once they are
//! durable there. While they cannot be written the pipeline waits: nothing is settled.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Shared;
use super::deliver::in_transaction::opened;
use super::lane::until;
use super::ledger::{Held, Original};
use super::retry::unavailable_delay;
use super::transaction::End;
use crate::config::secrets::Redactor;
use crate::config::{DeadLettersCommon, StopAbove};
use crate::dead_letters::{DeadLetter, DeadLetterWriter, Letters, REPLAYS_HEADER, Stage};
use crate::message::Message;
use crate::observe::limiter::Limiter;
use crate::plugin::PluginIdentity;
use crate::sources::Describe;
use crate::traces::context::Parent;

/// Given-up messages that wait to be written; beyond it those who give up wait too.
const QUEUE: usize = 256;

/// Dead letters that are written at once.
const BATCH: usize = 256;

/// How many slices the window of `stop_above` has.
const SLICES: u32 = 10;

/// A message that is given up, and why.
#[derive(Debug)]
pub struct GivenUp {
    /// The one message.
    pub held: Held,
    pub why: Why,
}

#[derive(Clone, Debug)]
pub struct Why {
    pub stage: Stage,
    pub plugin: Option<PluginIdentity>,
    pub code: String,
    pub reason: String,
    /// Kind of the trap, if it was one.
    pub trap: Option<String>,
    /// Failed attempts.
    pub attempts: u32,
}

/// What is known of a feed for the dead letters of its messages.
#[derive(Clone)]
pub struct Origin {
    pub source: Arc<str>,
    pub describe: Describe,
}

/// Hands given-up messages to the desk.
#[derive(Clone)]
pub struct DeskDoor {
    queue: mpsc::Sender<(Origin, GivenUp)>,
}

impl DeskDoor {
    /// Waits while the desk is full. If the desk is gone the pipeline has failed and the message
    /// is returned to the source.
    pub async fn give_up(&self, origin: &Origin, held: Held, why: Why) {
        if let Err(refused) = self.queue.send((origin.clone(), GivenUp { held, why })).await {
            refused.0.1.held.abandon();
        }
    }
}

pub struct Desk {
    shared: Arc<Shared>,
    writer: Box<dyn DeadLetterWriter>,
    queue: mpsc::Receiver<(Origin, GivenUp)>,
    guard: Option<RateGuard>,
    letters: Option<Letters>,
    /// Of the failures of each plugin.
    limiters: HashMap<String, Limiter>,
}

impl Desk {
    pub fn new(
        shared: Arc<Shared>,
        writer: Box<dyn DeadLetterWriter>,
        config: &DeadLettersCommon,
        letters: Option<Letters>,
    ) -> (DeskDoor, Desk) {
        let (sender, queue) = mpsc::channel(QUEUE);
        let guard = config.stop_above.clone().map(RateGuard::new);
        let limiters = HashMap::new();
        (DeskDoor { queue: sender }, Desk { shared, writer, queue, guard, letters, limiters })
    }

    /// Runs until every door is gone.
    pub async fn run(mut self) -> anyhow::Result<()> {
        // What waits to be written; with transactions some of it may have to wait for the next.
        let mut batch = Vec::new();
        let mut open = true;
        let gate = self.shared.gate.clone();
        let mut drawn = 0;
        loop {
            let due = self.limiters.values().filter_map(Limiter::due).min();
            tokio::select! {
                given_up = self.queue.recv_many(&mut batch, BATCH), if open => open = given_up > 0,
                () = until(due.map(Instant::from_std)) => self.tell_left_out(due),
                () = opened(gate.as_deref(), drawn), if !batch.is_empty() => {}
            }
            if batch.is_empty() && !open {
                self.tell_left_out(None);
                return Ok(());
            }
            // Asked before looking: a boundary drawn in between lets the next wait end at once.
            drawn = gate.as_ref().map_or(0, |gate| gate.drawn());
            let given_up = self.take_admitted(&mut batch);
            if given_up.is_empty() {
                continue;
            }
            let letters: Vec<DeadLetter> =
                given_up.iter().filter_map(|(origin, given_up)| self.letter(origin, given_up)).collect();
            if let Err(reason) = self.write(&letters).await {
                // The transaction that they belong to has failed.
                self.shared.gate.iter().for_each(|gate| gate.fail(reason.clone()));
                given_up.into_iter().for_each(|(_, given_up)| given_up.held.abandon());
                continue;
            }
            letters.iter().for_each(|letter| self.tell(letter));
            // What fails again says nothing new of the source: a replay must not stop the pipeline.
            let failed_first = given_up.iter().filter(|(_, given_up)| !given_up.held.is_replay()).count();
            for (_, GivenUp { held, why }) in given_up {
                self.shared.count_error(&why.stage.to_string(), &why.code);
                // An http source tells it to the one who sent the message.
                let reason = Redactor::global().redact(&why.reason);
                match &self.shared.gate {
                    Some(gate) => gate.hand_in(held, End::DeadLettered(reason.into_owned())),
                    None => held.dead_lettered(&reason),
                }
            }
            if let Some(guard) = &mut self.guard {
                guard.check(self.shared.ledger.received_first(), failed_first as u64, Instant::now())?;
            }
        }
    }

    /// Tells of a message on which a plugin failed, and how to see it fail again.
    fn tell(&mut self, letter: &DeadLetter) {
        let (Some(trap), Some(plugin)) = (&letter.trap, &letter.plugin) else { return };
        let limiter = self.limiters.entry(plugin.step.clone()).or_default();
        let Some(left_out) = limiter.admit(std::time::Instant::now()) else { return };
        let replay =
            self.letters.as_ref().map(|letters| letters.offline(&letter.id, &plugin.step).join(" && "));
        let PluginIdentity { step, name, version, sha256 } = plugin;
        let left_out = (left_out > 0).then_some(left_out);
        tracing::warn!(
            pipeline = %self.shared.name, plugin = step, name, version, sha256, position = %letter.position_text,
            trap, replay, left_out, "plugin failed: it {}", letter.reason
        );
    }

    /// Tells how many failures were not told of, where that is `due`, or everywhere.
    fn tell_left_out(&mut self, due: Option<std::time::Instant>) {
        for (plugin, limiter) in &mut self.limiters {
            if due.is_some_and(|due| limiter.due() != Some(due)) {
                continue;
            }
            match limiter.take_left_out() {
                0 => {}
                left_out => {
                    tracing::warn!(
                        pipeline = %self.shared.name, plugin, left_out,
                        "plugin failed on more messages; they are among the dead letters"
                    );
                }
            }
        }
    }

    /// Takes what may be written now out of what waits; abandons what is not ours any more.
    fn take_admitted(&self, batch: &mut Vec<(Origin, GivenUp)>) -> Vec<(Origin, GivenUp)> {
        let Some(gate) = &self.shared.gate else { return std::mem::take(batch) };
        let (mut now, mut later) = (Vec::new(), Vec::new());
        for (origin, given_up) in batch.drain(..) {
            match given_up.held.claim() {
                _ if given_up.held.is_revoked() => given_up.held.abandon(),
                claim if gate.admits(claim) => now.push((origin, given_up)),
                _ => later.push((origin, given_up)),
            }
        }
        *batch = later;
        now
    }

    /// Writes them, and waits until that works; in a transaction the first failure is one of all of it,
    /// and returned.
    async fn write(&mut self, letters: &[DeadLetter]) -> Result<(), String> {
        let mut tries = 0;
        while let Err(error) = self.writer.write(letters).await {
            if self.shared.gate.is_some() {
                return Err(format!("dead letters: {error:#}"));
            }
            let delay = unavailable_delay(&self.shared.retry, tries, None);
            tracing::warn!(pipeline = %self.shared.name, error = format!("{error:#}"), ?delay, "dead letters cannot be written; nothing is settled until they are");
            self.shared.waits.set("dead letters", format!("{error:#}"));
            tries = tries.saturating_add(1);
            tokio::time::sleep(delay).await;
        }
        if tries > 0 {
            self.shared.waits.clear("dead letters");
        }
        Ok(())
    }

    fn letter(&self, origin: &Origin, given_up: &GivenUp) -> Option<DeadLetter> {
        let GivenUp { held, why } = given_up;
        let row = held.batch().rows().first()?;
        let Original { message, position, read_at_ms, replays } = held.original(row)?;
        let position_text = (origin.describe)(position);
        tracing::debug!(pipeline = %self.shared.name, position = %position_text, stage = %why.stage, code = %why.code, reason = %why.reason, "dead letter");
        let mut letter = DeadLetter {
            id: String::new(),
            pipeline: self.shared.name.clone(),
            source: origin.source.to_string(),
            position,
            position_text,
            stage: why.stage.clone(),
            plugin: why.plugin.clone(),
            code: why.code.clone(),
            reason: Redactor::global().redact(&why.reason).into_owned(),
            trap: why.trap.clone(),
            attempts: why.attempts,
            read_at_ms,
            failed_at_ms: jiff::Timestamp::now().as_millisecond(),
            trace_id: held.traced().and_then(|traced| traced.trace_id(row)).or_else(|| trace_id(&message)),
            replays: replays.max(replays_of(&message)),
            sinks: match &why.stage {
                Stage::Sink(name) => vec![name.clone()],
                _ => self.shared.names_of(row.sinks),
            },
            message,
        };
        letter.id = letter.derive_id();
        Some(letter)
    }
}

/// The trace that a message came with.
fn trace_id(message: &Message) -> Option<String> {
    Parent::of_owned(message).map(|parent| parent.context.trace_id())
}

/// How often it had been replayed before it was read: what a replay sent may come back by way of the
/// source.
fn replays_of(message: &Message) -> u32 {
    header(message, REPLAYS_HEADER)
        .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
        .unwrap_or_default()
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a [u8]> {
    let found = message.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
    found.map(|(_, value)| value.as_slice())
}

/// Stops the pipeline when the share of dead letters over a window is too high.
struct RateGuard {
    limit: StopAbove,
    /// When a slice of the window began, and the totals then.
    slices: VecDeque<(Instant, u64, u64)>,
    dead_lettered: u64,
}

impl RateGuard {
    fn new(limit: StopAbove) -> RateGuard {
        RateGuard { limit, slices: VecDeque::from([(Instant::now(), 0, 0)]), dead_lettered: 0 }
    }

    fn check(&mut self, received: u64, dead_lettered: u64, now: Instant) -> anyhow::Result<()> {
        self.dead_lettered += dead_lettered;
        let window: Duration = self.limit.window.0;
        while self.slices.len() > 1 && now.duration_since(self.slices[1].0) >= window {
            self.slices.pop_front();
        }
        let (_, received_then, dead_then) = self.slices[0];
        let (received_since, dead_since) = (received - received_then, self.dead_lettered - dead_then);
        let newest = self.slices[self.slices.len() - 1].0;
        if now.duration_since(newest) >= window / SLICES {
            self.slices.push_back((now, received, self.dead_lettered));
        }
        let share = dead_since as f64 / received_since.max(1) as f64;
        anyhow::ensure!(
            received_since < self.limit.min_messages || share <= self.limit.share,
            "{dead_since} of the last {received_since} messages became dead letters, more than the share of {} that \
             `stop_above` allows; see `millstream dlq list`",
            self.limit.share
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::units::Interval;

    #[tokio::test(start_paused = true)]
    async fn stop_above_looks_at_a_window_and_not_at_all_of_the_past() {
        let limit = StopAbove { share: 0.5, window: Interval::secs(10), min_messages: 10 };
        let mut guard = RateGuard::new(limit);
        guard.check(9, 9, Instant::now()).unwrap();
        assert!(guard.check(10, 0, Instant::now()).is_err());

        let limit = StopAbove { share: 0.5, window: Interval::secs(10), min_messages: 10 };
        let mut guard = RateGuard::new(limit);
        for second in 0..60u64 {
            tokio::time::advance(Duration::from_secs(1)).await;
            guard.check((second + 1) * 100, 0, Instant::now()).unwrap();
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        guard.check(6_100, 100, Instant::now()).unwrap();
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(guard.check(6_200, 100, Instant::now()).is_err());
    }

    #[test]
    fn the_trace_id_is_taken_from_traceparent() {
        let with = |value: &str| Message {
            headers: vec![(b"Traceparent".to_vec(), value.as_bytes().to_vec())],
            ..Message::default()
        };
        let id = "0af7651916cd43dd8448eb211c80319c";
        assert_eq!(trace_id(&with(&format!("00-{id}-b7ad6b7169203331-01"))).as_deref(), Some(id));
        assert_eq!(trace_id(&with("00-short-b7ad6b7169203331-01")), None);
        assert_eq!(trace_id(&Message::default()), None);
    }
}
