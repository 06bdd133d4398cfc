//! What becomes of messages in custody, one step at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Arrived, BATCH, Entry, Limits, MESSAGE_BYTES, REMEMBERED, Stage, State};

impl State {
    /// For how many messages there is room. Not for a few, where there could be more: requests cost.
    pub fn admit(&mut self, limits: &Limits, first: bool) -> Option<usize> {
        if self.stopping || !(first || self.flows) {
            return None;
        }
        let messages = limits.messages.saturating_sub(self.entries.len() + self.asked);
        let ready = limits.prefetch.saturating_sub(self.ready.len() + self.asked);
        let bytes = limits.bytes.saturating_sub(self.waiting_bytes + self.asked * MESSAGE_BYTES);
        let least = |messages: usize, ready: usize, bytes: usize| {
            BATCH.min(messages).min(ready).min(bytes / MESSAGE_BYTES)
        };
        let room = least(messages, ready, bytes);
        let most = least(limits.messages, limits.prefetch, limits.bytes);
        (room > 0 && room * 2 >= most).then(|| {
            self.asked += room;
            room
        })
    }

    /// Takes a message into custody; false if it is to be given back.
    pub fn take_in(&mut self, arrived: Arrived, hidden_until: Instant, now: Instant) -> bool {
        let Arrived { number, id, handle, group, receives, content } = arrived;
        if let Some(known) = self.entries.get_mut(&number) {
            // An answer may come after a later one. The newer handle is the one that SQS takes.
            if receives < known.receives {
                return true;
            }
            if !matches!(known.stage, Stage::Returning) {
                (known.handle, known.receives, known.received) = (handle, receives, now);
                (known.hidden_until, known.lost) = (hidden_until, false);
                return true;
            }
            // It was given back, and is here again.
            self.entries.remove(&number);
        }
        let bytes = content.bytes();
        let stage = if self.is_settled.contains(&number) {
            self.deletes.push_back(number);
            Stage::Deleting
        } else if self.stopping {
            Stage::Returning
        } else {
            self.waiting_bytes += bytes;
            let is_first = match &group {
                None => true,
                Some(group) => {
                    let group = self.groups.entry(Arc::clone(group)).or_default();
                    group.push_back(number);
                    group.len() == 1
                }
            };
            if is_first {
                self.ready.push_back(number);
            }
            Stage::Waiting(content)
        };
        let is_kept = !matches!(stage, Stage::Returning);
        let entry = Entry {
            id,
            handle,
            group,
            receives,
            bytes,
            received: now,
            hidden_until,
            lost: false,
            extending: false,
            pointer: None,
            rows: 0,
            returned: false,
            stage,
        };
        self.entries.insert(number, entry);
        is_kept
    }

    /// The first of a group is settled: the one behind it may be handed out.
    pub fn next_of_group(&mut self, group: Option<&Arc<str>>) {
        let Some(group) = group else { return };
        let Some(members) = self.groups.get_mut(group) else { return };
        members.pop_front();
        match members.front() {
            Some(&next) => self.ready.push_back(next),
            None => drop(self.groups.remove(group)),
        }
    }

    pub fn leave_group(&mut self, number: u64) {
        let Some(group) = self.entries.get(&number).and_then(|entry| entry.group.clone()) else { return };
        let Some(members) = self.groups.get_mut(&group) else { return };
        members.retain(|&member| member != number);
        if members.is_empty() {
            self.groups.remove(&group);
        }
    }

    /// Gives a message back, and before it those of its group behind it, the last one first.
    pub fn give_back_from(&mut self, number: u64, now: Instant) {
        let group = self.entries.get(&number).and_then(|entry| entry.group.clone());
        let members = group.and_then(|group| self.groups.remove(&group));
        for number in members.unwrap_or_else(|| VecDeque::from([number])).into_iter().rev() {
            self.give_back(number, now);
        }
    }

    /// Has a message given back. One that is not hidden any more may be another member's, and is let go.
    pub fn give_back(&mut self, number: u64, now: Instant) {
        let Some(entry) = self.entries.get_mut(&number) else { return };
        if let Stage::Waiting(_) = std::mem::replace(&mut entry.stage, Stage::Returning) {
            self.waiting_bytes -= entry.bytes;
        }
        if entry.is_ours(now) {
            self.returns.push_back(number);
        } else {
            self.entries.remove(&number);
        }
    }

    /// Whether the next one can be given back. While it is being extended it cannot: that could be done
    /// after it, and hide it from all.
    pub fn can_return(&self) -> bool {
        let is_extending = |number| self.entries.get(number).is_some_and(|entry: &Entry| entry.extending);
        self.returns.front().is_some_and(|number| !is_extending(number))
    }

    pub fn remember(&mut self, number: u64) {
        if self.is_settled.insert(number) {
            self.settled.push_back(number);
        }
        if self.settled.len() > REMEMBERED
            && let Some(oldest) = self.settled.pop_front()
        {
            self.is_settled.remove(&oldest);
        }
    }
}
