//! Candidates (`shadow`): a plugin that has a share of another's batches too, so that one can see what
//! it would make of them. Nothing of that is delivered.
//!
//! A candidate has a thread of its own, one for all lanes. A lane gives it a copy of a batch, of which
//! only the rows are copied, and what the active plugin made of it; if the candidate is too slow to
//! take it, the batch is skipped. So it costs a lane that copy, whatever the candidate does.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Instant;

use prometheus::IntCounter;
use serde_json::Value;
use similar::TextDiff;

use super::assemble::Host;
use super::budget::Budget;
use super::lane::Step;
use crate::codecs::{record_of, take_apart};
use crate::dead_letters::masks::Masks;
use crate::message::{Batch, BatchBuilder, MessageRef};
use crate::observe::limiter::Limiter;
use crate::plugin::{Fate, FateVerdict, Instance, Passage, Plugin, PluginIdentity, PluginScope, Processed};
use crate::state::States;

/// Batches that wait for a candidate.
const QUEUE: usize = 4;
/// Bytes of those, unless there is but one; they count towards the budget (P6).
const QUEUE_BYTES: usize = 4 << 20;
/// A longer difference is cut in the log.
const SHOWN_BYTES: usize = 4 << 10;

/// What the plugins of a pipeline need to be started.
pub struct Around<'a> {
    pub host: &'a Host,
    pub pipeline: Arc<str>,
    /// Name of the source.
    pub source: Arc<str>,
    pub states: &'a Arc<States>,
    pub budget: &'a Arc<Budget>,
    /// What is not to be seen of messages.
    pub masks: Arc<Masks>,
}

impl Around<'_> {
    /// An instance of a plugin for each of so many lanes, its candidate beside it.
    ///
    /// # Errors
    /// One does not start.
    pub fn steps(&self, plugin: &Plugin, lanes: usize) -> anyhow::Result<Vec<Box<dyn Step>>> {
        let instances = (0..lanes).map(|_| plugin.instantiate(self.scope(plugin)));
        let Some((candidate, shadow)) = plugin.candidate().zip(plugin.spec().shadow.as_ref()) else {
            return instances.map(|instance| Ok(Box::new(instance?) as Box<dyn Step>)).collect();
        };
        let door = self.open(&plugin.identity().step, candidate)?;
        let shadowed = |instance| Shadowed {
            active: instance,
            door: door.clone(),
            share: shadow.share,
            // The first batch is one of them.
            due: 1.0 - shadow.share,
        };
        instances.map(|instance| Ok(Box::new(shadowed(instance?)) as Box<dyn Step>)).collect()
    }

    fn scope(&self, plugin: &Plugin) -> PluginScope {
        PluginScope {
            pipeline: Arc::clone(&self.pipeline),
            source: Arc::clone(&self.source),
            metrics: self.host.metrics.plugin(&self.pipeline, &plugin.identity().step),
            states: Arc::clone(self.states),
            determined: None,
        }
    }

    /// Starts the thread of a candidate. It ends when no lane has the door any more.
    fn open(&self, step: &str, candidate: &Plugin) -> anyhow::Result<Door> {
        let count = |result| {
            let messages = &self.host.metrics.shadow_messages;
            messages.with_label_values(&[&*self.pipeline, step, result])
        };
        let (sender, samples) = sync_channel(QUEUE);
        let memory = Memory { budget: Arc::clone(self.budget), bytes: 0 };
        let shadow = Shadow {
            pipeline: Arc::clone(&self.pipeline),
            step: step.into(),
            candidate: candidate.clone(),
            // It is granted no state; should it be, that is not the one of the pipeline.
            scope: PluginScope { states: States::in_memory(), ..self.scope(candidate) },
            instance: None,
            memory,
            masks: Arc::clone(&self.masks),
            limiter: Limiter::default(),
            same: count("same"),
            different: count("different"),
            failed: count("failed"),
        };
        std::thread::Builder::new().name("shadow".into()).spawn(move || shadow.run(&samples)).map_err(
            |error| anyhow::anyhow!("no thread could be started for the shadow of {step}: {error}"),
        )?;
        let (queued, budget) = (Arc::default(), Arc::clone(self.budget));
        Ok(Door { sender, queued, budget, skipped: count("skipped") })
    }
}

