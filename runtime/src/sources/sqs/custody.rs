//! What was received and SQS still has: messages that wait to be read, that are in flight, that are to
//! be deleted, and that are to be given back. No requests are made here.
//!
//! Of a FIFO queue at most one message of a group is handed out at a time; those behind it wait for it
//! to be settled (P3). If it comes back, those behind it are given back too, the last one first, so that
//! no other member gets one before those that stand before it.

mod state;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::{ReadLimit, SettledAs, SettledRow};
use super::body::Content;
use crate::aws::claim_check::Pointer;

/// Most messages that one request receives, deletes or extends
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html>).
pub const BATCH: usize = 10;

/// Size of the largest message, attributes included (the same page).
pub const MESSAGE_BYTES: usize = 1 << 20;

/// A receive hides a message for twelve hours at most, however often that is extended
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-visibility-timeout.html>).
/// A little less, since we hear of it later than SQS counts.
const LONGEST: Duration = Duration::from_secs(12 * 3600 - 10);

/// Settled messages that are remembered: a standard queue may hand one out again after it was deleted.
const REMEMBERED: usize = 10_000;

#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages in custody.
    pub messages: usize,
    /// Messages that can be read at once, and are not yet.
    pub prefetch: usize,
    /// Bytes of what waits, and of what is being received.
    pub bytes: usize,
    /// For so long a message is hidden, and then again.
    pub visibility: Duration,
}

/// A message as it came.
#[derive(Debug)]
pub struct Arrived {
    /// What positions know it by.
    pub number: u64,
    pub id: Arc<str>,
    pub handle: Arc<str>,
    /// In a FIFO queue.
    pub group: Option<Arc<str>>,
    /// How often it was received, by any member.
    pub receives: u64,
    pub content: Box<Content>,
}

/// A message that is handed out.
#[derive(Debug)]
pub struct Taken {
    pub number: u64,
    pub id: Arc<str>,
    pub content: Box<Content>,
}

/// A message that was deleted.
#[derive(Debug, PartialEq, Eq)]
pub struct Gone {
    pub id: Arc<str>,
    /// Its payload in S3 is to be removed, too.
    pub pointer: Option<Pointer>,
}

/// What is asked of SQS for a message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ask {
    pub number: u64,
    pub handle: Arc<str>,
}

/// Messages whose visibility is to be extended.
#[derive(Debug, Default)]
pub struct Due {
    /// With how many seconds from now.
    pub extend: Vec<(Ask, u32)>,
    /// Ids of those that SQS hides no longer, since twelve hours are over.
    pub too_old: Vec<Arc<str>>,
}

#[derive(Debug)]
enum Stage {
    Waiting(Box<Content>),
    InFlight,
    /// Settled.
    Deleting,
    /// To be made visible.
    Returning,
}

#[derive(Debug)]
struct Entry {
    id: Arc<str>,
    handle: Arc<str>,
    group: Option<Arc<str>>,
    receives: u64,
    bytes: usize,
    received: Instant,
    /// Until when SQS hides it, as far as we know.
    hidden_until: Instant,
    /// SQS does not take our handle any more: others may have the message.
    lost: bool,
    /// A request to extend it is on its way.
    extending: bool,
    /// Where its payload is, if that is to be removed with it.
    pointer: Option<Pointer>,
    /// Rows of it in the pipeline, and whether one of them came back.
    rows: usize,
    returned: bool,
    stage: Stage,
}

impl Entry {
    fn is_ours(&self, now: Instant) -> bool {
        !self.lost && now < self.hidden_until
    }
}

#[derive(Default)]
struct State {
    entries: HashMap<u64, Entry>,
    /// May be handed out, in order.
    ready: VecDeque<u64>,
    /// Of a FIFO queue: what is handed out or ready of a group, and what waits behind it.
    groups: HashMap<Arc<str>, VecDeque<u64>>,
    /// Bytes of those that wait.
    waiting_bytes: usize,
    deletes: VecDeque<u64>,
    returns: VecDeque<u64>,
    /// Messages that receives on their way have asked for.
    asked: usize,
    /// Requests on their way that delete or give back.
    ending: usize,
    /// The last receive brought something.
    flows: bool,
    stopping: bool,
    settled: VecDeque<u64>,
    is_settled: HashSet<u64>,
}

