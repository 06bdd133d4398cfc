//! Keeps a flood of events from filling the log.

use std::time::{Duration, Instant};

/// Events that are told in a window; the others are counted.
const TOLD: u32 = 5;
const WINDOW: Duration = Duration::from_secs(10);

/// Tells the first events of each window, and how many were left out before the next that is told.
#[derive(Default)]
pub struct Limiter {
    window: Option<Instant>,
    told: u32,
    left_out: u64,
}

impl Limiter {
    /// Whether an event is to be told now, and then how many were left out since the last one.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        if self.window.is_none_or(|start| now.duration_since(start) >= WINDOW) {
            (self.window, self.told) = (Some(now), 0);
        }
        if self.told == TOLD {
            self.left_out += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.left_out))
    }

    /// When those that were left out are to be told of, if no other event comes before.
    pub fn due(&self) -> Option<Instant> {
        self.window.filter(|_| self.left_out > 0).map(|start| start + WINDOW)
    }

    /// How many were left out; from here on none.
    pub fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_in_part_and_counted_in_full() {
        let (mut limiter, start) = (Limiter::default(), Instant::now());
        let told: Vec<u64> = (0..1000).filter_map(|_| limiter.admit(start)).collect();
        assert_eq!(told, [0; TOLD as usize]);
        assert_eq!(limiter.due(), Some(start + WINDOW));
        assert_eq!(limiter.admit(start + WINDOW), Some(1000 - u64::from(TOLD)));
        assert_eq!(limiter.due(), None);
        for _ in 0..TOLD {
            limiter.admit(start + WINDOW);
        }
        assert_eq!((limiter.take_left_out(), limiter.take_left_out()), (1, 0));
    }
}
