//! The budget of P6: bytes in flight and guest memory together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

/// One for a pipeline. Only reading waits for it: what is in flight must be able to finish.
pub struct Budget {
    limit: usize,
    in_flight: AtomicUsize,
    guests: AtomicUsize,
    /// What the source holds of messages that it has not returned yet.
    reserved: AtomicUsize,
    freed: Notify,
    used_up: Arc<AtomicBool>,
}

impl Budget {
    pub fn new(limit: usize) -> Budget {
        Budget {
            limit,
            in_flight: AtomicUsize::new(0),
            guests: AtomicUsize::new(0),
            reserved: AtomicUsize::new(0),
            freed: Notify::new(),
            used_up: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Bytes in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Bytes of guest memory.
    pub fn guests(&self) -> usize {
        self.guests.load(Ordering::Relaxed)
    }

    /// True while nothing is read because the budget is used up.
    pub fn used_up(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.used_up)
    }

    /// How many bytes may be read now. With nothing in flight it is never none: otherwise guests
    /// that hold the whole budget would stop the source for good.
    fn room(&self) -> usize {
        let in_flight = self.in_flight.load(Ordering::Acquire);
        let held = self.guests.load(Ordering::Relaxed) + self.reserved.load(Ordering::Relaxed);
        let left = self.limit.saturating_sub(in_flight + held);
        if in_flight == 0 { left.max(1) } else { left }
    }

    /// Waits until something may be read, and returns how many bytes. Cancel-safe.
    pub async fn wait_for_room(&self) -> usize {
        loop {
            let freed = self.freed.notified();
            match self.room() {
                0 => {
                    self.used_up.store(true, Ordering::Relaxed);
                    freed.await;
                }
                room => {
                    self.used_up.store(false, Ordering::Relaxed);
                    return room;
                }
            }
        }
    }

    /// A source may hold that much besides what it returns, from now on.
    pub(super) fn reserve(&self, bytes: usize) {
        self.reserved.fetch_add(bytes, Ordering::Relaxed);
        self.note();
    }

    pub(super) fn take(&self, bytes: usize) {
        self.in_flight.fetch_add(bytes, Ordering::Relaxed);
        self.note();
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.in_flight.fetch_sub(bytes, Ordering::Release);
        self.note();
        // One waits at most a feed; `notify_one` keeps a permit for one that is about to.
        self.freed.notify_one();
        self.freed.notify_waiters();
    }

    /// An instance had `before` bytes of memory and has `after` now.
    pub(super) fn guest_memory_changed(&self, before: usize, after: usize) {
        if after >= before {
            self.guests.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.guests.fetch_sub(before - after, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }

    fn note(&self) {
        self.used_up.store(self.room() == 0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn p6_reading_waits_until_something_is_given_back() {
        let budget = Arc::new(Budget::new(100));
        assert_eq!(budget.wait_for_room().await, 100);
        budget.take(100);
        assert!(budget.used_up().load(Ordering::Relaxed));
        assert!(tokio::time::timeout(Duration::from_secs(1), budget.wait_for_room()).await.is_err());
        let waiting = tokio::spawn({
            let budget = Arc::clone(&budget);
            async move { budget.wait_for_room().await }
        });
        tokio::task::yield_now().await;
        budget.give_back(40);
        assert_eq!(waiting.await.unwrap(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn p6_guests_that_hold_the_whole_budget_do_not_stop_the_source() {
        let budget = Budget::new(100);
        budget.guest_memory_changed(0, 500);
        assert_eq!(budget.wait_for_room().await, 1);
        budget.take(10);
        assert!(tokio::time::timeout(Duration::from_secs(1), budget.wait_for_room()).await.is_err());
    }
}