pub struct Custody {
    limits: Limits,
    state: Mutex<State>,
    readable: Notify,
    room: Notify,
    deletable: Notify,
    returnable: Notify,
    /// Something has ended.
    ended: Notify,
}

impl Custody {
    pub fn new(limits: Limits) -> Custody {
        Custody {
            limits,
            state: Mutex::default(),
            readable: Notify::new(),
            room: Notify::new(),
            deletable: Notify::new(),
            returnable: Notify::new(),
            ended: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is changed under this lock is whole after each step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for a receive, and says for how many messages. While the queue is empty
    /// only the `first` receiver asks.
    pub async fn room(&self, first: bool) -> usize {
        until(&self.room, || self.state().admit(&self.limits, first)).await
    }

    /// A receive that asked for so many messages has ended, and brought these.
    pub fn arrived(&self, asked: usize, arrived: Vec<Arrived>, now: Instant) {
        let mut state = self.state();
        state.asked = state.asked.saturating_sub(asked);
        state.flows = !arrived.is_empty();
        let mut unwanted = Vec::new();
        for message in arrived {
            let number = message.number;
            if !state.take_in(message, now + self.limits.visibility, now) {
                unwanted.push(number);
            }
        }
        state.returns.extend(unwanted.into_iter().rev());
        drop(state);
        self.tell_all();
    }

    /// Waits until something can be handed out.
    pub async fn readable(&self) {
        until(&self.readable, || (!self.state().ready.is_empty()).then_some(())).await;
    }

    /// Hands out what is ready, in order.
    pub fn take(&self, limit: ReadLimit, now: Instant) -> Vec<Taken> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        let mut state = self.state();
        while taken.len() < limit.rows
            && let Some(&number) = state.ready.front()
        {
            let Some(entry) = state.entries.get_mut(&number) else {
                state.ready.pop_front();
                continue;
            };
            if !taken.is_empty() && bytes + entry.bytes > limit.bytes {
                break;
            }
            let is_ours = entry.is_ours(now);
            let (size, id) = (entry.bytes, Arc::clone(&entry.id));
            state.ready.pop_front();
            if !is_ours {
                // Another member may have it by now: handed out here it would be processed twice.
                state.give_back_from(number, now);
                continue;
            }
            let Some(entry) = state.entries.get_mut(&number) else { continue };
            if let Stage::Waiting(content) = std::mem::replace(&mut entry.stage, Stage::InFlight) {
                (entry.rows, entry.returned) = (1, false);
                bytes += size;
                state.waiting_bytes -= size;
                taken.push(Taken { number, id, content });
            }
        }
        drop(state);
        self.room.notify_waiters();
        self.returnable.notify_waiters();
        taken
    }

    /// A message came out as another number of rows than one.
    pub fn set_rows(&self, number: u64, rows: usize) {
        if rows == 0 {
            let position = crate::message::Position { offset: number, ..Default::default() };
            self.settle(&[SettledRow { position, outcome: SettledAs::Filtered, failures: 0 }]);
        } else if let Some(entry) = self.state().entries.get_mut(&number) {
            entry.rows = rows;
        }
    }

    /// The payload of a message is there, and is to be removed with it.
    pub fn set_pointer(&self, number: u64, pointer: Pointer) {
        if let Some(entry) = self.state().entries.get_mut(&number) {
            entry.pointer = Some(pointer);
        }
    }

    /// Gives back what was handed out and did not get into the pipeline.
    pub fn give_back(&self, numbers: impl IntoIterator<Item = u64>) {
        let now = Instant::now();
        let mut state = self.state();
        for number in numbers {
            state.give_back_from(number, now);
        }
        drop(state);
        self.tell_all();
    }

    /// The id of a message in custody.
    pub fn id(&self, number: u64) -> Option<Arc<str>> {
        self.state().entries.get(&number).map(|entry| Arc::clone(&entry.id))
    }

    /// Books what is settled: messages of which everything is are to be deleted, or given back (P1).
    pub fn settle(&self, settled: &[SettledRow]) {
        let mut state = self.state();
        for SettledRow { position, outcome, .. } in settled {
            let number = position.offset;
            let Some(entry) = state.entries.get_mut(&number) else { continue };
            if !matches!(entry.stage, Stage::InFlight) || entry.rows == 0 {
                continue;
            }
            entry.rows -= 1;
            entry.returned |= *outcome == SettledAs::Returned;
            if entry.rows > 0 {
                continue;
            }
            if entry.returned {
                state.give_back_from(number, Instant::now());
            } else {
                entry.stage = Stage::Deleting;
                let group = entry.group.clone();
                state.deletes.push_back(number);
                state.next_of_group(group.as_ref());
            }
        }
        drop(state);
        self.tell_all();
    }

    /// What is to be extended now. [`Custody::extended`] must be called for each.
    pub fn due(&self, now: Instant) -> Due {
        let visibility = self.limits.visibility;
        let mut due = Due::default();
        for (&number, entry) in &mut self.state().entries {
            let is_kept = !entry.lost && !entry.extending && !matches!(entry.stage, Stage::Returning);
            if !is_kept || entry.hidden_until > now + visibility * 2 / 3 {
                continue;
            }
            let left = (entry.received + LONGEST).saturating_duration_since(now).min(visibility).as_secs();
            if left == 0 {
                entry.lost = true;
                due.too_old.push(Arc::clone(&entry.id));
                continue;
            }
            entry.extending = true;
            let ask = Ask { number, handle: Arc::clone(&entry.handle) };
            due.extend.push((ask, u32::try_from(left).unwrap_or(u32::MAX)));
        }
        due
    }

    /// What became of extending a message: until when it is hidden, `Err` if SQS does not take our
    /// handle, `None` if nothing is known. Returns its id if it was lost by that.
    pub fn extended(&self, ask: &Ask, result: Option<Result<Instant, ()>>) -> Option<Arc<str>> {
        let mut lost = None;
        if let Some(entry) = self.state().entries.get_mut(&ask.number) {
            entry.extending = false;
            match result {
                // It has come again meanwhile.
                _ if entry.handle != ask.handle => {}
                Some(Ok(until)) => entry.hidden_until = until,
                Some(Err(())) => {
                    entry.lost = true;
                    // One that is settled may have been deleted meanwhile, which is as it should be.
                    let is_needed = matches!(entry.stage, Stage::Waiting(_) | Stage::InFlight);
                    lost = is_needed.then(|| Arc::clone(&entry.id));
                }
                None => {}
            }
        }
        self.returnable.notify_waiters();
        lost
    }

    /// Waits until there is something to delete.
    pub async fn deletable(&self) {
        until(&self.deletable, || (!self.state().deletes.is_empty()).then_some(())).await;
    }

    /// What is to be deleted by one request, which must be told to have ended. Nothing if there is none.
    pub fn next_deletes(&self) -> Vec<Ask> {
        let mut state = self.state();
        let mut asks = Vec::new();
        while asks.len() < BATCH
            && let Some(number) = state.deletes.pop_front()
        {
            let entry = state.entries.get(&number).filter(|entry| matches!(entry.stage, Stage::Deleting));
            asks.extend(entry.map(|entry| Ask { number, handle: Arc::clone(&entry.handle) }));
        }
        state.ending += usize::from(!asks.is_empty());
        asks
    }

    /// How many messages wait to be deleted, without those that are being deleted.
    pub fn to_delete(&self) -> usize {
        self.state().deletes.len()
    }

    /// A request to delete has ended: with these, and not with those. Returns what is gone.
    pub fn deletes_ended(&self, gone: &[Ask], failed: &[Ask]) -> Vec<Gone> {
        let mut all_gone = Vec::new();
        let mut state = self.state();
        state.ending -= 1;
        for ask in gone {
            let Some(entry) = state.entries.get(&ask.number) else { continue };
            if entry.handle != ask.handle {
                // It has come again meanwhile.
                state.deletes.push_back(ask.number);
            } else if let Some(entry) = state.entries.remove(&ask.number) {
                all_gone.push(Gone { id: entry.id, pointer: entry.pointer });
                state.remember(ask.number);
            }
        }
        state.deletes.extend(failed.iter().map(|ask| ask.number));
        drop(state);
        self.tell_all();
        all_gone
    }

    /// Waits until there is something to give back.
    pub async fn returnable(&self) {
        until(&self.returnable, || self.state().can_return().then_some(())).await;
    }

    /// What is to be made visible by one request, in this order, which must be told to have ended.
    pub fn next_returns(&self) -> Vec<Ask> {
        let mut state = self.state();
        let mut asks = Vec::new();
        while asks.len() < BATCH && state.can_return() {
            let Some(number) = state.returns.pop_front() else { break };
            let entry = state.entries.get(&number).filter(|entry| matches!(entry.stage, Stage::Returning));
            asks.extend(entry.map(|entry| Ask { number, handle: Arc::clone(&entry.handle) }));
        }
        state.ending += usize::from(!asks.is_empty());
        asks
    }

    /// A request to give back has ended; what is to be tried again comes first.
    pub fn returns_ended(&self, done: &[Ask], again: &[Ask]) {
        let mut state = self.state();
        state.ending -= 1;
        for ask in done {
            let is_it =
                |entry: &&Entry| entry.handle == ask.handle && matches!(entry.stage, Stage::Returning);
            if state.entries.get(&ask.number).filter(is_it).is_some() {
                state.entries.remove(&ask.number);
            }
        }
        for ask in again.iter().rev() {
            state.returns.push_front(ask.number);
        }
        drop(state);
        self.tell_all();
    }

    /// Nothing is handed out any more: what waits, and what still comes, is given back.
    pub fn stop(&self) {
        let now = Instant::now();
        let mut state = self.state();
        state.stopping = true;
        state.ready.clear();
        let mut waiting: Vec<(Instant, u64)> = (state.entries.iter())
            .filter(|(_, entry)| matches!(entry.stage, Stage::Waiting(_)) && entry.group.is_none())
            .map(|(&number, entry)| (entry.received, number))
            .collect();
        waiting.sort_unstable();
        let groups: Vec<VecDeque<u64>> = state.groups.values().cloned().collect();
        for number in waiting.into_iter().rev().map(|(_, number)| number) {
            state.give_back(number, now);
        }
        for number in groups.into_iter().flat_map(|group| group.into_iter().rev()) {
            let entry = state.entries.get(&number);
            if entry.is_some_and(|entry| matches!(entry.stage, Stage::Waiting(_))) {
                state.leave_group(number);
                state.give_back(number, now);
            }
        }
        drop(state);
        self.tell_all();
    }

    /// Waits until no request is on its way or needed: nothing to receive, to delete or to give back.
    pub async fn idle(&self) {
        until(&self.ended, || {
            let state = self.state();
            let is_idle = state.asked == 0 && state.ending == 0;
            (is_idle && state.deletes.is_empty() && state.returns.is_empty()).then_some(())
        })
        .await;
    }

    /// Receives on their way are not waited for any more.
    pub fn forget_receives(&self) {
        self.state().asked = 0;
        self.ended.notify_waiters();
    }

    fn tell_all(&self) {
        for notify in [&self.readable, &self.room, &self.deletable, &self.returnable, &self.ended] {
            notify.notify_waiters();
        }
    }
}

/// Waits until there is something to be found.
async fn until<T>(notify: &Notify, mut look: impl FnMut() -> Option<T>) -> T {
    loop {
        let notified = notify.notified();
        tokio::pin!(notified);
        // Before looking, so that nothing is missed in between.
        notified.as_mut().enable();
        if let Some(found) = look() {
            return found;
        }
        notified.await;
    }
}

#[cfg(test)]
#[path = "custody_tests.rs"]
mod tests;
