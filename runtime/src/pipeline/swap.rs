//! How new plugins come to a lane that runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::budget::Budget;
use super::lane::Step;

/// New plugins for one lane, by their stage. Those that it has not taken yet are replaced by newer
/// ones: a lane that waits for a sink piles up none.
pub struct Mailbox {
    waiting: Mutex<BTreeMap<usize, Waiting>>,
    arrived: Notify,
    budget: Arc<Budget>,
}

struct Waiting {
    step: Box<dyn Step>,
    /// Guest memory that the budget was told of.
    bytes: usize,
}

impl Mailbox {
    pub fn new(budget: Arc<Budget>) -> Mailbox {
        Mailbox { waiting: Mutex::default(), arrived: Notify::new(), budget }
    }

    /// Puts plugins in that the lane takes together, before its next batch.
    pub fn put(&self, steps: impl IntoIterator<Item = (usize, Box<dyn Step>)>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (stage, step) in steps {
            let bytes = step.memory_bytes();
            self.budget.guest_memory_changed(0, bytes);
            if let Some(older) = waiting.insert(stage, Waiting { step, bytes }) {
                self.budget.guest_memory_changed(older.bytes, 0);
            }
        }
        // It keeps a permit for a lane that is busy.
        self.arrived.notify_one();
    }

    /// Waits for plugins and takes them. Cancel-safe.
    pub async fn taken(&self) -> Vec<(usize, Box<dyn Step>)> {
        loop {
            let taken = self.take();
            if !taken.is_empty() {
                return taken;
            }
            self.arrived.notified().await;
        }
    }

    fn take(&self) -> Vec<(usize, Box<dyn Step>)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::take(&mut *waiting).into_iter();
        taken
            .map(|(stage, Waiting { step, bytes })| {
                self.budget.guest_memory_changed(bytes, 0);
                (stage, step)
            })
            .collect()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.take();
    }
}