/// A plugin with a candidate beside it.
struct Shadowed {
    active: Instance,
    door: Door,
    share: f64,
    /// Grows by the share with each batch; at 1 the candidate has one.
    due: f64,
}

impl Step for Shadowed {
    fn identity(&self) -> &PluginIdentity {
        self.active.identity()
    }

    fn process(&mut self, batch: Batch, passage: &Passage) -> anyhow::Result<Processed> {
        self.due += self.share;
        if self.due < 1.0 {
            return self.active.process_in(batch, passage);
        }
        self.due -= 1.0;
        let input = batch.clone();
        let processed = self.active.process_in(batch, passage)?;
        self.door.offer(input, &processed, passage.now_ms);
        Ok(processed)
    }

    fn keeps_state(&self) -> bool {
        self.active.keeps_state()
    }

    fn memory_bytes(&self) -> usize {
        self.active.memory_bytes()
    }

    fn overrun_at(&mut self, record: u64) {
        self.active.overrun_at(record);
    }
}

/// Where batches are given to a candidate.
#[derive(Clone)]
struct Door {
    sender: SyncSender<Sample>,
    /// Bytes that wait for the candidate.
    queued: Arc<AtomicUsize>,
    budget: Arc<Budget>,
    skipped: IntCounter,
}

impl Door {
    /// Never waits: what the candidate cannot take is skipped.
    fn offer(&self, input: Batch, processed: &Processed, now_ms: u64) {
        let (rows, bytes) = (input.len() as u64, input.footprint() + processed.batch.footprint());
        let before = self.queued.fetch_add(bytes, Relaxed);
        self.budget.guest_memory_changed(0, bytes);
        // It gives them back when it is dropped.
        let queued = Queued { bytes, of: Arc::clone(&self.queued), budget: Arc::clone(&self.budget) };
        let fits = before == 0 || before + bytes <= QUEUE_BYTES;
        let sample = Sample { input, active: Made::of(processed), now_ms, _queued: queued };
        if !fits || self.sender.try_send(sample).is_err() {
            self.skipped.inc_by(rows);
        }
    }
}

struct Queued {
    bytes: usize,
    of: Arc<AtomicUsize>,
    budget: Arc<Budget>,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Relaxed);
        self.budget.guest_memory_changed(self.bytes, 0);
    }
}

/// A batch, and what the active plugin made of it.
struct Sample {
    input: Batch,
    active: Made,
    now_ms: u64,
    _queued: Queued,
}

/// What a plugin made of a batch.
struct Made {
    batch: Batch,
    parents: Vec<u32>,
    ends: Vec<(u32, End)>,
}

/// What became of a message that does not go on.
#[derive(Clone, PartialEq, Debug)]
enum End {
    Dropped,
    Refused { verdict: &'static str, code: String, reason: String },
    Failed(String),
}

impl Made {
    fn of(processed: &Processed) -> Made {
        let refused = |verdict, code: &str, reason: &str| End::Refused {
            verdict,
            code: code.to_owned(),
            reason: reason.to_owned(),
        };
        let end = |Fate { parent, verdict, .. }: &Fate| {
            let end = match verdict {
                FateVerdict::Dropped | FateVerdict::Duplicate(_) => End::Dropped,
                FateVerdict::Rejected { code, reason } => refused("reject", code, reason),
                FateVerdict::Retry { code, reason } => refused("retry", code, reason),
                FateVerdict::Faulted(fault) => End::Failed(format!("{}: {fault}", fault.kind.as_str())),
            };
            (*parent, end)
        };
        Made {
            batch: processed.batch.clone(),
            parents: processed.parents.clone(),
            ends: processed.fates.iter().map(end).collect(),
        }
    }

    /// What became of a row; `next` is where those of it may begin, and then where the next begin.
    fn of_row(&self, row: u32, next: &mut (usize, usize)) -> OfRow<'_> {
        let start = next.0;
        while self.parents.get(next.0) == Some(&row) {
            next.0 += 1;
        }
        let end = self.ends.get(next.1).filter(|(parent, _)| *parent == row);
        next.1 += usize::from(end.is_some());
        OfRow { batch: &self.batch, range: start..next.0, end: end.map(|(_, end)| end) }
    }
}

/// What a plugin made of one message.
struct OfRow<'m> {
    batch: &'m Batch,
    range: Range<usize>,
    end: Option<&'m End>,
}

impl<'m> OfRow<'m> {
    fn messages(&self) -> impl ExactSizeIterator<Item = MessageRef<'m>> + use<'m> {
        let batch = self.batch;
        self.range.clone().map(move |at| batch.message(at))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compared {
    Same,
    Different,
    /// The candidate failed.
    Failed,
}

fn compared(active: &OfRow<'_>, candidate: &OfRow<'_>) -> Compared {
    if let Some(End::Failed(_)) = candidate.end {
        return Compared::Failed;
    }
    let same_messages = active.messages().len() == candidate.messages().len()
        && active.messages().zip(candidate.messages()).all(|(old, new)| is_same(&old, &new));
    match same_messages && active.end == candidate.end {
        true => Compared::Same,
        false => Compared::Different,
    }
}

/// The thread of a candidate.
struct Shadow {
    pipeline: Arc<str>,
    /// Of the active plugin.
    step: Box<str>,
    candidate: Plugin,
    scope: PluginScope,
    instance: Option<Instance>,
    memory: Memory,
    masks: Arc<Masks>,
    limiter: Limiter,
    same: IntCounter,
    different: IntCounter,
    failed: IntCounter,
}

/// Guest memory of the candidate, as the budget knows it.
struct Memory {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Memory {
    fn is(&mut self, bytes: usize) {
        self.budget.guest_memory_changed(self.bytes, bytes);
        self.bytes = bytes;
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.is(0);
    }
}

impl Shadow {
    fn run(mut self, samples: &Receiver<Sample>) {
        while let Ok(sample) = samples.recv() {
            match self.process(&sample) {
                Ok(candidate) => self.compare(&sample, &candidate),
                Err(error) => {
                    self.instance = None;
                    self.failed.inc_by(sample.input.len() as u64);
                    if let Some(left_out) = self.limiter.admit(Instant::now()) {
                        let PluginIdentity { version, sha256, .. } = self.candidate.identity();
                        let error = format!("{error:#}");
                        tracing::warn!(pipeline = %self.pipeline, plugin = %self.step, version, sha256, error, left_out, "shadow failed");
                    }
                }
            }
            self.memory.is(self.instance.as_ref().map_or(0, Instance::memory_bytes));
        }
    }

    fn process(&mut self, sample: &Sample) -> anyhow::Result<Made> {
        if self.instance.is_none() {
            self.instance = Some(self.candidate.instantiate(self.scope.clone())?);
        }
        let instance = self.instance.as_mut().expect("it was started");
        let processed = instance.process(sample.input.clone(), sample.now_ms)?;
        Ok(Made::of(&processed))
    }

    fn compare(&mut self, Sample { input, active, .. }: &Sample, candidate: &Made) {
        let (mut in_active, mut in_candidate) = ((0, 0), (0, 0));
        for row in 0..input.len() as u32 {
            let old = active.of_row(row, &mut in_active);
            let new = candidate.of_row(row, &mut in_candidate);
            match compared(&old, &new) {
                Compared::Same => {
                    self.same.inc();
                    continue;
                }
                Compared::Different => self.different.inc(),
                Compared::Failed => self.failed.inc(),
            }
            if let Some(left_out) = self.limiter.admit(Instant::now()) {
                let position = input.rows()[row as usize].position;
                let PluginIdentity { version, sha256, .. } = self.candidate.identity();
                let old = self.shown(&old);
                let new = self.shown(&new);
                tracing::info!(
                    pipeline = %self.pipeline, plugin = %self.step, version, sha256, partition = position.partition,
                    offset = position.offset, record = position.record, left_out,
                    "shadow differs: the active plugin (-) and the candidate (+)\n{}", difference(&old, &new)
                );
            }
        }
    }

    /// As JSON over several lines, without what must not be seen.
    fn shown(&self, made: &OfRow<'_>) -> String {
        let mut values: Vec<Value> = made.messages().map(|message| self.message(&message)).collect();
        values.extend(made.end.map(|end| match end {
            End::Dropped => Value::from("dropped"),
            End::Refused { verdict, code, reason } => {
                serde_json::json!({ "verdict": verdict, "code": code, "reason": reason })
            }
            End::Failed(fault) => serde_json::json!({ "failed": fault }),
        }));
        values.iter().map(|value| format!("{value:#}\n")).collect()
    }

    fn message(&self, message: &MessageRef<'_>) -> Value {
        let routes = message.batch().routes_of(message.row()).map(|routes| routes.to_vec());
        let mut owned = message.to_owned();
        self.masks.hide_in_message(&mut owned, false);
        let mut out = BatchBuilder::new();
        out.push_message(&owned, message.position());
        let mut value = match record_of(&out.finish().message(0)) {
            Ok(record) => Value::Object(record),
            Err(error) => error.to_string().into(),
        };
        value.get_mut("payload").map(take_apart);
        if let Some(routes) = routes {
            value["routes"] = routes.into();
        }
        value
    }
}

fn is_same(old: &MessageRef<'_>, new: &MessageRef<'_>) -> bool {
    let routes = |message: &MessageRef<'_>| message.batch().routes_of(message.row()).cloned();
    old.payload() == new.payload()
        && old.key() == new.key()
        && old.timestamp_ms() == new.timestamp_ms()
        && old.headers().eq(new.headers())
        && routes(old) == routes(new)
}

fn difference(old: &str, new: &str) -> String {
    let mut text = TextDiff::from_lines(old, new).unified_diff().context_radius(2).to_string();
    if text.len() > SHOWN_BYTES {
        text.truncate(text.floor_char_boundary(SHOWN_BYTES));
        text.push_str("...");
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, Position};

    /// One batch of three messages: one passed, one became these, one dropped.
    fn made(second: &[Message], third: End) -> Made {
        let mut out = BatchBuilder::new();
        let first = Message { payload: Some(b"first".to_vec()), ..Message::default() };
        for message in std::iter::once(&first).chain(second) {
            out.push_message(message, Position::default());
        }
        let parents = std::iter::once(0).chain(second.iter().map(|_| 1)).collect();
        let mut ends = vec![(2, third)];
        if second.is_empty() {
            ends.insert(0, (1, End::Dropped));
        }
        Made { batch: out.finish(), parents, ends }
    }

    fn all(active: &Made, candidate: &Made) -> [Compared; 3] {
        let (mut old, mut new) = ((0, 0), (0, 0));
        [0, 1, 2].map(|row| compared(&active.of_row(row, &mut old), &candidate.of_row(row, &mut new)))
    }

    #[test]
    fn every_part_of_a_result_counts() {
        use Compared::{Different, Failed, Same};
        let message = Message {
            payload: Some(b"{}".to_vec()),
            key: Some(b"k".to_vec()),
            headers: vec![(b"a".to_vec(), b"1".to_vec())],
            timestamp_ms: 7,
        };
        let two = [message.clone(), message.clone()];
        let active = made(&two, End::Dropped);
        assert_eq!(all(&active, &made(&two, End::Dropped)), [Same; 3]);
        for other in [
            Message { payload: None, ..message.clone() },
            Message { key: None, ..message.clone() },
            Message { headers: Vec::new(), ..message.clone() },
            Message { timestamp_ms: 8, ..message.clone() },
        ] {
            let candidate = made(&[message.clone(), other], End::Dropped);
            assert_eq!(all(&active, &candidate), [Same, Different, Same]);
        }
        for fewer in [&two[..1], &[]] {
            assert_eq!(all(&active, &made(fewer, End::Dropped)), [Same, Different, Same]);
            assert_eq!(all(&made(fewer, End::Dropped), &active), [Same, Different, Same]);
        }
        let refused =
            |code: &str| End::Refused { verdict: "reject", code: code.into(), reason: String::new() };
        let (a, b) = (made(&two, refused("a")), made(&two, refused("b")));
        assert_eq!(all(&a, &b), [Same, Same, Different]);
        assert_eq!(all(&a, &made(&two, refused("a"))), [Same; 3]);
        let failed = made(&two, End::Failed("trap".into()));
        assert_eq!(all(&failed, &a), [Same, Same, Different]);
        assert_eq!(all(&failed, &failed), [Same, Same, Failed]);
    }

    #[test]
    fn a_long_difference_is_cut_at_a_character() {
        let text = difference("", &format!("{}\n", "ü".repeat(SHOWN_BYTES)));
        assert!(text.ends_with("...") && text.len() <= SHOWN_BYTES + 3, "{}", text.len());
    }
}
